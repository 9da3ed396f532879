//! A segment with a bucket, and a door over it.

use crate::client::{Client, within};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tombolo_core::engine::fs::{Caller, CreateMode, FileSystem, RenameMode, SetAttributes};
use tombolo_core::{Bucket, BucketPath, BucketPolicy, CreateOptions, NodeId, OpenOptions, Segment};
use tombolo_nfs::{Exports, NfsDoor, NfsLimits, NfsOptions};

/// For time-outs that shall not pass.
pub const NEVER: Duration = Duration::from_secs(3600);
/// For those that shall.
pub const SOON: Duration = Duration::from_millis(300);

/// The bucket, as it is exported.
pub const BUCKET: &str = "/C/t/b";

pub struct Served {
    pub dir: TempDir,
    pub files: FileSystem,
    pub address: SocketAddr,
    pub port_mapper: SocketAddr,
    segment: Segment,
    exports: Exports,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn serve(
    segment: &Segment,
    exports: &Exports,
    limits: NfsLimits,
) -> ([SocketAddr; 2], oneshot::Sender<()>, JoinHandle<()>) {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = NfsOptions { exports: exports.clone(), port_mapper: Some(here), limits };
    let door = NfsDoor::bind(segment.clone(), &[here], options).await.unwrap();
    let addresses = door.addresses().unwrap().try_into().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(door.serve(async {
        let _ = stopped.await;
    }));
    (addresses, stop, serving)
}

/// Nothing ends for being slow.
pub fn patient() -> NfsLimits {
    NfsLimits { greeting_timeout: NEVER, transfer_timeout: NEVER, idle_timeout: NEVER, ..NfsLimits::default() }
}

impl Served {
    /// With these exports; none: all of it.
    pub async fn new(exports: &[&str], limits: NfsLimits) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: "here".into(), cluster: "C".into() };
        let open = OpenOptions { chunk_cache_bytes: 0, ..OpenOptions::default() };
        let segment = Segment::create(dir.path().join("s"), create, open).await.unwrap();
        let path: BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let exports = match exports {
            [] => Exports::AllToLoopback,
            list => Exports::List(list.iter().map(|export| export.parse().unwrap()).collect()),
        };
        let ([address, port_mapper], stop, serving) = serve(&segment, &exports, limits).await;
        Served { dir, files: bucket.file_system(), address, port_mapper, segment, exports, stop, serving }
    }

    /// Ends the server and starts another.
    pub async fn restart(&mut self, limits: NfsLimits) {
        let ([address, port_mapper], stop, serving) = serve(&self.segment, &self.exports, limits).await;
        drop(std::mem::replace(&mut self.stop, stop));
        within("the server ends", std::mem::replace(&mut self.serving, serving)).await.unwrap();
        (self.address, self.port_mapper) = (address, port_mapper);
    }

    pub async fn bucket(&self) -> Bucket {
        self.segment.bucket(&"C/t/b".parse().unwrap()).await.unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub async fn directory(&self, parent: &NodeId, name: &str) -> NodeId {
        let set = SetAttributes::default();
        self.files.make_directory(&Caller::root(), parent, name.as_bytes(), set).await.unwrap().attributes.node
    }

    pub async fn file(&self, parent: &NodeId, name: &str) -> NodeId {
        let (root, set) = (Caller::root(), SetAttributes::default());
        let made = self.files.create(&root, parent, name.as_bytes(), CreateMode::Guarded, set).await;
        made.unwrap().attributes.node
    }

    /// A file in the root with so many bytes that do not compress, on disk.
    pub async fn filled(&self, name: &str, bytes: usize) -> Bytes {
        let node = self.file(&NodeId::ROOT, name).await;
        let mut content = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
        let mut data = vec![0; bytes];
        content.fill(&mut data);
        let data = Bytes::from(data);
        let flags = tombolo_core::engine::fs::OpenFlags { read: true, write: true, truncate: false, is_granted: true };
        let file = self.files.open(&Caller::root(), &node, flags).await.unwrap();
        file.write_at(0, data.clone()).await.unwrap();
        file.fsync().await.unwrap();
        within("the file is closed", file.close()).await.unwrap();
        data
    }

    pub async fn rename(&self, from: (&NodeId, &str), to: (&NodeId, &str)) {
        let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
        self.files.rename(&Caller::root(), from, to, RenameMode::Replace).await.unwrap();
    }
}
