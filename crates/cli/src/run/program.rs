//! Whether a tree has the program that is to be run.

use super::{Job, wish};
use crate::error::{Convention, Failure};
use crate::out::shown;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The exit status if the job's program is not in the tree, or is no program, after saying so: all runtimes end alike.
///
/// # Errors
/// If the tree cannot be looked into.
pub(super) fn missing(job: &Job) -> Result<Option<u8>, Failure> {
    let Some(program) = job.words.first() else { return Ok(None) };
    let tree = wish::open_root(&job.root)?;
    let path = job.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    let candidates: Vec<_> = if program.as_bytes().contains(&b'/') {
        vec![job.workdir.join(program)]
    } else {
        path.split(':').map(|dir| Path::new(dir).join(program)).collect()
    };
    let mut refused = false;
    for candidate in candidates {
        match openat2(
            &tree,
            candidate.as_os_str(),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        ) {
            Ok(file) => {
                let stat = fstat(&file).map_err(|errno| Failure::path("look at", &candidate, errno))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
                {
                    return Ok(None);
                }
                refused = true;
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // Whoever runs it knows better.
            Err(_) => return Ok(None),
        }
    }
    let (code, reason) = if refused { (126, "cannot be executed") } else { (127, "not found") };
    let failure = Failure::new(format_args!("{}: {reason} in the workspace", shown(program)), hint(program));
    failure.report(Convention::Runtime);
    Ok(Some(code))
}

fn hint(program: &OsStr) -> String {
    match program.as_bytes().contains(&b'/') {
        true => "the path is that in the workspace, not on the host".to_owned(),
        false => {
            "it is looked for on the PATH of the image; --entrypoint replaces what the image runs".to_owned()
        }
    }
}
