//! The programs that mount(8) and container engines call, told apart by the name that `acetate` is called by, or by the
//! form of the call.

use crate::Exit;
use crate::daemon;
use crate::error::Failure;
use crate::mount::{Request, Rest, remount};
use crate::options::{self, ArchiveLayers, Switch, Unknown};
use crate::out::answer;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A program that `acetate` can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// `mount.acetate` and `mount.fuse.acetate`: `SOURCE TARGET [-sfnv] [-t TYPE] [-o OPTIONS]` (mount(8),
    /// "EXTERNAL HELPERS").
    MountHelper,
    /// `fuse-overlayfs [-f] [-d] [-o OPTIONS] [SOURCE] TARGET`.
    FuseOverlayfs,
}

/// The flag with which a personality calls itself to serve the mount.
const SERVE: &str = "--serve";

/// The personality that the arguments name, if any. `is_subcommand` knows the subcommands of `acetate`.
pub(crate) fn of(arguments: &[OsString], is_subcommand: impl Fn(&OsStr) -> bool) -> Option<Personality> {
    let (program, rest) = arguments.split_first()?;
    match Path::new(program).file_name()?.to_str()? {
        "mount.acetate" | "mount.fuse.acetate" => Some(Personality::MountHelper),
        "fuse-overlayfs" => Some(Personality::FuseOverlayfs),
        _ => by_form(rest, is_subcommand),
    }
}

/// Those who call every mount program by its own name: podman (`mount_program`) as `acetate -o OPTIONS TARGET`,
/// mount.fuse3 as `acetate SOURCE TARGET -o OPTIONS`.
fn by_form(arguments: &[OsString], is_subcommand: impl Fn(&OsStr) -> bool) -> Option<Personality> {
    let has_options = |word: &OsString| word.as_bytes().starts_with(b"-o");
    match arguments {
        [first, ..] if has_options(first) || first == "-f" || first == "-d" => {
            Some(Personality::FuseOverlayfs)
        }
        [source, target, third, ..]
            if has_options(third) && !is_subcommand(source) && !target.as_bytes().starts_with(b"-") =>
        {
            Some(Personality::MountHelper)
        }
        _ => None,
    }
}

/// What the arguments say.
#[derive(Debug, Default)]
struct Arguments {
    places: Vec<OsString>,
    options: Vec<OsString>,
    sloppy: bool,
    fake: bool,
    foreground: bool,
    serve: bool,
    version: bool,
}

impl Personality {
    /// Runs the program.
    pub(crate) fn run(self, arguments: &[OsString]) -> Result<Exit, Failure> {
        let rest = arguments.get(1..).unwrap_or_default();
        let given = self.read(rest)?;
        if given.version {
            let text = format!("fuse-overlayfs: version 1.14 (acetate {})\n", env!("CARGO_PKG_VERSION"));
            answer(&text).map_err(|error| Failure::io("write the answer", &error))?;
            return Ok(Exit::Done);
        }
        let unknown = if given.sloppy { Unknown::Ignore } else { Unknown::Refuse };
        let mut parsed = options::parse(&given.options, unknown)?;
        if self == Personality::FuseOverlayfs {
            // What the program that this one stands for reads in any layer.
            parsed.options.oci_whiteouts.get_or_insert(ArchiveLayers::All);
            parsed.options.foreign_opaque = true;
            // Container engines mount and unmount by themselves, and count the processes that they leave.
            parsed.options.takeover.get_or_insert(Switch::Off);
        }
        let (source, target) = match (self, given.places.as_slice()) {
            (Personality::MountHelper, [source, target]) => (Some(source.clone()), target),
            (Personality::FuseOverlayfs, [target]) => (None, target),
            (Personality::FuseOverlayfs, [source, target]) => (Some(source.clone()), target),
            _ => return Err(self.usage()),
        };
        if parsed.options.remount {
            if !given.fake {
                remount(Path::new(target), &given.options, Rest::Cleared)?;
            }
            return Ok(Exit::Done);
        }
        let request = Request { parsed, source, target: PathBuf::from(target), make_work: false };
        if given.fake {
            return Ok(Exit::Done);
        }
        if given.serve {
            daemon::serve_for_parent(&request)?;
        } else if given.foreground {
            daemon::serve_in_foreground(&request)?;
        } else {
            daemon::start_as(Some(&self.name().into()), rest.iter().cloned())?;
        }
        Ok(Exit::Done)
    }

    /// The name that it is known by.
    fn name(self) -> &'static str {
        match self {
            Personality::MountHelper => "mount.acetate",
            Personality::FuseOverlayfs => "fuse-overlayfs",
        }
    }

    fn read(self, arguments: &[OsString]) -> Result<Arguments, Failure> {
        let mut given = Arguments::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_bytes() {
                b"-o" => given.options.push(rest.next().ok_or_else(|| self.usage())?.clone()),
                b"-t" => drop(rest.next().ok_or_else(|| self.usage())?),
                b"--version" => given.version = true,
                bytes if argument == OsStr::new(SERVE) && !bytes.is_empty() => given.serve = true,
                bytes if bytes.starts_with(b"-o") => {
                    given.options.push(OsStr::from_bytes(&bytes[2..]).to_owned())
                }
                bytes if bytes.len() > 1 && bytes[0] == b'-' => self.flags(&bytes[1..], &mut given)?,
                _ => given.places.push(argument.clone()),
            }
        }
        Ok(given)
    }

    /// Single letters. `-f` is "fake" for mount(8) and "foreground" for fuse-overlayfs.
    fn flags(self, letters: &[u8], given: &mut Arguments) -> Result<(), Failure> {
        for letter in letters {
            match (self, letter) {
                (Personality::MountHelper, b's') => given.sloppy = true,
                (Personality::MountHelper, b'f') => given.fake = true,
                (Personality::MountHelper, b'n' | b'v') | (Personality::FuseOverlayfs, b'd') => {}
                (Personality::FuseOverlayfs, b'f') => given.foreground = true,
                _ => return Err(self.usage()),
            }
        }
        Ok(())
    }

    fn usage(self) -> Failure {
        let form = match self {
            Personality::MountHelper => "mount.acetate SOURCE TARGET [-sfnv] [-t TYPE] [-o OPTIONS]",
            Personality::FuseOverlayfs => "fuse-overlayfs [-f] [-d] -o OPTIONS [SOURCE] TARGET",
        };
        Failure::new("wrong arguments", form).usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            of(&words, |word| word == "mount")
        };
        let fuse_overlayfs = [
            "/usr/bin/fuse-overlayfs --version",
            "fuse-overlayfs overlay /m -o x",
            "/usr/bin/acetate -o lowerdir=/a:/b /m",
            "acetate -olowerdir=/a:/b /m",
            "acetate -f -o x /m",
        ];
        let helpers =
            ["/sbin/mount.acetate none /m -o rw", "mount.fuse.acetate", "acetate none /m -o rw,dev,suid"];
        let neither = [
            "acetate",
            "acetate --version",
            "acetate mount /m -o x",
            "acetate try list",
            "acetate mount -o x /m",
        ];
        fuse_overlayfs
            .iter()
            .for_each(|line| assert_eq!(of(line), Some(Personality::FuseOverlayfs), "{line}"));
        helpers.iter().for_each(|line| assert_eq!(of(line), Some(Personality::MountHelper), "{line}"));
        neither.iter().for_each(|line| assert_eq!(of(line), None, "{line}"));
    }
}
