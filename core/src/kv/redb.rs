//! The metadata store on redb: one file, a copy-on-write B-tree per space.
//!
//! Not the default; `docs/notes/0001-metadata-engine.md` has the comparison.
//!
//! * Every commit syncs, `Buffered` ones too: redb keeps a commit that it does not sync in the memory of the process, which
//!   is less than `Buffered` promises.
//! * Every commit saves the allocator's state ("quick repair"), without which opening after a crash reads the whole file.
//!   The price is a second sync per commit.

use super::{Batch, Durability, KeyRange, Page, Snapshot, Space, Store, guard_missed};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, StorageError, TableDefinition};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "metadata.redb";

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A store in a directory of its own, open in one process at a time.
pub struct RedbStore {
    path: PathBuf,
    writer: Mutex<Writer>,
    database: Database,
}

/// What commits need, one at a time.
struct Writer {
    /// Why no commit is taken any more.
    failed: bool,
}

impl RedbStore {
    /// Opens the store in `dir`, which is created if need be, with a cache of about `cache_bytes`.
    ///
    /// Fails with [`ErrorKind::Busy`] while another process has the store open, and with [`ErrorKind::Damaged`] if its file
    /// does not make sense.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<RedbStore> {
        let path = dir.join(FILE);
        let context = || format!("the metadata store {} can't be opened", path.display());
        std::fs::create_dir_all(dir).map_err(|error| Error::io(context(), error))?;
        let database = Database::builder().set_cache_size(cache_bytes).create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                Error::new(ErrorKind::Busy, context()).because("another process has it open")
            }
            DatabaseError::Storage(error) => failure(context(), error),
            error => Error::damaged(context()).because(error),
        })?;
        let store = RedbStore { path: path.clone(), writer: Mutex::new(Writer { failed: false }), database };
        store.write(&Batch::default())?;
        // The name of a new file must last as well.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::io(context(), error))?;
        Ok(store)
    }

    fn commit_now(&self, batch: &Batch) -> Result<()> {
        batch.check()?;
        let mut writer = self.writer.lock();
        if writer.failed {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("an earlier write to {} failed; open it again", self.path.display()),
            ));
        }
        if !batch.guards.is_empty() {
            let before = self.view()?;
            for (space, key, expected) in &batch.guards {
                if before.read(*space, key)? != *expected {
                    return Err(guard_missed(*space));
                }
            }
        }
        // All commits are synced: there is nothing to do for a batch without writes.
        if batch.writes.is_empty() {
            return Ok(());
        }
        self.write(batch).map_err(|error| {
            writer.failed = true;
            Error::new(ErrorKind::Failed, "no more commits until the store is opened again").because(error)
        })
    }

    /// Writes `batch` and makes sure that all tables are there.
    fn write(&self, batch: &Batch) -> Result<()> {
        let failed = |error: redb::Error| {
            let context = format!("a write to the metadata store {} failed", self.path.display());
            match error {
                redb::Error::Io(error) => Error::io(context, error),
                error => Error::new(ErrorKind::Failed, context).because(error),
            }
        };
        let mut transaction = self.database.begin_write().map_err(|error| failed(error.into()))?;
        transaction.set_quick_repair(true);
        for space in Space::ALL {
            let writes = || batch.writes.iter().filter(|(place, ..)| *place == space);
            if !batch.writes.is_empty() && writes().next().is_none() {
                continue;
            }
            let mut table = transaction.open_table(table(space)).map_err(|error| failed(error.into()))?;
            for (_, key, value) in writes() {
                match value {
                    Some(value) => table.insert(&key[..], &value[..]).map(drop),
                    None => table.remove(&key[..]).map(drop),
                }
                .map_err(|error| failed(error.into()))?;
            }
        }
        transaction.commit().map_err(|error| failed(error.into()))
    }

    fn view(&self) -> Result<View> {
        let context = || format!("the metadata store {} can't be read", self.path.display());
        let transaction =
            self.database.begin_read().map_err(|error| Error::new(ErrorKind::Failed, context()).because(error))?;
        Ok(View { transaction })
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        self.view()?.read(space, key)
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(self.view()?))
    }

    async fn commit(&self, batch: Batch, _durability: Durability) -> Result<()> {
        self.commit_now(&batch)
    }

    fn disk_bytes(&self) -> u64 {
        // A file that can't be looked at counts as empty, for status.
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

/// The store between two commits.
struct View {
    transaction: redb::ReadTransaction,
}

impl View {
    fn table(&self, space: Space) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        self.transaction
            .open_table(table(space))
            .map_err(|error| Error::damaged(format!("the table of {space:?} can't be opened")).because(error))
    }

    fn read(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.table(space)?.get(key).map_err(|error| unreadable(space, error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn page(&self, space: Space, range: KeyRange, limit: usize, reverse: bool) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::default());
        }
        let start = range.start.as_ref().map(|key| &key[..]);
        let end = range.end.as_ref().map(|key| &key[..]);
        let rows = self.table(space)?.range::<&[u8]>((start, end)).map_err(|error| unreadable(space, error))?;
        let page = if reverse { take(rows.rev(), limit) } else { take(rows, limit) };
        page.map_err(|error| unreadable(space, error))
    }
}

type Row = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);

fn take(
    mut rows: impl Iterator<Item = std::result::Result<Row, StorageError>>,
    limit: usize,
) -> std::result::Result<Page, StorageError> {
    let mut page = Page::default();
    while page.rows.len() < limit {
        let Some(row) = rows.next() else {
            return Ok(page);
        };
        let (key, value) = row?;
        page.rows.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())));
    }
    page.more = rows.next().transpose()?.is_some();
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

/// The table of a space; the name is on disk and never to be changed.
fn table(space: Space) -> Table {
    TableDefinition::new(match space {
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
    })
}

fn failure(context: String, error: StorageError) -> Error {
    match error {
        StorageError::Io(error) => Error::io(context, error),
        StorageError::Corrupted(what) => Error::damaged(context).because(what),
        error => Error::new(ErrorKind::Failed, context).because(error),
    }
}

fn unreadable(space: Space, error: StorageError) -> Error {
    failure(format!("rows of {space:?} can't be read"), error)
}
