//! P5 and P6 through the engine: segments that work apart on one bucket and exchange deltas, in any order, late and twice,
//! end up showing the same, and nobody's content is gone unless somebody who had seen it deleted or replaced it.
//!
//! `TOMBOLO_ENGINE_SEEDS` sets how many schedules are tried; a failure names its seed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::namespace::Delta;
use tombolo_core::register::VersionVector;
use tombolo_core::*;

struct Site {
    bucket: Bucket,
    _dir: tempfile::TempDir,
}

async fn site(name: &str) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: name.into(), cluster: "All".into() };
    let options = OpenOptions { metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() };
    let segment = Segment::create(dir.path().join("s"), create, options).await.unwrap();
    let path: BucketPath = "All/lab/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
    // From the first delta on deletes leave tombstones.
    bucket.changes_since(&VersionVector::new()).await.unwrap();
    Site { bucket, _dir: dir }
}

impl Site {
    async fn shows(&self) -> BTreeMap<String, String> {
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

    async fn pull(&self, from: &Site) -> Delta {
        let delta = from.bucket.changes_since(&self.bucket.vector().await.unwrap()).await.unwrap();
        self.bucket.apply(&delta).await.unwrap();
        delta
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

/// Returns whether there was a conflict.
async fn schedule(seed: u64, conflict_free: bool) -> bool {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut sites = Vec::new();
    for i in 0..2 + seed % 2 {
        sites.push(site(&format!("site{i}")).await);
    }
    let (mut written, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let mut old_deltas: Vec<Delta> = Vec::new();
    for step in 0..24u64 {
        let at = usize::try_from(dice.roll(sites.len() as u64)).unwrap();
        let from = (at + 1 + usize::try_from(dice.roll(sites.len() as u64 - 1)).unwrap()) % sites.len();
        if conflict_free {
            for other in 0..sites.len() {
                if other != at {
                    sites[at].pull(&sites[other]).await;
                }
            }
        } else if dice.roll(3) == 0 {
            old_deltas.push(sites[at].pull(&sites[from]).await);
            continue;
        } else if dice.roll(8) == 0 && !old_deltas.is_empty() {
            let late = &old_deltas[usize::try_from(dice.roll(old_deltas.len() as u64)).unwrap()];
            sites[at].bucket.apply(late).await.unwrap();
            continue;
        }
        let bucket = &sites[at].bucket;
        let shows = sites[at].shows().await;
        let directory = dice.pick(&["", "", "p/", "q/", "p/r/"]);
        let key = format!("{directory}{}", dice.pick(&["x", "y.txt", "z"]));
        match dice.roll(10) {
            0..=4 => {
                let content = format!("{seed}-{step}");
                if let Some(old) = shows.get(&key) {
                    gone.insert(old.clone());
                }
                written.insert(content.clone());
                bucket.put(&key, content, PutOptions::default()).await.unwrap();
            }
            5 | 6 => {
                if let Some(old) = shows.get(&key) {
                    gone.insert(old.clone());
                }
                bucket.delete(&key, DeleteOptions::default()).await.unwrap();
            }
            7 => drop(bucket.mkdir(dice.pick(&["p", "q"]), Attributes::default()).await),
            8 => {
                let to = dice.pick(&["x", "y.txt", "z"]);
                if key != to && bucket.rename(&key, to).await.is_ok() {
                    gone.extend(shows.get(to).cloned());
                }
            }
            _ => drop(bucket.rename(dice.pick(&["p", "q", "p/r"]), dice.pick(&["p", "q", "q/s"])).await),
        }
    }
    for _ in 0..2 {
        for a in 0..sites.len() {
            for b in 0..sites.len() {
                if a != b {
                    sites[a].pull(&sites[b]).await;
                }
            }
        }
    }
    let first = sites[0].shows().await;
    for other in &sites[1..] {
        assert_eq!(other.shows().await, first, "P5, seed {seed}");
        assert_eq!(other.bucket.usage().await.unwrap(), sites[0].bucket.usage().await.unwrap(), "usage, seed {seed}");
    }
    let shown: BTreeSet<_> = first.values().cloned().collect();
    let lost: Vec<_> = written.iter().filter(|c| !gone.contains(*c) && !shown.contains(*c)).collect();
    assert!(lost.is_empty(), "P6, seed {seed}: lost {lost:?}, shown {first:?}");
    first.keys().any(|key| key.contains("(conflict"))
}

fn seeds() -> u64 {
    std::env::var("TOMBOLO_ENGINE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_converge_and_nothing_is_lost() {
    let mut conflicts = 0;
    for seed in 1..=seeds() {
        conflicts += u64::from(schedule(seed, false).await);
    }
    println!("{} schedules, {conflicts} with conflicts", seeds());
    assert!(conflicts > 0, "the schedules had no conflicts: they test nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_is_never_a_conflict() {
    for seed in 1..=seeds() / 2 {
        assert!(!schedule(seed, true).await, "seed {seed}: a change made after seeing another was called a conflict");
    }
}
