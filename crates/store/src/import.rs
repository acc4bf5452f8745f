//! Images come in: their layers unpacked several at a time, then the record.

use crate::error::{Error, Result, Step};
use crate::layers::{Expected, Layer};
use crate::root::Store;
use acetate_image::source::{Description, Input, Part, Platform, default_config, diff_ids};
use acetate_image::{Digest, Options, pack};
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
                let names: Vec<String> =
                    names.into_iter().filter(|name| crate::full_name(name).is_ok()).collect();
                self.add(&image, source, &names, &fetch, progress)
            })
            .collect()
    }

    /// Makes an image of a tree: an archive of a root directory, or a directory.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_tree(
        &self,
        input: &Input,
        source: &str,
        name: &str,
        command: &[String],
        progress: &dyn Progress,
    ) -> Result<Imported> {
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
        let config =
            default_config(&layer.diff_id, &crate::record::now(), &format!("import of {source}"), command)?;
        let names = [name];
        let id = self.add_image(&config, source, &names)?;
        let skipped = (layer.totals.devices_skipped, layer.totals.xattrs_skipped);
        Ok(Imported { id, names: names.to_vec(), new_layers: 1, skipped })
    }

    /// Makes a layer of a directory.
    fn pack_layer(&self, path: &Path, progress: &dyn Progress) -> Result<Layer> {
        let tree = DirLayer::open_lower(path).step("open", path)?;
        self.layer_of_tree(&tree, progress)
    }

    /// Makes a layer of a tree in overlay format.
    pub(crate) fn layer_of_tree(&self, tree: &DirLayer, progress: &dyn Progress) -> Result<Layer> {
        let Options { dialect, owners, .. } = self.options();
        self.layer_of(progress, |writer| pack(tree, dialect, owners, writer).map(drop))
    }

    /// Makes a layer of what `pack` writes: it is unpacked at the same time.
    pub(crate) fn layer_of(
        &self,
        progress: &dyn Progress,
        pack: impl FnOnce(io::BufWriter<io::PipeWriter>) -> acetate_image::Result<()> + Send,
    ) -> Result<Layer> {
        let (reader, writer) = io::pipe().map_err(acetate_image::Error::from)?;
        std::thread::scope(|scope| {
            let packing = scope.spawn(move || pack(io::BufWriter::with_capacity(1 << 20, writer)));
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
        let added = self.publish_behind(|publish| {
            in_parallel(&work, |(at, id, part)| {
                progress.begin(*at, &id.short(), part.size);
                // A layer may occur twice in one image.
                if ids[..*at].contains(id) || self.layer(id)?.is_some() {
                    progress.done(*at, Some("already here"));
                    return Ok(None);
                }
                let inner = fetch(part)?;
                let expected = Expected { stored: part.digest, diff_id: Some(*id) };
                let unpacked = self.unpack(Counting { inner, layer: *at, progress }, expected)?;
                let totals = &unpacked.layer.totals;
                let skipped = (totals.devices_skipped, totals.xattrs_skipped);
                publish.send(unpacked)?;
                progress.done(*at, None);
                Ok(Some(skipped))
            })
        })?;
        self.settle(&ids)?;
        let names: Result<Vec<String>> = names.iter().map(|name| crate::full_name(name)).collect();
        let names = names?;
        let id = self.add_image(&image.config, source, &names)?;
        let new: Vec<(u64, u64)> = added.into_iter().flatten().collect();
        let skipped = new.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Ok(Imported { id, names, new_layers: new.len(), skipped })
    }
}

/// Works on items several at a time, and returns the results in their order. After an error no new item is begun, and
/// the first error is returned.
pub(crate) fn in_parallel<I: Sync, O: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<O> + Sync,
) -> Result<Vec<O>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let (work, next, failed, done_ref) = (&work, &next, &failed, &done);
    std::thread::scope(|scope| {
        for _ in 0..threads().min(items.len()) {
            scope.spawn(move || {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    // A poisoned lock means that a thread has panicked, which ends the scope.
                    if let Ok(mut done) = done_ref.lock() {
                        done.push((at, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
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
        Input::RootArchive(path) => {
            File::open(path).and_then(|file| file.metadata()).map(|stat| stat.len()).ok()
        }
        _ => None,
    }
}
