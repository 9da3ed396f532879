//! A disk in memory that does what the contract allows at its worst.
//!
//! Everything it does follows from the seed given to [`FaultyDisk::crash`] and the calls made, so a failing run can be replayed.

use super::{Disk, File, FileInfo, Mapping};
use crate::error::{Error, ErrorKind, Result, Subject};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

/// What is written in one go: a sector keeps its old bytes or gets all the new ones.
const SECTOR_BYTES: usize = 512;

/// An in-memory disk with faults, for tests. Clones share the same files.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Handles from before the last crash are dead.
    generation: u64,
    next_inode: u64,
    /// Names as callers see them, and as they would be found after a crash.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    inodes: BTreeMap<u64, Inode>,
    /// Bytes by which files may still grow; `None`: no limit.
    free_bytes: Option<u64>,
    /// Writes that still succeed before all fail; `None`: all succeed.
    writes_left: Option<u64>,
    fails_reads: bool,
    fails_syncs: bool,
    syncs: u64,
}

#[derive(Default)]
struct Inode {
    /// As callers see it.
    bytes: Vec<u8>,
    /// As it was at the last sync.
    durable: Vec<u8>,
    /// What was done since.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

struct FaultyFile {
    disk: FaultyDisk,
    generation: u64,
    inode: u64,
}

impl FaultyDisk {
    /// An empty disk without limits.
    pub fn new() -> FaultyDisk {
        FaultyDisk::default()
    }

    /// Cuts the power: what was not synced survives as `seed` decides. Handles from before are dead; faults are lifted.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.0.lock();
        let state = &mut *state;
        let mut names = state.durable_names.clone();
        let touched: Vec<String> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for name in touched {
            let (now, before) = (state.names.get(&name).copied(), state.durable_names.get(&name).copied());
            if now != before && random.coin() {
                match now {
                    Some(inode) => names.insert(name, inode),
                    None => names.remove(&name),
                };
            }
        }
        let inodes = std::mem::take(&mut state.inodes);
        for (number, inode) in inodes {
            if names.values().any(|named| *named == number) {
                let bytes = inode.after_crash(&mut random);
                let survivor = Inode { durable: bytes.clone(), bytes, pending: Vec::new() };
                state.inodes.insert(number, survivor);
            }
        }
        state.durable_names = names.clone();
        state.names = names;
        state.generation += 1;
        state.free_bytes = None;
        state.writes_left = None;
        state.fails_reads = false;
        state.fails_syncs = false;
    }

    /// How far files may still grow, all together; `None`: no limit.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.0.lock().free_bytes = free;
    }

    /// Lets `count` more writes succeed, then fails each one half done; `None`: no failures.
    pub fn set_writes_left(&self, count: Option<u64>) {
        self.0.lock().writes_left = count;
    }

    /// Whether reads fail.
    pub fn set_fails_reads(&self, fails: bool) {
        self.0.lock().fails_reads = fails;
    }

    /// Whether syncs fail.
    pub fn set_fails_syncs(&self, fails: bool) {
        self.0.lock().fails_syncs = fails;
    }

    /// Syncs of files (not of the directory) so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Changes a file's bytes behind everybody's back, durably: `change` gets all of them.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let number = state.names.get(name).copied();
        if let Some(inode) = number.and_then(|number| state.inodes.get_mut(&number)) {
            change(&mut inode.bytes);
            inode.durable = inode.bytes.clone();
            inode.pending.clear();
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, data: Vec<u8>) {
        overlay(&mut self.bytes, offset, &data);
        self.pending.push(Change::Write { offset, data });
    }

    /// A content that the contract allows after a crash.
    fn after_crash(mut self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable;
        if random.coin() {
            random.shuffle(&mut self.pending);
        }
        // 0: nothing survives, 1: everything does, 2 and 3: each change by itself.
        let mood = random.below(4);
        for change in &self.pending {
            match (mood, change) {
                (0, _) => {}
                (1, Change::Write { offset, data }) => overlay(&mut bytes, *offset, data),
                (_, Change::Truncate(length)) => {
                    if mood == 1 || random.coin() {
                        bytes.resize(*length, 0);
                    }
                }
                (_, Change::Write { offset, data }) => match random.below(3) {
                    0 => {}
                    1 => overlay(&mut bytes, *offset, data),
                    _ => tear(&mut bytes, *offset, data, random),
                },
            }
        }
        // A file's length may survive without the bytes.
        if bytes.len() < self.bytes.len() && random.coin() {
            bytes.resize(self.bytes.len(), 0);
        }
        bytes
    }
}

/// Writes some of the sectors that `data` touches.
fn tear(bytes: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    let mut start = 0;
    while start < data.len() {
        let end = (start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES).min(data.len());
        if random.coin() {
            overlay(bytes, offset + start, data.get(start..end).unwrap_or_default());
        }
        start = end;
    }
}

fn overlay(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(target) = bytes.get_mut(offset..end) {
        target.copy_from_slice(data);
    }
}

fn no_such_file(name: &str) -> Error {
    Error::not_found(Subject::Pack, format!("no file {name}"))
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        if state.names.contains_key(name) {
            return Err(Error::exists(Subject::Pack, format!("file {name} exists")));
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.names.insert(name.into(), inode);
        Ok(Arc::new(FaultyFile { disk: self.clone(), generation: state.generation, inode }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        let state = self.0.lock();
        let inode = *state.names.get(name).ok_or_else(|| no_such_file(name))?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), generation: state.generation, inode }))
    }

    fn list(&self) -> Result<Vec<FileInfo>> {
        let state = self.0.lock();
        let bytes = |inode| state.inodes.get(inode).map_or(0, |inode| inode.bytes.len() as u64);
        Ok(state.names.iter().map(|(name, inode)| FileInfo { name: name.clone(), bytes: bytes(inode) }).collect())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.0.lock();
        let number = state.names.remove(name).ok_or_else(|| no_such_file(name))?;
        let length = state.inodes.get(&number).map_or(0, |inode| inode.bytes.len() as u64);
        state.free_bytes = state.free_bytes.map(|free| free + length);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut state = self.0.lock();
        let inode = state.names.remove(from).ok_or_else(|| no_such_file(from))?;
        state.names.insert(to.into(), inode);
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        let mut state = self.0.lock();
        if state.fails_syncs {
            return Err(Error::new(ErrorKind::Failed, "the disk fails syncs"));
        }
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(self.0.lock().free_bytes.unwrap_or(u64::MAX))
    }
}

impl FaultyFile {
    fn with<T>(&self, action: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.disk.0.lock();
        if state.generation != self.generation {
            return Err(Error::new(ErrorKind::Failed, "this handle did not survive the crash"));
        }
        action(&mut state)
    }

    fn with_inode<T>(&self, action: impl FnOnce(&mut Inode) -> T) -> Result<T> {
        self.with(|state| match state.inodes.get_mut(&self.inode) {
            Some(inode) => Ok(action(inode)),
            None => Err(Error::new(ErrorKind::Failed, "the file is gone")),
        })
    }
}

impl File for FaultyFile {
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let mut data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let offset = offset as usize;
        self.with(|state| {
            let inode = state.inodes.entry(self.inode).or_default();
            let mut outcome = Ok(());
            match &mut state.writes_left {
                Some(0) => {
                    data.truncate(data.len() / 2);
                    outcome = Err(Error::new(ErrorKind::Failed, "the disk fails writes"));
                }
                Some(left) => *left -= 1,
                None => {}
            }
            let growth = (offset + data.len()).saturating_sub(inode.bytes.len());
            if let Some(free) = &mut state.free_bytes {
                if *free < growth as u64 {
                    data.truncate(data.len().saturating_sub(growth - *free as usize));
                    *free = 0;
                    outcome = outcome.and(Err(Error::new(ErrorKind::NoSpace, "the disk is full")));
                } else {
                    *free -= growth as u64;
                }
            }
            if !data.is_empty() {
                inode.write(offset, data);
            }
            outcome
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if self.with(|state| Ok(state.fails_reads))? {
            return Err(Error::damaged("the disk fails reads"));
        }
        self.with_inode(|inode| {
            let there = inode.bytes.get(offset as usize..).unwrap_or_default();
            let count = there.len().min(buffer.len());
            buffer.iter_mut().zip(there).for_each(|(slot, byte)| *slot = *byte);
            count
        })
    }

    fn sync_data(&self) -> Result<()> {
        if self.with(|state| Ok(state.fails_syncs))? {
            return Err(Error::new(ErrorKind::Failed, "the disk fails syncs"));
        }
        self.with(|state| {
            state.syncs += 1;
            Ok(())
        })?;
        self.with_inode(|inode| {
            for change in inode.pending.drain(..) {
                match change {
                    Change::Write { offset, data } => overlay(&mut inode.durable, offset, &data),
                    Change::Truncate(length) => inode.durable.resize(length, 0),
                }
            }
        })
    }

    fn len(&self) -> Result<u64> {
        self.with_inode(|inode| inode.bytes.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> Result<()> {
        self.with(|state| {
            let inode = state.inodes.entry(self.inode).or_default();
            let freed = (inode.bytes.len() as u64).saturating_sub(bytes);
            inode.bytes.resize(bytes as usize, 0);
            inode.pending.push(Change::Truncate(bytes as usize));
            state.free_bytes = state.free_bytes.map(|free| free + freed);
            Ok(())
        })
    }

    fn map(&self) -> Result<Mapping> {
        self.with_inode(|inode| Mapping::of_memory(Bytes::copy_from_slice(&inode.bytes)))
    }
}

/// splitmix64: all the randomness a seed needs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Arc<dyn File>, data: &[u8], offset: u64) -> Result<()> {
        file.write_at(&[IoSlice::new(data)], offset)
    }

    #[test]
    fn synced_bytes_and_names_survive_and_others_take_every_fate() {
        let mut lengths = std::collections::BTreeSet::new();
        let mut unsynced_names = 0;
        for seed in 0..200 {
            let disk = FaultyDisk::new();
            let file = disk.create("kept").unwrap();
            write(&file, &[1; 700], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir().unwrap();
            disk.create("maybe").unwrap();
            write(&file, &[2; 2000], 700).unwrap();
            disk.crash(seed);
            assert_eq!(write(&file, &[3], 0).unwrap_err().kind(), ErrorKind::Failed);
            let file = disk.open("kept").unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            assert!(bytes[..700].iter().all(|b| *b == 1), "seed {seed}");
            assert!(bytes[700..].iter().all(|b| *b == 2 || *b == 0), "seed {seed}");
            lengths.insert(bytes[700..].iter().filter(|b| **b == 2).count());
            unsynced_names += u32::from(disk.open("maybe").is_ok());
        }
        assert!(lengths.contains(&0) && lengths.contains(&2000) && lengths.len() > 4, "{lengths:?}");
        assert!((50..150).contains(&unsynced_names), "{unsynced_names}");
    }

    #[test]
    fn faults_strike_when_told() {
        let disk = FaultyDisk::new();
        let file = disk.create("a").unwrap();
        disk.set_free_bytes(Some(10));
        assert_eq!(write(&file, &[1; 16], 0).unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(file.len().unwrap(), 10, "a full disk takes what fits");
        write(&file, &[2; 10], 0).unwrap();
        disk.set_free_bytes(None);
        disk.set_writes_left(Some(1));
        write(&file, &[3; 16], 0).unwrap();
        assert_eq!(write(&file, &[4; 16], 0).unwrap_err().kind(), ErrorKind::Failed);
        disk.set_fails_syncs(true);
        assert!(file.sync_data().is_err() && disk.sync_dir().is_err());
        disk.set_fails_reads(true);
        assert!(file.read_at(&mut [0; 4], 0).is_err());
    }
}
