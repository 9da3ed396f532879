//! Giving local data up once others hold it: a bucket of a segment at the edge, whose data goes to where it is gathered (P11).
//!
//! Others promise to hold data (their receipts), durably, before they say so; what they say is durable here before anything is given up. Collection does
//! the giving up (`gc.rs`): a version that is old enough and that enough others hold counts as little as if nothing referred to it. Names stay, and reads
//! fetch, as where data was never here. A crash at any point loses nothing: receipts are never taken back.

use super::bucket::Bucket;
use super::segment::Segment;
use super::transact;
use crate::error::Result;
use crate::id::SegmentId;
use crate::namespace::{self, Gather, Keeping};
use crate::register::VersionVector;

impl Bucket {
    /// Has collections give up what is old enough and what enough others hold, of what is not pinned; `None`: nothing. Only where not all data is
    /// to be here ([`Bucket::keep_data`]). What was given up before stays so.
    pub async fn set_gather(&self, gather: Option<Gather>) -> Result<()> {
        if self.gather().await? == gather {
            return Ok(());
        }
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::set_gather(&mut txn, self.state().number, gather).await?
        })?;
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

    /// Promises others to hold all data that is here now, and returns up to which vector that is so: from then on none of it is given up here, whoever
    /// else holds it. `None`: not all data is to be here, so nothing is promised. Durable when it returns.
    pub async fn promise(&self) -> Result<Option<VersionVector>> {
        if self.keeping().await? != Keeping::Listed {
            return Ok(None);
        }
        let vector = self.data_vector().await?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::promise(&mut txn, self.state().number, &vector).await?
        })?;
        // What it covers was committed before the promise.
        self.segment().sync_commits().await?;
        Ok(Some(vector))
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
