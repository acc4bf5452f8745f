//! Scratch directories, layers in them, and what is in a tree.

use acetate_image::{Options, Owners, Totals, split, unpack};
use acetate_layer::dir::DirLayer;
use acetate_layer::mark::Dialect;
use acetate_layer::work::WhiteoutForm;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with this.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("acetate-image-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _leftovers = fs::remove_dir_all(&self.0);
    }
}

/// Whether owners can be set; says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: owners and marks need root");
    }
    root
}

pub const OPTIONS: Options =
    Options { dialect: Dialect::Trusted, whiteouts: WhiteoutForm::Device, owners: Owners::Kept };

/// An empty layer below `home`, and where its replaced files go.
pub fn layer(home: &Path) -> DirLayer {
    fs::create_dir_all(home.join("diff")).unwrap();
    fs::create_dir_all(home.join("replaced")).unwrap();
    let mut layer = DirLayer::open_upper(&home.join("diff")).unwrap();
    let work = layer.open_workdir(&home.join("replaced")).unwrap();
    layer.set_work(work);
    layer
}

/// Unpacks an archive below `home`; returns what was found and the split file.
pub fn unpacked(archive: &[u8], home: &Path, options: Options) -> acetate_image::Result<(Totals, Vec<u8>)> {
    unpack(archive, &layer(home), options, split::Writer::new(Vec::new()).unwrap())
}

/// Makes the archive again from a layer and its split file.
pub fn joined(home: &Path, totals: &Totals, split: &[u8]) -> acetate_image::Result<Vec<u8>> {
    let mut archive = Vec::new();
    let layer = DirLayer::open_lower(&home.join("diff")).unwrap();
    let replaced = DirLayer::open_lower(&home.join("replaced")).unwrap();
    acetate_image::rejoin(split, &layer, &replaced, &totals.replaced, &mut archive)?;
    Ok(archive)
}

/// All that there is to see of each object below a directory.
pub fn describe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    walk(root, root, &mut found, &mut inodes);
    found
}

fn walk(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<Vec<u8>, String>,
    inodes: &mut BTreeMap<u64, PathBuf>,
) {
    let stat = fs::symlink_metadata(path).unwrap();
    let relative = path.strip_prefix(root).unwrap();
    let content = if stat.is_file() {
        format!("{:?}", acetate_image::Digest::of(&fs::read(path).unwrap()))
    } else if stat.is_symlink() {
        format!("{:?}", fs::read_link(path).unwrap())
    } else {
        String::new()
    };
    let first = inodes.entry(stat.ino()).or_insert_with(|| relative.to_owned()).clone();
    let size = if stat.is_dir() { 0 } else { stat.size() };
    let text = format!(
        "{:o} {}:{} {size} rdev {} at {}.{:09} first {first:?} {content} {:?}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        xattrs(path),
    );
    found.insert(relative.as_os_str().as_bytes().to_vec(), text);
    if stat.is_dir() {
        let mut names: Vec<PathBuf> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for child in names {
            walk(root, &child, found, inodes);
        }
    }
}

/// Extended attributes by name.
pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    found
}

/// Runs tar(1) on a directory and returns the archive.
pub fn tar(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(arguments).arg("-cf-").arg("-C").arg(dir).arg(".");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Lets tar(1) unpack an archive into a directory.
pub fn untar(archive: &[u8], dir: &Path) {
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf-", "-C"]).arg(dir);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(child.wait().unwrap().success());
}
