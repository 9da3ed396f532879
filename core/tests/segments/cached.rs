//! P10, P11: what readers fetched is kept within a budget, and given up pack by pack; what anything here relies on is not.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tombolo_core::*;

const MIB: usize = 1 << 20;
const BUDGET_MIB: usize = 8;

fn noise(seed: u64) -> Bytes {
    let mut out = vec![0; MIB];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut out);
    out.into()
}

struct Source {
    from: Segment,
    to: Segment,
    bytes: AtomicU64,
}

#[async_trait]
impl ChunkSource for Source {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        for id in chunks {
            let chunk = self.from.export_chunk(&id).await?;
            let chunk = chunk.ok_or_else(|| Error::new(ErrorKind::Offline, "it is not there either"))?;
            self.bytes.fetch_add(u64::from(chunk.raw_bytes), Ordering::Relaxed);
            self.to.chunk_import_as(Residence::Cached).import(vec![chunk]).await?;
        }
        Ok(())
    }
}

/// Two segments, of which the first has 60 objects of a MiB, and the second their names and a small cache.
struct Pair {
    dirs: tempfile::TempDir,
    there: Bucket,
    here: Bucket,
    source: Arc<Source>,
}

fn options() -> OpenOptions {
    let disk_cache_bytes = (BUDGET_MIB * MIB) as u64;
    OpenOptions { disk_cache_bytes, metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() }
}

fn path() -> BucketPath {
    "All/lab/b".parse().unwrap()
}

impl Pair {
    async fn new() -> Pair {
        let dirs = tempfile::tempdir().unwrap();
        let mut buckets = Vec::new();
        for name in ["there", "here"] {
            let create = CreateOptions { name: name.into(), cluster: "All".into() };
            let segment = Segment::create(dirs.path().join(name), create, options()).await.unwrap();
            segment.catalog().create_tenant(&path().tenant).await.unwrap();
            buckets.push(segment.catalog().create_bucket(&path(), BucketPolicy::default()).await.unwrap());
        }
        let (here, there) = (buckets.pop().unwrap(), buckets.pop().unwrap());
        for at in 0..60 {
            there.put(at.to_string(), noise(at), PutOptions::default()).await.unwrap();
        }
        follow(&here, &there).await;
        let source = linked(&here, &there);
        Pair { dirs, there, here, source }
    }

    async fn read(&self, at: u64) {
        assert!(whole(&self.here, &at.to_string()).await.unwrap() == noise(at), "{at}");
    }

    /// Reads objects that nobody has read.
    async fn scan(&self) {
        for at in 20..60 {
            self.read(at).await;
        }
    }

    /// Bytes that reading an object fetches now.
    async fn costs(&self, at: u64) -> u64 {
        let before = self.source.bytes.load(Ordering::Relaxed);
        self.read(at).await;
        self.source.bytes.load(Ordering::Relaxed) - before
    }
}

fn linked(here: &Bucket, there: &Bucket) -> Arc<Source> {
    let (from, to) = (there.segment().clone(), here.segment().clone());
    let source = Arc::new(Source { from, to, bytes: AtomicU64::new(0) });
    here.segment().set_chunk_source(Some(source.clone()));
    source
}

async fn follow(here: &Bucket, there: &Bucket) {
    let delta = there.changes_since(&here.vector().await.unwrap()).await.unwrap();
    here.apply(&delta).await.unwrap();
}

async fn whole(bucket: &Bucket, key: &str) -> Result<Bytes> {
    bucket.get(key, GetOptions::default()).await?.bytes(0..u64::MAX).await
}

async fn local(bucket: &Bucket, key: &str) -> u64 {
    bucket.get(key, GetOptions::default()).await.unwrap().local_bytes().await.unwrap().0
}

fn cached_bytes(bucket: &Bucket) -> u64 {
    let metrics = bucket.segment().metrics();
    metrics.iter().find(|(name, ..)| *name == "tombolo_disk_cache_bytes").unwrap().3 as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_takes_no_more_than_the_budget_and_spares_what_is_read_again() {
    let Pair { dirs, there, here, source } = {
        let pair = Pair::new().await;
        pair.read(0).await;
        pair.read(1).await;
        for at in 20..60 {
            pair.read(at).await;
            assert!(cached_bytes(&pair.here) <= ((BUDGET_MIB + 1) * MIB) as u64, "after {at}");
            if at % 3 == 0 {
                pair.read(0).await;
            }
        }
        assert_eq!(pair.costs(0).await, 0, "what is read again and again is still here");
        assert!(pair.costs(1).await >= MIB as u64, "what was read once before is not");
        pair
    };

    // After opening again it is all there, and counts.
    here.segment().set_chunk_source(None);
    here.segment().close().await.unwrap();
    drop((here, source));
    let segment = loop {
        match Segment::open(dirs.path().join("here"), options()).await {
            Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let here = segment.bucket(&path()).await.unwrap();
    assert!(cached_bytes(&here) > (BUDGET_MIB / 2 * MIB) as u64, "{}", cached_bytes(&here));
    assert!(whole(&here, "0").await.unwrap() == noise(0));
    let source = linked(&here, &there);
    let pair = Pair { dirs, there, here, source };
    pair.scan().await;
    assert!(cached_bytes(&pair.here) <= ((BUDGET_MIB + 1) * MIB) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_something_here_relies_on_is_not_evicted() {
    let pair = Pair::new().await;
    let here = &pair.here;
    for at in 0..4 {
        pair.read(at).await;
    }
    // Stored here as well; copied without its data; pinned; kept. All of it is in the cache.
    here.put("own", noise(0), PutOptions::default()).await.unwrap();
    let cached = here.get("1", GetOptions::default()).await.unwrap();
    here.copy(&cached, "copied", CopyOptions::default()).await.unwrap();
    for (at, path, residence) in [(2, "2", Residence::Pinned), (3, "3", Residence::Kept)] {
        pair.read(at).await;
        match residence {
            Residence::Pinned => here.pin(path).await.unwrap(),
            _ => assert_eq!(here.persist(path).await.unwrap(), 1),
        }
        let wanted = here.wanted(None, 10).await.unwrap().remove(0);
        let import = here.segment().chunk_import_as(residence);
        assert_eq!(import.adopt(&wanted.manifest).await.unwrap(), None);
        here.data_arrived(&[wanted.key]).await.unwrap();
    }
    pair.scan().await;
    here.segment().gc().await.unwrap();
    here.segment().set_chunk_source(None);
    for (key, at) in [("own", 0), ("copied", 1), ("2", 2), ("3", 3)] {
        assert!(whole(here, key).await.unwrap() == noise(at), "{key}");
        assert_eq!(local(here, key).await, MIB as u64, "{key}");
    }

    // What only a pin had brought goes with it; what was persisted, copied or written here stays.
    here.unpin("2").await.unwrap();
    here.segment().gc().await.unwrap();
    for (key, bytes) in [("own", MIB), ("copied", MIB), ("2", 0), ("3", MIB)] {
        assert_eq!(local(here, key).await, bytes as u64, "{key}");
    }
}
