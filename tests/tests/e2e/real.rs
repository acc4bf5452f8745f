//! Real programs on an Acetate mount; `testkit real` runs them by hand, also on the kernel's overlayfs.

use acetate_testkit::driver::Driver;
use acetate_testkit::need::{Need, have};
use acetate_testkit::real::cli::Run;

/// Does `run` if the machine can; each of them checks its layers with the kernel's overlayfs as well.
fn on_acetate(run: Run, more: &[Need]) -> anyhow::Result<()> {
    let needs: Vec<Need> =
        [Need::Root, Need::Fuse, Need::Loop, Need::KernelOverlay].iter().chain(more).copied().collect();
    if have(&format!("{run:?}"), &needs)? {
        println!("{}", run.on(&Driver::acetate()?)?);
    }
    Ok(())
}

#[test]
fn apt_get_installs_into_a_debian_tree() -> anyhow::Result<()> {
    on_acetate(Run::Debian, &[Need::Tool("tar"), Need::RootTree])
}

#[test]
fn git_clones_packs_and_checks() -> anyhow::Result<()> {
    on_acetate(Run::Git, &[Need::Tool("git")])
}

#[test]
fn python_makes_and_changes_an_environment() -> anyhow::Result<()> {
    on_acetate(Run::Venv, &[Need::Tool("python3")])
}

#[test]
fn sqlite_keeps_its_sums_with_a_write_ahead_log() -> anyhow::Result<()> {
    on_acetate(Run::SqliteWal, &[Need::Tool("sqlite3")])
}

#[test]
fn sqlite_keeps_its_sums_with_a_rollback_journal() -> anyhow::Result<()> {
    on_acetate(Run::SqliteDelete, &[Need::Tool("sqlite3")])
}

#[test]
fn cp_and_tar_make_equal_copies() -> anyhow::Result<()> {
    on_acetate(Run::Copy, &[Need::Tool("tar"), Need::Tool("setfacl")])
}
