//! Conflict copies as nodes.
//!
//! A copy that is one of several contents of a file shares its node, but is a file by itself to whoever names files by nodes (FUSE, NFS, open files): reading it
//! must not read the winner, and writing to it must not write the winner. So it goes by an id made of what it is and where it shows. A derived row leads from that id to the
//! copy. To change the copy means to make it a file of its own, whose node takes over the id; so what was open stays open. Two segments that do so at the
//! same time make the same node.
//!
//! A file whose last name another segment has taken away, and that has one content left which that one had not seen, is no copy of anything: it goes by its own
//! node, so whoever has it open since before goes on with it. To change it means to give it back a name.

use super::codec::{Reader, put_bytes, put_varint};
use super::directory::rescue;
use super::keys::{self, BucketNumber};
use super::place::conflicts_at;
use super::rows::{NodeRow, Shown, ShownFile};
use super::txn::Txn;
use super::{BucketState, Ledger, Place};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::Space;
use crate::register::{Dot, Register, Write};
use crate::tree;
use bytes::Bytes;

const ROW_FORMAT: u8 = 1;

/// The id of the copy that shows the content `dot` of `node` at a place.
pub(super) fn id(node: &NodeId, dot: &Dot, parent: &NodeId, name: &[u8]) -> NodeId {
    let mut hasher = blake3::Hasher::new_derive_key("tombolo conflict copy as a node");
    for part in [&node.0[..], &dot.segment.0, &dot.sequence.to_be_bytes(), &parent.0, name] {
        hasher.update(part);
    }
    let mut id = NodeId::default();
    hasher.finalize_xof().fill(&mut id.0);
    id
}

/// What an id stands for.
pub(super) struct Alias {
    node: NodeId,
    content: Dot,
    place: Place,
}

/// The row of a copy that shows at a place, if it goes by an id of its own: key and value.
pub(super) fn row(
    bucket: BucketNumber,
    (parent, name): (&NodeId, &[u8]),
    shown: Option<&Shown>,
    number: impl Fn(Dot) -> Dot,
) -> Option<(Bytes, Bytes)> {
    let Some(Shown::File(file @ ShownFile { content: Some(content), is_apart: true, .. })) = shown else { return None };
    let content = number(*content);
    let alias = Alias { node: file.node, content, place: (*parent, Bytes::copy_from_slice(name)) };
    Some((keys::alias(bucket, &id(&file.node, &content, parent, name)), alias.encode()))
}

/// Writes the rows of copies that come and go with entries: by the entry's key, what showed there and what does.
pub(super) fn write<'a>(
    entries: impl Iterator<Item = (&'a Bytes, Option<&'a Shown>, Option<&'a Shown>)>,
    number: impl Fn(Dot) -> Dot,
    writes: &mut Vec<(Space, Bytes, Option<Bytes>)>,
) -> Result<()> {
    let mut come = Vec::new();
    for (key, before, now) in entries.filter(|(_, before, now)| before != now) {
        let bucket = key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
        let (parent, name) = keys::parse_entry(key)?;
        let row = |shown: Option<&Shown>| row(bucket, (&parent, name), shown, &number);
        writes.extend(row(before).map(|(key, _)| (Space::Derived, key, None)));
        come.extend(row(now).map(|(key, row)| (Space::Derived, key, Some(row))));
    }
    writes.extend(come);
    Ok(())
}

pub(super) fn decode(row: Bytes) -> Result<Alias> {
    let mut reader = Reader::new(row);
    match reader.u8()? {
        ROW_FORMAT => {}
        other => {
            let text = format!("a conflict copy's id has format {other}; this build reads format {ROW_FORMAT}");
            return Err(Error::damaged(text));
        }
    }
    let node = NodeId(reader.array()?);
    let content = Dot { segment: SegmentId(reader.array()?), sequence: reader.varint()? };
    Ok(Alias { node, content, place: (NodeId(reader.array()?), reader.bytes()?) })
}

impl Alias {
    pub(super) fn encode(&self) -> Bytes {
        let (parent, name) = &self.place;
        let mut out = vec![ROW_FORMAT];
        out.extend_from_slice(&self.node.0);
        out.extend_from_slice(&self.content.segment.0);
        put_varint(&mut out, self.content.sequence);
        out.extend_from_slice(&parent.0);
        put_bytes(&mut out, name);
        out.into()
    }

    /// The node as if the copy were all there is of it.
    fn alone(&self, row: &NodeRow) -> Option<NodeRow> {
        let write = row.content.ordered().iter().find(|write| write.dot == self.content)?;
        let version = write.value.clone()?;
        let mut content = Register::empty();
        let version = super::Version { deleted: None, at: self.place.clone(), ..version };
        content.local_write(Write { value: Some(version), ..*write }, &[]);
        Some(NodeRow {
            names: vec![self.place.clone()],
            names_changed_ns: row.names_changed_ns,
            content,
            attributes: row.attributes.clone(),
            tags: row.tags.clone(),
            ..NodeRow::default()
        })
    }
}

/// The row of a file that has no name left and shows all the same, as if it had the name that its one content was written under. `None`: it is no such file.
fn rescued(row: &NodeRow) -> Option<NodeRow> {
    if !row.names.is_empty() || !row.home.is_empty() {
        return None;
    }
    let mut live = row.content.live_values().filter(|(_, version)| version.deleted.is_none());
    let place = live.next().map(|(_, version)| version.at.clone()).filter(|(_, name)| tree::is_file_name(name))?;
    live.next().is_none().then(|| NodeRow { names: vec![place], ..row.clone() })
}

/// A node's row as the store has it now; a conflict copy's as if that were a file. `None`: there is none.
pub async fn node_row(ledger: &Ledger, bucket: &BucketState, node: &NodeId) -> Result<Option<NodeRow>> {
    let get = async |node: &NodeId| match ledger.store().get(Space::Nodes, &keys::node(bucket.number, node)).await? {
        Some(row) => NodeRow::decode(row, ledger.own()).map(Some),
        None => Ok(None),
    };
    let row = get(node).await?;
    if !bucket.is_shared() || row.as_ref().is_some_and(|row| !row.names.is_empty() || !row.home.is_empty()) {
        return Ok(row);
    }
    if let Some(rescued) = row.as_ref().and_then(rescued) {
        return Ok(Some(rescued));
    }
    let Some(alias) = ledger.store().get(Space::Derived, &keys::alias(bucket.number, node)).await? else {
        return Ok(row);
    };
    let alias = decode(alias)?;
    Ok(get(&alias.node).await?.and_then(|row| alias.alone(&row)))
}

/// The same in a transaction, whose commit then depends on it.
pub async fn node_row_in(txn: &mut Txn, bucket: &BucketState, node: &NodeId) -> Result<NodeRow> {
    let row = txn.node(bucket.number, node).await?.clone();
    if !bucket.is_shared() || !row.names.is_empty() || !row.home.is_empty() {
        return Ok(row);
    }
    if let Some(rescued) = rescued(&row) {
        return Ok(rescued);
    }
    let Some(alias) = txn.read(Space::Derived, &keys::alias(bucket.number, node)).await? else { return Ok(row) };
    let alias = decode(alias)?;
    Ok(alias.alone(txn.node(bucket.number, &alias.node).await?).unwrap_or_default())
}

/// Whether a node is a conflict copy that shares its rows with the winner, or a file that has no name left and shows all the same.
pub async fn is_copy(ledger: &Ledger, bucket: &BucketState, node: &NodeId) -> Result<bool> {
    if !bucket.is_shared() {
        return Ok(false);
    }
    if ledger.store().get(Space::Derived, &keys::alias(bucket.number, node)).await?.is_some() {
        return Ok(true);
    }
    let row = ledger.store().get(Space::Nodes, &keys::node(bucket.number, node)).await?;
    let row = row.map(|row| NodeRow::decode(row, ledger.own())).transpose()?;
    Ok(row.as_ref().and_then(rescued).is_some())
}

/// If `node` is a conflict copy, makes it a file of its own with this id, where it shows; if it has no name left, gives it back the one that it shows under.
/// Returns whether it was one of these.
pub async fn make_own(txn: &mut Txn, bucket: &BucketState, node: &NodeId) -> Result<bool> {
    if !bucket.is_shared() {
        return Ok(false);
    }
    if let Some(NodeRow { names, .. }) = rescued(txn.node(bucket.number, node).await?) {
        return match names.into_iter().next() {
            Some(written) => name_rescued(txn, bucket, node, written).await,
            None => Ok(false),
        };
    }
    let Some(row) = txn.read(Space::Derived, &keys::alias(bucket.number, node)).await? else { return Ok(false) };
    let Alias { place, .. } = decode(row)?;
    make_own_at(txn, bucket, &place).await
}

/// Gives `node`, which shows without a name and was written at a place, the name that it shows under: that one, or a derived one if another file has it.
async fn name_rescued(txn: &mut Txn, bucket: &BucketState, node: &NodeId, written: Place) -> Result<bool> {
    let mut places = vec![written.clone()];
    for conflict in conflicts_at(txn, bucket, &written).await?.into_iter().filter(|conflict| conflict.node == *node) {
        places.extend(conflict.shown.map(|shown| (shown.parent, shown.name)));
    }
    for place in places {
        let shown = &txn.entry(bucket.number, &place.0, &place.1).await?.shown;
        if matches!(shown, Some(Shown::File(file)) if file.node == *node) {
            return make_own_at(txn, bucket, &place).await;
        }
    }
    // Where losers do not show it has no place.
    Ok(false)
}

/// The same for what shows at a place.
pub async fn make_own_at(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<bool> {
    match txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() {
        Some(Shown::File(file)) if file.is_apart || is_rescued(txn, bucket, &file).await? => {
            rescue(txn, bucket, place, place, file).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether what shows is a file that has no name left, and not one of several contents of it.
pub(super) async fn is_rescued(txn: &mut Txn, bucket: &BucketState, file: &ShownFile) -> Result<bool> {
    let is_itself = file.content.is_some() && !file.is_apart;
    Ok(is_itself && txn.node(bucket.number, &file.node).await?.names.is_empty())
}
