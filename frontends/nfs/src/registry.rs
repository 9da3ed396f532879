//! The exports as they are now: each opened when somebody first asks for it.

use crate::exports::{Export, Exports, is_step};
use crate::handle::{Handle, Signer, export_number};
use crate::status::{Outcome, Refusal};
use nfsserve::nfs::nfsstat3;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tombolo_core::engine::fs::{Caller, FileSystem, new_origin};
use tombolo_core::{BucketId, Error, NodeId, Result, Segment};

/// An export whose bucket is there.
pub(crate) struct Opened {
    pub(crate) export: Export,
    pub(crate) number: u64,
    pub(crate) id: BucketId,
    /// The directory that is exported.
    pub(crate) root: NodeId,
    /// Changes are on disk when they return.
    pub(crate) files: FileSystem,
}

impl Opened {
    /// The file system's number (`fsid`): that of the bucket.
    pub(crate) fn file_system(&self) -> u64 {
        self.id.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }

    /// Whether a node is in what is exported. A directory's export has those below it at the time of the call: what was moved out of it, or has lost
    /// its last name there, is out of reach, whoever has a handle of it.
    pub(crate) async fn has(&self, node: &NodeId) -> Result<bool> {
        if self.root == NodeId::ROOT {
            return Ok(true);
        }
        self.files.is_within(node, &self.root).await
    }

    /// The handle of a node.
    pub(crate) fn handle(&self, node: NodeId) -> Handle {
        Handle { export: self.number, bucket: self.id, node }
    }
}

pub(crate) struct Registry {
    segment: Segment,
    exports: Exports,
    pub(crate) signer: Signer,
    origin: u32,
    opened: RwLock<HashMap<u64, Arc<Opened>>>,
}

impl Registry {
    pub(crate) fn new(segment: Segment, exports: Exports) -> Result<Registry> {
        let signer = Signer::open(segment.dir())?;
        Ok(Registry { segment, exports, signer, origin: new_origin(), opened: RwLock::default() })
    }

    /// All exports, whether their buckets are there or not.
    pub(crate) async fn all(&self) -> Result<Vec<Export>> {
        let Exports::List(list) = &self.exports else {
            let catalog = self.segment.catalog();
            let mut all = Vec::new();
            for cluster in catalog.clusters().await? {
                for tenant in catalog.tenants(&cluster).await? {
                    let buckets = catalog.buckets(&tenant).await?;
                    all.extend(buckets.into_iter().map(|bucket| Export::to_loopback(bucket.path)));
                }
            }
            return Ok(all);
        };
        Ok(list.clone())
    }

    /// Opens an export; `NotFound` if its bucket or directory is not there.
    pub(crate) async fn open(&self, export: Export) -> Result<Arc<Opened>> {
        let number = export_number(&export.path());
        let bucket = self.segment.bucket(&export.bucket).await?;
        let id = bucket.info().await?.id;
        let files = bucket.file_system().durable().with_origin(self.origin);
        let root = below(&files, NodeId::ROOT, &export.below).await?;
        // Its own root must be a directory.
        files.read_directory(None, &root, None, 1, false).await?;
        let opened = Arc::new(Opened { export, number, id, root, files });
        self.opened.write().insert(number, opened.clone());
        Ok(opened)
    }

    /// The export of a handle. Stale: its bucket is gone, or it is exported no more.
    pub(crate) async fn of_handle(&self, handle: &Handle) -> Outcome<Arc<Opened>> {
        let known = self.opened.read().get(&handle.export).cloned();
        if let Some(opened) = known.filter(|opened| opened.id == handle.bucket) {
            return Ok(opened);
        }
        for export in self.all().await? {
            if export_number(&export.path()) == handle.export {
                let opened = self.open(export).await.map_err(|_| Refusal(nfsstat3::NFS3ERR_STALE))?;
                if opened.id == handle.bucket {
                    return Ok(opened);
                }
            }
        }
        Err(Refusal(nfsstat3::NFS3ERR_STALE))
    }
}

/// The node at `path` below a directory, component by component; symbolic links are not followed.
pub(crate) async fn below(files: &FileSystem, from: NodeId, path: &str) -> Result<NodeId> {
    let mut node = from;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if is_step(name) {
            return Err(Error::invalid(format!("'{name}' is no directory of an export")));
        }
        node = files.lookup(&Caller::root(), &node, name.as_bytes()).await?.node;
    }
    Ok(node)
}
