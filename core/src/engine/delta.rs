//! Deltas of a bucket, for whoever carries them to other segments.

use super::bucket::Bucket;
use super::segment::shared_row;
use super::transact;
use crate::error::Result;
use crate::kv::Space;
use crate::namespace::{self, Delta, Txn};
use crate::register::VersionVector;

impl Bucket {
    /// From now on deletes leave tombstones, because another segment may have seen what they delete.
    async fn share(&self) -> Result<()> {
        if !self.state().is_shared() {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                txn.put(Space::Meta, shared_row(&self.state().id).into(), vec![1]);
            })?;
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
        self.share().await?;
        self.settle_files().await;
        namespace::changes_since(self.segment().ledger(), self.state(), from).await
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

    /// All that differs between what the bucket's registers show and what its derived rows say, a line for each: empty, or something is wrong. Derives
    /// the whole bucket anew in memory.
    pub async fn verify_shown(&self) -> Result<Vec<String>> {
        self.alive()?;
        namespace::verify(self.segment().ledger(), self.state()).await
    }

    /// After a change of a shared bucket: what shows where registers are in conflict depends on more than what was changed.
    pub(super) async fn settle(&self, txn: &mut Txn) -> Result<()> {
        if self.state().is_shared() {
            namespace::show(txn, self.state()).await?;
        }
        Ok(())
    }
}
