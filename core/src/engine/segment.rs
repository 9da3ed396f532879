//! An open segment: the data directory, its stores, and the handles that come from it.

use super::budget::Budget;
use super::cache::Cache;
use super::contents::Contents;
use super::fs::OpenNodes;
use super::lock::DirectoryLock;
use super::nodes::NodeCache;
use super::packs::{Packs, Residence};
use super::pool::Pool;
use super::session::Session;
use super::write_budget::WriteBudget;
use super::{Bucket, Catalog, transact};
use crate::catalog::{self, CatalogValue};
use crate::chunk::ChunkCache;
use crate::env::Environment;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{BucketId, SegmentId};
use crate::kv::{KeyRange, Space, Store};
use crate::namespace::{BucketState, Ledger};
use crate::object::SegmentStatus;
use crate::path::{BucketPath, check_name};
use async_recursion::async_recursion as boxed;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::broadcast;

/// How to make a segment.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Its name, a site's: `newyork`.
    pub name: String,
    /// The cluster it makes buckets in by default. It is created too.
    pub cluster: String,
}

/// How to open a segment.
#[derive(Clone)]
pub struct OpenOptions {
    /// Memory for verified chunks and what lists them, in bytes. Readers of long contents read ahead into up to a quarter as much again, 8 MiB at the least.
    pub chunk_cache_bytes: usize,
    /// Room on the disk for chunks that readers fetched from linked segments and that nothing is to keep here, in bytes; at least 4 MiB. Lowered to a quarter
    /// of small file systems. Less than 16 MiB for each reader at a time makes them fetch in vain.
    pub disk_cache_bytes: u64,
    /// Memory for metadata (caches and write buffers together), in bytes.
    pub metadata_cache_bytes: usize,
    /// Memory for contents on their way in, all writers together, in bytes; at least 8 MiB. The first 64 KiB of each content don't count.
    pub write_buffer_bytes: usize,
    /// Memory for bytes written to open files and not stored yet, all files together, in bytes. While they are being stored up to as much again
    /// is needed, and readers of open files keep up to half as much in hand.
    pub file_buffer_bytes: usize,
    /// Writes are refused when the file system has less free than this. Lowered to a sixteenth of small file systems.
    pub reserve_bytes: u64,
    /// Threads that cut, hash and compress; 0: one per core.
    pub workers: usize,
    /// Clock and randomness.
    pub environment: Environment,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            chunk_cache_bytes: 128 << 20,
            disk_cache_bytes: 10 << 30,
            metadata_cache_bytes: 256 << 20,
            write_buffer_bytes: 64 << 20,
            file_buffer_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            workers: 0,
            environment: Environment::default(),
        }
    }
}

/// What changed: for watchers. Sent after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The bucket.
    pub bucket: BucketPath,
    /// The key that was written, deleted or renamed to.
    pub key: bytes::Bytes,
}

/// `segment.json`, the identity of a data directory.
#[derive(Serialize, Deserialize)]
struct Identity {
    format: u32,
    id: String,
    name: String,
    cluster: String,
}

/// One part in so many of the memory for chunks is for decoded manifest nodes.
const NODES_SHARE: usize = 16;
/// The least memory for what is read ahead: a few readers' chunks.
const READ_AHEAD_BYTES_MIN: usize = 8 << 20;
const FORMAT: u32 = 1;
const IDENTITY_FILE: &str = "segment.json";

/// An open segment. Cheap to clone; the directory is released when the last clone and all that came from it are gone.
#[derive(Clone)]
pub struct Segment(pub(super) Arc<Inner>);

pub(super) struct Inner {
    dir: PathBuf,
    id: SegmentId,
    name: String,
    cluster: String,
    pub(super) environment: Environment,
    pub(super) store: Arc<dyn Store>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) contents: Arc<Contents>,
    write_budget: WriteBudget,
    pub(super) buckets: RwLock<HashMap<BucketPath, Arc<BucketState>>>,
    pub(super) opening_bucket: tokio::sync::Mutex<()>,
    pub(super) keys: RwLock<HashMap<String, (crate::UserInfo, crate::Secret)>>,
    pub(super) collecting: Arc<tokio::sync::Mutex<()>>,
    /// How many wait for it.
    pub(super) collecting_soon: Arc<std::sync::atomic::AtomicUsize>,
    changes: broadcast::Sender<Change>,
    pub(super) gc_counters: Mutex<crate::GcReport>,
    open_nodes: Arc<OpenNodes>,
    _lock: Arc<DirectoryLock>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ledger.abandon();
    }
}

impl Segment {
    /// Makes a segment in `dir` (created if absent, must be empty) and opens it.
    pub async fn create(dir: impl AsRef<Path>, options: CreateOptions, open: OpenOptions) -> Result<Segment> {
        let dir = dir.as_ref();
        check_name(&options.name)?;
        check_name(&options.cluster)?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io(format!("{} can't be created", dir.display()), e))?;
        let is_ours = |name: &std::ffi::OsStr| {
            ["lock", "segment.json.new", "metadata"].into_iter().chain(Packs::names()).any(|n| name == n)
        };
        let check_free = || {
            let mut entries =
                std::fs::read_dir(dir).map_err(|e| Error::io(format!("{} can't be read", dir.display()), e))?;
            let has_others = entries.any(|e| e.is_ok_and(|e| !is_ours(&e.file_name())));
            // Looked for last: what another process makes meanwhile comes after this.
            if Segment::exists(dir) {
                return Err(Error::exists(Subject::Segment, format!("{} holds a segment already", dir.display())));
            }
            if has_others {
                let message = format!("{} is not empty; a segment needs a directory of its own", dir.display());
                return Err(Error::new(ErrorKind::NotEmpty, message).about(Subject::Segment));
            }
            Ok(())
        };
        // A directory that is refused stays as it is.
        check_free()?;
        let lock = DirectoryLock::take(dir)?;
        check_free()?;
        // It will hold users' secrets.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| Error::io(format!("{} can't be closed to others", dir.display()), e))?;
        let identity = Identity {
            format: FORMAT,
            id: SegmentId(open.environment.random()).to_string(),
            name: options.name,
            cluster: options.cluster.clone(),
        };
        let text = serde_json::to_vec_pretty(&identity)
            .map_err(|e| Error::new(ErrorKind::Failed, "the identity can't be written").because(e))?;
        crate::durable::write_durably(dir, IDENTITY_FILE, &text)?;
        let segment = Segment::open_locked(dir, lock, open).await?;
        match segment.catalog().create_cluster(&options.cluster).await {
            Err(error) if error.kind() != ErrorKind::Exists => Err(error),
            _ => Ok(segment),
        }
    }

    /// Opens the segment in `dir`. A directory that another process has open gives [`ErrorKind::Busy`] and a message that names it.
    pub async fn open(dir: impl AsRef<Path>, options: OpenOptions) -> Result<Segment> {
        let dir = dir.as_ref();
        if !Segment::exists(dir) {
            return Err(Error::not_found(
                Subject::Segment,
                format!("there is no segment in {}; make one with init", dir.display()),
            ));
        }
        Segment::open_locked(dir, DirectoryLock::take(dir)?, options).await
    }

    #[boxed]
    async fn open_locked(dir: &Path, lock: DirectoryLock, options: OpenOptions) -> Result<Segment> {
        let path = dir.join(IDENTITY_FILE);
        let text = std::fs::read(&path).map_err(|e| Error::io(format!("{} can't be read", path.display()), e))?;
        let identity: Identity = serde_json::from_slice(&text)
            .map_err(|e| Error::damaged(format!("{} can't be understood", path.display())).because(e))?;
        if identity.format != FORMAT {
            return Err(Error::damaged(format!(
                "{} has format {}; this build reads format {FORMAT}",
                path.display(),
                identity.format
            )));
        }
        let id = SegmentId::from_hex(&identity.id)?;
        let store = open_store(&dir.join("metadata"), options.metadata_cache_bytes)?;
        let file_system_bytes = file_system_bytes(dir)?;
        let disk_cache = Cache::new(options.disk_cache_bytes.min(file_system_bytes / 4));
        let (packs, disk) = Packs::open(dir, id, file_system_bytes, disk_cache.budget_bytes())?;
        let reserve = options.reserve_bytes.min(file_system_bytes / 16);
        let lock = Arc::new(lock);
        let contents = Arc::new(Contents::new(
            lock.clone(),
            packs,
            disk,
            store.clone(),
            ChunkCache::new(options.chunk_cache_bytes - options.chunk_cache_bytes / NODES_SHARE),
            Budget::new((options.chunk_cache_bytes / 4).max(READ_AHEAD_BYTES_MIN) as u64),
            NodeCache::new((options.chunk_cache_bytes / NODES_SHARE) as u64),
            disk_cache,
            Pool::new(options.workers)?,
            reserve,
        ));
        let ledger = Ledger::open(id, store.clone(), contents.clone(), options.environment.clone()).await?;
        let segment = Segment(Arc::new(Inner {
            dir: dir.to_owned(),
            id,
            name: identity.name,
            cluster: identity.cluster,
            environment: options.environment,
            store,
            ledger,
            contents,
            write_budget: WriteBudget::new(options.write_buffer_bytes),
            buckets: RwLock::new(HashMap::new()),
            opening_bucket: tokio::sync::Mutex::new(()),
            keys: RwLock::new(HashMap::new()),
            collecting: Arc::default(),
            collecting_soon: Arc::default(),
            changes: broadcast::channel(1024).0,
            gc_counters: Mutex::new(crate::GcReport::default()),
            open_nodes: Arc::new(OpenNodes::new(options.file_buffer_bytes)),
            _lock: lock,
        }));
        segment.contents().damage.open(segment.ledger()).await?;
        segment.load_snapshots().await?;
        let shared = segment.0.store.snapshot().await?.scan(Space::Meta, KeyRange::prefix(SHARED), 1, false).await?;
        if !shared.rows.is_empty() {
            segment.contents().set_linked();
        }
        segment.recover_files().await?;
        Ok(segment)
    }

    /// Rows that are overwritten must be kept for the snapshots there are.
    async fn load_snapshots(&self) -> Result<()> {
        let view = self.0.store.snapshot().await?;
        let mut range = KeyRange::prefix(&[5]);
        loop {
            let page = view.scan(Space::Catalog, range, 1000, false).await?;
            for (key, row) in &page.rows {
                let row = catalog::CatalogRow::decode(row.clone(), &self.0.id)?;
                if let ([id, _], Some(CatalogValue::Snapshot { .. })) =
                    (catalog::names(key).as_slice(), row.register.value())
                {
                    // A bucket that was deleted while its snapshot was made has none.
                    let number = self.0.store.get(Space::Meta, &number_row(&BucketId::from_hex(id)?)).await?;
                    if let Some(number) = number.and_then(|row| row.as_ref().try_into().ok().map(u32::from_be_bytes)) {
                        self.0.ledger.add_snapshot(number, row.commit);
                    }
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&[5], last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The local number of a bucket.
    pub(super) async fn bucket_number(&self, id: &BucketId) -> Result<u32> {
        let row = self.0.store.get(Space::Meta, &number_row(id)).await?;
        let number = row.and_then(|r| r.as_ref().try_into().ok().map(u32::from_be_bytes));
        number.ok_or_else(|| Error::damaged(format!("the bucket {id} has no number")).about(Subject::Bucket))
    }

    /// The ids of all buckets, by their numbers here.
    pub(super) async fn bucket_numbers(&self) -> Result<HashMap<u32, BucketId>> {
        let view = self.0.store.snapshot().await?;
        let rows = view.scan(Space::Meta, KeyRange::prefix(b"bucket/"), usize::MAX, false).await?.rows;
        Ok(rows
            .iter()
            .filter_map(|(key, row)| {
                let id = BucketId(*key.last_chunk::<16>()?);
                Some((row.as_ref().try_into().ok().map(u32::from_be_bytes)?, id))
            })
            .collect())
    }

    /// Whether `dir` holds a segment.
    pub fn exists(dir: impl AsRef<Path>) -> bool {
        dir.as_ref().join(IDENTITY_FILE).is_file()
    }

    /// Flushes and stops: later writes through clones fail, reads go on while a clone is held.
    pub async fn close(&self) -> Result<()> {
        self.0.open_nodes.stop_recutting().await;
        let saved = self.0.open_nodes.save_all().await;
        self.set_chunk_source(None);
        self.0.ledger.close().await?;
        self.0.contents.packs().seal_active()?;
        saved
    }

    /// Its id.
    pub fn id(&self) -> SegmentId {
        self.0.id
    }

    /// Its name, a site's.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The cluster it makes buckets in by default.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Clusters, tenants, buckets and users.
    pub fn catalog(&self) -> Catalog {
        Catalog(self.clone())
    }

    /// A handle on a bucket; [`ErrorKind::NotFound`] about [`Subject::Bucket`] if there is none.
    pub async fn bucket(&self, path: &BucketPath) -> Result<Bucket> {
        Ok(Bucket::new(self.clone(), self.bucket_state(path).await?))
    }

    #[boxed]
    pub(super) async fn bucket_state(&self, path: &BucketPath) -> Result<Arc<BucketState>> {
        if let Some(state) = self.0.buckets.read().get(path) {
            return Ok(state.clone());
        }
        // One at a time, so that a bucket has one state.
        let _opening = self.0.opening_bucket.lock().await;
        if let Some(state) = self.0.buckets.read().get(path) {
            return Ok(state.clone());
        }
        let missing = || Error::not_found(Subject::Bucket, format!("there is no bucket {path}"));
        let row = self.0.store.get(Space::Catalog, &catalog::bucket_key(path)).await?.ok_or_else(missing)?;
        let row = catalog::CatalogRow::decode(row, &self.0.id)?;
        let Some(CatalogValue::Bucket { id, created_ns, policy, origin, .. }) = row.register.value() else {
            return Err(missing());
        };
        let id = BucketId::from_hex(id)?;
        let number = self.bucket_number(&id).await?;
        let is_shared = self.0.store.get(Space::Meta, &shared_row(&id)).await?.is_some();
        let origin = origin.as_deref().map(SegmentId::from_hex).transpose()?;
        let state = BucketState::new(number, id, path.clone(), *created_ns, policy.clone(), origin, is_shared);
        if crate::namespace::away::has_away(&self.0.store.snapshot().await?, number).await? {
            state.expect_away();
        }
        let state = Arc::new(state);
        // The process may have ended between a change of the policy and what follows from it.
        if let Err(error) = Bucket::new(self.clone(), state.clone()).derive_conflicts().await {
            tracing::warn!(%error, bucket = %path, "conflicts show by an earlier policy until the bucket is opened again");
        }
        self.0.buckets.write().insert(path.clone(), state.clone());
        Ok(state)
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    pub(super) fn open_nodes(&self) -> &Arc<OpenNodes> {
        &self.0.open_nodes
    }

    pub(super) fn contents(&self) -> &Arc<Contents> {
        &self.0.contents
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    pub(super) fn now_ns(&self) -> i64 {
        self.0.environment.clock.now_ns()
    }

    /// The memory for contents on their way in.
    pub(super) fn write_budget(&self) -> &WriteBudget {
        &self.0.write_budget
    }

    /// Commits the rows of chunks stored so far, so that a long content does not hold them all.
    pub(super) async fn commit_rows(&self, session: &Arc<Session>) -> Result<()> {
        let (end, _) = transact!(self, txn, { session.add_rows(&mut txn) })?;
        session.committed(end);
        Ok(())
    }

    /// The same for chunks that may be here already, and stay longer.
    pub(super) async fn commit_rows_below(&self, session: &Arc<Session>) -> Result<()> {
        let (end, _) = transact!(self, txn, { session.add_rows_below(&mut txn).await? })?;
        session.committed(end);
        Ok(())
    }

    /// Follows what changes from now on. A receiver that falls more than 1,024 changes behind is told how many it missed.
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    pub(super) fn announce(&self, bucket: &BucketState, key: &bytes::Bytes) {
        if self.0.changes.receiver_count() > 0 {
            // Nobody may be listening any more.
            let _ = self.0.changes.send(Change { bucket: bucket.path.clone(), key: key.clone() });
        }
    }

    /// What the segment holds.
    pub async fn status(&self) -> Result<SegmentStatus> {
        let contents = &self.0.contents;
        let (chunks, unique_bytes) = self.chunk_totals().await?;
        Ok(SegmentStatus {
            segment: self.0.id,
            name: self.0.name.clone(),
            cluster: self.0.cluster.clone(),
            chunks,
            unique_bytes,
            stored_bytes: contents.packs().stored_bytes(),
            packs: contents.packs().packs().len() as u64,
            free_bytes: contents.free_bytes()?,
            damaged_chunks: contents.damage.count(),
            is_full: contents.is_full(),
        })
    }

    async fn chunk_totals(&self) -> Result<(u64, u64)> {
        let view = self.0.store.snapshot().await?;
        let (mut chunks, mut bytes) = (0, 0);
        let mut range = KeyRange::prefix(b"");
        loop {
            let page = view.scan(Space::Chunks, range, 4096, false).await?;
            for (_, row) in &page.rows {
                chunks += 1;
                bytes += u64::from(crate::chunk::Location::decode(row)?.raw);
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(b"", last.clone()),
                _ => return Ok((chunks, bytes)),
            }
        }
    }

    /// Counters and gauges since opening: (name with unit, help, whether it only grows, value).
    pub fn metrics(&self) -> Vec<(&'static str, &'static str, bool, f64)> {
        let counters = &self.0.contents.counters;
        let (groups, transactions, conflicts) = self.0.ledger.counters();
        let load = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed) as f64;
        let gc = self.0.gc_counters.lock().clone();
        let recut = self.0.open_nodes.recut_so_far();
        vec![
            ("tombolo_commit_groups_total", "Group commits", true, groups as f64),
            ("tombolo_transactions_total", "Transactions committed", true, transactions as f64),
            ("tombolo_transaction_conflicts_total", "Transactions that had to start again", true, conflicts as f64),
            ("tombolo_written_bytes_total", "Bytes of chunks written to packs", true, load(&counters.written_bytes)),
            (
                "tombolo_deduplicated_bytes_total",
                "Bytes of chunks that were stored already",
                true,
                load(&counters.deduplicated_bytes),
            ),
            ("tombolo_recut_bytes_total", "Bytes of fragmented files that were cut anew", true, recut.bytes as f64),
            (
                "tombolo_recut_extents_total",
                "Extents that files lost by that",
                true,
                recut.extents_before.saturating_sub(recut.extents_after) as f64,
            ),
            ("tombolo_read_bytes_total", "Bytes of chunks read and verified", true, load(&counters.read_bytes)),
            ("tombolo_chunk_cache_hits_total", "Chunks found in the cache", true, load(&counters.cache_hits)),
            ("tombolo_chunk_cache_misses_total", "Chunks not found in the cache", true, load(&counters.cache_misses)),
            ("tombolo_stored_bytes", "Bytes of pack files", false, self.0.contents.packs().stored_bytes() as f64),
            (
                "tombolo_disk_cache_bytes",
                "Bytes of packs of chunks that were fetched for readers",
                false,
                self.0.contents.packs().of(Residence::Cached).stored_bytes() as f64,
            ),
            (
                "tombolo_disk_cache_evicted_bytes_total",
                "Bytes of such packs that were dropped",
                true,
                load(&self.0.contents.disk_cache.evicted_bytes),
            ),
            ("tombolo_metadata_bytes", "Bytes of the metadata store", false, self.0.store.disk_bytes() as f64),
            (
                "tombolo_damaged_chunks",
                "Damaged chunks found and not healed",
                false,
                self.0.contents.damage.count() as f64,
            ),
            (
                "tombolo_full",
                "1 while writes are refused for lack of space",
                false,
                f64::from(u8::from(self.0.contents.is_full())),
            ),
            (
                "tombolo_gc_dropped_chunks_total",
                "Chunks given up by garbage collection",
                true,
                gc.chunks_dropped as f64,
            ),
            ("tombolo_gc_freed_bytes_total", "Bytes given back by garbage collection", true, gc.bytes_freed as f64),
        ]
    }
}

/// The row of [`Space::Meta`] with a bucket's local number.
pub(super) fn number_row(id: &BucketId) -> Vec<u8> {
    [b"bucket/".as_slice(), &id.0].concat()
}

const SHARED: &[u8] = b"shared/";

/// The row of [`Space::Meta`] that says that other segments may have seen a bucket.
pub(super) fn shared_row(id: &BucketId) -> Vec<u8> {
    [SHARED, &id.0].concat()
}

#[cfg(feature = "fjall")]
fn open_store(dir: &Path, cache_bytes: usize) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(crate::kv::fjall::FjallStore::open(dir, cache_bytes)?))
}

#[cfg(all(feature = "redb", not(feature = "fjall")))]
fn open_store(dir: &Path, cache_bytes: usize) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(crate::kv::redb::RedbStore::open(dir, cache_bytes)?))
}

fn file_system_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| Error::io(format!("the file system of {} can't be looked at", dir.display()), e.into()))?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}
