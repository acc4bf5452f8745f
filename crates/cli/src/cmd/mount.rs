//! `acetate mount`.

use crate::Exit;
use crate::daemon;
use crate::error::Failure;
use crate::mount::{ByKernel, Driver, Request, Rest, by_kernel, remount};
use crate::options::{self, Parsed, Role, Unknown};
use crate::out::{note, shown};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Mount an overlay
///
/// Returns once the mount can be used. Either with the options of the kernel's overlayfs:
/// `acetate mount -o lowerdir=TOP:BOTTOM,upperdir=U,workdir=W MERGED`, or with one flag a layer:
/// `acetate mount --lower TOP --lower BOTTOM --upper U MERGED`. Without an upper layer the mount is read-only.
/// `acetate mount -o remount,ro MERGED` changes the flags of a mount.
///
/// Exit status: 0 mounted, 2 refused or failed.
#[derive(Debug, clap::Args)]
pub(crate) struct MountArgs {
    /// Mount options, as the kernel's overlayfs takes them; may be repeated
    #[arg(short = 'o', value_name = "OPTIONS", action = clap::ArgAction::Append)]
    options: Vec<OsString>,
    /// A read-only layer; repeat for more, the topmost first
    #[arg(long, value_name = "DIR", action = clap::ArgAction::Append)]
    lower: Vec<OsString>,
    /// The writable layer
    #[arg(long, value_name = "DIR")]
    upper: Option<OsString>,
    /// The work directory, on the same filesystem as the upper layer [default: made beside it, with `.work` appended]
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<OsString>,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Who serves the mount
    #[arg(long, value_enum, default_value = "fuse")]
    driver: Driver,
    /// Serve the mount for a waiting parent
    #[arg(long, hide = true)]
    serve: bool,
    /// End with the process that started this one
    #[arg(long, hide = true)]
    with_parent: bool,
    /// What the mount table shows as the source, and where to mount
    #[arg(value_name = "[SOURCE] MERGED", required = true, num_args = 1..=2)]
    places: Vec<OsString>,
}

pub(crate) fn run(args: &MountArgs) -> Result<Exit, Failure> {
    let request = request(args)?;
    if request.parsed.options.remount {
        remount(&request.target, &args.options, Rest::Kept)?;
        return Ok(Exit::Done);
    }
    if !args.serve && mounted_by_kernel(args, &request)? {
        return Ok(Exit::Done);
    }
    if args.with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(|errno| Failure::errno("ask to end with the parent", errno))?;
    }
    if args.serve {
        daemon::serve_for_parent(&request)?;
    } else if args.foreground {
        daemon::serve_in_foreground(&request)?;
    } else {
        daemon::start(std::env::args_os().skip(1))?;
    }
    Ok(Exit::Done)
}

/// Whether the kernel's overlayfs was asked to serve the mount, and does.
fn mounted_by_kernel(args: &MountArgs, request: &Request) -> Result<bool, Failure> {
    // A server in the foreground is one of ours.
    let wanted = match (args.driver, args.foreground || args.with_parent) {
        (Driver::Kernel, true) => {
            let what = "--driver kernel: the kernel's overlayfs has no process to stay in the foreground";
            return Err(Failure::new(what, "leave one of the two out").usage());
        }
        (driver, foreground) => driver != Driver::Fuse && !foreground,
    };
    if !wanted {
        return Ok(false);
    }
    match by_kernel(request)? {
        ByKernel::Mounted(point) => {
            if args.driver == Driver::Auto {
                note(format_args!("{}: served by the kernel's overlayfs", shown(&point)));
            }
            Ok(true)
        }
        ByKernel::Refused(failure) if args.driver == Driver::Kernel => Err(failure),
        ByKernel::Refused(failure) => {
            note(format_args!(
                "served by a daemon, since the kernel's overlayfs refuses: {}",
                failure.message
            ));
            Ok(false)
        }
    }
}

/// What the arguments ask for.
fn request(args: &MountArgs) -> Result<Request, Failure> {
    let mut parsed = options::parse(&args.options, Unknown::Refuse)?;
    add_flags(&mut parsed, args);
    let make_work = add_work(&mut parsed, args);
    let (source, target) = match args.places.as_slice() {
        [source, target] => (Some(source.clone()), target),
        [target] => (None, target),
        _ => return Err(Failure::new("no mount point", "name the directory to mount on").usage()),
    };
    Ok(Request { parsed, source, target: PathBuf::from(target), make_work })
}

fn add_flags(parsed: &mut Parsed, args: &MountArgs) {
    for lower in &args.lower {
        parsed.options.lowers.push(lower.clone());
        parsed.mentioned.push((Role::Lower, lower.clone()));
    }
    if let Some(upper) = &args.upper {
        parsed.options.upper = Some(upper.clone());
        parsed.mentioned.push((Role::Upper, upper.clone()));
    }
    if let Some(work) = &args.work {
        parsed.options.work = Some(work.clone());
        parsed.mentioned.push((Role::Work, work.clone()));
    }
}

/// Chooses the work directory beside the upper layer if none was named. Returns whether it may have to be made.
fn add_work(parsed: &mut Parsed, args: &MountArgs) -> bool {
    let Some(upper) = args.upper.as_ref().filter(|_| parsed.options.work.is_none()) else {
        return false;
    };
    let mut work = trimmed(upper).to_os_string();
    work.push(".work");
    parsed.options.work = Some(work.clone());
    parsed.mentioned.push((Role::Work, work));
    true
}

/// A path without trailing slashes.
fn trimmed(path: &OsStr) -> &OsStr {
    let path = Path::new(path);
    // The components of a path do not know of slashes at its end.
    path.components().as_path().as_os_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_work_directory_is_beside_the_upper_layer() {
        let args = MountArgs {
            options: vec![],
            lower: vec!["l".into()],
            upper: Some("/a/u//".into()),
            work: None,
            foreground: false,
            driver: Driver::Fuse,
            serve: false,
            with_parent: false,
            places: vec!["m".into()],
        };
        let mut parsed = Parsed::default();
        assert!(add_work(&mut parsed, &args));
        assert_eq!(parsed.options.work, Some("/a/u.work".into()));
    }
}
