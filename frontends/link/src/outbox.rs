//! The sending side of one connection: what is said about names goes first, then chunks that somebody waits for, then chunks in bulk.

use crate::wire::{self, Body, Chunks, Frame};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, timeout};
use tombolo_core::{Error, ErrorKind, Result};

/// Frames of chunks that wait for the wire, for each priority.
const CHUNK_FRAMES_MAX: usize = 4;
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// What may go out of memory only when it is written.
pub(crate) type Hold = Option<Arc<OwnedSemaphorePermit>>;

/// Bytes over one link, both ways, for as long as the process runs.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
}

/// A handle on one connection. Dropping all of them does not end it; [`Outbox::close`] does.
#[derive(Clone)]
pub(crate) struct Outbox(Arc<Inner>);

struct Inner {
    names: mpsc::UnboundedSender<(Bytes, Hold)>,
    interactive: mpsc::Sender<Bytes>,
    bulk: mpsc::Sender<Bytes>,
    closed: watch::Sender<Option<String>>,
    /// Requests of ours on this connection that have not been answered in full.
    requests: Mutex<HashMap<u64, mpsc::Sender<Chunks>>>,
    next_request: AtomicU64,
    rtt_us: AtomicU64,
    /// Bytes that have come, of whatever.
    heard: AtomicU64,
    started: Instant,
}

/// What [`Outbox::write`] writes.
pub(crate) struct Queues {
    names: mpsc::UnboundedReceiver<(Bytes, Hold)>,
    interactive: mpsc::Receiver<Bytes>,
    bulk: mpsc::Receiver<Bytes>,
}

#[cfg(test)]
impl Queues {
    /// What was said next, if anything.
    pub(crate) fn said(&mut self) -> Option<(Body, Hold)> {
        let (frame, hold) = self.names.try_recv().ok()?;
        Some((Queues::body(&frame), hold))
    }

    /// Waits for what is said next.
    pub(crate) async fn hear(&mut self) -> Option<(Body, Hold)> {
        let (frame, hold) = self.names.recv().await?;
        Some((Queues::body(&frame), hold))
    }

    fn body(frame: &[u8]) -> Body {
        <Frame as prost::Message>::decode(&frame[4..]).unwrap().body.unwrap()
    }
}

impl Outbox {
    pub(crate) fn new() -> (Outbox, Queues) {
        let (names, names_out) = mpsc::unbounded_channel();
        let (interactive, interactive_out) = mpsc::channel(CHUNK_FRAMES_MAX);
        let (bulk, bulk_out) = mpsc::channel(CHUNK_FRAMES_MAX);
        let inner = Inner {
            names,
            interactive,
            bulk,
            closed: watch::Sender::new(None),
            requests: Mutex::default(),
            next_request: AtomicU64::new(1),
            rtt_us: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            started: Instant::now(),
        };
        let queues = Queues { names: names_out, interactive: interactive_out, bulk: bulk_out };
        (Outbox(Arc::new(inner)), queues)
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Outbox) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Says something about names, or answers a ping. What is said is bounded by what the sync machine keeps under way.
    pub(crate) fn say(&self, body: Body, hold: Hold) {
        // A connection that is gone takes what was said on it along.
        let _ = self.0.names.send((wire::encode(&Frame { body: Some(body) }), hold));
    }

    /// Sends chunks, waiting for those before them to be written.
    pub(crate) async fn deliver(&self, chunks: Chunks, is_interactive: bool) -> Result<()> {
        let queue = if is_interactive { &self.0.interactive } else { &self.0.bulk };
        let frame = wire::encode(&Frame { body: Some(Body::Chunks(chunks)) });
        queue.send(frame).await.map_err(|_| gone())
    }

    /// Asks for chunks; the answers come by the receiver, which ends when the connection does.
    pub(crate) fn ask(&self, mut want: wire::Want) -> (u64, mpsc::Receiver<Chunks>) {
        let request = self.0.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(1);
        self.0.requests.lock().insert(request, sender);
        if self.is_closed() {
            self.0.requests.lock().clear();
        }
        want.request = request;
        self.say(Body::Want(want), None);
        (request, receiver)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn forget(&self, request: u64) {
        self.0.requests.lock().remove(&request);
    }

    /// An answer has come. One that nobody waits for is dropped. Waits while whoever asked has not taken the one before.
    pub(crate) async fn answered(&self, chunks: Chunks) {
        let (request, is_last) = (chunks.request, chunks.is_last);
        let waiting = self.0.requests.lock().get(&request).cloned();
        let is_heard = match waiting {
            Some(waiting) => waiting.send(chunks).await.is_ok(),
            None => return,
        };
        if is_last || !is_heard {
            self.forget(request);
        }
    }

    /// Ends the connection.
    pub(crate) fn close(&self, reason: &str) {
        self.0.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            closed.get_or_insert_with(|| reason.to_owned());
            is_first
        });
        self.0.requests.lock().clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.borrow().is_some()
    }

    /// Why it was closed; waits until it is.
    pub(crate) async fn closed(&self) -> String {
        let mut closed = self.0.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    pub(crate) fn heard(&self, bytes: usize) {
        self.0.heard.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that have come so far on this connection, parts of frames included.
    pub(crate) fn heard_bytes(&self) -> u64 {
        self.0.heard.load(Ordering::Relaxed)
    }

    /// A ping that says when it was sent, on this connection's clock.
    pub(crate) fn ping(&self) {
        let now_us = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or_default();
        self.say(Body::Ping(now_us), None);
    }

    pub(crate) fn ponged(&self, sent_us: u64) {
        let now_us = u64::try_from(self.0.started.elapsed().as_micros()).unwrap_or_default();
        self.0.rtt_us.store(now_us.saturating_sub(sent_us).max(1), Ordering::Relaxed);
    }

    /// The last round trip, in microseconds; `None` before the first.
    pub(crate) fn rtt_us(&self) -> Option<u64> {
        Some(self.0.rtt_us.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0)
    }

    /// Writes until the connection is closed or breaks. The stream breaks itself when the other side takes nothing for too long.
    pub(crate) async fn write(
        &self,
        mut queues: Queues,
        stream: impl AsyncWrite + Unpin,
        traffic: Arc<Traffic>,
    ) -> Result<()> {
        let mut stream = BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream);
        let mut is_flushed = true;
        loop {
            let next = tokio::select! {
                biased;
                said = queues.names.recv() => said,
                chunks = queues.interactive.recv() => chunks.map(|frame| (frame, None)),
                chunks = queues.bulk.recv() => chunks.map(|frame| (frame, None)),
                // Nothing more to write now.
                () = std::future::ready(()), if !is_flushed => {
                    stream.flush().await.map_err(wire::broken)?;
                    is_flushed = true;
                    continue;
                }
                _ = self.closed() => {
                    // What the other side should still hear, such as why.
                    while let Ok((frame, _)) = queues.names.try_recv() {
                        timeout(Duration::from_secs(1), stream.write_all(&frame)).await.map_err(|_| stuck())?.map_err(wire::broken)?;
                    }
                    let end = async { stream.flush().await?; stream.shutdown().await };
                    return timeout(Duration::from_secs(1), end).await.map_err(|_| stuck())?.map_err(wire::broken);
                }
            };
            let Some((frame, hold)) = next else { return Ok(()) };
            stream.write_all(&frame).await.map_err(wire::broken)?;
            traffic.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            is_flushed = false;
            drop(hold);
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Offline, "the connection is closed")
}

fn stuck() -> Error {
    Error::new(ErrorKind::Offline, "the other side takes nothing any more")
}
