//! A segment with its link door, in a directory of its own.

use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, CreateOptions, ErrorKind, GetOptions, OpenOptions, PutOptions, Result, Segment,
};
use tombolo_link::{AcceptOptions, Direction, InviteOptions, LinkDoor, LinkLimits, LinkOptions, Mode, Scope, Visible};

/// Longer than anything takes; a test that gets there has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

fn limits() -> LinkLimits {
    LinkLimits { redial_max: Duration::from_millis(200), ..LinkLimits::default() }
}

pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) dir: TempDir,
    pub(crate) segment: Segment,
    pub(crate) door: LinkDoor,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Site {
    /// A new segment; its cluster is its name in capitals.
    pub(crate) async fn new(name: &str) -> Site {
        Site::with_limits(name, limits()).await
    }

    pub(crate) async fn with_limits(name: &str, limits: LinkLimits) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: name.into(), cluster: name.to_uppercase() };
        let segment = Segment::create(dir.path().join("data"), create, OpenOptions::default()).await.unwrap();
        Site::serve(name, dir, segment, "127.0.0.1:0".parse().unwrap(), limits).await
    }

    async fn serve(name: &str, dir: TempDir, segment: Segment, listen: SocketAddr, limits: LinkLimits) -> Site {
        let options = LinkOptions { listen: vec![listen], limits };
        let door = LinkDoor::open(segment.clone(), options).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(door.clone().serve(async move { drop(stopped.await) }));
        Site { name: name.into(), dir, segment, door, stop: Some(stop), serving }
    }

    /// Stops and starts again on the same address.
    pub(crate) async fn restart(self) -> Site {
        let address = self.door.addresses()[0];
        let (name, dir) = self.stop().await;
        Site::start(&name, dir, address).await
    }

    /// Starts one that was stopped.
    pub(crate) async fn start(name: &str, dir: TempDir, address: SocketAddr) -> Site {
        // Tasks that the door has ended let go of the directory when they are next looked at.
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let segment = loop {
            match Segment::open(dir.path().join("data"), OpenOptions::default()).await {
                Err(error) if error.kind() == ErrorKind::Busy => looks.tick().await,
                opened => break opened.unwrap(),
            };
        };
        Site::serve(name, dir, segment, address, limits()).await
    }

    /// Stops; the directory stays.
    pub(crate) async fn stop(mut self) -> (String, TempDir) {
        drop(self.stop.take());
        (&mut self.serving).await.unwrap();
        self.segment.close().await.unwrap();
        (self.name, self.dir)
    }

    /// Links this segment (which invites) with another.
    pub(crate) async fn link(&self, other: &Site, mode: Mode) {
        self.link_scoped(other, mode, Scope::everything()).await;
    }

    pub(crate) async fn link_scoped(&self, other: &Site, mode: Mode, scope: Scope) {
        self.link_by(other, mode, scope, Vec::new()).await;
    }

    /// The other one dials `address`.
    pub(crate) async fn link_at(&self, other: &Site, mode: Mode, address: SocketAddr) {
        self.link_by(other, mode, Scope::everything(), vec![address.to_string()]).await;
    }

    async fn link_by(&self, other: &Site, mode: Mode, scope: Scope, addresses: Vec<String>) {
        let invite = InviteOptions {
            addresses,
            scope,
            mode,
            visible: Visible::Early,
            direction: Direction::Both,
            valid_for: Duration::from_secs(60),
        };
        let code = self.door.invite(invite).await.unwrap();
        let link = other.door.accept(code, AcceptOptions::default()).await.unwrap();
        assert_eq!((link.name.as_str(), link.mode), (self.name.as_str(), mode));
    }

    pub(crate) async fn make_bucket(&self, path: &str, policy: BucketPolicy) -> Bucket {
        let path: BucketPath = path.parse().unwrap();
        let catalog = self.segment.catalog();
        for made in [catalog.create_cluster(&path.tenant.cluster).await, catalog.create_tenant(&path.tenant).await] {
            assert!(made.is_ok() || made.is_err_and(|e| e.kind() == ErrorKind::Exists));
        }
        catalog.create_bucket(&path, policy).await.unwrap()
    }

    pub(crate) async fn bucket(&self, path: &str) -> Bucket {
        self.segment.bucket(&path.parse().unwrap()).await.unwrap()
    }

    pub(crate) async fn put(&self, bucket: &str, key: &str, content: impl Into<bytes::Bytes>) {
        self.bucket(bucket).await.put(key, content.into(), PutOptions::default()).await.unwrap();
    }

    pub(crate) async fn get(&self, bucket: &str, key: &str) -> Result<bytes::Bytes> {
        let object = self.bucket(bucket).await.get(key, GetOptions::default()).await?;
        object.bytes(0..object.info().size).await
    }

    /// Waits until all that its peers have is here.
    pub(crate) async fn wait(&self) {
        self.door.wait(&Scope::everything(), Some(DEADLINE)).await.unwrap();
    }
}

/// Waits for a condition.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    assert!(comes_true(condition).await, "{what} did not happen");
}

/// The same; says how these stand if it does not come true.
pub(crate) async fn eventually_at<F: Future<Output = bool>>(sites: &[&Site], what: &str, condition: impl FnMut() -> F) {
    let has_happened = comes_true(condition).await;
    for site in sites.iter().filter(|_| !has_happened) {
        println!("{}: {:#?}", site.name, tokio::time::timeout(DEADLINE / 10, site.door.status()).await);
    }
    assert!(has_happened, "{what} did not happen");
}

async fn comes_true<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) -> bool {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !condition().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.is_ok()
}

/// Bytes that don't compress and never repeat.
pub(crate) fn noise(seed: u64, length: usize) -> bytes::Bytes {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut out);
    out.into()
}
