//! What can be asked about linked buckets without a link: conflicts and how they are decided, and what a reader is to see.

use super::{open, out_of_place};
use crate::hosted::Hosted;
use crate::wire::{ConflictRecord, Frame, Operation, encode};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tombolo_core::{Error, ErrorKind, Result, Segment, Token};
use tombolo_link::Scope;

/// Conflicts that are read together.
const PAGE: usize = 256;

pub(super) async fn execute(
    segment: &Segment,
    hosted: Option<Hosted>,
    operation: Operation,
    output: &mpsc::Sender<Frame>,
) -> Result<Bytes> {
    match operation {
        Operation::Conflicts { scope, below } => encode(&conflicts(segment, &scope, &below.0, output).await?),
        Operation::Resolve { bucket, key, take } => {
            encode(&open(segment, &bucket).await?.resolve(&key.0, take.into()).await?)
        }
        Operation::Token { bucket } => encode(&open(segment, &bucket).await?.token().await?.to_string()),
        Operation::Await { bucket, token, timeout_ms } => {
            let token: Token = token.parse()?;
            let stopped = async {
                match hosted {
                    // The daemon's end is told by an error, too, when it has gone.
                    Some(mut hosted) => drop(hosted.stopped.wait_for(|stopped| *stopped).await),
                    None => std::future::pending().await,
                }
            };
            let found = tokio::select! {
                found = segment.wait_for(&token, Duration::from_millis(timeout_ms)) => found?,
                () = stopped => return Err(Error::new(ErrorKind::Offline, "the daemon stops; what the token stands for is not here")),
            };
            if found.path().to_string() != bucket {
                return Err(Error::invalid(format!("the token is of the bucket {}, not of {bucket}", found.path())));
            }
            encode(&())
        }
        other => Err(out_of_place(&other)),
    }
}

/// Gives a record for each conflict of the buckets in `scope` whose key or copy begins with `below`.
async fn conflicts(segment: &Segment, scope: &Scope, below: &[u8], output: &mpsc::Sender<Frame>) -> Result<()> {
    for info in segment.catalog().all_buckets().await?.iter().filter(|info| scope.covers(&info.path)) {
        let bucket = match segment.catalog().bucket_with_id(&info.id).await {
            // It has gone meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found?,
        };
        let mut after = None;
        loop {
            let page = bucket.conflicts(after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|last| last.position.clone());
            for conflict in page {
                let record = ConflictRecord::new(&info.path, conflict);
                if !record.key.0.starts_with(below) && !record.place().0.starts_with(below) {
                    continue;
                }
                // Who asked may have gone.
                if output.send(Frame::Record(encode(&record)?)).await.is_err() {
                    return Ok(());
                }
            }
            if is_last {
                break;
            }
        }
    }
    Ok(())
}
