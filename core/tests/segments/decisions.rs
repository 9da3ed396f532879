//! Deciding conflicts, and directories that are in one.

use crate::site::{Sites, in_conflict};
use std::collections::BTreeMap;
use tombolo_core::*;

/// What is decided on one segment is decided on the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_resolved_for_all() {
    let all = Sites::new(2).await;
    for conflicts in [ConflictPolicy::KeepBoth, ConflictPolicy::LastWriterWins] {
        for edits in [false, true] {
            for resolution in [Resolution::KeepMine, Resolution::TakeTheirs, Resolution::KeepBoth] {
                let policy = BucketPolicy { conflicts, ..BucketPolicy::default() };
                let name = format!("resolve-{}-{}-{}", conflicts as u8, u8::from(edits), resolution as u8);
                let sites = in_conflict(&all, &name, &policy, edits).await;
                let found = sites[0].conflicts().await;
                assert_eq!(found.len(), 1, "{name}");
                assert_eq!((found[0].kind, &found[0].of[..]), (ConflictKind::File, &b"x"[..]), "{name}");
                assert_eq!(found[0].segment, sites[0].bucket.segment().id(), "{name}");
                assert_eq!(found[0].key.is_some(), conflicts == ConflictPolicy::KeepBoth, "{name}");
                let key = found[0].key.clone().unwrap_or_else(|| found[0].of.clone());
                sites[0].bucket.resolve(&key, resolution).await.unwrap();
                sites[0].check(&name).await;
                sites[1].pull(&sites[0]).await;
                for site in &sites {
                    let shows = site.shows().await;
                    let contents: Vec<_> = shows.values().map(String::as_str).collect();
                    let wanted: &[&str] = match resolution {
                        Resolution::KeepMine => &["b"],
                        Resolution::TakeTheirs => &["a"],
                        Resolution::KeepBoth => &["b", "a"],
                    };
                    assert_eq!(contents, wanted, "{name} {shows:?}");
                    assert_eq!(shows["x"], wanted[0], "{name}");
                    assert_eq!(site.conflicts().await, [], "{name}");
                    let again = site.bucket.resolve("x", resolution).await.unwrap_err();
                    assert_eq!(again.kind(), ErrorKind::NotFound, "{name}");
                }
                // The copy is a file like others, which no edit of the other touches.
                if resolution == Resolution::KeepBoth {
                    sites[1].bucket.delete("x", DeleteOptions::default()).await.unwrap();
                    sites[0].pull(&sites[1]).await;
                    assert_eq!(sites[0].shows().await.into_values().collect::<Vec<_>>(), ["a"], "{name}");
                }
            }
        }
    }
}

/// An edit that survived the deletion of its file is called rescued until somebody says that it stays, or goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_file_is_resolved() {
    let all = Sites::new(2).await;
    for resolution in [Resolution::KeepMine, Resolution::TakeTheirs, Resolution::KeepBoth] {
        let sites = all.bucket(&format!("rescued-{}", resolution as u8), 2, &BucketPolicy::default()).await;
        let (a, b) = (&sites[0], &sites[1]);
        a.bucket.put("d/x", "one", PutOptions::default()).await.unwrap();
        b.pull(a).await;
        a.bucket.put("d/x", "two", PutOptions::default()).await.unwrap();
        b.bucket.delete("d/x", DeleteOptions::default()).await.unwrap();
        a.pull(b).await;
        let found = a.conflicts().await;
        assert_eq!((found[0].kind, found[0].key.as_deref()), (ConflictKind::Rescued, Some(&b"d/x"[..])));
        a.bucket.resolve("d/x", resolution).await.unwrap();
        a.check("the decision").await;
        b.pull(a).await;
        for site in [a, b] {
            let wanted = usize::from(resolution != Resolution::KeepMine);
            assert_eq!(site.shows().await.len(), wanted, "{resolution:?}");
            assert_eq!(site.conflicts().await, [], "{resolution:?}");
        }
    }
}

/// Directories that lost their name work as others do, and one can be told to keep the name it shows under.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_under_a_derived_name_is_a_directory() {
    let all = Sites::new(2).await;
    for what in ["keep", "rmdir", "empty", "move", "mkdir"] {
        let sites = all.bucket(&format!("derived-{what}"), 2, &BucketPolicy::default()).await;
        let (a, b) = (&sites[0], &sites[1]);
        for path in ["p/", "q/"] {
            a.bucket.put(format!("{path}file"), path, PutOptions::default()).await.unwrap();
        }
        b.pull(a).await;
        a.bucket.rename("p", "d").await.unwrap();
        b.writes_after(a).await;
        b.bucket.rename("q", "d").await.unwrap();
        a.pull(b).await;
        b.pull(a).await;
        let found = a.conflicts().await;
        assert_eq!((found.len(), found[0].kind, &found[0].of[..]), (1, ConflictKind::DirectoryName, &b"d/"[..]));
        let key = String::from_utf8(found[0].key.clone().unwrap().to_vec()).unwrap();
        let stat = a.bucket.stat(&key).await.unwrap();
        let files = a.bucket.file_system();
        assert_eq!(files.attributes(&stat.node).await.unwrap().node, stat.node);
        assert_eq!(files.parent(&stat.node).await.unwrap(), NodeId::ROOT);
        let mut left = BTreeMap::from([("d/file".to_string(), "q/".to_string()), (format!("{key}file"), "p/".into())]);
        match what {
            "keep" => {
                let refused = a.bucket.resolve(&key, Resolution::TakeTheirs).await.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Invalid);
                a.bucket.resolve(&key, Resolution::KeepBoth).await.unwrap();
            }
            "rmdir" => {
                a.bucket.mkdir(format!("{key}e"), Attributes::default()).await.unwrap();
                a.bucket.rename(format!("{key}file"), "moved").await.unwrap();
                a.bucket.rmdir(format!("{key}e")).await.unwrap();
                drop(a.bucket.rmdir(&key).await);
                left.remove(&format!("{key}file"));
                left.insert("moved".into(), "p/".into());
            }
            "empty" => {
                a.bucket.delete(format!("{key}file"), DeleteOptions::default()).await.unwrap();
                left.remove(&format!("{key}file"));
            }
            "move" => {
                a.bucket.rename(&key, "e").await.unwrap();
                left.remove(&format!("{key}file"));
                left.insert("e/file".into(), "p/".into());
            }
            _ => {
                a.bucket.put(&key, "", PutOptions::default()).await.unwrap();
                // Its entry is now the one that was written last, which has the name.
                let other = a.conflicts().await[0].key.clone().unwrap();
                left = BTreeMap::from([
                    ("d/".to_string(), String::new()),
                    ("d/file".into(), "p/".into()),
                    (format!("{}file", String::from_utf8_lossy(&other)), "q/".into()),
                ]);
            }
        }
        a.check(what).await;
        b.pull(a).await;
        for site in [a, b] {
            assert_eq!(site.shows().await, left, "{what}");
            assert_eq!(site.conflicts().await.len(), usize::from(what == "mkdir"), "{what}");
        }
    }
}

/// A directory whose entry names one that lives elsewhere is not made of that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_made_of_one_that_lives_elsewhere() {
    let all = Sites::new(2).await;
    let sites = all.bucket("elsewhere", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    a.bucket.put("p/one", "1", PutOptions::default()).await.unwrap();
    b.pull(a).await;
    // The entry p/ survives by the write that nobody saw, the home is what says.
    a.bucket.rename("p", "q").await.unwrap();
    b.bucket.put("p/", "", PutOptions::default()).await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    for (site, key) in [(a, "p/two"), (b, "p/three")] {
        site.bucket.put(key, key, PutOptions::default()).await.unwrap();
        site.check(key).await;
    }
    a.pull(b).await;
    b.pull(a).await;
    for site in [a, b] {
        let shows = site.shows().await;
        assert_eq!(shows.get("p/two").map(String::as_str), Some("p/two"), "{shows:?}");
        assert_eq!(shows.get("p/three").map(String::as_str), Some("p/three"), "{shows:?}");
        assert_eq!(shows.get("q/one").map(String::as_str), Some("1"), "{shows:?}");
        assert!(!shows.contains_key("q/two"), "{shows:?}");
    }
}
