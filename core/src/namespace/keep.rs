//! Whether all data of a bucket is to be here: one row, and the pass that lists what came by name before that was so.
//!
//! The row is written before the pass and says afterwards that the pass is over, so that a crash in between makes it begin anew: until then nothing claims that
//! data is complete (P8). Deltas are taken in one at a time, and look at the row; each is either in the pass or lists its versions itself.

use super::hold::{Given, given_in, given_row};
use super::keys::{self, BucketNumber};
use super::pin::list_again;
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
const LATER: u8 = 2;

/// Whether a bucket's data is to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Names and manifests only; data when it is read.
    NamesOnly,
    /// Data of versions that have come since this was asked for, and whatever of that may not be here is listed.
    Later,
    /// All of it, and versions that came before that was so are still being listed.
    Listing,
    /// All of it, and whatever may not be here is listed.
    Listed,
}

impl Keeping {
    /// Whether all that may not be here is listed, or is being listed.
    pub(super) fn lists_all(self) -> bool {
        matches!(self, Keeping::Listing | Keeping::Listed)
    }
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
        Some([LATER]) => Keeping::Later,
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
        (Keeping::NamesOnly | Keeping::Later, true) => txn.put(Space::Meta, keeping_row(bucket), vec![LISTING]),
        (Keeping::Later | Keeping::Listing | Keeping::Listed, false) => {
            distrust_absent(txn, bucket).await?;
            txn.delete(Space::Meta, keeping_row(bucket));
            // Meanwhile nothing was held against them.
            list_again(txn, bucket).await?;
        }
        (Keeping::NamesOnly, false) | (Keeping::Listing | Keeping::Listed, true) => {}
    }
    Ok(all && keeping_in(txn, bucket).await? == Keeping::Listing)
}

/// What is wanted is listed no longer: what was written here and is not here now was given up, and has to be known for that.
async fn distrust_absent(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    let own = [super::wanted::wanted_prefix(bucket).as_ref(), &txn.own().0].concat();
    let snapshot = txn.ledger().store().snapshot().await?;
    if !snapshot.scan(Space::Meta, KeyRange::prefix(&own), 1, false).await?.rows.is_empty() {
        super::give(txn, bucket).await?;
    }
    Ok(())
}

/// From now on keeps data of what comes, and lists nothing else.
pub async fn keep_later(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    if keeping_in(txn, bucket).await? != Keeping::Later {
        distrust_absent(txn, bucket).await?;
        txn.put(Space::Meta, keeping_row(bucket), vec![LATER]);
    }
    Ok(())
}

/// The pass is over, unless keeping has ended meanwhile.
pub async fn listed(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    if keeping_in(txn, bucket).await? == Keeping::Listing {
        txn.put(Space::Meta, keeping_row(bucket), vec![LISTED]);
        // What is missing of it is listed now.
        txn.delete(Space::Meta, given_row(bucket));
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
    let is_given = given_in(txn, bucket.number).await? != Given::Nothing;
    let page = snapshot.scan(space, range, PASS_ROWS, false).await?;
    for (key, row) in &page.rows {
        // What has been replaced since is dropped when it is met.
        if space == HistoryRow::SPACE {
            let row = HistoryRow::decode(row.clone(), ledger.own())?;
            want(txn, Field::History, key, &[], &row.register, is_given);
        } else {
            want_row(txn, bucket, key, &NodeRow::decode(row.clone(), ledger.own())?, is_given);
        }
    }
    Ok(page.rows.last().filter(|_| page.more).map(|(key, _)| key.clone()))
}
