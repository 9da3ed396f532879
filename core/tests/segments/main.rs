//! P5 and P6 through the engine: segments that work apart on one bucket and exchange deltas, in any order, late and twice,
//! end up showing the same, and nobody's content is gone unless somebody who had seen it deleted or replaced it.
//!
//! After every change and every delta what shows is what the registers say, derived at once.
//!
//! `TOMBOLO_SEEDS` sets how many schedules are tried; a failure names its seed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

mod away;
mod beside;
mod buckets;
mod buried;
mod cached;
mod copies;
mod decisions;
mod deletions;
mod forgetting;
mod gathered;
mod matrix;
mod opened;
mod pins;
mod site;
mod summaries;
mod taken;
mod whole;
mod winners;

use site::{Site, Sites};
use std::collections::BTreeSet;
use tombolo_core::namespace::{Delta, DeltaRegister};
use tombolo_core::*;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

/// Some of a delta's registers; taking them in does not move the receiver on.
fn part_of(delta: &Delta, dice: &mut Dice) -> Delta {
    let registers = delta.registers.iter().filter(|_| dice.roll(3) > 0).cloned().collect();
    Delta { from: delta.to.clone(), registers, ..delta.clone() }
}

const DIRECTORIES: [&str; 6] = ["p", "q", "p/r", "q/s", "p/r/t", "q/p"];

/// One change of any kind. What it was about, so that its content may go, is added to `gone`.
async fn change(
    site: &Site,
    dice: &mut Dice,
    content: String,
    written: &mut BTreeSet<String>,
    gone: &mut BTreeSet<String>,
) {
    let shows = site.shows().await;
    let bucket = &site.bucket;
    let directory = dice.pick(&["", "", "p/", "q/", "p/r/", "q/p/"]);
    let mut key = format!("{directory}{}", dice.pick(&["x", "y.txt", "z"]));
    if !shows.is_empty() && dice.roll(3) == 0 {
        // What is there already, conflict copies too.
        let at = usize::try_from(dice.roll(shows.len() as u64)).unwrap();
        key = shows.keys().nth(at).unwrap().clone();
    }
    let hidden = site.hidden().await;
    let settled = |key: &str, gone: &mut BTreeSet<String>| {
        gone.extend(hidden.iter().filter(|(of, _)| of == key).map(|(_, content)| content.clone()));
    };
    let what;
    match dice.roll(14) {
        0..=4 => {
            what = format!("put {key}");
            settled(&key, gone);
            if let Some(old) = shows.get(&key) {
                gone.insert(old.clone());
            }
            if !key.ends_with('/') {
                written.insert(content.clone());
                bucket.put(&key, content, PutOptions::default()).await.unwrap();
            }
        }
        5 | 6 => {
            what = format!("delete {key}");
            settled(&key, gone);
            if let Some(old) = shows.get(&key) {
                gone.insert(old.clone());
            }
            bucket.delete(&key, DeleteOptions::default()).await.unwrap();
        }
        7 => {
            let path = dice.pick(&DIRECTORIES);
            what = format!("mkdir {path}");
            drop(bucket.mkdir(path, Attributes::default()).await);
        }
        8 => {
            let path = dice.pick(&DIRECTORIES);
            what = format!("rmdir {path}");
            drop(bucket.rmdir(path).await);
        }
        9 | 10 => {
            let to = dice.pick(&["x", "y.txt", "z", "p/x", "q/z"]);
            what = format!("rename {key} to {to}");
            if key != to && bucket.rename(&key, to).await.is_ok() {
                gone.extend(shows.get(to).cloned());
                settled(&key, gone);
                settled(to, gone);
            }
        }
        11 => {
            let to = dice.pick(&["x", "l", "p/l", "q/y.txt"]);
            what = format!("link {key} to {to}");
            drop(bucket.link(&key, to).await);
        }
        _ => {
            let (from, to) = (dice.pick(&DIRECTORIES), dice.pick(&DIRECTORIES));
            what = format!("rename {from}/ to {to}/");
            drop(bucket.rename(from, to).await);
        }
    }
    println!("    {what}");
    site.check(&what).await;
}

/// Everybody hears all of everybody.
async fn deliver(sites: &[Site]) {
    for _ in 0..4 {
        for a in 0..sites.len() {
            for b in 0..sites.len() {
                if a != b {
                    sites[a].pull(&sites[b]).await;
                }
            }
        }
    }
    for site in sites {
        assert!(!site.bucket.is_comparing().await.unwrap(), "it still compares");
    }
}

/// Returns whether there was a conflict.
async fn schedule(all: &Sites, seed: u64, is_handed_over: bool) -> bool {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let conflicts = [ConflictPolicy::KeepBoth, ConflictPolicy::LastWriterWins, ConflictPolicy::OriginWins];
    let conflicts = conflicts[usize::try_from(seed / 3 % 3).unwrap()];
    let policy = BucketPolicy { conflicts, ..BucketPolicy::default() };
    let name = format!("b{}{seed}", u8::from(is_handed_over));
    let sites = all.bucket(&name, 2 + usize::try_from(seed % 3).unwrap(), &policy).await;
    let (mut written, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let mut old_deltas: Vec<Delta> = Vec::new();
    for step in 0..30u64 {
        let at = usize::try_from(dice.roll(sites.len() as u64)).unwrap();
        let from = (at + 1 + usize::try_from(dice.roll(sites.len() as u64 - 1)).unwrap()) % sites.len();
        if is_handed_over {
            for other in 0..sites.len() {
                if other != at {
                    sites[at].pull(&sites[other]).await;
                }
            }
        } else {
            match dice.roll(20) {
                0..=3 => {
                    println!("  {at} pulls from {from}");
                    old_deltas.push(sites[at].pull(&sites[from]).await);
                    continue;
                }
                4 if !old_deltas.is_empty() => {
                    let late = &old_deltas[usize::try_from(dice.roll(old_deltas.len() as u64)).unwrap()];
                    println!("  {at} takes a late delta");
                    sites[at].apply_late(late).await;
                    continue;
                }
                5 => {
                    println!("  {at} takes a part of what {from} has");
                    let vector = sites[at].bucket.vector().await.unwrap();
                    let delta = sites[from].bucket.changes_since(&vector).await.unwrap();
                    sites[at].apply_late(&part_of(&delta, &mut dice)).await;
                    old_deltas.push(delta);
                    continue;
                }
                6 | 7 => {
                    println!("  {at} and {from} tell each other");
                    forgetting::tell(&sites[at], &sites[from]).await;
                    continue;
                }
                8 => {
                    println!("  {at} drops {}", forgetting::drop_all(&sites[at]).await);
                    continue;
                }
                9 if dice.roll(4) == 0 => {
                    // It may not have been heard of.
                    println!("  {at} forgets {from}");
                    drop(sites[at].bucket.forget_carrier(&sites[from].bucket.segment().id()).await);
                    continue;
                }
                _ => {}
            }
        }
        println!("  {at}, {seed}-{step}:");
        change(&sites[at], &mut dice, format!("{seed}-{step}"), &mut written, &mut gone).await;
    }
    deliver(&sites).await;
    let before = sites[0].shows().await;
    // Nothing comes or goes by dropping what all have.
    for _ in 0..2 {
        for (a, b) in (0..sites.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
            forgetting::tell(&sites[a], &sites[b]).await;
        }
    }
    for site in &sites {
        forgetting::drop_all(site).await;
    }
    deliver(&sites).await;
    let first = sites[0].shows().await;
    assert_eq!(first, before, "P5, seed {seed}");
    for other in &sites[1..] {
        assert_eq!(other.shows().await, first, "P5, seed {seed}");
        assert_eq!(other.bucket.usage().await.unwrap(), sites[0].bucket.usage().await.unwrap(), "usage, seed {seed}");
        let compared = summaries::are_equal(&sites[0], other).await;
        assert!(compared.differences.is_empty(), "P5, seed {seed}: {compared:?}");
    }
    let mut shown: BTreeSet<_> = first.values().cloned().collect();
    let hidden = sites[0].hidden().await;
    shown.extend(hidden.iter().map(|(_, content)| content.clone()));
    for other in &sites[1..] {
        assert_eq!(other.hidden().await, hidden, "P5, seed {seed}");
    }
    let lost: Vec<_> = written.iter().filter(|c| !gone.contains(*c) && !shown.contains(*c)).collect();
    assert!(lost.is_empty(), "P6, seed {seed}: lost {lost:?}, shown {first:?}");
    !sites[0].conflicts().await.is_empty()
}

fn seeds() -> u64 {
    std::env::var("TOMBOLO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_converge_and_nothing_is_lost() {
    let sites = Sites::new(4).await;
    let mut conflicts = 0;
    for seed in first_seed()..first_seed() + seeds() {
        println!("seed {seed}");
        conflicts += u64::from(schedule(&sites, seed, false).await);
    }
    println!("{} schedules, {conflicts} with conflicts", seeds());
    assert!(conflicts > 0, "the schedules had no conflicts: they test nothing");
}

/// `TOMBOLO_SEED` repeats one that failed.
fn first_seed() -> u64 {
    std::env::var("TOMBOLO_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_is_never_a_conflict() {
    let sites = Sites::new(4).await;
    for seed in first_seed()..first_seed() + seeds() / 2 {
        let has_conflict = schedule(&sites, seed, true).await;
        assert!(!has_conflict, "seed {seed}: a change made after seeing another was called a conflict");
    }
}

/// P8: what has come by name only is listed, and not claimed, until its bytes are said to be here; what was replaced meanwhile is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn data_is_wanted_until_it_arrives() {
    let all = Sites::new(2).await;
    let sites = all.bucket("wanted", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    let large = |byte: u8| vec![byte; 100_000];
    a.put("small", "inline", PutOptions::default()).await.unwrap();
    a.put("p/one", large(1), PutOptions::default()).await.unwrap();
    a.put("two", large(2), PutOptions::default()).await.unwrap();
    // Names only at first: nothing of the other segment's is claimed. Then all data, what came before included.
    let delta = a.changes_since(&b.vector().await.unwrap()).await.unwrap();
    b.apply(&delta).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap(), []);
    assert_eq!(b.data_vector().await.unwrap().get(&a.segment().id()), 0);
    b.keep_data(true).await.unwrap();
    assert_eq!(b.keeping().await.unwrap(), Keeping::Listed);
    let wanted = b.wanted(None, 10).await.unwrap();
    let paths: Vec<_> = wanted.iter().map(|w| w.path.clone().unwrap()).collect();
    assert_eq!(paths, ["p/one", "two"]);
    assert!(wanted.iter().all(|w| w.size == 100_000 && w.node.is_some()));
    let at = a.segment().id();
    assert_eq!(b.data_vector().await.unwrap().get(&at), wanted[0].dot.sequence - 1);
    assert_eq!(b.wanted(Some(wanted[0].key.clone()), 1).await.unwrap()[..], wanted[1..]);

    // Again, and late: not wanted twice once it has come.
    b.data_arrived(&[wanted[0].key.clone()]).await.unwrap();
    b.apply(&delta).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap()[..], wanted[1..]);
    assert_eq!(b.data_vector().await.unwrap().get(&at), wanted[1].dot.sequence - 1);

    b.delete("two", DeleteOptions::default()).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap(), []);
    assert_eq!(b.data_vector().await.unwrap(), b.vector().await.unwrap());
    assert!(b.data_arrived(&[bytes::Bytes::from_static(b"clock")]).await.is_err());
}

/// P8: a copy of what had come by name only was said to be here, because the write is this segment's own; and so was an older version.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_copies_and_older_versions_is_wanted_too() {
    let all = Sites::new(2).await;
    let policy = BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() };
    let sites = all.bucket("wanted-copies", 2, &policy).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    a.put("one", vec![1; 100_000], PutOptions::default()).await.unwrap();
    b.keep_data(true).await.unwrap();
    sites[1].pull(&sites[0]).await;
    let complete = b.data_vector().await.unwrap().get(&b.segment().id());
    let object = b.get("one", GetOptions::default()).await.unwrap();
    b.copy(&object, "copy", CopyOptions::default()).await.unwrap();
    b.put("one", "another", PutOptions::default()).await.unwrap();
    b.put("two", vec![2; 100_000], PutOptions::default()).await.unwrap();
    let wanted = b.wanted(None, 10).await.unwrap();
    let mut paths: Vec<_> = wanted.iter().map(|w| (w.path.clone().unwrap(), w.node.is_some())).collect();
    paths.sort();
    assert_eq!(paths, [("copy".into(), true), ("one".into(), false)]);
    let copied = wanted.iter().map(|w| w.dot.sequence).min().unwrap();
    let stands = b.data_vector().await.unwrap().get(&b.segment().id());
    assert!(complete <= stands && stands < copied, "{complete} {stands} {copied}");
    b.data_arrived(&wanted.into_iter().map(|w| w.key).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(b.data_vector().await.unwrap(), b.vector().await.unwrap());
}

/// P7: who has a token sees what was written. What happens in other buckets is not part of it, so nobody waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_its_bucket_alone() {
    let all = Sites::new(2).await;
    let sites = all.bucket("token", 2, &BucketPolicy::default()).await;
    let others = all.bucket("other", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    a.put("k", "1", PutOptions::default()).await.unwrap();
    let token = a.token().await.unwrap();
    others[0].bucket.put("k", "2", PutOptions::default()).await.unwrap();
    assert_eq!(a.token().await.unwrap(), token);
    assert_ne!(a.vector().await.unwrap(), token.vector, "it counts the changes of all buckets");
    let limit = std::time::Duration::from_secs(60);
    let refused = others[1].bucket.wait_for(&token, limit).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let late = b.wait_for(&token, std::time::Duration::ZERO).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Offline);
    let waiting = tokio::spawn({
        let (b, token) = (b.clone(), token.clone());
        async move { b.wait_for(&token, limit).await }
    });
    sites[1].pull(&sites[0]).await;
    waiting.await.unwrap().unwrap();
    assert!(b.get("k", GetOptions::default()).await.is_ok());
    // What has been replaced meanwhile need not come.
    let old = a.put("k", "2", PutOptions::default()).await.unwrap();
    let token = a.token().await.unwrap();
    a.delete("k", DeleteOptions::default()).await.unwrap();
    sites[1].pull(&sites[0]).await;
    b.wait_for(&token, limit).await.unwrap();
    assert!(b.get("k", GetOptions { version: Some(old.version), snapshot: None }).await.is_err());
}

/// P8: where only the data of what is new is to come, that alone is listed, and nothing is claimed of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn new_data_is_wanted_from_now_on() {
    let all = Sites::new(2).await;
    let sites = all.bucket("later", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    a.put("old", vec![1; 100_000], PutOptions::default()).await.unwrap();
    sites[1].pull(&sites[0]).await;
    b.keep_new_data().await.unwrap();
    a.put("new", vec![2; 100_000], PutOptions::default()).await.unwrap();
    sites[1].pull(&sites[0]).await;
    let listed = async || {
        let wanted = b.wanted(None, 10).await.unwrap();
        wanted.into_iter().map(|wanted| wanted.path.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((b.keeping().await.unwrap(), listed().await), (Keeping::Later, vec!["new".into()]));
    assert_eq!(b.data_vector().await.unwrap().get(&a.segment().id()), 0);
    b.keep_data(true).await.unwrap();
    assert_eq!((b.keeping().await.unwrap(), listed().await.len()), (Keeping::Listed, 2));
    b.keep_new_data().await.unwrap();
    b.keep_data(false).await.unwrap();
    assert_eq!(b.keeping().await.unwrap(), Keeping::NamesOnly);
}

/// A derived name that somebody has made a file of meanwhile gets a number, and loses it when that file goes.
#[tokio::test(flavor = "multi_thread")]
async fn derived_names_make_room() {
    let all = Sites::new(3).await;
    let sites = all.bucket("room", 3, &BucketPolicy::default()).await;
    for (site, content) in sites.iter().zip(["left", "right"]) {
        site.bucket.put("x", content, PutOptions::default()).await.unwrap();
    }
    sites[0].pull(&sites[1]).await;
    let copy = sites[0].shows().await.into_keys().find(|key| key.contains("(conflict")).unwrap();
    sites[2].bucket.put(&copy, "plain", PutOptions::default()).await.unwrap();
    sites[0].pull(&sites[2]).await;
    let shows = sites[0].shows().await;
    let again = copy.replace(')', " 2)");
    assert_eq!(shows[&copy], "plain");
    assert!(shows.contains_key(&again), "{shows:?}");
    sites[2].bucket.delete(&copy, DeleteOptions::default()).await.unwrap();
    sites[0].pull(&sites[2]).await;
    let shows = sites[0].shows().await;
    assert!(shows.contains_key(&copy) && !shows.contains_key(&again), "{shows:?}");
}

/// A directory could be moved below two that had been moved into each other on different segments only by a search that never ended.
#[tokio::test(flavor = "multi_thread")]
async fn below_a_circle_directories_move_as_elsewhere() {
    let all = Sites::new(2).await;
    let sites = all.bucket("circle", 2, &BucketPolicy::default()).await;
    for path in ["p", "q", "c"] {
        sites[0].bucket.mkdir(path, Attributes::default()).await.unwrap();
    }
    sites[1].pull(&sites[0]).await;
    sites[0].bucket.rename("p", "q/p").await.unwrap();
    sites[1].bucket.rename("q", "p/q").await.unwrap();
    sites[0].pull(&sites[1]).await;
    let (names, _) = sites[0].bucket.read_dir("", None, 10).await.unwrap();
    let cut = names.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
    let cut = cut.into_iter().find(|name| name.contains("(conflict")).unwrap();
    sites[0].bucket.rename("c", format!("{cut}c")).await.unwrap();
    sites[0].check("the move").await;
    sites[1].pull(&sites[0]).await;
    assert_eq!(sites[1].bucket.read_dir(&cut, None, 10).await.unwrap().0.len(), 2);
}

/// A step that is cut where there are gaps claims none of them. It was cut along the change index, which also has what came in part from beyond the vector,
/// and said to whom it was sent that all before that was here: the changes in the gap never got there.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_claims_no_more_than_its_sender_has() {
    let all = Sites::new(3).await;
    let sites = all.bucket("gaps", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0].bucket, &sites[1].bucket, &sites[2].bucket);
    a.put("one", "one", PutOptions::default()).await.unwrap();
    sites[1].pull(&sites[0]).await;
    for key in ["two", "three"] {
        a.put(key, key, PutOptions::default()).await.unwrap();
    }
    let whole = a.changes_since(&b.vector().await.unwrap()).await.unwrap();
    let last = whole.registers[whole.registers.len() - 2..].to_vec();
    sites[1].apply(&Delta { from: whole.to.clone(), registers: last, ..whole.clone() }).await;
    let stands = b.vector().await.unwrap();
    assert!(!b.has_changes_since(&stands).await.unwrap());
    let mut from = c.vector().await.unwrap();
    loop {
        let step = b.changes_since_up_to(&from, DeltaLimit { registers: 1, bytes: usize::MAX }).await.unwrap();
        assert!(step.to.dots().all(|dot| stands.covers(&dot) || from.covers(&dot)), "{:?} of {stands:?}", step.to);
        sites[2].apply(&step).await;
        from = c.vector().await.unwrap();
        if step.is_whole {
            break;
        }
    }
    sites[1].pull(&sites[0]).await;
    sites[2].pull(&sites[1]).await;
    assert_eq!(sites[2].shows().await, sites[0].shows().await);
}

/// A version that two segments retire counts once, also where the other's row came before what the version was replaced by. Found by a schedule whose
/// segments showed the same versions and another number of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_retired_twice_counts_once() {
    let all = Sites::new(2).await;
    let sites = all.bucket("twice", 2, &BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() }).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    a.put("key", "first", PutOptions::default()).await.unwrap();
    sites[1].pull(&sites[0]).await;
    a.put("key", "second", PutOptions::default()).await.unwrap();
    let whole = a.changes_since(&b.vector().await.unwrap()).await.unwrap();
    let is_history = |register: &&DeltaRegister| matches!(register, DeltaRegister::History(..));
    let registers: Vec<_> = whole.registers.iter().filter(is_history).cloned().collect();
    assert!(!registers.is_empty());
    sites[1].apply(&Delta { from: whole.to.clone(), registers, ..whole }).await;
    b.put("key", "third", PutOptions::default()).await.unwrap();
    for _ in 0..2 {
        sites[1].pull(&sites[0]).await;
        sites[0].pull(&sites[1]).await;
    }
    let usage = a.usage().await.unwrap();
    assert_eq!(usage, b.usage().await.unwrap());
    assert_eq!(usage.old_bytes, "first".len() as u64);
}

/// A segment that was put back from an old copy is told so, and takes nothing in: the numbers it would give out next mean other changes elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_with_changes_that_this_segment_has_not_made_is_refused() {
    let all = Sites::new(2).await;
    let sites = all.bucket("old-copy", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0].bucket, &sites[1].bucket);
    a.put("key", "value", PutOptions::default()).await.unwrap();
    let mut delta = a.changes_since(&b.vector().await.unwrap()).await.unwrap();
    let own = b.segment().id();
    for register in &mut delta.registers {
        if let DeltaRegister::Content(_, content) = register {
            let mut beyond = content.clone();
            let dot = tombolo_core::register::Dot::new(own, 1 << 40);
            let version = content.value().cloned();
            beyond.local_write(tombolo_core::register::Write { dot, stamp_time: 1, value: version }, &[]);
            *content = beyond;
        }
    }
    let refused = b.apply(&delta).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(b.get("key", GetOptions::default()).await.is_err());
}
