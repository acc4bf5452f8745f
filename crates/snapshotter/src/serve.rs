//! The socket: gRPC is HTTP/2 on it, each connection served until its peer closes it.

use crate::Service;
use crate::api::services::snapshots::v1::snapshots_server::SnapshotsServer;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process listens on the socket.
    #[error("{}: another process listens there", .0.display())]
    Taken(PathBuf),
    /// A step failed.
    #[error("{step} {}: {source}", path.display())]
    Failed {
        /// What was being done.
        step: &'static str,
        /// With which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket, which only its owner may use; one that a killed process has left is replaced.
    ///
    /// # Errors
    /// [`ServeError`]
    pub fn bind(path: &Path) -> Result<Listener, ServeError> {
        let failed = |step| move |source| ServeError::Failed { step, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
        }
        match UnixStream::connect(path) {
            Ok(_) => return Err(ServeError::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed("remove the old socket"))?;
            }
            // Nothing is there; or it cannot be used, which the next step says.
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(failed("set the mode of"))?;
        Ok(Listener { listener, path: path.to_owned() })
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// [`ServeError::Failed`] if no connection can be taken any more.
    pub fn serve(self, service: Service) -> Result<(), ServeError> {
        let Listener { listener, path } = self;
        let failed = |step| {
            let path = path.clone();
            move |source| ServeError::Failed { step, path, source }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_io().build();
        let runtime = runtime.map_err(failed("start threads for"))?;
        runtime.block_on(async move {
            listener.set_nonblocking(true).map_err(failed("listen on"))?;
            let listener = tokio::net::UnixListener::from_std(listener).map_err(failed("listen on"))?;
            let service = SnapshotsServer::new(service);
            loop {
                let (stream, _) = listener.accept().await.map_err(failed("take a connection of"))?;
                let service = TowerToHyperService::new(service.clone());
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    // A peer that breaks off has its reasons, and the next one is served all the same.
                    let _broken_off = connection.await;
                });
            }
        })
    }
}
