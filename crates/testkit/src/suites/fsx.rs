//! fsx: random reads, writes, mappings, truncation and holes on one file, each byte checked.
//!
//! A run is repeatable: configuration and seed decide every operation.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{Verdict, Verdicts};
use crate::{exec, need};

/// How long one configuration with one seed may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Size of the file that exists before an in-place run starts, in bytes.
const EXISTING_BYTES: usize = 256 << 10;

/// One way to run fsx.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Its name in reports and on command lines.
    pub name: &'static str,
    /// fsx's configuration file.
    toml: &'static str,
    /// How many of the operations asked for this configuration does, in percent: big ones take longer.
    percent: u32,
    /// Whether fsx works in the file that is there, with its size, instead of making a new one.
    in_place: bool,
}

/// All configurations.
pub const CONFIGS: [Config; 5] = [
    Config {
        name: "mmap",
        toml: "[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 0.1\nfdatasync = 0.1\n",
        percent: 100,
        in_place: false,
    },
    Config {
        name: "holes",
        toml: "[weights]\nclose_open = 1\npunch_hole = 10\nposix_fallocate = 5\ncopy_file_range = 10\n\
               sendfile = 5\nposix_fadvise = 1\n",
        percent: 100,
        in_place: false,
    },
    Config {
        name: "no-mmap",
        toml: "[weights]\nclose_open = 2\nmapread = 0\nmapwrite = 0\ncopy_file_range = 5\n",
        percent: 100,
        in_place: false,
    },
    Config {
        name: "big",
        toml: "flen = 16777216\n[opsize]\nmax = 1048576\n[weights]\nclose_open = 1\npunch_hole = 5\n\
               copy_file_range = 5\n",
        percent: 4,
        in_place: false,
    },
    // In place a lower file is copied up by the first write, and never truncated to nothing before.
    Config {
        name: "in-place",
        toml: "blockmode = true\n[weights]\ntruncate = 0\nfsync = 0.1\npunch_hole = 5\ninvalidate = 1\n",
        percent: 100,
        in_place: true,
    },
];

impl Config {
    /// The configuration called `name`.
    pub fn find(name: &str) -> Option<Self> {
        CONFIGS.into_iter().find(|config| config.name == name)
    }

    /// Name of the test case with `seed`.
    fn case(&self, seed: u64) -> String {
        format!("fsx::{}::seed_{seed}", self.name)
    }

    /// Name of the file that a run works on.
    fn file(&self, seed: u64) -> String {
        format!("fsx-{}-{seed}", self.name)
    }
}

/// Makes the files that in-place runs with `seeds` start from; `dir` is meant to become a lower layer.
pub fn prepare(dir: &Path, seeds: &[u64]) -> anyhow::Result<()> {
    for config in CONFIGS.iter().filter(|config| config.in_place) {
        for &seed in seeds {
            let bytes: Vec<u8> = (0..EXISTING_BYTES).map(|i| (i % 251) as u8).collect();
            std::fs::write(dir.join(config.file(seed)), bytes)?;
        }
    }
    Ok(())
}

/// Runs `config` with each of `seeds` in `dir`, about `operations` operations each.
///
/// `scratch` takes configuration files and what fsx leaves after a failure.
///
/// # Errors
/// If fsx cannot be run at all; that a check failed is a verdict.
pub fn run(
    dir: &Path,
    scratch: &Path,
    config: Config,
    seeds: &[u64],
    operations: u64,
) -> anyhow::Result<Verdicts> {
    let program = need::tool("fsx").context("no program fsx; run tests/install")?;
    let file = scratch.join(format!("{}.toml", config.name));
    std::fs::write(&file, config.toml)?;
    let operations = (operations * u64::from(config.percent) / 100).max(1);
    let mut verdicts = Verdicts::new();
    for &seed in seeds {
        let mut command = Command::new(&program);
        command.arg("-f").arg(&file).arg("-P").arg(scratch);
        command.args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
        command.arg(dir.join(config.file(seed)));
        let verdict = match exec::run(&mut command, LIMIT) {
            Ok(done) if done.status.success() => Verdict::Ok,
            Ok(done) => Verdict::Failed(format!("{}: {}", done.status, done.tail(30))),
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        verdicts.insert(config.case(seed), verdict);
    }
    Ok(verdicts)
}
