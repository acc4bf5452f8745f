//! Committed lists of test cases that may fail on a mount, each with its reason.
//!
//! Text, in paragraphs: the first line of each is the reason, the others are names of test cases. `#` starts a
//! comment line. A name without a reason, or named twice, is refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail};

/// Names of test cases with the reason why they fail on a mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    reasons: BTreeMap<String, String>,
}

impl Known {
    /// Reads the list in `file`.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        text.parse().with_context(|| format!("in {}", file.display()))
    }

    /// Why `name` may fail; `None` if it is not in the list.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.reasons.get(name).map(String::as_str)
    }

    /// The names in the list.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.reasons.keys().map(String::as_str)
    }
}

impl FromStr for Known {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut known = Self::default();
        let mut reason: Option<&str> = None;
        let mut named = 0;
        // A last empty line closes the last paragraph.
        for line in text.lines().chain([""]).map(str::trim) {
            if line.starts_with('#') {
                continue;
            }
            match (line.is_empty(), reason) {
                (true, Some(text)) if named == 0 => bail!("reason without a test case: {text}"),
                (true, _) => (reason, named) = (None, 0),
                (false, None) => reason = Some(line),
                (false, Some(text)) => {
                    named += 1;
                    if known.reasons.insert(line.to_owned(), text.to_owned()).is_some() {
                        bail!("listed twice: {line}");
                    }
                }
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_name_has_a_reason() {
        let known: Known = "# about\n\nfirst\na::b\nc\n\nsecond reason\nd\n".parse().unwrap();
        assert_eq!(known.names().collect::<Vec<_>>(), ["a::b", "c", "d"]);
        assert_eq!((known.reason("c"), known.reason("d")), (Some("first"), Some("second reason")));
        assert_eq!(known.reason("first"), None);
        assert!("a reason alone\n".parse::<Known>().is_err());
        assert!("r\na\n\nq\na\n".parse::<Known>().is_err());
    }
}
