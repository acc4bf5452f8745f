//! How layers are compressed.

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::io::{self, BufRead, BufReader, Read, Write};

/// The encodings of a layer (OCI image-spec, "Image Layer Filesystem Changeset").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// How much is read from files and the network at a time.
const BUFFER_BYTES: usize = 128 << 10;

impl Compression {
    /// What the first bytes of a stream say.
    pub fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, with which zstd:chunked streams may begin (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The media type of an OCI layer in this encoding.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Reads what is in a stream, whatever its encoding is; media types are often wrong, the first bytes are not.
///
/// # Errors
/// Those of reading.
pub fn decoder<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    Ok(match Compression::of(input.fill_buf()?) {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
    })
}

/// Writes an encoded stream to a sink.
pub enum Encoder<W: Write> {
    /// As it is.
    None(W),
    /// gzip.
    Gzip(GzEncoder<W>),
    /// Zstandard.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Encodes to `output`, at the levels that registries are used to: speed comes first.
    ///
    /// # Errors
    /// Those of the Zstandard library.
    pub fn new(output: W, compression: Compression) -> io::Result<Encoder<W>> {
        Ok(match compression {
            Compression::None => Encoder::None(output),
            Compression::Gzip => Encoder::Gzip(GzEncoder::new(output, flate2::Compression::new(5))),
            Compression::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(output, 3)?),
        })
    }

    /// Ends the stream and returns the sink.
    ///
    /// # Errors
    /// Those of writing the rest.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::None(output) => Ok(output),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(output) => output.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::None(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_encoding_is_recognised_and_read() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
            encoder.write_all(&text).unwrap();
            let encoded = encoder.finish().unwrap();
            assert_eq!(Compression::of(&encoded), compression);
            let mut decoded = Vec::new();
            decoder(&encoded[..]).unwrap().read_to_end(&mut decoded).unwrap();
            assert!(decoded == text, "{compression:?}");
        }
        assert_eq!(Compression::of(b""), Compression::None);
    }

    #[test]
    fn a_stream_of_several_gzip_members_is_one() {
        let mut both = Vec::new();
        for part in [&b"one "[..], b"two"] {
            let mut encoder = Encoder::new(Vec::new(), Compression::Gzip).unwrap();
            encoder.write_all(part).unwrap();
            both.extend(encoder.finish().unwrap());
        }
        let mut decoded = String::new();
        decoder(&both[..]).unwrap().read_to_string(&mut decoded).unwrap();
        assert_eq!(decoded, "one two");
    }
}
