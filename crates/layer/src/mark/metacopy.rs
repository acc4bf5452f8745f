//! The value of the mark `metacopy`: empty, or the fs-verity digest that the data has to have.

/// The bytes before the digest: version, total length, flags, algorithm.
const HEADER: usize = 4;
const VERSION: u8 = 0;
/// The longest digest, in bytes.
const LONGEST: usize = 64;

/// What fs-verity says of the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// `FS_VERITY_HASH_ALG_*`: 1 is SHA-256, 2 SHA-512.
    pub algorithm: u8,
    /// The digest.
    pub bytes: Vec<u8>,
}

/// A value that no overlay would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenMetacopy;

impl Digest {
    /// The value of the mark for data with this digest, or with none.
    pub fn encode(digest: Option<&Digest>) -> Vec<u8> {
        let Some(digest) = digest.filter(|digest| digest.bytes.len() <= LONGEST) else {
            return Vec::new();
        };
        let mut value = vec![VERSION, (HEADER + digest.bytes.len()) as u8, 0, digest.algorithm];
        value.extend_from_slice(&digest.bytes);
        value
    }

    /// The digest in a value; `None` if it holds none.
    ///
    /// # Errors
    /// [`BrokenMetacopy`] for a value that is cut off, has another version or another length than it says.
    pub fn decode(value: &[u8]) -> Result<Option<Digest>, BrokenMetacopy> {
        match value {
            // A header alone is not looked at, as in the kernel.
            [] | [_, _, _, _] => Ok(None),
            [VERSION, len, _, algorithm, bytes @ ..]
                if usize::from(*len) == value.len() && bytes.len() <= LONGEST =>
            {
                let digest = Digest { algorithm: *algorithm, bytes: bytes.to_vec() };
                Ok((digest.algorithm != 0).then_some(digest))
            }
            _ => Err(BrokenMetacopy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        let digest = Digest { algorithm: 1, bytes: vec![7; 32] };
        let value = Digest::encode(Some(&digest));
        assert_eq!(value[..4], [0, 36, 0, 1]);
        assert_eq!(Digest::decode(&value), Ok(Some(digest)));
        assert_eq!(Digest::decode(&Digest::encode(None)), Ok(None));
        assert_eq!(Digest::encode(Some(&Digest { algorithm: 1, bytes: vec![0; 65] })), Vec::<u8>::new());
    }

    #[test]
    fn other_values_are_broken_or_hold_none() {
        assert_eq!(Digest::decode(&[0, 4, 0, 0]), Ok(None));
        assert_eq!(Digest::decode(&[1, 36, 0, 1]), Ok(None));
        let broken: [&[u8]; 5] = [&[0], &[0, 4, 0], &[1, 5, 0, 1, 9], &[0, 6, 0, 1, 9], &[0, 4, 0, 1, 9]];
        for value in broken {
            assert_eq!(Digest::decode(value), Err(BrokenMetacopy), "{value:?}");
        }
    }
}
