//! Published filesystem test suites on an Acetate mount, against the filesystem below and the committed lists.
//!
//! Short runs with fresh seeds, which are printed; `testkit suites` does long ones and repeats a seed.

use std::path::Path;

use acetate_testkit::driver::Driver;
use acetate_testkit::need::{Need, have};
use acetate_testkit::suites::cli::random_seeds;
use acetate_testkit::suites::{Comparison, Known, runs, stress};

/// What every suite needs: mounts on ext4 images.
const MOUNTS: [Need; 3] = [Need::Root, Need::Fuse, Need::Loop];

fn needs(more: &[Need]) -> Vec<Need> {
    MOUNTS.iter().chain(more).copied().collect()
}

fn known(file: &str) -> anyhow::Result<Known> {
    Known::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file))
}

fn assert_clean(comparison: &Comparison) {
    println!("{comparison}");
    assert!(comparison.clean(), "{comparison}");
}

#[test]
fn pjdfstest_finds_no_more_than_below() -> anyhow::Result<()> {
    if have("pjdfstest", &needs(&[Need::Tool("pjdfstest")]))? {
        assert_clean(&runs::pjdfstest(&Driver::acetate()?, &known("pjdfstest-known.txt")?)?);
    }
    Ok(())
}

/// The list of known differences gives the kernel's overlayfs as its reason: there it has to hold as well.
#[test]
fn pjdfstest_list_is_the_kernels_own() -> anyhow::Result<()> {
    if have("pjdfstest on the kernel", &needs(&[Need::Tool("pjdfstest"), Need::KernelOverlay]))? {
        assert_clean(&runs::pjdfstest(&Driver::Kernel, &known("pjdfstest-known.txt")?)?);
    }
    Ok(())
}

#[test]
fn fsx_finds_no_wrong_byte() -> anyhow::Result<()> {
    if have("fsx", &needs(&[Need::Tool("fsx")]))? {
        let seeds = random_seeds(2)?;
        println!("fsx seeds: {seeds:?}");
        let comparison = runs::fsx(&Driver::acetate()?, &seeds, 5_000)?;
        assert!(comparison.clean(), "seeds {seeds:?}: {comparison}");
    }
    Ok(())
}

#[test]
fn stress_ng_finds_no_more_than_below() -> anyhow::Result<()> {
    if have("stress-ng", &needs(&[Need::Tool("stress-ng")]))? {
        let stressors = stress::available()?;
        assert_clean(&runs::stress(&Driver::acetate()?, &known("stress-known.txt")?, &stressors, 1)?);
    }
    Ok(())
}
