//! Redirects: where a directory or metacopy file goes on in the layers below.

/// Where the layers below are searched instead of the object's own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Redirect {
    /// This name in the same parent.
    Relative(Vec<u8>),
    /// These components from the root of each layer below; at least one.
    Absolute(Vec<Vec<u8>>),
}

/// A redirect that no overlay would write: looking up its object fails with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Invalid;

impl Redirect {
    /// Reads the value of [`Mark::Redirect`](super::Mark::Redirect).
    ///
    /// The kernel takes the value as a C string: what follows a NUL does not count.
    ///
    /// # Errors
    /// [`Invalid`] for an empty value, a lone `/`, empty components, a trailing slash, or a slash within a
    /// relative redirect.
    pub fn parse(value: &[u8]) -> Result<Self, Invalid> {
        let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
        if let Some(path) = value.strip_prefix(b"/") {
            let components: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect();
            if components.iter().any(Vec::is_empty) {
                return Err(Invalid);
            }
            return Ok(Self::Absolute(components));
        }
        if value.is_empty() || value.contains(&b'/') {
            return Err(Invalid);
        }
        Ok(Self::Relative(value.to_vec()))
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Relative(name) => name.clone(),
            Self::Absolute(components) => {
                let mut value = Vec::new();
                for component in components {
                    value.push(b'/');
                    value.extend_from_slice(component);
                }
                value
            }
        }
    }

    /// Whether a component is `.` or `..`: following it in a layer fails with `EACCES`.
    pub fn has_dots(&self) -> bool {
        let dots = |name: &Vec<u8>| matches!(name.as_slice(), b"." | b"..");
        match self {
            Self::Relative(name) => dots(name),
            Self::Absolute(components) => components.iter().any(dots),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_redirects_round_trip() {
        let absolute = |names: &[&[u8]]| Redirect::Absolute(names.iter().map(|name| name.to_vec()).collect());
        let cases: [(&[u8], Redirect); 5] = [
            (b"a", Redirect::Relative(b"a".to_vec())),
            (b"a b\xff", Redirect::Relative(b"a b\xff".to_vec())),
            (b"/a", absolute(&[b"a"])),
            (b"/a/b/c", absolute(&[b"a", b"b", b"c"])),
            (b"/a/../c", absolute(&[b"a", b"..", b"c"])),
        ];
        for (value, expected) in cases {
            let parsed = Redirect::parse(value);
            assert_eq!(parsed, Ok(expected.clone()), "{value:?}");
            assert_eq!(expected.encode(), value);
        }
    }

    #[test]
    fn invalid_redirects_are_refused() {
        let cases: [&[u8]; 9] = [b"", b"/", b"//", b"//x", b"/x/", b"/x//y", b"a/b", b"a/", b"\0a"];
        for value in cases {
            assert_eq!(Redirect::parse(value), Err(Invalid), "{value:?}");
        }
    }

    #[test]
    fn a_nul_ends_the_value() {
        assert_eq!(Redirect::parse(b"a\0b/c"), Ok(Redirect::Relative(b"a".to_vec())));
    }

    #[test]
    fn dots_are_told_apart() {
        let cases: [(&[u8], bool); 6] = [
            (b".", true),
            (b"..", true),
            (b"...", false),
            (b"/a/.", true),
            (b"/../a", true),
            (b"/a/.b", false),
        ];
        for (value, expected) in cases {
            assert_eq!(Redirect::parse(value).map(|redirect| redirect.has_dots()), Ok(expected), "{value:?}");
        }
    }
}
