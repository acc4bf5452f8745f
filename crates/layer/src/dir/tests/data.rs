//! Contents of files.

use super::{Scratch, each_filesystem, is_root, upper, upper_at};
use crate::dir::{DirCache, DirLayer, File};
use crate::{Access, At, Errno, Layer, Owner, Seek, UpperLayer};
use std::path::Path;
use std::process::Command;

fn create(layer: &DirLayer, name: &[u8]) -> File {
    layer.create(layer.root(), name, 0o600, Owner::Mounter).unwrap()
}

fn content(layer: &DirLayer, file: &File) -> Vec<u8> {
    let size = layer.stat(At::Open(file)).unwrap().size as usize;
    // A little more than there is: the read has to stop by itself.
    let mut content = vec![0xee; size + 10];
    let count = layer.read_at(file, &mut content, 0).unwrap();
    content.truncate(count);
    content
}

/// Start and end of every piece of data.
fn extents(layer: &DirLayer, file: &File) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut offset = 0;
    loop {
        match layer.seek(file, offset, Seek::Data) {
            Ok(start) => {
                offset = layer.seek(file, start, Seek::Hole).unwrap();
                extents.push((start, offset));
            }
            Err(error) => {
                assert_eq!(error, Errno::NXIO);
                return extents;
            }
        }
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + i / 251 + seed) % 255 + 1) as u8).collect()
}

/// A file with holes at its start, in its middle and at its end.
fn sparse(layer: &DirLayer, name: &[u8]) -> File {
    let file = create(layer, name);
    for (offset, len) in [(1 << 20, 70_000), (5 << 20, 4096), (9 << 20, 1)] {
        assert_eq!(layer.write_at(&file, &pattern(len, offset), offset as u64), Ok(len));
    }
    layer.set_len(At::Open(&file), 12 << 20).unwrap();
    file
}

#[test]
fn read_write_and_size() {
    each_filesystem(|layer| {
        let file = create(layer, b"file");
        assert_eq!(content(layer, &file), b"");
        assert_eq!(layer.write_at(&file, b"hello", 3), Ok(5));
        assert_eq!(content(layer, &file), b"\0\0\0hello");
        let mut two = [0; 2];
        assert_eq!((layer.read_at(&file, &mut two, 4), two), (Ok(2), *b"el"));
        assert_eq!(layer.read_at(&file, &mut two, 8), Ok(0));
        assert_eq!(layer.read_at(&file, &mut two, 1 << 40), Ok(0));
        let name = At::Name(layer.root(), b"file");
        layer.set_len(name, 4).unwrap();
        assert_eq!(content(layer, &file), b"\0\0\0h");
        // Also by a descriptor that cannot write.
        let reader = layer.open_file(name, Access::Read).unwrap();
        layer.set_len(At::Open(&reader), 6).unwrap();
        assert_eq!(content(layer, &reader), b"\0\0\0h\0\0");
        assert_eq!(layer.write_at(&reader, b"x", 0), Err(Errno::BADF));
        let writer = layer.open_file(name, Access::Write).unwrap();
        assert_eq!(layer.write_at(&writer, b"x", 0), Ok(1));
        assert_eq!(layer.read_at(&writer, &mut two, 0), Err(Errno::BADF));
        assert_eq!(layer.set_len(At::Dir(layer.root()), 0), Err(Errno::ISDIR));
        assert_eq!(layer.set_len(name, u64::MAX), Err(Errno::INVAL));
        layer.allocate(&file, 0, 0, 10_000).unwrap();
        assert_eq!(layer.stat(name).unwrap().size, 10_000);
        let punch = 0x3; // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
        layer.allocate(&file, punch, 0, 1 << 20).unwrap();
        assert_eq!(content(layer, &file), vec![0; 10_000]);
    });
}

#[test]
fn a_copy_can_be_given_up() {
    each_filesystem(|layer| {
        let (source, target) = (create(layer, b"source"), create(layer, b"target"));
        layer.write_at(&source, b"data", 0).unwrap();
        // What is cloned takes no time.
        let cloned = layer.copy_data(&source, &target, 4, &|| false);
        let asked = std::cell::Cell::new(0);
        let target = create(layer, b"again");
        let copied = layer.copy_data(&source, &target, 4, &|| {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!(copied, Ok(()));
        assert_eq!(cloned, if asked.get() == 0 { Ok(()) } else { Err(Errno::INTR) });
    });
}

#[test]
fn copies_are_equal_and_keep_holes() {
    each_filesystem(|layer| {
        let source = sparse(layer, b"source");
        let target = create(layer, b"target");
        layer.copy_data(&source, &target, 12 << 20, &|| true).unwrap();
        assert!(content(layer, &target) == content(layer, &source));
        let map = extents(layer, &source);
        assert_eq!(map.len(), 3);
        assert_eq!(extents(layer, &target), map);
        // A part of it, in the middle of the data; more than there is; nothing.
        for size in [0, 1, 1 << 20, (1 << 20) + 5000, (9 << 20) + 1, 20 << 20] {
            let target = layer.create_unnamed(layer.work(), 0o600, Owner::Mounter).unwrap();
            layer.copy_data(&source, &target, size, &|| true).unwrap();
            let mut expected = content(layer, &source);
            expected.resize(size as usize, 0);
            assert!(content(layer, &target) == expected, "{size}");
        }
        // Dense, and longer than any buffer.
        let dense = create(layer, b"dense");
        let data = pattern((5 << 20) + 3, 1);
        assert_eq!(layer.write_at(&dense, &data, 0), Ok(data.len()));
        let target = create(layer, b"target2");
        layer.copy_data(&dense, &target, data.len() as u64, &|| true).unwrap();
        assert!(content(layer, &target) == data);
    });
}

#[test]
fn copies_between_filesystems() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let Some(tmpfs) = scratch.mount("tmpfs-mount", "tmpfs", Path::new("none"), "size=64m") else { return };
    let (here, there) = (upper(&scratch), upper_at(&tmpfs, &DirCache::common()));
    for (from, to) in [(&here, &there), (&there, &here)] {
        let source = sparse(from, b"source");
        let target = create(to, b"target");
        to.copy_data(&source, &target, 12 << 20, &|| true).unwrap();
        assert!(content(to, &target) == content(from, &source));
        // Block sizes may differ, but holes stay.
        assert!(to.stat(At::Open(&target)).unwrap().blocks * 512 < 1 << 20);
        assert_eq!(to.copy_range((&source, 0), (&target, 0), 1), Err(Errno::XDEV));
    }
    // A source that the kernel gives no size for.
    let proc = DirLayer::open_lower(Path::new("/proc")).unwrap();
    let version = proc.open_file(At::Name(proc.root(), b"version"), Access::Read).unwrap();
    let expected = std::fs::read("/proc/version").unwrap();
    let target = create(&here, b"version");
    here.copy_data(&version, &target, expected.len() as u64, &|| true).unwrap();
    assert_eq!(content(&here, &target), expected);
}

#[test]
fn a_full_filesystem_is_told() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    let Some(tmpfs) = scratch.mount("tmpfs-mount", "tmpfs", Path::new("none"), "size=1m") else { return };
    let (here, there) = (upper(&scratch), upper_at(&tmpfs, &DirCache::common()));
    let source = create(&here, b"source");
    let data = pattern(2 << 20, 0);
    here.write_at(&source, &data, 0).unwrap();
    let target = create(&there, b"target");
    assert_eq!(there.copy_data(&source, &target, data.len() as u64, &|| true), Err(Errno::NOSPC));
}

#[test]
fn copies_are_clones_where_that_is_possible() {
    if !is_root() {
        return;
    }
    let mut scratch = Scratch::new();
    for path in [scratch.image("xfs", 320), scratch.image("btrfs", 128)].into_iter().flatten() {
        let layer = upper_at(&path, &DirCache::common());
        let source = create(&layer, b"source");
        let data = pattern(1 << 20, 9);
        layer.write_at(&source, &data, 0).unwrap();
        layer.sync(At::Open(&source), false).unwrap();
        let lower = DirLayer::open_lower(&path.join("upper")).unwrap();
        assert_eq!(lower.filesystem(), layer.filesystem());
        let from = lower.open_file(At::Name(lower.root(), b"source"), Access::Read).unwrap();
        let target = create(&layer, b"target");
        layer.copy_data(&from, &target, (1 << 20) - 5, &|| true).unwrap();
        assert!(content(&layer, &target) == data[..data.len() - 5]);
        layer.sync(At::Open(&target), false).unwrap();
        let map = Command::new("filefrag").arg("-v").arg(path.join("upper/target")).output().unwrap();
        let map = String::from_utf8_lossy(&map.stdout);
        assert!(map.contains("shared"), "{map}");
    }
}

#[test]
fn ranges_are_copied_within_the_filesystem() {
    each_filesystem(|layer| {
        let (source, target) = (create(layer, b"source"), create(layer, b"target"));
        layer.write_at(&source, b"0123456789", 0).unwrap();
        assert_eq!(layer.copy_range((&source, 2), (&target, 1), 4), Ok(4));
        assert_eq!(content(layer, &target), b"\x002345");
        assert_eq!(layer.copy_range((&source, 8), (&target, 0), 100), Ok(2));
        assert_eq!(layer.copy_range((&source, 10), (&target, 0), 100), Ok(0));
        assert_eq!(content(layer, &target), b"89345");
    });
}

/// Makes files that get their names after their data, lets the journal be written now and then, and cuts the power.
/// Returns how many of those that the disk then has are not whole, and how many it has.
fn torn_by_a_power_cut(scratch: &mut Scratch, mount: &Path, data_first: bool) -> (usize, usize) {
    let layer = upper_at(mount, &DirCache::common());
    assert!(layer.orders_names, "ext4 with a journal of its own");
    let sizes: Vec<usize> = (0..200).map(|i| 1 + i * 157).collect();
    let other = create(&layer, b"other");
    for (i, &size) in sizes.iter().enumerate() {
        let file = layer.create_unnamed(layer.work(), 0o600, Owner::Mounter).unwrap();
        assert_eq!(layer.write_at(&file, &pattern(size, i), 0), Ok(size));
        if data_first {
            layer.put_data_first(&file).unwrap();
        }
        layer.link(At::Open(&file), layer.root(), format!("file-{i}").as_bytes()).unwrap();
        if i % 9 == 0 {
            layer.write_at(&other, b"x", i as u64).unwrap();
            layer.sync(At::Open(&other), false).unwrap();
        }
    }
    // Without flushing the journal, which is what a power cut does (EXT4_IOC_SHUTDOWN).
    let cut = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(mount).output().unwrap();
    assert!(cut.status.success(), "{cut:?}");
    drop((layer, other));
    // Lazily, and then a copy of the disk: a process that is just being started, or another program's mount namespace, may
    // still hold the mount, which would be found again.
    assert!(Command::new("umount").arg("-l").arg(mount).status().unwrap().success());
    scratch.forget_mount(mount);
    let (image, disk) = (scratch.path().join("ext4.img"), scratch.path().join("disk.img"));
    std::fs::copy(&image, &disk).unwrap();
    std::fs::rename(&disk, &image).unwrap();
    scratch.mount_at(mount, "ext4", &image, "loop").unwrap();
    let content = |i| std::fs::read(mount.join(format!("upper/file-{i}"))).ok();
    let there = sizes.iter().enumerate().filter_map(|(i, &size)| Some(content(i)? == pattern(size, i)));
    let whole: Vec<bool> = there.collect();
    std::fs::remove_dir_all(mount.join("upper")).unwrap();
    std::fs::remove_dir_all(mount.join("workdir")).unwrap();
    (whole.iter().filter(|whole| !**whole).count(), whole.len())
}

#[test]
fn after_a_power_cut_names_have_their_data() {
    let mut scratch = Scratch::new();
    if !is_root() || Command::new("xfs_io").arg("-V").output().is_err() {
        println!("skipped: needs root and xfs_io");
        return;
    }
    let Some(mount) = scratch.image("ext4", 64) else { return };
    let (torn, there) = torn_by_a_power_cut(&mut scratch, &mount, true);
    assert_eq!(torn, 0);
    assert!(there > 100, "{there} names had reached the disk");
    // The cut is one that hurts: without the call it tears files.
    let (torn, _) = torn_by_a_power_cut(&mut scratch, &mount, false);
    assert!(torn > 100, "{torn} files are torn");
}
