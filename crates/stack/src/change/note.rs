//! What a killed command was about: one note in the staging directory, which every mount sweeps with all that is there.
//!
//! A mount in between is no harm: it finds a layer that shows what it should, and only the times of one directory may be
//! those of the step that was not finished.

use acetate_layer::dir::DirLayer;
use acetate_layer::{Access, At, Errno, Layer, Owner, Rename, Result, Time, UpperLayer};

const NAME: &[u8] = b"#acetate";
const NEW: &[u8] = b"#acetate.new";
const MAGIC: &str = "acetate-change-1";
/// No note is longer: a path of 4096 bytes and a capability, in hexadecimal.
const MAX_BYTES: usize = 16 << 10;

/// An object that is being changed and has to look as before: what it gets back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its path in the layer.
    pub path: Vec<u8>,
    pub ino: u64,
    pub atime: Time,
    pub mtime: Time,
    /// What a write takes away from a program.
    pub capability: Option<Vec<u8>>,
}

fn to_hex(bytes: &[u8]) -> String {
    // A dash for nothing keeps the fields apart.
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("-{digits}")
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix('-')?;
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

impl Held {
    fn encode(&self) -> String {
        let time = |time: Time| format!("{} {}", time.sec, time.nsec);
        let (path, atime, mtime) = (to_hex(&self.path), time(self.atime), time(self.mtime));
        let capability = self.capability.as_deref().map_or("none".into(), to_hex);
        format!("{MAGIC} held {} {atime} {mtime} {path} {capability}\n", self.ino)
    }

    fn decode(text: &str) -> Option<Held> {
        let words: Vec<&str> = text.strip_suffix('\n')?.split(' ').collect();
        let [MAGIC, "held", ino, asec, ansec, msec, mnsec, path, capability] = words.as_slice() else {
            return None;
        };
        Some(Held {
            path: from_hex(path)?,
            ino: ino.parse().ok()?,
            atime: Time { sec: asec.parse().ok()?, nsec: ansec.parse().ok()? },
            mtime: Time { sec: msec.parse().ok()?, nsec: mnsec.parse().ok()? },
            capability: match *capability {
                "none" => None,
                hex => Some(from_hex(hex)?),
            },
        })
    }

    /// Puts the note into the staging directory, in place of the last one.
    pub(super) fn write(&self, layer: &DirLayer) -> Result<()> {
        let work = layer.work();
        match layer.unlink(work, NEW) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let file = layer.create(work, NEW, 0o600, Owner::Mounter)?;
        let text = self.encode();
        if layer.write_at(&file, text.as_bytes(), 0)? != text.len() {
            return Err(Errno::IO);
        }
        layer.rename((work, NEW), (work, NAME), Rename::Replace)
    }

    /// The note that a killed command has left in `<workdir>/work`.
    pub(super) fn read(layer: &DirLayer, work: &acetate_layer::dir::Dir) -> Result<Option<Held>> {
        let file = match layer.open_file(At::Name(work, NAME), Access::Read) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut bytes = vec![0; MAX_BYTES];
        let count = layer.read_at(&file, &mut bytes, 0)?;
        // What is none was not written by a rename, so not by us.
        Ok(std::str::from_utf8(&bytes[..count]).ok().and_then(Held::decode))
    }

    /// Removes the note: nothing is being done any more.
    pub(super) fn clear(layer: &DirLayer) -> Result<()> {
        match layer.unlink(layer.work(), NAME) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let held = Held {
            path: b"a b/\xff\n".to_vec(),
            ino: u64::MAX,
            atime: Time { sec: -1, nsec: 999_999_999 },
            mtime: Time { sec: 1, nsec: 0 },
            capability: None,
        };
        let program = Held { path: Vec::new(), capability: Some(vec![1, 0, 255]), ..held.clone() };
        for held in [held, program] {
            let text = held.encode();
            assert_eq!(Held::decode(&text), Some(held));
            assert_eq!(Held::decode(&text[..text.len() - 1]), None, "torn");
        }
        for text in ["", "\n", "acetate-change-1 held 1\n", "acetate-change-2 held 1 1 1 1 1 - none\n"] {
            assert_eq!(Held::decode(text), None, "{text:?}");
        }
    }
}
