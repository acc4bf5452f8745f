//! What the user and the image want, made into one job.

use super::{Identity, Job, Net, idmap, users};
use crate::error::Failure;
use crate::out::shown;
use oci_spec::image::{Config, ImageConfiguration};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where programs are looked for if the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More than any table of users has.
const TABLE_BYTES: u64 = 16 << 20;

/// What the user has asked for; what is `None` or empty is the image's to say.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) words: Vec<OsString>,
    pub(crate) entrypoint: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) env: Vec<String>,
    pub(crate) net: Net,
}

/// Makes the job for a tree.
///
/// # Errors
/// A configuration that cannot be read, a user that the tree does not know, a variable without a value.
pub(crate) fn job(root: &Path, hostname: &str, image: Option<&[u8]>, wish: Wish) -> Result<Job, Failure> {
    let config = match image {
        Some(bytes) => ImageConfiguration::from_reader(bytes)
            .map_err(|error| {
                Failure::new(format_args!("configuration of the image: {error}"), "report it to its maker")
            })?
            .config()
            .clone()
            .unwrap_or_default(),
        None => Config::default(),
    };
    let wanted = wish.user.or_else(|| config.user().clone()).unwrap_or_default();
    let identity = users::resolve(&wanted, &table(root, "etc/passwd")?, &table(root, "etc/group")?)?;
    idmap::check(&identity)?;
    let workdir = wish.workdir.or_else(|| config.working_dir().clone().map(PathBuf::from));
    let workdir = Path::new("/").join(workdir.unwrap_or_default());
    let env = environment(&config, &wish.env, &identity)?;
    Ok(Job {
        root: root.to_owned(),
        words: words(&config, wish.words, wish.entrypoint),
        env,
        workdir,
        identity,
        id: format!("acetate-{hostname}-{}", std::process::id()),
        hostname: hostname.to_owned(),
        net: wish.net,
        terminal: super::is_interactive(),
        whole_ids: idmap::has_all(),
    })
}

/// The image's entrypoint comes before what the user has typed; without that the image's command does.
fn words(config: &Config, typed: Vec<OsString>, entrypoint: Option<String>) -> Vec<OsString> {
    let replaced = entrypoint.is_some();
    let mut words: Vec<OsString> = match entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.into()],
        None => config.entrypoint().iter().flatten().map(OsString::from).collect(),
    };
    if typed.is_empty() && !replaced {
        words.extend(config.cmd().iter().flatten().map(OsString::from));
    }
    words.extend(typed);
    if words.is_empty() {
        words.push("sh".into());
    }
    words
}

fn environment(
    config: &Config,
    typed: &[String],
    identity: &Identity,
) -> Result<Vec<(String, String)>, Failure> {
    let mut env: Vec<(String, String)> = vec![("PATH".into(), PATH.into())];
    env.push(("HOME".into(), identity.home.clone().unwrap_or_else(|| "/".into())));
    if let Ok(term) = std::env::var("TERM") {
        env.push(("TERM".into(), term));
    }
    let mut set = |name: &str, value: String| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.to_owned(), value)),
    };
    for variable in config.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            set(name, value.to_owned());
        }
    }
    for variable in typed {
        match variable.split_once('=') {
            Some(("", _)) => {
                return Err(Failure::new(format_args!("{variable:?} is no variable"), "write NAME=VALUE"));
            }
            Some((name, value)) => set(name, value.to_owned()),
            // As it is here.
            None => {
                if let Ok(value) = std::env::var(variable) {
                    set(variable, value);
                }
            }
        }
    }
    Ok(env)
}

/// A handle of a tree's root.
///
/// # Errors
/// If it cannot be opened.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, root, flags, Mode::empty()).map_err(|errno| Failure::path("open", root, errno))
}

/// A file of the tree, wherever symlinks in the tree lead; empty if there is none.
fn table(root: &Path, name: &str) -> Result<String, Failure> {
    let failed = |errno| Failure::path("read", &root.join(name), errno);
    let dir = open_root(root)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(&dir, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mut bytes = Vec::new();
    file.take(TABLE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(format_args!("read: {}", shown(&root.join(name))), &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oci_spec::image::ConfigBuilder;

    fn config() -> Config {
        ConfigBuilder::default()
            .entrypoint(["/entry".to_owned()])
            .cmd(["serve".to_owned()])
            .env(["A=image".to_owned(), "PATH=/only".to_owned()])
            .build()
            .unwrap()
    }

    #[test]
    fn what_is_typed_goes_before_what_the_image_says() {
        let typed = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (words_typed, entrypoint, expected) in [
            (vec![], None, vec!["/entry", "serve"]),
            (vec!["ls"], None, vec!["/entry", "ls"]),
            (vec!["ls"], Some(""), vec!["ls"]),
            (vec![], Some("sh"), vec!["sh"]),
            (vec![], Some(""), vec!["sh"]),
        ] {
            let found = words(&config(), typed(&words_typed), entrypoint.map(str::to_owned));
            assert_eq!(found, typed(&expected));
        }
        assert_eq!(words(&Config::default(), Vec::new(), None), typed(&["sh"]));
    }

    #[test]
    fn variables_replace_those_before() {
        let identity = Identity { home: Some("/home/ann".into()), ..Identity::default() };
        let env = environment(&config(), &["A=typed".into(), "B=".into()], &identity).unwrap();
        let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("A"), Some("typed"));
        assert_eq!((value("B"), value("PATH"), value("HOME")), (Some(""), Some("/only"), Some("/home/ann")));
        assert!(environment(&config(), &["=x".into()], &identity).is_err());
    }
}
