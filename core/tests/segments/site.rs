//! Segments side by side, and what one asks them.

use std::collections::BTreeMap;
use tombolo_core::namespace::Delta;
use tombolo_core::register::VersionVector;
use tombolo_core::*;

/// A segment, and a bucket in it.
pub(crate) struct Site {
    pub(crate) bucket: Bucket,
}

/// Segments side by side. Each schedule has a bucket of its own in them.
pub(crate) struct Sites {
    pub(crate) segments: Vec<Segment>,
    _dirs: Vec<tempfile::TempDir>,
}

fn options() -> OpenOptions {
    OpenOptions { metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() }
}

impl Sites {
    pub(crate) async fn new(count: usize) -> Sites {
        let mut sites = Sites { segments: Vec::new(), _dirs: Vec::new() };
        for i in 0..count {
            let dir = tempfile::tempdir().unwrap();
            let create = CreateOptions { name: format!("site{i}"), cluster: "All".into() };
            let segment = Segment::create(dir.path().join("s"), create, options()).await.unwrap();
            segment.catalog().create_tenant(&"All/lab".parse().unwrap()).await.unwrap();
            sites.segments.push(segment);
            sites._dirs.push(dir);
        }
        sites
    }

    /// Closes a segment, which nobody may hold any more, and opens it again.
    pub(crate) async fn reopen(&mut self, at: usize) {
        let segment = self.segments.remove(at);
        let dir = segment.dir().to_owned();
        segment.close().await.unwrap();
        drop(segment);
        self.segments.insert(at, Segment::open(dir, options()).await.unwrap());
    }

    /// The same bucket in the first `count` of them.
    pub(crate) async fn bucket(&self, name: &str, count: usize, policy: &BucketPolicy) -> Vec<Site> {
        let path: BucketPath = format!("All/lab/{name}").parse().unwrap();
        let mut sites = Vec::new();
        let first = self.segments[0].catalog();
        first.create_bucket(&path, policy.clone()).await.unwrap();
        let exported = first.export(&|_| true).await.unwrap();
        for segment in &self.segments[..count] {
            segment.catalog().import(&exported, &|_| true).await.unwrap();
            let bucket = segment.bucket(&path).await.unwrap();
            // From the first delta on deletes leave tombstones.
            bucket.changes_since(&VersionVector::new()).await.unwrap();
            sites.push(Site { bucket });
        }
        sites
    }
}

impl Site {
    /// What is written here next has a higher stamp than what `other` has written so far, none of which has to be seen for that.
    pub(crate) async fn writes_after(&self, other: &Site) {
        let (theirs, path) = (other.bucket.segment().catalog(), other.bucket.path());
        theirs.set_policy(path, other.bucket.info().await.unwrap().policy).await.unwrap();
        let exported = theirs.export(&|_| true).await.unwrap();
        self.bucket.segment().catalog().import(&exported, &|_| true).await.unwrap();
    }

    pub(crate) async fn shows(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.bucket.list(ListOptions { limit: 100, after, ..ListOptions::default() }).await.unwrap();
            for item in page.items {
                if let ListItem::Object(object) = item {
                    let content = self.bucket.get(&object.key, GetOptions::default()).await.unwrap();
                    let text = content.bytes(0..u64::MAX).await.unwrap();
                    let key = String::from_utf8_lossy(&object.key).into_owned();
                    out.insert(key, String::from_utf8_lossy(&text).into_owned());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return out,
            }
        }
    }

    pub(crate) async fn conflicts(&self) -> Vec<Conflict> {
        let mut found: Vec<Conflict> = Vec::new();
        loop {
            let page = self.bucket.conflicts(found.last().map(|last| last.position.clone()), 3).await.unwrap();
            found.extend(page.iter().cloned());
            if page.len() < 3 {
                return found;
            }
        }
    }

    /// What lost and shows nowhere: key and content.
    pub(crate) async fn hidden(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for conflict in self.conflicts().await.into_iter().filter(|conflict| conflict.key.is_none()) {
            out.push((
                String::from_utf8_lossy(&conflict.of).into_owned(),
                self.version(&conflict.of, conflict.version).await,
            ));
        }
        out
    }

    pub(crate) async fn version(&self, key: &[u8], version: Option<VersionId>) -> String {
        let object = self.bucket.get(key, GetOptions { version, snapshot: None }).await.unwrap();
        String::from_utf8_lossy(&object.bytes(0..u64::MAX).await.unwrap()).into_owned()
    }

    /// Takes in what the other has. If this segment has to compare for that, it does.
    pub(crate) async fn pull(&self, from: &Site) -> Delta {
        from.bucket.introduce(&self.bucket.segment().id()).await.unwrap();
        loop {
            let delta = from.bucket.changes_since(&self.bucket.position().await.unwrap()).await.unwrap();
            let compared = self.bucket.is_comparing().await.unwrap();
            match self.bucket.apply(&delta).await {
                Ok(_) => {
                    self.check("a delta").await;
                    return delta;
                }
                Err(error) if error.kind() == ErrorKind::Precondition => {
                    if compared || !self.bucket.is_comparing().await.unwrap() {
                        return delta;
                    }
                }
                other => {
                    other.unwrap();
                }
            }
        }
    }

    pub(crate) async fn apply(&self, delta: &Delta) {
        self.bucket.apply(delta).await.unwrap();
        self.check("a delta").await;
    }

    /// Takes in a delta that may be of long ago. It may be refused, because this segment compares, or has to.
    pub(crate) async fn apply_late(&self, delta: &Delta) {
        if let Err(error) = self.bucket.apply(delta).await {
            assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        }
        self.check("a late delta").await;
    }

    /// What was derived change by change is what is derived at once.
    pub(crate) async fn check(&self, after: &str) {
        let differences = self.bucket.verify_shown().await.unwrap();
        assert!(differences.is_empty(), "after {after}:\n{}", differences.join("\n"));
    }
}

/// A conflict about `x` on both segments: A's content and B's, of one file or of two. B wrote last.
pub(crate) async fn in_conflict(all: &Sites, name: &str, policy: &BucketPolicy, edits: bool) -> Vec<Site> {
    let sites = all.bucket(name, 2, policy).await;
    let (a, b) = (&sites[0], &sites[1]);
    if edits {
        a.bucket.put("x", "first", PutOptions::default()).await.unwrap();
        b.pull(a).await;
    }
    a.bucket.put("x", "a", PutOptions::default()).await.unwrap();
    b.writes_after(a).await;
    b.bucket.put("x", "b", PutOptions::default()).await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    sites
}

/// The contents of all versions of all keys, in the order of the list.
pub(crate) async fn versions(site: &Site) -> Vec<String> {
    let options = ListVersionsOptions { limit: 100, ..ListVersionsOptions::default() };
    let mut out = Vec::new();
    for item in site.bucket.list_versions(options).await.unwrap().items {
        if let VersionItem::Version { summary, version, is_marker: false, .. } = item {
            out.push(site.version(&summary.key, Some(version)).await);
        }
    }
    out
}
