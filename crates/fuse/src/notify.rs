//! Telling the kernel that something it remembers has changed.

use crate::session::Shared;
use crate::wire::flags::{NOTIFY_INVAL_INODE, NOTIFY_RESEND};
use crate::wire::output;
use acetate_overlay::{Changed, NodeId};
use acetate_sys::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Length of an invalidation: the header and `struct fuse_notify_inval_inode_out`.
const LENGTH: usize = output::HEADER + 24;

/// A function that makes the kernel forget the attributes of a node (and its cached access control lists), and the
/// listing of a directory, but not the pages of a file. The caller of the operation that changed them sees the new ones once it has its answer.
pub(crate) fn notifier(shared: Arc<Shared>) -> impl Fn(NodeId, Changed) + Send + Sync + 'static {
    let complained = AtomicBool::new(false);
    move |node, what| {
        // The kernel may wait here for an inode on its way out, whose pages another request has to write first.
        if let Some(pool) = shared.pool.get() {
            pool.let_another_read();
        }
        match shared.device.write(&changed(node, what)) {
            // The kernel does not know the node (any more), or nobody listens.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => {}
            Err(errno) => {
                if !complained.swap(true, Ordering::Relaxed) {
                    eprintln!("acetate: the kernel keeps outdated attributes of node {}: {errno}", node.0);
                }
            }
        }
    }
}

/// `FUSE_NOTIFY_RESEND`: a header alone.
pub(crate) fn resend() -> [u8; output::HEADER] {
    let mut bytes = [0; output::HEADER];
    bytes[..4].copy_from_slice(&(output::HEADER as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    bytes
}

/// `FUSE_NOTIFY_INVAL_INODE`; with an offset below zero it is about attributes only, else about all pages from there on,
/// which are where the kernel keeps a listing.
pub(crate) fn changed(node: NodeId, what: Changed) -> [u8; LENGTH] {
    let offset: i64 = match what {
        Changed::Attributes => -1,
        Changed::Listing => 0,
    };
    let mut bytes = [0; LENGTH];
    let fields: [&[u8]; 6] = [
        &(LENGTH as u32).to_ne_bytes(),
        &NOTIFY_INVAL_INODE.to_ne_bytes(),
        &0u64.to_ne_bytes(),
        &node.0.to_ne_bytes(),
        &offset.to_ne_bytes(),
        &0i64.to_ne_bytes(),
    ];
    let mut at = 0;
    for field in fields {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    bytes
}
