use crate::site::{Site, eventually, noise};
use tombolo_core::{BucketPolicy, CompletePart, ConflictPolicy, ErrorKind, ListItem, ListOptions};
use tombolo_link::{Mode, Scope};

const DATA: &str = "SF/lab/data";

async fn keys(site: &Site, bucket: &str) -> Vec<String> {
    let listed = site.bucket(bucket).await.list(ListOptions { limit: 1000, ..Default::default() }).await.unwrap();
    let key = |item: &ListItem| match item {
        ListItem::Object(object) => String::from_utf8_lossy(&object.key).into_owned(),
        ListItem::Prefix(prefix) => String::from_utf8_lossy(prefix).into_owned(),
    };
    listed.items.iter().map(key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_here_is_read_there_and_back() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.put(DATA, "before/small", "a small one").await;
    let large = noise(1, 5 << 20);
    sf.put(DATA, "before/large", large.clone()).await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    assert_eq!(ny.segment.catalog().clusters().await.unwrap(), ["NY", "SF"]);
    assert_eq!(ny.get(DATA, "before/small").await.unwrap(), "a small one");
    assert_eq!(ny.get(DATA, "before/large").await.unwrap(), large);
    let status = ny.door.status().await.unwrap();
    assert!(status.buckets.iter().all(|bucket| bucket.is_data_complete() && bucket.missing_objects == 0));

    ny.put(DATA, "after/large", noise(2, 3 << 20)).await;
    ny.bucket(DATA).await.delete("before/small", Default::default()).await.unwrap();
    sf.wait().await;
    assert_eq!(sf.get(DATA, "after/large").await.unwrap(), noise(2, 3 << 20));
    assert_eq!(keys(&sf, DATA).await, ["after/large", "before/large"]);
    ny.make_bucket("NY/lab/other", BucketPolicy::default()).await;
    ny.put("NY/lab/other", "k", "v").await;
    sf.wait().await;
    assert_eq!(sf.get("NY/lab/other", "k").await.unwrap(), "v");
    for site in [sf, ny] {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_with_names_only_fetches_what_is_read() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    let large = noise(3, 32 << 20);
    sf.put(DATA, "large", large.clone()).await;
    sf.link(&ny, Mode::Metadata).await;
    ny.wait().await;
    let object = ny.bucket(DATA).await.get("large", Default::default()).await.unwrap();
    assert_eq!(object.local_bytes().await.unwrap(), (0, 32 << 20));
    assert_eq!(object.bytes(10_000_000..10_000_100).await.unwrap(), large.slice(10_000_000..10_000_100));
    let (here, of) = object.local_bytes().await.unwrap();
    let nodes = object.missing_nodes(3).await.unwrap();
    let damaged = ny.bucket(DATA).await.segment().status().await.unwrap().damaged_chunks;
    assert!(here > 0 && here < of / 2, "{here} bytes were fetched for 100; {damaged} damaged, absent nodes: {nodes:?}");
    assert_eq!(object.bytes(0..32 << 20).await.unwrap(), large);

    sf.put(DATA, "later", noise(4, 1 << 20)).await;
    ny.wait().await;
    sf.stop().await;
    eventually("losing the connection", async || !ny.door.status().await.unwrap().links[0].is_connected).await;
    assert_eq!(ny.get(DATA, "later").await.unwrap_err().kind(), ErrorKind::Offline);
    assert_eq!(ny.get(DATA, "large").await.unwrap(), large, "what was fetched stays");
    let late = ny.door.wait(&Scope::everything(), Some(std::time::Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Offline);
    ny.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_while_apart_are_both_kept_and_restarts_go_on() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy { conflicts: ConflictPolicy::KeepBoth, ..Default::default() }).await;
    sf.put(DATA, "notes.txt", "first").await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    ny.door.set("sf", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || !sf.door.status().await.unwrap().links[0].is_connected).await;
    sf.put(DATA, "notes.txt", "from sf").await;
    ny.put(DATA, "notes.txt", "from ny").await;
    sf.put(DATA, "only-sf", noise(5, 1 << 20)).await;
    ny.bucket(DATA).await.delete("nothing", Default::default()).await.unwrap();
    let (sf, ny) = (sf.restart().await, ny.restart().await);
    ny.door.set("sf", |link| link.paused = false).await.unwrap();
    ny.wait().await;
    sf.wait().await;
    let found = keys(&sf, DATA).await;
    assert_eq!(found, keys(&ny, DATA).await);
    assert_eq!(found.len(), 3, "{found:?}");
    let mut contents = Vec::new();
    for key in found.iter().filter(|key| key.starts_with("notes")) {
        assert_eq!(sf.get(DATA, key).await.unwrap(), ny.get(DATA, key).await.unwrap());
        contents.push(sf.get(DATA, key).await.unwrap());
    }
    contents.sort();
    assert_eq!(contents, ["from ny", "from sf"]);
    for site in [&sf, &ny] {
        assert_eq!(site.bucket(DATA).await.verify_shown().await.unwrap(), Vec::<String>::new());
    }
    sf.stop().await;
    ny.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_names_only_redistributes() {
    let (hub, a, b) = (Site::new("hub").await, Site::new("a").await, Site::new("b").await);
    hub.link(&a, Mode::Full).await;
    hub.link(&b, Mode::Full).await;
    hub.door.set("a", |link| link.mode = Mode::Metadata).await.unwrap();
    hub.door.set("b", |link| link.mode = Mode::Metadata).await.unwrap();
    a.make_bucket("A/lab/data", BucketPolicy::default()).await;
    a.put("A/lab/data", "large", noise(6, 4 << 20)).await;
    let arrived = async || {
        let Ok(bucket) = b.segment.bucket(&"A/lab/data".parse().unwrap()).await else { return false };
        bucket.get("large", Default::default()).await.is_ok()
    };
    eventually("the name's way over the hub", arrived).await;
    b.wait().await;
    assert_eq!(b.get("A/lab/data", "large").await.unwrap(), noise(6, 4 << 20));
    b.put("A/lab/data", "reply", "thanks").await;
    hub.wait().await;
    a.wait().await;
    assert_eq!(a.get("A/lab/data", "reply").await.unwrap(), "thanks");
    for site in [hub, a, b] {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_sees_what_its_link_covers_and_no_more() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket("SF/lab/shared", BucketPolicy::default()).await;
    sf.make_bucket("SF/lab/private", BucketPolicy::default()).await;
    sf.make_bucket("SF/other/private", BucketPolicy::default()).await;
    sf.link_scoped(&ny, Mode::Full, Scope::parse(["SF/lab/shared"]).unwrap()).await;
    // What the peer makes outside does not come here either.
    ny.make_bucket("NY/lab/own", BucketPolicy::default()).await;
    ny.wait().await;
    sf.wait().await;
    let seen = |site: &Site| {
        let catalog = site.segment.catalog();
        async move { catalog.all_buckets().await.unwrap().iter().map(|info| info.path.to_string()).collect::<Vec<_>>() }
    };
    assert_eq!(seen(&ny).await, ["NY/lab/own", "SF/lab/shared"]);
    assert_eq!(seen(&sf).await, ["SF/lab/private", "SF/lab/shared", "SF/other/private"]);
    assert_eq!(ny.segment.catalog().clusters().await.unwrap(), ["NY", "SF"]);
    assert_eq!(ny.segment.catalog().tenants("SF").await.unwrap().len(), 1);
    sf.stop().await;
    ny.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_that_are_deleted_stay_so_unless_something_was_put_there() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket("SF/lab/empty", BucketPolicy::default()).await;
    sf.make_bucket("SF/lab/used", BucketPolicy::default()).await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    ny.door.set("sf", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || !sf.door.status().await.unwrap().links[0].is_connected).await;
    ny.put("SF/lab/used", "k", "kept").await;
    sf.segment.catalog().delete_bucket(&"SF/lab/used".parse().unwrap()).await.unwrap();
    sf.segment.catalog().delete_bucket(&"SF/lab/empty".parse().unwrap()).await.unwrap();
    ny.door.set("sf", |link| link.paused = false).await.unwrap();
    ny.wait().await;
    sf.wait().await;
    assert_eq!(sf.get("SF/lab/used", "k").await.unwrap(), "kept");
    let gone = async |site: &Site| {
        let found = site.segment.bucket(&"SF/lab/empty".parse().unwrap()).await;
        assert_eq!(found.err().map(|e| e.kind()), Some(ErrorKind::NotFound), "{}", site.name);
    };
    gone(&sf).await;
    gone(&ny).await;
    sf.stop().await;
    ny.stop().await;
}

/// What many versions share comes once. It was asked for once for each of them, and an answer that had it twice ended the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_versions_have_in_common_comes_once() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    let part = noise(20, 2 << 20);
    let twice = [part.clone(), part.clone()].concat();
    for copy in 0..40 {
        sf.put(DATA, &format!("same-{copy}"), part.clone()).await;
        sf.put(DATA, &format!("twice-{copy}"), [twice.as_slice(), &[copy]].concat()).await;
    }
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    for copy in 0..40 {
        assert_eq!(ny.get(DATA, &format!("same-{copy}")).await.unwrap(), part);
        assert_eq!(ny.get(DATA, &format!("twice-{copy}")).await.unwrap(), [twice.as_slice(), &[copy]].concat());
    }
    let received = ny.door.status().await.unwrap().links[0].received_bytes;
    // The part, its seam, and the ends of forty objects.
    assert!((2 << 20..24 << 20).contains(&received), "{received} bytes came");
    for site in [sf, ny] {
        site.stop().await;
    }
}

/// P8: names came without data while the link was so; from when all data is to be here, what is missing of those counts too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_names_becomes_a_whole_one() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.put(DATA, "old", noise(7, 6 << 20)).await;
    sf.link(&ny, Mode::Metadata).await;
    ny.wait().await;
    let object = ny.bucket(DATA).await.get("old", Default::default()).await.unwrap();
    assert_eq!(object.local_bytes().await.unwrap().0, 0);
    ny.door.set("sf", |link| link.mode = Mode::Full).await.unwrap();
    ny.wait().await;
    assert_eq!(object.local_bytes().await.unwrap(), (6 << 20, 6 << 20));
    sf.stop().await;
    assert_eq!(ny.get(DATA, "old").await.unwrap(), noise(7, 6 << 20));
    ny.stop().await;
}

/// P8: what is copied here is this segment's own write, and here when the data of what it was copied from is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_count_until_their_data_is_here() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.put(DATA, "old", noise(8, 6 << 20)).await;
    sf.link(&ny, Mode::Metadata).await;
    ny.wait().await;
    let bucket = ny.bucket(DATA).await;
    let object = bucket.get("old", Default::default()).await.unwrap();
    let upload = bucket.create_upload("joined", Default::default()).await.unwrap().id;
    let part = bucket.copy_part("joined", &upload, 1, &object, 0..6 << 20).await.unwrap();
    let parts = [CompletePart { number: 1, etag: part.etag.to_string() }];
    bucket.complete_upload("joined", &upload, &parts, Default::default()).await.unwrap();
    ny.door.set("sf", |link| link.mode = Mode::Full).await.unwrap();
    ny.wait().await;
    let local = async |key: &str| {
        let object = bucket.get(key, Default::default()).await.unwrap();
        object.local_bytes().await.unwrap().0
    };
    assert_eq!(local("joined").await, 6 << 20);
    bucket.copy(&object, "copy", Default::default()).await.unwrap();
    sf.wait().await;
    // The other segment has the copy's number now, and this one says that it has the data.
    ny.wait().await;
    assert_eq!(local("copy").await, 6 << 20);
    sf.stop().await;
    drop(bucket);
    drop(object);
    ny.stop().await;
}

/// What is deleted at one end of a chain gives its space back at the other, which is not linked to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_have_deleted_gives_its_space_back() {
    let (sf, ny, la) = (Site::new("sf").await, Site::new("ny").await, Site::new("la").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.put(DATA, "large", noise(11, 4 << 20)).await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    ny.link(&la, Mode::Full).await;
    la.wait().await;
    la.bucket(DATA).await.delete("large", Default::default()).await.unwrap();
    for site in [&sf, &ny, &la] {
        eventually("giving the space back", async || site.segment.gc().await.unwrap().chunks_live == 0).await;
        assert!(keys(site, DATA).await.is_empty());
    }
    for site in [sf, ny, la] {
        site.stop().await;
    }
}

/// A segment that was forgotten, and comes back after what was deleted is dropped, is told so, compares, and loses nothing that it alone had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_segment_finds_its_way_in_again() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    for key in ["gone", "stays"] {
        sf.put(DATA, key, noise(12, 1 << 20)).await;
    }
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    let ny_id = ny.segment.id();
    let is_carrier = async || sf.bucket(DATA).await.carriers().await.unwrap().get(&ny_id).is_some();
    eventually("hearing of the other carrier", is_carrier).await;
    ny.door.set("sf", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || !sf.door.status().await.unwrap().links[0].is_connected).await;
    ny.put(DATA, "mine", "of ny alone").await;
    sf.bucket(DATA).await.delete("gone", Default::default()).await.unwrap();
    sf.put(DATA, "new", "of sf").await;
    assert_eq!(sf.segment.gc().await.unwrap().rows_dropped, 0);
    assert_eq!(sf.door.forget(&ny_id).await.unwrap(), 1);
    let status = sf.door.status().await.unwrap();
    assert!(status.buckets[0].carriers.contains(&(ny_id, true)));
    assert!(sf.segment.gc().await.unwrap().rows_dropped > 0);

    ny.door.set("sf", |link| link.paused = false).await.unwrap();
    ny.wait().await;
    sf.wait().await;
    for site in [&sf, &ny] {
        assert_eq!(keys(site, DATA).await, ["mine", "new", "stays"]);
        assert!(!site.bucket(DATA).await.is_comparing().await.unwrap());
    }
    let is_back = async || sf.door.status().await.unwrap().buckets[0].carriers.contains(&(ny_id, false));
    eventually("counting it again", is_back).await;
    assert!(sf.door.forget(&tombolo_core::SegmentId([9; 16])).await.is_err());
    for site in [sf, ny] {
        site.stop().await;
    }
}

/// P8, P10: what is pinned comes, now and as it changes, over a link that brings only names; status and wait count it, and nothing else comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_comes_where_else_only_names_come() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    for (seed, key) in [(20, "run/1"), (21, "run/2"), (22, "other")] {
        sf.put(DATA, key, noise(seed, 1 << 20)).await;
    }
    sf.link(&ny, Mode::Metadata).await;
    ny.wait().await;
    let bucket = ny.bucket(DATA).await;
    bucket.pin("run").await.unwrap();
    ny.door.look_for_data();
    ny.wait().await;
    let local = async |key: &str| {
        let object = bucket.get(key, Default::default()).await.unwrap();
        object.local_bytes().await.unwrap().0
    };
    assert_eq!((local("run/1").await, local("run/2").await, local("other").await), (1 << 20, 1 << 20, 0));
    sf.put(DATA, "run/3", noise(23, 1 << 20)).await;
    sf.put(DATA, "other/2", noise(24, 1 << 20)).await;
    ny.wait().await;
    assert_eq!((local("run/3").await, local("other/2").await), (1 << 20, 0));
    let renamed = bucket.rename("other", "run/other").await;
    assert!(renamed.is_ok(), "{renamed:?}");
    eventually("the data of what was renamed", async || local("run/other").await == 1 << 20).await;

    sf.stop().await;
    bucket.pin("").await.unwrap();
    let status = ny.door.status().await.unwrap();
    let of = &status.buckets[0];
    assert!(!of.is_data_complete() && !of.wants_data, "{of:?}");
    assert!(of.missing.iter().any(|missing| missing.path.as_ref().is_some_and(|path| path == "other/2")), "{of:?}");
    bucket.unpin("").await.unwrap();
    let missing = ny.door.status().await.unwrap().buckets.remove(0).missing;
    assert!(missing.iter().all(|missing| missing.path.as_ref().is_some_and(|path| path.starts_with(b"run/"))));
    drop(bucket);
    ny.stop().await;
}

/// P11: what is written at the edge goes where it is gathered, and leaves the edge when it is held there, but for what is pinned. Names stay, and reads fetch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_gives_up_what_is_held_elsewhere() {
    let (centre, edge) = (Site::new("centre").await, Site::new("edge").await);
    edge.make_bucket("EDGE/lab/data", BucketPolicy::default()).await;
    let bucket = edge.bucket("EDGE/lab/data").await;
    edge.put("EDGE/lab/data", "run/1", noise(30, 4 << 20)).await;
    edge.put("EDGE/lab/data", "pinned", noise(31, 1 << 20)).await;
    bucket.pin("pinned").await.unwrap();
    centre.link(&edge, Mode::Full).await;
    centre.wait().await;
    let local = async |key: &str| {
        let object = bucket.get(key, Default::default()).await.unwrap();
        object.local_bytes().await.unwrap().0
    };
    assert_eq!(local("run/1").await, 4 << 20);
    edge.door
        .set("centre", |link| (link.mode, link.gather_delay_s, link.gather_receipts) = (Mode::Gather, 0, 1))
        .await
        .unwrap();
    // Also what a collection has spared because it was just being looked at.
    let goes = async |key: &str| {
        edge.segment.gc().await.unwrap();
        local(key).await == 0
    };
    eventually("what was written before is given up", async || goes("run/1").await).await;
    edge.put("EDGE/lab/data", "run/2", noise(32, 4 << 20)).await;
    eventually("what is written later is given up", async || goes("run/2").await).await;
    assert_eq!(local("pinned").await, 1 << 20);
    assert_eq!(edge.get("EDGE/lab/data", "run/2").await.unwrap(), noise(32, 4 << 20));

    // One more receipt is asked for than there is: nothing goes.
    edge.door.set("centre", |link| link.gather_receipts = 2).await.unwrap();
    eventually("the new terms", async || bucket.gather().await.unwrap().is_some_and(|terms| terms.receipts == 2)).await;
    edge.put("EDGE/lab/data", "run/3", noise(33, 1 << 20)).await;
    centre.wait().await;
    edge.segment.gc().await.unwrap();
    assert_eq!(local("run/3").await, 1 << 20);

    // All data is to be here again: what was given up counts as missing until it has come back.
    edge.door.set("centre", |link| link.mode = Mode::Full).await.unwrap();
    edge.wait().await;
    assert_eq!(local("run/1").await, 4 << 20);
    centre.stop().await;
    assert_eq!(edge.get("EDGE/lab/data", "run/1").await.unwrap(), noise(30, 4 << 20));
    drop(bucket);
    edge.stop().await;
}
