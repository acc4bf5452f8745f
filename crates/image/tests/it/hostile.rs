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

/// What replaces a symlink takes its place, and is not made where it leads to.
#[test]
fn nothing_is_made_through_what_it_replaces() {
    let link = entry(b"link", LINK, b"../outside/file", 0);
    let dir_link = entry(b"link", LINK, b"../outside", 0);
    let kinds = [Kind::File, Kind::Dir, Kind::Fifo, Kind::CharDevice, Kind::BlockDevice, Kind::Symlink];
    for kind in kinds {
        for link in [&link, &dir_link] {
            let object = entry(b"link", EntryKind::Object(kind), b"/etc", 0);
            attempt(&archive(&[link.clone(), object])).unwrap();
        }
    }
    // A hard link to a symlink is one more name of it; on top of one it replaces it.
    let hard = entry(b"hard", EntryKind::HardLink, b"link", 0);
    attempt(&archive(&[link.clone(), hard.clone(), entry(b"hard", FILE, b"", 1)])).unwrap();
    let onto = entry(b"link", EntryKind::HardLink, b"file", 0);
    attempt(&archive(&[link.clone(), entry(b"file", FILE, b"", 1), onto])).unwrap();
    attempt(&archive(&[link.clone(), entry(b"link", EntryKind::HardLink, b"link", 0)])).unwrap();
    // A directory that becomes a symlink is not the directory any more.
    let dir = entry(b"dir", EntryKind::Object(Kind::Dir), b"", 0);
    let becomes = entry(b"dir", LINK, b"../outside", 0);
    attempt(&archive(&[dir, entry(b"dir/a", FILE, b"", 1), becomes, entry(b"dir/file", FILE, b"", 1)]))
        .unwrap();
    // Whiteouts do not follow either, and times and modes of the link's target stay.
    attempt(&archive(&[dir_link.clone(), entry(b".wh.link", FILE, b"", 0)])).unwrap();
    attempt(&archive(&[dir_link, entry(b"link/.wh..wh..opq", FILE, b"", 0)])).unwrap();
}

/// A header as it is on disk, and what follows it.
fn raw(flag: u8, name: &[u8], size: &str, change: impl Fn(&mut [u8]), data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    for (at, field) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        block[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar  \0");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

#[test]
fn headers_that_lie_about_sizes_are_refused() {
    // Extended headers of 8 GiB less one byte: nothing is allocated for them.
    for flag in [b'x', b'L', b'K', b'g'] {
        let error = attempt(&raw(flag, b"long", "77777777777", |_| {}, b"")).unwrap_err();
        assert!(error.contains("extended header of 8589934591 bytes"), "{error}");
    }
    // A file that is said to be larger than the archive; one whose size is no number.
    attempt(&raw(b'0', b"file", "77777777777", |_| {}, b"short")).unwrap_err();
    attempt(&raw(b'0', b"file", "9999", |_| {}, b"")).unwrap_err();
    let pax = |records: &str, stored: &str, data: &[u8]| {
        let header = raw(b'x', b"pax", &format!("{:011o}", records.len()), |_| {}, records.as_bytes());
        attempt(&[header, raw(b'0', b"file", stored, |_| {}, data)].concat())
    };
    pax("27 GNU.sparse.realsize=100\n", "00000000000", b"").unwrap();
    // Maps that overlap, go backwards, lie behind the end, wrap around, or claim more data than there is.
    let mapped = |map: &str| {
        let record = |key: &str, value: &str| {
            let length = key.len() + value.len() + 5;
            format!("{length} {key}={value}\n")
        };
        let records = format!("{}{}", record("GNU.sparse.size", "0100"), record("GNU.sparse.map", map));
        pax(&records, "00000000012", b"0123456789")
    };
    mapped("0,4,6,6").unwrap();
    for map in ["0,5,3,5", "50,5,0,5", "95,10", "18446744073709551610,10", "0,99", "0,4,4,7", "0"] {
        mapped(map).unwrap_err();
    }
    // The old format: a map in the header that lies behind the file's end.
    let old = |real: &'static [u8]| {
        raw(
            b'S',
            b"old",
            "00000000012",
            move |block| {
                block[386..397].copy_from_slice(b"00000001000");
                block[398..409].copy_from_slice(b"00000000012");
                block[483..483 + real.len()].copy_from_slice(real);
            },
            b"0123456789",
        )
    };
    attempt(&old(b"00000001012")).unwrap();
    attempt(&old(b"00000001000")).unwrap_err();
    // Map of format 1.0 in the data: more pairs than numbers, no numbers at all.
    for data in [&b"1000000\n0\n5\n"[..], b"x\n", b"99999999999999999999999\n"] {
        let records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=10\n";
        pax(records, "00000001000", data).unwrap_err();
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
