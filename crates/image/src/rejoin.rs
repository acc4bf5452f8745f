//! The archive that a layer was unpacked from.

use crate::error::{Error, Result, shown};
use crate::pack::Data;
use crate::split;
use crate::unpack::Replaced;
use acetate_layer::{Access, At, Errno, Layer};
use std::io::{Read, Write};

/// Writes the archive that `layer` was unpacked from, byte by byte: to export it, or to see whether it is what its
/// digest says. `replaced` is the work directory that the layer was unpacked with, and `list` what is in it.
///
/// # Errors
/// [`Error::Entry`] or [`Error::Unpackable`] if a file of the layer is missing or too short; those of [`split::join`].
pub fn rejoin<L: Layer>(
    split: impl Read,
    layer: &L,
    replaced: &L,
    list: &[Replaced],
    output: &mut dyn Write,
) -> Result<()> {
    let mut files = 0;
    let open = |path: &[u8]| {
        // What has been replaced since is found where it was moved to: the first move after this file was made.
        let moved = list.iter().find_map(|moved| {
            let rest = path.strip_prefix(&moved.path[..])?;
            (moved.before > files && (rest.is_empty() || rest.starts_with(b"/"))).then_some((moved, rest))
        });
        files += 1;
        match moved {
            Some((moved, rest)) => file(replaced, &[moved.name.as_bytes(), rest].concat(), path),
            None => file(layer, path, path),
        }
    };
    split::join(split, open, output)
}

/// Opens the file at a real path.
fn file<'a, L: Layer>(layer: &'a L, path: &[u8], name: &[u8]) -> Result<Opened<'a, L>> {
    let failed = |errno: Errno| Error::Entry { path: shown(name), step: "open it", errno };
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let last = names.pop().ok_or_else(|| failed(Errno::ISDIR))?;
    let mut dir = layer.root().clone();
    for name in names {
        dir = layer.open_dir(&dir, name).map_err(failed)?;
    }
    let file = layer.open_file(At::Name(&dir, last), Access::Read).map_err(failed)?;
    Ok(Opened { layer, file, offset: 0 })
}

/// An open file, read from its begin to its end.
struct Opened<'a, L: Layer> {
    layer: &'a L,
    file: L::File,
    offset: u64,
}

impl<L: Layer> Read for Opened<'_, L> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut data = Data { layer: self.layer, file: &self.file, offset: self.offset };
        let count = data.read(buffer)?;
        self.offset = data.offset;
        Ok(count)
    }
}
