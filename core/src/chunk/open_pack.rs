//! A pack that has no index yet: the one being appended to, and full ones that wait for being sealed.
//!
//! Space is given out under a short lock; the bytes are written outside it, by many threads at once. A pack is *full* when no
//! space is given out any more, *quiet* when in addition no write is under way. Only a quiet pack is sealed:
//! its data is synced first, then index and trailer are written and synced. So a trailer that a crash leaves behind
//! vouches for every record in the index.

use super::pack::{IndexEntry, PACK_HEADER_BYTES, encode_footer, encode_pack_header, pack_name};
use crate::disk::{Disk, File};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SegmentId;
use parking_lot::Mutex;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pack without an index.
pub(super) struct OpenPack {
    pub(super) number: u64,
    pub(super) file: Arc<dyn File>,
    state: Mutex<State>,
    /// Whether something was written since the last sync began.
    is_dirty: AtomicBool,
    /// Held while syncing or sealing, so that whoever finds the pack clean knows that the sync is over. True once a sync
    /// has failed: nobody knows what is on disk then, and a second sync that succeeds would prove nothing.
    has_failed: Mutex<bool>,
}

struct State {
    /// Where the next record goes.
    tail: u64,
    /// Writes under way.
    in_flight: usize,
    entries: Vec<IndexEntry>,
    is_full: bool,
    /// Bytes written since write-back was last asked for.
    unflushed_bytes: u64,
}

/// What the thread that ended a write should see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Enough was written to start the disk on it.
    Flush,
    /// The pack is full and this was its last write.
    Seal,
}

impl OpenPack {
    /// Makes the file of pack `number` and writes its header.
    pub(super) fn create(disk: &dyn Disk, segment: &SegmentId, number: u64) -> Result<OpenPack> {
        let name = pack_name(number);
        let file = disk.create(&name)?;
        if let Err(error) = file.write_at(&[IoSlice::new(&encode_pack_header(segment, number))], 0) {
            drop(file);
            // Without a header the file is worth nothing; if it stays, the next open removes it.
            if let Err(second) = disk.remove(&name) {
                tracing::warn!(error = %second, pack = name, "a pack that could not be started stays behind");
            }
            return Err(error);
        }
        Ok(OpenPack::with(number, file, PACK_HEADER_BYTES, Vec::new(), false))
    }

    /// A pack found after a crash: its records, and where the last one ends. Full, so that it only waits for its index.
    pub(super) fn recovered(number: u64, file: Arc<dyn File>, end: u64, entries: Vec<IndexEntry>) -> OpenPack {
        OpenPack::with(number, file, end, entries, true)
    }

    fn with(number: u64, file: Arc<dyn File>, tail: u64, entries: Vec<IndexEntry>, is_full: bool) -> OpenPack {
        let state = State { tail, in_flight: 0, entries, is_full, unflushed_bytes: 0 };
        OpenPack {
            number,
            file,
            state: Mutex::new(state),
            is_dirty: AtomicBool::new(true),
            has_failed: Mutex::new(false),
        }
    }

    /// Gives out `bytes` of space; `None` if the pack would outgrow `bytes_max`. Each reservation is ended by
    /// [`OpenPack::complete`] or [`OpenPack::abandon`].
    pub(super) fn reserve(&self, bytes: u64, bytes_max: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let offset = state.tail;
        if state.is_full || (offset + bytes > bytes_max && offset > PACK_HEADER_BYTES) {
            return None;
        }
        state.tail += bytes;
        state.in_flight += 1;
        Some(offset)
    }

    /// Ends a reservation: the record is written.
    pub(super) fn complete(&self, entry: IndexEntry, bytes: u64, writeback_bytes: u64) -> Due {
        self.is_dirty.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.entries.push(entry);
        state.in_flight -= 1;
        state.unflushed_bytes += bytes;
        if state.is_full && state.in_flight == 0 {
            Due::Seal
        } else if state.unflushed_bytes >= writeback_bytes {
            state.unflushed_bytes = 0;
            Due::Flush
        } else {
            Due::Nothing
        }
    }

    /// Ends a reservation that failed. The space is given out again if nobody came after; else it stays a gap.
    pub(super) fn abandon(&self, offset: u64, bytes: u64) -> Due {
        self.is_dirty.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.in_flight -= 1;
        if state.tail == offset + bytes {
            state.tail = offset;
        }
        if state.is_full && state.in_flight == 0 { Due::Seal } else { Due::Nothing }
    }

    /// No more space is given out. Returns whether the pack is quiet.
    pub(super) fn set_full(&self) -> bool {
        let mut state = self.state.lock();
        state.is_full = true;
        state.in_flight == 0
    }

    /// Whether the pack is full and quiet.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        state.is_full && state.in_flight == 0
    }

    /// Whether a write is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.state.lock().in_flight > 0
    }

    /// Length so far in bytes, reservations included.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().tail
    }

    /// The records so far.
    pub(super) fn entries(&self) -> Vec<IndexEntry> {
        self.state.lock().entries.clone()
    }

    /// Makes every record completed before this call durable.
    pub(super) fn flush(&self) -> Result<()> {
        self.flush_with(&mut self.has_failed.lock())
    }

    fn flush_with(&self, has_failed: &mut bool) -> Result<()> {
        let failed = || Error::new(ErrorKind::Failed, format!("syncing pack {} failed", pack_name(self.number)));
        if *has_failed {
            return Err(failed());
        }
        if self.is_dirty.swap(false, Ordering::AcqRel) {
            *has_failed = true;
            // Even "no space" means that written bytes are lost, which no caller can mend.
            self.file.sync_data().map_err(|error| failed().because(error))?;
            *has_failed = false;
        }
        Ok(())
    }

    /// Writes index and trailer of a quiet pack, durably; returns the file's length. If there is no space, the pack stays
    /// as it was.
    pub(super) fn seal(&self) -> Result<u64> {
        let mut has_failed = self.has_failed.lock();
        self.flush_with(&mut has_failed)?;
        let (index_offset, mut entries) = {
            let state = self.state.lock();
            (state.tail, state.entries.clone())
        };
        let footer = encode_footer(self.number, index_offset, &mut entries);
        let end = index_offset + footer.len() as u64;
        let write = || {
            self.file.write_at(&[IoSlice::new(&footer)], index_offset)?;
            // A failed write may have left something beyond.
            if self.file.len()? > end { self.file.truncate(end) } else { Ok(()) }
        };
        self.is_dirty.store(true, Ordering::Release);
        if let Err(error) = write() {
            self.file.truncate(index_offset)?;
            return Err(error);
        }
        self.flush_with(&mut has_failed)?;
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::record::{Codec, RecordHeader};
    use crate::chunk::scan::scan;
    use crate::disk::FaultyDisk;
    use crate::id::ChunkId;

    const SEGMENT: SegmentId = SegmentId([1; 16]);

    fn put(pack: &OpenPack, raw: &[u8], offset: u64) -> IndexEntry {
        let length = raw.len() as u32;
        let header =
            RecordHeader { codec: Codec::Raw, id: ChunkId::of(raw), raw: length, stored: length, has_tree: false };
        pack.file.write_at(&[IoSlice::new(&header.encode()), IoSlice::new(raw)], offset).unwrap();
        IndexEntry { id: header.id, offset, stored: length, raw: length }
    }

    #[test]
    fn a_failed_sync_is_final() {
        let disk = FaultyDisk::new();
        let pack = OpenPack::create(&disk, &SEGMENT, 0).unwrap();
        disk.set_fails_syncs(true);
        assert_eq!(pack.flush().unwrap_err().kind(), ErrorKind::Failed);
        disk.set_fails_syncs(false);
        assert_eq!(pack.flush().unwrap_err().kind(), ErrorKind::Failed, "the next success would prove nothing");
        pack.set_full();
        assert_eq!(pack.seal().unwrap_err().kind(), ErrorKind::Failed);
    }

    #[test]
    fn a_write_that_failed_between_others_is_a_gap() {
        for seed in 0..20 {
            let disk = FaultyDisk::new();
            let pack = OpenPack::create(&disk, &SEGMENT, 0).unwrap();
            let [first, second, third, last] = [0; 4].map(|_| pack.reserve(4_000, 1 << 20).unwrap());
            let third = put(&pack, &[3; 3_944], third);
            let first = put(&pack, &[1; 3_944], first);
            assert_eq!(pack.complete(third, 4_000, u64::MAX), Due::Nothing);
            assert_eq!(pack.abandon(second, 4_000), Due::Nothing);
            assert_eq!(pack.abandon(last, 4_000), Due::Nothing);
            assert_eq!(pack.bytes(), last, "nobody came after the last one");
            assert!(!pack.set_full());
            assert_eq!(pack.complete(first, 4_000, u64::MAX), Due::Seal);
            pack.flush().unwrap();
            disk.sync_dir().unwrap();
            if seed % 2 == 0 {
                disk.crash(seed);
                let found = scan(&*disk.open(&pack_name(0)).unwrap()).unwrap();
                assert_eq!(found.entries, [first, third]);
                assert_eq!((found.gap_bytes, found.end), (4_000, last));
            } else {
                let bytes = pack.seal().unwrap();
                assert_eq!(bytes, pack.file.len().unwrap());
                disk.crash(seed);
                let read = crate::chunk::read::read_index(&*disk.open(&pack_name(0)).unwrap(), 0).unwrap();
                let mut expected = vec![first, third];
                expected.sort();
                assert_eq!(read, expected);
            }
        }
    }
}
