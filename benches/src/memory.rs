//! Resident memory with default budgets, while large objects come in and then many small ones.

use crate::source::{PIECE_BYTES, Source};
use crate::{Failure, store};
use std::path::Path;
use tombolo_core::{Bucket, OpenOptions, PutOptions};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Large objects: how much in all, in MiB.
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Size of one large object, in MiB.
    #[arg(long, default_value_t = 512)]
    object_mib: u64,
    /// Small objects: how many.
    #[arg(long, default_value_t = 200_000)]
    objects: u64,
    /// Callers that put small objects.
    #[arg(long, default_value_t = 64)]
    callers: u64,
}

/// How often the memory is printed in each phase.
const SAMPLES: u64 = 10;

pub(crate) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let scratch = store::scratch(dir)?;
    let budget = OpenOptions::default();
    let budget = budget.chunk_cache_bytes + budget.metadata_cache_bytes + budget.write_buffer_bytes;
    println!("configured: {} MiB for chunk cache, metadata and contents on their way in", budget >> 20);
    println!("{:<40} {:>14} {:>16}", "after", "anonymous MiB", "mapped file MiB");
    let runtime = store::runtime()?;
    let peak = runtime.block_on(async {
        let (segment, bucket) = store::create(scratch.path()).await?;
        let mut peak = sample("opening")?;
        let objects = options.mib.div_ceil(options.object_mib.max(1));
        for number in 0..objects {
            large(&bucket, number, options.object_mib).await?;
            peak = peak.max(sample(&format!("{} MiB", (number + 1) * options.object_mib))?);
        }
        let step = options.objects.div_ceil(SAMPLES);
        for round in 0..SAMPLES {
            small(&bucket, round, step, options.callers.max(1)).await?;
            peak = peak.max(sample(&format!("{} small objects", (round + 1) * step))?);
        }
        segment.close().await?;
        Ok::<_, Failure>(peak)
    })?;
    let ratio = (budget >> 20) as f64 / peak as f64;
    println!("peak {peak} MiB anonymous, budget {} MiB: ratio {ratio:.2}", budget >> 20);
    Ok(())
}

async fn large(bucket: &Bucket, number: u64, mib: u64) -> Result<(), Failure> {
    let mut source = Source::new(number);
    let mut writer = bucket.writer(format!("large/{number}"), PutOptions::default()).await?;
    for _ in 0..mib {
        writer.push(source.piece(PIECE_BYTES)).await?;
    }
    writer.seal().await?.commit().await?;
    Ok(())
}

async fn small(bucket: &Bucket, round: u64, count: u64, callers: u64) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                let mut source = Source::new(round << 32 | caller);
                for number in (caller..count).step_by(callers as usize) {
                    let key = format!("small/{:03}/{round}/{number:08}", number % 997);
                    bucket.put(key, source.piece(200), PutOptions::default()).await?;
                }
                Ok::<_, tombolo_core::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Prints resident memory; gives the anonymous part in MiB. Mapped pack files are the page cache's and can go at any time.
fn sample(after: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().find_map(|word| word.parse::<u64>().ok()));
        kib.unwrap_or(0) >> 10
    };
    let (anonymous, file) = (mib("RssAnon:"), mib("RssFile:"));
    println!("{after:<40} {anonymous:>14} {file:>16}");
    Ok(anonymous)
}
