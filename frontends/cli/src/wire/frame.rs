//! Frames and how they lie on the socket.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tombolo_core::{Error, ErrorKind, Result};

/// The most bytes of content in one frame.
const DATA_BYTES_MAX: usize = 1 << 20;
/// The most bytes of JSON in one frame: a page of 1,000 keys of 1,024 bytes, each byte escaped, fits.
const JSON_BYTES_MAX: usize = 16 << 20;
const HEADER_BYTES: usize = 5;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// First frame of a client: the protocol's version.
    Hello(u32),
    /// An operation, as JSON.
    Operation(Bytes),
    /// A piece of content.
    Data(Bytes),
    /// That many zero bytes of content.
    Hole(u64),
    /// The end of the input.
    End,
    /// One part of a reply, as JSON.
    Record(Bytes),
    /// (done, total), in bytes.
    Progress(u64, u64),
    /// The reply, as JSON; ends the operation.
    Done(Bytes),
    /// A refusal, as JSON; ends the operation.
    Failed(Bytes),
}

const HELLO: u8 = 1;
const OPERATION: u8 = 2;
const DATA: u8 = 3;
const HOLE: u8 = 4;
const END: u8 = 5;
const RECORD: u8 = 6;
const PROGRESS: u8 = 7;
const DONE: u8 = 8;
const FAILED: u8 = 9;

/// Checks a header: the kind and the payload's length, or an error for an unknown kind or a length that it cannot have.
pub(crate) fn decode_header(header: [u8; HEADER_BYTES]) -> Result<(u8, usize)> {
    let [kind, a, b, c, d] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let fits = match kind {
        HELLO => length == 4,
        HOLE => length == 8,
        END => length == 0,
        PROGRESS => length == 16,
        // Nothing is said by sending nothing.
        DATA => (1..=DATA_BYTES_MAX).contains(&length),
        OPERATION | RECORD | DONE | FAILED => length <= JSON_BYTES_MAX,
        _ => return Err(protocol(format!("a message of unknown kind {kind}"))),
    };
    if fits { Ok((kind, length)) } else { Err(protocol(format!("a message of kind {kind} with {length} bytes"))) }
}

/// Reads a payload whose header passed [`decode_header`].
pub(crate) fn decode_payload(kind: u8, mut payload: Bytes) -> Result<Frame> {
    let short = || protocol("a message that is too short".into());
    Ok(match kind {
        HELLO => Frame::Hello(payload.try_get_u32_le().map_err(|_| short())?),
        OPERATION => Frame::Operation(payload),
        DATA => Frame::Data(payload),
        HOLE => Frame::Hole(payload.try_get_u64_le().map_err(|_| short())?),
        END => Frame::End,
        RECORD => Frame::Record(payload),
        PROGRESS => {
            let done = payload.try_get_u64_le().map_err(|_| short())?;
            Frame::Progress(done, payload.try_get_u64_le().map_err(|_| short())?)
        }
        DONE => Frame::Done(payload),
        FAILED => Frame::Failed(payload),
        _ => return Err(protocol(format!("a message of unknown kind {kind}"))),
    })
}

/// Writes `frame`, contents longer than a frame as several; does not flush.
pub(crate) async fn write_frame(out: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<()> {
    let mut small = [0u8; 16];
    let (kind, payload) = match &frame {
        Frame::Hello(version) => (HELLO, fill(&mut small, &[&version.to_le_bytes()])),
        Frame::Hole(length) => (HOLE, fill(&mut small, &[&length.to_le_bytes()])),
        Frame::Progress(done, total) => (PROGRESS, fill(&mut small, &[&done.to_le_bytes(), &total.to_le_bytes()])),
        Frame::End => (END, &[][..]),
        Frame::Operation(json) => (OPERATION, json.as_ref()),
        Frame::Record(json) => (RECORD, json.as_ref()),
        Frame::Done(json) => (DONE, json.as_ref()),
        Frame::Failed(json) => (FAILED, json.as_ref()),
        Frame::Data(data) => {
            for piece in data.chunks(DATA_BYTES_MAX) {
                write_payload(out, DATA, piece).await?;
            }
            return Ok(());
        }
    };
    if payload.len() > JSON_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Failed,
            format!("a message of {} bytes is longer than {JSON_BYTES_MAX}", payload.len()),
        ));
    }
    write_payload(out, kind, payload).await
}

async fn write_payload(out: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> Result<()> {
    let [a, b, c, d] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let lost = |e| Error::new(ErrorKind::Failed, "the control connection broke").because(e);
    out.write_all(&[kind, a, b, c, d]).await.map_err(lost)?;
    out.write_all(payload).await.map_err(lost)
}

fn fill<'a>(small: &'a mut [u8; 16], fields: &[&[u8]]) -> &'a [u8] {
    let mut length = 0;
    for (slot, byte) in small.iter_mut().zip(fields.iter().flat_map(|field| field.iter())) {
        *slot = *byte;
        length += 1;
    }
    small.get(..length).unwrap_or_default()
}

/// Reads frames; a `next` that is dropped half-way loses nothing.
pub(crate) struct FrameReader<R> {
    input: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(input: R) -> Self {
        FrameReader { input, buffer: BytesMut::with_capacity(64 << 10) }
    }

    /// The next frame; `None` when the other side closed between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            let mut wanted = HEADER_BYTES;
            if let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() {
                let (kind, length) = decode_header(*header)?;
                wanted += length;
                if self.buffer.len() >= wanted {
                    self.buffer.advance(HEADER_BYTES);
                    let payload = self.buffer.split_to(length).freeze();
                    return decode_payload(kind, payload).map(Some);
                }
            }
            // The length is within its limit, so the reservation is bounded.
            self.buffer.reserve((wanted - self.buffer.len()).max(16 << 10));
            let read = self.input.read_buf(&mut self.buffer).await;
            let read = read.map_err(|e| Error::new(ErrorKind::Failed, "the control connection broke").because(e))?;
            if read == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(protocol("half a message".into())) };
            }
        }
    }
}

fn protocol(what: String) -> Error {
    Error::invalid(format!("{what} came over the control connection"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Hello(7),
            Frame::Operation(Bytes::from_static(b"{}")),
            Frame::Data(Bytes::from_static(b"abc")),
            Frame::Hole(u64::MAX),
            Frame::End,
            Frame::Record(Bytes::from_static(b"1")),
            Frame::Progress(3, u64::MAX),
            Frame::Done(Bytes::new()),
            Frame::Failed(Bytes::from_static(b"x")),
        ]
    }

    async fn encoded(frames: &[Frame]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            write_frame(&mut out, frame.clone()).await.unwrap();
        }
        out
    }

    #[tokio::test]
    async fn frames_survive_the_socket_in_any_pieces() {
        let bytes = encoded(&frames()).await;
        for piece in [1, 2, 5, 7, bytes.len()] {
            let (mut near, far) = tokio::io::duplex(piece);
            let sent = bytes.clone();
            let writer = tokio::spawn(async move { near.write_all(&sent).await });
            let mut reader = FrameReader::new(far);
            for frame in frames() {
                assert_eq!(reader.next().await.unwrap(), Some(frame));
            }
            writer.await.unwrap().unwrap();
            assert_eq!(reader.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn long_contents_are_cut() {
        let data = Bytes::from(vec![9; DATA_BYTES_MAX * 2 + 1]);
        let bytes = encoded(&[Frame::Data(data.clone())]).await;
        let mut reader = FrameReader::new(bytes.as_slice());
        let mut read = Vec::new();
        while let Some(Frame::Data(piece)) = reader.next().await.unwrap() {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, data);
    }

    #[tokio::test]
    async fn hostile_bytes_are_refused_before_allocation() {
        for bad in [
            &[0u8, 0, 0, 0, 0][..],
            &[99, 1, 0, 0, 0, 1],
            &[DATA, 255, 255, 255, 255],
            &[DATA, 0, 0, 0, 0],
            &[OPERATION, 255, 255, 255, 127],
            &[HOLE, 4, 0, 0, 0, 1, 2, 3, 4],
            &[END, 1, 0, 0, 0, 1],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(FrameReader::new(bad).next().await.is_err(), "{bad:?}");
        }
        let whole = encoded(&frames()).await;
        for cut in 1..HEADER_BYTES + 4 {
            assert!(FrameReader::new(&whole[..cut]).next().await.is_err(), "cut at {cut}");
        }
    }
}
