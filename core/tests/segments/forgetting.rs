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

/// B heard, with something else, of what A had dropped, took that for what it had dropped itself, and kept its own tombstones and the bytes below them until somebody changed something. Found by schedules.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_dropped_goes_here_too() {
    let all = Sites::new(2).await;
    let sites = all.bucket("floor-of-others", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", "content").await;
    sync(a, b).await;
    delete(b, "x").await;
    sync(a, b).await;
    tell(a, b).await;
    assert!(drop_all(a).await > 0);
    // An empty delta, as whoever asks where A stands is sent.
    b.pull(a).await;
    assert!(drop_all(b).await > 0, "it has still to drop it itself");
    assert_eq!((drop_all(a).await, drop_all(b).await), (0, 0), "once");
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

/// One step of what the other has, if it can be taken in.
async fn step(to: &Site, from: &Site) {
    let limit = DeltaLimit { registers: 1, bytes: usize::MAX };
    let step = from.bucket.changes_since_up_to(&to.bucket.position().await.unwrap(), limit).await.unwrap();
    match to.bucket.apply(&step).await {
        Err(error) if error.kind() == ErrorKind::Precondition => {}
        applied => drop(applied.unwrap()),
    }
    to.check("a step").await;
}

async fn forget(at: &Site, other: &Site) {
    at.bucket.forget_carrier(&other.bucket.segment().id()).await.unwrap();
}

/// X had a file that A has deleted and dropped. It heard of that from J, which had come half the way to where A stands: X compared with J, stood above A's
/// floor as far as anybody could tell, and kept what lay beyond. So nobody is compared with before it has all.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_half_way_is_not_compared_with() {
    let all = Sites::new(3).await;
    let sites = all.bucket("half-way", 3, &BucketPolicy::default()).await;
    let (a, x, j) = (&sites[0], &sites[1], &sites[2]);
    for key in ["one", "two", "three", "gone"] {
        put(a, key, key).await;
    }
    x.pull(a).await;
    tell(a, x).await;
    put(x, "mine", "mine").await;
    delete(a, "gone").await;
    forget(a, x).await;
    assert!(drop_all(a).await > 0);
    step(j, a).await;
    for _ in 0..3 {
        x.pull(j).await;
        j.pull(x).await;
    }
    assert!(!x.bucket.is_comparing().await.unwrap(), "J can't say yet what was dropped");
    for _ in 0..3 {
        j.pull(a).await;
        x.pull(j).await;
        j.pull(x).await;
        a.pull(j).await;
    }
    let expected = ["mine", "one", "three", "two"];
    for site in &sites {
        assert_eq!(site.shows().await.into_keys().collect::<Vec<_>>(), expected);
        assert!(!site.bucket.is_comparing().await.unwrap());
    }
}

/// Each has dropped something by itself before they met, and what they send comes in steps over a hub: some were half way to where one had dropped something, others compared with those, and
/// all waited for one that stood above what the others had dropped together.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_dropped_something_apart_come_together_in_steps() {
    let all = Sites::new(4).await;
    let sites = all.bucket("apart-in-steps", 4, &BucketPolicy::default()).await;
    for (at, site) in sites.iter().enumerate() {
        for key in 0..3 {
            put(site, &format!("{at}-{key}"), "content").await;
        }
        put(site, "all", format!("{at}")).await;
        for key in [format!("{at}-0"), "all".into()] {
            delete(site, &key).await;
        }
        assert!(drop_all(site).await > 0);
    }
    let is_done = async || {
        let shows = sites[0].shows().await;
        for site in &sites {
            if site.bucket.is_comparing().await.unwrap() || site.shows().await != shows {
                return false;
            }
        }
        shows.len() == 8
    };
    let mut rounds = 0;
    while !is_done().await {
        for other in &sites[1..] {
            step(&sites[0], other).await;
            step(other, &sites[0]).await;
        }
        rounds += 1;
        assert!(rounds < 500, "they wait for each other");
    }
}

/// C began to compare with A, which was gone before it had all. D could not help: it had not heard of what A had dropped. C waited for ever. It turns to D after a while,
/// holds what D holds, also what A had dropped and C had come to cover by A's word; and when A is back, that goes.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_compares_with_one_that_is_gone_turns_to_another() {
    let all = Sites::new(3).await;
    let sites = all.bucket("turns", 3, &BucketPolicy::default()).await;
    let (a, c, d) = (&sites[0], &sites[1], &sites[2]);
    for key in ["gone", "stays"] {
        put(a, key, key).await;
    }
    c.pull(a).await;
    // Not at C: D's word.
    put(d, "late", "late").await;
    a.pull(d).await;
    d.pull(a).await;
    tell(a, d).await;
    tell(a, c).await;
    for key in ["gone", "late"] {
        delete(a, key).await;
    }
    put(a, "more", "more").await;
    for other in [c, d] {
        forget(a, other).await;
    }
    assert!(drop_all(a).await > 0);
    put(c, "of-c", "of-c").await;
    for _ in 0..4 {
        step(c, a).await;
    }
    assert!(c.bucket.is_comparing().await.unwrap());
    let mut rounds = 0;
    while c.bucket.is_comparing().await.unwrap() {
        step(c, d).await;
        rounds += 1;
        assert!(rounds < 1000, "it waits for A for ever");
    }
    sync(c, d).await;
    let (shows, shows_here) = (d.shows().await, c.shows().await);
    assert_eq!(shows.keys().collect::<Vec<_>>(), ["gone", "late", "of-c", "stays"]);
    // What it had from A before goes on from C when A is back, or never.
    assert!(shows.iter().all(|(key, content)| shows_here.get(key) == Some(content)), "{shows_here:?}");
    // A is back.
    for _ in 0..3 {
        sync(a, c).await;
        sync(c, d).await;
    }
    for site in &sites {
        assert_eq!(site.shows().await.into_keys().collect::<Vec<_>>(), ["more", "of-c", "stays"]);
    }
}

/// N had come half the way to where A had dropped something, and A was gone. It took nothing from D any more, which could not know of that.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_half_way_to_one_that_is_gone_turns_to_another() {
    let all = Sites::new(3).await;
    let sites = all.bucket("half-gone", 3, &BucketPolicy::default()).await;
    let (a, n, d) = (&sites[0], &sites[1], &sites[2]);
    for key in ["gone", "one", "two"] {
        put(a, key, key).await;
    }
    d.pull(a).await;
    tell(a, d).await;
    delete(a, "gone").await;
    forget(a, d).await;
    assert!(drop_all(a).await > 0);
    step(n, a).await;
    put(n, "of-n", "of-n").await;
    let mut rounds = 0;
    while n.shows().await.len() < 4 {
        n.pull(d).await;
        rounds += 1;
        assert!(rounds < 1000, "it waits for A for ever");
    }
    for _ in 0..3 {
        sync(n, d).await;
    }
    assert_eq!(n.shows().await, d.shows().await);
    for _ in 0..3 {
        sync(a, n).await;
        sync(n, d).await;
    }
    for site in &sites {
        assert_eq!(site.shows().await.into_keys().collect::<Vec<_>>(), ["of-n", "one", "two"]);
        assert!(!site.bucket.is_comparing().await.unwrap());
    }
}

/// Takes in the names and policies that the other has.
async fn take_catalog(to: &Segment, from: &Segment) {
    let exported = from.catalog().export(&|_| true).await.unwrap();
    to.catalog().import(&exported, &|_| true).await.unwrap();
}

/// A deleted what it had in a bucket, and the bucket. B had renamed one of A's files meanwhile, so the bucket came back; but A stood at its own number, and nobody sent it
/// what it had written itself: B's new name was one of nothing. What A had deleted goes at B, what B made of it stays, at both.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_deleted_and_comes_back_has_the_same_everywhere() {
    let all = Sites::new(2).await;
    let sites = all.bucket("again", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0].bucket.segment().clone(), &sites[1]);
    let path = b.bucket.path().clone();
    for key in ["renamed", "gone", "edited", "d/x"] {
        put(&sites[0], key, format!("{key} of old")).await;
    }
    b.pull(&sites[0]).await;
    b.bucket.rename("renamed", "other").await.unwrap();
    put(b, "edited", "edited by B").await;
    put(b, "new", "new").await;
    for key in ["renamed", "gone", "edited", "d/x"] {
        delete(&sites[0], key).await;
    }
    a.catalog().delete_bucket(&path).await.unwrap();
    take_catalog(b.bucket.segment(), a).await;
    take_catalog(a, b.bucket.segment()).await;
    let again = Site { bucket: a.bucket(&path).await.unwrap() };
    for _ in 0..3 {
        sync(&again, b).await;
    }
    let expected = [("edited", "edited by B"), ("new", "new"), ("other", "renamed of old")];
    let expected = BTreeMap::from(expected.map(|(key, content)| (key.into(), content.into())));
    assert_eq!((again.shows().await, b.shows().await), (expected.clone(), expected));
    assert!(!again.bucket.is_comparing().await.unwrap() && !b.bucket.is_comparing().await.unwrap());
    // Both go on from there.
    put(&again, "gone", "made again").await;
    put(b, "d/x", "made again").await;
    sync(&again, b).await;
    assert_eq!((again.shows().await.len(), again.shows().await), (5, b.shows().await));
}
