//! File names as nodes keep them.

use std::ops::Deref;

/// Names up to this length need no memory of their own: most are shorter.
const SHORT: usize = 22;

/// A file name.
#[derive(Clone)]
pub(crate) enum Name {
    /// So many of the bytes.
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl From<&[u8]> for Name {
    fn from(name: &[u8]) -> Name {
        match u8::try_from(name.len()) {
            Ok(length) if name.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..name.len()].copy_from_slice(name);
                Name::Short(length, bytes)
            }
            _ => Name::Long(name.into()),
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Name::Short(length, bytes) => &bytes[..usize::from(*length)],
            Name::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_come_back() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 255, 256, 5000] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
            assert_eq!(*Name::from(&*bytes), *bytes);
        }
        assert_eq!(size_of::<Name>(), 24);
    }
}
