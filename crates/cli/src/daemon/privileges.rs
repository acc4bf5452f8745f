//! What the daemon may do, once everything is open and mounted.

use crate::out::{cause, warn};
use acetate_sys::privilege::{self, CapabilitySet};

/// The capabilities that serving needs, each with what for. All others are given up.
const NEEDED: [(CapabilitySet, &str); 13] = [
    (CapabilitySet::CHOWN, "owners of copies"),
    (CapabilitySet::DAC_OVERRIDE, "the kernel has checked the permissions of the merged object"),
    (CapabilitySet::DAC_READ_SEARCH, "file handles, which origin marks and the index are made of"),
    (CapabilitySet::FOWNER, "modes, times and attributes of files of others; O_NOATIME"),
    (CapabilitySet::FSETID, "set-id bits survive changes by the privileged"),
    (CapabilitySet::SETUID, "what is created belongs to its creator from the first moment (setfsuid)"),
    (CapabilitySet::SETGID, "as for the uid"),
    (CapabilitySet::MKNOD, "whiteouts and device files"),
    (CapabilitySet::SYS_ADMIN, "trusted.* attributes, passthrough, unmounting"),
    (CapabilitySet::LINUX_IMMUTABLE, "append-only and immutable files"),
    (CapabilitySet::SYS_RESOURCE, "space that is reserved for root, as in the kernel's overlayfs"),
    (CapabilitySet::SETFCAP, "copies of programs with capabilities"),
    (CapabilitySet::MAC_ADMIN, "copies of labels of security modules"),
];

/// What is left.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    /// Names of capabilities (`cap_chown`).
    pub(super) capabilities: Vec<String>,
    /// No program that the daemon starts can have more.
    pub(super) no_new_privs: bool,
}

/// Gives up what serving does not need. Concerns this thread and all that it starts from now on.
pub(super) fn shed() -> Left {
    // Memory may be short because of pages that only this process can write: to get some, it must not wait for them
    // (PR_SET_IO_FLUSHER, prctl(2)). Needs CAP_SYS_RESOURCE.
    let _may_wait_without = rustix::process::configure_io_flusher_behavior(true);
    // Threads that begin later inherit this, and may not ask for it themselves any more.
    let _stricter_without = acetate_sys::creds::keep_capabilities();
    let keep = NEEDED.iter().fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    let left = privilege::keep_only(keep).unwrap_or_else(|errno| {
        warn(format_args!("privileges could not be given up: {}", cause(errno)));
        privilege::effective()
    });
    // An ordinary user's daemon unmounts through fusermount3, which is privileged.
    let no_new_privs = left.contains(CapabilitySet::SYS_ADMIN)
        && privilege::forbid_new()
            .map_err(|errno| warn(format_args!("no_new_privs: {}", cause(errno))))
            .is_ok();
    let names = left.iter_names().map(|(name, _)| format!("cap_{}", name.to_lowercase()));
    Left { capabilities: names.collect(), no_new_privs }
}
