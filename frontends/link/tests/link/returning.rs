//! Segments that were declared gone and return, as those see them who wait for what they have (P8, P11).

use crate::site::{DEADLINE, Site, eventually, noise};
use std::time::Duration;
use tombolo_core::{BucketPolicy, ErrorKind};
use tombolo_link::{Direction, Mode, Outcome, Scope};

const DATA: &str = "SF/lab/data";
/// Not enough for what can't come.
const SHORT: Duration = Duration::from_millis(300);

/// Two linked segments. The second one reads something, leaves, and is declared gone at the first.
async fn apart(keys: &[(u64, &str)], mode: Mode, read: &[&str]) -> (Site, Site) {
    let (sf, ny) = (Site::new("sf").await, Site::new("ny").await);
    sf.make_bucket(DATA, BucketPolicy::default()).await;
    for (seed, key) in keys {
        sf.put(DATA, key, noise(*seed, 1 << 20)).await;
    }
    sf.link(&ny, mode).await;
    ny.wait().await;
    let ny_id = ny.segment.id();
    let is_carrier = async || sf.bucket(DATA).await.carriers().await.unwrap().get(&ny_id).is_some();
    eventually("hearing of the other carrier", is_carrier).await;
    for key in read {
        ny.get(DATA, key).await.unwrap();
    }
    sf.door.set("ny", |link| link.paused = true).await.unwrap();
    eventually("the pause", async || !ny.door.status().await.unwrap().links[0].is_connected).await;
    assert_eq!(sf.door.forget(&ny_id).await.unwrap(), 1);
    (sf, ny)
}

/// The link comes up again, and nothing goes from the first to the second: that can't compare.
async fn meet_one_way(sf: &Site) {
    let one_way = |link: &mut tombolo_link::Link| (link.paused, link.direction) = (false, Direction::Receive);
    sf.door.set("ny", one_way).await.unwrap();
    let is_open = async || sf.door.status().await.unwrap().buckets[0].peers[0].is_open;
    eventually("meeting again", is_open).await;
}

/// No wait is over, and in the end, when both are connected for good, one says why.
async fn wait_in_vain(site: &Site, why: &str) {
    let says_why = async || {
        let late = site.door.wait(&Scope::everything(), Some(SHORT)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Offline);
        late.to_string().contains(why)
    };
    eventually(why, says_why).await;
}

/// P8: while a segment compares all that it holds it answered the question where it stands with where others are to begin, so a wait for what it has was over at once. What it alone
/// had came later. It was the same before it knew that it had been away too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_what_a_returning_segment_has_is_not_over_before_it_has_compared() {
    for knows in [false, true] {
        let (sf, ny) = apart(&[(30, "renamed"), (31, "stays")], Mode::Full, &[]).await;
        ny.bucket(DATA).await.rename("renamed", "mine").await.unwrap();
        sf.bucket(DATA).await.delete("renamed", Default::default()).await.unwrap();
        assert!(sf.segment.gc().await.unwrap().rows_dropped > 0);
        let here = ny.bucket(DATA).await;
        if knows {
            let delta = sf.bucket(DATA).await.changes_since(&here.position().await.unwrap()).await.unwrap();
            assert_eq!(here.apply(&delta).await.unwrap_err().kind(), ErrorKind::Precondition);
        }
        assert_eq!(here.is_comparing().await.unwrap(), knows);
        meet_one_way(&sf).await;
        wait_in_vain(&sf, if knows { "compares all that it holds" } else { "has not heard" }).await;
        assert!(sf.get(DATA, "mine").await.is_err());
        let peer = sf.door.status().await.unwrap().buckets[0].peers[0].clone();
        assert_eq!((peer.is_comparing, peer.is_here && knows), (knows, false));
        if knows {
            let says_why = async || {
                let outcome = sf.door.verify(&Scope::everything(), SHORT).await.unwrap().remove(0).outcome;
                assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
                matches!(outcome, Outcome::Unknown(why) if why.contains("compares"))
            };
            eventually("its word that it can't be verified", says_why).await;
        }

        sf.door.set("ny", |link| link.direction = Direction::Both).await.unwrap();
        sf.wait().await;
        assert_eq!(sf.get(DATA, "mine").await.unwrap(), noise(30, 1 << 20));
        assert!(!here.is_comparing().await.unwrap());
        ny.wait().await;
        let told = async || !sf.door.status().await.unwrap().buckets[0].peers[0].is_comparing;
        eventually("its word that it has compared", told).await;
        let verified = sf.door.verify(&Scope::everything(), DEADLINE).await.unwrap();
        assert!(
            matches!(&verified[0].outcome, Outcome::Compared(found) if found.differences.is_empty()),
            "{verified:?}"
        );
        for site in [sf, ny] {
            site.stop().await;
        }
    }
}

/// P3, P8, P11: a segment with names only was declared gone, and what it had renamed was deleted at the other one. It returns with names of bytes that nobody has any more, and of some that it
/// had read: those are everywhere afterwards, the others are named as missing, and are neither zeros nor "not found".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_returns_without_bytes_says_so_and_holds_nothing_else_up() {
    let (sf, ny) = apart(&[(40, "lost"), (41, "read"), (42, "stays")], Mode::Metadata, &["read"]).await;
    let here = ny.bucket(DATA).await;
    for key in ["lost", "read"] {
        here.rename(key, format!("my-{key}")).await.unwrap();
        sf.bucket(DATA).await.delete(key, Default::default()).await.unwrap();
    }
    ny.put(DATA, "new", noise(43, 1 << 20)).await;
    assert!(sf.segment.gc().await.unwrap().rows_dropped > 0);

    sf.door.set("ny", |link| link.paused = false).await.unwrap();
    ny.wait().await;
    wait_in_vain(&sf, "data of").await;
    for site in [&sf, &ny] {
        for (seed, key) in [(41, "my-read"), (42, "stays"), (43, "new")] {
            assert_eq!(site.get(DATA, key).await.unwrap(), noise(seed, 1 << 20), "{key} at {}", site.name);
        }
        assert_eq!(site.get(DATA, "my-lost").await.unwrap_err().kind(), ErrorKind::Offline, "{}", site.name);
    }
    let missing = async || {
        let status = &sf.door.status().await.unwrap().buckets[0];
        let named: Vec<_> = status.missing.iter().map(|missing| missing.path.clone().unwrap_or_default()).collect();
        (status.is_data_complete(), named)
    };
    let is_named = async || missing().await == (false, vec!["my-lost".into()]);
    eventually("naming just what nobody has", is_named).await;
    // Nothing waits for it any more when it is given up.
    ny.bucket(DATA).await.delete("my-lost", Default::default()).await.unwrap();
    sf.wait().await;
    assert_eq!(missing().await, (true, Vec::new()));
    for site in [sf, ny] {
        site.stop().await;
    }
}
