//! Reading a fragmented file in order, before and after it is cut anew, beside a file of the same bytes that was written in order.
//!
//! ```text
//! cargo run --release -p tombolo-benches --bin recut -- DIR [MIB] [WRITES]
//! ```
//!
//! The file gets random writes of 4 KiB, with an fsync after every thousand: first where nothing goes on in the background (there is no runtime for it), then beside it. All
//! figures are of one process: files are read through a handle, 1 MiB at a time, and the best of five counts.

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tombolo_core::engine::fs::RecutReport;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, CreateOptions, FileOptions, GetOptions, OpenFile, OpenOptions, PutOptions,
    Segment,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;
const PIECE_BYTES: usize = 4 << 10;
const WRITES_PER_FSYNC: usize = 1000;
const ROUNDS: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let dir = arguments.first().ok_or("usage: recut DIR [MIB] [WRITES]")?;
    let (mib, writes) = (number(1, 512)?, number(2, 100_000)?);
    let dir = tempfile::tempdir_in(Path::new(dir))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (segment, bucket) = runtime.block_on(open(&dir.path().join("s")))?;
    let rate = |took: Duration| mib as f64 / took.as_secs_f64();

    let mut data = vec![0; mib * MIB];
    StdRng::seed_from_u64(1).fill(data.as_mut_slice());
    let file = runtime.block_on(put(&bucket, "f", &data))?;
    let alone = without_runtime(write(&file, &mut data, writes))?;
    let fragmented = runtime.block_on(best(&bucket, "f"))?;
    let began = Instant::now();
    let report: RecutReport = runtime.block_on(segment.recut_files());
    let took = began.elapsed();
    let after = runtime.block_on(best(&bucket, "f"))?;
    runtime.block_on(check(&bucket, "f", &data))?;
    runtime.block_on(put(&bucket, "in order", &data))?;
    let in_order = runtime.block_on(best(&bucket, "in order"))?;
    let of_it = |took: Duration| in_order.as_secs_f64() / took.as_secs_f64();
    println!("{mib} MiB, {writes} random writes of 4 KiB, read in order:");
    println!("  written in order            {:6.0} MiB/s", rate(in_order));
    println!("  fragmented                  {:6.0} MiB/s  {:.2} of it", rate(fragmented), of_it(fragmented));
    println!("  cut anew                    {:6.0} MiB/s  {:.2} of it", rate(after), of_it(after));
    let (before, now) = (report.extents_before, report.extents_after);
    let bytes = report.bytes / MIB as u64;
    println!("  {before} extents became {now}, {bytes} MiB cut anew in {:.1} s", took.as_secs_f64());

    let file = runtime.block_on(put(&bucket, "g", &data))?;
    let before = recut_bytes(&segment);
    let beside = runtime.block_on(write(&file, &mut data, writes))?;
    let cut = (recut_bytes(&segment) - before) / MIB as u64;
    // What it has not come to yet it does not come to without a runtime.
    drop(runtime);
    let runtime = tokio::runtime::Runtime::new()?;
    let read = runtime.block_on(best(&bucket, "g"))?;
    runtime.block_on(check(&bucket, "g", &data))?;
    println!("beside the writes:");
    println!(
        "  writes took {:.2} of the time without, {cut} MiB were cut anew",
        beside.as_secs_f64() / alone.as_secs_f64()
    );
    println!("  as it was after the last    {:6.0} MiB/s  {:.2} of it", rate(read), of_it(read));
    runtime.block_on(segment.close())?;
    Ok(())
}

/// Runs a future where nothing that it starts in the background runs. (The engine blocks on futures of its own, which an executor of `futures` does not let it.)
fn without_runtime<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

async fn open(dir: &Path) -> Outcome<(Segment, Bucket)> {
    let create = CreateOptions { name: "here".into(), cluster: "Here".into() };
    // Nothing is read twice from the cache.
    let options = OpenOptions { chunk_cache_bytes: 16 << 20, ..OpenOptions::default() };
    let segment = Segment::create(dir, create, options).await?;
    let path: BucketPath = "Here/lab/b".parse()?;
    segment.catalog().create_tenant(&path.tenant).await?;
    let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await?;
    Ok((segment, bucket))
}

async fn put(bucket: &Bucket, key: &str, data: &[u8]) -> Outcome<OpenFile> {
    bucket.put(key, Bytes::copy_from_slice(data), PutOptions::default()).await?;
    Ok(bucket.open_file(key, FileOptions::create()).await?)
}

/// Writes to random places, in the file and in `data`.
async fn write(file: &OpenFile, data: &mut [u8], writes: usize) -> Outcome<Duration> {
    let mut random = StdRng::seed_from_u64(2);
    let began = Instant::now();
    for n in 1..=writes {
        let at = random.random_range(0..data.len() / PIECE_BYTES) * PIECE_BYTES;
        let mut piece = vec![0; PIECE_BYTES];
        random.fill(piece.as_mut_slice());
        data.get_mut(at..at + PIECE_BYTES).ok_or("a place beyond the file")?.copy_from_slice(&piece);
        file.write_at(at as u64, piece.into()).await?;
        if n % WRITES_PER_FSYNC == 0 {
            file.fsync().await?;
        }
    }
    file.fsync().await?;
    Ok(began.elapsed())
}

async fn check(bucket: &Bucket, key: &str, data: &[u8]) -> Outcome<()> {
    let read = bucket.get(key, GetOptions::default()).await?.bytes(0..u64::MAX).await?;
    if read == data { Ok(()) } else { Err("the file is not what was written to it".into()) }
}

fn recut_bytes(segment: &Segment) -> u64 {
    let metrics = segment.metrics();
    metrics.iter().find(|metric| metric.0 == "tombolo_recut_bytes_total").map_or(0, |metric| metric.3 as u64)
}

/// The shortest time that reading all of a file takes.
async fn best(bucket: &Bucket, key: &str) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let file = bucket.open_file(key, FileOptions::read()).await?;
        let began = Instant::now();
        let mut at = 0;
        loop {
            let bytes = file.read_at(at, MIB).await?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
        }
        best = best.min(began.elapsed());
    }
    Ok(best)
}
