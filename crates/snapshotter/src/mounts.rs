//! How containerd is to mount a snapshot.

use crate::api::types::Mount;
use acetate_store::snapshots::{Kind, Snapshot, SnapshotPlan};
use std::path::{Path, PathBuf};

/// Who mounts overlays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The kernel's overlayfs.
    Kernel,
    /// This program, through mount.fuse3 (containerd mounts types that begin with `fuse3.` by it).
    Fuse(PathBuf),
}

/// The labels by which containerd asks for other owners (capability `remap-ids`), and the options for it: those of
/// containerd's own mounter for the kernel's overlayfs, and ours.
const MAPPINGS: [(&str, &str, &str); 2] = [
    ("containerd.io/snapshot/uidmapping", "uidmap", "uidmapping"),
    ("containerd.io/snapshot/gidmapping", "gidmap", "gidmapping"),
];

/// The mount of a snapshot. A single directory is bound; several are laid over one another.
pub(crate) fn mounts(how: &How, snapshot: &Snapshot, plan: &SnapshotPlan) -> Vec<Mount> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let single = match (&plan.upper, plan.lowers.as_slice()) {
        (Some((upper, _)), []) => Some(upper),
        (None, [lower]) => Some(lower),
        _ => None,
    };
    let mount = match single {
        Some(dir) => {
            let access = if snapshot.kind == Kind::Active { "rw" } else { "ro" };
            Mount {
                r#type: "bind".into(),
                source: text(dir),
                target: String::new(),
                // containerd maps the bind itself, whoever mounts overlays.
                options: [mappings(&How::Kernel, snapshot), vec!["rbind".into(), access.into()]].concat(),
            }
        }
        None => Mount {
            r#type: match how {
                How::Kernel => "overlay".into(),
                How::Fuse(program) => format!("fuse3.{}", text(program)),
            },
            source: "overlay".into(),
            target: String::new(),
            options: options(how, snapshot, plan),
        },
    };
    vec![mount]
}

/// The options for other owners, if they are asked for.
fn mappings(how: &How, snapshot: &Snapshot) -> Vec<String> {
    let option = |(label, kernel, fuse): (&str, &'static str, &'static str)| {
        let name = if *how == How::Kernel { kernel } else { fuse };
        snapshot.labels.get(label).map(|map| format!("{name}={map}"))
    };
    MAPPINGS.into_iter().filter_map(option).collect()
}

fn options(how: &How, snapshot: &Snapshot, plan: &SnapshotPlan) -> Vec<String> {
    let mut options = mappings(how, snapshot);
    if *how != How::Kernel {
        // A container ends with its root tree; whoever runs it mounts anew.
        options.push("takeover=off".into());
    }
    if plan.userxattr {
        options.push("userxattr".into());
    }
    if let Some((upper, work)) = &plan.upper {
        options.push(format!("workdir={}", escaped(work)));
        options.push(format!("upperdir={}", escaped(upper)));
    }
    let lowers: Vec<String> = plan.lowers.iter().map(|path| escaped(path)).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    options
}

/// A path in an option: what splitting takes for more than a character is behind a backslash.
fn escaped(path: &Path) -> String {
    let special = |c| matches!(c, '\\' | ',' | ':');
    path.to_string_lossy().chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
