//! A store to measure, in a directory that goes away afterwards.

use crate::Failure;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tombolo_core::{Bucket, BucketPath, BucketPolicy, CreateOptions, OpenOptions, Segment};

/// The bucket that everything goes to.
const BUCKET: &str = "Bench/lab/bench";

/// A directory below `dir` that goes away with the value.
pub(crate) fn scratch(dir: &Path) -> Result<TempDir, Failure> {
    std::fs::create_dir_all(dir)?;
    Ok(tempfile::tempdir_in(dir)?)
}

/// A new segment in `dir/store`, and its bucket.
pub(crate) async fn create(dir: &Path) -> Result<(Segment, Bucket), Failure> {
    let options = CreateOptions { name: "bench".into(), cluster: "Bench".into() };
    let segment = Segment::create(place(dir), options, OpenOptions::default()).await?;
    let path: BucketPath = BUCKET.parse()?;
    segment.catalog().create_tenant(&path.tenant).await?;
    let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await?;
    Ok((segment, bucket))
}

/// Opens what [`create`] made.
pub(crate) async fn open(dir: &Path) -> Result<(Segment, Bucket), Failure> {
    let segment = Segment::open(place(dir), OpenOptions::default()).await?;
    let bucket = segment.bucket(&BUCKET.parse()?).await?;
    Ok((segment, bucket))
}

fn place(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// A runtime of as many threads as there are cores.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
