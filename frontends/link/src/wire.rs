//! Frames of a link: a length (4 bytes, big-endian), then one protobuf message of that length. Byte table: `docs/format/link.md`.
//!
//! The length is held against [`FRAME_BYTES_MAX`] before anything is allocated; a buffer grows as bytes arrive, not as they are announced. Unknown fields are
//! passed over and an unknown kind of message is ignored, so that older builds can talk to newer ones.

use crate::checked::Checked;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use tombolo_core::{
    BucketId, ChunkId, Error, ErrorKind, RANGES_MAX, RangeSummary, Result, RowRange, RowSummary, SegmentId,
    VersionVector, sync,
};

/// The longest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// The longest first frame, from a peer that has said nothing yet.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// The protocol versions that this build speaks.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// From this version on segments compare what they hold: [`Body::Compare`].
pub const VERSION_COMPARES: u32 = 2;
/// From this version on segments tell of their next keys: [`Body::NewKey`].
pub const VERSION_ROTATES: u32 = 2;
/// The most chunks that one request may name.
pub const WANTED_CHUNKS_MAX: usize = 256;
/// The most rows that one answer of a comparison may tell.
pub const ROWS_TOLD_MAX: usize = 128;
/// The longest key of a row.
const ROW_KEY_BYTES_MAX: usize = 4 << 10;
/// The longest delta or catalog when it is unpacked, in bytes.
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Shorter payloads travel as they are.
const PACKED_BYTES_MIN: usize = 256;
const READ_STEP_BYTES: usize = 256 << 10;

/// The first frame each way on a connection.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The lowest version spoken.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// The highest version spoken.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// The segment's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub segment: Bytes,
    /// The segment's name.
    #[prost(string, tag = "4")]
    pub name: String,
    /// What the connection is for.
    #[prost(enumeration = "Role", tag = "5")]
    pub role: i32,
    /// [`Role::Pair`]: the secret of the code.
    #[prost(bytes = "bytes", tag = "6")]
    pub secret: Bytes,
    /// [`Role::Pair`], in the answer: what the link covers.
    #[prost(string, repeated, tag = "7")]
    pub scope: Vec<String>,
    /// [`Role::Pair`]: the mode for the copy at the side that accepts.
    #[prost(string, tag = "8")]
    pub mode: String,
    /// [`Role::Pair`]: the direction as the side that accepts sees it.
    #[prost(string, tag = "9")]
    pub direction: String,
    /// Where the sender can be dialled, if it says.
    #[prost(string, repeated, tag = "10")]
    pub addresses: Vec<String>,
    /// Why the sender ends the connection after this, for people.
    #[prost(string, tag = "11")]
    pub refusal: String,
    /// Names the run of the sender's control connection that a bulk connection belongs to.
    #[prost(fixed64, tag = "12")]
    pub run: u64,
    /// [`Role::Pair`]: when versions show at the side that accepts; empty: early.
    #[prost(string, tag = "13")]
    pub visible: String,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// Names, and chunks that somebody waits for.
    Control = 0,
    /// Chunks in bulk.
    Bulk = 1,
    /// Getting to know each other.
    Pair = 2,
}

/// Every frame after the first.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    /// What it says. `None`: something that this build does not know.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22")]
    pub body: Option<Body>,
}

/// What a frame says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Are you there?
    #[prost(fixed64, tag = "1")]
    Ping(u64),
    /// I am.
    #[prost(fixed64, tag = "2")]
    Pong(u64),
    /// The catalog, as far as the link covers it.
    #[prost(message, tag = "3")]
    Catalog(Packed),
    /// `sync::Message::Carry`.
    #[prost(message, tag = "4")]
    Carry(Place),
    /// `sync::Message::Delta`.
    #[prost(message, tag = "5")]
    Delta(Delta),
    /// `sync::Message::Ack`.
    #[prost(message, tag = "6")]
    Ack(Place),
    /// `sync::Message::Refused`.
    #[prost(message, tag = "7")]
    Refused(Place),
    /// `sync::Message::Probe`.
    #[prost(message, tag = "8")]
    Probe(Place),
    /// `sync::Message::Stand`.
    #[prost(message, tag = "9")]
    Stand(Place),
    /// Chunks are wanted.
    #[prost(message, tag = "10")]
    Want(Want),
    /// Chunks.
    #[prost(message, tag = "11")]
    Chunks(Chunks),
    /// The sender ends the connection, and why.
    #[prost(string, tag = "12")]
    Bye(String),
    /// A question of a comparison.
    #[prost(message, tag = "13")]
    Compare(Compare),
    /// Its answer.
    #[prost(message, tag = "14")]
    Compared(Compared),
    /// The fingerprint of the key that the sender will have, 32 bytes.
    #[prost(bytes = "bytes", tag = "15")]
    NewKey(Bytes),
    /// Such a key is on the sender's disk: from now on it takes both.
    #[prost(bytes = "bytes", tag = "16")]
    KeyTaken(Bytes),
    /// `sync::Message::Carriers`.
    #[prost(message, tag = "17")]
    Carriers(Carriers),
    /// "I give up data of this bucket that others hold: tell me what you do."
    #[prost(message, tag = "18")]
    Gathers(Place),
    /// "I hold all data of this bucket up to this vector, durably, and will."
    #[prost(message, tag = "19")]
    Holds(Place),
    /// "I want my promise back: say so when you rely on it no longer."
    #[prost(message, tag = "20")]
    Returns(Place),
    /// "I rely on it no longer", with the number of the question.
    #[prost(message, tag = "21")]
    Released(Place),
    /// `sync::Message::Compares`. A build that does not know it has its answer later all the same.
    #[prost(message, tag = "22")]
    Compares(Place),
}

/// Bytes that may be compressed.
#[derive(Clone, PartialEq, Message)]
pub struct Packed {
    /// As they are, or a zstd frame.
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
    /// Their length if they are a zstd frame, else 0.
    #[prost(uint64, tag = "2")]
    pub unpacked: u64,
}

/// A bucket and where somebody stands in it.
#[derive(Clone, PartialEq, Message)]
pub struct Place {
    /// The bucket's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub bucket: Bytes,
    /// A version vector in its binary form.
    #[prost(bytes = "bytes", tag = "2")]
    pub vector: Bytes,
    /// Whether changes are received.
    #[prost(bool, tag = "3")]
    pub receives: bool,
    /// A number to be given back.
    #[prost(fixed64, tag = "4")]
    pub nonce: u64,
    /// A sentence for people.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// Whether the sender compares all that it holds, and has more than `vector` says.
    #[prost(bool, tag = "6")]
    pub is_comparing: bool,
}

/// Changes of a bucket.
#[derive(Clone, PartialEq, Message)]
pub struct Delta {
    /// The bucket's id.
    #[prost(bytes = "bytes", tag = "1")]
    pub bucket: Bytes,
    /// After this vector.
    #[prost(bytes = "bytes", tag = "2")]
    pub from: Bytes,
    /// Up to this one.
    #[prost(bytes = "bytes", tag = "3")]
    pub to: Bytes,
    /// The delta in its own form.
    #[prost(message, optional, tag = "4")]
    pub payload: Option<Packed>,
}

/// Who carries a bucket.
#[derive(Clone, PartialEq, Message)]
pub struct Carriers {
    /// The bucket's id.
    #[prost(bytes = "bytes", tag = "1")]
    pub bucket: Bytes,
    /// The table in its own form.
    #[prost(bytes = "bytes", tag = "2")]
    pub table: Bytes,
}

/// A request for chunks.
#[derive(Clone, PartialEq, Message)]
pub struct Want {
    /// Given back with the answers.
    #[prost(fixed64, tag = "1")]
    pub request: u64,
    /// Ids, 32 bytes each, one after the other.
    #[prost(bytes = "bytes", tag = "2")]
    pub chunks: Bytes,
    /// Whether somebody waits for them now.
    #[prost(bool, tag = "3")]
    pub is_interactive: bool,
    /// How many more segments may be asked by the one that is asked.
    #[prost(uint32, tag = "4")]
    pub hops: u32,
}

/// Chunks that were wanted.
#[derive(Clone, PartialEq, Message)]
pub struct Chunks {
    /// Of the request.
    #[prost(fixed64, tag = "1")]
    pub request: u64,
    /// Those that are there.
    #[prost(message, repeated, tag = "2")]
    pub chunks: Vec<Chunk>,
    /// Whether no more follow: what has not come is not there.
    #[prost(bool, tag = "3")]
    pub is_last: bool,
}

/// A chunk as it is stored.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    /// Its id, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The codec's number, see `docs/format/pack.md`.
    #[prost(uint32, tag = "2")]
    pub codec: u32,
    /// Length when it is decompressed, in bytes.
    #[prost(uint32, tag = "3")]
    pub raw_bytes: u32,
    /// The stored bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
}

/// A question about what a bucket holds, of one comparison. Without ranges: where the bucket stands.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// Given back with the answer.
    #[prost(fixed64, tag = "1")]
    pub request: u64,
    /// The bucket's id.
    #[prost(bytes = "bytes", tag = "2")]
    pub bucket: Bytes,
    /// Names the comparison: all its questions are about one instant, that of the first.
    #[prost(fixed64, tag = "3")]
    pub comparison: u64,
    /// See [`ranges`].
    #[prost(bytes = "bytes", tag = "4")]
    pub ranges: Bytes,
    /// Whether the rows of the first range are wanted; else which ranges differ.
    #[prost(bool, tag = "5")]
    pub lists: bool,
    /// The comparison is over.
    #[prost(bool, tag = "6")]
    pub is_over: bool,
}

/// The answer to a question of a comparison.
#[derive(Clone, PartialEq, Message)]
pub struct Compared {
    /// Of the question.
    #[prost(fixed64, tag = "1")]
    pub request: u64,
    /// Where the bucket stands: a version vector.
    #[prost(bytes = "bytes", tag = "2")]
    pub vector: Bytes,
    /// The lowest vector with which all of it is known.
    #[prost(bytes = "bytes", tag = "3")]
    pub effective: Bytes,
    /// Which ranges differ: a byte for each, its place in the list.
    #[prost(bytes = "bytes", tag = "4")]
    pub differing: Bytes,
    /// See [`rows`].
    #[prost(bytes = "bytes", tag = "5")]
    pub rows: Bytes,
    /// From where on there are more rows; empty: there are not.
    #[prost(bytes = "bytes", tag = "6")]
    pub next: Bytes,
    /// Why there is no answer, for people.
    #[prost(string, tag = "7")]
    pub refusal: String,
    /// Whether the bucket there is being compared as one that was away too long (note 0006): what it holds may not be what it goes on with.
    #[prost(bool, tag = "8")]
    pub is_comparing: bool,
}

impl Packed {
    /// Compresses what is worth it.
    pub fn pack(bytes: Bytes) -> Packed {
        if bytes.len() >= PACKED_BYTES_MIN
            && let Ok(packed) = zstd::bulk::compress(&bytes, 1)
            && packed.len() < bytes.len()
        {
            return Packed { bytes: packed.into(), unpacked: bytes.len() as u64 };
        }
        Packed { bytes, unpacked: 0 }
    }

    /// The bytes. `Damaged` if they are not what they say.
    pub fn unpack(self) -> Result<Bytes> {
        if self.unpacked == 0 {
            return Ok(self.bytes);
        }
        let length = usize::try_from(self.unpacked).ok().filter(|length| *length <= UNPACKED_BYTES_MAX);
        let length = length.ok_or_else(|| Error::damaged("a message says that it is too long when unpacked"))?;
        // The announced length alone must not cost memory: zstd's own header is held against what there is.
        if length / 4096 > self.bytes.len() {
            return Err(Error::damaged("a message says that it is packed tighter than anything can be"));
        }
        let bytes = zstd::bulk::decompress(&self.bytes, length)
            .map_err(|e| Error::damaged("a message can't be unpacked").because(e))?;
        if bytes.len() != length {
            return Err(Error::damaged("a message is not as long as it says"));
        }
        Ok(bytes.into())
    }
}

/// What the sync machine says, as a frame; `payload` of a delta is packed already.
pub fn to_body(message: sync::Message<Packed>) -> Body {
    let place = |bucket: BucketId| Place { bucket: Bytes::copy_from_slice(&bucket.0), ..Place::default() };
    match message {
        sync::Message::Carry { bucket, vector, receives, is_comparing } => {
            Body::Carry(Place { vector: vector_bytes(&vector), receives, is_comparing, ..place(bucket) })
        }
        sync::Message::Delta { bucket, from, to, payload } => Body::Delta(Delta {
            bucket: Bytes::copy_from_slice(&bucket.0),
            from: vector_bytes(&from),
            to: vector_bytes(&to),
            payload: Some(payload),
        }),
        sync::Message::Ack { bucket, vector } => Body::Ack(Place { vector: vector_bytes(&vector), ..place(bucket) }),
        sync::Message::Refused { bucket, reason } => Body::Refused(Place { reason, ..place(bucket) }),
        sync::Message::Carriers { bucket, carriers } => {
            let mut table = Vec::new();
            carriers.encode(&mut table);
            Body::Carriers(Carriers { bucket: Bytes::copy_from_slice(&bucket.0), table: table.into() })
        }
        sync::Message::Probe { bucket, nonce } => Body::Probe(Place { nonce, ..place(bucket) }),
        sync::Message::Stand { bucket, nonce, vector } => {
            Body::Stand(Place { vector: vector_bytes(&vector), nonce, ..place(bucket) })
        }
        sync::Message::Compares { bucket, nonce } => Body::Compares(Place { nonce, ..place(bucket) }),
    }
}

/// The sync machine's message in a frame; `None` if it is another.
pub fn to_message(body: &Body) -> Result<Option<sync::Message<Packed>>> {
    Ok(Some(match body {
        Body::Carry(place) => sync::Message::Carry {
            bucket: bucket(&place.bucket)?,
            vector: vector(&place.vector)?,
            receives: place.receives,
            is_comparing: place.is_comparing,
        },
        Body::Delta(delta) => sync::Message::Delta {
            bucket: bucket(&delta.bucket)?,
            from: vector(&delta.from)?,
            to: vector(&delta.to)?,
            payload: delta.payload.clone().unwrap_or_default(),
        },
        Body::Ack(place) => sync::Message::Ack { bucket: bucket(&place.bucket)?, vector: vector(&place.vector)? },
        Body::Refused(place) => {
            let reason = place.reason.chars().take(500).collect();
            sync::Message::Refused { bucket: bucket(&place.bucket)?, reason }
        }
        Body::Carriers(carriers) => sync::Message::Carriers {
            bucket: bucket(&carriers.bucket)?,
            carriers: tombolo_core::Carriers::decode(&carriers.table)?,
        },
        Body::Probe(place) => sync::Message::Probe { bucket: bucket(&place.bucket)?, nonce: place.nonce },
        Body::Stand(place) => {
            sync::Message::Stand { bucket: bucket(&place.bucket)?, nonce: place.nonce, vector: vector(&place.vector)? }
        }
        Body::Compares(place) => sync::Message::Compares { bucket: bucket(&place.bucket)?, nonce: place.nonce },
        _ => return Ok(None),
    }))
}

/// "I hold all data of this bucket up to this vector."
pub fn holds(id: BucketId, vector: &VersionVector) -> Body {
    Body::Holds(Place { bucket: Bytes::copy_from_slice(&id.0), vector: vector_bytes(vector), ..Place::default() })
}

/// "I give up data of this bucket."
pub fn gathers(id: BucketId) -> Body {
    Body::Gathers(Place { bucket: Bytes::copy_from_slice(&id.0), ..Place::default() })
}

/// [`Body::Returns`].
pub fn returns(id: BucketId, nonce: u64) -> Body {
    Body::Returns(Place { bucket: Bytes::copy_from_slice(&id.0), nonce, ..Place::default() })
}

/// [`Body::Released`].
pub fn released(id: BucketId, nonce: u64) -> Body {
    Body::Released(Place { bucket: Bytes::copy_from_slice(&id.0), nonce, ..Place::default() })
}

/// Bucket and vector of a place.
pub fn bucket_and_vector(place: &Place) -> Result<(BucketId, VersionVector)> {
    Ok((bucket(&place.bucket)?, vector(&place.vector)?))
}

/// The ids that a request names.
pub fn wanted(want: &Want) -> Result<Vec<ChunkId>> {
    let count = want.chunks.len() / 32;
    if want.chunks.len() != count * 32 || count > WANTED_CHUNKS_MAX {
        return Err(Error::damaged("a request does not name 0 to 256 chunks"));
    }
    want.chunks.chunks_exact(32).map(ChunkId::from_slice).collect()
}

/// A segment's id from its 16 bytes.
pub fn segment(bytes: &[u8]) -> Result<SegmentId> {
    Ok(SegmentId(bytes.try_into().map_err(|_| Error::damaged("a segment's id has 16 bytes"))?))
}

/// A bucket's id from its 16 bytes.
pub fn bucket(bytes: &[u8]) -> Result<BucketId> {
    Ok(BucketId(bytes.try_into().map_err(|_| Error::damaged("a bucket's id has 16 bytes"))?))
}

/// A version vector from its binary form; no bytes are the empty one.
pub fn vector(bytes: &[u8]) -> Result<VersionVector> {
    if bytes.is_empty() {
        return Ok(VersionVector::new());
    }
    let mut input = bytes;
    let vector = VersionVector::decode(&mut input)?;
    if input.is_empty() { Ok(vector) } else { Err(Error::damaged("a version vector has bytes after its end")) }
}

/// The binary form of a version vector.
pub fn vector_bytes(vector: &VersionVector) -> Bytes {
    let mut out = Vec::new();
    vector.encode(&mut out);
    out.into()
}

/// Appends a key of at most [`ROW_KEY_BYTES_MAX`] bytes, which all keys of rows are.
fn put_key(out: &mut BytesMut, key: &[u8]) {
    out.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
    out.put_slice(key);
}

fn take_key(input: &mut &[u8]) -> Result<Bytes> {
    let short = || Error::damaged("a key of a row does not end where it should");
    let (length, rest) = input.split_first_chunk::<2>().ok_or_else(short)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (key, rest) = rest.split_at_checked(length).filter(|_| length <= ROW_KEY_BYTES_MAX).ok_or_else(short)?;
    *input = rest;
    Ok(Bytes::copy_from_slice(key))
}

fn take_hash(input: &mut &[u8]) -> Result<[u8; 32]> {
    let (hash, rest) = input.split_first_chunk::<32>().ok_or_else(|| Error::damaged("a hash has 32 bytes"))?;
    *input = rest;
    Ok(*hash)
}

/// The bytes that [`ranges`] reads.
pub fn range_bytes(ranges: &[RangeSummary]) -> Bytes {
    let mut out = BytesMut::new();
    for range in ranges {
        put_key(&mut out, &range.range.start);
        put_key(&mut out, &range.range.end);
        out.put_slice(&range.hash);
    }
    out.freeze()
}

/// The ranges of a question: for each its first key, the first key behind it (both: 2 bytes of length, big-endian, and the key; empty: no bound) and its hash. How many
/// rows are in them is not told.
pub fn ranges(bytes: &[u8]) -> Result<Vec<RangeSummary>> {
    let (mut input, mut ranges) = (bytes, Vec::new());
    while !input.is_empty() {
        if ranges.len() == RANGES_MAX {
            return Err(Error::damaged(format!("a question about more than {RANGES_MAX} ranges")));
        }
        let range = RowRange { start: take_key(&mut input)?, end: take_key(&mut input)? };
        ranges.push(RangeSummary { range, hash: take_hash(&mut input)?, rows: 0 });
    }
    Ok(ranges)
}

/// The bytes that [`rows`] reads.
pub fn row_bytes(rows: &[RowSummary]) -> Bytes {
    let mut out = BytesMut::new();
    for row in rows {
        put_key(&mut out, &row.key);
        out.put_slice(&row.hash);
    }
    out.freeze()
}

/// The rows of an answer: for each its key (as in [`ranges`]) and its hash.
pub fn rows(bytes: &[u8]) -> Result<Vec<RowSummary>> {
    let (mut input, mut rows) = (bytes, Vec::new());
    while !input.is_empty() {
        if rows.len() == ROWS_TOLD_MAX {
            return Err(Error::damaged(format!("an answer of more than {ROWS_TOLD_MAX} rows")));
        }
        rows.push(RowSummary { key: take_key(&mut input)?, hash: take_hash(&mut input)? });
    }
    Ok(rows)
}

/// A message with its length in front.
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(4 + length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A growing buffer has room.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// The next message; `None` at the end of the stream.
pub async fn read<M: Message + Default + Checked>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Option<(M, usize)>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(broken(e)),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(Error::damaged(format!("a frame of {length} bytes; at most {bytes_max} are taken")));
    }
    let mut body = BytesMut::with_capacity(length.min(READ_STEP_BYTES));
    while body.len() < length {
        let step = (length - body.len()).min(READ_STEP_BYTES);
        body.reserve(step);
        let mut part = (&mut *stream).take(step as u64);
        if part.read_buf(&mut body).await.map_err(broken)? == 0 {
            return Err(Error::damaged("a frame is cut off"));
        }
    }
    let body = body.freeze();
    M::check(&body)?;
    let message = M::decode(body).map_err(|e| Error::damaged("a frame can't be understood").because(e))?;
    Ok(Some((message, length + 4)))
}

/// An error of the connection itself.
pub fn broken(error: std::io::Error) -> Error {
    let what = match error.kind() {
        std::io::ErrorKind::TimedOut => "the other side is silent, or takes nothing any more",
        _ => "the connection broke",
    };
    Error::new(ErrorKind::Offline, what).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &[u8], end: &[u8]) -> RangeSummary {
        let key = Bytes::copy_from_slice;
        RangeSummary { range: RowRange { start: key(start), end: key(end) }, hash: [7; 32], rows: 0 }
    }

    /// P13: what a question or an answer of a comparison may hold is bounded before anything is kept.
    #[test]
    fn ranges_and_rows_are_bounded() {
        let all = [range(b"", b"\x01k"), range(b"\x01k", b"")];
        assert_eq!(ranges(&range_bytes(&all)).unwrap(), all);
        assert!(ranges(&range_bytes(&vec![range(b"", b""); RANGES_MAX])).is_ok());
        assert!(ranges(&range_bytes(&vec![range(b"", b""); RANGES_MAX + 1])).is_err());
        assert!(ranges(&range_bytes(&[range(&[1; ROW_KEY_BYTES_MAX + 1], b"")])).is_err());
        let bytes = range_bytes(&all);
        for length in 1..bytes.len() {
            assert_eq!(ranges(&bytes[..length]).is_ok(), length == bytes.len() / 2, "{length}");
        }
        let row = RowSummary { key: Bytes::from_static(b"\x00k"), hash: [1; 32] };
        assert_eq!(rows(&row_bytes(std::slice::from_ref(&row))).unwrap(), std::slice::from_ref(&row));
        assert!(rows(&row_bytes(&vec![row.clone(); ROWS_TOLD_MAX])).is_ok());
        assert!(rows(&row_bytes(&vec![row; ROWS_TOLD_MAX + 1])).is_err());
        assert!(rows(&[0xff; 40]).is_err());
    }
}
