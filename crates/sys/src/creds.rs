//! The identity that the filesystem sees, per thread.
//!
//! The file system uid and gid belong to a thread on Linux, so the raw calls are used: the C library knows no
//! process-wide variant of them and neither do we want one.

use crate::{Errno, Result};
use std::cell::Cell;
use std::marker::PhantomData;

/// The identity of a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
}

thread_local! {
    /// The thread's own identity, read at its first use. The thread must not change it elsewhere afterwards.
    static OWN: Cell<Option<Ids>> = const { Cell::new(None) };
}

/// Asks for an id without changing it: -1 is no valid id, and the calls return the one in force (setfsuid(2)).
const QUERY: u32 = u32::MAX;

fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: takes and returns a plain number; concerns the calling thread only.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: takes and returns a plain number; concerns the calling thread only.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

/// Makes the calling thread keep its capabilities when its fsuid changes (SECBIT_NO_SETUID_FIXUP, capabilities(7)),
/// so that only the owner of what it creates is another's while the permission is its own.
///
/// Returns whether it does now; it needs CAP_SETPCAP. Concerns the calling thread and those it starts.
pub fn keep_capabilities() -> bool {
    // SAFETY: prctl with plain numbers.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    if bits < 0 {
        return false;
    }
    let wanted = bits | libc::SECBIT_NO_SETUID_FIXUP;
    // SAFETY: as above.
    wanted == bits
        || unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(wanted as u32), 0, 0, 0) } == 0
}

/// The calling thread's own identity; on its first use the thread starts to keep its capabilities.
fn own() -> Ids {
    OWN.get().unwrap_or_else(|| {
        // Without CAP_SETPCAP the creating call runs with the permission of the user, which is stricter.
        let _kept = keep_capabilities();
        let ids = Ids { uid: set_fsuid(QUERY), gid: set_fsgid(QUERY) };
        OWN.set(Some(ids));
        ids
    })
}

/// While this lives the calling thread creates files as another user; dropping it restores the thread's identity.
#[must_use = "the identity is restored when this is dropped"]
#[derive(Debug)]
pub struct ActAs {
    changed: bool,
    // The identity belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl ActAs {
    /// Takes on `uid` and `gid` as fsuid and fsgid. Costs nothing if they are the thread's own.
    ///
    /// # Errors
    /// `EPERM` if the thread may not take them on, or they are not mapped in its user namespace.
    pub fn user(uid: u32, gid: u32) -> Result<ActAs> {
        let own = own();
        let wanted = Ids { uid, gid };
        let guard = ActAs { changed: wanted != own, _not_send: PhantomData };
        if guard.changed {
            // The group first: the right to change it could go with the user. The calls report no failure.
            set_fsgid(gid);
            set_fsuid(uid);
            let got = Ids { uid: set_fsuid(QUERY), gid: set_fsgid(QUERY) };
            if got != wanted {
                return Err(Errno::PERM);
            }
        }
        Ok(guard)
    }
}

impl Drop for ActAs {
    fn drop(&mut self) {
        if self.changed {
            let own = own();
            set_fsuid(own.uid);
            set_fsgid(own.gid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_identity_is_left_alone() {
        let guard = ActAs::user(own().uid, own().gid).map(|guard| guard.changed);
        assert_eq!(guard, Ok(false));
    }

    #[test]
    fn the_identity_is_restored() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: changing the fsuid needs root");
            return;
        }
        let before = own();
        {
            let guard = ActAs::user(12, 34);
            assert!(guard.is_ok());
            assert!((set_fsuid(QUERY), set_fsgid(QUERY)) == (12, 34));
        }
        assert!(Ids { uid: set_fsuid(QUERY), gid: set_fsgid(QUERY) } == before);
        // An id that is never valid is refused and leaves the thread as it was.
        assert!(ActAs::user(QUERY, 0).is_err());
        assert!(Ids { uid: set_fsuid(QUERY), gid: set_fsgid(QUERY) } == before);
    }
}
