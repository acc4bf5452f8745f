//! `acetate image pull`.

use super::import::print;
use crate::Exit;
use crate::error::Failure;
use crate::out::exact;
use crate::progress::Bars;
use acetate_image::registry::{Options, Reference, Registry};
use acetate_image::source::Platform;
use acetate_store::Store;
use std::path::PathBuf;

/// Get images from a registry
///
/// Layers that are here already are not asked for, and an interrupted pull goes on where it stopped. Credentials are
/// those of `podman login` and `docker login`.
///
/// Exit status: 0 done, 2 failed.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// As in debian:12, quay.io/name/image:tag, or with @sha256:... behind the name
    #[arg(required = true, value_name = "REFERENCE")]
    images: Vec<String>,
    /// For images of several platforms: which one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Print one JSON document (schema acetate-import-v1, docs/cli.md)
    #[arg(long)]
    json: bool,
}

/// How registries are reached.
#[derive(Debug, clap::Args)]
pub(super) struct RegistryArgs {
    /// The registry has no TLS; registries on this machine need no such flag
    #[arg(long)]
    plain_http: bool,
    /// Do not check the registry's certificate
    #[arg(long)]
    any_certificate: bool,
    /// A file with certificates (PEM) of authorities to trust besides the system's and those in certs.d
    #[arg(long, value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// The file with credentials [default: those of podman and docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl RegistryArgs {
    /// The registry of a reference.
    pub(super) fn open(&self, text: &str) -> Result<Registry, Failure> {
        let reference: Reference = text.parse().map_err(|error| {
            Failure::new(
                format_args!("\"{}\": {error}", exact(text)),
                "write it like name:tag or host/path/name:tag, in lower case",
            )
            .usage()
        })?;
        let options = Options {
            plain_http: self.plain_http,
            any_certificate: self.any_certificate,
            authorities: self.authorities.clone(),
            authfile: self.authfile.clone(),
            credentials: None,
        };
        Registry::new(&reference, &options).map_err(|error| acetate_store::Error::from(error).into())
    }
}

pub(super) fn run(store: &Store, args: &PullArgs) -> Result<Exit, Failure> {
    let platform = args.platform.clone().unwrap_or_else(Platform::here);
    let mut pulled = Vec::new();
    for text in &args.images {
        let registry = args.registry.open(text)?;
        pulled.push(store.pull(&registry, &platform, &Bars::new())?);
    }
    print(&pulled, args.json)
}
