//! Whether all data of a bucket is to be here: one row, and the pass that lists what came by name before that was so.
//!
//! The row is written before the pass and says afterwards that the pass is over, so that a crash in between makes it begin anew: until then nothing claims that
//! data is complete (P8). Deltas are taken in one at a time, and look at the row; each is either in the pass or lists its versions itself.

use super::keys::{self, BucketNumber};
use super::rows::{HistoryRow, NodeRow};
use super::txn::{Field, Row, Txn};
use super::wanted::{want, want_row};
use super::{BucketState, Ledger};
use crate::error::Result;
use crate::kv::{KeyRange, Snapshot, Space};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Rows that one commit of the pass looks at.
const PASS_ROWS: usize = 1024;
const LISTING: u8 = 0;
const LISTED: u8 = 1;

/// Whether a bucket's data is to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Names and manifests only; data when it is read.
    NamesOnly,
    /// All of it, and versions that came before that was so are still being listed.
    Listing,
    /// All of it, and whatever may not be here is listed.
    Listed,
}

/// `keeps/`, bucket (4).
pub fn keeping_row(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"keeps/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

fn keeping_of(row: Option<Bytes>) -> Keeping {
    match row.as_deref() {
        None => Keeping::NamesOnly,
        Some([LISTED]) => Keeping::Listed,
        Some(_) => Keeping::Listing,
    }
}

/// As a snapshot has it.
pub async fn keeping(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Keeping> {
    Ok(keeping_of(snapshot.get(Space::Meta, &keeping_row(bucket)).await?))
}

/// The same in a transaction.
pub(super) async fn keeping_in(txn: &mut Txn, bucket: BucketNumber) -> Result<Keeping> {
    Ok(keeping_of(txn.read(Space::Meta, &keeping_row(bucket)).await?))
}

/// Begins or ends keeping all data. Returns whether versions are to be listed now, with [`list_page`].
pub async fn keep(txn: &mut Txn, bucket: BucketNumber, all: bool) -> Result<bool> {
    match (keeping_in(txn, bucket).await?, all) {
        (Keeping::NamesOnly, true) => txn.put(Space::Meta, keeping_row(bucket), vec![LISTING]),
        (Keeping::Listing | Keeping::Listed, false) => txn.delete(Space::Meta, keeping_row(bucket)),
        (Keeping::NamesOnly, false) | (Keeping::Listing | Keeping::Listed, true) => {}
    }
    Ok(all && keeping_in(txn, bucket).await? == Keeping::Listing)
}

/// The pass is over, unless keeping has ended meanwhile.
pub async fn listed(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    if keeping_in(txn, bucket).await? == Keeping::Listing {
        txn.put(Space::Meta, keeping_row(bucket), vec![LISTED]);
    }
    Ok(())
}

/// A page of the pass over `space`, [`Space::Nodes`] or [`Space::History`]: lists versions of the rows behind `after`. Returns the last one's key; `None`
/// at the end.
pub async fn list_page(
    txn: &mut Txn,
    ledger: &Ledger,
    bucket: &BucketState,
    space: Space,
    after: Option<Bytes>,
) -> Result<Option<Bytes>> {
    let snapshot = ledger.store().snapshot().await?;
    let prefix = keys::bucket_prefix(bucket.number);
    let range = match after {
        Some(after) => KeyRange::prefix_after(&prefix, after),
        None => KeyRange::prefix(&prefix),
    };
    let page = snapshot.scan(space, range, PASS_ROWS, false).await?;
    for (key, row) in &page.rows {
        // What has been replaced since is dropped when it is met.
        if space == HistoryRow::SPACE {
            let row = HistoryRow::decode(row.clone(), ledger.own())?;
            want(txn, Field::History, key, &[], &row.register);
        } else {
            want_row(txn, bucket, key, &NodeRow::decode(row.clone(), ledger.own())?);
        }
    }
    Ok(page.rows.last().filter(|_| page.more).map(|(key, _)| key.clone()))
}
