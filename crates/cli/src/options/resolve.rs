//! The rules that tie options to one another, in the order in which the kernel's overlayfs applies them.

use super::{Compat, Error, Fsync, LowerChanges, Options, RedirectDir, Role, Switch, Uuid, Verity, Xino};

/// What the one who mounts may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounter {
    /// Has CAP_SYS_ADMIN in the initial user namespace.
    Admin,
    /// Everybody else, root of a user namespace included.
    User,
}

/// Where the private attributes of layers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// In `trusted.overlay.*` where we may set those, else in `user.overlay.*`.
    Best,
    /// In `user.overlay.*`, because the mounter says so.
    User,
}

/// What the options come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Where marks are.
    pub(crate) marks: Marks,
    /// What is done with redirects; never [`RedirectDir::Off`].
    pub(crate) redirect_dir: RedirectDir,
    /// Changes of attributes copy attributes only, and such copies are followed.
    pub(crate) metacopy: bool,
    /// Copies are found by the lower object they come from.
    pub(crate) index: bool,
    /// All copies are.
    pub(crate) nfs_export: bool,
    /// One space of inode numbers.
    pub(crate) xino: Xino,
    /// Identity of the overlay.
    pub(crate) uuid: Uuid,
    /// What is checked of data below.
    pub(crate) verity: Verity,
    /// What is made durable.
    pub(crate) fsync: Fsync,
    /// Marks of users may be redirects and metadata-only copies.
    pub(crate) extended: bool,
}

/// Applies the rules.
///
/// # Errors
/// Options that exclude one another, that the mounter may not use, or that ask for what this version cannot do; a
/// stack without which there is nothing to mount.
pub(crate) fn resolve(options: &Options, mounter: Mounter) -> Result<Resolved, Error> {
    let writable = options.upper.is_some();
    let on = |switch: Option<Switch>| switch == Some(Switch::On);
    let extended = writable && options.compat == Some(Compat::Extended);
    let mut resolved = Resolved {
        marks: if options.userxattr { Marks::User } else { Marks::Best },
        redirect_dir: redirect_in_force(options),
        metacopy: on(options.metacopy),
        index: writable && on(options.index),
        nfs_export: on(options.nfs_export),
        xino: options.xino.unwrap_or(Xino::Off),
        uuid: match options.uuid.unwrap_or(Uuid::Auto) {
            Uuid::On if !writable => Uuid::Null,
            other => other,
        },
        verity: options.verity.unwrap_or(Verity::Off),
        fsync: match options.fsync.unwrap_or(Fsync::Auto) {
            Fsync::Volatile if !writable => Fsync::Auto,
            other => other,
        },
        extended,
    };
    if extended {
        extend(options, &mut resolved);
    }
    tie_metacopy(options, &mut resolved)?;
    tie_export(options, &mut resolved)?;
    if resolved.index && options.lower == Some(LowerChanges::Revalidate) {
        // The index says which lower files were copied; others would be taken for them.
        return Err(Error::Conflict { option: "lower=revalidate", other: "index=on" });
    }
    if extended {
        if mounter == Mounter::User || options.userxattr {
            user_may_not_verify(options)?;
        }
    } else if options.userxattr {
        if options.redirect_dir.is_some() && redirect_in_force(options) != RedirectDir::NoFollow {
            return Err(Error::Conflict { option: "userxattr", other: "redirect_dir" });
        }
        if on(options.metacopy) {
            return Err(Error::Conflict { option: "userxattr", other: "metacopy=on" });
        }
        resolved.redirect_dir = RedirectDir::NoFollow;
        resolved.metacopy = false;
    } else if mounter == Mounter::User {
        user_may(options, redirect_in_force(options))?;
    }
    stack(options)?;
    Ok(resolved)
}

/// What `compat=extended` is for is on unless an option says otherwise.
fn extend(options: &Options, resolved: &mut Resolved) {
    if options.redirect_dir.is_none() {
        resolved.redirect_dir = RedirectDir::On;
    }
    if options.metacopy.is_none() && resolved.redirect_dir == RedirectDir::On && !resolved.nfs_export {
        resolved.metacopy = true;
    }
}

/// Copies of attributes are found by redirects.
fn tie_metacopy(options: &Options, resolved: &mut Resolved) -> Result<(), Error> {
    if !resolved.metacopy || resolved.redirect_dir == RedirectDir::On {
        return Ok(());
    }
    if options.redirect_dir.is_some() {
        return Err(Error::Conflict { option: "metacopy=on", other: "redirect_dir" });
    }
    resolved.redirect_dir = RedirectDir::On;
    Ok(())
}

/// What is exported is indexed, and copied whole.
fn tie_export(options: &Options, resolved: &mut Resolved) -> Result<(), Error> {
    if resolved.nfs_export && !resolved.index {
        if options.upper.is_none() && resolved.redirect_dir != RedirectDir::NoFollow {
            resolved.nfs_export = false;
        } else if options.index == Some(Switch::Off) {
            return Err(Error::Conflict { option: "nfs_export=on", other: "index=off" });
        } else {
            resolved.index = options.upper.is_some();
        }
    }
    if resolved.nfs_export && resolved.metacopy {
        return Err(Error::Conflict { option: "nfs_export=on", other: "metacopy=on" });
    }
    Ok(())
}

/// The redirect mode with the defaults of a kernel: follow, and without an upper layer following is all there is.
fn redirect_in_force(options: &Options) -> RedirectDir {
    match options.redirect_dir.unwrap_or(RedirectDir::Off) {
        RedirectDir::NoFollow => RedirectDir::NoFollow,
        RedirectDir::On => RedirectDir::On,
        RedirectDir::Follow | RedirectDir::Off if options.upper.is_none() => RedirectDir::On,
        RedirectDir::Follow | RedirectDir::Off => RedirectDir::Follow,
    }
}

/// What marks in `trusted.overlay.*` could be forged for is refused to users.
fn user_may(options: &Options, redirect: RedirectDir) -> Result<(), Error> {
    let refused = [
        (options.redirect_dir.is_some() && redirect != RedirectDir::NoFollow, "redirect_dir"),
        (options.metacopy == Some(Switch::On), "metacopy=on"),
    ];
    match refused.iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(Error::Privilege { option }),
        None => user_may_not_verify(options),
    }
}

/// What rests on marks of lower layers.
fn user_may_not_verify(options: &Options) -> Result<(), Error> {
    let refused = [
        (options.verity.is_some_and(|verity| verity != Verity::Off), "verity"),
        (!options.data.is_empty(), "datadir+"),
    ];
    match refused.iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(Error::Privilege { option }),
        None => Ok(()),
    }
}

/// Whether the layers make a stack.
fn stack(options: &Options) -> Result<(), Error> {
    if options.lowers.is_empty() {
        return Err(Error::Missing(Role::Lower));
    }
    match (&options.upper, &options.work) {
        (Some(_), None) => Err(Error::MissingWork),
        (None, _) if options.lowers.len() + options.data.len() == 1 => Err(Error::OnlyOne),
        _ => Ok(()),
    }
}
