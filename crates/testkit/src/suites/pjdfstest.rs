//! pjdfstest: what every filesystem call returns and leaves, as POSIX has it.
//!
//! Needs root: it changes to other users. It also remounts the filesystem under test read-only and back, so nothing
//! else may have files open on it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Verdict, Verdicts};
use crate::{exec, need};

/// How long one run may take; a few seconds are usual.
const LIMIT: Duration = Duration::from_secs(300);

/// Two unprivileged users that every Debian has, with a time to sleep above the coarsest clock tick (10 ms).
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.011
allow_remount = true

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Stands in for mount(8) while the suite remounts: without it, a FUSE filesystem's mount helper would be called to
/// start another server, where the kernel alone has to act. `REAL` is its path.
const MOUNT: &str = "#!/bin/sh\nexec REAL --internal-only \"$@\"\n";

/// Runs all test cases in a fresh directory below `dir`, which has to be on the filesystem under test.
///
/// `other` is a directory on another filesystem, for EXDEV; `scratch` takes the configuration.
///
/// # Errors
/// If the suite does not come to an end, or its output cannot be understood or does not add up.
pub fn run(dir: &Path, other: &Path, scratch: &Path) -> anyhow::Result<Verdicts> {
    let config = scratch.join("pjdfstest.toml");
    std::fs::write(&config, CONFIG).with_context(|| format!("cannot write {}", config.display()))?;
    let program = need::tool("pjdfstest").context("no program pjdfstest; run tests/install")?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&config).arg("-s").arg(other).arg("-p").arg(dir);
    // Without NO_COLOR the words are hard to find, with backtraces the messages are.
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(stand_in(scratch)?).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs)?);
    let finished = exec::run(&mut command, LIMIT)?;
    parse(&String::from_utf8_lossy(&finished.stdout))
        .with_context(|| format!("pjdfstest: {}: {}", finished.status, finished.tail(10)))
}

/// Writes [`MOUNT`] into a directory below `scratch`, and returns that directory.
fn stand_in(scratch: &Path) -> anyhow::Result<PathBuf> {
    let real = need::tool("mount").context("no program mount")?;
    let dir = scratch.join("bin");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("mount");
    std::fs::write(&file, MOUNT.replace("REAL", &real.to_string_lossy()))?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Reads `NAME  ok|FAILED|skipped`, each followed by indented lines with reasons, and the summary at the end.
fn parse(output: &str) -> anyhow::Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    let mut last: Option<String> = None;
    for line in output.lines() {
        if let Some(detail) = line.strip_prefix('\t') {
            let verdict = last.as_ref().and_then(|name| verdicts.get_mut(name));
            if let Some(Verdict::Failed(why) | Verdict::Skipped(why)) = verdict
                && why.is_empty()
            {
                detail.clone_into(why);
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else { continue };
        let verdict = match word {
            "ok" => Verdict::Ok,
            "FAILED" => Verdict::Failed(String::new()),
            "skipped" => Verdict::Skipped(String::new()),
            _ => continue,
        };
        if verdicts.insert(name.to_owned(), verdict).is_some() {
            bail!("two verdicts on {name}");
        }
        last = Some(name.to_owned());
    }
    let summary = output.lines().find_map(|line| line.strip_prefix("Summary: ")).context("no summary")?;
    let total: usize = summary
        .rsplit(", ")
        .next()
        .and_then(|last| last.strip_suffix(" total"))
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("summary not understood: {summary}"))?;
    if total != verdicts.len() || total == 0 {
        bail!("{} verdicts found, the summary says {total}", verdicts.len());
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OUTPUT: &str = "\
unlink::remove_type::char                                                 FAILED
\tcalled `Result::unwrap()` on an `Err` value: EPERM
Backtrace:
   0: rust_begin_unwind
unlink::remove_type::fifo                                                 ok
link::link_count_max                                                      skipped
\tCannot get value for LINK_MAX: filesystem limit is unknown

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    #[test]
    fn verdicts_are_read_and_counted() {
        let expected: Verdicts = [
            (
                "unlink::remove_type::char",
                Verdict::Failed("called `Result::unwrap()` on an `Err` value: EPERM".into()),
            ),
            ("unlink::remove_type::fifo", Verdict::Ok),
            (
                "link::link_count_max",
                Verdict::Skipped("Cannot get value for LINK_MAX: filesystem limit is unknown".into()),
            ),
        ]
        .map(|(name, verdict)| (name.to_owned(), verdict))
        .into();
        assert_eq!(parse(OUTPUT).unwrap(), expected);
        assert!(parse(&OUTPUT.replace("3 total", "4 total")).is_err());
        assert!(parse("").is_err());
    }
}
