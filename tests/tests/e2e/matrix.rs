//! The scenarios recorded from the kernel's overlayfs, replayed.

use acetate_testkit::driver::Driver;
use acetate_testkit::scenario::expect::{self, EXPECTED, Expected, Summary, Verdict};
use acetate_testkit::scenario::{RECORDED, Row, Runner, load};

/// Replays `rows` and fails with a report of everything that is not as it should be.
fn replay(driver: Driver, rows: &[Row], expected: &Expected) {
    let mut runner = Runner::new(driver).unwrap();
    let mut summary = Summary::default();
    let mut complaints = String::new();
    for row in rows {
        let verdict = expect::judge(&mut runner, row, expected);
        summary.add(&verdict);
        match verdict {
            Verdict::Passed | Verdict::ExpectedFailure(_) => {}
            Verdict::UnexpectedPass => {
                complaints += &format!("{} passes: remove it from matrix-expected-failures.txt\n\n", row.id);
            }
            Verdict::Failed(report) => complaints += &format!("{report}\n"),
        }
    }
    println!("{}: {summary}", runner.driver().name());
    assert!(complaints.is_empty(), "{summary}\n\n{complaints}");
}

/// Says why scenarios cannot be replayed here: mounting and making layers needs root.
fn cannot_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: replaying scenarios needs root");
    }
    !root
}

#[test]
fn acetate_does_as_the_kernel_did() {
    if cannot_run() {
        return;
    }
    let rows = load(RECORDED).unwrap();
    assert_eq!(rows.len(), 305);
    let expected = expect::parse(EXPECTED, &rows).unwrap();
    replay(Driver::acetate().unwrap(), &rows, &expected);
}

/// Proves the runner: what was recorded from the kernel happens again. All of it on the kernel of the recording or a
/// later one; on an older one the rows about whiteouts and renames, which have not changed for long.
#[test]
fn the_kernel_does_as_it_did() {
    if cannot_run() {
        return;
    }
    let mut rows = load(RECORDED).unwrap();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(18)) {
        println!("only a slice: the recording is from Linux 6.18, this is {release}");
        rows.retain(|row| row.opts.is_empty() && row.id.starts_with(['W', 'R']));
    }
    replay(Driver::Kernel, &rows, &Expected::new());
}
