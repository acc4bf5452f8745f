//! Archives that want out, or make no sense.

use crate::tree::{OPTIONS, Scratch, describe, unpacked};
use acetate_image::archive::{Entry, EntryKind, Writer};
use acetate_layer::{Kind, Rdev, Time};
use proptest::prelude::*;
use std::fs;

fn entry(path: &[u8], kind: EntryKind, link: &[u8], size: u64) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        link: link.to_vec(),
        mode: 0o777,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time::default(),
        size,
        rdev: Rdev::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        let data = vec![b'x'; entry.size as usize];
        writer.append(entry, &mut &data[..]).unwrap();
    }
    writer.finish().unwrap()
}

const FILE: EntryKind = EntryKind::Object(Kind::File);
const LINK: EntryKind = EntryKind::Object(Kind::Symlink);

/// Unpacks beside a directory that nothing may touch.
fn attempt(archive: &[u8]) -> Result<(), String> {
    let scratch = Scratch::new();
    let outside = scratch.dir("outside");
    fs::write(outside.join("file"), "untouched").unwrap();
    let before = describe(&outside);
    let names = fs::read_dir(scratch.path()).unwrap().count();
    let result = unpacked(archive, &scratch.dir("home"), OPTIONS);
    assert_eq!(describe(&outside), before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), names + 1);
    assert_eq!(fs::read_dir(scratch.path().join("home")).unwrap().count(), 2);
    result.map(drop).map_err(|error| error.to_string())
}

#[test]
fn nothing_outside_is_reached() {
    for path in [&b"../outside/file"[..], b"a/../../outside/file", b"..", b"a/.."] {
        let error = attempt(&archive(&[entry(path, FILE, b"", 1)])).unwrap_err();
        assert!(error.ends_with("it would leave the layer"), "{error}");
    }
    // Symlinks lead to places within the layer, however they are written.
    for target in [&b"../outside"[..], b"/../../outside", b"../../../../../../outside", b"x/../../outside"] {
        let link = entry(b"link", LINK, target, 0);
        attempt(&archive(&[link.clone(), entry(b"link/file", FILE, b"", 1)])).unwrap();
        attempt(&archive(&[link.clone(), entry(b"link/.wh.file", FILE, b"", 0)])).unwrap();
        attempt(&archive(&[link.clone(), entry(b"link", FILE, b"", 1)])).unwrap();
        attempt(&archive(&[link, entry(b"hard", EntryKind::HardLink, b"link/file", 0)])).unwrap_err();
    }
    let absolute = entry(b"/../outside/file", EntryKind::HardLink, b"/etc/hostname", 0);
    attempt(&archive(&[absolute])).unwrap_err();
    attempt(&archive(&[entry(b"hard", EntryKind::HardLink, b"../outside/file", 0)])).unwrap_err();
}

#[test]
fn loops_and_nonsense_are_refused() {
    let cases = [
        vec![entry(b"a", LINK, b"b", 0), entry(b"b", LINK, b"a", 0), entry(b"a/c", FILE, b"", 0)],
        vec![entry(b".wh.", FILE, b"", 0)],
        vec![entry(b".wh...", FILE, b"", 0)],
        vec![entry(b"a", FILE, b"", 1), entry(b"a/b", FILE, b"", 1)],
        vec![entry(b".", FILE, b"", 0)],
        vec![entry(b"new", EntryKind::HardLink, b"missing", 0)],
        vec![entry(&b"n".repeat(300), FILE, b"", 0)],
    ];
    for case in cases {
        attempt(&archive(&case)).unwrap_err();
    }
}

/// A small archive with all that the reader decodes.
fn rich() -> Vec<u8> {
    let mut long = entry(&b"dir/".repeat(60), EntryKind::Object(Kind::Dir), b"", 0);
    long.xattrs.push((b"user.a".to_vec(), b"b\nc".to_vec()));
    archive(&[
        long,
        entry(b"file", FILE, b"", 700),
        entry(b"link", LINK, &b"t".repeat(200), 0),
        entry(b"hard", EntryKind::HardLink, b"file", 0),
        entry(b".wh.gone", FILE, b"", 0),
    ])
}

#[test]
fn an_archive_that_ends_early_is_noticed() {
    let whole = rich();
    attempt(&whole).unwrap();
    // Between two entries nothing is missing but the end marker, which is optional.
    let ends: Vec<usize> = (1..whole.len() - 1024).step_by(61).collect();
    let noticed = ends.iter().filter(|end| attempt(&whole[..**end]).is_err()).count();
    let at_blocks = ends.iter().filter(|end| *end % 512 == 0).count();
    assert!(noticed + at_blocks >= ends.len(), "{noticed} and {at_blocks} of {}", ends.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, there is an answer, and nothing outside has changed.
    #[test]
    fn damaged_archives_stay_inside(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = rich();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
            // Mend the checksums, so that the damage gets past them.
            for block in bytes.chunks_mut(512).filter(|block| block.len() == 512 && block[257..262] == *b"ustar") {
                let sum: u32 =
                    block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _any_answer = attempt(&bytes);
    }
}
