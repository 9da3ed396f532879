//! Averages of content-defined chunks beside each other: what each costs to store, to store again after an edit, and to read a little of. What the default was
//! chosen by.

use crate::figure::rate;
use crate::source::{PIECE_BYTES, Source};
use crate::{Failure, store};
use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use tombolo_core::{Bucket, BucketPolicy, Chunking, GetOptions, PutOptions, Segment};

/// What [`Chunking::Content`] takes.
const AVERAGES: [u32; 5] = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];
const EDIT_BYTES: usize = 4096;
const READ_BYTES: u64 = 4096;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How much, in MiB. It is held in memory.
    #[arg(long, default_value_t = 512)]
    mib: u64,
    /// Insertions of 4 KiB, each into the content as it was.
    #[arg(long, default_value_t = 5)]
    edits: u64,
    /// Reads of 4 KiB, one after the other.
    #[arg(long, default_value_t = 20_000)]
    reads: u64,
    /// Rounds over all averages; the best of each counts.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

#[derive(Default)]
struct Row {
    first: f64,
    again: f64,
    edit_bytes: u64,
    reads: f64,
    chunks: u64,
}

pub(crate) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let runtime = store::runtime()?;
    let mut source = Source::new(7);
    let pieces = source.pieces(options.mib);
    let inserted = source.piece(EDIT_BYTES);
    let mut rows: Vec<Row> = AVERAGES.iter().map(|_| Row::default()).collect();
    for _ in 0..options.rounds.max(1) {
        for (row, average) in rows.iter_mut().zip(AVERAGES) {
            let scratch = store::scratch(dir)?;
            let found = runtime.block_on(measure(scratch.path(), average, &pieces, &inserted, options))?;
            row.first = row.first.max(found.first);
            row.again = row.again.max(found.again);
            row.reads = row.reads.max(found.reads);
            (row.edit_bytes, row.chunks) = (found.edit_bytes, found.chunks);
        }
    }
    println!(
        "{:>8} {:>9} {:>14} {:>14} {:>20} {:>16}",
        "average", "chunks", "first, MiB/s", "again, MiB/s", "bytes of an edit", "4 KiB reads/s"
    );
    for (row, average) in rows.iter().zip(AVERAGES) {
        let Row { first, again, edit_bytes, reads, chunks } = row;
        println!("{average:>8} {chunks:>9} {first:>14.0} {again:>14.0} {edit_bytes:>20} {reads:>16.0}");
    }
    Ok(())
}

async fn measure(
    dir: &Path,
    average: u32,
    pieces: &[Bytes],
    inserted: &Bytes,
    options: &Options,
) -> Result<Row, Failure> {
    let (segment, bucket) = store::create(dir).await?;
    let policy = BucketPolicy { chunking: Chunking::Content(average), ..BucketPolicy::default() };
    segment.catalog().set_policy(bucket.path(), policy).await?;
    let first = put(&bucket, "first", pieces.iter().cloned()).await?;
    let chunks = segment.gc().await?.chunks_live;
    let again = put(&bucket, "again", pieces.iter().cloned()).await?;
    let before = stored(&segment).await?;
    for edit in 0..options.edits {
        let at = usize::try_from((edit * 2 + 1) * options.mib / (options.edits * 2))?;
        let middle = PIECE_BYTES / 3;
        let edited = pieces.iter().enumerate().flat_map(|(index, piece)| match index == at {
            true => vec![piece.slice(..middle), inserted.clone(), piece.slice(middle..)],
            false => vec![piece.clone()],
        });
        put(&bucket, &format!("edited-{edit}"), edited).await?;
    }
    let edit_bytes = (stored(&segment).await? - before) / options.edits.max(1);
    let object = bucket.get("first", GetOptions::default()).await?;
    let places = object.info().size / READ_BYTES;
    let start = Instant::now();
    for read in 0..options.reads {
        // A stride that comes to every place, in no order.
        let at = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % places * READ_BYTES;
        object.bytes(at..at + READ_BYTES).await?;
    }
    let reads = options.reads as f64 / start.elapsed().as_secs_f64();
    segment.close().await?;
    Ok(Row { first, again, edit_bytes, reads, chunks })
}

async fn stored(segment: &Segment) -> Result<u64, Failure> {
    Ok(segment.status().await?.stored_bytes)
}

/// Streams `pieces` into `key`; MiB/s up to the durable commit.
async fn put(bucket: &Bucket, key: &str, pieces: impl Iterator<Item = Bytes>) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut writer = bucket.writer(key, PutOptions::default()).await?;
    for piece in pieces {
        writer.push(piece).await?;
    }
    let info = writer.seal().await?.commit().await?;
    Ok(rate(info.size, start.elapsed().as_secs_f64()))
}
