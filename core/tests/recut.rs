//! Fragmented files are cut anew in the background (issue B.1): with the bytes they had, the chunks that a streamed upload has, and nothing that anybody
//! is told (P1, P2, P4, P6, P12).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tombolo_core::engine::fs::{AllocateMode, RecutReport};
use tombolo_core::*;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// For conditions that the background brings about.
const DEADLINE: Duration = Duration::from_secs(60);

struct Site {
    dir: TempDir,
    segment: Segment,
    bucket: Bucket,
}

fn path() -> BucketPath {
    "All/lab/b".parse().unwrap()
}

async fn site(name: &str, policy: BucketPolicy) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: name.into(), cluster: "All".into() };
    let options = OpenOptions { metadata_cache_bytes: 16 << 20, ..OpenOptions::default() };
    let segment = Segment::create(dir.path().join("s"), create, options).await.unwrap();
    segment.catalog().create_tenant(&path().tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path(), policy).await.unwrap();
    Site { dir, segment, bucket }
}

/// Chunks of 64 KiB on average, so that little data has many.
fn policy() -> BucketPolicy {
    BucketPolicy { chunking: Chunking::Content(64 << 10), ..BucketPolicy::default() }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out.into()
    }
}

async fn object(bucket: &Bucket, key: &str) -> Bytes {
    bucket.get(key, GetOptions::default()).await.unwrap().bytes(0..u64::MAX).await.unwrap()
}

/// An open file, and what it is to hold.
struct Written {
    file: OpenFile,
    model: Vec<u8>,
    random: Random,
}

impl Written {
    async fn new(bucket: &Bucket, key: &str, len: usize) -> Written {
        let file = bucket.open_file(key, FileOptions::create()).await.unwrap();
        let seed = key.bytes().fold(len as u64, |seed, byte| (seed << 8) ^ u64::from(byte));
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = random.bytes(len);
        file.write_at(0, data.clone()).await.unwrap();
        file.fsync().await.unwrap();
        Written { file, model: data.to_vec(), random }
    }

    /// Overwrites `count` places of `len` bytes, and has that saved.
    async fn write(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            let at = self.random.next() as usize % (self.model.len() - len);
            let data = self.random.bytes(len);
            self.model[at..at + len].copy_from_slice(&data);
            self.file.write_at(at as u64, data).await.unwrap();
        }
        self.file.fsync().await.unwrap();
    }

    /// Overwrites every other block of 4 KiB, in no order, and has that saved. Returns how many.
    async fn write_every_other(&mut self) -> u64 {
        let mut blocks: Vec<usize> = (0..self.model.len() / BLOCK).step_by(2).collect();
        for n in (1..blocks.len()).rev() {
            blocks.swap(n, self.random.next() as usize % (n + 1));
        }
        for at in blocks.iter().map(|block| block * BLOCK) {
            let data = self.random.bytes(BLOCK);
            self.model[at..at + BLOCK].copy_from_slice(&data);
            self.file.write_at(at as u64, data).await.unwrap();
        }
        self.file.fsync().await.unwrap();
        blocks.len() as u64
    }

    async fn is_whole(&self, bucket: &Bucket, key: &str) {
        assert!(self.file.read_at(0, self.model.len() + 1).await.unwrap() == self.model, "through the handle");
        assert!(object(bucket, key).await == self.model, "as an object");
    }
}

/// Chunks of what is stored and referred to.
async fn chunks(segment: &Segment) -> u64 {
    segment.gc().await.unwrap();
    segment.status().await.unwrap().chunks
}

/// What is on disk at this instant, as another process would find it after a crash.
async fn after_a_crash(site: &Site, name: &str) -> (Segment, Bucket) {
    let copy = site.dir.path().join(name);
    copy_tree(&site.dir.path().join("s"), &copy);
    let segment = Segment::open(&copy, OpenOptions::default()).await.unwrap();
    let bucket = segment.bucket(&path()).await.unwrap();
    (segment, bucket)
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Random writes of 4 KiB into a file leave one extent for each, and one more: reading such a file in order went from piece to piece, and nothing ever put them
/// together again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_in_pieces_ends_as_the_chunks_of_a_put() {
    // The quota is full: cutting anew takes nothing of it.
    let site = site("here", BucketPolicy { quota_bytes: Some(8 * MIB as u64), ..policy() }).await;
    let mut written = Written::new(&site.bucket, "f", 8 * MIB).await;
    let whole = chunks(&site.segment).await;
    let pieces = written.write_every_other().await;
    assert!(chunks(&site.segment).await > pieces);
    let before = site.bucket.head("f", GetOptions::default()).await.unwrap();
    // A reader who has begun goes on.
    let reader = site.bucket.get("f", GetOptions::default()).await.unwrap();
    site.segment.recut_files().await;
    let now = chunks(&site.segment).await;
    drop(reader.bytes(0..u64::MAX).await.unwrap());
    written.is_whole(&site.bucket, "f").await;
    let after = site.bucket.head("f", GetOptions::default()).await.unwrap();
    assert_eq!(
        (before.version, before.etag, before.modified_ns),
        (after.version, after.etag, after.modified_ns),
        "it is the same version"
    );
    drop(reader);
    let now = now.min(chunks(&site.segment).await);
    assert!(now <= whole + whole / 4, "{whole} chunks before it was written to, {now} now");

    let data = Bytes::from(written.model.clone());
    site.segment.catalog().create_bucket(&"All/lab/other".parse().unwrap(), policy()).await.unwrap();
    let other = site.segment.bucket(&"All/lab/other".parse().unwrap()).await.unwrap();
    other.put("f", data, PutOptions::default()).await.unwrap();
    let new = chunks(&site.segment).await - now;
    assert!(new <= 4, "the put brought {new} chunks: more than nodes of its manifest");

    let (segment, bucket) = after_a_crash(&site, "copy").await;
    assert!(object(&bucket, "f").await == written.model);
    assert_eq!(chunks(&segment).await, now + new);
    segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!(segment.status().await.unwrap().damaged_chunks, 0);
    segment.close().await.unwrap();
}

/// A database that stays open: its pieces don't add up, the writer goes on beside, and what fsync has acknowledged is there after a crash at any point.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_under_random_writes_stays_in_one_piece_or_nearly() {
    let site = site("here", policy()).await;
    let mut written = Written::new(&site.bucket, "f", 4 * MIB).await;
    let whole = chunks(&site.segment).await;
    for round in 0..12 {
        let segment = site.segment.clone();
        let beside = tokio::spawn(async move { segment.recut_files().await });
        written.write(150, 1000).await;
        beside.await.unwrap();
        if round % 4 == 0 {
            site.segment.gc().await.unwrap();
            let (segment, bucket) = after_a_crash(&site, &round.to_string()).await;
            assert!(object(&bucket, "f").await == written.model, "round {round}");
            segment.close().await.unwrap();
        }
    }
    site.segment.recut_files().await;
    written.is_whole(&site.bucket, "f").await;
    // Windows of 1 MiB: as many extents as make 16 KiB on average, half of them pieces, and what came since it was looked at.
    let bound = whole + 4 * (34 + 16);
    let now = chunks(&site.segment).await;
    assert!(now <= bound, "{now} chunks, {bound} at most; 1,800 pieces were written");
    written.is_whole(&site.bucket, "f").await;
}

/// A log, with an fsync for each line, opened for each by some programs.
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_log_are_put_together() {
    let site = site("here", policy()).await;
    let mut model = Vec::new();
    let mut file = site.bucket.open_file("log", FileOptions::create()).await.unwrap();
    // Before that it is kept with the metadata.
    file.append(vec![b'-'; 70_000].into()).await.unwrap();
    model.resize(70_000, b'-');
    for n in 0..400 {
        let line = format!("line {n}: {:0>1$}\n", n, 40 + n % 50);
        model.extend_from_slice(line.as_bytes());
        file.append(line.into()).await.unwrap();
        file.fsync().await.unwrap();
        if n % 40 == 39 {
            site.segment.recut_files().await;
            file = site.bucket.open_file("log", FileOptions::create()).await.unwrap();
        }
    }
    site.segment.recut_files().await;
    assert!(object(&site.bucket, "log").await == model);
    let now = chunks(&site.segment).await;
    assert!(now < 80, "{now} chunks for 400 lines");
}

/// Nobody writes to it, has it open, or asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_file_is_cut_anew_by_itself() {
    let site = site("here", policy()).await;
    let mut written = Written::new(&site.bucket, "f", 2 * MIB).await;
    let whole = chunks(&site.segment).await;
    written.write_every_other().await;
    let Written { file, model, .. } = written;
    file.close().await.unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let now = chunks(&site.segment).await;
        if now <= whole + 20 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{whole} chunks before it was written to, {now} now");
        tokio::task::yield_now().await;
    }
    assert!(object(&site.bucket, "f").await == model);
}

/// Another segment has the version: giving it other chunks is no change, and must not be one to the other segment. Were it a write, an edit that was made there after seeing the version
/// would be in conflict with it, though nobody here has edited anything.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_segment_hears_of_it() {
    let here = site("here", policy()).await;
    let there = site("there", policy()).await;
    let follow = async |from: &Site, to: &Site| {
        let delta = from.bucket.changes_since(&to.bucket.vector().await.unwrap()).await.unwrap();
        to.bucket.apply(&delta).await.unwrap();
    };
    let mut f = Written::new(&here.bucket, "f", 2 * MIB).await;
    let mut g = Written::new(&here.bucket, "g", 2 * MIB).await;
    let mut closed = Written::new(&here.bucket, "closed", 2 * MIB).await;
    follow(&here, &there).await;
    let mut pieces = 0;
    for written in [&mut f, &mut g, &mut closed] {
        pieces = written.write_every_other().await;
    }
    follow(&here, &there).await;
    drop(closed);
    let before = chunks(&here.segment).await;
    here.segment.recut_files().await;

    let vector = there.bucket.vector().await.unwrap();
    assert!(!here.bucket.has_changes_since(&vector).await.unwrap(), "there is something to tell");
    f.is_whole(&here.bucket, "f").await;
    there.bucket.put("f", "edited there", PutOptions::default()).await.unwrap();
    follow(&there, &here).await;
    follow(&here, &there).await;
    for site in [&here, &there] {
        assert!(site.bucket.conflicts(None, 10).await.unwrap().is_empty(), "a conflict that nobody made");
        assert_eq!(object(&site.bucket, "f").await, "edited there");
    }
    assert_eq!(f.file.read_at(0, 100).await.unwrap(), "edited there", "the handle follows");

    // The next save that somebody asks for carries it.
    g.write(1, 10).await;
    g.is_whole(&here.bucket, "g").await;
    here.bucket.delete("closed", DeleteOptions::default()).await.unwrap();
    follow(&here, &there).await;
    follow(&there, &here).await;
    drop(f);
    let now = chunks(&here.segment).await;
    assert!(now + pieces < before, "{before} chunks, {now} now, {pieces} pieces in a file");
    assert!(here.bucket.conflicts(None, 10).await.unwrap().is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, len: usize },
    Punch { at: usize, len: usize },
    Truncate { len: usize },
    Fsync,
    Recut,
    Collect,
    Reopen,
}

fn op(extent: usize) -> impl Strategy<Value = Op> {
    let len = prop_oneof![6 => 1usize..1500, 1 => 1usize..20_000];
    prop_oneof![
        30 => (0..extent, len).prop_map(|(at, len)| Op::Write { at, len }),
        1 => (0..extent, 1usize..30_000).prop_map(|(at, len)| Op::Punch { at, len }),
        1 => (extent / 2..extent).prop_map(|len| Op::Truncate { len }),
        2 => Just(Op::Fsync),
        2 => Just(Op::Recut),
        1 => Just(Op::Collect),
        1 => Just(Op::Reopen),
    ]
}

/// Runs operations on a file and on a vector, and has the file cut anew in between.
async fn run(policy: BucketPolicy, len: usize, ops: &[Op]) -> RecutReport {
    let site = site("here", policy).await;
    let Written { mut file, mut model, mut random } = Written::new(&site.bucket, "f", len).await;
    let mut report = RecutReport::default();
    for (step, op) in ops.iter().enumerate() {
        match *op {
            Op::Write { at, len } => {
                let data = random.bytes(len);
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&data);
                file.write_at(at as u64, data).await.unwrap();
            }
            Op::Punch { at, len } => {
                file.allocate(AllocateMode::PunchHole, at as u64, len as u64).await.unwrap();
                let size = model.len();
                model[at.min(size)..(at + len).min(size)].fill(0);
            }
            Op::Truncate { len } => {
                file.truncate(len as u64).await.unwrap();
                model.resize(len, 0);
            }
            Op::Fsync => file.fsync().await.unwrap(),
            Op::Recut => {
                let allocated = file.attributes().await.unwrap().allocated_bytes;
                let one = site.segment.recut_files().await;
                report.bytes += one.bytes;
                assert_eq!(file.attributes().await.unwrap().allocated_bytes, allocated, "step {step}: holes");
            }
            Op::Collect => drop(site.segment.gc().await.unwrap()),
            Op::Reopen => {
                file.close().await.unwrap();
                assert!(object(&site.bucket, "f").await == model, "step {step}: after close");
                file = site.bucket.open_file("f", FileOptions::create()).await.unwrap();
            }
        }
    }
    assert!(file.read_at(0, model.len() + 1).await.unwrap() == model, "at the end");
    file.fsync().await.unwrap();
    report.bytes += site.segment.recut_files().await.bytes;
    site.segment.gc().await.unwrap();
    assert!(object(&site.bucket, "f").await == model, "as an object");
    let sum = site.bucket.head("f", GetOptions::default()).await.unwrap().allocated_bytes;
    assert!(sum <= model.len() as u64);
    report
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn it_behaves_like_a_vector(ops in prop::collection::vec(op(300_000), 80..250), fixed in any::<bool>()) {
        let chunking = if fixed { Chunking::Fixed(32 << 10) } else { Chunking::Content(64 << 10) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(BucketPolicy { chunking, ..policy() }, 300_000, &ops));
    }
}
