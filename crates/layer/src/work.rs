//! The work directory: staging of what is published by one rename or link.
//!
//! `<workdir>/work` is swept and made anew at each mount, as the kernel does (overlayfs.rst, "workdir"). Names in it
//! are `#` and a hexadecimal counter; nobody may rely on them. A staged object that is not published is removed by
//! its guard; what a killed process leaves is removed by the next mount, ours or the kernel's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::mark::{Dialect, EXTENDED, Mark};
use crate::{At, Errno, Kind, Layer, Owner, Rdev, Rename, Result, SetXattr, UpperLayer};

/// The name of the staging directory within the work directory.
pub const WORK: &[u8] = b"work";

/// The name of the index directory within the work directory.
pub const INDEX: &[u8] = b"index";

/// The name that features put into the staging directory to keep others from mounting.
pub const INCOMPAT: &[u8] = b"incompat";

/// The feature of mounts that make nothing durable.
pub const VOLATILE: &[u8] = b"volatile";

/// How whiteouts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhiteoutForm {
    /// Character device 0:0, the kernel's form.
    #[default]
    Device,
    /// Empty regular file with the mark [`Mark::Whiteout`], in a directory marked `opaque=x`.
    Xattr,
}

/// What the upper filesystem and our privileges allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The dialect whose marks can be stored; `None` where there are no such xattrs.
    pub dialect: Option<Dialect>,
    /// The form of whiteouts that can be made.
    pub whiteouts: WhiteoutForm,
}

/// Why the work directory could not be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareError {
    /// `work/incompat` holds an entry: a feature that we do not know, or an unclean volatile mount.
    Incompatible,
    /// A step failed.
    Failed {
        /// What was being done.
        step: &'static str,
        /// The filesystem's answer.
        errno: Errno,
    },
}

impl std::fmt::Display for PrepareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PrepareError::Incompatible => f.write_str("the work directory is marked by an unknown feature"),
            PrepareError::Failed { step, errno } => write!(f, "the work directory: {step}: {errno}"),
        }
    }
}

impl std::error::Error for PrepareError {}

/// Sweeps and makes `<workdir>/work` and returns it.
///
/// `known` are the features that may have marked it. Their marks stay, at every moment, for whoever mounts the layer next
/// may not know them.
/// `mode` is 0 as the kernel makes it, or 0700 for a mounter without `CAP_DAC_OVERRIDE`, who could not use it else.
///
/// # Errors
/// [`PrepareError::Incompatible`] before anything is removed; the errno of a step that failed.
pub fn prepare<L: UpperLayer>(
    layer: &L,
    workdir: &L::Dir,
    mode: u32,
    known: &[&[u8]],
) -> std::result::Result<L::Dir, PrepareError> {
    let failed = |step| move |errno| PrepareError::Failed { step, errno };
    match layer.stat(At::Name(workdir, WORK)) {
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed("look at the staging directory")(errno)),
        Ok(stat) if stat.kind == Kind::Dir => {
            let old = layer.open_dir(workdir, WORK).map_err(failed("open the old staging directory"))?;
            let marks = features(layer, &old).map_err(failed("look for incompatible features"))?;
            if marks.iter().any(|mark| !known.contains(&mark.as_slice())) {
                return Err(PrepareError::Incompatible);
            }
            let removed = if marks.is_empty() {
                remove_tree(layer, workdir, WORK)
            } else {
                remove_below(layer, &old, |name| name != INCOMPAT)
            };
            removed.map_err(failed("sweep the old staging directory"))?;
        }
        Ok(_) => {
            layer.unlink(workdir, WORK).map_err(failed("remove what is in place of the staging directory"))?
        }
    }
    match layer.make_dir(workdir, WORK, 0o700, Owner::Mounter) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make the staging directory")(errno)),
    }
    let work = layer.open_dir(workdir, WORK).map_err(failed("open the staging directory"))?;
    for acl in [crate::acl::ACCESS, crate::acl::DEFAULT] {
        match layer.remove_xattr(At::Dir(&work), acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(failed("remove inherited ACLs of the staging directory")(errno)),
        }
    }
    layer.set_mode(At::Dir(&work), mode).map_err(failed("set the mode of the staging directory"))?;
    Ok(work)
}

/// The features that have marked a staging directory.
fn features<L: UpperLayer>(layer: &L, work: &L::Dir) -> Result<Vec<Vec<u8>>> {
    let incompat = match layer.open_dir(work, INCOMPAT) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::new();
    layer.list(&incompat, &mut |entry| names.push(entry.name.to_vec()))?;
    Ok(names)
}

/// Opens `<workdir>/index`, which is kept from mount to mount, and makes it if it is not there.
///
/// # Errors
/// `ENOTDIR` if something else has its name; those of the layer.
pub fn open_index<L: UpperLayer>(layer: &L, workdir: &L::Dir, mode: u32) -> Result<L::Dir> {
    match layer.open_dir(workdir, INDEX) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    layer.make_dir(workdir, INDEX, 0o700, Owner::Mounter)?;
    layer.set_mode(At::Name(workdir, INDEX), mode)?;
    layer.open_dir(workdir, INDEX)
}

/// Marks the staging directory as that of a mount that makes nothing durable: `work/incompat/volatile/dirty`. No later
/// mount takes the upper layer until somebody has removed the mark, because it may not have survived a crash.
///
/// # Errors
/// Those of the layer.
pub fn mark_volatile<L: UpperLayer>(layer: &L) -> Result<()> {
    let dir = mark_incompatible(layer, VOLATILE)?;
    match layer.make_node(&dir, b"dirty", Kind::File, 0, Rdev::default(), Owner::Mounter) {
        // The mount is the same one still, served by another process.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Marks the staging directory as that of a mount with a feature, which keeps others away that do not know it, the
/// kernel among them. Returns the directory that does.
///
/// # Errors
/// Those of the layer.
pub fn mark_incompatible<L: UpperLayer>(layer: &L, feature: &[u8]) -> Result<L::Dir> {
    let mut dir = layer.work().clone();
    for name in [INCOMPAT, feature] {
        match layer.make_dir(&dir, name, 0o700, Owner::Mounter) {
            Err(Errno::EXIST) | Ok(()) => dir = layer.open_dir(&dir, name)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(dir)
}

/// Records on upper's root that the layer may hold redirects and metadata-only copies with marks of
/// [`Dialect::User`], and keeps the kernel from mounting it. To be called before anything of that kind is written.
///
/// # Errors
/// Those of the layer.
pub fn mark_extended<L: UpperLayer>(layer: &L) -> Result<()> {
    let name = Dialect::User.name(Mark::Compat);
    layer.set_xattr(At::Dir(layer.root()), name, EXTENDED, SetXattr::Any)?;
    mark_incompatible(layer, EXTENDED).map(drop)
}

/// Takes back what [`mark_extended`] has recorded: the layer holds nothing of that kind any more.
///
/// # Errors
/// Those of the layer.
pub fn unmark_extended<L: UpperLayer>(layer: &L) -> Result<()> {
    // The mark on the layer goes last: whoever is stopped in between finds it, and does the rest the next time.
    match layer.open_dir(layer.work(), INCOMPAT) {
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(errno) => return Err(errno),
        Ok(incompat) => match layer.rmdir(&incompat, EXTENDED) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        },
    }
    match layer.remove_xattr(At::Dir(layer.root()), Dialect::User.name(Mark::Compat)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// What the root of a layer says that one has to know to read it; `None` if the kernel reads it.
///
/// # Errors
/// Those of the layer; where there are no such attributes there is nothing to know.
pub fn compat<L: Layer>(layer: &L) -> Result<Option<Vec<u8>>> {
    match layer.get_xattr(At::Dir(layer.root()), Dialect::User.name(Mark::Compat)) {
        Err(Errno::OPNOTSUPP) => Ok(None),
        other => other,
    }
}

/// Removes `name` in `dir` and everything below it.
///
/// # Errors
/// Those of the layer; what was removed before stays removed.
pub fn remove_tree<L: UpperLayer>(layer: &L, dir: &L::Dir, name: &[u8]) -> Result<()> {
    if layer.stat(At::Name(dir, name))?.kind != Kind::Dir {
        return layer.unlink(dir, name);
    }
    remove_below(layer, &layer.open_dir(dir, name)?, |_| true)?;
    layer.rmdir(dir, name)
}

/// Removes everything in `dir` whose name is meant, with all below it.
fn remove_below<L: UpperLayer>(layer: &L, dir: &L::Dir, meant: impl Fn(&[u8]) -> bool) -> Result<()> {
    let mut names = Vec::new();
    layer.list(dir, &mut |entry| {
        if meant(entry.name) {
            names.push(entry.name.to_vec());
        }
    })?;
    names.iter().try_for_each(|name| remove_tree(layer, dir, name))
}

/// Finds out which marks can be stored on the upper filesystem, by doing it in the staging directory; `None` where there
/// can be no whiteouts and opaque marks but files ([`View::with_files`](crate::view::View::with_files)).
///
/// # Errors
/// Failures other than "not supported" and "not permitted".
pub fn dialect<L: UpperLayer>(layer: &L, wanted: Option<Dialect>) -> Result<Option<Dialect>> {
    let candidates = match wanted {
        Some(dialect) => vec![dialect],
        None => vec![Dialect::Trusted, Dialect::User],
    };
    for candidate in candidates {
        if can_mark(layer, candidate)? {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Finds out what can be stored on the upper filesystem, by doing it in the staging directory.
///
/// # Errors
/// Failures other than "not supported" and "not permitted".
pub fn probe<L: UpperLayer>(layer: &L, wanted: Option<Dialect>) -> Result<Abilities> {
    let dialect = dialect(layer, wanted)?;
    let name = b"#probe";
    let whiteouts =
        match layer.make_node(layer.work(), name, Kind::CharDevice, 0, Rdev::default(), Owner::Mounter) {
            Ok(()) => {
                layer.unlink(layer.work(), name)?;
                WhiteoutForm::Device
            }
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::ACCESS) if dialect.is_some() => {
                WhiteoutForm::Xattr
            }
            Err(errno) => return Err(errno),
        };
    Ok(Abilities { dialect, whiteouts })
}

/// Which upper layers get an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identify {
    /// Those that no kernel has used without giving them one (`uuid=auto`).
    IfNew,
    /// All (`uuid=on`).
    Always,
}

/// Gives the upper layer the identity of an overlay, unless it has one.
///
/// # Errors
/// Those of the layer; where marks cannot be stored there is nothing to do.
pub fn identify<L: UpperLayer>(layer: &L, dialect: Dialect, random: &[u8; 16], when: Identify) -> Result<()> {
    let root = At::Dir(layer.root());
    let signs: &[Mark] = match when {
        Identify::IfNew => &[Mark::Uuid, Mark::Impure],
        Identify::Always => &[Mark::Uuid],
    };
    for &mark in signs {
        match layer.get_xattr(root, dialect.name(mark)) {
            Ok(None) => {}
            Ok(Some(_)) | Err(Errno::OPNOTSUPP | Errno::PERM) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    match layer.set_xattr(root, dialect.name(Mark::Uuid), random, SetXattr::Any) {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

fn can_mark<L: UpperLayer>(layer: &L, dialect: Dialect) -> Result<bool> {
    let work = At::Dir(layer.work());
    let name = dialect.name(Mark::Opaque);
    match layer.set_xattr(work, name, b"0", SetXattr::Any) {
        Ok(()) => layer.remove_xattr(work, name).map(|()| true),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Fresh names and shared whiteouts of one staging directory.
#[derive(Debug)]
pub struct Staging {
    counter: AtomicU64,
    form: WhiteoutForm,
    dialect: Dialect,
    /// The name of the whiteout that new ones are links of.
    shared: Mutex<Option<Vec<u8>>>,
    /// Cleared when the filesystem turns out to refuse links of it.
    sharing: AtomicBool,
}

impl Staging {
    /// Staging for a directory that [`prepare`] has made empty.
    pub fn new(dialect: Dialect, form: WhiteoutForm) -> Staging {
        Staging {
            counter: AtomicU64::new(0),
            form,
            dialect,
            shared: Mutex::new(None),
            sharing: AtomicBool::new(true),
        }
    }

    /// A name that was not used before.
    pub fn fresh_name(&self) -> Vec<u8> {
        format!("#{:x}", self.counter.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// The form of the whiteouts made here.
    pub fn form(&self) -> WhiteoutForm {
        self.form
    }

    /// Makes a whiteout ready to be renamed into place: a hard link of the shared one where that is possible, as
    /// the kernel does since 5.8.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn whiteout<'a, L: UpperLayer>(&self, layer: &'a L) -> Result<Staged<'a, L>> {
        if self.sharing.load(Ordering::Relaxed) {
            let mut shared = self.shared.lock();
            if let Some(source) = &*shared {
                let name = self.fresh_name();
                match layer.link(At::Name(layer.work(), source), layer.work(), &name) {
                    Ok(()) => return Ok(Staged { layer, name, is_dir: false, armed: true }),
                    // Full: this one is used up, and the next one starts a new family.
                    Err(Errno::MLINK) => {
                        let name = source.clone();
                        *shared = None;
                        return Ok(Staged { layer, name, is_dir: false, armed: true });
                    }
                    // Swept from outside, or a filesystem without links of devices.
                    Err(Errno::NOENT) => *shared = None,
                    Err(_) => self.sharing.store(false, Ordering::Relaxed),
                }
            }
            if self.sharing.load(Ordering::Relaxed) {
                let source = self.make_whiteout(layer)?;
                let name = self.fresh_name();
                let linked = layer.link(At::Name(layer.work(), &source), layer.work(), &name);
                if linked.is_ok() {
                    *shared = Some(source);
                    return Ok(Staged { layer, name, is_dir: false, armed: true });
                }
                self.sharing.store(false, Ordering::Relaxed);
                return Ok(Staged { layer, name: source, is_dir: false, armed: true });
            }
        }
        let name = self.make_whiteout(layer)?;
        Ok(Staged { layer, name, is_dir: false, armed: true })
    }

    /// Puts a whiteout at a free name by one link. `false` if that cannot be done, for whatever reason: the way through
    /// the staging directory succeeds, or finds out why it cannot.
    pub fn whiteout_in_place<L: UpperLayer>(&self, layer: &L, dir: &L::Dir, name: &[u8]) -> bool {
        if !self.sharing.load(Ordering::Relaxed) {
            return false;
        }
        let shared = self.shared.lock();
        let Some(source) = &*shared else { return false };
        layer.link(At::Name(layer.work(), source), dir, name).is_ok()
    }

    /// Removes the whiteout that new ones are links of.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn clear<L: UpperLayer>(&self, layer: &L) -> Result<()> {
        match self.shared.lock().take() {
            Some(name) => layer.unlink(layer.work(), &name),
            None => Ok(()),
        }
    }

    fn make_whiteout<L: UpperLayer>(&self, layer: &L) -> Result<Vec<u8>> {
        let (work, name) = (layer.work(), self.fresh_name());
        match self.form {
            WhiteoutForm::Device => {
                layer.make_node(work, &name, Kind::CharDevice, 0, Rdev::default(), Owner::Mounter)?;
            }
            WhiteoutForm::Xattr => {
                layer.make_node(work, &name, Kind::File, 0o600, Rdev::default(), Owner::Mounter)?;
                let guard = Staged { layer, name, is_dir: false, armed: true };
                layer.set_xattr(guard.at(), self.dialect.name(Mark::Whiteout), b"y", SetXattr::Any)?;
                return Ok(guard.disarm());
            }
        }
        Ok(name)
    }

    /// Stages an empty directory.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn dir<'a, L: UpperLayer>(&self, layer: &'a L, mode: u32, owner: Owner) -> Result<Staged<'a, L>> {
        let name = self.fresh_name();
        layer.make_dir(layer.work(), &name, mode, owner)?;
        Ok(Staged { layer, name, is_dir: true, armed: true })
    }

    /// Stages a non-directory: `make` gets the staging directory and a fresh name, under which it makes the object.
    ///
    /// # Errors
    /// What `make` says.
    pub fn object<'a, L: UpperLayer, T>(
        &self,
        layer: &'a L,
        make: impl FnOnce(&L::Dir, &[u8]) -> Result<T>,
    ) -> Result<(Staged<'a, L>, T)> {
        let name = self.fresh_name();
        let made = make(layer.work(), &name)?;
        Ok((Staged { layer, name, is_dir: false, armed: true }, made))
    }

    /// Moves `name` out of `dir` into the staging directory, where its guard removes it, an old directory with all
    /// the whiteouts in it.
    ///
    /// # Errors
    /// Those of the rename.
    pub fn take<'a, L: UpperLayer>(
        &self,
        layer: &'a L,
        dir: &L::Dir,
        name: &[u8],
        is_dir: bool,
    ) -> Result<Staged<'a, L>> {
        let staged = self.fresh_name();
        layer.rename((dir, name), (layer.work(), &staged), Rename::NoReplace).or_else(
            |errno| match errno {
                // A filesystem without rename flags; the fresh name is free anyway.
                Errno::INVAL => layer.rename((dir, name), (layer.work(), &staged), Rename::Replace),
                other => Err(other),
            },
        )?;
        Ok(Staged { layer, name: staged, is_dir, armed: true })
    }
}

/// An object in the staging directory, removed on drop unless it was published.
pub struct Staged<'a, L: UpperLayer> {
    layer: &'a L,
    name: Vec<u8>,
    is_dir: bool,
    armed: bool,
}

impl<L: UpperLayer> Staged<'_, L> {
    /// Where it is.
    pub fn at(&self) -> At<'_, L> {
        At::Name(self.layer.work(), &self.name)
    }

    /// Its name in the staging directory.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Publishes it as `name` in `dir`, over a non-directory or an empty directory or nothing.
    ///
    /// # Errors
    /// Those of the rename; it is removed then.
    pub fn publish(mut self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        self.layer.rename((self.layer.work(), &self.name), (dir, name), Rename::Replace)?;
        self.armed = false;
        Ok(())
    }

    /// Publishes it as `name` in `dir`, where nothing may be.
    ///
    /// # Errors
    /// `EEXIST`; those of the rename; it is removed then.
    pub fn publish_new(mut self, dir: &L::Dir, name: &[u8]) -> Result<()> {
        let from = (self.layer.work(), self.name.as_slice());
        match self.layer.rename(from, (dir, name), Rename::NoReplace) {
            // A filesystem without rename flags: nothing but us changes the upper directory.
            Err(Errno::INVAL) => match self.layer.stat(At::Name(dir, name)) {
                Err(Errno::NOENT) => self.layer.rename(from, (dir, name), Rename::Replace)?,
                Ok(_) => return Err(Errno::EXIST),
                Err(errno) => return Err(errno),
            },
            other => other?,
        }
        self.armed = false;
        Ok(())
    }

    /// Exchanges it with what is `name` in `dir`, which is then the staged object and removed on drop.
    ///
    /// # Errors
    /// Those of the rename.
    pub fn exchange(mut self, dir: &L::Dir, name: &[u8], old_is_dir: bool) -> Result<Self> {
        self.layer.rename((self.layer.work(), &self.name), (dir, name), Rename::Exchange)?;
        self.is_dir = old_is_dir;
        Ok(self)
    }

    /// Leaves it in the staging directory and gives up responsibility.
    pub fn disarm(mut self) -> Vec<u8> {
        self.armed = false;
        std::mem::take(&mut self.name)
    }
}

impl<L: UpperLayer> Drop for Staged<'_, L> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // What cannot be removed now is invisible to users and swept by the next mount.
        let _swept_later = if self.is_dir {
            remove_tree(self.layer, self.layer.work(), &self.name)
        } else {
            self.layer.unlink(self.layer.work(), &self.name)
        };
    }
}
