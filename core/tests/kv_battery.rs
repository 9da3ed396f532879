//! The conformance battery over every implementation of the metadata seam.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use tempfile::TempDir;
use tombolo_core::kv::{Store, battery};

/// Directories that outlive the stores in them.
#[derive(Default)]
struct Directories(parking_lot::Mutex<Vec<TempDir>>);

impl Directories {
    fn fresh(&self) -> std::path::PathBuf {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("store");
        self.0.lock().push(dir);
        path
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    use tombolo_core::kv::memory::MemoryStore;
    battery::run(async || Ok(Arc::new(MemoryStore::new()) as Arc<dyn Store>)).await.unwrap();
}

#[cfg(feature = "fjall")]
mod fjall {
    use super::*;
    use tombolo_core::kv::fjall::FjallStore;

    /// Small, so that write buffers are written out while the battery runs.
    const CACHE_BYTES: usize = 8 << 20;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn battery() {
        let dirs = Directories::default();
        battery::run(async || Ok(Arc::new(FjallStore::open(&dirs.fresh(), CACHE_BYTES)?) as Arc<dyn Store>))
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn reopen() {
        let dirs = Directories::default();
        let path = dirs.fresh();
        battery::run_reopen(async || Ok(Arc::new(FjallStore::open(&path, CACHE_BYTES)?) as Arc<dyn Store>))
            .await
            .unwrap();
    }
}

#[cfg(feature = "redb")]
mod redb {
    use super::*;
    use tombolo_core::kv::redb::RedbStore;

    const CACHE_BYTES: usize = 8 << 20;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn battery() {
        let dirs = Directories::default();
        battery::run(async || Ok(Arc::new(RedbStore::open(&dirs.fresh(), CACHE_BYTES)?) as Arc<dyn Store>))
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn reopen() {
        let dirs = Directories::default();
        let path = dirs.fresh();
        battery::run_reopen(async || Ok(Arc::new(RedbStore::open(&path, CACHE_BYTES)?) as Arc<dyn Store>))
            .await
            .unwrap();
    }
}
