//! Advisory locks: byte ranges as `fcntl(2)` has them, and whole files as `flock(2)` has them. The two kinds don't see each other.
//!
//! Byte ranges (POSIX.1-2017, `fcntl`): an owner's new lock replaces what the owner held in the range, so a range can be upgraded, downgraded,
//! split and merged, and never conflicts with its owner's. A lock that would wait for an owner that waits, perhaps through others, for this one is refused
//! ([`ErrorKind::Deadlock`]). A waiter is served when what stands in its way goes, in no promised order; dropping the future gives up the place.
//!
//! In memory only: after a crash, or a restart, nobody holds a lock. The number of locks of one node is bounded.

use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;
use crate::namespace::keys::BucketNumber;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// The most locks that all owners together hold on one node, each kind counted apart.
pub const LOCKS_PER_NODE_MAX: usize = 4096;

/// Who holds a lock, as the door names it: a process and its files, an open file, a client.
pub type LockOwner = u64;

/// Whether a lock may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// With other shared locks (F_RDLCK, LOCK_SH).
    Shared,
    /// With none (F_WRLCK, LOCK_EX).
    Exclusive,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// Who holds it.
    pub owner: LockOwner,
    /// The process that asked for it, as the door was told.
    pub process: u32,
    /// Whether it is shared.
    pub mode: LockMode,
    /// Bytes; `u64::MAX` as the end: however long the file gets.
    pub range: Range<u64>,
}

/// The two kinds of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Range,
    Whole,
}

type Key = (BucketNumber, NodeId, Kind);

/// The locks of all nodes of a segment.
#[derive(Default)]
pub(in crate::engine) struct LockTable {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<Key, Node>,
    /// Who waits for what. Whoever is in the way is found anew each time: it may have gone since, and the waiter not have run yet.
    waiting: BTreeMap<u64, (Key, HeldLock)>,
    next_waiter: u64,
}

#[derive(Default)]
struct Node {
    /// Those of one owner don't overlap, and those that touch differ in mode.
    held: Vec<HeldLock>,
    changed: Arc<Notify>,
}

impl Node {
    fn rivals<'a>(&'a self, wanted: &'a HeldLock) -> impl Iterator<Item = &'a HeldLock> + 'a {
        self.held.iter().filter(|held| {
            let is_apart = held.range.end <= wanted.range.start || wanted.range.end <= held.range.start;
            let is_exclusive = held.mode == LockMode::Exclusive || wanted.mode == LockMode::Exclusive;
            held.owner != wanted.owner && !is_apart && is_exclusive
        })
    }

    /// What the owner's locks are when `range` is held as `lock` says (`None`: not at all).
    fn replaced(&self, owner: LockOwner, range: &Range<u64>, lock: Option<&HeldLock>) -> Vec<HeldLock> {
        let mut own: Vec<HeldLock> = Vec::new();
        for held in self.held.iter().filter(|held| held.owner == owner) {
            let left = held.range.start..held.range.end.min(range.start);
            let right = held.range.start.max(range.end)..held.range.end;
            for rest in [left, right] {
                if !rest.is_empty() {
                    own.push(HeldLock { range: rest, ..held.clone() });
                }
            }
        }
        own.extend(lock.cloned());
        own.sort_unstable_by_key(|lock| lock.range.start);
        let mut merged: Vec<HeldLock> = Vec::new();
        for lock in own {
            match merged.last_mut() {
                Some(last) if last.range.end == lock.range.start && last.mode == lock.mode => {
                    last.range.end = lock.range.end;
                }
                _ => merged.push(lock),
            }
        }
        merged
    }
}

impl State {
    /// Whether one of `rivals` waits, perhaps through others, for `owner`.
    fn is_deadlock(&self, owner: LockOwner, rivals: &HashSet<LockOwner>) -> bool {
        let mut seen: HashSet<LockOwner> = HashSet::new();
        let mut next: Vec<LockOwner> = rivals.iter().copied().collect();
        while let Some(rival) = next.pop() {
            if rival == owner {
                return true;
            }
            if seen.insert(rival) {
                for (key, wanted) in self.waiting.values().filter(|(_, wanted)| wanted.owner == rival) {
                    next.extend(self.nodes.get(key).iter().flat_map(|node| node.rivals(wanted)).map(|lock| lock.owner));
                }
            }
        }
        false
    }

    /// Takes `lock` if nobody is in the way; else tells who is.
    fn try_lock(&mut self, key: Key, lock: &HeldLock) -> Result<Option<HashSet<LockOwner>>> {
        let node = self.nodes.entry(key).or_default();
        let rivals: HashSet<LockOwner> = node.rivals(lock).map(|rival| rival.owner).collect();
        if !rivals.is_empty() {
            return Ok(Some(rivals));
        }
        let own = node.replaced(lock.owner, &lock.range, Some(lock));
        let others = node.held.iter().filter(|held| held.owner != lock.owner).count();
        if own.len() + others > LOCKS_PER_NODE_MAX {
            self.tidy(&key);
            return Err(Error::new(ErrorKind::Busy, format!("a file has at most {LOCKS_PER_NODE_MAX} locks")));
        }
        node.held.retain(|held| held.owner != lock.owner);
        node.held.extend(own);
        // A downgrade lets others in.
        node.changed.notify_waiters();
        Ok(None)
    }

    fn unlock(&mut self, key: Key, owner: LockOwner, range: &Range<u64>) -> Result<()> {
        let Some(node) = self.nodes.get_mut(&key) else { return Ok(()) };
        let own = node.replaced(owner, range, None);
        let others = node.held.iter().filter(|held| held.owner != owner).count();
        if own.len() + others > LOCKS_PER_NODE_MAX {
            return Err(Error::new(ErrorKind::Busy, format!("a file has at most {LOCKS_PER_NODE_MAX} locks")));
        }
        node.held.retain(|held| held.owner != owner);
        node.held.extend(own);
        node.changed.notify_waiters();
        self.tidy(&key);
        Ok(())
    }

    /// Forgets a node without locks.
    fn tidy(&mut self, key: &Key) {
        if self.nodes.get(key).is_some_and(|node| node.held.is_empty()) {
            self.nodes.remove(key);
        }
    }
}

/// A place among those who wait; given up when dropped.
struct Waiting<'a> {
    table: &'a LockTable,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.table.state.lock().waiting.remove(&id);
        }
    }
}

impl LockTable {
    async fn lock(&self, key: Key, lock: HeldLock, wait: bool) -> Result<()> {
        if lock.range.is_empty() {
            return Err(Error::invalid("a lock needs a range"));
        }
        let mut place = Waiting { table: self, id: None };
        loop {
            let changed = {
                let mut state = self.state.lock();
                let Some(rivals) = state.try_lock(key, &lock)? else { return Ok(()) };
                if !wait {
                    return Err(Error::new(ErrorKind::Busy, "somebody else holds a lock on it"));
                }
                let id = *place.id.get_or_insert_with(|| {
                    state.next_waiter += 1;
                    state.next_waiter
                });
                state.waiting.remove(&id);
                // `flock` has no deadlock detection: its owners are open files, not processes.
                if key.2 == Kind::Range && state.is_deadlock(lock.owner, &rivals) {
                    return Err(Error::new(ErrorKind::Deadlock, "waiting for this lock would be waiting for oneself"));
                }
                state.waiting.insert(id, (key, lock.clone()));
                let Some(node) = state.nodes.get(&key) else { continue };
                let mut changed = Box::pin(node.changed.clone().notified_owned());
                changed.as_mut().enable();
                changed
            };
            changed.await;
        }
    }
}

/// The locks of a bucket's nodes.
#[derive(Clone)]
pub struct Locks {
    table: Arc<LockTable>,
    bucket: BucketNumber,
}

impl Locks {
    pub(super) fn new(table: Arc<LockTable>, bucket: BucketNumber) -> Locks {
        Locks { table, bucket }
    }

    fn key(&self, node: &NodeId, kind: Kind) -> Key {
        (self.bucket, *node, kind)
    }

    /// Locks a range (F_SETLK, F_SETLKW). Without `wait`: [`ErrorKind::Busy`] if somebody else's lock is in the way.
    /// [`ErrorKind::Deadlock`] (EDEADLK) if waiting would never end. `Busy` also if the node has too many locks (ENOLCK).
    pub async fn lock(&self, node: &NodeId, lock: HeldLock, wait: bool) -> Result<()> {
        self.table.lock(self.key(node, Kind::Range), lock, wait).await
    }

    /// The first lock that would be in the way of `lock` (F_GETLK).
    pub fn test(&self, node: &NodeId, lock: &HeldLock) -> Option<HeldLock> {
        let state = self.table.state.lock();
        let node = state.nodes.get(&self.key(node, Kind::Range))?;
        node.rivals(lock).min_by_key(|rival| rival.range.start).cloned()
    }

    /// Unlocks a range (F_UNLCK). `Busy` if that splits a lock of a node that has too many.
    pub fn unlock(&self, node: &NodeId, owner: LockOwner, range: Range<u64>) -> Result<()> {
        self.table.state.lock().unlock(self.key(node, Kind::Range), owner, &range)
    }

    /// Locks a whole file (`flock`). An owner that changes the mode gives its lock up first, and may lose it to another.
    pub async fn lock_whole(&self, node: &NodeId, owner: LockOwner, mode: LockMode, wait: bool) -> Result<()> {
        let key = self.key(node, Kind::Whole);
        let lock = HeldLock { owner, process: 0, mode, range: 0..u64::MAX };
        {
            let mut state = self.table.state.lock();
            let is_other = |held: &HeldLock| held.owner == owner && held.mode != mode;
            if state.nodes.get(&key).is_some_and(|node| node.held.iter().any(is_other)) {
                if state.try_lock(key, &lock)?.is_none() {
                    return Ok(());
                }
                state.unlock(key, owner, &lock.range)?;
            }
        }
        self.table.lock(key, lock, wait).await
    }

    /// Unlocks a whole file.
    pub fn unlock_whole(&self, node: &NodeId, owner: LockOwner) -> Result<()> {
        self.table.state.lock().unlock(self.key(node, Kind::Whole), owner, &(0..u64::MAX))
    }

    /// Gives up all locks, of both kinds, that `owner` holds on the node: it has closed it.
    pub fn release(&self, node: &NodeId, owner: LockOwner) {
        let mut state = self.table.state.lock();
        for kind in [Kind::Range, Kind::Whole] {
            // Giving up everything splits nothing.
            let _ = state.unlock(self.key(node, kind), owner, &(0..u64::MAX));
        }
    }

    /// Gives up all locks that `owner` holds on any node of the bucket: it is gone.
    pub fn release_all(&self, owner: LockOwner) {
        let mut state = self.table.state.lock();
        let is_owners =
            |(key, node): &(&Key, &Node)| key.0 == self.bucket && node.held.iter().any(|l| l.owner == owner);
        let keys: Vec<Key> = state.nodes.iter().filter(is_owners).map(|(key, _)| *key).collect();
        for key in keys {
            let _ = state.unlock(key, owner, &(0..u64::MAX));
        }
    }

    /// All locks on ranges of the node, by owner.
    pub fn held(&self, node: &NodeId) -> Vec<HeldLock> {
        let state = self.table.state.lock();
        let mut held = state.nodes.get(&self.key(node, Kind::Range)).map(|node| node.held.clone()).unwrap_or_default();
        held.sort_unstable_by_key(|lock| (lock.owner, lock.range.start));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::{Exclusive, Shared};
    use proptest::prelude::*;
    use std::time::Duration;

    fn locks() -> Locks {
        Locks::new(Arc::new(LockTable::default()), 1)
    }

    fn lock(owner: LockOwner, mode: LockMode, range: Range<u64>) -> HeldLock {
        HeldLock { owner, process: owner as u32, mode, range }
    }

    const NODE: NodeId = NodeId([7; 16]);

    async fn take(locks: &Locks, wanted: HeldLock) -> bool {
        match locks.lock(&NODE, wanted, false).await {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                false
            }
        }
    }

    fn modes(locks: &Locks, owner: LockOwner) -> Vec<(LockMode, Range<u64>)> {
        locks.held(&NODE).into_iter().filter(|l| l.owner == owner).map(|l| (l.mode, l.range)).collect()
    }

    #[tokio::test]
    async fn an_owners_locks_split_merge_and_change_mode() {
        let locks = locks();
        assert!(take(&locks, lock(1, Exclusive, 0..100)).await);
        assert!(take(&locks, lock(1, Shared, 40..60)).await);
        assert_eq!(modes(&locks, 1), [(Exclusive, 0..40), (Shared, 40..60), (Exclusive, 60..100)]);
        assert!(take(&locks, lock(2, Shared, 45..50)).await, "downgraded");
        assert!(!take(&locks, lock(1, Exclusive, 0..100)).await, "the other reader is in the way of the upgrade");
        assert_eq!(modes(&locks, 1).len(), 3, "a refused upgrade changes nothing");
        assert_eq!(locks.test(&NODE, &lock(2, Shared, 0..u64::MAX)).unwrap().range, 0..40);
        locks.unlock(&NODE, 2, 0..u64::MAX).unwrap();
        assert!(take(&locks, lock(1, Exclusive, 30..70)).await);
        assert_eq!(modes(&locks, 1), [(Exclusive, 0..100)]);
        locks.unlock(&NODE, 1, 10..20).unwrap();
        assert_eq!(modes(&locks, 1), [(Exclusive, 0..10), (Exclusive, 20..100)]);
        locks.release(&NODE, 1);
        assert!(locks.table.state.lock().nodes.is_empty());
    }

    #[tokio::test]
    async fn waiters_are_served_and_may_give_up() {
        let locks = locks();
        assert!(take(&locks, lock(1, Exclusive, 0..10)).await);
        let waiter = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(&NODE, lock(2, Exclusive, 5..15), true).await }
        });
        {
            // This one gives up.
            let given_up = locks.lock(&NODE, lock(3, Shared, 0..1), true);
            tokio::select! {
                biased;
                _ = given_up => unreachable!("nobody has unlocked"),
                () = std::future::ready(()) => {}
            }
        }
        assert!(locks.table.state.lock().waiting.values().all(|(_, wanted)| wanted.owner != 3));
        locks.unlock(&NODE, 1, 0..10).unwrap();
        tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
        assert_eq!(modes(&locks, 2), [(Exclusive, 5..15)]);
        assert!(locks.table.state.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_circle_of_waiters_is_refused() {
        let locks = locks();
        for owner in 1..=3 {
            assert!(take(&locks, lock(owner, Exclusive, owner..owner + 1)).await);
        }
        let mut waiters = Vec::new();
        for (owner, wanted) in [(1, 2), (2, 3)] {
            let locks = locks.clone();
            waiters.push(tokio::spawn(async move {
                locks.lock(&NODE, lock(owner, Exclusive, wanted..wanted + 1), true).await
            }));
        }
        while locks.table.state.lock().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        let error = locks.lock(&NODE, lock(3, Exclusive, 1..2), true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadlock);
        locks.release_all(3);
        for (owner, waiter) in (1..=2).rev().zip(waiters.into_iter().rev()) {
            tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
            locks.release_all(owner);
        }
    }

    /// Whom a waiter waited for was kept as it was when it began: one who had unlocked since, before the waiter ran again, was still taken to be in
    /// its way, and refused what it then had to wait for.
    #[tokio::test]
    async fn who_has_unlocked_is_waited_for_no_more() {
        let locks = locks();
        assert!(take(&locks, lock(1, Exclusive, 0..1)).await);
        assert!(take(&locks, lock(2, Exclusive, 1..2)).await);
        let waiter = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(&NODE, lock(2, Exclusive, 0..1), true).await }
        });
        while locks.table.state.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        // On this one thread the waiter does not run before the next wait.
        locks.unlock(&NODE, 1, 0..1).unwrap();
        let mut second = Box::pin(locks.lock(&NODE, lock(1, Exclusive, 1..2), true));
        tokio::select! {
            biased;
            ended = second.as_mut() => unreachable!("the other holds it: {ended:?}"),
            () = std::future::ready(()) => {}
        }
        tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap().unwrap();
        locks.release_all(2);
        tokio::time::timeout(Duration::from_secs(30), second).await.unwrap().unwrap();
        assert_eq!(modes(&locks, 1), [(Exclusive, 1..2)]);
    }

    #[tokio::test]
    async fn whole_files_are_locked_apart_from_ranges() {
        let locks = locks();
        assert!(take(&locks, lock(1, Exclusive, 0..u64::MAX)).await);
        locks.lock_whole(&NODE, 2, Shared, false).await.unwrap();
        locks.lock_whole(&NODE, 3, Shared, false).await.unwrap();
        assert_eq!(locks.lock_whole(&NODE, 2, Exclusive, false).await.unwrap_err().kind(), ErrorKind::Busy);
        locks.unlock_whole(&NODE, 3).unwrap();
        locks.lock_whole(&NODE, 2, Exclusive, false).await.unwrap();
        assert_eq!(locks.lock_whole(&NODE, 3, Shared, false).await.unwrap_err().kind(), ErrorKind::Busy);
    }

    #[tokio::test]
    async fn a_node_has_a_bounded_number_of_locks() {
        let locks = locks();
        let mut taken = 0u64;
        while take(&locks, lock(1, Shared, taken * 2..taken * 2 + 1)).await {
            taken += 1;
        }
        assert_eq!(taken, LOCKS_PER_NODE_MAX as u64);
    }

    proptest! {
        #[test]
        fn they_behave_like_a_table_of_bytes(
            ops in prop::collection::vec((1u64..4, 0u64..20, 1u64..12, 0u8..3), 1..80)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let locks = locks();
            // By byte: mode by owner.
            let mut model: Vec<HashMap<LockOwner, LockMode>> = vec![HashMap::new(); 40];
            for (owner, start, length, kind) in ops {
                let range = start..start + length;
                let bytes = start as usize..(start + length) as usize;
                if kind == 2 {
                    locks.unlock(&NODE, owner, range).unwrap();
                    model[bytes].iter_mut().for_each(|byte| {
                        byte.remove(&owner);
                    });
                } else {
                    let mode = if kind == 0 { Shared } else { Exclusive };
                    let is_free = model[bytes.clone()].iter().all(|byte| {
                        byte.iter().all(|(o, m)| *o == owner || (*m == Shared && mode == Shared))
                    });
                    let wanted = lock(owner, mode, range);
                    prop_assert_eq!(locks.test(&NODE, &wanted).is_none(), is_free);
                    prop_assert_eq!(runtime.block_on(take(&locks, wanted)), is_free);
                    if is_free {
                        model[bytes].iter_mut().for_each(|byte| {
                            byte.insert(owner, mode);
                        });
                    }
                }
                for (at, byte) in model.iter().enumerate() {
                    let held: HashMap<_, _> = locks.held(&NODE).into_iter()
                        .filter(|l| l.range.contains(&(at as u64))).map(|l| (l.owner, l.mode)).collect();
                    prop_assert!(held == *byte);
                }
            }
        }
    }
}
