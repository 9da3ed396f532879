//! What unit tests of the engine begin with.

use super::{Bucket, Segment};
use crate::{BucketPolicy, CreateOptions, OpenOptions};
use tempfile::TempDir;

/// The bucket `C/t/b` of a new segment.
pub(crate) async fn bucket(policy: BucketPolicy) -> (TempDir, Segment, Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "a".into(), cluster: "C".into() };
    let segment = Segment::create(dir.path().join("a"), create, OpenOptions::default()).await.unwrap();
    let path: crate::BucketPath = "C/t/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, policy).await.unwrap();
    (dir, segment, bucket)
}
