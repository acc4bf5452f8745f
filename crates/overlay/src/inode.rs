//! Inode numbers: one number space for all layers.
//!
//! If all layers are on one filesystem, numbers are the real ones. Else the filesystem's index is put into the top
//! bits, as the kernel does with `xino` (overlayfs.rst, "Inode properties"); FUSE shows one device number for all
//! objects, so numbers have to be unique in any case.

use acetate_layer::FsId;

/// How real inode numbers become overlay inode numbers.
#[derive(Debug)]
pub(crate) struct Numbering {
    /// Filesystem index of each lower layer; 0 is upper's filesystem.
    lowers: Vec<u32>,
    /// Bits that hold the index; 0 if there is one filesystem only.
    bits: u32,
    /// Numbers are folded to 32 bits.
    narrow: bool,
}

impl Numbering {
    /// Numbers the filesystems of the layers.
    pub fn new(upper: Option<FsId>, lowers: &[FsId], narrow: bool) -> Numbering {
        let mut known: Vec<Option<FsId>> = vec![upper];
        let mut indices = Vec::with_capacity(lowers.len());
        for id in lowers {
            let index = known.iter().position(|other| *other == Some(*id)).unwrap_or_else(|| {
                known.push(Some(*id));
                known.len() - 1
            });
            indices.push(index as u32);
        }
        let distinct = known.iter().flatten().count();
        // Room for indices 1..: the sign bit of the count, as the kernel's ilog2(numfs - 1) + 2.
        let bits = if distinct <= 1 { 0 } else { (known.len() as u32 - 1).ilog2() + 2 };
        Numbering { lowers: indices, bits, narrow }
    }

    /// The number of an object of the upper layer.
    pub fn upper(&self, ino: u64) -> u64 {
        self.map(0, ino)
    }

    /// The number of an object of a lower layer.
    pub fn lower(&self, layer: usize, ino: u64) -> u64 {
        self.map(self.lowers.get(layer).copied().unwrap_or(0), ino)
    }

    fn map(&self, index: u32, ino: u64) -> u64 {
        let wide = self.widen(index, ino);
        if self.narrow { (wide ^ wide >> 32) & u64::from(u32::MAX) } else { wide }
    }

    fn widen(&self, index: u32, ino: u64) -> u64 {
        if self.bits == 0 || index == 0 {
            return ino;
        }
        let shift = 64 - self.bits + 1;
        // A number that fills the top bits itself is mixed in rather than lost; it may then collide, as real numbers
        // of that size do in the kernel's scheme.
        ino ^ (u64::from(index) << shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_filesystem_keeps_its_numbers() {
        let numbering = Numbering::new(Some(FsId(7)), &[FsId(7), FsId(7)], false);
        assert_eq!((numbering.upper(5), numbering.lower(1, 6)), (5, 6));
        let read_only = Numbering::new(None, &[FsId(7), FsId(7)], false);
        assert_eq!(read_only.lower(1, 6), 6);
    }

    #[test]
    fn narrow_numbers_have_32_bits() {
        let numbering = Numbering::new(Some(FsId(1)), &[FsId(2)], true);
        assert_eq!((numbering.upper(5), numbering.lower(0, 5)), (5, 0x8000_0005));
        assert_eq!(numbering.upper(0x1_0000_0005), 4);
    }

    #[test]
    fn another_filesystem_gets_the_kernels_bits() {
        let two = Numbering::new(Some(FsId(1)), &[FsId(2)], false);
        assert_eq!((two.upper(5), two.lower(0, 5)), (5, 0x8000_0000_0000_0005));
        let three = Numbering::new(Some(FsId(1)), &[FsId(2), FsId(3), FsId(1)], false);
        assert_eq!(three.lower(0, 5), 0x4000_0000_0000_0005);
        assert_eq!(three.lower(1, 5), 0x8000_0000_0000_0005);
        assert_eq!(three.lower(2, 5), 5);
    }
}
