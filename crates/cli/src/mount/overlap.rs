//! Which directories of a mount may lie within one another.

use super::place::Place;
use crate::error::Failure;
use crate::out::shown;
use std::collections::{HashMap, HashSet};

/// Upper and work have to be on one mount, and apart from one another: objects are renamed between them.
///
/// # Errors
/// What the kernel answers with `EINVAL`.
pub(super) fn check_writable(upper: &Place, work: &Place) -> Result<(), Failure> {
    let message = |cause: &str| format!("work directory: {}: {cause}", shown(&work.path));
    let same_filesystem = (upper.id.inode.0, upper.id.inode.1) == (work.id.inode.0, work.id.inode.1);
    if upper.id.mount != work.id.mount || !same_filesystem {
        let cause =
            if same_filesystem { "on another mount of the same filesystem" } else { "on another filesystem" };
        return Err(Failure::new(
            message(&format!("{cause} than the upper layer {}", shown(&upper.path))),
            "choose a directory beside the upper layer, reached through the same mount",
        ));
    }
    let cause = if upper.id.inode == work.id.inode {
        "is the upper layer"
    } else if work.is_within(upper)? {
        "lies within the upper layer"
    } else if upper.is_within(work)? {
        "holds the upper layer"
    } else {
        return Ok(());
    };
    Err(Failure::new(message(cause), "choose an empty directory beside the upper layer"))
}

/// A lower layer must not be, or lie within, another layer or the work directory.
///
/// # Errors
/// What the kernel answers with `ELOOP`.
pub(super) fn check_lowers(
    lowers: &[Place],
    data: &[Place],
    writable: Option<&(Place, Place)>,
) -> Result<(), Failure> {
    let lowers = || lowers.iter().chain(data);
    let mut traps: HashMap<_, &Place> = HashMap::new();
    if let Some((upper, work)) = writable {
        traps.extend([(upper.id.inode, upper), (work.id.inode, work)]);
    }
    for lower in lowers() {
        if let Some(same) = traps.insert(lower.id.inode, lower) {
            return Err(overlaps(lower, "is also", same));
        }
    }
    // Directories from which no layer was met on the way up.
    let mut clean = HashSet::new();
    for lower in lowers() {
        let (mut met, mut passed) = (None, Vec::new());
        lower.climb(|id| {
            met = traps.get(&id.inode).copied();
            passed.push(id.inode);
            met.is_some() || clean.contains(&id.inode)
        })?;
        if let Some(outer) = met {
            return Err(overlaps(lower, "lies within", outer));
        }
        clean.extend(passed);
    }
    Ok(())
}

fn overlaps(lower: &Place, how: &str, other: &Place) -> Failure {
    Failure::new(
        format_args!(
            "{}: {}: {how} the {} {}",
            lower.role.words(),
            shown(&lower.path),
            other.role.words(),
            shown(&other.path)
        ),
        "give every layer a directory of its own, none inside another",
    )
}

/// Warnings about upper and work directories that can be reached through the mount: allowed, but what touches them
/// there fails with `ELOOP`.
pub(super) fn reachable(upper: &Place, work: &Place, lowers: &[Place]) -> Result<Vec<String>, Failure> {
    let by_inode: HashMap<_, _> = lowers.iter().map(|lower| (lower.id.inode, lower)).collect();
    let mut warnings = Vec::new();
    for place in [upper, work] {
        let mut around = None;
        place.climb(|id| {
            around = by_inode.get(&id.inode).copied();
            around.is_some()
        })?;
        if let Some(lower) = around {
            warnings.push(format!(
                "{}: {}: lies within the lower layer {}: it cannot be used through the mount",
                place.role.words(),
                shown(&place.path),
                shown(&lower.path)
            ));
        }
    }
    Ok(warnings)
}
