//! Deltas of a bucket, for whoever carries them to other segments.

use super::bucket::{Bucket, checked};
use super::segment::{Segment, shared_row};
use super::transact;
use super::whole::Check;
use crate::error::Result;
use crate::id::{BucketId, SegmentId};
use crate::kv::Space;
use crate::namespace::keys::{self, BucketNumber};
use crate::namespace::{self, BucketWatch, Conflict, Delta, DeltaLimit, Resolution, Summary, Txn, Wanted};
use crate::policy::BucketPolicy;
use crate::register::VersionVector;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::HashMap;

impl Bucket {
    /// From now on deletes leave tombstones, because another segment may have seen what they delete.
    pub(super) async fn share(&self) -> Result<()> {
        if !self.state().is_share_stored() {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                txn.put(Space::Meta, shared_row(&self.state().id).into(), vec![1]);
                // There is no conflict yet. Those that come are derived by the policy that there is: one that follows must know that.
                if let Some(rules) = namespace::rules_value(self.state()) {
                    txn.put(Space::Meta, namespace::rules_row(self.state().number), rules);
                }
                // Whoever begins from now on leaves tombstones, and who has begun and does not begins again: see `require`.
                self.contents().set_linked();
                self.state().share();
            })?;
            self.state().share_stored();
        }
        Ok(())
    }

    /// Up to where the changes of each segment that wrote the bucket are here.
    pub async fn vector(&self) -> Result<VersionVector> {
        Ok(self.standing().await?.known)
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
        self.segment().sync_commits().await?;
        Ok(delta)
    }

    /// Whether a segment that stands at `from` lacks any change of the bucket.
    pub async fn has_changes_since(&self, from: &VersionVector) -> Result<bool> {
        self.alive()?;
        self.settle_files().await;
        namespace::has_changes_since(self.segment().ledger(), self.state().number, from).await
    }

    /// Merges a delta of the same bucket, cut on another segment, by the merge rules; visible in one step. Returns how many registers
    /// changed. Taking a delta in again, late or after others changes nothing about the outcome. `Precondition`: it can't be taken in yet; or, if [`Bucket::is_comparing`] says so
    /// now, this segment was away too long, and the sender has to begin anew at [`Bucket::position`].
    pub async fn apply(&self, delta: &Delta) -> Result<usize> {
        self.take_in(delta, None).await
    }

    /// [`Bucket::apply`], unless `check` finds that it lacks data.
    #[boxed]
    pub(super) async fn take_in(&self, delta: &Delta, mut check: Option<&mut Check<'_>>) -> Result<usize> {
        self.share().await?;
        // One at a time: two deltas may touch different registers that together decide what shows.
        let _turn = self.state().deltas().await;
        let here = self.standing().await?;
        self.admit(&here, delta).await?;
        if here.comparing.is_some() {
            self.note_differing(delta).await?;
        }
        let (changed, _) = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let changed = namespace::apply(&mut txn, self.state(), delta).await?;
            if let Some(check) = &mut check {
                check.look(&mut txn).await?;
            }
            changed
        })?;
        self.state().patience(namespace::Patience::renew);
        if here.ends_with(delta) {
            self.end_comparison(delta).await?;
        }
        Ok(changed)
    }

    /// Versions whose bytes may not be here, at most `limit`, in the order of the segments and changes that made them; `after`: from the one behind that key
    /// on. What has been replaced since is not listed, and forgotten. Fewer than `limit`: there are no more.
    pub async fn wanted(&self, after: Option<Bytes>, limit: usize) -> Result<Vec<Wanted>> {
        self.alive()?;
        let (found, gone) = namespace::wanted(self.segment().ledger(), self.state(), after, limit).await?;
        if !gone.is_empty() {
            transact!(self.segment(), txn, {
                namespace::forget_unwanted(&mut txn, self.segment().ledger(), self.state(), &gone).await?
            })?;
        }
        Ok(found)
    }

    /// The bytes of these [`Wanted`] versions, named by their keys, are here and durable. `Invalid` for what is not such a key of this bucket; one that is
    /// not listed any more is passed over.
    pub async fn data_arrived(&self, keys: &[Bytes]) -> Result<()> {
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::data_arrived(&mut txn, self.state().number, keys)?;
        })?;
        Ok(())
    }

    /// The highest vector at or below which no version is wanted: [`Bucket::vector`], but for each segment below the first of its versions whose bytes may
    /// not be here. Only this segment's own changes, unless [`Bucket::keeping`] says [`Keeping::Listed`](crate::Keeping::Listed).
    pub async fn data_vector(&self) -> Result<VersionVector> {
        self.alive()?;
        let (ledger, number) = (self.segment().ledger(), self.state().number);
        let looks = ledger.looks(number);
        let snapshot = self.segment().store().snapshot().await?;
        let vector = namespace::vector(ledger, &snapshot, number).await?;
        namespace::data_vector(ledger, looks, &snapshot, number, &vector).await
    }

    /// What concurrent changes left for somebody to decide, in no order that means anything, at most `limit`; `after`: behind that
    /// [`Conflict::position`]. Fewer than `limit`: there are no more. Costs by what is in conflict.
    pub async fn conflicts(&self, after: Option<Bytes>, limit: usize) -> Result<Vec<Conflict>> {
        self.settle_files().await;
        namespace::conflicts(&self.view(None).await?, after, limit).await
    }

    /// Decides the conflict whose loser shows at `key`; where the policy keeps one winner and losers do not show, the latest of those about `key`. What is
    /// decided is a change like others, and reaches the other segments like others. [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if `key` is in no conflict,
    /// `Invalid` for a directory unless both are kept.
    pub async fn resolve(&self, key: impl AsRef<[u8]>, resolution: Resolution) -> Result<()> {
        let key = checked(key)?;
        self.settle_files().await;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::resolve(&mut txn, self.state(), &key, resolution).await?;
            self.settle(&mut txn).await?;
        })?;
        self.segment().announce(self.state(), &key);
        Ok(())
    }

    /// Follows a change of the policy: what is in conflict shows as the new one says.
    pub(super) async fn follow_policy(&self, policy: BucketPolicy, origin: Option<SegmentId>) -> Result<()> {
        // No delta is taken in meanwhile: it would leave conflicts behind that were derived by the old rules.
        let _turn = self.state().deltas().await;
        self.state().set_policy(policy, origin);
        self.derive_conflicts().await
    }

    /// Derives the conflicts anew if that was last done by other rules.
    pub(super) async fn derive_conflicts(&self) -> Result<()> {
        let (key, row) = (namespace::rules_row(self.state().number), namespace::rules_value(self.state()));
        if !self.state().is_shared() || self.segment().store().get(Space::Meta, &key).await? == row {
            return Ok(());
        }
        let mut after = None;
        loop {
            let (next, _) = transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                let next = namespace::derive_conflicts(&mut txn, self.state(), after.clone()).await?;
                namespace::want_pinned(&mut txn, self.state()).await?;
                next
            })?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// The bucket at this instant, to be compared with what another segment has.
    pub async fn summary(&self) -> Result<Summary> {
        self.settle_files().await;
        let view = self.view(None).await?;
        let (ledger, number) = (self.segment().ledger(), self.state().number);
        let vector = namespace::vector(ledger, view.store_snapshot(), number).await?;
        let effective = namespace::effective_vector(ledger, view.store_snapshot(), number).await?;
        Ok(Summary::new(view, vector, effective))
    }

    /// All that differs between what the bucket's registers show and what its derived rows say, a line for each: empty, or something is wrong. Derives
    /// the whole bucket anew in memory.
    pub async fn verify_shown(&self) -> Result<Vec<String>> {
        self.alive()?;
        namespace::verify(self.segment().ledger(), self.state()).await
    }

    /// After a change of a shared bucket: what shows where registers are in conflict depends on more than what was changed.
    #[boxed]
    pub(super) async fn settle(&self, txn: &mut Txn) -> Result<()> {
        if self.state().is_shared() {
            txn.keep_replaced(self.state().number);
            namespace::show(txn, self.state()).await?;
            namespace::want_pinned(txn, self.state()).await?;
        }
        if self.state().may_have_away() {
            // What is changed here is seen here.
            namespace::away::recall_changed(txn, self.state().number).await?;
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
