//! P4, P1: files and directories by node: what POSIX says of each operation, who may do it, and what other doors see of it.

#![expect(clippy::unwrap_used, reason = "a test says what failed by failing")]

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tombolo_core::engine::fs::{
    Access, AllocateMode, Caller, CreateMode, FileAttributes, FileSystem, OpenFlags, ROOT, RenameMode, RowChange,
    SetAttributes, SetTime,
};
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, CreateOptions, DeleteOptions, Error, FileType, GetOptions, ListItem, ListOptions,
    NodeId, OpenOptions, PutOptions, Segment, Versioning,
};

const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const ENOTEMPTY: i32 = 39;
const ENODATA: i32 = 61;
const ESTALE: i32 = 116;

struct Site {
    segment: Segment,
    bucket: Bucket,
    files: FileSystem,
    dir: tempfile::TempDir,
}

async fn site_with(policy: BucketPolicy) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "newyork".into(), cluster: "NewYork".into() };
    let segment = Segment::create(dir.path().join("segment"), create, OpenOptions::default()).await.unwrap();
    let path: BucketPath = "NewYork/lab/results".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, policy).await.unwrap();
    let files = bucket.file_system();
    Site { segment, bucket, files, dir }
}

async fn site() -> Site {
    site_with(BucketPolicy::default()).await
}

fn root() -> Caller {
    Caller::root()
}

fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Vec::new() }
}

fn mode(mode: u32) -> SetAttributes {
    SetAttributes { mode: Some(mode), ..SetAttributes::default() }
}

fn errno<T>(result: Result<T, Error>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.errno(),
    }
}

impl Site {
    async fn file(&self, directory: &NodeId, name: &str) -> FileAttributes {
        let made = self.files.create(&root(), directory, name.as_bytes(), CreateMode::Guarded, mode(0o644)).await;
        made.unwrap().attributes
    }

    async fn directory(&self, parent: &NodeId, name: &str, bits: u32) -> FileAttributes {
        self.files.make_directory(&root(), parent, name.as_bytes(), mode(bits)).await.unwrap().attributes
    }

    async fn look(&self, directory: &NodeId, name: &str) -> Result<FileAttributes, Error> {
        self.files.lookup(&root(), directory, name.as_bytes()).await
    }

    async fn names(&self, directory: &NodeId) -> Vec<String> {
        let mut names = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.files.read_directory(None, directory, after.as_deref(), 3, true).await.unwrap();
            for entry in &page.entries {
                assert_eq!(entry.attributes.as_ref().unwrap().node, entry.node);
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
            }
            if page.is_end {
                return names;
            }
            after = page.entries.last().map(|entry| entry.position.clone());
        }
    }

    async fn keys(&self) -> Vec<String> {
        let page = self.bucket.list(ListOptions { limit: 1000, ..ListOptions::default() }).await.unwrap();
        let keys = page.items.iter().map(|item| match item {
            ListItem::Object(object) => String::from_utf8_lossy(&object.key).into_owned(),
            ListItem::Prefix(prefix) => String::from_utf8_lossy(prefix).into_owned(),
        });
        keys.collect()
    }

    async fn reopen(self) -> Site {
        let Site { segment, bucket, files, dir } = self;
        segment.close().await.unwrap();
        drop((segment, bucket, files));
        let segment = Segment::open(dir.path().join("segment"), OpenOptions::default()).await.unwrap();
        let path: BucketPath = "NewYork/lab/results".parse().unwrap();
        let bucket = segment.bucket(&path).await.unwrap();
        let files = bucket.file_system();
        Site { segment, bucket, files, dir }
    }
}

#[tokio::test]
async fn what_is_made_is_found_and_outlives_a_restart() {
    let site = site().await;
    let d = site.directory(&ROOT, "d", 0o750).await;
    let f = site.file(&d.node, "f").await;
    let link =
        site.files.make_symlink(&root(), &d.node, b"l", b"f", SetAttributes::default()).await.unwrap().attributes;
    let fifo =
        site.files.make_special(&root(), &d.node, b"p", FileType::Fifo, 0, mode(0o600)).await.unwrap().attributes;
    let device = site.files.make_special(&root(), &d.node, b"c", FileType::CharDevice, 0x0103, mode(0o600)).await;
    let device = device.unwrap().attributes;
    let d = site.look(&ROOT, "d").await.unwrap();
    let site = site.reopen().await;
    assert_eq!(site.look(&ROOT, "d").await.unwrap(), d);
    for (name, made) in [("f", &f), ("l", &link), ("p", &fifo), ("c", &device)] {
        assert_eq!(site.look(&d.node, name).await.unwrap(), *made, "{name}");
    }
    assert_eq!((d.mode, d.links, d.file_type), (0o750, 2, FileType::Directory));
    assert_eq!((link.size, link.mode, link.file_type), (1, 0o777, FileType::Symlink));
    assert_eq!(device.rdev, 0x0103);
    assert_eq!(site.files.read_link(&link.node).await.unwrap(), "f");
    assert_eq!(errno(site.files.read_link(&f.node).await), EINVAL);
    assert_eq!(site.files.lookup(&root(), &d.node, b"..").await.unwrap().node, ROOT);
    assert_eq!(site.files.lookup(&root(), &ROOT, b"..").await.unwrap().node, ROOT);
    assert_eq!(site.names(&d.node).await, ["c", "f", "l", "p"]);
}

#[tokio::test]
async fn errors_are_those_of_posix() {
    let site = site().await;
    let d = site.directory(&ROOT, "d", 0o755).await.node;
    let f = site.file(&ROOT, "f").await.node;
    let long = "x".repeat(256);
    let make = |name: &'static [u8], how| site.files.create(&CALLER, &ROOT, name, how, SetAttributes::default());
    static CALLER: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };
    assert_eq!(errno(site.look(&ROOT, "none").await), ENOENT);
    assert_eq!(errno(site.look(&f, "x").await), ENOTDIR);
    assert_eq!(errno(site.look(&ROOT, &long).await), ENAMETOOLONG);
    assert_eq!(errno(make(b"f", CreateMode::Guarded).await), EEXIST);
    assert_eq!(errno(make(b"d", CreateMode::Unchecked).await), EEXIST);
    assert_eq!(errno(make(b"..", CreateMode::Guarded).await), EEXIST);
    assert_eq!(errno(make(b"x%~", CreateMode::Guarded).await), EINVAL);
    assert_eq!(errno(site.files.unlink(&CALLER, &ROOT, b"d").await), EISDIR);
    assert_eq!(errno(site.files.remove_directory(&CALLER, &ROOT, b"f").await), ENOTDIR);
    site.file(&d, "in").await;
    assert_eq!(errno(site.files.remove_directory(&CALLER, &ROOT, b"d").await), ENOTEMPTY);
    assert_eq!(errno(site.files.remove_directory(&CALLER, &ROOT, b".").await), EINVAL);
    assert_eq!(errno(site.files.link(&CALLER, &d, &ROOT, b"hard").await), EPERM);
    assert_eq!(errno(site.files.link(&CALLER, &f, &ROOT, b"d").await), EEXIST);
    let rename =
        |from: &'static [u8], to: &'static [u8], how| site.files.rename(&CALLER, (&ROOT, from), (&ROOT, to), how);
    assert_eq!(errno(rename(b"f", b"d", RenameMode::Replace).await), EISDIR);
    assert_eq!(errno(rename(b"d", b"f", RenameMode::Replace).await), ENOTDIR);
    assert_eq!(errno(rename(b"f", b"d", RenameMode::NoReplace).await), EEXIST);
    assert_eq!(errno(rename(b"f", b"none", RenameMode::Exchange).await), ENOENT);
    assert_eq!(errno(rename(b"none", b"f", RenameMode::Replace).await), ENOENT);
    assert_eq!(errno(site.files.rename(&CALLER, (&ROOT, b"d"), (&d, b"below"), RenameMode::Replace).await), EINVAL);
    site.files.unlink(&CALLER, &ROOT, b"f").await.unwrap();
    assert_eq!(errno(site.files.attributes(&f).await), ESTALE);
    let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
    assert_eq!(errno(site.files.set_attributes(&CALLER, &d, cut, None).await), EISDIR);
}

#[tokio::test]
async fn modes_sticky_bits_and_groups_decide_who_may_what() {
    let site = site().await;
    let open = site.directory(&ROOT, "open", 0o777).await.node;
    let sticky = site.directory(&ROOT, "sticky", 0o1777).await.node;
    let closed = site.directory(&ROOT, "closed", 0o700).await.node;
    let (ann, bob) = (user(1), user(2));
    let make = async |who: &Caller, directory: &NodeId, name: &str| {
        site.files.create(who, directory, name.as_bytes(), CreateMode::Guarded, mode(0o640)).await
    };
    let a = make(&ann, &open, "a").await.unwrap().attributes;
    assert_eq!((a.uid, a.gid, a.mode), (1, 1, 0o640));
    assert_eq!(errno(make(&ann, &ROOT, "a").await), EACCES);
    assert_eq!(errno(make(&ann, &closed, "a").await), EACCES);
    assert_eq!(errno(site.files.lookup(&ann, &closed, b"a").await), EACCES);
    let read = OpenFlags { read: true, ..OpenFlags::default() };
    assert_eq!(errno(site.files.open(&bob, &a.node, read).await), EACCES);
    assert_eq!(errno(site.files.open(&Caller { groups: vec![1], ..bob.clone() }, &a.node, read).await), 0);
    let of_group = Caller { groups: vec![1], ..bob.clone() };
    let may = async |wanted| site.files.may(&of_group, &a.node, wanted).await.unwrap();
    let none = Access { read: false, write: false, execute: false };
    assert!(may(Access { read: true, ..none }).await);
    assert!(!may(Access { write: true, ..none }).await);
    assert!(!may(Access { execute: true, ..none }).await);
    // Who owns what.
    assert_eq!(errno(site.files.set_attributes(&bob, &a.node, mode(0o777), None).await), EPERM);
    let give = SetAttributes { uid: Some(2), ..SetAttributes::default() };
    assert_eq!(errno(site.files.set_attributes(&ann, &a.node, give, None).await), EPERM);
    let regroup = SetAttributes { gid: Some(9), ..SetAttributes::default() };
    assert_eq!(errno(site.files.set_attributes(&ann, &a.node, regroup, None).await), EPERM);
    let in_nine = Caller { groups: vec![9], ..ann.clone() };
    assert_eq!(site.files.set_attributes(&in_nine, &a.node, regroup, None).await.unwrap().after.gid, 9);
    let now = SetAttributes { modified: SetTime::Now, ..SetAttributes::default() };
    assert_eq!(errno(site.files.set_attributes(&bob, &a.node, now, None).await), EACCES);
    let then = SetAttributes { modified: SetTime::To(5), ..SetAttributes::default() };
    assert_eq!(errno(site.files.set_attributes(&bob, &a.node, then, None).await), EPERM);
    // Others' entries in an open and in a sticky directory.
    make(&ann, &sticky, "a").await.unwrap();
    assert_eq!(errno(site.files.unlink(&bob, &sticky, b"a").await), EPERM);
    let moved = site.files.rename(&bob, (&sticky, b"a"), (&open, b"b"), RenameMode::Replace).await;
    assert_eq!(errno(moved), EPERM);
    assert_eq!(errno(site.files.unlink(&bob, &open, b"a").await), 0);
    assert_eq!(errno(site.files.unlink(&ann, &sticky, b"a").await), 0);
    // Set-id bits.
    let shared = site.directory(&ROOT, "shared", 0o2777).await;
    let to_nine = SetAttributes { gid: Some(9), ..SetAttributes::default() };
    site.files.set_attributes(&root(), &shared.node, to_nine, None).await.unwrap();
    let below = site.files.make_directory(&ann, &shared.node, b"below", mode(0o755)).await.unwrap().attributes;
    assert_eq!((below.gid, below.mode), (9, 0o2755));
    let tool = site.files.create(&ann, &open, b"tool", CreateMode::Guarded, mode(0o6755)).await.unwrap().attributes;
    assert_eq!(tool.mode, 0o6755);
    let write = OpenFlags { write: true, ..OpenFlags::default() };
    let file = site.files.open(&ann, &tool.node, write).await.unwrap();
    file.write_at(0, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(site.files.attributes(&tool.node).await.unwrap().mode, 0o755);
    let set = site.files.set_attributes(&ann, &tool.node, mode(0o4755), None).await.unwrap();
    assert_eq!(set.after.mode, 0o4755);
    file.write_at(0, Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(site.files.attributes(&tool.node).await.unwrap().mode, 0o755);
    assert_eq!(errno(site.files.make_special(&ann, &open, b"dev", FileType::BlockDevice, 1, mode(0o600)).await), EPERM);
}

#[tokio::test]
async fn an_exclusive_create_said_twice_is_one() {
    let site = site().await;
    let create = |verifier| site.files.create(&CALLER, &ROOT, b"lock", CreateMode::Exclusive(verifier), mode(0o600));
    static CALLER: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };
    let first = create([1; 8]).await.unwrap();
    let again = create([1; 8]).await.unwrap();
    assert!(first.is_new && !again.is_new);
    assert_eq!(first.attributes.node, again.attributes.node);
    assert_eq!(errno(create([2; 8]).await), EEXIST);
    assert!(site.files.list_xattrs(&CALLER, &first.attributes.node).await.unwrap().is_empty());
}

#[tokio::test]
async fn names_links_and_renames_keep_the_node() {
    let site = site().await;
    let d = site.directory(&ROOT, "d", 0o755).await.node;
    let f = site.file(&ROOT, "f").await;
    let two = site.files.link(&root(), &f.node, &d, b"g").await.unwrap().attributes;
    assert_eq!((two.links, two.node), (2, f.node));
    assert!(two.changed_ns > f.changed_ns, "a new name is a change");
    // Two names of one file: a rename of one over the other does nothing.
    site.files.rename(&root(), (&ROOT, b"f"), (&d, b"g"), RenameMode::Replace).await.unwrap();
    assert_eq!(site.look(&ROOT, "f").await.unwrap().links, 2);
    site.files.unlink(&root(), &ROOT, b"f").await.unwrap();
    let one = site.look(&d, "g").await.unwrap();
    assert_eq!((one.links, one.node), (1, f.node));
    assert!(one.changed_ns > two.changed_ns);
    site.files.rename(&root(), (&d, b"g"), (&ROOT, b"h"), RenameMode::NoReplace).await.unwrap();
    assert_eq!(site.look(&ROOT, "h").await.unwrap().node, f.node);
    // A directory with all that is in it, over an empty one.
    let deep = site.file(&d, "deep").await.node;
    site.directory(&ROOT, "e", 0o755).await;
    site.files.rename(&root(), (&ROOT, b"d"), (&ROOT, b"e"), RenameMode::Replace).await.unwrap();
    assert_eq!(site.look(&ROOT, "e").await.unwrap().node, d);
    assert_eq!(site.look(&d, "deep").await.unwrap().node, deep);
    // A file and a directory change places.
    site.files.rename(&root(), (&ROOT, b"e"), (&ROOT, b"h"), RenameMode::Exchange).await.unwrap();
    assert_eq!(site.look(&ROOT, "h").await.unwrap().node, d);
    assert_eq!(site.look(&ROOT, "e").await.unwrap().node, f.node);
    assert_eq!(site.names(&ROOT).await, ["e", "h"]);
    assert_eq!(site.keys().await, ["e", "h/", "h/deep"]);
}

#[tokio::test]
async fn times_move_with_every_change_and_can_be_set() {
    let site = site().await;
    let d = site.directory(&ROOT, "d", 0o755).await;
    let mut last = d.changed_ns;
    for name in ["a", "b", "c"] {
        let made =
            site.files.create(&root(), &d.node, name.as_bytes(), CreateMode::Guarded, mode(0o644)).await.unwrap();
        let after = made.directory.after;
        assert!(after.changed_ns > last && after.modified_ns == after.changed_ns);
        assert_eq!(made.directory.before.unwrap().changed_ns, last);
        last = after.changed_ns;
        assert_eq!(site.files.attributes(&d.node).await.unwrap(), after);
    }
    let set =
        SetAttributes { accessed: SetTime::To(-7), modified: SetTime::To(1_000_000_001), ..SetAttributes::default() };
    for node in [d.node, site.look(&d.node, "a").await.unwrap().node] {
        let change = site.files.set_attributes(&root(), &node, set, None).await.unwrap();
        assert_eq!((change.after.accessed_ns, change.after.modified_ns), (-7, 1_000_000_001));
        assert!(change.after.changed_ns > change.before.unwrap().changed_ns);
        // The mode does not touch times but the change time.
        let change = site.files.set_attributes(&root(), &node, mode(0o700), None).await.unwrap();
        assert_eq!((change.after.accessed_ns, change.after.modified_ns), (-7, 1_000_000_001));
        let stale = Some(change.before.unwrap().changed_ns);
        assert!(site.files.set_attributes(&root(), &node, mode(0o711), stale).await.is_err());
    }
    site.file(&d.node, "z").await;
    assert!(site.files.attributes(&d.node).await.unwrap().modified_ns > last, "entries changed since it was set");
    let site = site.reopen().await;
    assert_eq!(site.look(&d.node, "a").await.unwrap().modified_ns, 1_000_000_001);
}

#[tokio::test]
async fn what_s3_wrote_is_a_file_and_the_other_way_round() {
    let mut policy = BucketPolicy::default();
    for (key, value) in [("uid", "7"), ("gid", "8"), ("file-mode", "640"), ("directory-mode", "2770")] {
        policy.set(key, value).unwrap();
    }
    let site = site_with(policy).await;
    let mut put = PutOptions::default();
    put.metadata.user.insert("colour".into(), "red".into());
    site.bucket.put("x/y/object", "content", put).await.unwrap();
    let x = site.look(&ROOT, "x").await.unwrap();
    assert_eq!((x.uid, x.gid, x.mode), (7, 8, 0o2770));
    let y = site.look(&x.node, "y").await.unwrap();
    let object = site.look(&y.node, "object").await.unwrap();
    assert_eq!((object.uid, object.gid, object.mode, object.size), (7, 8, 0o640, 7));
    assert_eq!(site.files.xattr(&root(), &object.node, "user.object.meta.colour").await.unwrap(), "red");
    assert_eq!(site.files.list_xattrs(&root(), &object.node).await.unwrap(), ["user.object.meta.colour"]);
    // A directory that only a key implied stays when its last file is removed as a file, and goes with the key.
    site.files.unlink(&root(), &y.node, b"object").await.unwrap();
    assert_eq!(site.keys().await, ["x/y/"]);
    site.files.remove_directory(&root(), &x.node, b"y").await.unwrap();
    assert_eq!(site.names(&ROOT).await, ["x"]);
    site.bucket.put("k/only", "1", PutOptions::default()).await.unwrap();
    site.bucket.delete("k/only", Default::default()).await.unwrap();
    assert_eq!(site.names(&ROOT).await, ["x"]);
    let made = site.file(&ROOT, "empty").await;
    let info = site.bucket.head("empty", GetOptions::default()).await.unwrap();
    assert_eq!((info.size, info.node), (0, made.node));
    assert_eq!(info.etag.to_string(), "d41d8cd98f00b204e9800998ecf8427e");
}

#[tokio::test]
async fn keys_that_posix_cannot_name_are_shown_escaped() {
    let site = site().await;
    for key in ["a", "a/b", "a.txt", "s//t", "./dot", "x%~", "n\0ul"] {
        site.bucket.put(key, key, PutOptions::default()).await.unwrap();
    }
    let long = "l".repeat(300);
    site.bucket.put(&long, "long", PutOptions::default()).await.unwrap();
    let names = site.names(&ROOT).await;
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert_eq!(names.len(), 8);
    for name in ["a", "a%~", "a.txt", "%~.", "%~x%25%7E", "%~n%00ul", "s"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    for name in &names {
        assert!(name.len() <= 255);
        site.look(&ROOT, name).await.unwrap();
    }
    assert_eq!(site.look(&ROOT, "a").await.unwrap().file_type, FileType::Directory);
    assert_eq!(site.look(&ROOT, "a%~").await.unwrap().file_type, FileType::Regular);
    let s = site.look(&ROOT, "s").await.unwrap().node;
    assert_eq!(site.names(&s).await, ["%~"]);
    let shown = names.iter().find(|name| name.starts_with("%~l")).unwrap();
    site.files.unlink(&root(), &ROOT, shown.as_bytes()).await.unwrap();
    assert!(!site.keys().await.contains(&long));
}

#[tokio::test]
async fn extended_attributes_are_kept_by_their_rules() {
    let site = site().await;
    let f = site.file(&ROOT, "f").await.node;
    let set =
        |name: &'static str, value: &'static str, must| site.files.set_xattr(&CALLER, &f, name, value.into(), must);
    static CALLER: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };
    set("user.a", "1", None).await.unwrap();
    assert_eq!(errno(set("user.a", "2", Some(false)).await), EEXIST);
    assert_eq!(errno(set("user.b", "2", Some(true)).await), ENODATA);
    set("user.a", "2", Some(true)).await.unwrap();
    set("trusted.t", "3", None).await.unwrap();
    assert_eq!(errno(set("odd", "3", None).await), 95);
    assert_eq!(errno(set("user.object.meta.x", "3", None).await), EPERM);
    let site = site.reopen().await;
    let all = site.files.list_xattrs(&CALLER, &f).await.unwrap();
    assert_eq!(all, ["trusted.t", "user.a"]);
    assert_eq!(site.files.list_xattrs(&user(5), &f).await.unwrap(), ["user.a"]);
    assert_eq!(site.files.xattr(&CALLER, &f, "user.a").await.unwrap(), "2");
    assert_eq!(errno(site.files.xattr(&user(5), &f, "trusted.t").await), ENODATA);
    assert_eq!(errno(site.files.set_xattr(&user(5), &f, "user.a", "9".into(), None).await), EACCES);
    site.files.remove_xattr(&CALLER, &f, "user.a").await.unwrap();
    assert_eq!(errno(site.files.xattr(&CALLER, &f, "user.a").await), ENODATA);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_make_and_remove_in_one_directory_at_once() {
    let site = site().await;
    let d = site.directory(&ROOT, "d", 0o755).await.node;
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let files = site.files.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let name = format!("{task}-{n}");
                    let made = files.create(&root(), &d, name.as_bytes(), CreateMode::Guarded, mode(0o644)).await;
                    made.unwrap();
                    let all = format!("all-{n}");
                    files.create(&root(), &d, all.as_bytes(), CreateMode::Unchecked, mode(0o644)).await.unwrap();
                    if n % 2 == 0 {
                        files.unlink(&root(), &d, name.as_bytes()).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(site.names(&d).await.len(), 16 * 10 + 20);
    assert_eq!(site.bucket.usage().await.unwrap().objects, 16 * 10 + 20 + 1);
}

#[tokio::test]
async fn a_bucket_with_versions_gives_s3_a_history_of_what_files_did() {
    let site = site_with(BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() }).await;
    let f = site.file(&ROOT, "f").await.node;
    let write = OpenFlags { write: true, ..OpenFlags::default() };
    let file = site.files.open(&root(), &f, write).await.unwrap();
    file.write_at(0, Bytes::from_static(b"one")).await.unwrap();
    file.fsync().await.unwrap();
    file.close().await.unwrap();
    site.files.unlink(&root(), &ROOT, b"f").await.unwrap();
    let listed = site.bucket.list_versions(tombolo_core::ListVersionsOptions { limit: 10, ..Default::default() }).await;
    let listed = listed.unwrap();
    assert_eq!(listed.items.len(), 3, "the empty file, its content, and the marker: {listed:?}");
    assert!(site.keys().await.is_empty());
}

#[tokio::test]
async fn watchers_hear_of_every_door() {
    let site = site().await;
    let mut watch = site.files.watch();
    site.bucket.put("a", "1", PutOptions::default()).await.unwrap();
    let node = site.look(&ROOT, "a").await.unwrap().node;
    let ours = site.files.with_origin(9);
    ours.set_attributes(&root(), &node, mode(0o600), None).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(watch.next().await.unwrap());
    }
    let (name, shadowed) = ("a".into(), "a%~".into());
    assert!(heard.contains(&RowChange::Entry { directory: ROOT, name, shadowed, origin: 0 }));
    assert!(heard.contains(&RowChange::Node { node, origin: 0 }));
    assert!(heard.contains(&RowChange::Node { node, origin: 9 }));
}

/// What is written to an open file is seen through every POSIX door at once, and nobody who keeps bytes of it heard of that before it was saved.
#[tokio::test]
async fn watchers_hear_of_what_is_not_saved_yet() {
    let site = site().await;
    site.bucket.put("a", "0123456789", PutOptions::default()).await.unwrap();
    let node = site.look(&ROOT, "a").await.unwrap().node;
    let (ours, theirs) = (site.files.with_origin(8), site.files.with_origin(9));
    let mut watch = ours.watch();
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let (mine, other) =
        (ours.open(&root(), &node, flags).await.unwrap(), theirs.open(&root(), &node, flags).await.unwrap());
    mine.write_at(0, "x".into()).await.unwrap();
    other.write_at(4, "yy".into()).await.unwrap();
    other.write_at(9, "z".into()).await.unwrap();
    assert_eq!(watch.next().await, Some(RowChange::Written { node, range: 4..10, is_resized: false }));
    assert!(other.set_modified(5));
    assert_eq!(watch.next().await, Some(RowChange::Written { node, range: 0..0, is_resized: false }));
    other.append("end".into()).await.unwrap();
    assert_eq!(watch.next().await, Some(RowChange::Written { node, range: 10..13, is_resized: true }));
    other.truncate(8).await.unwrap();
    assert_eq!(watch.next().await, Some(RowChange::Written { node, range: 8..u64::MAX, is_resized: true }));
    other.allocate(AllocateMode::PunchHole, 2, 3).await.unwrap();
    assert_eq!(watch.next().await, Some(RowChange::Written { node, range: 2..5, is_resized: false }));
    assert_eq!(mine.read_at(0, 100).await.unwrap(), "x1\0\0\0y67");
}

#[tokio::test]
async fn status_follows_the_quota() {
    let policy = BucketPolicy { quota_bytes: Some(1000), quota_objects: Some(2), ..BucketPolicy::default() };
    let site = site_with(policy).await;
    site.bucket.put("a", "0123456789", PutOptions::default()).await.unwrap();
    let status = site.files.status().await.unwrap();
    assert_eq!((status.total_bytes, status.free_bytes), (1000, 990));
    assert_eq!((status.total_nodes, status.free_nodes), (2, 1));
    site.file(&ROOT, "b").await;
    let over = site.files.create(&root(), &ROOT, b"c", CreateMode::Guarded, mode(0o644)).await;
    assert_eq!(errno(over), 122);
}

#[tokio::test]
async fn directories_count_what_is_in_them() {
    let site = site().await;
    let caller = root();
    let set = SetAttributes::default();
    let files = &site.files;
    let links = async |node: &NodeId| files.attributes(node).await.unwrap().links;
    let a = files.make_directory(&caller, &ROOT, b"a", set).await.unwrap();
    assert_eq!(a.directory.after.links, links(&ROOT).await);
    let (a, b) = (a.attributes.node, files.make_directory(&caller, &ROOT, b"b", set).await.unwrap().attributes.node);
    assert_eq!((links(&ROOT).await, links(&a).await), (4, 2));
    files.make_directory(&caller, &a, b"x", set).await.unwrap();
    files.create(&caller, &a, b"file", CreateMode::Guarded, set).await.unwrap();
    assert_eq!(links(&a).await, 3, "files don't count");

    let (from, to) = files.rename(&caller, (&a, b"x"), (&b, b"x"), RenameMode::Replace).await.unwrap();
    assert_eq!((from.after.links, to.after.links), (2, 3));
    assert_eq!((links(&a).await, links(&b).await), (2, 3));
    // An empty directory in the way goes.
    files.make_directory(&caller, &a, b"y", set).await.unwrap();
    let (from, to) = files.rename(&caller, (&a, b"y"), (&b, b"x"), RenameMode::Replace).await.unwrap();
    assert_eq!((from.after.links, to.after.links, links(&a).await, links(&b).await), (2, 3, 2, 3));
    let (from, to) = files.rename(&caller, (&a, b"file"), (&b, b"x"), RenameMode::Exchange).await.unwrap();
    assert_eq!((from.after.links, to.after.links, links(&a).await, links(&b).await), (3, 2, 3, 2));
    let (_, after) = files.remove_directory(&caller, &a, b"file").await.unwrap();
    assert_eq!((after.after.links, links(&a).await), (2, 2));

    // Objects make directories, too, and take them away.
    site.bucket.put("b/deep/object", "bytes", PutOptions::default()).await.unwrap();
    assert_eq!(links(&b).await, 3);
    site.bucket.delete("b/deep/object", DeleteOptions::default()).await.unwrap();
    assert_eq!(links(&b).await, 2);

    // Many at once, in one directory.
    let makers: Vec<_> = (0..64)
        .map(|number| {
            let (files, caller, b) = (files.clone(), caller.clone(), b);
            tokio::spawn(async move {
                files.make_directory(&caller, &b, format!("d{number}").as_bytes(), set).await.unwrap()
            })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap();
    }
    assert_eq!(links(&b).await, 66);
}

/// Replacing a file by writing aside and renaming is atomic for those who read whole objects, though closing does not wait for its save.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_file_is_whole_under_its_new_name() {
    let site = site().await;
    let caller = root();
    let content = Bytes::from(vec![7; 50_000]);
    site.bucket.put("shared", content.clone(), PutOptions::default()).await.unwrap();
    let writer = tokio::spawn({
        let (files, content) = (site.files.clone(), content.clone());
        async move {
            for _ in 0..300 {
                let made = files.create(&caller, &ROOT, b"aside", CreateMode::Guarded, mode(0o644)).await.unwrap();
                let flags = OpenFlags { write: true, is_granted: true, ..OpenFlags::default() };
                let file = files.open(&caller, &made.attributes.node, flags).await.unwrap();
                file.write_at(0, content.clone()).await.unwrap();
                file.close().await.unwrap();
                files.rename(&caller, (&ROOT, b"aside"), (&ROOT, b"shared"), RenameMode::Replace).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let object = site.bucket.get("shared", GetOptions::default()).await.unwrap();
        assert_eq!(object.info().size, 50_000);
        assert!(object.bytes(0..50_000).await.unwrap() == content);
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn what_is_within_a_directory_follows_its_names() {
    let site = site().await;
    let files = &site.files;
    let outer = site.directory(&ROOT, "outer", 0o755).await.node;
    let inner = site.directory(&outer, "inner", 0o755).await.node;
    let beside = site.directory(&ROOT, "beside", 0o755).await.node;
    let file = site.file(&inner, "file").await.node;
    let is_within = async |node: &NodeId, directory: &NodeId| files.is_within(node, directory).await.unwrap();
    for (node, directory, expected) in [
        (&file, &outer, true),
        (&file, &inner, true),
        (&file, &ROOT, true),
        (&inner, &inner, true),
        (&outer, &inner, false),
        (&ROOT, &outer, false),
        (&file, &beside, false),
    ] {
        assert_eq!(is_within(node, directory).await, expected, "{node} in {directory}");
    }
    // One name of several is enough; a directory takes what is in it along.
    files.link(&root(), &file, &beside, b"too").await.unwrap();
    assert!(is_within(&file, &beside).await && is_within(&file, &outer).await);
    files.unlink(&root(), &inner, b"file").await.unwrap();
    assert!(is_within(&file, &beside).await && !is_within(&file, &outer).await);
    let deep = site.file(&inner, "deep").await.node;
    files.rename(&root(), (&outer, b"inner"), (&beside, b"moved"), RenameMode::Replace).await.unwrap();
    assert!(is_within(&deep, &beside).await && !is_within(&deep, &outer).await);
    files.unlink(&root(), &inner, b"deep").await.unwrap();
    assert_eq!(errno(files.is_within(&deep, &beside).await), ESTALE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn set_id_bits_go_with_the_first_write_however_many_write_at_once() {
    let site = site().await;
    let node = site.file(&ROOT, "run").await.node;
    let flags = OpenFlags { read: true, write: true, truncate: false, is_granted: true };
    let mut writers = Vec::new();
    for uid in 1000..1008 {
        writers.push(site.files.open(&user(uid), &node, flags).await.unwrap());
    }
    let superuser = site.files.open(&root(), &node, flags).await.unwrap();
    for round in 0..40 {
        site.files.set_attributes(&root(), &node, mode(0o6777), None).await.unwrap();
        superuser.write_at(round, Bytes::from_static(b"root")).await.unwrap();
        assert_eq!(superuser.attributes().await.unwrap().mode, 0o6777, "root's writes take nothing away");
        let writes = writers.iter().zip(0..).map(|(writer, at)| writer.write_at(at, Bytes::from_static(b"user")));
        futures::future::try_join_all(writes).await.unwrap();
        assert_eq!(site.files.attributes(&node).await.unwrap().mode, 0o777);
        // One chmod among the writes is seen or not; a write that begins after it takes it away.
        let chmod = root();
        let among = site.files.set_attributes(&chmod, &node, mode(0o6770), None);
        let (_, changed) = tokio::join!(writers[0].write_at(round, Bytes::from_static(b"x")), among);
        changed.unwrap();
        writers[1].write_at(0, Bytes::from_static(b"y")).await.unwrap();
        assert_eq!(site.files.attributes(&node).await.unwrap().mode, 0o770);
    }
}

const FOR_BOTH: OpenFlags = OpenFlags { read: true, write: true, truncate: false, is_granted: true };

/// Whoever had a file open was told that it does not exist (ESTALE) as soon as a door that knows nothing of open files had taken its name away.
#[tokio::test]
async fn an_open_file_outlives_its_name_whoever_takes_it() {
    let site = site().await;
    for written in [&b""[..], b"unsaved"] {
        let node = site.file(&ROOT, "f").await.node;
        let file = site.files.open(&root(), &node, FOR_BOTH).await.unwrap();
        file.write_at(0, Bytes::from_static(written)).await.unwrap();
        site.bucket.delete("f", DeleteOptions::default()).await.unwrap();
        let there = site.files.attributes(&node).await.unwrap();
        assert_eq!((there.links, there.size), (0, written.len() as u64));
        if written.is_empty() {
            site.files.set_attributes(&root(), &node, mode(0o600), None).await.unwrap();
            assert_eq!(site.files.attributes(&node).await.unwrap().mode, 0o600);
        }
        drop(file);
        assert_eq!(errno(site.files.attributes(&node).await), ESTALE, "nobody has it open any more");
    }
}

/// What was told of a file before and after a change of its mode had the writes of others in between, so that a client took them for its own and kept
/// what it had of the content.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_of_attributes_does_not_hide_what_others_write() {
    let site = site().await;
    let node = site.file(&ROOT, "f").await.node;
    let change = site.files.set_attributes(&root(), &node, mode(0o600), None).await.unwrap();
    assert_eq!(change.before.unwrap().size, change.after.size, "nobody writes yet");
    let file = site.files.open(&root(), &node, FOR_BOTH).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let is_over = is_over.clone();
        async move {
            while !is_over.load(Ordering::Relaxed) {
                file.append(Bytes::from_static(b"x")).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..200 {
        let change = site.files.set_attributes(&root(), &node, mode(0o600 | (round % 2)), None).await.unwrap();
        if let Some(before) = change.before {
            let after = (change.after.size, change.after.modified_ns);
            assert_eq!((before.size, before.modified_ns), after, "round {round}");
        }
    }
    let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
    assert!(site.files.set_attributes(&root(), &node, cut, None).await.unwrap().before.is_none());
    is_over.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}
