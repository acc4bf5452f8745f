//! The scenarios of containerd's suite for snapshotters (containerd, core/snapshots/testsuite), with the kernel's
//! overlayfs and as real mounts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use acetate_image::source::Input;
use acetate_snapshotter::api::services::snapshots::v1::snapshots_server::Snapshots as _;
use acetate_snapshotter::api::services::snapshots::v1::{self as api, Info, Kind};
use acetate_snapshotter::api::types::Mount;
use acetate_snapshotter::{How, Service};
use acetate_store::Store;
use acetate_store::snapshots::Snapshots;
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::Scratch;
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

/// A service on a store of its own, and what it has mounted.
struct Stage {
    service: Service,
    runtime: tokio::runtime::Runtime,
    mounted: std::cell::RefCell<Vec<PathBuf>>,
    scratch: Scratch,
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Stage {
    fn new() -> Result<Stage> {
        let scratch = Scratch::new("snapshots")?;
        let snapshots = Snapshots::open(Store::open(&scratch.path().join("store"))?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
        Ok(Stage {
            service: Service::new(snapshots, How::Kernel),
            runtime,
            mounted: Vec::new().into(),
            scratch,
        })
    }

    fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let labels = labels(&[("containerd.io/gc.root", "now")]);
        let request = api::PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
        Ok(self.call(self.service.prepare(Request::new(request)))?.mounts)
    }

    fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = api::ViewSnapshotRequest { key, parent, ..Default::default() };
        Ok(self.call(self.service.view(Request::new(request)))?.mounts)
    }

    fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        let (name, key) = (name.to_owned(), key.to_owned());
        let request = api::CommitSnapshotRequest { name, key, ..Default::default() };
        self.call(self.service.commit(Request::new(request)))
    }

    fn remove(&self, key: &str) -> Result<(), Status> {
        let request = api::RemoveSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.call(self.service.remove(Request::new(request)))
    }

    fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = api::StatSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.call(self.service.stat(Request::new(request))).map(|response| response.info.unwrap())
    }

    fn update(&self, info: &Info, paths: &[&str]) -> Result<Info, Status> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request = api::UpdateSnapshotRequest {
            info: Some(info.clone()),
            update_mask: Some(prost_types::FieldMask { paths }),
            ..Default::default()
        };
        self.call(self.service.update(Request::new(request))).map(|response| response.info.unwrap())
    }

    fn list(&self, filters: &[&str]) -> Result<Vec<Info>, Status> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let request = api::ListSnapshotsRequest { filters, ..Default::default() };
        let mut stream = self.call(self.service.list(Request::new(request)))?;
        let mut found = Vec::new();
        while let Some(batch) = self.runtime.block_on(stream.next()) {
            found.extend(batch?.info);
        }
        Ok(found)
    }

    /// Mounts what the service said; returns where.
    fn mount(&self, mounts: &[Mount]) -> Result<PathBuf> {
        let place = self.scratch.dir(&format!("m{}", self.mounted.borrow().len()))?;
        for mount in mounts {
            let mut command = Command::new("mount");
            // mount(8) makes a bind mount read-only by itself.
            match mount.r#type.as_str() {
                "bind" => command.arg("--rbind"),
                kind => command.args(["-t", kind]),
            };
            command
                .args(["-o", &mount.options.join(",").replace("rbind,", "")])
                .arg(&mount.source)
                .arg(&place);
            let output = command.output()?;
            ensure!(output.status.success(), "{mount:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.mounted.borrow_mut().push(place.clone());
        Ok(place)
    }

    /// Makes a committed snapshot by a change of its parent.
    fn layer(&self, name: &str, parent: &str, change: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let key = format!("{name}-active");
        change(&self.mount(&self.prepare(&key, parent)?)?)?;
        Ok(self.commit(name, &key)?)
    }

    /// What a committed snapshot shows.
    fn shown(&self, name: &str) -> Result<PathBuf> {
        self.mount(&self.view(&format!("{name}-view"), name)?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for place in self.mounted.borrow().iter().rev() {
            // A test that failed may have left it in use.
            let _as_far_as_possible = Command::new("umount").arg("-l").arg(place).status();
        }
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

fn stage(name: &str) -> Result<Option<Stage>> {
    if have(name, &[Need::Root, Need::KernelOverlay])? { Stage::new().map(Some) } else { Ok(None) }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn basic() -> Result<()> {
    let Some(stage) = stage("basic")? else { return Ok(()) };
    stage.layer("one", "", |dir| {
        fs::write(dir.join("foo"), "foo\n")?;
        Ok(fs::create_dir_all(dir.join("a/b/c"))?)
    })?;
    let one = stage.stat("one")?;
    assert_eq!((one.kind(), one.parent.as_str()), (Kind::Committed, ""));
    assert_eq!(code(stage.stat("one-active")), Code::NotFound);
    stage.layer("two", "one", |dir| {
        ensure!(fs::read(dir.join("foo"))? == b"foo\n" && dir.join("a/b/c").is_dir());
        fs::write(dir.join("bar"), "bar\n")?;
        fs::write(dir.join("foo"), "bar\n")?;
        Ok(fs::remove_dir_all(dir.join("a/b"))?)
    })?;
    let two = stage.stat("two")?;
    assert_eq!((two.kind(), two.parent.as_str()), (Kind::Committed, "one"));
    assert_eq!(stage.list(&[])?, [one, two]);
    let shown = stage.shown("two")?;
    assert_eq!(
        (names(&shown), names(&shown.join("a"))),
        (vec!["a".into(), "bar".into(), "foo".into()], vec![])
    );
    assert_eq!(fs::read(shown.join("foo"))?, b"bar\n");
    assert_eq!(code(stage.remove("one")), Code::FailedPrecondition);
    stage.remove("two-view")?;
    stage.remove("two")?;
    stage.remove("one")?;
    assert_eq!(names(&stage.scratch.path().join("store/uppers")), Vec::<String>::new());
    Ok(())
}

#[test]
fn keys_are_taken_once_and_only_committed_snapshots_are_stood_on() -> Result<()> {
    let Some(stage) = stage("keys")? else { return Ok(()) };
    stage.layer("a", "", |_| Ok(()))?;
    stage.prepare("active", "a")?;
    assert_eq!(code(stage.prepare("active", "a")), Code::AlreadyExists);
    assert_eq!(code(stage.view("active", "a")), Code::AlreadyExists);
    stage.view("view", "a")?;
    assert_eq!(code(stage.view("view", "a")), Code::AlreadyExists);
    assert_eq!(code(stage.prepare("x", "active")), Code::InvalidArgument);
    assert_eq!(code(stage.prepare("x", "nothing")), Code::NotFound);
    assert_eq!(code(stage.commit("a", "active")), Code::AlreadyExists);
    assert_eq!(code(stage.commit("b", "view")), Code::FailedPrecondition);
    assert_eq!(code(stage.commit("b", "a")), Code::FailedPrecondition);
    assert_eq!(code(stage.commit("b", "nothing")), Code::NotFound);
    assert_eq!(code(stage.remove("nothing")), Code::NotFound);
    let committed = api::MountsRequest { key: "a".into(), ..Default::default() };
    assert_eq!(code(stage.call(stage.service.mounts(Request::new(committed)))), Code::FailedPrecondition);
    let active = stage.stat("active")?;
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, "a"));
    Ok(())
}

#[test]
fn an_intermediate_snapshot_cannot_be_removed_and_a_key_can_be_used_again() -> Result<()> {
    let Some(stage) = stage("remove")? else { return Ok(()) };
    stage.layer("base", "", |_| Ok(()))?;
    stage.layer("between", "base", |_| Ok(()))?;
    stage.prepare("top", "between")?;
    assert_eq!(code(stage.remove("between")), Code::FailedPrecondition);
    ["top", "between"].iter().try_for_each(|key| stage.remove(key))?;
    stage.prepare("again", "base")?;
    stage.remove("again")?;
    stage.view("again", "base")?;
    stage.remove("again")?;
    stage.prepare("again", "")?;
    stage.remove("base")?;
    Ok(stage.commit("base", "again")?)
}

#[test]
fn labels_are_updated_and_nothing_else() -> Result<()> {
    let Some(stage) = stage("update")? else { return Ok(()) };
    stage.layer("c1", "", |_| Ok(()))?;
    stage.layer("c2", "c1", |_| Ok(()))?;
    stage.prepare("a1", "c2")?;
    stage.prepare("a2", "")?;
    stage.view("v1", "c2")?;
    stage.view("v2", "")?;
    for key in ["c1", "c2", "a1", "a2", "v1", "v2"] {
        let before = stage.stat(key)?;
        assert_eq!(before.created_at, before.updated_at, "{key}");
        let mut asked = Info { parent: "nothing".into(), ..before.clone() };
        asked.labels = labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]);
        let after = stage.update(&asked, &[])?;
        let expected = Info { labels: asked.labels.clone(), updated_at: after.updated_at, ..before.clone() };
        assert_eq!(after, expected, "{key}");
        assert_ne!(after.updated_at, before.updated_at, "{key}");
        asked.labels = labels(&[("l1", "updated"), ("l4", "v4")]);
        let after = stage.update(&asked, &["labels.l1", "labels.l2"])?;
        assert_eq!(after.labels, labels(&[("l1", "updated"), ("l3", "v3")]), "{key}");
        assert_eq!(stage.update(&asked, &["labels"])?.labels, asked.labels, "{key}");
        assert_eq!(code(stage.update(&asked, &["parent"])), Code::InvalidArgument, "{key}");
        assert_eq!(stage.stat(key)?.labels, asked.labels, "{key}");
    }
    let found = |filters: &[&str]| -> Result<Vec<String>> {
        Ok(stage.list(filters)?.into_iter().map(|info| info.name).collect())
    };
    assert_eq!(found(&["kind==view", "name==a1"])?, ["a1", "v1", "v2"]);
    assert_eq!(found(&["labels.\"l4\"==v4,parent==\"\""])?, ["a2", "c1", "v2"]);
    assert_eq!(code(stage.list(&["name~=x"])), Code::InvalidArgument);
    Ok(())
}

/// Who runs containers in a user namespace asks for other owners by labels, on a first layer (a bind) and above.
#[test]
fn other_owners_are_options_of_every_mount() -> Result<()> {
    let Some(stage) = stage("remap")? else { return Ok(()) };
    stage.layer("base", "", |_| Ok(()))?;
    for (key, parent, kind) in [("first", "", "bind"), ("second", "base", "overlay")] {
        let labels = labels(&[
            ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
        ]);
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = api::PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
        let mounts = stage.call(stage.service.prepare(Request::new(request)))?.mounts;
        assert_eq!(mounts[0].r#type, kind);
        assert_eq!(mounts[0].options[..2], ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]);
    }
    Ok(())
}

#[test]
fn changes_of_lower_layers_are_seen_through_all() -> Result<()> {
    let Some(stage) = stage("layers")? else { return Ok(()) };
    stage.layer("one", "", |dir| {
        fs::create_dir_all(dir.join("dir1"))?;
        fs::create_dir_all(dir.join("dir2"))?;
        fs::create_dir(dir.join("private"))?;
        fs::write(dir.join("dir1/f1"), "Hello")?;
        fs::write(dir.join("dir2/f2"), "...")?;
        fs::write(dir.join("owned"), "x")?;
        Ok(fs::write(dir.join("gone"), "x")?)
    })?;
    stage.layer("two", "one", |dir| {
        fs::create_dir(dir.join("dir3"))?;
        fs::write(dir.join("dir3/f1"), "Hello")?;
        fs::remove_dir_all(dir.join("dir1"))?;
        fs::hard_link(dir.join("dir2/f2"), dir.join("dir3/f2"))?;
        fs::remove_file(dir.join("dir2/f2"))?;
        fs::remove_file(dir.join("gone"))?;
        chown(dir.join("owned"), Some(1), Some(2))?;
        Ok(fs::set_permissions(dir.join("private"), fs::Permissions::from_mode(0o700))?)
    })?;
    stage.layer("three", "two", |dir| {
        fs::rename(dir.join("dir3/f1"), dir.join("dir3/f3"))?;
        Ok(fs::write(dir.join("dir3/f2"), "changed")?)
    })?;
    let shown = stage.shown("three")?;
    assert_eq!(names(&shown), ["dir2", "dir3", "owned", "private"]);
    assert_eq!(
        (names(&shown.join("dir2")), names(&shown.join("dir3"))),
        (vec![], vec!["f2".into(), "f3".into()])
    );
    assert_eq!(
        (fs::read(shown.join("dir3/f2"))?, fs::read(shown.join("dir3/f3"))?),
        (b"changed".into(), b"Hello".into())
    );
    let owned = fs::metadata(shown.join("owned"))?;
    assert_eq!((owned.uid(), owned.gid()), (1, 2));
    assert_eq!(fs::metadata(shown.join("private"))?.mode() & 0o7777, 0o700);
    let usage = api::UsageRequest { key: "three".into(), ..Default::default() };
    let usage = stage.call(stage.service.usage(Request::new(usage)))?;
    ensure!(usage.inodes >= 3 && usage.size >= 4096, "{usage:?}");
    Ok(())
}

/// The root directory of what is made on a layer has that layer's owner and mode.
#[test]
fn the_root_directory_is_that_of_the_parent() -> Result<()> {
    let Some(stage) = stage("root")? else { return Ok(()) };
    stage.layer("one", "", |dir| {
        chown(dir, Some(5), Some(6))?;
        Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o750))?)
    })?;
    let place = stage.mount(&stage.prepare("active", "one")?)?;
    let stat = fs::metadata(place)?;
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (5, 6, 0o750));
    Ok(())
}

#[test]
fn a_view_cannot_be_written() -> Result<()> {
    let Some(stage) = stage("view")? else { return Ok(()) };
    stage.layer("one", "", |dir| Ok(fs::write(dir.join("f"), "x")?))?;
    stage.layer("two", "one", |_| Ok(()))?;
    for name in ["one", "two"] {
        let shown = stage.shown(name)?;
        assert_eq!(fs::read(shown.join("f"))?, b"x");
        let refused = fs::write(shown.join("new"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    Ok(())
}

/// Opens the snapshots of a service that has ended. A process that another test is just starting holds its descriptors, and
/// with them its lock, until it becomes its program.
fn reopen(root: &Path) -> Result<Snapshots> {
    let patience = Instant::now() + Duration::from_secs(3);
    loop {
        match Snapshots::open(Store::open(root)?) {
            Err(_) if Instant::now() < patience => std::thread::sleep(Duration::from_millis(10)),
            other => return Ok(other?),
        }
    }
}

/// Everything is as it was when the service is started again, and what a killed one has left is cleaned up.
#[test]
fn a_service_goes_on_where_another_has_ended() -> Result<()> {
    let Some(mut stage) = stage("restart")? else { return Ok(()) };
    stage.layer("one", "", |dir| Ok(fs::write(dir.join("f"), "x")?))?;
    let mounts = stage.prepare("active", "one")?;
    let before = stage.list(&[])?;
    let root = stage.scratch.path().join("store");
    assert!(Snapshots::open(Store::open(&root)?).is_err(), "one process at a time");
    let other = Stage::new()?;
    stage.service = other.service.clone();
    fs::create_dir_all(root.join("uppers/left/diff"))?;
    let reopened = reopen(&root)?;
    reopened.clean_up()?;
    stage.service = Service::new(reopened, How::Kernel);
    assert_eq!(stage.list(&[])?, before);
    assert!(!root.join("uppers/left").exists());
    let again = api::MountsRequest { key: "active".into(), ..Default::default() };
    assert_eq!(stage.call(stage.service.mounts(Request::new(again)))?.mounts, mounts);
    assert_eq!(fs::read(stage.mount(&mounts)?.join("f"))?, b"x");
    Ok(())
}

/// What an image of the store has is not unpacked again, and not removed while a snapshot stands on it.
#[test]
fn layers_of_the_store_become_snapshots() -> Result<()> {
    let Some(stage) = stage("adopted")? else { return Ok(()) };
    let tree = stage.scratch.dir("tree")?;
    fs::write(tree.join("f"), "of the image")?;
    let store = Store::open(&stage.scratch.path().join("store"))?;
    store.import_tree(&Input::Directory(tree), "test", "image", &[], &())?;
    let layer = store.image("image")?.layers[0];
    let prepare = |key: &str, target: &str| {
        let labels = labels(&[("containerd.io/snapshot.ref", target)]);
        let request = api::PrepareSnapshotRequest { key: key.into(), labels, ..Default::default() };
        stage.call(stage.service.prepare(Request::new(request)))
    };
    let target = layer.to_string();
    assert_eq!(code(prepare("extract", &target)), Code::AlreadyExists);
    assert_eq!(code(prepare("extract again", &target)), Code::AlreadyExists);
    let filter = format!("labels.\"containerd.io/snapshot.ref\"=={target},parent==\"\"");
    let found = stage.list(&[&filter])?;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind(), Kind::Committed);
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(prepare("other", &other)?.mounts.len(), 1);
    store.remove_image(&store.image("image")?)?;
    store.gc(false)?;
    let shown = stage.mount(&stage.prepare("container", &found[0].name)?)?;
    assert_eq!(fs::read(shown.join("f"))?, b"of the image");
    fs::write(shown.join("f"), "of the container")?;
    assert_eq!(fs::read(store.layer_tree(&layer).join("f"))?, b"of the image");
    Ok(())
}
