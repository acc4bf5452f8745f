//! Images from and to registries.

use crate::error::{Error, Result, Step};
use crate::export::compress_one;
use crate::images::Image;
use crate::import::{Imported, Progress, in_parallel};
use crate::root::Store;
use acetate_image::export::{MANIFEST_TYPE, Ready, manifest};
use acetate_image::registry::{Blob, Reference, Registry};
use acetate_image::source::{Description, Document, Part, Platform, choose, parts};
use acetate_image::{Compression, Digest};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Longest configuration that is read, in bytes.
const CONFIG_MAX: u64 = 16 << 20;
/// How deep indexes may name indexes.
const DEPTH_MAX: usize = 4;

impl Store {
    /// Gets an image from a registry: layers that are missing, several at a time. What came of a layer before it was
    /// interrupted is kept, and not asked for again. An image that is asked for by its digest gets no name.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::Image`], [`Error::Path`]
    pub fn pull(
        &self,
        registry: &Registry,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Imported> {
        let _lock = self.shared()?;
        let reference = registry.reference();
        let source = reference.whole();
        let mut bytes = registry.manifest(None)?;
        let mut depth = DEPTH_MAX;
        let manifest = loop {
            match Document::parse(&bytes)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) if depth > 0 => {
                    depth -= 1;
                    bytes = registry.manifest(Some(choose(&index, platform)?.digest().as_ref()))?;
                }
                Document::Index(_) => {
                    let reason = "indexes without end".to_owned();
                    return Err(acetate_image::Error::Document { what: source, reason }.into());
                }
            }
        };
        let config = registry.document(manifest.config().digest().as_ref(), CONFIG_MAX)?;
        let layers = parts(&manifest, str::to_owned)?;
        let image = Description { names: Vec::new(), config, layers };
        let fetch = |part: &Part| -> Result<Box<dyn Read + Send>> { self.download(registry, part) };
        let tag = reference.tag().or_else(|| reference.digest().is_none().then_some("latest"));
        let name = tag.map(|tag| format!("{}/{}:{tag}", reference.registry(), reference.repository()));
        self.add(&image, &source, name.as_slice(), &fetch, progress)
    }

    /// Reads a layer's bytes: what an interrupted download has left, then the rest from the registry. All of it is
    /// written to the file of the download, which is removed once the layer is unpacked.
    fn download(&self, registry: &Registry, part: &Part) -> Result<Box<dyn Read + Send>> {
        let digest: Digest = part.location.parse().map_err(acetate_image::Error::from)?;
        let path = self.part("downloads").join(digest.hex());
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).step("open", &path)?;
        // Somebody else gets the same layer: then this one goes without a file.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Box::new(registry.blob(&part.location, 0)?));
        }
        let size = file.metadata().step("look at", &path)?.len();
        // More than there can be is from something else.
        let size = if part.size.is_some_and(|whole| size > whole) {
            file.set_len(0).step("truncate", &path)?;
            0
        } else {
            size
        };
        let rest = if part.size == Some(size) { None } else { Some(registry.blob(&part.location, size)?) };
        let kept = File::open(&path).step("open", &path)?;
        Ok(Box::new(Download { kept: kept.take(size), rest, file, path, failed: false }))
    }

    /// Sends an image to a registry: layers that it lacks, several at a time, then the manifest.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::NoLayer`], [`Error::Path`]
    pub fn push(
        &self,
        image: &Image,
        registry: &Registry,
        compression: Compression,
        progress: &dyn Progress,
    ) -> Result<Digest> {
        let _lock = self.shared()?;
        registry.begin_push()?;
        let staging = self.staging()?;
        let neighbours = self.neighbours(registry.reference())?;
        let layers: Vec<(usize, Digest)> = image.layers.iter().copied().enumerate().collect();
        let sent = in_parallel(&layers, |(at, id)| {
            progress.begin(*at, &id.short(), None);
            if let Some(ready) = self.already_there(id, registry, &neighbours)? {
                progress.done(*at, Some("already there"));
                return Ok(ready);
            }
            let ready = compress_one(self, id, compression, &staging.path().join(at.to_string()))?;
            let digest = ready.digest.to_string();
            if registry.has_blob(&digest)? {
                progress.done(*at, Some("already there"));
            } else {
                let file = File::open(&ready.path).step("open", &ready.path)?;
                progress.begin(*at, &id.short(), Some(ready.size));
                registry.push_blob(&digest, ready.size, file, &|bytes| progress.advance(*at, bytes))?;
                progress.done(*at, None);
            }
            // Only the manifest needs it from here on.
            fs::remove_file(&ready.path).step("remove", &ready.path)?;
            Ok(ready)
        })?;
        let config = Digest::of(&image.config).to_string();
        if !registry.has_blob(&config)? {
            let data = io::Cursor::new(image.config.clone());
            registry.push_blob(&config, image.config.len() as u64, data, &|_| {})?;
        }
        let bytes = manifest(&image.config, &sent)?;
        let digest = Digest::of(&bytes);
        registry.push_manifest(MANIFEST_TYPE, bytes)?;
        Ok(digest)
    }

    /// The other repositories of the same registry that images here are named after, and their layers.
    fn neighbours(&self, target: &Reference) -> Result<Vec<(Reference, Vec<Digest>)>> {
        let mut found: Vec<(Reference, Vec<Digest>)> = Vec::new();
        for image in self.images()? {
            for name in &image.names {
                if let Ok(other) = name.parse::<Reference>()
                    && other.registry() == target.registry()
                    && other.repository() != target.repository()
                {
                    found.push((other, image.layers.clone()));
                }
            }
        }
        Ok(found)
    }

    /// The form in which a layer came, if the registry has it: then nothing has to be compressed.
    fn already_there(
        &self,
        id: &Digest,
        registry: &Registry,
        neighbours: &[(Reference, Vec<Digest>)],
    ) -> Result<Option<Ready>> {
        let Some(stored) = self.layer(id)?.ok_or(Error::NoLayer(*id))?.stored else { return Ok(None) };
        let known = [Compression::Gzip, Compression::Zstd].map(Compression::media_type);
        let Some(media_type) = known.into_iter().find(|known| *known == stored.media_type) else {
            return Ok(None);
        };
        let digest = stored.digest.to_string();
        let mut others = neighbours.iter().filter(|(_, layers)| layers.contains(id));
        if !registry.has_blob(&digest)? && !others.any(|(other, _)| registry.mount_blob(other, &digest)) {
            return Ok(None);
        }
        Ok(Some(Ready { digest: stored.digest, size: stored.bytes, media_type, path: PathBuf::new() }))
    }
}

/// A layer on its way in.
struct Download {
    /// What an earlier attempt has left.
    kept: io::Take<File>,
    rest: Option<Blob>,
    file: File,
    path: PathBuf,
    failed: bool,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.kept.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        let Some(rest) = &mut self.rest else { return Ok(0) };
        let read = rest.read(buffer).and_then(|count| self.file.write_all(&buffer[..count]).map(|()| count));
        self.failed |= read.is_err();
        read
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // After a failure of the network the next attempt goes on from here. A content that turned out wrong, or was
        // unpacked, is of no use; after a kill it is found out by its digest.
        if !self.failed {
            let _leftover = fs::remove_file(&self.path);
        }
    }
}
