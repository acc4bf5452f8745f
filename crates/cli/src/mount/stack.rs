//! Opening the layers, the staging directory, and what was chosen for this filesystem.

use super::features::Surveyor;
use super::place::Place;
use crate::error::Failure;
use crate::options::{
    self, Fsync, LowerChanges, Marks, Mounter, Options, RedirectDir, Resolved, Role, Uuid, Xino,
};
use crate::out::{cause, note, shown, warn};
use crate::record::LayerRecord;
use acetate_layer::dir::{DirLayer, Handles, UpperFeatures};
use acetate_layer::mark::{Dialect, EXTENDED};
use acetate_layer::view::Rules;
use acetate_layer::work::{self, PrepareError, WhiteoutForm};
use acetate_layer::{At, Layer};
use acetate_overlay::{Durability, Index, Redirects, Verity};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

/// Open layers.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The writable layer with its staging directory.
    pub(crate) upper: Option<DirLayer>,
    /// The lower layers, the topmost first.
    pub(crate) lowers: Vec<DirLayer>,
    /// The data-only layers.
    pub(crate) data: Vec<DirLayer>,
    /// Which attributes are marks.
    pub(crate) dialect: Dialect,
    /// How whiteouts are made.
    pub(crate) whiteouts: WhiteoutForm,
    /// Whether marks can be stored.
    pub(crate) marks_storable: bool,
    /// Whiteouts and opaque marks of upper are files.
    pub(crate) hidden_by_files: bool,
    /// What is done with redirects.
    pub(crate) redirects: Redirects,
    /// Changes of attributes copy attributes only.
    pub(crate) metacopy: bool,
    /// What is asked of the data below metadata-only copies.
    pub(crate) verity: Verity,
    /// Marks of lower layers are followed.
    pub(crate) follows_below: bool,
    /// The longest redirect, in bytes.
    pub(crate) redirect_max: usize,
    /// Which copies are indexed.
    pub(crate) index: Index,
    /// File handles can be opened.
    pub(crate) handles_open: bool,
    /// What the upper layer is given as its identity.
    pub(crate) uuid: Uuid,
    /// Stored file handles hold UUIDs.
    pub(crate) uuid_in_handles: bool,
    /// What is made durable.
    pub(crate) durability: Durability,
    /// Lower layers may change while they are mounted.
    pub(crate) lower_changes: bool,
    /// Lower layers may change between mounts.
    pub(crate) offline_changes: bool,
    /// How owners, modes and whiteouts are shown.
    pub(crate) rules: Rules,
    /// The lower layers, by index, whose whiteouts are those of layer archives.
    pub(crate) archives: Vec<usize>,
    /// Inode numbers have 32 bits.
    pub(crate) narrow_numbers: bool,
    /// Device and inode number of the work directory, which cannot be used through the mount.
    pub(crate) workdir: Option<(u64, u64)>,
    /// Nothing can be written although there is an upper layer.
    pub(crate) forced_read_only: bool,
    /// What upper can do, where it can be written to.
    pub(crate) upper_features: Option<UpperFeatures>,
    /// What the layers' filesystems offer: upper's first.
    pub(crate) layers: Vec<LayerRecord>,
}

/// Which server of a mount opens the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The one that makes it.
    First,
    /// One that takes it over.
    Again,
}

/// Opens the layers, prepares the work directory and finds out what can be stored.
///
/// # Errors
/// A layer that cannot be opened; a work directory that an incompatible feature has marked.
pub(super) fn open(
    lowers: &[Place],
    data: &[Place],
    writable: Option<&(Place, Place)>,
    given: &Options,
    resolved: Resolved,
    (mounter, by): (Mounter, Use),
) -> Result<Opened, Failure> {
    let (places, data_places) = (lowers, data);
    let open = |places: &[Place]| {
        let open = |place: &Place| DirLayer::open_lower(&place.path).map_err(|errno| refused(place, errno));
        places.iter().map(open).collect::<Result<Vec<_>, _>>()
    };
    let (lowers, data) = (open(lowers)?, open(data)?);
    let is_archive =
        |index: &usize| given.oci_whiteouts.as_ref().is_some_and(|layers| layers.contain(*index));
    let archives = (0..lowers.len()).filter(is_archive).collect();
    let wanted = match resolved.marks {
        Marks::User => Some(Dialect::User),
        Marks::Best => None,
    };
    // Where nothing is stored: what the mounter could have stored.
    let dialect = wanted.unwrap_or(match mounter {
        Mounter::Admin => Dialect::Trusted,
        Mounter::User => Dialect::User,
    });
    let mut opened = Opened {
        upper: None,
        lowers,
        data,
        dialect,
        whiteouts: WhiteoutForm::Device,
        marks_storable: false,
        hidden_by_files: false,
        redirects: redirects(resolved, dialect == Dialect::Trusted),
        metacopy: resolved.metacopy && dialect == Dialect::Trusted,
        verity: match resolved.verity {
            options::Verity::Off => Verity::Off,
            options::Verity::On => Verity::On,
            options::Verity::Require => Verity::Require,
        },
        follows_below: true,
        redirect_max: KERNEL_REDIRECT_MAX,
        index: Index::Nothing,
        handles_open: true,
        uuid: resolved.uuid,
        uuid_in_handles: true,
        durability: durability(resolved),
        lower_changes: given.lower == Some(LowerChanges::Revalidate),
        offline_changes: true,
        rules: rules(given),
        archives,
        narrow_numbers: given.ino32,
        workdir: None,
        forced_read_only: false,
        upper_features: None,
        layers: Vec::new(),
    };
    for (place, layer) in places.iter().zip(&opened.lowers) {
        refuse_extended(place, layer)?;
    }
    if let Some((upper, work)) = writable {
        open_writable(&mut opened, upper, work, wanted, (resolved, by))?;
    }
    let surveyor = Surveyor::new(mounter, opened.upper_features.zip(Some(opened.whiteouts)));
    let upper = writable.map(|(upper, _)| upper).zip(opened.upper.as_ref());
    let below = places.iter().zip(&opened.lowers).chain(data_places.iter().zip(&opened.data));
    let look = |(place, layer)| surveyor.look(place, layer, opened.upper.as_ref());
    opened.layers = upper.into_iter().chain(below).map(look).collect();
    Ok(opened)
}

fn open_writable(
    opened: &mut Opened,
    upper: &Place,
    work: &Place,
    wanted: Option<Dialect>,
    (resolved, by): (Resolved, Use),
) -> Result<(), Failure> {
    let mut layer = DirLayer::open_upper(&upper.path).map_err(|errno| refused(upper, errno))?;
    let workdir = layer.open_workdir(&work.path).map_err(|errno| refused(work, errno))?;
    let stat = layer.stat(At::Dir(&workdir)).map_err(|errno| refused(work, errno))?;
    opened.workdir = Some((stat.dev, stat.ino));
    if !resolved.extended {
        refuse_extended(upper, &layer)?;
    }
    let known: &[&[u8]] = match (resolved.extended, by) {
        (true, Use::First) => &[EXTENDED],
        (false, Use::First) => &[],
        // The mount is the same one still.
        (_, Use::Again) => &[EXTENDED, work::VOLATILE],
    };
    match work::prepare(&layer, &workdir, staging_mode(), known) {
        Ok(dir) => layer.set_work(dir),
        Err(PrepareError::Incompatible) => return Err(incompatible(work)),
        Err(PrepareError::Failed { step, errno }) => {
            // As the kernel does: what is below can still be read.
            warn(format_args!(
                "work directory: {}: cannot {step}: {}: mounted read-only",
                shown(&work.path),
                cause(errno)
            ));
            opened.forced_read_only = true;
            opened.upper = Some(layer);
            return Ok(());
        }
    }
    // It is for `acetate mounts` only.
    opened.upper_features = layer.upper_features().ok();
    let failed = |errno| Failure::path("try the work directory", &work.path, errno);
    match work::dialect(&layer, wanted).map_err(failed)? {
        None => opened.hidden_by_files = true,
        Some(dialect) => {
            opened.marks_storable = true;
            opened.dialect = dialect;
            opened.whiteouts = work::probe(&layer, Some(dialect)).map_err(failed)?.whiteouts;
        }
    }
    let trusted = opened.marks_storable && opened.dialect == Dialect::Trusted;
    let extended = opened.marks_storable && !trusted && resolved.extended;
    if extended {
        work::mark_extended(&layer)
            .map_err(|errno| Failure::path("record compat=extended on the layer", &upper.path, errno))?;
        // Who made the lower layers may have been anybody; upper is the mounter's.
        opened.follows_below = false;
        opened.redirect_max = EXTENDED_REDIRECT_MAX;
    }
    opened.redirects = redirects(resolved, trusted || extended);
    opened.metacopy = resolved.metacopy && (trusted || extended);
    (opened.index, opened.handles_open) = index(opened, &layer, resolved);
    let one_filesystem = opened.lowers.iter().all(|lower| lower.filesystem() == layer.filesystem());
    opened.uuid_in_handles = resolved.uuid != Uuid::Off || !one_filesystem;
    opened.offline_changes = opened.redirects != Redirects::Make
        && !opened.metacopy
        && opened.index == Index::Nothing
        && resolved.xino != Xino::On;
    if opened.durability == Durability::Nothing {
        work::mark_volatile(&layer)
            .map_err(|errno| Failure::path("mark the work directory volatile", &work.path, errno))?;
    }
    if opened.index != Index::Nothing {
        // Copies are made where they are indexed.
        let index = work::open_index(&layer, &workdir, staging_mode())
            .map_err(|errno| Failure::path("index directory", &work.path.join("index"), errno))?;
        layer.set_work(index);
    }
    opened.upper = Some(layer);
    if by == Use::First {
        tell_choice(opened, wanted, upper);
    }
    Ok(())
}

/// The kernel's parameter `redirect_max`.
const KERNEL_REDIRECT_MAX: usize = 256;
/// As long as a path can be; the filesystem may allow less.
const EXTENDED_REDIRECT_MAX: usize = 4096;

/// Refuses a layer that has to be read with extensions.
fn refuse_extended(place: &Place, layer: &DirLayer) -> Result<(), Failure> {
    let compat = work::compat(layer).map_err(|errno| refused(place, errno))?;
    let Some(compat) = compat else {
        return Ok(());
    };
    let hint = if compat == EXTENDED && place.role == Role::Upper {
        "mount it with compat=extended, or turn it into a plain layer: acetate flatten"
    } else {
        "turn it into a plain layer first: acetate flatten"
    };
    let compat = String::from_utf8_lossy(&compat).into_owned();
    Err(Failure::new(
        format_args!(
            "{}: {}: was written with compat={}",
            place.role.words(),
            shown(&place.path),
            shown(&compat)
        ),
        hint,
    ))
}

/// How the options have layers shown.
fn rules(options: &Options) -> Rules {
    /// What the kernel shows for ids without a counterpart, unless the administrator has changed it (proc(5)).
    const OVERFLOW: u32 = 65534;
    let overflow = |kind: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW)
    };
    Rules {
        uids: options.owners.user_ids(overflow("uid")),
        gids: options.owners.group_ids(overflow("gid")),
        records: options.owners.xattr_permissions,
        acls: !options.noacl,
        static_nlink: options.static_nlink,
        foreign_opaque: options.foreign_opaque,
    }
}

/// What is done with redirects where marks can be trusted; else everybody could forge them.
fn redirects(resolved: Resolved, trusted: bool) -> Redirects {
    match resolved.redirect_dir {
        _ if !trusted => Redirects::Refuse,
        RedirectDir::On => Redirects::Make,
        RedirectDir::Follow | RedirectDir::Off => Redirects::Follow,
        RedirectDir::NoFollow => Redirects::Refuse,
    }
}

/// What can be indexed, and whether file handles can be opened: everything depends on handles.
fn index(opened: &Opened, upper: &DirLayer, resolved: Resolved) -> (Index, bool) {
    if !resolved.index || !opened.marks_storable {
        return (Index::Nothing, true);
    }
    match handles(upper, &opened.lowers) {
        Err(why) => {
            note(format_args!("{why}: index=off"));
            (Index::Nothing, true)
        }
        Ok(Handles::Open) if resolved.nfs_export => (Index::All, true),
        Ok(Handles::Open) => (Index::Links, true),
        Ok(_) => {
            if resolved.nfs_export {
                note("file handles cannot be opened here (CAP_DAC_READ_SEARCH): nfs_export=off");
            }
            (Index::Links, false)
        }
    }
}

/// What can be done with the file handles of all layers, or why nothing can.
fn handles(upper: &DirLayer, lowers: &[DirLayer]) -> Result<Handles, &'static str> {
    const NONE: &str = "a layer's filesystem has no file handles that last";
    let mut known = Vec::new();
    let mut all = Handles::Open;
    for layer in lowers.iter().chain([upper]) {
        match layer.handles() {
            Ok(Handles::Open) => {}
            Ok(Handles::Named) => all = Handles::Named,
            Ok(Handles::None) | Err(_) => return Err(NONE),
        }
        let handle = layer.handle(At::Dir(layer.root())).ok().flatten().ok_or(NONE)?;
        known.push((layer.filesystem(), handle.uuid));
    }
    let ambiguous = |(id, uuid)| known.iter().any(|(other, same)| *other != id && *same == uuid);
    if known.iter().any(|one| ambiguous(*one)) {
        return Err("two layers' filesystems have the same UUID");
    }
    Ok(all)
}

fn durability(resolved: Resolved) -> Durability {
    match resolved.fsync {
        Fsync::Auto => Durability::Data,
        Fsync::Strict => Durability::All,
        Fsync::Volatile => Durability::Nothing,
    }
}

/// One line about a choice that the mounter may not expect.
fn tell_choice(opened: &Opened, wanted: Option<Dialect>, upper: &Place) {
    let whiteouts = match opened.whiteouts {
        WhiteoutForm::Device => "",
        WhiteoutForm::Xattr => "; devices cannot be made, so whiteouts are files with an xattr",
    };
    if !opened.marks_storable {
        note(format_args!(
            "{}: extended attributes cannot be set here: what is hidden is kept in files named .wh.*, which the kernel's \
             overlayfs does not read; inode numbers of changed files are not kept",
            shown(&upper.path)
        ));
    } else if wanted.is_none() && opened.dialect == Dialect::User {
        note(format_args!("trusted xattrs cannot be set here, using user.overlay.* (userxattr){whiteouts}"));
    } else if !whiteouts.is_empty() {
        note(format_args!("{}{whiteouts}", shown(&upper.path)));
    }
}

/// The mode of the staging directory: closed to everybody, but for those who have to open it as its owner.
fn staging_mode() -> u32 {
    if overrides_modes() { 0 } else { 0o700 }
}

/// Whether this process can open files whatever their modes say (capabilities(7)).
pub(crate) fn overrides_modes() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_OVERRIDE))
}

fn incompatible(work: &Place) -> Failure {
    let path = work.path.join("work/incompat");
    Failure::new(
        format_args!(
            "work directory: {}: holds marks of a mount that is incompatible or was not clean",
            shown(&path)
        ),
        format_args!(
            "a volatile kernel mount leaves them; if the upper layer may be used as it is, remove {}",
            shown(&path)
        ),
    )
}

fn refused(place: &Place, errno: Errno) -> Failure {
    Failure::path(place.role.words(), &place.path, errno).hint("you have to be able to read the directory")
}
