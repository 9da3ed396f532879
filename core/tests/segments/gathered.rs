//! P8, P11: a segment at the edge gives local data up when others have promised to hold it, and not a byte before; what it gave up it does not claim.

use crate::site::{Site, Sites};
use tombolo_core::*;

const SIZE: u64 = 300_000;

async fn put(site: &Site, key: &str, seed: u8) {
    let mut content = vec![0; SIZE as usize];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    hasher.finalize_xof().fill(&mut content);
    site.bucket.put(key, content, PutOptions::default()).await.unwrap();
}

/// How much of an object is here after a collection.
async fn left(site: &Site, key: &str) -> u64 {
    site.bucket.segment().gc().await.unwrap();
    site.bucket.get(key, GetOptions::default()).await.unwrap().local_bytes().await.unwrap().0
}

const AT_ONCE: Gather = Gather { receipts: 1, delay_ms: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_when_others_hold_it_and_is_not_claimed_then() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("edge", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    let (own, peer) = (edge.bucket.segment().id(), centre.bucket.segment().id());
    put(edge, "first", 1).await;
    let first = edge.bucket.vector().await.unwrap();
    put(edge, "second", 2).await;
    put(edge, "kept", 3).await;
    edge.bucket.pin("kept").await.unwrap();
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert!(edge.bucket.set_gather(Some(Gather { receipts: 0, ..AT_ONCE })).await.is_err());
    assert_eq!(left(edge, "first").await, SIZE, "nobody holds it");
    edge.bucket.add_receipt(&peer, &first).await.unwrap();
    edge.bucket.set_gather(Some(Gather { receipts: 2, ..AT_ONCE })).await.unwrap();
    assert_eq!(left(edge, "first").await, SIZE, "one holds it, and two are to");
    edge.bucket.set_gather(Some(Gather { delay_ms: 3_600_000, ..AT_ONCE })).await.unwrap();
    assert_eq!(left(edge, "first").await, SIZE, "it is not old enough");
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert_eq!(left(edge, "first").await, 0);
    assert_eq!(left(edge, "second").await, SIZE, "the receipt does not cover it");
    assert_eq!(edge.bucket.data_vector().await.unwrap().get(&own), 0, "not all that was written here is here");
    edge.bucket.add_receipt(&peer, &edge.bucket.vector().await.unwrap()).await.unwrap();
    assert_eq!(left(edge, "second").await, 0);
    assert_eq!(left(edge, "kept").await, SIZE, "it is pinned");

    // What is known of receipts and terms is still known after opening again; what is to be here again is listed.
    let path = edge.bucket.path().clone();
    drop(sites);
    all.reopen(0).await;
    let edge = Site { bucket: all.segments[0].bucket(&path).await.unwrap() };
    put(&edge, "third", 4).await;
    assert_eq!(left(&edge, "third").await, SIZE);
    assert_eq!(left(&edge, "second").await, 0);
    edge.bucket.keep_data(true).await.unwrap();
    let wanted = edge.bucket.wanted(None, 10).await.unwrap();
    let paths: Vec<_> = wanted.iter().map(|w| w.path.clone().unwrap()).collect();
    assert_eq!(paths, ["first", "second", "kept", "third"], "any of it may be missing");
    assert!(edge.bucket.data_vector().await.unwrap().get(&own) < wanted[0].dot.sequence);
}

/// Two segments that hold all data for each other, and then both gather: neither may rely on the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_to_others_does_not_go() {
    let all = Sites::new(2).await;
    let sites = all.bucket("promised", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", 1).await;
    b.pull(a).await;
    assert_eq!(a.bucket.promise().await.unwrap(), None, "not all data is to be here");
    a.bucket.keep_data(true).await.unwrap();
    let vector = a.bucket.promise().await.unwrap().unwrap();
    assert_eq!(vector, a.bucket.vector().await.unwrap());
    a.bucket.add_receipt(&b.bucket.segment().id(), &vector).await.unwrap();
    a.bucket.keep_data(false).await.unwrap();
    a.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    put(a, "later", 2).await;
    a.bucket.add_receipt(&b.bucket.segment().id(), &a.bucket.vector().await.unwrap()).await.unwrap();
    assert_eq!(left(a, "x").await, SIZE);
    assert_eq!(left(a, "later").await, 0);
}
