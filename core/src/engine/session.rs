//! What a writer has stored, until its commit: chunks without a row, and those that it found here and relies on.

use super::contents::Contents;
use super::packs::{Packs, Residence};
use crate::chunk::{Location, StoredChunk};
use crate::error::Result;
use crate::id::ChunkId;
use crate::kv::Space;
use crate::manifest::NodeStore;
use crate::namespace::{Txn, keys};
use crate::policy::Compression;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// One writer's chunks, until they are committed.
pub(crate) struct Session {
    contents: Arc<Contents>,
    era: u64,
    compression: Compression,
    pub(super) residence: Residence,
    rows: Mutex<Rows>,
}

/// Rows that wait to be committed.
#[derive(Default)]
struct Rows {
    /// How many were, before these.
    committed: usize,
    list: Vec<(ChunkId, Location)>,
}

impl Session {
    pub(crate) fn new(contents: &Arc<Contents>, compression: Compression) -> Arc<Session> {
        Session::with(contents, compression, Residence::Kept)
    }

    /// One whose chunks stay for as long as `residence` says.
    pub(crate) fn with(contents: &Arc<Contents>, compression: Compression, residence: Residence) -> Arc<Session> {
        let era = contents.touched.enter();
        Arc::new(Session { contents: contents.clone(), era, compression, residence, rows: Mutex::default() })
    }

    /// Stores a chunk. Blocks; for the pool.
    pub(crate) fn store(&self, raw: &[u8]) -> Result<ChunkId> {
        self.contents.store_chunk(raw, self.compression, self)
    }

    /// Stores a chunk as it came, which was verified. Returns whether it was not here, or damaged. Blocks; for the pool.
    pub(crate) fn store_as_is(&self, chunk: &StoredChunk) -> Result<bool> {
        let raw_bytes = u64::from(chunk.raw_bytes);
        self.contents.keep(&chunk.id, raw_bytes, self, |to| self.contents.packs.append_stored(to, chunk))
    }

    /// How many chunks wait for their rows to be committed.
    pub(crate) fn len(&self) -> usize {
        self.rows.lock().list.len()
    }

    /// Relies on a chunk whose row waits to be committed.
    pub(super) fn push(&self, id: &ChunkId, location: Location) {
        self.rows.lock().list.push((*id, location));
    }

    /// [`Session::add_rows`], but not for chunks that have come meanwhile to where they stay longer.
    pub(crate) async fn add_rows_below(self: &Arc<Self>, txn: &mut Txn) -> Result<usize> {
        txn.hold(self.clone());
        let (end, rows) = {
            let rows = self.rows.lock();
            (rows.committed + rows.list.len(), rows.list.clone())
        };
        for (id, location) in &rows {
            let now = txn.read(Space::Chunks, &id.0).await?;
            let now = now.as_deref().map(Location::decode).transpose()?;
            let (now, new) = (now.map(|at| Packs::residence(at.pack)), Packs::residence(location.pack));
            if now.is_none_or(|now| now <= new) {
                txn.put(Space::Chunks, keys::chunk(id), location.encode());
                txn.refers_to_new_chunks();
            }
            self.contents.damage.end_in(txn, id);
            if new == Residence::Cached {
                self.contents.disk_cache.note_pack(location.pack);
            }
        }
        Ok(end)
    }

    /// Adds the rows of all chunks stored so far; [`Session::committed`] with the result once it is. The session lives until then, whatever becomes of who waits: what is referred to
    /// from that commit on must not go before it.
    pub(crate) fn add_rows(self: &Arc<Self>, txn: &mut Txn) -> usize {
        txn.hold(self.clone());
        let rows = self.rows.lock();
        for (id, location) in &rows.list {
            txn.put(Space::Chunks, keys::chunk(id), location.encode());
            self.contents.damage.end_in(txn, id);
        }
        if !rows.list.is_empty() {
            txn.refers_to_new_chunks();
        }
        rows.committed + rows.list.len()
    }

    /// The rows up to `end`, as [`Session::add_rows`] gave it, are committed. Another may have committed some of them, too.
    pub(crate) fn committed(&self, end: usize) {
        let done: Vec<_> = {
            let mut rows = self.rows.lock();
            let count = end.saturating_sub(rows.committed).min(rows.list.len());
            rows.committed += count;
            rows.list.drain(..count).collect()
        };
        // Whatever was damaged has a new place now.
        self.contents.damage.is_over(done.iter().map(|(id, _)| id));
        self.release(&done);
    }

    fn release(&self, rows: &[(ChunkId, Location)]) {
        let mut uncommitted = self.contents.uncommitted.lock();
        for (id, _) in rows {
            if let Some((_, users)) = uncommitted.get_mut(id) {
                *users -= 1;
                if *users == 0 {
                    uncommitted.remove(id);
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let rows = std::mem::take(&mut self.rows.lock().list);
        self.release(&rows);
        self.contents.touched.leave(self.era);
    }
}

/// Manifest nodes are chunks like any other.
#[async_trait]
impl NodeStore for Session {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        self.contents.read_chunk(id, true).await
    }

    async fn write_node(&self, data: Bytes) -> Result<ChunkId> {
        // A node is small; storing it here costs less than handing it over.
        self.contents.store_chunk(&data, Compression::Lz4, self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// P1: two who committed the same rows took twice as many for committed: those that came meanwhile lost their rows.
    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_two_commit_are_committed_once() {
        let (_dir, segment, _bucket) = fixture::bucket(Default::default()).await;
        let session = Session::new(segment.contents(), Compression::None);
        for text in ["a", "b"] {
            session.store(text.as_bytes()).unwrap();
        }
        let commit = async || add(&segment, &session).await.unwrap();
        let (one, two) = (commit().await, commit().await);
        session.committed(one);
        let third = session.store(b"c").unwrap();
        session.committed(two);
        assert_eq!(session.len(), 1);
        assert!(segment.contents().is_uncommitted(&third));
    }

    async fn add(segment: &crate::Segment, session: &Arc<Session>) -> Result<usize> {
        Ok(super::super::transact!(segment, txn, { session.add_rows(&mut txn) })?.0)
    }

    /// P1: whoever put something and went away before it was committed left its chunks to a collection, and the commit came all the same.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_lives_until_its_commit() {
        let (_dir, segment, _bucket) = fixture::bucket(Default::default()).await;
        let session = Session::new(segment.contents(), Compression::None);
        session.store(b"a").unwrap();
        let held = Arc::downgrade(&session);
        let mut txn = segment.ledger().begin();
        session.add_rows(&mut txn);
        drop(session);
        assert!(held.upgrade().is_some());
        segment.ledger().commit(txn).await.unwrap();
        assert!(held.upgrade().is_none());
    }
}
