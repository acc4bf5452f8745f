//! The words that options are made of: what each means here, and which one a misspelt word was probably meant to be.

use rustix::mount::MountFlags;

/// Flags of the mount that the kernel applies to every filesystem alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) MountFlags);

impl Default for Flags {
    fn default() -> Self {
        Flags(MountFlags::empty())
    }
}

impl Flags {
    /// Whether nothing may be written through the mount.
    pub(crate) fn read_only(self) -> bool {
        self.0.contains(MountFlags::RDONLY)
    }
}

/// How access times are kept; these exclude one another.
const ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);

/// A word, the flags it sets and the flags it takes away.
pub(super) type FlagWord = (&'static str, MountFlags, MountFlags);

/// The generic words (mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS").
pub(super) const FLAGS: &[FlagWord] = &[
    ("ro", MountFlags::RDONLY, MountFlags::empty()),
    ("rw", MountFlags::empty(), MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID, MountFlags::empty()),
    ("suid", MountFlags::empty(), MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV, MountFlags::empty()),
    ("dev", MountFlags::empty(), MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC, MountFlags::empty()),
    ("exec", MountFlags::empty(), MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME, ATIME),
    ("atime", MountFlags::empty(), MountFlags::NOATIME),
    ("relatime", MountFlags::RELATIME, ATIME),
    ("norelatime", MountFlags::empty(), MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME, ATIME),
    ("nostrictatime", MountFlags::empty(), MountFlags::STRICTATIME),
    ("nodiratime", MountFlags::NODIRATIME, MountFlags::empty()),
    ("diratime", MountFlags::empty(), MountFlags::NODIRATIME),
    ("sync", MountFlags::SYNCHRONOUS, MountFlags::empty()),
    ("async", MountFlags::empty(), MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC, MountFlags::empty()),
    ("lazytime", MountFlags::LAZYTIME, MountFlags::empty()),
    ("nolazytime", MountFlags::empty(), MountFlags::LAZYTIME),
];

/// Words without meaning for the mount itself: notes to mount(8), fstab and systemd, propagation that a new mount has
/// anyway, and what is always so here. Container engines pass some of them to every mount program.
pub(super) const IGNORED: &[&str] = &[
    "_netdev",
    "async",
    "auto",
    "clone_fd",
    "default_permissions",
    "defaults",
    "group",
    "iversion",
    "loud",
    "mand",
    "noauto",
    "nofail",
    "nogroup",
    "noiversion",
    "nomand",
    "noowner",
    "nouser",
    "nousers",
    "nooverride_creds",
    "override_creds",
    "owner",
    "private",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "silent",
    "slave",
    "unbindable",
    "user",
    "users",
];

/// Ignored words that carry a value. Some are of fuse-overlayfs and change its speed only; `blksize`, `group_id`, `max_read`
/// and `user_id` are what the mount table shows of every FUSE mount, which mount(8) repeats when it remounts.
pub(super) const IGNORED_WITH_VALUE: &[&str] = &[
    "blksize",
    "comment",
    "fast_ino",
    "fast_ino_check",
    "group_id",
    "max_background",
    "max_idle_threads",
    "max_read",
    "max_threads",
    "max_write",
    "subtype",
    "threaded",
    "timeout",
    "user",
    "user_id",
    "writeback",
];

/// Options with a value that mean something.
pub(super) const VALUED: &[&str] = &[
    "lowerdir",
    "lowerdir+",
    "datadir+",
    "upperdir",
    "workdir",
    "redirect_dir",
    "metacopy",
    "index",
    "nfs_export",
    "xino",
    "uuid",
    "verity",
    "fsync",
    "compat",
    "lower",
    "takeover",
    "busy_poll",
    "fsname",
    "uidmapping",
    "gidmapping",
    "squash_to_uid",
    "squash_to_gid",
    "xattr_permissions",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
];

/// Options without a value that mean something, besides [`FLAGS`].
pub(super) const PLAIN: &[&str] = &[
    "volatile",
    "userxattr",
    "allow_other",
    "remount",
    "squash_to_root",
    "static_nlink",
    "noacl",
    "ino32_t",
    "oci_whiteouts",
    "foreign_opaque",
];

/// Options of fuse-overlayfs that change what is seen, so that ignoring them would be wrong.
pub(super) const LATER: &[&str] = &["allow_root", "debug", "noxattrs", "plugins"];

/// The known word that `word` most resembles, if it resembles any.
pub(super) fn meant(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let known = VALUED.iter().chain(PLAIN).chain(IGNORED).chain(IGNORED_WITH_VALUE).copied().chain(flags);
    known
        .map(|name| (strsim::osa_distance(&word, name), name))
        // One slip in a short word, more in a long one; a word of three letters resembles too much.
        .filter(|(distance, name)| *distance <= name.len().min(word.len()).div_ceil(4).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
