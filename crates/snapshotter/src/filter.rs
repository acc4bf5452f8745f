//! Which snapshots a listing is asked for: filters as containerd writes them (containerd, package `filters`).
//!
//! A filter is selectors, separated by commas, that all have to hold: a field, and `==` or `!=` with a value; a field
//! alone has to be there. Names and values that are no plain words are in double quotes. Of several filters one has to
//! hold.

use acetate_store::snapshots::Snapshot;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter(Vec<Selector>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Selector {
    field: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Present,
    Equal(String),
    Unequal(String),
}

/// Why a filter is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {text:?}: {what} at byte {at}")]
pub(crate) struct FilterError {
    text: String,
    what: &'static str,
    at: usize,
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// What is wrong with it; patterns (`~=`) are not known.
    pub(crate) fn parse(text: &str) -> Result<Filter, FilterError> {
        let mut scanner = Scanner { text, at: 0 };
        let mut selectors = Vec::new();
        loop {
            let mut field = vec![scanner.word(".,=!~")?];
            while scanner.take(".") {
                field.push(scanner.word(".,=!~")?);
            }
            let test = if scanner.take("==") {
                Test::Equal(scanner.word(",")?)
            } else if scanner.take("!=") {
                Test::Unequal(scanner.word(",")?)
            } else {
                Test::Present
            };
            selectors.push(Selector { field, test });
            if scanner.rest().is_empty() {
                return Ok(Filter(selectors));
            }
            if !scanner.take(",") {
                return Err(scanner.error("neither ==, != nor a comma"));
            }
        }
    }

    /// Whether a snapshot is asked for.
    pub(crate) fn matches(&self, snapshot: &Snapshot) -> bool {
        self.0.iter().all(|selector| {
            let value = value(snapshot, &selector.field);
            match &selector.test {
                Test::Present => value.is_some(),
                Test::Equal(wanted) => value == Some(wanted),
                Test::Unequal(unwanted) => value != Some(unwanted),
            }
        })
    }
}

/// What a field of a snapshot is; `None` if there is none.
fn value<'a>(snapshot: &'a Snapshot, field: &[String]) -> Option<&'a str> {
    let field: Vec<&str> = field.iter().map(String::as_str).collect();
    match field.as_slice() {
        ["name"] => Some(&snapshot.key),
        ["kind"] => Some(snapshot.kind.name()),
        ["parent"] => Some(snapshot.parent.as_deref().unwrap_or_default()),
        // Labels have dots in their names, which not everybody quotes.
        ["labels", label @ ..] => snapshot.labels.get(&label.join(".")).map(String::as_str),
        _ => None,
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, what: &'static str) -> FilterError {
        FilterError { text: self.text.to_owned(), what, at: self.at }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    /// A quoted text, or all up to one of `ends`.
    fn word(&mut self, ends: &str) -> Result<String, FilterError> {
        if self.take("\"") {
            return self.quoted();
        }
        let rest = self.rest();
        let length = rest.find(|c| ends.contains(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.error("a name or value is missing"));
        }
        self.at += length;
        Ok(rest[..length].to_owned())
    }

    /// What follows a quote, up to the next one. A backslash takes what follows it literally; containerd quotes nothing
    /// else in names of snapshots and labels.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let mut word = String::new();
        let mut protected = false;
        for (at, c) in self.rest().char_indices() {
            match c {
                '"' if !protected => {
                    self.at += at + 1;
                    return Ok(word);
                }
                '\\' if !protected => protected = true,
                c => {
                    word.push(c);
                    protected = false;
                }
            }
        }
        Err(self.error("a quote without an end"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn selector(field: &[&str], test: Test) -> Selector {
        Selector { field: field.iter().map(|&word| word.to_owned()).collect(), test }
    }

    #[test]
    fn filters_are_taken_apart() {
        let cases = [
            ("name==a/b", vec![selector(&["name"], Test::Equal("a/b".into()))]),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:12,parent=="a,\"b""#,
                vec![
                    selector(&["labels", "containerd.io/snapshot.ref"], Test::Equal("sha256:12".into())),
                    selector(&["parent"], Test::Equal("a,\"b".into())),
                ],
            ),
            (
                r#"labels.x,kind!="view""#,
                vec![
                    selector(&["labels", "x"], Test::Present),
                    selector(&["kind"], Test::Unequal("view".into())),
                ],
            ),
            (r#"parent=="""#, vec![selector(&["parent"], Test::Equal(String::new()))]),
        ];
        for (text, selectors) in cases {
            assert_eq!(Filter::parse(text).unwrap(), Filter(selectors), "{text}");
        }
        for wrong in ["", "==a", "name==", "name~=a", "name=a", "\"name", "name==a,"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
