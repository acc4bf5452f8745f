//! The calls of containerd, one after the other: from messages to the store and back.

use crate::api::services::snapshots::v1 as api;
use crate::filter::Filter;
use crate::mounts::{How, mounts};
use acetate_store::Error;
use acetate_store::snapshots::{Kind, Labels, Snapshot, Snapshots};
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service. Copies of it are one.
#[derive(Clone, Debug)]
pub struct Service {
    snapshots: Arc<Snapshots>,
    how: How,
}

/// How many snapshots are sent in one message of a listing.
const BATCH: usize = 100;

impl Service {
    /// A service for the snapshots of a store.
    pub fn new(snapshots: Snapshots, how: How) -> Service {
        Service { snapshots: Arc::new(snapshots), how }
    }

    /// Does work that waits for the disk, where it keeps nobody else waiting.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshots, &How) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let service = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&service.snapshots, &service.how)).await;
        done.unwrap_or_else(|error| Err(Status::internal(format!("a call was not done: {error}"))))
    }

    async fn create(
        &self,
        key: String,
        parent: String,
        kind: Kind,
        labels: HashMap<String, String>,
    ) -> Result<Vec<crate::api::types::Mount>, Status> {
        self.work(move |snapshots, how| {
            let parent = Some(parent.as_str()).filter(|parent| !parent.is_empty());
            let snapshot = snapshots.create(&key, parent, kind, sorted(labels)).map_err(status)?;
            let plan = snapshots.plan(&key).map_err(status)?;
            Ok(mounts(how, &snapshot, &plan))
        })
        .await
    }
}

fn sorted(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

/// An error as containerd tells them apart.
fn status(error: Error) -> Status {
    let text = error.to_string();
    match error {
        Error::NoSnapshot(_) => Status::not_found(text),
        Error::SnapshotExists(_) => Status::already_exists(text),
        Error::SnapshotParent(_) => Status::invalid_argument(text),
        Error::SnapshotKind { .. } | Error::SnapshotInUse { .. } => Status::failed_precondition(text),
        Error::Busy { .. } => Status::unavailable(text),
        _ => Status::unknown(text),
    }
}

fn info(snapshot: Snapshot) -> Result<api::Info, Status> {
    let kind = match snapshot.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    Ok(api::Info {
        kind: kind.into(),
        parent: snapshot.parent.unwrap_or_default(),
        created_at: Some(time(&snapshot.created)?),
        updated_at: Some(time(&snapshot.updated)?),
        labels: snapshot.labels.into_iter().collect(),
        name: snapshot.key,
    })
}

fn time(text: &str) -> Result<prost_types::Timestamp, Status> {
    let time = chrono::DateTime::parse_from_rfc3339(text)
        .map_err(|error| Status::data_loss(format!("a record has the time {text:?}: {error}")))?;
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Ok(prost_types::Timestamp { seconds: time.timestamp(), nanos })
}

/// The labels that an update is about; `None` if it is about all.
fn changed_labels(paths: &[String]) -> Result<Option<Vec<String>>, Status> {
    if paths.is_empty() || paths.iter().any(|path| path == "labels") {
        return Ok(None);
    }
    let label = |path: &String| match path.strip_prefix("labels.") {
        Some(label) => Ok(label.to_owned()),
        None => Err(Status::invalid_argument(format!("{path:?} of a snapshot cannot be changed"))),
    };
    paths.iter().map(label).collect::<Result<_, _>>().map(Some)
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.create(key, parent, Kind::Active, labels).await?;
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.create(key, parent, Kind::View, labels).await?;
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let key = request.into_inner().key;
        self.work(move |snapshots, how| {
            let snapshot = snapshots.get(&key).map_err(status)?;
            let plan = snapshots.plan(&key).map_err(status)?;
            Ok(Response::new(api::MountsResponse { mounts: mounts(how, &snapshot, &plan) }))
        })
        .await
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        self.work(move |snapshots, _| snapshots.commit(&name, &key, sorted(labels)).map_err(status)).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.work(move |snapshots, _| snapshots.remove(&key).map_err(status)).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let snapshot = self.snapshots.get(&request.into_inner().key).map_err(status)?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(info(snapshot)?) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let api::UpdateSnapshotRequest { info: given, update_mask, .. } = request.into_inner();
        let given =
            given.ok_or_else(|| Status::invalid_argument("an update says of which snapshot it is"))?;
        let only = changed_labels(&update_mask.unwrap_or_default().paths)?;
        let labels = sorted(given.labels);
        let set = move |snapshots: &Snapshots, _: &How| {
            snapshots.set_labels(&given.name, &labels, only.as_deref()).map_err(status)
        };
        let snapshot = self.work(set).await?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(info(snapshot)?) }))
    }

    type ListStream = tokio_stream::Iter<std::vec::IntoIter<Result<api::ListSnapshotsResponse, Status>>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>();
        let filters = filters.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted =
            |snapshot: &Snapshot| filters.is_empty() || filters.iter().any(|one| one.matches(snapshot));
        let found =
            self.snapshots.all().into_iter().filter(wanted).map(info).collect::<Result<Vec<_>, _>>()?;
        let batches: Vec<_> = found
            .chunks(BATCH)
            .map(|batch| Ok(api::ListSnapshotsResponse { info: batch.to_vec() }))
            .collect();
        Ok(Response::new(tokio_stream::iter(batches)))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.work(move |snapshots, _| snapshots.usage(&key).map_err(status)).await?;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Response::new(api::UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) }))
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        self.work(|snapshots, _| snapshots.clean_up().map_err(status)).await?;
        Ok(Response::new(()))
    }
}
