//! Whether a bucket's data is to be here, and the pass that lists what came by name before that was so.
//!
//! A pass vouches for what came before it was begun, and what comes afterwards lists itself as long as all data is kept. If keeping has ended meanwhile, if only to begin
//! again, something may have come in between that neither has listed. So a pass ends with "all is listed" only if keeping has not ended since it began.

use super::bucket::Bucket;
use super::transact;
use crate::error::Result;
use crate::kv::Space;
use crate::namespace::{self, Keeping};
use bytes::Bytes;

/// A pass over the bucket's metadata, and how far it is.
struct Pass {
    /// How often keeping had ended when it was begun.
    keepings_ended: u64,
    /// What it passes over now; `None`: it is at its end.
    space: Option<Space>,
    after: Option<Bytes>,
}

impl Bucket {
    /// Whether all data of the bucket is to be here. From when this returns with `true`, all versions whose bytes may not be here are listed by [`Bucket::wanted`], those
    /// included that came by name before, unless somebody has asked for something else meanwhile; the first time this passes over the bucket's metadata. With
    /// `false` nothing that comes is listed.
    pub async fn keep_data(&self, all: bool) -> Result<()> {
        let Some(mut pass) = self.begin_keeping(all).await? else { return Ok(()) };
        while self.list_more(&mut pass).await? {}
        self.end_pass(&pass).await
    }

    /// Data is to be here of what comes from now on: [`Bucket::wanted`] lists that, and what it listed before. What came by name alone stays so.
    pub async fn keep_new_data(&self) -> Result<()> {
        self.alive()?;
        if self.keeping().await? != Keeping::Later {
            let _turn = self.state().deltas().await;
            self.state().end_keeping();
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                namespace::keep_later(&mut txn, self.state().number).await?
            })?;
        }
        Ok(())
    }

    /// Whether all data is to be here, and whether all that may be missing is listed.
    pub async fn keeping(&self) -> Result<Keeping> {
        namespace::keeping(&self.segment().store().snapshot().await?, self.state().number).await
    }

    /// Begins or ends keeping all data; a pass, if one is due.
    async fn begin_keeping(&self, all: bool) -> Result<Option<Pass>> {
        self.alive()?;
        if self.keeping().await? == if all { Keeping::Listed } else { Keeping::NamesOnly } {
            return Ok(None);
        }
        // A delta that is being taken in was told that nothing is to be listed; the pass must see what it brings.
        let _turn = self.state().deltas().await;
        if !all {
            self.state().end_keeping();
        }
        let (is_to_list, _) = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::keep(&mut txn, self.state().number, all).await?
        })?;
        let keepings_ended = self.state().keepings_ended();
        Ok(is_to_list.then_some(Pass { keepings_ended, space: Some(Space::Nodes), after: None }))
    }

    /// Lists what is on the next page. Returns whether there is another.
    async fn list_more(&self, pass: &mut Pass) -> Result<bool> {
        let Some(space) = pass.space.filter(|_| self.is_current(pass)) else { return Ok(false) };
        let after = pass.after.take();
        (pass.after, _) = transact!(self.segment(), txn, {
            namespace::list_page(&mut txn, self.segment().ledger(), self.state(), space, after.clone()).await?
        })?;
        if pass.after.is_none() {
            pass.space = (space == Space::Nodes).then_some(Space::History);
        }
        Ok(pass.space.is_some())
    }

    /// All is listed, if keeping has not ended since the pass began.
    async fn end_pass(&self, pass: &Pass) -> Result<()> {
        let _turn = self.state().deltas().await;
        if self.is_current(pass) {
            transact!(self.segment(), txn, { namespace::listed(&mut txn, self.state().number).await? })?;
        }
        Ok(())
    }

    fn is_current(&self, pass: &Pass) -> bool {
        self.state().keepings_ended() == pass.keepings_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketPolicy, CreateOptions, OpenOptions, PutOptions, Segment};

    async fn segment(dir: &std::path::Path, name: &str) -> Segment {
        let options = OpenOptions { workers: 1, ..OpenOptions::default() };
        let create = CreateOptions { name: name.into(), cluster: "C".into() };
        Segment::create(dir.join(name), create, options).await.unwrap()
    }

    /// P8: all data was to be here, then names only, then all again, while the first pass was still under way. What had come by name in between was not listed by anybody
    /// yet when the first pass came to its end and said that all was.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_pass_does_not_vouch_for_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (segment(dir.path(), "from").await, segment(dir.path(), "to").await);
        let path: crate::BucketPath = "C/t/b".parse().unwrap();
        from.catalog().create_tenant(&path.tenant).await.unwrap();
        let a = from.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        to.catalog().import(&from.catalog().export(&|_| true).await.unwrap(), &|_| true).await.unwrap();
        let b = to.bucket(&path).await.unwrap();
        let put = async |key: &str| {
            a.put(key, vec![1; 100_000], PutOptions::default()).await.unwrap();
            b.apply(&a.changes_since(&b.vector().await.unwrap()).await.unwrap()).await.unwrap();
        };
        put("old").await;
        let mut older = b.begin_keeping(true).await.unwrap().unwrap();
        while b.list_more(&mut older).await.unwrap() {}
        b.keep_data(false).await.unwrap();
        put("new").await;
        let mut newer = b.begin_keeping(true).await.unwrap().unwrap();
        b.end_pass(&older).await.unwrap();
        assert_eq!(b.keeping().await.unwrap(), Keeping::Listing, "one version is listed nowhere");
        while b.list_more(&mut newer).await.unwrap() {}
        b.end_pass(&newer).await.unwrap();
        assert_eq!((b.keeping().await.unwrap(), b.wanted(None, 10).await.unwrap().len()), (Keeping::Listed, 2));
    }
}
