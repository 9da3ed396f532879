//! What all parts of the door share: the segment, its links, and who is connected.

use crate::fetch::Bulk;
use crate::identity::{Fingerprint, Identity};
use crate::invite::Invites;
use crate::links::{Link, Links, Passes, Visible};
use crate::outbox::{Hold, Outbox, Traffic};
use crate::wire::{Body, Packed};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tombolo_core::sync::{LaneStatus, Message};
use tombolo_core::{Bucket, BucketId, BucketPath, Error, ErrorKind, Gather, Result, Segment, SegmentId, VersionVector};

/// Bounds of the door.
#[derive(Debug, Clone)]
pub struct LinkLimits {
    /// Connections that have not said who they are.
    pub strangers_max: usize,
    /// A connection must have said so within this.
    pub greeting_timeout: Duration,
    /// A connection on which no byte comes for this long is broken; pings keep it alive. An answer of which nothing comes for this long is given up, unless its connection is busy.
    pub silence_timeout: Duration,
    /// A connection that takes nothing for this long, though there is something to send, is broken.
    pub transfer_timeout: Duration,
    /// The longest wait before a peer is dialled again.
    pub redial_max: Duration,
    /// Connections to a peer beside the first, for chunks in bulk.
    pub bulk_connections: usize,
    /// Memory for deltas that came from one peer and were not taken in yet, in bytes.
    pub delta_bytes: usize,
    /// One delta's registers take about this many bytes, unpacked.
    pub step_bytes: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        LinkLimits {
            strangers_max: 64,
            greeting_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(30),
            redial_max: Duration::from_secs(30),
            bulk_connections: 4,
            delta_bytes: 64 << 20,
            step_bytes: 1 << 20,
        }
    }
}

/// A delta on its way in or out, with what it takes of its peer's budget.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    pub(crate) packed: Packed,
    pub(crate) hold: Option<Arc<OwnedSemaphorePermit>>,
    /// What was found when it was staged, if it was.
    pub(crate) staged: Option<Arc<crate::whole::Staged>>,
}

/// What the driver hears, with what that takes of its peer's budget until it is dealt with.
pub(crate) type Arrival = (Input, Hold);

pub(crate) enum Input {
    Connected(Arc<Peer>),
    Disconnected(Arc<Peer>),
    Names(Arc<Peer>, Message<Payload>),
    Catalog(Arc<Peer>, Packed),
    /// A peer asks for the catalog, and to be told when it has all of it; or one that it was sent is written, and another is due.
    CatalogDue(Arc<Peer>),
    /// The answer to such a question.
    CatalogStand(Arc<Peer>, u64),
    /// A segment was forgotten here.
    Forgotten,
    /// Asks a peer where it stands in a bucket, or (`None`) for its catalog.
    Probe {
        peer: SegmentId,
        bucket: Option<BucketId>,
        nonce: u64,
        /// Whether the peer is to get to where this segment stands, too.
        leads: bool,
        asked: Asked,
    },
    /// About who holds data of a bucket for whom.
    Promise(Arc<Peer>, BucketId, crate::gather::Word),
    Lanes(tokio::sync::oneshot::Sender<Vec<(BucketId, SegmentId, LaneStatus)>>),
}

/// Somebody here has asked a peer where it stands.
pub(crate) struct Asked {
    pub(crate) answer: tokio::sync::oneshot::Sender<VersionVector>,
    /// Set when the peer says that it compares all that it holds, and answers when that is over.
    pub(crate) is_comparing: Arc<AtomicBool>,
}

/// A connected segment.
pub(crate) struct Peer {
    pub(crate) id: SegmentId,
    pub(crate) name: String,
    /// The connection for names.
    pub(crate) control: Outbox,
    /// Connections for chunks.
    pub(crate) bulk: Mutex<Vec<Outbox>>,
    /// Of the dialling side: its bulk connections name it.
    pub(crate) run: u64,
    /// Whether this side dialled.
    pub(crate) is_dialled: bool,
    pub(crate) address: SocketAddr,
    pub(crate) traffic: Arc<Traffic>,
    /// Deltas that may be cut and not yet written.
    pub(crate) cuts: Arc<Semaphore>,
    /// Bytes of deltas that came and were not taken in, unpacked.
    pub(crate) deltas: Arc<Semaphore>,
    /// Bytes of what else came over the connection for names and was not dealt with.
    pub(crate) arrivals: Arc<Semaphore>,
    /// Whether the last catalog that it sent could be taken in.
    pub(crate) is_catalog_here: AtomicBool,
    /// The highest version of the protocol that both speak.
    pub(crate) version: u32,
    pub(crate) comparing: crate::compare::Comparing,
    pub(crate) questions: crate::questions::Questions,
    /// When the next bulk bytes may go, if the link has a rate.
    pub(crate) paced: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

impl Peer {
    /// One that nobody has connected.
    #[cfg(test)]
    pub(crate) fn for_test(id: SegmentId, control: Outbox) -> Peer {
        Peer {
            id,
            name: "peer".into(),
            control,
            bulk: Mutex::default(),
            run: 1,
            is_dialled: true,
            address: ([127, 0, 0, 1], 1).into(),
            traffic: Arc::default(),
            cuts: Arc::new(Semaphore::new(1)),
            deltas: Arc::new(Semaphore::new(1)),
            arrivals: Arc::new(Semaphore::new(1)),
            version: 1,
            comparing: Default::default(),
            questions: Default::default(),
            is_catalog_here: AtomicBool::new(true),
            paced: Default::default(),
        }
    }

    pub(crate) fn say(&self, body: Body) {
        self.control.say(body, None);
    }

    /// Says something to what the peer has sent. One that goes on sending and does not read that is let go.
    pub(crate) fn reply(&self, body: Body) {
        match self.questions.reply() {
            Ok(hold) => self.control.say(body, hold),
            Err(error) => self.close(error.message()),
        }
    }

    pub(crate) fn close(&self, reason: &str) {
        self.control.close(reason);
        for outbox in self.bulk.lock().drain(..) {
            outbox.close(reason);
        }
    }
}

pub(crate) struct Hub {
    pub(crate) segment: Segment,
    identity: Mutex<Arc<Identity>>,
    /// The key that is to follow.
    pub(crate) next_key: Mutex<Option<Fingerprint>>,
    pub(crate) links: Arc<Links>,
    pub(crate) invites: Invites,
    pub(crate) limits: LinkLimits,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Names this run of this segment.
    pub(crate) run: u64,
    peers: Mutex<HashMap<SegmentId, Arc<Peer>>>,
    traffic: Mutex<HashMap<SegmentId, Arc<Traffic>>>,
    /// Why a link is not up, for status.
    problems: Mutex<HashMap<SegmentId, String>>,
    pub(crate) input: mpsc::Sender<Arrival>,
    pub(crate) bulk: Bulk,
    pub(crate) rates: crate::rate::Rates,
    pub(crate) lags: crate::lag::Lags,
    /// Data may have become wanted, or available.
    pub(crate) wanted: Notify,
    /// Whether something is pinned, so that changes made here may bring something below a pin. As of the last look.
    pub(crate) has_pins: AtomicBool,
    /// Who asked what is held here, and what was last said to them.
    pub(crate) gatherers: Mutex<HashMap<SegmentId, HashMap<BucketId, VersionVector>>>,
    /// From whom promises are wanted back, and the number of the question.
    pub(crate) returning: Mutex<HashMap<(SegmentId, BucketId), u64>>,
    /// Held while promises are made or ended.
    pub(crate) promising: tokio::sync::Mutex<()>,
    /// Others have promised to hold what may be given up.
    pub(crate) receipts: Notify,
    /// A bucket gives up on other terms than before.
    pub(crate) terms: Notify,
    /// Why versions' data could not be brought, by their keys.
    pub(crate) failures: Mutex<HashMap<bytes::Bytes, String>>,
    /// Deltas that wait for data.
    pub(crate) held: crate::whole::Held,
    /// Deltas whose data may be brought now.
    pub(crate) staging: Semaphore,
    /// Deltas that may be looked at now for what they lack.
    pub(crate) looking: Semaphore,
}

impl Hub {
    #[expect(clippy::too_many_arguments, reason = "the parts of the hub, once")]
    pub(crate) fn new(
        segment: Segment,
        identity: Identity,
        links: Arc<Links>,
        invites: Invites,
        limits: LinkLimits,
        addresses: Vec<SocketAddr>,
        run: u64,
        input: mpsc::Sender<Arrival>,
    ) -> Hub {
        Hub {
            lags: crate::lag::Lags::new(segment.id()),
            segment,
            identity: Mutex::new(Arc::new(identity)),
            next_key: Mutex::default(),
            links,
            invites,
            limits,
            addresses,
            run,
            peers: Mutex::default(),
            traffic: Mutex::default(),
            problems: Mutex::default(),
            input,
            bulk: Bulk::default(),
            rates: Default::default(),
            wanted: Notify::new(),
            has_pins: AtomicBool::new(false),
            gatherers: Mutex::default(),
            returning: Mutex::default(),
            promising: Default::default(),
            receipts: Notify::new(),
            terms: Notify::new(),
            failures: Mutex::default(),
            held: Default::default(),
            staging: Semaphore::new(crate::whole::STAGED_TOGETHER),
            looking: Semaphore::new(crate::whole::LOOKS_TOGETHER),
        }
    }

    /// Says something to the driver.
    pub(crate) async fn tell(&self, input: Input) -> Result<()> {
        self.arrived(input, None).await
    }

    /// The same of something that came from a peer.
    pub(crate) async fn arrived(&self, input: Input, hold: Hold) -> Result<()> {
        self.input.send((input, hold)).await.map_err(|_| Error::new(ErrorKind::Offline, "the link door is closing"))
    }

    /// The key that this segment proves.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        self.identity.lock().clone()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock() = Arc::new(identity);
    }

    /// The link to a peer, unless it is paused.
    pub(crate) fn link(&self, peer: &SegmentId) -> Option<Link> {
        self.links.list().into_iter().find(|link| link.peer == *peer && !link.paused)
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().values().cloned().collect()
    }

    pub(crate) fn peer(&self, id: &SegmentId) -> Option<Arc<Peer>> {
        self.peers.lock().get(id).cloned()
    }

    pub(crate) fn traffic(&self, peer: &SegmentId) -> Arc<Traffic> {
        self.traffic.lock().entry(*peer).or_default().clone()
    }

    /// Makes `peer` the connection to its segment. When both sides have dialled at once, the one that the smaller id dialled stays.
    pub(crate) fn register(&self, peer: &Arc<Peer>) -> Result<()> {
        let mut peers = self.peers.lock();
        if let Some(old) = peers.get(&peer.id).filter(|old| !old.control.is_closed()) {
            let ours_wins = self.segment.id() < peer.id;
            if old.is_dialled != peer.is_dialled && old.is_dialled == ours_wins {
                return Err(Error::new(ErrorKind::Exists, "the segments are connected already"));
            }
            old.close("another connection takes its place");
        }
        peers.insert(peer.id, peer.clone());
        self.problems.lock().remove(&peer.id);
        Ok(())
    }

    pub(crate) fn unregister(&self, peer: &Arc<Peer>) {
        let mut peers = self.peers.lock();
        if peers.get(&peer.id).is_some_and(|now| Arc::ptr_eq(now, peer)) {
            peers.remove(&peer.id);
        }
    }

    pub(crate) fn trouble(&self, peer: &SegmentId, problem: String) {
        self.problems.lock().insert(*peer, problem);
    }

    pub(crate) fn problem(&self, peer: &SegmentId) -> Option<String> {
        self.problems.lock().get(peer).cloned()
    }

    /// Whether a segment's data of this bucket comes here by a link in full.
    pub(crate) fn wants_data(&self, bucket: &BucketPath) -> bool {
        self.brings_data(bucket, |link| link.passes != Passes::Continuous)
    }

    fn brings_data(&self, bucket: &BucketPath, counts: impl Fn(&Link) -> bool) -> bool {
        self.links.list().iter().any(|link| brings_data(link, bucket) && counts(link))
    }

    /// If the bucket shows a version only when its data is here: how long one that nobody delivers is waited for. Where links differ, as the more patient one says.
    pub(crate) fn whole_patience(&self, bucket: &BucketPath) -> Option<Duration> {
        let links = self.links.list();
        let whole = links.iter().filter(|link| link.visible == Visible::Whole && brings_data(link, bucket));
        whole.map(|link| Duration::from_secs(link.whole_patience_s)).max()
    }

    /// Has the bucket list the data that is to be here, as its links want it: all, that of what comes from now on, or none. Returns whether there is any.
    pub(crate) async fn keep_data(&self, bucket: &Bucket) -> Result<bool> {
        let wants_all = self.wants_data(bucket.path());
        if !wants_all && self.brings_data(bucket.path(), |link| link.is_passed) {
            bucket.keep_new_data().await?;
            return Ok(true);
        }
        bucket.keep_data(wants_all).await?;
        Ok(wants_all)
    }

    /// When a bucket gives up what others hold: where links differ, as the more careful one says. `None`: never.
    pub(crate) fn gather(&self, bucket: &BucketPath) -> Option<Gather> {
        let links = self.links.list();
        let gathers = links.iter().filter(|link| gathers(link, bucket));
        let terms = gathers.map(|link| Gather {
            receipts: link.gather_receipts,
            delay_ms: link.gather_delay_s.saturating_mul(1000),
            names: link.gather_names,
        });
        let careful = |a: Gather, b: Gather| Gather {
            receipts: a.receipts.max(b.receipts),
            delay_ms: a.delay_ms.max(b.delay_ms),
            names: a.names && b.names,
        };
        terms.reduce(careful).filter(|_| !self.brings_data(bucket, |_| true))
    }
}

/// Whether all data of a bucket comes over a link, now or at some time.
fn brings_data(link: &Link, bucket: &BucketPath) -> bool {
    link.mode == crate::Mode::Full && link.direction.receives() && link.scope.covers(bucket)
}

/// Whether data of a bucket goes over a link for good.
pub(crate) fn gathers(link: &Link, bucket: &BucketPath) -> bool {
    link.mode == crate::Mode::Gather && link.direction.sends() && link.scope.covers(bucket)
}
