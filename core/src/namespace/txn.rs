//! A transaction: rows read, rows changed, and what the commit must hold against.
//!
//! Rows are loaded once and edited in place; the ledger compares before and after to keep the change index right, keeps
//! overwritten rows for snapshots, and turns pending dots into real ones.

use super::keys::{self, BucketNumber};
use super::ledger::{Ledger, Sequenced, row_hash};
use super::rows::{EntryRow, HistoryRow, NodeRow, Shown, row_commit};
use super::usage_delta::UsageDelta;
use crate::catalog::CatalogRow;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::Space;
use crate::object::{TimeNs, Usage};
use crate::register::Dot;
use crate::tree::Conflict;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Names one register of a row in the change index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// A directory entry.
    Entry = 0,
    /// A directory's home.
    Home = 1,
    /// A node's content.
    Content = 2,
    /// A node's attributes.
    Attributes = 3,
    /// A node's tags.
    Tags = 4,
    /// A kept version.
    History = 5,
    /// Cluster, tenant, bucket or user.
    Catalog = 6,
}

impl Field {
    /// From its byte.
    pub fn from_byte(byte: u8) -> Result<Field> {
        Ok(match byte {
            0 => Field::Entry,
            1 => Field::Home,
            2 => Field::Content,
            3 => Field::Attributes,
            4 => Field::Tags,
            5 => Field::History,
            6 => Field::Catalog,
            _ => return Err(Error::damaged(format!("the change index names the unknown field {byte}"))),
        })
    }
}

/// A row that carries registers.
pub trait Row: Default + Clone + Send {
    /// Where such rows live.
    const SPACE: Space;
    /// Whether snapshots keep earlier states of it.
    const IS_KEPT: bool;
    /// Reads it.
    fn decode(bytes: Bytes, own: &SegmentId) -> Result<Self>;
    /// Its bytes.
    fn encode(&self, own: &SegmentId) -> Vec<u8>;
    /// Whether there is nothing in it, so that the row goes.
    fn is_gone(&self) -> bool;
    /// Visits the changes by which the change index finds the row's registers: the highest of each segment, and all that are live.
    fn indexed(&self, visit: &mut dyn FnMut(Field, Dot));
    /// Turns pending dots into real ones, and notes the commit.
    fn assign(&mut self, own: &SegmentId, sequenced: &Sequenced);
}

macro_rules! row {
    ($row:ty, $space:expr, $kept:expr, { $($register:ident: $field:expr),+ }, $gone:expr, $number:expr) => {
        impl Row for $row {
            const SPACE: Space = $space;
            const IS_KEPT: bool = $kept;
            fn decode(bytes: Bytes, own: &SegmentId) -> Result<Self> {
                <$row>::decode(bytes, own)
            }
            fn encode(&self, own: &SegmentId) -> Vec<u8> {
                <$row>::encode(self, own)
            }
            fn is_gone(&self) -> bool {
                let gone: fn(&$row) -> bool = $gone;
                gone(self)
            }
            fn indexed(&self, visit: &mut dyn FnMut(Field, Dot)) {
                $(self.$register.indexed().for_each(|dot| visit($field, dot));)+
            }
            fn assign(&mut self, own: &SegmentId, sequenced: &Sequenced) {
                $(self.$register.assign(own, sequenced.first_sequence, sequenced.first_time);)+
                let number: fn(&mut $row, &SegmentId, &Sequenced) = $number;
                number(self, own, sequenced);
                self.commit = sequenced.commit;
            }
        }
    };
}

row!(
    EntryRow,
    Space::Entries,
    true,
    { register: Field::Entry },
    |r| r.shown.is_none() && r.register.is_empty(),
    |r, own, sequenced| {
        // A file that is in conflict about one of its names shows its new content there as a copy.
        if let Some(Shown::File(super::rows::ShownFile { content: Some(dot), .. })) = &mut r.shown {
            *dot = sequenced.number(own, *dot);
        }
    }
);
row!(
    NodeRow,
    Space::Nodes,
    true,
    { home: Field::Home, content: Field::Content, attributes: Field::Attributes, tags: Field::Tags },
    |r| r.is_empty(),
    |_, _, _| {}
);
row!(HistoryRow, Space::History, false, { register: Field::History }, |r| r.register.is_empty(), |_, _, _| {});
row!(CatalogRow, Space::Catalog, false, { register: Field::Catalog }, |r| r.register.is_empty(), |_, _, _| {});

/// A loaded row.
struct Cell<R> {
    before: Option<Bytes>,
    old: R,
    row: R,
    is_dirty: bool,
}

type Cells<R> = BTreeMap<Bytes, Cell<R>>;

/// See the module.
pub struct Txn {
    ledger: Arc<Ledger>,
    read_version: u64,
    reads: Vec<u64>,
    entries: Cells<EntryRow>,
    nodes: Cells<NodeRow>,
    history: Cells<HistoryRow>,
    new_history: Vec<(Bytes, Dot, HistoryRow)>,
    catalog: Cells<CatalogRow>,
    pub(super) raw: Vec<(Space, Bytes, Option<Bytes>)>,
    /// What is in conflict, by the keys of the rows.
    conflicts: Vec<(Bytes, Vec<Conflict>)>,
    /// Directories whose entries change, by the key of their time's row.
    touched: BTreeSet<Bytes>,
    observed: Vec<u64>,
    /// Pending dots of versions whose bytes may not be here.
    copied: Vec<Dot>,
    /// Buckets whose replaced contents others may use.
    lending: BTreeSet<BucketNumber>,
    keeps_directories: bool,
    origin: u32,
    slots: u32,
    usage: BTreeMap<BucketNumber, UsageDelta>,
    quotas: Vec<(BucketNumber, Option<u64>, Option<u64>)>,
    needs_contents: bool,
    needs_sync: bool,
    snapshot_of: Option<BucketNumber>,
    held: Vec<Held>,
}

/// What must stay until a commit is over.
pub(super) type Held = Arc<dyn std::any::Any + Send + Sync>;

impl Txn {
    pub(super) fn new(ledger: Arc<Ledger>, read_version: u64) -> Txn {
        Txn {
            ledger,
            read_version,
            reads: Vec::new(),
            entries: Cells::new(),
            nodes: Cells::new(),
            history: Cells::new(),
            new_history: Vec::new(),
            catalog: Cells::new(),
            raw: Vec::new(),
            conflicts: Vec::new(),
            touched: BTreeSet::new(),
            observed: Vec::new(),
            copied: Vec::new(),
            lending: BTreeSet::new(),
            keeps_directories: false,
            origin: 0,
            slots: 0,
            usage: BTreeMap::new(),
            quotas: Vec::new(),
            needs_contents: false,
            needs_sync: true,
            snapshot_of: None,
            held: Vec::new(),
        }
    }

    /// This segment.
    pub fn own(&self) -> &SegmentId {
        self.ledger.own()
    }

    /// The ledger it will go to.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The wall clock.
    pub fn now_ns(&self) -> i64 {
        self.ledger.now_ns()
    }

    /// A dot for a write of this transaction; real once it is sequenced.
    pub fn dot(&mut self) -> Dot {
        let slot = self.slots;
        self.slots += 1;
        Dot::pending(slot, *self.own())
    }

    /// An entry.
    pub async fn entry(&mut self, bucket: BucketNumber, parent: &NodeId, name: &[u8]) -> Result<&EntryRow> {
        let key = keys::entry(bucket, parent, name);
        Ok(&load(&self.ledger, &mut self.entries, &mut self.reads, key).await?.row)
    }

    /// An entry, to be changed.
    pub async fn edit_entry(&mut self, bucket: BucketNumber, parent: &NodeId, name: &[u8]) -> Result<&mut EntryRow> {
        let key = keys::entry(bucket, parent, name);
        Ok(load(&self.ledger, &mut self.entries, &mut self.reads, key).await?.edit())
    }

    /// A node.
    pub async fn node(&mut self, bucket: BucketNumber, node: &NodeId) -> Result<&NodeRow> {
        let key = keys::node(bucket, node);
        Ok(&load(&self.ledger, &mut self.nodes, &mut self.reads, key).await?.row)
    }

    /// A node, to be changed.
    pub async fn edit_node(&mut self, bucket: BucketNumber, node: &NodeId) -> Result<&mut NodeRow> {
        let key = keys::node(bucket, node);
        Ok(load(&self.ledger, &mut self.nodes, &mut self.reads, key).await?.edit())
    }

    /// A node that is known not to exist yet (its id was just drawn), to be filled.
    pub fn new_node(&mut self, bucket: BucketNumber, node: &NodeId) -> &mut NodeRow {
        let key = keys::node(bucket, node);
        let cell = self.nodes.entry(key).or_insert_with(|| Cell {
            before: None,
            old: NodeRow::default(),
            row: NodeRow::default(),
            is_dirty: true,
        });
        &mut cell.row
    }

    /// A kept version, by its key.
    pub async fn edit_history(&mut self, key: Bytes) -> Result<&mut HistoryRow> {
        Ok(load(&self.ledger, &mut self.history, &mut self.reads, key).await?.edit())
    }

    /// A kept version, by its key.
    pub async fn history(&mut self, key: Bytes) -> Result<&HistoryRow> {
        Ok(&load(&self.ledger, &mut self.history, &mut self.reads, key).await?.row)
    }

    /// A kept version whose place in the order is that of `dot`, a pending dot of this transaction.
    pub fn new_history(&mut self, name_prefix: Bytes, dot: Dot, row: HistoryRow) {
        self.new_history.push((name_prefix, dot, row));
    }

    /// How many kept versions of a name this transaction adds.
    pub fn fresh_history(&self, name_prefix: &Bytes) -> usize {
        let rows = self.history.range(name_prefix.clone()..).take_while(|(key, _)| key.starts_with(name_prefix));
        let retired = rows.filter(|(_, cell)| cell.before.is_none() && !cell.row.is_gone()).count();
        retired + self.new_history.iter().filter(|(prefix, _, _)| prefix == name_prefix).count()
    }

    /// A row of the catalog.
    pub async fn catalog(&mut self, key: Bytes) -> Result<&CatalogRow> {
        Ok(&load(&self.ledger, &mut self.catalog, &mut self.reads, key).await?.row)
    }

    /// A row of the catalog, to be changed.
    pub async fn edit_catalog(&mut self, key: Bytes) -> Result<&mut CatalogRow> {
        Ok(load(&self.ledger, &mut self.catalog, &mut self.reads, key).await?.edit())
    }

    /// Whether an edited entry of `directory` shows in this transaction: (name, shows), for scans that must see its own changes.
    pub fn edited_entries(&self, bucket: BucketNumber, directory: &NodeId) -> Vec<(Bytes, bool)> {
        let prefix = keys::entry(bucket, directory, b"");
        let rows = self.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        rows.map(|(key, cell)| (key.slice(prefix.len()..), cell.row.shown.is_some())).collect()
    }

    /// Whether this transaction leaves a kept version under `directory`.
    pub fn keeps_history(&self, bucket: BucketNumber, directory: &NodeId) -> bool {
        let prefix = keys::entry(bucket, directory, b"");
        let mut rows = self.history.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        rows.any(|(_, cell)| !cell.row.register.is_tombstone_only())
            || self.new_history.iter().any(|(key, _, _)| key.starts_with(&prefix))
    }

    /// The keys of kept versions that this transaction removes.
    pub fn drops_history(&self, key: &[u8]) -> bool {
        self.history.get(key).is_some_and(|cell| cell.row.register.is_tombstone_only())
    }

    /// A row of any space, as it is or as this transaction has put it; the commit fails if it changes before.
    pub async fn read(&mut self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let own = self.raw.iter().rev().find(|(other, name, _)| *other == space && name == key);
        if let Some((_, _, value)) = own {
            return Ok(value.clone());
        }
        self.watch(space, key);
        self.ledger.store().get(space, key).await
    }

    /// The commit fails if this row is changed by another before.
    pub fn watch(&mut self, space: Space, key: &[u8]) {
        self.reads.push(row_hash(space, key));
    }

    /// Keeps something until the commit is over, or has failed, also if nobody waits for it any more.
    pub fn hold(&mut self, held: Arc<dyn std::any::Any + Send + Sync>) {
        self.held.push(held);
    }

    pub(super) fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// Writes a row without registers.
    pub fn put(&mut self, space: Space, key: Bytes, value: impl Into<Bytes>) {
        self.raw.push((space, key, Some(value.into())));
    }

    /// Deletes a row without registers.
    pub fn delete(&mut self, space: Space, key: Bytes) {
        self.raw.push((space, key, None));
    }

    /// Writes what is in conflict about a name.
    pub(super) fn put_conflicts(&mut self, key: Bytes, conflicts: Vec<Conflict>) {
        self.conflicts.push((key, conflicts));
    }

    /// Notes that the entries of `directory` change: moves its time to that of the commit, and makes a concurrent removal of it fail.
    pub fn touch_directory(&mut self, bucket: BucketNumber, directory: &NodeId) {
        self.touched.insert(keys::directory_time(bucket, directory));
    }

    /// Directories that become empty stay.
    pub fn keep_directories(&mut self) {
        self.keeps_directories = true;
    }

    pub(super) fn keeps_directories(&self) -> bool {
        self.keeps_directories
    }

    /// Who makes the change, for those who watch.
    pub fn set_origin(&mut self, origin: u32) {
        self.origin = origin;
    }

    pub(super) fn origin(&self) -> u32 {
        self.origin
    }

    /// A directory goes, and its time with it.
    pub fn forget_directory(&mut self, bucket: BucketNumber, directory: &NodeId) {
        let key = keys::directory_time(bucket, directory);
        self.touched.remove(&key);
        self.delete(Space::Derived, key);
    }

    /// When the entries of `directory` last changed. Does not make the commit depend on it; [`Sequenced::is_observed`] tells afterwards whether it
    /// was still so.
    pub async fn observe_directory(&mut self, bucket: BucketNumber, directory: &NodeId) -> Result<Option<TimeNs>> {
        let key = keys::directory_time(bucket, directory);
        self.observed.push(row_hash(Space::Derived, &key));
        let row = self.ledger.store().get(Space::Derived, &key).await?;
        Ok(row.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes)))
    }

    /// Changes what the bucket holds.
    pub fn count(&mut self, bucket: BucketNumber, change: impl FnOnce(&mut UsageDelta)) {
        change(self.usage.entry(bucket).or_default());
    }

    /// Refuses the commit if it takes the bucket over a quota.
    pub fn limit(&mut self, bucket: BucketNumber, bytes: Option<u64>, objects: Option<u64>) {
        if bytes.is_some() || objects.is_some() {
            self.quotas.push((bucket, bytes, objects));
        }
    }

    /// The rows refer to chunks that may not be on disk yet.
    pub fn refers_to_new_chunks(&mut self) {
        self.needs_contents = true;
    }

    /// The write with this pending dot carries a version that is wanted: its bytes may not be here.
    pub(super) fn copied(&mut self, dot: Dot) {
        self.copied.push(dot);
    }

    /// What this replaces in the bucket is kept for those who have not heard of it.
    pub fn keep_replaced(&mut self, bucket: BucketNumber) {
        self.lending.insert(bucket);
    }

    /// The caller does not wait for the disk.
    pub fn without_sync(&mut self) {
        self.needs_sync = false;
    }

    /// The commit is the state that a snapshot of `bucket` shows.
    pub fn marks_snapshot(&mut self, bucket: BucketNumber) {
        self.snapshot_of = Some(bucket);
    }

    /// Counts the bucket's objects and their bytes by what the entries show before and after: replaces what was counted on the way.
    pub(super) fn recount_shown(&mut self, bucket: BucketNumber) {
        let (mut objects, mut bytes) = (0i64, 0i64);
        let prefix = bucket.to_be_bytes();
        for (_, cell) in self.entries.iter().filter(|(key, cell)| cell.is_dirty && key.starts_with(&prefix)) {
            for (row, sign) in [(&cell.old, -1), (&cell.row, 1)] {
                if let Some(size) = row.shown.as_ref().and_then(Shown::object_size) {
                    objects += sign;
                    bytes = bytes.saturating_add(i64::try_from(size).unwrap_or(i64::MAX).saturating_mul(sign));
                }
            }
        }
        self.count(bucket, |usage| {
            usage.objects = objects;
            usage.logical_bytes = bytes;
        });
    }

    /// The entries of a bucket that this transaction changes.
    pub(super) fn changed_entries(&self, bucket: BucketNumber) -> Vec<Bytes> {
        changed(&self.entries, bucket)
    }

    /// The nodes of a bucket that this transaction changes.
    pub(super) fn changed_nodes(&self, bucket: BucketNumber) -> Vec<Bytes> {
        changed(&self.nodes, bucket)
    }

    /// An entry that this transaction has loaded, as it was, by its key.
    pub(super) fn entry_before(&self, key: &[u8]) -> Option<&EntryRow> {
        self.entries.get(key).map(|cell| &cell.old)
    }

    /// A node that this transaction has loaded, as it was, by its key.
    pub(super) fn node_before(&self, key: &[u8]) -> Option<&NodeRow> {
        self.nodes.get(key).map(|cell| &cell.old)
    }

    /// Whether one of the entries of `directory` that this transaction changes shows, and how many more of them show than before.
    pub(super) fn shown_entries(&self, bucket: BucketNumber, directory: &NodeId) -> (bool, i64) {
        let prefix = keys::entry(bucket, directory, b"");
        let rows = self.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let mut more = 0;
        for (_, cell) in rows.filter(|(_, cell)| cell.is_dirty) {
            if cell.row.shown.is_some() {
                return (true, 0);
            }
            more -= i64::from(cell.old.shown.is_some());
        }
        (false, more)
    }

    pub(super) fn snapshot_of(&self) -> Option<BucketNumber> {
        self.snapshot_of
    }

    pub(super) fn read_version(&self) -> u64 {
        self.read_version
    }

    pub(super) fn reads(&self) -> &[u64] {
        &self.reads
    }

    pub(super) fn observed(&self) -> &[u64] {
        &self.observed
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn usage(&self) -> &BTreeMap<BucketNumber, UsageDelta> {
        &self.usage
    }

    pub(super) fn needs_contents(&self) -> bool {
        self.needs_contents
    }

    pub(super) fn needs_sync(&self) -> bool {
        self.needs_sync
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.raw.is_empty()
            && self.conflicts.is_empty()
            && self.touched.is_empty()
            && self.new_history.is_empty()
            && !self.entries.values().any(|c| c.is_dirty)
            && !self.nodes.values().any(|c| c.is_dirty)
            && !self.history.values().any(|c| c.is_dirty)
            && !self.catalog.values().any(|c| c.is_dirty)
    }

    pub(super) fn check_quotas(&self, held: &HashMap<BucketNumber, Usage>) -> Result<()> {
        for (bucket, bytes, objects) in &self.quotas {
            let before = held.get(bucket).copied().unwrap_or_default();
            let mut after = before;
            let delta = self.usage.get(bucket).copied().unwrap_or_default();
            delta.apply(&mut after);
            let over =
                |limit: &Option<u64>, before: u64, after: u64| limit.is_some_and(|l| after > l && after > before);
            if over(bytes, before.logical_bytes + before.old_bytes, after.logical_bytes + after.old_bytes) {
                return Err(Error::new(ErrorKind::Quota, "the bucket's quota of bytes is used up"));
            }
            if over(objects, before.objects, after.objects) {
                return Err(Error::new(ErrorKind::Quota, "the bucket's quota of objects is used up"));
            }
        }
        Ok(())
    }

    /// By how much the commit changes how many entries of which directories show, and how many are directories, by the keys of their counts.
    pub(super) fn directory_deltas(&self) -> Result<Vec<(Bytes, i64)>> {
        let is_directory = |row: &EntryRow| matches!(row.shown, Some(Shown::Directory { .. }));
        let mut deltas: BTreeMap<Bytes, i64> = BTreeMap::new();
        for (key, cell) in self.entries.iter().filter(|(_, cell)| cell.is_dirty) {
            let bucket = key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
            let (parent, _) = keys::parse_entry(key)?;
            let entries = i64::from(cell.row.shown.is_some()) - i64::from(cell.old.shown.is_some());
            // The root is there whether or not anything is in it.
            if entries != 0 && parent != NodeId::ROOT {
                *deltas.entry(keys::entry_count(bucket, &parent)).or_default() += entries;
            }
            let directories = i64::from(is_directory(&cell.row)) - i64::from(is_directory(&cell.old));
            if directories != 0 {
                *deltas.entry(keys::directory_count(bucket, &parent)).or_default() += directories;
            }
        }
        Ok(deltas.into_iter().collect())
    }

    /// The rows of the commit, encoded, with their rows of the change index and of the snapshots' past.
    pub(super) fn into_writes(
        mut self,
        sequenced: &Sequenced,
        snapshots: &HashMap<BucketNumber, Vec<u64>>,
    ) -> Result<Vec<(Space, Bytes, Option<Bytes>)>> {
        let own = *self.ledger.own();
        for (prefix, dot, row) in std::mem::take(&mut self.new_history) {
            let slot = u64::from(dot.slot().unwrap_or_default());
            let order = keys::HistoryOrder::of(sequenced.first_time + slot, own, sequenced.first_sequence + slot);
            let mut key = BytesMut::from(prefix.as_ref());
            key.put_slice(&order.0);
            let cell = Cell { before: None, old: HistoryRow::default(), row, is_dirty: true };
            self.history.insert(key.freeze(), cell);
        }
        let mut writes = self.raw;
        let time = Bytes::copy_from_slice(&sequenced.wall_ns.to_be_bytes());
        writes.extend(self.touched.into_iter().map(|key| (Space::Derived, key, Some(time.clone()))));
        for (key, conflicts) in self.conflicts {
            let number = |c: Conflict| Conflict {
                dot: sequenced.number(&own, c.dot),
                content: c.content.map(|dot| sequenced.number(&own, dot)),
                ..c
            };
            let conflicts: Vec<Conflict> = conflicts.into_iter().map(number).collect();
            writes.push((Space::Derived, key, Some(super::contention::encode(&conflicts).into())));
        }
        for (key, cell) in self.nodes.iter().filter(|(_, cell)| cell.is_dirty) {
            let (old, new) = (cell.old.home.value(), cell.row.home.value());
            if old != new {
                let bucket = key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
                let (node, _) = keys::parse_entry(key)?;
                let row = |place: &(NodeId, Bytes)| keys::homed(bucket, &place.0, &place.1, &node);
                writes.extend(old.map(|place| (Space::Derived, row(place), None)));
                writes.extend(new.map(|place| (Space::Derived, row(place), Some(Bytes::new()))));
            }
        }
        let changed = self.entries.iter().filter(|(_, cell)| cell.is_dirty);
        let shown = changed.map(|(key, cell)| (key, cell.old.shown.as_ref(), cell.row.shown.as_ref()));
        super::alias::write(shown, |dot| sequenced.number(&own, dot), &mut writes)?;
        if !self.copied.is_empty() || !self.lending.is_empty() {
            let nodes = self.nodes.iter().filter(|(_, cell)| cell.is_dirty);
            let nodes = nodes.map(|(key, cell)| (Field::Content, key, &cell.old.content, &cell.row.content));
            let history = self.history.iter().filter(|(_, cell)| cell.is_dirty);
            let history = history.map(|(key, cell)| (Field::History, key, &cell.old.register, &cell.row.register));
            let contents: Vec<_> = nodes.chain(history).collect();
            super::wanted::write_copied(&self.copied, &contents, |dot| sequenced.number(&own, dot), &mut writes);
            super::replaced::write(&self.lending, &contents, &own, sequenced, &mut writes);
        }
        seal(self.entries, &own, sequenced, snapshots, &mut writes)?;
        seal(self.nodes, &own, sequenced, snapshots, &mut writes)?;
        seal(self.history, &own, sequenced, snapshots, &mut writes)?;
        seal(self.catalog, &own, sequenced, snapshots, &mut writes)?;
        Ok(writes)
    }
}

impl<R> Cell<R> {
    fn edit(&mut self) -> &mut R {
        self.is_dirty = true;
        &mut self.row
    }
}

fn changed<R>(cells: &Cells<R>, bucket: BucketNumber) -> Vec<Bytes> {
    let prefix = bucket.to_be_bytes();
    let changed = cells.iter().filter(|(key, cell)| cell.is_dirty && key.starts_with(&prefix));
    changed.map(|(key, _)| key.clone()).collect()
}

async fn load<'a, R: Row>(
    ledger: &Ledger,
    cells: &'a mut Cells<R>,
    reads: &mut Vec<u64>,
    key: Bytes,
) -> Result<&'a mut Cell<R>> {
    if !cells.contains_key(&key) {
        reads.push(row_hash(R::SPACE, &key));
        let before = ledger.store().get(R::SPACE, &key).await?;
        let row = match &before {
            Some(bytes) => R::decode(bytes.clone(), ledger.own())?,
            None => R::default(),
        };
        cells.insert(key.clone(), Cell { before, old: row.clone(), row, is_dirty: false });
    }
    cells.get_mut(&key).ok_or_else(|| Error::new(ErrorKind::Failed, "a loaded row is not there"))
}

fn seal<R: Row>(
    cells: Cells<R>,
    own: &SegmentId,
    sequenced: &Sequenced,
    snapshots: &HashMap<BucketNumber, Vec<u64>>,
    writes: &mut Vec<(Space, Bytes, Option<Bytes>)>,
) -> Result<()> {
    for (key, mut cell) in cells {
        if !cell.is_dirty {
            continue;
        }
        let bucket = if R::SPACE == Space::Catalog {
            keys::CATALOG
        } else {
            key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default()
        };
        if let Some(before) = &cell.before
            && R::IS_KEPT
            && let Some(newest) = snapshots.get(&bucket).and_then(|s| s.last())
            && row_commit(before)? <= *newest
        {
            writes.push((Space::Past, keys::past(R::SPACE as u8, &key, sequenced.commit), Some(before.clone())));
        }
        cell.row.assign(own, sequenced);
        let mut old = Vec::new();
        cell.old.indexed(&mut |field, dot| old.push((dot.segment, dot.sequence, field)));
        let mut new = Vec::new();
        cell.row.indexed(&mut |field, dot| new.push((dot.segment, dot.sequence, field)));
        for (segment, sequence, _) in old.iter().filter(|e| !new.contains(e)) {
            writes.push((Space::Index, keys::index(bucket, own, segment, *sequence), None));
        }
        for (segment, sequence, field) in new.iter().filter(|e| !old.contains(e)) {
            let mut target = BytesMut::with_capacity(key.len());
            target.put_u8(*field as u8);
            target.put_slice(if bucket == keys::CATALOG { &key } else { key.get(4..).unwrap_or_default() });
            writes.push((Space::Index, keys::index(bucket, own, segment, *sequence), Some(target.freeze())));
        }
        let value = if cell.row.is_gone() { None } else { Some(Bytes::from(cell.row.encode(own))) };
        if value.is_some() || cell.before.is_some() {
            writes.push((R::SPACE, key, value));
        }
    }
    Ok(())
}
