//! What of a layer's archive is not in its files, so that the archive can be made again byte by byte.
//!
//! An image names its layers by the digests of their archives. Two tools rarely write the same archive of the same
//! tree, so the bytes around the data are kept when a layer is unpacked, and the files give the rest when it is
//! exported, pushed or checked. Other tools call this tar-split.
//!
//! # Format
//! `acetate-split-1\n`, then Zstandard data of segments, each a byte that says what it is:
//! 0, a length (32 bits, little endian) and as many bytes of the archive; 1, a size (64 bits), the length of a path
//! (32 bits) and the path: so many bytes of data are those of this file; 2: the end.

use crate::error::{Error, Result, shown};
use std::io::{self, Read, Write};

/// How the file begins.
const MAGIC: &[u8] = b"acetate-split-1\n";
/// Longest segment of raw bytes.
const RAW_MAX: usize = 64 << 10;
/// Longest path; PATH_MAX of Linux, with room for archives that do not know it.
const PATH_LEN_MAX: u32 = 64 << 10;

/// Takes what an archive is made of, in its order.
pub trait Record {
    /// Bytes that are not data of a file.
    ///
    /// # Errors
    /// Those of writing.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Nothing is kept.
impl Record for () {
    fn raw(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the segments of an archive.
pub struct Writer<W: Write> {
    output: zstd::stream::write::Encoder<'static, W>,
    raw: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// To a sink.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(mut output: W) -> io::Result<Writer<W>> {
        output.write_all(MAGIC)?;
        Ok(Writer { output: zstd::stream::write::Encoder::new(output, 1)?, raw: Vec::new() })
    }

    /// The next `size` bytes of the archive are the data of the file at `path` in the layer.
    ///
    /// # Errors
    /// Those of writing.
    pub fn file(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.output.write_all(&[1])?;
        self.output.write_all(&size.to_le_bytes())?;
        self.output.write_all(&(path.len() as u32).to_le_bytes())?;
        self.output.write_all(path)
    }

    /// Ends the file and returns the sink.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_raw()?;
        self.output.write_all(&[2])?;
        self.output.finish()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.output.write_all(&[0])?;
            self.output.write_all(&(self.raw.len() as u32).to_le_bytes())?;
            self.output.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }
}

impl<W: Write> Record for Writer<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(RAW_MAX) {
            if self.raw.len() + part.len() > RAW_MAX {
                self.flush_raw()?;
            }
            self.raw.extend_from_slice(part);
        }
        Ok(())
    }
}

/// Makes an archive again: `open` gives the data of the files in the layer.
///
/// # Errors
/// [`Error::Document`] if the segments are damaged, [`Error::Unpackable`] if a file is shorter than it was; those of
/// `open`, reading and writing.
pub fn join<D: Read>(
    mut input: impl Read,
    mut open: impl FnMut(&[u8]) -> Result<D>,
    output: &mut dyn Write,
) -> Result<()> {
    let damaged = |reason: &str| Error::Document { what: "split file".into(), reason: reason.into() };
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged("it is in no known format"));
    }
    let mut input = io::BufReader::new(zstd::stream::read::Decoder::new(input)?);
    let mut buffer = Vec::new();
    loop {
        let mut tag = [0];
        input.read_exact(&mut tag)?;
        match tag {
            [0] => {
                let length = read_u32(&mut input)? as usize;
                if length > RAW_MAX {
                    return Err(damaged("a segment is too long"));
                }
                buffer.resize(length, 0);
                input.read_exact(&mut buffer)?;
                output.write_all(&buffer)?;
            }
            [1] => {
                let mut size = [0; 8];
                input.read_exact(&mut size)?;
                let (size, length) = (u64::from_le_bytes(size), read_u32(&mut input)?);
                if length > PATH_LEN_MAX {
                    return Err(damaged("a path is too long"));
                }
                buffer.resize(length as usize, 0);
                input.read_exact(&mut buffer)?;
                let mut data = open(&buffer)?.take(size);
                if io::copy(&mut data, output)? != size {
                    let path = shown(&buffer);
                    return Err(Error::Unpackable {
                        path,
                        reason: "the file is shorter than in the archive",
                    });
                }
            }
            [2] => return Ok(output.flush()?),
            _ => return Err(damaged("a segment is of no known kind")),
        }
    }
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_split_is_joined() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let long = vec![7; 3 * RAW_MAX + 5];
        writer.raw(b"head").unwrap();
        writer.file(b"a/b", 4).unwrap();
        writer.raw(&long).unwrap();
        writer.file(b"empty", 0).unwrap();
        writer.raw(b"tail").unwrap();
        let split = writer.finish().unwrap();
        let mut joined = Vec::new();
        join(&split[..], |path| Ok(io::Cursor::new(path.repeat(2))), &mut joined).unwrap();
        assert_eq!(joined, [&b"heada/ba"[..], &long, b"tail"].concat());
        // A file that has become shorter.
        assert!(join(&split[..], |_| Ok(&b"xyz"[..]), &mut Vec::new()).is_err());
        // Every cut is noticed.
        for end in 0..split.len() {
            assert!(
                join(&split[..end], |path| Ok(io::Cursor::new(path.repeat(2))), &mut Vec::new()).is_err()
            );
        }
    }
}
