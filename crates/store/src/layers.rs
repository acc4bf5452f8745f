//! Layers: unpacked once, each in a directory of its own, shared by all images.

use crate::error::{Error, Result, Step};
use crate::publish::Unpacked;
use crate::record;
use crate::root::Store;
use acetate_image::{Compression, Digest, Hashing, Totals, decoder, rejoin, split, unpack};
use acetate_layer::dir::DirLayer;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// `acetate-layer-1`
    schema: String,
    /// The digest of its archive, not compressed: its name.
    pub diff_id: Digest,
    /// The size of that archive in bytes.
    pub archive_bytes: u64,
    /// When it was unpacked.
    pub created: String,
    /// The compressed archive that it came in, if it did.
    pub stored: Option<Stored>,
    /// What is in it.
    pub totals: Totals,
}

/// The bytes in which a layer came. They are not kept; a registry may have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub bytes: u64,
    /// Their media type.
    pub media_type: String,
}

const SCHEMA: &str = "acetate-layer-1";

/// How much is decoded ahead of what is being unpacked: pieces of this size in bytes, and their number.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 8;

/// What a layer's digests should be, where that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Of the bytes that are read.
    pub stored: Option<Digest>,
    /// Of the archive in them.
    pub diff_id: Option<Digest>,
}

impl Store {
    pub(crate) fn layer_dir(&self, id: &Digest) -> PathBuf {
        self.part("layers").join(id.hex())
    }

    /// Where the layer's tree is.
    pub fn layer_tree(&self, id: &Digest) -> PathBuf {
        self.layer_dir(id).join("diff")
    }

    /// What is known of a layer; `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn layer(&self, id: &Digest) -> Result<Option<Layer>> {
        record::read_json(&self.layer_dir(id).join("layer.json"))
    }

    /// The layers that there are.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn layers(&self) -> Result<Vec<Digest>> {
        let names = record::names(&self.part("layers"))?;
        Ok(names.iter().filter_map(|name| Digest::from_hex(name).ok()).collect())
    }

    /// Unpacks a layer, compressed or not, and publishes it once its digests have turned out right. A layer that is
    /// there already stays as it is.
    ///
    /// # Errors
    /// [`acetate_image::Error::Mismatch`] and whatever an archive can have wrong; [`Error::Path`].
    pub fn add_layer(&self, input: impl Read + Send, expected: Expected) -> Result<Layer> {
        let unpacked = self.unpack(input, expected)?;
        let layer = unpacked.layer.clone();
        self.publish_layers(vec![unpacked])?;
        Ok(layer)
    }

    /// Unpacks a layer, compressed or not, and checks its digests.
    pub(crate) fn unpack(&self, input: impl Read + Send, expected: Expected) -> Result<Unpacked> {
        let staging = self.staging()?;
        let layer = self.unpack_layer(input, expected, staging.path())?;
        let path = staging.path().join("layer.json");
        record::write_json(&path, &staging.path().join(".layer.json"), &layer)?;
        Ok(Unpacked { staging, layer })
    }

    fn unpack_layer(&self, input: impl Read + Send, expected: Expected, home: &Path) -> Result<Layer> {
        for name in ["diff", "replaced"] {
            fs::create_dir(home.join(name)).step("make", home.join(name))?;
        }
        let mut layer = DirLayer::open_upper(&home.join("diff")).step("open", home.join("diff"))?;
        let replaced = layer.open_workdir(&home.join("replaced")).step("open", home.join("replaced"))?;
        layer.set_work(replaced);
        // Layers without their own entry for it have the root directory of container engines.
        fs::set_permissions(home.join("diff"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .step("set the mode of", home.join("diff"))?;
        let split_path = home.join("split");
        let split = File::create(&split_path).step("create", &split_path)?;
        let split = split::Writer::new(io::BufWriter::new(split)).step("write", &split_path)?;
        let mut input = io::BufReader::new(input);
        let compression = Compression::of(input.fill_buf().map_err(acetate_image::Error::from)?);
        let mut stored = Hashing::new(input);
        let unpacked = std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES);
            let stored = &mut stored;
            scope.spawn(move || decode(stored, &sender));
            let mut archive = Hashing::new(Pieces { receiver, piece: Vec::new(), at: 0 });
            // After an error the pieces are dropped, which ends the decoder.
            let (totals, split) = unpack(&mut archive, &layer, self.options(), split)?;
            // What is behind the end of the archive belongs to its digest.
            io::copy(&mut archive, &mut io::sink())?;
            let (_, diff_id, bytes) = archive.finish();
            Ok::<_, acetate_image::Error>((totals, split, diff_id, bytes))
        });
        let (totals, mut split, diff_id, archive_bytes) = match unpacked {
            Ok(unpacked) => unpacked,
            Err(error) => return Err(blame(error, stored, expected.stored)),
        };
        split.flush().step("write", &split_path)?;
        let (_, digest, bytes) = stored.finish();
        check("the stored layer", digest, expected.stored)?;
        check("the layer", diff_id, expected.diff_id)?;
        let media_type = compression.media_type().to_owned();
        let stored = (compression != Compression::None).then_some(Stored { digest, bytes, media_type });
        Ok(Layer { schema: SCHEMA.into(), diff_id, archive_bytes, created: record::now(), stored, totals })
    }

    /// Writes a layer's archive as it came, byte by byte.
    ///
    /// # Errors
    /// [`Error::NoLayer`]; [`acetate_image::Error`] if files of the layer are missing or have become shorter.
    pub fn write_layer(&self, id: &Digest, output: &mut dyn Write) -> Result<()> {
        let layer = self.layer(id)?.ok_or(Error::NoLayer(*id))?;
        let home = self.layer_dir(id);
        let open = |name: &str| DirLayer::open_lower(&home.join(name)).step("open", home.join(name));
        let split = File::open(home.join("split")).step("open", home.join("split"))?;
        let (tree, replaced) = (open("diff")?, open("replaced")?);
        Ok(rejoin(io::BufReader::new(split), &tree, &replaced, &layer.totals.replaced, output)?)
    }
}

/// Why a layer cannot be unpacked: if it is not the one that was asked for, its damage is but a consequence of that.
fn blame(error: acetate_image::Error, mut stored: Hashing<impl Read>, expected: Option<Digest>) -> Error {
    let damaged = match &error {
        acetate_image::Error::Malformed(_) | acetate_image::Error::Escapes { .. } => true,
        acetate_image::Error::Io(error) => {
            use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
            matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
        }
        _ => false,
    };
    if damaged && expected.is_some() && io::copy(&mut stored, &mut io::sink()).is_ok() {
        let (_, digest, _) = stored.finish();
        if let Err(mismatch) = check("the stored layer", digest, expected) {
            return mismatch;
        }
    }
    error.into()
}

/// Compares a digest with what it should be.
pub(crate) fn check(what: &str, found: Digest, expected: Option<Digest>) -> Result<()> {
    match expected {
        Some(expected) if expected != found => Err(acetate_image::Error::Mismatch {
            what: what.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Decodes a stream to its end, piece by piece, until nobody wants more.
fn decode(input: &mut (impl Read + Send), sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut send = || -> io::Result<()> {
        let mut decoder = decoder(&mut *input)?;
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let mut filled = 0;
            while filled < piece.len() {
                match decoder.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            piece.truncate(filled);
            if filled == 0 || sender.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    };
    // The bytes behind the compressed stream belong to the digest of what is stored.
    let sent = send().and_then(|()| io::copy(input, &mut io::sink()));
    if let Err(error) = sent {
        // Nobody waits for it if this fails.
        let _unheard = sender.send(Err(error));
    }
}

/// Reads what [`decode`] sends.
struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                // The decoder is done.
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
