//! Content of a regular file with its holes.

use std::collections::BTreeMap;

use crate::{Errno, Result, Seek};

/// Allocation unit in bytes.
pub(super) const BLOCK: u64 = 4096;

/// Bytes of a file: blocks that are not there read as zeros. What lies behind `size` in a block is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    size: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Data {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Allocated space in units of 512 bytes.
    pub(super) fn allocated(&self) -> u64 {
        self.blocks.len() as u64 * (BLOCK / 512)
    }

    /// Reads at `offset`; returns the number of bytes.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % BLOCK) as usize;
            let part = (len - done).min(BLOCK as usize - start);
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => buf[done..done + part].copy_from_slice(&block[start..start + part]),
                None => buf[done..done + part].fill(0),
            }
            done += part;
        }
        len
    }

    /// The whole content.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut content = vec![0; self.size as usize];
        self.read(&mut content, 0);
        content
    }

    /// Writes at `offset`; `EFBIG` behind the largest file size.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let end = end(offset, data.len() as u64)?;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let start = (at % BLOCK) as usize;
            let part = (data.len() - done).min(BLOCK as usize - start);
            self.block(at / BLOCK)[start..start + part].copy_from_slice(&data[done..done + part]);
            done += part;
        }
        if !data.is_empty() {
            self.size = self.size.max(end);
        }
        Ok(())
    }

    /// Cuts or extends; `EFBIG` behind the largest file size.
    pub(super) fn set_len(&mut self, size: u64) -> Result<()> {
        end(size, 0)?;
        if size < self.size {
            self.zero(size, self.size - size);
        }
        self.size = size;
        Ok(())
    }

    /// Makes zeros of `len` bytes at `offset`, up to the end of the file: holes where whole blocks are covered.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        // Only blocks that are there: a file may be as large as numbers go.
        let touched: Vec<u64> =
            self.blocks.range(offset / BLOCK..=end / BLOCK).map(|(index, _)| *index).collect();
        for index in touched {
            let start = index * BLOCK;
            let (from, to) = (offset.max(start), end.min(start + BLOCK));
            if from == start && from < to && (to == start + BLOCK || to == self.size) {
                self.blocks.remove(&index);
            } else if let (true, Some(block)) = (from < to, self.blocks.get_mut(&index)) {
                block[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    /// Extends the file to hold `len` bytes at `offset`. Space that was never written to stays a hole, as ext4 shows
    /// what it has set aside.
    pub(super) fn extend(&mut self, offset: u64, len: u64) -> Result<()> {
        self.size = self.size.max(end(offset, len)?);
        Ok(())
    }

    /// The next data or hole at or after `offset` (lseek(2)); the end of the file is a hole.
    pub(super) fn seek(&self, offset: u64, what: Seek) -> Result<u64> {
        if offset >= self.size {
            return Err(Errno::NXIO);
        }
        let mut at = offset;
        while at < self.size {
            if self.blocks.contains_key(&(at / BLOCK)) == (what == Seek::Data) {
                return Ok(at);
            }
            let next = match what {
                Seek::Data => {
                    self.blocks.range(at / BLOCK..).next().map_or(self.size, |(index, _)| index * BLOCK)
                }
                Seek::Hole => (at / BLOCK + 1) * BLOCK,
            };
            at = next.max(at + 1);
        }
        match what {
            Seek::Data => Err(Errno::NXIO),
            Seek::Hole => Ok(self.size),
        }
    }

    fn block(&mut self, index: u64) -> &mut [u8] {
        self.blocks.entry(index).or_insert_with(|| vec![0; BLOCK as usize].into_boxed_slice())
    }
}

fn end(offset: u64, len: u64) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBIG)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn writes_leave_holes() {
        let mut data = Data::default();
        data.write(b"end", 3 * BLOCK + 1).unwrap();
        data.write(b"ab", BLOCK - 1).unwrap();
        assert_eq!((data.size(), data.allocated()), (3 * BLOCK + 4, 24));
        let mut expected = vec![0; 3 * BLOCK as usize + 4];
        expected[BLOCK as usize - 1..=BLOCK as usize].copy_from_slice(b"ab");
        expected[3 * BLOCK as usize + 1..].copy_from_slice(b"end");
        assert_eq!(data.to_vec(), expected);
        let seeks: Vec<_> = [0, BLOCK, 2 * BLOCK, 2 * BLOCK + 5, 3 * BLOCK + 3, 3 * BLOCK + 4]
            .iter()
            .map(|&at| (data.seek(at, Seek::Data), data.seek(at, Seek::Hole)))
            .collect();
        let expected = [
            (Ok(0), Ok(2 * BLOCK)),
            (Ok(BLOCK), Ok(2 * BLOCK)),
            (Ok(3 * BLOCK), Ok(2 * BLOCK)),
            (Ok(3 * BLOCK), Ok(2 * BLOCK + 5)),
            (Ok(3 * BLOCK + 3), Ok(3 * BLOCK + 4)),
            (Err(Errno::NXIO), Err(Errno::NXIO)),
        ];
        assert_eq!(seeks, expected);
    }

    #[test]
    fn what_is_cut_off_reads_as_zeros_later() {
        let mut data = Data::default();
        data.write(b"abcdef", 0).unwrap();
        data.set_len(3).unwrap();
        data.set_len(5).unwrap();
        assert_eq!(data.to_vec(), b"abc\0\0");
        assert_eq!(data.set_len(u64::MAX), Err(Errno::FBIG));
    }

    #[test]
    fn holes_are_punched_in_whole_blocks() {
        let mut data = Data::default();
        data.write(&[1; 3 * BLOCK as usize], 0).unwrap();
        data.zero(10, 2 * BLOCK);
        assert_eq!((data.allocated(), data.size()), (16, 3 * BLOCK));
        let mut expected = vec![1; 3 * BLOCK as usize];
        expected[10..10 + 2 * BLOCK as usize].fill(0);
        assert_eq!(data.to_vec(), expected);
        data.zero(2 * BLOCK, u64::MAX);
        assert_eq!((data.allocated(), data.size()), (8, 3 * BLOCK));
    }

    #[test]
    fn space_that_is_set_aside_is_a_hole() {
        let mut data = Data::default();
        data.extend(0, BLOCK + 1).unwrap();
        assert_eq!((data.allocated(), data.size()), (0, BLOCK + 1));
        assert_eq!((data.seek(0, Seek::Hole), data.seek(0, Seek::Data)), (Ok(0), Err(Errno::NXIO)));
        assert_eq!(data.extend(u64::MAX, 1), Err(Errno::FBIG));
    }
}
