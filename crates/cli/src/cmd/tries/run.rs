//! `acetate try -- COMMAND`.

use super::apply::{done, tell_applied};
use super::ask::{Answer, ask, can_ask};
use super::report::{Outcome, Report, command_line};
use crate::Exit;
use crate::error::{Class, Failure};
use crate::out::{answer_json, note, shown, talk, warn};
use crate::run::Net;
use crate::sandbox::{self, Job};
use acetate_store::Store;
use acetate_store::driver::DriverName;
use acetate_store::tries::{Bytes, OpenTry};
use rustix::fs::Mode;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Running a command over the live tree.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The command with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// What the try is called [default: the first number that is free]
    #[arg(long)]
    name: Option<String>,
    /// Cover this directory; everything else is read-only, but for scratch space at /tmp and /var/tmp [default: /]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Let the command really change what is at this path; repeat for more
    #[arg(long, value_name = "PATH")]
    allow: Vec<PathBuf>,
    /// Which network the command has
    #[arg(long, value_enum, default_value_t)]
    net: Net,
    /// How overlays are mounted: kernel or fuse [default: whichever works]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<DriverName>,
    /// Apply all changes if the command ends with status 0; keep them otherwise
    #[arg(long, group = "end")]
    apply: bool,
    /// Discard all changes
    #[arg(long, group = "end")]
    discard: bool,
    /// Keep all changes for later [default without a terminal]
    #[arg(long, group = "end")]
    keep: bool,
    /// Print one JSON document (schema acetate-try-v1, docs/cli.md) when the command has ended; its standard output goes to
    /// standard error
    #[arg(long)]
    json: bool,
}

pub(super) fn run(store: &Store, args: RunArgs, mask: Mode) -> Result<Exit, Failure> {
    inside(store, args, mask).map_err(|failure| Failure { class: Class::NotRun, ..failure })
}

fn inside(store: &Store, args: RunArgs, mask: Mode) -> Result<Exit, Failure> {
    let job = job(store, &args, mask)?;
    let command = args.command.iter().map(Bytes::from).collect();
    let mut open = store.begin_try(args.name.as_deref(), command, &job.target)?;
    let signals = sandbox::signals()?;
    let code = match sandbox::run(&job, &mut open, &signals) {
        Ok(code) if open.reload()? => code,
        other => {
            // It was never begun; why has been said, or is said by the caller.
            open.discard()?;
            return other.map(Exit::Status);
        }
    };
    let told = open.tried().uncovered.len();
    open.end(Some(code))?;
    for (path, why) in open.tried().uncovered.iter().skip(told) {
        warn(format_args!("{}: {why}", shown(path.path())));
    }
    let report = Report::of(&open)?;
    if report.changes().is_empty() {
        finish(&args, open, Outcome::Unchanged, "nothing was changed")?;
        return Ok(Exit::Status(code));
    }
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if !args.json {
        let command = command_line(&open.tried().command);
        talk(&format!("acetate: {command} ended with status {code} and would change:\n\n"));
        talk(&format!("{}\n{}\n", report.lines(colours), report.summary(colours)));
    }
    let answer = match (args.apply, args.discard) {
        (true, _) if code == 0 => Answer::All,
        (_, true) => Answer::Discard,
        _ if args.keep || args.apply || args.json || !can_ask() => Answer::Keep,
        _ => {
            // Ctrl-C leaves all as it is.
            signals.unblock().map_err(|errno| Failure::errno("let signals in", errno))?;
            let answer = ask(&report, &open.tried().name, colours);
            signals.block().map_err(|errno| Failure::errno("hold signals", errno))?;
            answer?
        }
    };
    follow(&args, open, answer)?;
    Ok(sandbox::exit(code))
}

/// Does what the user has decided.
fn follow(args: &RunArgs, mut open: OpenTry<'_>, answer: Answer) -> Result<(), Failure> {
    let paths = match answer {
        Answer::Discard => return finish(args, open, Outcome::Discarded, "discarded; nothing was changed"),
        Answer::Keep => return keep(args, &open),
        Answer::All => Vec::new(),
        Answer::Some(paths) if paths.is_empty() => return keep(args, &open),
        Answer::Some(paths) => paths,
    };
    let selected = open.select(&paths)?;
    match done(open.apply(&selected))? {
        Ok(_) => {
            tell_applied(&open, selected.len());
            tell(args, &open, None)
        }
        Err(refused) => {
            tell(args, &open, None)?;
            Err(refused)
        }
    }
}

fn keep(args: &RunArgs, open: &OpenTry<'_>) -> Result<(), Failure> {
    let name = &open.tried().name;
    note(format_args!(
        "nothing was changed; kept as try {name}: `acetate try show {name}`, `acetate try apply {name}`, \
         `acetate try discard {name}`"
    ));
    tell(args, open, None)
}

/// Throws the try away.
fn finish(args: &RunArgs, open: OpenTry<'_>, outcome: Outcome, said: &str) -> Result<(), Failure> {
    tell(args, &open, Some(outcome))?;
    open.discard()?;
    if !args.json {
        note(said);
    }
    Ok(())
}

/// Prints the document that was asked for.
fn tell(args: &RunArgs, open: &OpenTry<'_>, outcome: Option<Outcome>) -> Result<(), Failure> {
    if args.json {
        let mut document = Report::of(open)?.document(open.tried());
        document.outcome = outcome.unwrap_or(document.outcome);
        answer_json(&document)?;
    }
    Ok(())
}

fn job(store: &Store, args: &RunArgs, mask: Mode) -> Result<Job, Failure> {
    let real = |path: &Path| {
        std::fs::canonicalize(path)
            .map_err(|error| Failure::io(shown(path), &error).hint("name a directory that is there").usage())
    };
    let target = real(args.dir.as_deref().unwrap_or(Path::new("/")))?;
    if !target.is_dir() {
        return Err(
            Failure::new(format_args!("{}: is no directory", shown(&target)), "name a directory").usage()
        );
    }
    if target.starts_with(store.root()) || ["/proc", "/sys", "/dev"].iter().any(|own| target.starts_with(own))
    {
        return Err(Failure::new(
            format_args!("{}: cannot be covered", shown(&target)),
            "name a directory of files, outside the store",
        ));
    }
    let current = std::env::current_dir().unwrap_or_else(|_| target.clone());
    if !args.driver.is_none_or(|driver| matches!(driver, DriverName::Kernel | DriverName::Fuse)) {
        return Err(Failure::new("--driver: only kernel and fuse make overlays", "take one of them").usage());
    }
    Ok(Job {
        words: args.command.clone(),
        workdir: if current.starts_with(&target) { current } else { target.clone() },
        target,
        allowed: args.allow.iter().map(|path| real(path)).collect::<Result<_, _>>()?,
        driver: args.driver,
        net: args.net,
        quiet: args.json,
        mask,
        store: store.root().to_owned(),
    })
}
