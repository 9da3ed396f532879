//! A chunk as a pack stores it, outside of any pack: what travels between segments, so that nobody compresses it twice.

use super::record::{CHUNK_BYTES_MAX, Codec, RecordHeader, decode_payload};
use crate::error::{Error, Result, Subject};
use crate::id::ChunkId;
use bytes::Bytes;

/// A chunk with its payload as it was stored. Nothing about it is believed before [`StoredChunk::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// BLAKE3 of the chunk.
    pub id: ChunkId,
    /// How the payload is compressed.
    pub codec: Codec,
    /// Length of the chunk in bytes, 1 to [`CHUNK_BYTES_MAX`].
    pub raw_bytes: u32,
    /// The stored bytes: `raw_bytes` of them if they are not compressed, else fewer, but at least one.
    pub payload: Bytes,
}

impl StoredChunk {
    /// The chunk, decompressed and compared with its id. Lengths that no chunk has are refused before anything is allocated.
    /// `Invalid`, about [`Subject::Chunk`], if it is not what its id says.
    pub fn verify(&self) -> Result<Bytes> {
        let refused = |why: Error| {
            Error::invalid(format!("what was sent as chunk {} is something else", self.id))
                .about(Subject::Chunk)
                .because(why)
        };
        let header = self.header().map_err(refused)?;
        decode_payload(&header, self.payload.clone()).map_err(refused)
    }

    /// The header of its record, if there can be one.
    pub(super) fn header(&self) -> Result<RecordHeader> {
        let impossible = || {
            let (raw, stored) = (self.raw_bytes, self.payload.len());
            Error::invalid(format!("a chunk of {raw} bytes, {stored} stored as {:?}, can't be", self.codec))
        };
        let stored = u32::try_from(self.payload.len()).map_err(|_| impossible())?;
        let is_possible = (1..=CHUNK_BYTES_MAX).contains(&self.raw_bytes) && (1..=self.raw_bytes).contains(&stored);
        if !is_possible || (self.codec == Codec::Raw) != (stored == self.raw_bytes) {
            return Err(impossible());
        }
        let has_tree = RecordHeader::takes_tree(self.codec, self.raw_bytes);
        Ok(RecordHeader { codec: self.codec, id: self.id, raw: self.raw_bytes, stored, has_tree })
    }
}

impl std::fmt::Debug for StoredChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, codec, raw, stored) = (&self.id, self.codec, self.raw_bytes, self.payload.len());
        write!(f, "StoredChunk({id:?}, {raw} bytes, {stored} stored as {codec:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn chunk(codec: Codec, raw_bytes: u32, payload: &'static [u8]) -> StoredChunk {
        StoredChunk { id: ChunkId::of(b"content"), codec, raw_bytes, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn only_what_its_id_says_is_a_chunk() {
        assert_eq!(chunk(Codec::Raw, 7, b"content").verify().unwrap(), "content");
        for wrong in [
            chunk(Codec::Raw, 7, b"c0ntent"),
            chunk(Codec::Raw, 8, b"content"),
            chunk(Codec::Raw, 6, b"conten"),
            chunk(Codec::Raw, 0, b""),
            chunk(Codec::Lz4, 7, b"content"),
            chunk(Codec::Lz4, 7, b""),
            chunk(Codec::Lz4, 9, b"content"),
            chunk(Codec::Zstd, CHUNK_BYTES_MAX, b"content"),
            chunk(Codec::Zstd, CHUNK_BYTES_MAX + 1, b"content"),
            chunk(Codec::Zstd, u32::MAX, b"content"),
        ] {
            let error = wrong.verify().unwrap_err();
            assert_eq!((error.kind(), error.subject()), (ErrorKind::Invalid, Subject::Chunk), "{wrong:?}");
        }
    }
}
