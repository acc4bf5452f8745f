//! `acetate workspace list`.

use crate::Exit;
use crate::error::Failure;
use crate::out::{answer_json, answer_table, exact};
use acetate_store::{Store, Workspace, is_mountpoint};
use serde::Serialize;

/// List the workspaces
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print one JSON document (schema acetate-workspaces-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    workspaces: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    name: String,
    base: String,
    driver: String,
    created: String,
    /// Its writable layer with the work directory, or its tree.
    path: String,
    /// Where it is mounted, if it is mounted in the store.
    mountpoint: Option<String>,
}

pub(super) fn run(store: &Store, args: &ListArgs) -> Result<Exit, Failure> {
    let items: Vec<Item> = store.workspaces()?.iter().map(|workspace| item(store, workspace)).collect();
    if args.json {
        return answer_json(&Document { schema: "acetate-workspaces-v1", workspaces: items });
    }
    let mut rows = vec![["NAME", "BASE", "DRIVER", "CREATED", "MOUNTED"].map(str::to_owned).to_vec()];
    for item in items {
        let mounted = item.mountpoint.unwrap_or_else(|| "-".into());
        rows.push(vec![item.name, item.base, item.driver, item.created, mounted]);
    }
    answer_table(&rows)
}

fn item(store: &Store, workspace: &Workspace) -> Item {
    let mountpoint = store.mountpoint(workspace);
    Item {
        name: workspace.name.clone(),
        base: workspace.base.clone(),
        driver: workspace.driver.to_string(),
        created: workspace.created.clone(),
        path: exact(&store.own_dir(workspace)),
        mountpoint: is_mountpoint(&mountpoint).then(|| exact(&mountpoint)),
    }
}
