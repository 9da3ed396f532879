//! One large incompressible content: stored, stored again, read back.

use crate::figure::{header, mib_per_second, rate, row};
use crate::source::Source;
use crate::{Failure, plain_file, store};
use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use tombolo_core::{Bucket, GetOptions, PutOptions};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How much, in MiB. It is held in memory.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Pairs of runs; the best of each side counts.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

pub(crate) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let runtime = store::runtime()?;
    let (mut plain, mut first, mut second, mut cached, mut warm) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
    let mut new_bytes = 0;
    for round in 0..options.rounds.max(1) {
        let scratch = store::scratch(dir)?;
        let pieces = Source::new(u64::from(round)).pieces(options.mib);
        let file = scratch.path().join("plain");
        plain = plain.max(plain_file::write(&file, &pieces)?);
        runtime.block_on(async {
            let (segment, bucket) = store::create(scratch.path()).await?;
            first = first.max(put(&bucket, "first", &pieces).await?);
            let before = segment.status().await?.stored_bytes;
            second = second.max(put(&bucket, "second", &pieces).await?);
            new_bytes = new_bytes.max(segment.status().await?.stored_bytes.saturating_sub(before));
            drop(pieces);
            cached = cached.max(plain_file::read_cached(&file)?);
            read(&bucket, "first").await?;
            warm = warm.max(read(&bucket, "first").await?);
            segment.close().await?;
            Ok::<(), Failure>(())
        })?;
    }
    header();
    let size = format!("{} MiB incompressible", options.mib);
    let plain_text = format!("plain write + fdatasync: {}", mib_per_second(plain));
    row(&format!("ingest of {size}, durable"), &mib_per_second(first), &plain_text, first / plain);
    let first_text = format!("the first ingest: {}", mib_per_second(first));
    row(&format!("the same again ({new_bytes} new pack bytes)"), &mib_per_second(second), &first_text, second / first);
    let cached_text = format!("read(2) from the page cache: {}", mib_per_second(cached));
    row("warm read of it, verified", &mib_per_second(warm), &cached_text, warm / cached);
    Ok(())
}

/// Streams `pieces` into `key`; MiB/s up to the durable commit.
async fn put(bucket: &Bucket, key: &str, pieces: &[Bytes]) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut writer = bucket.writer(key, PutOptions::default()).await?;
    for piece in pieces {
        writer.push(piece.clone()).await?;
    }
    let info = writer.seal().await?.commit().await?;
    Ok(rate(info.size, start.elapsed().as_secs_f64()))
}

async fn read(bucket: &Bucket, key: &str) -> Result<f64, Failure> {
    let object = bucket.get(key, GetOptions::default()).await?;
    let start = Instant::now();
    let mut reader = object.read(0..object.info().size);
    let mut total = 0;
    while let Some(piece) = reader.next().await? {
        total += piece.len() as u64;
    }
    Ok(rate(total, start.elapsed().as_secs_f64()))
}
