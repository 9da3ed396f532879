//! P3, P7, P8: where a bucket shows a version only when its data is here, no name is seen before its bytes, whatever else happens meanwhile; and what is given
//! up is listed, and holds nothing up.

use crate::site::{Site, Sites};
use bytes::Bytes;
use std::collections::HashSet;
use tombolo_core::namespace::Delta;
use tombolo_core::*;

fn noise(seed: u8) -> Bytes {
    let mut content = vec![0; 600_000];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    hasher.finalize_xof().fill(&mut content);
    content.into()
}

async fn put(site: &Site, key: &str, seed: u8) {
    site.bucket.put(key, noise(seed), PutOptions::default()).await.unwrap();
}

/// What `from` has and `to` not.
async fn news(from: &Site, to: &Site) -> Delta {
    from.bucket.changes_since(&to.bucket.position().await.unwrap()).await.unwrap()
}

async fn try_apply(site: &Site, delta: &Delta, excused: &HashSet<Bytes>) -> Whole {
    let outcome = site.bucket.apply_whole(delta, excused).await.unwrap();
    site.check("an attempt to take a delta in").await;
    outcome
}

async fn lacks(site: &Site, delta: &Delta) -> Lacking {
    let looked = site.bucket.lacking(delta, &HashSet::new()).await.unwrap();
    let lacking = match try_apply(site, delta, &HashSet::new()).await {
        Whole::Lacking(lacking) => Some(lacking),
        Whole::Applied(_) => None,
    };
    let lacking = lacking.unwrap();
    assert_eq!(paths(&lacking), paths(&looked));
    lacking
}

async fn takes(site: &Site, delta: &Delta) {
    let looked = site.bucket.lacking(delta, &HashSet::new()).await.unwrap();
    assert_eq!(paths(&looked), [""; 0]);
    assert!(matches!(try_apply(site, delta, &HashSet::new()).await, Whole::Applied(_)));
}

fn paths(lacking: &Lacking) -> Vec<String> {
    let path = |version: &Wanted| String::from_utf8_lossy(version.path.as_ref().unwrap()).into_owned();
    let mut paths: Vec<String> = lacking.versions.iter().map(path).collect();
    paths.sort();
    paths
}

/// Brings one of the versions.
async fn bring(from: &Site, to: &Site, lacking: &Lacking, path: &str) {
    let (from, to) = (from.bucket.segment(), to.bucket.segment());
    let version = lacking.versions.iter().find(|version| version.path.as_ref().is_some_and(|at| at == path)).unwrap();
    loop {
        let missing = to.missing_chunks(&version.manifest, 100).await.unwrap();
        if missing.is_empty() {
            return;
        }
        let mut chunks = Vec::new();
        for id in missing {
            chunks.push(from.export_chunk(&id).await.unwrap().unwrap());
        }
        to.import_chunks(chunks).await.unwrap();
    }
}

async fn keys(site: &Site) -> Vec<String> {
    let listed = site.bucket.list(ListOptions { limit: 100, ..ListOptions::default() }).await.unwrap();
    let key = |item| match item {
        ListItem::Object(object) => object.key,
        ListItem::Prefix(prefix) => prefix,
    };
    listed.items.into_iter().map(|item| String::from_utf8_lossy(&key(item)).into_owned()).collect()
}

/// Two sites; at the second all data is to be here.
async fn pair(all: &Sites, name: &str, policy: &BucketPolicy) -> Vec<Site> {
    let sites = all.bucket(name, 2, policy).await;
    sites[1].bucket.keep_data(true).await.unwrap();
    sites
}

/// Nothing of a delta shows before all of it can, collections spare what has come, and then nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_shows_when_its_data_is_here() {
    let mut all = Sites::new(2).await;
    let mut sites = pair(&all, "whole", &BucketPolicy::default()).await;
    let a = sites.remove(0);
    put(&a, "large", 1).await;
    put(&a, "dir/larger", 2).await;
    a.bucket.put("small", "after them", PutOptions::default()).await.unwrap();
    let b = sites.remove(0);
    let (delta, before) = (news(&a, &b).await, b.bucket.vector().await.unwrap());
    let mut held = lacks(&b, &delta).await;
    assert_eq!(paths(&held), ["dir/larger", "large"]);
    bring(&a, &b, &held, "large").await;
    b.bucket.segment().gc().await.unwrap();
    held = lacks(&b, &delta).await;
    assert_eq!(paths(&held), ["dir/larger"], "what has come stays as long as the delta waits");
    assert_eq!((keys(&b).await, b.bucket.vector().await.unwrap()), (vec![], before));
    assert!(b.bucket.wanted(None, 10).await.unwrap().is_empty(), "nothing is missing of what shows");

    // A crash, or the end of the connection: the delta comes again, and what of its data nobody held may be gone.
    drop(held);
    let path = b.bucket.path().clone();
    drop(b);
    all.reopen(1).await;
    let b = Site { bucket: all.segments[1].bucket(&path).await.unwrap() };
    assert_eq!(keys(&b).await, [""; 0]);
    let delta = news(&a, &b).await;
    held = lacks(&b, &delta).await;
    assert_eq!(paths(&held), ["dir/larger"], "what had come is still here");
    drop(held);
    b.bucket.segment().gc().await.unwrap();
    b.bucket.segment().gc().await.unwrap();
    held = lacks(&b, &delta).await;
    assert_eq!(paths(&held), ["dir/larger", "large"]);
    for path in paths(&held) {
        bring(&a, &b, &held, &path).await;
    }
    b.bucket.segment().gc().await.unwrap();
    takes(&b, &delta).await;
    drop(held);
    b.bucket.segment().gc().await.unwrap();
    assert_eq!(keys(&b).await, ["dir/larger", "large", "small"]);
    let content = b.bucket.get("dir/larger", GetOptions::default()).await.unwrap();
    assert_eq!(content.bytes(0..u64::MAX).await.unwrap(), noise(2));
    assert!(b.bucket.wanted(None, 10).await.unwrap().is_empty());
    assert_eq!(b.bucket.data_vector().await.unwrap(), b.bucket.vector().await.unwrap());
    takes(&b, &delta).await;
}

/// What nobody delivers is excused: the rest shows, it is listed as missing, and later changes of it and of others don't wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_excused_is_listed_and_holds_nothing_up() {
    let all = Sites::new(2).await;
    let sites = pair(&all, "excused", &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "lost", 3).await;
    put(a, "found", 4).await;
    let delta = news(a, b).await;
    let held = lacks(b, &delta).await;
    bring(a, b, &held, "found").await;
    let held = lacks(b, &delta).await;
    let excused: HashSet<Bytes> = held.versions.iter().map(|version| version.key.clone()).collect();
    assert!(matches!(try_apply(b, &delta, &excused).await, Whole::Applied(_)));
    let missing = async || {
        let wanted = b.bucket.wanted(None, 10).await.unwrap();
        wanted.into_iter().map(|wanted| String::from_utf8_lossy(&wanted.path.unwrap()).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!((keys(b).await, missing().await), (vec!["found".into(), "lost".into()], vec!["lost".to_owned()]));
    assert!(!b.bucket.data_vector().await.unwrap().dominates(&delta.to));
    a.bucket.rename("lost", "still-lost").await.unwrap();
    a.bucket.put("small", "behind it", PutOptions::default()).await.unwrap();
    takes(b, &news(a, b).await).await;
    assert_eq!((keys(b).await, missing().await.len()), (vec!["found".into(), "small".into(), "still-lost".into()], 1));
}

/// What is written here while a delta waits was written without having seen it: a conflict. What is written when it shows is none.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_beside_a_delta_that_waits_is_concurrent_with_it() {
    let all = Sites::new(2).await;
    let sites = pair(&all, "beside", &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", 5).await;
    put(a, "y", 6).await;
    let delta = news(a, b).await;
    let held = lacks(b, &delta).await;
    b.bucket.put("x", "mine", PutOptions::default()).await.unwrap();
    for path in ["x", "y"] {
        bring(a, b, &held, path).await;
    }
    takes(b, &delta).await;
    b.bucket.put("y", "after it", PutOptions::default()).await.unwrap();
    a.pull(b).await;
    for site in [a, b] {
        let conflicts = site.conflicts().await;
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        assert_eq!(conflicts[0].of, "x");
        let mut contents: Vec<_> = site.shows().await.into_values().map(|content| content.len()).collect();
        contents.sort();
        let lossy = String::from_utf8_lossy(&noise(5)).len();
        assert_eq!(contents, ["mine".len(), "after it".len(), lossy]);
    }
}

/// A name for a content that a deletion elsewhere kept: its data is needed by the delta that brings the name, and not before. Older versions count, too.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_delta_makes_visible_is_needed() {
    let all = Sites::new(3).await;
    let policy = BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() };
    let sites = all.bucket("versions", 3, &policy).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    c.bucket.keep_data(true).await.unwrap();
    put(a, "k", 7).await;
    put(a, "k", 8).await;
    let delta = news(a, c).await;
    let held = lacks(c, &delta).await;
    assert_eq!(paths(&held), ["k", "k"]);
    drop((held, b));

    let sites = all.bucket("revived", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    c.bucket.keep_data(true).await.unwrap();
    put(a, "x", 9).await;
    b.pull(a).await;
    a.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    b.bucket.rename("x", "y").await.unwrap();
    takes(c, &news(a, c).await).await;
    assert_eq!(keys(c).await, [""; 0]);
    let delta = news(b, c).await;
    let held = lacks(c, &delta).await;
    assert_eq!(paths(&held), ["y"]);
    bring(a, c, &held, "y").await;
    takes(c, &delta).await;
    assert_eq!(keys(c).await, ["y"]);
    assert!(c.bucket.wanted(None, 10).await.unwrap().is_empty());
}
