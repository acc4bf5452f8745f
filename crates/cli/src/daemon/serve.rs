//! Mounting and serving.

use super::identity::Identity;
use super::inherit::{Inherited, Known, Role, Wanted};
use super::keep::{Holder, Key};
use super::statistics::Statistics;
use super::status::Socket;
use super::{READY, holder, inherit, notify, privileges, signals};
use crate::error::Failure;
use crate::mount::{Locks, Opened, Plan, Request, overrides_modes, prepare, prepare_again};
use crate::options::{BusyPoll, Compat, LowerChanges, Options, RedirectDir, Switch, Uuid, Xino};
use crate::out::{cause, exact, note, shown, warn};
use crate::record::{self, Record};
use acetate_fuse::{
    Awake, Connection, Ended, InForce, MountError, MountFlags, MountSpec, Polling, ServeError,
};
use acetate_layer::mark::Dialect;
use acetate_layer::view::{Rules, View};
use acetate_layer::work::{self, Identify, WhiteoutForm};
use acetate_layer::{At, Layer, UpperLayer};
use acetate_overlay::{Config, Durability, Index, Overlay, Redirects, Stack, Verity};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Serves a mount for the parent that waits for it: says when it can be used, and lets go of the terminal.
///
/// # Errors
/// Why nothing was mounted; it is printed by the caller.
pub(crate) fn serve_for_parent(request: &Request) -> Result<(), Failure> {
    let ready = |log: Option<&Path>| {
        let mut stdout = std::io::stdout();
        // A parent that is gone waits for nothing.
        let _nobody_waits = stdout.write_all(&[READY]).and_then(|()| stdout.flush());
        detach(log);
    };
    serve_as(request, Place::Background, ready, detach)
}

/// Serves a mount until it is unmounted or a signal comes.
///
/// # Errors
/// Why nothing was mounted, or why serving ended.
pub(crate) fn serve_in_foreground(request: &Request) -> Result<(), Failure> {
    let target = request.target.clone();
    let ready = move |_: Option<&Path>| {
        note(format_args!("{}: mounted; Ctrl-C unmounts", shown(&target)));
        notify::ready(&format!("mounted at {}", shown(&target)));
    };
    serve_as(request, Place::Foreground, ready, |_| {})
}

/// Where the process that was asked to serve is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A daemon.
    Background,
    /// Somebody waits for its end.
    Foreground,
}

/// Serves, or starts servers. `ready` is called once the mount can be used, with the path of the file that the daemon's
/// words may go to, by the process that was asked to serve; `served` by a server that it has started.
fn serve_as(
    request: &Request,
    place: Place,
    ready: impl FnOnce(Option<&Path>),
    served: impl FnOnce(Option<&Path>),
) -> Result<(), Failure> {
    let role = Role::of_this_process()?;
    let wanted = Wanted::of(&request.parsed.options, place == Place::Background);
    // What is started later has inherited where words go to.
    let is_first = matches!(role, Role::First(_));
    match role.holder().cloned() {
        None if wanted != Wanted::No => holder::hold(place, ready),
        None => serve(request, role, wanted, ready),
        Some(holder) => serve(request, role, wanted, move |log| {
            let path = log.map_or(&b""[..], |log| log.as_os_str().as_bytes());
            if let Err(error) = holder.ready(path) {
                inherit::unavailable(&error);
            }
            if is_first {
                served(log);
            }
        }),
    }
}

fn serve(
    request: &Request,
    role: Role,
    wanted: Wanted,
    ready: impl FnOnce(Option<&Path>),
) -> Result<(), Failure> {
    acetate_sys::process::clear_umask();
    if let Err(errno) = acetate_sys::process::raise_nofile_limit() {
        warn(format_args!("limit of open files: {}", cause(errno)));
    }
    let (started, opened, locks) = match role {
        Role::Next(holder, inherited) => take_over(request, &holder, *inherited)?,
        Role::First(holder) => mount(request, Some((&holder, wanted)))?,
        Role::Only => mount(request, None)?,
    };
    let mounted = Mounted { identity: started.identity, point: started.target.clone(), keep: false };
    let Opened { upper, lowers, data, rules, archives, hidden_by_files, dialect, .. } = opened;
    // Let go of once the layers are.
    let _locks = locks;
    let served = if rules == Rules::default() && archives.is_empty() && !hidden_by_files {
        started.serve(Stack { upper, lowers, data }, ready)
    } else {
        let rules = Arc::new(rules);
        let view = |layer, archive| View::new(layer, rules.clone(), archive);
        let stack = Stack {
            upper: upper.map(|layer| match hidden_by_files {
                true => View::with_files(layer, rules.clone(), dialect),
                false => view(layer, false),
            }),
            lowers: (0..).zip(lowers).map(|(index, layer)| view(layer, archives.contains(&index))).collect(),
            data: data.into_iter().map(|layer| view(layer, false)).collect(),
        };
        started.serve(stack, ready)
    };
    if let Ok(result) = &served {
        mounted.done(result);
    }
    match served? {
        Ok(Ended::Unmounted | Ended::Aborted) => Ok(()),
        Err(error) => Err(Failure::new(error, "the mount was ended; its upper layer is as it was left")),
    }
}

/// Whether nothing is changed through the mount.
fn is_read_only(request: &Request, opened: &Opened) -> bool {
    opened.upper.is_none() || opened.forced_read_only || request.parsed.options.flags.read_only()
}

/// Checks, opens and mounts. From then on whoever fails has to take the mount back.
fn mount(request: &Request, holder: Option<(&Holder, Wanted)>) -> Result<(Started, Opened, Locks), Failure> {
    let Plan { target, opened, locks, layers } = prepare(request)?;
    let options = &request.parsed.options;
    let read_only = is_read_only(request, &opened);
    let mut flags = options.flags.0;
    flags.set(MountFlags::RDONLY, read_only);
    let config = config(&opened, read_only)?;
    let mut record = describe(request, &opened, &target.path);
    identify(&opened, read_only)?;
    let spec = MountSpec {
        source: source(request),
        flags,
        allow_other: options.allow_other,
        labels: labels(options),
    };
    signals::hold()?;
    let connection = Connection::mount(&target.path, &spec)
        .map_err(|error| refused(&error, request))?
        .with_polling(polling(options));
    let identity = Identity::at(&target.path);
    identity.inspect(|identity| read_far_ahead(identity.device));
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    record.holder = parent.filter(|_| holder.is_some());
    let ledger = holder.and_then(|(holder, wanted)| {
        inherit::leave(holder, &connection, &target.path, &opened, (&locks, &layers), &record, wanted)
    });
    let holder = holder.filter(|_| ledger.is_some()).map(|(holder, _)| holder.clone());
    let known = ledger.map_or(Known::Nothing, |ledger| Known::Recorded(Box::new(ledger)));
    let target = target.path;
    Ok((Started { connection, config, record, target, identity, known, holder }, opened, locks))
}

/// Takes the place of a server that has ended.
fn take_over(
    request: &Request,
    holder: &Holder,
    inherited: Inherited,
) -> Result<(Started, Opened, Locks), Failure> {
    let Inherited { device: connection, target, record, locks, layers, memory, files } = inherited;
    let identity = Identity::at(&target);
    signals::hold()?;
    let opened = prepare_again(request, &layers)?;
    let config = config(&opened, is_read_only(request, &opened))?;
    let connection = Connection::from_device(connection).with_polling(polling(&request.parsed.options));
    let known = Known::before(holder, memory, files);
    let holder = Some(holder.clone());
    Ok((Started { connection, config, record, target, identity, known, holder }, opened, locks))
}

/// A mount that waits for its layers.
struct Started {
    connection: Connection,
    config: Config,
    record: Record,
    target: PathBuf,
    /// Of the mount.
    identity: Option<Identity>,
    known: Known,
    /// Who starts the next server, if one can take over.
    holder: Option<Holder>,
}

impl Started {
    /// Puts the layers together, serves until the end, and lets go of them.
    fn serve<L: UpperLayer>(
        self,
        stack: Stack<L>,
        ready: impl FnOnce(Option<&Path>),
    ) -> Result<Result<Ended, ServeError>, Failure> {
        let Started { connection, config, mut record, target, identity, known, holder } = self;
        let overlay = Overlay::new(stack, config, Box::new(connection.notifier()))
            .map_err(|error| {
                Failure::errno(format_args!("put the layers together: {error}"), error.errno())
                    .hint("check that all layers can be read")
            })?
            .giving_up_when(connection.given_up());
        let (overlay, connection) = known.give(overlay, connection)?;
        let left = privileges::shed();
        record.capabilities = left.capabilities;
        record.no_new_privs = left.no_new_privs;
        signals::listen(target, identity, holder.is_some())?;
        record.pid = std::process::id();
        record.version = env!("CARGO_PKG_VERSION").into();
        let kept = identity.and_then(|identity| keep_record(identity.device, &record));
        let kept_record = kept.as_ref();
        if let (Some(holder), Some(kept)) = (&holder, kept_record) {
            // Whoever waits for the end of the mount waits for the holder, too. It is not waited for then.
            let _ended_sooner = holder.keep(Key::RecordFile, b"", Some(kept.descriptor()));
        }
        let result = serve_connection(connection, &overlay, kept_record, |in_force| {
            record.kernel = Some(in_force.into());
            let goes_on = overlay.ledger().is_some_and(|ledger| !ledger.is_given_up());
            record.holder = record.holder.filter(|_| goes_on);
            // It is not shown then.
            let _shown_less = kept_record.map(|kept| kept.update(&record));
            ready(kept_record.map(record::Kept::log).as_deref());
        });
        if let (Some(holder), Ok(Ended::Unmounted | Ended::Aborted)) = (&holder, &result) {
            // It ends soon after this server in any case.
            let _a_moment_later = holder.over();
        }
        // The next mount sweeps what stays.
        let _swept_later = overlay.clear_staging();
        drop(overlay);
        drop(kept);
        Ok(result)
    }
}

/// Serves the connection, and beside it those who ask for the requests in flight.
fn serve_connection<L: UpperLayer>(
    connection: Connection,
    overlay: &Overlay<L>,
    kept: Option<&record::Kept>,
    ready: impl FnOnce(&InForce),
) -> Result<Ended, ServeError> {
    let socket = kept.map(|kept| Socket::new(kept.socket())).transpose().unwrap_or_else(|error| {
        warn(format_args!("acetate mounts will not show requests in flight: {error}"));
        None
    });
    let (flights, stats, waiting) = (connection.flights(), connection.stats(), connection.waiting());
    std::thread::scope(|scope| {
        if let Some(socket) = &socket {
            let answer =
                || socket.serve(overlay, &flights, || Statistics::of(overlay, stats.list(), waiting.name()));
            // Without it the requests are not shown, which is all.
            let _shown =
                std::thread::Builder::new().name("acetate-status".into()).spawn_scoped(scope, answer);
        }
        let result = connection.serve(overlay, ready);
        socket.iter().for_each(Socket::close);
        result
    })
}

/// A mount that is taken back unless it was served to its end.
struct Mounted {
    identity: Option<Identity>,
    point: PathBuf,
    keep: bool,
}

impl Mounted {
    fn done(mut self, result: &Result<Ended, ServeError>) {
        self.keep = matches!(result, Ok(Ended::Unmounted));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Somebody else may have mounted something there since.
        if !self.keep && Identity::at(&self.point) == self.identity {
            // It may be gone already, or cover nothing any more.
            let _as_far_as_possible = super::unmount::unmount(&self.point, super::unmount::Unmount::Detach);
        }
    }
}

/// What the engine has to know.
fn config(opened: &Opened, read_only: bool) -> Result<Config, Failure> {
    let mut trapped = Vec::new();
    if let Some(upper) = &opened.upper {
        // Without a staging directory there is nothing to step into.
        if !opened.forced_read_only {
            let stat =
                upper.stat(At::Dir(upper.work())).map_err(|errno| Failure::errno("work directory", errno))?;
            trapped.push((stat.dev, stat.ino));
        }
    }
    trapped.extend(opened.workdir);
    Ok(Config {
        dialect: opened.dialect,
        whiteouts: opened.whiteouts,
        marks_storable: opened.marks_storable,
        opaque_storable: opened.marks_storable || opened.hidden_by_files,
        redirects: opened.redirects,
        metacopy: opened.metacopy,
        verity: opened.verity,
        follows_below: opened.follows_below,
        redirect_max: opened.redirect_max,
        index: opened.index,
        handles_open: opened.handles_open,
        overrides_modes: overrides_modes(),
        uuid_in_handles: opened.uuid_in_handles,
        durability: opened.durability,
        lower_changes: opened.lower_changes,
        offline_changes: opened.offline_changes,
        narrow_numbers: opened.narrow_numbers,
        read_only,
        trapped,
    })
}

/// Gives a new upper layer the identity that the kernel would give it.
fn identify(opened: &Opened, read_only: bool) -> Result<(), Failure> {
    let (Some(upper), false) = (&opened.upper, read_only) else {
        return Ok(());
    };
    let mut random = [0; 16];
    acetate_sys::process::random(&mut random).map_err(|errno| Failure::errno("get random bytes", errno))?;
    let when = match opened.uuid {
        Uuid::On => Identify::Always,
        Uuid::Auto => Identify::IfNew,
        Uuid::Null | Uuid::Off => return Ok(()),
    };
    work::identify(upper, opened.dialect, &random, when)
        .map_err(|errno| Failure::errno("upper layer: set its uuid", errno))
}

/// The SELinux labels that the kernel shall give the mount. Without SELinux there are none, and it would refuse them.
fn labels(options: &Options) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Vec::new();
    }
    options.contexts.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn source(request: &Request) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let named = request.parsed.options.fsname.as_ref().or(request.source.as_ref());
    named.map_or_else(|| b"acetate".to_vec(), |name| name.as_bytes().to_vec())
}

/// What `acetate mounts` shows.
fn describe(request: &Request, opened: &Opened, point: &std::path::Path) -> Record {
    let options = &request.parsed.options;
    let absolute = |path: &std::ffi::OsString| {
        let path = std::path::Path::new(path);
        exact(&std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    };
    let marks = opened.marks_storable.then(|| match opened.dialect {
        Dialect::Trusted => "trusted.overlay".to_owned(),
        Dialect::User => "user.overlay".to_owned(),
    });
    let whiteouts = opened.upper.is_some().then(|| match opened.whiteouts {
        _ if opened.hidden_by_files => "file".to_owned(),
        WhiteoutForm::Device => "device".to_owned(),
        WhiteoutForm::Xattr => "xattr".to_owned(),
    });
    Record {
        lower: options.lowers.iter().chain(&options.data).map(absolute).collect(),
        upper: options.upper.as_ref().map(absolute),
        work: options.work.as_ref().map(absolute),
        options: exact(&in_force(options, opened).format()),
        marks,
        whiteouts,
        layers: opened.layers.clone(),
        settings: settings(options, opened),
        ..Record::new(point)
    }
}

/// What is in force of the options that the kernel's overlayfs has too, whether they were given or not.
fn settings(options: &Options, opened: &Opened) -> BTreeMap<String, String> {
    let switch = |on: bool| if on { "on" } else { "off" };
    let words = [
        (
            "redirect_dir",
            match opened.redirects {
                Redirects::Make => "on",
                Redirects::Follow => "follow",
                Redirects::Refuse => "nofollow",
            },
        ),
        ("metacopy", switch(opened.metacopy)),
        ("index", switch(opened.index != Index::Nothing)),
        ("nfs_export", switch(opened.index == Index::All)),
        ("xino", Xino::word(options.xino.unwrap_or(Xino::Off))),
        ("uuid", Uuid::word(opened.uuid)),
        (
            "verity",
            match opened.verity {
                Verity::Off => "off",
                Verity::On => "on",
                Verity::Require => "require",
            },
        ),
        (
            "fsync",
            match opened.durability {
                Durability::Data => "auto",
                Durability::All => "strict",
                Durability::Nothing => "volatile",
            },
        ),
        ("compat", Compat::word(options.compat.unwrap_or(Compat::Kernel))),
        ("lower", LowerChanges::word(options.lower.unwrap_or(LowerChanges::Static))),
    ];
    words.into_iter().map(|(name, word)| (name.to_owned(), word.to_owned())).collect()
}

/// The options as they are in force: what others switched on or off is among them.
fn in_force(options: &Options, opened: &Opened) -> Options {
    let mut options = options.clone();
    let on = |on| Some(if on { Switch::On } else { Switch::Off });
    if opened.redirects == Redirects::Make && opened.upper.is_some() {
        options.redirect_dir = Some(RedirectDir::On);
    }
    options.metacopy = options.metacopy.and(on(opened.metacopy));
    let indexed = opened.index != Index::Nothing;
    if indexed || options.index.is_some() {
        options.index = on(indexed);
    }
    options.nfs_export = options.nfs_export.and(on(opened.index == Index::All));
    options
}

/// Makes the kernel read as far ahead as one request can bring; it starts with an eighth of that. Only root may.
fn read_far_ahead((major, minor): (u32, u32)) {
    let kib = acetate_fuse::Tuning::default().max_write / 1024;
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    // Without it sequential reads take more requests, which is all.
    let _slower = std::fs::write(file, kib.to_string());
}

/// How to wait for requests.
fn polling(options: &Options) -> Polling {
    match options.busy_poll.unwrap_or(BusyPoll::Auto) {
        BusyPoll::Auto => Polling::IfItPays(Awake::open()),
        BusyPoll::Off => Polling::Never,
    }
}

/// Keeps a record of the mount, where one can be kept.
fn keep_record(device: (u32, u32), record: &Record) -> Option<record::Kept> {
    match record::keep(device, record) {
        Ok(kept) => Some(kept),
        Err(error) => {
            warn(format_args!(
                "no record of this mount can be kept ({error}): acetate mounts will show less"
            ));
            None
        }
    }
}

/// Lets go of the terminal, of the pipes of whoever waits, and of the directory that the command was called in. What is
/// said from now on goes to the file `log`.
fn detach(log: Option<&Path>) {
    // Each of these only makes the daemon more independent; it serves without them, too.
    let _leader_already = rustix::process::setsid();
    if acetate_sys::proc::enter_descriptors().is_err() {
        let _stays = rustix::process::chdir("/");
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) {
        let _stay = rustix::stdio::dup2_stdin(&null);
        let _stay = rustix::stdio::dup2_stdout(&null);
        let _stay = rustix::stdio::dup2_stderr(&null);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::CLOEXEC;
    let flags = flags | OFlags::NOFOLLOW;
    if let Some(Ok(log)) = log.map(|log| rustix::fs::open(log, flags, Mode::from_raw_mode(0o600))) {
        let _stays = rustix::stdio::dup2_stderr(&log);
    }
}

/// What a refused mount means for the user.
fn refused(error: &MountError, request: &Request) -> Failure {
    let target = shown(&request.target);
    match error {
        MountError::Device(errno) => crate::mount::check_device()
            .err()
            .unwrap_or_else(|| Failure::path("FUSE device", "/dev/fuse", *errno)),
        MountError::Refused(errno) => {
            Failure::errno(format_args!("mount on {target}"), *errno).hint("dmesg may say more")
        }
        MountError::NoHelper => Failure::new(
            format_args!("mount on {target}: no privilege to mount, and fusermount3 was not found"),
            "install fuse3 (apt-get install fuse3), run as root, or in a user namespace: unshare -Urm acetate mount ...",
        ),
        MountError::Helper(text) => Failure::new(
            format_args!("mount on {target}: fusermount3: {text}"),
            "the mount point has to be yours; allow_other needs user_allow_other in /etc/fuse.conf",
        ),
    }
}
