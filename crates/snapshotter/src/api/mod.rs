//! Messages and the service of containerd (Apache-2.0, Copyright The containerd Authors), made of `proto/` by
//! tonic-prost-build; `proto/README.md` says how.

#![allow(missing_docs, clippy::all, rustdoc::all)]

/// `containerd.types`
pub mod types;

/// `containerd.services.snapshots.v1`
pub mod services {
    pub mod snapshots {
        pub mod v1 {
            include!("snapshots.rs");
        }
    }
}
