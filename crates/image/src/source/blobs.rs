//! Named contents in a directory or in a tar archive on disk.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest document that is read into memory, in bytes: manifests and configurations are far smaller.
const DOCUMENT_MAX: u64 = 64 << 20;
/// How many symlinks lead to a content; old docker archives name equal layers by one.
const LINKS_MAX: usize = 8;

/// Named contents.
#[derive(Debug)]
pub struct Blobs(Kind);

#[derive(Debug)]
enum Kind {
    Dir(PathBuf),
    Archive { file: Arc<File>, index: BTreeMap<String, Place> },
}

/// Where a content is in an archive.
#[derive(Clone, Debug)]
enum Place {
    Data { offset: u64, size: u64 },
    Link(String),
}

impl Blobs {
    /// The files below a directory.
    pub fn dir(path: &Path) -> Blobs {
        Blobs(Kind::Dir(path.to_owned()))
    }

    /// The files in a tar archive that is not compressed.
    ///
    /// # Errors
    /// Those of reading; what is no archive has no files.
    pub fn archive(file: File) -> Result<Blobs> {
        let mut index = BTreeMap::new();
        {
            let mut archive = tar::Archive::new(&file);
            for entry in archive.entries_with_seek()? {
                // A compressed archive or something else: not an archive of named contents.
                let Ok(entry) = entry else { break };
                let Some(name) = name(&entry.path_bytes()) else { continue };
                let place = match entry.header().entry_type() {
                    tar::EntryType::Regular | tar::EntryType::Continuous => {
                        Place::Data { offset: entry.raw_file_position(), size: entry.size() }
                    }
                    tar::EntryType::Symlink | tar::EntryType::Link => {
                        let target = entry.link_name_bytes().unwrap_or_default();
                        let target = link_target(&name, &target, entry.header().entry_type());
                        let Some(target) = target else { continue };
                        Place::Link(target)
                    }
                    _ => continue,
                };
                index.insert(name, place);
            }
        }
        Ok(Blobs(Kind::Archive { file: Arc::new(file), index }))
    }

    /// Whether there is a content of that name.
    pub fn has(&self, name: &str) -> bool {
        match &self.0 {
            Kind::Dir(dir) => dir.join(name).is_file(),
            Kind::Archive { index, .. } => index.contains_key(name),
        }
    }

    /// Opens a content.
    ///
    /// # Errors
    /// [`Error::Missing`]; those of reading.
    pub fn open(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let missing = || Error::Missing(name.to_owned());
        match &self.0 {
            Kind::Dir(dir) => match File::open(dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
                other => Ok(Box::new(other?)),
            },
            Kind::Archive { file, index } => {
                let mut place = index.get(name).ok_or_else(missing)?;
                for _ in 0..LINKS_MAX {
                    match place {
                        Place::Link(target) => place = index.get(target).ok_or_else(missing)?,
                        Place::Data { offset, size } => {
                            return Ok(Box::new(Range { file: file.clone(), offset: *offset, left: *size }));
                        }
                    }
                }
                Err(missing())
            }
        }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Document`] if it is too long; those of reading.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::Document { what: name.into(), reason: "it is too long".into() });
        }
        Ok(bytes)
    }
}

/// The name of an entry without what means nothing; `None` for what no document names.
fn name(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?;
    let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    (!names.contains(&"..")).then(|| names.join("/"))
}

/// Where a link leads: symlinks from their own directory, hard links from the root.
fn link_target(from: &str, target: &[u8], kind: tar::EntryType) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut names: Vec<&str> = match kind {
        tar::EntryType::Symlink if !target.starts_with('/') => from.split('/').collect(),
        _ => vec![""],
    };
    names.pop();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

/// Part of a file, read without moving its position.
struct Range {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..want], self.offset)?;
        if count == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle"));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
