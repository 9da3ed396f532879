//! Where the policy keeps one winner: who lost is an older version of the name, until a change settles it.

use crate::site::{Site, Sites, in_conflict, versions};
use std::collections::BTreeMap;
use tombolo_core::*;

/// Where one winner is kept, a change of the name settles its conflicts for everybody: what lost does not come to light when the winner goes.
#[tokio::test(flavor = "multi_thread")]
async fn one_winner_is_kept_until_a_change_settles_it() {
    let all = Sites::new(2).await;
    let policies = [ConflictPolicy::LastWriterWins, ConflictPolicy::OriginWins];
    for (nth, conflicts) in policies.into_iter().enumerate() {
        for versioning in [Versioning::Off, Versioning::On] {
            for edits in [false, true] {
                for settles in ["put", "delete", "rename"] {
                    let policy = BucketPolicy { conflicts, versioning, ..BucketPolicy::default() };
                    let is_kept = versioning == Versioning::On;
                    let name = format!("winner-{nth}-{}-{}-{settles}", u8::from(is_kept), u8::from(edits));
                    let sites = all.bucket(&name, 2, &policy).await;
                    let (a, b) = (&sites[0], &sites[1]);
                    if edits {
                        a.bucket.put("x", "first", PutOptions::default()).await.unwrap();
                        b.pull(a).await;
                    }
                    a.bucket.put("x", "a", PutOptions::default()).await.unwrap();
                    b.writes_after(a).await;
                    b.bucket.put("x", "b", PutOptions::default()).await.unwrap();
                    a.pull(b).await;
                    b.pull(a).await;
                    // B wrote last, A is where the bucket was made.
                    let (winner, loser) =
                        if conflicts == ConflictPolicy::LastWriterWins { ("b", "a") } else { ("a", "b") };
                    for site in [a, b] {
                        assert_eq!(site.shows().await, BTreeMap::from([("x".into(), winner.into())]), "{name}");
                        assert_eq!(site.hidden().await, [("x".to_string(), loser.to_string())], "{name}");
                        let listed = versions(site).await;
                        assert_eq!(listed[..2], [winner, loser], "{name}");
                        assert_eq!(site.bucket.stat("x").await.unwrap().size, 1);
                    }
                    match settles {
                        "put" => drop(a.bucket.put("x", "new", PutOptions::default()).await.unwrap()),
                        "delete" => drop(a.bucket.delete("x", DeleteOptions::default()).await.unwrap()),
                        _ => a.bucket.rename("x", "z").await.unwrap(),
                    }
                    a.check(settles).await;
                    b.pull(a).await;
                    let wanted: BTreeMap<String, String> = match settles {
                        "put" => BTreeMap::from([("x".into(), "new".into())]),
                        "delete" => BTreeMap::new(),
                        _ => BTreeMap::from([("z".into(), winner.into())]),
                    };
                    for site in [a, b] {
                        assert_eq!(site.shows().await, wanted, "{name}");
                        // Two edits of one file go where it goes.
                        let moved = edits && settles == "rename";
                        let hidden = if moved { vec![("z".to_string(), loser.to_string())] } else { vec![] };
                        assert_eq!(site.hidden().await, hidden, "{name}");
                        assert_eq!(versions(site).await.contains(&loser.to_string()), is_kept || moved, "{name}");
                    }
                    assert_eq!(a.bucket.usage().await.unwrap(), b.bucket.usage().await.unwrap(), "{name}");
                }
            }
        }
    }
}

/// One of several that lost can be deleted by itself, as any older version.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_lost_can_be_deleted() {
    let all = Sites::new(3).await;
    for edits in [false, true] {
        let policy = BucketPolicy { conflicts: ConflictPolicy::LastWriterWins, ..BucketPolicy::default() };
        let sites = all.bucket(&format!("lost-{edits}"), 3, &policy).await;
        if edits {
            sites[0].bucket.put("x", "first", PutOptions::default()).await.unwrap();
            sites[1].pull(&sites[0]).await;
            sites[2].pull(&sites[0]).await;
        }
        for (nth, content) in ["a", "b", "c"].into_iter().enumerate() {
            sites[nth].writes_after(&sites[nth.saturating_sub(1)]).await;
            sites[nth].bucket.put("x", content, PutOptions::default()).await.unwrap();
        }
        sites[0].pull(&sites[1]).await;
        sites[0].pull(&sites[2]).await;
        assert_eq!(versions(&sites[0]).await, ["c", "b", "a"]);
        let conflicts = sites[0].conflicts().await;
        let mut version = None;
        for conflict in conflicts {
            if sites[0].version(b"x", conflict.version).await == "b" {
                version = conflict.version;
            }
        }
        let deleted = sites[0].bucket.delete("x", DeleteOptions { version, ..DeleteOptions::default() }).await.unwrap();
        assert!(deleted.existed);
        sites[0].check("the delete").await;
        for site in &sites[1..] {
            site.pull(&sites[0]).await;
            assert_eq!(versions(site).await, ["c", "a"], "{edits}");
        }
        assert_eq!(versions(&sites[0]).await, ["c", "a"], "{edits}");
    }
}

/// Another policy shows the conflicts that there are in another way, wherever it comes from.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_shows_old_conflicts_anew() {
    let all = Sites::new(2).await;
    for edits in [false, true] {
        let sites = in_conflict(&all, &format!("policy-{edits}"), &BucketPolicy::default(), edits).await;
        let (a, b) = (&sites[0], &sites[1]);
        let path = a.bucket.path().clone();
        for (conflicts, winner) in [
            (ConflictPolicy::LastWriterWins, "b"),
            (ConflictPolicy::OriginWins, "a"),
            (ConflictPolicy::KeepBoth, "b"),
            (ConflictPolicy::OriginWins, "a"),
        ] {
            let policy = BucketPolicy { conflicts, ..BucketPolicy::default() };
            let catalog = a.bucket.segment().catalog();
            catalog.set_policy(&path, policy).await.unwrap();
            let exported = catalog.export(&|_| true).await.unwrap();
            b.bucket.segment().catalog().import(&exported, &|_| true).await.unwrap();
            for site in [a, b] {
                site.check("the policy").await;
                let shows = site.shows().await;
                assert_eq!(shows["x"], winner, "{conflicts:?} {edits}");
                let is_shown = conflicts == ConflictPolicy::KeepBoth;
                assert_eq!((shows.len(), site.hidden().await.len()), if is_shown { (2, 0) } else { (1, 1) });
                assert_eq!(site.bucket.usage().await.unwrap().objects, shows.len() as u64);
            }
        }
    }
}

/// A bucket that had one winner from the start, where it was made: nothing had noted by which rules its conflicts were derived, so what had lost did not show when the policy said that
/// it should. Found by a schedule.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_made_with_one_winner_shows_all_when_its_policy_says_so() {
    let all = Sites::new(2).await;
    let one = BucketPolicy { conflicts: ConflictPolicy::LastWriterWins, ..BucketPolicy::default() };
    let sites = all.bucket("one-at-first", 2, &one).await;
    for site in &sites {
        site.bucket.put("x", "content", PutOptions::default()).await.unwrap();
    }
    sites[0].pull(&sites[1]).await;
    assert_eq!((sites[0].shows().await.len(), sites[0].hidden().await.len()), (1, 1));
    let catalog = sites[0].bucket.segment().catalog();
    catalog.set_policy(sites[0].bucket.path(), BucketPolicy::default()).await.unwrap();
    sites[0].check("the policy").await;
    assert_eq!((sites[0].shows().await.len(), sites[0].hidden().await.len()), (2, 0));
}

/// Also when it came while the bucket was not in use: as a process that ended between the change of the policy and what follows from it leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_opens_by_its_newest_policy() {
    let mut all = Sites::new(2).await;
    let sites = in_conflict(&all, "opened", &BucketPolicy::default(), false).await;
    let path = sites[0].bucket.path().clone();
    drop(sites);
    all.reopen(1).await;
    let policy = BucketPolicy { conflicts: ConflictPolicy::OriginWins, ..BucketPolicy::default() };
    let catalog = all.segments[0].catalog();
    catalog.set_policy(&path, policy).await.unwrap();
    let exported = catalog.export(&|_| true).await.unwrap();
    all.segments[1].catalog().import(&exported, &|_| true).await.unwrap();
    let site = Site { bucket: all.segments[1].bucket(&path).await.unwrap() };
    site.check("opening").await;
    assert_eq!(site.shows().await.into_values().collect::<Vec<_>>(), ["a"]);
}
