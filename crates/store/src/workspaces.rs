//! Workspaces: an image's layers, a directory or another workspace, under an empty writable layer.
//!
//! A record says what a workspace is made of; changing it is one rename. Writable layers are never moved: to branch, to
//! reset or to commit gives the record other ones, and what nothing names any more is removed by [`Store::gc`].

use crate::driver::DriverName;
use crate::driver::btrfs::{BtrfsError, Pressure};
use crate::error::{Error, Result, Step};
use crate::record;
use crate::root::Store;
use acetate_image::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// One of the read-only parts that a workspace stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A layer of the store.
    Layer(Digest),
    /// What was the writable layer of a workspace when another one branched off.
    Upper(String),
    /// A directory of the user's, in bytes.
    Dir(Vec<u8>),
}

/// What is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Own {
    /// A writable layer over the others, by its name in `uppers/`.
    Upper(String),
    /// A tree that holds all files, by its name in `trees/`.
    Tree(String),
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    schema: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: String,
    /// What it was made of, as it was said then.
    pub base: String,
    image: Option<Digest>,
    /// What it stands on, topmost first.
    pub lowers: Vec<Part>,
    /// What is its own.
    pub own: Own,
    /// How it is shown.
    pub driver: DriverName,
}

const SCHEMA: &str = "acetate-workspace-1";

/// Mount points that commands needed and a workspace lacks.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    schema: String,
    /// In what they were made.
    own: Own,
    paths: Vec<String>,
}

const MADE: &str = "acetate-made-1";

impl Workspace {
    /// The image that it was made of.
    pub fn image(&self) -> Option<Digest> {
        self.image
    }

    /// The layers of the store that it stands on, topmost first.
    pub fn layers(&self) -> Vec<Digest> {
        let layer = |part: &Part| if let Part::Layer(id) = part { Some(*id) } else { None };
        self.lowers.iter().filter_map(layer).collect()
    }

    /// The writable layers, its own first, that it stands on.
    pub(crate) fn uppers(&self) -> Vec<&str> {
        let own = if let Own::Upper(id) = &self.own { Some(id.as_str()) } else { None };
        let below = self.lowers.iter().filter_map(|part| match part {
            Part::Upper(id) => Some(id.as_str()),
            Part::Layer(_) | Part::Dir(_) => None,
        });
        own.into_iter().chain(below).collect()
    }

    /// The trees that it needs.
    pub(crate) fn trees(&self) -> Vec<String> {
        match &self.own {
            Own::Tree(id) if self.driver == DriverName::Btrfs => {
                vec![id.clone(), format!("chain-{}", chain_id(&self.layers()))]
            }
            Own::Tree(id) => vec![id.clone()],
            Own::Upper(_) => Vec::new(),
        }
    }
}

/// The name of a stack of layers, topmost first (image-spec, "Layer ChainID").
pub(crate) fn chain_id(layers: &[Digest]) -> String {
    let mut chain: Option<Digest> = None;
    for layer in layers.iter().rev() {
        chain = Some(match chain {
            None => *layer,
            Some(below) => Digest::of(format!("{below} {layer}").as_bytes()),
        });
    }
    chain.map_or_else(|| "empty".to_owned(), |id| id.hex())
}

/// What a workspace is made of.
#[derive(Clone, Debug)]
pub enum Base {
    /// An image.
    Image(String),
    /// A directory.
    Dir(PathBuf),
    /// Another workspace, as it is now.
    Workspace(String),
}

/// What has to be mounted to show a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub driver: DriverName,
    /// The read-only layers, topmost first; none if `tree` says where all files are.
    pub lowers: Vec<PathBuf>,
    /// The writable layer and its work directory.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// The tree that only has to be shown.
    pub tree: Option<PathBuf>,
    /// Marks are `user.overlay.*`.
    pub userxattr: bool,
}

/// Keeps a workspace in use, or others out of it, until dropped.
#[derive(Debug)]
pub struct InUse {
    _file: File,
}

impl Store {
    fn workspace_path(&self, name: &str) -> PathBuf {
        self.part("workspaces").join(record::file_name(name))
    }

    /// All workspaces, sorted by name.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn workspaces(&self) -> Result<Vec<Workspace>> {
        let mut found: Vec<Workspace> = Vec::new();
        for file in record::names(&self.part("workspaces"))? {
            found.extend(record::read_json(&self.part("workspaces").join(file))?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The workspace of that name.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`]; [`Error::Path`], [`Error::Record`].
    pub fn workspace(&self, name: &str) -> Result<Workspace> {
        record::read_json(&self.workspace_path(name))?.ok_or_else(|| Error::NoWorkspace(name.to_owned()))
    }

    /// Makes a workspace. With an overlay driver this takes the time of a few small files, whatever the base's size is.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::WorkspaceExists`], [`Error::NoImage`], [`Error::Driver`],
    /// [`Error::WorkspaceBusy`] for a base that is in use.
    pub fn create_workspace(&self, name: &str, base: &Base, driver: DriverName) -> Result<Workspace> {
        check_name(name, "a workspace")?;
        let _lock = self.shared()?;
        if let Some(Pressure::Exhausted(space)) = self.pressure()? {
            let path = self.workspace_path(name);
            return Err(Error::Drivers(BtrfsError::Exhausted { path, space }.into()));
        }
        if self.workspace_path(name).exists() {
            return Err(Error::WorkspaceExists(name.to_owned()));
        }
        let (image, lowers, said) = match base {
            Base::Image(wanted) => {
                let image = self.image(wanted)?;
                for layer in &image.layers {
                    self.layer(layer)?.ok_or(Error::NoLayer(*layer))?;
                }
                let lowers = image.layers.iter().rev().map(|id| Part::Layer(*id)).collect();
                (Some(image.id), lowers, format!("image {wanted}"))
            }
            Base::Dir(dir) => {
                let path = fs::canonicalize(dir).step("open", dir)?;
                if !path.is_dir() {
                    return Err(Errno::NOTDIR).step("open", dir);
                }
                let shown = format!("directory {}", path.display());
                (None, vec![Part::Dir(path.into_os_string().into_vec())], shown)
            }
            Base::Workspace(other) => return self.branch(name, other, driver),
        };
        self.check_driver(driver, &lowers)?;
        let own = self.make_own(driver, &lowers)?;
        let workspace = Workspace {
            schema: SCHEMA.into(),
            name: name.to_owned(),
            created: record::now(),
            base: said,
            image,
            lowers,
            own,
            driver,
        };
        self.record_new(&workspace)?;
        Ok(workspace)
    }

    /// A workspace that begins with the present content of another one. Both go on with writable layers of their own.
    fn branch(&self, name: &str, other: &str, driver: DriverName) -> Result<Workspace> {
        let (mut parent, _alone) = self.alone(other)?;
        let mut child = Workspace {
            name: name.to_owned(),
            created: record::now(),
            base: format!("workspace {other}"),
            ..parent.clone()
        };
        match parent.own.clone() {
            Own::Tree(id) => {
                // Trees can only become trees of the same kind.
                child.own = self.copy_tree(parent.driver, &id)?;
            }
            Own::Upper(id) => {
                self.check_driver(driver, &[])?;
                if !matches!(driver, DriverName::Kernel | DriverName::Fuse) {
                    let reason =
                        "the workspace to branch off is an overlay; take the driver kernel or fuse".into();
                    return Err(Error::Driver { driver, reason });
                }
                child.driver = driver;
                child.lowers.insert(0, Part::Upper(id));
                parent.lowers = child.lowers.clone();
                child.own = self.make_own(driver, &child.lowers)?;
                parent.own = self.make_own(driver, &parent.lowers)?;
                // From here on the parent does not write to what the child will stand on.
                self.replace(&parent)?;
            }
        }
        self.record_new(&child)?;
        Ok(child)
    }

    /// Throws away all changes of a workspace.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`], [`Error::WorkspaceBusy`]
    pub fn reset_workspace(&self, name: &str) -> Result<Workspace> {
        let _lock = self.shared()?;
        let (mut workspace, _alone) = self.alone(name)?;
        let old = self.own_dir(&workspace);
        workspace.own = self.make_own(workspace.driver, &workspace.lowers)?;
        self.replace(&workspace)?;
        self.discard(&old)?;
        Ok(workspace)
    }

    /// Shows a workspace by another driver from now on. That costs nothing where both drivers show the same directories:
    /// `kernel` and `fuse` the same layers, `reflink` and `copy` any tree.
    ///
    /// # Errors
    /// [`Error::Convert`] where its files would have to take another form; [`Error::Driver`] if the driver does not work
    /// here; [`Error::NoWorkspace`], [`Error::WorkspaceBusy`].
    pub fn set_driver(&self, name: &str, driver: DriverName) -> Result<Workspace> {
        let _lock = self.shared()?;
        let (mut workspace, _alone) = self.alone(name)?;
        if workspace.driver == driver {
            return Ok(workspace);
        }
        let fits = match workspace.own {
            Own::Upper(_) => matches!(driver, DriverName::Kernel | DriverName::Fuse),
            Own::Tree(_) => matches!(driver, DriverName::Reflink | DriverName::Copy),
        };
        if !fits {
            let (name, from) = (name.to_owned(), workspace.driver);
            return Err(Error::Convert { name, from, to: driver });
        }
        self.check_driver(driver, &workspace.lowers)?;
        workspace.driver = driver;
        self.replace(&workspace)?;
        Ok(workspace)
    }

    /// Removes a workspace with all its changes.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`], [`Error::WorkspaceBusy`]
    pub fn remove_workspace(&self, name: &str) -> Result<()> {
        let _lock = self.shared()?;
        let (workspace, _alone) = self.alone(name)?;
        let path = self.workspace_path(name);
        fs::remove_file(&path).step("remove", &path)?;
        record::sync_parent(&path)?;
        self.pin(&workspace, false)?;
        self.forget_made(&workspace)?;
        let mountpoint = self.mountpoint(&workspace);
        match fs::remove_dir(&mountpoint) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).step("remove", mountpoint);
            }
            _ => {}
        }
        self.discard(&self.own_dir(&workspace))?;
        Ok(())
    }

    /// Makes an image of a workspace: its changes become a layer over those that it stands on. Afterwards it stands on
    /// the new image, without changes.
    ///
    /// # Errors
    /// [`Error::WorkspaceBusy`]; [`acetate_image::Error::Unpackable`]; [`Error::Driver`] if it stands on a directory.
    pub fn commit_workspace(
        &self,
        name: &str,
        image_name: Option<&str>,
        edit: &crate::commit::Edit,
    ) -> Result<Digest> {
        let _lock = self.shared()?;
        let (mut workspace, _alone) = self.alone(name)?;
        let id = self.commit(&workspace, image_name, edit)?;
        let image = self.image(&id.to_string())?;
        let old = self.own_dir(&workspace);
        workspace.lowers = image.layers.iter().rev().map(|id| Part::Layer(*id)).collect();
        workspace.image = Some(id);
        workspace.base = format!("image {}", image_name.map_or_else(|| id.short(), str::to_owned));
        workspace.own = self.make_own(workspace.driver, &workspace.lowers)?;
        self.replace(&workspace)?;
        self.discard(&old)?;
        Ok(id)
    }

    /// Where a workspace's own files are: its writable layer with the work directory, or its tree.
    pub fn own_dir(&self, workspace: &Workspace) -> PathBuf {
        match &workspace.own {
            Own::Upper(id) => self.part("uppers").join(id),
            Own::Tree(id) => self.part("trees").join(id),
        }
    }

    /// Where a workspace is mounted unless something else is asked for.
    pub fn mountpoint(&self, workspace: &Workspace) -> PathBuf {
        self.part("mounts").join(record::file_name(&workspace.name))
    }

    /// The directories that a workspace stands on, topmost first.
    pub fn lower_dirs(&self, workspace: &Workspace) -> Vec<PathBuf> {
        let dir = |part: &Part| match part {
            Part::Layer(id) => self.layer_tree(id),
            Part::Upper(id) => self.part("uppers").join(id).join("diff"),
            Part::Dir(path) => PathBuf::from(OsString::from_vec(path.clone())),
        };
        workspace.lowers.iter().map(dir).collect()
    }

    /// What has to be mounted to show a workspace. The store mounts nothing itself.
    pub fn plan(&self, workspace: &Workspace) -> Plan {
        let userxattr = self.options().dialect == acetate_layer::mark::Dialect::User;
        let own = self.own_dir(workspace);
        match workspace.own {
            Own::Tree(_) => {
                Plan { driver: workspace.driver, lowers: Vec::new(), upper: None, tree: Some(own), userxattr }
            }
            Own::Upper(_) => Plan {
                driver: workspace.driver,
                lowers: self.lower_dirs(workspace),
                upper: Some((own.join("diff"), own.join("work"))),
                tree: None,
                userxattr,
            },
        }
    }

    /// Marks a workspace as in use; others may use it too.
    ///
    /// # Errors
    /// [`Error::NoWorkspace`]; [`Error::WorkspaceBusy`] while it is being changed.
    pub fn use_workspace(&self, name: &str) -> Result<(Workspace, InUse)> {
        self.workspace(name)?;
        let file = self.use_file(name)?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(busy(name, "it is being changed")),
            other => {
                other.step("lock", self.use_path(name))?;
                // As it is now that nobody else can change it.
                Ok((self.workspace(name)?, InUse { _file: file }))
            }
        }
    }

    /// Waits for its turn to mount or unmount a workspace, which it is until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn mounting(&self, name: &str) -> Result<InUse> {
        let path = self.part("workspaces").join(format!(".{}.mounting", record::file_name(name)));
        let file = open_lock(&path)?;
        acetate_sys::retry(|| flock(&file, FlockOperation::LockExclusive)).step("lock", path)?;
        Ok(InUse { _file: file })
    }

    /// Keeps all others out of a workspace; `None` if somebody uses it.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn try_alone(&self, name: &str) -> Result<Option<InUse>> {
        let file = self.use_file(name)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            other => {
                other.step("lock", self.use_path(name))?;
                Ok(Some(InUse { _file: file }))
            }
        }
    }

    /// A workspace that nobody else uses or has mounted.
    fn alone(&self, name: &str) -> Result<(Workspace, InUse)> {
        self.workspace(name)?;
        let in_use = "a command runs in it, or it is being changed";
        let alone = self.try_alone(name)?.ok_or_else(|| busy(name, in_use))?;
        let workspace = self.workspace(name)?;
        if is_mountpoint(&self.mountpoint(&workspace)) {
            return Err(busy(name, "it is mounted"));
        }
        Ok((workspace, alone))
    }

    /// Says whether a workspace stays mounted when no command runs in it any more.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn pin(&self, workspace: &Workspace, stays: bool) -> Result<()> {
        let path = self.pin_path(&workspace.name);
        if stays {
            return File::create(&path).map(drop).step("create", path);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.step("remove", path),
        }
    }

    /// Whether it does.
    pub fn is_pinned(&self, workspace: &Workspace) -> bool {
        self.pin_path(&workspace.name).exists()
    }

    fn pin_path(&self, name: &str) -> PathBuf {
        self.part("workspaces").join(format!(".{}.stays", record::file_name(name)))
    }

    /// Notes mount points that a command is about to need and that the workspace lacks, by their paths in it.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn note_made(&self, workspace: &Workspace, paths: &[&str]) -> Result<()> {
        let mut made = self.made(workspace)?;
        made.extend(paths.iter().map(|path| (*path).to_owned()));
        let value = Made { schema: MADE.into(), own: workspace.own.clone(), paths: made };
        record::write_json(&self.made_path(&workspace.name), &self.temporary()?, &value)
    }

    /// The mount points that were noted and may be there still.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn made(&self, workspace: &Workspace) -> Result<Vec<String>> {
        let made: Option<Made> = record::read_json(&self.made_path(&workspace.name))?;
        // What was written to then may be gone.
        Ok(made.filter(|made| made.own == workspace.own).map(|made| made.paths).unwrap_or_default())
    }

    /// Forgets them.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn forget_made(&self, workspace: &Workspace) -> Result<()> {
        let path = self.made_path(&workspace.name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.step("remove", path),
        }
    }

    fn made_path(&self, name: &str) -> PathBuf {
        self.part("workspaces").join(format!(".{}.made", record::file_name(name)))
    }

    fn use_path(&self, name: &str) -> PathBuf {
        self.part("workspaces").join(format!(".{}.lock", record::file_name(name)))
    }

    fn use_file(&self, name: &str) -> Result<File> {
        open_lock(&self.use_path(name))
    }

    /// Records a workspace whose name has to be free still.
    fn record_new(&self, workspace: &Workspace) -> Result<()> {
        let temporary = self.temporary()?;
        let path = self.workspace_path(&workspace.name);
        record::write_json(&temporary, &self.temporary()?, workspace)?;
        let linked = fs::hard_link(&temporary, &path);
        fs::remove_file(&temporary).step("remove", &temporary)?;
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::WorkspaceExists(workspace.name.clone()))
            }
            other => {
                other.step("record", &path)?;
                record::sync_parent(&path)
            }
        }
    }

    fn replace(&self, workspace: &Workspace) -> Result<()> {
        record::write_json(&self.workspace_path(&workspace.name), &self.temporary()?, workspace)
    }

    /// Makes an empty writable layer.
    pub(crate) fn make_upper(&self) -> Result<String> {
        let id = record::random_name()?;
        let staging = self.staging()?;
        for (name, mode) in [("diff", 0o755), ("work", 0o700)] {
            let path = staging.path().join(name);
            DirBuilder::new().mode(mode).create(&path).step("make", path)?;
        }
        staging.publish(&self.part("uppers").join(&id))?;
        Ok(id)
    }

    /// Makes what a workspace writes to.
    fn make_own(&self, driver: DriverName, lowers: &[Part]) -> Result<Own> {
        if !matches!(driver, DriverName::Kernel | DriverName::Fuse) {
            return self.make_tree(driver, lowers);
        }
        let id = self.make_upper()?;
        // The root of the merged tree has the attributes of its topmost part, which is the new directory.
        let lower = lowers.first().map(|part| match part {
            Part::Layer(id) => self.layer_tree(id),
            Part::Upper(id) => self.part("uppers").join(id).join("diff"),
            Part::Dir(path) => PathBuf::from(std::ffi::OsStr::from_bytes(path)),
        });
        if let Some(lower) = lower {
            copy_root(&lower, &self.part("uppers").join(&id).join("diff"))?;
        }
        Ok(Own::Upper(id))
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).step("open", path)
}

/// Gives a writable layer's root the owner, mode, times and extended attributes of what lies below, without its marks.
pub(crate) fn copy_root(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let stat = fs::metadata(from).step("look at", from)?;
    let own = fs::metadata(to).step("look at", to)?;
    if (stat.uid(), stat.gid()) != (own.uid(), own.gid()) {
        chown(to, Some(stat.uid()), Some(stat.gid())).step("set the owner of", to)?;
    }
    copy_xattrs(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(stat.mode() & 0o7777)).step("set the mode of", to)?;
    let time = |sec, nsec| rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = rustix::fs::Timestamps {
        last_access: time(stat.atime(), stat.atime_nsec()),
        last_modification: time(stat.mtime(), stat.mtime_nsec()),
    };
    rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::empty())
        .step("set the times of", to)
}

fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    use acetate_layer::Layer;
    let source = acetate_layer::dir::DirLayer::open_lower(from).step("open", from)?;
    let at = acetate_layer::At::Dir(source.root());
    for name in source.list_xattrs(at).step("list the attributes of", from)? {
        let private = [&b"trusted.overlay."[..], b"user.overlay.", b"security."];
        if private.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(value) = source.get_xattr(at, &name).step("read an attribute of", from)? else { continue };
        let name = std::ffi::OsStr::from_bytes(&name);
        rustix::fs::setxattr(to, name, &value, rustix::fs::XattrFlags::empty())
            .step("set an attribute of", to)?;
    }
    Ok(())
}

fn busy(name: &str, reason: &str) -> Error {
    Error::WorkspaceBusy { name: name.to_owned(), reason: reason.to_owned() }
}

/// Whether something is mounted on a directory.
pub fn is_mountpoint(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    // A mount whose server has died answers with an error, and is a mount all the same.
    match statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE) {
        Ok(stat) => stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        Err(errno) => errno == Errno::NOTCONN,
    }
}

/// Names are shown, typed and become directories.
pub(crate) fn check_name(name: &str, what: &'static str) -> Result<()> {
    let bad = |reason| Err(Error::BadName { name: name.to_owned(), what, reason });
    if name.is_empty() || name.len() > 64 {
        return bad("it has to have 1 to 64 bytes");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return bad("letters, digits and ._- make a name");
    }
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return bad("it has to begin with a letter or a digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn chains_are_named_as_the_specification_says() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[a]), a.hex());
        assert_eq!(chain_id(&[b, a]), Digest::of(format!("{a} {b}").as_bytes()).hex());
    }

    #[test]
    fn names_of_workspaces() {
        for good in ["a", "job-17", "A.b_c"] {
            assert!(check_name(good, "a workspace").is_ok());
        }
        for bad in ["", ".", "-a", "a/b", "a b", "ü", &"a".repeat(65)] {
            assert!(check_name(bad, "a workspace").is_err(), "{bad}");
        }
    }
}
