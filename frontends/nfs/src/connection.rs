//! One connection: records in, records out (RFC 5531, section 11), and what bounds both.
//!
//! One task reads, one writes. A call is begun by the reader and, if it has to wait for something, goes on as a task of its own; replies go out in the order
//! they are ready. The reader stops at [`NfsLimits::calls_per_connection`](crate::NfsLimits) calls under way, and while the connection holds its share of
//! memory, or all connections theirs: so a client that sends more than is answered waits in its own socket.
//!
//! Everything that a client can delay has an end: the first record, the rest of one that has begun, a reply that it does not take, and silence. What the
//! connection holds is given back when it goes.

use crate::budget::{Share, Taken, reply_bytes};
use crate::door::Shared;
use crate::presence::Presence;
use crate::program;
use crate::rpc::{self, Reply};
use bytes::{Buf, Bytes, BytesMut};
use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// What one READ or WRITE carries at most, in bytes.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;
/// The longest record: that, and what stands around it.
const RECORD_BYTES_MAX: usize = DATA_BYTES_MAX + 4096;
/// A record is sent in one fragment by every client known; a few more are let pass.
const FRAGMENTS_MAX: usize = 64;
/// How much is read at a time, so that a length that nothing follows costs nothing.
const READ_BYTES: usize = 128 << 10;
/// Replies are gathered up to this much into one write.
const GATHERED_BYTES: usize = 64 << 10;
/// A call that carries this much, either way, is not answered by the task that reads.
const LARGE_BYTES: usize = 64 << 10;

/// A reply on its way out, and what it holds until it is out.
struct Outgoing {
    reply: Reply,
    call: OwnedSemaphorePermit,
    memory: Taken,
}

/// Serves a connection until its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    presence: Arc<Presence>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let (reader, stream) = stream.into_split();
    let (queue, outgoing) = mpsc::channel(shared.limits.calls_per_connection.max(1));
    let writer = Writer { stream, presence: presence.clone(), patience: shared.limits.transfer_timeout };
    let mut writing = tokio::spawn(writer.write(outgoing));
    let mut incoming = Incoming {
        share: shared.memory.share(),
        shared,
        presence: presence.clone(),
        reader,
        buffer: BytesMut::with_capacity(READ_BYTES),
    };
    let result = tokio::select! {
        // The client takes no replies, or is gone: what it still sends is not for us.
        written = &mut writing => return written.map_err(Error::other)?,
        () = presence.closing() => Err(Error::new(ErrorKind::ConnectionAborted, "it makes room for another")),
        result = incoming.serve(peer, local, queue) => result,
    };
    drop(incoming);
    // Calls under way hold the queue; the writer ends with the last of them.
    match writing.await {
        Ok(written) => result.and(written),
        Err(error) => Err(Error::other(error)),
    }
}

/// What a call comes to without waiting.
pub(crate) fn begin<T>(call: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}

/// The side that reads.
struct Incoming {
    shared: Arc<Shared>,
    share: Share,
    presence: Arc<Presence>,
    reader: OwnedReadHalf,
    /// What was read and belongs to no record yet.
    buffer: BytesMut,
}

impl Incoming {
    async fn serve(&mut self, peer: SocketAddr, local: SocketAddr, queue: mpsc::Sender<Outgoing>) -> Result<()> {
        let mut stop = self.shared.stop.clone();
        loop {
            let record = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                record = self.next_record() => record?,
            };
            let Some((record, mut memory)) = record else { return Ok(()) };
            self.presence.called();
            let reply_bytes = reply_bytes(&record);
            let is_large = record.len() + reply_bytes >= LARGE_BYTES;
            if reply_bytes > 0 {
                // Both at once: who waits for memory holds none.
                drop(memory);
                memory = self.share.take(record.len() + reply_bytes).await?;
            }
            let call_permit = self.presence.calls.clone().acquire_owned().await;
            let call_permit = call_permit.map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
            let outgoing = move |reply| Outgoing { reply, call: call_permit, memory };
            let call = match rpc::read(record) {
                Ok(call) => call,
                Err(Some(refusal)) => {
                    queue.send(outgoing(refusal)).await.map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
                    continue;
                }
                Err(None) => return Err(Error::new(ErrorKind::InvalidData, "a record is no call")),
            };
            let mut answering = Box::pin(program::answer(self.shared.clone(), peer, local, call));
            // Much data is work for another core, while this one reads on.
            let begun = if is_large { Poll::Pending } else { begin(answering.as_mut()) };
            match begun {
                Poll::Ready(reply) => {
                    queue.send(outgoing(reply)).await.map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
                }
                Poll::Pending => {
                    let queue = queue.clone();
                    tokio::spawn(async move {
                        let reply = answering.await;
                        // Nobody wants it any more when the connection is closed.
                        let _ = queue.send(outgoing(reply)).await;
                    });
                }
            }
        }
    }

    /// The next record, and the memory it takes; `None` at the end of the stream between two records.
    async fn next_record(&mut self) -> Result<Option<(Bytes, Taken)>> {
        let invalid = |what| Err(Error::new(ErrorKind::InvalidData, what));
        if !self.wait_for_record().await? {
            return if self.buffer.is_empty() { Ok(None) } else { invalid("the stream ends inside a record") };
        }
        let limits = &self.shared.limits;
        let patience = match self.presence.has_called() {
            true => limits.transfer_timeout,
            false => limits.transfer_timeout.min(limits.greeting_timeout),
        };
        let mut record = BytesMut::new();
        let mut memory: Option<Taken> = None;
        // Memory is held for the rest: it must come.
        let mut deadline = None;
        for _ in 0..FRAGMENTS_MAX {
            let overdue = |_| Error::new(ErrorKind::TimedOut, "a record does not come whole");
            if let Some(deadline) = deadline
                && !timeout_at(deadline, fill(&mut self.reader, &mut self.buffer, 4)).await.map_err(overdue)??
            {
                return invalid("the stream ends inside a record");
            }
            let marker = self.buffer.get_u32();
            let length = (marker & 0x7fff_ffff) as usize;
            if length > RECORD_BYTES_MAX - record.len() {
                return invalid("a record is longer than any call");
            }
            match (&mut memory, deadline) {
                // The beginning of a record may wait for memory as long as it takes others to give theirs back.
                (Some(memory), Some(deadline)) => {
                    memory.merge(timeout_at(deadline, self.share.take(length)).await.map_err(overdue)??);
                }
                (memory, _) => *memory = Some(self.share.take(length).await?),
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
            let filling = fill(&mut self.reader, &mut self.buffer, length);
            if !timeout_at(deadline, filling).await.map_err(overdue)?? {
                return invalid("the stream ends inside a record");
            }
            let body = self.buffer.split_to(length);
            let is_last = marker & 0x8000_0000 != 0;
            if record.is_empty() {
                record = body;
            } else {
                record.extend_from_slice(&body);
            }
            if is_last {
                return Ok(memory.map(|memory| (record.freeze(), memory)));
            }
        }
        invalid("a record comes in too many fragments")
    }

    /// Waits for the marker of a record's first fragment; `false`: the stream has ended before.
    async fn wait_for_record(&mut self) -> Result<bool> {
        let is_first = !self.presence.has_called();
        let limits = &self.shared.limits;
        let patience = if is_first { limits.greeting_timeout } else { limits.idle_timeout };
        let mut deadline = self.presence.last() + patience;
        loop {
            if let Ok(filled) = timeout_at(deadline, fill(&mut self.reader, &mut self.buffer, 4)).await {
                return filled;
            }
            let now = Instant::now();
            deadline = match self.presence.is_busy() {
                true => now + patience,
                // Replies that have gone out meanwhile count, too.
                false => self.presence.last() + patience,
            };
            if deadline <= now {
                return Err(Error::new(ErrorKind::TimedOut, "the client is silent"));
            }
        }
    }
}

/// Reads until `buffer` has `length` bytes; `false`: the stream has ended.
async fn fill(reader: &mut OwnedReadHalf, buffer: &mut BytesMut, length: usize) -> Result<bool> {
    while buffer.len() < length {
        let missing = length - buffer.len();
        if buffer.capacity() == buffer.len() {
            buffer.reserve(missing.clamp(READ_BYTES / 4, READ_BYTES * 4));
        }
        if reader.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The side that writes.
struct Writer {
    stream: OwnedWriteHalf,
    presence: Arc<Presence>,
    /// How long the client may take to accept one piece.
    patience: Duration,
}

impl Writer {
    async fn write(mut self, mut outgoing: mpsc::Receiver<Outgoing>) -> Result<()> {
        let mut gathered = BytesMut::new();
        let mut held = Vec::new();
        while let Some(first) = outgoing.recv().await {
            let mut next = Some(first);
            while let Some(out) = next {
                let Reply { head, data } = &out.reply;
                let data_bytes: usize = data.iter().map(Bytes::len).sum();
                let padding = data_bytes.wrapping_neg() % 4;
                let length = head.len() + data_bytes + padding;
                gathered.extend_from_slice(&(0x8000_0000 | u32::try_from(length).unwrap_or_default()).to_be_bytes());
                gathered.extend_from_slice(head);
                if data_bytes >= GATHERED_BYTES / 4 {
                    // Large data goes from where it is.
                    let zeros = [0; 4];
                    let end = zeros.get(..padding).unwrap_or_default();
                    let parts = [&gathered[..]].into_iter().chain(data.iter().map(|piece| &piece[..])).chain([end]);
                    self.piece(parts.map(IoSlice::new).collect()).await?;
                    gathered.clear();
                    held.clear();
                } else {
                    data.iter().for_each(|piece| gathered.extend_from_slice(piece));
                    gathered.resize(gathered.len() + padding, 0);
                    // What was copied need not stay.
                    held.push((out.call, out.memory));
                }
                next = if gathered.len() < GATHERED_BYTES { outgoing.try_recv().ok() } else { None };
            }
            self.piece(vec![IoSlice::new(&gathered)]).await?;
            gathered.clear();
            held.clear();
        }
        Ok(())
    }

    /// Writes all of it, if the client takes it in time.
    async fn piece(&mut self, parts: Vec<IoSlice<'_>>) -> Result<()> {
        match timeout(self.patience, write_all(&mut self.stream, parts)).await {
            Ok(written) => {
                self.presence.touch();
                written
            }
            Err(_) => {
                // Nor shall the kernel keep for it what it has not taken.
                self.stream.as_ref().set_zero_linger()?;
                Err(Error::new(ErrorKind::TimedOut, "the client takes no replies"))
            }
        }
    }
}

async fn write_all(writer: &mut OwnedWriteHalf, mut parts: Vec<IoSlice<'_>>) -> Result<()> {
    let mut slices = &mut parts[..];
    while slices.iter().any(|slice| !slice.is_empty()) {
        let written = writer.write_vectored(slices).await?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}
