//! Files that are open here while another segment changes them.

use crate::forgetting::{drop_all, tell};
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

/// A file that was rescued became another one as soon as somebody gave it a name, opened it or wrote to it by its key: whoever had it open since before went on writing to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_file_stays_the_one_that_is_open() {
    let all = Sites::new(2).await;
    for what in ["nothing", "rename", "link", "mode", "tags", "open", "put", "resolve", "rename elsewhere"] {
        let sites = all.bucket(&format!("named-{}", what.replace(' ', "-")), 2, &BucketPolicy::default()).await;
        let (a, b) = (&sites[0], &sites[1]);
        put(a, "x", "base").await;
        b.pull(a).await;
        let file = open(a, "x").await;
        file.write_at(0, "mine".into()).await.unwrap();
        b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
        a.pull(b).await;
        file.fsync().await.unwrap();
        assert_eq!(a.bucket.stat("x").await.unwrap().node, file.node(), "{what}");
        assert_eq!(file.attributes().await.unwrap().links, 1, "{what}");
        match what {
            "nothing" => {}
            "rename" => a.bucket.rename("x", "y").await.unwrap(),
            "link" => a.bucket.link("x", "y").await.unwrap(),
            "mode" => {
                let attributes = Attributes { mode: Some(0o600), ..Attributes::default() };
                a.bucket.set_attributes("x", attributes, None).await.unwrap();
            }
            "tags" => {
                let tags = Tags::from([("a".to_owned(), "1".to_owned())]);
                a.bucket.set_tags("x", None, tags).await.unwrap();
            }
            "open" => {
                let other = open(a, "x").await;
                assert_eq!(other.node(), file.node());
                other.write_at(4, "!".into()).await.unwrap();
                other.close().await.unwrap();
            }
            "put" => put(a, "x", "other").await,
            "resolve" => a.bucket.resolve("x", Resolution::KeepBoth).await.unwrap(),
            _ => {
                sync(a, b).await;
                b.bucket.rename("x", "y").await.unwrap();
                b.check(what).await;
                a.pull(b).await;
            }
        }
        a.check(what).await;
        file.write_at(0, "more".into()).await.unwrap();
        file.fsync().await.unwrap();
        a.check("fsync").await;
        sync(a, b).await;
        let (names, contents): (Vec<_>, BTreeSet<_>) = a.shows().await.into_iter().unzip();
        let expected: &[&str] = match what {
            "rename" | "rename elsewhere" => &["y"],
            "link" => &["x", "y"],
            _ => &["x"],
        };
        assert_eq!(names, expected, "{what}");
        let expected = match what {
            "open" => "more!",
            "put" => "morer",
            _ => "more",
        };
        assert_eq!(contents, BTreeSet::from([expected.to_owned()]), "{what}");
        assert_eq!(a.conflicts().await.len(), usize::from(what == "nothing"), "{what}");
        assert_eq!(a.bucket.stat(names[0].as_str()).await.unwrap().node, file.node(), "{what}");
        file.close().await.unwrap();
    }
}

/// Once the deletion was dropped here, because everybody had it, the save took it for one that was made here: what was written was lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_an_open_file_outlives_a_deletion_that_is_forgotten() {
    let all = Sites::new(2).await;
    let sites = all.bucket("forgotten", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let attributes = Attributes { mode: Some(0o640), ..Attributes::default() };
    let options = PutOptions { attributes: Some(attributes), ..PutOptions::default() };
    a.bucket.put("x", "base", options).await.unwrap();
    put(a, "y", "other").await;
    sync(a, b).await;
    tell(a, b).await;
    let (file, gone) = (open(a, "x").await, open(a, "y").await);
    file.write_at(0, "mine".into()).await.unwrap();
    gone.write_at(0, "gone".into()).await.unwrap();
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.bucket.delete("y", DeleteOptions::default()).await.unwrap();
    sync(a, b).await;
    tell(a, b).await;
    assert!(drop_all(a).await > 0 && drop_all(b).await > 0);
    file.fsync().await.unwrap();
    // What was deleted here is gone all the same.
    gone.fsync().await.unwrap();
    a.check("fsync").await;
    sync(a, b).await;
    for site in [a, b] {
        assert_eq!(contents(site).await, BTreeSet::from(["mine".into()]));
        assert_eq!(site.bucket.stat("x").await.unwrap().attributes.mode, Some(0o640));
    }
    file.close().await.unwrap();
    gone.close().await.unwrap();
}

/// The same where this segment was away for so long that it never heard of the deletion, and found by comparing that the file is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_an_open_file_outlives_a_deletion_that_was_never_heard_of() {
    let all = Sites::new(2).await;
    let sites = all.bucket("never-heard", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let attributes = Attributes { mode: Some(0o640), ..Attributes::default() };
    let options = PutOptions { attributes: Some(attributes), ..PutOptions::default() };
    a.bucket.put("x", "base", options).await.unwrap();
    put(a, "stays", "stays").await;
    sync(a, b).await;
    tell(a, b).await;
    let file = open(a, "x").await;
    file.write_at(0, "mine".into()).await.unwrap();
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    b.bucket.forget_carrier(&a.bucket.segment().id()).await.unwrap();
    assert!(drop_all(b).await > 0);
    sync(a, b).await;
    assert!(!a.bucket.is_comparing().await.unwrap());
    assert_eq!(contents(a).await, BTreeSet::from(["stays".into()]));
    file.fsync().await.unwrap();
    a.check("fsync").await;
    sync(a, b).await;
    for site in [a, b] {
        assert_eq!(contents(site).await, BTreeSet::from(["mine".into(), "stays".into()]));
        assert_eq!(site.bucket.stat("x").await.unwrap().attributes.mode, Some(0o640));
    }
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
