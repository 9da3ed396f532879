//! P11: a deleted bucket keeps what this segment has promised others to hold, as long as they rely on it: they may bring it back.

use crate::forgetting::tell;
use crate::site::{Site, Sites};
use crate::taken::{bytes, collect, linked, local, noise};
use tombolo_core::*;

const AT_ONCE: Gather = Gather { receipts: 1, delay_ms: 0, names: false };

/// Edge has written `x`, and given its data up for the promise of the centre, which has it. Everything else is deleted at the centre, and the bucket with it.
async fn given_up_and_deleted(all: &Sites, name: &str) -> Vec<Site> {
    let sites = all.bucket(name, 2, &BucketPolicy::default()).await;
    let (edge, centre) = (&sites[0], &sites[1]);
    let (from, to) = (edge.bucket.segment().id(), centre.bucket.segment().id());
    edge.bucket.put("x", noise(1), PutOptions::default()).await.unwrap();
    centre.pull(edge).await;
    // Its data comes too.
    let other: BucketPath = format!("All/lab/{name}-other").parse().unwrap();
    let other = centre.bucket.segment().catalog().create_bucket(&other, BucketPolicy::default()).await.unwrap();
    other.put("same", noise(1), PutOptions::default()).await.unwrap();
    centre.bucket.keep_data(true).await.unwrap();
    let keys: Vec<_> = centre.bucket.wanted(None, 9).await.unwrap().into_iter().map(|w| w.key).collect();
    centre.bucket.data_arrived(&keys).await.unwrap();
    other.delete("same", DeleteOptions::default()).await.unwrap();
    centre.bucket.segment().catalog().delete_bucket(other.path()).await.unwrap();
    let promised = centre.bucket.promise(&from).await.unwrap().unwrap();
    edge.bucket.add_receipt(&to, &promised).await.unwrap();
    edge.bucket.set_gather(Some(AT_ONCE)).await.unwrap();
    collect(edge).await;
    assert_eq!((local(edge, "x").await, local(centre, "x").await), (0, noise(1).len() as u64));

    centre.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    centre.bucket.segment().catalog().delete_bucket(centre.bucket.path()).await.unwrap();
    sites
}

async fn take_catalog(to: &Site, from: &Site) {
    let exported = from.bucket.segment().catalog().export(&|_| true).await.unwrap();
    to.bucket.segment().catalog().import(&exported, &|_| true).await.unwrap();
}

/// The centre's rows of the bucket went with it, its promise among them, and the next collection dropped the data. The edge had renamed the file meanwhile, and brought the
/// bucket back: its data was nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_bucket_holds_what_was_promised_until_it_comes_back() {
    let mut all = Sites::new(2).await;
    let sites = given_up_and_deleted(&all, "back").await;
    sites[0].bucket.rename("x", "y").await.unwrap();
    let path = sites[0].bucket.path().clone();
    assert_eq!(all.segments[1].bucket(&path).await.err().unwrap().kind(), ErrorKind::NotFound);
    drop(sites);
    all.reopen(1).await;
    let sites: Vec<_> = [all.segments[0].clone(), all.segments[1].clone()].into();
    sites[1].gc().await.unwrap();
    sites[1].gc().await.unwrap();
    let edge = Site { bucket: sites[0].bucket(&path).await.unwrap() };
    let exported = sites[1].catalog().export(&|_| true).await.unwrap();
    sites[0].catalog().import(&exported, &|_| true).await.unwrap();
    let exported = sites[0].catalog().export(&|_| true).await.unwrap();
    sites[1].catalog().import(&exported, &|_| true).await.unwrap();
    let centre = Site { bucket: sites[1].bucket(&path).await.unwrap() };
    assert_eq!(centre.bucket.promises().await.unwrap()[0].0, sites[0].id());
    for _ in 0..3 {
        edge.pull(&centre).await;
        centre.pull(&edge).await;
        tell(&edge, &centre).await;
    }
    collect(&centre).await;
    assert_eq!(local(&centre, "y").await, noise(1).len() as u64);
    let _link = linked(&edge, &centre);
    assert!(bytes(&edge, "y").await == noise(1) && bytes(&centre, "y").await == noise(1));
    sites[0].set_chunk_source(None);
    assert_eq!(edge.shows().await.keys().collect::<Vec<_>>(), ["y"]);
    assert!(!edge.bucket.is_comparing().await.unwrap() && !centre.bucket.is_comparing().await.unwrap());
}

/// When the edge has heard of the deletion it relies on nothing, and what was held for it goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_bucket_holds_goes_when_nobody_relies_on_it() {
    let all = Sites::new(2).await;
    for forgets in [false, true] {
        let sites = given_up_and_deleted(&all, &format!("goes-{forgets}")).await;
        let (edge, centre) = (&sites[0], &sites[1]);
        let (asker, segment) = (edge.bucket.segment().id(), centre.bucket.segment());
        let (catalog, id) = (segment.catalog(), edge.bucket.info().await.unwrap().id);
        assert!(collect(centre).await > 0);
        assert_eq!(catalog.promises_of_deleted().await.unwrap(), [(id, vec![asker])]);
        if forgets {
            assert_eq!(segment.forget_segment(&asker).await.unwrap(), 1);
        } else {
            edge.bucket.delete("x", DeleteOptions::default()).await.unwrap();
            take_catalog(edge, centre).await;
            let gone = edge.bucket.segment().catalog().bucket_with_id(&id).await;
            assert_eq!(gone.err().unwrap().kind(), ErrorKind::NotFound);
            assert!(!catalog.end_promise_of_deleted(&id, &segment.id()).await.unwrap());
            assert!(catalog.end_promise_of_deleted(&id, &asker).await.unwrap());
        }
        assert_eq!(catalog.promises_of_deleted().await.unwrap(), []);
        assert_eq!(collect(centre).await, 0);
    }
}

/// A bucket that is buried and comes back has forgotten what others promised it: it said that it relies on nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_comes_back_relies_on_no_earlier_promise() {
    let all = Sites::new(3).await;
    let sites = all.bucket("relies", 3, &BucketPolicy::default()).await;
    let (edge, centre, third) = (&sites[0], &sites[1], &sites[2]);
    // The edge holds all for the third, so its bucket is kept when it is deleted.
    edge.bucket.put("x", noise(1), PutOptions::default()).await.unwrap();
    third.pull(edge).await;
    edge.bucket.keep_data(true).await.unwrap();
    edge.bucket.promise(&third.bucket.segment().id()).await.unwrap().unwrap();
    edge.bucket.keep_data(false).await.unwrap();
    edge.bucket.add_receipt(&centre.bucket.segment().id(), &edge.bucket.vector().await.unwrap()).await.unwrap();
    edge.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    let (segment, path) = (edge.bucket.segment(), edge.bucket.path());
    segment.catalog().delete_bucket(path).await.unwrap();
    assert_eq!(segment.catalog().promises_of_deleted().await.unwrap().len(), 1);
    third.bucket.put("y", "y", PutOptions::default()).await.unwrap();
    take_catalog(third, edge).await;
    take_catalog(edge, third).await;
    let edge = Site { bucket: segment.bucket(path).await.unwrap() };
    assert!(edge.bucket.release(&centre.bucket.segment().id()).await.unwrap(), "there is nothing to release");
}
