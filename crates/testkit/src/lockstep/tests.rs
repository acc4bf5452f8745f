//! The oracle itself: it sees a difference, and none where there is none.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::driver::Driver;
use crate::lockstep::case::Rig;
use crate::lockstep::script::Script;
use crate::lockstep::worker::{Reentry, serve_if_asked};
use crate::need::{Need, have};
use crate::scratch::Scratch;
use std::path::Path;

/// Not a test of its own: where the processes that make the calls come in.
#[test]
fn worker_entry() {
    serve_if_asked().unwrap();
}

/// What is deleted comes back after a remount if its whiteout is lost; both sides are the kernel's, so that nothing
/// else can differ.
const SCRIPT: &str = "L1 file a\nL1 dir d\nL1 file d/x\nrun 0 022 unlink a\nrun 0 022 unlink d/x\n";

fn differences(tamper: Option<case::Tamper>) -> Option<Vec<compare::Difference>> {
    if !have("lockstep oracle", &[Need::Root, Need::KernelOverlay]).unwrap() {
        return None;
    }
    let scratch = Scratch::new("lockstep-oracle").unwrap();
    let entry = Reentry::own(&["--exact", "lockstep::tests::worker_entry", "--nocapture", "-q"]).unwrap();
    let mut rig = Rig::new(scratch.path(), [Driver::Kernel, Driver::Kernel], entry);
    rig.tamper = tamper;
    Some(rig.run(&Script::parse(SCRIPT).unwrap()).unwrap())
}

#[test]
fn two_equal_mounts_do_not_differ() {
    if let Some(found) = differences(None) {
        assert_eq!(found, []);
    }
}

#[test]
fn a_lost_whiteout_is_found() {
    fn lose(upper: &Path) -> Result<()> {
        Ok(std::fs::remove_file(upper.join("a"))?)
    }
    if let Some(found) = differences(Some(lose)) {
        assert!(found.iter().any(|difference| difference.place.ends_with("/a")), "{found:?}");
    }
}
