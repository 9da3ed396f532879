//! Buckets that are deleted, made again and given policies in two places.

use crate::site::{Site, Sites};
use std::collections::BTreeMap;
use tombolo_core::*;

/// Takes in the names and policies that the other has.
async fn take_catalog(to: &Segment, from: &Segment) {
    let exported = from.catalog().export(&|_| true).await.unwrap();
    to.catalog().import(&exported, &|_| true).await.unwrap();
}

async fn put(site: &Site, key: &str) {
    site.bucket.put(key, key.to_owned(), PutOptions::default()).await.unwrap();
}

async fn empty(site: &Site) {
    for key in site.shows().await.keys() {
        site.bucket.delete(key, DeleteOptions::default()).await.unwrap();
    }
}

/// Two segments with a bucket and three objects.
async fn filled(all: &Sites, name: &str) -> Vec<Site> {
    let sites = all.bucket(name, all.segments.len(), &BucketPolicy::default()).await;
    for key in ["a", "d/b", "d/e/c"] {
        put(&sites[0], key).await;
    }
    for site in &sites[1..] {
        site.pull(&sites[0]).await;
    }
    sites
}

async fn names(segment: &Segment) -> Vec<String> {
    segment.catalog().all_buckets().await.unwrap().into_iter().map(|info| info.path.bucket).collect()
}

/// The catalog is sent when it changes, and overtook the deletions of what had been in the bucket: where they had not come the bucket held something, outlived
/// its deletion, and came back with all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_emptied_and_deleted_stays_deleted() {
    let all = Sites::new(3).await;
    let sites = filled(&all, "emptied").await;
    let path = sites[0].bucket.path().clone();
    empty(&sites[0]).await;
    all.segments[0].catalog().delete_bucket(&path).await.unwrap();
    for _ in 0..2 {
        for (to, from) in [(1, 0), (2, 1), (0, 2), (0, 1)] {
            take_catalog(&all.segments[to], &all.segments[from]).await;
        }
    }
    for segment in &all.segments {
        assert_eq!(names(segment).await, [""; 0]);
        // Its rows are gone, and what they were about.
        segment.gc().await.unwrap();
        assert_eq!(segment.gc().await.unwrap().chunks_live, 0);
    }
}

/// One that was deleted and made again under its path is the new one everywhere: there is no conflict.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_made_again_replaces_the_old_one() {
    let all = Sites::new(2).await;
    let sites = filled(&all, "again").await;
    let path = sites[0].bucket.path().clone();
    empty(&sites[0]).await;
    let catalog = all.segments[0].catalog();
    catalog.delete_bucket(&path).await.unwrap();
    let again = Site { bucket: catalog.create_bucket(&path, BucketPolicy::default()).await.unwrap() };
    put(&again, "new").await;
    take_catalog(&all.segments[1], &all.segments[0]).await;
    take_catalog(&all.segments[0], &all.segments[1]).await;
    let other = Site { bucket: all.segments[1].bucket(&path).await.unwrap() };
    for _ in 0..2 {
        other.pull(&again).await;
        again.pull(&other).await;
    }
    for (segment, site) in all.segments.iter().zip([&again, &other]) {
        assert_eq!(names(segment).await, ["again"]);
        assert_eq!(site.shows().await, BTreeMap::from([("new".to_owned(), "new".to_owned())]));
    }
}

/// What was written without knowing of the deletion keeps the bucket, an open file too. What the deletion had seen is not kept by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_which_something_was_written_meanwhile_outlives_its_deletion() {
    let all = Sites::new(2).await;
    for is_open in [false, true] {
        let sites = filled(&all, if is_open { "open" } else { "written" }).await;
        let path = sites[0].bucket.path().clone();
        empty(&sites[0]).await;
        all.segments[0].catalog().delete_bucket(&path).await.unwrap();
        if is_open {
            let options = FileOptions { write: true, ..FileOptions::default() };
            let file = sites[1].bucket.open_file("a", options).await.unwrap();
            file.write_at(0, "edited".into()).await.unwrap();
            take_catalog(&all.segments[1], &all.segments[0]).await;
            file.close().await.unwrap();
        } else {
            put(&sites[1], "later").await;
            take_catalog(&all.segments[1], &all.segments[0]).await;
        }
        take_catalog(&all.segments[0], &all.segments[1]).await;
        let back = Site { bucket: all.segments[0].bucket(&path).await.unwrap() };
        for _ in 0..3 {
            back.pull(&sites[1]).await;
            sites[1].pull(&back).await;
        }
        let expected = if is_open { ("a", "edited") } else { ("later", "later") };
        let expected = BTreeMap::from([(expected.0.to_owned(), expected.1.to_owned())]);
        assert_eq!((back.shows().await, sites[1].shows().await), (expected.clone(), expected));
    }
}

/// Deleted in two places, each of which had seen what the other had not: what is nowhere new stays away.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_two_have_deleted_is_gone() {
    let all = Sites::new(3).await;
    let sites = filled(&all, "twice").await;
    let path = sites[0].bucket.path().clone();
    put(&sites[0], "of-0").await;
    put(&sites[1], "of-1").await;
    sites[2].pull(&sites[0]).await;
    sites[2].pull(&sites[1]).await;
    for at in [0, 1] {
        empty(&sites[at]).await;
        all.segments[at].catalog().delete_bucket(&path).await.unwrap();
    }
    // The one tombstone has not seen what the other has: the bucket stays until both are here, and then has nothing that is alive.
    let exported = [0, 1].map(|at| all.segments[at].catalog());
    let both = [exported[0].export(&|_| true).await.unwrap(), exported[1].export(&|_| true).await.unwrap()];
    all.segments[1].catalog().import(&both[0], &|_| true).await.unwrap();
    take_catalog(&all.segments[2], &all.segments[1]).await;
    take_catalog(&all.segments[0], &all.segments[2]).await;
    for segment in &all.segments {
        assert_eq!(names(segment).await, [""; 0]);
    }
}

/// Policies were one value each, and the later of two that were set apart from each other took the other's place: what it did not say went back to what it had
/// been, versioning to off.
#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_set_in_two_places_are_both_kept() {
    let all = Sites::new(3).await;
    let sites = all.bucket("policies", 3, &BucketPolicy::default()).await;
    let path = sites[0].bucket.path().clone();
    let set = async |at: usize, changes: &[(&str, &str)]| {
        let catalog = all.segments[at].catalog();
        let mut policy = all.segments[at].bucket(&path).await.unwrap().info().await.unwrap().policy;
        changes.iter().for_each(|(key, value)| policy.set(key, value).unwrap());
        catalog.set_policy(&path, policy).await.unwrap();
    };
    set(0, &[("versioning", "on"), ("uid", "1")]).await;
    set(1, &[("quota-bytes", "1000000"), ("uid", "2")]).await;
    set(2, &[("compression", "zstd")]).await;
    for _ in 0..3 {
        for (to, from) in [(0, 1), (1, 0), (2, 1), (0, 2), (1, 2), (2, 0)] {
            take_catalog(&all.segments[to], &all.segments[from]).await;
        }
    }
    let expected = BucketPolicy {
        versioning: Versioning::On,
        quota_bytes: Some(1_000_000),
        compression: Compression::Zstd,
        // The later of the two.
        uid: 2,
        ..BucketPolicy::default()
    };
    for segment in &all.segments {
        assert_eq!(segment.bucket(&path).await.unwrap().info().await.unwrap().policy, expected);
    }
    // One that has seen the others takes their place.
    set(0, &[("quota-bytes", "none")]).await;
    take_catalog(&all.segments[1], &all.segments[0]).await;
    let policy = all.segments[1].bucket(&path).await.unwrap().info().await.unwrap().policy;
    assert_eq!(policy, BucketPolicy { quota_bytes: None, ..expected });
}
