//! Frames of a link: a length (4 bytes, big-endian), then one protobuf message of that length. Byte table: `docs/format/link.md`.
//!
//! The length is held against [`FRAME_BYTES_MAX`] before anything is allocated; a buffer grows as bytes arrive, not as they are announced. Unknown fields are
//! passed over and an unknown kind of message is ignored, so that older builds can talk to newer ones.

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use tombolo_core::{BucketId, ChunkId, Error, ErrorKind, Result, SegmentId, VersionVector, sync};

/// The longest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// The longest first frame, from a peer that has said nothing yet.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// The protocol versions that this build speaks.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;
/// The most chunks that one request may name.
pub const WANTED_CHUNKS_MAX: usize = 256;
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
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
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
    /// "I give up data of this bucket that others hold: tell me what you do."
    #[prost(message, tag = "13")]
    Gathers(Place),
    /// "I hold all data of this bucket up to this vector, durably, and will."
    #[prost(message, tag = "14")]
    Holds(Place),
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
        sync::Message::Carry { bucket, vector, receives } => {
            Body::Carry(Place { vector: vector_bytes(&vector), receives, ..place(bucket) })
        }
        sync::Message::Delta { bucket, from, to, payload } => Body::Delta(Delta {
            bucket: Bytes::copy_from_slice(&bucket.0),
            from: vector_bytes(&from),
            to: vector_bytes(&to),
            payload: Some(payload),
        }),
        sync::Message::Ack { bucket, vector } => Body::Ack(Place { vector: vector_bytes(&vector), ..place(bucket) }),
        sync::Message::Refused { bucket, reason } => Body::Refused(Place { reason, ..place(bucket) }),
        sync::Message::Probe { bucket, nonce } => Body::Probe(Place { nonce, ..place(bucket) }),
        sync::Message::Stand { bucket, nonce, vector } => {
            Body::Stand(Place { vector: vector_bytes(&vector), nonce, ..place(bucket) })
        }
    }
}

/// The sync machine's message in a frame; `None` if it is another.
pub fn to_message(body: &Body) -> Result<Option<sync::Message<Packed>>> {
    Ok(Some(match body {
        Body::Carry(place) => sync::Message::Carry {
            bucket: bucket(&place.bucket)?,
            vector: vector(&place.vector)?,
            receives: place.receives,
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
        Body::Probe(place) => sync::Message::Probe { bucket: bucket(&place.bucket)?, nonce: place.nonce },
        Body::Stand(place) => {
            sync::Message::Stand { bucket: bucket(&place.bucket)?, nonce: place.nonce, vector: vector(&place.vector)? }
        }
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

fn bucket(bytes: &[u8]) -> Result<BucketId> {
    Ok(BucketId(bytes.try_into().map_err(|_| Error::damaged("a bucket's id has 16 bytes"))?))
}

fn vector(bytes: &[u8]) -> Result<VersionVector> {
    if bytes.is_empty() {
        return Ok(VersionVector::new());
    }
    let mut input = bytes;
    let vector = VersionVector::decode(&mut input)?;
    if input.is_empty() { Ok(vector) } else { Err(Error::damaged("a version vector has bytes after its end")) }
}

fn vector_bytes(vector: &VersionVector) -> Bytes {
    let mut out = Vec::new();
    vector.encode(&mut out);
    out.into()
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
pub async fn read<M: Message + Default>(
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
    let message = M::decode(body.freeze()).map_err(|e| Error::damaged("a frame can't be understood").because(e))?;
    Ok(Some((message, length + 4)))
}

/// An error of the connection itself.
pub fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Offline, "the connection broke").because(error)
}
