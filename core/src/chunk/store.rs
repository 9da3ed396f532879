//! All packs of a segment: appending, syncing, reading, listing, dropping.
//!
//! # Invariants
//!
//! * One pack at a time is appended to. A location is handed out only after its record has been written.
//! * [`PackStore::sync`] covers every append that returned before the call: it syncs all packs without an index that are not
//!   clean, and the directory if a file was made. A pack gets its index only after its data was synced (see
//!   `open_pack.rs`), so sealed packs need no sync.
//! * Numbers only go up, so a location never comes to mean another pack.
//! * After a failed write other than "no space", or any failed sync, nothing is appended or reported synced until the store is
//!   opened again: what the disk holds then is found out by the scan. Reads go on.
//! * A failed write leaves at most a gap, which the index does not list and a scan steps over.

use super::background::{Queue, Task};
use super::compress;
use super::location::Location;
use super::maps::MapCache;
use super::open_pack::{Due, OpenPack};
use super::pack::{PACK_HEADER_BYTES, TRAILER_BYTES, pack_name, read_trailer};
use super::record::{
    CHUNK_BYTES_MAX, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, decode_header, decode_payload,
};
use super::recover::{Recovery, find_packs};
use super::scan::scan;
use crate::disk::{Disk, File, Mapping};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{ChunkId, SegmentId};
use crate::policy::Compression;
use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// How a store keeps its packs.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// A pack that has reached this length, in bytes, is sealed and the next begun.
    pub pack_bytes_max: u64,
    /// Sealed packs kept mapped at a time.
    pub maps_max: usize,
    /// After this many appended bytes a thread of the store starts the disk on them, without being asked to sync. `None`: there
    /// is no such thread, and packs are sealed by the caller whose append filled them.
    pub writeback_bytes: Option<u64>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            pack_bytes_max: 256 << 20,
            maps_max: 256,
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

/// The chunk store of a segment. All calls block; they may come from many threads at once.
pub struct PackStore {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    segment: SegmentId,
    options: PackOptions,
    active: Mutex<Active>,
    packs: RwLock<Packs>,
    maps: MapCache,
    /// Whether the directory has changed since its last sync. Held while syncing it.
    is_directory_dirty: Mutex<bool>,
    /// Appends that have been written.
    appended: AtomicU64,
    sync: Mutex<SyncState>,
    sync_ended: Condvar,
    /// Why the store has stopped taking appends.
    failure: Mutex<Option<String>>,
    queue: Queue,
}

/// The pack that is appended to, if any. Its lock is never held while data is written.
struct Active {
    pack: Option<Arc<OpenPack>>,
    next_number: u64,
}

#[derive(Default)]
struct Packs {
    sealed: BTreeMap<u64, u64>,
    open: BTreeMap<u64, Arc<OpenPack>>,
    damaged: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct SyncState {
    /// The count of appends that a finished sync covers.
    synced: u64,
    is_running: bool,
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
    pub fn open(
        disk: Arc<dyn Disk>,
        segment: SegmentId,
        options: PackOptions,
    ) -> Result<(PackStore, Recovery)> {
        let found = find_packs(&*disk, &segment)?;
        let shared = Arc::new(Shared {
            disk,
            segment,
            active: Mutex::new(Active {
                pack: None,
                next_number: found.next_number,
            }),
            packs: RwLock::new(Packs {
                sealed: found.sealed,
                open: found.open,
                damaged: found.damaged,
            }),
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
        let background =
            match shared.options.writeback_bytes {
                None => None,
                Some(_) => {
                    let shared = shared.clone();
                    let thread = std::thread::Builder::new().name("tombolo-packs".into());
                    let handle = thread.spawn(move || shared.run_tasks());
                    Some(handle.map_err(|e| {
                        Error::io("cannot start the thread that writes packs back", e)
                    })?)
                }
            };
        Ok((PackStore { shared, background }, found.recovery))
    }

    /// Stores a chunk, compressed as far as that pays. When it returns the chunk can be read; it is durable
    /// after the next [`PackStore::sync`]. The caller has hashed `raw`: `id` is not checked here, reads would refuse a wrong one.
    ///
    /// `NoSpace`: nothing was stored, later appends may succeed. `Failed`: the store takes no more appends.
    pub fn append(&self, id: &ChunkId, raw: &[u8], compression: Compression) -> Result<Location> {
        if raw.is_empty() || raw.len() > CHUNK_BYTES_MAX as usize {
            return Err(Error::invalid(format!(
                "a chunk of {} bytes; there are 1 to {CHUNK_BYTES_MAX}",
                raw.len()
            )));
        }
        self.shared.check_failure()?;
        compress::compressed(raw, compression, |codec, payload| {
            let header = RecordHeader {
                codec,
                id: *id,
                raw: raw.len() as u32,
                stored: payload.len() as u32,
            };
            self.shared.append(&header, payload)
        })
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
        self.shared.read(id, location)
    }

    /// All packs, by number. Those without a whole record in them may be missing.
    pub fn packs(&self) -> Vec<PackInfo> {
        let packs = self.shared.packs.read();
        let damaged = packs
            .damaged
            .iter()
            .map(|(number, bytes)| (*number, *bytes, false));
        let open = packs
            .open
            .values()
            .map(|pack| (pack.number, pack.bytes(), false));
        let sealed = packs
            .sealed
            .iter()
            .map(|(number, bytes)| (*number, *bytes, true));
        let mut all: Vec<PackInfo> = sealed
            .chain(open)
            .chain(damaged)
            .map(|(number, bytes, is_sealed)| PackInfo {
                number,
                bytes,
                is_sealed,
            })
            .collect();
        all.sort_unstable_by_key(|info| info.number);
        all
    }

    /// Length of all packs together, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        let packs = self.shared.packs.read();
        let open: u64 = packs.open.values().map(|pack| pack.bytes()).sum();
        open + packs
            .sealed
            .values()
            .chain(packs.damaged.values())
            .sum::<u64>()
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
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("pack {} is being written", pack_name(number)),
                ));
            }
            if packs
                .sealed
                .remove(&number)
                .or_else(|| packs.damaged.remove(&number))
                .is_none()
            {
                return Err(no_pack(number));
            }
        }
        shared.maps.remove(number);
        shared.disk.remove(&pack_name(number))?;
        *shared.is_directory_dirty.lock() = true;
        // A sync that has nothing else to do must see to the directory.
        shared.appended.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Reads every record of a pack from the disk, in order, and calls `each` with the chunk, its place, the outcome
    /// and the bytes read for it. An error that concerns the pack as a whole comes at the end: the records were then found by
    /// a scan, which does not see those that are damaged. `each` may wait, to bound the rate.
    pub fn verify_pack(
        &self,
        number: u64,
        each: &mut dyn FnMut(ChunkId, &Location, Result<(), Error>, u64),
    ) -> Result<()> {
        let shared = &*self.shared;
        let (entries, outcome) = match shared.entries(number) {
            Ok(entries) => (entries, Ok(())),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let file = shared
                    .disk
                    .open(&pack_name(number))
                    .map_err(|e| shared.pack_error(number, e))?;
                let found = scan(&*file).map_err(|e| shared.pack_error(number, e))?;
                let entries = found
                    .entries
                    .iter()
                    .map(|entry| (entry.id, entry.location(number)));
                (entries.collect(), Err(error))
            }
        };
        let file = match shared.source(number) {
            Some(Source::Open(pack)) => pack.file.clone(),
            Some(Source::Sealed | Source::Damaged) => shared
                .disk
                .open(&pack_name(number))
                .map_err(|e| shared.pack_error(number, e))?,
            None => return Err(no_pack(number)),
        };
        for (id, location) in entries {
            let checked = read_record(&*file, &id, &location).map(|_| ());
            let checked = checked.map_err(|error| chunk_error(&id, &location, error));
            each(
                id,
                &location,
                checked,
                RECORD_HEADER_BYTES as u64 + u64::from(location.stored),
            );
        }
        outcome
    }

    /// Seals the pack that is appended to, and others that wait for it, and syncs everything: a store closed after this is
    /// opened again without a scan.
    pub fn seal_active(&self) -> Result<()> {
        let shared = &*self.shared;
        shared.check_failure()?;
        if let Some(pack) = shared.active.lock().pack.take() {
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
    fn append(&self, header: &RecordHeader, payload: &[u8]) -> Result<Location> {
        let bytes = header.record_bytes();
        let (pack, offset) = self.reserve(bytes)?;
        let head = header.encode();
        let padding = [0; RECORD_ALIGN as usize];
        let padding_bytes = bytes as usize - head.len() - payload.len();
        let parts = [
            IoSlice::new(&head),
            IoSlice::new(payload),
            IoSlice::new(padding.get(..padding_bytes).unwrap_or_default()),
        ];
        if let Err(error) = pack.file.write_at(&parts, offset) {
            let due = pack.abandon(offset, bytes);
            if error.kind() != ErrorKind::NoSpace {
                self.fail(&error);
            }
            self.see_to(due, pack);
            return Err(error);
        }
        let location = Location {
            pack: pack.number,
            offset,
            stored: header.stored,
            raw: header.raw,
        };
        let entry = super::IndexEntry {
            id: header.id,
            offset,
            stored: header.stored,
            raw: header.raw,
        };
        let due = pack.complete(
            entry,
            bytes,
            self.options.writeback_bytes.unwrap_or(u64::MAX),
        );
        self.appended.fetch_add(1, Ordering::AcqRel);
        self.see_to(due, pack);
        Ok(location)
    }

    /// Space in the active pack, or in a new one if it is full.
    fn reserve(&self, bytes: u64) -> Result<(Arc<OpenPack>, u64)> {
        let mut active = self.active.lock();
        if let Some(pack) = &active.pack {
            if let Some(offset) = pack.reserve(bytes, self.options.pack_bytes_max) {
                return Ok((pack.clone(), offset));
            }
        }
        let number = active.next_number;
        let next_number = number
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::Failed, "pack numbers are used up"))?;
        let pack = Arc::new(OpenPack::create(&*self.disk, &self.segment, number)?);
        let offset = pack
            .reserve(bytes, self.options.pack_bytes_max)
            .ok_or_else(|| Error::new(ErrorKind::Failed, "a new pack is full"))?;
        *self.is_directory_dirty.lock() = true;
        self.packs.write().open.insert(number, pack.clone());
        active.next_number = next_number;
        let full = active.pack.replace(pack.clone());
        drop(active);
        if let Some(full) = full.filter(|full| full.set_full()) {
            self.see_to(Due::Seal, full);
        }
        Ok((pack, offset))
    }

    fn see_to(&self, due: Due, pack: Arc<OpenPack>) {
        let has_thread = self.options.writeback_bytes.is_some();
        match due {
            Due::Nothing => {}
            Due::Flush if has_thread => self.queue.push(Task::Flush(pack)),
            Due::Flush => {}
            Due::Seal if has_thread => self.queue.push(Task::Seal(pack)),
            Due::Seal => self.seal(&pack),
        }
    }

    fn run_tasks(&self) {
        while let Some(task) = self.queue.pop() {
            match task {
                Task::Flush(pack) => {
                    if let Err(error) = pack.flush() {
                        self.fail(&error);
                    }
                }
                Task::Seal(pack) => self.seal(&pack),
            }
        }
    }

    /// Seals a quiet pack. Without space for the index it stays as it is until the next chance.
    fn seal(&self, pack: &Arc<OpenPack>) {
        let is_open = || self.packs.read().open.contains_key(&pack.number);
        if !is_open() {
            return;
        }
        match pack.seal() {
            Ok(bytes) => {
                let mut packs = self.packs.write();
                packs.open.remove(&pack.number);
                packs.sealed.insert(pack.number, bytes);
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(
                    pack = pack_name(pack.number),
                    "no space for a pack's index; it is scanned when it is opened"
                );
            }
            Err(error) => self.fail(&error),
        }
    }

    fn seal_quiet_packs(&self) -> Result<()> {
        let open: Vec<_> = self.packs.read().open.values().cloned().collect();
        for pack in open.iter().filter(|pack| pack.is_quiet()) {
            self.seal(pack);
        }
        self.check_failure()
    }

    fn sync(&self) -> Result<()> {
        let goal = self.appended.load(Ordering::Acquire);
        let mut state = self.sync.lock();
        while state.synced < goal {
            if state.is_running {
                self.sync_ended.wait(&mut state);
                continue;
            }
            state.is_running = true;
            drop(state);
            // Whoever appended until here is taken along.
            let covered = self.appended.load(Ordering::Acquire);
            let outcome = self.flush_all();
            state = self.sync.lock();
            state.is_running = false;
            if outcome.is_ok() {
                state.synced = state.synced.max(covered);
            }
            self.sync_ended.notify_all();
            outcome?;
        }
        // A failure since then says nothing about what was synced before.
        Ok(())
    }

    fn flush_all(&self) -> Result<()> {
        self.check_failure()?;
        let open: Vec<_> = self.packs.read().open.values().cloned().collect();
        let flush = || {
            open.iter().try_for_each(|pack| pack.flush())?;
            let mut is_dirty = self.is_directory_dirty.lock();
            if *is_dirty {
                self.disk.sync_dir()?;
                *is_dirty = false;
            }
            Ok(())
        };
        flush().inspect_err(|error| self.fail(error))?;
        // The other thread may have seen a sync of one of these packs fail.
        self.check_failure()
    }

    fn fail(&self, error: &Error) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(%error, "the chunk store takes no more appends until it is opened again");
            *failure = Some(error.to_string());
        }
    }

    fn check_failure(&self) -> Result<()> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(cause) => Err(Error::new(
                ErrorKind::Failed,
                format!(
                    "the chunk store has stopped after an error, open the segment again: {cause}"
                ),
            )),
        }
    }

    fn source(&self, number: u64) -> Option<Source> {
        let packs = self.packs.read();
        if packs.sealed.contains_key(&number) {
            Some(Source::Sealed)
        } else if let Some(pack) = packs.open.get(&number) {
            Some(Source::Open(pack.clone()))
        } else {
            packs
                .damaged
                .contains_key(&number)
                .then_some(Source::Damaged)
        }
    }

    fn read(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        let outcome = match self.source(location.pack) {
            Some(Source::Open(pack)) => read_record(&*pack.file, id, location),
            Some(Source::Sealed) => self
                .map(location.pack)
                .and_then(|map| map_record(&map, id, location)),
            Some(Source::Damaged) => self
                .disk
                .open(&pack_name(location.pack))
                .and_then(|file| read_record(&*file, id, location)),
            None => Err(no_pack(location.pack)),
        };
        outcome.map_err(|error| chunk_error(id, location, error))
    }

    fn map(&self, number: u64) -> Result<Mapping> {
        let map = self
            .maps
            .get(number, || self.disk.open(&pack_name(number))?.map());
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
                let read = || {
                    let file = self.disk.open(&pack_name(number))?;
                    let file_bytes = file.len()?;
                    let start = file_bytes
                        .checked_sub(TRAILER_BYTES)
                        .filter(|start| *start >= PACK_HEADER_BYTES);
                    let start = start.ok_or_else(|| Error::damaged("the file was cut"))?;
                    let trailer = read_exact(&*file, start, TRAILER_BYTES as usize)?;
                    // Bounds the index by the length of the file.
                    let trailer = read_trailer(&trailer, number, file_bytes)?;
                    trailer.decode_index(&read_exact(
                        &*file,
                        trailer.index_offset,
                        trailer.index_bytes() as usize,
                    )?)
                };
                read().map_err(|error| self.pack_error(number, error))?
            }
            Some(Source::Damaged) => {
                return Err(Error::damaged(format!(
                    "pack {} is damaged",
                    pack_name(number)
                )));
            }
            None => return Err(no_pack(number)),
        };
        entries.sort_unstable_by_key(|entry| entry.offset);
        Ok(entries
            .into_iter()
            .map(|entry| (entry.id, entry.location(number)))
            .collect())
    }

    fn pack_error(&self, number: u64, error: Error) -> Error {
        let name = pack_name(number);
        match error.kind() {
            ErrorKind::NotFound => Error::damaged(format!("pack {name} is missing")),
            kind => Error::new(kind, format!("pack {name} can't be read")),
        }
        .about(Subject::Pack)
        .because(error)
    }
}

fn no_pack(number: u64) -> Error {
    Error::not_found(
        Subject::Pack,
        format!("there is no pack {}", pack_name(number)),
    )
}

/// What a failed read tells the caller. Running out of file handles, for one, is not the chunk's fault.
fn chunk_error(id: &ChunkId, location: &Location, error: Error) -> Error {
    let (name, offset) = (pack_name(location.pack), location.offset);
    let place = format!("chunk {id} in pack {name} at offset {offset}");
    match error.kind() {
        ErrorKind::NotFound => Error::damaged(format!("{place} is lost: the pack is missing")),
        ErrorKind::Damaged | ErrorKind::Invalid => Error::damaged(format!("{place} is damaged")),
        _ => Error::new(ErrorKind::Failed, format!("{place} can't be read")),
    }
    .about(Subject::Chunk)
    .because(error)
}

/// Reads a record with one call to the disk.
fn read_record(file: &dyn File, id: &ChunkId, location: &Location) -> Result<Bytes> {
    location.check()?;
    let record = read_exact(
        file,
        location.offset,
        RECORD_HEADER_BYTES + location.stored as usize,
    )?;
    decode_record(record, id, location)
}

/// Shows a record of a map.
fn map_record(map: &Mapping, id: &ChunkId, location: &Location) -> Result<Bytes> {
    location.check()?;
    let start = usize::try_from(location.offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(RECORD_HEADER_BYTES + location.stored as usize);
    decode_record(map.slice(start..end)?, id, location)
}

fn decode_record(record: Bytes, id: &ChunkId, location: &Location) -> Result<Bytes> {
    let header = decode_header(&record)?;
    if header.id != *id || header.stored != location.stored || header.raw != location.raw {
        return Err(Error::damaged(format!(
            "the record there is of chunk {}, {} bytes",
            header.id, header.raw
        )));
    }
    decode_payload(&header, record.slice(RECORD_HEADER_BYTES..))
}

fn read_exact(file: &dyn File, offset: u64, length: usize) -> Result<Bytes> {
    let mut buffer = BytesMut::zeroed(length);
    let count = file.read_at(&mut buffer, offset)?;
    if count < length {
        return Err(Error::damaged("the file ends before it does"));
    }
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests;
