//! Whiteouts as layer archives have them: `.wh.NAME` hides NAME in the layers below, `.wh..wh..opq` makes its directory
//! opaque (OCI image-spec, layer.md, "Whiteouts").

/// What such names begin with.
const PREFIX: &[u8] = b".wh.";

/// What names begin with that are about their directory.
const SPECIAL: &[u8] = b".wh..wh.";

/// The file that makes its directory opaque.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a file name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// An object of that name.
    Object,
    /// This name is hidden.
    Hides(&'a [u8]),
    /// Something about the directory.
    Special,
}

/// What `name` means in a layer that was unpacked with the whiteouts of its archive.
pub fn meaning(name: &[u8]) -> Meaning<'_> {
    if name.starts_with(SPECIAL) {
        return Meaning::Special;
    }
    match name.strip_prefix(PREFIX) {
        Some(hidden) if !hidden.is_empty() => Meaning::Hides(hidden),
        Some(_) => Meaning::Special,
        None => Meaning::Object,
    }
}

/// The name of the file that hides `name`.
pub fn whiteout_of(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_specification_says() {
        assert_eq!(meaning(b"a"), Meaning::Object);
        assert_eq!(meaning(b".wh"), Meaning::Object);
        assert_eq!(meaning(b"a.wh.b"), Meaning::Object);
        assert_eq!(meaning(b".wh.a"), Meaning::Hides(b"a"));
        assert_eq!(meaning(OPAQUE), Meaning::Special);
        assert_eq!(meaning(b".wh..wh.plnk"), Meaning::Special);
        assert_eq!(meaning(b".wh."), Meaning::Special);
        assert_eq!(whiteout_of(b"a"), b".wh.a");
    }
}
