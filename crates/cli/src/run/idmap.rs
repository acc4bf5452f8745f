//! Becoming root of a user namespace, for those who are not root.

use super::Identity;
use crate::error::Failure;
use acetate_sys::namespace::{Namespace, unshare};
use rustix::process::{getegid, geteuid};
use rustix::thread::CapabilitySet;

/// The map of the user namespace that the machine starts with: all ids are what they are.
const WHOLE: [&str; 3] = ["0", "0", "4294967295"];

/// Whether a command will run with all ids: as root, in the user namespace that the machine has started with.
pub(crate) fn has_all() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    may_mount() && map.split_whitespace().eq(WHOLE)
}

/// Refuses users and groups that mean nothing in the user namespace in which the command will run.
///
/// # Errors
/// The first such id.
pub(super) fn check(identity: &Identity) -> Result<(), Failure> {
    let map = |kind: &str| match may_mount() {
        true => std::fs::read_to_string(format!("/proc/self/{kind}_map")).unwrap_or_default(),
        false => "0 0 1".to_owned(),
    };
    for (kind, id) in [("uid", identity.uid), ("gid", identity.gid)] {
        let map = map(kind);
        let mut ranges = map.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
            Some((numbers.next()??, numbers.nth(1)??))
        });
        if !ranges.any(|(first, count)| (first..first.saturating_add(count)).contains(&u64::from(id))) {
            return Err(Failure::new(
                format_args!("{kind} {id} means nothing in your user namespace"),
                "--user 0, or run acetate where you have subordinate ids: unshare --map-auto --map-root-user -m, or \
                 podman unshare, with a store of its own",
            ));
        }
    }
    Ok(())
}

fn may_mount() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Gives a process that may not mount a user namespace in which it may: the user is root there, and no other ids mean
/// anything. The process must have a single thread.
///
/// # Errors
/// Where user namespaces are forbidden.
pub(super) fn become_root() -> Result<(), Failure> {
    if may_mount() {
        return Ok(());
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(&[Namespace::User]).map_err(|errno| {
        Failure::errno("make a user namespace", errno)
            .hint("be root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)")
    })?;
    let write = |name: &str, text: String| {
        let path = format!("/proc/self/{name}");
        std::fs::write(&path, text).map_err(|error| Failure::io(format_args!("write {path}"), &error))
    };
    // Needed before the group can be mapped (user_namespaces(7)).
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}
