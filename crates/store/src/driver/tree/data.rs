//! Copying data without sharing any of it.

use acetate_layer::dir::{DirLayer, File};
use acetate_layer::{At, Errno, Layer, Result, Seek, UpperLayer};

/// How much is read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Copies files through a buffer that is kept.
#[derive(Default)]
pub(super) struct Copier {
    buffer: Vec<u8>,
}

impl Copier {
    /// Makes the empty file `to` hold the first `size` bytes of `from`; holes stay holes.
    pub(super) fn copy(
        &mut self,
        (source, from): (&DirLayer, &File),
        (target, to): (&DirLayer, &File),
        size: u64,
    ) -> Result<()> {
        self.buffer.resize(BUFFER_BYTES, 0);
        let mut offset = 0;
        while let Some((start, end)) = next_data(source, from, offset, size)? {
            offset = start;
            while offset < end {
                let want = usize::try_from(end - offset).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
                let count = source.read_at(from, &mut self.buffer[..want], offset)?;
                if count == 0 {
                    // It has become shorter meanwhile.
                    return target.set_len(At::Open(to), size);
                }
                write_all(target, to, &self.buffer[..count], offset)?;
                offset += count as u64;
            }
        }
        target.set_len(At::Open(to), size)
    }
}

/// The next range of data at or after `offset` and before `size`.
fn next_data(layer: &DirLayer, file: &File, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match layer.seek(file, offset, Seek::Data) {
        // Nothing but a hole is left.
        Err(Errno::NXIO) => return Ok(None),
        // The filesystem does not know: all may be data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        start => start?,
    };
    match layer.seek(file, start, Seek::Hole) {
        Err(Errno::NXIO) => Ok(None),
        end => Ok(Some((start, end?.min(size))).filter(|(start, end)| start < end)),
    }
}

fn write_all(layer: &DirLayer, file: &File, mut data: &[u8], mut offset: u64) -> Result<()> {
    while !data.is_empty() {
        match layer.write_at(file, data, offset)? {
            0 => return Err(Errno::IO),
            count => {
                data = &data[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}
