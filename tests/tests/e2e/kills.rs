//! The server killed, and its system calls failing, at some of the steps of every operation; `testkit kills` tries all.

use acetate_testkit::kills::{
    Plan,
    cli::{OPTIONS, OWNERS, kept},
    run,
};
use acetate_testkit::need::{Need, have};
use acetate_testkit::scratch::FsKind;
use acetate_testkit::userns;
use anyhow::{Result, ensure};

/// Which calls are tried: the same each time unless `ACETATE_KILLS_SEED` says otherwise. All of them take hours.
fn seed() -> Result<usize> {
    Ok(std::env::var("ACETATE_KILLS_SEED").map_or(Ok(1), |seed| seed.parse())?)
}

fn sweep(kills: bool, one_in: usize) -> Result<()> {
    if !have("kills", &[Need::Root, Need::Fuse, Need::KernelOverlay])? {
        return Ok(());
    }
    let seed = seed()?;
    for options in OPTIONS {
        sweep_of(options.into(), kills, one_in, seed)?;
    }
    Ok(())
}

fn sweep_of(options: String, kills: bool, one_in: usize, seed: usize) -> Result<()> {
    let plan = Plan {
        options: options.clone(),
        fs: Some(FsKind::Tmpfs),
        kills,
        failures: !kills,
        one_in,
        seed,
        only: String::new(),
        jobs: 2,
    };
    let report = run(&plan)?;
    println!("options {options:?}, seed {seed}: {report}");
    ensure!(report.wrong.is_empty(), "options {options:?}, seed {seed}: {report}");
    let done = report.kills + report.failures;
    ensure!(report.operations > 50 && done > 4 * report.missed, "too little: {report}");
    Ok(())
}

#[test]
fn killed_at_any_call_a_server_is_replaced_and_nobody_notices() -> Result<()> {
    if !have("kills of kept mounts", &[Need::Root, Need::Fuse, Need::KernelOverlay, Need::Resend])? {
        return Ok(());
    }
    let seed = seed()?;
    OPTIONS.iter().try_for_each(|options| sweep_of(kept(options), true, 25, seed))
}

/// Where root is nobody in particular, and marks are `user.overlay.*`.
#[test]
fn killed_at_any_call_the_server_of_a_users_mount_is_replaced_too() -> Result<()> {
    const NAME: &str = "kills::killed_at_any_call_the_server_of_a_users_mount_is_replaced_too";
    const INSIDE: &str = "ACETATE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return sweep_of(kept("userxattr"), true, 15, seed()?);
    }
    let needs = [Need::Root, Need::Fuse, Need::KernelOverlay, Need::Resend];
    let tools = [Need::Tool("unshare"), Need::Tool("setpriv")];
    if !have("kills of kept mounts of users", &[&needs[..], &tools].concat())? {
        return Ok(());
    }
    let arguments = [NAME, "--exact", "--nocapture"].map(str::to_owned);
    let status = userns::run(&std::env::current_exe()?, &arguments, &[(INSIDE, "1")])?;
    ensure!(status.success(), "in a user namespace: {status}");
    Ok(())
}

#[test]
fn killed_at_any_call_the_tree_is_the_old_or_the_new_one() -> Result<()> {
    sweep(true, 15)
}

#[test]
fn whichever_call_fails_the_tree_is_the_old_or_the_new_one() -> Result<()> {
    sweep(false, 80)
}

/// Where owners, modes and whiteouts are stored otherwise than they are shown.
#[test]
fn killed_at_any_call_the_tree_is_whole_with_the_options_of_owners() -> Result<()> {
    if !have("kills with the options of owners", &[Need::Root, Need::Fuse, Need::KernelOverlay])? {
        return Ok(());
    }
    let seed = seed()?;
    OWNERS.iter().try_for_each(|options| sweep_of((*options).into(), true, 30, seed))
}
