//! One chunk in a pack: a header of [`RECORD_HEADER_BYTES`], the payload, for long chunks the hashes of their parts, zeros up to a
//! multiple of [`RECORD_ALIGN`].
//!
//! ```text
//! record  = magic "TCHK" | version u8 | codec u8 | flags u16 | raw u32 | stored u32 | id [32] | checksum [8]
//!           payload [stored] | hash [32] for each group, if flag 1 is set | zeros
//! ```
//!
//! Numbers are little-endian. The checksum is the first 8 bytes of BLAKE3 of the 48 bytes before it. The payload has none of
//! its own: the id is the hash of what it decodes to. Nor have the hashes: their root is the id (`tree.rs`). What can't be proved by them is proved by the whole.

use super::compress;
use super::tree::{ChunkTree, TREE_BYTES_MIN};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use bytes::{Buf, BufMut, Bytes};

/// The longest chunk, in bytes.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// Length of a record's header, in bytes.
pub const RECORD_HEADER_BYTES: usize = 56;
/// Records start at multiples of this.
pub(super) const RECORD_ALIGN: u64 = 8;
/// How a record starts.
pub(super) const RECORD_MAGIC: [u8; 4] = *b"TCHK";

const VERSION: u8 = 1;
/// The payload is followed by the hashes of its groups.
const FLAG_TREE: u16 = 1;
const CHECKED_BYTES: usize = RECORD_HEADER_BYTES - 8;

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    Raw,
    /// One lz4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// The byte that stands for it in records, and wherever chunks travel as they are stored.
    pub fn to_byte(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        }
    }

    /// What [`Codec::to_byte`] wrote; `None` for a codec this build does not know.
    pub fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// How the payload is compressed.
    pub codec: Codec,
    /// BLAKE3 of the chunk.
    pub id: ChunkId,
    /// Length of the chunk in bytes, 1 to [`CHUNK_BYTES_MAX`].
    pub raw: u32,
    /// Length of the payload in bytes, 1 to `raw`.
    pub stored: u32,
    /// Whether the hashes of the chunk's groups follow the payload; only where that is not compressed, and long enough.
    pub has_tree: bool,
}

impl RecordHeader {
    /// Whether a chunk stored so can have a tree.
    pub(super) fn takes_tree(codec: Codec, raw: u32) -> bool {
        codec == Codec::Raw && raw as usize > TREE_BYTES_MIN
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        let mut body: &mut [u8] = &mut out;
        body.put_slice(&RECORD_MAGIC);
        body.put_u8(VERSION);
        body.put_u8(self.codec.to_byte());
        body.put_u16_le(if self.has_tree { FLAG_TREE } else { 0 });
        body.put_u32_le(self.raw);
        body.put_u32_le(self.stored);
        body.put_slice(&self.id.0);
        let sum = checksum(out.first_chunk::<CHECKED_BYTES>().map_or(&[], |checked| checked));
        if let Some(slot) = out.last_chunk_mut() {
            *slot = sum;
        }
        out
    }

    /// Length of the hashes behind the payload, in bytes.
    pub(super) fn tree_bytes(&self) -> usize {
        if self.has_tree { ChunkTree::stored_bytes(self.raw) } else { 0 }
    }

    /// Length of the whole record with header and padding, in bytes.
    pub fn record_bytes(&self) -> u64 {
        (RECORD_HEADER_BYTES as u64 + u64::from(self.stored) + self.tree_bytes() as u64).next_multiple_of(RECORD_ALIGN)
    }
}

/// Reads a record's header from the start of `bytes`. `Invalid` for a version or codec this build does not know (with
/// a good checksum), else `Damaged`.
pub fn decode_header(bytes: &[u8]) -> Result<RecordHeader> {
    let header =
        bytes.first_chunk::<RECORD_HEADER_BYTES>().ok_or_else(|| Error::damaged("a record's header is cut off"))?;
    let (mut fields, sum) = header.split_at(CHECKED_BYTES);
    if !fields.starts_with(&RECORD_MAGIC) {
        return Err(Error::damaged("no record starts here"));
    }
    if sum != checksum(fields) {
        return Err(Error::damaged("a record's header does not match its checksum"));
    }
    fields.advance(RECORD_MAGIC.len());
    let version = fields.get_u8();
    let codec = fields.get_u8();
    let flags = fields.get_u16_le();
    if version != VERSION || flags & !FLAG_TREE != 0 {
        return Err(Error::invalid(format!(
            "a record has format version {version}, flags {flags}; this build reads version {VERSION} with flag {FLAG_TREE} or none"
        )));
    }
    let has_tree = flags & FLAG_TREE != 0;
    let codec = Codec::from_byte(codec).ok_or_else(|| {
        Error::invalid(format!("a record is compressed with codec {codec}, which this build does not know"))
    })?;
    let (raw, stored) = (fields.get_u32_le(), fields.get_u32_le());
    let id = ChunkId::from_slice(fields)?;
    let sound = raw > 0 && raw <= CHUNK_BYTES_MAX && stored > 0 && stored <= raw;
    if !sound || (codec == Codec::Raw) != (stored == raw) || has_tree && !RecordHeader::takes_tree(codec, raw) {
        return Err(Error::damaged(format!("a record of {raw} bytes, {stored} stored as {codec:?}, can't be")));
    }
    Ok(RecordHeader { codec, id, raw, stored, has_tree })
}

/// The chunk behind a payload, decompressed and compared with its id. A raw one is `payload` itself.
pub(super) fn decode_payload(header: &RecordHeader, payload: Bytes) -> Result<Bytes> {
    let raw = compress::expand(header.codec, payload, header.raw as usize)?;
    if ChunkId::of(&raw) != header.id {
        return Err(Error::damaged("its bytes do not match its id"));
    }
    Ok(raw)
}

/// The first 8 bytes of BLAKE3.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(slot, byte)| *slot = *byte);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader { codec: Codec::Lz4, id: ChunkId::of(b"x"), raw: 100_000, stored: 51, has_tree: false }
    }

    #[test]
    fn headers_survive_and_every_flipped_bit_is_seen() {
        let bytes = header().encode();
        assert_eq!(decode_header(&bytes).unwrap(), header());
        assert_eq!(header().record_bytes(), 112);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&flipped).is_err(), "bit {bit}");
        }
        assert!(decode_header(&bytes[..55]).is_err());
    }

    #[test]
    fn what_this_build_does_not_know_is_said() {
        for (at, value, word) in [(4, 2, "version 2"), (5, 9, "codec 9"), (6, 2, "flags 2")] {
            let mut bytes = header().encode();
            bytes[at] = value;
            let sum = checksum(&bytes[..CHECKED_BYTES]);
            bytes[CHECKED_BYTES..].copy_from_slice(&sum);
            let error = decode_header(&bytes).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn lengths_that_can_not_be_are_refused() {
        for (codec, raw, stored) in [
            (Codec::Raw, 0, 0),
            (Codec::Raw, 10, 9),
            (Codec::Lz4, 10, 10),
            (Codec::Lz4, 10, 11),
            (Codec::Zstd, CHUNK_BYTES_MAX + 1, 5),
            (Codec::Zstd, 5, 0),
        ] {
            let bad = RecordHeader { codec, raw, stored, ..header() };
            assert!(decode_header(&bad.encode()).is_err(), "{bad:?}");
        }
        let long = RecordHeader { codec: Codec::Raw, raw: 70_000, stored: 70_000, has_tree: true, ..header() };
        assert_eq!(decode_header(&long.encode()).unwrap(), long);
        assert_eq!(long.record_bytes(), (56 + 70_000 + 3 * 32_u64).next_multiple_of(8));
        for (codec, raw, stored) in [(Codec::Lz4, 70_000, 100), (Codec::Raw, 65_536, 65_536), (Codec::Raw, 5, 5)] {
            let bad = RecordHeader { codec, raw, stored, has_tree: true, ..header() };
            assert!(decode_header(&bad.encode()).is_err(), "{bad:?} has no hashes of parts");
        }
    }
}
