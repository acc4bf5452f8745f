//! `acetate image df`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_line, answer_table, size, warn};
use acetate_store::driver::btrfs::Pressure;
use acetate_store::{LayerUsage, Store};
use serde::Serialize;

/// Show what takes the space
///
/// Every byte below the store's directory is in exactly one of the figures. Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Print one JSON document (schema acetate-df-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    layers: Vec<Layer>,
    workspaces: Vec<Workspace>,
    branches: u64,
    trees: u64,
    snapshots: u64,
    tries: u64,
    transient: u64,
    records: u64,
    total: u64,
    free: u64,
    /// On btrfs: how much room metadata has left, in bytes.
    metadata_headroom: Option<u64>,
}

#[derive(Serialize)]
struct Layer {
    diff_id: String,
    bytes: u64,
    images: usize,
    workspaces: usize,
}

#[derive(Serialize)]
struct Workspace {
    name: String,
    bytes: u64,
}

pub(super) fn run(store: &Store, args: &DfArgs) -> Result<Exit, Failure> {
    let usage = store.usage()?;
    let pressure = store.pressure()?;
    warn_of(pressure.as_ref());
    if args.json {
        let layer = |layer: &LayerUsage| Layer {
            diff_id: layer.id.to_string(),
            bytes: layer.bytes,
            images: layer.images,
            workspaces: layer.workspaces,
        };
        let workspaces = usage.workspaces.iter();
        return answer_json(&Document {
            schema: "acetate-df-v1",
            layers: usage.layers.iter().map(layer).collect(),
            workspaces: workspaces
                .map(|(name, bytes)| Workspace { name: name.clone(), bytes: *bytes })
                .collect(),
            branches: usage.branches,
            trees: usage.trees,
            snapshots: usage.snapshots,
            tries: usage.tries,
            transient: usage.transient,
            records: usage.records,
            total: usage.total,
            free: usage.free,
            metadata_headroom: pressure.map(|pressure| pressure.space().headroom()),
        });
    }
    let mut rows = vec![["WHAT", "SIZE", "USED BY"].map(str::to_owned).to_vec()];
    // The largest first: that is what people look for.
    let mut layers: Vec<&LayerUsage> = usage.layers.iter().collect();
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.bytes));
    for layer in layers {
        let users = users(layer.images, layer.workspaces);
        rows.push(vec![format!("layer {}", layer.id.short()), size(layer.bytes), users]);
    }
    for (name, bytes) in &usage.workspaces {
        rows.push(vec![format!("workspace {name}"), size(*bytes), String::new()]);
    }
    for (what, bytes) in [
        ("writable layers that others branched off", usage.branches),
        ("trees that snapshots are made of", usage.trees),
        ("snapshots of containerd", usage.snapshots),
        ("tries; `acetate try list` names them", usage.tries),
        ("unfinished work; `gc` removes it", usage.transient),
        ("records and directories", usage.records),
    ] {
        if bytes > 0 {
            rows.push(vec![what.to_owned(), size(bytes), String::new()]);
        }
    }
    answer_table(&rows)?;
    answer_line(format_args!("{} in all, {} free", size(usage.total), size(usage.free)))?;
    Ok(Exit::Done)
}

/// Who stands on a layer, in words.
fn users(images: usize, workspaces: usize) -> String {
    let count = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        many => Some(format!("{many} {what}s")),
    };
    let users: Vec<String> =
        [count(images, "image"), count(workspaces, "workspace")].into_iter().flatten().collect();
    if users.is_empty() { "nothing; `gc` removes it".into() } else { users.join(", ") }
}

/// Warns before the metadata space of btrfs ends: then nothing can be made any more, whatever the free space is.
pub(crate) fn warn_of(pressure: Option<&Pressure>) {
    match pressure {
        Some(Pressure::Low(space)) => warn(format_args!(
            "btrfs has {} left for metadata; free some by `acetate image gc`, or balance (btrfs-balance(8))",
            size(space.headroom())
        )),
        Some(Pressure::Exhausted(space)) => warn(format_args!(
            "btrfs has only {} left for metadata: nothing new can be made; remove workspaces, or run `acetate image gc`",
            size(space.headroom())
        )),
        Some(Pressure::Fine(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::users;

    #[test]
    fn users_of_a_layer_in_words() {
        assert_eq!(users(1, 0), "1 image");
        assert_eq!(users(2, 1), "2 images, 1 workspace");
        assert_eq!(users(0, 0), "nothing; `gc` removes it");
    }
}
