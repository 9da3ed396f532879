//! Dropping what everybody has: tombstones, and contents that deletions kept.
//!
//! A *mark* is where this segment stood at one commit. When every carrier has said that it stands there too, and this segment has all that they had made
//! by then, nobody can do anything any more about what was dead at the mark and was not touched since: whoever makes a change from now on makes it where it is
//! dead. So it can go, here and now, whether or not the others have dropped it (`docs/notes/0006-forgetting.md`). What goes: entries and kept versions
//! that are tombstones; contents of files without a name, unless somebody edited them, with their attributes and tags. Homes of directories stay,
//! because a directory that is made again is the same one, and so do a directory's attributes. What is left of a file that is open here stays until a mark after
//! it is closed: what is written to it may have to be saved, and that tells then who has deleted it (`replace.rs`).

use super::keys::{self, BucketNumber};
use super::rows::{EntryRow, HistoryRow, NodeRow};
use super::txn::{Row, Txn};
use super::{BucketState, Ledger};
use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::{Carriers, Register, VersionVector};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Rows that one commit of the pass looks at.
const PASS_ROWS: usize = 1024;

/// `carriers/`, bucket (4).
pub fn carriers_row(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"carriers/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

/// `mark/`, bucket (4).
pub(super) fn mark_row(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"mark/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

/// `dropped/`, bucket (4).
pub(super) fn dropped_row(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"dropped/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

/// The mark up to which this segment itself has dropped what was dead. Its floor says what anybody has, and may be higher.
pub async fn dropped(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<VersionVector> {
    match snapshot.get(Space::Meta, &dropped_row(bucket)).await? {
        Some(row) => VersionVector::decode(&mut row.as_ref()),
        None => Ok(VersionVector::new()),
    }
}

/// What is dead at a mark has been dropped here: it is over. `is_all`: but for what `Dropped::left` counts nothing was left. That is for another mark, be it at the same
/// vector.
pub fn end_mark(txn: &mut Txn, bucket: BucketNumber, mark: &Mark, is_all: bool) {
    if is_all {
        let mut row = Vec::new();
        mark.vector.encode(&mut row);
        txn.put(Space::Meta, dropped_row(bucket), row);
    }
    txn.delete(Space::Meta, mark_row(bucket));
}

/// Who carries the bucket, as this segment has heard; its own row says only whether it was forgotten.
pub async fn carriers(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Carriers> {
    match snapshot.get(Space::Meta, &carriers_row(bucket)).await? {
        Some(row) => Carriers::decode(&row),
        None => Ok(Carriers::default()),
    }
}

/// Replaces that.
pub fn put_carriers(txn: &mut Txn, bucket: BucketNumber, carriers: &Carriers) {
    let mut row = Vec::new();
    carriers.encode(&mut row);
    txn.put(Space::Meta, carriers_row(bucket), row);
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// What was not written after this commit has not been touched since.
    pub commit: u64,
    /// Where this segment stood.
    pub vector: VersionVector,
    /// Where each carrier stood that has said that it stands there, when it said so first.
    pub heard: Carriers,
}

impl Mark {
    /// Reads the mark of a bucket.
    pub async fn read(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Option<Mark>> {
        snapshot.get(Space::Meta, &mark_row(bucket)).await?.map(|row| Mark::decode(&row)).transpose()
    }

    pub(super) fn decode(row: &[u8]) -> Result<Mark> {
        let (commit, mut rest) =
            row.split_first_chunk::<8>().ok_or_else(|| Error::damaged("a bucket's mark ends too early"))?;
        let vector = VersionVector::decode(&mut rest)?;
        Ok(Mark { commit: u64::from_be_bytes(*commit), vector, heard: Carriers::decode(rest)? })
    }

    /// Writes it.
    pub fn write(&self, txn: &mut Txn, bucket: BucketNumber) {
        txn.put(Space::Meta, mark_row(bucket), self.encode());
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = self.commit.to_be_bytes().to_vec();
        self.vector.encode(&mut row);
        self.heard.encode(&mut row);
        row
    }

    /// Hears where the carriers stand. Returns whether everybody stands at the mark, and a segment that stands at `known` has all that they had by then.
    pub fn hear(&mut self, own: &crate::SegmentId, carriers: &Carriers, known: &VersionVector) -> bool {
        let mut is_complete = true;
        for (segment, carrier) in
            carriers.iter().filter(|(segment, carrier)| *segment != own && !carrier.is_forgotten())
        {
            if self.heard.get(segment).is_none() && carrier.vector.dominates(&self.vector) {
                self.heard.entry(*segment).vector = carrier.vector.clone();
            }
            is_complete &= self.heard.get(segment).is_some_and(|then| known.dominates(&then.vector));
        }
        is_complete
    }

    fn has<V>(&self, register: &Register<V>) -> bool {
        !register.is_empty() && register.covered_by(&self.vector)
    }
}

/// Something of which there may be nothing left but what everybody has.
trait Mortal: Row {
    /// Whether it has not been touched since the mark.
    fn is_before(&self, mark: &Mark) -> bool;
    /// Empties what is dead; returns whether there was any.
    fn bury(&mut self, mark: &Mark) -> bool;
}

fn bury_tombstone<V>(register: &mut Register<V>, mark: &Mark) -> bool {
    let is_dead = register.is_tombstone_only() && mark.has(register);
    if is_dead {
        *register = Register::empty();
    }
    is_dead
}

impl Mortal for EntryRow {
    fn is_before(&self, mark: &Mark) -> bool {
        self.commit <= mark.commit
    }

    fn bury(&mut self, mark: &Mark) -> bool {
        bury_tombstone(&mut self.register, mark)
    }
}

impl Mortal for HistoryRow {
    fn is_before(&self, mark: &Mark) -> bool {
        self.commit <= mark.commit
    }

    fn bury(&mut self, mark: &Mark) -> bool {
        bury_tombstone(&mut self.register, mark)
    }
}

impl Mortal for NodeRow {
    fn is_before(&self, mark: &Mark) -> bool {
        self.commit <= mark.commit
    }

    fn bury(&mut self, mark: &Mark) -> bool {
        if !self.home.is_empty() {
            return bury_tombstone(&mut self.content, mark);
        }
        let is_dead = self.names.is_empty() && self.content.live_values().all(|(_, version)| version.deleted.is_some());
        if !is_dead {
            return false;
        }
        let mut is_any = false;
        if mark.has(&self.content) {
            self.content = Register::empty();
            is_any = true;
        }
        // Without a content nothing shows them; one that is still to come brings them along.
        if self.content.is_empty() {
            if mark.has(&self.attributes) {
                self.attributes = Register::empty();
                is_any = true;
            }
            if mark.has(&self.tags) {
                self.tags = Register::empty();
                is_any = true;
            }
        }
        is_any
    }
}

/// What a pass over a page did.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Rows that lost something.
    pub rows: u64,
    /// Rows with something dead that were touched since the mark, or are of files that are open.
    pub left: u64,
    /// Behind which row the next page begins; `None`: there is none.
    pub next: Option<Bytes>,
}

/// Drops what is dead of a page of the rows of `space` behind `after`, but for files that are open.
pub async fn drop_page(
    txn: &mut Txn,
    bucket: &BucketState,
    mark: &Mark,
    space: Space,
    after: Option<Bytes>,
    is_open: &(dyn Fn(&NodeId) -> bool + Sync),
) -> Result<Dropped> {
    let ledger = txn.ledger().clone();
    let prefix = keys::bucket_prefix(bucket.number);
    let range = match after {
        Some(after) => KeyRange::prefix_after(&prefix, after),
        None => KeyRange::prefix(&prefix),
    };
    let page = ledger.store().snapshot().await?.scan(space, range, PASS_ROWS, false).await?;
    let next = page.rows.last().filter(|_| page.more).map(|(key, _)| key.clone());
    let mut dropped = Dropped { next, ..Dropped::default() };
    for (key, row) in page.rows {
        // Most rows have nothing dead, and are only read.
        let goes = match space {
            Space::Entries if has_dead::<EntryRow>(&ledger, row.clone(), mark)? => {
                let (parent, name) = keys::parse_entry(&key)?;
                bury(txn.edit_entry(bucket.number, &parent, name).await?, mark)
            }
            Space::Nodes if has_dead::<NodeRow>(&ledger, row.clone(), mark)? => {
                let (node, _) = keys::parse_entry(&key)?;
                !is_open(&node) && bury(txn.edit_node(bucket.number, &node).await?, mark)
            }
            Space::History if has_dead::<HistoryRow>(&ledger, row, mark)? => bury(txn.edit_history(key).await?, mark),
            _ => continue,
        };
        dropped.rows += u64::from(goes);
        dropped.left += u64::from(!goes);
    }
    Ok(dropped)
}

fn has_dead<R: Mortal>(ledger: &Ledger, row: Bytes, mark: &Mark) -> Result<bool> {
    Ok(R::decode(row, ledger.own())?.bury(mark))
}

/// Not if it was touched since the mark.
fn bury<R: Mortal>(row: &mut R, mark: &Mark) -> bool {
    row.is_before(mark) && row.bury(mark)
}
