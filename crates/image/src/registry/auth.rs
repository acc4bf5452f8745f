//! Credentials where podman and docker keep them (containers-auth.json(5), docker's config.json).

use super::error::Error;
use super::{Options, Reference};
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::secrets::RegistryAuth;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

/// What to say to the registry of a reference.
pub(super) fn find(reference: &Reference, options: &Options) -> Result<RegistryAuth, Error> {
    if let Some((user, password)) = &options.credentials {
        return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
    }
    let files = match &options.authfile {
        Some(file) => vec![file.clone()],
        None => files(&|name| std::env::var_os(name).map(PathBuf::from), rustix::process::getuid().as_raw()),
    };
    for file in files {
        let opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(_) if options.authfile.is_none() => continue,
            Err(error) => return Err(Error::Credentials { file, reason: error.to_string() }),
        };
        drop(opened);
        for key in keys(reference) {
            let open =
                |error: std::io::Error| Error::Credentials { file: file.clone(), reason: error.to_string() };
            match get_credential_from_reader(BufReader::new(File::open(&file).map_err(open)?), &key) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(RegistryAuth::Basic(user, password));
                }
                Ok(DockerCredential::IdentityToken(_)) => {
                    let reason =
                        "it holds an identity token, which is not supported; log in with a password".into();
                    return Err(Error::Credentials { file, reason });
                }
                Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                // A helper that has none for this registry says so by failing.
                Err(CredentialRetrievalError::HelperFailure { .. }) => {}
                Err(error) => return Err(Error::Credentials { file, reason: error.to_string() }),
            }
        }
    }
    Ok(RegistryAuth::Anonymous)
}

/// The files, in podman's order.
fn files(env: &dyn Fn(&str) -> Option<PathBuf>, uid: u32) -> Vec<PathBuf> {
    if let Some(file) = env("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = env("HOME");
    let mut files = vec![env("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/containers/{uid}/auth.json")),
        |dir| dir.join("containers/auth.json"),
    )];
    let config = env("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    files.extend(config.map(|dir| dir.join("containers/auth.json")));
    let docker = env("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
    files.extend(docker.map(|dir| dir.join("config.json")));
    files
}

/// What credentials may be filed under, the most specific first.
fn keys(reference: &Reference) -> Vec<String> {
    let host = reference.registry();
    let mut keys = Vec::new();
    let mut path = reference.repository();
    loop {
        keys.push(format!("{host}/{path}"));
        match path.rsplit_once('/') {
            Some((shorter, _)) => path = shorter,
            None => break,
        }
    }
    keys.push(host.to_owned());
    if host == "docker.io" {
        keys.push("https://index.docker.io/v1/".into());
    }
    keys
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_in_the_order_of_podman() {
        let env = |name: &str| match name {
            "HOME" => Some(PathBuf::from("/home/u")),
            "XDG_RUNTIME_DIR" => Some(PathBuf::from("/run/user/7")),
            _ => None,
        };
        let expected = [
            "/run/user/7/containers/auth.json",
            "/home/u/.config/containers/auth.json",
            "/home/u/.docker/config.json",
        ];
        assert_eq!(files(&env, 7), expected.map(PathBuf::from));
        let only = |name: &str| (name == "REGISTRY_AUTH_FILE").then(|| PathBuf::from("/a"));
        assert_eq!(files(&only, 0), [PathBuf::from("/a")]);
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let reference: Reference = "example.org:5000/team/app:1".parse().unwrap();
        assert_eq!(
            keys(&reference),
            ["example.org:5000/team/app", "example.org:5000/team", "example.org:5000"]
        );
    }
}
