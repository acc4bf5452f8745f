//! OCI runtimes: crun and runc, given a bundle (OCI runtime specification, "bundle.md").

use super::own::{self, Payload};
use super::{Job, Net, Runtime};
use crate::error::Failure;
use crate::out::{note, shown};
use crate::record;
use acetate_sys::signal::Signals;
use oci_spec::runtime::{
    BoxBuilder, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Where the bundle and the state of a runtime are: a tmpfs that only its mount namespace sees and that ends with it.
pub(super) const PLACE: &str = "/dev/shm";
/// The form of what is remembered.
const SCHEMA: &str = "acetate-runtime-v1";

/// A runtime that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Oci {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
}

/// Whether a runtime works here, for as long as the machine is up and the program is the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    schema: String,
    program: PathBuf,
    /// Inode and time of change of the program.
    identity: (u64, i64),
    /// As which user of which user namespace.
    user: String,
    works: bool,
}

/// The runtime to use: the first that is installed and works, else ours. Says why one is not used, once.
///
/// # Errors
/// If one is asked for that is not installed or does not work.
pub(super) fn choose(wanted: Runtime, job: &Job, signals: &Signals) -> Result<Option<Oci>, Failure> {
    let names: &[&'static str] = match wanted {
        Runtime::None => return Ok(None),
        Runtime::Auto => &["crun", "runc"],
        Runtime::Crun => &["crun"],
        Runtime::Runc => &["runc"],
    };
    for name in names {
        let Some(program) = find(name) else {
            if wanted == Runtime::Auto {
                continue;
            }
            return Err(Failure::new(
                format_args!("{name} is not installed"),
                "install it, or leave the choice to acetate (--runtime auto)",
            ));
        };
        let oci = Oci { name, program };
        if wanted != Runtime::Auto || works(&oci, job, signals)? {
            return Ok(Some(oci));
        }
    }
    Ok(None)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administration programs live in sbin, which an ordinary user's PATH may lack.
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let runs = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(runs)
}

/// Tries a runtime: makes a container and removes it again. What comes of it is remembered.
fn works(oci: &Oci, job: &Job, signals: &Signals) -> Result<bool, Failure> {
    let mut verdict = Verdict {
        schema: SCHEMA.into(),
        program: oci.program.clone(),
        identity: std::fs::metadata(&oci.program).map_or((0, 0), |stat| (stat.ino(), stat.ctime())),
        user: format!(
            "{} of {}",
            rustix::process::geteuid().as_raw(),
            std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default().trim()
        ),
        works: false,
    };
    let file = format!("runtime-{}", oci.name);
    let known = record::recall::<Verdict>(&file);
    if let Some(known) = known.filter(|known| Verdict { works: known.works, ..known_as(&verdict) } == *known)
    {
        return Ok(known.works);
    }
    verdict.works = own::run_payload(job, &Payload::Try(oci.clone()), signals)? == 0;
    record::remember(&file, &verdict);
    Ok(verdict.works)
}

fn known_as(verdict: &Verdict) -> Verdict {
    Verdict {
        schema: verdict.schema.clone(),
        program: verdict.program.clone(),
        user: verdict.user.clone(),
        ..*verdict
    }
}

impl Oci {
    /// The runtime with the options that make it content with what there is; control groups are not needed.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        match self.name {
            "crun" => command.args(["--cgroup-manager", "disabled"]),
            _ => command.args(["--rootless", "true"]),
        };
        command.args(["--root", &format!("{PLACE}/state")]);
        command
    }

    /// Becomes the runtime, which runs the job.
    ///
    /// # Errors
    /// If it cannot be executed.
    pub(super) fn exec(&self, job: &Job) -> Failure {
        use std::os::unix::process::CommandExt;
        if let Err(failure) = write_bundle(job, job.terminal) {
            return failure;
        }
        let mut command = self.command();
        let error = command.args(["run", "--bundle", PLACE, "--pid-file", &pid_file(), &job.id]).exec();
        Failure::io(shown(&self.program), &error)
    }

    /// Whether the runtime has come as far as to start the command.
    pub(super) fn has_started(&self) -> bool {
        Path::new(&pid_file()).exists()
    }

    /// Makes a container and removes it again. Says why that does not work.
    ///
    /// # Errors
    /// If the runtime cannot be executed.
    pub(super) fn attempt(&self, job: &Job) -> Result<bool, Failure> {
        write_bundle(job, false)?;
        let said = format!("{PLACE}/said");
        let failed = |error| Failure::io(shown(&self.program), &error);
        let run = |words: &[&str]| -> std::io::Result<ExitStatus> {
            let mut command = self.command();
            command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(File::create(&said)?).status()
        };
        let made = run(&["create", "--bundle", PLACE, &job.id]).map_err(failed)?;
        if made.success() {
            let gone = run(&["delete", "--force", &job.id]).map_err(failed)?;
            return Ok(gone.success());
        }
        let text = std::fs::read(&said).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let reason = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        note(format_args!("{} is not used, it does not work here: {}", self.name, shown(reason.trim())));
        Ok(false)
    }
}

fn pid_file() -> String {
    format!("{PLACE}/pid")
}

fn write_bundle(job: &Job, terminal: bool) -> Result<(), Failure> {
    let path = format!("{PLACE}/config.json");
    let spec = spec(job, terminal).map_err(|error| {
        Failure::new(format_args!("bundle: {error}"), "report this as a mistake of acetate")
    })?;
    std::fs::create_dir_all(format!("{PLACE}/state"))
        .and_then(|()| Ok(serde_json::to_writer(File::create(&path)?, &spec)?))
        .map_err(|error| Failure::io(format_args!("write {path}"), &error))
}

/// The job as a runtime reads it.
fn spec(job: &Job, terminal: bool) -> Result<Spec, oci_spec::OciSpecError> {
    let text = |word: &std::ffi::OsString| word.to_string_lossy().into_owned();
    let capabilities: HashSet<Capability> = capabilities();
    let user = UserBuilder::default()
        .uid(job.identity.uid)
        .gid(job.identity.gid)
        .additional_gids(job.identity.groups.clone())
        .umask(0o022_u32)
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(terminal)
        .user(user)
        .args(job.words.iter().map(text).collect::<Vec<_>>())
        .env(job.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
        .cwd(&job.workdir)
        .no_new_privileges(false);
    if let Some((rows, columns)) = super::terminal::size().filter(|_| terminal) {
        let size = BoxBuilder::default().height(u64::from(rows)).width(u64::from(columns)).build()?;
        process = process.console_size(size);
    }
    let mut allowed = LinuxCapabilitiesBuilder::default().bounding(capabilities.clone());
    // Others than root get none by being executed.
    let own = if job.identity.uid == 0 { capabilities } else { HashSet::new() };
    allowed =
        allowed.effective(own.clone()).permitted(own).inheritable(HashSet::new()).ambient(HashSet::new());
    process = process.capabilities(allowed.build()?);
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
    ];
    if job.net == Net::None {
        kinds.push(LinuxNamespaceType::Network);
    }
    let namespaces: Result<Vec<_>, _> =
        kinds.into_iter().map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces?)
        .masked_paths(super::rootfs::HIDDEN.map(str::to_owned).to_vec())
        .readonly_paths(super::rootfs::READ_ONLY.map(str::to_owned).to_vec())
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(&job.root).readonly(false).build()?)
        .hostname(job.hostname.clone())
        .process(process.build()?)
        .mounts(mounts(job)?)
        .linux(linux)
        .build()
}

fn mounts(job: &Job) -> Result<Vec<Mount>, oci_spec::OciSpecError> {
    let one = |kind: &str, source: &str, target: &str, options: &[&str]| {
        MountBuilder::default()
            .typ(kind)
            .source(source)
            .destination(target)
            .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
            .build()
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if job.whole_ids {
        pts.push("gid=5");
    }
    let mut all = vec![
        one("proc", "proc", "/proc", &quiet)?,
        one("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        one("devpts", "devpts", "/dev/pts", &pts)?,
        one("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        one("mqueue", "mqueue", "/dev/mqueue", &quiet)?,
    ];
    // A user namespace that has not its own network may not mount /sys, but may show the host's.
    all.push(match (job.whole_ids, job.net) {
        (true, _) | (_, Net::None) => one("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"])?,
        _ => one("none", "/sys", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])?,
    });
    if job.net == Net::Host {
        for path in super::rootfs::NETWORK_FILES.iter().filter(|path| Path::new(path).exists()) {
            all.push(one("bind", path, path, &["bind"])?);
        }
    }
    Ok(all)
}

/// [`own::CAPABILITIES`], as the specification calls them.
fn capabilities() -> HashSet<Capability> {
    use Capability::{
        AuditWrite, Chown, DacOverride, Fowner, Fsetid, Kill, Mknod, NetBindService, NetRaw, Setfcap, Setgid,
        Setpcap, Setuid, SysChroot,
    };
    HashSet::from([
        AuditWrite,
        Chown,
        DacOverride,
        Fowner,
        Fsetid,
        Kill,
        Mknod,
        NetBindService,
        NetRaw,
        Setfcap,
        Setgid,
        Setpcap,
        Setuid,
        SysChroot,
    ])
}
