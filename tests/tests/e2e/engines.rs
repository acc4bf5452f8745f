//! Other people's programs that read and write images: a registry, podman, skopeo, umoci.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use acetate_testkit::need::Need;
use anyhow::{Context, Result, bail, ensure};

/// What all tests with a registry need.
pub const REGISTRY: [Need; 4] =
    [Need::Root, Need::KernelOverlay, Need::Tool("docker-registry"), Need::Tool("skopeo")];

/// User, password, and their line in an htpasswd file (bcrypt).
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret";
const HTPASSWD: &str = "tester:$2y$05$x3ewgCKS6mSaTQwcF2JNguAQbk2UeJhDlzhP3StAZxLghEwpuoua.\n";

/// Runs a program to its end and returns what it prints; an error carries what it complains about.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How a registry is guarded.
#[derive(Clone, Copy, Default)]
pub struct Guard {
    /// [`USER`] and [`PASSWORD`] are asked for.
    pub login: bool,
    /// With a certificate of an authority of its own, `ca.crt` in its directory.
    pub tls: bool,
}

/// A registry on this machine, which ends with this value.
pub struct Registry {
    child: Child,
    pub port: u16,
    pub dir: PathBuf,
}

impl Registry {
    /// Starts one that keeps its blobs below `dir`.
    pub fn start(dir: &Path, guard: Guard) -> Result<Registry> {
        fs::create_dir_all(dir)?;
        // Somebody else may take the port in between: then the registry ends at once, and another one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut child = Registry::spawn(dir, guard, port)?;
            for _ in 0..300 {
                if child.try_wait()?.is_some() {
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Ok(Registry { child, port, dir: dir.to_owned() });
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // It may have ended already.
            let _gone = child.kill();
            child.wait()?;
        }
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        bail!("docker-registry does not start: {log}")
    }

    fn spawn(dir: &Path, guard: Guard, port: u16) -> Result<Child> {
        let path = |name: &str| dir.join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            path("blobs")
        );
        if guard.tls {
            certificates(dir)?;
            config += &format!("  tls: {{certificate: {}, key: {}}}\n", path("leaf.crt"), path("leaf.key"));
        }
        if guard.login {
            fs::write(dir.join("htpasswd"), HTPASSWD)?;
            config += &format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", path("htpasswd"));
        }
        fs::write(dir.join("config.yml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run docker-registry")
    }

    /// How an image in it is called.
    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// The requests that it has answered with this method and a path that contains `part`.
    pub fn requests(&self, method: &str, part: &str) -> Result<usize> {
        let log = fs::read_to_string(self.dir.join("log"))?;
        let wanted = format!("\"{method} ");
        Ok(log.lines().filter(|line| line.contains(&wanted) && line.contains(part)).count())
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir.join("blobs/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // There is nobody to tell if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Makes an authority and a certificate of it for 127.0.0.1.
fn certificates(dir: &Path) -> Result<()> {
    let openssl = |args: &str| run(Command::new("openssl").args(args.split_whitespace()).current_dir(dir));
    fs::write(dir.join("leaf.ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=authority"))?;
    openssl(&format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=registry"))?;
    openssl(
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile leaf.ext -out leaf.crt",
    )?;
    Ok(())
}

/// Runs skopeo, without signatures.
pub fn skopeo(args: &[&str]) -> Result<String> {
    run(Command::new("skopeo").arg("--insecure-policy").args(args))
}

/// A podman with a storage of its own below a directory.
pub struct Podman {
    dir: PathBuf,
}

impl Podman {
    pub fn new(dir: &Path) -> Result<Podman> {
        fs::create_dir_all(dir)?;
        Ok(Podman { dir: dir.to_owned() })
    }

    pub fn run(&self, args: &[&str]) -> Result<String> {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/containers.conf");
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay"]).args(args).env("CONTAINERS_CONF", config);
        run(&mut command)
    }

    /// Mounts an image and returns where.
    pub fn mount(&self, image: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.run(&["image", "mount", image])?))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _nothing_mounted = self.run(&["image", "umount", "--all", "--force"]);
        let overlay = self.dir.join("root/overlay");
        let _not_mounted = Command::new("umount").args(["-l"]).arg(overlay).stderr(Stdio::null()).status();
    }
}

/// Unpacks an image of an OCI layout with umoci; returns its root directory.
pub fn umoci_unpack(layout: &Path, tag: &str, bundle: &Path) -> Result<PathBuf> {
    let image = format!("{}:{tag}", layout.display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(bundle))?;
    Ok(bundle.join("rootfs"))
}
