//! Many programs at once, with few threads to serve them.

use crate::mounted::mounted;
use acetate_fuse::{Ended, Tuning};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Creates, copies up, syncs, renames and removes files of its own; returns what it leaves.
fn work(merged: &Path, number: usize) -> String {
    let dir = merged.join(format!("own-{number}"));
    fs::create_dir(&dir).unwrap();
    for round in 0..40 {
        let mut file = File::create(dir.join("new")).unwrap();
        write!(file, "{number} {round}").unwrap();
        if round % 8 == 0 {
            file.sync_all().unwrap();
        }
        fs::rename(dir.join("new"), dir.join("kept")).unwrap();
        // All of them open the same lower files for writing.
        let shared = File::options().append(true).open(merged.join(format!("lower-{round}"))).unwrap();
        (&shared).write_all(b"x").unwrap();
        assert!(fs::read_dir(merged).unwrap().count() >= 40);
    }
    fs::read_to_string(dir.join("kept")).unwrap()
}

fn storm(name: &str, max_threads: usize) {
    const PROGRAMS: usize = 8;
    // With few threads, the kernel does the reads and writes itself where it can.
    let tuning = Tuning { max_threads, passthrough: max_threads < 16, ..Tuning::default() };
    let lower = |lower: &Path| {
        for number in 0..40 {
            fs::write(lower.join(format!("lower-{number}")), "lower").unwrap();
        }
    };
    let Some(mount) = mounted(name, tuning, lower) else { return };
    let (sender, receiver) = channel();
    for number in 0..PROGRAMS {
        let (merged, sender) = (mount.merged.clone(), sender.clone());
        std::thread::spawn(move || sender.send((number, work(&merged, number))).unwrap());
    }
    drop(sender);
    for _ in 0..PROGRAMS {
        let (number, text) = receiver.recv_timeout(Duration::from_secs(60)).expect("nobody serves");
        assert_eq!(text, format!("{number} 39"));
    }
    for number in 0..40 {
        let text = fs::read_to_string(mount.home.join(format!("upper/lower-{number}"))).unwrap();
        assert_eq!(text, "lowerxxxxxxxx");
    }
    assert_eq!(mount.end(), Ended::Unmounted);
}

#[test]
fn one_thread_serves_all() {
    storm("one", 1);
}

#[test]
fn two_threads_serve_all() {
    storm("two", 2);
}

#[test]
fn many_threads_serve_all() {
    storm("many", 16);
}
