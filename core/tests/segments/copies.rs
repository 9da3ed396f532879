//! Conflict copies as files, to those who name files by their nodes.

use crate::site::{Site, Sites, in_conflict};
use bytes::Bytes;
use tombolo_core::engine::fs::{Caller, FileAttributes, FileSystem, OpenFlags, RenameMode, SetAttributes};
use tombolo_core::*;

fn read() -> OpenFlags {
    OpenFlags { read: true, is_granted: true, ..OpenFlags::default() }
}

fn written() -> OpenFlags {
    OpenFlags { write: true, ..read() }
}

async fn copy_of(site: &Site) -> String {
    let found = site.conflicts().await;
    assert_eq!(found.len(), 1);
    String::from_utf8(found[0].key.clone().unwrap().to_vec()).unwrap()
}

async fn lookup(files: &FileSystem, name: &str) -> FileAttributes {
    files.lookup(&Caller::root(), &NodeId::ROOT, name.as_bytes()).await.unwrap()
}

async fn content(files: &FileSystem, node: &NodeId) -> Bytes {
    let file = files.open(&Caller::root(), node, read()).await.unwrap();
    file.read_at(0, 100).await.unwrap()
}

async fn shows(site: &Site) -> Vec<String> {
    site.check("a change of a copy").await;
    site.shows().await.into_values().collect()
}

/// Two edits of one file: the winner and the copy are two files, and a write to one is none to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_a_file_by_itself() {
    let all = Sites::new(2).await;
    let sites = in_conflict(&all, "copy", &BucketPolicy::default(), true).await;
    let (files, copy) = (sites[0].bucket.file_system(), copy_of(&sites[0]).await);
    let (winner, loser) = (lookup(&files, "x").await, lookup(&files, &copy).await);
    assert_ne!(winner.node, loser.node);
    assert_eq!((winner.links, loser.links), (1, 1));
    assert_eq!(lookup(&sites[1].bucket.file_system(), &copy).await.node, loser.node, "it is the same everywhere");
    let listed = files.read_directory(None, &NodeId::ROOT, None, 10, true).await.unwrap().entries;
    let nodes: Vec<_> = listed.iter().map(|entry| (entry.node, entry.attributes.as_ref().unwrap().node)).collect();
    assert_eq!(nodes, [(winner.node, winner.node), (loser.node, loser.node)]);
    assert_eq!((content(&files, &winner.node).await, content(&files, &loser.node).await), ("b".into(), "a".into()));
    let info = sites[0].bucket.stat(&copy).await.unwrap();
    assert_eq!((info.node, info.links), (loser.node, 1));

    let reader = files.open(&Caller::root(), &loser.node, read()).await.unwrap();
    let file = files.open(&Caller::root(), &loser.node, written()).await.unwrap();
    file.write_at(0, "mine".into()).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(reader.read_at(0, 10).await.unwrap(), "mine", "it is the same file as before");
    assert_eq!(lookup(&files, &copy).await.node, loser.node);
    for site in [&sites[0], &sites[1]] {
        sites[1].pull(&sites[0]).await;
        assert_eq!(shows(site).await, ["b", "mine"]);
        assert_eq!(site.conflicts().await, [], "a change of a copy decides");
    }
}

/// Everything that changes a file by its node changes the copy, and not the winner.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_changed_by_its_node() {
    let all = Sites::new(2).await;
    let root = Caller::root();
    for what in ["cut", "mode", "xattr", "link", "path mode", "path write", "tags", "rename", "unlink"] {
        let sites = in_conflict(&all, &what.replace(" ", "-"), &BucketPolicy::default(), true).await;
        let (site, copy) = (&sites[0], copy_of(&sites[0]).await);
        let files = site.bucket.file_system();
        let (winner, node) = (lookup(&files, "x").await, lookup(&files, &copy).await.node);
        let set = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
        let mut wanted = vec!["b", "a"];
        match what {
            "cut" => {
                let set = SetAttributes { size: Some(0), ..SetAttributes::default() };
                files.set_attributes(&root, &node, set, None).await.unwrap();
                wanted = vec!["b", ""];
            }
            "mode" => drop(files.set_attributes(&root, &node, set, None).await.unwrap()),
            "xattr" => files.set_xattr(&root, &node, "user.a", "1".into(), None).await.unwrap(),
            "link" => {
                let made = files.link(&root, &node, &NodeId::ROOT, b"y").await.unwrap();
                assert_eq!((made.attributes.node, made.attributes.links), (node, 2));
                wanted.push("a");
            }
            "path mode" => {
                let attributes = Attributes { mode: Some(0o600), ..Attributes::default() };
                site.bucket.set_attributes(&copy, attributes, None).await.unwrap();
            }
            "path write" => {
                let options = FileOptions { write: true, ..FileOptions::default() };
                let file = site.bucket.open_file(&copy, options).await.unwrap();
                file.write_at(0, "c".into()).await.unwrap();
                file.close().await.unwrap();
                wanted = vec!["b", "c"];
            }
            "tags" => {
                let tags = Tags::from([("a".to_owned(), "1".to_owned())]);
                site.bucket.set_tags(&copy, None, tags.clone()).await.unwrap();
                assert_eq!(site.bucket.stat(&copy).await.unwrap().tags, tags);
                assert_eq!(site.bucket.stat("x").await.unwrap().tags, Tags::new());
            }
            "rename" => {
                let to = (&NodeId::ROOT, &b"y"[..]);
                files.rename(&root, (&NodeId::ROOT, copy.as_bytes()), to, RenameMode::NoReplace).await.unwrap();
                assert_eq!(lookup(&files, "y").await.node, node);
            }
            _ => {
                let file = files.open(&root, &node, read()).await.unwrap();
                files.unlink(&root, &NodeId::ROOT, copy.as_bytes()).await.unwrap();
                assert_eq!(file.read_at(0, 10).await.unwrap(), "a", "open files stay readable");
                wanted.pop();
            }
        }
        assert_eq!(shows(site).await, wanted, "{what}");
        assert_eq!(site.conflicts().await, [], "{what}");
        let now = lookup(&files, "x").await;
        assert_eq!((now.node, now.mode, now.changed_ns), (winner.node, winner.mode, winner.changed_ns), "{what}");
        if what.ends_with("mode") {
            assert_eq!((lookup(&files, &copy).await.mode, lookup(&files, &copy).await.node), (0o600, node), "{what}");
        }
        sites[1].pull(site).await;
        assert_eq!(shows(&sites[1]).await, wanted, "{what}");
    }
}

/// What survived the deletion of its file has no name, and is a file all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_rescued_file_is_opened() {
    let all = Sites::new(2).await;
    let sites = all.bucket("rescued", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let attributes = Attributes { mode: Some(0o640), ..Attributes::default() };
    a.bucket.put("x", "one", PutOptions { attributes: Some(attributes), ..PutOptions::default() }).await.unwrap();
    b.pull(a).await;
    a.bucket.put("x", "two", PutOptions::default()).await.unwrap();
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.pull(b).await;
    let files = a.bucket.file_system();
    let there = lookup(&files, "x").await;
    assert_eq!((there.size, there.mode, content(&files, &there.node).await), (3, 0o640, "two".into()));
    let file = files.open(&Caller::root(), &there.node, written()).await.unwrap();
    file.append(", three".into()).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!((lookup(&files, "x").await.node, lookup(&files, "x").await.mode), (there.node, 0o640));
    b.pull(a).await;
    for site in [a, b] {
        assert_eq!(shows(site).await, ["two, three"]);
    }
}

/// Two segments write to the same copy at once: that is a conflict about the copy, in which both stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_written_on_both_sides() {
    let all = Sites::new(2).await;
    let sites = in_conflict(&all, "both", &BucketPolicy::default(), true).await;
    let copy = copy_of(&sites[0]).await;
    for (site, text) in sites.iter().zip(["here", "there"]) {
        let files = site.bucket.file_system();
        let file = files.open(&Caller::root(), &lookup(&files, &copy).await.node, written()).await.unwrap();
        file.write_at(0, text.into()).await.unwrap();
        file.fsync().await.unwrap();
    }
    sites[0].pull(&sites[1]).await;
    sites[1].pull(&sites[0]).await;
    let mut all = shows(&sites[0]).await;
    assert_eq!(all, shows(&sites[1]).await);
    all.sort();
    assert_eq!(all, ["b", "here", "there"]);
    assert_eq!(sites[0].conflicts().await.len(), 1);
}

/// A clone of a bucket has the copy, not a second name of the winner.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_has_copies() {
    let all = Sites::new(2).await;
    let sites = in_conflict(&all, "origin", &BucketPolicy::default(), true).await;
    let bucket = &sites[0].bucket;
    bucket.link("x", "y").await.unwrap();
    bucket.create_snapshot("s").await.unwrap();
    let to: BucketPath = "All/lab/clone".parse().unwrap();
    bucket.clone_to(&to, b"", Some("s")).await.unwrap();
    let clone = Site { bucket: bucket.segment().bucket(&to).await.unwrap() };
    let mut contents = shows(&clone).await;
    contents.sort();
    assert_eq!(contents, ["a", "a", "b", "b"]);
}
