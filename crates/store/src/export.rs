//! Images go out: as files, or to be sent.

use crate::error::{Result, Step};
use crate::images::Image;
use crate::import::{Progress, in_parallel};
use crate::root::Store;
use acetate_image::archive::Writer;
use acetate_image::export::{self, Output, Pending, Ready};
use acetate_image::{Compression, Digest, Encoder, Hashing};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The forms in which images are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout in a directory.
    OciDir,
    /// An OCI layout in a tar archive.
    OciArchive,
    /// A docker archive, with layers that are not compressed.
    DockerArchive,
}

impl Store {
    /// Writes an image to `target`: an archive appears whole or not at all.
    ///
    /// # Errors
    /// [`crate::Error::NoLayer`]; those of reading layers and writing.
    pub fn export(
        &self,
        image: &Image,
        names: &[String],
        form: Form,
        compression: Compression,
        target: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let _lock = self.shared()?;
        // Found out before the work is done, and by its name.
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::read_dir(parent.unwrap_or(Path::new("."))).step("export to", target)?;
        let staging = self.staging()?;
        let compression = if form == Form::DockerArchive { Compression::None } else { compression };
        let layers = self.make_ready(image, compression, staging.path(), progress)?;
        if form == Form::OciDir {
            let output: Output<Vec<u8>> = Output::Dir(target.to_owned());
            return Ok(export::oci(output, &image.config, &layers, names)?);
        }
        let pending = Pending::new(target)?;
        let output = Output::Archive(Writer::new(BufWriter::with_capacity(1 << 20, pending.file())));
        match form {
            Form::DockerArchive => export::docker(output, &image.config, &layers, names)?,
            _ => export::oci(output, &image.config, &layers, names)?,
        }
        Ok(pending.publish()?)
    }

    /// Writes the layers of an image as files below `dir`, several at a time.
    pub(crate) fn make_ready(
        &self,
        image: &Image,
        compression: Compression,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<Ready>> {
        let layers: Vec<(usize, Digest)> = image.layers.iter().copied().enumerate().collect();
        in_parallel(&layers, |(at, id)| {
            progress.begin(*at, &id.short(), None);
            let ready = compress_one(self, id, compression, &dir.join(at.to_string()))?;
            progress.advance(*at, ready.size);
            progress.done(*at, None);
            Ok(ready)
        })
    }
}

/// Writes one layer to a file. What is read has to be what was unpacked: its digest is checked.
pub(crate) fn compress_one(
    store: &Store,
    id: &Digest,
    compression: Compression,
    path: &Path,
) -> Result<Ready> {
    let file = File::create(path).step("create", path)?;
    let stored = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    let encoder = Encoder::new(stored, compression).step("write", path)?;
    let mut archive = Hashing::new(encoder);
    store.write_layer(id, &mut archive)?;
    let (encoder, diff_id, _) = archive.finish();
    crate::layers::check("the layer in the store", diff_id, Some(*id))?;
    let (mut writer, digest, size) = encoder.finish().step("write", path)?.finish();
    writer.flush().step("write", path)?;
    Ok(Ready { digest, size, media_type: compression.media_type(), path: path.to_owned() })
}
