//! Writing archives.

use super::{Entry, EntryKind, padding, pax};
use acetate_layer::Kind;
use std::io::{self, Read, Write};
use tar::{EntryType, Header};

/// Writes an archive entry by entry: the same entries always give the same bytes.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// To a sink.
    pub fn new(output: W) -> Writer<W> {
        Writer { output }
    }

    /// Appends an entry with `entry.size` bytes of data.
    ///
    /// # Errors
    /// Those of reading and writing; `UnexpectedEof` if there is less data.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut extended = Vec::new();
        self.set_path(&mut header, &mut extended, entry);
        set_number(entry.uid.into(), 0o7_777_777, b"uid", &mut extended, |id| header.set_uid(id));
        set_number(entry.gid.into(), 0o7_777_777, b"gid", &mut extended, |id| header.set_gid(id));
        let has_data = entry.kind == EntryKind::Object(Kind::File);
        let size = if has_data { entry.size } else { 0 };
        set_number(size, 0o77_777_777_777, b"size", &mut extended, |size| header.set_size(size));
        header.set_mode(entry.mode);
        header.set_entry_type(entry_type(entry.kind));
        let whole = u64::try_from(entry.mtime.sec).ok().filter(|sec| *sec <= 0o77_777_777_777);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || entry.mtime.nsec != 0 {
            pax::append(&mut extended, b"mtime", pax::format_time(entry.mtime).as_bytes());
        }
        if matches!(entry.kind, EntryKind::Object(Kind::CharDevice | Kind::BlockDevice)) {
            header.set_device_major(entry.rdev.major)?;
            header.set_device_minor(entry.rdev.minor)?;
        }
        for (name, value) in &entry.xattrs {
            pax::append(&mut extended, &[pax::XATTR, name].concat(), value);
        }
        header.set_cksum();
        if !extended.is_empty() {
            self.write_extended(&extended)?;
        }
        self.output.write_all(header.as_bytes())?;
        let copied = io::copy(&mut data.take(size), &mut self.output)?;
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(size)
    }

    /// Ends the archive and returns the sink.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 1024])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn set_path(&self, header: &mut Header, extended: &mut Vec<u8>, entry: &Entry) {
        let Some(ustar) = header.as_ustar_mut() else { return };
        // Names that fit are stored as they are; splitting others between name and prefix would save little.
        let fit = |field: &mut [u8], value: &[u8]| {
            let count = value.len().min(field.len());
            field[..count].copy_from_slice(&value[..count]);
            count == value.len()
        };
        if !fit(&mut ustar.name, &entry.path) || !entry.path.is_ascii() {
            pax::append(extended, b"path", &entry.path);
        }
        if !fit(&mut ustar.linkname, &entry.link) || !entry.link.is_ascii() {
            pax::append(extended, b"linkpath", &entry.link);
        }
    }

    fn write_extended(&mut self, extended: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.name[..9].copy_from_slice(b"PaxHeader");
        }
        header.set_entry_type(EntryType::XHeader);
        header.set_size(extended.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(extended)?;
        self.pad(extended.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.output.write_all(&[0; 512][..padding(size)])
    }
}

/// Writes a number into its field, or into a PAX record where it is too large for that.
fn set_number(value: u64, max: u64, key: &[u8], extended: &mut Vec<u8>, mut set: impl FnMut(u64)) {
    if value > max {
        pax::append(extended, key, value.to_string().as_bytes());
    }
    set(if value > max { 0 } else { value });
}

fn entry_type(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::HardLink => EntryType::Link,
        EntryKind::Object(Kind::Dir) => EntryType::Directory,
        EntryKind::Object(Kind::Symlink) => EntryType::Symlink,
        EntryKind::Object(Kind::Fifo) => EntryType::Fifo,
        EntryKind::Object(Kind::CharDevice) => EntryType::Char,
        EntryKind::Object(Kind::BlockDevice) => EntryType::Block,
        // Sockets are never archived.
        EntryKind::Object(Kind::File | Kind::Socket) => EntryType::Regular,
    }
}
