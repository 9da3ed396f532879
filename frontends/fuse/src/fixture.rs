//! What unit tests of the door begin with.

use crate::caches::{Follower, Stale};
use crate::door::Door;
use crate::options::MountOptions;
use crate::target::MountPath;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tombolo_core::{Bucket, BucketPath, BucketPolicy, CreateOptions, OpenOptions, PutOptions, Segment};

/// A bucket in a segment of its own.
pub(crate) async fn bucket() -> (TempDir, Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "A".into(), cluster: "C".into() };
    let segment = Segment::create(dir.path().join("a"), create, OpenOptions::default()).await.unwrap();
    let path: BucketPath = "C/t/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
    (dir, bucket)
}

/// Objects of one byte.
pub(crate) async fn put(bucket: &Bucket, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    for key in keys {
        bucket.put(key, "x", PutOptions::default()).await.unwrap();
    }
}

/// The door to a bucket, and what the kernel would be told to forget.
pub(crate) async fn door(bucket: &Bucket) -> (Arc<Door>, Receiver<Stale>) {
    let (follower, stale) = Follower::new(Handle::current());
    let mounted = MountPath::Bucket(bucket.path().clone(), Vec::new());
    let door = Door::open(bucket.segment().clone(), &mounted, MountOptions::default(), follower).await.unwrap();
    (door, stale)
}
