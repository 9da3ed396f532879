//! Versions that came by a delta and whose bytes may not be here: a row for each, written in the commit that shows the version, so that no crash makes a
//! segment claim what it does not hold (P8).
//!
//! Rows are in the order of the writes that carry the versions: the first one of a segment says up to where its data is complete. A row is dropped when it is
//! met and its version has been replaced since, or where not all data is to be here and no pin covers it any more.

use super::floor::Looks;
use super::hold::is_given;
use super::keep::{Keeping, keeping, keeping_in, keeping_row};
use super::keys::{self, BucketNumber};
use super::pin::{Pin, pins, pins_row};
use super::place::{Kin, derived_place, path_of};
use super::replaced::Changed;
use super::rows::{HistoryRow, NodeRow, Shown};
use super::txn::{Field, Row, Txn};
use super::version::{Content, Version};
use super::{BucketState, Ledger, Place, View};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space, end_of_prefix};
use crate::manifest::{Manifest, Root};
use crate::register::{Dot, Register, VersionVector, Write};
use crate::tree::Rules;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

/// A version whose bytes may not be here.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Names it for [`Bucket::data_arrived`](crate::Bucket::data_arrived), and orders it for [`Bucket::wanted`](crate::Bucket::wanted): by segment, then
    /// sequence.
    pub key: Bytes,
    /// The file; `None`: it is an older version that the bucket keeps.
    pub node: Option<NodeId>,
    /// The write that carries the version.
    pub dot: Dot,
    /// Which chunks it takes.
    pub manifest: Manifest,
    /// Its size in bytes.
    pub size: u64,
    /// The key it shows under, or that it is an older version of; `None`: it shows nowhere.
    pub path: Option<Bytes>,
    /// How long it is to stay when it is here.
    pub stay: Stay,
}

/// How long data stays that is brought here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// As long as a pin covers it.
    AsLongAsPinned,
    /// As long as anything refers to it.
    ForGood,
}

/// `wanted/`, bucket (4).
pub fn wanted_prefix(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"wanted/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

/// In the field byte of a row: the version is to stay for good, whatever is pinned.
const PERSISTED: u8 = 0x80;
/// Where the segment is: behind `wanted/` and the bucket.
const SEGMENT_AT: usize = 7 + 4;
/// Where the field byte is: behind `wanted/`, bucket, segment and sequence.
const FIELD_AT: usize = 7 + 4 + 16 + 8;

/// The lists that the row with this key is in: the bucket's, and the part of it with what a segment has written. None if it is another row.
pub(super) fn lists_of(key: &Bytes) -> impl Iterator<Item = &[u8]> {
    let key = key.starts_with(b"wanted/").then_some(key);
    [SEGMENT_AT, SEGMENT_AT + 16].into_iter().filter_map(move |length| key?.get(..length))
}

/// What begins the keys of a write: [`wanted_prefix`], segment (16), sequence (8).
fn wanted_of(bucket: BucketNumber, dot: &Dot) -> Bytes {
    let mut key = BytesMut::from(wanted_prefix(bucket).as_ref());
    key.put_slice(&dot.segment.0);
    key.put_u64(dot.sequence);
    key.freeze()
}

/// [`wanted_of`], field, the key of the register's row without the bucket.
pub(super) fn wanted_key(field: Field, row_key: &[u8], dot: &Dot) -> Bytes {
    let bucket = row_key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
    let mut key = BytesMut::from(wanted_of(bucket, dot).as_ref());
    key.put_u8(field as u8);
    key.put_slice(row_key.get(4..).unwrap_or_default());
    key.freeze()
}

struct Parsed {
    dot: Dot,
    is_persisted: bool,
    field: Field,
    row_key: Bytes,
}

fn parse(bucket: BucketNumber, key: &[u8]) -> Result<Parsed> {
    let bad = || Error::invalid("not the key of a version whose data is wanted");
    let rest = key.strip_prefix(wanted_prefix(bucket).as_ref()).ok_or_else(bad)?;
    let (segment, rest) = rest.split_first_chunk::<16>().ok_or_else(bad)?;
    let (sequence, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let (field, row) = rest.split_first().ok_or_else(bad)?;
    let mut row_key = BytesMut::with_capacity(4 + row.len());
    row_key.put_u32(bucket);
    row_key.put_slice(row);
    let dot = Dot { segment: SegmentId(*segment), sequence: u64::from_be_bytes(*sequence) };
    let is_persisted = field & PERSISTED != 0;
    Ok(Parsed { dot, is_persisted, field: Field::from_byte(field & !PERSISTED)?, row_key: row_key.freeze() })
}

/// The same key, read and written again.
pub(super) fn rewrite_key(bucket: BucketNumber, key: &[u8]) -> Result<Bytes> {
    let Parsed { dot, is_persisted, field, row_key } = parse(bucket, key)?;
    let mut key = BytesMut::from(wanted_key(field, &row_key, &dot).as_ref());
    if let (true, Some(field)) = (is_persisted, key.get_mut(FIELD_AT)) {
        *field |= PERSISTED;
    }
    Ok(key.freeze())
}

fn manifest_of(version: &Version) -> Option<&Manifest> {
    match &version.content {
        Content::Manifest(manifest) if *manifest.root() != Root::Empty => Some(manifest),
        Content::Manifest(_) | Content::Inline(_) => None,
    }
}

/// Notes the versions that `now` has and `before`, the same register before a delta, had not.
pub(super) fn want(
    txn: &mut Txn,
    field: Field,
    row_key: &[u8],
    before: &[Dot],
    now: &Register<Version>,
    is_given: bool,
) {
    let own = *txn.own();
    for (write, version) in now.live_values() {
        // What was written here needs no fetching unless it was given up, and what a deletion kept none as long as it does not show.
        let is_elsewhere = write.dot.segment != own || is_given;
        let is_new = !before.contains(&write.dot) && is_elsewhere && version.deleted.is_none();
        if is_new && manifest_of(version).is_some() {
            txn.put(Space::Meta, wanted_key(field, row_key, &write.dot), Bytes::new());
        }
    }
}

/// Notes one version of a node that shows. Returns whether there is anything to bring.
pub(super) fn want_write(
    txn: &mut Txn,
    bucket: BucketNumber,
    node: &NodeId,
    write: &Write<Version>,
    stay: Stay,
    is_given: bool,
) -> bool {
    let is_here = write.dot.segment == *txn.own() && (!is_given || write.dot.is_pending());
    if is_here || write.value.as_ref().and_then(manifest_of).is_none() {
        return false;
    }
    let key = wanted_key(Field::Content, &keys::node(bucket, node), &write.dot);
    let mut key = BytesMut::from(key.as_ref());
    if let (Stay::ForGood, Some(field)) = (stay, key.get_mut(FIELD_AT)) {
        *field |= PERSISTED;
    }
    txn.put(Space::Meta, key.freeze(), Bytes::new());
    true
}

/// Notes the contents that a deletion kept and that show all the same, because their files have names: as far as this transaction has changed that.
pub(super) async fn want_revived(txn: &mut Txn, bucket: &BucketState) -> Result<()> {
    let rules = bucket.rules();
    for key in txn.changed_nodes(bucket.number) {
        let (node, _) = keys::parse_entry(&key)?;
        let before = txn.node_before(&key).and_then(|row| row.current(&rules)).map(|write| write.dot);
        // Also one that was deleted here, maybe before its bytes had come.
        let now = revived(txn.node(bucket.number, &node).await?, &rules);
        if let Some(dot) = now.filter(|dot| Some(*dot) != before) {
            txn.put(Space::Meta, wanted_key(Field::Content, &key, &dot), Bytes::new());
        }
    }
    Ok(())
}

/// Notes a write of this transaction that carries a version which was there before, as a copy does: its bytes may not be here.
pub async fn want_copy(txn: &mut Txn, bucket: &BucketState, dot: Dot, version: &Version) -> Result<()> {
    let is_shared = bucket.is_shared() && manifest_of(version).is_some();
    if !is_shared {
        return Ok(());
    }
    txn.watch(Space::Meta, &pins_row(bucket.number));
    let snapshot = txn.ledger().store().snapshot().await?;
    let keeping = keeping_in(txn, bucket.number).await?;
    if keeping != Keeping::NamesOnly || !pins(&snapshot, bucket.number).await?.is_empty() {
        txn.copied(dot);
    }
    if !keeping.lists_all() {
        // It is written here and was made elsewhere: nothing of it need be here.
        super::give(txn, bucket.number).await?;
    }
    Ok(())
}

/// Adds the rows of writes that carry versions of which [`Txn::copied`] was told, by their pending dots.
pub(super) fn write_copied(
    copied: &[Dot],
    changed: &[Changed<'_>],
    number: impl Fn(Dot) -> Dot,
    writes: &mut Vec<(Space, Bytes, Option<Bytes>)>,
) {
    for (field, key, _, register) in changed.iter().filter(|_| !copied.is_empty()) {
        for (write, _) in register.live_values().filter(|(write, _)| copied.contains(&write.dot)) {
            writes.push((Space::Meta, wanted_key(*field, key, &number(write.dot)), Some(Bytes::new())));
        }
    }
}

/// Whether a version that `write` carries is listed.
pub(super) async fn is_wanted(txn: &Txn, bucket: BucketNumber, write: &Dot) -> Result<bool> {
    let prefix = KeyRange::prefix(&wanted_of(bucket, write));
    let snapshot = txn.ledger().store().snapshot().await?;
    Ok(!snapshot.scan(Space::Meta, prefix, 1, false).await?.rows.is_empty())
}

/// The same where `write` of the same bucket carried the version so far, if that is wanted.
pub(super) async fn want_retired(txn: &mut Txn, bucket: &BucketState, dot: Dot, write: &Dot) -> Result<()> {
    if bucket.is_shared() && is_wanted(txn, bucket.number, write).await? {
        txn.copied(dot);
    }
    if bucket.is_shared() && write.segment != *txn.own() {
        // What was not overwritten is not here for having been written here.
        if !keeping_in(txn, bucket.number).await?.lists_all() {
            super::hold::distrust(txn, bucket.number).await?;
        }
    }
    Ok(())
}

/// The content of a row that a deletion kept and that shows all the same.
fn revived(row: &NodeRow, rules: &Rules) -> Option<Dot> {
    let write = row.current(rules)?;
    let version = write.value.as_ref().filter(|version| version.deleted.is_some())?;
    manifest_of(version).is_some().then_some(write.dot)
}

/// Notes all versions of a node's row, as if they had just come.
pub(super) fn want_row(txn: &mut Txn, bucket: &BucketState, key: &Bytes, row: &NodeRow, is_given: bool) {
    want(txn, Field::Content, key, &[], &row.content, is_given);
    if let Some(dot) = revived(row, &bucket.rules()) {
        txn.put(Space::Meta, wanted_key(Field::Content, key, &dot), Bytes::new());
    }
}

/// The vector up to which all data is here: `vector`, but for each segment below its first version that is wanted. Where not all data is kept, or not all that
/// may be missing is listed yet, only this segment's own changes count: what was written here is here, unless something of it was given up. `looks`: begun before `snapshot`
/// was taken.
pub async fn data_vector(
    ledger: &Ledger,
    mut looks: Looks<'_>,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    vector: &VersionVector,
) -> Result<VersionVector> {
    let own = ledger.own();
    let is_listed = keeping(snapshot, bucket).await? == Keeping::Listed;
    let is_given = is_given(snapshot, bucket).await?;
    let mut complete = VersionVector::new();
    for dot in vector.dots().filter(|dot| is_listed || dot.segment == *own && !is_given) {
        let mut prefix = BytesMut::from(wanted_prefix(bucket).as_ref());
        prefix.put_slice(&dot.segment.0);
        let list = prefix.freeze();
        let look = looks.take(&list);
        let from = look.as_ref().map_or(&list, |look| &look.from).clone();
        let range = KeyRange { start: Bound::Included(from), end: end_of_prefix(&list) };
        let first = snapshot.scan(Space::Meta, range, 1, false).await?.rows.into_iter().next();
        match look {
            Some(look) => look.found(first.as_ref().map(|(key, _)| key)),
            // From the next time on.
            None => drop(ledger.look(&list)),
        }
        let sequence = match first {
            Some((key, _)) => dot.sequence.min(parse(bucket, &key)?.dot.sequence.saturating_sub(1)),
            None => dot.sequence,
        };
        complete.advance(Dot { sequence, ..dot });
    }
    Ok(complete)
}

/// The first versions after `after` whose data is wanted, at most `limit`; and the keys met on the way whose versions are gone, or not wanted any more.
pub async fn wanted(
    ledger: &Ledger,
    bucket: &BucketState,
    after: Option<Bytes>,
    limit: usize,
) -> Result<(Vec<Wanted>, Vec<Bytes>)> {
    let prefix = wanted_prefix(bucket.number);
    let mut look = after.is_none().then(|| ledger.look(&prefix));
    let reader = Reader::new(ledger, bucket).await?;
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    let mut range = match after {
        Some(after) => KeyRange::prefix_after(&prefix, after.max(prefix.clone())),
        None => {
            let from = look.as_ref().map_or(&prefix, |look| &look.from).clone();
            KeyRange { start: Bound::Included(from), end: end_of_prefix(&prefix) }
        }
    };
    while found.len() < limit {
        let page = reader.snapshot.scan(Space::Meta, range, limit - found.len(), false).await?;
        if let Some(look) = look.take() {
            look.found(page.rows.first().map(|(key, _)| key));
        }
        for (key, _) in &page.rows {
            match reader.read(key).await? {
                Some(wanted) => found.push(wanted),
                None => gone.push(key.clone()),
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => break,
        }
    }
    Ok((found, gone))
}

/// Drops those of `keys` that are still not wanted.
pub async fn forget_unwanted(txn: &mut Txn, ledger: &Ledger, bucket: &BucketState, keys: &[Bytes]) -> Result<()> {
    // Whatever could make one wanted again writes one of these.
    txn.watch(Space::Meta, &keeping_row(bucket.number));
    txn.watch(Space::Meta, &pins_row(bucket.number));
    keys.iter().for_each(|key| txn.watch(Space::Meta, key));
    let reader = Reader::new(ledger, bucket).await?;
    for key in keys {
        if reader.read(key).await?.is_none() {
            txn.delete(Space::Meta, key.clone());
        }
    }
    Ok(())
}

/// What a transaction lists that was not listed before: with a delta merged into it, the versions that the delta brings. Paths are those under which they will show.
pub async fn newly_wanted(txn: &mut Txn, bucket: &BucketState) -> Result<Vec<Wanted>> {
    let prefix = wanted_prefix(bucket.number);
    let is_listing = |(space, key, value): &&(Space, Bytes, Option<Bytes>)| {
        *space == Space::Meta && value.is_some() && key.starts_with(&prefix)
    };
    let mut seen = HashSet::new();
    let keys = txn.raw.iter().filter(is_listing).map(|(_, key, _)| key.clone());
    let keys: Vec<Bytes> = keys.filter(|key| seen.insert(key.clone())).collect();
    let keeps_data = keeping_in(txn, bucket.number).await? != Keeping::NamesOnly;
    let mut kin = Kin::default();
    let mut found = Vec::new();
    for key in keys {
        if txn.ledger().store().get(Space::Meta, &key).await?.is_some() {
            continue;
        }
        let Parsed { dot, is_persisted, field, row_key } = parse(bucket.number, &key)?;
        let stay = if is_persisted || keeps_data { Stay::ForGood } else { Stay::AsLongAsPinned };
        let of = |register: &Register<Version>| {
            let (_, version) = register.live_values().find(|(write, _)| write.dot == dot)?;
            Some((manifest_of(version)?.clone(), version.size, version.at.clone()))
        };
        let (node, version, place) = if field == Field::History {
            let (parent, name, _) = keys::parse_history(&row_key)?;
            (None, of(&txn.history(row_key.clone()).await?.register), Some((parent, name)))
        } else {
            let (node, _) = keys::parse_entry(&row_key)?;
            let row = txn.node(bucket.number, &node).await?;
            (Some(node), of(&row.content), row.names.first().cloned())
        };
        let Some((manifest, size, written_at)) = version else { continue };
        let (parent, name) = place.unwrap_or(written_at);
        let path = kin.path(txn, bucket, &parent).await?.map(|above| [above, name].concat().into());
        found.push(Wanted { key, node, dot, manifest, size, path, stay });
    }
    Ok(found)
}

/// The transaction does not list these keys, which nobody has listed before: their bytes are here.
pub fn leave_out(txn: &mut Txn, keys: &HashSet<Bytes>) {
    txn.raw.retain(|(space, key, _)| *space != Space::Meta || !keys.contains(key));
}

/// Reads what rows stand for, at one instant.
struct Reader {
    view: View,
    snapshot: Arc<dyn Snapshot>,
    bucket: BucketNumber,
    /// `None`: all data is to be here.
    pins: Option<Vec<Pin>>,
}

impl Reader {
    async fn new(ledger: &Ledger, bucket: &BucketState) -> Result<Reader> {
        let snapshot = ledger.store().snapshot().await?;
        let view = View::new(snapshot.clone(), *ledger.own(), bucket, None);
        let pins = match keeping(&snapshot, bucket.number).await? {
            Keeping::NamesOnly => Some(pins(&snapshot, bucket.number).await?),
            Keeping::Later | Keeping::Listing | Keeping::Listed => None,
        };
        Ok(Reader { view, snapshot, bucket: bucket.number, pins })
    }

    /// `None`: the version is gone, or not wanted any more.
    async fn read(&self, key: &Bytes) -> Result<Option<Wanted>> {
        let Some(wanted) = self.read_version(key).await? else { return Ok(None) };
        let is_pinned = wanted.node.is_some() && wanted.path.as_ref().is_some_and(|path| self.is_pinned(path));
        Ok((wanted.stay == Stay::ForGood || is_pinned).then_some(wanted))
    }

    fn is_pinned(&self, path: &[u8]) -> bool {
        self.pins.as_ref().is_some_and(|pins| pins.iter().any(|pin| pin.covers(path)))
    }

    async fn read_version(&self, key: &Bytes) -> Result<Option<Wanted>> {
        let (view, snapshot) = (&self.view, &self.snapshot);
        let Parsed { dot, is_persisted, field, row_key } = parse(self.bucket, key)?;
        let stay = if is_persisted || self.pins.is_none() { Stay::ForGood } else { Stay::AsLongAsPinned };
        let find = |register: &Register<Version>| {
            let (_, version) = register.live_values().find(|(write, _)| write.dot == dot)?;
            Some((manifest_of(version)?.clone(), version.size, version.at.clone()))
        };
        if field == Field::History {
            let Some(row) = snapshot.get(HistoryRow::SPACE, &row_key).await? else { return Ok(None) };
            let Some((manifest, size, _)) = find(&HistoryRow::decode(row, view.own())?.register) else {
                return Ok(None);
            };
            let (parent, name, _) = keys::parse_history(&row_key)?;
            let path = path_of(view, &(parent, name)).await?;
            return Ok(Some(Wanted { key: key.clone(), node: None, dot, manifest, size, path, stay }));
        }
        let Some(row) = snapshot.get(NodeRow::SPACE, &row_key).await? else { return Ok(None) };
        let row = NodeRow::decode(row, view.own())?;
        let Some((manifest, size, at)) = find(&row.content) else { return Ok(None) };
        let (node, _) = keys::parse_entry(&row_key)?;
        // Of several names, one that is pinned.
        let suits = |path: &Bytes| stay == Stay::ForGood || self.is_pinned(path);
        let path = path_shown(view, &node, &row, &dot, &at, &suits).await?;
        Ok(Some(Wanted { key: key.clone(), node: Some(node), dot, manifest, size, path, stay }))
    }
}

/// A key that a content of a node shows under: one that `suits`, if there is any.
async fn path_shown(
    view: &View,
    node: &NodeId,
    row: &NodeRow,
    dot: &Dot,
    written_at: &Place,
    suits: &(dyn Fn(&Bytes) -> bool + Sync),
) -> Result<Option<Bytes>> {
    let is_main = row.current(view.rules()).is_some_and(|write| write.dot == *dot);
    let mut path = None;
    for place in row.names.iter().chain([written_at]) {
        if let Some(shows) = shows_at(view, view.store_snapshot(), view.bucket(), place, node, dot, is_main).await? {
            path = path_of(view, &shows).await?.or(path);
            if path.as_ref().is_some_and(suits) {
                break;
            }
        }
    }
    Ok(path)
}

/// Whether a content of a node shows where `is_pinned`.
pub(super) async fn pinned_place(
    view: &View,
    node: &NodeId,
    row: &NodeRow,
    write: &Write<Version>,
    is_pinned: &(dyn Fn(&Bytes) -> bool + Sync),
) -> Result<bool> {
    let Some(version) = &write.value else { return Ok(false) };
    let path = path_shown(view, node, row, &write.dot, &version.at, is_pinned).await?;
    Ok(path.as_ref().is_some_and(is_pinned))
}

/// Where a content that has a claim to `place` shows.
async fn shows_at(
    view: &View,
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    place: &Place,
    node: &NodeId,
    dot: &Dot,
    is_main: bool,
) -> Result<Option<Place>> {
    match view.shown(&place.0, &place.1).await? {
        Some(Shown::File(file)) if file.node == *node && file.content.map_or(is_main, |content| content == *dot) => {
            return Ok(Some(place.clone()));
        }
        // A directory with a content of its own.
        Some(Shown::Directory { node: there, explicit: Some(_) }) if there == *node && is_main => {
            return Ok(Some(place.clone()));
        }
        _ => {}
    }
    derived_place(snapshot, bucket, place, node, Some(*dot)).await
}

/// Drops rows: what they wanted is here, or gone.
pub fn data_arrived(txn: &mut Txn, bucket: BucketNumber, keys: &[Bytes]) -> Result<()> {
    for key in keys {
        parse(bucket, key)?;
        txn.delete(Space::Meta, key.clone());
    }
    Ok(())
}
