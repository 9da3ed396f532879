//! Bringing the data of versions that came by name: what `Bucket::wanted` lists, a bounded number at a time, until nothing is missing.

use crate::gather;
use crate::hub::Hub;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt, iter};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tombolo_core::{Bucket, BucketId, ChunkId, Error, ErrorKind, Missing, Residence, Result, Stay, Wanted};

/// Versions looked at together.
const VERSIONS: usize = 256;
/// Buckets looked at together.
const BUCKETS: usize = 16;
/// After this many versions have come it is noted that they are here.
const ARRIVED: usize = 32;
/// Chunks of one version on their way at the same time.
const CHUNKS_PER_VERSION: usize = 128;
/// What is listed is looked at again after this, or when somebody connects.
const RETRY: Duration = Duration::from_secs(15);
/// How often a version is looked over.
const TRIES: usize = 3;
/// How many reasons are kept.
const FAILURES_MAX: usize = 1000;

/// Brings what is wanted, for ever.
pub(crate) async fn run(hub: Arc<Hub>) {
    loop {
        let woken = hub.wanted.notified();
        if let Err(error) = pass(&hub).await {
            tracing::warn!(%error, "data could not be brought");
        }
        // What could not be brought is tried again; what was copied here meanwhile is looked at.
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// One pass over all buckets: those that are to be here in full, and what is pinned of others.
async fn pass(hub: &Arc<Hub>) -> Result<()> {
    let buckets = hub.segment.catalog().all_buckets().await?;
    // A large one, or one that can't be read, must not hold up the others.
    let following = buckets.into_iter().map(|info| async move {
        let outcome = follow_bucket(hub, info.id).await;
        outcome.unwrap_or_else(|error| {
            tracing::warn!(bucket = %info.path, %error, "data of a bucket could not be brought");
            true
        })
    });
    let have_pins: Vec<bool> = iter(following).buffer_unordered(BUCKETS).collect().await;
    gather::take_back_of_deleted(hub).await?;
    hub.has_pins.store(have_pins.contains(&true), Ordering::Relaxed);
    Ok(())
}

/// Returns whether there are pins in it.
async fn follow_bucket(hub: &Arc<Hub>, id: BucketId) -> Result<bool> {
    let bucket = match hub.segment.catalog().bucket_with_id(&id).await {
        // It has gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    // The mode of a link may have changed.
    hub.keep_data(&bucket).await?;
    gather::follow(hub, &bucket, id).await?;
    bucket.list_pins().await?;
    let has_pins = !bucket.pins().await?.is_empty();
    // Whoever connects wakes this.
    if !hub.peers().is_empty() {
        bring_bucket(hub, id, &bucket).await?;
        let is_lacking = !bucket.wanted(None, 1).await?.is_empty();
        hub.lags.lacks_data(id, is_lacking, Instant::now());
        gather::promise(hub, &bucket, id).await?;
    }
    Ok(has_pins)
}

async fn bring_bucket(hub: &Arc<Hub>, id: BucketId, bucket: &Bucket) -> Result<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let wanted = bucket.wanted(after.clone(), VERSIONS).await?;
        let Some(last) = wanted.last() else { return Ok(()) };
        after = Some(last.key.clone());
        let is_end = wanted.len() < VERSIONS;
        let mut bringing = iter(wanted).map(|version| bring(hub, id, version)).buffer_unordered(VERSIONS);
        let mut arrived = Vec::new();
        while let Some((key, outcome)) = bringing.next().await {
            note(hub, &key, &outcome);
            if outcome.is_ok() {
                arrived.push(key);
            }
            if arrived.len() >= ARRIVED {
                bucket.data_arrived(&std::mem::take(&mut arrived)).await?;
            }
        }
        drop(bringing);
        if !arrived.is_empty() {
            bucket.data_arrived(&arrived).await?;
        }
        if is_end || hub.peers().is_empty() {
            return Ok(());
        }
    }
}

/// Notes for status how an attempt to bring a version ended.
pub(crate) fn note(hub: &Hub, key: &Bytes, outcome: &Result<()>) {
    let mut failures = hub.failures.lock();
    match outcome {
        Ok(()) => drop(failures.remove(key)),
        Err(error) => {
            if failures.len() >= FAILURES_MAX && !failures.contains_key(key) {
                // Of one that may have been deleted since, perhaps.
                let other = failures.keys().next().cloned();
                other.map(|other| failures.remove(&other));
            }
            failures.insert(key.clone(), error.to_string());
        }
    }
}

/// Brings one version that is wanted; gives its key, too.
pub(crate) async fn bring(hub: &Arc<Hub>, bucket: BucketId, version: Wanted) -> (Bytes, Result<()>) {
    let outcome = bring_version(hub, bucket, &version).await;
    (version.key, outcome)
}

/// What was here when it was looked for may be evicted before it is adopted; then it is brought again.
async fn bring_version(hub: &Arc<Hub>, bucket: BucketId, version: &Wanted) -> Result<()> {
    let residence = match version.stay {
        Stay::ForGood => Residence::Kept,
        Stay::AsLongAsPinned => Residence::Pinned,
    };
    // What comes before everything that refers to it is here must not be collected.
    let import = hub.segment.chunk_import_as(residence);
    let mut missing = None;
    for _ in 0..TRIES {
        bring_missing(hub, bucket, version, residence).await?;
        missing = import.adopt(&version.manifest).await?;
        if missing.is_none() {
            return Ok(());
        }
    }
    let id = missing.map(|id| id.to_string()).unwrap_or_default();
    Err(Error::damaged(format!("chunk {id} was brought and is not here")))
}

/// Nodes first, level by level, then the chunks in order, many at a time.
async fn bring_missing(hub: &Arc<Hub>, bucket: BucketId, version: &Wanted, residence: Residence) -> Result<()> {
    loop {
        let nodes = hub.segment.missing_nodes(&version.manifest, CHUNKS_PER_VERSION).await?;
        if nodes.is_empty() {
            break;
        }
        bring_all(hub, bucket, nodes, residence).await?;
    }
    let mut bringing = FuturesUnordered::new();
    let mut from = 0;
    while from < version.size {
        let Missing { chunks, until } =
            hub.segment.missing(&version.manifest, from..version.size, CHUNKS_PER_VERSION).await?;
        if until <= from && chunks.is_empty() {
            break;
        }
        from = until.max(from);
        for id in chunks {
            bringing.push(hub.bulk.bring(hub, bucket, id, residence));
        }
        while bringing.len() >= CHUNKS_PER_VERSION
            && let Some(outcome) = bringing.next().await
        {
            outcome?;
        }
    }
    while let Some(outcome) = bringing.next().await {
        outcome?;
    }
    Ok(())
}

async fn bring_all(hub: &Arc<Hub>, bucket: BucketId, ids: Vec<ChunkId>, residence: Residence) -> Result<()> {
    let mut bringing: FuturesUnordered<_> =
        ids.into_iter().map(|id| hub.bulk.bring(hub, bucket, id, residence)).collect();
    while let Some(outcome) = bringing.next().await {
        outcome?;
    }
    Ok(())
}
