//! Small durable puts: how many share a sync, and how long one alone takes.

use crate::figure::{header, quantile, row};
use crate::source::Source;
use crate::{Failure, plain_file, store};
use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use tombolo_core::{Bucket, PutOptions};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Callers at the same time.
    #[arg(long, default_value_t = 64)]
    callers: usize,
    /// Puts, all callers together.
    #[arg(long, default_value_t = 40_000)]
    puts: usize,
    /// Puts of the one lone caller, and syncs of the reference.
    #[arg(long, default_value_t = 2_000)]
    lone: usize,
    /// Size of a content, in bytes.
    #[arg(long, default_value_t = 4096)]
    size: usize,
}

pub(crate) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let scratch = store::scratch(dir)?;
    let runtime = store::runtime()?;
    let mut syncs = plain_file::sync_latencies(&scratch.path().join("plain"), options.lone)?;
    let (mut lone, many) = runtime.block_on(async {
        let (segment, bucket) = store::create(scratch.path()).await?;
        let lone = lone(&bucket, options).await?;
        let many = many(&bucket, options).await?;
        segment.close().await?;
        Ok::<_, Failure>((lone, many))
    })?;
    // Half of the reference before, half after, as disks have moods.
    syncs.extend(plain_file::sync_latencies(&scratch.path().join("plain"), options.lone)?);
    let sync_rate = syncs.len() as f64 / syncs.iter().sum::<f64>();
    header();
    row(
        &format!("durable puts of {} bytes, {} callers", options.size, options.callers),
        &format!("{many:.0}/s"),
        &format!("fdatasync of one file: {sync_rate:.0}/s"),
        many / sync_rate,
    );
    for (name, share) in [("median", 0.5), ("99 of 100", 0.99)] {
        let (put, sync) = (quantile(&mut lone, share), quantile(&mut syncs, share));
        row(
            &format!("one caller's durable put of {} bytes, {name}", options.size),
            &format!("{:.0} µs", put * 1e6),
            &format!("write + fdatasync, preallocated: {:.0} µs", sync * 1e6),
            sync / put,
        );
    }
    Ok(())
}

async fn lone(bucket: &Bucket, options: &Options) -> Result<Vec<f64>, Failure> {
    let mut source = Source::new(1);
    let mut latencies = Vec::with_capacity(options.lone);
    for number in 0..options.lone {
        let content = source.piece(options.size);
        let start = Instant::now();
        bucket.put(format!("lone/{number}"), content, PutOptions::default()).await?;
        latencies.push(start.elapsed().as_secs_f64());
    }
    Ok(latencies)
}

/// Puts per second.
async fn many(bucket: &Bucket, options: &Options) -> Result<f64, Failure> {
    let each = options.puts.div_ceil(options.callers.max(1));
    let contents: Vec<Vec<Bytes>> = (0..options.callers)
        .map(|caller| {
            let mut source = Source::new(1000 + caller as u64);
            (0..each).map(|_| source.piece(options.size)).collect()
        })
        .collect();
    let total: usize = contents.iter().map(Vec::len).sum();
    let start = Instant::now();
    let callers: Vec<_> = contents
        .into_iter()
        .enumerate()
        .map(|(caller, contents)| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                for (number, content) in contents.into_iter().enumerate() {
                    bucket.put(format!("many/{caller}/{number}"), content, PutOptions::default()).await?;
                }
                Ok::<_, tombolo_core::Error>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}
