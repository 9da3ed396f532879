//! Gathering names, too (note 0009): what others hold goes out of sight at the edge with a collection; it is not deleted, and comes back when somebody asks for it or works on it.

use crate::site::{Site, Sites};
use crate::taken::noise;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tombolo_core::engine::fs::{Caller, CreateMode, ROOT, RowChange, SetAttributes};
use tombolo_core::*;

const NAMES: Gather = Gather { receipts: 1, delay_ms: 0, names: true };

async fn put(site: &Site, key: &str, content: impl Into<bytes::Bytes>) {
    site.bucket.put(key, content, PutOptions::default()).await.unwrap();
}

async fn names(site: &Site) -> Vec<String> {
    site.shows().await.into_keys().collect()
}

/// All keys, with whether each is away.
async fn all_names(site: &Site) -> BTreeMap<String, bool> {
    let options = ListOptions { limit: 100, with_away: true, ..ListOptions::default() };
    let items = site.bucket.list(options).await.unwrap().items;
    let name = |item| match item {
        ListItem::Object(object) => Some((String::from_utf8(object.key.to_vec()).unwrap(), object.is_away)),
        // There is no delimiter.
        ListItem::Prefix(_) => None,
    };
    items.into_iter().filter_map(name).collect()
}

/// The centre has what the edge has, and has promised to hold it; then the edge collects.
async fn gathered(edge: &Site, centre: &Site) {
    centre.pull(edge).await;
    edge.pull(centre).await;
    let vector = edge.bucket.vector().await.unwrap();
    edge.bucket.add_receipt(&centre.bucket.segment().id(), &vector).await.unwrap();
    edge.bucket.segment().gc().await.unwrap();
    edge.check("a collection").await;
}

async fn is_missing(site: &Site, key: &str) -> bool {
    let found = site.bucket.head(key, GetOptions::default()).await;
    found.is_err_and(|error| error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_what_others_hold_are_passed_over_and_nothing_is_deleted() {
    let mut all = Sites::new(2).await;
    let policy = BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() };
    let sites = all.bucket("away", 2, &policy).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    for (key, content) in [("c", noise(1)), ("d/a", noise(2)), ("d/b", b"small".to_vec())] {
        put(edge, key, content).await;
    }
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    assert_eq!(names(edge).await.len(), 3, "nobody holds them");
    gathered(edge, centre).await;
    put(edge, "later", "is to stay").await;
    edge.bucket.segment().gc().await.unwrap();

    assert_eq!(names(edge).await, ["later"]);
    let marked = [("c", true), ("d/a", true), ("d/b", true), ("later", false)].map(|(key, away)| (key.into(), away));
    assert_eq!(all_names(edge).await, BTreeMap::from(marked));
    let versions = edge.bucket.list_versions(ListVersionsOptions { limit: 9, ..Default::default() }).await.unwrap();
    assert_eq!(versions.items.len(), 1, "{:?}", versions.items);
    for key in ["c", "d/a"] {
        assert!(is_missing(edge, key).await);
        assert_eq!(edge.bucket.get(key, GetOptions::default()).await.err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(edge.bucket.stat(key).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(edge.bucket.read_dir("d", None, 9).await.unwrap(), (Vec::new(), false));
    let files = edge.bucket.file_system();
    let directory = files.lookup(&Caller::root(), &ROOT, b"d").await.unwrap().node;
    assert_eq!(files.lookup(&Caller::root(), &directory, b"a").await.unwrap_err().errno(), 2);
    let page = files.read_directory(None, &directory, None, 9, true).await.unwrap();
    assert!(page.entries.is_empty() && page.is_end, "{:?}", page.entries);
    assert_eq!((edge.bucket.count_away().await.unwrap(), edge.bucket.usage().await.unwrap().objects), (3, 4));

    // Whoever would make it, or take its directory away, is told that it is there.
    let condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
    let refused = edge.bucket.put("c", "x", PutOptions { condition, ..PutOptions::default() }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert_eq!(files.remove_directory(&Caller::root(), &ROOT, b"d").await.err().unwrap().errno(), 39);

    // No other segment hears of it.
    centre.pull(edge).await;
    assert_eq!(all_names(centre).await.into_keys().collect::<Vec<_>>(), ["c", "d/a", "d/b", "later"]);
    let path = edge.bucket.path().clone();
    drop((files, sites));
    all.reopen(0).await;
    let edge = Site { bucket: all.segments[0].bucket(&path).await.unwrap() };
    assert_eq!((names(&edge).await, edge.bucket.count_away().await.unwrap()), (vec!["later".into()], 3));
    edge.check("opening").await;
    // Where it is asked for, and nowhere else, it is back.
    assert_eq!(edge.bucket.recall("d/a").await.unwrap(), 1);
    assert_eq!(edge.bucket.recall("nowhere/x").await.unwrap(), 0);
    assert_eq!((edge.bucket.recall("d").await.unwrap(), edge.bucket.recall("d/").await.unwrap()), (1, 0));
    assert!(is_missing(&edge, "c").await && !is_missing(&edge, "d/b").await);
    assert_eq!((edge.bucket.recall("").await.unwrap(), edge.bucket.count_away().await.unwrap()), (1, 0));
    assert!(!is_missing(&edge, "c").await);
}

/// It is the file that is away, not its name or what is in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_and_an_edit_elsewhere_do_not_bring_it_back() {
    let all = Sites::new(2).await;
    let sites = all.bucket("elsewhere", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    put(edge, "x", noise(1)).await;
    put(edge, "other", "other").await;
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    gathered(edge, centre).await;
    centre.bucket.rename("x", "d/y").await.unwrap_err();
    centre.bucket.mkdir("d", Attributes::default()).await.unwrap();
    centre.bucket.rename("x", "d/y").await.unwrap();
    put(centre, "d/y", "edited").await;
    put(centre, "new", "new").await;
    edge.pull(centre).await;
    assert_eq!(names(edge).await, ["d/", "new"], "what has come is not held for it yet");
    assert_eq!(all_names(edge).await.get("d/y"), Some(&true));
    gathered(edge, centre).await;
    assert_eq!((names(edge).await, edge.bucket.count_away().await.unwrap()), (vec!["d/".into()], 3));
    // What is deleted elsewhere is away no more.
    centre.bucket.delete("other", DeleteOptions::default()).await.unwrap();
    edge.pull(centre).await;
    assert_eq!((all_names(edge).await.len(), edge.bucket.count_away().await.unwrap()), (3, 2));
    // Here, too: a name that is away can be deleted by who knows it, and that is a deletion like others.
    edge.bucket.delete("new", DeleteOptions::default()).await.unwrap();
    centre.pull(edge).await;
    assert!(is_missing(centre, "new").await);
    assert_eq!(edge.bucket.count_away().await.unwrap(), 1);
}

/// A write to the name is a change of the file that is there, as on every other segment.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_here_brings_it_back() {
    let all = Sites::new(2).await;
    let sites = all.bucket("written", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    for key in ["put", "opened", "made", "open", "renamed", "mode", "attribute"] {
        put(edge, key, format!("{key} of old")).await;
    }
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    let files = edge.bucket.file_system();
    let mut nodes = Vec::new();
    for name in ["mode", "attribute"] {
        nodes.push(files.lookup(&Caller::root(), &ROOT, name.as_bytes()).await.unwrap().node);
    }
    // What somebody has open is not put away.
    let open = edge.bucket.open_file("open", FileOptions::read()).await.unwrap();
    gathered(edge, centre).await;
    assert_eq!(names(edge).await, ["open"]);
    drop(open);

    put(edge, "put", "anew").await;
    let opened = edge.bucket.open_file("opened", FileOptions::create()).await.unwrap();
    assert!(!is_missing(edge, "opened").await);
    opened.write_at(0, "written".into()).await.unwrap();
    opened.close().await.unwrap();
    // Through a handle that somebody has kept.
    let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    files.set_attributes(&Caller::root(), &nodes[0], mode, None).await.unwrap();
    files.set_xattr(&Caller::root(), &nodes[1], "user.colour", "red".into(), None).await.unwrap();
    let make = async |mode| {
        files.create(&Caller::root(), &ROOT, b"made", mode, SetAttributes::default()).await.map(|made| made.is_new)
    };
    assert_eq!(make(CreateMode::Guarded).await.unwrap_err().errno(), 17);
    assert!(is_missing(edge, "made").await);
    assert!(!make(CreateMode::Unchecked).await.unwrap());
    edge.bucket.rename("renamed", "to").await.unwrap();
    let expected = ["attribute", "made", "mode", "open", "opened", "put", "to"];
    assert_eq!(names(edge).await, expected);
    edge.check("writing").await;
    centre.pull(edge).await;
    assert_eq!(names(centre).await, expected);
    assert_eq!(centre.shows().await["opened"], "writtenof old");
    assert_eq!(centre.conflicts().await.len(), 0);
}

/// A file has one row, whatever names it has: what keeps one of them keeps all.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_covers_all_names_of_a_file() {
    let all = Sites::new(2).await;
    let sites = all.bucket("pinned", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    edge.bucket.mkdir("kept", Attributes::default()).await.unwrap();
    put(edge, "x", noise(1)).await;
    edge.bucket.link("x", "kept/y").await.unwrap();
    edge.bucket.pin("kept").await.unwrap();
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    gathered(edge, centre).await;
    assert_eq!(edge.bucket.count_away().await.unwrap(), 0);
    edge.bucket.unpin("kept").await.unwrap();
    gathered(edge, centre).await;
    assert!(is_missing(edge, "x").await && is_missing(edge, "kept/y").await);
    edge.bucket.pin("kept").await.unwrap();
    assert!(!is_missing(edge, "x").await && !is_missing(edge, "kept/y").await);
    let wanted = edge.bucket.wanted(None, 9).await.unwrap();
    assert_eq!(wanted.len(), 1, "its data is to come: {wanted:?}");
    gathered(edge, centre).await;
    assert_eq!(edge.bucket.count_away().await.unwrap(), 0);
}

/// What a snapshot shows stays where it is as long as the snapshot; a copy that lost a conflict elsewhere is seen, though its file is away.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_conflict_copies_are_seen() {
    let all = Sites::new(3).await;
    let sites = all.bucket("copies", 3, &BucketPolicy::default()).await;
    let (edge, centre, third) = (&sites[0], &sites[1], &sites[2]);
    put(edge, "x", noise(1)).await;
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    edge.bucket.create_snapshot("s").await.unwrap();
    gathered(edge, centre).await;
    assert_eq!(names(edge).await, ["x"]);
    edge.bucket.delete_snapshot("s").await.unwrap();
    gathered(edge, centre).await;
    assert_eq!(names(edge).await, [""; 0]);
    // One taken now has it, as it has all that is there.
    edge.bucket.create_snapshot("t").await.unwrap();
    let of_snapshot = GetOptions { snapshot: Some("t".into()), version: None };
    assert_eq!(edge.bucket.head("x", of_snapshot).await.unwrap().size, noise(1).len() as u64);
    third.pull(centre).await;
    put(centre, "x", "centre").await;
    put(third, "x", "third").await;
    edge.pull(centre).await;
    edge.pull(third).await;
    let seen = edge.shows().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen.keys().all(|key| key.starts_with("x (conflict")), "{seen:?}");
    assert!(is_missing(edge, "x").await);
}

/// A crash between giving data up and putting the name away leaves a stub, and so does gathering without names; the next collection puts it away. A bucket that stops gathering
/// names shows all.
#[tokio::test(flavor = "multi_thread")]
async fn stubs_go_with_the_next_collection_and_all_come_back_when_it_is_switched_off() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("switched", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    put(edge, "x", noise(1)).await;
    edge.bucket.set_gather(Some(Gather { names: false, ..NAMES })).await.unwrap();
    gathered(edge, centre).await;
    assert_eq!(edge.bucket.get("x", GetOptions::default()).await.unwrap().local_bytes().await.unwrap().0, 0);
    let path = edge.bucket.path().clone();
    drop(sites);
    all.reopen(0).await;
    let edge = Site { bucket: all.segments[0].bucket(&path).await.unwrap() };
    for off in [Some(Gather { names: false, ..NAMES }), None] {
        edge.bucket.set_gather(Some(NAMES)).await.unwrap();
        let mut watch = edge.bucket.file_system().watch();
        edge.bucket.segment().gc().await.unwrap();
        assert!(is_missing(&edge, "x").await);
        // Kernels that keep the name hear of it.
        let changed = async |watch: &mut tombolo_core::engine::fs::Watch| {
            let is_x = |change| matches!(change, RowChange::Entry { directory: ROOT, name, .. } if name == "x");
            while !is_x(watch.next().await.unwrap()) {}
        };
        changed(&mut watch).await;
        edge.bucket.set_gather(off).await.unwrap();
        changed(&mut watch).await;
        assert_eq!((is_missing(&edge, "x").await, edge.bucket.count_away().await.unwrap()), (false, 0));
    }
    // As soon as all data is to be here.
    edge.bucket.set_gather(Some(NAMES)).await.unwrap();
    edge.bucket.keep_data(true).await.unwrap();
    edge.bucket.segment().gc().await.unwrap();
    assert!(!is_missing(&edge, "x").await);
}

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is recalled would have gone again with the next collection: it was as old as before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_recalled_stays_as_long_as_what_is_written() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000_000_000)));
    let environment = Environment { clock: clock.clone(), ..Environment::default() };
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "edge".into(), cluster: "All".into() };
    let options = OpenOptions { environment, workers: 1, ..OpenOptions::default() };
    let segment = Segment::create(dir.path().join("s"), create, options).await.unwrap();
    let path: BucketPath = "All/lab/clock".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let edge = Site { bucket: segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap() };
    edge.bucket.changes_since(&VersionVector::new()).await.unwrap();
    edge.bucket.set_gather(Some(Gather { delay_ms: 3_600_000, ..NAMES })).await.unwrap();
    put(&edge, "x", noise(1)).await;
    let vector = edge.bucket.vector().await.unwrap();
    edge.bucket.add_receipt(&SegmentId([7; 16]), &vector).await.unwrap();
    let after = async |time_ns: i64| {
        clock.0.fetch_add(time_ns, Ordering::Relaxed);
        segment.gc().await.unwrap();
        is_missing(&edge, "x").await
    };
    assert!(!after(HOUR_NS - 1_000_000_000).await);
    assert!(after(2_000_000_000).await);
    assert_eq!(edge.bucket.recall("x").await.unwrap(), 1);
    assert!(!after(HOUR_NS - 1_000_000_000).await);
    assert!(after(2_000_000_000).await);
    segment.close().await.unwrap();
}
