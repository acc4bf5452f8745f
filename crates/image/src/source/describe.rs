//! What an image is made of.

use crate::digest::Digest;
use crate::error::{Error, Result};
use oci_spec::image::{
    Arch, Config, ConfigBuilder, History, ImageConfiguration, ImageConfigurationBuilder, Os, RootFsBuilder,
};
use std::fmt::{self, Display};
use std::str::FromStr;

/// An image that can be imported.
#[derive(Clone, Debug)]
pub struct Description {
    /// What it is called, where the source says so.
    pub names: Vec<String>,
    /// Its configuration, byte by byte: its digest is the image's id.
    pub config: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Part>,
}

/// A layer as it is stored somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name there.
    pub location: String,
    /// The digest of the stored bytes, where it is known.
    pub digest: Option<Digest>,
    /// How many bytes are stored, where that is known.
    pub size: Option<u64>,
}

/// The digests of an image's layers as archives that are not compressed, the lowest first.
///
/// # Errors
/// [`Error::Document`].
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>> {
    let bad = |reason: String| Error::Document { what: "image configuration".into(), reason };
    let config: ImageConfiguration =
        serde_json::from_slice(config).map_err(|error| bad(error.to_string()))?;
    config.rootfs().diff_ids().iter().map(|id| id.parse().map_err(Error::from)).collect()
}

/// The configuration of an image that consists of one layer, made of a tree.
///
/// # Errors
/// [`Error::Document`].
pub fn default_config(layer: &Digest, created: &str, comment: &str, command: &[String]) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::Document { what: "image configuration".into(), reason };
    let platform = Platform::here();
    let config: Config = ConfigBuilder::default()
        .env(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
        .cmd(if command.is_empty() { vec!["/bin/sh".to_owned()] } else { command.to_vec() })
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let mut history = History::default();
    history.set_created(Some(created.to_owned()));
    history.set_created_by(Some(comment.to_owned()));
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![layer.to_string()]).build();
    let configuration = ImageConfigurationBuilder::default()
        .created(created)
        .architecture(Arch::from(platform.architecture.as_str()))
        .os(Os::from(platform.os.as_str()))
        .config(config)
        .rootfs(rootfs.map_err(|error| bad(error.to_string()))?)
        .history(vec![history])
        .build()
        .map_err(|error| bad(error.to_string()))?;
    serde_json::to_vec(&configuration).map_err(|error| bad(error.to_string()))
}

/// What an image is for: `os/architecture[/variant]`, in Go's words (image-spec, "Image Index").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As in `linux`.
    pub os: String,
    /// As in `amd64`.
    pub architecture: String,
    /// As in `v8`, where it matters.
    pub variant: Option<String>,
}

impl Platform {
    /// What this program was built for.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether an image for `other` can be taken.
    pub fn takes(&self, other: &Platform) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Platform, String> {
        let mut parts = text.split('/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None) if !os.is_empty() && !architecture.is_empty() => {
                Ok(Platform { os, architecture, variant })
            }
            _ => Err(format!("{text:?} is no platform; write one like linux/amd64")),
        }
    }
}
