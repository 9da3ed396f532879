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

async fn set_uid(site: &Site, uid: &str) {
    let mut policy = site.bucket.info().await.unwrap().policy;
    policy.set("uid", uid).unwrap();
    site.bucket.segment().catalog().set_policy(site.bucket.path(), policy).await.unwrap();
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

/// Empties a bucket, deletes it, and makes one of its path with something new.
async fn made_again(site: &Site) -> Site {
    empty(site).await;
    let (catalog, path) = (site.bucket.segment().catalog(), site.bucket.path());
    catalog.delete_bucket(path).await.unwrap();
    let again = Site { bucket: catalog.create_bucket(path, BucketPolicy::default()).await.unwrap() };
    put(&again, "new").await;
    again
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
    sites[0].bucket.put("large", vec![7; 100_000], PutOptions::default()).await.unwrap();
    for site in &sites[1..] {
        site.pull(&sites[0]).await;
    }
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
    let again = made_again(&sites[0]).await;
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

/// How something comes into a bucket that another segment has deleted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum News {
    Put,
    /// The policy is a change of the same segment, with a higher number, which comes first.
    PutAndPolicy,
    Open,
    /// It came back by a put, and was deleted once more before that had come.
    PutAndDeletedAgain,
}

/// What was written without knowing of the deletion keeps the bucket, an open file too. What the deletion had seen is not kept by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_which_something_was_written_meanwhile_outlives_its_deletion() {
    let all = Sites::new(2).await;
    for news in [News::Put, News::PutAndPolicy, News::Open, News::PutAndDeletedAgain] {
        let sites = filled(&all, &format!("{news:?}").to_lowercase()).await;
        let path = sites[0].bucket.path().clone();
        let take = async |to: usize| take_catalog(&all.segments[to], &all.segments[1 - to]).await;
        if news == News::PutAndPolicy {
            put(&sites[1], "later").await;
            set_uid(&sites[1], "7").await;
            take(0).await;
        }
        empty(&sites[0]).await;
        all.segments[0].catalog().delete_bucket(&path).await.unwrap();
        match news {
            News::Open => {
                let options = FileOptions { write: true, ..FileOptions::default() };
                let file = sites[1].bucket.open_file("a", options).await.unwrap();
                file.write_at(0, "edited".into()).await.unwrap();
                take(1).await;
                file.close().await.unwrap();
            }
            News::PutAndPolicy => take(1).await,
            News::Put | News::PutAndDeletedAgain => {
                put(&sites[1], "later").await;
                take(1).await;
            }
        }
        take(0).await;
        if news == News::PutAndDeletedAgain {
            all.segments[0].catalog().delete_bucket(&path).await.unwrap();
            take(1).await;
            take(0).await;
        }
        let back = Site { bucket: all.segments[0].bucket(&path).await.unwrap() };
        for _ in 0..3 {
            back.pull(&sites[1]).await;
            sites[1].pull(&back).await;
        }
        let expected = if news == News::Open { ("a", "edited") } else { ("later", "later") };
        let expected = BTreeMap::from([(expected.0.to_owned(), expected.1.to_owned())]);
        assert_eq!((back.shows().await, sites[1].shows().await), (expected.clone(), expected), "{news:?}");
    }
}

/// A bucket that nobody deleted, and that has lost its path to another, goes on under a derived name.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_loses_its_path_is_not_deleted() {
    let all = Sites::new(2).await;
    let sites = filled(&all, "path").await;
    let again = made_again(&sites[0]).await;
    set_uid(&again, "5").await;
    // The old one has the later write.
    put(&sites[1], "later").await;
    for uid in ["6", "7", "8"] {
        set_uid(&sites[1], uid).await;
    }
    for to in [0, 1, 0, 1] {
        take_catalog(&all.segments[to], &all.segments[1 - to]).await;
    }
    let mut contents = Vec::new();
    for segment in &all.segments {
        assert_eq!(names(segment).await.len(), 2);
        for info in segment.catalog().all_buckets().await.unwrap() {
            contents.extend(Site { bucket: segment.bucket(&info.path).await.unwrap() }.shows().await.into_keys());
        }
    }
    assert!(["later", "new"].iter().all(|key| contents.contains(&(*key).to_owned())), "{contents:?}");
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

/// Ids of buckets are no secret. Whoever said that a bucket of a path that the link covers is one of another path got that one: to read, to write to, and to delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_gives_no_bucket_of_another_path() {
    let all = Sites::new(2).await;
    let (own, peer) = (&all.segments[0], &all.segments[1]);
    let (secret, public): (BucketPath, BucketPath) = ("X/secret/b".parse().unwrap(), "X/public/b".parse().unwrap());
    for (segment, path) in [(own, &secret), (peer, &public)] {
        segment.catalog().create_cluster("X").await.unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
    }
    let bucket = own.catalog().create_bucket(&secret, BucketPolicy::default()).await.unwrap();
    bucket.put("k", "secret", PutOptions::default()).await.unwrap();
    let claimed = peer.catalog().create_bucket(&public, BucketPolicy::default()).await.unwrap();
    let ids = [claimed.info().await.unwrap().id, bucket.info().await.unwrap().id].map(|id| id.to_string());
    let covers = |name: &CatalogName| match name {
        CatalogName::Cluster(_) => true,
        CatalogName::Tenant(tenant) => tenant.tenant == "public",
        CatalogName::Bucket(path) => path.tenant.tenant == "public",
    };
    let forged = async || {
        let mut exported = peer.catalog().export(&|_| true).await.unwrap().to_vec();
        while let Some(at) = exported.windows(ids[0].len()).position(|window| window == ids[0].as_bytes()) {
            exported[at..at + ids[0].len()].copy_from_slice(ids[1].as_bytes());
        }
        exported
    };
    own.catalog().import(&forged().await, &covers).await.unwrap();
    assert_eq!(own.bucket(&public).await.map(drop).unwrap_err().kind(), ErrorKind::NotFound);
    peer.catalog().delete_bucket(&public).await.unwrap();
    own.catalog().import(&forged().await, &covers).await.unwrap();
    own.gc().await.unwrap();
    own.bucket(&secret).await.unwrap().head("k", GetOptions::default()).await.unwrap();
    // What else came with it is here, and a bucket that is its own comes.
    let honest = peer.catalog().create_bucket(&public, BucketPolicy::default()).await.unwrap();
    let exported = peer.catalog().export(&|_| true).await.unwrap();
    own.catalog().import(&exported, &covers).await.unwrap();
    assert_eq!(own.bucket(&public).await.unwrap().info().await.unwrap().id, honest.info().await.unwrap().id);
}
