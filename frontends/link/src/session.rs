//! The receiving side of a connection: frames in, and to whom each is for.

use crate::fetch::HOPS_MAX;
use crate::gather::Word;
use crate::hub::{Hub, Input, Payload, Peer};
use crate::outbox::Outbox;
use crate::rotate;
use crate::wire::{self, Body, Chunk, Chunks, Frame, Want};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tombolo_core::sync::Message;
use tombolo_core::{ChunkId, Error, ErrorKind, Result, VersionVector};

/// Requests of one connection that are answered at the same time.
const ANSWERS_MAX: usize = 8;
/// Bytes of requests and questions of one connection that have come and are not answered. Whoever reads them must not wait for answers to be sent: with both sides
/// waiting for that nobody would read.
const WAITING_BYTES: u32 = 4 << 20;
/// Each counts as so many at least.
const WAITING_BYTES_MIN: u32 = 512;
/// Bytes of what one connection for names has brought and the driver has not dealt with, but for deltas, which have a budget of their own. Whatever comes in one frame fits.
pub(crate) const ARRIVED_BYTES: usize = wire::FRAME_BYTES_MAX;
/// Each frame counts as so many at least.
const ARRIVED_BYTES_MIN: usize = 512;
/// An answer is sent in frames of about this many bytes.
const CHUNK_FRAME_BYTES: usize = 1 << 20;
/// The same where names go: they don't wait for more than that, and a chunk.
const CONTROL_FRAME_BYTES: usize = 64 << 10;

/// Reads frames until the connection ends; says why it did.
pub(crate) async fn read(
    hub: &Arc<Hub>,
    peer: &Arc<Peer>,
    outbox: &Outbox,
    stream: impl AsyncRead + Unpin,
    is_control: bool,
) -> Result<()> {
    let mut stream = stream;
    let answers = Arc::new(Semaphore::new(ANSWERS_MAX));
    let waiting = Arc::new(Semaphore::new(WAITING_BYTES as usize));
    let mut answering = JoinSet::new();
    let mut pings = interval(sign_of_life(hub));
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reading = Box::pin(frame(&mut stream));
    loop {
        let received = tokio::select! {
            received = &mut reading => received?,
            _ = pings.tick() => {
                outbox.ping();
                peer.comparing.expire();
                continue;
            }
            Some(_) = answering.join_next() => continue,
            reason = outbox.closed() => return Err(Error::new(ErrorKind::Offline, reason)),
        };
        drop(reading);
        let Some((frame_read, bytes)) = received else {
            return Err(Error::new(ErrorKind::Offline, "the other side has closed the connection"));
        };
        peer.traffic.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(body) = frame_read.body {
            match body {
                Body::Ping(sent) => outbox.say(Body::Pong(sent), peer.questions.ask()?),
                Body::Pong(sent) => outbox.ponged(sent),
                Body::Chunks(chunks) => outbox.answered(chunks).await,
                Body::Bye(reason) => {
                    let reason: String = reason.chars().take(500).collect();
                    return Err(Error::new(ErrorKind::Offline, format!("the other side ended it: {reason}")));
                }
                Body::Want(want) => {
                    let ids = wire::wanted(&want)?;
                    let (waits, answers) = (its_turn(&waiting, bytes, outbox).await?, answers.clone());
                    let (hub, peer, outbox) = (hub.clone(), peer.clone(), outbox.clone());
                    answering.spawn(async move {
                        let _waits = waits;
                        if let Err(error) = answer_in_time(&hub, &peer, &outbox, answers, (want, ids)).await {
                            tracing::debug!(peer = peer.name, %error, "a request for chunks was not answered in full");
                        }
                    });
                }
                Body::Compared(answer) if is_control => peer.comparing.answered(answer),
                Body::Compare(question) if is_control => {
                    let (waits, answers) = (its_turn(&waiting, bytes, outbox).await?, answers.clone());
                    let (hub, peer) = (hub.clone(), peer.clone());
                    answering.spawn(async move {
                        let _waits = waits;
                        // Held until the answer is written: a peer that does not read is answered no more.
                        let Ok(permit) = answers.acquire_owned().await else { return };
                        let answer = crate::compare::answer(&hub, &peer, question).await;
                        peer.control.say(Body::Compared(answer), Some(Arc::new(permit)));
                    });
                }
                body if is_control => names(hub, peer, body, bytes).await?,
                _ => return Err(Error::damaged("a bulk connection carries chunks only")),
            }
        }
        reading = Box::pin(frame(&mut stream));
    }
}

/// Room for one more request of so many bytes; waits for it.
async fn its_turn(waiting: &Arc<Semaphore>, bytes: usize, outbox: &Outbox) -> Result<OwnedSemaphorePermit> {
    let share = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(WAITING_BYTES_MIN, WAITING_BYTES);
    tokio::select! {
        permit = waiting.clone().acquire_many_owned(share) => {
            permit.map_err(|_| Error::new(ErrorKind::Offline, "the connection is closing"))
        }
        reason = outbox.closed() => Err(Error::new(ErrorKind::Offline, reason)),
    }
}

async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Frame, usize)>> {
    wire::read(stream, wire::FRAME_BYTES_MAX).await
}

async fn names(hub: &Arc<Hub>, peer: &Arc<Peer>, body: Body, bytes: usize) -> Result<()> {
    let mut hold = match &body {
        Body::Delta(_) => None,
        _ => Some(take(&peer.arrivals, bytes.clamp(ARRIVED_BYTES_MIN, ARRIVED_BYTES)).await?),
    };
    let input = match body {
        Body::Catalog(packed) => Input::Catalog(peer.clone(), packed),
        Body::NewKey(key) => return rotate::heard(hub, peer, &key).await,
        Body::KeyTaken(key) => return rotate::taken(hub, peer, &key).await,
        Body::Probe(place) if place.bucket.is_empty() => {
            peer.questions.ask_for_catalog(place.nonce)?;
            Input::CatalogDue(peer.clone())
        }
        Body::Stand(place) if place.bucket.is_empty() => Input::CatalogStand(peer.clone(), place.nonce),
        Body::Gathers(place) => promise(peer, &place, |_| Word::Gathers)?,
        Body::Holds(place) => promise(peer, &place, Word::Holds)?,
        Body::Returns(place) => promise(peer, &place, |_| Word::Returns(place.nonce))?,
        Body::Released(place) => promise(peer, &place, |_| Word::Released(place.nonce))?,
        body => {
            let Some(message) = wire::to_message(&body)? else { return Ok(()) };
            if matches!(message, Message::Probe { .. }) {
                peer.questions.ask_about_bucket()?;
            }
            if let Message::Delta { bucket, payload, .. } = &message {
                let unpacked = usize::try_from(payload.unpacked).unwrap_or(usize::MAX);
                let share = bytes.max(unpacked).min(hub.limits.delta_bytes);
                let at_once = peer.deltas.clone().try_acquire_many_owned(u32::try_from(share).unwrap_or(u32::MAX));
                hold = Some(match at_once {
                    Ok(permit) => Arc::new(permit),
                    // What waits for data may do so for long; meanwhile answers and chunks behind this must come through. It is sent again later.
                    Err(TryAcquireError::NoPermits) if hub.held.is_any(&peer.id) => {
                        let reason = "changes that wait for data have taken all memory for changes".into();
                        peer.reply(wire::to_body(Message::Refused { bucket: *bucket, reason }));
                        return Ok(());
                    }
                    Err(_) => take(&peer.deltas, share).await?,
                });
            }
            // A delta's is given back when it has been taken in.
            let of_delta = hold.take_if(|_| matches!(message, Message::Delta { .. }));
            Input::Names(peer.clone(), message.map(|packed| Payload { packed, hold: of_delta, staged: None }))
        }
    };
    hub.arrived(input, hold).await
}

/// Takes so many bytes of a budget; waits for them.
async fn take(budget: &Arc<Semaphore>, bytes: usize) -> Result<Arc<OwnedSemaphorePermit>> {
    let permit = budget.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
    permit.map(Arc::new).map_err(|_| Error::new(ErrorKind::Offline, "the link is closing"))
}

fn promise(peer: &Arc<Peer>, place: &wire::Place, word: impl FnOnce(VersionVector) -> Word) -> Result<Input> {
    let (bucket, vector) = wire::bucket_and_vector(place)?;
    Ok(Input::Promise(peer.clone(), bucket, word(vector)))
}

/// Answers a request, and lets whoever asks hear now and then that the answer is being worked on; says that it ends also where it is cut short.
async fn answer_in_time(
    hub: &Arc<Hub>,
    peer: &Arc<Peer>,
    outbox: &Outbox,
    answers: Arc<Semaphore>,
    (want, ids): (Want, Vec<ChunkId>),
) -> Result<()> {
    let (request, is_interactive) = (want.request, want.is_interactive);
    let mut signs = tokio::time::interval_at(Instant::now() + sign_of_life(hub), sign_of_life(hub));
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let answering = answer(hub, peer, outbox, &answers, want, ids);
    tokio::pin!(answering);
    loop {
        tokio::select! {
            answered = &mut answering => {
                if answered.is_err() {
                    // Behind what has been sent of it.
                    outbox.deliver(Chunks { request, chunks: Vec::new(), is_last: true }, is_interactive).await?;
                }
                return answered;
            }
            _ = signs.tick() => outbox.say(Body::Chunks(Chunks { request, chunks: Vec::new(), is_last: false }), None),
        }
    }
}

/// How often this side is heard, whatever it does.
fn sign_of_life(hub: &Hub) -> Duration {
    (hub.limits.silence_timeout / 3).max(Duration::from_millis(10))
}

/// Sends what of the wanted chunks is here, or can be brought here.
async fn answer(
    hub: &Arc<Hub>,
    peer: &Arc<Peer>,
    outbox: &Outbox,
    answers: &Semaphore,
    want: Want,
    ids: Vec<ChunkId>,
) -> Result<()> {
    // It is never closed.
    let permit = answers.acquire().await;
    let may_send = hub.link(&peer.id).is_some_and(|link| link.direction.sends());
    let mut answer = Answer { peer, hub, outbox, want: &want, chunks: Vec::new(), bytes: 0 };
    let mut absent = Vec::new();
    for id in ids.iter().filter(|_| may_send) {
        if !answer.add(id).await? {
            absent.push(*id);
        }
    }
    let hops = want.hops.min(HOPS_MAX);
    if !absent.is_empty() && hops > 0 {
        // Where links make a ring, whoever is asked may be waiting for an answer from here: this one must not stand in its way.
        if !answer.chunks.is_empty() {
            answer.send(false).await?;
        }
        drop(permit);
        // Who asks is not asked. What can't be brought is missing in the answer.
        let brought = crate::fetch::fetch(hub, absent.clone(), want.is_interactive, hops - 1, Some(peer.id)).await;
        let _permit = answers.acquire().await;
        if let Err(error) = brought {
            tracing::debug!(peer = peer.name, %error, "chunks could not be brought for a peer");
        }
        for id in &absent {
            answer.add(id).await?;
        }
        return answer.send(true).await;
    }
    answer.send(true).await
}

struct Answer<'a> {
    hub: &'a Hub,
    peer: &'a Peer,
    outbox: &'a Outbox,
    want: &'a Want,
    chunks: Vec<Chunk>,
    bytes: usize,
}

impl Answer<'_> {
    /// Whether the chunk is here.
    async fn add(&mut self, id: &ChunkId) -> Result<bool> {
        let stored = match self.hub.segment.export_chunk(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(false),
            // Somebody else may have it whole.
            Err(error) if error.kind() == ErrorKind::Damaged => return Ok(false),
            Err(error) => return Err(error),
        };
        self.bytes += stored.payload.len();
        self.chunks.push(Chunk {
            id: Bytes::copy_from_slice(&id.0),
            codec: stored.codec.to_byte().into(),
            raw_bytes: stored.raw_bytes,
            payload: stored.payload,
        });
        let enough = if self.outbox.is(&self.peer.control) { CONTROL_FRAME_BYTES } else { CHUNK_FRAME_BYTES };
        if self.bytes >= enough {
            self.send(false).await?;
        }
        Ok(true)
    }

    async fn send(&mut self, is_last: bool) -> Result<()> {
        let chunks = std::mem::take(&mut self.chunks);
        let bytes = std::mem::take(&mut self.bytes);
        self.pace(bytes).await;
        let answer = Chunks { request: self.want.request, chunks, is_last };
        self.outbox.deliver(answer, self.want.is_interactive).await
    }

    /// Waits until the link's rate lets `bytes` go. Who waits for a read does not wait for that, too: what comes in bulk goes later for it.
    async fn pace(&self, bytes: usize) {
        let rate = self.hub.link(&self.peer.id).and_then(|link| link.rate_bytes_per_second);
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut next = self.peer.paced.lock().await;
        let now = Instant::now();
        let start = next.map_or(now, |next| next.max(now));
        *next = Some(start + takes);
        drop(next);
        if !self.want.is_interactive {
            sleep_until(start).await;
        }
    }
}
