//! Writes of 4 KiB with an fsync for each into a large file, by where the file's bytes are: a version that takes bytes from one whose bytes may not be here has to
//! know, and say, whose they are (note 0006).
//!
//! ```text
//! cargo run --release -p tombolo-benches --bin lent -- DIR [MIB] [WRITES]
//! ```
//!
//! Figures are medians in microseconds, of one process, beside that of a bucket that nobody shares.

use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tombolo_core::register::VersionVector;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, ChunkId, ChunkSource, CreateOptions, ErrorKind, FileOptions, Gather, OpenOptions,
    PutOptions, Residence, Result, Segment,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;
const PIECE_BYTES: usize = 4 << 10;
const KEY: &str = "f";

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

/// Brings chunks from another segment.
struct Other {
    from: Segment,
    to: Segment,
    chunks: AtomicU64,
}

#[async_trait]
impl ChunkSource for Other {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        for id in chunks {
            let chunk = self.from.export_chunk(&id).await?;
            let chunk = chunk.ok_or_else(|| tombolo_core::Error::new(ErrorKind::Offline, "it is not there either"))?;
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.to.chunk_import_as(Residence::Cached).import(vec![chunk]).await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let dir = arguments.first().ok_or("usage: lent DIR [MIB] [WRITES]")?;
    let (mib, writes) = (number(1, 1024)?, number(2, 500)?);
    let dir = tempfile::tempdir_in(Path::new(dir))?;
    let mut data = vec![0; mib * MIB];
    StdRng::seed_from_u64(1).fill(data.as_mut_slice());
    let data = Bytes::from(data);
    let (here, there) = (segment(dir.path(), "here").await?, segment(dir.path(), "there").await?);

    println!("{mib} MiB, {writes} times 4 KiB with an fsync, microseconds each:");
    let alone = bucket(&there, None, "alone").await?;
    alone.put(KEY, data.clone(), PutOptions::default()).await?;
    let reference = write(&alone, writes).await?;
    report("nobody else has the bucket", reference, reference, 0);

    for name in ["all", "own", "elsewhere", "gathered"] {
        let theirs = bucket(&there, None, name).await?;
        let ours = bucket(&here, Some(&there), name).await?;
        let maker = if name == "elsewhere" { &theirs } else { &ours };
        maker.put(KEY, data.clone(), PutOptions::default()).await?;
        follow(&ours, &theirs).await?;
        follow(&theirs, &ours).await?;
        let what = match name {
            "all" => {
                ours.keep_data(true).await?;
                "all data is to be here, and is"
            }
            "own" => "names only, written here",
            "elsewhere" => "names only, written elsewhere",
            _ => {
                ours.set_gather(Some(Gather { receipts: 1, delay_ms: 0, names: false })).await?;
                here.gc().await?;
                "gathered, still here"
            }
        };
        let source = Arc::new(Other { from: there.clone(), to: here.clone(), chunks: AtomicU64::new(0) });
        here.set_chunk_source(Some(source.clone()));
        let took = write(&ours, writes).await?;
        here.set_chunk_source(None);
        report(what, took, reference, source.chunks.load(Ordering::Relaxed));
    }
    here.close().await?;
    there.close().await?;
    Ok(())
}

fn report(what: &str, took: Duration, reference: Duration, chunks: u64) {
    let ratio = took.as_secs_f64() / reference.as_secs_f64();
    println!("  {what:32} {:8.0}  {ratio:5.2} times that, {chunks} chunks were brought", took.as_secs_f64() * 1e6);
}

async fn segment(dir: &Path, name: &str) -> Outcome<Segment> {
    let create = CreateOptions { name: name.into(), cluster: "All".into() };
    let segment = Segment::create(dir.join(name), create, OpenOptions::default()).await?;
    segment.catalog().create_tenant(&"All/lab".parse()?).await?;
    Ok(segment)
}

/// A bucket, or another segment's.
async fn bucket(segment: &Segment, of: Option<&Segment>, name: &str) -> Outcome<Bucket> {
    let path: BucketPath = format!("All/lab/{name}").parse()?;
    let Some(of) = of else { return Ok(segment.catalog().create_bucket(&path, BucketPolicy::default()).await?) };
    segment.catalog().import(&of.catalog().export(&|_| true).await?, &|_| true).await?;
    Ok(segment.bucket(&path).await?)
}

async fn follow(to: &Bucket, from: &Bucket) -> Outcome<()> {
    from.changes_since(&VersionVector::new()).await?;
    to.apply(&from.changes_since(&to.vector().await?).await?).await?;
    Ok(())
}

/// The median of a write with its fsync.
async fn write(bucket: &Bucket, writes: usize) -> Outcome<Duration> {
    let file = bucket.open_file(KEY, FileOptions::create()).await?;
    let blocks = file.size().await? / PIECE_BYTES as u64;
    let mut random = StdRng::seed_from_u64(2);
    let mut took = Vec::with_capacity(writes);
    for _ in 0..writes {
        let mut piece = vec![0; PIECE_BYTES];
        random.fill(piece.as_mut_slice());
        let at = random.random_range(0..blocks) * PIECE_BYTES as u64;
        let began = Instant::now();
        file.write_at(at, piece.into()).await?;
        file.fsync().await?;
        took.push(began.elapsed());
    }
    file.close().await?;
    took.sort_unstable();
    took.get(writes / 2).copied().ok_or_else(|| "no writes".into())
}
