//! The programs that mount(8) and container engines call, told apart by the name that `acetate` is called by.

use crate::Exit;
use crate::daemon;
use crate::error::Failure;
use crate::mount::Request;
use crate::options::{self, Unknown};
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
    /// `fuse-overlayfs [-f] [-d] [-o OPTIONS] TARGET`.
    FuseOverlayfs,
}

/// The flag with which a personality calls itself to serve the mount.
const SERVE: &str = "--serve";

/// The personality that the arguments name, if any.
pub(crate) fn of(arguments: &[OsString]) -> Option<Personality> {
    match Path::new(arguments.first()?).file_name()?.to_str()? {
        "mount.acetate" | "mount.fuse.acetate" => Some(Personality::MountHelper),
        "fuse-overlayfs" => Some(Personality::FuseOverlayfs),
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
        let parsed = options::parse(&given.options, unknown)?;
        let (source, target) = match (self, given.places.as_slice()) {
            (Personality::MountHelper, [source, target]) => (Some(source.clone()), target),
            (Personality::FuseOverlayfs, [target]) => (None, target),
            _ => return Err(self.usage()),
        };
        let request = Request { parsed, source, target: PathBuf::from(target), make_work: false };
        if given.fake {
            return Ok(Exit::Done);
        }
        if given.serve {
            daemon::serve_for_parent(&request)?;
        } else if given.foreground {
            daemon::serve_in_foreground(&request)?;
        } else {
            daemon::start_as(arguments.first(), rest.iter().cloned())?;
        }
        Ok(Exit::Done)
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
            Personality::FuseOverlayfs => "fuse-overlayfs [-f] [-d] -o OPTIONS TARGET",
        };
        Failure::new("wrong arguments", form).usage()
    }
}
