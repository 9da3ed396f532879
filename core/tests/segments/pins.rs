//! P8, P10: what is pinned is listed as wanted from the commit on that shows it, where else only names come.

use crate::site::{Site, Sites};
use tombolo_core::*;

fn large(byte: u8) -> Vec<u8> {
    vec![byte; 100_000]
}

async fn put(site: &Site, key: &str, byte: u8) {
    site.bucket.put(key, large(byte), PutOptions::default()).await.unwrap();
}

/// What is wanted, sorted.
async fn wanted(site: &Site) -> Vec<String> {
    let wanted = site.bucket.wanted(None, 100).await.unwrap();
    let path = |w: &Wanted| String::from_utf8_lossy(w.path.as_ref().unwrap()).into_owned();
    let mut paths: Vec<String> = wanted.iter().map(path).collect();
    paths.sort();
    paths
}

/// All that is wanted has come.
async fn bring(site: &Site) {
    let keys: Vec<_> = site.bucket.wanted(None, 100).await.unwrap().into_iter().map(|w| w.key).collect();
    site.bucket.data_arrived(&keys).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_wanted_now_and_as_it_changes() {
    let all = Sites::new(2).await;
    let sites = all.bucket("pins", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    for (at, key) in ["p/one", "p/deep/two", "pq", "alone", "other/three"].into_iter().enumerate() {
        put(a, key, at as u8).await;
    }
    b.pull(a).await;
    assert_eq!(wanted(b).await, [""; 0]);

    b.bucket.pin("p").await.unwrap();
    b.bucket.pin("alone").await.unwrap();
    assert!(b.bucket.pins().await.unwrap().iter().all(Pin::is_listed));
    assert_eq!(wanted(b).await, ["alone", "p/deep/two", "p/one"]);
    assert!(b.bucket.wanted(None, 100).await.unwrap().iter().all(|w| w.stay == Stay::AsLongAsPinned));
    bring(b).await;

    // New, changed, renamed and linked files below a pin, and others.
    put(a, "p/new", 10).await;
    put(a, "p/one", 11).await;
    put(a, "pq", 12).await;
    a.bucket.rename("other/three", "p/three").await.unwrap();
    a.bucket.link("pq", "p/linked").await.unwrap();
    b.pull(a).await;
    assert_eq!(wanted(b).await, ["p/linked", "p/new", "p/one", "p/three"], "and nothing that came before again");
    bring(b).await;

    b.bucket.unpin("p").await.unwrap();
    put(a, "p/late", 13).await;
    put(a, "alone", 14).await;
    b.pull(a).await;
    assert_eq!(wanted(b).await, ["alone"]);
    b.bucket.unpin("alone").await.unwrap();
    assert_eq!(wanted(b).await, [""; 0], "nobody wants it any more");
    assert_eq!(b.bucket.unpin("alone").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(b.bucket.pins().await.unwrap(), []);
}

/// A whole directory comes below a pin by one change, made here or there: what is in it is listed, and until then nothing says that it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_directory_is_listed() {
    let all = Sites::new(2).await;
    let sites = all.bucket("moved", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "far/sub/x", 1).await;
    put(a, "near/y", 2).await;
    put(a, "p/z", 3).await;
    b.pull(a).await;
    b.bucket.pin("p/").await.unwrap();
    bring(b).await;

    a.bucket.rename("far", "p/far").await.unwrap();
    b.pull(a).await;
    assert!(!b.bucket.pins().await.unwrap()[0].is_listed());
    b.bucket.list_pins().await.unwrap();
    assert!(b.bucket.pins().await.unwrap()[0].is_listed());
    assert!(wanted(b).await.contains(&"p/far/sub/x".to_string()));
    bring(b).await;

    b.bucket.rename("near", "p/near").await.unwrap();
    assert!(!b.bucket.pins().await.unwrap()[0].is_listed());
    b.bucket.list_pins().await.unwrap();
    assert!(wanted(b).await.contains(&"p/near/y".to_string()));
    bring(b).await;

    // What is above it moves as well: `up/p/` becomes `p/`.
    b.bucket.pin("up/").await.unwrap();
    a.bucket.mkdir("top", Attributes::default()).await.unwrap();
    a.bucket.rename("p", "top/p").await.unwrap();
    b.pull(a).await;
    assert!(b.bucket.pins().await.unwrap().iter().all(Pin::is_listed), "nothing came below a pin");
    a.bucket.rename("top", "up").await.unwrap();
    b.pull(a).await;
    b.bucket.list_pins().await.unwrap();
    assert_eq!(wanted(b).await, ["up/p/far/sub/x", "up/p/near/y", "up/p/z"]);
    // A directory that comes with nothing in it costs no pass.
    bring(b).await;
    a.bucket.mkdir("up/empty", Attributes::default()).await.unwrap();
    put(a, "up/made/w", 5).await;
    b.pull(a).await;
    assert!(b.bucket.pins().await.unwrap().iter().all(Pin::is_listed));
    assert_eq!(wanted(b).await, ["up/made/w"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_persisted_is_wanted_whatever_is_pinned() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("kept", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "p/one", 1).await;
    put(a, "two", 2).await;
    b.pull(a).await;
    assert_eq!(b.bucket.persist("p").await.unwrap(), 1);
    assert_eq!(b.bucket.persist("nothing").await.unwrap_err().kind(), ErrorKind::NotFound);
    b.bucket.pin("p/one").await.unwrap();
    b.bucket.unpin("p/one").await.unwrap();
    let listed = b.bucket.wanted(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|w| w.stay).collect::<Vec<_>>(), [Stay::ForGood]);

    // A pin outlives the process, and a link that brings all data for a while.
    b.bucket.pin("").await.unwrap();
    b.bucket.keep_data(true).await.unwrap();
    b.bucket.keep_data(false).await.unwrap();
    assert!(!b.bucket.pins().await.unwrap()[0].is_listed(), "meanwhile nothing was held against it");
    let path = b.bucket.path().clone();
    drop(sites);
    all.reopen(1).await;
    let bucket = all.segments[1].bucket(&path).await.unwrap();
    bucket.list_pins().await.unwrap();
    let mut stays: Vec<_> = bucket.wanted(None, 10).await.unwrap().into_iter().map(|w| (w.path, w.stay)).collect();
    stays.sort_by_key(|(path, stay)| (path.clone(), *stay == Stay::ForGood));
    let path = |text: &'static str| Some(bytes::Bytes::from_static(text.as_bytes()));
    let expected =
        [(path("p/one"), Stay::AsLongAsPinned), (path("p/one"), Stay::ForGood), (path("two"), Stay::AsLongAsPinned)];
    assert_eq!(stays, expected);
}

/// Where only the data of what is new is to come, a pin brings what is older all the same, also what is renamed below it later.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_counts_where_only_new_data_comes() {
    let all = Sites::new(2).await;
    let sites = all.bucket("pins-later", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "cold/x", 1).await;
    a.bucket.mkdir("hot", Attributes::default()).await.unwrap();
    b.pull(a).await;
    b.bucket.keep_new_data().await.unwrap();
    b.bucket.pin("hot").await.unwrap();
    a.bucket.rename("cold/x", "hot/x").await.unwrap();
    b.pull(a).await;
    assert_eq!(wanted(b).await, ["hot/x"]);
}
