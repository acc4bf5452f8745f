//! Reading archives.

use super::{BLOCK, Entry, EntryKind, padding, pax};
use crate::error::{Error, Result, shown};
use crate::split::Record;
use acetate_layer::{Kind, Rdev, Time};
use std::io::Read;
use tar::Header;

/// Longest extended header in bytes; Linux allows 64 KiB of attributes an object.
const EXTENSION_MAX: u64 = 4 << 20;

/// Reads an archive entry by entry.
///
/// All bytes that are not data of files go to a [`Record`] as well.
pub struct Reader<R, K> {
    input: R,
    record: K,
    /// Bytes of the current entry that are still to be read.
    left: u64,
    /// Bytes that fill up its last block.
    pad: usize,
    /// What the extended headers before an entry say of it.
    extended: Extended,
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

/// What PAX headers say of a sparse file, in any of the three formats of GNU tar.
#[derive(Default)]
struct Sparse {
    size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths by turns.
    map: Vec<u64>,
    /// Format 1.0: the map precedes the data.
    in_data: bool,
}

impl<R: Read, K: Record> Reader<R, K> {
    /// Around a stream that is not compressed.
    pub fn new(input: R, record: K) -> Reader<R, K> {
        Reader { input, record, left: 0, pad: 0, extended: Extended::default() }
    }

    /// Where the bytes around the data go.
    pub fn record(&mut self) -> &mut K {
        &mut self.record
    }

    /// The stream and the record, once all has been read.
    pub fn into_parts(self) -> (R, K) {
        (self.input, self.record)
    }

    /// The next entry; `None` at the end, when the stream has been read to its end as well.
    ///
    /// # Errors
    /// [`Error::Malformed`]; those of reading.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        loop {
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let size = number(header.entry_size(), "size")?;
            match header.entry_type().as_byte() {
                b'x' => self.read_pax(size)?,
                b'L' => self.extended.path = Some(self.read_name(size)?),
                b'K' => self.extended.link = Some(self.read_name(size)?),
                // Global headers hold comments; whoever sets attributes by them wants all entries to be alike.
                b'g' => drop(self.read_extension(size)?),
                kind => return self.entry(header, kind, size).map(Some),
            }
        }
    }

    /// Reads data of the current entry, also to the record if `keep`; nothing at the end.
    ///
    /// # Errors
    /// Those of reading; [`Error::Malformed`] if the archive ends before.
    pub fn read_data(&mut self, buffer: &mut [u8], keep: bool) -> Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(truncated());
        }
        if keep {
            self.record.raw(&buffer[..count])?;
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        while self.read_data(&mut buffer, true)? > 0 {}
        let pad = std::mem::take(&mut self.pad);
        self.exact(&mut buffer[..pad])
    }

    /// Reads bytes around the data.
    fn exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated(),
            _ => error.into(),
        })?;
        Ok(self.record.raw(buffer)?)
    }

    /// Reads a header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                // The end marker is optional, as for every tar program.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.record.raw(&block)?;
        if block == [0; BLOCK] {
            self.drain()?;
            return Ok(None);
        }
        // Bytes 148 to 155 hold the sum of all others, counting themselves as spaces (pax(1), "ustar").
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
            .sum();
        if Header::from_byte_slice(&block).cksum().ok() != Some(sum) {
            return Err(Error::Malformed("a header has a wrong checksum".into()));
        }
        Ok(Some(block))
    }

    /// Reads on behind the end marker.
    fn drain(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.record.raw(&buffer[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the content of an extended header.
    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_MAX {
            return Err(Error::Malformed(format!("an extended header of {size} bytes")));
        }
        let mut data = vec![0; size as usize];
        self.exact(&mut data)?;
        let mut pad = [0; BLOCK];
        self.exact(&mut pad[..padding(size)])?;
        Ok(data)
    }

    /// Reads a GNU long name.
    fn read_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.read_extension(size)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// Reads a PAX header.
    fn read_pax(&mut self, size: u64) -> Result<()> {
        let data = self.read_extension(size)?;
        let bad = |key: &[u8]| Error::Malformed(format!("bad PAX record {}", shown(key)));
        let records = pax::records(&data).ok_or_else(|| bad(b""))?;
        let extended = &mut self.extended;
        let sparse = &mut extended.sparse;
        for (key, value) in records {
            let number = || pax::number(value).ok_or_else(|| bad(key));
            match key {
                b"path" | b"GNU.sparse.name" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => extended.size = Some(number()?),
                b"uid" => extended.uid = Some(number()?),
                b"gid" => extended.gid = Some(number()?),
                b"mtime" => extended.mtime = Some(pax::time(value).ok_or_else(|| bad(key))?),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = Some(number()?),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => sparse.map.push(number()?),
                b"GNU.sparse.map" => {
                    let numbers: Option<Vec<u64>> =
                        value.split(|byte| *byte == b',').map(pax::number).collect();
                    sparse.map = numbers.ok_or_else(|| bad(key))?;
                }
                b"GNU.sparse.major" => sparse.in_data = number()? == 1,
                _ => {
                    if let Some(name) = key.strip_prefix(pax::XATTR) {
                        extended.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes an entry of its header and of what was said before.
    fn entry(&mut self, header: &Header, flag: u8, stored: u64) -> Result<Entry> {
        let extended = std::mem::take(&mut self.extended);
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = kind(flag, &path)?;
        let stored = extended.size.unwrap_or(stored);
        let has_data = matches!(kind, EntryKind::Object(Kind::File));
        // Some writers give hard links and directories the size of what they name, without data.
        self.left = if has_data { stored } else { 0 };
        self.pad = padding(self.left);
        let mut size = self.left;
        let mut sparse = None;
        if flag == b'S' {
            let map = self.old_sparse_map(header)?;
            size = header.as_gnu().map_or(Ok(0), |gnu| number(gnu.real_size(), "size"))?;
            sparse = Some(map);
        } else if let Some(real) = extended.sparse.size.filter(|_| has_data) {
            let map = if extended.sparse.in_data { self.sparse_map_in_data()? } else { extended.sparse.map };
            size = real;
            sparse = Some(map.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or(0))).collect());
        }
        if let Some(map) = &mut sparse {
            // The last entry only says where the file ends.
            map.retain(|(_, length)| *length > 0);
            check_sparse(map, size, self.left)?;
        }
        Ok(Entry {
            kind,
            link: extended.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            mode: number(header.mode(), "mode")? & 0o7777,
            uid: id(extended.uid.map_or_else(|| number(header.uid(), "owner"), Ok)?)?,
            gid: id(extended.gid.map_or_else(|| number(header.gid(), "group"), Ok)?)?,
            mtime: match extended.mtime {
                Some(time) => time,
                None => Time { sec: number(header.mtime(), "time")? as i64, nsec: 0 },
            },
            size,
            rdev: rdev(header, kind)?,
            xattrs: extended.xattrs,
            sparse,
            path,
        })
    }

    /// Reads the map of the old GNU format, which goes on in blocks behind the header.
    fn old_sparse_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>> {
        let gnu = header.as_gnu().ok_or_else(|| Error::Malformed("a sparse file without its map".into()))?;
        let mut map = Vec::new();
        let mut add = |sparse: &tar::GnuSparseHeader| -> Result<()> {
            if !sparse.is_empty() {
                map.push((number(sparse.offset(), "offset")?, number(sparse.length(), "length")?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            self.input.read_exact(extension.as_mut_bytes())?;
            self.record.raw(extension.as_bytes())?;
            extension.sparse().iter().try_for_each(&mut add)?;
            more = extension.is_extended();
        }
        Ok(map)
    }

    /// Reads the map of format 1.0: numbers on lines of their own, filled up to a block.
    fn sparse_map_in_data(&mut self) -> Result<Vec<u64>> {
        let bad = || Error::Malformed("bad map of a sparse file".into());
        let mut numbers: Vec<u64> = Vec::new();
        let mut current: Option<u64> = None;
        let mut block = [0; BLOCK];
        loop {
            if self.left < BLOCK as u64 {
                return Err(bad());
            }
            self.exact(&mut block)?;
            self.left -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let digits = current.unwrap_or(0).checked_mul(10);
                        current = digits.and_then(|number| number.checked_add(u64::from(byte - b'0')));
                        current.ok_or_else(bad)?;
                    }
                    b'\n' => numbers.push(current.take().ok_or_else(bad)?),
                    0 => break,
                    _ => return Err(bad()),
                }
                // The first number counts the pairs that follow.
                if let Some(pairs) = numbers.first().copied()
                    && numbers.len() as u64 == pairs.saturating_mul(2).saturating_add(1)
                {
                    return Ok(numbers.split_off(1));
                }
            }
        }
    }
}

/// What the type flag says (pax(1), "ustar"; GNU tar for `S`).
fn kind(flag: u8, path: &[u8]) -> Result<EntryKind> {
    let kind = match flag {
        // Before POSIX, a directory was a file with a slash at its end.
        b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Dir,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => return Ok(EntryKind::HardLink),
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => {
            let path = shown(path);
            return Err(Error::Malformed(format!("entry {path} is of the unknown type {}", shown(&[other]))));
        }
    };
    Ok(EntryKind::Object(kind))
}

fn rdev(header: &Header, kind: EntryKind) -> Result<Rdev> {
    if !matches!(kind, EntryKind::Object(Kind::CharDevice | Kind::BlockDevice)) {
        return Ok(Rdev::default());
    }
    let bad = |_| Error::Malformed("bad device number".into());
    Ok(Rdev {
        major: header.device_major().map_err(bad)?.unwrap_or(0),
        minor: header.device_minor().map_err(bad)?.unwrap_or(0),
    })
}

/// Data has to be in order, within the file, and as much as is stored.
fn check_sparse(map: &[(u64, u64)], size: u64, stored: u64) -> Result<()> {
    let mut end = 0;
    let mut total = 0;
    for (offset, length) in map {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| Error::Malformed("overlapping data in a sparse file".into()))?;
        total += length;
    }
    if total == stored {
        Ok(())
    } else {
        Err(Error::Malformed("a sparse file's map does not fit its data".into()))
    }
}

fn number<T>(value: std::io::Result<T>, what: &str) -> Result<T> {
    value.map_err(|_| Error::Malformed(format!("bad {what} in a header")))
}

fn id(number: u64) -> Result<u32> {
    // The largest number means "no user" to the kernel.
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::Malformed(format!("owner {number} is out of range")))
}

fn truncated() -> Error {
    Error::Malformed("it ends in the middle".into())
}
