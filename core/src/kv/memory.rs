//! A store in memory, for models and simulations.
//!
//! Every key keeps its versions, newest last, and a snapshot is a number: the commit it was taken after. Taking one is a map
//! insert, whatever the store holds, and a commit costs what it changes. The state of the last synced commit is pinned like
//! a snapshot, which is what makes [`MemoryStore::crash`] possible.
//!
//! Invariants:
//! * The versions of a key are in ascending order of commit, and there is at least one.
//! * A version is kept while it is the newest or some pin (a live snapshot, the synced commit) sees it; what is no longer
//!   needed goes with the next commit after the pin went.

use super::{Batch, Durability, KeyRange, Page, Snapshot, Space, Store, guard_missed};
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a key held from a commit on; `None`: nothing.
type Version = (u64, Option<Bytes>);
type Versions = SmallVec<[Version; 1]>;

/// A store in memory. What was synced survives [`MemoryStore::crash`], nothing survives the process.
#[derive(Default)]
pub struct MemoryStore {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    spaces: [BTreeMap<Bytes, Versions>; Space::ALL.len()],
    /// Number of the last commit.
    commit: u64,
    /// Number of the last commit that is durable: the last synced one.
    synced: u64,
    /// Live snapshots: how many see exactly the commits up to this one.
    pins: BTreeMap<u64, usize>,
    /// Keys with more than one version, and the commit that wrote the newest at the time, in order of commit.
    stale: VecDeque<(u64, Space, Bytes)>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// The store as a crash at this instant would leave it: everything up to the last synced commit and nothing after. This
    /// store and its snapshots are not affected.
    #[must_use]
    pub fn crash(&self) -> MemoryStore {
        let state = self.state.read();
        let mut left = State::default();
        for (kept, rows) in left.spaces.iter_mut().zip(&state.spaces) {
            *kept = rows
                .iter()
                .filter_map(|(key, versions)| {
                    let value = visible(versions, state.synced)?;
                    Some((key.clone(), SmallVec::from_iter([(0, Some(value.clone()))])))
                })
                .collect();
        }
        MemoryStore { state: Arc::new(RwLock::new(left)) }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state.read().get(space, key, u64::MAX))
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        let mut state = self.state.write();
        let commit = state.commit;
        *state.pins.entry(commit).or_insert(0) += 1;
        Ok(Arc::new(MemorySnapshot { state: Arc::clone(&self.state), commit }))
    }

    async fn commit(&self, batch: Batch, durability: Durability) -> Result<()> {
        batch.check()?;
        let mut state = self.state.write();
        for (space, key, expected) in &batch.guards {
            if state.get(*space, key, u64::MAX) != *expected {
                return Err(guard_missed(*space));
            }
        }
        state.commit += 1;
        if durability == Durability::Sync {
            state.synced = state.commit;
        }
        for (space, key, value) in batch.writes {
            state.put(space, key, value);
        }
        state.drop_stale();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl State {
    #[expect(clippy::indexing_slicing, reason = "the array has a place for every space")]
    fn rows(&self, space: Space) -> &BTreeMap<Bytes, Versions> {
        &self.spaces[space as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "the array has a place for every space")]
    fn rows_mut(&mut self, space: Space) -> &mut BTreeMap<Bytes, Versions> {
        &mut self.spaces[space as usize]
    }

    fn get(&self, space: Space, key: &[u8], commit: u64) -> Option<Bytes> {
        visible(self.rows(space).get(key)?, commit).cloned()
    }

    /// Whether a pin sees commit `from` but not yet `to`.
    fn pinned(&self, from: u64, to: u64) -> bool {
        (from..to).contains(&self.synced) || self.pins.range(from..to).next().is_some()
    }

    /// The oldest commit that a reader may still ask for.
    fn oldest_pin(&self) -> u64 {
        self.pins.first_key_value().map_or(self.synced, |(pin, _)| self.synced.min(*pin))
    }

    /// Sets `key` as of the current commit.
    fn put(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let commit = self.commit;
        let replaced = self.rows(space).get(&key).and_then(|versions| versions.last()).map(|(from, _)| *from);
        let needed = replaced.is_some_and(|from| self.pinned(from, commit));
        let rows = self.rows_mut(space);
        let versions = rows.entry(key.clone()).or_default();
        if !needed {
            versions.pop();
        }
        // A deletion must be told from a key that never was only while a pin sees an older value.
        if value.is_none() && versions.is_empty() {
            rows.remove(&key);
            return;
        }
        versions.push((commit, value));
        if versions.len() > 1 {
            self.stale.push_back((commit, space, key));
        }
    }

    /// Drops versions that no pin sees any more.
    fn drop_stale(&mut self) {
        let oldest = self.oldest_pin();
        while self.stale.front().is_some_and(|(commit, ..)| *commit <= oldest) {
            let Some((_, space, key)) = self.stale.pop_front() else {
                return;
            };
            let rows = self.rows_mut(space);
            let Some(versions) = rows.get_mut(&key) else {
                continue;
            };
            let first_needed = versions.iter().rposition(|(from, _)| *from <= oldest).unwrap_or(0);
            versions.drain(..first_needed);
            if let [(from, None)] = versions.as_slice()
                && *from <= oldest
            {
                rows.remove(&key);
            }
        }
    }

    fn scan(&self, space: Space, range: KeyRange, limit: usize, reverse: bool, commit: u64) -> Page {
        if range.is_empty() {
            return Page::default();
        }
        let rows = self
            .rows(space)
            .range((range.start, range.end))
            .filter_map(|(key, versions)| visible(versions, commit).map(|value| (key.clone(), value.clone())));
        if reverse { take(rows.rev(), limit) } else { take(rows, limit) }
    }
}

fn take(mut rows: impl Iterator<Item = (Bytes, Bytes)>, limit: usize) -> Page {
    Page { rows: rows.by_ref().take(limit).collect(), more: rows.next().is_some() }
}

/// What a reader who sees the commits up to `commit` finds.
fn visible(versions: &Versions, commit: u64) -> Option<&Bytes> {
    versions.iter().rfind(|(from, _)| *from <= commit)?.1.as_ref()
}

struct MemorySnapshot {
    state: Arc<RwLock<State>>,
    /// The last commit it sees.
    commit: u64,
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state.read().get(space, key, self.commit))
    }

    async fn scan(&self, space: Space, range: KeyRange, limit: usize, reverse: bool) -> Result<Page> {
        Ok(self.state.read().scan(space, range, limit, reverse, self.commit))
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut state = self.state.write();
        if let Some(count) = state.pins.get_mut(&self.commit) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.commit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &MemoryStore, key: &'static [u8], value: Option<&'static [u8]>, durability: Durability) {
        let batch = Batch {
            guards: Vec::new(),
            writes: vec![(Space::Nodes, Bytes::from_static(key), value.map(Bytes::from_static))],
        };
        store.commit(batch, durability).await.unwrap();
    }

    async fn get(store: &MemoryStore, key: &[u8]) -> Option<Bytes> {
        store.get(Space::Nodes, key).await.unwrap()
    }

    #[tokio::test]
    async fn a_crash_leaves_what_was_synced() {
        let store = MemoryStore::new();
        put(&store, b"a", Some(b"1"), Durability::Buffered).await;
        put(&store, b"b", Some(b"1"), Durability::Sync).await;
        put(&store, b"a", Some(b"2"), Durability::Buffered).await;
        put(&store, b"b", None, Durability::Buffered).await;
        put(&store, b"c", Some(b"1"), Durability::Buffered).await;
        let left = store.crash();
        assert_eq!(get(&left, b"a").await.as_deref(), Some(&b"1"[..]));
        assert_eq!(get(&left, b"b").await.as_deref(), Some(&b"1"[..]));
        assert_eq!(get(&left, b"c").await, None);
        assert_eq!(get(&store, b"a").await.as_deref(), Some(&b"2"[..]));
        // What is left is durable: a crash right after the crash loses nothing.
        assert_eq!(get(&left.crash(), b"a").await.as_deref(), Some(&b"1"[..]));
        put(&left, b"a", Some(b"3"), Durability::Buffered).await;
        assert_eq!(get(&left.crash(), b"a").await.as_deref(), Some(&b"1"[..]));
    }

    #[tokio::test]
    async fn versions_go_when_nothing_sees_them() {
        let store = MemoryStore::new();
        put(&store, b"a", Some(b"0"), Durability::Sync).await;
        let snapshot = store.snapshot().await.unwrap();
        for _ in 0..100 {
            put(&store, b"a", Some(b"1"), Durability::Sync).await;
        }
        put(&store, b"a", None, Durability::Sync).await;
        let versions =
            |store: &MemoryStore| store.state.read().rows(Space::Nodes).get(&b"a"[..]).map_or(0, |v| v.len());
        assert!(versions(&store) <= 3, "{} versions for one snapshot", versions(&store));
        assert_eq!(snapshot.get(Space::Nodes, b"a").await.unwrap().as_deref(), Some(&b"0"[..]));
        drop(snapshot);
        put(&store, b"b", Some(b"1"), Durability::Sync).await;
        assert_eq!(versions(&store), 0);
        assert!(store.state.read().stale.is_empty());
        assert!(store.state.read().pins.is_empty());
    }
}
