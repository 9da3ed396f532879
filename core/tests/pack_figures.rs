//! Speed of the chunk store next to the disk below it. Not a test of anything, hence ignored; run with
//!
//! ```text
//! FIGURES_DIR=/some/disk cargo test --release -p tombolo-core --test pack_figures -- --ignored --nocapture
//! ```
//!
//! `FIGURES_MIB` sets the amount (default 2,048), `FIGURES_THREADS` the number of appending threads (default: one per core).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use bytes::Bytes;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use tombolo_core::chunk::{Cutter, Location, PackOptions, PackStore};
use tombolo_core::disk::SystemDisk;
use tombolo_core::{ChunkId, Chunking, Compression, SegmentId};

const PIECE_BYTES: usize = 1 << 20;
const AVERAGE_BYTES: u32 = 256 << 10;

/// `mib` different pieces of one MiB of noise, made fast: each is 16 KiB blocks of a pool, stamped.
fn pieces(mib: u64, tag: u64) -> impl Iterator<Item = Bytes> {
    let mut pool = vec![0; 64 * PIECE_BYTES];
    blake3::Hasher::new().update(&tag.to_le_bytes()).finalize_xof().fill(&mut pool);
    (0..mib).map(move |n| {
        let place = (n % 64) as usize * PIECE_BYTES;
        let mut piece = pool[place..place + PIECE_BYTES].to_vec();
        for block in piece.chunks_mut(16 << 10) {
            block[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        Bytes::from(piece)
    })
}

/// Wall-clock time and the time this process has used so far on all cores, for machines that others use too.
#[derive(Clone, Copy)]
struct Start(Instant, f64);

impl Start {
    fn now() -> Start {
        Start(Instant::now(), cpu_seconds())
    }
}

/// User and system time of this process, in hundredths of a second (Linux, `proc(5)`); 0 elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn report(what: &str, mib: u64, start: Start) -> f64 {
    let rate = mib as f64 / start.0.elapsed().as_secs_f64();
    let cpu = (cpu_seconds() - start.1) * 1024.0 / mib as f64;
    println!("{what:<58} {rate:>8.0} MiB/s {cpu:>8.2} CPU s/GiB");
    rate
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn plain_write(dir: &Path, mib: u64) -> f64 {
    let path = dir.join("plain");
    let started = Start::now();
    let mut file = File::create(&path).unwrap();
    for piece in pieces(mib, 1) {
        file.write_all(&piece).unwrap();
    }
    file.sync_data().unwrap();
    report("plain sequential write + fdatasync (generation included)", mib, started)
}

fn plain_read(dir: &Path, mib: u64) -> f64 {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut file = File::open(dir.join("plain")).unwrap();
    let started = Start::now();
    while file.read(&mut buffer).unwrap() > 0 {
        black_box(&buffer);
    }
    report("plain warm read into one buffer", mib, started)
}

/// One thread cuts, the others hash and append, then one sync.
fn ingest(store: &PackStore, mib: u64, threads: u64, compression: Compression) -> (f64, Vec<(ChunkId, Location)>) {
    let started = Start::now();
    let (sender, receiver) = sync_channel::<Bytes>(64);
    let receiver = parking_lot::Mutex::new(receiver);
    let places = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut places = Vec::new();
                    loop {
                        let next = receiver.lock().recv();
                        let Ok(chunk) = next else { return places };
                        let id = ChunkId::of(&chunk);
                        places.push((id, store.append(&id, &chunk, compression).unwrap()));
                    }
                })
            })
            .collect();
        let mut cutter = Cutter::new(Chunking::Content(AVERAGE_BYTES));
        for piece in pieces(mib, 1) {
            for chunk in cutter.push(piece) {
                sender.send(chunk).unwrap();
            }
        }
        cutter.finish().into_iter().for_each(|chunk| sender.send(chunk).unwrap());
        drop(sender);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let appended = started.0.elapsed();
    store.sync().unwrap();
    let rate = report(&format!("cut + hash + append ({threads} threads, {compression:?}) + sync"), mib, started);
    println!(
        "{:<58} {:>8.0} ms",
        "  of which the sync at the end",
        (started.0.elapsed() - appended).as_secs_f64() * 1e3
    );
    (rate, places)
}

fn open(dir: &Path, writeback_bytes: Option<u64>) -> PackStore {
    let options = PackOptions { writeback_bytes, ..PackOptions::default() };
    PackStore::open(Arc::new(SystemDisk::open(dir).unwrap()), SegmentId([1; 16]), options).unwrap().0
}

#[test]
#[ignore = "figures, not a test"]
fn figures() {
    let mib = number("FIGURES_MIB", 2_048);
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let threads = number("FIGURES_THREADS", cores);
    let base = std::env::var_os("FIGURES_DIR").map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(base).unwrap();
    let dir = root.path();

    let mut generated = 0;
    let started = Start::now();
    pieces(mib, 1).for_each(|piece| generated += black_box(piece).len());
    report("generating the data alone", mib, started);
    let memory: Vec<Bytes> = pieces(256, 7).collect();
    let started = Start::now();
    memory.iter().for_each(|piece| {
        black_box(ChunkId::of(piece));
    });
    report("BLAKE3, one thread", 256, started);
    for piece_bytes in [PIECE_BYTES, 64 << 10] {
        let mut cutter = Cutter::new(Chunking::Content(AVERAGE_BYTES));
        let started = Start::now();
        for piece in &memory {
            for start in (0..PIECE_BYTES).step_by(piece_bytes) {
                black_box(cutter.push(piece.slice(start..start + piece_bytes)));
            }
        }
        report(&format!("cutting, one thread, pieces of {} KiB", piece_bytes >> 10), 256, started);
    }

    for round in 0..2 {
        let plain = plain_write(dir, mib);
        for writeback_bytes in [Some(32 << 20), None] {
            let packs = dir.join(format!("packs-{round}-{}", writeback_bytes.is_some()));
            let store = open(&packs, writeback_bytes);
            let (rate, _) = ingest(&store, mib, threads, Compression::Lz4);
            let name = if writeback_bytes.is_some() { "with" } else { "without" };
            println!("{:<58} {:>8.2}", format!("  ratio, {name} early write-back"), rate / plain);
            drop(store);
            std::fs::remove_dir_all(&packs).unwrap();
        }
    }

    let packs = dir.join("packs");
    let store = open(&packs, Some(32 << 20));
    let (_, places) = ingest(&store, mib, threads, Compression::None);
    store.seal_active().unwrap();
    let plain = plain_read(dir, mib);
    for round in 0..2 {
        let started = Start::now();
        for (id, location) in &places {
            black_box(store.read(id, location).unwrap());
        }
        let rate = report(&format!("verified read from maps, one thread, round {round}"), mib, started);
        println!("{:<58} {:>8.2}", "  ratio to the plain read", rate / plain);
    }
    let started = Start::now();
    std::thread::scope(|scope| {
        for part in places.chunks(places.len().div_ceil(threads as usize)) {
            let store = &store;
            scope.spawn(move || {
                for (id, location) in part {
                    black_box(store.read(id, location).unwrap());
                }
            });
        }
    });
    let rate = report(&format!("verified read from maps, {threads} threads"), mib, started);
    println!("{:<58} {:>8.2}", "  ratio to the plain read", rate / plain);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")) {
        println!("{line}");
    }
    assert_eq!(generated as u64, mib << 20);
    assert_eq!(places.iter().map(|(_, location)| u64::from(location.raw)).sum::<u64>(), mib << 20);
}
