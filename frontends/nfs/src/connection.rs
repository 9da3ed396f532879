//! One connection: records in, records out (RFC 5531, section 11), and what bounds both.
//!
//! One task reads, one writes. A call is begun by the reader and, if it has to wait for something, goes on as a task of its own; replies go out in the order
//! they are ready. The reader stops at [`NfsLimits::calls_per_connection`](crate::NfsLimits) calls under way, and while all connections together hold
//! their share of memory: so a client that sends more than is answered waits in its own socket.

use crate::door::Shared;
use crate::rpc::{self, Reply};
use crate::{procedures, program};
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// What one READ or WRITE carries at most, in bytes.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;
/// The longest record: that, and what stands around it.
const RECORD_BYTES_MAX: usize = DATA_BYTES_MAX + 4096;
/// A record is sent in one fragment by every client known; a few more are let pass.
const FRAGMENTS_MAX: usize = 64;
/// How long the rest of a record may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(30);
/// How much is read at a time, so that a length that nothing follows costs nothing.
const READ_BYTES: usize = 128 << 10;
/// Replies are gathered up to this much into one write.
const GATHERED_BYTES: usize = 64 << 10;
/// A call that carries this much, either way, is not answered by the task that reads.
const LARGE_BYTES: usize = 64 << 10;
/// Memory is counted in these.
pub(crate) const MEMORY_UNIT: usize = 4096;

/// A reply on its way out, and what it holds until it is out.
struct Outgoing {
    reply: Reply,
    _call: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

/// Serves a connection until its end.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let port = stream.local_addr()?.port();
    let (mut reader, writer) = stream.into_split();
    let calls = Arc::new(Semaphore::new(shared.limits.calls_per_connection));
    let (queue, outgoing) = mpsc::channel(shared.limits.calls_per_connection);
    let writing = tokio::spawn(write(writer, outgoing));
    let result = read(&shared, &mut reader, peer, port, calls, queue).await;
    // Calls under way hold the queue; the writer ends with the last of them.
    match writing.await {
        Ok(written) => result.and(written),
        Err(error) => Err(Error::other(error)),
    }
}

async fn read(
    shared: &Arc<Shared>,
    reader: &mut OwnedReadHalf,
    peer: SocketAddr,
    port: u16,
    calls: Arc<Semaphore>,
    queue: mpsc::Sender<Outgoing>,
) -> Result<()> {
    let closed = |_| Error::from(ErrorKind::BrokenPipe);
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut stop = shared.stop.clone();
    loop {
        let record = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            record = next_record(shared, reader, &mut buffer) => record?,
        };
        let Some((record, mut memory)) = record else { return Ok(()) };
        let units = reply_units(&record);
        let is_large = record.len() + units.unwrap_or_default() as usize * MEMORY_UNIT >= LARGE_BYTES;
        if let Some(units) = units {
            memory.merge(shared.memory.clone().acquire_many_owned(units).await.map_err(closed)?);
        }
        let call_permit = calls.clone().acquire_owned().await.map_err(closed)?;
        let outgoing = move |reply| Outgoing { reply, _call: call_permit, _memory: memory };
        let call = match rpc::read(record) {
            Ok(call) => call,
            Err(Some(refusal)) => {
                queue.send(outgoing(refusal)).await.map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
                continue;
            }
            Err(None) => return Err(Error::new(ErrorKind::InvalidData, "a record is no call")),
        };
        let mut answering = Box::pin(program::answer(shared.clone(), peer, port, call));
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

/// What a call comes to without waiting.
fn begin<T>(call: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}

/// The memory that a READ's reply takes: its count is the last word of the call.
fn reply_units(record: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_be_bytes(*record.get(at..)?.first_chunk()?));
    let is_read = word(12)? == nfsserve::nfs::PROGRAM && word(20)? == procedures::READ;
    let count = word(record.len().checked_sub(4)?)? as usize;
    is_read.then(|| u32::try_from(count.min(DATA_BYTES_MAX).div_ceil(MEMORY_UNIT)).unwrap_or_default())
}

/// The next record, and the memory it takes; `None` at the end of the stream between two records.
async fn next_record(
    shared: &Shared,
    reader: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
) -> Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    let invalid = |what| Err(Error::new(ErrorKind::InvalidData, what));
    let mut record = BytesMut::new();
    let mut memory: Option<OwnedSemaphorePermit> = None;
    for fragment in 0..FRAGMENTS_MAX {
        if !fill(reader, buffer, 4).await? {
            return if fragment == 0 && buffer.is_empty() {
                Ok(None)
            } else {
                invalid("the stream ends inside a record")
            };
        }
        let marker = buffer.get_u32();
        let length = (marker & 0x7fff_ffff) as usize;
        if length > RECORD_BYTES_MAX - record.len() {
            return invalid("a record is longer than any call");
        }
        let units = u32::try_from(length.div_ceil(MEMORY_UNIT).max(1)).unwrap_or(u32::MAX);
        let taken = shared.memory.clone().acquire_many_owned(units).await;
        let taken = taken.map_err(|_| Error::from(ErrorKind::BrokenPipe))?;
        match &mut memory {
            Some(memory) => memory.merge(taken),
            None => memory = Some(taken),
        }
        // Memory is held for it: it must come.
        let filled = tokio::time::timeout(RECORD_TIMEOUT, fill(reader, buffer, length)).await;
        if !filled.map_err(|_| Error::from(ErrorKind::TimedOut))?? {
            return invalid("the stream ends inside a record");
        }
        let body = buffer.split_to(length);
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

async fn write(mut writer: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Outgoing>) -> Result<()> {
    let mut gathered = BytesMut::new();
    let mut held = Vec::new();
    while let Some(first) = outgoing.recv().await {
        let mut next = Some(first);
        while let Some(out) = next {
            let Reply { head, data } = &out.reply;
            let padding = data.len().wrapping_neg() % 4;
            let length = head.len() + data.len() + padding;
            gathered.extend_from_slice(&(0x8000_0000 | u32::try_from(length).unwrap_or_default()).to_be_bytes());
            gathered.extend_from_slice(head);
            if data.len() >= GATHERED_BYTES / 4 {
                // Large data goes from where it is.
                let zeros = [0; 4];
                let end = zeros.get(..padding).unwrap_or_default();
                write_all(&mut writer, [&gathered, data, end]).await?;
                gathered.clear();
                held.clear();
            } else {
                gathered.extend_from_slice(data);
                gathered.resize(gathered.len() + padding, 0);
                held.push(out);
            }
            next = if gathered.len() < GATHERED_BYTES { outgoing.try_recv().ok() } else { None };
        }
        writer.write_all(&gathered).await?;
        gathered.clear();
        held.clear();
    }
    Ok(())
}

async fn write_all(writer: &mut OwnedWriteHalf, parts: [&[u8]; 3]) -> Result<()> {
    let mut slices = parts.map(IoSlice::new);
    let mut slices = &mut slices[..];
    while slices.iter().any(|slice| !slice.is_empty()) {
        let written = writer.write_vectored(slices).await?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}
