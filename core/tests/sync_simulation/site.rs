//! One segment of the simulated world: a real engine in a directory, its sync machine, and what the machine waits for.

use crate::random::SeededEntropy;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tombolo_core::namespace::DeltaRegister;
use tombolo_core::register::VersionVector;
use tombolo_core::sync::{Action, Event, Machine, Piece};
use tombolo_core::*;

pub type Packed = bytes::Bytes;

/// What contents are, by their ETags: a site that has only their names can't read that.
pub type Known = Arc<Mutex<BTreeMap<String, String>>>;

/// Longer contents are in chunks, and begin with a label of so many bytes.
const INLINE_BYTES_MAX: u64 = 1000;
pub const LABEL_BYTES: u64 = 5;

/// A wall clock that is wrong by an amount that can change.
pub struct SkewedClock {
    pub now_ns: Arc<AtomicI64>,
    pub skew_ns: AtomicI64,
}

impl Clock for SkewedClock {
    fn now_ns(&self) -> i64 {
        self.now_ns.load(Ordering::SeqCst) + self.skew_ns.load(Ordering::SeqCst)
    }
}

struct Open {
    segment: Segment,
    buckets: Vec<Bucket>,
}

pub struct Site {
    pub id: SegmentId,
    pub clock: Arc<SkewedClock>,
    pub machine: Machine<Packed>,
    /// What the machine has asked for and was not done yet.
    pub asked: Vec<Action<Packed>>,
    /// What was done, and the machine was not told yet.
    pub done: Vec<Event<Packed>>,
    /// Buckets that have changed without the machine being told.
    pub changed: BTreeSet<usize>,
    /// Where each bucket really stands.
    pub vectors: Vec<VersionVector>,
    known: Known,
    environment: Environment,
    paths: Vec<BucketPath>,
    open: Option<Open>,
    dir: tempfile::TempDir,
}

fn options(environment: &Environment) -> OpenOptions {
    OpenOptions {
        disk_cache_bytes: 16 << 20,
        chunk_cache_bytes: 1 << 20,
        metadata_cache_bytes: 8 << 20,
        write_buffer_bytes: 4 << 20,
        file_buffer_bytes: 4 << 20,
        reserve_bytes: 0,
        workers: 1,
        environment: environment.clone(),
    }
}

impl Site {
    /// Makes a segment with these buckets in it.
    pub async fn new(
        name: String,
        seed: u64,
        clock: SkewedClock,
        buckets: &[(BucketPath, BucketPolicy)],
        known: Known,
    ) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(clock);
        let environment = Environment { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)) };
        let create = CreateOptions { name, cluster: "All".into() };
        let segment = Segment::create(dir.path().join("s"), create, options(&environment)).await.unwrap();
        segment.catalog().create_tenant(&buckets[0].0.tenant).await.unwrap();
        let mut open = Vec::new();
        for (path, policy) in buckets {
            let bucket = segment.catalog().create_bucket(path, policy.clone()).await.unwrap();
            // From the first delta on deletes leave tombstones.
            bucket.changes_since(&VersionVector::new()).await.unwrap();
            open.push(bucket);
        }
        let mut site = Site {
            id: segment.id(),
            clock,
            machine: Machine::new(),
            asked: Vec::new(),
            done: Vec::new(),
            changed: BTreeSet::new(),
            vectors: vec![VersionVector::new(); buckets.len()],
            known,
            environment,
            paths: buckets.iter().map(|(path, _)| path.clone()).collect(),
            open: Some(Open { segment, buckets: open }),
            dir,
        };
        for at in 0..buckets.len() {
            site.look(at).await;
        }
        site
    }

    pub fn bucket(&self, at: usize) -> &Bucket {
        &self.open.as_ref().unwrap().buckets[at]
    }

    pub async fn bucket_id(&self, at: usize) -> BucketId {
        self.bucket(at).info().await.unwrap().id
    }

    /// Reads where a bucket stands.
    pub async fn look(&mut self, at: usize) -> VersionVector {
        self.vectors[at] = self.bucket(at).vector().await.unwrap();
        self.vectors[at].clone()
    }

    /// Stops, knowing nothing afterwards but what is on disk. `closes`: in good order.
    pub async fn restart(&mut self, closes: bool) -> Result<(), String> {
        let open = self.open.take().unwrap();
        if closes {
            open.segment.close().await.map_err(|error| format!("P1: it can't be closed: {error}"))?;
        }
        drop(open);
        self.machine = Machine::new();
        self.asked.clear();
        self.done.clear();
        self.changed.clear();
        let opened = async {
            loop {
                match Segment::open(self.dir.path().join("s"), options(&self.environment)).await {
                    Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                    opened => break opened,
                }
            }
        };
        let opened = tokio::time::timeout(Duration::from_secs(60), opened).await.map_err(|e| e.to_string())?;
        let segment = opened.map_err(|error| format!("P1: it does not open again: {error}"))?;
        let mut buckets = Vec::new();
        for path in &self.paths {
            buckets.push(segment.bucket(path).await.map_err(|error| format!("P1: {error}"))?);
        }
        self.open = Some(Open { segment, buckets });
        for at in 0..self.paths.len() {
            let before = self.vectors[at].clone();
            if !self.look(at).await.dominates(&before) {
                return Err(format!("P1: it stood at {before:?} and stands at {:?} after a crash", self.vectors[at]));
            }
        }
        Ok(())
    }

    /// Cuts a delta for a machine, and sends it through its binary form.
    pub async fn cut(
        &self,
        at: usize,
        peer: &SegmentId,
        from: VersionVector,
        limit: DeltaLimit,
    ) -> Result<Piece<Packed>, String> {
        self.bucket(at).introduce(peer).await.map_err(|error| error.to_string())?;
        let delta = self.bucket(at).changes_since_up_to(&from, limit).await.map_err(|error| error.to_string())?;
        let is_comparing = self.bucket(at).is_comparing().await.unwrap();
        Ok(Piece {
            to: if is_comparing { from.clone() } else { delta.to.clone() },
            from,
            is_empty: delta.registers.is_empty(),
            is_whole: delta.is_whole,
            payload: delta.encode(&self.id).into(),
        })
    }

    /// Takes a delta in, if it begins where this segment stands. Also says whether this segment has to begin anew, with all its peers.
    pub async fn apply(&mut self, at: usize, payload: Packed, sender: SegmentId) -> (Result<Stance, String>, bool) {
        let (delta, by) = Delta::decode(payload).unwrap();
        assert_eq!(by, sender);
        let before = self.stance(at).await.vector;
        if !before.dominates(&delta.from) {
            // The peer has heard something that was said before this site fell back.
            let is_comparing = self.bucket(at).is_comparing().await.unwrap();
            return (Err("what comes before it is missing".into()), is_comparing);
        }
        let was_comparing = self.bucket(at).is_comparing().await.unwrap();
        let applied = self.bucket(at).apply(&delta).await;
        let is_comparing = self.bucket(at).is_comparing().await.unwrap();
        if was_comparing && !is_comparing {
            // What was written anew.
            self.changed.insert(at);
        }
        self.look(at).await;
        let stance = self.stance(at).await;
        let falls_back = !stance.vector.dominates(&before);
        (applied.map(|_| stance).map_err(|error| error.to_string()), falls_back)
    }

    /// What others are told of where this segment stands.
    pub async fn stance(&self, at: usize) -> Stance {
        self.bucket(at).stance().await.unwrap()
    }

    /// Rows that are nothing but tombstones.
    pub async fn tombstones(&self, at: usize) -> Vec<String> {
        let all = self.bucket(at).changes_since(&VersionVector::new()).await.unwrap().registers;
        let named: BTreeSet<NodeId> = all
            .iter()
            .filter_map(|register| match register {
                DeltaRegister::Entry(_, _, register) => Some(register),
                _ => None,
            })
            .flat_map(|register| register.live_values().map(|(_, value)| value.node))
            .collect();
        let dead = |register: &DeltaRegister| match register {
            DeltaRegister::Entry(_, _, register) => register.is_tombstone_only(),
            // What a deletion kept shows where the file has a name.
            DeltaRegister::Content(node, register) => {
                !named.contains(node) && register.live_values().all(|(_, version)| version.deleted.is_some())
            }
            DeltaRegister::History(_, register) => register.is_tombstone_only(),
            _ => false,
        };
        all.iter().filter(|register| dead(register)).map(|register| format!("{register:?}")).collect()
    }

    /// Keys and contents.
    pub async fn shows(&self, at: usize) -> BTreeMap<String, String> {
        let bucket = self.bucket(at);
        let mut out = BTreeMap::new();
        for key in self.keys(at).await {
            let object = bucket.get(&key, GetOptions::default()).await.unwrap();
            out.insert(key, self.label(&object).await);
        }
        out
    }

    /// A content, or how a long one begins.
    pub async fn label(&self, object: &Object) -> String {
        let (etag, size) = (format!("{:?}", object.info().etag), object.info().size);
        let read = object.bytes(0..if size > INLINE_BYTES_MAX { LABEL_BYTES } else { u64::MAX }).await;
        let mut known = self.known.lock();
        match read {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                known.insert(etag, text.clone());
                text
            }
            Err(error) if error.kind() == ErrorKind::Offline => known[&etag].clone(),
            Err(error) => panic!("P3: {error}"),
        }
    }

    /// Whether every byte of what shows under a key is here.
    pub async fn is_whole(&self, at: usize, key: &str) -> bool {
        let object = self.bucket(at).get(key, GetOptions::default()).await.unwrap();
        let (here, of) = object.local_bytes().await.unwrap();
        here == of
    }

    pub async fn keys(&self, at: usize) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let options = ListOptions { limit: 1000, after, ..ListOptions::default() };
            let page = self.bucket(at).list(options).await.unwrap();
            keys.extend(page.items.into_iter().filter_map(|item| match item {
                ListItem::Object(object) => Some(String::from_utf8(object.key.to_vec()).unwrap()),
                ListItem::Prefix(_) => None,
            }));
            match page.next {
                Some(next) => after = Some(next),
                None => return keys,
            }
        }
    }

    /// All that must be the same everywhere: objects with all their attributes, versions, bytes, sums.
    pub async fn state(&self, at: usize) -> BTreeMap<String, String> {
        let bucket = self.bucket(at);
        let mut state = BTreeMap::new();
        for (key, content) in self.shows(at).await {
            let mut info = bucket.head(&key, GetOptions::default()).await.unwrap();
            if key.ends_with('/') {
                // A directory's time is derived from when its entries changed here.
                info.modified_ns = 0;
            }
            state.insert(format!("{key:?}"), format!("{info:?} {content:?}"));
        }
        let options = ListVersionsOptions { limit: 10_000, ..ListVersionsOptions::default() };
        for (at, item) in bucket.list_versions(options).await.unwrap().items.into_iter().enumerate() {
            let text = match item {
                VersionItem::Version { mut summary, version, is_current, is_marker, segment } => {
                    if summary.key.ends_with(b"/") {
                        summary.modified_ns = 0;
                    }
                    format!("{summary:?} {version} {is_current} {is_marker} {segment}")
                }
                VersionItem::Prefix(prefix) => format!("{prefix:?}"),
            };
            state.insert(format!("version {at:05}"), text);
        }
        state.insert("usage".into(), format!("{:?}", bucket.usage().await.unwrap()));
        state
    }
}
