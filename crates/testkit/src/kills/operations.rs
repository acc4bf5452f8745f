//! Operations that take more than one change of the upper layer, each by one system call where there is one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};

/// Something done to a tree.
pub(super) type Act = fn(&Path) -> io::Result<()>;

/// One operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// What it is called.
    pub name: &'static str,
    /// What is done to the mount before.
    pub before: &'static [Act],
    /// The operation itself.
    pub act: Act,
    /// The options without which it changes more than it says: the copy of one of several names is another file then.
    pub indexed: bool,
}

/// An operation that can be done with all options.
const fn plain(name: &'static str, before: &'static [Act], act: Act) -> Operation {
    Operation { name, before, act, indexed: false }
}

/// One that is tried with an index only.
const fn indexed(name: &'static str, before: &'static [Act], act: Act) -> Operation {
    Operation { name, before, act, indexed: true }
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn rename(root: &Path, old: &str, new: &str) -> io::Result<()> {
    fs::rename(root.join(old), root.join(new))
}

fn exchange(root: &Path, old: &str, new: &str) -> io::Result<()> {
    Ok(renameat_with(CWD, root.join(old), CWD, root.join(new), RenameFlags::EXCHANGE)?)
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(b"more")
}

fn create(path: &Path) -> io::Result<()> {
    File::create_new(path).map(drop)
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    Ok(nix::unistd::truncate(path, length.try_into().unwrap_or(i64::MAX))?)
}

fn set_xattr(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, "user.new", b"value", XattrFlags::empty())?)
}

const NONE: &[Act] = &[];
const ATTRIBUTES: &[Act] = &[|m| mode(&m.join("file"), 0o600), |m| mode(&m.join("dir/x"), 0o600)];
const INDEXED: &[Act] = &[|m| mode(&m.join("one"), 0o600)];
const MOVED: &[Act] = &[|m| rename(m, "dir", "moved-dir")];

/// All of them. What one set of options does not allow is left out with these options.
pub(super) const ALL: &[Operation] = &[
    // Copies of each type, of deep ones, by each reason.
    plain("chmod a file", NONE, |m| mode(&m.join("file"), 0o600)),
    plain("chmod a file far down", NONE, |m| mode(&m.join("far/down/f"), 0o600)),
    plain("chmod a directory", NONE, |m| mode(&m.join("dir"), 0o700)),
    plain("chown a file", NONE, |m| chown(m.join("file"), Some(5), Some(6))),
    plain("chown a symlink", NONE, |m| lchown(m.join("link"), Some(5), Some(5))),
    plain("chmod a fifo", NONE, |m| mode(&m.join("fifo"), 0o600)),
    plain("open to write", NONE, |m| OpenOptions::new().write(true).open(m.join("file")).map(drop)),
    plain("open to empty", NONE, |m| {
        OpenOptions::new().write(true).truncate(true).open(m.join("file")).map(drop)
    }),
    plain("truncate", NONE, |m| cut(&m.join("file"), 4)),
    plain("truncate to nothing", NONE, |m| cut(&m.join("file"), 0)),
    plain("copy a file with a hole", NONE, |m| mode(&m.join("sparse"), 0o600)),
    plain("set an xattr", NONE, |m| set_xattr(&m.join("dir/x"))),
    plain("remove an xattr", NONE, |m| Ok(rustix::fs::removexattr(m.join("file"), "user.x")?)),
    // New names.
    plain("create in a lower directory", NONE, |m| create(&m.join("dir/new"))),
    plain("create over a whiteout", NONE, |m| create(&m.join("whiteout"))),
    plain("mkdir over a whiteout", NONE, |m| fs::create_dir(m.join("whiteout"))),
    plain("mkdir in a lower directory", NONE, |m| fs::create_dir(m.join("dir/new"))),
    plain("mknod over a whiteout", NONE, |m| {
        Ok(mknodat(CWD, m.join("whiteout"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?)
    }),
    plain("symlink over a whiteout", NONE, |m| symlink("to", m.join("whiteout"))),
    plain("name an unnamed file", NONE, |m| {
        let flag = libc::O_TMPFILE;
        let file = OpenOptions::new().write(true).mode(0o600).custom_flags(flag).open(m.join("dir"))?;
        let flags = rustix::fs::AtFlags::EMPTY_PATH;
        Ok(rustix::fs::linkat(&file, "", CWD, m.join("whiteout"), flags)?)
    }),
    plain("link a lower file", NONE, |m| fs::hard_link(m.join("file"), m.join("dir/2nd"))),
    plain("link over a whiteout", NONE, |m| fs::hard_link(m.join("file"), m.join("whiteout"))),
    plain("link an upper file over a whiteout", NONE, |m| fs::hard_link(m.join("own"), m.join("whiteout"))),
    // Names that go.
    plain("unlink a lower file", NONE, |m| fs::remove_file(m.join("file"))),
    plain("unlink in a lower directory", NONE, |m| fs::remove_file(m.join("dir/x"))),
    plain("unlink an upper file", NONE, |m| fs::remove_file(m.join("own"))),
    plain("unlink what hides a file", NONE, |m| fs::remove_file(m.join("hides"))),
    plain("rmdir a lower directory", NONE, |m| fs::remove_dir(m.join("empty"))),
    plain("rmdir one of whiteouts", NONE, |m| fs::remove_dir(m.join("emptied"))),
    // Names that move.
    plain("rename a lower file", NONE, |m| rename(m, "file", "moved")),
    plain("rename into a lower directory", NONE, |m| rename(m, "file", "dir/moved")),
    plain("replace a lower file", NONE, |m| rename(m, "file", "other")),
    plain("replace an upper file", NONE, |m| rename(m, "file", "own")),
    plain("rename over a whiteout", NONE, |m| rename(m, "file", "whiteout")),
    plain("rename an upper file over one", NONE, |m| rename(m, "own", "whiteout")),
    plain("rename what hides, over one", NONE, |m| rename(m, "hides", "whiteout")),
    plain("replace a lower by an upper file", NONE, |m| rename(m, "own", "file")),
    plain("rename a directory over a whiteout", NONE, |m| rename(m, "own-dir", "whiteout")),
    plain("replace an empty directory", NONE, |m| rename(m, "own-dir", "empty")),
    plain("replace a directory of whiteouts", NONE, |m| rename(m, "own-dir", "emptied")),
    plain("rename into a merged directory", NONE, |m| rename(m, "own-dir", "dir/moved")),
    plain("exchange lower files", NONE, |m| exchange(m, "file", "other")),
    plain("exchange files of two layers", NONE, |m| exchange(m, "file", "own")),
    plain("exchange file and directory", NONE, |m| exchange(m, "own", "own-dir")),
    plain("exchange across directories", NONE, |m| exchange(m, "dir/x", "own-dir/z")),
    // With redirects.
    plain("rename a lower directory", NONE, |m| rename(m, "dir", "moved")),
    plain("move a lower directory", NONE, |m| rename(m, "far/down", "own-dir/moved")),
    plain("move one over a whiteout", NONE, |m| rename(m, "dir", "whiteout")),
    plain("move one over a lower one", NONE, |m| rename(m, "dir", "empty")),
    plain("move one over whiteouts", NONE, |m| rename(m, "dir", "emptied")),
    plain("exchange directories", NONE, |m| exchange(m, "dir", "far")),
    plain("rename a directory again", MOVED, |m| rename(m, "moved-dir", "dir")),
    plain("chmod in a moved directory", MOVED, |m| mode(&m.join("moved-dir/x"), 0o600)),
    // With copies of attributes.
    plain("write to a copy of attributes", ATTRIBUTES, |m| append(&m.join("file"))),
    plain("empty a copy of attributes", ATTRIBUTES, |m| cut(&m.join("file"), 0)),
    plain("link a copy of attributes", ATTRIBUTES, |m| fs::hard_link(m.join("file"), m.join("dir/2"))),
    plain("rename a copy of attributes", ATTRIBUTES, |m| rename(m, "file", "moved")),
    plain("move a copy of attributes", ATTRIBUTES, |m| rename(m, "dir/x", "moved")),
    plain("exchange copies of attributes", ATTRIBUTES, |m| exchange(m, "dir/x", "file")),
    // With an index.
    indexed("chmod one of two names", NONE, |m| mode(&m.join("one"), 0o600)),
    indexed("write to one of two names", NONE, |m| append(&m.join("dir/two"))),
    indexed("link one of two names", NONE, |m| fs::hard_link(m.join("one"), m.join("whiteout"))),
    indexed("unlink one of two names", NONE, |m| fs::remove_file(m.join("one"))),
    indexed("rename one of two names", NONE, |m| rename(m, "one", "moved")),
    indexed("replace one of two names", NONE, |m| rename(m, "own", "dir/two")),
    indexed("chmod the other name", INDEXED, |m| mode(&m.join("dir/two"), 0o640)),
    indexed("unlink the copied name", INDEXED, |m| fs::remove_file(m.join("one"))),
    indexed("unlink the other name", INDEXED, |m| fs::remove_file(m.join("dir/two"))),
    indexed("rename the other name", INDEXED, |m| rename(m, "dir/two", "own")),
];
