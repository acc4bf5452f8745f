//! Much of everything, for a short time; `testkit load` takes longer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use acetate_testkit::load::cli::{OPTIONS, few_descriptors, steady};
use acetate_testkit::load::memory::{bytes_a_node, coming_and_going};
use acetate_testkit::load::{Plan, large_directory, leaks, many_mounts, programs, sparse};
use acetate_testkit::need::{Need, have};
use anyhow::{Context, Result, ensure};

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

/// Over many layers; what each thread knows of is as it left it, and all of it is there on a new mount and on the kernel's.
#[test]
fn random_programs_on_many_threads() -> Result<()> {
    if !have("random programs", &[Need::Root, Need::Fuse, Need::KernelOverlay])? {
        return Ok(());
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into();
    for options in OPTIONS {
        let time = Duration::from_secs(3);
        let plan = Plan { threads: 32, time, layers: 60, options: options.into(), seed };
        let done = programs(&plan).with_context(|| format!("options {options:?}, seed {seed}"))?;
        println!("options {options:?}: {} operations, {:?}", done.operations, done.holds);
        ensure!(few_descriptors(&plan, &done), "{:#?}", done.holds);
    }
    Ok(())
}

#[test]
fn a_sparse_file_of_twenty_gibibytes() -> Result<()> {
    if have("sparse file", &[Need::Root, Need::Fuse, Need::Loop])? {
        println!("copied up in {} s", sparse(20)?);
    }
    Ok(())
}

/// 200 to 250 bytes, the more the fewer files a directory holds; memory comes in pages, and some of them are not full.
#[test]
fn a_known_file_takes_little_memory() -> Result<()> {
    if can("memory of nodes")? {
        let bytes = bytes_a_node(60_000)?;
        println!("{bytes} bytes a node");
        ensure!(bytes < 300, "{bytes} bytes a node");
    }
    Ok(())
}

#[test]
fn files_that_come_and_go_take_no_memory() -> Result<()> {
    if can("coming and going")? {
        let holds = coming_and_going(40_000)?;
        ensure!(steady(&holds), "{holds:?}");
    }
    Ok(())
}
