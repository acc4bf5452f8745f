//! What a server remembers takes little memory, and none once it is gone.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;

use super::{Holds, Served, stack_in};
use crate::scratch::{FsKind, Scratch};

/// Files in each directory of [`bytes_a_node`].
const FILES_EACH: usize = 20;

/// The bytes of resident memory that a server takes for each further object that the kernel knows, all included: `files`
/// files in directories of 20 are listed and their attributes read, after a tenth as many others. These make it start the
/// threads that it needs and use their buffers, once, however many objects follow.
///
/// # Errors
/// If an operation fails.
pub fn bytes_a_node(files: usize) -> Result<usize> {
    let scratch = Scratch::on(FsKind::Tmpfs, "nodes", 1024)?;
    let stack = stack_in(scratch.path())?;
    let lower = scratch.path().join("lower");
    make_tree(&lower.join("first"), files / 10)?;
    make_tree(&lower.join("measured"), files)?;
    let served = Served::start(&stack, scratch.path().join("merged"))?;
    walk(&served.merged.join("first"))?;
    let before = served.holds()?;
    let nodes = walk(&served.merged.join("measured"))?;
    let bytes = served.holds()?.resident_kib.saturating_sub(before.resident_kib) * 1024;
    served.unmount()?;
    Ok(bytes as usize / nodes.max(1))
}

fn make_tree(root: &Path, files: usize) -> Result<()> {
    for number in 0..files {
        let dir = root.join(format!("outer-{}/inner-{}", number / 1000, number / FILES_EACH));
        if number % FILES_EACH == 0 {
            fs::create_dir_all(&dir)?;
        }
        File::create_new(dir.join(format!("file-{number}.txt")))?;
    }
    Ok(())
}

/// Reads the attributes of everything below a directory; returns how much there is.
fn walk(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += 1;
        if entry.metadata()?.is_dir() {
            count += walk(&entry.path())?;
        }
    }
    Ok(count)
}

/// Creates and removes `count` files, and returns what the server holds after the first tenth of them and after all.
///
/// # Errors
/// If an operation fails.
pub fn coming_and_going(count: usize) -> Result<[Holds; 2]> {
    let scratch = Scratch::on(FsKind::Tmpfs, "going", 1024)?;
    let stack = stack_in(scratch.path())?;
    let served = Served::start(&stack, scratch.path().join("merged"))?;
    let dir = served.merged.join("dir");
    fs::create_dir(&dir)?;
    let mut early = None;
    for number in 0..count {
        if number >= count / 10 && early.is_none() {
            early = Some(served.holds()?);
        }
        let name = dir.join(format!("file-{number}"));
        File::create_new(&name)?;
        fs::remove_file(&name)?;
    }
    let late = served.holds()?;
    served.unmount()?;
    Ok([early.unwrap_or(late), late])
}
