//! The ledger: the one place where changes get their order, and the group committer that makes them durable.
//!
//! A [`Txn`](super::txn::Txn) reads whatever it needs without a lock, and is then *sequenced*: under a short mutex its reads
//! are held against everything sequenced since it began, it gets its commit number, its dots and stamps, and its rows are
//! encoded, with their rows of the change index. One thread commits all that has been sequenced while the previous group was
//! on its way to the disk: one sync of the packs, one of the metadata store, for as many callers as there are. What needs neither is committed by its
//! caller, when no group is under way.
//!
//! Invariants:
//! * Sequence numbers, stamps and commit numbers grow in the order in which groups reach the store, so a delta cut at a
//!   snapshot never misses a smaller number.
//! * Nobody is acknowledged before the packs (if the transaction refers to new chunks) and the metadata are on disk.
//! * A row that names a chunk reaches the store only after that chunk's pack has been synced.
//! * After a failed group nothing more is committed; reads go on. What was sequenced behind it fails too. A group that is refused
//!   for lack of space is different: it changed nothing, and later ones may fit.
//!
//! After a crash the store holds a prefix of the groups, whole; counters continue from the row `clock` written with each group.

use super::UNSEEN;
use super::bucket_watch::{BucketWatch, BucketWatchers};
use super::floor::{Floors, Look, Looks};
use super::keys::BucketNumber;
use super::txn::Txn;
use super::usage_delta::{UsageDelta, decode_usage, encode_usage, usage_row};
use crate::env::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SegmentId;
use crate::kv::{Batch, Durability, Space, Store};
use crate::object::Usage;
use crate::register::{Dot, HybridClock};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::JoinHandle;
use tokio::sync::{broadcast, oneshot, watch};

/// How many changed rows are remembered for conflict checks, at least. A transaction that began before them starts again.
const RECENT_ROWS: usize = 1 << 16;

/// Makes contents durable before metadata refers to them: the pack store, or nothing in a model.
pub trait ContentBarrier: Send + Sync {
    /// Returns when everything appended before the call is on stable storage.
    fn sync(&self) -> Result<()>;
}

/// A barrier for segments without packs.
pub struct NoContents;

impl ContentBarrier for NoContents {
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// What a transaction got when it was sequenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    /// Its commit number.
    pub commit: u64,
    /// The sequence number of its first dot.
    pub first_sequence: u64,
    /// The stamp of its first dot.
    pub first_time: u64,
    /// The wall clock's time, moved on where needed so that each commit has a later one than those before it since the segment was opened.
    pub wall_ns: i64,
    /// Whether what the transaction observed without depending on it had not changed since.
    pub is_observed: bool,
}

impl Sequenced {
    /// The dot of a write of the transaction, if `dot` was pending.
    pub(super) fn number(&self, own: &SegmentId, dot: Dot) -> Dot {
        match dot.slot() {
            Some(slot) if dot.segment == *own => Dot::new(*own, self.first_sequence.saturating_add(slot.into())),
            _ => dot,
        }
    }
}

/// Rows of entries and nodes that one group changed, each with the origin that its transaction named.
pub type ChangedRows = Arc<Vec<(Space, Bytes, u32)>>;

/// How many groups a watcher may be behind before it misses some.
const WATCHED_GROUPS_MAX: usize = 1024;

/// See the module.
pub struct Ledger {
    own: SegmentId,
    store: Arc<dyn Store>,
    contents: Arc<dyn ContentBarrier>,
    environment: Environment,
    state: Mutex<State>,
    work: Condvar,
    published: watch::Sender<u64>,
    /// Each with the origin whose changes it does not hear of.
    watchers: Mutex<Vec<(u32, broadcast::Sender<ChangedRows>)>>,
    bucket_watchers: BucketWatchers,
    /// Of the lists of versions whose data is wanted.
    floors: Floors,
    /// The newest commit that is known to be on disk.
    durable: AtomicU64,
    groups: AtomicU64,
    transactions: AtomicU64,
    conflicts: AtomicU64,
    committer: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct State {
    commit: u64,
    sequence: u64,
    hybrid: HybridClock,
    wall_ns: i64,
    recent: HashMap<u64, u64>,
    before_recent: HashMap<u64, u64>,
    /// Commit numbers up to this one are not in `recent` or `before_recent` any more.
    forgotten: u64,
    /// The commit at which `before_recent` was set aside.
    rotated: u64,
    pub(super) usage: HashMap<BucketNumber, Usage>,
    pub(super) snapshots: HashMap<BucketNumber, Vec<u64>>,
    pending: Group,
    stopped: Option<ErrorKind>,
    is_closing: bool,
    /// A group is under way.
    is_committing: bool,
}

/// A group under way, with what is written beside its rows.
struct Taken {
    group: Group,
    clock: Vec<u8>,
    usage: Vec<(Bytes, Usage)>,
}

#[derive(Default)]
struct Group {
    writes: Vec<(Space, Bytes, Option<Bytes>)>,
    acks: Vec<oneshot::Sender<Result<(), (ErrorKind, String)>>>,
    usage: Vec<BucketNumber>,
    deltas: Vec<(BucketNumber, UsageDelta)>,
    changed: Vec<(Space, Bytes, u32)>,
    buckets: BTreeSet<BucketNumber>,
    directories: Vec<(Bytes, i64)>,
    snapshots: Vec<(BucketNumber, u64)>,
    commit: u64,
    needs_contents: bool,
    needs_sync: bool,
    /// Let go when the group is committed.
    held: Vec<super::txn::Held>,
}

/// The row of [`Space::Meta`] that holds the counters.
const CLOCK_ROW: &[u8] = b"clock";

impl Ledger {
    /// Continues from what `store` holds, and starts the committer.
    pub async fn open(
        own: SegmentId,
        store: Arc<dyn Store>,
        contents: Arc<dyn ContentBarrier>,
        environment: Environment,
    ) -> Result<Arc<Ledger>> {
        let mut counters = [0u64; 3];
        if let Some(row) = store.get(Space::Meta, CLOCK_ROW).await? {
            let fields = row.chunks_exact(8).filter_map(|c| c.try_into().ok().map(u64::from_be_bytes));
            counters.iter_mut().zip(fields).for_each(|(slot, field)| *slot = field);
        }
        let [commit, sequence, time] = counters;
        let mut usage = HashMap::new();
        let snapshot = store.snapshot().await?;
        let rows = snapshot.scan(Space::Meta, crate::kv::KeyRange::prefix(b"usage/"), usize::MAX, false).await?.rows;
        for (key, row) in rows {
            let number = key.last_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
            usage.insert(number, decode_usage(&row));
        }
        let ledger = Arc::new(Ledger {
            own,
            store,
            contents,
            environment,
            state: Mutex::new(State {
                commit,
                sequence,
                hybrid: HybridClock::seeded(time),
                wall_ns: i64::MIN,
                recent: HashMap::new(),
                before_recent: HashMap::new(),
                forgotten: commit,
                rotated: commit,
                usage,
                snapshots: HashMap::new(),
                pending: Group::default(),
                stopped: None,
                is_closing: false,
                is_committing: false,
            }),
            work: Condvar::new(),
            published: watch::channel(commit).0,
            watchers: Mutex::default(),
            bucket_watchers: BucketWatchers::default(),
            floors: Floors::default(),
            durable: AtomicU64::new(commit),
            groups: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            committer: Mutex::new(None),
        });
        let committer = ledger.clone();
        let thread = std::thread::Builder::new()
            .name("tombolo-commit".into())
            .spawn(move || committer.run())
            .map_err(|e| Error::io("the committer thread could not be started", e))?;
        *ledger.committer.lock() = Some(thread);
        Ok(ledger)
    }

    /// Somebody looks for the first rows of all lists of a bucket that anybody has looked at, with a view that is to be taken after this.
    pub fn looks(&self, bucket: BucketNumber) -> Looks<'_> {
        let state = self.state.lock();
        let published = *self.published.borrow();
        Looks::new(&self.floors, &super::wanted_prefix(bucket), published, state.commit)
    }

    /// Somebody looks for the first row of a list of versions whose data is wanted, with a view that is to be taken after this.
    pub(super) fn look(&self, list: &Bytes) -> Look<'_> {
        // Nothing is sequenced meanwhile.
        let state = self.state.lock();
        let published = *self.published.borrow();
        self.floors.look(list, published, state.commit)
    }

    /// This segment.
    pub fn own(&self) -> &SegmentId {
        &self.own
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The wall clock.
    pub fn now_ns(&self) -> i64 {
        self.environment.clock.now_ns()
    }

    /// Fills `out` with randomness.
    pub fn fill_random(&self, out: &mut [u8]) {
        self.environment.entropy.fill(out);
    }

    /// The newest commit that every read sees.
    pub fn published(&self) -> u64 {
        *self.published.borrow()
    }

    /// The highest sequence number given out.
    pub fn sequence(&self) -> u64 {
        self.state.lock().sequence
    }

    /// The highest sequence number whose change a snapshot of the store has.
    pub async fn sequence_at(&self, snapshot: &Arc<dyn crate::kv::Snapshot>) -> Result<u64> {
        let row = snapshot.get(Space::Meta, CLOCK_ROW).await?;
        let sequence =
            row.as_ref().and_then(|row| row.get(8..16)).and_then(|b| b.try_into().ok().map(u64::from_be_bytes));
        Ok(sequence.unwrap_or_default())
    }

    /// Starts a transaction.
    pub fn begin(self: &Arc<Ledger>) -> Txn {
        Txn::new(self.clone(), self.published())
    }

    /// Hears which entries and nodes each group of commits changed, from now on; not of what `origin` changed (0: of everything).
    pub fn watch(&self, origin: u32) -> broadcast::Receiver<ChangedRows> {
        let (sender, receiver) = broadcast::channel(WATCHED_GROUPS_MAX);
        self.watchers.lock().push((origin, sender));
        receiver
    }

    /// Hears which buckets' registers change, from now on.
    pub fn watch_buckets(&self) -> BucketWatch {
        self.bucket_watchers.watch()
    }

    /// The newest commit that is known to survive a crash of the machine.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Tells watchers. Who made all of a group's changes is not even woken.
    fn tell(&self, changed: Vec<(Space, Bytes, u32)>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|(_, watcher)| watcher.receiver_count() > 0);
        let whole: ChangedRows = Arc::new(changed);
        for (own, watcher) in watchers.iter() {
            let is_others = |row: &&(Space, Bytes, u32)| *own == 0 || row.2 != *own;
            let others = whole.iter().filter(is_others).count();
            if others == 0 {
                continue;
            }
            let rows = if others == whole.len() {
                whole.clone()
            } else {
                Arc::new(whole.iter().filter(is_others).cloned().collect())
            };
            // Nobody may be listening any more.
            let _ = watcher.send(rows);
        }
    }

    /// What a bucket holds.
    pub fn usage(&self, bucket: BucketNumber) -> Usage {
        self.state.lock().usage.get(&bucket).copied().unwrap_or_default()
    }

    /// What a bucket holds as a snapshot of the store has it.
    pub(super) async fn usage_at(
        &self,
        snapshot: &Arc<dyn crate::kv::Snapshot>,
        bucket: BucketNumber,
    ) -> Result<Usage> {
        let row = snapshot.get(Space::Meta, &usage_row(bucket)).await?;
        Ok(row.map(|row| decode_usage(&row)).unwrap_or_default())
    }

    /// Forgets a bucket's counters.
    pub fn forget_bucket(&self, bucket: BucketNumber) {
        let mut state = self.state.lock();
        state.usage.remove(&bucket);
        state.snapshots.remove(&bucket);
    }

    /// A bucket has a snapshot at `commit`: rows that are overwritten from now on are kept for it.
    pub fn add_snapshot(&self, bucket: BucketNumber, commit: u64) {
        let mut state = self.state.lock();
        let commits = state.snapshots.entry(bucket).or_default();
        commits.push(commit);
        commits.sort_unstable();
    }

    /// The snapshot at `commit` is gone. Returns the ones left.
    pub fn remove_snapshot(&self, bucket: BucketNumber, commit: u64) -> Vec<u64> {
        let mut state = self.state.lock();
        let commits = state.snapshots.entry(bucket).or_default();
        commits.retain(|c| *c != commit);
        commits.clone()
    }

    /// The commits at which a bucket has snapshots.
    pub fn snapshots(&self, bucket: BucketNumber) -> Vec<u64> {
        self.state.lock().snapshots.get(&bucket).cloned().unwrap_or_default()
    }

    /// A merged stamp: later local stamps are greater.
    pub fn observe(&self, time: u64) {
        self.state.lock().hybrid.observe(time);
    }

    /// Groups, transactions and conflicts so far.
    pub fn counters(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.groups), load(&self.transactions), load(&self.conflicts))
    }

    /// Sequences and commits `txn`. [`ErrorKind::Busy`]: it read something that has changed since; begin again after
    /// [`Ledger::settled`]. Once this has been polled the commit happens even if the future is dropped.
    #[boxed]
    pub async fn commit(&self, txn: Txn) -> Result<Sequenced> {
        let (sequenced, done, taken) = {
            let mut state = self.state.lock();
            match state.stopped {
                Some(kind) => return Err(stopped(kind)),
                None if state.is_closing => return Err(stopped(ErrorKind::Failed)),
                None => {}
            }
            if txn.is_read_only() {
                return Ok(Sequenced {
                    commit: state.commit,
                    first_sequence: 0,
                    first_time: 0,
                    wall_ns: self.now_ns(),
                    is_observed: false,
                });
            }
            self.check(&state, &txn)?;
            let sequenced = self.sequence_txn(&mut state, txn)?;
            let (ack, done) = oneshot::channel();
            state.pending.acks.push(ack);
            // What waits for no disk is done here: it takes less time than waking the committer.
            let is_quick = !state.is_committing && !state.pending.needs_sync && !state.pending.needs_contents;
            let taken = is_quick.then(|| Ledger::take(&mut state));
            if taken.is_none() {
                self.work.notify_all();
            }
            (sequenced, done, taken)
        };
        if let Some(taken) = taken {
            self.commit_taken(taken);
        }
        match done.await {
            Ok(Ok(())) => Ok(sequenced),
            Ok(Err((kind, message))) => Err(Error::new(kind, message)),
            Err(_) => Err(stopped(ErrorKind::Failed)),
        }
    }

    /// Waits until everything sequenced up to now is visible, so that a transaction that met a conflict can begin again.
    pub async fn settled(&self) -> Result<()> {
        let target = self.state.lock().commit;
        let mut published = self.published.subscribe();
        loop {
            if *published.borrow_and_update() >= target {
                return Ok(());
            }
            if let Some(kind) = self.state.lock().stopped {
                return Err(stopped(kind));
            }
            if published.changed().await.is_err() {
                return Err(stopped(ErrorKind::Failed));
            }
        }
    }

    /// Whether all of `rows` are as they were when `txn` began.
    fn are_unchanged(state: &State, txn: &Txn, rows: &[u64]) -> bool {
        let changed = |hash: &u64| {
            let newest = state.recent.get(hash).or_else(|| state.before_recent.get(hash));
            newest.is_some_and(|&commit| commit > txn.read_version())
        };
        rows.is_empty() || txn.read_version() >= state.forgotten && !rows.iter().any(changed)
    }

    fn check(&self, state: &State, txn: &Txn) -> Result<()> {
        if !Ledger::are_unchanged(state, txn, txn.reads()) {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Busy, "the same thing is being changed by many at once; try again"));
        }
        Ok(())
    }

    fn sequence_txn(&self, state: &mut State, mut txn: Txn) -> Result<Sequenced> {
        let held = txn.take_held();
        txn.check_quotas(&state.usage)?;
        let slots = u64::from(txn.slots());
        let sequenced = Sequenced {
            commit: state.commit + 1,
            first_sequence: state.sequence + 1,
            first_time: state.hybrid.reserve(self.environment.clock.now_ns(), slots),
            wall_ns: self.environment.clock.now_ns().max(state.wall_ns.saturating_add(1)),
            is_observed: Ledger::are_unchanged(state, &txn, txn.observed()),
        };
        let needs_contents = txn.needs_contents();
        let needs_sync = txn.needs_sync();
        let usage = txn.usage().clone();
        let snapshot_of = txn.snapshot_of();
        let origin = txn.origin();
        let directories = txn.directory_deltas()?;
        let writes = txn.into_writes(&sequenced, &state.snapshots)?;
        // From here on nothing fails: the counters move together with the rows.
        state.commit += 1;
        state.wall_ns = sequenced.wall_ns;
        state.sequence += slots;
        for (bucket, delta) in usage {
            delta.apply(state.usage.entry(bucket).or_default());
            state.pending.usage.push(bucket);
            state.pending.deltas.push((bucket, delta));
        }
        if let Some(bucket) = snapshot_of {
            state.snapshots.entry(bucket).or_default().push(sequenced.commit);
            state.pending.snapshots.push((bucket, sequenced.commit));
        }
        for (space, key, value) in &writes {
            state.recent.insert(row_hash(*space, key), sequenced.commit);
            if *space == Space::Meta && value.is_some() {
                self.floors.written(sequenced.commit, key, super::wanted::lists_of(key));
            }
        }
        if origin != UNSEEN && !self.watchers.lock().is_empty() {
            let watched = writes.iter().filter(|(space, ..)| matches!(space, Space::Entries | Space::Nodes));
            state.pending.changed.extend(watched.map(|(space, key, _)| (*space, key.clone(), origin)));
        }
        if !self.bucket_watchers.is_empty() {
            let index = writes.iter().filter(|(space, ..)| *space == Space::Index);
            let numbers = index.filter_map(|(_, key, _)| key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)));
            state.pending.buckets.extend(numbers);
        }
        if state.recent.len() >= RECENT_ROWS {
            state.forgotten = state.rotated;
            state.rotated = sequenced.commit;
            state.before_recent = std::mem::take(&mut state.recent);
        }
        state.pending.directories.extend(directories);
        state.pending.commit = sequenced.commit;
        state.pending.needs_contents |= needs_contents;
        state.pending.needs_sync |= needs_sync;
        state.pending.writes.extend(writes);
        state.pending.held.extend(held);
        self.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(sequenced)
    }

    /// The committer's loop; ends when the ledger is closed and nothing is pending.
    fn run(&self) {
        loop {
            let taken = {
                let mut state = self.state.lock();
                while state.pending.acks.is_empty() || state.is_committing {
                    if state.is_closing && !state.is_committing {
                        self.work.notify_all();
                        return;
                    }
                    self.work.wait(&mut state);
                }
                Ledger::take(&mut state)
            };
            self.commit_taken(taken);
        }
    }

    /// What is pending becomes a group under way. There is one at a time.
    fn take(state: &mut State) -> Taken {
        state.is_committing = true;
        let mut group = std::mem::take(&mut state.pending);
        group.usage.sort_unstable();
        group.usage.dedup();
        let usage =
            group.usage.iter().map(|b| (usage_row(*b), state.usage.get(b).copied().unwrap_or_default())).collect();
        let mut clock = group.commit.to_be_bytes().to_vec();
        clock.extend_from_slice(&state.sequence.to_be_bytes());
        clock.extend_from_slice(&state.hybrid.last().to_be_bytes());
        Taken { group, clock, usage }
    }

    /// Commits a group and tells those who wait for it.
    fn commit_taken(&self, taken: Taken) {
        let Taken { mut group, clock, usage } = taken;
        let writes = std::mem::take(&mut group.writes);
        let result = self.commit_group(&group, writes, clock, usage);
        self.groups.fetch_add(1, Ordering::Relaxed);
        let (mut acks, held) = (group.acks, group.held);
        let mut answer = Ok(());
        match result {
            Ok(()) => {
                if group.needs_sync {
                    self.durable.store(group.commit, Ordering::Release);
                }
                self.published.send_replace(group.commit);
                if !group.changed.is_empty() {
                    self.tell(group.changed);
                }
                self.bucket_watchers.tell(&group.buckets);
            }
            // The store refused without changing anything. What was sequenced later did not read any of it.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "a commit was refused");
                let mut state = self.state.lock();
                for (bucket, delta) in &group.deltas {
                    delta.inverse().apply(state.usage.entry(*bucket).or_default());
                }
                for (bucket, commit) in &group.snapshots {
                    state.snapshots.entry(*bucket).or_default().retain(|at| at != commit);
                }
                drop(state);
                self.published.send_replace(group.commit);
                answer = Err((error.kind(), error.to_string()));
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed; the segment takes no more changes until it is opened again");
                let mut state = self.state.lock();
                state.stopped = Some(error.kind());
                acks.extend(std::mem::take(&mut state.pending).acks);
                drop(state);
                // Wakes those who wait for a commit that will not come.
                self.published.send_modify(|_| {});
                answer = Err((error.kind(), error.to_string()));
            }
        }
        {
            let mut state = self.state.lock();
            state.is_committing = false;
            if !state.pending.acks.is_empty() || state.is_closing {
                self.work.notify_all();
            }
        }
        drop(held);
        for ack in acks {
            // A caller that went away doesn't want to know.
            let _ = ack.send(answer.clone());
        }
    }

    fn commit_group(
        &self,
        group: &Group,
        mut writes: Vec<(Space, Bytes, Option<Bytes>)>,
        clock: Vec<u8>,
        usage: Vec<(Bytes, Usage)>,
    ) -> Result<()> {
        if group.needs_contents {
            self.contents.sync()?;
        }
        writes.push((Space::Meta, Bytes::from_static(CLOCK_ROW), Some(clock.into())));
        for (key, held) in usage {
            writes.push((Space::Meta, key, encode_usage(&held)));
        }
        writes.extend(drive(self.count_directories(&group.directories))?);
        let durability = if group.needs_sync { Durability::Sync } else { Durability::Buffered };
        drive(self.store.commit(Batch { guards: Vec::new(), writes }, durability))
    }

    /// The counts that `deltas` change. Groups are committed one after the other, so what the store has is what they change.
    async fn count_directories(&self, deltas: &[(Bytes, i64)]) -> Result<Vec<(Space, Bytes, Option<Bytes>)>> {
        let mut sums: BTreeMap<&Bytes, i64> = BTreeMap::new();
        for (key, delta) in deltas {
            *sums.entry(key).or_default() += delta;
        }
        let mut writes = Vec::new();
        for (key, delta) in sums.into_iter().filter(|(_, delta)| *delta != 0) {
            let row = self.store.get(Space::Derived, key).await?;
            let count = row.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes)).unwrap_or_default();
            let count = (count + delta).max(0);
            let row = (count > 0).then(|| Bytes::copy_from_slice(&count.to_be_bytes()));
            writes.push((Space::Derived, key.clone(), row));
        }
        Ok(writes)
    }

    /// Takes no more changes, and returns when all that were sequenced are committed.
    pub async fn close(self: &Arc<Ledger>) -> Result<()> {
        self.state.lock().is_closing = true;
        self.work.notify_all();
        self.settled().await
    }

    /// Takes no more changes, and returns when the committer has let go of the store: for drops.
    pub fn abandon(&self) {
        self.state.lock().is_closing = true;
        self.work.notify_all();
        if let Some(committer) = self.committer.lock().take()
            && committer.join().is_err()
        {
            tracing::error!("the committer thread panicked");
        }
    }

    /// Why no more changes are taken, if so.
    pub fn stopped(&self) -> Option<ErrorKind> {
        self.state.lock().stopped
    }
}

/// Runs a future to its end on this thread, inside or outside of an executor.
fn drive<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

/// What conflict checks compare instead of keys; a collision costs a needless retry.
pub(super) fn row_hash(space: Space, key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (space as u8, key).hash(&mut hasher);
    hasher.finish()
}

fn stopped(kind: ErrorKind) -> Error {
    match kind {
        ErrorKind::NoSpace => Error::new(
            ErrorKind::NoSpace,
            "the disk was full at an earlier commit; make room and open the segment again",
        ),
        _ => Error::new(
            ErrorKind::Failed,
            "the segment takes no more changes (closed, or an earlier commit failed); open it again",
        ),
    }
}
