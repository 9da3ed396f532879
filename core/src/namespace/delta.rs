//! Deltas: what one segment knows of a bucket and another does not, and taking them in.
//!
//! Deltas are cut in `cut`. Merging is per register (see `register`), so deltas may come in any order, in parts and twice. What shows is derived
//! anew from all of the bucket's registers (see `tree`) in the same commit; that costs a pass over the bucket's metadata.

use super::keys::{self, BucketNumber};
use super::rows::{AttributesValue, EntryRow, ExplicitDirectory, NodeRow, Shown, ShownFile, TagsValue};
use super::txn::Txn;
use super::version::Version;
use super::{BucketState, Ledger};
use crate::error::{Error, Result};
use crate::id::{BucketId, NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::object::Usage;
use crate::register::{HybridClock, Register, VersionVector};
use crate::tree::{self, ContentValue, EntryValue, Place, Registers, Rules};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

const SCAN_ROWS: usize = 1024;

/// One register of a delta, whole.
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaRegister {
    /// A directory entry.
    Entry(NodeId, Bytes, Register<EntryValue>),
    /// A directory's home.
    Home(NodeId, Register<(NodeId, Bytes)>),
    /// A node's content.
    Content(NodeId, Register<Version>),
    /// A node's attributes.
    Attributes(NodeId, Register<AttributesValue>),
    /// A node's tags.
    Tags(NodeId, Register<TagsValue>),
    /// A kept version: its row's key without the bucket.
    History(Bytes, Register<Version>),
}

/// What a segment that stands at `from` lacks to stand at `to`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The bucket.
    pub bucket: BucketId,
    /// The vector it was cut for.
    pub from: VersionVector,
    /// The vector that whoever stands at `from` reaches by taking in all of `registers`.
    pub to: VersionVector,
    /// The registers.
    pub registers: Vec<DeltaRegister>,
    /// Whether `to` is all that the sender knew at the cut, and so a state that it showed; otherwise this is a step on the way there.
    pub is_whole: bool,
}

fn vector_row(bucket: BucketNumber) -> Bytes {
    let mut key = b"vector/".to_vec();
    key.extend_from_slice(&bucket.to_be_bytes());
    key.into()
}

/// The vector of a bucket: up to where all changes of each segment are here.
pub async fn vector(ledger: &Ledger, snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<VersionVector> {
    let mut vector = match snapshot.get(Space::Meta, &vector_row(bucket)).await? {
        Some(row) => VersionVector::decode(&mut row.as_ref())?,
        None => VersionVector::new(),
    };
    let sequence = ledger.sequence_at(snapshot).await?;
    if sequence > 0 {
        vector.advance(crate::register::Dot::new(*ledger.own(), sequence));
    }
    Ok(vector)
}

/// Takes a delta in; returns how many registers changed. The bucket stands at the union of its vector and the delta's, if it stood at `from` at least.
pub async fn apply(txn: &mut Txn, bucket: &BucketState, delta: &Delta) -> Result<usize> {
    if delta.bucket != bucket.id {
        return Err(Error::invalid("the delta is of another bucket"));
    }
    let mut changed = 0;
    let mut latest = 0;
    for register in &delta.registers {
        let (is_news, time) = merge(txn, bucket.number, register).await?;
        changed += usize::from(is_news);
        latest = latest.max(time);
    }
    if latest > HybridClock::REMOTE_TIME_MAX {
        return Err(Error::invalid("a delta has stamps from further ahead than any clock can be"));
    }
    txn.ledger().observe(latest);
    let snapshot = txn.ledger().store().snapshot().await?;
    let ledger = txn.ledger().clone();
    let mut here = vector(&ledger, &snapshot, bucket.number).await?;
    if here.dominates(&delta.from) {
        here.merge(&delta.to);
        here.remove(txn.own());
        let mut row = Vec::new();
        here.encode(&mut row);
        txn.put(Space::Meta, vector_row(bucket.number), row);
    }
    show(txn, bucket).await?;
    Ok(changed)
}

async fn merge(txn: &mut Txn, bucket: BucketNumber, register: &DeltaRegister) -> Result<(bool, u64)> {
    Ok(match register {
        DeltaRegister::Entry(parent, name, theirs) => {
            (txn.edit_entry(bucket, parent, name).await?.register.merge(theirs), theirs.time_max())
        }
        DeltaRegister::Home(node, theirs) => (txn.edit_node(bucket, node).await?.home.merge(theirs), theirs.time_max()),
        DeltaRegister::Content(node, theirs) => {
            (txn.edit_node(bucket, node).await?.content.merge(theirs), theirs.time_max())
        }
        DeltaRegister::Attributes(node, theirs) => {
            (txn.edit_node(bucket, node).await?.attributes.merge(theirs), theirs.time_max())
        }
        DeltaRegister::Tags(node, theirs) => (txn.edit_node(bucket, node).await?.tags.merge(theirs), theirs.time_max()),
        DeltaRegister::History(key, theirs) => {
            let key = [&bucket.to_be_bytes()[..], key].concat();
            keys::parse_history(&key)?;
            (txn.edit_history(key.into()).await?.register.merge(theirs), theirs.time_max())
        }
    })
}

/// Derives what shows in the whole bucket from its registers, and writes what differs from what shows now.
pub async fn show(txn: &mut Txn, bucket: &BucketState) -> Result<()> {
    let number = bucket.number;
    let (entries, nodes) = load(txn, number).await?;
    let mut registers: Registers<()> = Registers::default();
    for (place, row) in &entries {
        if !row.register.is_empty() {
            registers.entries.insert(Place::new(place.0, place.1.clone()), row.register.clone());
        }
    }
    for (node, row) in &nodes {
        if !row.home.is_empty() {
            let home = row.home.clone().try_map(|(parent, name)| Result::Ok(Place::new(parent, name)))?;
            registers.homes.insert(*node, home);
        } else if !row.content.is_empty() {
            let content = row.content.clone().try_map(|version| {
                Result::Ok(ContentValue { at: Place::new(version.at.0, version.at.1), payload: (), deleted: None })
            })?;
            registers.contents.insert(*node, content);
        }
    }
    let tree = tree::derive(&registers, &Rules::new(bucket.policy().conflicts, SegmentId::default()));
    let mut wanted: BTreeMap<(NodeId, Bytes), Shown> = BTreeMap::new();
    let mut names: BTreeMap<NodeId, Vec<(NodeId, Bytes)>> = BTreeMap::new();
    for (place, file) in &tree.files {
        let Some(row) = nodes.get(&file.node) else { continue };
        let Some(write) = row.content.ordered().iter().find(|w| w.dot == file.content) else { continue };
        let Some(version) = &write.value else { continue };
        let is_plain = file.is_main
            && file.conflict.is_none()
            && *place == file.place
            && row.content.shown().map(|w| w.dot) == Some(file.content);
        let mut shown = ShownFile::of(file.node, (!is_plain).then_some(file.content), version);
        if let Some((time, of)) = row.attributes.value().and_then(|a| a.modified_ns)
            && of == version.modified_ns
        {
            shown.modified_ns = time;
        }
        let at = (place.parent, place.name.clone());
        if is_plain {
            names.entry(file.node).or_default().push(at.clone());
        }
        wanted.insert(at, Shown::File(shown));
    }
    for (node, directory) in &tree.directories {
        let at = (directory.place.parent, directory.place.name.clone());
        let row = nodes.get(node);
        let explicit = directory.explicit.then(|| {
            let now = entries.get(&at).and_then(|e| e.shown.clone());
            match (row.and_then(|r| r.content.value()), now) {
                (Some(v), _) => ExplicitDirectory { size: v.size, modified_ns: v.modified_ns, etag: v.etag.clone() },
                (None, Some(Shown::Directory { explicit: Some(object), .. })) => object,
                (None, _) => {
                    let made_ms = row.and_then(|r| r.home.shown()).map_or(0, |w| w.stamp().unix_ms());
                    ExplicitDirectory::empty(i64::try_from(made_ms).unwrap_or(0).saturating_mul(1_000_000))
                }
            }
        });
        wanted.insert(at, Shown::Directory { node: *node, explicit });
    }
    for (at, row) in &entries {
        if row.shown.is_some() && !wanted.contains_key(at) {
            txn.edit_entry(number, &at.0, &at.1).await?.shown = None;
            txn.touch_directory(number, &at.0);
        }
    }
    let mut usage = Usage::default();
    for (at, shown) in wanted {
        match &shown {
            Shown::File(file) => {
                usage.objects += 1;
                usage.logical_bytes += file.size;
            }
            Shown::Directory { explicit: Some(object), .. } => {
                usage.objects += 1;
                usage.logical_bytes += object.size;
            }
            Shown::Directory { explicit: None, .. } => {}
        }
        if entries.get(&at).and_then(|e| e.shown.as_ref()) != Some(&shown) {
            txn.edit_entry(number, &at.0, &at.1).await?.shown = Some(shown);
            txn.touch_directory(number, &at.0);
        }
    }
    for (node, row) in &nodes {
        let now = names.remove(node).unwrap_or_default();
        if row.names != now {
            txn.edit_node(number, node).await?.names = now;
        }
    }
    txn.set_shown_usage(number, usage);
    Ok(())
}

type Entries = BTreeMap<(NodeId, Bytes), EntryRow>;
type Nodes = BTreeMap<NodeId, NodeRow>;

/// All rows of the bucket, with the transaction's own edits. The commit fails if any of them changes before.
async fn load(txn: &mut Txn, bucket: BucketNumber) -> Result<(Entries, Nodes)> {
    let prefix = keys::bucket_prefix(bucket);
    txn.watch(Space::Derived, &keys::directory_time(bucket, &NodeId::ROOT));
    let snapshot = txn.ledger().store().snapshot().await?;
    let mut found: [Vec<Bytes>; 2] = Default::default();
    for (space, found) in [Space::Entries, Space::Nodes].into_iter().zip(&mut found) {
        let mut range = KeyRange { start: Bound::Included(prefix.clone()), end: crate::kv::end_of_prefix(&prefix) };
        loop {
            let page = snapshot.scan(space, range, SCAN_ROWS, false).await?;
            found.extend(page.rows.iter().map(|(key, _)| key.clone()));
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => break,
            }
        }
    }
    let [entry_keys, node_keys] = found;
    let (mut entries, mut nodes) = (Entries::new(), Nodes::new());
    for key in entry_keys.into_iter().chain(txn.loaded_entries(bucket)) {
        let (parent, name) = keys::parse_entry(&key)?;
        let row = txn.entry(bucket, &parent, name).await?.clone();
        entries.insert((parent, Bytes::copy_from_slice(name)), row);
    }
    for key in node_keys.into_iter().chain(txn.loaded_nodes(bucket)) {
        let (node, _) = keys::parse_entry(&key)?;
        let row = txn.node(bucket, &node).await?.clone();
        // What is put into a directory touches its time, so that the commit notices.
        if !row.home.is_empty() {
            txn.watch(Space::Derived, &keys::directory_time(bucket, &node));
        }
        nodes.insert(node, row);
    }
    Ok((entries, nodes))
}
