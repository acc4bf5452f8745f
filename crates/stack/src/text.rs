//! Changes as a unified diff, as diff(1) and patch(1) have it.

use std::fmt::Write as _;
use std::io::Read;

use acetate_layer::Kind;
use similar::TextDiff;

use crate::diff::{Change, How};
use crate::node::Node;
use crate::view::View;
use crate::{Error, Result, failed};

/// The largest file whose text is compared, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// How two files are told apart in a unified diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Lines from `@@` on.
    Hunks(String),
    /// At least one is no UTF-8 text, or too large.
    Binary,
    /// Not a regular file, or its content is the same.
    Nothing,
}

/// The difference of content that a change makes; `None` in place of a path stands for an empty file.
///
/// # Errors
/// A layer that cannot be read.
pub fn of(old: View<'_>, new: View<'_>, change: &Change) -> Result<Text> {
    let before = match &change.how {
        How::Added | How::Touched => None,
        How::Deleted | How::Changed(_) => Some(change.path.as_slice()),
        How::Renamed { from, .. } => Some(from.as_slice()),
    };
    let after = (change.how != How::Deleted).then_some(change.path.as_slice());
    let texts = [read(old, before)?, read(new, after)?];
    let [Some(before), Some(after)] = texts else { return Ok(Text::Nothing) };
    if before == after {
        return Ok(Text::Nothing);
    }
    let [Ok(before), Ok(after)] = [before, after].map(text) else { return Ok(Text::Binary) };
    let diff = TextDiff::from_lines(before.as_str(), after.as_str());
    let mut hunks = String::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        // Writing to a String cannot fail.
        let _infallible = write!(hunks, "{hunk}");
    }
    Ok(Text::Hunks(hunks))
}

/// A text, if that is what the bytes are.
fn text(bytes: Option<Vec<u8>>) -> std::result::Result<String, ()> {
    let bytes = bytes.ok_or(())?;
    if bytes.contains(&0) {
        return Err(());
    }
    String::from_utf8(bytes).map_err(drop)
}

/// The content of a regular file: `None` if it is something else, `Some(None)` if it is too large to be compared. Where
/// there is no file, it is empty.
fn read(view: View<'_>, path: Option<&[u8]>) -> Result<Option<Option<Vec<u8>>>> {
    let Some(path) = path else { return Ok(Some(Some(Vec::new()))) };
    let node: Node = view.find(path)?;
    let Some((_, object)) = node.winner().filter(|(_, object)| object.stat.kind == Kind::File) else {
        return Ok(None);
    };
    if object.stat.size > MAX_BYTES {
        return Ok(Some(None));
    }
    let mut bytes = Vec::new();
    view.data(path, &node)?.read_to_end(&mut bytes).map_err(|error| -> Error {
        failed(path, "read")(acetate_layer::Errno::from_io_error(&error).unwrap_or(acetate_layer::Errno::IO))
    })?;
    Ok(Some(Some(bytes)))
}
