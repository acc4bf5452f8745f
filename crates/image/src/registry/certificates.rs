//! Authorities that are trusted besides the system's, where podman and docker keep them (containers-certs.d(5)).

use super::error::Error;
use oci_client::client::{Certificate, CertificateEncoding};
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The certificates of the authorities for a host: those in `file`, and in each `*.crt` of the directories that are
/// named after the host with its port.
pub(super) fn find(host: &str, file: Option<&Path>) -> Result<Vec<Certificate>, Error> {
    let mut found = Vec::new();
    if let Some(file) = file {
        let certificates = read(file)?;
        if certificates.is_empty() {
            return Err(Error::Certificate {
                file: file.to_owned(),
                reason: "it holds no certificate".into(),
            });
        }
        found.extend(certificates);
    }
    for dir in dirs(std::env::var_os("HOME").map(PathBuf::from)) {
        // A directory that is not there, or not for us, is one without certificates.
        for entry in fs::read_dir(dir.join(host)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "crt") {
                found.extend(read(&entry.path())?);
            }
        }
    }
    Ok(found)
}

fn dirs(home: Option<PathBuf>) -> Vec<PathBuf> {
    let own = home.map(|home| home.join(".config/containers/certs.d"));
    own.into_iter().chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
}

/// The certificates in a file in PEM form, each by itself.
fn read(file: &Path) -> Result<Vec<Certificate>, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::Certificate { file: file.to_owned(), reason: error.to_string() })?;
    let parts = text.split(BEGIN).skip(1);
    Ok(parts
        .map(|part| Certificate {
            encoding: CertificateEncoding::Pem,
            data: format!("{BEGIN}{part}").into_bytes(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_in_the_order_of_podman() {
        let expected =
            ["/home/u/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d"];
        assert_eq!(dirs(Some("/home/u".into())), expected.map(PathBuf::from));
        assert_eq!(dirs(None).len(), 2);
    }
}
