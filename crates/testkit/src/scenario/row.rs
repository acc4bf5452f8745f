//! The recorded rows: what to build, what to do, and what the kernel answered.

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::driver::Driver;

/// The recorded rows as committed, JSON: a list of [`Row`]s and of group titles.
pub const RECORDED: &str = include_str!("../../../../tests/data/overlayfs-matrix.json");

/// One scenario with what Linux 6.18 overlayfs did.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Short name, unique: group letter and number.
    pub id: String,
    /// Layers to build: tokens separated by spaces, see [`super::setup`].
    pub setup: String,
    /// Mount options besides the layers, separated by commas.
    pub opts: String,
    /// Operations separated by ` ; `, see [`super::ops`].
    pub ops: String,
    /// What each operation answered, separated by ` ; `.
    pub res: String,
    /// The tree seen through the mount afterwards; empty: not recorded.
    pub vis: String,
    /// The upper directory afterwards; empty: not recorded.
    pub up: String,
    /// The index directory afterwards; empty: not recorded, or there is none.
    pub idx: String,
    /// Filesystem of all layers; empty: ext4, the only value in use.
    pub fs: String,
    /// Filesystem of each lower layer if not that of the others; `e4b` is a second ext4.
    pub lfs: Option<Vec<String>>,
    /// Whether there is a writable layer.
    pub upper: bool,
    /// The form of `lowerdir` if not all layers in order: `{0}::{1}` for one layer and one data-only layer.
    pub lower: Option<String>,
}

/// What a row led to, in the notation of the recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// As [`Row::res`].
    pub res: String,
    /// As [`Row::vis`].
    pub vis: String,
    /// As [`Row::up`].
    pub up: String,
    /// As [`Row::idx`].
    pub idx: String,
    /// What the mount command said when it refused; not compared.
    pub refusal: Option<String>,
}

/// One difference between recording and replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `results`, `visible`, `upper` or `index`.
    pub what: &'static str,
    /// What the kernel did when it was recorded.
    pub expected: String,
    /// What happened now.
    pub got: String,
}

/// An item of the file: group titles stand between the rows.
#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Title {
        #[serde(rename = "g")]
        _title: String,
    },
    Row(Box<Row>),
}

/// Reads the rows of a recording and checks that this runner knows everything they ask for.
pub fn load(json: &str) -> anyhow::Result<Vec<Row>> {
    let items: Vec<Item> = serde_json::from_str(json).context("the scenario file is malformed")?;
    let rows: Vec<Row> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::Title { .. } => None,
            Item::Row(row) => Some(*row),
        })
        .collect();
    for row in &rows {
        if !row.fs.is_empty() {
            bail!("row {}: unknown filesystem {:?}", row.id, row.fs);
        }
        if let Some(other) = row.lfs.iter().flatten().find(|kind| *kind != SECOND_EXT4) {
            bail!("row {}: unknown filesystem {other:?} of a lower layer", row.id);
        }
    }
    Ok(rows)
}

/// The word in [`Row::lfs`] for a second ext4 filesystem.
pub(super) const SECOND_EXT4: &str = "e4b";

impl Row {
    /// The operations, in order.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.ops.split(" ; ").filter(|op| !op.is_empty())
    }

    /// Whether any mount of this row keeps an index.
    fn has_index(&self) -> bool {
        let remounts = self.operations().filter_map(|op| op.strip_prefix("remount "));
        std::iter::once(self.opts.as_str())
            .chain(remounts)
            .flat_map(|opts| opts.split(','))
            .any(|opt| matches!(opt, "index=on" | "nfs_export=on"))
    }

    /// Compares `got` with the recording; what was not recorded is not compared.
    ///
    /// A refused mount is recorded with its errno, which a command does not tell: there only the refusal counts.
    pub fn differences(&self, got: &Outcome, driver: &Driver) -> Vec<Difference> {
        let res = match driver {
            Driver::Acetate { .. } if self.res.starts_with("mount: ") => super::REFUSED,
            _ => self.res.as_str(),
        };
        let index_unknown = self.idx.is_empty() && self.has_index();
        let compared = [
            ("results", res, &got.res, true),
            ("visible", &self.vis, &got.vis, !self.vis.is_empty()),
            ("upper", &self.up, &got.up, !self.up.is_empty()),
            ("index", &self.idx, &got.idx, !index_unknown),
        ];
        compared
            .into_iter()
            .filter(|(_, expected, got, recorded)| *recorded && *expected != got.as_str())
            .map(|(what, expected, got, _)| Difference {
                what,
                expected: expected.to_owned(),
                got: got.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every recorded field counts: a row equals its own recording, and differs once any field is changed.
    #[test]
    fn every_recorded_field_is_compared() {
        let rows = load(RECORDED).unwrap();
        let mut compared = 0;
        for row in &rows {
            let mut outcome = Outcome {
                res: row.res.clone(),
                vis: row.vis.clone(),
                up: row.up.clone(),
                idx: row.idx.clone(),
                refusal: None,
            };
            assert_eq!(row.differences(&outcome, &Driver::Kernel), [], "{}", row.id);
            for field in [&mut outcome.res, &mut outcome.vis, &mut outcome.up, &mut outcome.idx] {
                if !field.is_empty() {
                    compared += 1;
                    field.push('x');
                }
            }
            let recorded =
                [&row.res, &row.vis, &row.up, &row.idx].into_iter().filter(|field| !field.is_empty());
            assert_eq!(row.differences(&outcome, &Driver::Kernel).len(), recorded.count(), "{}", row.id);
        }
        assert_eq!((rows.len(), compared), (305, 882));
    }
}
