//! Where two runs differ, and which differences are known and accepted.
//!
//! What is never compared, because it is not a promise of either side: the order of a listing and
//! the size of a directory (both belong to the filesystem below), times that the kernel assigned
//! (only that it did), the bytes of `origin`, `uuid` and `upper` marks (they name inodes and
//! filesystems; that they are there is compared), and whether whiteouts share an inode.

use super::attrs::{Fields, fields_text};
use super::dump::Tree;
use super::exec::Outcome;
use super::op::{Op, Target};
use super::text::escape;

/// One difference between the sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The kind of difference: equal for two differences that have the same cause as far as one
    /// can tell without looking; a failure shrinks only to one of the same kind.
    pub kind: String,
    /// Where: a step or a path.
    pub place: String,
    /// What side A has.
    pub a: String,
    /// What side B has.
    pub b: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} [{}]\n  A: {}\n  B: {}", self.place, self.kind, self.a, self.b)
    }
}

/// Compares the outcome of one step of a run with these mount options.
pub fn step(place: &str, options: &str, op: &Op, a: &Outcome, b: &Outcome) -> Option<Difference> {
    let has = |word: &str| options.split(',').any(|option| option == word);
    if a == b
        || accepted_step(op, a, b)
        || has("userxattr") && accepted_userxattr(op, a, b)
        || has("nfs_export=on") && counted_otherwise(a, b)
    {
        return None;
    }
    if let (Outcome::Done(left), Outcome::Done(right)) = (a, b)
        && same_but_accepted(left, right, Seen::Through)
    {
        return None;
    }
    let kind = match (a, b) {
        (Outcome::Done(left), Outcome::Done(right)) => field_names(left, right).join("+"),
        (Outcome::Done(_), Outcome::Failed(error)) => format!("ok,{error}"),
        (Outcome::Failed(error), Outcome::Done(_)) => format!("{error},ok"),
        (Outcome::Failed(left), Outcome::Failed(right)) => format!("{left},{right}"),
    };
    let kind = format!("step {}: {kind}", op.verb());
    Some(Difference { kind, place: place.to_owned(), a: a.to_string(), b: b.to_string() })
}

/// Returns whether a difference of a step is known and accepted. Every arm says why.
fn accepted_step(op: &Op, a: &Outcome, b: &Outcome) -> bool {
    match (op, a, b) {
        // Copy-up by the kernel looks for holes only between chunks of 1 MiB and writes zeros into
        // smaller ones (fs/overlayfs/copy_up.c, ovl_copy_up_file). A side that keeps more holes
        // finds data later and holes earlier; the other way round is a loss of holes.
        (Op::Seek { whence, .. }, _, Outcome::Done(right)) => {
            let left = match a {
                Outcome::Done(left) => offset(left),
                Outcome::Failed(error) if error == "ENXIO" => Some(u64::MAX),
                Outcome::Failed(_) => None,
            };
            match (left, offset(right)) {
                (Some(left), Some(right)) if *whence == libc::SEEK_DATA as u32 => left >= right,
                (Some(left), Some(right)) if *whence == libc::SEEK_HOLE as u32 => left <= right,
                _ => false,
            }
        }
        // A change of a removed lower object ends when its copy meets what has its name by now: that of a directory a
        // whiteout, or a directory with entries; that of a special file a directory.
        (
            Op::Chmod { target: Target::Slot(_), .. }
            | Op::Chown { target: Target::Slot(_), .. }
            | Op::Utimens { target: Target::Slot(_), .. }
            | Op::Setxattr { target: Target::Slot(_), .. }
            | Op::Removexattr { target: Target::Slot(_), .. },
            Outcome::Failed(left),
            Outcome::Failed(right),
        ) => {
            left == "ENOTDIR" && matches!(right.as_str(), "ENOTEMPTY" | "EEXIST")
                || left == "EEXIST" && right == "EISDIR"
        }
        // read(2) of a directory is an error in any case; which one depends on the filesystem below the kernel's
        // overlay (btrfs says EINVAL), and FUSE says EISDIR.
        (Op::Read { .. }, Outcome::Failed(left), Outcome::Failed(right)) => {
            left == "EISDIR" && right == "EINVAL"
        }
        _ => false,
    }
}

/// The same for mounts with `userxattr`, where symlinks and special files have no origin mark: when one of them has got
/// a second name, the kernel takes the two names for two objects. Renaming one to the other is nothing for us, and is
/// refused there.
fn accepted_userxattr(op: &Op, a: &Outcome, b: &Outcome) -> bool {
    let refused = |error: &str| matches!(error, "EACCES" | "EPERM" | "ESTALE");
    match (op, a, b) {
        (Op::Rename { flags, .. }, Outcome::Done(_), Outcome::Failed(right)) => {
            refused(right) || *flags == libc::RENAME_WHITEOUT && right == "EINVAL"
        }
        _ => false,
    }
}

/// The same for mounts with `nfs_export=on`: whether the entry of the index is counted as a name depends on what has been
/// forgotten (docs/semantics.md, difference 25).
fn counted_otherwise(a: &Outcome, b: &Outcome) -> bool {
    let (Outcome::Done(left), Outcome::Done(right)) = (a, b) else { return false };
    let count = |fields: &Fields| {
        let found = fields.iter().find(|(key, _)| key == "nlink");
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0_u32)
    };
    field_names(left, right) == ["nlink"] && count(left).abs_diff(count(right)) == 1
}

/// Where attributes were read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Through,
    OnDisk,
}

/// Whether two attribute lists differ only in what a FUSE filesystem cannot do better. Every arm says why.
fn same_but_accepted(left: &Fields, right: &Fields, seen: Seen) -> bool {
    let value = |fields: &Fields, key: &str| {
        fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    field_names(left, right).iter().all(|key| match key.as_str() {
        // Reads that the page cache answers, and reads at the end of a file, are not sent to the server.
        "atime" if value(right, key).as_deref() == Some("now") => true,
        // copy_file_range moves the time of the real file; the kernel's mount goes on showing the old one.
        "atime" => seen == Seen::Through && value(left, "type").as_deref() == Some("file"),
        // Without an origin mark (symlinks and special files under userxattr) the kernel forgets the old number of a
        // file that got a second name as soon as it looks that name up again.
        "ino" => {
            let special = value(left, "type").is_some_and(|word| word != "file" && word != "dir");
            seen == Seen::Through && special && value(left, "ino").is_some_and(|ino| ino.starts_with('l'))
        }
        // For the same reason the kernel finds no foreign number in the directory and takes its mark away, which only
        // saves it from looking again.
        "x:user.overlay.impure" => seen == Seen::OnDisk && value(left, key).is_some(),
        // The kernel lists the real number of an upper directory that merges, until its parent is marked impure.
        "d_ino" => value(left, key).as_deref() == Some("is-ino"),
        _ => false,
    })
}

fn offset(fields: &Fields) -> Option<u64> {
    fields.iter().find(|(key, _)| key == "offset").and_then(|(_, value)| value.parse().ok())
}

/// Compares two trees; `phase` says when they were taken, `word` the same without step numbers.
pub fn trees(word: &str, phase: &str, a: &Tree, b: &Tree) -> Vec<Difference> {
    let mut found = Vec::new();
    let paths: std::collections::BTreeSet<_> = a.entries.keys().chain(b.entries.keys()).collect();
    for path in paths {
        let (left, right) = (a.entries.get(path), b.entries.get(path));
        if left == right {
            continue;
        }
        if let (Some(left), Some(right)) = (left, right)
            && same_but_accepted(
                left,
                right,
                if word.starts_with("upper") { Seen::OnDisk } else { Seen::Through },
            )
        {
            continue;
        }
        let kind = match (left, right) {
            (Some(left), Some(right)) => field_names(left, right).join("+"),
            (Some(_), None) => "only in A".to_owned(),
            _ => "only in B".to_owned(),
        };
        let (mut left, mut right) = (left.cloned(), right.cloned());
        if let (Some(left), Some(right)) = (&mut left, &mut right) {
            drop_common(left, right);
        }
        let text = |fields: Option<Fields>| fields.map_or_else(|| "absent".to_owned(), |f| fields_text(&f));
        found.push(Difference {
            kind: format!("{word}: {kind}"),
            place: format!("{phase}: /{}", escape(path)),
            a: text(left),
            b: text(right),
        });
    }
    found
}

/// Compares which inode numbers a remount changed.
pub fn remounted(a: [&Tree; 2], b: [&Tree; 2]) -> Vec<Difference> {
    let mut found = Vec::new();
    for path in a[0].inodes.keys() {
        let changed = |trees: [&Tree; 2]| {
            let numbers = trees.map(|tree| tree.inodes.get(path));
            if numbers[0] == numbers[1] { "same number" } else { "another number" }
        };
        let (left, right) = (changed(a), changed(b));
        let field = |key: &str| {
            let fields = a[0].entries.get(path)?;
            fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
        };
        // See "ino" in `same_but_accepted`: the number that the kernel had forgotten before.
        let special = field("type").is_some_and(|word| word != "file" && word != "dir");
        if special && left == "another number" {
            continue;
        }
        if left != right {
            found.push(Difference {
                kind: "remount: st_ino".to_owned(),
                place: format!("st_ino after a remount: /{}", escape(path)),
                a: left.to_owned(),
                b: right.to_owned(),
            });
        }
    }
    found
}

/// Returns the names of the fields that differ.
fn field_names(left: &Fields, right: &Fields) -> Vec<String> {
    let mut names: Vec<String> = left
        .iter()
        .filter(|field| !right.contains(field))
        .chain(right.iter().filter(|field| !left.contains(field)))
        .map(|(key, _)| key.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Leaves what the reader has to see: the fields that differ, and the type.
fn drop_common(left: &mut Fields, right: &mut Fields) {
    let all = left.clone();
    left.retain(|field| field.0 == "type" || !right.contains(field));
    right.retain(|field| field.0 == "type" || !all.contains(field));
}
