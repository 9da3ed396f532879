//! Who carries a bucket, what everybody has and can go, and segments that are gone for good. The argument is in `docs/notes/0006-forgetting.md`.

use super::bucket::Bucket;
use super::segment::Segment;
use super::transact;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{NodeId, SegmentId};
use crate::kv::Space;
use crate::namespace::{self, Delta, Mark, Standing};
use crate::register::{Carrier, Carriers, Stance, VersionVector};
use async_recursion::async_recursion as boxed;

impl Bucket {
    pub(super) async fn standing(&self) -> Result<Standing> {
        self.alive()?;
        let snapshot = self.segment().store().snapshot().await?;
        namespace::standing(self.segment().ledger(), &snapshot, self.state().number).await
    }

    /// After which vector others are to cut deltas for this segment: [`Bucket::vector`], but less while [`Bucket::is_comparing`].
    pub async fn position(&self) -> Result<VersionVector> {
        Ok(self.standing().await?.position)
    }

    /// [`Bucket::position`] and [`Bucket::is_comparing`] at one instant: what others are told.
    pub async fn stance(&self) -> Result<Stance> {
        let here = self.standing().await?;
        Ok(Stance { vector: here.position, is_comparing: here.comparing.is_some() })
    }

    /// Whether a segment that has said that it stands at `vector` has heard of all that was dropped here. One that has not was away, or is new: it may hold what it has yet to
    /// compare, and tell of as a new change when it has.
    pub async fn is_above_floor(&self, vector: &VersionVector) -> Result<bool> {
        Ok(vector.dominates(&self.standing().await?.floor))
    }

    /// Whether this segment was away for longer than others remember, and compares all that it holds with what they have. It shows what it showed until
    /// that is over. What it sends meanwhile must not be taken for a word about where it stands.
    pub async fn is_comparing(&self) -> Result<bool> {
        Ok(self.standing().await?.comparing.is_some())
    }

    /// Who carries the bucket and up to where each has it on its disk, as this segment has heard; its own row is as of now. What linked segments are told.
    pub async fn carriers(&self) -> Result<Carriers> {
        self.alive()?;
        let (ledger, number) = (self.segment().ledger(), self.state().number);
        let snapshot = self.segment().store().snapshot().await?;
        let here = namespace::standing(ledger, &snapshot, number).await?;
        let mut carriers = namespace::carriers(&snapshot, number).await?;
        carriers.entry(self.segment().id()).vector = namespace::told(ledger, &snapshot, number, &here).await?;
        // What a crash could take back is nothing to rely on.
        self.segment().sync_commits().await?;
        Ok(carriers)
    }

    /// Takes in what another segment has heard of who carries the bucket. Returns whether that is news here, and so for others. If it says that this
    /// segment was forgotten, it is back.
    pub async fn learn_carriers(&self, told: &Carriers) -> Result<bool> {
        self.share().await?;
        let own = self.segment().id();
        let number = self.state().number;
        let mut known = namespace::carriers(&self.segment().store().snapshot().await?, number).await?;
        known.merge(told);
        if known.get(&own).is_some_and(Carrier::is_forgotten) {
            transact!(self.segment(), txn, { namespace::forget_receipts(&mut txn, number).await? })?;
        }
        self.change_carriers(|carriers| {
            let mut told = told.clone();
            // Where this segment stands it knows best.
            told.entry(own).vector = VersionVector::new();
            let is_news = carriers.merge(&told);
            let here = carriers.entry(own);
            let is_back = here.is_forgotten();
            here.turns = (here.turns + u64::from(is_back)).min(Carrier::TURNS_MAX);
            is_news | is_back
        })
        .await
    }

    /// `segment` is about to be sent changes of the bucket: from now on it is waited for. Without this it would be sent what it needs all the same, but
    /// might have to compare.
    pub async fn introduce(&self, segment: &SegmentId) -> Result<()> {
        let number = self.state().number;
        if namespace::carriers(&self.segment().store().snapshot().await?, number).await?.get(segment).is_none() {
            self.change_carriers(|carriers| {
                carriers.entry(*segment);
                true
            })
            .await?;
        }
        Ok(())
    }

    /// An operator says that `segment` is gone: nobody waits for it any more before dropping what is deleted. Should it come back, it compares what it holds with
    /// what there is by then. Returns whether that is news. [`ErrorKind::NotFound`] if it has never carried the bucket, `Invalid` for this segment itself.
    pub async fn forget_carrier(&self, segment: &SegmentId) -> Result<bool> {
        if *segment == self.segment().id() {
            return Err(Error::invalid("a segment can't forget itself"));
        }
        let mut is_known = false;
        let is_news = self.change_carriers(|carriers| {
            is_known = carriers.get(segment).is_some();
            let turns = carriers.get(segment).map_or(Carrier::TURNS_MAX, |carrier| carrier.turns);
            let is_news = turns % 2 == 0 && turns < Carrier::TURNS_MAX;
            if is_news {
                carriers.entry(*segment).turns += 1;
            }
            is_news
        });
        let is_news = is_news.await?;
        if is_known {
            self.compare_with_others().await?;
            return Ok(is_news);
        }
        Err(Error::not_found(
            Subject::Other,
            format!("no segment {segment} is known to carry the bucket {}", self.path()),
        ))
    }

    /// Whom this segment compares with may be the one that is gone. It begins again with another.
    async fn compare_with_others(&self) -> Result<()> {
        let _turn = self.state().deltas().await;
        let here = self.standing().await?;
        if here.comparing.is_none() {
            return Ok(());
        }
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            here.compare_with_others(&mut txn, self.state().number);
        })?;
        Ok(())
    }

    async fn change_carriers(&self, mut change: impl FnMut(&mut Carriers) -> bool + Send) -> Result<bool> {
        let number = self.state().number;
        let _turn = self.state().deltas().await;
        let before = namespace::carriers(&self.segment().store().snapshot().await?, number).await?;
        let mut carriers = before.clone();
        let is_news = change(&mut carriers);
        if !carriers.fits() {
            return Err(Error::invalid("a table of carriers is longer than any can be"));
        }
        if carriers != before {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                namespace::put_carriers(&mut txn, number, &carriers);
            })?;
        }
        Ok(is_news)
    }

    /// Drops what is deleted, and what deletions kept, as far as every segment that carries the bucket has it; a collection then frees the chunks. Returns how many
    /// rows lost something. Reads all of the bucket's metadata if there is something that may go.
    pub async fn drop_acknowledged(&self) -> Result<u64> {
        let mut dropped = 0;
        let (nodes, number) = (self.segment().open_nodes(), self.state().number);
        let is_open = |node: &NodeId| nodes.is_in_use(number, node);
        // What an earlier call has marked first; then what is there by now.
        while let Some((mark, is_new)) = self.complete_mark().await? {
            let mut left = 0;
            for space in [Space::Entries, Space::Nodes, Space::History] {
                let mut after = None;
                loop {
                    let (page, _) = transact!(self.segment(), txn, {
                        self.require(&mut txn).await?;
                        namespace::drop_page(&mut txn, self.state(), &mark, space, after.clone(), &is_open).await?
                    })?;
                    dropped += page.rows;
                    left += page.left;
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
            }
            let floor = self.standing().await?.floor;
            let mut after = None;
            loop {
                (after, _) = transact!(self.segment(), txn, {
                    namespace::drop_replaced(&mut txn, number, &mark, &floor, after.clone()).await?
                })?;
                if after.is_none() {
                    break;
                }
            }
            transact!(self.segment(), txn, { namespace::end_mark(&mut txn, number, &mark, left == 0) })?;
            if is_new {
                break;
            }
        }
        Ok(dropped)
    }

    /// A mark that everybody has reached, and whether it was made just now. Otherwise the mark stays, and waits.
    async fn complete_mark(&self) -> Result<Option<(Mark, bool)>> {
        if !self.state().is_shared() {
            return Ok(None);
        }
        self.settle_files().await;
        let (ledger, number, own) = (self.segment().ledger(), self.state().number, self.segment().id());
        let _turn = self.state().deltas().await;
        let commit = ledger.published();
        let snapshot = ledger.store().snapshot().await?;
        let here = namespace::standing(ledger, &snapshot, number).await?;
        // Who is still on the way to where others have dropped something, does not drop anything.
        if here.comparing.is_some() || !here.known.dominates(&here.floor) {
            return Ok(None);
        }
        let (mut mark, is_new) = match Mark::read(&snapshot, number).await? {
            Some(mark) => (mark, false),
            None => {
                let vector = namespace::tight(ledger, &snapshot, number, &here.known).await?;
                // Nothing has changed since something was dropped here last. The floor may be that of others, who have dropped what is still here.
                if namespace::dropped(&snapshot, number).await?.dominates(&vector) {
                    return Ok(None);
                }
                (Mark { commit, vector, heard: Carriers::default() }, true)
            }
        };
        let before = mark.heard.clone();
        let is_complete = mark.hear(&own, &namespace::carriers(&snapshot, number).await?, &here.known);
        if is_complete || is_new || mark.heard != before {
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                mark.write(&mut txn, number);
                if is_complete {
                    here.raise_floor(&mut txn, number, &mark.vector);
                }
            })?;
        }
        Ok(is_complete.then_some((mark, is_new)))
    }

    /// Whether a delta can be merged. Begins to compare if this segment was away too long.
    #[boxed]
    pub(super) async fn admit(&self, here: &Standing, delta: &Delta) -> Result<()> {
        for (ours, theirs) in [(&here.known, &delta.to), (&here.floor, &delta.floor), (&here.floor, &delta.knows)] {
            let mut all = ours.clone();
            all.merge(theirs);
            if all.len() > VersionVector::SEGMENTS_MAX {
                return Err(Error::invalid("a delta names more segments than there can be"));
            }
        }
        if delta.bucket != self.state().id {
            return Err(Error::invalid("the delta is of another bucket"));
        }
        let wait = |reason: &str| Error::new(ErrorKind::Precondition, reason.to_owned());
        let (ledger, number) = (self.segment().ledger(), self.state().number);
        let holds_below = {
            let snapshot = self.segment().store().snapshot().await?;
            !here.known.dominates(&delta.floor)
                && namespace::holds_below(ledger, &snapshot, number, &delta.floor).await?
        };
        let is_enough = || self.state().patience(namespace::Patience::turn_away);
        let (floor, abandons) = match here.admits(delta, holds_below) {
            namespace::Admission::Merge => return Ok(()),
            namespace::Admission::Wait(reason) => return Err(wait(reason)),
            namespace::Admission::Compare(floor) => (floor, false),
            namespace::Admission::Other(floor) if is_enough() => (floor, false),
            namespace::Admission::Other(_) => {
                return Err(wait("this segment compares what it holds with another one"));
            }
            namespace::Admission::Abandon(floor) if is_enough() => (floor, true),
            namespace::Admission::Abandon(_) => {
                return Err(wait("the sender has not heard yet what was dropped elsewhere"));
            }
        };
        self.begin_comparison(here, &floor, abandons).await?;
        Err(wait(
            "it was away for longer than deletions are remembered, and compares all that it holds with what there is",
        ))
    }

    /// `abandons`: this segment does not go on to where others have dropped something.
    async fn begin_comparison(&self, here: &Standing, floor: &VersionVector, abandons: bool) -> Result<()> {
        let number = self.state().number;
        if here.leaves(floor) || abandons {
            // First, so that a crash on the way does not leave a comparison behind that has forgotten what it has noted.
            transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                here.compare_with_others(&mut txn, number);
            })?;
            while transact!(self.segment(), txn, { namespace::forget_differing(&mut txn, number).await? })?.0 {}
        }
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            match abandons {
                true => here.clone().abandoned(&mut txn, number).compare(&mut txn, number, floor),
                false => here.compare(&mut txn, number, floor),
            }
        })?;
        self.state().patience(namespace::Patience::renew);
        tracing::warn!(bucket = %self.path(), "what others deleted while this segment was away is forgotten there: it compares all that it holds");
        Ok(())
    }

    /// Notes what this segment holds and a delta, which is about to be merged, should have and has not.
    pub(super) async fn note_differing(&self, delta: &Delta) -> Result<()> {
        let live = namespace::live_in(delta);
        for dot in delta.to.dots() {
            let mut next = Some(delta.from.get(&dot.segment));
            while let Some(after) = next {
                (next, _) = transact!(self.segment(), txn, {
                    self.require(&mut txn).await?;
                    let number = self.state().number;
                    namespace::note_differing(&mut txn, number, delta, &live, &dot.segment, after).await?
                })?;
            }
        }
        Ok(())
    }

    /// The last delta of a comparison was merged: what was noted and is still here was deleted elsewhere.
    pub(super) async fn end_comparison(&self, delta: &Delta) -> Result<()> {
        loop {
            let (is_more, _) = transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                namespace::drop_differing(&mut txn, self.state(), &delta.to).await?
            })?;
            if !is_more {
                break;
            }
        }
        let here = self.standing().await?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            here.compared(&mut txn, self.state().number);
        })?;
        Ok(())
    }
}

impl Segment {
    /// [`Bucket::drop_acknowledged`] for all buckets. A collection begins with it.
    pub async fn drop_acknowledged(&self) -> Result<u64> {
        let mut dropped = 0;
        for info in self.catalog().all_buckets().await? {
            let here = async { self.bucket(&info.path).await?.drop_acknowledged().await };
            match here.await {
                Ok(rows) => dropped += rows,
                // It has gone meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }

    /// [`Bucket::forget_carrier`] for all buckets that `segment` is known to carry. Returns how many those are. [`ErrorKind::NotFound`] if there is none.
    pub async fn forget_segment(&self, segment: &SegmentId) -> Result<u64> {
        let mut buckets = self.catalog().end_promises_of_deleted(segment).await?;
        for info in self.catalog().all_buckets().await? {
            let forgotten = async { self.bucket(&info.path).await?.forget_carrier(segment).await };
            match forgotten.await {
                Ok(_) => buckets += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if buckets == 0 {
            return Err(Error::not_found(
                Subject::Other,
                format!("no segment {segment} is known to carry any bucket here"),
            ));
        }
        Ok(buckets)
    }
}
