//! What a daemon is at and what it has counted, for `acetate mounts`: it listens on a socket beside its record, and writes one JSON
//! document to whoever connects. Only root and the user of the daemon can.

use super::statistics::Statistics;
use crate::out::exact;
use acetate_fuse::Flights;
use acetate_layer::UpperLayer;
use acetate_overlay::Overlay;
use rustix::net::Shutdown;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for a daemon to say something: one that is stopped does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait where nobody can be answered.
const PAUSE: Duration = Duration::from_millis(100);

/// What a daemon says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) requests: Vec<InFlight>,
    pub(crate) statistics: Statistics,
}

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InFlight {
    /// The FUSE operation (`Read`).
    pub(crate) operation: String,
    /// A path of the object from the root of the mount, escaped as all paths are; `null` if it cannot be told.
    pub(crate) path: Option<String>,
    /// `upper` or `lower N`, 1 topmost; `null` if it cannot be told.
    pub(crate) layer: Option<String>,
    /// For how long, in seconds, rounded down.
    pub(crate) seconds: u64,
}

/// A socket that is listened on; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, in place of one that a killed daemon has left.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn new(path: PathBuf) -> io::Result<Socket> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = super::listen(&path)?;
        Ok(Socket { listener, path })
    }

    /// Answers until [`close`](Self::close).
    pub(super) fn serve<L: UpperLayer>(
        &self,
        overlay: &Overlay<L>,
        flights: &Flights,
        statistics: impl Fn() -> Statistics,
    ) {
        for stream in self.listener.incoming() {
            let mut stream = match stream {
                Ok(stream) => stream,
                // It has been closed.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                // There may be too many open files for now.
                Err(_) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let requests = flights.list().into_iter().map(|flight| {
                let place = overlay.whereabouts(flight.node);
                InFlight {
                    operation: flight.operation,
                    path: place.path.map(|path| exact(OsStr::from_bytes(&path))),
                    layer: place.layer.map(|layer| layer.to_string()),
                    seconds: flight.seconds,
                }
            });
            let status = Status { requests: requests.collect(), statistics: statistics() };
            // Whoever asked may have gone away, or may not read.
            let _nobody_reads = stream
                .set_write_timeout(Some(PATIENCE))
                .and_then(|()| stream.write_all(&serde_json::to_vec(&status)?));
        }
    }

    /// Ends [`serve`](Self::serve).
    pub(super) fn close(&self) {
        // Fails for a socket that is closed already.
        let _closed = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next one takes its place.
        let _stale_at_worst = std::fs::remove_file(&self.path);
    }
}

/// Asks a daemon; `None` if it does not answer, or not us.
pub(crate) fn ask(path: &Path) -> Option<Status> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
