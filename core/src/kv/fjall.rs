//! The metadata store on fjall: a log-structured merge tree per space, one journal for all of them.
//!
//! Why it is the default, and what was measured: `docs/notes/0001-metadata-engine.md`.
//!
//! * A batch is one journal record with a checksum over it, so it is there whole or not at all. `Sync` is one `fdatasync` of the
//!   journal, which covers all records before it; a journal that is full is synced before the next one is begun, and the
//!   directory with it. `Buffered` hands the record to the operating system.
//! * fjall numbers background work (flushes, compactions) in the same sequence as batches, so a snapshot it opens while a
//!   batch is under way can see that batch appear. Readers here therefore get a view that the committer opens *between*
//!   batches and publishes; taking one is a reference count.
//! * fjall puts no bound on the memory of its write buffers and, once a background worker has failed, waits for it for ever
//!   where a writer is throttled. [`FjallStore`] seals and awaits buffers itself, before fjall would, and notices the failure.
//! * A write that meets a full disk ends a fjall database's writing until it is opened again. [`FjallStore`] refuses
//!   commits while some space is left ([`FjallStore::free_bytes_min`]), and takes them again when there is more.
//! * After power loss the journal's end may be torn in a way that fjall refuses to open; `journal` cuts it off first.

mod journal;
mod mark;

#[doc(hidden)]
pub use self::journal::{JournalEnd, journal_end};
#[doc(hidden)]
pub use self::mark::{MARK_KEY, Mark, MarkKey};

use super::{Batch, Durability, KeyRange, Page, Snapshot, Space, Store, guard_missed};
use crate::descriptors::descriptor_share;
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{CompressionPolicy, HashRatioPolicy};
use fjall::{
    AbstractTree, CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
    Readable,
};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The most tables kept open; fjall's own default.
const CACHED_FILES_MAX: usize = 900;
/// Less than this is not worth a cache.
const CACHE_BYTES_MIN: usize = 8 << 20;
/// The longest replay at opening: journals are kept until what they hold is in tables.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// What must be free for a commit to be taken: write buffers are still to be written out, and a compaction writes new tables
/// before it drops the old ones.
const FREE_BYTES_MIN: u64 = 128 << 20;
/// The same on a small file system, as a part of it.
const FREE_PART_MIN: u64 = 32;
/// Small tables keep compactions short and what they need beside the old tables small: about a hundred MiB.
const TABLE_BYTES: u64 = 8 << 20;
/// Values of at least this size in [`Space::Nodes`] are kept in files of their own.
const SEPARATED_BYTES_MIN: u32 = 1 << 10;
const SEPARATED_FILE_BYTES: u64 = 16 << 20;
/// fjall halts writers at 4 sealed write buffers and at 30 runs in a space; this store waits just before that.
const SEALED_BUFFERS_MAX: usize = 3;
const RUNS_MAX: usize = 28;
/// How often a throttled writer looks whether it may go on.
const THROTTLE_POLL: Duration = Duration::from_millis(1);

/// A store in a directory of its own, open in one process at a time.
pub struct FjallStore {
    dir: PathBuf,
    spaces: Arc<Spaces>,
    writer: Mutex<Writer>,
    latest: RwLock<Arc<View>>,
    /// When the write buffers together are larger, the fullest is sealed and written out.
    write_buffer_bytes: u64,
    /// Less free space than this and commits are refused.
    free_bytes_min: u64,
    /// Holds the marks of commits.
    commits: Keyspace,
    mark_key: MarkKey,
    database: Database,
}

/// What commits need, one at a time.
struct Writer {
    /// Of the last commit.
    mark: Mark,
    /// Whether no commit is taken any more.
    failed: bool,
}

/// One keyspace per space, in the order of [`Space::ALL`].
struct Spaces(Vec<Keyspace>);

impl Spaces {
    fn of(&self, space: Space) -> Result<&Keyspace> {
        self.0.get(space as usize).ok_or_else(|| Error::damaged(format!("the store has no space {space:?}")))
    }
}

impl FjallStore {
    /// Opens the store in `dir`, which is created if need be. About half of `cache_bytes` caches what is read, the other half
    /// buffers what is written; under heavy writing the buffers may take as much again while they are written out.
    ///
    /// Replays what the last process left in its journals, at most about 128 MiB.
    ///
    /// Fails with [`ErrorKind::Busy`] while another process has the store open, and with [`ErrorKind::Damaged`] if its files
    /// do not make sense.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<FjallStore> {
        let cache_bytes = cache_bytes.max(CACHE_BYTES_MIN) as u64;
        let mark_key = MarkKey::read(dir)?;
        journal::cut_torn_end(dir, mark_key.as_ref())?;
        let failed = |error| failure(format!("the metadata store in {} can't be opened", dir.display()), error);
        let database = Database::builder(dir)
            .cache_size(cache_bytes / 2)
            .max_cached_files(Some(descriptor_share(4, CACHED_FILES_MAX)))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            // Inline contents are compressed above this layer, the rest is small.
            .journal_compression(CompressionType::None)
            .open()
            .map_err(failed)?;
        let spaces = Space::ALL.iter().map(|space| database.keyspace(name(*space), || options(*space)));
        let spaces = Arc::new(Spaces(spaces.collect::<fjall::Result<_>>().map_err(failed)?));
        let commits = database.keyspace("commits", || options(Space::Meta)).map_err(failed)?;
        // What the last process did not sync is synced now: all of it counts as durable.
        database.persist(PersistMode::SyncAll).map_err(failed)?;
        let number = match commits.get(MARK_KEY).map_err(failed)? {
            Some(mark) => {
                Mark::decode(&mark).ok_or_else(|| Error::damaged("the number of the last commit is not one"))?.number
            }
            None => 0,
        };
        let file_system_bytes = file_system(dir)?.total_bytes;
        let latest = RwLock::new(Arc::new(View { snapshot: database.snapshot(), spaces: Arc::clone(&spaces) }));
        let store = FjallStore {
            dir: dir.to_owned(),
            spaces,
            writer: Mutex::new(Writer { mark: Mark { number, synced: number }, failed: false }),
            latest,
            write_buffer_bytes: cache_bytes / 4,
            free_bytes_min: FREE_BYTES_MIN.min(file_system_bytes / FREE_PART_MIN),
            commits,
            mark_key: mark_key.clone().unwrap_or_else(MarkKey::random),
            database,
        };
        // The key is there only when a synced batch with a tag is: batches before it, which have none, are known to be synced by it.
        if mark_key.is_none() && !store.lacks_space()? {
            store.commit_now(&Batch::default(), Durability::Sync)?;
            store.mark_key.write(dir)?;
        }
        Ok(store)
    }

    /// With less free space than this on its file system the store refuses commits with [`ErrorKind::NoSpace`], and takes them
    /// again when there is more: 128 MiB, or a 32nd of a small file system. The store needs the rest to write out its buffers and
    /// to compact its tables. Whoever wants deletes to go on when the disk is full must refuse growth before: at
    /// twice as much, say.
    pub fn free_bytes_min(&self) -> u64 {
        self.free_bytes_min
    }

    fn commit_now(&self, batch: &Batch, durability: Durability) -> Result<()> {
        batch.check()?;
        let mut writer = self.writer.lock();
        if writer.failed {
            let what = format!("an earlier write to {} failed; open it again", self.dir.display());
            return Err(Error::new(ErrorKind::Failed, what));
        }
        let before = self.latest();
        for (space, key, expected) in &batch.guards {
            if before.read(*space, key)? != *expected {
                return Err(guard_missed(*space));
            }
        }
        drop(before);
        if batch.writes.is_empty() && durability == Durability::Buffered {
            return Ok(());
        }
        let mark = Mark { number: writer.mark.number + 1, synced: writer.mark.synced };
        let result = self.lacks_space().and_then(|lacks_space| {
            if lacks_space {
                return Ok(false);
            }
            self.make_room(batch)?;
            self.write(batch, mark, durability)?;
            Ok(true)
        });
        match result {
            Ok(true) => {}
            Ok(false) => {
                return Err(Error::new(
                    ErrorKind::NoSpace,
                    format!(
                        "less than {} MiB are free for the metadata store in {}",
                        self.free_bytes_min >> 20,
                        self.dir.display()
                    ),
                ));
            }
            Err(error) => {
                // Not `NoSpace`, whatever the cause: that says that nothing was changed, and this may be in the journal and come back at the next opening. A
                // background worker doesn't tell why it failed; a full disk explains it.
                let full = error.kind() == ErrorKind::NoSpace
                    || file_system(&self.dir).is_ok_and(|found| found.free_bytes < self.free_bytes_min);
                writer.failed = true;
                let why = if full { "the disk is full; " } else { "" };
                let what = format!("{why}no more commits until the store is opened again");
                return Err(Error::new(ErrorKind::Failed, what).because(error));
            }
        }
        writer.mark = Mark {
            number: mark.number,
            synced: match durability {
                Durability::Buffered => mark.synced,
                Durability::Sync => mark.number,
            },
        };
        // No batch is under way: what is visible now is this batch and those before it, and stays so.
        let view = Arc::new(View { snapshot: self.database.snapshot(), spaces: Arc::clone(&self.spaces) });
        *self.latest.write() = view;
        Ok(())
    }

    /// Whether too little space is free, not counting what background work gives back when it is done.
    fn lacks_space(&self) -> Result<bool> {
        while file_system(&self.dir)?.free_bytes < self.free_bytes_min {
            if !self.is_flushing() && self.database.active_compactions() == 0 {
                return Ok(true);
            }
            self.check_workers()?;
            std::thread::park_timeout(THROTTLE_POLL);
        }
        Ok(false)
    }

    fn write(&self, batch: &Batch, mark: Mark, durability: Durability) -> Result<()> {
        let failed = |error| failure(format!("a write to the metadata store in {} failed", self.dir.display()), error);
        let mode = match durability {
            Durability::Buffered => PersistMode::Buffer,
            Durability::Sync => PersistMode::SyncData,
        };
        let mut writes = self.database.batch().durability(Some(mode));
        // First, so that it is found where the batch begins.
        writes.insert(&self.commits, MARK_KEY, &mark.encode(&self.mark_key)[..]);
        // fjall orders rows by key and commit, so a key may be in a batch once. Rows are copied: a slice of a request's
        // body must not keep all of the body in the write buffer.
        for (space, key, value) in batch.last_writes() {
            let keyspace = self.spaces.of(*space)?;
            match value {
                Some(value) => writes.insert(keyspace, &key[..], &value[..]),
                None => writes.remove(keyspace, &key[..]),
            }
        }
        writes.commit().map_err(failed)
    }

    /// Waits until the background workers have kept up, so that memory stays bounded and fjall need not throttle.
    fn make_room(&self, batch: &Batch) -> Result<()> {
        if self.database.write_buffer_size() > self.write_buffer_bytes {
            self.seal_fullest()?;
        }
        while self.behind(batch)? {
            self.check_workers()?;
            std::thread::park_timeout(THROTTLE_POLL);
        }
        Ok(())
    }

    fn behind(&self, batch: &Batch) -> Result<bool> {
        if self.database.write_buffer_size() > 2 * self.write_buffer_bytes && self.is_flushing() {
            return Ok(true);
        }
        let mut looked_at = [false; Space::ALL.len()];
        for (space, ..) in &batch.writes {
            let Some(seen) = looked_at.get_mut(*space as usize) else {
                continue;
            };
            if !std::mem::replace(seen, true) {
                let tree = &self.spaces.of(*space)?.tree;
                if tree.sealed_memtable_count() >= SEALED_BUFFERS_MAX || tree.l0_run_count() >= RUNS_MAX {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.spaces.0.iter().chain([&self.commits])
    }

    /// Whether sealed write buffers wait to be written out, or are being written.
    fn is_flushing(&self) -> bool {
        self.keyspaces().any(|keyspace| keyspace.tree.sealed_memtable_count() > 0)
    }

    fn seal_fullest(&self) -> Result<()> {
        let fullest = self.keyspaces().max_by_key(|keyspace| keyspace.tree.active_memtable().size());
        let Some(fullest) = fullest else {
            return Ok(());
        };
        // Sealing a small buffer while large ones are being written out would only make small tables.
        if fullest.tree.active_memtable().size() * 8 < self.write_buffer_bytes {
            return Ok(());
        }
        self.check_workers()?;
        fullest.rotate_memtable().map(drop).map_err(|error| {
            failure(format!("the write buffer of the metadata store in {} can't be sealed", self.dir.display()), error)
        })
    }

    /// An error if a background worker has failed: nothing is written out any more.
    fn check_workers(&self) -> Result<()> {
        self.database.persist(PersistMode::Buffer).map_err(|error| {
            failure(format!("writing out the metadata store in {} failed; open it again", self.dir.display()), error)
        })
    }

    fn latest(&self) -> Arc<View> {
        Arc::clone(&self.latest.read())
    }
}

#[async_trait]
impl Store for FjallStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.latest().read(space, key)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(self.latest())
    }

    async fn commit(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.commit_now(&batch, durability)
    }

    fn disk_bytes(&self) -> u64 {
        // Fails only when the journal's size can't be read; status then shows the tables.
        self.database.disk_space().unwrap_or_else(|_| self.spaces.0.iter().map(Keyspace::disk_space).sum())
    }
}

/// Of the file system that a directory is on.
struct FileSystem {
    total_bytes: u64,
    free_bytes: u64,
}

fn file_system(dir: &Path) -> Result<FileSystem> {
    let found = rustix::fs::statvfs(dir)
        .map_err(|error| Error::io(format!("the free space of {} can't be told", dir.display()), error.into()))?;
    Ok(FileSystem { total_bytes: found.f_blocks * found.f_frsize, free_bytes: found.f_bavail * found.f_frsize })
}

/// The store between two batches.
struct View {
    snapshot: fjall::Snapshot,
    spaces: Arc<Spaces>,
}

impl View {
    fn read(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        if key.is_empty() {
            return Ok(None);
        }
        let value = self.snapshot.get(self.spaces.of(space)?, key).map_err(|error| unreadable(space, error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn page(&self, space: Space, range: KeyRange, limit: usize, reverse: bool) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::default());
        }
        let rows = self.snapshot.range::<Bytes, _>(self.spaces.of(space)?, (range.start, range.end));
        let page = if reverse { take(rows.rev(), limit) } else { take(rows, limit) };
        page.map_err(|error| unreadable(space, error))
    }
}

fn take(mut rows: impl Iterator<Item = Guard>, limit: usize) -> fjall::Result<Page> {
    let mut page = Page::default();
    while page.rows.len() < limit {
        let Some(row) = rows.next() else {
            return Ok(page);
        };
        let (key, value) = row.into_inner()?;
        page.rows.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
    }
    page.more = match rows.next() {
        // The row may be an error that must not pass for a row.
        Some(row) => row.key().map(|_| true)?,
        None => false,
    };
    Ok(page)
}

#[async_trait]
impl Snapshot for View {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(space, key)
    }

    async fn scan(&self, space: Space, range: KeyRange, limit: usize, reverse: bool) -> Result<Page> {
        self.page(space, range, limit, reverse)
    }
}

/// What the space is called on disk; never to be changed.
fn name(space: Space) -> &'static str {
    match space {
        Space::Meta => "meta",
        Space::Catalog => "catalog",
        Space::Entries => "entries",
        Space::Nodes => "nodes",
        Space::Index => "index",
        Space::History => "history",
        Space::Past => "past",
        Space::Chunks => "chunks",
        Space::Uploads => "uploads",
        Space::Derived => "derived",
    }
}

/// How the space is laid out. Taken when the store is created and kept with it.
fn options(space: Space) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default()
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)));
    match space {
        // Chunk ids are hashes: most lookups are for chunks that are not there (is it new?), and nothing compresses.
        Space::Chunks => options
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(1.0)),
        // Contents of up to a few KiB lie in nodes. Kept out of the tables they are not rewritten with each compaction.
        Space::Nodes => options.with_kv_separation(Some(
            KvSeparationOptions::default()
                .separation_threshold(SEPARATED_BYTES_MIN)
                .file_target_size(SEPARATED_FILE_BYTES)
                .compression(CompressionType::None),
        )),
        _ => options,
    }
}

fn failure(context: String, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Error::io(context, error),
        fjall::Error::Locked => Error::new(ErrorKind::Busy, context).because("another process has it open"),
        fjall::Error::Poisoned => Error::new(ErrorKind::Failed, context).because("an earlier write failed"),
        error @ (fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable) => Error::damaged(context).because(error),
        error => Error::new(ErrorKind::Failed, context).because(error),
    }
}

fn unreadable(space: Space, error: fjall::Error) -> Error {
    let context = format!("rows of {space:?} can't be read");
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Error::io(context, error),
        error => Error::damaged(context).because(error),
    }
}
