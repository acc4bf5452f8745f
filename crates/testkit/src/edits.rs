//! Random trees and random edits of them, from a seed: names out of few, objects of every kind.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};

/// Makes a tree of directories, files, symlinks, fifos and attributes.
///
/// # Errors
/// Those of the filesystem.
pub fn plant(root: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let mut dirs = vec![root.to_owned()];
    for _ in 0..60 {
        let dir = dirs[random.usize(..dirs.len())].clone();
        let path = dir.join(name(random));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match random.u8(..10) {
            0..4 => {
                fs::create_dir(&path)?;
                dirs.push(path);
            }
            4 => symlink("nowhere", &path)?,
            5 => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            6 => {
                fs::write(&path, "with an attribute")?;
                lsetxattr(&path, "user.x", b"1", XattrFlags::empty())?;
            }
            _ => fs::write(&path, vec![b'a' + random.u8(..3); random.usize(..300_000)])?,
        }
    }
    Ok(())
}

/// A name out of few, one of them hostile.
fn name(random: &mut fastrand::Rng) -> std::ffi::OsString {
    let names: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"e", b"a.b", b"\xff\n"];
    std::ffi::OsString::from_vec(names[random.usize(..names.len())].to_vec())
}

/// All paths of a tree.
fn paths(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if fs::symlink_metadata(&found[at])?.is_dir() {
            for entry in fs::read_dir(&found[at])? {
                found.push(entry?.path());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// Does one thing to a tree; what cannot be done is not done.
///
/// # Errors
/// Those of the filesystem that no tree makes likely.
pub fn edit(root: &Path, random: &mut fastrand::Rng) -> Result<()> {
    let all = paths(root)?;
    let some = |random: &mut fastrand::Rng| all[random.usize(..all.len())].clone();
    let path = some(random);
    let kind = fs::symlink_metadata(&path)?.file_type();
    let is_root = path == root;
    match random.u8(..14) {
        0..3 if kind.is_file() => fs::remove_file(&path)?,
        0..3 if kind.is_dir() && !is_root => fs::remove_dir_all(&path)?,
        3 if !is_root => {
            // Another type of object at the same name.
            if kind.is_dir() {
                fs::remove_dir_all(&path)?;
                fs::write(&path, "was a directory")?;
            } else {
                fs::remove_file(&path)?;
                fs::create_dir(&path)?;
                fs::write(path.join(name(random)), "within what was none")?;
            }
        }
        4 if kind.is_dir() && !is_root => {
            // The same name anew: opaque.
            fs::remove_dir_all(&path)?;
            fs::create_dir(&path)?;
            fs::write(path.join(name(random)), "anew")?;
        }
        5 if kind.is_file() => {
            // Copied up and equal.
            let content = fs::read(&path)?;
            fs::write(&path, content)?;
        }
        6 if kind.is_file() => {
            let mut content = fs::read(&path)?;
            content.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
            fs::write(&path, content)?;
        }
        7 if !kind.is_symlink() && !is_root => fs::set_permissions(&path, PermissionsExt::from_mode(0o711))?,
        8 if kind.is_file() || kind.is_dir() && !is_root => {
            lsetxattr(&path, "user.y", b"value", XattrFlags::empty())?;
        }
        9 if !is_root => {
            let to = some(random).join(name(random));
            // Into itself, over a full directory, from one layer to another: the kernel says no.
            let _may_be_refused = fs::rename(&path, to);
        }
        10 if kind.is_file() => {
            let _may_be_refused = fs::hard_link(&path, some(random).join(name(random)));
        }
        11 => {
            let to = if kind.is_dir() { path.join(name(random)) } else { path };
            let _may_be_refused = std::os::unix::fs::lchown(to, Some(12), None);
        }
        12 if kind.is_dir() => {
            // Only where there is nothing: writing to a fifo waits for a reader.
            let to = path.join(name(random));
            if fs::symlink_metadata(&to).is_err() {
                fs::write(to, "new")?;
            }
        }
        13 if kind.is_dir() => {
            let _may_be_refused = fs::create_dir_all(path.join(name(random)).join(name(random)));
        }
        _ => {}
    }
    Ok(())
}
