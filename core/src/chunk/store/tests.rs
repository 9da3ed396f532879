//! The store on a disk in memory and on a real one.

use super::*;
use crate::disk::{FaultyDisk, SystemDisk};
use crate::error::Subject;

const SEGMENT: SegmentId = SegmentId([5; 16]);

fn inline(pack_bytes_max: u64) -> PackOptions {
    PackOptions { first_number: 0, pack_bytes_max, appending_max: 2, maps_max: 2, writeback_bytes: None }
}

fn open(disk: &FaultyDisk, options: PackOptions) -> (PackStore, Recovery) {
    PackStore::open(Arc::new(disk.clone()), SEGMENT, options).unwrap()
}

/// `length` bytes that can't be compressed, different for each `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn append(store: &PackStore, raw: &[u8]) -> (ChunkId, Location) {
    let id = ChunkId::of(raw);
    (id, store.append(&id, raw, Compression::Lz4).unwrap())
}

#[test]
fn chunks_come_back_from_open_and_sealed_packs() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SystemDisk::open(dir.path()).unwrap());
    let options = PackOptions { writeback_bytes: Some(10_000), ..inline(100_000) };
    let (store, recovery) = PackStore::open(disk.clone(), SEGMENT, options.clone()).unwrap();
    assert_eq!(recovery.packs, 0);
    let chunks: Vec<_> = (0..60).map(|n| if n % 2 == 0 { noise(n, 9_000) } else { vec![n as u8; 50_000] }).collect();
    let places: Vec<_> = chunks.iter().map(|raw| append(&store, raw)).collect();
    store.sync().unwrap();
    let check = |store: &PackStore| {
        for (raw, (id, location)) in chunks.iter().zip(&places) {
            assert!(store.read(id, location).unwrap() == raw);
            assert_eq!(location.stored == location.raw, raw.len() == 9_000);
        }
    };
    check(&store);
    store.seal_active().unwrap();
    check(&store);
    let packs = store.packs();
    assert!(packs.len() >= 3 && packs.iter().all(|pack| pack.is_sealed && pack.bytes < 120_000), "{packs:?}");
    let on_disk: u64 = disk.list().unwrap().iter().map(|file| file.bytes).sum();
    assert_eq!(store.stored_bytes(), on_disk);
    let mut listed: Vec<_> = packs.iter().flat_map(|pack| store.entries(pack.number).unwrap()).collect();
    listed.sort();
    let mut expected = places.clone();
    expected.sort();
    assert_eq!(listed, expected);
    drop(store);
    let (store, recovery) = PackStore::open(disk, SEGMENT, options).unwrap();
    assert!(recovery.recovered.is_empty() && recovery.damaged.is_empty());
    check(&store);
    let (_, next) = append(&store, b"one more");
    assert!(places.iter().all(|(_, location)| location.pack < next.pack));
}

/// Parts of a long chunk prove themselves; one that can't is left to the whole, which says what is wrong.
#[test]
fn parts_of_chunks_are_read_by_themselves() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    let (long, short, text) = (noise(1, 200_000), noise(2, 50_000), vec![b'a'; 200_000]);
    let (id, location) = append(&store, &long);
    let other = append(&store, &short);
    let packed = append(&store, &text);
    let hashed = ChunkTree::of(&noise(3, 100_000));
    let third = store.append_hashed(&hashed, &noise(3, 100_000), Compression::Lz4).unwrap();
    let check = |store: &PackStore| {
        for part in [0..1, 5..4_101, 30_000..40_000, 32_768..65_536, 190_000..200_000, 0..200_000] {
            let read = store.read_part(&id, &location, part.clone()).unwrap().unwrap();
            assert!(read == long[part.start as usize..part.end as usize], "{part:?}");
        }
        assert!(store.read(&id, &location).unwrap() == long);
        assert_eq!(store.read_part(&id, &location, 199_999..200_001).unwrap(), None, "beyond its end");
        assert_eq!(store.read_part(&other.0, &other.1, 0..10).unwrap(), None, "too short to have parts");
        assert_eq!(store.read_part(&packed.0, &packed.1, 0..10).unwrap(), None, "compressed");
        assert!(store.read_part(&hashed.id, &third, 99_000..99_010).unwrap().is_some());
        assert_eq!(store.read_part(&other.0, &location, 0..10).unwrap(), None, "another chunk");
    };
    check(&store);
    store.seal_active().unwrap();
    check(&store);
    drop(store);
    let (store, _) = open(&disk, inline(1 << 20));
    check(&store);
    let stored = store.read_stored(&id, &location).unwrap();
    let again = store.append_stored(&stored).unwrap();
    assert!(
        store.read_part(&id, &again, 100..200).unwrap().unwrap() == long[100..200],
        "what travelled has parts as well"
    );

    // A byte of the payload, then one of the hashes.
    let payload = location.offset + RECORD_HEADER_BYTES as u64;
    disk.damage(&pack_name(location.pack), |bytes| bytes[(payload + 100_000) as usize] ^= 1);
    drop(store);
    let (store, _) = open(&disk, inline(1 << 20));
    assert_eq!(store.read_part(&id, &location, 99_990..100_010).unwrap(), None);
    assert!(store.read_part(&id, &location, 0..10).unwrap().is_some(), "that part is as it was");
    assert_eq!(store.read(&id, &location).unwrap_err().kind(), ErrorKind::Damaged);
    disk.damage(&pack_name(third.pack), |bytes| {
        bytes[(third.offset + RECORD_HEADER_BYTES as u64 + 100_000 + 40) as usize] ^= 1
    });
    drop(store);
    let (store, _) = open(&disk, inline(1 << 20));
    assert_eq!(store.read_part(&hashed.id, &third, 0..10).unwrap(), None);
    assert!(store.read(&hashed.id, &third).is_ok(), "the chunk itself is as it was");
}

#[test]
fn what_was_synced_is_there_after_a_crash_without_sealing() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    let synced: Vec<_> = (0..20).map(|n| append(&store, &noise(n, 3_000))).collect();
    store.sync().unwrap();
    append(&store, &noise(99, 3_000));
    drop(store);
    disk.crash(3);
    let (store, recovery) = open(&disk, inline(1 << 20));
    assert_eq!(recovery.recovered.len(), 1);
    assert!(recovery.recovered[0].records >= 20);
    assert!(store.packs()[0].is_sealed, "recovery gives it an index");
    for (id, location) in &synced {
        store.read(id, location).unwrap();
    }
    drop(store);
    assert!(open(&disk, inline(1 << 20)).1.recovered.is_empty());
}

#[test]
fn removing_a_pack_leaves_its_readers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SystemDisk::open(dir.path()).unwrap());
    let (store, _) = PackStore::open(disk.clone(), SEGMENT, inline(100_000)).unwrap();
    let raw = noise(1, 60_000);
    let (id, location) = append(&store, &raw);
    assert_eq!(store.remove_pack(location.pack).unwrap_err().kind(), ErrorKind::Busy);
    store.seal_active().unwrap();
    let held = store.read(&id, &location).unwrap();
    store.remove_pack(location.pack).unwrap();
    store.sync().unwrap();
    assert!(held == raw);
    let error = store.read(&id, &location).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Damaged, Subject::Chunk));
    assert!(error.to_string().contains("missing"), "{error}");
    assert_eq!(store.remove_pack(location.pack).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.packs().is_empty() && disk.list().unwrap().is_empty());
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    let first = append(&store, &noise(1, 5_000));
    disk.set_free_bytes(Some(2_000));
    let raw = noise(2, 5_000);
    let error = store.append(&ChunkId::of(&raw), &raw, Compression::None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    disk.set_free_bytes(None);
    let second = append(&store, &raw);
    store.sync().unwrap();
    drop(store);
    disk.crash(1);
    let (store, _) = open(&disk, inline(1 << 20));
    for (id, location) in [first, second] {
        store.read(&id, &location).unwrap();
    }
}

#[test]
fn no_space_for_an_index_leaves_a_readable_pack() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    let (id, location) = append(&store, &noise(1, 5_000));
    disk.set_free_bytes(Some(10));
    store.seal_active().unwrap();
    assert!(!store.packs()[0].is_sealed);
    store.read(&id, &location).unwrap();
    disk.set_free_bytes(None);
    store.seal_active().unwrap();
    assert!(store.packs()[0].is_sealed);
    store.read(&id, &location).unwrap();
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_appended() {
    for fails_writes in [true, false] {
        let disk = FaultyDisk::new();
        let (store, _) = open(&disk, inline(1 << 20));
        let (id, location) = append(&store, &noise(1, 5_000));
        if fails_writes {
            disk.set_writes_left(Some(0));
            assert!(store.append(&ChunkId::of(b"x"), b"x", Compression::None).is_err());
        } else {
            disk.set_fails_syncs(true);
            assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Failed);
        }
        disk.set_writes_left(None);
        disk.set_fails_syncs(false);
        let error = store.append(&ChunkId::of(b"x"), b"x", Compression::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(store.sync().is_err(), "what was appended is not known to be durable");
        store.read(&id, &location).unwrap();
    }
}

#[test]
fn syncs_are_shared_and_skipped() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    store.sync().unwrap();
    assert_eq!(disk.syncs(), 0, "nothing to do");
    append(&store, b"abc");
    store.sync().unwrap();
    store.sync().unwrap();
    assert_eq!(disk.syncs(), 1);
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let store = &store;
            scope.spawn(move || {
                for m in 0..50 {
                    append(store, &noise(n * 1000 + m, 100));
                    store.sync().unwrap();
                }
            });
        }
    });
    assert!(disk.syncs() <= 401, "{}", disk.syncs());
}

#[test]
fn many_threads_share_packs() {
    let disk = FaultyDisk::new();
    for writeback_bytes in [None, Some(50_000)] {
        let (store, _) = open(&disk, PackOptions { writeback_bytes, ..inline(200_000) });
        let places = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let (store, places) = (&store, &places);
                scope.spawn(move || {
                    for m in 0..40 {
                        let place = append(store, &noise(n << 32 | m, 7_000));
                        store.read(&place.0, &place.1).unwrap();
                        places.lock().push(place);
                    }
                });
            }
        });
        store.seal_active().unwrap();
        for (id, location) in places.lock().iter() {
            store.read(id, location).unwrap();
        }
        let numbers: std::collections::BTreeSet<_> = places.lock().iter().map(|(_, location)| location.pack).collect();
        for number in numbers {
            let mut verified = 0;
            store.verify_pack(number, &mut |_, _, outcome, _| verified += usize::from(outcome.is_ok())).unwrap();
            assert_eq!(verified, places.lock().iter().filter(|(_, location)| location.pack == number).count());
        }
    }
}

#[test]
fn a_pack_of_a_newer_format_or_another_segment_is_not_touched() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    let (id, location) = append(&store, b"abc");
    store.sync().unwrap();
    drop(store);
    let (store, recovery) = PackStore::open(Arc::new(disk.clone()), SegmentId([6; 16]), inline(1 << 20)).unwrap();
    assert_eq!(recovery.damaged.len(), 1);
    assert!(recovery.damaged[0].error.to_string().contains("belongs to segment"), "{:?}", recovery.damaged);
    assert_eq!(store.read(&id, &location).unwrap(), "abc", "what can be read can be read");
    drop(store);
    disk.damage(&pack_name(location.pack), |bytes| {
        bytes[8] = 9;
        let sum = super::super::record::checksum(&bytes[..56]);
        bytes[56..64].copy_from_slice(&sum);
    });
    let error = PackStore::open(Arc::new(disk), SEGMENT, inline(1 << 20)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn arguments_that_can_not_be_are_refused() {
    let disk = FaultyDisk::new();
    let (store, _) = open(&disk, inline(1 << 20));
    for raw in [vec![], vec![0; CHUNK_BYTES_MAX as usize + 1]] {
        let error = store.append(&ChunkId::of(&raw), &raw, Compression::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let (id, location) = append(&store, b"abc");
    store.seal_active().unwrap();
    for bad in [
        Location { offset: !7, ..location },
        Location { raw: u32::MAX, stored: u32::MAX, ..location },
        Location { offset: 0, ..location },
        Location { stored: 2, ..location },
        Location { pack: 99, ..location },
    ] {
        let error = store.read(&id, &bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{bad:?}");
    }
    assert!(
        store.read(&ChunkId::of(b"abd"), &location).unwrap_err().to_string().contains("the record there is of chunk")
    );
    assert_eq!(store.entries(99).unwrap_err().kind(), ErrorKind::NotFound);
}
