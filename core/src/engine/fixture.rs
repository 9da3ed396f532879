//! What unit tests of the engine begin with.

use super::{Bucket, Segment};
use crate::{BucketPolicy, CreateOptions, OpenOptions};
use bytes::Bytes;
use tempfile::TempDir;

/// The bucket `C/t/b` of a new segment.
pub(crate) async fn bucket(policy: BucketPolicy) -> (TempDir, Segment, Bucket) {
    bucket_with(policy, OpenOptions::default()).await
}

/// The same, opened with `open`.
pub(crate) async fn bucket_with(policy: BucketPolicy, open: OpenOptions) -> (TempDir, Segment, Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "a".into(), cluster: "C".into() };
    let segment = Segment::create(dir.path().join("a"), create, open).await.unwrap();
    let path: crate::BucketPath = "C/t/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, policy).await.unwrap();
    (dir, segment, bucket)
}

/// Bytes that neither repeat nor compress.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}
