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

const AT_ONCE: Gather = Gather { receipts: 1, delay_ms: 0, names: false };

/// What was given up and was to be here again is not here when it is no longer to be: it counted as here, because it was written here.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_claimed_after_keeping_has_ended() {
    let all = Sites::new(2).await;
    let sites = all.bucket("back", 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    let (own, peer) = (edge.bucket.segment().id(), centre.bucket.segment().id());
    put(edge, "x", 1).await;
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    edge.bucket.add_receipt(&peer, &edge.bucket.vector().await.unwrap()).await.unwrap();
    assert_eq!(left(edge, "x").await, 0);
    edge.bucket.set_gather(None).await.unwrap();
    edge.bucket.keep_data(true).await.unwrap();
    assert_eq!(edge.bucket.wanted(None, 10).await.unwrap().len(), 1);
    edge.bucket.keep_data(false).await.unwrap();
    assert_eq!(edge.bucket.wanted(None, 10).await.unwrap().len(), 0);
    assert_eq!(edge.bucket.data_vector().await.unwrap().get(&own), 0);
    edge.bucket.keep_data(true).await.unwrap();
    assert_eq!(edge.bucket.wanted(None, 10).await.unwrap().len(), 1);
}

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
    let asker = b.bucket.segment().id();
    assert_eq!(a.bucket.promise(&asker).await.unwrap(), None, "not all data is to be here");
    a.bucket.keep_data(true).await.unwrap();
    let vector = a.bucket.promise(&asker).await.unwrap().unwrap();
    assert_eq!(vector.get(&a.bucket.segment().id()), a.bucket.vector().await.unwrap().get(&a.bucket.segment().id()));
    a.bucket.add_receipt(&b.bucket.segment().id(), &vector).await.unwrap();
    a.bucket.keep_data(false).await.unwrap();
    a.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    put(a, "later", 2).await;
    a.bucket.add_receipt(&b.bucket.segment().id(), &a.bucket.vector().await.unwrap()).await.unwrap();
    assert_eq!(left(a, "x").await, SIZE);
    assert_eq!(left(a, "later").await, 0);
}

/// A promise never ended: a centre that was to give up its data in its turn kept all that it had ever promised to hold. It ends when whoever it was given to says that it
/// relies on it no longer, and that says so only when others hold the data, or it holds the data itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_ends_when_nobody_relies_on_it() {
    let all = Sites::new(3).await;
    let sites = all.bucket("ended", 3, &BucketPolicy::default()).await;
    let (edge, first, second) = (&sites[0], &sites[1], &sites[2]);
    let id = |site: &Site| site.bucket.segment().id();
    put(edge, "x", 1).await;
    for centre in [first, second] {
        centre.pull(edge).await;
        centre.bucket.keep_data(true).await.unwrap();
        let early = centre.bucket.promise(&id(edge)).await.unwrap().unwrap();
        let keys: Vec<_> = centre.bucket.wanted(None, 9).await.unwrap().into_iter().map(|w| w.key).collect();
        centre.bucket.data_arrived(&keys).await.unwrap();
        let now = centre.bucket.promisable().await.unwrap().unwrap();
        assert!(early.get(&id(edge)) < now.get(&id(edge)), "its data had not come");
    }
    assert!(edge.bucket.release(&id(first)).await.unwrap(), "nothing was promised");
    let promised = first.bucket.promise(&id(edge)).await.unwrap().unwrap();
    edge.bucket.add_receipt(&id(first), &promised).await.unwrap();
    assert!(!edge.bucket.release(&id(first)).await.unwrap(), "nobody else has promised");
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert_eq!(left(edge, "x").await, 0);

    let other = second.bucket.promise(&id(edge)).await.unwrap().unwrap();
    edge.bucket.add_receipt(&id(second), &other).await.unwrap();
    edge.bucket.set_gather(Some(Gather { receipts: 2, ..AT_ONCE })).await.unwrap();
    assert!(!edge.bucket.release(&id(first)).await.unwrap(), "two are to hold it");
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert!(edge.bucket.release(&id(first)).await.unwrap());
    first.bucket.end_promise(&id(edge)).await.unwrap();
    assert_eq!(first.bucket.promises().await.unwrap(), []);
    assert_eq!(second.bucket.promises().await.unwrap(), [(id(edge), other)]);

    // The last one stays until all is here again.
    assert!(!edge.bucket.release(&id(second)).await.unwrap());
    edge.bucket.keep_data(true).await.unwrap();
    assert!(!edge.bucket.release(&id(second)).await.unwrap(), "it is still to come");
    let keys: Vec<_> = edge.bucket.wanted(None, 9).await.unwrap().into_iter().map(|w| w.key).collect();
    edge.bucket.data_arrived(&keys).await.unwrap();
    assert!(edge.bucket.release(&id(second)).await.unwrap());
    // Whoever is declared gone relies on nothing.
    second.bucket.introduce(&id(edge)).await.unwrap();
    assert!(second.bucket.forget_carrier(&id(edge)).await.unwrap());
    assert_eq!(second.bucket.promises().await.unwrap(), []);
}

/// A centre has seen what replaced an object before its data came, and never fetched that. The edge has not seen it, still shows the object, and gave its data up for
/// the promise.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_is_not_about_what_was_replaced_there() {
    let all = Sites::new(3).await;
    let sites = all.bucket("skipped", 3, &BucketPolicy::default()).await;
    let (edge, centre, third) = (&sites[0], &sites[1], &sites[2]);
    put(edge, "x", 1).await;
    third.pull(edge).await;
    third.bucket.put("other", "small", PutOptions::default()).await.unwrap();
    edge.pull(third).await;
    centre.pull(edge).await;
    centre.bucket.keep_data(true).await.unwrap();
    third.bucket.put("x", "small", PutOptions::default()).await.unwrap();
    centre.pull(third).await;
    assert_eq!(centre.bucket.wanted(None, 9).await.unwrap(), []);
    let promised = centre.bucket.promise(&edge.bucket.segment().id()).await.unwrap().unwrap();
    edge.bucket.add_receipt(&centre.bucket.segment().id(), &promised).await.unwrap();
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert_eq!(left(edge, "x").await, SIZE);
    // What it gives up next is what it shows when it knows as much as was promised.
    put(edge, "y", 2).await;
    edge.pull(centre).await;
    centre.pull(edge).await;
    let keys: Vec<_> = centre.bucket.wanted(None, 9).await.unwrap().into_iter().map(|w| w.key).collect();
    centre.bucket.data_arrived(&keys).await.unwrap();
    let promised = centre.bucket.promise(&edge.bucket.segment().id()).await.unwrap().unwrap();
    edge.bucket.add_receipt(&centre.bucket.segment().id(), &promised).await.unwrap();
    assert_eq!(left(edge, "y").await, 0);
}

/// What a segment promised that an operator has declared gone counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_a_forgotten_segment_does_not_count() {
    let all = Sites::new(2).await;
    let sites = all.bucket("gone", 2, &BucketPolicy::default()).await;
    let (edge, peer) = (&sites[0], sites[1].bucket.segment().id());
    put(edge, "x", 1).await;
    edge.bucket.introduce(&peer).await.unwrap();
    edge.bucket.add_receipt(&peer, &edge.bucket.vector().await.unwrap()).await.unwrap();
    assert!(edge.bucket.forget_carrier(&peer).await.unwrap());
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert_eq!(left(edge, "x").await, SIZE);
}

/// What a snapshot shows stays, whoever else holds it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_shows_is_not_given_up() {
    let all = Sites::new(2).await;
    let sites = all.bucket("snapshot", 2, &BucketPolicy::default()).await;
    let (edge, peer) = (&sites[0], sites[1].bucket.segment().id());
    put(edge, "x", 1).await;
    edge.bucket.create_snapshot("s").await.unwrap();
    edge.bucket.add_receipt(&peer, &edge.bucket.vector().await.unwrap()).await.unwrap();
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    assert_eq!(left(edge, "x").await, SIZE);
    edge.bucket.delete_snapshot("s").await.unwrap();
    assert_eq!(left(edge, "x").await, 0);
}

/// A copy made where its bytes are not is written here, and not here.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_is_elsewhere_is_not_promised() {
    let all = Sites::new(2).await;
    let sites = all.bucket("copied", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1].bucket);
    put(a, "x", 1).await;
    sites[1].pull(a).await;
    let object = b.get("x", GetOptions::default()).await.unwrap();
    b.copy(&object, "copy", CopyOptions::default()).await.unwrap();
    let own = b.segment().id();
    let sequence = b.vector().await.unwrap().get(&own);
    assert!(b.data_vector().await.unwrap().get(&own) < sequence, "names only");
    b.keep_data(true).await.unwrap();
    let wanted = b.wanted(None, 10).await.unwrap();
    assert!(wanted.iter().any(|w| w.path.as_deref() == Some(b"copy")), "{wanted:?}");
    assert!(b.promise(&a.bucket.segment().id()).await.unwrap().unwrap().get(&own) < sequence);
}

fn many(first: u64) -> VersionVector {
    let mut vector = VersionVector::new();
    for n in first..first + VersionVector::SEGMENTS_MAX as u64 {
        let mut id = [1; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        vector.advance(Dot { segment: SegmentId(id), sequence: 1 });
    }
    vector
}

/// P13: vectors that are each as long as they may be are refused where they would be longer together, and leave rows that can be read.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_do_not_grow_beyond_what_can_be_read() {
    let all = Sites::new(2).await;
    let sites = all.bucket("many", 2, &BucketPolicy::default()).await;
    let (edge, peer) = (&sites[0], &sites[1]);
    put(edge, "x", 1).await;
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    let id = peer.bucket.segment().id();
    edge.bucket.add_receipt(&id, &many(0)).await.unwrap();
    let refused = edge.bucket.add_receipt(&id, &many(1 << 32)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let honest = peer.bucket.changes_since(&edge.bucket.vector().await.unwrap()).await.unwrap();
    for lie in [
        namespace::Delta { to: many(0), ..honest.clone() },
        namespace::Delta { knows: many(0), floor: many(0), ..honest.clone() },
    ] {
        // One of them may be taken in; then the next is too much.
        let _ = edge.bucket.apply(&lie).await;
        let more = namespace::Delta { to: many(1 << 33), floor: many(1 << 33), knows: many(1 << 33), ..honest.clone() };
        assert!(edge.bucket.apply(&more).await.is_err());
    }
    assert!(!edge.bucket.vector().await.unwrap().is_empty());
    assert_eq!(left(edge, "x").await, SIZE, "collections go on");
}
