//! P5 and P6 through the engine: segments that work apart on one bucket and exchange deltas, in any order, late and twice,
//! end up showing the same, and nobody's content is gone unless somebody who had seen it deleted or replaced it.
//!
//! After every change and every delta what shows is what the registers say, derived at once.
//!
//! `TOMBOLO_SEEDS` sets how many schedules are tried; a failure names its seed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::namespace::{Delta, DeltaRegister};
use tombolo_core::register::VersionVector;
use tombolo_core::*;

struct Site {
    bucket: Bucket,
}

/// Segments side by side. Each schedule has a bucket of its own in them.
struct Sites {
    segments: Vec<Segment>,
    _dirs: Vec<tempfile::TempDir>,
}

impl Sites {
    async fn new(count: usize) -> Sites {
        let mut sites = Sites { segments: Vec::new(), _dirs: Vec::new() };
        for i in 0..count {
            let dir = tempfile::tempdir().unwrap();
            let create = CreateOptions { name: format!("site{i}"), cluster: "All".into() };
            let options = OpenOptions { metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() };
            let segment = Segment::create(dir.path().join("s"), create, options).await.unwrap();
            segment.catalog().create_tenant(&"All/lab".parse().unwrap()).await.unwrap();
            sites.segments.push(segment);
            sites._dirs.push(dir);
        }
        sites
    }

    /// The same bucket in the first `count` of them.
    async fn bucket(&self, name: &str, count: usize, policy: &BucketPolicy) -> Vec<Site> {
        let path: BucketPath = format!("All/lab/{name}").parse().unwrap();
        let mut sites = Vec::new();
        let first = self.segments[0].catalog();
        first.create_bucket(&path, policy.clone()).await.unwrap();
        let exported = first.export(&|_| true).await.unwrap();
        for segment in &self.segments[..count] {
            segment.catalog().import(&exported, &|_| true).await.unwrap();
            let bucket = segment.bucket(&path).await.unwrap();
            // From the first delta on deletes leave tombstones.
            bucket.changes_since(&VersionVector::new()).await.unwrap();
            sites.push(Site { bucket });
        }
        sites
    }
}

impl Site {
    /// What is written here next has a higher stamp than what `other` has written so far, none of which has to be seen for that.
    async fn writes_after(&self, other: &Site) {
        let (theirs, path) = (other.bucket.segment().catalog(), other.bucket.path());
        theirs.set_policy(path, other.bucket.info().await.unwrap().policy).await.unwrap();
        let exported = theirs.export(&|_| true).await.unwrap();
        self.bucket.segment().catalog().import(&exported, &|_| true).await.unwrap();
    }

    async fn shows(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.bucket.list(ListOptions { limit: 100, after, ..ListOptions::default() }).await.unwrap();
            for item in page.items {
                if let ListItem::Object(object) = item {
                    let content = self.bucket.get(&object.key, GetOptions::default()).await.unwrap();
                    let text = content.bytes(0..u64::MAX).await.unwrap();
                    let key = String::from_utf8_lossy(&object.key).into_owned();
                    out.insert(key, String::from_utf8_lossy(&text).into_owned());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return out,
            }
        }
    }

    async fn conflicts(&self) -> Vec<Conflict> {
        let mut found: Vec<Conflict> = Vec::new();
        loop {
            let page = self.bucket.conflicts(found.last().map(|last| last.position.clone()), 3).await.unwrap();
            found.extend(page.iter().cloned());
            if page.len() < 3 {
                return found;
            }
        }
    }

    /// What lost and shows nowhere: key and content.
    async fn hidden(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for conflict in self.conflicts().await.into_iter().filter(|conflict| conflict.key.is_none()) {
            out.push((
                String::from_utf8_lossy(&conflict.of).into_owned(),
                self.version(&conflict.of, conflict.version).await,
            ));
        }
        out
    }

    async fn version(&self, key: &[u8], version: Option<VersionId>) -> String {
        let object = self.bucket.get(key, GetOptions { version, snapshot: None }).await.unwrap();
        String::from_utf8_lossy(&object.bytes(0..u64::MAX).await.unwrap()).into_owned()
    }

    async fn pull(&self, from: &Site) -> Delta {
        let delta = from.bucket.changes_since(&self.bucket.vector().await.unwrap()).await.unwrap();
        self.apply(&delta).await;
        delta
    }

    async fn apply(&self, delta: &Delta) {
        self.bucket.apply(delta, DataWanted::No).await.unwrap();
        self.check("a delta").await;
    }

    /// What was derived change by change is what is derived at once.
    async fn check(&self, after: &str) {
        let differences = self.bucket.verify_shown().await.unwrap();
        assert!(differences.is_empty(), "after {after}:\n{}", differences.join("\n"));
    }
}

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
    site.check(&what).await;
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
            match dice.roll(16) {
                0..=3 => {
                    old_deltas.push(sites[at].pull(&sites[from]).await);
                    continue;
                }
                4 if !old_deltas.is_empty() => {
                    let late = &old_deltas[usize::try_from(dice.roll(old_deltas.len() as u64)).unwrap()];
                    sites[at].apply(late).await;
                    continue;
                }
                5 => {
                    let vector = sites[at].bucket.vector().await.unwrap();
                    let delta = sites[from].bucket.changes_since(&vector).await.unwrap();
                    sites[at].apply(&part_of(&delta, &mut dice)).await;
                    old_deltas.push(delta);
                    continue;
                }
                _ => {}
            }
        }
        change(&sites[at], &mut dice, format!("{seed}-{step}"), &mut written, &mut gone).await;
    }
    for _ in 0..2 {
        for a in 0..sites.len() {
            for b in 0..sites.len() {
                if a != b {
                    sites[a].pull(&sites[b]).await;
                }
            }
        }
    }
    let first = sites[0].shows().await;
    for other in &sites[1..] {
        assert_eq!(other.shows().await, first, "P5, seed {seed}");
        assert_eq!(other.bucket.usage().await.unwrap(), sites[0].bucket.usage().await.unwrap(), "usage, seed {seed}");
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
    let delta = a.changes_since(&b.vector().await.unwrap()).await.unwrap();
    b.apply(&delta, DataWanted::Yes).await.unwrap();
    let wanted = b.wanted(None, 10).await.unwrap();
    let paths: Vec<_> = wanted.iter().map(|w| w.path.clone().unwrap()).collect();
    assert_eq!(paths, ["p/one", "two"]);
    assert!(wanted.iter().all(|w| w.size == 100_000 && w.node.is_some()));
    let at = a.segment().id();
    assert_eq!(b.data_vector().await.unwrap().get(&at), wanted[0].dot.sequence - 1);
    assert_eq!(b.wanted(Some(wanted[0].key.clone()), 1).await.unwrap()[..], wanted[1..]);

    // Again, and late: not wanted twice once it has come.
    b.data_arrived(&[wanted[0].key.clone()]).await.unwrap();
    b.apply(&delta, DataWanted::Yes).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap()[..], wanted[1..]);
    assert_eq!(b.data_vector().await.unwrap().get(&at), wanted[1].dot.sequence - 1);

    b.delete("two", DeleteOptions::default()).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap(), []);
    assert_eq!(b.data_vector().await.unwrap(), b.vector().await.unwrap());
    assert!(b.data_arrived(&[bytes::Bytes::from_static(b"clock")]).await.is_err());
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

/// One file linked, or renamed, on one segment and deleted on another: whoever gave it the other name was told that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_or_rename_beats_a_concurrent_delete() {
    let all = Sites::new(2).await;
    for (versioning, name) in [(Versioning::Off, "off"), (Versioning::On, "on")] {
        for verb in ["link", "rename"] {
            let policy = BucketPolicy { versioning, ..BucketPolicy::default() };
            let sites = all.bucket(&format!("beats-{name}-{verb}"), 2, &policy).await;
            let (a, b) = (&sites[0], &sites[1]);
            a.bucket.put("x", "content", PutOptions::default()).await.unwrap();
            b.pull(a).await;
            let version = a.bucket.head("x", GetOptions::default()).await.unwrap().version;
            match verb {
                "link" => a.bucket.link("x", "y").await.unwrap(),
                _ => a.bucket.rename("x", "y").await.unwrap(),
            }
            b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
            b.check("the delete").await;
            a.pull(b).await;
            b.pull(a).await;
            for site in [a, b] {
                let shows = site.shows().await;
                assert_eq!(shows, BTreeMap::from([("y".into(), "content".into())]), "{name} {verb}");
                let info = site.bucket.head("y", GetOptions::default()).await.unwrap();
                assert_eq!((info.version, info.size), (version, 7));
            }
            // It is an ordinary file, and its next deletion holds.
            b.bucket.delete("y", DeleteOptions::default()).await.unwrap();
            b.check("the second delete").await;
            a.pull(b).await;
            assert_eq!((a.shows().await.len(), b.shows().await.len()), (0, 0), "{name} {verb}");
            assert_eq!(a.bucket.usage().await.unwrap().objects, 0);
        }
    }
}

/// A deletion keeps the chunks too.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_deleted_content_are_no_garbage() {
    let all = Sites::new(2).await;
    let sites = all.bucket("chunks", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let large: Vec<u8> = (0..2_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    a.bucket.put("x", large.clone(), PutOptions::default()).await.unwrap();
    b.pull(a).await;
    b.bucket.link("x", "y").await.unwrap();
    a.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.bucket.segment().gc().await.unwrap();
    a.pull(b).await;
    a.bucket.segment().gc().await.unwrap();
    let read = a.bucket.get("y", GetOptions::default()).await.unwrap().bytes(0..u64::MAX).await.unwrap();
    assert!(read == large);
}

/// What a deletion keeps counts as nothing: it is not shown, counted, wanted or brought back by anything but a name.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_content_does_not_come_back_by_itself() {
    let all = Sites::new(3).await;
    let sites = all.bucket("stays-away", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    a.bucket.put("x", vec![b'a'; 100_000], PutOptions::default()).await.unwrap();
    b.pull(a).await;
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    a.pull(b).await;
    let delta = b.bucket.changes_since(&c.bucket.vector().await.unwrap()).await.unwrap();
    c.bucket.apply(&delta, DataWanted::Yes).await.unwrap();
    assert_eq!(c.bucket.wanted(None, 10).await.unwrap(), []);
    for site in &sites {
        assert_eq!(site.shows().await.len(), 0);
        assert_eq!(site.bucket.usage().await.unwrap().objects, 0);
    }
    // An edit that nobody had seen survives; what it was made of does not show beside it.
    a.bucket.put("y", "one", PutOptions::default()).await.unwrap();
    b.pull(a).await;
    a.bucket.put("y", "two", PutOptions::default()).await.unwrap();
    b.bucket.delete("y", DeleteOptions::default()).await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    assert_eq!(a.shows().await, BTreeMap::from([("y".into(), "two".into())]));
    assert_eq!(b.shows().await, a.shows().await);
}

/// A third segment that hears of the deletion first, and of the other name later, has to fetch the content then.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_content_is_wanted_when_it_shows() {
    let all = Sites::new(3).await;
    let sites = all.bucket("revived", 3, &BucketPolicy::default()).await;
    let (a, b, c) = (&sites[0], &sites[1], &sites[2]);
    a.bucket.put("x", vec![b'a'; 100_000], PutOptions::default()).await.unwrap();
    b.pull(a).await;
    a.bucket.link("x", "y").await.unwrap();
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    for (from, paths) in [(b, &[][..]), (a, &[&b"y"[..]][..])] {
        let delta = from.bucket.changes_since(&c.bucket.vector().await.unwrap()).await.unwrap();
        c.bucket.apply(&delta, DataWanted::Yes).await.unwrap();
        let wanted = c.bucket.wanted(None, 10).await.unwrap();
        assert_eq!(wanted.iter().map(|w| w.path.clone().unwrap()).collect::<Vec<_>>(), paths);
    }
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

/// The contents of all versions of all keys, in the order of the list.
async fn versions(site: &Site) -> Vec<String> {
    let options = ListVersionsOptions { limit: 100, ..ListVersionsOptions::default() };
    let mut out = Vec::new();
    for item in site.bucket.list_versions(options).await.unwrap().items {
        if let VersionItem::Version { summary, version, is_marker: false, .. } = item {
            out.push(site.version(&summary.key, Some(version)).await);
        }
    }
    out
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
