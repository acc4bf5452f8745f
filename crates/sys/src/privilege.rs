//! Giving up privileges for good.

use crate::{Errno, Result};
use rustix::thread::{
    CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

pub use rustix::thread::CapabilitySet;

/// The capabilities that the calling thread can use.
pub fn effective() -> CapabilitySet {
    // It fails for a process that is gone only.
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Gives up all capabilities but `keep`, also for programs started later. Concerns the calling thread and those that it
/// starts. Returns what is left.
///
/// # Errors
/// Those of capset(2).
pub fn keep_only(keep: CapabilitySet) -> Result<CapabilitySet> {
    let sets = capabilities(None)?;
    for surplus in (CapabilitySet::all() - keep).iter() {
        match remove_capability_from_bounding_set(surplus) {
            // Without CAP_SETPCAP the bounding set stays; a kernel may not know the newest ones.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let left = CapabilitySets {
        effective: sets.effective & keep,
        permitted: sets.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, left)?;
    Ok(left.effective)
}

/// Makes sure that no program that the calling thread starts ever has more privileges than it (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// Those of prctl(2).
pub fn forbid_new() -> Result<()> {
    set_no_new_privs(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_given_up_is_gone() {
        // A thread of its own, which is what it concerns.
        let left = std::thread::spawn(|| {
            let keep = CapabilitySet::CHOWN;
            let left = keep_only(keep).unwrap();
            assert_eq!(left, effective());
            assert!(keep_only(CapabilitySet::all()).unwrap() == left);
            left
        });
        assert_eq!(left.join().unwrap() - CapabilitySet::CHOWN, CapabilitySet::empty());
    }
}
