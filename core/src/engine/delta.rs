//! Deltas of a bucket, for whoever carries them to other segments.

use super::bucket::Bucket;
use super::segment::{Segment, shared_row};
use super::transact;
use crate::error::Result;
use crate::id::BucketId;
use crate::kv::Space;
use crate::namespace::keys::{self, BucketNumber};
use crate::namespace::{self, BucketWatch, Delta, DeltaLimit, Txn};
use crate::register::VersionVector;
use std::collections::HashMap;

impl Bucket {
    /// From now on deletes leave tombstones, because another segment may have seen what they delete.
    async fn share(&self) -> Result<()> {
        if !self.state().is_shared() {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                txn.put(Space::Meta, shared_row(&self.state().id).into(), vec![1]);
            })?;
            self.contents().set_linked();
            self.state().share();
        }
        Ok(())
    }

    /// Up to where the changes of each segment that wrote the bucket are here.
    pub async fn vector(&self) -> Result<VersionVector> {
        self.alive()?;
        let snapshot = self.segment().store().snapshot().await?;
        namespace::vector(self.segment().ledger(), &snapshot, self.state().number).await
    }

    /// What a segment that stands at `from` does not know of the bucket, cut at one instant. Contents in chunks are named, not included.
    pub async fn changes_since(&self, from: &VersionVector) -> Result<Delta> {
        self.changes_since_up_to(from, DeltaLimit::NONE).await
    }

    /// The same, or a first step of it: cut at about `limit`. The next step is what a segment at the step's `to` does not know.
    pub async fn changes_since_up_to(&self, from: &VersionVector, limit: DeltaLimit) -> Result<Delta> {
        self.share().await?;
        self.settle_files().await;
        let ledger = self.segment().ledger();
        let delta = namespace::changes_since(ledger, self.state(), from, limit).await?;
        // What a crash could take back must not be known elsewhere: its numbers would be given out again.
        if ledger.published() > ledger.durable() {
            self.segment().sync_commits().await?;
        }
        Ok(delta)
    }

    /// Whether a segment that stands at `from` lacks any change of the bucket.
    pub async fn has_changes_since(&self, from: &VersionVector) -> Result<bool> {
        self.alive()?;
        self.settle_files().await;
        namespace::has_changes_since(self.segment().ledger(), self.state().number, from).await
    }

    /// Merges a delta of the same bucket, cut on another segment, by the merge rules; visible in one step. Returns how many registers
    /// changed. Taking a delta in again, late or after others changes nothing about the outcome.
    pub async fn apply(&self, delta: &Delta) -> Result<usize> {
        self.share().await?;
        let (changed, _) = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::apply(&mut txn, self.state(), delta).await?
        })?;
        Ok(changed)
    }

    /// After a change of a shared bucket: what shows where registers are in conflict depends on more than what was changed.
    pub(super) async fn settle(&self, txn: &mut Txn) -> Result<()> {
        if self.state().is_shared() && txn.meets_conflict() {
            namespace::show(txn, self.state()).await?;
        }
        Ok(())
    }
}

/// What [`SegmentWatch`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Names or policies of clusters, tenants or buckets.
    Catalog,
    /// Something in a bucket.
    Bucket(BucketId),
}

/// Hears which buckets have changed, whoever changed them. See [`Segment::watch_buckets`].
pub struct SegmentWatch {
    segment: Segment,
    watch: BucketWatch,
    ids: HashMap<BucketNumber, BucketId>,
}

impl Segment {
    /// Hears from now on which buckets' registers change: for who carries changes to other segments.
    pub fn watch_buckets(&self) -> SegmentWatch {
        SegmentWatch { segment: self.clone(), watch: self.ledger().watch_buckets(), ids: HashMap::new() }
    }
}

impl SegmentWatch {
    /// What has changed since the last call; waits for a change. Changes that nobody fetches add up to one.
    pub async fn next(&mut self) -> Result<Vec<Changed>> {
        let numbers = self.watch.next().await;
        if numbers.iter().any(|number| *number != keys::CATALOG && !self.ids.contains_key(number)) {
            self.ids = self.segment.bucket_numbers().await?;
        }
        Ok(numbers
            .iter()
            .filter_map(|number| match *number {
                keys::CATALOG => Some(Changed::Catalog),
                // A bucket without an id is gone.
                number => self.ids.get(&number).copied().map(Changed::Bucket),
            })
            .collect())
    }
}
