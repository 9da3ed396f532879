//! How fast names come in by deltas, and in how much memory. Not a promise: run by hand, in a release build:
//!
//! ```sh
//! cargo test --release -p tombolo-core --test apply_figures -- --ignored --nocapture
//! ```
#![expect(clippy::unwrap_used, reason = "a test says what failed by failing")]

use bytes::Bytes;
use std::time::Instant;
use tombolo_core::namespace::{Content, Delta, DeltaRegister, Version};
use tombolo_core::register::{Dot, Register, VersionVector, Write};
use tombolo_core::tree::EntryValue;
use tombolo_core::*;

const STEP: u64 = 10_000;

fn names() -> u64 {
    std::env::var("TOMBOLO_NAMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

fn register<V>(dot: Dot, value: V) -> Register<V> {
    let mut register = Register::empty();
    register.local_write(Write { dot, stamp_time: (1 << 60) + dot.sequence, value: Some(value) }, &[]);
    register
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// `count` small files from number `first` on, as another segment would send them.
fn step(bucket: BucketId, from: SegmentId, first: u64, count: u64) -> Delta {
    let mut registers = Vec::new();
    for i in first..first + count {
        let mut node = [0; 16];
        // Spread, as the random ids of files are.
        let spread = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        for (to, byte) in node.iter_mut().zip(spread.iter().chain(&i.to_be_bytes())) {
            *to = *byte;
        }
        let node = NodeId(node);
        let name = Bytes::from(format!("sample-{i:08}.dat"));
        let version = Version {
            size: 4,
            modified_ns: 1,
            hole_bytes: 0,
            file_type: FileType::Regular,
            etag: Etag::Opaque([7; 16]),
            content: Content::Inline(Bytes::from_static(b"data")),
            metadata: Metadata::default(),
            checksums: Vec::new(),
            part_sizes: Vec::new(),
            tags: Tags::new(),
            is_null: true,
            id: None,
            is_marker: false,
            at: (NodeId::ROOT, name.clone()),
            deleted: None,
            lenders: Vec::new(),
        };
        let entry = register(Dot::new(from, 2 * i + 1), EntryValue::file(node));
        registers.push(DeltaRegister::Entry(NodeId::ROOT, name, entry));
        registers.push(DeltaRegister::Content(node, register(Dot::new(from, 2 * i + 2), version)));
    }
    let vector = |sequence| VersionVector::from_iter([Dot::new(from, sequence)]);
    let (to, floor) = (vector(2 * (first + count)), VersionVector::new());
    Delta { bucket, from: vector(2 * first), knows: to.clone(), to, floor, registers, is_whole: true }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute; figures, not a promise"]
async fn names_by_delta() {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "here".into(), cluster: "All".into() };
    let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
    let path: BucketPath = "All/lab/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
    let id = bucket.info().await.unwrap().id;
    let from = SegmentId([9; 16]);
    let mut spent = std::time::Duration::ZERO;
    let mut slowest = std::time::Duration::ZERO;
    for first in (0..names()).step_by(STEP as usize) {
        let delta = step(id, from, first, STEP);
        let start = Instant::now();
        bucket.apply(&delta).await.unwrap();
        spent += start.elapsed();
        slowest = slowest.max(start.elapsed());
        if (first / STEP) % 10 == 9 {
            let done = first + STEP;
            println!("{done} names, {:.0}/s so far, {} MiB", done as f64 / spent.as_secs_f64(), memory("VmRSS"));
        }
    }
    println!(
        "{:.0} names/s; slowest step {slowest:?}; peak {} MiB",
        names() as f64 / spent.as_secs_f64(),
        memory("VmHWM")
    );
    let start = Instant::now();
    bucket.put("one more", "x", PutOptions::default()).await.unwrap();
    println!("one local put: {:?}", start.elapsed());
    let start = Instant::now();
    let again = step(id, from, 5, 10);
    bucket.apply(&again).await.unwrap();
    println!("a delta of 10 that were here: {:?}", start.elapsed());
    assert_eq!(bucket.usage().await.unwrap().objects, names() + 1);
}
