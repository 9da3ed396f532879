//! Carries out what the sync machine says: one task owns the machine, what it asks for is done beside it.

use crate::carriers::{Learning, carriers, learn};
use crate::hub::{Arrival, Asked, Hub, Input, Payload, Peer};
use crate::links::Link;
use crate::outbox::Hold;
use crate::pace::Pace;
use crate::rate::Amount;
use crate::retries::Retries;
use crate::status::distance;
use crate::whole;
use crate::wire::{self, Body, Packed, Place};
use bytes::Bytes;
use rand::Rng;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tombolo_core::sync::{Action, Event, Machine, Message, Piece, Terms};
use tombolo_core::{
    BucketId, CatalogName, Changed, Delta, DeltaLimit, Error, ErrorKind, Result, SegmentId, SegmentWatch, Stance,
    VersionVector,
};

/// Registers of one delta, at most.
const STEP_REGISTERS: usize = 16_384;
/// Of one that is taken in: a step ends at the end of a commit.
pub(crate) const REGISTERS_MAX: u64 = 16 * STEP_REGISTERS as u64;
/// Catalogs are sent this long after they changed, so that many changes are one.
const CATALOG_DELAY: Duration = Duration::from_millis(20);
/// Who carries a bucket, and up to where, is told this long after a change of it, so that it is told once for many.
const CARRIERS_DELAY: Duration = Duration::from_millis(500);
/// Peers are told of changes of a bucket that come in a row at most this often. What is told must be on disk first: without a pause each commit is a sync of its own, for
/// which the next commits wait, here and there.
const CHANGES_PAUSE: Duration = Duration::from_millis(5);

type Probes = HashMap<u64, Asked>;

struct Driver {
    hub: Arc<Hub>,
    machine: Machine<Payload>,
    started: Instant,
    /// What goes over the link to whom, and on which terms.
    shares: BTreeMap<(SegmentId, BucketId), Terms>,
    tasks: JoinSet<Option<Event<Payload>>>,
    probes: Probes,
    /// Of which peers the sync machine knows that they are connected.
    connected: HashMap<SegmentId, Arc<Peer>>,
    catalog_due: Option<Instant>,
    /// Peers whose last catalog could not be taken in.
    catalog_retries: Retries,
    /// Buckets that have changed.
    changes: Pace<BucketId>,
    /// Buckets of which peers are to be told who carries them.
    untold: BTreeSet<BucketId>,
    carriers_due: Option<Instant>,
    learning: Arc<Learning>,
}

/// Runs until the door closes.
pub(crate) async fn run(hub: Arc<Hub>, mut input: mpsc::Receiver<Arrival>) {
    let mut watch = hub.segment.watch_buckets();
    let mut links = hub.links.watch();
    let mut driver = Driver {
        hub,
        machine: Machine::new(),
        started: Instant::now(),
        shares: BTreeMap::new(),
        tasks: JoinSet::new(),
        probes: Probes::new(),
        connected: HashMap::new(),
        catalog_due: None,
        catalog_retries: Retries::default(),
        changes: Pace::new(CHANGES_PAUSE),
        untold: BTreeSet::new(),
        carriers_due: None,
        learning: Arc::default(),
    };
    loop {
        let wakes = driver.machine.wakes_at_ms().map(|at| driver.started + Duration::from_millis(at));
        let later = [driver.catalog_due, driver.carriers_due, driver.catalog_retries.due_at(), driver.changes.due_at()];
        let due = later.into_iter().chain([wakes]).flatten().min();
        tokio::select! {
            received = input.recv() => match received {
                Some((received, _hold)) => driver.input(received).await,
                None => return,
            },
            changed = next(&mut watch) => driver.changed(changed).await,
            Some(done) = driver.tasks.join_next() => match done {
                Ok(Some(event)) => driver.handle(event),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "a task of the link door broke off"),
            },
            _ = links.changed() => driver.links_changed().await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => driver.tick().await,
        }
    }
}

async fn next(watch: &mut SegmentWatch) -> Vec<Changed> {
    match watch.next().await {
        Ok(changed) => changed,
        Err(error) => {
            tracing::warn!(%error, "what has changed could not be read");
            // The catalog is looked at as a whole.
            vec![Changed::Catalog]
        }
    }
}

impl Driver {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Peers are to be told before long who carries a bucket.
    fn tell_carriers(&mut self, bucket: BucketId) {
        self.untold.insert(bucket);
        self.carriers_due.get_or_insert(Instant::now() + CARRIERS_DELAY);
    }

    fn handle(&mut self, event: Event<Payload>) {
        if let Event::Applied { bucket, outcome: Ok(_), .. } = &event {
            self.tell_carriers(*bucket);
        }
        self.note_lag(&event);
        let mut actions = Vec::new();
        let now_ms = self.now_ms();
        self.machine.handle(Event::Tick { now_ms }, &mut actions);
        self.machine.handle(event, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    /// Up to when all is here that peers have told of.
    fn note_lag(&self, event: &Event<Payload>) {
        let (lags, now) = (&self.hub.lags, Instant::now());
        match event {
            Event::Share { bucket, stance, .. } | Event::Applied { bucket, outcome: Ok(stance), .. } => {
                lags.stands(*bucket, &stance.vector);
            }
            Event::Received { peer, message } => match message {
                Message::Carry { bucket, vector, .. }
                | Message::Stand { bucket, vector, .. }
                | Message::Delta { bucket, to: vector, .. }
                    if self.shares.contains_key(&(*peer, *bucket)) =>
                {
                    lags.told(*bucket, *peer, vector, now);
                }
                _ => {}
            },
            Event::Unshare { peer, bucket } => lags.forget(*bucket, *peer),
            Event::Disconnected { peer } => lags.parted(peer, now),
            _ => {}
        }
    }

    async fn tick(&mut self) {
        if self.catalog_due.is_some_and(|due| due <= Instant::now()) {
            self.catalog_due = None;
            for peer in self.hub.peers() {
                self.offer(&peer).await;
            }
            // A bucket that is new may be one to gather, or to bring.
            self.hub.wanted.notify_one();
        }
        for peer in self.catalog_retries.take_due(Instant::now()) {
            // Who is asked where the catalog stands sends it first.
            if let Some(connected) = self.connected.get(&peer).filter(|peer| self.is_current(peer)) {
                connected.say(Body::Probe(Place { nonce: rand::rng().random(), ..Place::default() }));
            }
        }
        for bucket in self.changes.take_due(Instant::now()) {
            self.handle(Event::Committed { bucket });
        }
        if self.carriers_due.is_some_and(|due| due <= Instant::now()) {
            self.carriers_due = None;
            for bucket in std::mem::take(&mut self.untold) {
                let hub = self.hub.clone();
                self.tasks.spawn(async move { carriers(&hub, &bucket).await });
            }
        }
        let mut actions = Vec::new();
        let now_ms = self.now_ms();
        self.machine.handle(Event::Tick { now_ms }, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    async fn input(&mut self, input: Input) {
        match input {
            Input::Connected(peer) => {
                if !self.is_current(&peer) {
                    // Another has taken its place, and is announced, too.
                    return;
                }
                // It may take the place of a connection whose end has not been noticed.
                self.disconnected(&peer.id);
                self.connected.insert(peer.id, peer.clone());
                self.handle(Event::Connected { peer: peer.id });
                self.offer(&peer).await;
                self.hub.wanted.notify_one();
            }
            Input::Disconnected(peer) => {
                // Its place may have been taken meanwhile.
                if self.hub.peer(&peer.id).is_none() {
                    self.disconnected(&peer.id);
                    self.hub.bulk.give_up(&self.hub);
                }
            }
            Input::Names(peer, message) => {
                if self.is_current(&peer) {
                    self.handle(Event::Received { peer: peer.id, message });
                }
            }
            Input::Catalog(peer, packed) => {
                if self.is_current(&peer) {
                    self.import(&peer, packed).await;
                }
            }
            Input::Probe { peer, bucket, nonce, leads, asked } => {
                self.probes.retain(|_, waiting| !waiting.answer.is_closed());
                // Who asks over a connection that is not known here yet asks again.
                let Some(connected) = self.connected.get(&peer).filter(|peer| self.is_current(peer)) else { return };
                self.probes.insert(nonce, asked);
                match bucket {
                    Some(bucket) => self.handle(Event::Probe { peer, bucket, nonce, leads }),
                    None => connected.say(Body::Probe(Place { nonce, ..Place::default() })),
                }
            }
            Input::CatalogDue(peer) => {
                if self.is_current(&peer) {
                    self.offer(&peer).await;
                }
            }
            Input::Forgotten => {
                let buckets: Vec<_> = self.shares.keys().map(|(_, bucket)| *bucket).collect();
                buckets.into_iter().for_each(|bucket| self.tell_carriers(bucket));
            }
            Input::CatalogStand(peer, nonce) => {
                // What could not be taken in is not here: who waits for it asks again.
                if peer.is_catalog_here.load(Ordering::Relaxed) {
                    self.answer_probe(nonce, VersionVector::new());
                } else {
                    self.probes.remove(&nonce);
                }
            }
            Input::Promise(peer, bucket, word) => {
                if self.is_current(&peer) {
                    crate::gather::hear(&self.hub, &peer, bucket, word).await;
                }
            }
            Input::Lanes(answer) => {
                let lanes = self.machine.status().map(|(bucket, peer, lane)| (*bucket, *peer, lane)).collect();
                // Who asked may have gone.
                let _ = answer.send(lanes);
            }
        }
    }

    fn disconnected(&mut self, peer: &SegmentId) {
        self.shares.retain(|(id, _), _| id != peer);
        self.connected.remove(peer);
        // It sends its catalog when it connects.
        self.catalog_retries.done(peer);
        crate::gather::disconnected(&self.hub, peer);
        self.handle(Event::Disconnected { peer: *peer });
    }

    fn is_current(&self, peer: &Arc<Peer>) -> bool {
        self.hub.peer(&peer.id).is_some_and(|now| Arc::ptr_eq(&now, peer))
    }

    async fn changed(&mut self, changed: Vec<Changed>) {
        for change in changed {
            match change {
                Changed::Catalog => {
                    self.catalog_due.get_or_insert(Instant::now() + CATALOG_DELAY);
                }
                Changed::Bucket(bucket) => {
                    self.tell_carriers(bucket);
                    if self.changes.is_now(bucket, Instant::now()) {
                        self.handle(Event::Committed { bucket });
                    }
                    if self.hub.has_pins.load(Ordering::Relaxed) {
                        self.hub.wanted.notify_one();
                    }
                }
            }
        }
    }

    async fn links_changed(&mut self) {
        for peer in self.hub.peers() {
            if self.hub.link(&peer.id).is_none() {
                peer.close("the link is paused or deleted");
            } else {
                self.offer(&peer).await;
            }
        }
        self.hub.wanted.notify_one();
    }

    /// Tells `peer` of the clusters, tenants and buckets that the link covers, now or when what it was told before is written, and brings what goes over the link up to date.
    async fn offer(&mut self, peer: &Arc<Peer>) {
        let Some(offer) = peer.questions.offer() else { return self.share(peer).await };
        let is_sent = self.send_catalog(peer, offer.hold).await;
        // What the peer asks about next goes over the link by then.
        self.share(peer).await;
        for (nonce, hold) in offer.asked {
            if !is_sent {
                // Who asks waits on, and asks again over the next connection.
                break;
            }
            peer.control.say(Body::Stand(Place { nonce, ..Place::default() }), hold);
        }
        let (hub, peer) = (self.hub.clone(), peer.clone());
        self.tasks.spawn(async move {
            if peer.questions.written().await {
                // The door may be closing.
                let _ = hub.tell(Input::CatalogDue(peer)).await;
            }
            None
        });
    }

    /// Returns whether all of the catalog that goes over the link is on its way.
    async fn send_catalog(&self, peer: &Peer, hold: Hold) -> bool {
        let Some(link) = self.hub.link(&peer.id).filter(|link| link.direction.sends()) else { return true };
        match self.hub.segment.catalog().export(&|name| covers(&link, name)).await {
            Ok(exported) => peer.control.say(Body::Catalog(Packed::pack(exported)), hold),
            Err(error) => {
                self.hub.trouble(&peer.id, format!("the catalog could not be read: {error}"));
                return false;
            }
        }
        true
    }

    async fn import(&mut self, peer: &Arc<Peer>, packed: Packed) {
        let Some(link) = self.hub.link(&peer.id).filter(Link::receives) else { return };
        let imported = async {
            let exported = packed.unpack()?;
            self.hub.segment.catalog().import(&exported, &|name| covers(&link, name)).await
        };
        let imported = imported.await;
        peer.is_catalog_here.store(imported.is_ok(), Ordering::Relaxed);
        match imported {
            Ok(changes) => {
                self.catalog_retries.done(&peer.id);
                for (from, to) in &changes.renamed {
                    tracing::warn!(%from, %to, peer = peer.name, "two buckets turned out to have one path");
                }
                self.share(peer).await;
            }
            Err(error) => {
                tracing::warn!(peer = peer.name, %error, "a catalog was not taken in");
                self.hub.trouble(&peer.id, format!("its catalog was not taken in: {error}"));
                self.catalog_retries.failed(peer.id, Instant::now());
            }
        }
    }

    /// Brings what goes over the link to `peer` up to date with the catalog and the link.
    async fn share(&mut self, peer: &Arc<Peer>) {
        let Some(link) = self.hub.link(&peer.id) else { return };
        let buckets = match self.hub.segment.catalog().all_buckets().await {
            Ok(buckets) => buckets,
            Err(error) => {
                self.hub.trouble(&peer.id, format!("the catalog could not be read: {error}"));
                return;
            }
        };
        let terms = |path| {
            let stages = self.hub.whole_patience(path).is_some();
            Terms { sends: link.direction.sends(), receives: link.receives(), stages }
        };
        // An id that is also at a path which the link does not cover is none of the peer's.
        let elsewhere = buckets.iter().filter(|info| !link.scope.covers(&info.path)).map(|info| info.id);
        let elsewhere: HashSet<BucketId> = elsewhere.collect();
        let covered = buckets.iter().filter(|info| link.scope.covers(&info.path) && !elsewhere.contains(&info.id));
        let covered: BTreeMap<BucketId, Terms> = covered.map(|info| (info.id, terms(&info.path))).collect();
        // The machine remembers lanes of an earlier connection, for status.
        let lanes = self.machine.status().filter(|(_, id, _)| **id == peer.id).map(|(bucket, ..)| *bucket);
        let gone: Vec<_> = lanes.filter(|bucket| !covered.contains_key(bucket)).collect();
        for bucket in gone {
            self.shares.remove(&(peer.id, bucket));
            self.hub.held.forget(bucket, peer.id);
            self.handle(Event::Unshare { peer: peer.id, bucket });
        }
        for (bucket, terms) in covered {
            if self.shares.get(&(peer.id, bucket)) == Some(&terms) {
                continue;
            }
            match stance(&self.hub, &bucket).await {
                Ok(stance) => {
                    self.shares.insert((peer.id, bucket), terms);
                    self.tell_carriers(bucket);
                    self.handle(Event::Share { peer: peer.id, bucket, terms, stance });
                }
                Err(error) => tracing::warn!(%bucket, %error, "a bucket can't be shared"),
            }
        }
    }

    fn answer_probe(&mut self, nonce: u64, vector: VersionVector) {
        if let Some(asked) = self.probes.remove(&nonce) {
            // Who asked may have gone.
            let _ = asked.answer.send(vector);
        }
    }

    fn act(&mut self, action: Action<Payload>) {
        let hub = self.hub.clone();
        match action {
            Action::Send { peer, message } => {
                let Some(peer) = hub.peer(&peer) else { return };
                if let Message::Refused { bucket, reason } = message {
                    return peer.reply(wire::to_body(Message::Refused { bucket, reason }));
                }
                let mut hold = match &message {
                    // Of a question that is answered later the first word counts: those that follow are bounded by lane.
                    Message::Stand { .. } | Message::Compares { .. } => peer.questions.answer_about_bucket(),
                    _ => None,
                };
                let message = message.map(|payload: Payload| {
                    hold = payload.hold;
                    payload.packed
                });
                peer.control.say(wire::to_body(message), hold);
            }
            Action::Cut { peer, bucket, from } => {
                self.tasks.spawn(async move {
                    let outcome = cut(&hub, &peer, &bucket, from).await.map_err(|error| error.to_string());
                    Some(Event::Cut { peer, bucket, outcome })
                });
            }
            Action::Stage { peer, bucket, number, payload } => {
                self.tasks.spawn(async move {
                    let payload = whole::stage(&hub, &peer, &bucket, payload).await;
                    Some(Event::Staged { peer, bucket, number, payload })
                });
            }
            Action::Apply { peer, bucket, payload } => {
                self.tasks.spawn(async move {
                    let outcome = apply(&hub, &peer, &bucket, payload).await.map_err(|error| error.to_string());
                    if let Err(reason) = &outcome {
                        tracing::warn!(%bucket, %reason, "changes were not taken in");
                    }
                    Some(Event::Applied { peer, bucket, outcome })
                });
            }
            Action::Read { peer, bucket, nonce } => {
                self.tasks.spawn(async move {
                    // A bucket that has gone meanwhile is nowhere.
                    let stance = stance(&hub, &bucket).await.unwrap_or_default();
                    Some(Event::Read { peer, bucket, nonce, stance })
                });
            }
            Action::Learn { peer, bucket, carriers: told } => {
                let learning = self.learning.clone();
                match learning.lock().entry((peer, bucket)) {
                    // One at a time, however many the peer sends.
                    Entry::Occupied(mut under_way) => {
                        under_way.insert(Some(told));
                        return;
                    }
                    Entry::Vacant(none) => none.insert(None),
                };
                self.tasks.spawn(async move {
                    let is_news = learn(&hub, &learning, peer, bucket, told).await;
                    if is_news { carriers(&hub, &bucket).await } else { None }
                });
            }
            Action::Stands { nonce, vector, .. } => self.answer_probe(nonce, vector),
            Action::Compares { nonce, .. } => {
                if let Some(asked) = self.probes.get(&nonce) {
                    asked.is_comparing.store(true, Ordering::Relaxed);
                }
            }
            Action::Close { peer, reason } => {
                if let Some(peer) = hub.peer(&peer) {
                    tracing::warn!(peer = peer.name, reason, "the connection is ended");
                    peer.say(Body::Bye(reason.clone()));
                    peer.close(&reason);
                }
            }
        }
    }
}

/// Whether a link lets something of the catalog pass.
fn covers(link: &Link, name: &CatalogName) -> bool {
    match name {
        CatalogName::Cluster(cluster) => link.scope.covers_cluster(cluster),
        CatalogName::Tenant(tenant) => link.scope.covers_tenant(tenant),
        CatalogName::Bucket(bucket) => link.scope.covers(bucket),
    }
}

/// What peers are told of where this segment stands.
async fn stance(hub: &Hub, bucket: &BucketId) -> Result<Stance> {
    hub.segment.catalog().bucket_with_id(bucket).await?.stance().await
}

async fn cut(hub: &Hub, peer: &SegmentId, bucket: &BucketId, from: VersionVector) -> Result<Piece<Payload>> {
    let gone = || Error::new(ErrorKind::Offline, "the peer is not connected any more");
    let permit = match hub.peer(peer) {
        // What is cut must be written before more is: a slow link does not fill the memory.
        Some(peer) => peer.cuts.clone().acquire_owned().await.map_err(|_| gone())?,
        None => return Err(gone()),
    };
    let limit = DeltaLimit { registers: STEP_REGISTERS, bytes: hub.limits.step_bytes };
    let bucket = hub.segment.catalog().bucket_with_id(bucket).await?;
    bucket.introduce(peer).await?;
    let delta = bucket.changes_since_up_to(&from, limit).await?;
    let (is_empty, is_whole) = (delta.registers.is_empty(), delta.is_whole);
    // Who compares is to be sent what is below, too.
    let to = if bucket.is_comparing().await? { from.clone() } else { delta.to.clone() };
    let encoded = Bytes::from(delta.encode(&hub.segment.id()));
    let payload = Payload { packed: Packed::pack(encoded), hold: Some(Arc::new(permit)), staged: None };
    Ok(Piece { from, to, is_empty, is_whole, payload })
}

async fn apply(hub: &Arc<Hub>, peer: &SegmentId, id: &BucketId, payload: Payload) -> Result<Stance> {
    let Payload { packed, staged, .. } = payload;
    let (delta, _) = Delta::decode_bounded(packed.unpack()?, REGISTERS_MAX)?;
    let bucket = hub.segment.catalog().bucket_with_id(id).await?;
    let before = bucket.position().await?;
    // What it was cut after must be here: else it would show before what it was written after (P7).
    if !before.dominates(&delta.from) {
        if bucket.is_comparing().await? {
            // The peer has heard something that was said before this segment fell back.
            begin_anew(hub);
        }
        return Err(Error::new(ErrorKind::Precondition, "changes before these are not here"));
    }
    let wants_data = hub.keep_data(&bucket).await?;
    let applied = whole::apply(hub, peer, id, &bucket, &delta, staged).await;
    let stance = bucket.stance().await?;
    if !stance.vector.dominates(&before) {
        begin_anew(hub);
    }
    applied?;
    if wants_data {
        hub.wanted.notify_one();
        if !bucket.wanted(None, 1).await?.is_empty() {
            hub.lags.lacks_data(*id, true, Instant::now());
        }
    }
    hub.rates.add(*id, *peer, Amount { names: delta.names(), changes: distance(&before, &delta.to), bytes: 0 });
    Ok(stance)
}

/// Where this segment stands now, which is below where it stood, is said at the beginning of connections.
fn begin_anew(hub: &Hub) {
    for peer in hub.peers() {
        peer.close("this segment was away for longer than deletions are remembered, and compares all that it holds");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Identity, Invites, Links};
    use tokio::sync::oneshot;
    use tombolo_core::{BucketPolicy, CreateOptions, GetOptions, OpenOptions, PutOptions, Segment};

    pub(crate) async fn hub(dir: &std::path::Path, name: &str) -> (Arc<Hub>, tombolo_core::Bucket) {
        let create = CreateOptions { name: name.into(), cluster: "C".into() };
        let segment = Segment::create(dir.join(name), create, OpenOptions::default()).await.unwrap();
        let path: tombolo_core::BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let (dir, limits) = (segment.dir().to_owned(), Default::default());
        let parts = (Identity::load_or_create(&dir), Links::open(&dir), Invites::open(&dir));
        let (identity, links, invites) = (parts.0.unwrap(), parts.1.unwrap(), parts.2.unwrap());
        let hub = Hub::new(segment, identity, links, invites, limits, Vec::new(), 1, mpsc::channel(1).0);
        (Arc::new(hub), bucket)
    }

    /// P7: after a delta that was refused, the one behind it on the wire came first and was taken.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_delta_is_not_taken_before_what_it_was_cut_after() {
        let dir = tempfile::tempdir().unwrap();
        let ((sender, from), (receiver, to)) = (hub(dir.path(), "a").await, hub(dir.path(), "b").await);
        let payload = |delta: &Delta| {
            let encoded = Bytes::from(delta.encode(&sender.segment.id()));
            Payload { packed: Packed::pack(encoded), ..Payload::default() }
        };
        let start = to.vector().await.unwrap();
        from.put("first", "1", PutOptions::default()).await.unwrap();
        let first = from.changes_since(&start).await.unwrap();
        from.put("second", "2", PutOptions::default()).await.unwrap();
        let second = from.changes_since(&first.to).await.unwrap();
        let id = second.bucket;
        let refused = apply(&receiver, &sender.segment.id(), &id, payload(&second)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(to.get("second", GetOptions::default()).await.is_err());
        for delta in [&first, &second] {
            apply(&receiver, &sender.segment.id(), &id, payload(delta)).await.unwrap();
        }
        assert!(to.get("second", GetOptions::default()).await.is_ok());
    }

    /// P12, P13: each table of carriers that a peer sent began a task of its own. One is taken in at a time, and of those that come meanwhile the last.
    #[tokio::test(flavor = "multi_thread")]
    async fn tables_of_carriers_are_taken_in_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, bucket) = hub(dir.path(), "a").await;
        let id = bucket.changes_since(&VersionVector::default()).await.unwrap().bucket;
        let table = |segment: u8| {
            let mut carriers = tombolo_core::Carriers::default();
            carriers.entry(SegmentId([segment; 16])).turns = 2;
            carriers
        };
        let (peer, learning) = (SegmentId([9; 16]), Learning::default());
        learning.lock().insert((peer, id), Some(table(2)));
        assert!(learn(&hub, &learning, peer, id, table(1)).await);
        assert!(learning.lock().is_empty());
        let known = bucket.carriers().await.unwrap();
        assert!([1, 2].iter().all(|segment| known.get(&SegmentId([*segment; 16])).is_some()), "{known:?}");
    }

    /// P12, P13: a peer that asks for the catalog again and again, and takes no answer, had as many copies of it in memory as it liked. There is one, and each question is
    /// answered when the peer reads.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_that_asks_and_does_not_read_fills_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _bucket) = hub(dir.path(), "a").await;
        let mut hub = Arc::into_inner(hub).unwrap();
        let (sender, input) = mpsc::channel(16);
        hub.input = sender.clone();
        let hub = Arc::new(hub);
        let (scope, direction) = (crate::Scope::parse(["C"]).unwrap(), crate::Direction::Both);
        let link = Link { scope, direction, ..crate::links::tests::link(9, "peer") };
        let id = link.peer;
        hub.links.put(link).unwrap();
        let (control, mut queues) = crate::outbox::Outbox::new();
        let peer = Arc::new(Peer::for_test(id, control));
        hub.register(&peer).unwrap();
        tokio::spawn(run(hub.clone(), input));
        sender.send((Input::Connected(peer.clone()), None)).await.unwrap();
        let questions = crate::questions::QUESTIONS_MAX as u64;
        for nonce in 0..questions {
            peer.questions.ask_for_catalog(nonce).unwrap();
            sender.send((Input::CatalogDue(peer.clone()), None)).await.unwrap();
        }
        assert!(peer.questions.ask().is_err(), "it has enough open");
        // All that came before this is done.
        let (answer, lanes) = oneshot::channel();
        sender.send((Input::Lanes(answer), None)).await.unwrap();
        lanes.await.unwrap();
        let mut waiting = Vec::new();
        while let Some(said) = queues.said() {
            waiting.push(said);
        }
        let catalogs = |said: &[(Body, Hold)]| said.iter().filter(|(body, _)| matches!(body, Body::Catalog(_))).count();
        assert_eq!(catalogs(&waiting), 1, "{} frames wait", waiting.len());
        let is_answer = |body: &Body| matches!(body, Body::Stand(_));
        // It reads. Those that it asked before the catalog was sent are answered by that one.
        let mut answered = waiting.iter().filter(|(body, _)| is_answer(body)).count() as u64;
        assert!(answered < questions, "nobody was kept waiting");
        drop(waiting);
        while answered < questions {
            let said = tokio::time::timeout(Duration::from_secs(60), queues.hear()).await.unwrap().unwrap();
            answered += u64::from(is_answer(&said.0));
        }
        assert!(peer.questions.ask().is_ok());
    }
}
