//! Stored bytes: chunks in packs, the index that finds them, and what writers under way rely on.
//!
//! A chunk becomes known (its row reaches the metadata store) only after its pack was synced, so a chunk that is found there
//! survives a crash. Until then it is in `uncommitted`, from where concurrent writers share it; each of them commits the row with its own
//! version, so that it does not matter whether the first one ever does.

use super::lock::DirectoryLock;
use super::pool::{Pool, received};
use super::touched::Touched;
use crate::chunk::{ChunkCache, Location, PackStore};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::ChunkId;
use crate::kv::{Space, Store};
use crate::manifest::{Manifest, NodeStore};
use crate::namespace::{ContentBarrier, Txn, keys};
use crate::policy::Compression;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Chunks up to this size are read on the calling thread when a small range is wanted of them: two changes of threads cost more than
/// hashing so much.
const INLINE_READ_BYTES_MAX: u32 = 512 << 10;
/// The same for a chunk that is one of many of a long read, which are verified side by side.
const INLINE_STREAM_BYTES_MAX: u32 = 32 << 10;

pub(crate) struct Contents {
    packs: PackStore,
    disk: Arc<dyn Disk>,
    store: Arc<dyn Store>,
    cache: ChunkCache,
    pub(crate) pool: Pool,
    pub(crate) touched: Touched,
    /// Held for reading while a writer decides to rely on a stored chunk; for writing while a collection decides to drop some.
    gate: RwLock<HashSet<ChunkId>>,
    uncommitted: Mutex<HashMap<ChunkId, (Location, usize)>>,
    /// Held for reading while a reader goes from a row to a registered manifest; for writing while a collection notes where it starts.
    pub(crate) readers_gate: tokio::sync::RwLock<()>,
    open: Mutex<HashMap<u64, Manifest>>,
    next_open: AtomicU64,
    pub(crate) counters: Counters,
    reserve_bytes: u64,
    is_full: AtomicBool,
    unchecked_bytes: AtomicU64,
    damaged: Mutex<HashSet<ChunkId>>,
    /// Readers may outlive the segment's handles; the directory stays theirs. Declared last: released last.
    _lock: Arc<DirectoryLock>,
}

/// What has happened since the segment was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) written_bytes: AtomicU64,
    pub(crate) deduplicated_bytes: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
}

/// How many bytes may be written before the free space is looked at again.
const SPACE_CHECK_BYTES: u64 = 8 << 20;

impl Contents {
    pub(crate) fn new(
        lock: Arc<DirectoryLock>,
        packs: PackStore,
        disk: Arc<dyn Disk>,
        store: Arc<dyn Store>,
        cache: ChunkCache,
        pool: Pool,
        reserve_bytes: u64,
    ) -> Contents {
        Contents {
            packs,
            disk,
            store,
            cache,
            pool,
            touched: Touched::new(),
            gate: RwLock::new(HashSet::new()),
            uncommitted: Mutex::new(HashMap::new()),
            readers_gate: tokio::sync::RwLock::new(()),
            open: Mutex::new(HashMap::new()),
            next_open: AtomicU64::new(0),
            counters: Counters::default(),
            reserve_bytes,
            is_full: AtomicBool::new(false),
            unchecked_bytes: AtomicU64::new(u64::MAX / 2),
            damaged: Mutex::new(HashSet::new()),
            _lock: lock,
        }
    }

    pub(crate) fn packs(&self) -> &PackStore {
        &self.packs
    }

    /// Free bytes on the file system.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        self.disk.free_bytes()
    }

    /// Bytes that can still be written.
    pub(crate) fn writable_bytes(&self) -> Result<u64> {
        Ok(self.free_bytes()?.saturating_sub(self.reserve_bytes))
    }

    /// Refuses a write of `bytes` when the file system is nearly full. The reserve is what deletes and collections live on.
    pub(crate) fn check_space(&self, bytes: u64) -> Result<()> {
        let unchecked = self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.is_full.load(Ordering::Relaxed) || unchecked.saturating_add(bytes) > SPACE_CHECK_BYTES {
            self.unchecked_bytes.store(0, Ordering::Relaxed);
            let free = self.disk.free_bytes()?;
            self.is_full.store(free < self.reserve_bytes.saturating_add(bytes), Ordering::Relaxed);
        }
        if self.is_full.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "less than {} bytes would be left free on the disk; delete something and run gc, or make room",
                    self.reserve_bytes
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn damaged_chunks(&self) -> u64 {
        self.damaged.lock().len() as u64
    }

    pub(crate) fn set_damaged(&self, damaged: HashSet<ChunkId>) {
        *self.damaged.lock() = damaged;
    }

    /// Stores a chunk unless it is stored already. Blocks; for the pool.
    fn store_chunk(&self, raw: &[u8], compression: Compression, session: &Session) -> Result<ChunkId> {
        let id = ChunkId::of(raw);
        {
            let dying = self.gate.read();
            self.touched.insert(&id);
            if !dying.contains(&id) {
                if let Some((location, users)) = self.uncommitted.lock().get_mut(&id) {
                    *users += 1;
                    session.rows.lock().push((id, *location));
                    self.counters.deduplicated_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
                    return Ok(id);
                }
                let known = futures::executor::block_on(self.store.get(Space::Chunks, &id.0))?;
                if known.is_some() && !self.damaged.lock().contains(&id) {
                    self.counters.deduplicated_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
                    return Ok(id);
                }
            }
        }
        self.check_space(raw.len() as u64)?;
        let location = self.packs.append(&id, raw, compression)?;
        self.counters.written_bytes.fetch_add(u64::from(location.stored), Ordering::Relaxed);
        let mut uncommitted = self.uncommitted.lock();
        let (location, users) = uncommitted.entry(id).or_insert((location, 0));
        *users += 1;
        session.rows.lock().push((id, *location));
        Ok(id)
    }

    /// The verified bytes of a chunk.
    pub(crate) async fn read_chunk(self: &Arc<Self>, id: &ChunkId, keep: bool) -> Result<Bytes> {
        if let Some(bytes) = self.cache.get(id) {
            self.counters.cache_hits.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes);
        }
        self.counters.cache_misses.fetch_add(1, Ordering::Relaxed);
        let mut location = self.locate(id).await?;
        loop {
            let inline_bytes_max = if keep { INLINE_READ_BYTES_MAX } else { INLINE_STREAM_BYTES_MAX };
            let result = if location.raw <= inline_bytes_max {
                self.read_packs(id, &location, keep)
            } else {
                let (this, id) = (self.clone(), *id);
                received(self.pool.submit(move || this.read_packs(&id, &location, keep)).await)?
            };
            match result {
                Ok(bytes) => {
                    self.counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    if keep {
                        self.cache.insert(*id, bytes.clone());
                    }
                    return Ok(bytes);
                }
                Err(error) => {
                    // A collection may have moved the chunk between the look-up and the read.
                    let now = self.locate(id).await?;
                    if now == location {
                        self.damaged.lock().insert(*id);
                        return Err(error);
                    }
                    location = now;
                }
            }
        }
    }

    /// What is kept is a copy: it must not be re-read from the disk behind its verification.
    fn read_packs(&self, id: &ChunkId, location: &Location, keep: bool) -> Result<Bytes> {
        if keep { self.packs.read_copy(id, location) } else { self.packs.read(id, location) }
    }

    pub(crate) async fn locate(&self, id: &ChunkId) -> Result<Location> {
        if let Some(row) = self.store.get(Space::Chunks, &id.0).await? {
            return Location::decode(&row);
        }
        if let Some((location, _)) = self.uncommitted.lock().get(id) {
            return Ok(*location);
        }
        Err(Error::damaged(format!("the chunk {id} is not in this segment")).about(Subject::Chunk))
    }

    /// Whether a chunk that is nowhere in the index may still be committed by a writer.
    pub(crate) fn is_uncommitted(&self, id: &ChunkId) -> bool {
        self.uncommitted.lock().contains_key(id)
    }

    /// Of `candidates`, those that no writer relies on; from now until [`Contents::buried`] writers store them anew.
    pub(crate) fn condemn(&self, candidates: &[ChunkId]) -> Vec<ChunkId> {
        let mut dying = self.gate.write();
        let dead = |id: &&ChunkId| !self.touched.contains(id) && !self.is_uncommitted(id);
        let dead: Vec<ChunkId> = candidates.iter().filter(dead).copied().collect();
        dying.extend(dead.iter().copied());
        dead
    }

    /// The rows of the condemned chunks are gone (or it was decided otherwise).
    pub(crate) fn buried(&self, dead: &[ChunkId]) {
        let mut dying = self.gate.write();
        for id in dead {
            dying.remove(id);
            self.cache.remove(id);
        }
    }

    /// Keeps a manifest readable until the guard goes.
    pub(crate) fn pin(self: &Arc<Self>, manifest: &Manifest) -> Pin {
        let key = self.next_open.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(key, manifest.clone());
        Pin { contents: self.clone(), key }
    }

    /// The manifests of all readers.
    pub(crate) fn pinned(&self) -> Vec<Manifest> {
        self.open.lock().values().cloned().collect()
    }
}

impl ContentBarrier for Contents {
    fn sync(&self) -> Result<()> {
        self.packs.sync()
    }
}

/// An open reader's hold on its manifest.
pub(crate) struct Pin {
    contents: Arc<Contents>,
    key: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.contents.open.lock().remove(&self.key);
    }
}

/// One writer's chunks, until they are committed.
pub(crate) struct Session {
    contents: Arc<Contents>,
    era: u64,
    compression: Compression,
    rows: Mutex<Vec<(ChunkId, Location)>>,
}

impl Session {
    pub(crate) fn new(contents: &Arc<Contents>, compression: Compression) -> Arc<Session> {
        let era = contents.touched.enter();
        Arc::new(Session { contents: contents.clone(), era, compression, rows: Mutex::new(Vec::new()) })
    }

    /// Stores a chunk. Blocks; for the pool.
    pub(crate) fn store(&self, raw: &[u8]) -> Result<ChunkId> {
        self.contents.store_chunk(raw, self.compression, self)
    }

    /// How many chunks wait for their rows to be committed.
    pub(crate) fn len(&self) -> usize {
        self.rows.lock().len()
    }

    /// Adds the rows of all chunks stored so far; [`Session::committed`] with the result once it is.
    pub(crate) fn add_rows(&self, txn: &mut Txn) -> usize {
        let rows = self.rows.lock();
        for (id, location) in rows.iter() {
            txn.put(Space::Chunks, keys::chunk(id), location.encode());
        }
        if !rows.is_empty() {
            txn.refers_to_new_chunks();
        }
        rows.len()
    }

    /// The first `count` rows are committed.
    pub(crate) fn committed(&self, count: usize) {
        let done: Vec<_> = {
            let mut rows = self.rows.lock();
            let count = count.min(rows.len());
            rows.drain(..count).collect()
        };
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
        let rows = std::mem::take(&mut *self.rows.lock());
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

/// Reads nodes, writes none.
pub(crate) struct ReadNodes(pub(crate) Arc<Contents>);

#[async_trait]
impl NodeStore for ReadNodes {
    async fn read_node(&self, id: &ChunkId) -> Result<Bytes> {
        self.0.read_chunk(id, true).await
    }

    async fn write_node(&self, _: Bytes) -> Result<ChunkId> {
        Err(Error::new(ErrorKind::Denied, "a reader writes no manifest nodes"))
    }
}
