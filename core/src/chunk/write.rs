//! The writing half of the store: reserving space, writing records, sealing packs, syncing.

use super::background::Task;
use super::location::Location;
use super::open_pack::{Due, OpenPack};
use super::pack::{IndexEntry, pack_name};
use super::record::{RECORD_ALIGN, RecordHeader};
use super::store::Shared;
use crate::error::{Error, ErrorKind, Result};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Records from this size on are written to another pack while one is being written to, in bytes.
const LANE_BYTES_MIN: u64 = 64 << 10;

impl Shared {
    /// `tree`: the hashes that follow the payload, if the header says so.
    pub(super) fn append(&self, header: &RecordHeader, payload: &[u8], tree: &[u8]) -> Result<Location> {
        let bytes = header.record_bytes();
        let (pack, offset) = self.reserve(bytes)?;
        let head = header.encode();
        let padding = [0; RECORD_ALIGN as usize];
        let padding_bytes = bytes as usize - head.len() - payload.len() - tree.len();
        let parts = [
            IoSlice::new(&head),
            IoSlice::new(payload),
            IoSlice::new(tree),
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
        let location = Location { pack: pack.number, offset, stored: header.stored, raw: header.raw };
        let entry = IndexEntry { id: header.id, offset, stored: header.stored, raw: header.raw };
        let due = pack.complete(entry, bytes, self.options.writeback_bytes.unwrap_or(u64::MAX));
        self.appended.fetch_add(1, Ordering::AcqRel);
        self.see_to(due, pack);
        Ok(location)
    }

    /// Space in an active pack, or in a new one if it is full, or all are being written to. Small records stay in one pack, as every
    /// pack costs a sync.
    fn reserve(&self, bytes: u64) -> Result<(Arc<OpenPack>, u64)> {
        let mut active = self.active.lock();
        let lane = if bytes < LANE_BYTES_MIN {
            0
        } else {
            let quiet = active.packs.iter().position(|pack| !pack.is_busy());
            quiet.unwrap_or(if active.packs.len() < self.options.appending_max { active.packs.len() } else { 0 })
        };
        if let Some(pack) = active.packs.get(lane)
            && let Some(offset) = pack.reserve(bytes, self.options.pack_bytes_max)
        {
            return Ok((pack.clone(), offset));
        }
        let number = active.next_number;
        let next_number =
            number.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Failed, "pack numbers are used up"))?;
        let pack = Arc::new(OpenPack::create(&*self.disk, &self.segment, number)?);
        let offset = pack
            .reserve(bytes, self.options.pack_bytes_max)
            .ok_or_else(|| Error::new(ErrorKind::Failed, "a new pack is full"))?;
        *self.is_directory_dirty.lock() = true;
        self.packs.write().open.insert(number, pack.clone());
        active.next_number = next_number;
        let full = match active.packs.get_mut(lane) {
            Some(lane) => Some(std::mem::replace(lane, pack.clone())),
            None => {
                active.packs.push(pack.clone());
                None
            }
        };
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

    pub(super) fn run_tasks(&self) {
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

    pub(super) fn seal_quiet_packs(&self) -> Result<()> {
        let open: Vec<_> = self.packs.read().open.values().cloned().collect();
        for pack in open.iter().filter(|pack| pack.is_quiet()) {
            self.seal(pack);
        }
        self.check_failure()
    }

    pub(super) fn sync(&self) -> Result<()> {
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

    pub(super) fn check_failure(&self) -> Result<()> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(cause) => Err(Error::new(
                ErrorKind::Failed,
                format!("the chunk store has stopped after an error, open the segment again: {cause}"),
            )),
        }
    }
}
