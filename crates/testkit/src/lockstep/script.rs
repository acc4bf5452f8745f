//! A script: the layers of a stack, then the steps that run on its mount, as text.
//!
//! One line an item; `#` starts a comment line. Names are escaped bytes (see `text`).
//!
//! ```text
//! options userxattr
//! L1 dir a mode=1777 uid=1000 mtime=1000000000.5
//! L2 file a/f data=0+5*7 size=1048576 x:user.k=v x:system.posix_acl_access=acl:u::rw-,g::r--,o::---
//! U whiteout b
//! L1 link c to=a/f
//! run 0 022 open @0 a/f rw,append 644
//! run 1000 077 mkdir d 755
//! check
//! remount
//! ```
//!
//! `L1` is the topmost lower layer, `U` the upper directory. An item of a layer whose parent is not
//! in the script gets plain parent directories, so any line can be dropped when a failure shrinks.

use anyhow::{Context, Result, bail};

use super::acl;
use super::op::Op;
use super::text::{escape, number, octal, unescape};

/// Where an item of the stack lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The upper directory.
    Upper,
    /// A lower directory; 1 is the topmost.
    Lower(usize),
}

/// A run of bytes written at an offset, made from a seed so that a script stays short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// Chooses the bytes.
    pub seed: u8,
}

impl Extent {
    /// Returns the bytes; none of them is zero, so that data never looks like a hole.
    pub fn bytes(&self) -> Vec<u8> {
        (0..self.len)
            .map(|at| {
                let mixed = (at + self.offset).wrapping_mul(31).wrapping_add(u64::from(self.seed) * 7);
                u8::try_from(mixed % 255).unwrap_or(0) + 1
            })
            .collect()
    }

    /// Parses `OFFSET+LEN*SEED`.
    ///
    /// # Errors
    /// Any other form.
    pub fn parse(token: &str) -> Result<Self> {
        let (offset, rest) = token.split_once('+').with_context(|| format!("bad extent {token:?}"))?;
        let (len, seed) = rest.split_once('*').with_context(|| format!("bad extent {token:?}"))?;
        Ok(Self { offset: number(offset)?, len: number(len)?, seed: seed.parse().context("extent seed")? })
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}+{}*{}", self.offset, self.len, self.seed)
    }
}

/// What an item of a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A directory.
    Dir,
    /// A regular file: data, then its size (0: as long as the data).
    File {
        /// Data written; between the extents are holes.
        data: Vec<Extent>,
        /// Final size in bytes, 0 for the end of the data.
        size: u64,
    },
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket node.
    Socket,
    /// A character device, major and minor number.
    Char(u32, u32),
    /// A block device, major and minor number.
    Block(u32, u32),
    /// A character device 0:0.
    Whiteout,
    /// A further name of the file at this path of the same layer.
    Link(Vec<u8>),
}

/// A time: seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// Parses `SECONDS.NANOSECONDS`.
    ///
    /// # Errors
    /// Any other form.
    pub fn parse(token: &str) -> Result<Self> {
        let (sec, nsec) = token.split_once('.').with_context(|| format!("bad time {token:?}"))?;
        Ok(Self { sec: sec.parse().context("seconds")?, nsec: nsec.parse().context("nanoseconds")? })
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.sec, self.nsec)
    }
}

/// One item of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The layer it lies in.
    pub layer: Layer,
    /// Its path from the layer's root, empty for the root itself.
    pub path: Vec<u8>,
    /// Its type and content.
    pub body: Body,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access and modification time.
    pub mtime: Time,
    /// Extended attributes, private marks included.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The time of items that name none: kernel-assigned times are never that old.
    pub const OLD: Time = Time { sec: 1_000_000_000, nsec: 0 };

    /// Returns an item with plain attributes.
    pub fn plain(layer: Layer, path: &[u8], body: Body) -> Self {
        let mode = if body == Body::Dir { 0o755 } else { 0o644 };
        Self { layer, path: path.to_vec(), body, mode, uid: 0, gid: 0, mtime: Self::OLD, xattrs: Vec::new() }
    }

    fn parse(layer: &str, rest: &[&str]) -> Result<Self> {
        let layer = match layer {
            "U" => Layer::Upper,
            _ => Layer::Lower(layer[1..].parse().context("layer number")?),
        };
        let [kind, path, attributes @ ..] = rest else { bail!("a layer line needs a type and a path") };
        let path = if *path == "/" { Vec::new() } else { unescape(path)? };
        let body = match *kind {
            "dir" => Body::Dir,
            "file" => Body::File { data: Vec::new(), size: 0 },
            "symlink" => Body::Symlink(Vec::new()),
            "fifo" => Body::Fifo,
            "sock" => Body::Socket,
            "chr" => Body::Char(1, 3),
            "blk" => Body::Block(1, 3),
            "whiteout" => Body::Whiteout,
            "link" => Body::Link(Vec::new()),
            _ => bail!("unknown type {kind:?}"),
        };
        let mut entry = Self::plain(layer, &path, body);
        for attribute in attributes {
            entry.set(attribute)?;
        }
        Ok(entry)
    }

    fn set(&mut self, attribute: &str) -> Result<()> {
        let (key, value) =
            attribute.split_once('=').with_context(|| format!("bad attribute {attribute:?}"))?;
        if let Some(name) = key.strip_prefix("x:") {
            self.xattrs.push((unescape(name)?, acl::value_bytes(value)?));
            return Ok(());
        }
        match (key, &mut self.body) {
            ("mode", _) => self.mode = octal(value)?,
            ("uid", _) => self.uid = value.parse().context("uid")?,
            ("gid", _) => self.gid = value.parse().context("gid")?,
            ("mtime", _) => self.mtime = Time::parse(value)?,
            ("to", Body::Symlink(target) | Body::Link(target)) => *target = unescape(value)?,
            ("data", Body::File { data, .. }) => data.push(Extent::parse(value)?),
            ("size", Body::File { size, .. }) => *size = number(value)?,
            ("dev", Body::Char(major, minor) | Body::Block(major, minor)) => {
                let (left, right) = value.split_once(':').context("a device number is MAJOR:MINOR")?;
                (*major, *minor) = (left.parse().context("major")?, right.parse().context("minor")?);
            }
            _ => bail!("attribute {attribute:?} does not belong here"),
        }
        Ok(())
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Layer::Upper => write!(out, "U ")?,
            Layer::Lower(number) => write!(out, "L{number} ")?,
        }
        let path = if self.path.is_empty() { "/".to_owned() } else { escape(&self.path) };
        match &self.body {
            Body::Dir => write!(out, "dir {path}")?,
            Body::File { data, size } => {
                write!(out, "file {path}")?;
                for extent in data {
                    write!(out, " data={extent}")?;
                }
                if *size != 0 {
                    write!(out, " size={size}")?;
                }
            }
            Body::Symlink(target) => write!(out, "symlink {path} to={}", escape(target))?,
            Body::Fifo => write!(out, "fifo {path}")?,
            Body::Socket => write!(out, "sock {path}")?,
            Body::Char(major, minor) => write!(out, "chr {path} dev={major}:{minor}")?,
            Body::Block(major, minor) => write!(out, "blk {path} dev={major}:{minor}")?,
            Body::Whiteout => write!(out, "whiteout {path}")?,
            Body::Link(target) => write!(out, "link {path} to={}", escape(target))?,
        }
        let plain = Self::plain(self.layer, &self.path, self.body.clone());
        if self.mode != plain.mode {
            write!(out, " mode={:o}", self.mode)?;
        }
        if self.uid != plain.uid {
            write!(out, " uid={}", self.uid)?;
        }
        if self.gid != plain.gid {
            write!(out, " gid={}", self.gid)?;
        }
        if self.mtime != plain.mtime {
            write!(out, " mtime={}", self.mtime)?;
        }
        for (name, value) in &self.xattrs {
            write!(out, " x:{}={}", escape(name), acl::value_token(name, value))?;
        }
        Ok(())
    }
}

/// One step of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A system call on the mount.
    Run {
        /// Who calls: user and group id.
        uid: u32,
        /// The caller's umask.
        umask: u32,
        /// The call.
        op: Op,
    },
    /// Compare the visible trees now.
    Check,
    /// Close all descriptors, unmount and mount again.
    Remount,
    /// Unmount both sides and mount each with the other one's driver.
    Handover,
}

impl std::fmt::Display for Step {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run { uid, umask, op } => write!(out, "run {uid} {umask:03o} {op}"),
            Self::Check => out.write_str("check"),
            Self::Remount => out.write_str("remount"),
            Self::Handover => out.write_str("handover"),
        }
    }
}

/// Layers and steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Mount options besides the directories, comma separated; empty for the defaults.
    pub options: String,
    /// The items of all layers, in the order in which they are made.
    pub entries: Vec<Entry>,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Script {
    /// Returns how many lower layers the stack has: at least one.
    pub fn lower_count(&self) -> usize {
        let number = |entry: &Entry| match entry.layer {
            Layer::Upper => 1,
            Layer::Lower(number) => number,
        };
        self.entries.iter().map(number).max().unwrap_or(1)
    }

    /// Parses a script.
    ///
    /// # Errors
    /// Names the first line that is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let mut script = Self::default();
        for (index, line) in text.lines().enumerate() {
            script.parse_line(line).with_context(|| format!("line {}: {line}", index + 1))?;
        }
        Ok(script)
    }

    fn parse_line(&mut self, line: &str) -> Result<()> {
        let tokens: Vec<&str> = line.split_whitespace().collect();
        match tokens[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["options"] => self.options.clear(),
            ["options", options] => options.clone_into(&mut self.options),
            ["check"] => self.steps.push(Step::Check),
            ["remount"] => self.steps.push(Step::Remount),
            ["handover"] => self.steps.push(Step::Handover),
            ["run", uid, umask, ref call @ ..] => {
                let (uid, umask) = (uid.parse().context("uid")?, octal(umask)?);
                self.steps.push(Step::Run { uid, umask, op: Op::parse(call)? });
            }
            [layer, ref rest @ ..] if layer == "U" || layer.starts_with('L') => {
                self.entries.push(Entry::parse(layer, rest)?);
            }
            _ => bail!("not understood"),
        }
        Ok(())
    }
}

impl std::fmt::Display for Script {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.options.is_empty() {
            writeln!(out, "options {}", self.options)?;
        }
        for entry in &self.entries {
            writeln!(out, "{entry}")?;
        }
        for step in &self.steps {
            writeln!(out, "{step}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_script_agree() {
        let text = "options userxattr\n\
            L1 dir / mode=777\n\
            L2 file a/f data=0+5*7 data=1048576+4096*3 size=2097152 mode=4755 uid=1000 gid=5 mtime=77.123 x:user.k=v\\x20w\n\
            U dir \\xff x:system.posix_acl_default=acl:u::rwx,g::r-x,o::---\n\
            U whiteout b mode=0\n\
            L1 symlink s to=../a\n\
            L1 chr n dev=1:5\n\
            L1 link h to=a/f\n\
            run 0 022 mkdir d 755\n\
            check\n\
            remount\n";
        let script = Script::parse(text).unwrap();
        assert_eq!(script.to_string(), text);
        assert_eq!(script.lower_count(), 2);
    }

    #[test]
    fn data_has_no_zero_byte_and_depends_on_the_seed() {
        let bytes = Extent { offset: 3, len: 1000, seed: 9 }.bytes();
        assert!(!bytes.contains(&0));
        assert_ne!(bytes, Extent { offset: 3, len: 1000, seed: 10 }.bytes());
    }
}
