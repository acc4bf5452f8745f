//! `acetate man`: the man pages and the reference, from the same definitions as the command line.

use crate::error::Failure;
use crate::out::shown;
use crate::{Command, Exit};
use clap::{Arg, CommandFactory};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Write the man pages
///
/// One for each command: acetate.1, acetate-image.1, acetate-image-show.1, and so on.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// A directory that is there
    #[arg(required_unless_present = "markdown")]
    dir: Option<PathBuf>,
    /// Print all commands and options in one text instead (docs/cli-reference.md)
    #[arg(long, conflicts_with = "dir")]
    markdown: bool,
}

pub(crate) fn run(args: &ManArgs) -> Result<Exit, Failure> {
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(Command::command(), dir).map_err(|error| {
            Failure::io(shown(dir), &error).hint("name a directory that you may write to")
        })?;
    } else {
        crate::out::answer(&reference()).map_err(|error| Failure::io("write the answer", &error))?;
    }
    Ok(Exit::Done)
}

/// All commands with their options, as Markdown.
fn reference() -> String {
    let mut command = Command::command();
    // Names of subcommands become whole command lines.
    command.build();
    let mut text = String::from(
        "# Command reference\n\n\
         Every command and option. Made by `acetate man --markdown` (a test keeps it true); what they mean together, and\n\
         the JSON documents: [cli.md](cli.md).\n",
    );
    describe(&mut text, &command);
    text
}

fn describe(text: &mut String, command: &clap::Command) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    let aliases = if aliases.is_empty() { String::new() } else { format!(" (also {})", aliases.join(", ")) };
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ");
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    // Writing to a String cannot fail.
    let _infallible = write!(text, "\n## {name}{aliases}\n\n    {usage}\n\n{}\n", escaped(about.trim()));
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let own: Vec<&Arg> = shown.filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")).collect();
    if !own.is_empty() {
        text.push('\n');
    }
    for arg in own {
        let _infallible = writeln!(text, "- {}", argument(arg));
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        describe(text, inner);
    }
}

/// An argument on one line: its forms, what it means, which values it takes.
fn argument(arg: &Arg) -> String {
    let short = arg
        .get_short()
        .filter(|_| !arg.is_positional())
        .map(|short| format!("-{short}, "))
        .unwrap_or_default();
    let long = arg.to_string();
    let form = if long.starts_with('-') && !long.starts_with("--") { long } else { short + &long };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut line = format!("`{form}`: {}", escaped(&help.split_whitespace().collect::<Vec<_>>().join(" ")));
    let values = arg.get_possible_values();
    let values: Vec<&str> =
        values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name()).collect();
    if !values.is_empty() && values != ["true", "false"] {
        let _infallible = write!(line, "; one of `{}`", values.join("`, `"));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        let _infallible = write!(line, "; by default `{}`", defaults.join(" "));
    }
    line
}

/// Text in which Markdown sees no marks.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<").replace('*', "\\*").replace('[', "\\[")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_reference_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli-reference.md");
        let made = reference();
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(made == kept, "docs/cli-reference.md is old: acetate man --markdown >docs/cli-reference.md");
    }

    #[test]
    fn the_command_line_makes_sense() {
        Command::command().debug_assert();
    }
}
