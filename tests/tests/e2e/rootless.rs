//! Images of many owners in the store of somebody who has one id, or a range of subordinate ones.

use crate::engines::run;
use crate::store::Home;
use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who uses the store, without any privilege.
const USER: u32 = 3456;

/// Objects whose owners, modes and attributes only root can give them.
const TREE: &str = r#"
set -eu
mkdir -m 2751 dir; mkdir gone opaque
echo program >dir/setuid; chown 7:8 dir/setuid; chmod 4755 dir/setuid
echo secret >dir/secret; chown 9:9 dir/secret; chmod 0 dir/secret
cp dir/setuid dir/capable; chown 7:8 dir/capable; setcap cap_net_raw=ep dir/capable
ln dir/setuid dir/link; ln -s setuid dir/symlink; chown -h 7:8 dir/symlink
mknod dir/null c 1 3; mkfifo dir/fifo; chown 7:8 dir/fifo
touch gone/x opaque/old; chown 7:8 dir
"#;

/// What the second layer changes.
const CHANGE: &str = "rm -r gone opaque; mkdir opaque; echo new >opaque/new; chown 70000:70000 opaque/new";

/// `acetate` as that user, with a store of its own.
struct Rootless<'a> {
    home: &'a Home,
    store: PathBuf,
    /// The user's subordinate ids.
    ids: Option<PathBuf>,
}

impl Rootless<'_> {
    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = match &self.ids {
            None => Command::new("setpriv"),
            // In a mount namespace: the machine's own files stay as they are.
            Some(ids) => {
                let bind = "cp /etc/passwd $0.passwd; echo mine:x:3456:3456::/:/bin/sh >>$0.passwd; \
                            for to in subuid subgid; do mount --bind $0 /etc/$to; done; \
                            mount --bind $0.passwd /etc/passwd; exec setpriv \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["-m", "sh", "-ec", bind]).arg(ids);
                command
            }
        };
        let user = format!("--reuid={USER}");
        command.args([&user, &format!("--regid={USER}"), "--clear-groups", "--inh-caps=-all"]);
        if self.ids.is_some() {
            command.args(["unshare", "--map-auto", "--map-root-user", "-m"]);
        }
        command.arg(program).args(args);
        command.env("ACETATE_STORE", &self.store).env("HOME", self.home.path("mine"));
        command.current_dir(self.home.path("mine"));
        command
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        run(&mut self.command(&acetate_bin()?, args))
    }

    fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ok(args)?)?)
    }

    /// What a program of the system prints as that user.
    fn says(&self, program: &str, args: &[&str]) -> Result<String> {
        run(&mut self.command(Path::new(program), args))
    }

    /// The tree of the image's lowest layer.
    fn lowest(&self) -> Result<PathBuf> {
        let shown = self.json(&["image", "show", "many", "--json"])?;
        let id = shown["layers"][0]["diff_id"].as_str().context("diff_id")?;
        Ok(self.store.join("layers").join(id.trim_start_matches("sha256:")).join("diff"))
    }
}

/// An image of two layers with many owners and a shell, in an archive that everybody can read.
fn image(home: &Home) -> Result<PathBuf> {
    fs::create_dir(home.path("tree"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
    fs::copy(busybox.context("busybox")?, home.path("tree/busybox"))?;
    run(Command::new("sh").args(["-c", TREE]).current_dir(home.path("tree")))?;
    home.ok(&["image", "import", "tree", "--name", "base"])?;
    home.ok(&["workspace", "create", "w", "--image", "base", "--driver", "kernel"])?;
    run(Command::new("sh").args(["-c", CHANGE]).current_dir(home.mount("w")?))?;
    home.umount("w")?;
    home.ok(&["workspace", "commit", "w", "many"])?;
    fs::create_dir(home.path("mine"))?;
    home.ok(&["image", "export", "many", "mine/many.tar", "--format", "docker-archive"])?;
    run(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(home.path("mine")))?;
    Ok(home.path("mine/many.tar"))
}

/// The image goes out of the user's store as it came in, and has the user's changes in the right place.
fn goes_on(home: &Home, user: &Rootless<'_>) -> Result<()> {
    user.ok(&["workspace", "create", "w", "--image", "many"])?;
    let look = "echo mine >/added; chmod 711 /dir/secret; cat /opaque/*; ls /dir/link /gone 2>&1 | wc -l";
    let said = user.ok(&["workspace", "run", "w", "--", "/busybox", "sh", "-c", look])?;
    ensure!(said == "new\n2", "{said}");
    user.ok(&["workspace", "commit", "w", "more"])?;
    user.ok(&["check", "--store", "--full"])?;
    let out = home.path("mine/out.tar").to_string_lossy().into_owned();
    user.ok(&["image", "export", "more", &out, "--format", "docker-archive"])?;
    let back = home.json(&["image", "import", &out, "--name", "back", "--json"])?;
    ensure!(back["images"][0]["new_layers"] == 1, "{back}");
    home.ok(&["workspace", "create", "back", "--image", "back", "--driver", "kernel"])?;
    let root = home.mount("back")?;
    for (path, owner, mode) in [
        ("dir/setuid", 7, 0o4755),
        ("dir/secret", 9, 0o711),
        ("dir", 7, 0o2751),
        ("opaque/new", 70_000, 0o644),
        ("added", 0, 0o644),
    ] {
        let found = fs::metadata(root.join(path)).with_context(|| path.to_owned())?;
        ensure!((found.uid(), found.mode() & 0o7777) == (owner, mode), "{path}: {found:?}");
    }
    home.umount("back")?;
    home.ok(&["workspace", "remove", "back"])?;
    home.ok(&["image", "remove", "back"])?;
    fs::remove_file(out)?;
    Ok(())
}

fn can(name: &str, more: &[Need]) -> Result<bool> {
    let needs = ["busybox", "setpriv", "unshare", "setcap", "getfattr"].map(Need::Tool);
    have(name, &[&[Need::Root, Need::KernelOverlay], &needs[..], more].concat())
}

#[test]
fn owners_are_recorded_for_somebody_with_one_id() -> Result<()> {
    if !can("owners of an ordinary user", &[])? {
        return Ok(());
    }
    let home = Home::new("rootless")?;
    let archive = image(&home)?;
    let user = Rootless { home: &home, store: home.path("mine/store"), ids: None };
    let imported = user.json(&["image", "import", &archive.to_string_lossy(), "--name", "many", "--json"])?;
    ensure!(imported["images"][0]["devices_skipped"] == 1, "{imported}");
    let tree = user.lowest()?;
    for (path, recorded, mode) in
        [("dir/setuid", "7:8:04755", 0o755), ("dir/secret", "9:9:00", 0o600), ("dir", "7:8:02751", 0o751)]
    {
        let found = fs::metadata(tree.join(path))?;
        ensure!((found.uid(), found.mode() & 0o7777) == (USER, mode), "{path}: {found:?}");
        let args = ["--only-values", "-n", "user.containers.override_stat"];
        let value = run(Command::new("getfattr").args(args).arg(tree.join(path)))?;
        ensure!(value.trim() == recorded, "{path}: {value}");
    }
    goes_on(&home, &user)
}

#[test]
fn owners_are_kept_for_somebody_with_subordinate_ids() -> Result<()> {
    if !can("owners in subordinate ids", &[Need::Tool("newuidmap"), Need::Tool("getcap")])? {
        return Ok(());
    }
    let home = Home::new("subordinate")?;
    let archive = image(&home)?;
    let ids = home.path("ids");
    fs::write(&ids, format!("{USER}:200000:100000\n"))?;
    let user = Rootless { home: &home, store: home.path("mine/store"), ids: Some(ids) };
    user.ok(&["image", "import", &archive.to_string_lossy(), "--name", "many"])?;
    let tree = user.lowest()?;
    let on_disk = fs::metadata(tree.join("dir/setuid"))?;
    ensure!(on_disk.uid() == 200_000 + 6, "{on_disk:?}");
    let stat = user.says("stat", &["-c", "%u:%g:%a", &tree.join("dir/setuid").to_string_lossy()])?;
    ensure!(stat == "7:8:4755", "{stat}");
    let caps = user.says("getcap", &[&tree.join("dir/capable").to_string_lossy()])?;
    ensure!(caps.ends_with("cap_net_raw=ep"), "{caps}");
    goes_on(&home, &user)
}
