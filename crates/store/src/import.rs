//! Images come in: their layers unpacked several at a time, then the record.

use crate::error::{Error, Result};
use crate::layers::Expected;
use crate::root::Store;
use acetate_image::source::{Description, Input, Part, Platform, default_config, diff_ids};
use acetate_image::{Digest, pack};
use acetate_layer::dir::DirLayer;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is told while layers come or go; from several threads.
pub trait Progress: Sync {
    /// Work on a layer begins. `bytes` is how many are to be read, where that is known.
    fn begin(&self, _layer: usize, _label: &str, _bytes: Option<u64>) {}
    /// So many more bytes of a layer have been read.
    fn advance(&self, _layer: usize, _bytes: u64) {}
    /// A layer is done; why, if it needed no work.
    fn done(&self, _layer: usize, _why: Option<&str>) {}
}

/// Nobody wants to know.
impl Progress for () {}

/// An image that has come in.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its id.
    pub id: Digest,
    /// The names that it got.
    pub names: Vec<String>,
    /// How many of its layers were new.
    pub new_layers: usize,
    /// Device nodes and attributes that could not be made here.
    pub skipped: (u64, u64),
}

/// Tells how much of a layer has been read.
struct Counting<'a, R> {
    inner: R,
    layer: usize,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.advance(self.layer, count as u64);
        Ok(count)
    }
}

/// How a layer's bytes are got, from several threads.
pub(crate) type Fetch<'a> = &'a (dyn Fn(&Part) -> Result<Box<dyn Read + Send>> + Sync);

impl Store {
    /// Imports images of an OCI layout or a docker archive; all of them, with their own names, unless `name` gives
    /// the only one another.
    ///
    /// # Errors
    /// [`acetate_image::Error`] for what is wrong with the input; [`Error::Path`].
    pub fn import(
        &self,
        input: &Input,
        source: &str,
        name: Option<&str>,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Vec<Imported>> {
        let _lock = self.shared()?;
        let images = input.images(platform)?;
        if name.is_some() && images.len() > 1 {
            return Err(Error::BadName {
                name: name.unwrap_or_default().to_owned(),
                what: "several images",
                reason: "import them without a name, and tag them then",
            });
        }
        let fetch = |part: &Part| Ok(input.layer(part)?);
        images
            .into_iter()
            .map(|image| {
                let names = name.map_or_else(|| image.names.clone(), |name| vec![name.to_owned()]);
                // Names of layouts are often mere tags.
                let names: Vec<String> = names.into_iter().filter(|name| crate::full_name(name).is_ok()).collect();
                self.add(&image, source, &names, &fetch, progress)
            })
            .collect()
    }

    /// Makes an image of a tree: an archive of a root directory, or a directory.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_tree(&self, input: &Input, source: &str, name: &str, command: &[String], progress: &dyn Progress) -> Result<Imported> {
        let _lock = self.shared()?;
        let name = crate::full_name(name)?;
        progress.begin(0, source, size_of(input));
        let layer = match input {
            Input::Directory(path) => self.pack_layer(path, progress)?,
            other => {
                let part = Part { location: String::new(), digest: None, size: None };
                let inner = other.layer(&part)?;
                self.add_layer(Counting { inner, layer: 0, progress }, Expected::default())?
            }
        };
        progress.done(0, None);
        let config = default_config(&layer.diff_id, &crate::record::now(), &format!("import of {source}"), command)?;
        let names = [name];
        let id = self.add_image(&config, source, &names)?;
        let skipped = (layer.totals.devices_skipped, layer.totals.xattrs_skipped);
        Ok(Imported { id, names: names.to_vec(), new_layers: 1, skipped })
    }

    /// Makes a layer of a directory: what is packed is unpacked at the same time.
    fn pack_layer(&self, path: &Path, progress: &dyn Progress) -> Result<crate::Layer> {
        let tree = DirLayer::open_lower(path)
            .map_err(|errno| Error::Path { step: "open", path: path.to_owned(), source: errno.into() })?;
        self.layer_of(&tree, self.options().dialect, progress)
    }

    /// Makes a layer of a tree in overlay format.
    pub(crate) fn layer_of(&self, tree: &DirLayer, dialect: acetate_layer::mark::Dialect, progress: &dyn Progress) -> Result<crate::Layer> {
        let (reader, writer) = io::pipe().map_err(acetate_image::Error::from)?;
        std::thread::scope(|scope| {
            let packing = scope.spawn(move || pack(tree, dialect, io::BufWriter::with_capacity(1 << 20, writer)).map(drop));
            let added = self.add_layer(Counting { inner: reader, layer: 0, progress }, Expected::default());
            match packing.join() {
                // The unpacker only sees that the archive ends; why is what the packer knows.
                Ok(Err(error)) if !is_broken_pipe(&error) => Err(error.into()),
                _ => added,
            }
        })
    }

    /// Brings in the layers that are missing, several at a time, then records the image.
    pub(crate) fn add(
        &self,
        image: &Description,
        source: &str,
        names: &[String],
        fetch: Fetch<'_>,
        progress: &dyn Progress,
    ) -> Result<Imported> {
        let ids = diff_ids(&image.config)?;
        if ids.len() != image.layers.len() {
            return Err(Error::LayerCount { layers: image.layers.len(), diff_ids: ids.len() });
        }
        let work: Vec<(usize, Digest, &Part)> =
            ids.iter().zip(&image.layers).enumerate().map(|(at, (id, part))| (at, *id, part)).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let skipped = Mutex::new((0, 0));
        let new = AtomicUsize::new(0);
        let first_error = Mutex::new(None);
        let one = |(at, id, part): (usize, Digest, &Part)| -> Result<()> {
            progress.begin(at, &id.short(), part.size);
            // A layer may occur twice in one image.
            let before = work[..at].iter().any(|(_, other, _)| *other == id);
            if before || self.layer(&id)?.is_some() {
                progress.done(at, Some("already here"));
                return Ok(());
            }
            let inner = fetch(part)?;
            let expected = Expected { stored: part.digest, diff_id: Some(id) };
            let layer = self.add_layer(Counting { inner, layer: at, progress }, expected)?;
            new.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut skipped) = skipped.lock() {
                skipped.0 += layer.totals.devices_skipped;
                skipped.1 += layer.totals.xattrs_skipped;
            }
            progress.done(at, None);
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..threads().min(work.len()) {
                scope.spawn(|| {
                    while !failed.load(Ordering::Relaxed) {
                        let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                        if let Err(error) = one(*item) {
                            failed.store(true, Ordering::Relaxed);
                            if let Ok(mut first) = first_error.lock() {
                                first.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = first_error.into_inner().unwrap_or_default() {
            return Err(error);
        }
        let names: Result<Vec<String>> = names.iter().map(|name| crate::full_name(name)).collect();
        let names = names?;
        let id = self.add_image(&image.config, source, &names)?;
        let skipped = skipped.into_inner().unwrap_or_default();
        Ok(Imported { id, names, new_layers: new.into_inner(), skipped })
    }
}

/// How many layers are worked on at a time. More than there are processors: some wait for the network or the disk.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get() * 2).clamp(2, 8)
}

fn is_broken_pipe(error: &acetate_image::Error) -> bool {
    matches!(error, acetate_image::Error::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
}

fn size_of(input: &Input) -> Option<u64> {
    match input {
        Input::RootArchive(path) => File::open(path).and_then(|file| file.metadata()).map(|stat| stat.len()).ok(),
        _ => None,
    }
}
