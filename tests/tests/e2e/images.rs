//! A real image of 25 layers and over 1 GB on its way through our store and other people's tools: the tree is the same
//! everywhere.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use acetate_testkit::need::{Need, data_image, have};
use acetate_testkit::real::fingerprint::Fingerprint;
use anyhow::{Context, Result, ensure};

use crate::engines::{Guard, Podman, REGISTRY, Registry, run, skopeo, umoci_unpack};
use crate::look::{counted, counts};
use crate::store::Home;

/// What a user of the image does.
const ANALYSIS: &str = r#"
import numpy, pandas, scipy.linalg, sklearn.linear_model
frame = pandas.read_csv('/srv/table.csv')
model = sklearn.linear_model.LinearRegression().fit(frame[['a']], frame['a'] * 2 + 1)
assert abs(model.coef_[0] - 2) < 1e-6
assert numpy.allclose(scipy.linalg.inv(numpy.eye(3)), numpy.eye(3))
frame.describe().to_csv('/srv/result.csv')
"#;

/// Changes of every kind.
const CHANGES: &str = r#"
set -eu
getcap /srv/capable | grep -q cap_net_bind_service
setcap cap_net_raw=ep /srv/capable
rm -rf /usr/lib/python3/dist-packages/sympy/physics /srv/kinds/fifo
mv /usr/lib/python3/dist-packages/networkx/drawing /srv/drawing 2>/dev/null || cp -a /usr/lib/python3/dist-packages/networkx/drawing /srv/
rm -rf /srv/moved && mkdir /srv/moved && echo new >/srv/moved/new
chown -R 77:88 /srv/turn && chmod 2750 /srv/turn
echo more >>/srv/kinds/file
ln /srv/kinds/file /srv/kinds/other
mknod /srv/kinds/char2 c 1 5
setfattr -n user.note -v changed /srv/kinds/file
truncate -s 32M /srv/hole && echo end >>/srv/hole
"#;

/// A tree without the attributes of its root, to which podman gives its own mode and time.
fn tree(root: &Path) -> Result<Fingerprint> {
    let mut tree = Fingerprint::take(root)?.portable();
    tree.entries.remove(Path::new(""));
    Ok(tree)
}

/// The index of a layout has to name its only image so.
fn only_tag(layout: &Path, tag: &str) -> Result<()> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    ensure!(name == tag, "the layout calls its image {name}");
    Ok(())
}

/// Works in a workspace, and leaves it unmounted; returns what it looks like then.
fn work(home: &Home, workspace: &str) -> Result<Fingerprint> {
    home.ok(&["workspace", "run", workspace, "--", "python3", "-c", ANALYSIS])?;
    let root = home.mount(workspace)?;
    ensure!(root.join("srv/result.csv").is_file());
    fs::write(root.join("tmp/script"), CHANGES)?;
    run(Command::new("chroot").arg(&root).args(["/bin/sh", "/tmp/script"]))?;
    fs::remove_file(root.join("tmp/script"))?;
    let hole = fs::metadata(root.join("srv/hole"))?;
    ensure!(hole.blocks() < 1024, "a hole takes {} blocks", hole.blocks());
    let tree = tree(&root)?;
    home.umount(workspace)?;
    Ok(tree)
}

#[test]
fn a_data_science_image_goes_through_everybodys_hands() -> Result<()> {
    let tools = ["podman", "umoci"].map(Need::Tool);
    if !have("data image", &[&REGISTRY[..], &tools, &[Need::DataImage]].concat())? {
        return Ok(());
    }
    let home = Home::roomy("images", 8192)?;
    let registry = Registry::start(&home.path("registry"), Guard::default())?;
    let podman = Podman::new(&home.path("podman"))?;
    let name = registry.name("data:25");
    let image = format!("oci-archive:{}", data_image().display());
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &image, &format!("docker://{name}")])?;

    // It comes in as podman has it.
    home.ok(&["image", "pull", &name])?;
    let shown = home.json(&["image", "show", &name, "--json"])?;
    let layers = shown["layers"].as_array().context("layers")?;
    let bytes: u64 = layers.iter().filter_map(|layer| layer["archive_bytes"].as_u64()).sum();
    ensure!(layers.len() == 25 && bytes > 1 << 30, "{} layers, {bytes} bytes", layers.len());
    podman.run(&["pull", "-q", "--tls-verify=false", &name])?;
    let theirs = tree(&podman.mount(&name)?)?;
    home.ok(&["workspace", "create", "w", "--image", &name, "--driver", "kernel"])?;
    let root = home.mount("w")?;
    theirs.expect(&tree(&root)?, "the pulled image")?;
    // Their archives know no holes; ours get them back.
    let sparse = fs::metadata(root.join("srv/sparse"))?;
    ensure!(sparse.len() > 64 << 20 && sparse.blocks() < 1024, "{} blocks", sparse.blocks());
    home.umount("w")?;
    // The archive that it was made of brings nothing new.
    let imported = home.json(&["image", "import", &data_image().to_string_lossy(), "--json"])?;
    ensure!(imported["images"][0]["new_layers"] == 0, "{imported}");

    // It is changed, and becomes a new image.
    let changed = work(&home, "w")?;
    let next = registry.name("data:changed");
    home.ok(&["workspace", "commit", "w", &next, "--message", "analysed"])?;
    home.ok(&["image", "push", &next])?;
    // Only the new layer and the configuration were sent.
    let sent = registry.requests("PUT", "/blobs/uploads/")?;
    ensure!(sent == 26 + 2, "{sent} blobs were sent in all");

    // What went out by the registry, as umoci unpacks it.
    let layout = home.path("layout");
    let target = format!("oci:{}:changed", layout.display());
    skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{next}"), &target])?;
    changed.expect(&tree(&umoci_unpack(&layout, "changed", &home.path("bundle"))?)?, "umoci's tree")?;
    fs::remove_dir_all(home.path("bundle"))?;
    // What went out as a layout is the same, blob by blob.
    home.ok(&["image", "export", &next, "exported", "--format", "oci-dir"])?;
    only_tag(&home.path("exported"), "changed")?;
    let config = |layout: &Path, tag: &str| {
        skopeo(&["inspect", "--config", "--raw", &format!("oci:{}:{tag}", layout.display())])
    };
    ensure!(config(&home.path("exported"), "changed")? == config(&layout, "changed")?);
    fs::remove_dir_all(&layout)?;
    fs::remove_dir_all(home.path("exported"))?;

    // What went out as a docker archive, as podman loads it; and what podman saves is what we have.
    podman.run(&["image", "umount", "--all"])?;
    podman.run(&["rmi", "--all", "--force"])?;
    home.ok(&["image", "export", &next, "archive.tar", "--format", "docker-archive"])?;
    podman.run(&["load", "-q", "-i", &home.path("archive.tar").to_string_lossy()])?;
    changed.expect(&tree(&podman.mount(&next)?)?, "podman's tree")?;
    // Its efficiency is the same, found in the archive alone by another program.
    let shown = home.json(&["image", "show", &next, "--json"])?;
    ensure!(counted(&home.path("archive.tar"))? == counts(&shown)?, "the archive says otherwise");
    fs::remove_file(home.path("archive.tar"))?;
    let saved: PathBuf = home.path("saved.tar");
    podman.run(&["save", "-q", "-o", &saved.to_string_lossy(), &next])?;
    let imported = home.json(&["image", "import", &saved.to_string_lossy(), "--json"])?;
    ensure!(imported["images"][0]["new_layers"] == 0, "{imported}");
    fs::remove_file(&saved)?;

    home.sound()?;
    home.ok(&["workspace", "remove", "w"])?;
    home.ok(&["image", "remove", &name, &next])?;
    let left = home.json(&["image", "df", "--json"])?;
    ensure!(left["layers"] == serde_json::json!([]) && left["transient"] == 0, "{left}");
    Ok(())
}
