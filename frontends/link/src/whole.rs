//! Buckets that show a version only when its data is here (`visible: whole`): deltas wait for it.
//!
//! What a peer sent is staged: the data of all versions that it would show is brought, then it is taken in, as one commit, which looks once more
//! (`Bucket::apply_whole`). Until then this segment does not stand where the delta leads, acknowledges nothing and forwards nothing. The delta itself waits in memory, which
//! bounds how many there are, and is sent again after a crash or on another connection; what was brought of it by then is here.
//!
//! A version that nobody delivers holds the delta up for as long as the link's patience says, counted while it is tried in vain and its peer is connected.
//! Then the delta shows without it, and it is listed as missing like any other. Argument: `docs/notes/0007-visibility-whole.md`.

use crate::bring;
use crate::hub::{Hub, Payload, Peer};
use bytes::Bytes;
use futures::stream::{StreamExt, iter};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tombolo_core::{Bucket, BucketId, BucketPath, Delta, Error, ErrorKind, Lacking, Result, SegmentId, Wanted, Whole};

/// Deltas whose data is brought at a time. Of others just the bytes that came are in memory.
pub(crate) const STAGED_TOGETHER: usize = 32;
/// Deltas that are unpacked and looked at, at a time, so that one that lacks nothing need not wait for those.
pub(crate) const LOOKS_TOGETHER: usize = 4;
/// Versions of one delta that are brought at a time.
const VERSIONS: usize = 32;
/// What nobody delivered is tried again after this, doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Waiting versions of a delta that a status names.
const NAMED_MAX: usize = 20;

/// A bucket of a peer.
type Lane = (BucketId, SegmentId);

/// What was found when a delta was staged.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// Versions that nobody delivers.
    excused: HashSet<Bytes>,
    /// Holds what has come for it, until it is taken in.
    _held: Option<Lacking>,
}

/// Versions that wait, for status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    /// The first few: key of the failure, path, size.
    pub(crate) named: Vec<(Bytes, Option<Bytes>, u64)>,
}

/// What waits in all lanes.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<Lane, HeldLane>>);

#[derive(Default)]
struct HeldLane {
    waiting: Waiting,
    /// How long versions of the delta were tried in vain so far, over all connections.
    in_vain: HashMap<Bytes, Duration>,
}

impl Held {
    /// What waits of a bucket, whoever sent it.
    pub(crate) fn of_bucket(&self, bucket: &BucketId) -> Waiting {
        let mut all = Waiting::default();
        for (_, held) in self.0.lock().iter().filter(|((of, _), _)| of == bucket) {
            all.objects += held.waiting.objects;
            all.bytes += held.waiting.bytes;
            let room = NAMED_MAX.saturating_sub(all.named.len());
            all.named.extend(held.waiting.named.iter().take(room).cloned());
        }
        all
    }

    /// Whether something that this peer sent waits for data.
    pub(crate) fn is_any(&self, peer: &SegmentId) -> bool {
        self.0.lock().iter().any(|((_, of), held)| of == peer && held.waiting.objects > 0)
    }

    /// The bucket does not come from that peer any more, or what waited is here.
    pub(crate) fn forget(&self, bucket: BucketId, peer: SegmentId) {
        self.0.lock().remove(&(bucket, peer));
    }

    fn waits(&self, lane: Lane, lacking: &[Wanted]) {
        let name = |version: &Wanted| (version.key.clone(), version.path.clone(), version.size);
        let mut lanes = self.0.lock();
        let held = lanes.entry(lane).or_default();
        held.waiting = Waiting {
            objects: lacking.len() as u64,
            bytes: lacking.iter().map(|version| version.size).sum(),
            named: lacking.iter().take(NAMED_MAX).map(name).collect(),
        };
        // Others are of an earlier delta of the lane.
        let keys: HashSet<&Bytes> = lacking.iter().map(|version| &version.key).collect();
        held.in_vain.retain(|key, _| keys.contains(key));
    }

    /// Nothing is being brought for the lane now.
    fn rests(&self, lane: Lane) {
        if let Some(held) = self.0.lock().get_mut(&lane) {
            held.waiting = Waiting::default();
        }
    }

    /// Notes how an attempt ended.
    fn tried(&self, lane: Lane, key: &Bytes, is_here: bool) {
        let mut lanes = self.0.lock();
        let in_vain = &mut lanes.entry(lane).or_default().in_vain;
        if is_here {
            in_vain.remove(key);
        } else {
            in_vain.entry(key.clone()).or_default();
        }
    }

    /// Which versions have failed before, and for how long each was tried.
    fn in_vain(&self, lane: Lane) -> HashMap<Bytes, Duration> {
        self.0.lock().get(&lane).map(|held| held.in_vain.clone()).unwrap_or_default()
    }

    fn waited(&self, lane: Lane, time: Duration) {
        if let Some(held) = self.0.lock().get_mut(&lane) {
            held.in_vain.values_mut().for_each(|waited| *waited = waited.saturating_add(time));
        }
    }
}

/// What has become of attempts to bring a delta's data, on one connection.
struct Trying {
    excused: HashSet<Bytes>,
    brought: HashSet<Bytes>,
    pause: Duration,
}

impl Trying {
    fn new(excused: HashSet<Bytes>) -> Trying {
        Trying { excused, brought: HashSet::new(), pause: PAUSE }
    }
}

/// Brings what a delta needs, as long as its peer is connected.
pub(crate) async fn stage(hub: &Arc<Hub>, peer: &SegmentId, id: &BucketId, payload: Payload) -> Payload {
    let staged = stage_with(hub, peer, id, &payload).await;
    hub.held.rests((*id, *peer));
    match staged {
        Ok(staged) => Payload { staged: Some(Arc::new(staged)), ..payload },
        Err(error) => {
            // If it is still wanted, taking it in ends the same way, and is answered.
            tracing::debug!(bucket = %id, %error, "a delta could not be staged");
            payload
        }
    }
}

async fn stage_with(hub: &Arc<Hub>, peer: &SegmentId, id: &BucketId, payload: &Payload) -> Result<Staged> {
    let connected = hub.peer(peer).ok_or_else(gone)?;
    let bucket = hub.segment.catalog().bucket_with_id(id).await?;
    let mut trying = Trying::new(HashSet::new());
    // Held until the next look holds what that finds.
    let mut held = None;
    let mut turn = None;
    while hub.whole_patience(bucket.path()).is_some() {
        hub.keep_data(&bucket).await?;
        let lacking = {
            let _look = hub.looking.acquire().await.map_err(|_| gone())?;
            let (delta, _) = Delta::decode_bounded(payload.packed.clone().unpack()?, crate::driver::REGISTERS_MAX)?;
            if !bucket.position().await?.dominates(&delta.from) {
                // It will be refused.
                break;
            }
            bucket.lacking(&delta, &trying.excused).await?
        };
        if lacking.versions.is_empty() {
            return Ok(Staged { excused: trying.excused, _held: Some(lacking) });
        }
        if turn.is_none() {
            hub.held.waits((*id, *peer), &lacking.versions);
            drop(lacking);
            turn = tokio::select! {
                turn = hub.staging.acquire() => Some(turn.map_err(|_| gone())?),
                _ = connected.control.closed() => return Err(gone()),
                () = other_terms(hub, bucket.path()) => None,
            };
            continue;
        }
        wait(hub, &connected, &bucket, (*id, *peer), &lacking, &mut trying).await?;
        drop(held.replace(lacking));
    }
    Ok(Staged::default())
}

/// Takes a delta in: with its data where the bucket shows versions whole.
pub(crate) async fn apply(
    hub: &Arc<Hub>,
    peer: &SegmentId,
    id: &BucketId,
    bucket: &Bucket,
    delta: &Delta,
    staged: Option<Arc<Staged>>,
) -> Result<usize> {
    let excused = staged.as_ref().map(|staged| staged.excused.clone()).unwrap_or_default();
    let mut trying = Trying::new(excused);
    let mut held = None;
    let lane = (*id, *peer);
    let changed = loop {
        if hub.whole_patience(bucket.path()).is_none() {
            break bucket.apply(delta).await?;
        }
        match bucket.apply_whole(delta, &trying.excused).await? {
            Whole::Applied(changed) => break changed,
            // Something else has been taken in, or done here, since it was staged; or it was not, because it came when versions still showed early.
            Whole::Lacking(lacking) => {
                let connected = hub.peer(peer).ok_or_else(gone)?;
                let waited = wait(hub, &connected, bucket, lane, &lacking, &mut trying).await;
                hub.held.rests(lane);
                waited?;
                drop(held.replace(lacking));
            }
        }
    };
    hub.held.forget(*id, *peer);
    Ok(changed)
}

fn gone() -> Error {
    Error::new(ErrorKind::Offline, "the connection ended while data was on its way")
}

/// One attempt to bring what is lacking. Ends early with an error when the peer goes, and without one when links say something else from now on.
async fn wait(
    hub: &Arc<Hub>,
    peer: &Peer,
    bucket: &Bucket,
    lane: Lane,
    lacking: &Lacking,
    trying: &mut Trying,
) -> Result<()> {
    hub.held.waits(lane, &lacking.versions);
    tokio::select! {
        () = bring_lacking(hub, bucket.path(), lane, &lacking.versions, trying) => Ok(()),
        _ = peer.control.closed() => Err(gone()),
        () = other_terms(hub, bucket.path()) => Ok(()),
    }
}

/// Ends when the bucket shows versions early from now on, or another patience counts.
async fn other_terms(hub: &Hub, bucket: &BucketPath) {
    let mut links = hub.links.watch();
    let patience = hub.whole_patience(bucket);
    while hub.whole_patience(bucket) == patience && links.changed().await.is_ok() {}
}

async fn bring_lacking(hub: &Arc<Hub>, bucket: &BucketPath, lane: Lane, lacking: &[Wanted], trying: &mut Trying) {
    let in_vain = hub.held.in_vain(lane);
    if !in_vain.is_empty() {
        let patience = hub.whole_patience(bucket).unwrap_or_default();
        let given_up: Vec<_> = in_vain.iter().filter(|(_, waited)| **waited >= patience).map(|(key, _)| key).collect();
        if !given_up.is_empty() {
            tracing::warn!(%bucket, versions = given_up.len(), "data that nobody delivers is not waited for any more");
            trying.excused.extend(given_up.into_iter().cloned());
            return;
        }
        let pause = trying.pause.min(patience);
        tokio::time::sleep(pause).await;
        hub.held.waited(lane, pause);
        trying.pause = (trying.pause * 2).min(PAUSE_MAX);
    }
    let (id, _) = lane;
    let versions = iter(lacking.to_vec());
    let mut bringing = versions.map(|version| bring::bring(hub, id, version)).buffer_unordered(VERSIONS);
    while let Some((key, outcome)) = bringing.next().await {
        let outcome = match outcome {
            Ok(()) if !trying.brought.insert(key.clone()) => {
                Err(Error::damaged("its data was brought and is not here"))
            }
            other => other,
        };
        hub.held.tried(lane, &key, outcome.is_ok());
        bring::note(hub, &key, &outcome);
    }
}
