//! P3, P7, P8: over a link whose versions show with their data.

use crate::site::{DEADLINE, Site, eventually, eventually_at, noise};
use std::collections::BTreeSet;
use std::time::Duration;
use tombolo_core::{BucketPolicy, ErrorKind, ListItem, ListOptions};
use tombolo_link::status::BucketStatus;
use tombolo_link::{Mode, Scope, Visible};

const DATA: &str = "SF/lab/data";

async fn keys(site: &Site) -> BTreeSet<String> {
    let listed = site.bucket(DATA).await.list(ListOptions { limit: 1000, ..Default::default() }).await.unwrap();
    let key = |item: &ListItem| match item {
        ListItem::Object(object) => String::from_utf8_lossy(&object.key).into_owned(),
        ListItem::Prefix(prefix) => String::from_utf8_lossy(prefix).into_owned(),
    };
    listed.items.iter().map(key).collect()
}

async fn status(site: &Site) -> BucketStatus {
    let buckets = site.door.status().await.unwrap().buckets;
    buckets.into_iter().find(|bucket| bucket.path.to_string() == DATA).unwrap()
}

async fn set_whole(site: &Site, peer: &str, patience_s: u64) {
    let change = move |link: &mut tombolo_link::Link| {
        (link.visible, link.whole_patience_s) = (Visible::Whole, patience_s);
    };
    site.door.set(peer, change).await.unwrap();
}

/// Each round writes a large object and then says so in a small one. Whoever sees the word finds the object, and whoever sees an object has its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_shows_before_its_bytes_and_order_is_kept() {
    const ROUNDS: u64 = 12;
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    set_whole(&ny, "sf", 3600).await;
    let writing = async {
        for round in 0..ROUNDS {
            sf.put(DATA, &format!("large-{round}"), noise(100 + round, 600_000)).await;
            sf.put(DATA, &format!("word-{round}"), "it is there").await;
        }
    };
    let bucket = ny.bucket(DATA).await;
    let reading = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        loop {
            let seen = keys(&ny).await;
            for key in &seen {
                if let Some(round) = key.strip_prefix("word-") {
                    assert!(seen.contains(&format!("large-{round}")), "{seen:?}");
                }
                let object = bucket.get(key.as_str(), Default::default()).await.unwrap();
                let (here, of) = object.local_bytes().await.unwrap();
                assert_eq!(here, of, "{key} shows");
            }
            if seen.len() as u64 == 2 * ROUNDS {
                return;
            }
            looks.tick().await;
        }
    };
    let (_, read) = tokio::join!(writing, tokio::time::timeout(DEADLINE, reading));
    assert!(read.is_ok(), "not all of it shows in the end");
    ny.wait().await;
    let status = status(&ny).await;
    assert!(status.shows_whole && status.is_data_complete() && status.waiting_objects == 0, "{status:?}");
    assert_eq!(status.data_vector, status.vector);

    // The way back is as it was.
    ny.put(DATA, "back", noise(200, 600_000)).await;
    sf.wait().await;
    assert!(!self::status(&sf).await.shows_whole);
    drop(bucket);
    for site in [sf, ny] {
        site.stop().await;
    }
}

const LOST: usize = 8 << 20;

/// What nobody delivers holds up what comes behind it from there, and nothing else, and not for ever. Its data comes when somebody has it again: a chunk that one of two
/// segments did not have could wait for ever, because who was woken for it was a worker of the one that had been asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_delivers_is_listed_and_the_rest_goes_on() {
    let (sf, hub, ny, la) =
        (Site::new("sf").await, Site::new("hub").await, Site::new("ny").await, Site::new("la").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.put(DATA, "first", noise(300, 600_000)).await;
    sf.link(&hub, Mode::Metadata).await;
    hub.wait().await;
    hub.link(&ny, Mode::Full).await;
    ny.wait().await;
    ny.link(&la, Mode::Full).await;
    la.wait().await;
    set_whole(&ny, "hub", 3600).await;
    ny.door.set("hub", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || {
        !hub.door.status().await.unwrap().links.iter().any(|link| link.name == "ny" && link.is_connected)
    })
    .await;
    // The hub has the name, and the data is where nobody can reach it.
    // One frame of each connection; the next is due in days: the hub has begun to fetch it.
    sf.door.set("hub", |link| link.rate_bytes_per_second = Some(1)).await.unwrap();
    sf.put(DATA, "lost", noise(301, LOST)).await;
    eventually("the name at the hub", async || keys(&hub).await.contains("lost")).await;
    sf.door.set("hub", |link| link.rate_bytes_per_second = None).await.unwrap();
    let address = sf.door.addresses()[0];
    let (name, dir) = sf.stop().await;
    hub.put(DATA, "behind", "it").await;
    ny.door.set("hub", |link| link.paused = false).await.unwrap();
    let tried = async || {
        let status = status(&ny).await;
        status.waiting.iter().any(|waiting| waiting.path.as_deref() == Some(b"lost") && waiting.reason != "on its way")
    };
    eventually_at(&[&hub, &ny, &la], "trying in vain", tried).await;
    let waits = status(&ny).await;
    assert_eq!((waits.waiting_objects, waits.waiting_bytes, waits.missing_objects), (1, LOST as u64, 0), "{waits:?}");
    assert!(waits.peers.iter().any(|peer| peer.name == "hub" && !peer.is_here), "{waits:?}");
    la.put(DATA, "beside", noise(302, 600_000)).await;
    eventually("what came from elsewhere", async || keys(&ny).await.contains("beside")).await;
    assert_eq!(keys(&ny).await, ["beside".to_owned(), "first".to_owned()].into());
    let late = ny.door.wait(&Scope::everything(), Some(Duration::from_millis(300))).await.unwrap_err();
    assert!(late.kind() == ErrorKind::Offline && late.to_string().contains("names"), "{late}");

    set_whole(&ny, "hub", 0).await;
    eventually("the end of patience", async || keys(&ny).await.len() == 4).await;
    let given_up = status(&ny).await;
    assert_eq!((given_up.waiting_objects, given_up.missing_objects), (0, 1), "{given_up:?}");
    assert_eq!(given_up.missing[0].path.as_deref(), Some(&b"lost"[..]));
    assert!(!given_up.is_data_complete() && given_up.missing[0].reason != "on its way", "{given_up:?}");
    let late = ny.door.wait(&Scope::everything(), Some(Duration::from_millis(300))).await.unwrap_err();
    assert!(late.kind() == ErrorKind::Offline && late.to_string().contains("data"), "{late}");
    // What is listed holds nothing up.
    hub.put(DATA, "later", "still").await;
    eventually("what comes after it", async || keys(&ny).await.contains("later")).await;

    let sf = Site::start(&name, dir, address).await;
    let arrived = async || {
        ny.door.look_for_data();
        status(&ny).await.missing_objects == 0
    };
    eventually("the data's arrival", arrived).await;
    assert_eq!(ny.get(DATA, "lost").await.unwrap(), noise(301, LOST));
    for site in [sf, hub, ny, la] {
        site.stop().await;
    }
}

/// A delta whose data is on its way is let go with its connection and comes again; when versions are to show early it shows as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_outlives_connections_and_shows_when_the_link_says_so() {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    sf.link(&ny, Mode::Full).await;
    ny.wait().await;
    set_whole(&ny, "sf", 3600).await;
    // One frame of each connection; the next is due in days.
    sf.door.set("ny", |link| link.rate_bytes_per_second = Some(1)).await.unwrap();
    sf.put(DATA, "large", noise(400, 8 << 20)).await;
    sf.put(DATA, "small", "behind it").await;
    let waits = async || status(&ny).await.waiting_objects == 1;
    eventually("waiting", waits).await;
    let ny = ny.restart().await;
    eventually("waiting again", async || status(&ny).await.waiting_objects == 1).await;
    let sf = sf.restart().await;
    eventually("waiting on another connection", async || status(&ny).await.waiting_objects == 1).await;
    assert!(keys(&ny).await.is_empty());
    ny.door.set("sf", |link| link.visible = Visible::Early).await.unwrap();
    eventually("the names", async || keys(&ny).await.len() == 2).await;
    let early = status(&ny).await;
    assert_eq!((early.shows_whole, early.waiting_objects, early.missing_objects), (false, 0, 1), "{early:?}");
    sf.door.set("ny", |link| link.rate_bytes_per_second = None).await.unwrap();
    // What is paced already stays so for its connection.
    ny.door.set("sf", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || !sf.door.status().await.unwrap().links[0].is_connected).await;
    ny.door.set("sf", |link| link.paused = false).await.unwrap();
    ny.wait().await;
    assert_eq!(ny.get(DATA, "large").await.unwrap(), noise(400, 8 << 20));
    for site in [sf, ny] {
        site.stop().await;
    }
}
