//! Cutting deltas: what this segment knows of a bucket and another does not, from the change index.
//!
//! A delta is cut at one instant: all registers after the receiver's vector, and the vector that it reaches. One that would be long is cut in steps: each
//! is a delta by itself that takes the receiver to a vector in between, and says that it is not the whole. A step follows the index,
//! segment by segment in order of sequence numbers, so what a vector in between claims is here or was superseded by something the next steps bring.
//!
//! While this segment itself catches up it has registers from beyond its vector, with gaps before them. They don't go on from here until the vector has
//! reached them: a step that ended at one would claim the gap.

use super::delta::{Delta, DeltaRegister};
use super::keys::{self, BucketNumber};
use super::rows::{EntryRow, HistoryRow, NodeRow};
use super::standing::{Standing, standing};
use super::txn::Field;
use super::version::{Content, Version};
use super::{BucketState, Ledger};
use crate::error::{Error, Result};
use crate::id::SegmentId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{Dot, Register, VersionVector};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;

const SCAN_ROWS: usize = 512;

/// How long one delta may get. The last register may go beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimit {
    /// Registers.
    pub registers: usize,
    /// Bytes that they take, about.
    pub bytes: usize,
}

impl DeltaLimit {
    /// No limit: the whole difference, in memory.
    pub const NONE: DeltaLimit = DeltaLimit { registers: usize::MAX, bytes: usize::MAX };
}

/// Cuts a delta for a segment that stands at `from`, or as much of it as `limit` allows.
pub async fn changes_since(
    ledger: &Ledger,
    bucket: &BucketState,
    from: &VersionVector,
    limit: DeltaLimit,
) -> Result<Delta> {
    let snapshot = ledger.store().snapshot().await?;
    let own = *ledger.own();
    let Standing { settled: knows, floor, .. } = standing(ledger, &snapshot, bucket.number).await?;
    let (id, from, reached) = (bucket.id, from.clone(), knows.clone());
    let mut step =
        Step { snapshot, own, number: bucket.number, limit, bytes: 0, seen: HashSet::new(), taken: Vec::new() };
    let mut to = from.clone();
    for dot in reached.dots() {
        match step.follow(&dot, from.get(&dot.segment)).await? {
            // All of this segment's changes at the instant of the cut.
            None => {
                to.advance(dot);
            }
            Some(sequence) => {
                to.advance(Dot::new(dot.segment, sequence));
                let registers = step.taken;
                return Ok(Delta { bucket: id, from, to, knows, floor, registers, is_whole: false });
            }
        }
    }
    Ok(Delta { bucket: id, from, to, knows, floor, registers: step.taken, is_whole: true })
}

/// Whether there is anything that a segment at `from` does not know, without reading it.
pub async fn has_changes_since(ledger: &Ledger, number: BucketNumber, from: &VersionVector) -> Result<bool> {
    let snapshot = ledger.store().snapshot().await?;
    let own = *ledger.own();
    for dot in standing(ledger, &snapshot, number).await?.settled.dots() {
        let prefix = keys::index_of_segment(number, &own, &dot.segment);
        let after = keys::index(number, &own, &dot.segment, from.get(&dot.segment));
        let page = snapshot.scan(Space::Index, KeyRange::prefix_after(&prefix, after), 1, false).await?;
        if let Some((key, _)) = page.rows.first()
            && keys::parse_index(&own, key)?.1 <= dot.sequence
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A delta as it grows.
struct Step {
    snapshot: Arc<dyn Snapshot>,
    own: SegmentId,
    number: BucketNumber,
    limit: DeltaLimit,
    bytes: usize,
    seen: HashSet<Bytes>,
    taken: Vec<DeltaRegister>,
}

impl Step {
    /// Takes what a segment changed after `after`, up to `last`. `None`: all of it; else the sequence number up to which, because the limit is reached.
    async fn follow(&mut self, last: &Dot, after: u64) -> Result<Option<u64>> {
        let prefix = keys::index_of_segment(self.number, &self.own, &last.segment);
        let mut range = KeyRange::prefix_after(&prefix, keys::index(self.number, &self.own, &last.segment, after));
        let mut reached = after;
        loop {
            let page = self.snapshot.scan(Space::Index, range, SCAN_ROWS, false).await?;
            for (key, target) in &page.rows {
                let (_, sequence) = keys::parse_index(&self.own, key)?;
                if sequence > last.sequence {
                    return Ok(None);
                }
                if self.is_full() {
                    return Ok(Some(reached));
                }
                self.take(target).await?;
                reached = sequence;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => return Ok(None),
            }
        }
    }

    fn is_full(&self) -> bool {
        self.taken.len() >= self.limit.registers || self.bytes >= self.limit.bytes
    }

    async fn take(&mut self, target: &Bytes) -> Result<()> {
        if !self.seen.insert(target.clone()) {
            return Ok(());
        }
        let (field, key) = target.split_first().ok_or_else(|| Error::damaged("a row of the change index is empty"))?;
        let field = Field::from_byte(*field)?;
        let register = self.read(field, target.slice_ref(key)).await?;
        self.bytes = self.bytes.saturating_add(weight(&register));
        self.taken.push(register);
        Ok(())
    }

    async fn read(&self, field: Field, key: Bytes) -> Result<DeltaRegister> {
        let row_key = [&self.number.to_be_bytes()[..], &key].concat();
        let space = match field {
            Field::Entry => Space::Entries,
            Field::History => Space::History,
            Field::Catalog => return Err(Error::damaged("a bucket's change index names a row of the catalog")),
            Field::Home | Field::Content | Field::Attributes | Field::Tags => Space::Nodes,
        };
        let row = self.snapshot.get(space, &row_key).await?;
        let row = row.ok_or_else(|| Error::damaged("the change index names a row that is not there"))?;
        let (node, name) = keys::parse_entry(&row_key)?;
        let own = &self.own;
        Ok(match field {
            Field::Entry => {
                DeltaRegister::Entry(node, Bytes::copy_from_slice(name), EntryRow::decode(row, own)?.register)
            }
            Field::Home => DeltaRegister::Home(node, NodeRow::decode(row, own)?.home),
            Field::Content => DeltaRegister::Content(node, NodeRow::decode(row, own)?.content),
            Field::Attributes => DeltaRegister::Attributes(node, NodeRow::decode(row, own)?.attributes),
            Field::Tags => DeltaRegister::Tags(node, NodeRow::decode(row, own)?.tags),
            Field::History | Field::Catalog => DeltaRegister::History(key, HistoryRow::decode(row, own)?.register),
        })
    }
}

/// About how many bytes a register takes, on the wire and in memory.
fn weight(register: &DeltaRegister) -> usize {
    match register {
        DeltaRegister::Entry(_, name, register) => 64 + name.len() + 32 * register.dots().len(),
        DeltaRegister::Home(_, register) => {
            64 + register.live_values().map(|(_, (_, name))| 48 + name.len()).sum::<usize>()
        }
        DeltaRegister::Content(_, register) => 64 + versions(register),
        DeltaRegister::History(key, register) => 64 + key.len() + versions(register),
        DeltaRegister::Attributes(_, register) => {
            let xattrs = register.live_values().flat_map(|(_, value)| &value.attributes.xattrs);
            64 + xattrs.map(|(name, value)| name.len() + value.len()).sum::<usize>()
        }
        DeltaRegister::Tags(_, register) => {
            let tags = register.live_values().flat_map(|(_, value)| &value.tags);
            64 + tags.map(|(name, value)| name.len() + value.len()).sum::<usize>()
        }
    }
}

fn versions(register: &Register<Version>) -> usize {
    let content = |version: &Version| match &version.content {
        Content::Inline(bytes) => bytes.len(),
        Content::Manifest(manifest) => manifest.encode().len(),
    };
    let metadata = |version: &Version| {
        let pairs = version.metadata.user.iter().chain(&version.metadata.headers).chain(&version.tags);
        pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    register
        .live_values()
        .map(|(_, v)| 160 + v.at.1.len() + content(v) + metadata(v) + 2 * v.part_sizes.len() + 64 * v.checksums.len())
        .sum()
}
