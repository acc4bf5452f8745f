//! The setup notation: one token makes or changes one thing in one layer.
//!
//! `LAYER:` is `U` (upper), `L` or `L1` (top lower), `L2`, `L3` and so on. After it, with missing parents made:
//! `p=text` file, `p/` directory, `p->t` symlink, `p~` fifo, `p%` device whiteout, `p==q` hard link to q of the same
//! layer, `p!0755` chmod, `p^1000` chown of user and group, `p@name=val` set xattr (a name without dot gets the prefix
//! `trusted.overlay.`). An empty `p` is the layer's root. Order matters: tokens are applied from left to right.

use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags, chmod, chownat, linkat, lsetxattr, mkdirat, mknodat,
    symlinkat,
};

/// A layer by its place in the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// The writable layer.
    Upper,
    /// A lower layer; 0 is the topmost.
    Lower(usize),
}

/// What a token does to its path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action<'a> {
    File(&'a str),
    Dir,
    Symlink(&'a str),
    Fifo,
    Whiteout,
    HardLink(&'a str),
    Chmod(u32),
    Chown(u32),
    Xattr(String, &'a str),
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// The layer it changes.
    pub layer: Layer,
    path: &'a str,
    action: Action<'a>,
}

/// Splits `L2:rest` into the layer and `rest`.
pub(super) fn layer_and_path(text: &str) -> anyhow::Result<(Layer, &str)> {
    let (name, rest) = text.split_once(':').with_context(|| format!("{text:?} names no layer"))?;
    let layer = match name {
        "U" => Layer::Upper,
        "L" => Layer::Lower(0),
        _ => {
            let number: usize = name
                .strip_prefix('L')
                .and_then(|digits| digits.parse().ok())
                .filter(|number| *number > 0)
                .with_context(|| format!("{name:?} is no layer"))?;
            Layer::Lower(number - 1)
        }
    };
    Ok((layer, rest))
}

impl<'a> Token<'a> {
    /// Reads one token.
    pub fn parse(text: &'a str) -> anyhow::Result<Self> {
        let (layer, rest) = layer_and_path(text)?;
        // The first mark decides: values may hold further marks.
        let at = rest
            .char_indices()
            .find(|(i, c)| "=@!^~%".contains(*c) || rest[*i..].starts_with("->"))
            .map_or(rest.len(), |(i, _)| i);
        let (path, tail) = rest.split_at(at);
        let action = match tail {
            "" => match path.strip_suffix('/') {
                Some(_) => Action::Dir,
                None => bail!("{text:?} says nothing to make"),
            },
            "~" => Action::Fifo,
            "%" => Action::Whiteout,
            _ => Self::parse_valued(tail).with_context(|| format!("in {text:?}"))?,
        };
        Ok(Self { layer, path: path.trim_end_matches('/'), action })
    }

    /// Reads the marks that a value follows.
    fn parse_valued(tail: &'a str) -> anyhow::Result<Action<'a>> {
        if let Some(target) = tail.strip_prefix("->") {
            return Ok(Action::Symlink(target));
        }
        if let Some(other) = tail.strip_prefix("==") {
            return Ok(Action::HardLink(other));
        }
        let value = &tail[1..];
        Ok(match tail.as_bytes()[0] {
            b'=' => Action::File(value),
            b'!' => Action::Chmod(u32::from_str_radix(value, 8)?),
            b'^' => Action::Chown(value.parse()?),
            b'@' => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                let name =
                    if name.contains('.') { name.to_owned() } else { format!("trusted.overlay.{name}") };
                Action::Xattr(name, value)
            }
            _ => bail!("unknown mark"),
        })
    }

    /// Carries the token out in the layer directory `root`.
    pub fn apply(&self, root: &Path) -> anyhow::Result<()> {
        // Joining an empty path would add a slash, which is the same directory.
        let path = root.join(self.path);
        if let Some(parent) = path.parent().filter(|parent| parent.starts_with(root)) {
            make_dirs(root, parent)?;
        }
        self.act(root, &path).with_context(|| format!("cannot set up {self:?}"))
    }

    fn act(&self, root: &Path, path: &Path) -> anyhow::Result<()> {
        match &self.action {
            Action::File(text) => {
                std::fs::write(path, text)?;
                chmod(path, Mode::from_raw_mode(0o644))?;
            }
            Action::Dir => make_dirs(root, path)?,
            Action::Symlink(target) => symlinkat(*target, CWD, path)?,
            Action::Fifo => {
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
            }
            Action::Whiteout => mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?,
            Action::HardLink(other) => linkat(CWD, root.join(other), CWD, path, AtFlags::empty())?,
            Action::Chmod(mode) => chmod(path, Mode::from_raw_mode(*mode))?,
            Action::Chown(id) => {
                let (uid, gid) = (Uid::from_raw(*id), Gid::from_raw(*id));
                chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Action::Xattr(name, value) => {
                lsetxattr(path, name.as_str(), value.as_bytes(), XattrFlags::empty())?;
            }
        }
        Ok(())
    }
}

/// Makes `path` and its missing parents below `root`, mode 0755 whatever the umask.
fn make_dirs(root: &Path, path: &Path) -> anyhow::Result<()> {
    if path == root || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(root, parent)?;
    }
    mkdirat(CWD, path, Mode::from_raw_mode(0o755)).with_context(|| format!("mkdir {}", path.display()))?;
    chmod(path, Mode::from_raw_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_mark_decides() {
        let cases = [
            ("U:a=", Layer::Upper, "a", Action::File("")),
            ("L:a=x->y", Layer::Lower(0), "a", Action::File("x->y")),
            ("L2:d/s/", Layer::Lower(1), "d/s", Action::Dir),
            ("L:l->t", Layer::Lower(0), "l", Action::Symlink("t")),
            ("L:g==f", Layer::Lower(0), "g", Action::HardLink("f")),
            ("L3:p~", Layer::Lower(2), "p", Action::Fifo),
            ("U:d/a%", Layer::Upper, "d/a", Action::Whiteout),
            ("U:!0700", Layer::Upper, "", Action::Chmod(0o700)),
            ("L:f^9", Layer::Lower(0), "f", Action::Chown(9)),
            ("U:d@redirect=/x", Layer::Upper, "d", Action::Xattr("trusted.overlay.redirect".into(), "/x")),
            (
                "L:f@user.overlay.metacopy",
                Layer::Lower(0),
                "f",
                Action::Xattr("user.overlay.metacopy".into(), ""),
            ),
        ];
        for (text, layer, path, action) in cases {
            assert_eq!(Token::parse(text).unwrap(), Token { layer, path, action }, "{text}");
        }
        for bad in ["a=1", "L0:a=1", "X:a=1", "L:a", "L:a!9"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
