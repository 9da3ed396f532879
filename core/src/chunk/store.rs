//! All packs of a segment: appending, syncing, reading, listing, dropping.
//!
//! # Invariants
//!
//! * A few packs at a time are appended to, one if nobody else is writing: threads that write to one file wait for each other in the
//!   kernel. A location is handed out only after its record has been written.
//! * [`PackStore::sync`] covers every append that returned before the call: it syncs all packs without an index that are not
//!   clean, and the directory if a file was made. A pack gets its index only after its data was synced (see
//!   `open_pack.rs`), so sealed packs need no sync.
//! * Numbers only go up, so a location never comes to mean another pack.
//! * After a failed write other than "no space", or any failed sync, nothing is appended or reported synced until the store is
//!   opened again: what the disk holds then is found out by the scan. Reads go on.
//! * A failed write leaves at most a gap, which the index does not list and a scan steps over.

use super::background::Queue;
use super::compress;
use super::location::Location;
use super::maps::MapCache;
use super::open_pack::OpenPack;
use super::pack::pack_name;
use super::read::{
    chunk_error, map_exact, map_record, map_stored, no_pack, pack_error, read_exact, read_index, read_part,
    read_record, read_stored,
};
use super::record::{CHUNK_BYTES_MAX, Codec, RECORD_HEADER_BYTES, RecordHeader};
use super::recover::{Recovery, find_packs};
use super::scan::scan;
use super::stored::StoredChunk;
use super::tree::ChunkTree;
use crate::disk::{Disk, Mapping};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChunkId, SegmentId};
use crate::policy::Compression;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// How a store keeps its packs.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The number of the first pack of an empty store.
    pub first_number: u64,
    /// A pack that has reached this length, in bytes, is sealed and the next begun.
    pub pack_bytes_max: u64,
    /// Packs appended to at the same time.
    pub appending_max: usize,
    /// Sealed packs kept mapped at a time.
    pub maps_max: usize,
    /// After this many appended bytes a thread of the store starts the disk on them, without being asked to sync. `None`: there
    /// is no such thread, and packs are sealed by the caller whose append filled them.
    pub writeback_bytes: Option<u64>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            first_number: 0,
            pack_bytes_max: 64 << 20,
            appending_max: 2,
            maps_max: 1024,
            writeback_bytes: Some(32 << 20),
        }
    }
}

/// A pack, as [`PackStore::packs`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its number.
    pub number: u64,
    /// Length of its file in bytes.
    pub bytes: u64,
    /// Whether it has an index and will never change.
    pub is_sealed: bool,
}

/// What [`PackStore::verify_pack`] calls for each record: the chunk, its place, the outcome, and the bytes read for it.
pub type OnVerified<'a> = dyn FnMut(ChunkId, &Location, Result<()>, u64) + 'a;

/// The chunk store of a segment. All calls block; they may come from many threads at once.
pub struct PackStore {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) segment: SegmentId,
    pub(super) options: PackOptions,
    pub(super) active: Mutex<Active>,
    pub(super) packs: RwLock<Packs>,
    maps: MapCache,
    /// Whether the directory has changed since its last sync. Held while syncing it.
    pub(super) is_directory_dirty: Mutex<bool>,
    /// Appends that have been written.
    pub(super) appended: AtomicU64,
    pub(super) sync: Mutex<SyncState>,
    pub(super) sync_ended: Condvar,
    /// Why the store has stopped taking appends.
    pub(super) failure: Mutex<Option<String>>,
    pub(super) queue: Queue,
}

/// The packs that are appended to, if any. Its lock is never held while data is written.
pub(super) struct Active {
    pub(super) packs: Vec<Arc<OpenPack>>,
    pub(super) next_number: u64,
}

#[derive(Default)]
pub(super) struct Packs {
    pub(super) sealed: BTreeMap<u64, u64>,
    pub(super) open: BTreeMap<u64, Arc<OpenPack>>,
    damaged: BTreeMap<u64, u64>,
}

#[derive(Default)]
pub(super) struct SyncState {
    /// The count of appends that a finished sync covers.
    pub(super) synced: u64,
    pub(super) is_running: bool,
}

/// Where a pack's bytes come from.
enum Source {
    Open(Arc<OpenPack>),
    Sealed,
    Damaged,
}

impl PackStore {
    /// Opens the packs in `disk`, which belong to `segment`, and gives those that a crash left without an index a new one.
    /// Damaged packs are listed and left alone. `Invalid` if a pack has a format this build does not know.
    pub fn open(disk: Arc<dyn Disk>, segment: SegmentId, options: PackOptions) -> Result<(PackStore, Recovery)> {
        let found = find_packs(&*disk, &segment)?;
        let shared = Arc::new(Shared {
            disk,
            segment,
            active: Mutex::new(Active { packs: Vec::new(), next_number: found.next_number.max(options.first_number) }),
            packs: RwLock::new(Packs { sealed: found.sealed, open: found.open, damaged: found.damaged }),
            maps: MapCache::new(options.maps_max),
            // Names that a crash brought back, or files just removed.
            is_directory_dirty: Mutex::new(true),
            appended: AtomicU64::new(0),
            sync: Mutex::default(),
            sync_ended: Condvar::new(),
            failure: Mutex::new(None),
            queue: Queue::default(),
            options,
        });
        shared.seal_quiet_packs()?;
        let background = match shared.options.writeback_bytes {
            None => None,
            Some(_) => {
                let shared = shared.clone();
                let thread = std::thread::Builder::new().name("tombolo-packs".into());
                let handle = thread.spawn(move || shared.run_tasks());
                Some(handle.map_err(|e| Error::io("cannot start the thread that writes packs back", e))?)
            }
        };
        Ok((PackStore { shared, background }, found.recovery))
    }

    /// Stores a chunk, compressed as far as that pays. When it returns the chunk can be read; it is durable
    /// after the next [`PackStore::sync`]. The caller has hashed `raw`: `id` is not checked here, reads would refuse a wrong one.
    ///
    /// `NoSpace`: nothing was stored, later appends may succeed. `Failed`: the store takes no more appends.
    pub fn append(&self, id: &ChunkId, raw: &[u8], compression: Compression) -> Result<Location> {
        self.append_with(id, raw, compression, || ChunkTree::of(raw))
    }

    /// The same for a chunk whose parts were hashed as well.
    pub fn append_hashed(&self, tree: &ChunkTree, raw: &[u8], compression: Compression) -> Result<Location> {
        self.append_with(&tree.id, raw, compression, || tree.clone())
    }

    fn append_with(
        &self,
        id: &ChunkId,
        raw: &[u8],
        compression: Compression,
        tree: impl FnOnce() -> ChunkTree,
    ) -> Result<Location> {
        if raw.is_empty() || raw.len() > CHUNK_BYTES_MAX as usize {
            return Err(Error::invalid(format!("a chunk of {} bytes; there are 1 to {CHUNK_BYTES_MAX}", raw.len())));
        }
        self.shared.check_failure()?;
        compress::compressed(raw, compression, |codec, payload| {
            let (raw, stored) = (raw.len() as u32, payload.len() as u32);
            let header = RecordHeader { codec, id: *id, raw, stored, has_tree: RecordHeader::takes_tree(codec, raw) };
            let tree = if header.has_tree { tree().encode() } else { Vec::new() };
            self.shared.append(&header, payload, &tree)
        })
    }

    /// Stores a chunk as it was stored elsewhere; else like [`PackStore::append`]. The caller has verified it. `Invalid` if its lengths
    /// can't be.
    pub fn append_stored(&self, chunk: &StoredChunk) -> Result<Location> {
        let header = chunk.header()?;
        let tree = if header.has_tree { ChunkTree::of(&chunk.payload).encode() } else { Vec::new() };
        self.shared.append(&header, &chunk.payload, &tree)
    }

    /// Makes every append that returned before this call durable. Callers at the same time share the work; with
    /// nothing to do it does nothing.
    pub fn sync(&self) -> Result<()> {
        self.shared.sync()
    }

    /// A chunk, compared with its id. Without a copy if it is stored raw in a sealed pack; such [`Bytes`] share the
    /// pack's memory map.
    ///
    /// `Damaged`, about `Chunk`, if the record is not what `id` and `location` say, or the pack is missing; the message names
    /// chunk, pack and offset.
    pub fn read(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        self.shared.read(id, location, false)
    }

    /// The same, in memory of its own: it stays as it was verified, whatever happens to the file.
    pub fn read_copy(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        self.shared.read(id, location, true)
    }

    /// `part` of a chunk, compared with its id by way of the hashes of the chunk's groups, in memory of its own: costs what the part does, not the chunk. `None`: it has to
    /// be read whole, which also tells what is wrong if something is.
    pub fn read_part(&self, id: &ChunkId, location: &Location, part: Range<u32>) -> Result<Option<Bytes>> {
        self.shared.read_part(id, location, part)
    }

    /// A chunk as it is stored, after its bytes were compared with its id. Errors are those of [`PackStore::read`].
    pub fn read_stored(&self, id: &ChunkId, location: &Location) -> Result<StoredChunk> {
        self.shared.read_stored(id, location)
    }

    /// All packs, by number. Those without a whole record in them may be missing.
    pub fn packs(&self) -> Vec<PackInfo> {
        let packs = self.shared.packs.read();
        let damaged = packs.damaged.iter().map(|(number, bytes)| (*number, *bytes, false));
        let open = packs.open.values().map(|pack| (pack.number, pack.bytes(), false));
        let sealed = packs.sealed.iter().map(|(number, bytes)| (*number, *bytes, true));
        let mut all: Vec<PackInfo> = sealed
            .chain(open)
            .chain(damaged)
            .map(|(number, bytes, is_sealed)| PackInfo { number, bytes, is_sealed })
            .collect();
        all.sort_unstable_by_key(|info| info.number);
        all
    }

    /// Whether a pack is there, be it damaged.
    pub fn has(&self, pack: u64) -> bool {
        let packs = self.shared.packs.read();
        packs.sealed.contains_key(&pack) || packs.open.contains_key(&pack) || packs.damaged.contains_key(&pack)
    }

    /// Whether a pack is there and was not found to be damaged when the store was opened.
    pub fn is_whole(&self, pack: u64) -> bool {
        let packs = self.shared.packs.read();
        packs.sealed.contains_key(&pack) || packs.open.contains_key(&pack)
    }

    /// Length of all packs together, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        let packs = self.shared.packs.read();
        let open: u64 = packs.open.values().map(|pack| pack.bytes()).sum();
        open + packs.sealed.values().chain(packs.damaged.values()).sum::<u64>()
    }

    /// Every record of a pack, by place in the file: from its index if it is sealed. `NotFound` if there is no such pack,
    /// `Damaged` if its index can't be read.
    pub fn entries(&self, pack: u64) -> Result<Vec<(ChunkId, Location)>> {
        self.shared.entries(pack)
    }

    /// Removes a sealed or damaged pack. Chunks that were read from it stay valid. Durable after the next
    /// [`PackStore::sync`]. `Busy` if the pack is being written.
    pub fn remove_pack(&self, number: u64) -> Result<()> {
        let shared = &*self.shared;
        {
            let mut packs = shared.packs.write();
            if packs.open.contains_key(&number) {
                return Err(Error::new(ErrorKind::Busy, format!("pack {} is being written", pack_name(number))));
            }
            if packs.sealed.remove(&number).or_else(|| packs.damaged.remove(&number)).is_none() {
                return Err(no_pack(number));
            }
        }
        shared.maps.remove(number);
        match shared.disk.remove(&pack_name(number)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(pack_error(number, error));
            }
            // Somebody else removed the file, which comes to the same.
            _ => {}
        }
        *shared.is_directory_dirty.lock() = true;
        // A sync that has nothing else to do must see to the directory.
        shared.appended.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Reads every record of a pack from the disk, in order, and calls `each` with the chunk, its place, the outcome
    /// and the bytes read for it. An error that concerns the pack as a whole comes at the end: the records were then found by
    /// a scan, which does not see those that are damaged. `each` may wait, to bound the rate.
    pub fn verify_pack(&self, number: u64, each: &mut OnVerified<'_>) -> Result<()> {
        let shared = &*self.shared;
        let (entries, outcome) = match shared.entries(number) {
            Ok(entries) => (entries, Ok(())),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let file = shared.disk.open(&pack_name(number)).map_err(|e| pack_error(number, e))?;
                let found = scan(&*file).map_err(|e| pack_error(number, e))?;
                let entries = found.entries.iter().map(|entry| (entry.id, entry.location(number)));
                (entries.collect(), Err(error))
            }
        };
        let file = match shared.source(number) {
            Some(Source::Open(pack)) => pack.file.clone(),
            Some(Source::Sealed | Source::Damaged) => {
                shared.disk.open(&pack_name(number)).map_err(|e| pack_error(number, e))?
            }
            None => return Err(no_pack(number)),
        };
        for (id, location) in entries {
            let checked = read_record(&*file, &id, &location).map(|_| ());
            let checked = checked.map_err(|error| chunk_error(&id, &location, error));
            each(id, &location, checked, RECORD_HEADER_BYTES as u64 + u64::from(location.stored));
        }
        outcome
    }

    /// Seals the pack that is appended to, and others that wait for it, and syncs everything: a store closed after this is
    /// opened again without a scan.
    pub fn seal_active(&self) -> Result<()> {
        let shared = &*self.shared;
        shared.check_failure()?;
        for pack in std::mem::take(&mut shared.active.lock().packs) {
            pack.set_full();
        }
        shared.seal_quiet_packs()?;
        shared.sync()
    }
}

impl Drop for PackStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(Err(_)) = self.background.take().map(JoinHandle::join) {
            tracing::error!("the thread that writes packs back has panicked");
        }
    }
}

impl Shared {
    fn source(&self, number: u64) -> Option<Source> {
        let packs = self.packs.read();
        if packs.sealed.contains_key(&number) {
            Some(Source::Sealed)
        } else if let Some(pack) = packs.open.get(&number) {
            Some(Source::Open(pack.clone()))
        } else {
            packs.damaged.contains_key(&number).then_some(Source::Damaged)
        }
    }

    fn read(&self, id: &ChunkId, location: &Location, is_kept: bool) -> Result<Bytes> {
        let outcome = match self.source(location.pack) {
            Some(Source::Open(pack)) => read_record(&*pack.file, id, location),
            Some(Source::Sealed) => self.map(location.pack).and_then(|map| map_record(&map, id, location, is_kept)),
            Some(Source::Damaged) => {
                self.disk.open(&pack_name(location.pack)).and_then(|file| read_record(&*file, id, location))
            }
            None => Err(no_pack(location.pack)),
        };
        outcome.map_err(|error| chunk_error(id, location, error))
    }

    fn read_part(&self, id: &ChunkId, location: &Location, part: Range<u32>) -> Result<Option<Bytes>> {
        if !RecordHeader::takes_tree(Codec::Raw, location.raw) || location.stored != location.raw {
            return Ok(None);
        }
        match self.source(location.pack) {
            Some(Source::Open(pack)) => {
                Ok(read_part(|at, length| read_exact(&*pack.file, at, length), id, location, part))
            }
            Some(Source::Sealed) => {
                // A pack that can't be mapped may be gone: who reads the chunk whole finds out.
                let Ok(map) = self.map(location.pack) else { return Ok(None) };
                Ok(read_part(|at, length| map_exact(&map, at, length), id, location, part))
            }
            Some(Source::Damaged) | None => Ok(None),
        }
    }

    fn read_stored(&self, id: &ChunkId, location: &Location) -> Result<StoredChunk> {
        let outcome = match self.source(location.pack) {
            Some(Source::Open(pack)) => read_stored(&*pack.file, id, location),
            Some(Source::Sealed) => self.map(location.pack).and_then(|map| map_stored(&map, id, location)),
            Some(Source::Damaged) => {
                self.disk.open(&pack_name(location.pack)).and_then(|file| read_stored(&*file, id, location))
            }
            None => Err(no_pack(location.pack)),
        };
        outcome.map_err(|error| chunk_error(id, location, error))
    }

    fn map(&self, number: u64) -> Result<Mapping> {
        let map = self.maps.get(number, || self.disk.open(&pack_name(number))?.map());
        // The pack may have been removed meanwhile; its map must not keep the file's space.
        if !self.packs.read().sealed.contains_key(&number) {
            self.maps.remove(number);
        }
        map
    }

    fn entries(&self, number: u64) -> Result<Vec<(ChunkId, Location)>> {
        let mut entries = match self.source(number) {
            Some(Source::Open(pack)) => pack.entries(),
            Some(Source::Sealed) => {
                let read = || read_index(&*self.disk.open(&pack_name(number))?, number);
                read().map_err(|error| pack_error(number, error))?
            }
            Some(Source::Damaged) => {
                return Err(Error::damaged(format!("pack {} is damaged", pack_name(number))));
            }
            None => return Err(no_pack(number)),
        };
        entries.sort_unstable_by_key(|entry| entry.offset);
        Ok(entries.into_iter().map(|entry| (entry.id, entry.location(number))).collect())
    }
}

#[cfg(test)]
mod tests;
