//! P11 over real links: who promises to hold data for whom, and when that ends.

use crate::site::{Site, eventually, noise};
use tombolo_core::{Bucket, BucketPolicy, SegmentId};
use tombolo_link::Mode;

const DATA: &str = "EDGE/lab/data";

async fn local(bucket: &Bucket, key: &str) -> u64 {
    bucket.get(key, Default::default()).await.unwrap().local_bytes().await.unwrap().0
}

async fn promised(site: &Site) -> Vec<SegmentId> {
    site.bucket(DATA).await.promises().await.unwrap().into_iter().map(|(to, _)| to).collect()
}

/// A centre that had promised to hold an edge's data was bound by it for ever, though another had promised the same, or the edge held all of it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_ends_when_another_is_made_or_all_is_back() {
    let (first, second, edge) = (Site::new("first").await, Site::new("second").await, Site::new("edge").await);
    edge.make_bucket(DATA, BucketPolicy::default()).await;
    let bucket = edge.bucket(DATA).await;
    edge.put(DATA, "x", noise(40, 1 << 20)).await;
    first.link(&edge, Mode::Full).await;
    first.wait().await;
    let gathers = |link: &mut tombolo_link::Link| {
        (link.mode, link.gather_delay_s, link.gather_receipts) = (Mode::Gather, 0, 1);
    };
    edge.door.set("first", gathers).await.unwrap();
    let goes = async || {
        edge.segment.gc().await.unwrap();
        local(&bucket, "x").await == 0
    };
    eventually("giving up", goes).await;
    assert_eq!(promised(&first).await, [edge.segment.id()]);

    // It asks for its promise back, and does not get it: nobody else holds the data.
    first.door.set("edge", |link| link.mode = Mode::Metadata).await.unwrap();
    first.bucket(DATA).await.keep_data(false).await.unwrap();
    first.wait().await;
    assert_eq!(promised(&first).await, [edge.segment.id()]);
    second.link(&edge, Mode::Full).await;
    second.wait().await;
    edge.door.set("second", gathers).await.unwrap();
    eventually("the promise in its place", async || !promised(&second).await.is_empty()).await;
    let ends = async || {
        first.door.look_for_data();
        promised(&first).await.is_empty()
    };
    eventually("the end of the first promise", ends).await;
    assert_eq!(edge.get(DATA, "x").await.unwrap(), noise(40, 1 << 20));

    // The other one ends when the edge holds all data itself again.
    for peer in ["first", "second"] {
        edge.door.set(peer, |link| link.mode = Mode::Full).await.unwrap();
    }
    edge.wait().await;
    assert_eq!(local(&bucket, "x").await, 1 << 20);
    second.door.set("edge", |link| link.mode = Mode::Metadata).await.unwrap();
    let ends = async || {
        second.door.look_for_data();
        promised(&second).await.is_empty()
    };
    eventually("the end of the second promise", ends).await;
    drop(bucket);
    for site in [first, second, edge] {
        site.stop().await;
    }
}

/// The centre's promise went with the bucket when that was deleted there, and the data with it; the edge, which had given its own up, had renamed the file meanwhile and brought the
/// bucket back. A deletion that the edge agrees to ends the promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_bucket_keeps_what_an_edge_relies_on() {
    let (centre, edge) = (Site::new("centre").await, Site::new("edge").await);
    edge.make_bucket(DATA, BucketPolicy::default()).await;
    let bucket = edge.bucket(DATA).await;
    edge.put(DATA, "x", noise(50, 1 << 20)).await;
    centre.link(&edge, Mode::Full).await;
    centre.wait().await;
    let gathers = |link: &mut tombolo_link::Link| {
        (link.mode, link.gather_delay_s, link.gather_receipts) = (Mode::Gather, 0, 1);
    };
    edge.door.set("centre", gathers).await.unwrap();
    let goes = async || {
        edge.segment.gc().await.unwrap();
        local(&bucket, "x").await == 0
    };
    eventually("giving up", goes).await;
    let path = DATA.parse().unwrap();
    let delete = async |key: &str| {
        edge.door.set("centre", |link| link.paused = true).await.unwrap();
        eventually("the pause", async || !centre.door.status().await.unwrap().links[0].is_connected).await;
        let there = centre.bucket(DATA).await;
        there.delete(key, Default::default()).await.unwrap();
        centre.segment.catalog().delete_bucket(&path).await.unwrap();
        centre.segment.gc().await.unwrap();
        centre.segment.gc().await.unwrap()
    };
    assert!(delete("x").await.chunks_live > 0);
    edge.bucket(DATA).await.rename("x", "y").await.unwrap();
    edge.door.set("centre", |link| link.paused = false).await.unwrap();
    let returns = async || match centre.segment.bucket(&path).await {
        Ok(bucket) => bucket.get("y", Default::default()).await.is_ok(),
        Err(_) => false,
    };
    eventually("the bucket's return", returns).await;
    assert_eq!(edge.get(DATA, "y").await.unwrap(), noise(50, 1 << 20));

    // It is deleted again, and nothing is left of it at the edge either.
    centre.wait().await;
    edge.bucket(DATA).await.delete("y", Default::default()).await.unwrap();
    centre.wait().await;
    assert!(centre.bucket(DATA).await.get("y", Default::default()).await.is_err());
    edge.put(DATA, "z", "small").await;
    centre.wait().await;
    edge.bucket(DATA).await.delete("z", Default::default()).await.unwrap();
    delete("z").await;
    edge.door.set("centre", |link| link.paused = false).await.unwrap();
    let ends = async || {
        centre.door.look_for_data();
        centre.segment.catalog().promises_of_deleted().await.unwrap().is_empty()
    };
    eventually("the end of the promise", ends).await;
    let is_free = async || centre.segment.gc().await.unwrap().chunks_live == 0;
    eventually("the room", is_free).await;
    drop(bucket);
    for site in [centre, edge] {
        site.stop().await;
    }
}
