//! What is printed: names made fit for a terminal, errors with their hints, notes, and answers on stdout.
//!
//! Nothing else in this program turns bytes into text or writes to a standard stream.

use crate::Exit;
use crate::error::Failure;
use rustix::io::Errno;
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::ffi::OsStrExt;

/// Shows bytes as text on one line: control characters, those that turn the direction of writing, and what is no UTF-8,
/// as `\xNN`.
///
/// A backslash stays as it is: this is for reading, not for parsing.
pub(crate) fn shown(bytes: &(impl AsRef<OsStr> + ?Sized)) -> Shown<'_> {
    Shown { bytes: bytes.as_ref().as_bytes(), escape_backslash: false }
}

/// Like [`shown`], but a backslash is doubled, so that the bytes can be told from the text.
pub(crate) fn exact(bytes: &(impl AsRef<OsStr> + ?Sized)) -> String {
    Shown { bytes: bytes.as_ref().as_bytes(), escape_backslash: true }.to_string()
}

/// See [`shown`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    bytes: &'a [u8],
    escape_backslash: bool,
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' if self.escape_backslash => f.write_str("\\\\")?,
                    c if c.is_control() || deceives(c) => {
                        let mut utf8 = [0; 4];
                        c.encode_utf8(&mut utf8).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
                    }
                    c => f.write_char(c)?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Whether a character shows others in another place than they have: line and paragraph separators, and the marks of
/// Unicode's bidirectional algorithm (UAX #9).
fn deceives(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What an errno means, in lower case and without its number.
pub(crate) fn cause(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// Tells the user something that is no error: one line on stderr.
pub(crate) fn note(text: impl Display) {
    talk(&format!("acetate: note: {text}\n"));
}

/// Warns the user: one line on stderr.
pub(crate) fn warn(text: impl Display) {
    talk(&format!("acetate: warning: {text}\n"));
}

/// Writes to stderr in one piece. There is nobody to tell if that fails.
pub(crate) fn talk(text: &str) {
    let _nobody_to_tell = io::stderr().write_all(text.as_bytes());
}

/// Writes an answer to stdout.
///
/// # Errors
/// Those of the write. A reader that has gone away is none: what it wanted it has.
pub(crate) fn answer(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one line of an answer.
///
/// # Errors
/// As [`answer`].
pub(crate) fn answer_line(line: impl Display) -> Result<(), Failure> {
    answer(&format!("{line}\n")).map_err(|error| Failure::io("write the answer", &error))
}

/// Writes a JSON document as the answer.
///
/// # Errors
/// As [`answer`].
pub(crate) fn answer_json(document: &impl Serialize) -> Result<Exit, Failure> {
    let json = serde_json::to_string_pretty(document).map_err(|error| {
        Failure::new(format_args!("write JSON: {error}"), "report this as a mistake of acetate")
    })?;
    answer_line(json)?;
    Ok(Exit::Done)
}

/// Writes rows with their columns aligned.
///
/// # Errors
/// As [`answer`].
pub(crate) fn answer_table(rows: &[Vec<String>]) -> Result<Exit, Failure> {
    answer(&table(rows)).map_err(|error| Failure::io("write the answer", &error))?;
    Ok(Exit::Done)
}

/// Rows as lines, with their columns aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes as people read it.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Whether stdout is for eyes that like colours: a terminal, and `NO_COLOR` is not set (no-color.org).
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_one_line_of_text() {
        let bytes = OsStr::from_bytes("/a b\\ü\n\u{85}\u{1b}".as_bytes());
        assert_eq!(shown(bytes).to_string(), r"/a b\ü\x0a\xc2\x85\x1b");
        assert_eq!(exact(bytes), r"/a b\\ü\x0a\xc2\x85\x1b");
        assert_eq!(shown(OsStr::from_bytes(b"\xffx\xc3")).to_string(), r"\xffx\xc3");
        assert_eq!(shown("txt.\u{202e}exe\u{2028}").to_string(), r"txt.\xe2\x80\xaeexe\xe2\x80\xa8");
    }

    #[test]
    fn sizes_have_units() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn causes_are_plain_words() {
        assert_eq!(cause(Errno::NOENT), "no such file or directory");
        assert_eq!(cause(Errno::LOOP), "too many levels of symbolic links");
    }
}
