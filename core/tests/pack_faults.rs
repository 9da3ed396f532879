//! P1 and P3 for the chunk store: what was synced survives every crash, and what is not what it should be is never
//! returned, but named, and does not touch its neighbours.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tombolo_core::chunk::{Location, PackOptions, PackStore, Recovery, pack_name};
use tombolo_core::disk::{Disk, FaultyDisk, SystemDisk};
use tombolo_core::{ChunkId, Compression, ErrorKind, Result, SegmentId};

const SEGMENT: SegmentId = SegmentId([9; 16]);
const SEEDS: u64 = 3_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut raw = vec![0; length];
        let seed = self.below(u64::MAX).to_le_bytes();
        blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut raw);
        raw
    }

    /// A chunk: mostly short, some compressible.
    fn chunk(&mut self) -> Vec<u8> {
        let longest = [1, 20, 200, 600, 3_000, 9_000][self.below(6) as usize];
        let length = 1 + self.below(longest) as usize;
        match self.below(4) {
            0 => vec![self.below(256) as u8; length],
            _ => self.noise(length),
        }
    }
}

fn open(disk: &FaultyDisk) -> Result<(PackStore, Recovery)> {
    let options = PackOptions { pack_bytes_max: 24_000, maps_max: 2, writeback_bytes: None, ..PackOptions::default() };
    PackStore::open(Arc::new(disk.clone()), SEGMENT, options)
}

/// What the layers above would remember: location and content by id.
type Known = BTreeMap<ChunkId, (Location, Vec<u8>)>;

/// What the runs met.
#[derive(Debug, Default)]
struct Totals {
    crashes: u64,
    synced: u64,
    survivors: u64,
    losses: u64,
    full: u64,
    failed: u64,
    cut_bytes: u64,
    gap_bytes: u64,
}

/// One life of a store after the other on one disk, each ended by a crash.
fn live_and_crash(seed: u64, totals: &mut Totals) {
    let mut random = Random(seed);
    let disk = FaultyDisk::new();
    let (mut durable, mut unsynced): (Known, Known) = Default::default();
    for life in 0..4 {
        let context = format!("seed {seed}, life {life}");
        let (store, recovery) = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(recovery.damaged.is_empty(), "{context}: {:?}", recovery.damaged);
        totals.cut_bytes += recovery.recovered.iter().map(|pack| pack.cut_bytes).sum::<u64>();
        totals.gap_bytes += recovery.recovered.iter().map(|pack| pack.gap_bytes).sum::<u64>();
        check(&context, &store, &durable, std::mem::take(&mut unsynced), totals);
        for _ in 0..random.below(40) {
            match random.below(20) {
                0..3 if store.sync().is_ok() => {
                    totals.synced += unsynced.len() as u64;
                    durable.append(&mut unsynced);
                }
                3 => disk.set_free_bytes(Some(random.below(4_000))),
                4 => disk.set_free_bytes(None),
                5 if random.below(10) == 0 => disk.set_writes_left(Some(random.below(4))),
                6 if random.below(10) == 0 => disk.set_fails_syncs(true),
                7 if random.below(4) == 0 && store.seal_active().is_ok() => durable.append(&mut unsynced),
                _ => append(&context, &store, random.chunk(), &durable, &mut unsynced, totals),
            }
        }
        drop(store);
        disk.crash(random.below(u64::MAX));
        totals.crashes += 1;
    }
}

fn append(context: &str, store: &PackStore, raw: Vec<u8>, durable: &Known, unsynced: &mut Known, totals: &mut Totals) {
    let id = ChunkId::of(&raw);
    if durable.contains_key(&id) || unsynced.contains_key(&id) {
        return;
    }
    match store.append(&id, &raw, Compression::Lz4) {
        Ok(location) => {
            assert_eq!(store.read(&id, &location).unwrap(), raw, "{context}");
            unsynced.insert(id, (location, raw));
        }
        Err(error) if error.kind() == ErrorKind::NoSpace => totals.full += 1,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Failed, "{context}: {error}");
            totals.failed += 1;
        }
    }
}

/// After a crash: all that was synced is there, what was not is whole or damaged, and packs list what is whole.
fn check(context: &str, store: &PackStore, durable: &Known, unsynced: Known, totals: &mut Totals) {
    for (id, (location, raw)) in durable {
        let read = store.read(id, location).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(read == raw, "{context}: chunk {id} has other bytes");
    }
    for (id, (location, raw)) in unsynced {
        match store.read(&id, &location) {
            Ok(read) => {
                assert!(read == raw, "{context}: a torn chunk came back");
                totals.survivors += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{context}: {error}");
                totals.losses += 1;
            }
        }
    }
    let mut listed = BTreeSet::new();
    for pack in store.packs() {
        let mut verified = |id, location: &Location, outcome: Result<()>, _| {
            outcome.unwrap_or_else(|error| panic!("{context}: {error}"));
            listed.insert((id, *location));
        };
        store.verify_pack(pack.number, &mut verified).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    for (id, (location, _)) in durable {
        assert!(listed.contains(&(*id, *location)), "{context}: chunk {id} is not listed");
    }
}

#[test]
fn synced_chunks_survive_crashes_and_torn_ones_are_never_returned() {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        live_and_crash(seed, &mut totals);
    }
    println!("{totals:?}");
    // The runs did meet what they are about.
    let Totals { crashes, synced, survivors, losses, full, failed, cut_bytes, gap_bytes } = totals;
    assert_eq!(crashes, SEEDS * 4);
    assert!([synced, survivors, losses, full, failed].iter().all(|count| *count > SEEDS / 10));
    assert!(cut_bytes > 0 && gap_bytes > 0);
}

type Chunks = Vec<(ChunkId, Location, Vec<u8>)>;

fn open_dir(dir: &Path) -> (PackStore, Recovery) {
    let options = PackOptions { pack_bytes_max: 31_000, ..PackOptions::default() };
    PackStore::open(Arc::new(SystemDisk::open(dir).unwrap()), SEGMENT, options).unwrap()
}

/// Three sealed packs of six chunks of 5,000 bytes.
fn three_packs(dir: &Path) -> Chunks {
    let (store, _) = open_dir(dir);
    let mut random = Random(1);
    let mut chunks = Vec::new();
    for _ in 0..18 {
        let raw = random.noise(5_000);
        let id = ChunkId::of(&raw);
        chunks.push((id, store.append(&id, &raw, Compression::None).unwrap(), raw));
    }
    store.seal_active().unwrap();
    assert!(store.packs().len() == 3 && store.packs().iter().all(|pack| pack.is_sealed));
    chunks
}

/// Reads every chunk; gives the places in `chunks` of those that can't be, having checked that the error names chunk, pack
/// and offset.
fn unreadable(store: &PackStore, chunks: &Chunks) -> Vec<usize> {
    let mut places = Vec::new();
    for (place, (id, location, raw)) in chunks.iter().enumerate() {
        match store.read(id, location) {
            Ok(read) => assert!(read == raw),
            Err(error) => {
                let text = error.to_string();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{text}");
                for word in [id.to_string(), pack_name(location.pack), format!("offset {}", location.offset)] {
                    assert!(text.contains(&word), "{text}");
                }
                places.push(place);
            }
        }
    }
    places
}

fn edit(dir: &Path, pack: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(pack_name(pack));
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
}

/// Damaged chunks that reading all packs finds, and packs with something wrong about them as a whole.
fn scrub(store: &PackStore) -> (Vec<ChunkId>, Vec<u64>) {
    let (mut chunks, mut packs) = (Vec::new(), Vec::new());
    for pack in store.packs() {
        let mut verified = |id, _: &Location, outcome: Result<()>, _| {
            if outcome.is_err() {
                chunks.push(id);
            }
        };
        if store.verify_pack(pack.number, &mut verified).is_err() {
            packs.push(pack.number);
        }
    }
    (chunks, packs)
}

#[test]
fn a_flipped_byte_damages_one_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = three_packs(dir.path());
    // In the payload of one, in the header of another.
    edit(dir.path(), chunks[2].1.pack, |bytes| bytes[chunks[2].1.offset as usize + 1_000] ^= 1);
    edit(dir.path(), chunks[9].1.pack, |bytes| bytes[chunks[9].1.offset as usize + 20] ^= 0x80);
    let (store, recovery) = open_dir(dir.path());
    assert!(recovery.damaged.is_empty() && recovery.recovered.is_empty(), "sealed packs are not read on opening");
    assert_eq!(unreadable(&store, &chunks), [2, 9]);
    assert_eq!(scrub(&store), (vec![chunks[2].0, chunks[9].0], vec![]));
}

#[test]
fn a_flipped_byte_in_an_index_damages_no_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = three_packs(dir.path());
    edit(dir.path(), 0, |bytes| {
        let place = bytes.len() - 64 - 100;
        bytes[place] ^= 4;
    });
    let (store, _) = open_dir(dir.path());
    assert!(unreadable(&store, &chunks).is_empty());
    let error = store.entries(0).unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && error.to_string().contains(&pack_name(0)), "{error}");
    assert_eq!(scrub(&store), (vec![], vec![0]));
    drop(store);
    // With a bad trailer it looks like a pack that was never sealed, and is sealed again.
    edit(dir.path(), 1, |bytes| {
        let place = bytes.len() - 30;
        bytes[place] ^= 4;
    });
    let (store, recovery) = open_dir(dir.path());
    let recovered: Vec<_> = recovery.recovered.iter().map(|pack| (pack.number, pack.records)).collect();
    assert_eq!(recovered, [(1, 6)]);
    assert!(unreadable(&store, &chunks).is_empty());
    assert_eq!(store.entries(1).unwrap().len(), 6);
}

#[test]
fn a_truncated_pack_keeps_what_is_left() {
    for is_open in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let chunks = three_packs(dir.path());
        let (mut store, _) = open_dir(dir.path());
        let (id, location, raw) = &chunks[6];
        let held = store.read(id, location).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(pack_name(1))).unwrap();
        file.set_len(chunks[8].1.offset + 3_000).unwrap();
        if !is_open {
            drop(store);
            store = open_dir(dir.path()).0;
        }
        assert_eq!(unreadable(&store, &chunks), [8, 9, 10, 11], "open while it was cut: {is_open}");
        assert!(held == raw);
    }
}

#[test]
fn a_deleted_pack_is_said_to_be_missing() {
    for is_open in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let chunks = three_packs(dir.path());
        let (mut store, _) = open_dir(dir.path());
        std::fs::remove_file(dir.path().join(pack_name(1))).unwrap();
        if is_open {
            assert_eq!(scrub(&store), (vec![], vec![1]));
        } else {
            drop(store);
            store = open_dir(dir.path()).0;
        }
        assert_eq!(unreadable(&store, &chunks), [6, 7, 8, 9, 10, 11]);
        let error = store.read(&chunks[6].0, &chunks[6].1).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[test]
fn a_pack_that_is_the_content_of_a_damaged_chunk_hides_nothing() {
    let inner_dir = tempfile::tempdir().unwrap();
    let inner = three_packs(inner_dir.path());
    let image = std::fs::read(inner_dir.path().join(pack_name(0))).unwrap();
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk).unwrap();
    let append = |raw: &[u8]| {
        let id = ChunkId::of(raw);
        (id, store.append(&id, raw, Compression::None).unwrap())
    };
    let (outer, outer_location) = append(&image[..20_000]);
    let (after, after_location) = append(b"after");
    store.sync().unwrap();
    drop(store);
    disk.damage(&pack_name(0), |bytes| bytes[outer_location.offset as usize] ^= 1);
    let (store, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.recovered.len(), 1);
    assert_eq!(store.read(&after, &after_location).unwrap(), "after");
    assert!(store.read(&outer, &outer_location).is_err());
    let entries = store.entries(0).unwrap();
    assert_eq!(entries.len(), 4, "three whole chunks of the image, and the one after it");
    for (id, location) in entries {
        let read = store.read(&id, &location).unwrap();
        assert!(id == after || inner.iter().any(|(inner, _, raw)| *inner == id && read == raw));
    }
    assert_eq!(disk.list().unwrap().len(), 1);
}
