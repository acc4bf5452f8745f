//! Why a registry does not give or take something.

use super::Reference;
use oci_client::errors::OciDistributionError;
use std::io;
use std::path::PathBuf;

/// Why a registry does not give or take something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such image, or not for us.
    #[error("{what}: not found")]
    NotFound {
        /// The reference.
        what: String,
    },
    /// The registry wants to know who asks, or does not let them.
    #[error("{what}: not allowed")]
    Unauthorized {
        /// The reference.
        what: String,
        /// The host to log in to.
        host: String,
    },
    /// No connection, or none that can be trusted.
    #[error("{host}: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why, with all causes.
        reason: String,
    },
    /// Credentials are there but cannot be used.
    #[error("credentials in {file}: {reason}", file = file.display())]
    Credentials {
        /// Where they are.
        file: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// Certificates of authorities are there but cannot be used.
    #[error("certificates in {file}: {reason}", file = file.display())]
    Certificate {
        /// Where they are.
        file: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// A content is not what its digest says.
    #[error("{what}: the content has digest {found}, expected {expected}")]
    Mismatch {
        /// Which content.
        what: String,
        /// What was sent.
        found: String,
        /// What should have been.
        expected: String,
    },
    /// Reading or writing on this side failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being read or written.
        what: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The registry answered something else.
    #[error("{what}: {reason}")]
    Refused {
        /// The reference.
        what: String,
        /// Its answer.
        reason: String,
    },
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotFound { .. } => Some("check name and tag; private images may need a login".into()),
            Error::Unauthorized { host, .. } => Some(format!(
                "log in with `podman login {host}` or `docker login {host}`, or name a file with --authfile"
            )),
            Error::Unreachable { reason, .. } if speaks_http(reason) => {
                Some("if this registry has no TLS, say --plain-http".into())
            }
            Error::Unreachable { reason, .. } if reason.contains("certificate") => Some(
                "name the certificate of its authority with --authorities, or say --any-certificate".into(),
            ),
            Error::Unreachable { .. } => Some("check the name of the registry and your network".into()),
            _ => None,
        }
    }
}

/// What TLS libraries say of an answer without TLS.
pub(super) fn speaks_http(reason: &str) -> bool {
    ["InvalidContentType", "corrupt message", "wrong version"].iter().any(|word| reason.contains(word))
}

/// Adds the reference to an error of the library.
pub(super) trait Context<T> {
    fn context(self, reference: &Reference) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, OciDistributionError> {
    fn context(self, reference: &Reference) -> Result<T, Error> {
        self.map_err(|error| explain(&error, reference))
    }
}

fn explain(error: &OciDistributionError, reference: &Reference) -> Error {
    let what = reference.whole();
    let host = reference.registry().to_owned();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => Error::NotFound { what },
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            Error::Unauthorized { what, host }
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let text = envelope.to_string();
            let says =
                |word: &str| envelope.errors.iter().any(|error| format!("{:?}", error.code).contains(word));
            if says("Unknown") || says("NotFound") {
                Error::NotFound { what }
            } else if says("Unauthorized") || says("Denied") {
                Error::Unauthorized { what, host }
            } else {
                Error::Refused { what, reason: text }
            }
        }
        OciDistributionError::ServerError { code: 404, .. } => Error::NotFound { what },
        OciDistributionError::ServerError { code: 401 | 403, .. } => Error::Unauthorized { what, host },
        OciDistributionError::RequestError(error) => match error.status().map(|status| status.as_u16()) {
            Some(404) => Error::NotFound { what },
            Some(401 | 403) => Error::Unauthorized { what, host },
            Some(_) => Error::Refused { what, reason: causes(error) },
            None => Error::Unreachable { host, reason: causes(error) },
        },
        other => Error::Refused { what, reason: causes(other) },
    }
}

/// An error with all its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
