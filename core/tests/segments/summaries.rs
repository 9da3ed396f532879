//! What two segments can find out about each other's rows without telling all of them (P5, P8).

use crate::site::{Site, Sites};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use tombolo_core::kv::{Batch, Durability, Space, Store};
use tombolo_core::*;

/// Another segment's summary, and how much it was asked.
struct Other {
    summary: Summary,
    questions: AtomicUsize,
    told: AtomicUsize,
}

impl Other {
    async fn of(site: &Site) -> Other {
        let summary = site.bucket.summary().await.unwrap();
        Other { summary, questions: AtomicUsize::new(0), told: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Counterpart for Other {
    async fn differing(&self, ranges: &[RangeSummary]) -> Result<Vec<usize>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let mut differing = Vec::new();
        for (at, range) in ranges.iter().enumerate() {
            if self.summary.whole(&range.range).await?.hash != range.hash {
                differing.push(at);
            }
        }
        Ok(differing)
    }

    async fn rows(&self, range: &RowRange) -> Result<(Vec<RowSummary>, Option<Bytes>)> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let (rows, next) = self.summary.rows(range, 3).await?;
        self.told.fetch_add(rows.len(), Ordering::Relaxed);
        Ok((rows, next))
    }
}

/// Both hold the same, whatever order it came in.
pub(crate) async fn are_equal(a: &Site, b: &Site) -> Comparison {
    compare(&a.bucket.summary().await.unwrap(), &Other::of(b).await, 10).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn few_questions_find_what_differs() {
    let all = Sites::new(2).await;
    let sites = all.bucket("many", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let metadata = Metadata {
        user: [("colour", "red"), ("size", "large"), ("shape", "round")].map(|(k, v)| (k.into(), v.into())).into(),
        ..Metadata::default()
    };
    let puts = (0..1000).map(|n| {
        let options = PutOptions { metadata: metadata.clone(), ..PutOptions::default() };
        a.bucket.put(format!("d{}/k{n}", n % 7), format!("content {n}"), options)
    });
    for stored in futures::future::join_all(puts).await {
        stored.unwrap();
    }
    b.pull(a).await;
    let same = are_equal(a, b).await;
    assert!(same.differences.is_empty() && same.rows > 2000, "{same:?}");

    // Names that only one has, a content that differs, one that is gone.
    b.bucket.put("d3/new", "x", PutOptions::default()).await.unwrap();
    b.bucket.put("d5/k5", "y", PutOptions::default()).await.unwrap();
    b.bucket.delete("d6/k6", DeleteOptions::default()).await.unwrap();
    let other = Other::of(b).await;
    let found = compare(&a.bucket.summary().await.unwrap(), &other, 100).await.unwrap();
    let told: Vec<_> = found
        .differences
        .iter()
        .map(|difference| {
            let path = difference.name.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned());
            (difference.held, path.unwrap_or_default())
        })
        .collect();
    for wanted in [(Held::Differently, "d5/k5"), (Held::Here, "d6/k6"), (Held::There, "d3/new")] {
        assert!(told.contains(&(wanted.0, wanted.1.into())), "{wanted:?} in {told:?}");
    }
    // The node that is not here has no name here.
    assert_eq!((told.len(), told.iter().filter(|(_, path)| path.is_empty()).count()), (5, 1), "{told:?}");
    let (questions, rows) = (other.questions.into_inner(), other.told.into_inner());
    assert!(questions < 60 && rows < 120, "{questions} questions, {rows} rows told");
    let few = compare(&a.bucket.summary().await.unwrap(), &Other::of(b).await, 2).await.unwrap();
    assert!(few.is_more && few.differences.len() == 2);

    a.pull(b).await;
    assert_eq!(are_equal(a, b).await.differences, []);
}

/// One byte of one value, changed beneath the engine in a row that decodes all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_found() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("damaged", 2, &BucketPolicy::default()).await;
    for n in 0..200 {
        let user = [("colour".into(), format!("red-{n}"))].into();
        let options = PutOptions { metadata: Metadata { user, ..Metadata::default() }, ..PutOptions::default() };
        sites[0].bucket.put(format!("dir/k{n}"), "x", options).await.unwrap();
    }
    sites[1].pull(&sites[0]).await;
    assert_eq!(are_equal(&sites[0], &sites[1]).await.differences, []);
    let path = sites[1].bucket.path().clone();
    drop(sites);
    let dir = all.segments[1].dir().to_owned();
    all.close(1).await;
    {
        let store = kv::fjall::FjallStore::open(&dir.join("metadata"), 16 << 20).unwrap();
        let snapshot = store.snapshot().await.unwrap();
        let rows = snapshot.scan(Space::Nodes, kv::KeyRange::prefix(b""), 10_000, false).await.unwrap().rows;
        let (key, row) = rows.into_iter().find(|(_, row)| row.windows(6).any(|part| part == b"red-77")).unwrap();
        let mut damaged = row.to_vec();
        let at = damaged.windows(6).position(|part| part == b"red-77").unwrap();
        damaged[at] = b'R';
        let writes = vec![(Space::Nodes, key, Some(damaged.into()))];
        store.commit(Batch { guards: Vec::new(), writes }, Durability::Sync).await.unwrap();
    }
    all.open(1, &dir).await;
    let mut sites = Vec::new();
    for segment in &all.segments {
        sites.push(Site { bucket: segment.bucket(&path).await.unwrap() });
    }
    let found = are_equal(&sites[0], &sites[1]).await;
    let names: Vec<_> = found.differences.iter().map(|d| (d.held, d.name.path.clone().unwrap())).collect();
    assert_eq!(names, [(Held::Differently, Bytes::from_static(b"dir/k77"))]);
}
