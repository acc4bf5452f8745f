//! sqlite on a mount: many processes on one database that starts in the lower layer.
//!
//! It leans on byte-range locks, on shared memory mappings of one file by several processes (the WAL index), and, with
//! `mmap_size`, on mappings that see what write(2) changes. All processes open the lower file at once, so that its
//! copy-up races with their first locks.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{LIMIT, Place, expect_eq};
use crate::driver::Driver;
use crate::exec;

/// Accounts in the database, each with [`BALANCE`]; transfers keep the sum.
const ACCOUNTS: i64 = 5000;

/// What every account starts with.
const BALANCE: i64 = 100;

/// Processes that transfer, and transactions of each.
const WRITERS: usize = 3;
const TRANSFERS: usize = 500;

/// Processes that add up, and how often each does.
const READERS: usize = 2;
const SUMS: usize = 250;

/// How the database is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Write-ahead log: readers and writers at the same time.
    Wal,
    /// Rollback journal: made and removed by each transaction.
    Delete,
}

impl Journal {
    fn word(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Delete => "delete",
        }
    }
}

/// Transfers between accounts in several processes while others add them up, on a mount of `driver`.
pub fn bank(driver: &Driver, journal: Journal) -> anyhow::Result<String> {
    let place = Place::new(driver, "acetate-sqlite", |lower, _| {
        // The mode is part of the database: changing it later needs every other process out.
        let fill = format!(
            "PRAGMA journal_mode = {};
             CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, pad TEXT);
             CREATE TABLE log(id INTEGER PRIMARY KEY, who INTEGER, amount INTEGER);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
             INSERT INTO account SELECT i, {BALANCE}, hex(randomblob(100)) FROM n;
             CREATE INDEX log_who ON log(who);",
            journal.word()
        );
        sqlite(&lower.join("bank.db"), &fill).map(drop)
    })?;
    let file = place.merged.join("bank.db");
    let settings = "PRAGMA mmap_size = 268435456;\nPRAGMA synchronous = NORMAL;\n";
    let run = |script: String| sqlite(&file, &script);
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|who| writer(settings, who)).map(|script| scope.spawn(|| run(script))).collect();
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| run(reader(settings)))).collect();
        for thread in writers {
            joined(thread).context("a writer")?;
        }
        for thread in readers {
            let said = joined(thread).context("a reader")?;
            let expected = (ACCOUNTS * BALANCE).to_string();
            let sums: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("sum ")).collect();
            expect_eq(&sums, &vec![expected.as_str(); SUMS], "sums that a reader saw")?;
        }
        anyhow::Ok(())
    })?;
    check(&place.merged)?;
    place.finish(check)?;
    Ok(format!("{WRITERS} writers, {READERS} readers, journal {}: integrity_check ok", journal.word()))
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| anyhow::bail!("a thread of the test panicked"))
}

fn writer(settings: &str, who: usize) -> String {
    let mut script = settings.to_owned();
    for i in 0..TRANSFERS {
        let amount = 1 + i % 7;
        script.push_str(&format!(
            "BEGIN IMMEDIATE;
             UPDATE account SET balance = balance - {amount} WHERE id = 1 + abs(random()) % {ACCOUNTS};
             UPDATE account SET balance = balance + {amount} WHERE id = 1 + abs(random()) % {ACCOUNTS};
             INSERT INTO log(who, amount) VALUES({who}, {amount});
             COMMIT;\n"
        ));
    }
    script
}

fn reader(settings: &str) -> String {
    format!("{settings}{}", "SELECT 'sum ' || sum(balance) FROM account;\n".repeat(SUMS))
}

/// The database is whole, no transaction is lost, and none was done by half.
fn check(merged: &Path) -> anyhow::Result<()> {
    let said = sqlite(
        &merged.join("bank.db"),
        "PRAGMA integrity_check; SELECT count(*) FROM log; SELECT sum(balance) FROM account;",
    )?;
    let expected = format!("ok\n{}\n{}\n", WRITERS * TRANSFERS, ACCOUNTS * BALANCE);
    expect_eq(&said, &expected, "integrity_check, transactions and sum")
}

/// Runs statements in a process of its own; stops at the first error. Waits for locks up to a minute.
///
/// They go through a file in memory: a script of this size is too long for a command line.
fn sqlite(file: &Path, statements: &str) -> anyhow::Result<String> {
    let mut script = File::from(memfd_create("statements", MemfdFlags::empty())?);
    script.write_all(statements.as_bytes())?;
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-init", "/dev/null", "-cmd", ".timeout 60000"]).arg(file);
    command.arg(format!(".read /proc/self/fd/{}", script.as_raw_fd()));
    Ok(String::from_utf8_lossy(&exec::stdout_of(&mut command, LIMIT)?).into_owned())
}
