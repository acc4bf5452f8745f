//! The options that say how owners are shown, as fuse-overlayfs(1) documents them.

use super::Error;
use acetate_layer::view::{Ids, Range, Records};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// How owners are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    /// `uidmapping=`
    pub(crate) uids: Vec<Range>,
    /// `gidmapping=`
    pub(crate) gids: Vec<Range>,
    /// `squash_to_root`
    pub(crate) squash_to_root: bool,
    /// `squash_to_uid=`
    pub(crate) squash_to_uid: Option<u32>,
    /// `squash_to_gid=`
    pub(crate) squash_to_gid: Option<u32>,
    /// `xattr_permissions=`
    pub(crate) xattr_permissions: Option<Records>,
}

impl Owners {
    /// What comes of it for users: one id for all counts more than a table.
    pub(crate) fn user_ids(&self, overflow: u32) -> Ids {
        ids(self.squash_to_uid, self.squash_to_root, &self.uids, overflow)
    }

    /// What comes of it for groups.
    pub(crate) fn group_ids(&self, overflow: u32) -> Ids {
        ids(self.squash_to_gid, self.squash_to_root, &self.gids, overflow)
    }

    /// The words that say so.
    pub(super) fn words(&self) -> Vec<Vec<u8>> {
        let table = |name: &str, ranges: &[Range]| {
            let triples =
                ranges.iter().map(|range| format!("{}:{}:{}", range.stored, range.shown, range.count));
            (!ranges.is_empty()).then(|| format!("{name}={}", triples.collect::<Vec<_>>().join(":")))
        };
        let number = |name: &str, id: Option<u32>| id.map(|id| format!("{name}={id}"));
        let records = self.xattr_permissions.map(|records| match records {
            Records::Security => "xattr_permissions=1".to_owned(),
            Records::User => "xattr_permissions=2".to_owned(),
        });
        let words = [
            table("uidmapping", &self.uids),
            table("gidmapping", &self.gids),
            self.squash_to_root.then(|| "squash_to_root".to_owned()),
            number("squash_to_uid", self.squash_to_uid),
            number("squash_to_gid", self.squash_to_gid),
            records,
        ];
        words.into_iter().flatten().map(String::into_bytes).collect()
    }
}

fn ids(one: Option<u32>, root: bool, ranges: &[Range], overflow: u32) -> Ids {
    match one.or(root.then_some(0)) {
        Some(id) => Ids::All(id),
        None if ranges.is_empty() => Ids::Same,
        None => Ids::Mapped { ranges: ranges.to_vec(), overflow },
    }
}

/// The lower layers whose whiteouts are those of layer archives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveLayers {
    /// All of them.
    All,
    /// These, counted from 1, the topmost.
    Some(Vec<usize>),
}

impl ArchiveLayers {
    /// Whether the lower layer of that index, from 0, is one of them.
    pub(crate) fn contain(&self, index: usize) -> bool {
        match self {
            ArchiveLayers::All => true,
            ArchiveLayers::Some(numbers) => numbers.contains(&(index + 1)),
        }
    }

    /// Reads `1:3`.
    pub(super) fn parse(value: &[u8]) -> Result<ArchiveLayers, Error> {
        let wrong = || number_expected("oci_whiteouts", value);
        let numbers = text(value).split(':').map(|number| number.parse::<usize>().ok().filter(|n| *n > 0));
        numbers.collect::<Option<Vec<_>>>().map(ArchiveLayers::Some).ok_or_else(wrong)
    }

    /// The word that says so.
    pub(super) fn word(&self) -> Vec<u8> {
        match self {
            ArchiveLayers::All => b"oci_whiteouts".to_vec(),
            ArchiveLayers::Some(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                format!("oci_whiteouts={}", numbers.join(":")).into_bytes()
            }
        }
    }
}

/// Reads a table of ids, `ID:SHOWN-ID:COUNT[:...]`. Container engines put a colon in front.
///
/// # Errors
/// Anything that is no list of triples of numbers, or a range that is empty or ends behind the last id.
pub(super) fn ranges(option: &'static str, value: &[u8]) -> Result<Vec<Range>, Error> {
    let wrong = || Error::Value {
        option,
        value: OsStr::from_bytes(value).into(),
        allowed: vec!["ID:SHOWN-ID:COUNT[:ID:SHOWN-ID:COUNT]..."],
    };
    let numbers: Option<Vec<u32>> = text(value).trim_start_matches(':').split(':').map(decimal).collect();
    let numbers = numbers.ok_or_else(wrong)?;
    let (triples, rest) = numbers.as_chunks::<3>();
    let fits = |first: u32, count: u32| count > 0 && first.checked_add(count - 1).is_some();
    let valid = |[stored, shown, count]: &[u32; 3]| fits(*stored, *count) && fits(*shown, *count);
    if !rest.is_empty() || !triples.iter().all(valid) {
        return Err(wrong());
    }
    Ok(triples
        .iter()
        .map(|[stored, shown, count]| Range { stored: *stored, shown: *shown, count: *count })
        .collect())
}

/// Whether a word goes on with the table before it: `uidmapping=0:10:100,100:10000:2000`.
pub(super) fn goes_on(word: &[u8]) -> bool {
    word.contains(&b':') && word.iter().all(|byte| byte.is_ascii_digit() || *byte == b':')
}

/// Reads one id.
pub(super) fn id(option: &'static str, value: &[u8]) -> Result<u32, Error> {
    // The last number stands for "no id".
    decimal(text(value)).filter(|id| *id != u32::MAX).ok_or_else(|| number_expected(option, value))
}

/// Reads the value of `xattr_permissions`.
pub(super) fn records(value: &[u8]) -> Result<Option<Records>, Error> {
    match value {
        b"0" => Ok(None),
        b"1" => Ok(Some(Records::Security)),
        b"2" => Ok(Some(Records::User)),
        _ => Err(Error::Value {
            option: "xattr_permissions",
            value: OsStr::from_bytes(value).into(),
            allowed: vec!["0", "1", "2"],
        }),
    }
}

fn number_expected(option: &'static str, value: &[u8]) -> Error {
    Error::Value { option, value: OsStr::from_bytes(value).into(), allowed: vec!["a number"] }
}

fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

fn decimal(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
