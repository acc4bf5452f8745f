//! From options to a stack of open layers: the checks, in the kernel's order, and what each refusal says.
//!
//! Nothing is changed on disk before all checks have passed, and nothing is mounted here.

mod device;
mod driver;
mod exclusive;
mod features;
mod overlap;
mod place;
mod remount;
mod stack;
mod target;

pub(crate) use device::check as check_device;
pub(crate) use driver::{ByKernel, Driver, by_kernel};
pub(crate) use exclusive::Locks;
pub(crate) use remount::{Rest, remount};
pub(crate) use stack::{Opened, overrides_modes};
pub(crate) use target::{Target, mount_point};

use crate::error::Failure;
use crate::options::{self, Mounter, Parsed, Resolved, Role};
use crate::out::warn;
use place::Place;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What is to be mounted where.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Layers and options.
    pub(crate) parsed: Parsed,
    /// The source that the mount table shall show.
    pub(crate) source: Option<OsString>,
    /// Where to mount.
    pub(crate) target: PathBuf,
    /// The work directory is made if it is not there.
    pub(crate) make_work: bool,
}

/// Layers that passed all checks, open and locked.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where to mount.
    pub(crate) target: Target,
    /// The layers and how they are written.
    pub(crate) opened: Opened,
    /// Keeps others from using the writable directories.
    pub(crate) locks: Locks,
    /// References to the layers (`O_PATH`): the lower ones, the data-only ones, the upper layer, the work directory.
    pub(crate) layers: Vec<OwnedFd>,
}

/// Checks everything, then opens and locks the layers and makes the staging directory.
///
/// # Errors
/// The first check that fails, in the kernel's order.
pub(crate) fn prepare(request: &Request) -> Result<Plan, Failure> {
    let target = Target::find(&request.target)?;
    with_work(request, Result::is_ok, || prepare_at(request, target))
}

/// Makes the work directory if that is wished, for what needs it; unless that is a success, it goes again.
fn with_work<T>(
    request: &Request,
    is_success: impl FnOnce(&Result<T, Failure>) -> bool,
    act: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let work = request.parsed.options.work.as_ref().filter(|_| request.make_work);
    let made = work.map(place::make).transpose()?.flatten();
    let result = act();
    if let Some(made) = made.filter(|_| !is_success(&result)) {
        made.remove();
    }
    result
}

fn prepare_at(request: &Request, target: Target) -> Result<Plan, Failure> {
    let checked = Checked::new(request)?;
    device::check()?;
    let locks = checked.lock()?;
    let Checked { mounter, resolved, lowers, data, writable } = checked;
    if let Some((upper, work)) = &writable {
        for warning in overlap::reachable(upper, work, &lowers)? {
            warn(warning);
        }
    }
    let options = &request.parsed.options;
    let opened =
        stack::open(&lowers, &data, writable.as_ref(), options, resolved, (mounter, stack::Use::First))?;
    let writable = writable.into_iter().flat_map(|(upper, work)| [upper, work]);
    let layers = lowers.into_iter().chain(data).chain(writable).map(|place| place.fd).collect();
    Ok(Plan { target, opened, locks, layers })
}

/// What a request names, found and free of what no driver could mount.
struct Checked {
    mounter: Mounter,
    resolved: Resolved,
    lowers: Vec<Place>,
    data: Vec<Place>,
    /// The upper layer and the work directory.
    writable: Option<(Place, Place)>,
}

impl Checked {
    /// Looks at the options and at every directory, in the kernel's order.
    ///
    /// # Errors
    /// The first check that fails.
    fn new(request: &Request) -> Result<Checked, Failure> {
        let options = &request.parsed.options;
        for (role, path) in &request.parsed.mentioned {
            Place::find(*role, path)?;
        }
        let mounter = mounter();
        let resolved = options::resolve(options, mounter)?;
        let places = |role, paths: &[OsString]| -> Result<Vec<Place>, Failure> {
            paths.iter().map(|path| Place::find(role, path)).collect()
        };
        let (lowers, data) = (places(Role::Lower, &options.lowers)?, places(Role::Data, &options.data)?);
        let writable = match (&options.upper, &options.work) {
            (Some(upper), Some(work)) => {
                Some((Place::find(Role::Upper, upper)?, Place::find(Role::Work, work)?))
            }
            _ => None,
        };
        if let Some((upper, work)) = &writable {
            overlap::check_writable(upper, work)?;
        }
        overlap::check_lowers(&lowers, &data, writable.as_ref())?;
        Ok(Checked { mounter, resolved, lowers, data, writable })
    }

    /// Keeps others from using the writable directories.
    ///
    /// # Errors
    /// Those of [`Locks::take`].
    fn lock(&self) -> Result<Locks, Failure> {
        match &self.writable {
            Some((upper, work)) => Locks::take(upper, work),
            None => Ok(Locks::default()),
        }
    }
}

/// Opens the layers that another server of the same mount has had open, checked and locked: `layers` are the
/// [`Plan::layers`] of that.
///
/// # Errors
/// A layer that cannot be opened any more.
pub(crate) fn prepare_again(request: &Request, layers: &[OwnedFd]) -> Result<Opened, Failure> {
    use std::os::fd::AsRawFd;
    let options = &request.parsed.options;
    let roles = options.lowers.iter().map(|_| Role::Lower).chain(options.data.iter().map(|_| Role::Data));
    let roles = roles.chain(options.upper.iter().map(|_| Role::Upper));
    let roles: Vec<Role> = roles.chain(options.work.iter().map(|_| Role::Work)).collect();
    if roles.len() != layers.len() {
        return Err(Failure::new("the layers of the last server are others", "mount again"));
    }
    let find =
        |(role, fd): (Role, &OwnedFd)| Place::find(role, &format!("/proc/self/fd/{}", fd.as_raw_fd()).into());
    let mut places: Vec<Place> = roles.into_iter().zip(layers).map(find).collect::<Result<_, _>>()?;
    let mut rest = places.split_off(options.lowers.len());
    let mut writable = rest.split_off(options.data.len()).into_iter();
    let writable = writable.next().zip(writable.next());
    let mounter = mounter();
    let resolved = options::resolve(options, mounter)?;
    stack::open(&places, &rest, writable.as_ref(), options, resolved, (mounter, stack::Use::Again))
}

/// Locks the writable directories of a stack, so that they can be changed without a mount.
///
/// # Errors
/// A directory that is not there, or that a mount of ours or of the kernel uses.
pub(crate) fn lock(upper: &Path, work: &Path) -> Result<Locks, Failure> {
    let upper = Place::find(Role::Upper, &upper.as_os_str().to_owned())?;
    let work = Place::find(Role::Work, &work.as_os_str().to_owned())?;
    overlap::check_writable(&upper, &work)?;
    Locks::take(&upper, &work)
}

/// What we may do.
fn mounter() -> Mounter {
    use rustix::thread::{CapabilitySet, capabilities};
    use std::os::unix::fs::MetadataExt;
    /// The inode number of the initial user namespace (`PROC_USER_INIT_INO`, linux/proc_ns.h).
    const INITIAL: u64 = 0xEFFF_FFFD;
    let admin = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let initial = std::fs::metadata("/proc/self/ns/user").is_ok_and(|stat| stat.ino() == INITIAL);
    if admin && initial { Mounter::Admin } else { Mounter::User }
}
