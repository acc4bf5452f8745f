//! `testkit matrix`: replay the recorded scenarios.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use acetate_testkit::driver::Driver;
use acetate_testkit::scenario::expect::{self, EXPECTED, Expected, Summary, Verdict};
use acetate_testkit::scenario::{RECORDED, Row, Runner, load};
use anyhow::{Context, bail};

/// Replay the scenarios recorded from the kernel's overlayfs
///
/// Exit status: 0 as recorded (but for expected failures), 1 not, 2 error.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Who mounts; expected failures count only for acetate
    #[arg(long, value_enum, default_value = "acetate")]
    driver: Who,
    /// Run these rows only
    #[arg(long, value_name = "ID,ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Take the rows from this file instead of the recording built in
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Name every row and how long it took
    #[arg(short, long)]
    verbose: bool,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Kernel,
    Acetate,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let json = match &args.data {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => RECORDED.to_owned(),
    };
    let mut rows = load(&json)?;
    let expected = match args.driver {
        Who::Kernel => Expected::new(),
        Who::Acetate if args.data.is_some() => Expected::new(),
        Who::Acetate => expect::parse(EXPECTED, &rows)?,
    };
    select(&mut rows, &args.only)?;
    let driver = match args.driver {
        Who::Kernel => Driver::Kernel,
        Who::Acetate => Driver::acetate()?,
    };
    let mut runner = Runner::new(driver)?;
    let mut summary = Summary::default();
    for row in &rows {
        let start = Instant::now();
        let verdict = expect::judge(&mut runner, row, &expected);
        summary.add(&verdict);
        let took = start.elapsed().as_millis();
        match &verdict {
            Verdict::Passed if args.verbose => println!("{}: passed, {took} ms", row.id),
            Verdict::Passed => {}
            Verdict::ExpectedFailure(reason) if args.verbose => {
                println!("{}: fails as expected: {reason}", row.id)
            }
            Verdict::ExpectedFailure(_) => {}
            Verdict::UnexpectedPass => {
                println!("{}: passes now; remove it from the list of expected failures", row.id);
            }
            Verdict::Failed(report) => println!("{report}"),
        }
    }
    println!("{summary}");
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Keeps the rows that were asked for; all, if none were.
fn select(rows: &mut Vec<Row>, only: &[String]) -> anyhow::Result<()> {
    if let Some(missing) = only.iter().find(|id| !rows.iter().any(|row| row.id == **id)) {
        bail!("there is no row {missing}");
    }
    rows.retain(|row| only.is_empty() || only.contains(&row.id));
    Ok(())
}
