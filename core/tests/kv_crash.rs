//! Promise P1 for the metadata stores: a process that is killed loses nothing it was told is committed, and what is left is
//! the state after some commit, never between two.
//!
//! A test runs itself again as a child process that commits numbered batches and reports each one that returned. The parent
//! kills it (SIGKILL) at random moments, opens the store and compares all of it with what the last batch in it implies.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of kills; 500 is the full run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::Bound;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tombolo_core::Result;
use tombolo_core::kv::{Batch, Durability, KeyRange, Space, Store};

/// In the environment of a child: the directory to write to.
const CHILD_DIR: &str = "TOMBOLO_CRASH_CHILD_DIR";
const CYCLES: &str = "TOMBOLO_CRASH_CYCLES";
const CYCLES_DEFAULT: usize = 8;
/// Small, so that write buffers fill and are written out within a few cycles.
const CACHE_BYTES: usize = 8 << 20;
/// The most commits a child reports before it is killed.
const COMMITS_MAX: u64 = 600;
/// The most the parent yields before it kills a child that opens a store: about as long as creating one takes.
const YIELDS_MAX: u64 = 200_000;

type Open = fn(&Path) -> Result<Arc<dyn Store>>;

#[cfg(feature = "fjall")]
#[test]
fn fjall_survives_kills() {
    use tombolo_core::kv::fjall::FjallStore;
    survives_kills("fjall_survives_kills", |dir| Ok(Arc::new(FjallStore::open(dir, CACHE_BYTES)?)));
}

#[cfg(feature = "redb")]
#[test]
fn redb_survives_kills() {
    use tombolo_core::kv::redb::RedbStore;
    survives_kills("redb_survives_kills", |dir| Ok(Arc::new(RedbStore::open(dir, CACHE_BYTES)?)));
}

/// `test` is the name of the calling test, which the child runs as well.
fn survives_kills(test: &str, open: Open) {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_for_ever(Path::new(&dir), open);
    }
    let cycles = std::env::var(CYCLES).map_or(CYCLES_DEFAULT, |cycles| cycles.parse().expect(CYCLES));
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("store");
    let mut random = Random(0x5DEE_CE66_D1CE_4E5B);
    let (mut kills_while_opening, mut kills_while_creating, mut lost_in_flight) = (0, 0, 0);
    let mut last = 0;
    for cycle in 0..cycles {
        if random.below(8) == 0 {
            kills_while_creating += 1;
            let fresh = dir.path().join(format!("fresh {cycle}"));
            let acknowledged = run_and_kill(test, &fresh, Moment::Opening(random.below(YIELDS_MAX)));
            let store = open(&fresh).unwrap();
            assert!(check(&*store) >= acknowledged, "cycle {cycle}: a new store lost commits");
            drop(store);
            std::fs::remove_dir_all(fresh).unwrap();
            continue;
        }
        // Some die while they open what the one before left.
        let moment = match random.below(8) {
            0 => Moment::Opening(random.below(YIELDS_MAX)),
            _ => Moment::Commit(last + 1 + random.below(COMMITS_MAX)),
        };
        let acknowledged = run_and_kill(test, &store_dir, moment).max(last);
        let store = open(&store_dir).unwrap();
        let found = check(&*store);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&found),
            "cycle {cycle}: commit {acknowledged} was acknowledged, the store ends with commit {found}"
        );
        kills_while_opening += u64::from(matches!(moment, Moment::Opening(_)));
        lost_in_flight += u64::from(found == acknowledged);
        last = found;
    }
    println!(
        "{test}: {cycles} kills, {kills_while_opening} while opening, {kills_while_creating} while creating; {last} commits, all kept; {lost_in_flight} kills before the next commit was there"
    );
}

/// When a child is killed.
#[derive(Clone, Copy)]
enum Moment {
    /// When it has begun to open the store and the parent has yielded so often.
    Opening(u64),
    /// When it has acknowledged this commit.
    Commit(u64),
}

/// Starts a child and kills it at `moment`. Returns the last commit it acknowledged, 0 for none.
fn run_and_kill(test: &str, dir: &Path, moment: Moment) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    let mut other = Vec::new();
    let mut killed = false;
    // What is in the pipe after the kill was acknowledged as well, so it is read to its end.
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(std::io::Result::ok) {
        let due = if let Some(number) = line.strip_prefix("committed ") {
            // A kill may cut the last line: then its newline is missing and the number may be short.
            acknowledged = acknowledged.max(number.parse().unwrap_or(0));
            matches!(moment, Moment::Commit(at) if acknowledged >= at)
        } else if line == "opening" {
            if let Moment::Opening(yields) = moment {
                (0..yields).for_each(|_| std::thread::yield_now());
            }
            matches!(moment, Moment::Opening(_))
        } else {
            other.push(line);
            false
        };
        if due && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself with {status}: {}", other.join("\n"));
    acknowledged
}

/// The child: goes on where the store ends until it is killed.
fn write_for_ever(dir: &Path, open: Open) -> ! {
    let mut report = std::io::stderr();
    writeln!(report, "opening").unwrap();
    let store = open(dir).unwrap();
    let mut last = last_commit(&*store);
    loop {
        last += 1;
        let durability = if last.is_multiple_of(4) { Durability::Buffered } else { Durability::Sync };
        now(store.commit(batch(last), durability)).unwrap();
        writeln!(report, "committed {last}").unwrap();
    }
}

/// What commit `number` changes; rows of several spaces, so that a part of it would show.
fn batch(number: u64) -> Batch {
    let writes = vec![
        (Space::Meta, Bytes::from_static(b"last"), Some(key(number))),
        (Space::Entries, key(number % 1_000), Some(key(number))),
        (Space::Nodes, key(number % 500), Some(contents(number))),
        (Space::Index, key(number), Some(Bytes::new())),
        (Space::Index, key(number.saturating_sub(100)), None),
    ];
    Batch { guards: Vec::new(), writes }
}

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Mostly what is stored inline; now and then a row that spans many pages of the journal.
fn contents(number: u64) -> Bytes {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let words = if number.is_multiple_of(32) { 8_192 } else { random.below(512) };
    (0..words).flat_map(|_| random.next().to_le_bytes()).collect()
}

fn last_commit(store: &dyn Store) -> u64 {
    let value = now(store.get(Space::Meta, b"last")).unwrap();
    value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()))
}

/// Compares all rows with what the last commit in the store implies, and returns its number.
fn check(store: &dyn Store) -> u64 {
    let last = last_commit(store);
    let mut wanted: BTreeMap<Space, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
    // Older commits have been overwritten by these, in all spaces.
    for number in last.saturating_sub(999).max(1)..=last {
        for (space, key, value) in batch(number).writes {
            let rows = wanted.entry(space).or_default();
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
    let snapshot = now(store.snapshot()).unwrap();
    for space in Space::ALL {
        let all = KeyRange { start: Bound::Unbounded, end: Bound::Unbounded };
        let found: BTreeMap<Bytes, Bytes> =
            now(snapshot.scan(space, all, usize::MAX, false)).unwrap().rows.into_iter().collect();
        let wanted = wanted.remove(&space).unwrap_or_default();
        let differing = found.iter().filter(|(key, value)| wanted.get(*key) != Some(value)).count()
            + wanted.keys().filter(|key| !found.contains_key(*key)).count();
        assert_eq!(differing, 0, "rows of {space:?} that are not those after commit {last}");
    }
    last
}

/// The result of a call to an embedded store.
fn now<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(call)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }
}
