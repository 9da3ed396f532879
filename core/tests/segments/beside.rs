//! Local changes and deltas at the same time.

use crate::site::{Site, Sites};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tombolo_core::engine::fs::{Caller, ROOT, SetAttributes, SetTime};
use tombolo_core::*;

const TASKS: u64 = 8;
const CHANGES: u64 = 60;

fn roll(state: &mut u64, sides: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 8) % sides
}

/// Puts, deletes and renames of a few names that everybody uses.
async fn changes(bucket: Bucket, seed: u64) {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut key = || format!("{}{}", ["", "p/", "p/q/"][roll(&mut dice, 3) as usize], roll(&mut dice, 5));
    for nth in 0..CHANGES {
        let (from, to) = (key(), key());
        match nth % 5 {
            0..=2 => drop(bucket.put(&from, format!("{seed}-{nth}"), PutOptions::default()).await.unwrap()),
            3 => drop(bucket.delete(&from, DeleteOptions::default()).await.unwrap()),
            // What it was about may be gone, or its new directory.
            _ => drop(bucket.rename(&from, &to).await),
        }
    }
}

async fn write_beside_deltas(all: &Sites, name: &str, conflicts: ConflictPolicy) {
    let policy = BucketPolicy { conflicts, ..BucketPolicy::default() };
    let sites: Vec<Arc<Site>> = all.bucket(name, 2, &policy).await.into_iter().map(Arc::new).collect();
    let is_done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    let mut carriers = Vec::new();
    for (at, site) in sites.iter().enumerate() {
        for task in 0..TASKS {
            writers.push(tokio::spawn(changes(site.bucket.clone(), at as u64 * TASKS + task + 1)));
        }
        let (site, from, is_done) = (site.clone(), sites[1 - at].clone(), is_done.clone());
        carriers.push(tokio::spawn(async move {
            let mut deltas = 0;
            while !is_done.load(Ordering::Acquire) {
                let vector = site.bucket.vector().await.unwrap();
                let delta = from.bucket.changes_since(&vector).await.unwrap();
                deltas += u64::from(!delta.registers.is_empty());
                site.bucket.apply(&delta).await.unwrap();
            }
            deltas
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    is_done.store(true, Ordering::Release);
    for carrier in carriers {
        assert!(carrier.await.unwrap() > 0, "no delta came while there were changes: this tests nothing");
    }
    for site in &sites {
        site.check("the changes").await;
    }
    for (at, from) in [(0, 1), (1, 0)] {
        sites[at].pull(&sites[from]).await;
    }
    assert_eq!(sites[0].shows().await, sites[1].shows().await, "{name}");
    assert_eq!(sites[0].conflicts().await, sites[1].conflicts().await, "{name}");
    assert_eq!(sites[0].bucket.usage().await.unwrap(), sites[1].bucket.usage().await.unwrap(), "{name}");
}

/// Changes that are made while deltas are taken in leave what shows as the registers say, and both segments the same.
#[tokio::test(flavor = "multi_thread")]
async fn changes_and_deltas_at_once() {
    let all = Sites::new(2).await;
    let policies = [ConflictPolicy::KeepBoth, ConflictPolicy::LastWriterWins, ConflictPolicy::OriginWins];
    for (nth, conflicts) in policies.into_iter().enumerate() {
        write_beside_deltas(&all, &format!("beside-{nth}"), conflicts).await;
    }
}

/// P6, P7: C had a step of A's changes, which stands above a content that A has replaced by one that is still to come. That content came late, by way of B: it was taken for one that
/// was dropped, and what it replaced went. The file was not there until the next step.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_shows_while_what_replaced_its_content_is_on_its_way() {
    let all = Sites::new(3).await;
    let sites = all.bucket("on-its-way", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    let put = async |content: &str| a.bucket.put("z", content.to_owned(), PutOptions::default()).await.unwrap();
    put("1").await;
    b.pull(a).await;
    c.pull(a).await;
    put("2").await;
    b.pull(a).await;
    a.bucket.put("other", "x", PutOptions::default()).await.unwrap();
    put("3").await;
    let late = b.bucket.changes_since(&c.bucket.position().await.unwrap()).await.unwrap();
    let limit = DeltaLimit { registers: 1, bytes: usize::MAX };
    let (mut is_over, mut was_between) = (false, false);
    while !is_over {
        let step = a.bucket.changes_since_up_to(&c.bucket.position().await.unwrap(), limit).await.unwrap();
        is_over = step.is_whole;
        c.bucket.apply(&step).await.unwrap();
        c.bucket.apply(&late).await.unwrap();
        c.check("a step, and a delta that is late").await;
        let shown = c.shows().await.remove("z").unwrap();
        was_between |= shown == "2";
        assert!(["1", "2", "3"].contains(&shown.as_str()));
    }
    assert!(was_between, "no step ended between them");
    assert_eq!(c.shows().await, a.shows().await);
}

/// Attributes were one register: of a mode that was set here and a time or an extended attribute that were set there, one was gone, on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_are_set_in_two_places_are_both_kept() {
    let all = Sites::new(3).await;
    let sites = all.bucket("attributes", 3, &BucketPolicy::default()).await;
    let attributes = |mode, uid| Attributes { mode: Some(mode), uid: Some(uid), ..Attributes::default() };
    let options = PutOptions { attributes: Some(attributes(0o644, 1)), ..PutOptions::default() };
    sites[0].bucket.put("x", "x", options).await.unwrap();
    sites[1].pull(&sites[0]).await;
    sites[2].pull(&sites[0]).await;
    let root = Caller::root();
    let file = async |site: &Site| {
        let files = site.bucket.file_system();
        let there = files.lookup(&root, &ROOT, b"x").await.unwrap();
        (files, there)
    };
    let set = async |site: &Site, changes: SetAttributes| {
        let (files, there) = file(site).await;
        files.set_attributes(&root, &there.node, changes, None).await.unwrap();
    };
    let xattr = async |site: &Site, name: &str| {
        let (files, there) = file(site).await;
        files.set_xattr(&root, &there.node, name, Bytes::from(name.to_owned()), None).await.unwrap();
    };
    set(&sites[0], SetAttributes { mode: Some(0o600), ..SetAttributes::default() }).await;
    xattr(&sites[0], "user.a").await;
    set(&sites[1], SetAttributes { modified: SetTime::To(77), ..SetAttributes::default() }).await;
    set(&sites[2], SetAttributes { accessed: SetTime::To(88), ..SetAttributes::default() }).await;
    xattr(&sites[2], "user.b").await;
    for (to, from) in [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1), (0, 1), (1, 2)] {
        sites[to].pull(&sites[from]).await;
    }
    for site in &sites {
        let (files, there) = file(site).await;
        assert_eq!((there.mode & 0o7777, there.modified_ns, there.accessed_ns), (0o600, 77, 88));
        assert_eq!(files.list_xattrs(&root, &there.node).await.unwrap().len(), 2);
        let compared = crate::summaries::are_equal(&sites[0], site).await;
        assert!(compared.differences.is_empty(), "{compared:?}");
    }
}
