//! Option text to [`Options`], word by word from left to right.

use super::names::{FLAGS, Flags, IGNORED, IGNORED_WITH_VALUE, LATER, PLAIN, VALUED, meant};
use super::owners::{self, ArchiveLayers};
use super::{Error, Fsync, MAX_LOWERS, Options, Role};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What happens to words that are no option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They are an error.
    Refuse,
    /// They are passed over (mount(8), `-s`).
    Ignore,
}

/// What was parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The options in force.
    pub(crate) options: Options,
    /// Every layer path in the order of mention, those included that a later option replaces: the kernel looks at
    /// all of them.
    pub(crate) mentioned: Vec<(Role, OsString)>,
}

/// Parses option strings, each a list of words separated by commas.
///
/// # Errors
/// The first word that is wrong.
pub(crate) fn parse<S: AsRef<OsStr>>(strings: &[S], unknown: Unknown) -> Result<Parsed, Error> {
    let mut parser = Parser { parsed: Parsed::default(), source: LowerSource::None, unknown, table: None };
    for string in strings {
        for word in words(string.as_ref().as_bytes()) {
            parser.word(word)?;
        }
    }
    Ok(parser.parsed)
}

/// What stands before the quotes of an SELinux label.
const LABELS: &[&[u8]] = &[b"context=", b"fscontext=", b"defcontext=", b"rootcontext="];

/// Splits at commas that no backslash protects, nor the quotes around an SELinux label. Backslashes stay.
fn words(text: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut start = 0;
    let (mut protected, mut quoted) = (false, false);
    for (i, &byte) in text.iter().enumerate() {
        if byte == b'"' {
            quoted = !quoted && LABELS.contains(&&text[start..i]);
        }
        if byte == b',' && !protected && !quoted {
            words.push(&text[start..i]);
            start = i + 1;
        }
        protected = byte == b'\\' && !protected;
    }
    words.push(&text[start..]);
    words
}

/// Drops backslashes and takes what follows each of them literally.
fn unescape(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    OsString::from_vec(out)
}

/// Which option has given the lower layers so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LowerSource {
    None,
    /// `lowerdir`
    List,
    /// `lowerdir+`
    Single,
    /// `datadir+`, after which no more regular layers come.
    Data,
}

struct Parser {
    parsed: Parsed,
    source: LowerSource,
    unknown: Unknown,
    /// The table of ids that the word before was about.
    table: Option<&'static str>,
}

impl Parser {
    fn word(&mut self, word: &[u8]) -> Result<(), Error> {
        match self.table {
            Some(option) if owners::goes_on(word) => return self.add_ranges(option, word),
            _ => self.table = None,
        }
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        if word.is_empty() || name.starts_with(b"x-") || name.starts_with(b"X-") {
            return Ok(());
        }
        let known = std::str::from_utf8(name).unwrap_or_default();
        if let Some(option) = VALUED.iter().find(|option| **option == known) {
            return self.valued(option, value.ok_or(Error::NoValue { option })?);
        }
        if value.is_some() && IGNORED_WITH_VALUE.contains(&known) {
            return Ok(());
        }
        if let ("oci_whiteouts", Some(value)) = (known, value) {
            self.parsed.options.oci_whiteouts = Some(ArchiveLayers::parse(value)?);
            return Ok(());
        }
        if LATER.contains(&known) {
            let instead = "leave it out; docs/cli.md lists what works";
            return Err(Error::NotYet { option: known.into(), instead });
        }
        let flag = FLAGS.iter().find(|(flag, ..)| *flag == known);
        if flag.is_none() && !PLAIN.contains(&known) && !IGNORED.contains(&known) {
            return match self.unknown {
                Unknown::Ignore => Ok(()),
                Unknown::Refuse => {
                    Err(Error::Unknown { word: OsStr::from_bytes(name).into(), meant: meant(known) })
                }
            };
        }
        if let Some(value) = value {
            return Err(Error::HasValue { option: known.into(), value: OsStr::from_bytes(value).into() });
        }
        let options = &mut self.parsed.options;
        if let Some((_, set, clear)) = flag {
            options.flags = Flags(options.flags.0.difference(*clear).union(*set));
        }
        match known {
            "volatile" => options.fsync = Some(Fsync::Volatile),
            "userxattr" => options.userxattr = true,
            "squash_to_root" => options.owners.squash_to_root = true,
            "static_nlink" => options.static_nlink = true,
            "noacl" => options.noacl = true,
            "ino32_t" => options.ino32 = true,
            "oci_whiteouts" => options.oci_whiteouts = Some(ArchiveLayers::All),
            "foreign_opaque" => options.foreign_opaque = true,
            "allow_other" => options.allow_other = true,
            "remount" => options.remount = true,
            _ => {}
        }
        Ok(())
    }

    fn valued(&mut self, option: &'static str, value: &[u8]) -> Result<(), Error> {
        let options = &mut self.parsed.options;
        match option {
            "redirect_dir" => options.redirect_dir = Some(choose(option, value, super::RedirectDir::ALL)?),
            "metacopy" => options.metacopy = Some(choose(option, value, super::Switch::ALL)?),
            "index" => options.index = Some(choose(option, value, super::Switch::ALL)?),
            "nfs_export" => options.nfs_export = Some(choose(option, value, super::Switch::ALL)?),
            "xino" => options.xino = Some(choose(option, value, super::Xino::ALL)?),
            "uuid" => options.uuid = Some(choose(option, value, super::Uuid::ALL)?),
            "verity" => options.verity = Some(choose(option, value, super::Verity::ALL)?),
            "fsync" => options.fsync = Some(choose(option, value, Fsync::ALL)?),
            "lower" => options.lower = Some(choose(option, value, super::LowerChanges::ALL)?),
            "takeover" => options.takeover = Some(choose(option, value, super::Switch::ALL)?),
            "busy_poll" => options.busy_poll = Some(choose(option, value, super::BusyPoll::ALL)?),
            "compat" => options.compat = Some(choose(option, value, super::Compat::ALL)?),
            "uidmapping" | "gidmapping" => {
                let owners = &mut options.owners;
                let ranges = if option == "uidmapping" { &mut owners.uids } else { &mut owners.gids };
                ranges.clear();
                self.table = Some(option);
                return self.add_ranges(option, value);
            }
            "squash_to_uid" => options.owners.squash_to_uid = Some(owners::id(option, value)?),
            "squash_to_gid" => options.owners.squash_to_gid = Some(owners::id(option, value)?),
            "xattr_permissions" => options.owners.xattr_permissions = owners::records(value)?,
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                let word = [option.as_bytes(), b"=", label(option, value)?].concat();
                options.contexts.push(OsString::from_vec(word));
            }
            "fsname" => options.fsname = Some(unescape(not_empty(option, value)?)),
            "upperdir" => {
                let path = unescape(not_empty(option, value)?);
                self.parsed.mentioned.push((Role::Upper, path.clone()));
                options.upper = Some(path);
            }
            "workdir" => {
                let path = unescape(not_empty(option, value)?);
                self.parsed.mentioned.push((Role::Work, path.clone()));
                options.work = Some(path);
            }
            "lowerdir" => return self.lower_list(value),
            _ => return self.single_layer(option, value),
        }
        Ok(())
    }

    /// `lowerdir=`: replaces all lower layers given so far.
    fn lower_list(&mut self, value: &[u8]) -> Result<(), Error> {
        self.source = LowerSource::List;
        let (lowers, data) = split_layers(value)?;
        for (role, list) in [(Role::Lower, &lowers), (Role::Data, &data)] {
            self.parsed.mentioned.extend(list.iter().map(|path| (role, path.clone())));
        }
        self.parsed.options.lowers = lowers;
        self.parsed.options.data = data;
        self.count()
    }

    /// `lowerdir+=` and `datadir+=`: one more layer; the value is the path, no character is special.
    fn single_layer(&mut self, option: &'static str, value: &[u8]) -> Result<(), Error> {
        let path: OsString = OsStr::from_bytes(not_empty(option, value)?).into();
        let data = option == "datadir+";
        match self.source {
            LowerSource::List => return Err(Error::Order { option, earlier: "lowerdir" }),
            LowerSource::Data if !data => return Err(Error::Order { option, earlier: "datadir+" }),
            LowerSource::None | LowerSource::Single | LowerSource::Data => {}
        }
        let (role, source, list) = if data {
            (Role::Data, LowerSource::Data, &mut self.parsed.options.data)
        } else {
            (Role::Lower, LowerSource::Single, &mut self.parsed.options.lowers)
        };
        self.source = source;
        list.push(path.clone());
        self.parsed.mentioned.push((role, path));
        self.count()
    }

    fn add_ranges(&mut self, option: &'static str, value: &[u8]) -> Result<(), Error> {
        let more = owners::ranges(option, value)?;
        let owners = &mut self.parsed.options.owners;
        if option == "uidmapping" {
            owners.uids.extend(more)
        } else {
            owners.gids.extend(more)
        }
        Ok(())
    }

    fn count(&self) -> Result<(), Error> {
        let count = self.parsed.options.lowers.len() + self.parsed.options.data.len();
        if count > MAX_LOWERS { Err(Error::TooMany { count }) } else { Ok(()) }
    }
}

/// An SELinux label, with or without quotes, that ends where its word ends.
fn label<'a>(option: &'static str, value: &'a [u8]) -> Result<&'a [u8], Error> {
    let is_open = value.strip_prefix(b"\"").is_some_and(|rest| !rest.contains(&b'"'));
    if is_open || value.ends_with(b"\\") {
        return Err(Error::Label { option, value: OsStr::from_bytes(value).into() });
    }
    not_empty(option, value)
}

fn not_empty<'a>(option: &'static str, value: &'a [u8]) -> Result<&'a [u8], Error> {
    if value.is_empty() { Err(Error::NoValue { option }) } else { Ok(value) }
}

/// The value whose word this is, letter by letter.
fn choose<T: Copy>(option: &'static str, value: &[u8], all: &[(T, &'static str)]) -> Result<T, Error> {
    all.iter().find(|(_, word)| word.as_bytes() == value).map(|(value, _)| *value).ok_or_else(|| {
        Error::Value {
            option,
            value: OsStr::from_bytes(value).into(),
            allowed: all.iter().map(|(_, word)| *word).collect(),
        }
    })
}

/// Splits a list of layers into regular and data-only ones. An empty list is no layers.
fn split_layers(value: &[u8]) -> Result<(Vec<OsString>, Vec<OsString>), Error> {
    let wrong = |what| Error::List { what, value: OsStr::from_bytes(value).into() };
    let (mut lowers, mut data) = (Vec::new(), Vec::new());
    if value.is_empty() {
        return Ok((lowers, data));
    }
    // Colons in front of the element that is being read.
    let mut colons = 0;
    for element in elements(value) {
        if element.is_empty() {
            colons += 1;
            continue;
        }
        match colons {
            0 if data.is_empty() => lowers.push(unescape(element)),
            0 => return Err(wrong("a regular layer follows a data-only one")),
            1 if !lowers.is_empty() => data.push(unescape(element)),
            1 => return Err(wrong("a colon at the beginning")),
            _ => return Err(wrong("too many colons in a row")),
        }
        colons = 0;
    }
    if colons > 0 {
        return Err(wrong("a colon at the end"));
    }
    Ok((lowers, data))
}

/// Splits at colons that no backslash protects. Backslashes stay.
fn elements(list: &[u8]) -> Vec<&[u8]> {
    let mut elements = Vec::new();
    let mut start = 0;
    let mut protected = false;
    for (i, &byte) in list.iter().enumerate() {
        if byte == b':' && !protected {
            elements.push(&list[start..i]);
            start = i + 1;
        }
        protected = byte == b'\\' && !protected;
    }
    elements.push(&list[start..]);
    elements
}
