//! What a server gets from the one before it, by way of the holder, and how it leaves that to the next one.

use super::holder::{FIRST, NEXT, VARIABLE};
use super::keep::{Holder, Item, Key};
use crate::error::Failure;
use crate::mount::{Locks, Opened};
use crate::options::{Options, Switch};
use crate::out::warn;
use crate::record::Record;
use acetate_fuse::Connection;
use acetate_layer::UpperLayer;
use acetate_overlay::{KeptFiles, LEDGER_BYTES, Ledger, Overlay};
use acetate_sys::memory::SharedMemory;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Says why the mount ends with its server.
pub(super) fn unavailable(why: impl std::fmt::Display) {
    warn(format_args!("the mount will not outlive its server: {why}"));
}

/// Whether a mount is to outlive its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It was asked for.
    Asked,
    /// Where it can be had.
    Usual,
    /// No.
    No,
}

impl Wanted {
    /// What the options say; if they say nothing, daemons have it. Whoever stays in the foreground is waited for,
    /// and ends with its server.
    pub(super) fn of(options: &Options, is_daemon: bool) -> Wanted {
        match options.takeover {
            Some(Switch::On) => Wanted::Asked,
            None if is_daemon && can_resend() => Wanted::Usual,
            None | Some(Switch::Off) => Wanted::No,
        }
    }
}

/// Whether the kernel can send requests again (Linux 6.9), as far as that can be told before the handshake.
fn can_resend() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    numbers.next().zip(numbers.next()) >= Some((6, 9))
}

/// Takes the name that the program was called by: the file that it was started from is called otherwise, and whoever looks
/// for processes by name shall find server and holder.
fn take_name() {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    if let Ok(name) = CString::new(name) {
        // It is only for those who look.
        let _unknown_by_name = rustix::thread::set_name(&name);
    }
}

/// Where a server stands among those of its mount.
#[derive(Debug)]
pub(super) enum Role {
    /// It is the only one: the mount ends with it.
    Only,
    /// It makes the mount, and others follow.
    First(Holder),
    /// It takes the mount over.
    Next(Holder, Box<Inherited>),
}

/// What the server before has left.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) device: OwnedFd,
    pub(super) target: PathBuf,
    pub(super) record: Record,
    pub(super) locks: Locks,
    pub(super) layers: Vec<OwnedFd>,
    pub(super) memory: SharedMemory,
    pub(super) files: KeptFiles,
}

impl Role {
    /// The role of this process.
    ///
    /// # Errors
    /// If what was left cannot be received.
    pub(super) fn of_this_process() -> Result<Role, Failure> {
        let which = std::env::var(VARIABLE).unwrap_or_default();
        if which != FIRST && which != NEXT {
            return Ok(Role::Only);
        }
        take_name();
        let failed = |error: std::io::Error| Failure::io("receive the mount from the last server", &error);
        let socket = rustix::stdio::stdin().try_clone_to_owned().map_err(failed)?;
        let holder = Holder::new(socket);
        if which == FIRST {
            return Ok(Role::First(holder));
        }
        let items = holder.receive_all().map_err(failed)?;
        let inherited = Inherited::from_items(items).map_err(failed)?;
        Ok(Role::Next(holder, Box::new(inherited)))
    }

    /// The holder of the mount.
    pub(super) fn holder(&self) -> Option<&Holder> {
        match self {
            Role::Only => None,
            Role::First(holder) | Role::Next(holder, _) => Some(holder),
        }
    }
}

impl Inherited {
    fn from_items(items: Vec<Item>) -> std::io::Result<Inherited> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let (mut device, mut target, mut memory, mut record) = (None, PathBuf::new(), None, None);
        let (mut locks, mut layers, mut files) = (Vec::new(), Vec::new(), KeptFiles::new());
        for Item { key, text, fd } in items {
            match key {
                Key::Device => {
                    target = PathBuf::from(OsString::from_vec(text));
                    device = fd;
                }
                Key::Memory => memory = fd,
                Key::Record => record = Some(serde_json::from_slice(&text)?),
                // This server keeps a record of its own.
                Key::RecordFile => {}
                Key::Lock(_) => locks.extend(fd),
                Key::Layer(number) => layers.extend(fd.map(|fd| (number, fd))),
                Key::File(what) => {
                    let lower = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                    files.extend(fd.map(|fd| (what, (lower, fd))));
                }
            }
        }
        layers.sort_by_key(|(number, _)| *number);
        Ok(Inherited {
            device: device.ok_or_else(missing)?,
            target,
            record: record.ok_or_else(missing)?,
            locks: Locks::inherited(locks),
            layers: layers.into_iter().map(|(_, fd)| fd).collect(),
            memory: SharedMemory::map(memory.ok_or_else(missing)?)?,
            files,
        })
    }
}

/// Why a mount cannot be taken over, if it cannot.
fn obstacle(opened: &Opened) -> Option<&'static str> {
    if opened.upper.is_some() && opened.rules.records.is_some() {
        return Some("where owners are recorded in attributes a new file gets its owner in a second step");
    }
    if opened.lower_changes {
        return Some("not while lower layers may change");
    }
    None
}

/// Leaves to the holder what the next server will need, and returns the ledger of the mount; the device alone where it cannot
/// be taken over, which is said: whatever happens to this server, the holder ends the mount.
pub(super) fn leave(
    holder: &Holder,
    connection: &Connection,
    target: &Path,
    opened: &Opened,
    (locks, layers): (&Locks, &[OwnedFd]),
    record: &Record,
    wanted: Wanted,
) -> Option<Ledger> {
    holder
        .keep(Key::Device, target.as_os_str().as_bytes(), Some(connection.device()))
        .map_err(unavailable)
        .ok()?;
    if let Some(why) = obstacle(opened) {
        if wanted == Wanted::Asked {
            unavailable(why);
        }
        return None;
    }
    let kept = || -> std::io::Result<SharedMemory> {
        let memory = SharedMemory::create(LEDGER_BYTES)?;
        holder.keep(Key::Record, &serde_json::to_vec(record)?, None)?;
        for (number, lock) in (0..).zip(locks.held()) {
            holder.keep(Key::Lock(number), b"", Some(lock.as_fd()))?;
        }
        for (number, layer) in (0..).zip(layers) {
            holder.keep(Key::Layer(number), b"", Some(layer.as_fd()))?;
        }
        // Last: without it nothing is taken over.
        holder.keep(Key::Memory, b"", Some(memory.as_fd()))?;
        Ok(memory)
    };
    let memory = kept().map_err(unavailable).ok()?;
    Ledger::new(Box::new(memory), Box::new(holder.clone())).map_err(unavailable).ok()
}

/// What an overlay begins with.
#[derive(Debug)]
pub(super) struct Remains {
    memory: SharedMemory,
    files: KeptFiles,
    holder: Holder,
}

/// How an overlay comes to know what the kernel knows.
pub(super) enum Known {
    /// It knows nothing, and nobody will ask.
    Nothing,
    /// It knows nothing, and records what it gets to know.
    Recorded(Box<Ledger>),
    /// It has been told by the last server.
    Before(Box<Remains>),
}

impl Known {
    /// What the last server has left.
    pub(super) fn before(holder: &Holder, memory: SharedMemory, files: KeptFiles) -> Known {
        Known::Before(Box::new(Remains { memory, files, holder: holder.clone() }))
    }

    /// Gives it to an overlay, and to the connection what that has to know.
    ///
    /// # Errors
    /// If the mount cannot be taken over for sure.
    pub(super) fn give<L: UpperLayer>(
        self,
        overlay: Overlay<L>,
        connection: Connection,
    ) -> Result<(Overlay<L>, Connection), Failure> {
        match self {
            Known::Nothing => Ok((overlay, connection)),
            Known::Recorded(ledger) => Ok((overlay.recording(*ledger), connection)),
            Known::Before(remains) => {
                let Remains { memory, files, holder } = *remains;
                let taken = Ledger::load_from(Box::new(memory), Box::new(holder))
                    .and_then(|ledger| overlay.taking_over(ledger, files));
                let (overlay, taken) = taken.map_err(|error| {
                    Failure::new(error, "the mount has ended with its last server; mount it again")
                })?;
                if taken.lost_handles > 0 {
                    warn(format_args!(
                        "{} open files could not be opened again: they answer ESTALE",
                        taken.lost_handles
                    ));
                }
                Ok((overlay, connection.taking_over(taken)))
            }
        }
    }
}
