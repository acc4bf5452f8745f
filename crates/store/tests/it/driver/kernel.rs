//! What the kernel says when it refuses a stack becomes an error that helps.

use super::{Mounted, filesystem};
use acetate_store::driver::kernel::{MountError, Role, Stack, mount};
use acetate_testkit::scratch::{FsKind, Scratch};
use std::fs;
use std::path::{Path, PathBuf};

/// The error of a stack of these directories of `scratch`.
fn refusal(scratch: &Scratch, lowers: &[&str], upper: Option<(&str, &str)>, target: &str) -> MountError {
    let path = |name: &str| scratch.path().join(name);
    let lowers: Vec<PathBuf> = lowers.iter().map(|name| path(name)).collect();
    let upper = upper.map(|(upper, work)| (path(upper), path(work)));
    let upper = upper.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path()));
    let stack = Stack { lowers: &lowers, upper, userxattr: false, ..Stack::PLAIN };
    let error = mount(&stack, &path(target)).map(|()| drop(Mounted(path(target)))).unwrap_err();
    assert!(!error.hint().is_empty());
    error
}

#[test]
fn refusals_name_the_object_and_the_cause() {
    let Some(scratch) = filesystem("refusals_name_the_object_and_the_cause", FsKind::Tmpfs) else { return };
    for name in ["a", "b", "upper", "work", "upper/inner", "merged"] {
        scratch.dir(name).unwrap();
    }
    fs::write(scratch.path().join("file"), b"").unwrap();
    let up = Some(("upper", "work"));
    let refused = |lowers: &[&str], upper, target| refusal(&scratch, lowers, upper, target);

    let error = refused(&["a", "missing"], up, "merged");
    let path = scratch.path().join("missing");
    assert_eq!(error.to_string(), format!("lower layer {path:?} cannot be opened"));
    assert_eq!(error.hint(), "check the path; every directory has to exist");

    let error = refused(&["file"], up, "merged");
    assert!(matches!(error, MountError::Open { role: Role::Lower, .. }), "{error}");
    let error = refused(&["a"], Some(("upper", "nowork")), "merged");
    assert!(matches!(error, MountError::Open { role: Role::Work, .. }), "{error}");
    let error = refused(&["a"], up, "nowhere");
    assert!(matches!(error, MountError::Open { role: Role::Target, .. }), "{error}");
    let error = refused(&["a"], None, "merged");
    assert!(matches!(error, MountError::Count { count: 1, least: 2, .. }), "{error}");

    let error = refused(&["a", "a"], up, "merged");
    assert!(error.to_string().starts_with("overlay at "), "{error}");
    assert!(error.hint().contains("used twice"), "{error}: {}", error.hint());
    let refusal = format!("overlay at {:?} refused: ", scratch.path().join("merged"));
    let error = refused(&["a"], Some(("upper", "upper/inner")), "merged").to_string();
    assert_eq!(error, refusal.clone() + "one of upper layer and work directory lies within the other");
    let Some(other) = filesystem("refusals_name_the_object_and_the_cause", FsKind::Tmpfs) else { return };
    let elsewhere = other.path().to_str().unwrap();
    let error = refused(&["a"], Some(("upper", elsewhere)), "merged").to_string();
    assert_eq!(error, refusal.clone() + "upper layer and work directory are on different mounts");
    fs::create_dir_all(scratch.path().join("work/work/incompat/volatile")).unwrap();
    let error = refused(&["a"], up, "merged").to_string();
    let cause = "the work directory is that of a volatile mount, whose upper layer may have lost data";
    assert_eq!(error, refusal + cause);
}

#[test]
fn an_upper_layer_on_an_overlay_is_refused_by_name() {
    let Some(scratch) = filesystem("an_upper_layer_on_an_overlay_is_refused_by_name", FsKind::Tmpfs) else {
        return;
    };
    for name in ["a", "upper", "work", "overlay", "merged"] {
        scratch.dir(name).unwrap();
    }
    let path = |name: &str| scratch.path().join(name);
    let lowers = [path("a")];
    let stack = Stack {
        lowers: &lowers,
        upper: Some((&path("upper"), &path("work"))),
        userxattr: false,
        volatile: true,
        ..Stack::PLAIN
    };
    mount(&stack, &path("overlay")).unwrap();
    let overlay = Mounted(path("overlay"));
    for name in ["u", "w"] {
        fs::create_dir(overlay.path().join(name)).unwrap();
    }
    let error = refusal(&scratch, &["a"], Some(("overlay/u", "overlay/w")), "merged");
    assert!(
        error.to_string().starts_with(&format!("upper layer {:?} refused: ", path("overlay/u"))),
        "{error}"
    );
    assert!(error.to_string().contains("not supported as upperdir"), "{error}");
    assert!(error.hint().contains("on no overlay"), "{error}");
    assert!(Path::new(&path("work/work/incompat/volatile")).exists(), "the option was passed on");
}
