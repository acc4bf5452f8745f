//! File handles as stored in the `origin` and `upper` marks.
//!
//! Layout (overlayfs "ovl_fb", same bytes as the kernel writes): version 0, magic 0xfb, total length, flags, handle
//! type, 16 bytes of filesystem UUID, then the filesystem's own handle bytes.

use crate::Handle;

const VERSION: u8 = 0;
const MAGIC: u8 = 0xfb;
const HEADER: usize = 21;
const BIG_ENDIAN: u8 = 1;
const ANY_ENDIAN: u8 = 2;
const PATH_UPPER: u8 = 4;
const HOST_ENDIAN: u8 = if cfg!(target_endian = "big") { BIG_ENDIAN } else { 0 };

/// What a stored file handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The object is the one behind this handle.
    Known(Handle),
    /// Copied up from something that cannot be told: zero length, a newer version, unknown flags or the other
    /// byte order.
    Unknown,
    /// No file handle at all; treated as if there were no origin.
    Invalid,
}

impl Origin {
    /// The value for a lower object. Empty ("unknown") if the handle is too long for the format.
    pub fn encode(handle: &Handle) -> Vec<u8> {
        Self::encode_with(handle, 0)
    }

    /// The value for an upper object, as the `upper` mark has it.
    pub fn encode_upper(handle: &Handle) -> Vec<u8> {
        Self::encode_with(handle, PATH_UPPER)
    }

    fn encode_with(handle: &Handle, flags: u8) -> Vec<u8> {
        let Ok(len) = u8::try_from(HEADER + handle.bytes.len()) else {
            return Vec::new();
        };
        let mut value = Vec::with_capacity(usize::from(len));
        value.extend_from_slice(&[VERSION, MAGIC, len, HOST_ENDIAN | flags, handle.kind]);
        value.extend_from_slice(&handle.uuid);
        value.extend_from_slice(&handle.bytes);
        value
    }

    /// Reads a stored handle. Bytes behind its stated length do not count.
    pub fn decode(value: &[u8]) -> Self {
        if value.is_empty() {
            return Self::Unknown;
        }
        if value.len() < HEADER || value[1] != MAGIC {
            return Self::Invalid;
        }
        let (version, len, flags) = (value[0], usize::from(value[2]), value[3]);
        if len < HEADER || value.len() < len {
            return Self::Invalid;
        }
        if version > VERSION || flags & !(BIG_ENDIAN | ANY_ENDIAN | PATH_UPPER) != 0 {
            return Self::Unknown;
        }
        if flags & ANY_ENDIAN == 0 && flags & BIG_ENDIAN != HOST_ENDIAN {
            return Self::Unknown;
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&value[5..HEADER]);
        Self::Known(Handle { kind: value[4], bytes: value[HEADER..len].to_vec(), uuid })
    }

    /// Whether a stored handle is flagged as one of an upper object.
    pub fn is_upper(value: &[u8]) -> bool {
        value.get(3).is_some_and(|flags| flags & PATH_UPPER != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> Handle {
        Handle { kind: 1, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8], uuid: *b"0123456789abcdef" }
    }

    #[test]
    fn bytes_are_the_kernels() {
        let mut expected = vec![0, 0xfb, 29, HOST_ENDIAN, 1];
        expected.extend_from_slice(b"0123456789abcdef");
        expected.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Origin::encode(&handle()), expected);
        expected[3] |= 4;
        assert_eq!(Origin::encode_upper(&handle()), expected);
    }

    #[test]
    fn what_is_encoded_decodes() {
        let (lower, upper) = (Origin::encode(&handle()), Origin::encode_upper(&handle()));
        assert_eq!(Origin::decode(&lower), Origin::Known(handle()));
        assert_eq!(Origin::decode(&upper), Origin::Known(handle()));
        assert_eq!((Origin::is_upper(&lower), Origin::is_upper(&upper)), (false, true));
        let mut longer = lower;
        longer.push(9);
        assert_eq!(Origin::decode(&longer), Origin::Known(handle()));
    }

    #[test]
    fn handles_too_long_for_the_format_are_unknown() {
        let long = Handle { bytes: vec![0; 235], ..handle() };
        assert_eq!(Origin::encode(&long), Vec::<u8>::new());
    }

    #[test]
    fn damaged_values_are_invalid_and_foreign_ones_unknown() {
        let good = Origin::encode(&handle());
        let with = |at: usize, byte: u8| {
            let mut value = good.clone();
            value[at] = byte;
            Origin::decode(&value)
        };
        assert_eq!(Origin::decode(b""), Origin::Unknown);
        assert_eq!(Origin::decode(&good[..20]), Origin::Invalid);
        assert_eq!(Origin::decode(&good[..28]), Origin::Invalid);
        assert_eq!(with(1, 0xfa), Origin::Invalid);
        assert_eq!(with(2, 20), Origin::Invalid);
        assert_eq!(with(2, 30), Origin::Invalid);
        assert_eq!(with(0, 1), Origin::Unknown);
        assert_eq!(with(3, 8), Origin::Unknown);
        assert_eq!(with(3, HOST_ENDIAN ^ BIG_ENDIAN), Origin::Unknown);
        assert_eq!(with(3, HOST_ENDIAN ^ BIG_ENDIAN | ANY_ENDIAN), Origin::Known(handle()));
    }
}
