//! A deletion keeps what it deletes, in case somebody gives the file another name meanwhile.

use crate::site::Sites;
use std::collections::BTreeMap;
use tombolo_core::*;

/// One file linked, or renamed, on one segment and deleted on another: whoever gave it the other name was told that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_or_rename_beats_a_concurrent_delete() {
    let all = Sites::new(2).await;
    for (versioning, name) in [(Versioning::Off, "off"), (Versioning::On, "on")] {
        for verb in ["link", "rename"] {
            let policy = BucketPolicy { versioning, ..BucketPolicy::default() };
            let sites = all.bucket(&format!("beats-{name}-{verb}"), 2, &policy).await;
            let (a, b) = (&sites[0], &sites[1]);
            a.bucket.put("x", "content", PutOptions::default()).await.unwrap();
            b.pull(a).await;
            let version = a.bucket.head("x", GetOptions::default()).await.unwrap().version;
            match verb {
                "link" => a.bucket.link("x", "y").await.unwrap(),
                _ => a.bucket.rename("x", "y").await.unwrap(),
            }
            b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
            b.check("the delete").await;
            a.pull(b).await;
            b.pull(a).await;
            for site in [a, b] {
                let shows = site.shows().await;
                assert_eq!(shows, BTreeMap::from([("y".into(), "content".into())]), "{name} {verb}");
                let info = site.bucket.head("y", GetOptions::default()).await.unwrap();
                assert_eq!((info.version, info.size), (version, 7));
            }
            // It is an ordinary file, and its next deletion holds.
            b.bucket.delete("y", DeleteOptions::default()).await.unwrap();
            b.check("the second delete").await;
            a.pull(b).await;
            assert_eq!((a.shows().await.len(), b.shows().await.len()), (0, 0), "{name} {verb}");
            assert_eq!(a.bucket.usage().await.unwrap().objects, 0);
        }
    }
}

/// A deletion keeps the chunks too.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_deleted_content_are_no_garbage() {
    let all = Sites::new(2).await;
    let sites = all.bucket("chunks", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let large: Vec<u8> = (0..2_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    a.bucket.put("x", large.clone(), PutOptions::default()).await.unwrap();
    b.pull(a).await;
    b.bucket.link("x", "y").await.unwrap();
    a.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.bucket.segment().gc().await.unwrap();
    a.pull(b).await;
    a.bucket.segment().gc().await.unwrap();
    let read = a.bucket.get("y", GetOptions::default()).await.unwrap().bytes(0..u64::MAX).await.unwrap();
    assert!(read == large);
}

/// What a deletion keeps counts as nothing: it is not shown, counted, wanted or brought back by anything but a name.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_content_does_not_come_back_by_itself() {
    let all = Sites::new(3).await;
    let sites = all.bucket("stays-away", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    a.bucket.put("x", vec![b'a'; 100_000], PutOptions::default()).await.unwrap();
    b.pull(a).await;
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.pull(b).await;
    let delta = b.bucket.changes_since(&c.bucket.vector().await.unwrap()).await.unwrap();
    c.bucket.keep_data(true).await.unwrap();
    c.bucket.apply(&delta).await.unwrap();
    assert_eq!(c.bucket.wanted(None, 10).await.unwrap(), []);
    for site in &sites {
        assert_eq!(site.shows().await.len(), 0);
        assert_eq!(site.bucket.usage().await.unwrap().objects, 0);
    }
    // An edit that nobody had seen survives; what it was made of does not show beside it.
    a.bucket.put("y", "one", PutOptions::default()).await.unwrap();
    b.pull(a).await;
    a.bucket.put("y", "two", PutOptions::default()).await.unwrap();
    b.bucket.delete("y", DeleteOptions::default()).await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    assert_eq!(a.shows().await, BTreeMap::from([("y".into(), "two".into())]));
    assert_eq!(b.shows().await, a.shows().await);
}

/// A third segment that hears of the deletion first, and of the other name later, has to fetch the content then.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_content_is_wanted_when_it_shows() {
    let all = Sites::new(3).await;
    let sites = all.bucket("revived", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    a.bucket.put("x", vec![b'a'; 100_000], PutOptions::default()).await.unwrap();
    b.pull(a).await;
    a.bucket.link("x", "y").await.unwrap();
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    c.bucket.keep_data(true).await.unwrap();
    for (from, paths) in [(b, &[][..]), (a, &[&b"y"[..]][..])] {
        let delta = from.bucket.changes_since(&c.bucket.vector().await.unwrap()).await.unwrap();
        c.bucket.apply(&delta).await.unwrap();
        let wanted = c.bucket.wanted(None, 10).await.unwrap();
        assert_eq!(wanted.iter().map(|w| w.path.clone().unwrap()).collect::<Vec<_>>(), paths);
    }
}

/// Who renames a file keeps it, with all that was made of it: the content that was written last shows, though whoever wrote it has deleted it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_outlives_an_edit_and_a_deletion() {
    let all = Sites::new(2).await;
    let sites = all.bucket("renamed", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    a.bucket.put("x", "one", PutOptions::default()).await.unwrap();
    b.pull(a).await;
    a.bucket.put("x", "two", PutOptions::default()).await.unwrap();
    a.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    b.bucket.rename("x", "y").await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    for site in [a, b] {
        assert_eq!(site.shows().await.into_iter().collect::<Vec<_>>(), [("y".to_owned(), "two".to_owned())]);
    }
}
