//! Carries out an [`Operation`] on an open segment, in this process: for a command that opened the directory itself and for
//! the daemon on behalf of commands. Content passes through bounded channels; dropping the [`Exchange`] cancels the work.

mod catalog;
mod link;
mod objects;
mod sync;

use crate::hosted::{Hosted, no_daemon};
use crate::wire::{Frame, Operation, Refusal, ScrubRecord, SnapshotRecord, StatusRecord, encode};
use bytes::Bytes;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Segment};

/// Frames in flight each way; a frame of content has at most 1 MiB.
const FRAMES_IN_FLIGHT: usize = 2;

/// An operation under way: frames in, frames out.
pub(crate) struct Exchange {
    input: mpsc::Sender<Frame>,
    output: mpsc::Receiver<Frame>,
    task: AbortHandle,
}

impl Exchange {
    /// Starts `operation` on `segment`. `hosted`: what the daemon has beside it, if this is one.
    pub(crate) fn start(segment: &Segment, hosted: Option<Hosted>, operation: Operation) -> Exchange {
        let (input, mut taken) = mpsc::channel(FRAMES_IN_FLIGHT);
        let (given, output) = mpsc::channel(FRAMES_IN_FLIGHT);
        let segment = segment.clone();
        let task = tokio::spawn(async move {
            let last = match execute(&segment, hosted, operation, &mut taken, &given).await {
                Ok(reply) => Frame::Done(reply),
                Err(error) => refusal(&error),
            };
            // The segment is let go before the answer is seen: who closes the directory next finds it free.
            drop(segment);
            // A receiver that is gone has lost interest in the answer.
            let _ = given.send(last).await;
        });
        Exchange { input, output, task: task.abort_handle() }
    }

    /// Hands in a frame, waiting while the operation is busy; `false` when it takes no more.
    pub(crate) async fn send(&self, frame: Frame) -> bool {
        self.input.send(frame).await.is_ok()
    }

    /// The next frame that comes out; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        self.output.recv().await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `error` as the last frame of an operation.
pub(crate) fn refusal(error: &Error) -> Frame {
    match encode(&Refusal::from(error)) {
        Ok(json) => Frame::Failed(json),
        Err(_) => Frame::Failed(Bytes::from_static(br#"{"kind":"failed","about":"other","message":"failed"}"#)),
    }
}

async fn execute(
    segment: &Segment,
    hosted: Option<Hosted>,
    operation: Operation,
    input: &mut mpsc::Receiver<Frame>,
    output: &mpsc::Sender<Frame>,
) -> Result<Bytes> {
    match operation {
        Operation::Status => encode(&StatusRecord::new(segment.status().await?, segment.dir())),
        Operation::Scrub { bytes_per_second } => {
            let progress = output.clone();
            let report = segment
                .scrub(bytes_per_second, move |done, total| {
                    // When the channel is full a later report takes this one's place.
                    let _ = progress.try_send(Frame::Progress(done, total));
                })
                .await?;
            encode(&ScrubRecord::from(report))
        }
        Operation::Gc { bytes_per_second } => {
            encode(&crate::wire::GcRecord::from(segment.gc_slowly(bytes_per_second).await?))
        }
        Operation::Mount { path, point, options } => {
            let hosted = hosted.ok_or_else(|| no_daemon("mounts"))?;
            hosted.mounts.add(segment, &path, Path::new(OsStr::from_bytes(&point.0)), &options).await?;
            encode(&())
        }
        Operation::CreateSnapshot { bucket, name } => {
            let snapshot = open(segment, &bucket).await?.create_snapshot(&name).await?;
            encode(&SnapshotRecord::from(snapshot))
        }
        Operation::DeleteSnapshot { bucket, name } => {
            encode(&open(segment, &bucket).await?.delete_snapshot(&name).await?)
        }
        Operation::Snapshots { bucket } => {
            let snapshots = open(segment, &bucket).await?.snapshots().await?;
            encode(&snapshots.into_iter().map(SnapshotRecord::from).collect::<Vec<_>>())
        }
        Operation::Clone { bucket, prefix, target, snapshot } => {
            let target: BucketPath = target.parse()?;
            let bucket = open(segment, &bucket).await?;
            encode(&bucket.clone_to(&target, &prefix.0, snapshot.as_deref()).await?)
        }
        Operation::CreateCluster { .. }
        | Operation::DeleteCluster { .. }
        | Operation::Clusters
        | Operation::CreateTenant { .. }
        | Operation::DeleteTenant { .. }
        | Operation::Tenants { .. }
        | Operation::CreateBucket { .. }
        | Operation::DeleteBucket { .. }
        | Operation::Buckets { .. }
        | Operation::Bucket { .. }
        | Operation::SetBucket { .. }
        | Operation::CreateUser { .. }
        | Operation::DeleteUser { .. }
        | Operation::Users { .. } => catalog::execute(segment, operation).await,
        Operation::Conflicts { .. } | Operation::Resolve { .. } | Operation::Token { .. } | Operation::Await { .. } => {
            sync::execute(segment, hosted, operation, output).await
        }
        Operation::Links(operation) => link::execute(segment, hosted, operation, output).await,
        Operation::Put(request) => objects::put(segment, *request, input).await,
        Operation::Get { at, unless_linked } => objects::get(segment, at, unless_linked, output).await,
        operation @ Operation::Keep { .. } => {
            let done = objects::execute(segment, operation).await?;
            if let Some(hosted) = hosted {
                hosted.links.look_for_data();
            }
            Ok(done)
        }
        other => objects::execute(segment, other).await,
    }
}

async fn open(segment: &Segment, bucket: &str) -> Result<tombolo_core::Bucket> {
    segment.bucket(&bucket.parse()?).await
}

fn out_of_place(operation: &Operation) -> Error {
    Error::new(ErrorKind::Failed, format!("{operation:?} was handed to the wrong place"))
}
