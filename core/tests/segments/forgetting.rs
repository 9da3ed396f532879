//! What everybody has deleted goes, nothing comes back by it, and a segment that was forgotten finds its way in again.

use crate::site::{Site, Sites};
use std::collections::BTreeMap;
use tombolo_core::*;

fn large(seed: u32) -> Vec<u8> {
    (0..500_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect()
}

async fn put(site: &Site, key: &str, content: impl Into<bytes::Bytes>) {
    site.bucket.put(key, content.into(), PutOptions::default()).await.unwrap();
}

async fn delete(site: &Site, key: &str) {
    site.bucket.delete(key, DeleteOptions::default()).await.unwrap();
}

/// Both hear who carries the bucket, and up to where.
pub(crate) async fn tell(a: &Site, b: &Site) {
    b.bucket.learn_carriers(&a.bucket.carriers().await.unwrap()).await.unwrap();
    a.bucket.learn_carriers(&b.bucket.carriers().await.unwrap()).await.unwrap();
}

pub(crate) async fn drop_all(site: &Site) -> u64 {
    let dropped = site.bucket.drop_acknowledged().await.unwrap();
    site.check("dropping").await;
    dropped
}

async fn sync(a: &Site, b: &Site) {
    for _ in 0..2 {
        a.pull(b).await;
        b.pull(a).await;
    }
}

/// All rows of a bucket that a deletion leaves, which nobody but the change index can show: a segment that has nothing sends what there is.
async fn registers(site: &Site) -> usize {
    site.bucket.changes_since(&VersionVector::new()).await.unwrap().registers.len()
}

/// A deletion in a linked bucket gave no space back at all, ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_everywhere_gives_its_space_back() {
    let all = Sites::new(2).await;
    for versioning in [Versioning::Off, Versioning::On] {
        let policy = BucketPolicy { versioning, ..BucketPolicy::default() };
        let sites = all.bucket(&format!("space-{versioning:?}").to_lowercase(), 2, &policy).await;
        let (a, b) = (&sites[0], &sites[1]);
        let segment = a.bucket.segment();
        segment.gc().await.unwrap();
        let before = segment.gc().await.unwrap().chunks_live;
        put(a, "d/x", large(1)).await;
        put(a, "stays", "small").await;
        tell(a, b).await;
        b.pull(a).await;
        delete(b, "d/x").await;
        if versioning == Versioning::On {
            for item in
                b.bucket.list_versions(ListVersionsOptions { limit: 9, ..Default::default() }).await.unwrap().items
            {
                if let VersionItem::Version { summary, version, .. } = item
                    && summary.key == "d/x"
                {
                    let options = DeleteOptions { version: Some(version), ..DeleteOptions::default() };
                    b.bucket.delete(&summary.key, options).await.unwrap();
                }
            }
        }
        a.pull(b).await;
        assert_eq!(drop_all(a).await, 0, "{versioning:?}: B has not said that it has what A has");
        b.pull(a).await;
        tell(a, b).await;
        let report = segment.gc().await.unwrap();
        assert!(report.rows_dropped >= 2, "{versioning:?}: {report:?}");
        assert_eq!(report.chunks_live, before, "{versioning:?}");
        a.check("dropping").await;
        assert!(drop_all(b).await >= 2);
        sync(a, b).await;
        assert_eq!(a.shows().await, BTreeMap::from([("stays".into(), "small".into())]));
        assert_eq!(a.shows().await, b.shows().await);
        // Entry and content of `stays`; entry and home of the directory that is not there.
        assert!(registers(a).await <= 4, "{}", registers(a).await);
        // Made again, it is as new.
        put(b, "d/x", "again").await;
        sync(a, b).await;
        assert_eq!(a.shows().await["d/x"], "again");
    }
}

/// Where A is not linked to C, it hears of it from B.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_at_the_end_of_a_chain_holds_up_what_it_has_not_heard_of() {
    let all = Sites::new(3).await;
    let sites = all.bucket("chain", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    put(a, "x", "content").await;
    for (from, to) in [(a, b), (b, c)] {
        to.pull(from).await;
        tell(from, to).await;
    }
    tell(a, b).await;
    delete(a, "x").await;
    sync(a, b).await;
    tell(a, b).await;
    assert_eq!((drop_all(a).await, drop_all(b).await), (0, 0), "C still has it");
    sync(b, c).await;
    tell(b, c).await;
    assert!(drop_all(c).await > 0 || drop_all(b).await > 0);
    tell(a, b).await;
    assert!(drop_all(a).await > 0);
    for _ in 0..2 {
        sync(a, b).await;
        sync(b, c).await;
    }
    for site in &sites {
        assert_eq!(site.shows().await.len(), 0);
    }
}

/// B had deleted a file and everybody knew, but not all had what C had made by then: another name of it. The content was gone where C's name came last.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_stays_while_a_name_for_it_may_be_on_its_way() {
    let all = Sites::new(3).await;
    let sites = all.bucket("on-its-way", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    put(a, "x", large(2)).await;
    for (from, to) in [(a, b), (b, c), (a, b)] {
        to.pull(from).await;
        tell(from, to).await;
    }
    c.bucket.link("x", "y").await.unwrap();
    delete(b, "x").await;
    // C has the deletion and says so; its link has not come here.
    for to in [a, c] {
        to.pull(b).await;
        tell(b, to).await;
    }
    tell(b, a).await;
    assert_eq!(drop_all(a).await, 0);
    a.bucket.segment().gc().await.unwrap();
    a.pull(c).await;
    let read = a.bucket.get("y", GetOptions::default()).await.unwrap().bytes(0..u64::MAX).await.unwrap();
    assert!(read == large(2));
}

/// A delta that was long under way brings nothing back, and neither does a segment that knew nothing when it joined, whomever it asks first.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back() {
    let all = Sites::new(4).await;
    let sites = all.bucket("nothing", 4, &BucketPolicy::default()).await;
    let (a, b, c, d) = (&sites[0], &sites[1], &sites[2], &sites[3]);
    put(a, "x", "content").await;
    put(a, "y", "stays").await;
    let late = a.bucket.changes_since(&VersionVector::new()).await.unwrap();
    // C has them too, and nobody knows.
    c.bucket.apply(&late).await.unwrap();
    b.pull(a).await;
    delete(b, "x").await;
    sync(a, b).await;
    tell(a, b).await;
    assert!(drop_all(a).await > 0 && drop_all(b).await > 0);
    for site in [a, b] {
        site.apply(&late).await;
        assert_eq!(site.shows().await.len(), 1);
    }
    // D hears from C first.
    d.pull(c).await;
    assert_eq!(d.shows().await.len(), 2);
    d.pull(a).await;
    assert_eq!(d.shows().await, a.shows().await);
    c.pull(d).await;
    a.pull(c).await;
    for site in &sites {
        assert_eq!(site.shows().await, BTreeMap::from([("y".into(), "stays".into())]));
        assert!(!site.bucket.is_comparing().await.unwrap());
    }
}

/// C had a file from a part of a delta, which its vector does not tell of; so it took what A had for a start from nothing, and kept the file. Found by a schedule.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_part_goes_too() {
    let all = Sites::new(3).await;
    let sites = all.bucket("in-part", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    put(a, "x", "content").await;
    let whole = a.bucket.changes_since(&VersionVector::new()).await.unwrap();
    c.apply(&namespace::Delta { from: whole.to.clone(), ..whole }).await;
    assert_eq!(c.shows().await.len(), 1);
    b.pull(a).await;
    delete(b, "x").await;
    sync(a, b).await;
    tell(a, b).await;
    assert!(drop_all(a).await > 0 && drop_all(b).await > 0);
    c.pull(a).await;
    assert_eq!(c.shows().await.len(), 0);
}

/// What C held up went when it was forgotten. It comes back with changes of its own of every kind, and none of them is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_segment_comes_back_with_what_it_alone_had_and_nothing_else() {
    let all = Sites::new(3).await;
    for (limit, name) in [(usize::MAX, "whole"), (1, "steps")] {
        let sites = all.bucket(&format!("returns-{name}"), 3, &BucketPolicy::default()).await;
        let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
        for key in ["gone", "renamed", "edited", "stays", "d/in", "mine"] {
            put(if key == "mine" { c } else { a }, key, format!("{key} of old")).await;
        }
        a.pull(c).await;
        for to in [b, c] {
            to.pull(a).await;
            tell(a, to).await;
        }
        tell(a, b).await;
        c.bucket.rename("renamed", "other").await.unwrap();
        put(c, "edited", "edited by C").await;
        put(c, "d/new", "new").await;
        for key in ["gone", "renamed", "edited", "d/in", "mine"] {
            delete(b, key).await;
        }
        put(b, "later", "later").await;
        sync(a, b).await;
        tell(a, b).await;
        assert_eq!(drop_all(a).await, 0, "C has not heard of it");
        assert!(a.bucket.forget_carrier(&c.bucket.segment().id()).await.unwrap());
        assert!(!a.bucket.forget_carrier(&c.bucket.segment().id()).await.unwrap(), "twice is once");
        tell(a, b).await;
        assert!(drop_all(a).await > 0 && drop_all(b).await > 0, "{name}");

        // It is told, and compares.
        let delta = b.bucket.changes_since(&c.bucket.position().await.unwrap()).await.unwrap();
        let refused = c.bucket.apply(&delta).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(c.bucket.is_comparing().await.unwrap());
        while c.bucket.is_comparing().await.unwrap() {
            let from = c.bucket.position().await.unwrap();
            let step = b.bucket.changes_since_up_to(&from, DeltaLimit { registers: limit, bytes: usize::MAX }).await;
            c.apply(&step.unwrap()).await;
        }
        tell(b, c).await;
        for _ in 0..2 {
            sync(b, c).await;
            sync(a, b).await;
        }
        let mut shows = c.shows().await;
        assert_eq!((a.shows().await, b.shows().await), (shows.clone(), shows.clone()), "{name}");
        let rescued = shows.keys().find(|key| key.starts_with("edited")).cloned().unwrap();
        assert_eq!(shows.remove(&rescued).unwrap(), "edited by C");
        let expected = [("d/new", "new"), ("later", "later"), ("other", "renamed of old"), ("stays", "stays of old")];
        assert_eq!(shows, BTreeMap::from(expected.map(|(key, content)| (key.into(), content.into()))), "{name}");
        // It counts again.
        tell(a, b).await;
        delete(a, "stays").await;
        sync(a, b).await;
        tell(a, b).await;
        assert_eq!(drop_all(a).await, 0, "{name}: it is not forgotten any more");
    }
}

/// Each was forgotten where the other is, and dropped what it had deleted.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_forgot_each_other_meet_again() {
    let all = Sites::new(2).await;
    let sites = all.bucket("apart", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    for key in ["x", "y", "z"] {
        put(a, key, key).await;
    }
    sync(a, b).await;
    tell(a, b).await;
    for (here, there, key) in [(a, b, "x"), (b, a, "y")] {
        delete(here, key).await;
        put(here, &format!("after-{key}"), key).await;
        here.bucket.forget_carrier(&there.bucket.segment().id()).await.unwrap();
        assert!(drop_all(here).await > 0);
    }
    sync(a, b).await;
    sync(a, b).await;
    assert!(!a.bucket.is_comparing().await.unwrap() && !b.bucket.is_comparing().await.unwrap());
    assert_eq!(a.shows().await.into_keys().collect::<Vec<_>>(), ["after-x", "after-y", "z"]);
    assert_eq!(a.shows().await, b.shows().await);
}
