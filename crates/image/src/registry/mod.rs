//! Images in registries.
//!
//! The protocol is `oci-client`'s. It is asynchronous; a runtime of this module's own keeps that inside: all methods
//! here block, and may be called from several threads at once.

mod auth;
mod blob;
mod certificates;
mod error;

pub use blob::Blob;
pub use error::Error;
pub use oci_client::Reference;

use crate::digest::Digest;
use error::Context;
use futures_util::future::{Either, select};
use futures_util::stream;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use std::io::Read;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How a registry is reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Without TLS. Registries on this machine (`localhost`, `127.0.0.1`, `[::1]`) are asked so if they have none.
    pub plain_http: bool,
    /// Certificates are not checked.
    pub any_certificate: bool,
    /// A file with certificates of authorities that are trusted besides the system's.
    pub authorities: Option<PathBuf>,
    /// The only file in which credentials are looked for, instead of those of podman and docker.
    pub authfile: Option<PathBuf>,
    /// User name and password, instead of those in files.
    pub credentials: Option<(String, String)>,
}

/// How long to wait for a registry to answer, and for more data of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How much is read ahead of a push at a time.
const PUSH_CHUNK_BYTES: usize = 1 << 20;
/// How often it is told how much of a push has gone.
const TICK: Duration = Duration::from_millis(100);
/// What a manifest may be (image-spec, "Media Types"; Docker's image manifest V2.2).
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A repository of a registry.
pub struct Registry {
    runtime: Arc<Runtime>,
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// Prepares to talk to the registry of a reference; only one on this machine is asked whether it has TLS.
    ///
    /// # Errors
    /// [`Error::Credentials`], [`Error::Certificate`] if they are there but cannot be used.
    pub fn new(reference: &Reference, options: &Options) -> Result<Registry, Error> {
        let auth = auth::find(reference, options)?;
        let host = reference.resolve_registry().to_owned();
        let authorities = certificates::find(&host, options.authorities.as_deref())?;
        let client = |protocol| {
            let config = ClientConfig {
                protocol,
                accept_invalid_certificates: options.any_certificate,
                extra_root_certificates: authorities.clone(),
                use_monolithic_push: true,
                connect_timeout: Some(CONNECT_TIMEOUT),
                read_timeout: Some(READ_TIMEOUT),
                user_agent: concat!("acetate/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            };
            Client::try_from(config).context(reference)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = Arc::new(runtime.map_err(|error| Error::Io { what: host.clone(), error })?);
        // Whoever is asked whether it has TLS is asked by a client of its own, which asks as nobody and remembers that.
        let plain = options.plain_http
            || is_local(&host) && !has_tls(&runtime, &client(ClientProtocol::Https)?, reference);
        let client = client(if plain { ClientProtocol::Http } else { ClientProtocol::Https })?;
        runtime.block_on(client.store_auth_if_needed(reference.resolve_registry(), &auth));
        Ok(Registry { runtime, client, reference: reference.clone(), auth })
    }

    /// The reference that it was made for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A manifest or index of the repository, byte by byte: that of the reference, or the one with a digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Unreachable`], …; [`Error::Mismatch`] if it is not what
    /// its digest says.
    pub fn manifest(&self, digest: Option<&str>) -> Result<Vec<u8>, Error> {
        let reference = match digest {
            Some(digest) => self.reference.clone_with_digest(digest.to_owned()),
            None => self.reference.clone(),
        };
        let pulled = self.runtime.block_on(self.client.pull_manifest_raw(&reference, &self.auth, &MANIFESTS));
        let (bytes, _) = pulled.context(&reference)?;
        if let Some(expected) = reference.digest() {
            let found = Digest::of(&bytes).to_string();
            if found != expected {
                return Err(Error::Mismatch {
                    what: reference.whole(),
                    found,
                    expected: expected.to_owned(),
                });
            }
        }
        Ok(bytes.to_vec())
    }

    /// Reads a blob from an offset on. Connections that break are made again where they broke.
    ///
    /// # Errors
    /// As [`Registry::manifest`]. Whether the content is what its digest says is for the reader to check.
    pub fn blob(&self, digest: &str, from: u64) -> Result<Blob, Error> {
        Blob::open(self.runtime.clone(), self.client.clone(), self.reference.clone(), digest, from)
    }

    /// Reads a small blob, and checks its digest.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn document(&self, digest: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let what = || format!("{}@{digest}", self.reference.repository());
        let read = self.blob(digest, 0)?.take(limit).read_to_end(&mut bytes);
        read.map_err(|error| Error::Io { what: what(), error })?;
        let found = Digest::of(&bytes).to_string();
        if found == digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch { what: what(), found, expected: digest.to_owned() })
    }

    /// Asks for the right to push, which registries give separately.
    ///
    /// # Errors
    /// [`Error::Unauthorized`]
    pub fn begin_push(&self) -> Result<(), Error> {
        let auth = self.client.auth(&self.reference, &self.auth, RegistryOperation::Push);
        self.runtime.block_on(auth).map(drop).context(&self.reference)
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        self.runtime.block_on(self.client.blob_exists(&self.reference, digest)).context(&self.reference)
    }

    /// Lets the repository have a blob of another one of the same registry, so that it need not be sent. `false` if
    /// the registry does not know it, or does not do such things.
    pub fn mount_blob(&self, source: &Reference, digest: &str) -> bool {
        // Whatever the reason of a refusal is, sending the blob is what remains; that says what is wrong.
        self.runtime.block_on(self.client.mount_blob(&self.reference, source, digest)).is_ok()
    }

    /// Sends a blob, and tells `sent` how many more bytes of it have gone, again and again.
    ///
    /// # Errors
    /// As [`Registry::manifest`]; [`Error::Io`] if it cannot be read.
    pub fn push_blob(
        &self,
        digest: &str,
        size: u64,
        data: impl Read + Send + 'static,
        sent: &dyn Fn(u64),
    ) -> Result<(), Error> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let chunks = stream::unfold((data, counted), |(mut data, counted)| async move {
            let mut chunk = Vec::with_capacity(PUSH_CHUNK_BYTES);
            match Read::by_ref(&mut data).take(PUSH_CHUNK_BYTES as u64).read_to_end(&mut chunk) {
                Ok(0) => None,
                Ok(read) => {
                    counted.fetch_add(read as u64, Ordering::Relaxed);
                    Some((Ok(chunk.into()), (data, counted)))
                }
                Err(error) => Some((Err(error.into()), (data, counted))),
            }
        });
        let pushed = self.client.push_blob_stream(&self.reference, chunks, digest, Some(size));
        let result = self.runtime.block_on(async {
            let mut pushed = pin!(pushed);
            loop {
                let tick = pin!(tokio::time::sleep(TICK));
                match select(pushed.as_mut(), tick).await {
                    Either::Left((result, _)) => return result,
                    Either::Right(_) => sent(count.swap(0, Ordering::Relaxed)),
                }
            }
        });
        sent(count.swap(0, Ordering::Relaxed));
        result.map(drop).context(&self.reference)
    }

    /// Sends the manifest of the reference.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub fn push_manifest(&self, media_type: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let refused = |_| Error::Refused { what: self.reference.whole(), reason: "bad media type".into() };
        let media_type = media_type.parse().map_err(refused)?;
        let pushed = self.client.push_manifest_raw(&self.reference, bytes, media_type);
        self.runtime.block_on(pushed).map(drop).context(&self.reference)
    }
}

/// Whether a registry answers by TLS, whatever it says.
fn has_tls(runtime: &Runtime, client: &Client, reference: &Reference) -> bool {
    let asked = client.auth(reference, &RegistryAuth::Anonymous, RegistryOperation::Pull);
    match runtime.block_on(asked).context(reference) {
        Err(Error::Unreachable { reason, .. }) => !error::speaks_http(&reason),
        _ => true,
    }
}

/// Whether a registry runs on this machine: then nobody listens in between.
fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn local_registries() {
        for local in ["localhost", "localhost:5000", "127.0.0.1:5555", "127.1.2.3", "[::1]:5000"] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["docker.io", "localhost.example.org", "10.0.0.1:5000", "[fe80::1]:5000"] {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
