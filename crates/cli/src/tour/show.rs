//! How the tour is shown: a heading, commands as they are typed, what they print, and a sentence.

use super::{Ends, Scratch, Step};
use crate::error::Failure;
use crate::out::{answer, colours};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Shows steps, one after another.
#[derive(Debug)]
pub(crate) struct Show {
    directory: PathBuf,
    path: OsString,
    colours: bool,
    pauses: bool,
}

impl Show {
    /// Shows steps in that directory; `pauses` waits for Enter before each.
    pub(crate) fn new(scratch: &Scratch, pauses: bool) -> Show {
        let mut path = scratch.programs().into_os_string();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        Show { directory: scratch.path().to_owned(), path, colours: colours(), pauses }
    }

    /// Prints a paragraph.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn say(&self, text: impl Display) -> Result<(), Failure> {
        self.print(format!("{text}\n"))
    }

    /// Shows one step.
    ///
    /// # Errors
    /// If a command does not end as it should.
    pub(crate) fn step(&self, number: usize, step: &Step) -> Result<(), Failure> {
        if self.pauses {
            self.print(self.styled("2", "(Enter goes on, Ctrl-C ends the tour) "))?;
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map_err(|error| Failure::io("read from the terminal", &error))?;
        }
        self.print(format!(
            "\n{}\n{}\n\n",
            self.styled("1;36", &format!("{number}. {}", step.title)),
            step.before
        ))?;
        for (command, ends) in step.commands {
            self.print(format!("  {} {}\n", self.styled("32", "$"), self.styled("1", command)))?;
            self.command(command, *ends)?;
        }
        self.print(format!("\n{}\n", step.after))
    }

    fn command(&self, command: &str, ends: Ends) -> Result<(), Failure> {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("{command} 2>&1"))
            .current_dir(&self.directory)
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::io("run sh", &error))?;
        let printed = [output.stdout, output.stderr].concat();
        for line in printed.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            use std::os::unix::ffi::OsStrExt;
            self.print(format!("    {}\n", crate::out::shown(std::ffi::OsStr::from_bytes(line))))?;
        }
        let well = output.status.success();
        if well != (ends == Ends::Well) {
            return Err(Failure::new(
                format_args!("tour: `{command}` ended with {}", output.status),
                "what it printed says why; the tour was cleared away",
            ));
        }
        Ok(())
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: String) -> Result<(), Failure> {
        answer(&text).map_err(|error| Failure::io("write to standard output", &error))
    }
}
