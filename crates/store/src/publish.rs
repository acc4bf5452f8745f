//! Unpacked layers get their names once they are on disk.
//!
//! A sync takes as long as a disk needs, and as long for one layer as for all that were unpacked meanwhile. So one thread
//! syncs and publishes behind those that unpack, as databases group their commits.

use crate::error::{Error, Result, Step};
use crate::layers::Layer;
use crate::root::{Staging, Store};
use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A layer that is unpacked, with its record, but not yet on disk.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) staging: Staging,
    pub(crate) layer: Layer,
}

/// Takes unpacked layers to be published.
pub(crate) struct Publisher(Sender<Unpacked>);

impl Publisher {
    /// Hands over a layer.
    ///
    /// # Errors
    /// After publishing has failed, whose error [`Store::publish_behind`] returns rather than this one.
    pub(crate) fn send(&self, unpacked: Unpacked) -> Result<()> {
        self.0.send(unpacked).map_err(|unsent| {
            let path = unsent.0.staging.path().to_owned();
            Error::Path { step: "publish", path, source: io::ErrorKind::BrokenPipe.into() }
        })
    }
}

impl Store {
    /// Syncs layers, then publishes them. One that is there already stays as it is.
    pub(crate) fn publish_layers(&self, unpacked: Vec<Unpacked>) -> Result<()> {
        let Some(first) = unpacked.first() else { return Ok(()) };
        let path = first.staging.path();
        // All of it at once: a sync for each of thousands of files would take minutes.
        let root = File::open(path).step("open", path)?;
        rustix::fs::syncfs(&root).step("sync", path)?;
        for Unpacked { staging, layer } in unpacked {
            staging.publish(&self.layer_dir(&layer.diff_id))?;
        }
        Ok(())
    }

    /// Does work that hands over what it unpacks, and publishes that meanwhile. What came before an error is published
    /// too: whoever tries again need not unpack it again.
    pub(crate) fn publish_behind<T>(&self, work: impl FnOnce(&Publisher) -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let publisher = scope.spawn(move || self.publish_all(&receiver));
            let worked = work(&Publisher(sender));
            match publisher.join() {
                Ok(published) => published.and(worked),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn publish_all(&self, receiver: &Receiver<Unpacked>) -> Result<()> {
        while let Ok(first) = receiver.recv() {
            let meanwhile = receiver.try_iter();
            self.publish_layers(std::iter::once(first).chain(meanwhile).collect())?;
        }
        Ok(())
    }
}
