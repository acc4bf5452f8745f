//! Images from and to a registry: logins, certificates, broken networks, tampered contents, formats.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use acetate_testkit::driver::acetate_bin;
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::fingerprint::Fingerprint;
use anyhow::{Context, Result, bail, ensure};

use crate::engines::{Guard, PASSWORD, REGISTRY, Registry, USER, run, skopeo};
use crate::proxy::{Fault, Proxy};
use crate::store::Home;

/// Bytes that no compression makes shorter.
fn noise(mib: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..mib << 17).flat_map(|_| next()).collect()
}

/// A store whose environment holds no credentials, with the image `base` of one layer of 8 MiB.
fn with_image(name: &str) -> Result<Home> {
    let home = empty(name)?;
    fs::create_dir_all(home.path("tree/etc"))?;
    fs::write(home.path("tree/large"), noise(8, 1))?;
    fs::write(home.path("tree/etc/conf"), "conf")?;
    home.ok(&["image", "import", "tree", "--name", "base"])?;
    Ok(home)
}

fn empty(name: &str) -> Result<Home> {
    let home = Home::new(name)?;
    fs::create_dir_all(home.path("home"))?;
    Ok(home)
}

/// `acetate` as a user without any configuration, with these variables.
fn bare(home: &Home, env: &[(&str, &Path)], args: &[&str]) -> Result<Command> {
    let mut command = home.command(args)?;
    for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", home.path("home")).env("XDG_RUNTIME_DIR", home.path("home/run"));
    command.envs(env.iter().copied());
    Ok(command)
}

/// Runs it, which has to fail; returns what it says.
fn refused(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.code() == Some(2), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stderr)?)
}

fn layer_names(home: &Home, image: &str) -> Result<Vec<String>> {
    let shown = home.json(&["image", "show", image, "--json"])?;
    let layers = shown["layers"].as_array().context("layers")?;
    Ok(layers.iter().filter_map(|layer| layer["diff_id"].as_str()).map(str::to_owned).collect())
}

/// The digests of an image's layers as the registry has them.
fn blobs(name: &str) -> Result<Vec<String>> {
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])?;
    let manifest: serde_json::Value = serde_json::from_str(&raw)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    Ok(layers.iter().filter_map(|layer| layer["digest"].as_str()).map(str::to_owned).collect())
}

#[test]
fn logins_are_found_where_others_keep_them() -> Result<()> {
    if !have("registry logins", &REGISTRY)? {
        return Ok(());
    }
    let home = with_image("login")?;
    let registry = Registry::start(&home.path("registry"), Guard { login: true, tls: false })?;
    let (name, host) = (registry.name("team/app:1"), registry.name(""));
    let host = host.trim_end_matches('/');
    let push = ["image", "push", "base", &name];
    let error = refused(&mut bare(&home, &[], &push)?)?;
    ensure!(error.contains("not allowed") && error.contains(&format!("podman login {host}")), "{error}");

    // Files as skopeo, podman and docker write them.
    let good = home.path("good.json");
    let login = |file: &Path, password: &str| {
        let file = file.to_string_lossy();
        skopeo(&["login", "--tls-verify=false", "--authfile", &file, "-u", USER, "-p", password, host])
    };
    login(&good, PASSWORD)?;
    let bad = home.path("bad.json");
    fs::write(&bad, fs::read_to_string(&good)?.replace("dGVzdGVyOnNlY3JldA==", "dGVzdGVyOndyb25n"))?;
    let error = refused(&mut bare(&home, &[("REGISTRY_AUTH_FILE", &bad)], &push)?)?;
    ensure!(error.contains("not allowed"), "{error}");
    run(&mut bare(&home, &[("REGISTRY_AUTH_FILE", &good)], &push)?)?;

    let pull = ["image", "pull", &name];
    let error = refused(&mut bare(&home, &[], &pull)?)?;
    ensure!(error.contains("not allowed"), "{error}");
    let explicit = [&pull[..], &["--authfile", "good.json"]].concat();
    run(&mut bare(&home, &[], &explicit)?)?;
    let docker = home.path("docker");
    fs::create_dir(&docker)?;
    fs::copy(&good, docker.join("config.json"))?;
    run(&mut bare(&home, &[("DOCKER_CONFIG", &docker)], &pull)?)?;
    for place in
        ["home/run/containers/auth.json", "home/.config/containers/auth.json", "home/.docker/config.json"]
    {
        let file = home.path(place);
        fs::create_dir_all(file.parent().context("parent")?)?;
        fs::copy(&good, &file)?;
        run(&mut bare(&home, &[], &pull)?).context(place)?;
        fs::remove_file(&file)?;
    }
    let missing = [&pull[..], &["--authfile", "nowhere"]].concat();
    let error = refused(&mut bare(&home, &[], &missing)?)?;
    ensure!(error.contains("nowhere"), "{error}");
    Ok(())
}

#[test]
fn certificates_are_checked() -> Result<()> {
    if !have("registry certificates", &[&REGISTRY[..], &[Need::Tool("openssl")]].concat())? {
        return Ok(());
    }
    let home = with_image("tls")?;
    let registry = Registry::start(&home.path("registry"), Guard { login: false, tls: true })?;
    let name = registry.name("app:1");
    let push = ["image", "push", "base", &name];
    let error = refused(&mut bare(&home, &[], &push)?)?;
    ensure!(error.contains("certificate") && error.contains("--authorities"), "{error}");
    let trusted = [&push[..], &["--authorities", "registry/ca.crt"]].concat();
    run(&mut bare(&home, &[], &trusted)?)?;
    let pull = ["image", "pull", &name];
    let anything = [&pull[..], &["--any-certificate"]].concat();
    run(&mut bare(&home, &[], &anything)?)?;
    let plain = [&pull[..], &["--plain-http"]].concat();
    let error = refused(&mut bare(&home, &[], &plain)?)?;
    ensure!(error.contains("HTTP request to an HTTPS server"), "{error}");
    // Where podman looks for them.
    let dir = home.path(format!("home/.config/containers/certs.d/127.0.0.1:{}", registry.port));
    fs::create_dir_all(&dir)?;
    fs::copy(home.path("registry/ca.crt"), dir.join("ca.crt"))?;
    run(&mut bare(&home, &[], &pull)?)?;
    fs::write(home.path("no.crt"), "nothing")?;
    let empty = [&pull[..], &["--authorities", "no.crt"]].concat();
    let error = refused(&mut bare(&home, &[], &empty)?)?;
    ensure!(error.contains("no.crt: it holds no certificate"), "{error}");
    Ok(())
}

#[test]
fn tampered_contents_are_refused() -> Result<()> {
    if !have("tampered registry", &REGISTRY)? {
        return Ok(());
    }
    let home = with_image("tampered")?;
    let registry = Registry::start(&home.path("registry"), Guard::default())?;
    let name = registry.name("app:1");
    home.ok(&["image", "push", "base", &name])?;
    let digests = blobs(&name)?;
    let file = registry.blob(digests.first().context("no layer")?);
    let good = fs::read(&file)?;
    // Another content that unpacks well; one that does not; the rest is missing; more behind it.
    let other = empty("other")?;
    fs::create_dir(other.path("tree"))?;
    fs::write(other.path("tree/evil"), "evil")?;
    run(Command::new("tar").args(["-czf", "evil.tar.gz", "tree"]).current_dir(other.path("")))?;
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let cases = [
        fs::read(other.path("evil.tar.gz"))?,
        flipped,
        good[..good.len() / 2].to_vec(),
        [&good[..], b"more"].concat(),
    ];
    for (at, case) in cases.iter().enumerate() {
        fs::write(&file, case)?;
        let error = other.fails(&["image", "pull", &name])?;
        ensure!(error.contains("has digest") && error.contains("expected"), "case {at}: {error}");
        let left = other.json(&["image", "df", "--json"])?;
        ensure!(left["layers"] == serde_json::json!([]) && left["transient"] == 0, "case {at}: {left}");
    }
    fs::write(&file, &good)?;
    other.ok(&["image", "pull", &name])?;
    ensure!(layer_names(&other, &name)? == layer_names(&home, "base")?);
    // An image by its digest is that one or none, and gets no name.
    let raw = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")])?;
    let raw: serde_json::Value = serde_json::from_str(&raw)?;
    let digest = raw["Digest"].as_str().context("digest")?;
    let exact = format!("{}@{digest}", name.trim_end_matches(":1"));
    other.ok(&["image", "remove", &name])?;
    other.ok(&["image", "pull", &exact])?;
    let listed = other.json(&["image", "list", "--json"])?;
    ensure!(listed["images"][0]["names"] == serde_json::json!([]), "{listed}");
    fs::write(
        registry.blob(digest),
        fs::read_to_string(registry.blob(digest))?.replace("1.json", "1.JSON") + " ",
    )?;
    let error = empty("exact")?.fails(&["image", "pull", &exact])?;
    ensure!(error.contains("digest"), "{error}");
    Ok(())
}

#[test]
fn broken_connections_and_killed_pulls_go_on() -> Result<()> {
    if !have("broken network", &REGISTRY)? {
        return Ok(());
    }
    let home = with_image("network")?;
    let registry = Registry::start(&home.path("registry"), Guard::default())?;
    home.ok(&["image", "push", "base", &registry.name("app:1")])?;
    let proxy = Proxy::start(registry.port)?;
    let name = format!("127.0.0.1:{}/app:1", proxy.port);
    let size = fs::metadata(registry.blob(blobs(&registry.name("app:1"))?.first().context("layer")?))?.len();

    // Each connection breaks after 3 MiB: what came before is not asked for again.
    proxy.set(Fault::CutAfter(3 << 20));
    let cut = empty("cut")?;
    cut.ok(&["image", "pull", &name])?;
    let ranges = proxy.headers("range");
    ensure!(ranges.iter().filter(|range| *range != "bytes=0-").count() >= 2, "{ranges:?}");
    // What the server had sent when a connection broke, and the client had not read, comes twice.
    ensure!(proxy.answered() < size * 2, "{} bytes for {size}", proxy.answered());
    cut.sound()?;

    // The network stalls, the pull is killed, another one goes on.
    proxy.set(Fault::StallAfter(4 << 20));
    let killed = empty("killed")?;
    let mut child = Command::new(acetate_bin()?)
        .args(["image", "pull", &name])
        .env("ACETATE_STORE", killed.path("store"))
        .spawn()?;
    let kept = until(|| kept_bytes(&killed).filter(|bytes| *bytes >= 3 << 20));
    child.kill()?;
    child.wait()?;
    kept?;
    let kept = kept_bytes(&killed).context("nothing was kept")?;
    proxy.set(Fault::None);
    killed.ok(&["image", "pull", &name])?;
    let ranges = proxy.headers("range");
    ensure!(ranges.contains(&format!("bytes={kept}-")), "{kept}: {ranges:?}");
    ensure!(proxy.answered() < size - kept + (1 << 20), "{} bytes for {}", proxy.answered(), size - kept);
    killed.ok(&["image", "gc"])?;
    killed.sound()?;
    ensure!(kept_bytes(&killed).is_none());
    ensure!(layer_names(&killed, &name)? == layer_names(&home, "base")?);

    // What an interrupted pull has left may be damaged: then it is found out, and the next one starts anew.
    proxy.set(Fault::StallAfter(4 << 20));
    let damaged = empty("damaged")?;
    let mut child = damaged.command(&["image", "pull", &name])?.spawn()?;
    let kept = until(|| kept_bytes(&damaged).filter(|bytes| *bytes >= 3 << 20));
    child.kill()?;
    child.wait()?;
    kept?;
    proxy.set(Fault::None);
    let file = fs::read_dir(damaged.path("store/downloads"))?.next().context("no download")??.path();
    let mut bytes = fs::read(&file)?;
    bytes[1 << 20] ^= 1;
    fs::write(&file, bytes)?;
    let error = damaged.fails(&["image", "pull", &name])?;
    ensure!(error.contains("has digest"), "{error}");
    damaged.ok(&["image", "pull", &name])?;
    // What the killed pull was unpacking is left.
    damaged.ok(&["image", "gc"])?;
    damaged.sound()
}

/// How much of a layer an interrupted pull has left.
fn kept_bytes(home: &Home) -> Option<u64> {
    let mut files = fs::read_dir(home.path("store/downloads")).ok()?.flatten();
    files.find_map(|file| file.metadata().ok()).map(|stat| stat.len())
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("nothing happens")
}

#[test]
fn images_of_all_formats_come_and_go() -> Result<()> {
    if !have("registry formats", &[&REGISTRY[..], &[Need::Tool("buildah")]].concat())? {
        return Ok(());
    }
    let home = with_image("formats")?;
    let registry = Registry::start(&home.path("registry"), Guard::default())?;
    let name = registry.name("app:oci");
    home.ok(&["image", "push", "base", &name])?;
    let layers = layer_names(&home, "base")?;
    let source = format!("docker://{name}");
    // The configuration, which names the image, differs in docker's format; the layers do not.
    for (tag, options) in [
        ("docker", &["--format", "v2s2"][..]),
        ("zstd", &["--dest-compress-format", "zstd", "--dest-compress-level", "3"][..]),
    ] {
        let target = registry.name(&format!("app:{tag}"));
        let layout = format!("oci:{}", home.path(tag).display());
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        skopeo(&[&["copy", "-q"], &tls[..], &[&source, &layout]].concat())?;
        skopeo(&[&["copy", "-q"], &tls[..], options, &[&layout, &format!("docker://{target}")]].concat())?;
        let fresh = empty(tag)?;
        fresh.ok(&["image", "pull", &target])?;
        ensure!(layer_names(&fresh, &target)? == layers, "{tag}");
        fresh.sound()?;
    }
    for compression in ["zstd", "none"] {
        let target = registry.name(&format!("own-{compression}:1"));
        home.ok(&["image", "push", "base", &target, "--compression", compression])?;
        let layout = home.path(format!("read-{compression}"));
        skopeo(&[
            "copy",
            "-q",
            "--src-tls-verify=false",
            &format!("docker://{target}"),
            &format!("oci:{}", layout.display()),
        ])?;
        let fresh = empty(compression)?;
        fresh.ok(&["image", "pull", &target])?;
        ensure!(layer_names(&fresh, &target)? == layers, "{compression}");
    }
    // A layer that another repository of the registry has is not sent again.
    let fresh = empty("mounted")?;
    fresh.ok(&["image", "pull", &name])?;
    let sent = registry.requests("PUT", "/blobs/uploads/")?;
    fresh.ok(&["image", "push", &name, &registry.name("elsewhere/app:1")])?;
    let now = registry.requests("PUT", "/blobs/uploads/")?;
    ensure!(now == sent + 1, "only the configuration is sent, not {} blobs", now - sent);
    ensure!(registry.requests("POST", "mount=sha256")? >= 1);
    several_platforms(&home, &registry)
}

/// An index of images for two platforms, made by buildah.
fn several_platforms(home: &Home, registry: &Registry) -> Result<()> {
    let context = home.path("context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Containerfile"), "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n")?;
    for arch in ["amd64", "arm64"] {
        fs::write(context.join(arch), arch)?;
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/containers.conf");
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(home.path("buildah/root")).arg("--runroot").arg(home.path("buildah/run"));
        run(command.args(["--storage-driver", "vfs"]).args(args).env("CONTAINERS_CONF", &config))
    };
    let (name, place) = (registry.name("both:1"), context.to_string_lossy());
    let platforms = "linux/amd64,linux/arm64";
    buildah(&["bud", "-q", "--isolation=chroot", "--platform", platforms, "--manifest", "both", &place])?;
    buildah(&["manifest", "push", "-q", "--all", "--tls-verify=false", "both", &format!("docker://{name}")])?;
    for arch in ["amd64", "arm64"] {
        let fresh = empty(arch)?;
        fresh.ok(&["image", "pull", &name, "--platform", &format!("linux/{arch}")])?;
        let shown = fresh.json(&["image", "show", &name, "--json"])?;
        let tree = shown["layers"][0]["path"].as_str().context("path")?;
        ensure!(fs::read_to_string(Path::new(tree).join("arch"))? == arch);
    }
    let error = empty("none")?.fails(&["image", "pull", &name, "--platform", "linux/s390x"])?;
    ensure!(error.contains("linux/s390x") && error.contains("linux/amd64, linux/arm64"), "{error}");
    Ok(())
}

#[test]
fn progress_is_for_terminals() -> Result<()> {
    if !have("progress", &[&REGISTRY[..], &[Need::Tool("script")]].concat())? {
        return Ok(());
    }
    let home = with_image("progress")?;
    let registry = Registry::start(&home.path("registry"), Guard::default())?;
    let name = registry.name("app:1");
    let output = home.run(&["image", "push", "base", &name])?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let fresh = empty("terminal")?;
    let pull = format!("{} image pull {name}", acetate_bin()?.display());
    let shown = run(Command::new("script")
        .args(["-qec", &pull, "/dev/null"])
        .env("ACETATE_STORE", fresh.path("store"))
        .env("TERM", "xterm")
        .env_remove("NO_COLOR"))?;
    ensure!(shown.contains("8.00 MiB") && shown.contains("done"), "{shown:?}");
    let output = fresh.run(&["image", "pull", &name])?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

/// Every form that files with images have, compressed in every way.
#[test]
fn files_of_all_forms_come_in() -> Result<()> {
    let needs = ["skopeo", "gzip", "zstd", "tar"].map(Need::Tool);
    if !have("image files", &[&[Need::Root, Need::KernelOverlay][..], &needs].concat())? {
        return Ok(());
    }
    let home = with_image("files")?;
    let layers = layer_names(&home, "base")?;
    home.ok(&["image", "export", "base", "oci", "--format", "oci-dir"])?;
    let path = |name: &str| home.path(name).display().to_string();
    for kind in ["oci-archive", "docker-archive"] {
        let (from, to) = (format!("oci:{}:latest", path("oci")), format!("{kind}:{}:ref:1", path(kind)));
        skopeo(&["copy", "-q", &from, &to])?;
        home.ok(&["image", "export", "base", &format!("own-{kind}"), "--format", kind])?;
    }
    run(Command::new("tar")
        .args(["--xattrs", "-C", "tree", "-cf", "root.tar", "."])
        .current_dir(home.path("")))?;
    let archives = ["oci-archive", "docker-archive", "own-oci-archive", "own-docker-archive", "root.tar"];
    for archive in archives {
        run(Command::new("gzip").args(["-k", archive]).current_dir(home.path("")))?;
        run(Command::new("zstd").args(["-q", "-k", archive]).current_dir(home.path("")))?;
    }
    let tree = Fingerprint::take(&home.path("tree"))?.portable();
    let files = archives.iter().flat_map(|name| ["", ".gz", ".zst"].map(|end| format!("{name}{end}")));
    for file in files.chain(["oci".to_owned(), "tree".to_owned()]) {
        let fresh = empty("file")?;
        let source = path(&file);
        fresh.ok(&["image", "import", &source, "--name", "i"]).context(file.clone())?;
        if !file.starts_with("root") {
            ensure!(layer_names(&fresh, "i")? == layers, "{file}");
        }
        let shown = fresh.json(&["image", "show", "i", "--json"])?;
        let found = shown["layers"][0]["path"].as_str().context("path")?;
        tree.expect(&Fingerprint::take(Path::new(found))?.portable(), &file)?;
        // The same through a pipe.
        if home.path(&file).is_file() {
            let piped = empty("piped")?;
            let mut command = piped.command(&["image", "import", "-", "--name", "i"])?;
            run_with_input(&mut command, &home.path(&file)).context(file.clone())?;
            ensure!(layer_names(&piped, "i")? == layer_names(&fresh, "i")?, "{file} through a pipe");
        }
    }
    Ok(())
}

fn run_with_input(command: &mut Command, input: &Path) -> Result<()> {
    let output = command.stdin(fs::File::open(input)?).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
