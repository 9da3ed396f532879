//! [`LinkDoor`]: what a daemon or a program opens to be linked with other segments.

use crate::dial::{self, AcceptOptions, blocking, unix_time};
use crate::hub::{Arrival, Asked, Hub, Input, LinkLimits};
use crate::invite::{Code, Invite, InviteOptions, Invites};
use crate::links::{Link, Links};
use crate::scope::Scope;
use crate::status::{self, SyncStatus};
use crate::{Identity, Rotation, Verified, bring, compare, driver, fetch, gather, passes, rotate};
use rand::Rng;
use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tombolo_core::{
    BucketId, BucketPath, Error, ErrorKind, Pin, Result, Segment, SegmentId, Subject, TenantPath, VersionVector,
};

/// Inputs that wait for the driver.
const INPUTS_MAX: usize = 256;
/// How often a wait looks whether it is over, when nothing tells it to.
pub(crate) const WAIT_STEP: Duration = Duration::from_millis(20);

/// A peer that has still to hear of what was deleted here is asked again after this.
const ASKED_AGAIN: Duration = Duration::from_millis(200);
/// Who can't take in what it is sent asks no more often than this.
const ASKED_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Far enough to be never.
pub(crate) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How to open the door.
#[derive(Debug, Clone, Default)]
pub struct LinkOptions {
    /// Where to take connections; empty: this segment only dials.
    pub listen: Vec<SocketAddr>,
    /// Bounds.
    pub limits: LinkLimits,
}

/// The link door of a segment. Cheap to clone. Links come up while [`LinkDoor::serve`] runs.
#[derive(Clone)]
pub struct LinkDoor {
    hub: Arc<Hub>,
    parts: Arc<parking_lot::Mutex<Option<Parts>>>,
}

struct Parts {
    listeners: Vec<TcpListener>,
    input: mpsc::Receiver<Arrival>,
}

impl LinkDoor {
    /// Binds, and reads the segment's key and links from its directory; makes a key on first use.
    pub async fn open(segment: Segment, options: LinkOptions) -> Result<LinkDoor> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for address in &options.listen {
            let unusable = |e| Error::io(format!("{address} can't be listened on"), e);
            let listener = TcpListener::bind(address).await.map_err(unusable)?;
            addresses.push(listener.local_addr().map_err(unusable)?);
            listeners.push(listener);
        }
        let dir = segment.dir().to_owned();
        let loading = tokio::task::spawn_blocking(move || {
            let identity = Identity::load_or_create(&dir)?;
            Result::Ok((identity, Identity::load_next(&dir)?, Links::open(&dir)?, Invites::open(&dir)?))
        });
        let loaded =
            loading.await.map_err(|e| Error::new(ErrorKind::Failed, "the links could not be read").because(e))?;
        let (identity, next, links, invites) = loaded?;
        let (sender, input) = mpsc::channel(INPUTS_MAX);
        let run = rand::rng().random();
        let hub = Arc::new(Hub::new(segment, identity, links, invites, options.limits, addresses, run, sender));
        *hub.next_key.lock() = next.map(|next| next.fingerprint());
        hub.segment.set_chunk_source(Some(Arc::new(fetch::Source(Arc::downgrade(&hub)))));
        Ok(LinkDoor { hub, parts: Arc::new(parking_lot::Mutex::new(Some(Parts { listeners, input }))) })
    }

    /// Where connections are taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.hub.addresses
    }

    /// Dials, takes connections and keeps the linked segments in step until `stopped`. A door serves once.
    pub async fn serve(self, stopped: impl Future<Output = ()> + Send) {
        let Some(Parts { listeners, input }) = self.parts.lock().take() else {
            tracing::error!("a link door can be served once");
            return;
        };
        let hub = self.hub.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver::run(hub.clone(), input));
        tasks.spawn(bring::run(hub.clone()));
        tasks.spawn(gather::run(hub.clone()));
        tasks.spawn(keep_all(hub.clone()));
        tasks.spawn(passes::run(hub.clone()));
        tasks.spawn(rotate::run(hub.clone()));
        let strangers = Arc::new(Semaphore::new(hub.limits.strangers_max));
        for listener in listeners {
            tasks.spawn(listen(hub.clone(), listener, strangers.clone()));
        }
        tokio::select! {
            () = stopped => {}
            Some(ended) = tasks.join_next() => tracing::error!(?ended, "a part of the link door ended by itself"),
        }
        hub.segment.set_chunk_source(None);
        for peer in hub.peers() {
            peer.close("the segment is shutting down");
        }
        tasks.shutdown().await;
    }

    /// The links.
    pub fn links(&self) -> &Arc<Links> {
        &self.hub.links
    }

    /// Makes a one-time code for another segment. Without addresses, where this door listens is what the code says.
    pub async fn invite(&self, mut options: InviteOptions) -> Result<Code> {
        if options.addresses.is_empty() {
            options.addresses = self.hub.addresses.iter().map(ToString::to_string).collect();
        }
        if options.addresses.is_empty() {
            return Err(Error::invalid(
                "this segment takes no links: serve it with --link ADDRESS, or name an address",
            ));
        }
        blocking(&self.hub, move |hub| hub.invites.create(&hub.identity(), options, unix_time().as_secs())).await
    }

    /// Codes that were not used yet.
    pub async fn invites(&self) -> Vec<Invite> {
        self.hub.invites.list(unix_time().as_secs())
    }

    /// Takes a code back.
    pub async fn cancel_invite(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        blocking(&self.hub, move |hub| hub.invites.cancel(&id)).await
    }

    /// Uses a code: both segments know each other when this returns. [`ErrorKind::Offline`]: the other one can't be reached;
    /// [`ErrorKind::Denied`]: it does not know the code (any more).
    pub async fn accept(&self, code: Code, options: AcceptOptions) -> Result<Link> {
        dial::pair_out(&self.hub, code, options).await
    }

    /// Changes a link, named by its peer's name or id.
    pub async fn set(&self, name: &str, change: impl FnOnce(&mut Link) + Send + 'static) -> Result<Link> {
        let peer = self.find(name)?.peer;
        blocking(&self.hub, move |hub| hub.links.change(&peer, change)).await
    }

    /// Gives this segment another key. Linked segments are told of it first; it is used when all know it, or at once (`is_at_once`), when those that don't have to be
    /// linked anew. Waits up to `limit` for that; what is not done by then goes on by itself, also after a restart. Codes that were given out are void when the
    /// key changes.
    pub async fn rotate_key(&self, is_at_once: bool, limit: Duration) -> Result<Rotation> {
        rotate::rotate(&self.hub, is_at_once, Instant::now() + limit.min(FOREVER)).await
    }

    /// Forgets a link. What came over it stays.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let peer = self.find(name)?.peer;
        blocking(&self.hub, move |hub| hub.links.remove(&peer)).await
    }

    fn find(&self, name: &str) -> Result<Link> {
        let missing = || Error::not_found(Subject::Segment, format!("there is no link to '{name}'"));
        self.hub.links.get(name).ok_or_else(missing)
    }

    /// Nobody waits for a segment any more before dropping what is deleted; its peers are told. Returns how many buckets it is known to carry.
    /// [`ErrorKind::NotFound`] if there is none. A link to it stays as it is: if the segment is still there, it hears of it, and counts again.
    pub async fn forget(&self, segment: &SegmentId) -> Result<u64> {
        let buckets = self.hub.segment.forget_segment(segment).await?;
        self.hub.tell(Input::Forgotten).await?;
        Ok(buckets)
    }

    /// What is linked, what is here and what is missing.
    pub async fn status(&self) -> Result<SyncStatus> {
        status::read(&self.hub).await
    }

    /// Whether anything can be said of `scope`: [`ErrorKind::NotFound`] names a place of it that no link covers, or that is not here.
    pub async fn check(&self, scope: &Scope) -> Result<()> {
        self.check_covered(scope)?;
        for place in scope.places() {
            let (catalog, names) = (self.hub.segment.catalog(), place.split('/').collect::<Vec<_>>());
            match names.as_slice() {
                [cluster] if !cluster.is_empty() => catalog.tenants(cluster).await.map(drop)?,
                [cluster, tenant] => catalog.buckets(&TenantPath::new(cluster, tenant)?).await.map(drop)?,
                [_, _, _] => self.hub.segment.bucket(&place.parse::<BucketPath>()?).await.map(drop)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything is covered even by no link at all; a place that was named is not.
    fn check_covered(&self, scope: &Scope) -> Result<()> {
        let links = self.hub.links.list();
        for place in scope.places().iter().filter(|place| !place.is_empty()) {
            let alone = Scope::parse([place])?;
            if !links.iter().any(|link| !link.scope.intersect(&alone).is_empty()) {
                let message = format!("no link covers '{place}'; see what they cover: tombolo link list");
                return Err(Error::not_found(Subject::Other, message));
            }
        }
        Ok(())
    }

    /// Compares each bucket that `scope` covers with each linked segment that carries it, by summaries: what goes over the link is in proportion to what differs. Changes
    /// may be under way until `limit`; after that the answer names them. [`ErrorKind::NotFound`] as of [`LinkDoor::check`].
    pub async fn verify(&self, scope: &Scope, limit: Duration) -> Result<Vec<Verified>> {
        self.check(scope).await?;
        compare::verify(&self.hub, scope, Instant::now() + limit.min(FOREVER)).await
    }

    /// Has the door look for data that is to be here: something was pinned.
    pub fn look_for_data(&self) {
        self.hub.wanted.notify_one();
    }

    /// Returns when all that the linked segments had at the call, of what `scope` covers, is here: names, and data where it is to be here.
    /// [`ErrorKind::Offline`] if that is not so within `limit`; the message says what is missing. [`ErrorKind::NotFound`] as of [`LinkDoor::check`].
    pub async fn wait(&self, scope: &Scope, limit: Option<Duration>) -> Result<()> {
        self.check_covered(scope)?;
        let deadline = Instant::now() + limit.unwrap_or(FOREVER);
        let mut waiting = JoinSet::new();
        for link in self.hub.links.list() {
            if link.receives() && !link.scope.intersect(scope).is_empty() {
                let (hub, scope) = (self.hub.clone(), scope.clone());
                waiting.spawn(async move { wait_for(&hub, &link, &scope, deadline).await });
            }
        }
        while let Some(done) = waiting.join_next().await {
            done.map_err(|e| Error::new(ErrorKind::Failed, "a wait broke off").because(e))??;
        }
        // Not before: what is new at a linked segment has come by now.
        self.check(scope).await
    }
}

/// Waits for what one peer has now.
pub(crate) async fn wait_for(hub: &Arc<Hub>, link: &Link, scope: &Scope, deadline: Instant) -> Result<()> {
    let late = |what: &str| {
        let problem = hub.problem(&link.peer).map(|problem| format!(" ({problem})")).unwrap_or_default();
        Error::new(ErrorKind::Offline, format!("'{}': {what}{problem}", link.name))
    };
    probe(hub, &link.peer, None, false, deadline).await.map_err(late)?;
    // What was copied here is listed until somebody has looked whether its data is here.
    hub.wanted.notify_one();
    let buckets = hub.segment.catalog().all_buckets().await?;
    for info in buckets.iter().filter(|info| link.scope.covers(&info.path) && scope.covers(&info.path)) {
        let mut target = probe(hub, &link.peer, Some(info.id), false, deadline).await.map_err(late)?;
        let bucket = match hub.segment.catalog().bucket_with_id(&info.id).await {
            // It has gone meanwhile, by what came from there perhaps.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found?,
        };
        // A peer that was away for longer than deletions are remembered here may not know it yet. It compares as soon as it hears of it, and has all to tell when that is over.
        // (Nothing is where it stands if nothing of the bucket goes over the link there.)
        while !target.is_empty() && !bucket.is_above_floor(&target).await? {
            sleep_until(deadline.min(Instant::now() + ASKED_AGAIN)).await;
            if Instant::now() >= deadline {
                let what = "it was away, and has not heard in time of what was deleted here";
                return Err(late(&format!("{}: {what}", info.path)));
            }
            target = probe(hub, &link.peer, Some(info.id), true, deadline).await.map_err(late)?;
        }
        loop {
            let are_names_here = bucket.vector().await?.dominates(&target);
            let is_data_here = if hub.wants_data(&info.path) {
                bucket.data_vector().await?.dominates(&target)
            } else {
                // What is pinned, or to be persisted, or new.
                bucket.pins().await?.iter().all(Pin::is_listed) && bucket.wanted(None, 1).await?.is_empty()
            };
            if are_names_here && is_data_here && !bucket.is_comparing().await? {
                break;
            }
            if Instant::now() >= deadline {
                let what = if are_names_here { "data" } else { "names" };
                return Err(late(&format!("{what} of {} are not all here in time", info.path)));
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }
    Ok(())
}

/// Where a peer stands, or why it has not said so in time. Asks anew on every new connection. `leads`: the peer is to get to where this segment stands, too.
async fn probe(
    hub: &Hub,
    peer: &SegmentId,
    bucket: Option<BucketId>,
    leads: bool,
    deadline: Instant,
) -> std::result::Result<VersionVector, &'static str> {
    let (mut why, mut pause) = ("not connected", WAIT_STEP);
    while Instant::now() < deadline {
        if let Some(connected) = hub.peer(peer) {
            let (answer, stands) = oneshot::channel();
            let is_comparing = Arc::new(AtomicBool::new(false));
            let (nonce, asked) = (rand::rng().random(), Asked { answer, is_comparing: is_comparing.clone() });
            let input = Input::Probe { peer: *peer, bucket, nonce, leads, asked };
            hub.tell(input).await.map_err(|_| "the link door is closing")?;
            tokio::select! {
                stands = timeout_at(deadline, stands) => match stands {
                    Ok(Ok(vector)) => return Ok(vector),
                    Ok(Err(_)) => {
                        why = "it has not answered, or what it sent could not be taken in";
                        pause = (pause * 2).min(ASKED_AGAIN_MAX);
                    }
                    Err(_) => why = "it does not answer",
                },
                _ = connected.control.closed() => why = "not connected",
            }
            if is_comparing.load(Ordering::Relaxed) {
                why = "it was away for longer than deletions are remembered, and compares all that it holds";
            }
        }
        sleep_until(deadline.min(Instant::now() + pause)).await;
    }
    Err(why)
}

/// Keeps every link up that can be dialled.
async fn keep_all(hub: Arc<Hub>) {
    let mut links = hub.links.watch();
    let mut kept: HashSet<SegmentId> = HashSet::new();
    let mut keeping: JoinSet<SegmentId> = JoinSet::new();
    loop {
        for link in hub.links.list() {
            if kept.insert(link.peer) {
                let (hub, peer) = (hub.clone(), link.peer);
                keeping.spawn(async move {
                    dial::keep(hub, peer).await;
                    peer
                });
            }
        }
        tokio::select! {
            changed = links.changed() => if changed.is_err() { return },
            Some(ended) = keeping.join_next() => {
                if let Ok(peer) = ended {
                    kept.remove(&peer);
                }
            }
        }
    }
}

async fn listen(hub: Arc<Hub>, listener: TcpListener, strangers: Arc<Semaphore>) {
    let mut taken = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    taken.spawn(dial::take(hub.clone(), stream, address, strangers.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = taken.join_next() => {}
        }
    }
}
