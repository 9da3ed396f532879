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
pub struct ChunkCache(Cache<ChunkId, Bytes, ByBytes>);

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
        ChunkCache(Cache::with_weighter((bytes >> 18).max(16), bytes as u64, ByBytes))
    }

    /// The chunk, if it is here.
    pub fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.0.get(id)
    }

    /// Keeps a chunk that has been verified.
    pub fn insert(&self, id: ChunkId, chunk: Bytes) {
        self.0.insert(id, chunk);
    }

    /// Forgets a chunk.
    pub fn remove(&self, id: &ChunkId) {
        self.0.remove(id);
    }

    /// What is kept now, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.weight()
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
}
