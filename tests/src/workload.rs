//! Random work for the crash tests: several tasks, each with a few keys of its own.

use crate::content::Content;
use crate::model::Op;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use tombolo_core::BucketPath;

/// The cluster that the work happens in.
pub const CLUSTER: &str = "Test";
/// How many tasks work at the same time.
pub const TASKS: usize = 6;
/// Keys of each task.
const KEYS: usize = 6;

/// What a door takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The least size of a part, in bytes.
    part_bytes_min: usize,
    /// One operation in this many is a multipart upload.
    multipart_one_in: u32,
}

impl Limits {
    /// The engine: parts of any size.
    pub const ENGINE: Limits = Limits { part_bytes_min: 10_000, multipart_one_in: 8 };
    /// S3: large parts, so fewer of them.
    pub const S3: Limits = Limits { part_bytes_min: crate::door::PART_BYTES_MIN, multipart_one_in: 25 };
}

/// The bucket a task works in. Odd tasks work in one that keeps versions.
pub fn bucket_of(task: usize) -> tombolo_core::Result<BucketPath> {
    BucketPath::new(CLUSTER, "lab", if task.is_multiple_of(2) { "plain" } else { "kept" })
}

/// The next operation of a task that has the keys `live`.
pub fn next(random: &mut StdRng, task: usize, live: &BTreeSet<Vec<u8>>, limits: Limits) -> Op {
    let any = |random: &mut StdRng| format!("{task}/key-{}", random.random_range(0..KEYS)).into_bytes();
    let key = any(random);
    if random.random_ratio(1, limits.multipart_one_in) {
        let part_bytes = limits.part_bytes_min + random.random_range(0..5_000);
        let content = Content::new(random.random(), part_bytes + random.random_range(1..part_bytes));
        return Op::Multipart { key, content, part_bytes };
    }
    let content = Content::new(random.random(), size(random));
    match random.random_range(0..10) {
        0..=4 => Op::Put { key, content },
        5 => Op::PutIfAbsent { key, content },
        6 | 7 => {
            let to = any(random);
            if to == key { Op::Put { key, content } } else { Op::Copy { from: key, to } }
        }
        // While versions are kept, only what is there may be deleted: see `Model::is_defined`.
        8 if live.contains(&key) => Op::Delete { keys: vec![key] },
        9 if !live.is_empty() => {
            let keys = live.iter().filter(|_| random.random_ratio(1, 2)).cloned().collect::<Vec<_>>();
            if keys.is_empty() { Op::Put { key, content } } else { Op::Delete { keys } }
        }
        _ => Op::Put { key, content },
    }
}

/// Keeps `live` up to date.
pub fn note(live: &mut BTreeSet<Vec<u8>>, op: &Op, answer: bool) {
    match op {
        Op::Put { key, .. } | Op::PutIfAbsent { key, .. } | Op::Multipart { key, .. } => {
            live.insert(key.clone());
        }
        Op::Copy { to, .. } => {
            if answer {
                live.insert(to.clone());
            }
        }
        Op::Delete { keys } => live.retain(|key| !keys.contains(key)),
        Op::DeleteVersion { .. } | Op::Versioning { .. } => {}
    }
}

/// Mostly small, sometimes several chunks.
fn size(random: &mut StdRng) -> usize {
    match random.random_range(0..10) {
        0 => 0,
        1..=5 => random.random_range(1..6_000),
        6..=8 => random.random_range(6_000..200_000),
        _ => random.random_range(200_000..2_500_000),
    }
}
