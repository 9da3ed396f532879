//! Files that are open here while another segment changes them.

use crate::site::{Site, Sites};
use std::collections::BTreeSet;
use tombolo_core::*;

async fn put(site: &Site, key: &str, content: &str) {
    site.bucket.put(key, content.to_owned(), PutOptions::default()).await.unwrap();
}

async fn open(site: &Site, key: &str) -> OpenFile {
    site.bucket.open_file(key, FileOptions { write: true, ..FileOptions::default() }).await.unwrap()
}

async fn sync(a: &Site, b: &Site) {
    for _ in 0..2 {
        a.pull(b).await;
        b.pull(a).await;
    }
    assert_eq!(a.shows().await, b.shows().await);
}

async fn contents(site: &Site) -> BTreeSet<String> {
    site.shows().await.into_values().collect()
}

/// P6: what had been made of an older content replaced what came meanwhile, with no copy and no conflict, on every segment.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_an_open_file_stays_beside_what_came_meanwhile() {
    let all = Sites::new(2).await;
    let sites = all.bucket("edited", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", "base").await;
    b.pull(a).await;
    let file = open(a, "x").await;
    file.write_at(0, "mine".into()).await.unwrap();
    put(b, "x", "theirs").await;
    a.pull(b).await;
    file.fsync().await.unwrap();
    a.check("fsync").await;
    sync(a, b).await;
    assert_eq!(contents(a).await, BTreeSet::from(["mine".into(), "theirs".into()]));
    assert_eq!(a.conflicts().await.len(), 1);
    // It goes on: what is made of what was seen is no conflict.
    file.write_at(0, "more".into()).await.unwrap();
    file.fsync().await.unwrap();
    a.check("another fsync").await;
    sync(a, b).await;
    assert_eq!(contents(a).await, BTreeSet::from(["more".into(), "theirs".into()]));
    file.close().await.unwrap();
}

/// P1, P6: an edit outlives a deletion elsewhere that had not seen it; what was acknowledged was nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_an_open_file_outlives_a_deletion_elsewhere() {
    let all = Sites::new(2).await;
    let sites = all.bucket("deleted", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", "base").await;
    put(a, "y", "other").await;
    b.pull(a).await;
    let file = open(a, "x").await;
    for text in ["mine", "more"] {
        file.write_at(0, text.into()).await.unwrap();
        if text == "mine" {
            b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
            a.pull(b).await;
        }
        file.fsync().await.unwrap();
        a.check("fsync").await;
        sync(a, b).await;
        assert_eq!(contents(a).await, BTreeSet::from([text.into(), "other".into()]));
    }
    file.close().await.unwrap();
    // What is deleted here goes from under whoever has it open, as ever.
    let file = open(a, "y").await;
    file.write_at(0, "gone".into()).await.unwrap();
    a.bucket.delete("y", DeleteOptions::default()).await.unwrap();
    file.fsync().await.unwrap();
    sync(a, b).await;
    assert_eq!(contents(a).await, BTreeSet::from(["more".into()]));
    file.close().await.unwrap();
}

/// An edit that was seen, or was made here, is no conflict.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_file_has_seen_it_replaces() {
    let all = Sites::new(2).await;
    let sites = all.bucket("seen", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", "base").await;
    b.pull(a).await;
    let file = open(a, "x").await;
    put(b, "x", "theirs").await;
    a.pull(b).await;
    file.write_at(0, "mine!!".into()).await.unwrap();
    file.fsync().await.unwrap();
    file.write_at(0, "again!".into()).await.unwrap();
    put(a, "x", "by another door").await;
    file.fsync().await.unwrap();
    file.close().await.unwrap();
    sync(a, b).await;
    assert_eq!(contents(a).await, BTreeSet::from(["again!".into()]));
    assert!(a.conflicts().await.is_empty());
}
