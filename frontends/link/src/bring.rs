//! Bringing the data of versions that came by name: what `Bucket::wanted` lists, a bounded number at a time, until nothing is missing.

use crate::gather;
use crate::hub::Hub;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt, iter};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_core::{Bucket, BucketId, ChunkId, Error, ErrorKind, Missing, Residence, Result, Stay, Wanted};

/// Versions looked at together.
const VERSIONS: usize = 256;
/// Buckets that have their turn at the same time.
const BUCKETS: usize = 16;
/// After this many versions have come it is noted that they are here.
const ARRIVED: usize = 32;
/// Chunks of one version on their way at the same time.
const CHUNKS_PER_VERSION: usize = 128;
/// What is listed is looked at again after this, or when somebody connects.
const RETRY: Duration = Duration::from_secs(15);
/// Buckets are looked over at most this often, however often something is new.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How often a version is looked over.
const TRIES: usize = 3;
/// How many reasons are kept.
const FAILURES_MAX: usize = 1000;

/// Brings what is wanted, for ever. Buckets take turns, a page of versions each, so that one with much to come, or one that can't be read, does not hold up the others.
pub(crate) async fn run(hub: Arc<Hub>) {
    let (mut turns, mut following) = (Turns::default(), JoinSet::new());
    let mut look_at = Instant::now();
    let mut looked_at = None;
    loop {
        if look_at <= Instant::now() {
            looked_at = Some(Instant::now());
            // What could not be brought is tried again; what was copied here meanwhile is looked at.
            look_at = Instant::now() + RETRY;
            match hub.segment.catalog().all_buckets().await {
                Ok(buckets) => {
                    turns.look_at(buckets.into_iter().map(|info| info.id).collect());
                    if let Err(error) = gather::take_back_of_deleted(&hub).await {
                        tracing::warn!(%error, "promises about deleted buckets could not be taken back");
                    }
                }
                Err(error) => tracing::warn!(%error, "data could not be brought"),
            }
        }
        while following.len() < BUCKETS
            && let Some((id, after)) = turns.next()
        {
            let hub = hub.clone();
            following.spawn(async move {
                let outcome = follow_bucket(&hub, id, after).await;
                let followed = outcome.unwrap_or_else(|error| {
                    tracing::warn!(bucket = %id, %error, "data of a bucket could not be brought");
                    Followed { has_pins: true, next: None }
                });
                (id, followed)
            });
        }
        tokio::select! {
            Some(done) = following.join_next() => match done {
                Ok((id, followed)) => {
                    turns.ended(id, followed);
                    hub.has_pins.store(turns.have_pins.values().any(|has| *has), Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::error!(%error, "bringing data broke off");
                    return;
                }
            },
            () = hub.wanted.notified() => {
                let soon = looked_at.map_or_else(Instant::now, |looked| looked + LOOK_PAUSE);
                look_at = look_at.min(soon);
            }
            () = tokio::time::sleep_until(look_at) => {}
        }
    }
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    /// Buckets that wait for their turn, and after which version that begins.
    queue: VecDeque<(BucketId, Option<Bytes>)>,
    /// Buckets that wait or have their turn; whether they are to be looked at from the beginning when that has come to its end.
    open: HashMap<BucketId, bool>,
    have_pins: HashMap<BucketId, bool>,
}

impl Turns {
    /// All buckets there are are to be looked at, from the beginning.
    fn look_at(&mut self, buckets: HashSet<BucketId>) {
        self.have_pins.retain(|id, _| buckets.contains(id));
        for id in buckets {
            match self.open.get_mut(&id) {
                Some(again) => *again = true,
                None => {
                    self.open.insert(id, false);
                    self.queue.push_back((id, None));
                }
            }
        }
    }

    fn next(&mut self) -> Option<(BucketId, Option<Bytes>)> {
        self.queue.pop_front()
    }

    fn ended(&mut self, id: BucketId, followed: Followed) {
        self.have_pins.insert(id, followed.has_pins);
        if followed.next.is_some() {
            self.queue.push_back((id, followed.next));
        } else if self.open.get(&id) == Some(&true) {
            self.open.insert(id, false);
            self.queue.push_back((id, None));
        } else {
            self.open.remove(&id);
        }
    }
}

/// What came of a turn.
struct Followed {
    /// Whether there are pins in the bucket.
    has_pins: bool,
    /// After which version the next turn begins; `None`: it was looked at to its end.
    next: Option<Bytes>,
}

/// One turn of a bucket: all that is to be here, or what is pinned of it, after a version.
async fn follow_bucket(hub: &Arc<Hub>, id: BucketId, after: Option<Bytes>) -> Result<Followed> {
    let bucket = match hub.segment.catalog().bucket_with_id(&id).await {
        // It has gone meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Followed { has_pins: false, next: None }),
        found => found?,
    };
    if after.is_none() {
        // The mode of a link may have changed.
        hub.keep_data(&bucket).await?;
        gather::follow(hub, &bucket, id).await?;
        bucket.list_pins().await?;
    }
    let has_pins = !bucket.pins().await?.is_empty();
    let mut next = None;
    // Whoever connects wakes this.
    if !hub.peers().is_empty() {
        next = bring_bucket(hub, id, &bucket, after).await?;
        let is_lacking = next.is_some() || !bucket.wanted(None, 1).await?.is_empty();
        hub.lags.lacks_data(id, is_lacking, Instant::now());
        gather::promise(hub, &bucket, id).await?;
    }
    Ok(Followed { has_pins, next })
}

/// Brings a page of what is wanted; gives the version after which more follows.
async fn bring_bucket(hub: &Arc<Hub>, id: BucketId, bucket: &Bucket, after: Option<Bytes>) -> Result<Option<Bytes>> {
    let wanted = bucket.wanted(after, VERSIONS).await?;
    let next = wanted.last().filter(|_| wanted.len() == VERSIONS).map(|last| last.key.clone());
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
    Ok(next.filter(|_| !hub.peers().is_empty()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn more(after: &'static [u8]) -> Followed {
        Followed { has_pins: false, next: Some(Bytes::from_static(after)) }
    }

    fn end() -> Followed {
        Followed { has_pins: false, next: None }
    }

    /// One pass went over all buckets, and the next began when that had ended: for as long as a large bucket came nothing else did.
    #[test]
    fn a_bucket_with_much_to_come_takes_turns_with_the_others() {
        let (large, small) = (BucketId([1; 16]), BucketId([2; 16]));
        let mut turns = Turns::default();
        turns.look_at(HashSet::from([large]));
        assert_eq!(turns.next(), Some((large, None)));
        // Something is new in both while the first is under way.
        turns.look_at(HashSet::from([large, small]));
        assert_eq!(turns.next(), Some((small, None)));
        assert_eq!(turns.next(), None);
        turns.ended(small, end());
        turns.ended(large, more(b"a"));
        turns.look_at(HashSet::from([large, small]));
        assert_eq!(turns.next(), Some((large, Some(Bytes::from_static(b"a")))));
        assert_eq!(turns.next(), Some((small, None)));
        turns.ended(large, end());
        // What came while it had its turn may lie before where it was.
        assert_eq!(turns.next(), Some((large, None)));
        turns.ended(large, end());
        turns.ended(small, end());
        assert_eq!(turns.next(), None);
        assert!(turns.open.is_empty());
    }
}
