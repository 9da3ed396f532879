//! Bringing chunks here: at once for whoever waits for them, and in bulk.
//!
//! A request names a few chunks and goes over one connection; what it does not bring is asked of the next segment. Bulk requests are made by a few
//! workers for each bulk connection, which take what waits in one queue: so a large object and a thousand small ones fill the link alike.

use crate::hub::{Hub, Peer};
use crate::outbox::Outbox;
use crate::rate::Amount;
use crate::wire::{Chunk, Chunks, Want};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tombolo_core::{
    BucketId, ChunkId, ChunkSource, Codec, Error, ErrorKind, Residence, Result, SegmentId, StoredChunk,
};

/// Chunks that one request names.
const REQUEST_CHUNKS: usize = 16;
/// Requests under way on one bulk connection.
pub(crate) const REQUESTS_PER_CONNECTION: usize = 3;
/// How many segments may be asked one after the other for a chunk that those linked here don't have.
pub(crate) const HOPS_MAX: u32 = 3;
/// A connection on which fewer bytes come within the silence timeout carries no chunks.
const MOVING_BYTES: u64 = 4 << 10;
/// Who sends something else all the time, but not what was asked for, is not waited for longer than this many times the silence timeout.
const SILENCES_MAX: u32 = 20;
/// Nor is who gives signs of life all the time, and no chunk within this many times the silence timeout.
const SIGNS_MAX: u32 = 120;

/// Brings chunks for readers.
pub(crate) struct Source(pub(crate) Weak<Hub>);

#[async_trait]
impl ChunkSource for Source {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        let hub = self.0.upgrade().ok_or_else(|| Error::new(ErrorKind::Offline, "the links are closed"))?;
        fetch(&hub, chunks, true, HOPS_MAX, None).await
    }
}

/// Brings chunks here from whoever has them; `but` is not asked. [`ErrorKind::Offline`] if some could not be brought.
pub(crate) async fn fetch(
    hub: &Arc<Hub>,
    chunks: Vec<ChunkId>,
    is_interactive: bool,
    hops: u32,
    but: Option<SegmentId>,
) -> Result<()> {
    let mut groups: FuturesUnordered<_> = chunks
        .chunks(REQUEST_CHUNKS)
        .enumerate()
        .map(|(at, group)| fetch_group(hub, group.to_vec(), is_interactive, hops, but, at))
        .collect();
    let mut outcome = Ok(());
    while let Some(group) = groups.next().await {
        outcome = outcome.and(group);
    }
    outcome
}

async fn fetch_group(
    hub: &Arc<Hub>,
    mut wanted: Vec<ChunkId>,
    is_interactive: bool,
    hops: u32,
    but: Option<SegmentId>,
    at: usize,
) -> Result<()> {
    let mut reason = None;
    for peer in sources(hub, but) {
        // The first group goes with the names, which is the quickest; others side by side.
        let outbox = if at == 0 { peer.control.clone() } else { pick(&peer, at) };
        let (brought, error) = ask(hub, &peer, &outbox, &wanted, is_interactive, hops, Residence::Cached).await;
        wanted.retain(|id| !brought.contains_key(id));
        reason = error.or(reason);
        if wanted.is_empty() {
            return Ok(());
        }
    }
    Err(offline(&wanted, reason))
}

fn offline(wanted: &[ChunkId], reason: Option<Error>) -> Error {
    let first = wanted.first().map(ToString::to_string).unwrap_or_default();
    let message = format!("no linked segment that is connected has chunk {first} (of {} wanted)", wanted.len());
    let error = Error::new(ErrorKind::Offline, message);
    match reason {
        Some(reason) => error.because(reason),
        None => error,
    }
}

/// Who can be asked, the nearest first.
fn sources(hub: &Hub, but: Option<SegmentId>) -> Vec<Arc<Peer>> {
    let mut peers = hub.peers();
    peers.retain(|peer| Some(peer.id) != but && hub.link(&peer.id).is_some_and(|link| link.direction.receives()));
    peers.sort_by_key(|peer| peer.control.rtt_us().unwrap_or(u64::MAX));
    peers
}

fn pick(peer: &Peer, at: usize) -> Outbox {
    let bulk = peer.bulk.lock();
    let open: Vec<&Outbox> = bulk.iter().filter(|outbox| !outbox.is_closed()).collect();
    let found = open.get(at.checked_rem(open.len()).unwrap_or_default());
    found.map_or_else(|| peer.control.clone(), |outbox| (*outbox).clone())
}

/// Asks one segment and stores what it sends, durably. Returns which chunks came, and how long each is; and why there may be more, if the answer did not come to its end.
async fn ask(
    hub: &Arc<Hub>,
    peer: &Peer,
    outbox: &Outbox,
    ids: &[ChunkId],
    is_interactive: bool,
    hops: u32,
    residence: Residence,
) -> (HashMap<ChunkId, u64>, Option<Error>) {
    let mut named = BytesMut::with_capacity(ids.len() * 32);
    let mut waiting = HashSet::with_capacity(ids.len());
    ids.iter().filter(|id| waiting.insert(**id)).for_each(|id| named.put_slice(&id.0));
    let want = Want { request: 0, chunks: named.freeze(), is_interactive, hops };
    let (request, mut answers) = outbox.ask(want);
    // Kept until all of this answer is here: a chunk may come before the node that refers to it.
    let import = hub.segment.chunk_import_as(residence);
    let mut brought = HashMap::new();
    let mut moved = Instant::now();
    let outcome = loop {
        let answer = match next_answer(&mut answers, outbox, hub.limits.silence_timeout).await {
            Ok(answer) => answer,
            Err(error) => break Some(error),
        };
        let is_last = answer.is_last;
        if !answer.chunks.is_empty() {
            moved = Instant::now();
        } else if !is_last && moved.elapsed() > hub.limits.silence_timeout * SIGNS_MAX {
            break Some(Error::new(ErrorKind::Offline, "the answer has stalled"));
        }
        let stored = answer.chunks.into_iter().map(|chunk| accept(&mut waiting, chunk)).collect::<Result<Vec<_>>>();
        let ids = stored
            .as_ref()
            .map(|stored| stored.iter().map(|chunk| (chunk.id, u64::from(chunk.raw_bytes))).collect::<Vec<_>>());
        let ids = ids.unwrap_or_default();
        // Frame by frame, so that one frame of an answer is in memory, and its readers go on.
        let imported = match stored {
            Ok(stored) if stored.is_empty() => Ok(0),
            Ok(stored) => import.import(stored).await,
            Err(error) => Err(error),
        };
        if let Err(error) = imported {
            if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Damaged) {
                peer.close("it sends chunks that nobody asked for, or that are not what their names say");
            }
            break Some(error);
        }
        brought.extend(ids);
        if is_last {
            break None;
        }
    };
    outbox.forget(request);
    (brought, outcome)
}

/// The next frame of an answer. On a slow link it may be long in coming, behind others on its connection.
async fn next_answer(answers: &mut mpsc::Receiver<Chunks>, outbox: &Outbox, silence: Duration) -> Result<Chunks> {
    let mut heard = outbox.heard_bytes();
    for _ in 0..SILENCES_MAX {
        if let Ok(answer) = timeout(silence, answers.recv()).await {
            return answer.ok_or_else(|| Error::new(ErrorKind::Offline, "the connection ended before the answer did"));
        }
        let before = std::mem::replace(&mut heard, outbox.heard_bytes());
        if heard - before < MOVING_BYTES {
            break;
        }
    }
    Err(Error::new(ErrorKind::Offline, "the answer has stalled"))
}

/// A chunk that was asked for and has not come yet, as the engine takes it; not verified.
fn accept(waiting: &mut HashSet<ChunkId>, chunk: Chunk) -> Result<StoredChunk> {
    let bad = |what: &str| Error::damaged(format!("a chunk that was sent {what}"));
    let id = ChunkId::from_slice(&chunk.id)?;
    if !waiting.remove(&id) {
        return Err(bad("was not asked for, or comes twice"));
    }
    let codec = u8::try_from(chunk.codec).ok().and_then(Codec::from_byte);
    let codec = codec.ok_or_else(|| bad("is compressed in a way that this build does not know"))?;
    // A copy of its own: the frame that it came in is let go.
    Ok(StoredChunk { id, codec, raw_bytes: chunk.raw_bytes, payload: Bytes::copy_from_slice(&chunk.payload) })
}

/// Chunks that are to be brought in bulk.
#[derive(Default)]
pub(crate) struct Bulk {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// What has been asked for, each with others that wait for the same.
    under_way: HashMap<(ChunkId, Residence), Vec<Item>>,
}

struct Item {
    bucket: BucketId,
    id: ChunkId,
    residence: Residence,
    done: oneshot::Sender<Result<(), String>>,
    /// Who did not have it.
    tried: Vec<SegmentId>,
}

/// What one request is to bring: each chunk once, all to stay for as long.
struct Batch<'a> {
    bulk: &'a Bulk,
    items: Vec<Item>,
}

impl Batch<'_> {
    fn residence(&self) -> Residence {
        self.items.first().map_or(Residence::Kept, |item| item.residence)
    }

    /// It has been asked for. Whoever waits for any of it.
    fn end(mut self) -> Vec<Item> {
        let mut items = std::mem::take(&mut self.items);
        let mut queue = self.bulk.queue.lock();
        for at in 0..items.len() {
            let others = items.get(at).and_then(|item| queue.under_way.remove(&(item.id, item.residence)));
            items.extend(others.into_iter().flatten());
        }
        items
    }
}

impl Drop for Batch<'_> {
    /// Who was to ask for it is gone: whoever waits hears that.
    fn drop(&mut self) {
        if !self.items.is_empty() {
            let mut queue = self.bulk.queue.lock();
            self.items.iter().for_each(|item| drop(queue.under_way.remove(&(item.id, item.residence))));
        }
    }
}

impl Bulk {
    /// Brings one chunk of a bucket here, when its turn comes.
    pub(crate) async fn bring(&self, hub: &Hub, bucket: BucketId, id: ChunkId, residence: Residence) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        self.queue.lock().waiting.push_back(Item { bucket, id, residence, done, tried: Vec::new() });
        self.filled.notify_one();
        if hub.peers().is_empty() {
            // The last one may have gone before this was there to be given up.
            self.give_up(hub);
        }
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Error::new(ErrorKind::Offline, reason)),
            Err(_) => Err(Error::new(ErrorKind::Offline, "the links are closed")),
        }
    }

    /// What waits next that `peer` has not been asked for. Waits for it.
    async fn take(&self, peer: &SegmentId) -> Batch<'_> {
        loop {
            // Woken by whatever is put back from here on, also if that is before it waits.
            let mut filled = std::pin::pin!(self.filled.notified());
            filled.as_mut().enable();
            let mut taken: Vec<Item> = Vec::new();
            {
                let mut queue = self.queue.lock();
                let mut passed = Vec::new();
                while taken.len() < REQUEST_CHUNKS
                    && let Some(item) = queue.waiting.pop_front()
                {
                    if item.done.is_closed() {
                        continue;
                    }
                    // Versions that came together may have chunks in common.
                    if let Some(others) = queue.under_way.get_mut(&(item.id, item.residence)) {
                        others.push(item);
                        continue;
                    }
                    let is_other = taken.first().is_some_and(|first| first.residence != item.residence);
                    if item.tried.contains(peer) || is_other {
                        passed.push(item);
                    } else {
                        queue.under_way.insert((item.id, item.residence), Vec::new());
                        taken.push(item);
                    }
                }
                passed.into_iter().rev().for_each(|item| queue.waiting.push_front(item));
                if !queue.waiting.is_empty() && !taken.is_empty() {
                    self.filled.notify_one();
                }
            }
            if !taken.is_empty() {
                return Batch { bulk: self, items: taken };
            }
            filled.await;
        }
    }

    /// Tries elsewhere what `peer` did not have; what nobody has is given up for now.
    fn give_back(&self, hub: &Hub, peer: &SegmentId, items: Vec<Item>, reason: &str, is_missing: bool) {
        let others: Vec<SegmentId> = sources(hub, None).iter().map(|peer| peer.id).collect();
        for mut item in items {
            if is_missing {
                item.tried.push(*peer);
            }
            if others.iter().all(|other| item.tried.contains(other)) {
                // Who waits may have gone.
                let _ = item.done.send(Err(reason.to_owned()));
            } else {
                self.queue.lock().waiting.push_back(item);
                // The one that is woken first may be of a peer that has been asked.
                self.filled.notify_waiters();
            }
        }
    }

    /// Somebody has gone: what nobody is left to be asked for is given up for now.
    pub(crate) fn give_up(&self, hub: &Hub) {
        let others: Vec<SegmentId> = sources(hub, None).iter().map(|peer| peer.id).collect();
        let mut queue = self.queue.lock();
        for item in std::mem::take(&mut queue.waiting) {
            if others.iter().all(|other| item.tried.contains(other)) {
                let _ = item.done.send(Err("no linked segment that has it is connected".into()));
            } else {
                queue.waiting.push_back(item);
            }
        }
    }
}

/// Takes chunks from the queue over one connection until that is closed.
pub(crate) async fn work(hub: Arc<Hub>, peer: Arc<Peer>, outbox: Outbox) {
    let receives = || hub.link(&peer.id).is_some_and(|link| link.direction.receives());
    while !outbox.is_closed() {
        let batch = tokio::select! {
            batch = hub.bulk.take(&peer.id) => batch,
            _ = outbox.closed() => break,
        };
        if !receives() {
            hub.bulk.give_back(&hub, &peer.id, batch.end(), "the link sends only", true);
            continue;
        }
        let ids: Vec<ChunkId> = batch.items.iter().map(|item| item.id).collect();
        let (mut brought, error) = ask(&hub, &peer, &outbox, &ids, false, HOPS_MAX, batch.residence()).await;
        let (here, missing): (Vec<_>, Vec<_>) =
            batch.end().into_iter().partition(|item| brought.contains_key(&item.id));
        for item in here {
            // For the first that waits; it has come once.
            let bytes = brought.insert(item.id, 0).unwrap_or_default();
            hub.rates.add(item.bucket, peer.id, Amount { bytes, ..Amount::default() });
            let _ = item.done.send(Ok(()));
        }
        match error {
            None => {
                let reason = format!("'{}' does not have it either", peer.name);
                hub.bulk.give_back(&hub, &peer.id, missing, &reason, true);
            }
            Some(error) => {
                // Space, for instance, is not the peer's trouble; a broken connection is nobody's.
                let is_final = !matches!(error.kind(), ErrorKind::Offline | ErrorKind::Damaged);
                tracing::debug!(peer = peer.name, %error, "chunks were not brought");
                let reason = error.to_string();
                if is_final {
                    for item in missing {
                        let _ = item.done.send(Err(reason.clone()));
                    }
                } else {
                    // Who was asked and goes on not answering has been asked: else its own workers would take the same again and again, and nobody would hear why nothing comes.
                    let was_asked = !outbox.is_closed() || hub.peer(&peer.id).is_none();
                    hub.bulk.give_back(&hub, &peer.id, missing, &reason, was_asked);
                }
            }
        }
    }
}
