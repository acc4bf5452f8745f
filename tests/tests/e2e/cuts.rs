//! Power cuts under a mount; `testkit cuts` makes more of them.

use acetate_testkit::cuts::{Plan, cli::FILESYSTEMS, run};
use acetate_testkit::need::{Need, have};
use anyhow::{Result, ensure};

#[test]
fn after_a_power_cut_files_are_whole_and_what_was_synced_is_there() -> Result<()> {
    if !have("power cuts", &[Need::Root, Need::Fuse, Need::KernelOverlay, Need::Loop, Need::Tool("xfs_io")])?
    {
        return Ok(());
    }
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let cases = FILESYSTEMS.iter().flat_map(|fs| ["", "metacopy=on"].map(|options| (*fs, options)));
    for (fs, options) in cases {
        let report = run(&Plan { fs, options: options.into(), cuts: 6, seed })?;
        println!("{}, options {options:?}, seed {seed}: {report}", fs.name());
        ensure!(report.wrong.is_empty(), "{}, options {options:?}, seed {seed}: {report}", fs.name());
        ensure!(report.cuts == 7 && report.synced > 0 && report.changed > report.synced, "{report}");
    }
    Ok(())
}
