//! The probes tell the truth and leave nothing.

use super::filesystem;
use acetate_store::driver::{DriverName, ProbeError, Verdict, choose, probe};
use acetate_testkit::scratch::{FsKind, Scratch};
use std::fs;
use std::path::Path;

fn works(verdicts: &[Verdict]) -> Vec<DriverName> {
    verdicts.iter().filter(|verdict| verdict.works).map(|verdict| verdict.driver).collect()
}

fn is_mounted_below(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&format!("{}/.acetate-probe", path.display()))
}

#[test]
fn each_filesystem_has_its_drivers() {
    use DriverName::{Btrfs, Copy, Kernel, Reflink};
    for (kind, expected) in [
        (FsKind::Tmpfs, vec![Kernel, Copy]),
        (FsKind::Ext4, vec![Kernel, Copy]),
        (FsKind::Xfs, vec![Kernel, Reflink, Copy]),
        (FsKind::Btrfs, vec![Kernel, Btrfs, Reflink, Copy]),
    ] {
        let Some(scratch) = filesystem("each_filesystem_has_its_drivers", kind) else { return };
        let before = fs::read_dir(scratch.path()).unwrap().count();
        let verdicts = probe(scratch.path()).unwrap();
        assert_eq!(verdicts.iter().map(|v| v.driver).collect::<Vec<_>>(), DriverName::ALL);
        assert!(verdicts.iter().all(|v| !v.why.is_empty() && !v.why.contains('\n')), "{verdicts:?}");
        let mut found = works(&verdicts);
        // Whether FUSE works is the machine's affair, not the filesystem's.
        found.retain(|driver| *driver != DriverName::Fuse);
        assert_eq!(found, expected, "{kind:?}: {verdicts:?}");
        assert_eq!(choose(&verdicts), Some(Kernel));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), before, "nothing is left behind");
        assert!(!is_mounted_below(scratch.path()));
    }
}

#[test]
fn a_read_only_place_has_no_driver() {
    let Some(scratch) = filesystem("a_read_only_place_has_no_driver", FsKind::Tmpfs) else { return };
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount(scratch.path(), flags, c"").unwrap();
    let verdicts = probe(scratch.path()).unwrap();
    assert_eq!((works(&verdicts), choose(&verdicts)), (vec![], None));
    assert_eq!(verdicts[0].why, "nothing can be made here: read-only file system");
}

#[test]
fn a_place_that_is_none_is_an_error() {
    let scratch = Scratch::new("acetate-store").unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, b"").unwrap();
    for (path, hint) in [
        (scratch.path().join("missing"), "name a directory that exists"),
        (file, "name a directory: workspaces are made in one"),
    ] {
        let error = probe(&path).unwrap_err();
        assert!(matches!(&error, ProbeError::Open { path: named, .. } if *named == path), "{error}");
        assert_eq!(error.hint(), hint);
    }
}

#[test]
fn the_first_that_works_is_chosen() {
    let verdict = |driver: DriverName, works| Verdict { driver, works, why: String::new(), cost: "" };
    for chosen in 0..=5 {
        let verdicts: Vec<Verdict> = DriverName::ALL
            .iter()
            .enumerate()
            .rev()
            .map(|(at, driver)| verdict(*driver, at >= chosen))
            .collect();
        assert_eq!(choose(&verdicts), DriverName::ALL.get(chosen).copied());
    }
}
