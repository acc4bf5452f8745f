//! A workspace's changes become a layer, and an image.

use crate::changes::{self, Change, ChangeKind};
use crate::error::{Error, Result, Step};
use crate::images::Image;
use crate::root::Store;
use crate::workspaces::{Own, Part, Workspace};
use crate::{Layer, record};
use acetate_image::source::{Platform, default_config};
use acetate_image::{Digest, Options, Selection, pack_some};
use acetate_layer::Kind;
use acetate_layer::dir::DirLayer;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// What a commit changes in the image's configuration.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// What the image runs.
    pub command: Option<Vec<String>>,
    /// What comes before the command.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE`
    pub env: Vec<String>,
    /// Where it runs.
    pub workdir: Option<String>,
    /// As whom.
    pub user: Option<String>,
    /// What is written into the image's history.
    pub message: Option<String>,
    /// Who did it.
    pub author: Option<String>,
}

/// What a committed layer lies over.
#[derive(Clone, Copy, Debug)]
pub enum CommitBase<'a> {
    /// An image of the store.
    Image(&'a Image),
    /// Directories in the form of an overlay's layers, the lowest first.
    Dirs(&'a [PathBuf]),
}

impl Store {
    /// What a workspace changes relative to what it stands on.
    ///
    /// # Errors
    /// [`Error::Changes`]
    pub fn workspace_changes(&self, workspace: &Workspace) -> Result<Vec<Change>> {
        let lowers = self.lower_dirs(workspace);
        let own = self.own_dir(workspace);
        let dialect = self.options().dialect;
        Ok(match workspace.own {
            Own::Upper(_) => changes::of_upper(&own.join("diff"), &lowers, dialect)?,
            Own::Tree(_) => changes::of_tree(&own, &lowers, dialect)?,
        })
    }

    /// Makes an image of another one, or of directories (the lowest first), and of a further layer on top, whose archive
    /// `pack` writes.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Image`]; what `pack` says.
    pub fn commit_layer(
        &self,
        base: CommitBase<'_>,
        pack: impl FnOnce(io::BufWriter<io::PipeWriter>) -> io::Result<()> + Send,
        name: Option<&str>,
        edit: &Edit,
    ) -> Result<Digest> {
        let _lock = self.shared()?;
        let mut layers = match base {
            CommitBase::Image(image) => image.layers.clone(),
            CommitBase::Dirs(dirs) => {
                let ids = dirs.iter().map(|dir| Ok(self.layer_of_dir(dir)?.diff_id));
                ids.collect::<Result<Vec<_>>>()?
            }
        };
        layers.push(self.layer_of(&(), |writer| Ok(pack(writer)?))?.diff_id);
        let config = match base {
            CommitBase::Image(image) => Some(image.config.as_slice()),
            CommitBase::Dirs(_) => None,
        };
        let config = configuration(config, &layers, edit)?;
        let names: Vec<String> = name.iter().map(|name| (*name).to_owned()).collect();
        self.add_image(&config, "commit of an upper layer", &names)
    }

    /// Makes the image; the workspace stays as it is.
    pub(crate) fn commit(&self, workspace: &Workspace, name: Option<&str>, edit: &Edit) -> Result<Digest> {
        let mut layers = Vec::new();
        for part in workspace.lowers.iter().rev() {
            layers.push(match part {
                Part::Layer(id) => *id,
                Part::Upper(id) => self.layer_of_dir(&self.part("uppers").join(id).join("diff"))?.diff_id,
                Part::Dir(path) => {
                    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&path[..]);
                    self.layer_of_dir(path.as_ref())?.diff_id
                }
            });
        }
        layers.push(self.own_layer(workspace)?.diff_id);
        let base = match workspace.image() {
            Some(id) => Some(self.image(&id.to_string())?.config),
            None => None,
        };
        let config = configuration(base.as_deref(), &layers, edit)?;
        let names: Vec<String> = name.iter().map(|name| (*name).to_owned()).collect();
        self.add_image(&config, &format!("commit of workspace {}", workspace.name), &names)
    }

    fn own_layer(&self, workspace: &Workspace) -> Result<Layer> {
        let own = self.own_dir(workspace);
        if let Own::Upper(_) = workspace.own {
            return self.layer_of_dir(&own.join("diff"));
        }
        let selection = selection(&self.workspace_changes(workspace)?);
        let tree = DirLayer::open_lower(&own).step("open", &own)?;
        let Options { dialect, owners, .. } = self.options();
        self.layer_of(&(), |writer| pack_some(&tree, dialect, owners, selection, writer).map(drop))
    }

    fn layer_of_dir(&self, path: &std::path::Path) -> Result<Layer> {
        let tree = DirLayer::open_lower(path).step("open", path)?;
        self.layer_of_tree(&tree, &())
    }
}

/// What of a tree makes the difference.
fn selection(changes: &[Change]) -> Selection {
    let mut selection = Selection::default();
    for change in changes {
        match change.what {
            ChangeKind::Deleted => drop(selection.hidden.insert(change.path.clone())),
            ChangeKind::Added | ChangeKind::Changed { .. } => {
                if matches!(change.what, ChangeKind::Changed { kind: true, .. }) && change.kind == Kind::Dir {
                    selection.opaque.insert(change.path.clone());
                }
                selection.objects.insert(change.path.clone());
            }
        }
    }
    selection
}

/// The configuration of an image with these layers, which goes on from that of its base.
fn configuration(base: Option<&[u8]>, layers: &[Digest], edit: &Edit) -> Result<Vec<u8>> {
    let bad = |reason: String| {
        Error::Image(acetate_image::Error::Document { what: "image configuration".into(), reason })
    };
    let created = record::now();
    let base = match base {
        Some(base) => base.to_vec(),
        None => default_config(&layers[0], &created, "directory", &[])?,
    };
    let mut value: Value = serde_json::from_slice(&base).map_err(|error| bad(error.to_string()))?;
    let root = value.as_object_mut().ok_or_else(|| bad("it is no object".into()))?;
    root.insert("created".into(), json!(created));
    root.entry("os").or_insert_with(|| json!(Platform::here().os));
    if let Some(author) = &edit.author {
        root.insert("author".into(), json!(author));
    }
    let ids: Vec<String> = layers.iter().map(Digest::to_string).collect();
    root.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": ids }));
    let config = root.entry("config").or_insert_with(|| json!({}));
    if !config.is_object() {
        *config = json!({});
    }
    edit_config(config, edit);
    let history = root.entry("history").or_insert_with(|| json!([]));
    if let Some(history) = history.as_array_mut() {
        // Layers between the base's and the last come from branches.
        let filled = history.iter().filter(|item| item.get("empty_layer") != Some(&json!(true))).count();
        for _ in filled..layers.len() {
            let mut item = json!({ "created": created, "created_by": "acetate workspace commit" });
            if let Some(message) = &edit.message {
                item["comment"] = json!(message);
            }
            history.push(item);
        }
    }
    serde_json::to_vec(&value).map_err(|error| bad(error.to_string()))
}

/// Applies an edit to the member `config`.
fn edit_config(config: &mut Value, edit: &Edit) {
    if let Some(entrypoint) = &edit.entrypoint {
        config["Entrypoint"] = json!(entrypoint);
    }
    if let Some(command) = &edit.command {
        config["Cmd"] = json!(command);
    }
    if let Some(workdir) = &edit.workdir {
        config["WorkingDir"] = json!(workdir);
    }
    if let Some(user) = &edit.user {
        config["User"] = json!(user);
    }
    if !edit.env.is_empty() {
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let old = config["Env"].as_array().cloned().unwrap_or_default();
        let mut env: Vec<String> = old.iter().filter_map(|pair| pair.as_str().map(str::to_owned)).collect();
        for pair in &edit.env {
            env.retain(|other| name(other) != name(pair));
            env.push(pair.clone());
        }
        config["Env"] = json!(env);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_keeps_what_it_does_not_know() {
        let base = br#"{"architecture":"amd64","os":"linux","x-own":[1],"config":{"Env":["A=1","B=2"],"Labels":{"l":"v"}},
            "rootfs":{"type":"layers","diff_ids":["sha256:00"]},
            "history":[{"created_by":"one"},{"created_by":"none","empty_layer":true}]}"#;
        let layers = [Digest::of(b"a"), Digest::of(b"b")];
        let edit = Edit { env: vec!["A=3".into()], command: Some(vec!["sh".into()]), ..Edit::default() };
        let value: Value =
            serde_json::from_slice(&configuration(Some(base), &layers, &edit).unwrap()).unwrap();
        assert_eq!(value["x-own"], json!([1]));
        assert_eq!(value["config"], json!({"Env": ["B=2", "A=3"], "Labels": {"l": "v"}, "Cmd": ["sh"]}));
        assert_eq!(value["rootfs"]["diff_ids"], json!([layers[0].to_string(), layers[1].to_string()]));
        assert_eq!(value["history"].as_array().unwrap().len(), 3);
    }
}
