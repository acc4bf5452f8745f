//! Much of everything, for a short time; `testkit load` takes longer.

use acetate_testkit::load::{cli::steady, large_directory, leaks, many_mounts};
use acetate_testkit::need::{Need, have};
use anyhow::{Result, ensure};

fn can(name: &str) -> Result<bool> {
    have(name, &[Need::Root, Need::Fuse])
}

#[test]
fn a_hundred_thousand_files_in_one_directory() -> Result<()> {
    if can("large directory")? {
        println!("{:?}", large_directory(100_000)?);
    }
    Ok(())
}

#[test]
fn a_hundred_mounts_at_once() -> Result<()> {
    if can("many mounts")? {
        println!("{} KiB each", many_mounts(100)?);
    }
    Ok(())
}

#[test]
fn what_comes_and_goes_is_not_held_on_to() -> Result<()> {
    if can("leaks")? {
        let holds = leaks(8)?;
        ensure!(steady(&holds), "{holds:#?}");
    }
    Ok(())
}
