//! Chunks that were read and verified lately.

use crate::id::ChunkId;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry costs beside its bytes: the id, the handle and the cache's own tables.
const ENTRY_BYTES: u64 = 128;

/// A bounded cache of verified chunks. A scan over many chunks does not drive out those that are read again and again.
///
/// Entries are kept as they are given: a [`Bytes`] that is a slice of something larger keeps all of it alive, but counts
/// with its own length only.
pub struct ChunkCache {
    chunks: Cache<ChunkId, Bytes, ByBytes>,
    /// How often parts were read of chunks that are not here.
    parts: Cache<ChunkId, u8>,
}

/// After so many reads of parts of it a chunk is kept whole: by then they have cost as much as that would have.
const PARTS_MAX: u8 = 8;

#[derive(Clone)]
struct ByBytes;

impl Weighter<ChunkId, Bytes> for ByBytes {
    fn weight(&self, _: &ChunkId, chunk: &Bytes) -> u64 {
        chunk.len() as u64 + ENTRY_BYTES
    }
}

impl ChunkCache {
    /// A cache for chunks of `bytes` altogether. Chunks longer than a shard's part of it are not kept.
    pub fn new(bytes: usize) -> ChunkCache {
        // Chunks of a quarter MiB are the usual ones.
        let chunks = (bytes >> 18).max(16);
        ChunkCache { chunks: Cache::with_weighter(chunks, bytes as u64, ByBytes), parts: Cache::new(chunks) }
    }

    /// A part of a chunk is wanted that is not here. Whether the whole is worth reading, as parts of it have been wanted again and again.
    pub fn wants_whole(&self, id: &ChunkId) -> bool {
        let parts = self.parts.get(id).unwrap_or(0) + 1;
        if parts >= PARTS_MAX {
            self.parts.remove(id);
            return true;
        }
        self.parts.insert(*id, parts);
        false
    }

    /// The chunk, if it is here.
    pub fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.chunks.get(id)
    }

    /// Whether the chunk is here; asking is no use of it.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// Keeps a chunk that has been verified.
    pub fn insert(&self, id: ChunkId, chunk: Bytes) {
        self.chunks.insert(id, chunk);
    }

    /// Forgets a chunk.
    pub fn remove(&self, id: &ChunkId) {
        self.chunks.remove(id);
    }

    /// What is kept now, in bytes.
    pub fn bytes(&self) -> u64 {
        self.chunks.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_asked_for() {
        let cache = ChunkCache::new(1 << 20);
        let hot = ChunkId::of(b"hot");
        cache.insert(hot, Bytes::from_static(b"hot"));
        for n in 0..10_000u32 {
            assert_eq!(cache.get(&hot).as_deref(), Some(&b"hot"[..]), "after {n} others");
            cache.insert(ChunkId::of(&n.to_le_bytes()), Bytes::from(vec![0; 4096]));
            assert!(cache.bytes() <= 1 << 20);
        }
        cache.remove(&hot);
        assert_eq!(cache.get(&hot), None);
    }

    #[test]
    fn what_is_asked_for_again_and_again_is_wanted_whole() {
        let cache = ChunkCache::new(64 << 20);
        let hot = ChunkId::of(b"hot");
        for round in 0..2 {
            for n in 1..PARTS_MAX {
                assert!(!cache.wants_whole(&hot), "round {round}, {n}");
                assert!(!cache.wants_whole(&ChunkId::of(&[round, n])), "asked for once");
            }
            assert!(cache.wants_whole(&hot));
        }
    }
}
