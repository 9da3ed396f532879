//! What the door says of itself (P8): read from the engine and from what peers have said, never guessed.

use crate::hub::{Hub, Input};
use crate::links::{Direction, Mode, Visible};
use crate::rate::{Rate, time_left};
use crate::scope::Scope;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tombolo_core::sync::LaneStatus;
use tombolo_core::{Bucket, BucketId, BucketPath, Error, ErrorKind, Keeping, Pin, Result, SegmentId, VersionVector};

/// Missing versions that a status counts; there may be more.
const COUNTED_MAX: usize = 10_000;
/// Missing versions that a status names.
const NAMED_MAX: usize = 20;

/// Links and buckets, at one moment.
#[derive(Debug, Clone)]
pub struct SyncStatus {
    /// All links, by name.
    pub links: Vec<LinkStatus>,
    /// All buckets that some link covers, by path.
    pub buckets: Vec<BucketStatus>,
}

/// One link.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// The peer.
    pub peer: SegmentId,
    /// Its name.
    pub name: String,
    /// How much of what it has comes here.
    pub mode: Mode,
    /// When versions show here.
    pub visible: Visible,
    /// Which way changes go, seen from here.
    pub direction: Direction,
    /// What the link covers.
    pub scope: Scope,
    /// Where the peer is dialled.
    pub addresses: Vec<String>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether it is up.
    pub is_connected: bool,
    /// Whether the last catalog that the peer sent is taken in: without it, buckets that are new there are not known here.
    pub is_catalog_here: bool,
    /// To where.
    pub connected_to: Option<SocketAddr>,
    /// The last round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes sent since the process began.
    pub sent_bytes: u64,
    /// Bytes received since the process began.
    pub received_bytes: u64,
    /// Why it is not up, or what went wrong last.
    pub problem: Option<String>,
}

/// One bucket.
#[derive(Debug, Clone)]
pub struct BucketStatus {
    /// Its path.
    pub path: BucketPath,
    /// Up to where names are complete.
    pub vector: VersionVector,
    /// Up to where data is complete.
    pub data_vector: VersionVector,
    /// Whether all data is to be here.
    pub wants_data: bool,
    /// What is pinned: its data is to be here in any case.
    pub pins: Vec<Bytes>,
    /// Versions whose data is to be here and may not be.
    pub missing_objects: u64,
    /// Their sizes together.
    pub missing_bytes: u64,
    /// Whether there may be more: counting stopped early, or what came by name before it was to be here is still being listed.
    pub missing_is_more: bool,
    /// The first few.
    pub missing: Vec<MissingObject>,
    /// Whether versions show only when their data is here.
    pub shows_whole: bool,
    /// Versions that have come, and do not show because their data is on its way. Names are not complete up to there, and these not missing.
    pub waiting_objects: u64,
    /// Their sizes together.
    pub waiting_bytes: u64,
    /// The first few, with the keys that they will show under.
    pub waiting: Vec<MissingObject>,
    /// Files whose names are away: out of sight here, because others hold them.
    pub away_objects: u64,
    /// How long ago all data was here that was to be here: zero if it is.
    pub data_lag: Duration,
    /// How long it will take to bring what is missing or waits at the rate of the last seconds; `None`: there is no such thing, nothing comes, or not all is counted.
    pub data_left: Option<Duration>,
    /// Whether this segment was away for longer than deletions are remembered, and compares all that it holds with what others have.
    pub is_comparing: bool,
    /// Who carries it, linked or not, and whether an operator has declared it gone.
    pub carriers: Vec<(SegmentId, bool)>,
    /// What is known of each linked segment.
    pub peers: Vec<PeerBucketStatus>,
}

/// A version whose data may not be here.
#[derive(Debug, Clone)]
pub struct MissingObject {
    /// The key that it shows under; `None`: nowhere.
    pub path: Option<Bytes>,
    /// Its size in bytes.
    pub size: u64,
    /// Why it is not here.
    pub reason: String,
}

/// One bucket at one linked segment.
#[derive(Debug, Clone)]
pub struct PeerBucketStatus {
    /// The peer.
    pub peer: SegmentId,
    /// Its name.
    pub name: String,
    /// Whether both carry it and are connected.
    pub is_open: bool,
    /// Where it last said that it stands.
    pub peer_vector: VersionVector,
    /// Whether all names are here that it has told of, as of its last word. Not while it compares.
    pub is_here: bool,
    /// It was away for longer than deletions are remembered, compares all that it holds with what others have, and tells of it when that is over.
    pub is_comparing: bool,
    /// Whether all names that are here are known to be there.
    pub is_there: bool,
    /// Deltas sent and not acknowledged.
    pub in_flight: usize,
    /// How long ago all names were here that it had told of: zero if they are, else since it told of something that has not come, or was out of reach; `None`: it has told of nothing
    /// since the process began, or nothing is received from it.
    pub names_lag: Option<Duration>,
    /// How fast names and data come from there; `None`: nothing did lately.
    pub rate: Option<Rate>,
    /// How long the names that it has told of will take at that rate; `None`: all are here, or none come.
    pub names_left: Option<Duration>,
    /// What keeps it.
    pub problem: Option<String>,
}

impl BucketStatus {
    /// Whether every byte that is to be here is here.
    pub fn is_data_complete(&self) -> bool {
        self.missing_objects == 0 && !self.missing_is_more
    }
}

/// How many changes, as version vectors count them, whoever stands at `here` lacks of `there`.
pub(crate) fn distance(here: &VersionVector, there: &VersionVector) -> u64 {
    there.dots().map(|dot| dot.sequence.saturating_sub(here.get(&dot.segment))).fold(0, u64::saturating_add)
}

pub(crate) async fn lanes(hub: &Hub) -> Result<Vec<(BucketId, SegmentId, LaneStatus)>> {
    let (answer, lanes) = oneshot::channel();
    let closing = || Error::new(ErrorKind::Offline, "the link door is closing");
    hub.tell(Input::Lanes(answer)).await?;
    lanes.await.map_err(|_| closing())
}

pub(crate) async fn read(hub: &Arc<Hub>) -> Result<SyncStatus> {
    let lanes = lanes(hub).await?;
    let all = hub.links.list();
    let mut links = Vec::new();
    for link in &all {
        let peer = hub.peer(&link.peer);
        let traffic = hub.traffic(&link.peer);
        links.push(LinkStatus {
            peer: link.peer,
            name: link.name.clone(),
            mode: link.mode,
            visible: link.visible,
            direction: link.direction,
            scope: link.scope.clone(),
            addresses: link.addresses.clone(),
            is_paused: link.paused,
            is_connected: peer.is_some(),
            is_catalog_here: peer.as_ref().is_some_and(|peer| peer.is_catalog_here.load(Ordering::Relaxed)),
            connected_to: peer.as_ref().map(|peer| peer.address),
            rtt_ms: peer.as_ref().and_then(|peer| peer.control.rtt_us()).map(|us| us as f64 / 1000.0),
            sent_bytes: traffic.sent_bytes.load(Ordering::Relaxed),
            received_bytes: traffic.received_bytes.load(Ordering::Relaxed),
            problem: hub.problem(&link.peer),
        });
    }
    let mut buckets = Vec::new();
    let now = Instant::now();
    for info in hub.segment.catalog().all_buckets().await? {
        if !all.iter().any(|link| link.scope.covers(&info.path)) {
            continue;
        }
        // It may have gone meanwhile.
        let Ok(bucket) = hub.segment.catalog().bucket_with_id(&info.id).await else { continue };
        let mut status = bucket_status(hub, &bucket, &info.id).await?;
        for link in all.iter().filter(|link| link.scope.covers(&info.path)) {
            let lane = lanes.iter().find(|(id, peer, _)| *id == info.id && *peer == link.peer).map(|(_, _, lane)| lane);
            let lane = lane.cloned().unwrap_or_default();
            let receives = link.receives();
            let rate = hub.rates.rate(info.id, link.peer).filter(|_| receives);
            let lacking = distance(&status.vector, &lane.peer_announced);
            let names_lag = hub.lags.of_names(info.id, link.peer, now).filter(|_| receives);
            status.peers.push(PeerBucketStatus {
                names_left: rate.and_then(|rate| time_left(lacking, rate.changes_per_second)),
                rate,
                peer: link.peer,
                name: link.name.clone(),
                is_open: lane.is_open,
                is_here: !receives
                    || lane.is_open
                        && !status.is_comparing
                        && !lane.peer_compares
                        && status.vector.dominates(&lane.peer_announced),
                names_lag,
                is_comparing: lane.is_open && lane.peer_compares,
                is_there: !link.direction.sends()
                    || lane.is_open && !bucket.has_changes_since(&lane.peer_vector).await?,
                peer_vector: lane.peer_vector,
                in_flight: lane.in_flight,
                problem: lane.problem,
            });
        }
        hub.lags.lacks_data(info.id, !status.is_data_complete(), now);
        status.data_lag = hub.lags.of_data(info.id, now);
        if !status.missing_is_more {
            let rates = status.peers.iter().filter_map(|peer| peer.rate);
            let left = status.missing_bytes.saturating_add(status.waiting_bytes);
            status.data_left = time_left(left, rates.map(|rate| rate.bytes_per_second).sum());
        }
        buckets.push(status);
    }
    Ok(SyncStatus { links, buckets })
}

async fn bucket_status(hub: &Hub, bucket: &Bucket, id: &BucketId) -> Result<BucketStatus> {
    let wants_data = hub.wants_data(bucket.path());
    // Looked at first: what comes below a pin meanwhile is listed.
    let pins = bucket.pins().await?;
    let is_listed = (!wants_data || bucket.keeping().await? == Keeping::Listed) && pins.iter().all(Pin::is_listed);
    let wanted = bucket.wanted(None, COUNTED_MAX).await?;
    let waits = hub.held.of_bucket(id);
    let (missing, waiting) = {
        let failures = hub.failures.lock();
        let object = |key: &Bytes, path: &Option<Bytes>, size: u64| {
            let reason = failures.get(key).cloned().unwrap_or_else(|| "on its way".into());
            MissingObject { path: path.clone(), size, reason }
        };
        let named = wanted.iter().take(NAMED_MAX).map(|version| object(&version.key, &version.path, version.size));
        let waiting = waits.named.iter().map(|(key, path, size)| object(key, path, *size));
        (named.collect(), waiting.collect())
    };
    Ok(BucketStatus {
        path: bucket.path().clone(),
        vector: bucket.vector().await?,
        data_vector: bucket.data_vector().await?,
        wants_data,
        pins: pins.into_iter().map(|pin| pin.path).collect(),
        missing_objects: wanted.len() as u64,
        missing_bytes: wanted.iter().map(|version| version.size).sum(),
        missing_is_more: wanted.len() == COUNTED_MAX || !is_listed,
        missing,
        shows_whole: hub.whole_patience(bucket.path()).is_some(),
        waiting_objects: waits.objects,
        waiting_bytes: waits.bytes,
        waiting,
        away_objects: bucket.count_away().await?,
        data_lag: Duration::ZERO,
        data_left: None,
        is_comparing: bucket.is_comparing().await?,
        carriers: bucket.carriers().await?.iter().map(|(id, carrier)| (*id, carrier.is_forgotten())).collect(),
        peers: Vec::new(),
    })
}
