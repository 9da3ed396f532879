//! Giving local data up once others hold it: a bucket of a segment at the edge, whose data goes to where it is gathered (P11).
//!
//! Others promise to hold data (their receipts), durably, before they say so; what they say is durable here before anything is given up. Collection does
//! the giving up (`gc.rs`): a version that is old enough and that enough others hold counts as little as if nothing referred to it. Names stay, and reads
//! fetch, as where data was never here. A crash at any point loses nothing: a receipt holds until who relies on it says that it does not any more.

use super::bucket::Bucket;
use super::segment::Segment;
use super::transact;
use crate::error::Result;
use crate::id::SegmentId;
use crate::namespace::{self, Gather, Keeping};
use crate::register::VersionVector;
use bytes::Bytes;

impl Bucket {
    /// Has collections give up what is old enough and what enough others hold, of what is not pinned; `None`: nothing. Only where not all data is
    /// to be here ([`Bucket::keep_data`]). What was given up before stays so; names that are away come back unless they are still to go.
    pub async fn set_gather(&self, gather: Option<Gather>) -> Result<()> {
        if self.gather().await? != gather {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                namespace::set_gather(&mut txn, self.state().number, gather).await?
            })?;
        }
        // Also what a crash has left of it.
        if gather.is_none_or(|gather| !gather.names) && self.state().may_have_away() {
            self.bring_back(&Bytes::new(), None).await?;
        }
        Ok(())
    }

    /// When local data is given up.
    pub async fn gather(&self) -> Result<Option<Gather>> {
        self.alive()?;
        namespace::gather(&self.segment().store().snapshot().await?, self.state().number).await
    }

    /// Notes that `segment` has promised ([`Bucket::promise`]) to hold all data up to `vector`. Durable when it returns.
    pub async fn add_receipt(&self, segment: &SegmentId, vector: &VersionVector) -> Result<()> {
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::add_receipt(&mut txn, self.state().number, segment, vector).await?
        })?;
        Ok(())
    }

    /// Up to where this segment can promise to hold all data: of each segment up to the last of its changes that is of this bucket and whose data is here, as
    /// all data of those before it. `None`: not all data is to be here, or changes are half here.
    pub async fn promisable(&self) -> Result<Option<VersionVector>> {
        self.alive()?;
        let (ledger, number) = (self.segment().ledger(), self.state().number);
        let looks = ledger.looks(number);
        let snapshot = self.segment().store().snapshot().await?;
        let here = namespace::standing(ledger, &snapshot, number).await?;
        // What has been replaced by what is beyond the vector is not listed as missing, and who shows it must not rely on it.
        if namespace::keeping(&snapshot, number).await? != Keeping::Listed
            || here.comparing.is_some()
            || namespace::holds_beyond(ledger, &snapshot, number, &here.known).await?
        {
            return Ok(None);
        }
        let data = namespace::data_vector(ledger, looks, &snapshot, number, &here.known).await?;
        // Numbers of changes of other buckets would never be reached where this is read.
        Ok(Some(namespace::tight(ledger, &snapshot, number, &data).await?))
    }

    /// Promises `segment` to hold all data that is here now, and returns up to which vector that is so: from then on none of it is given up here, whoever
    /// else holds it, until [`Bucket::end_promise`]. `None`: see [`Bucket::promisable`]; nothing is promised. Durable when it returns.
    pub async fn promise(&self, segment: &SegmentId) -> Result<Option<VersionVector>> {
        let Some(vector) = self.promisable().await? else { return Ok(None) };
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::promise(&mut txn, self.state().number, segment, &vector).await?
        })?;
        // What it covers was committed before the promise.
        self.segment().sync_commits().await?;
        Ok(Some(vector))
    }

    /// What was promised to others and not ended, by whom it was promised to. Without those that are declared gone ([`Bucket::forget_carrier`]).
    pub async fn promises(&self) -> Result<Vec<(SegmentId, VersionVector)>> {
        self.alive()?;
        namespace::promises(&self.segment().store().snapshot().await?, self.state().number).await
    }

    /// `segment` relies no longer on what it was promised: it has said that it was [released](Bucket::release) there.
    pub async fn end_promise(&self, segment: &SegmentId) -> Result<()> {
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::end_promise(&mut txn, self.state().number, segment);
        })?;
        Ok(())
    }

    /// `holder` wants its promise back. `true`: nothing here relies on it any more, which is durable: enough others have promised the same, or all data is
    /// here. `false`: it is still relied on.
    pub async fn release(&self, holder: &SegmentId) -> Result<bool> {
        let held = match self.keeping().await? {
            Keeping::Listed => self.data_vector().await?,
            _ => VersionVector::new(),
        };
        let (is_released, _) = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            txn.watch(crate::kv::Space::Meta, &namespace::keeping_row(self.state().number));
            namespace::release(&mut txn, self.state().number, holder, &held).await?
        })?;
        Ok(is_released)
    }
}

impl Segment {
    /// Notes for all buckets that gather that from now on something may be given up.
    pub(super) async fn begin_giving(&self) -> Result<()> {
        for info in self.catalog().all_buckets().await? {
            let bucket = match self.catalog().bucket_with_id(&info.id).await {
                // It has gone meanwhile.
                Err(error) if error.kind() == crate::ErrorKind::NotFound => continue,
                found => found?,
            };
            if bucket.gather().await?.is_some() {
                transact!(self, txn, { namespace::give(&mut txn, bucket.state().number).await? })?;
            }
        }
        Ok(())
    }
}
