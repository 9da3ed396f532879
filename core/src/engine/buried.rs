//! Deleted buckets whose rows are still here: for as long as this segment has promised others to hold their data (P11), and while the rows are on their way out.
//!
//! Whoever was promised something may have given its own data up, and may have renamed a file that was deleted here: then it brings the bucket back, and the
//! content behind that name is nowhere but here, kept by the deletion. So a deleted bucket is *buried* first, with all it has. If it comes back it is what it was. When no promise
//! is left, where it stood is noted (`namespace/retired.rs`) and its rows go.
//!
//! A row of [`Space::Meta`] says which numbers are buried, from the commit that deletes the bucket until its last row is gone; a collection goes on with
//! what a crash has left half way.

use super::catalog::Catalog;
use super::segment::number_row;
use super::transact;
use crate::catalog::{self, CatalogValue};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BucketId, SegmentId};
use crate::kv::{KeyRange, Space};
use crate::namespace::keys::{self, BucketNumber};
use crate::namespace::{self, Txn};
use crate::path::BucketPath;
use crate::register::{VersionVector, put_varint, take_slice, take_varint};
use async_recursion::async_recursion as boxed;
use bytes::{BufMut, Bytes, BytesMut};

const PREFIX: &[u8] = b"buried/";

/// A buried bucket.
pub(super) struct Buried {
    number: BucketNumber,
    id: BucketId,
    /// It can't come back with this number any more.
    is_going: bool,
    /// Whoever deleted it had seen all up to here, and all of that is dead, even where this segment has not heard of it.
    seen: VersionVector,
    /// Its path.
    path: Option<BucketPath>,
    /// Where another segment deleted it: what it was, should there be something beyond that.
    was: Option<CatalogValue>,
}

/// `buried/`, bucket (4).
fn row_of(number: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(PREFIX);
    key.put_u32(number);
    key.freeze()
}

impl Buried {
    pub(super) fn new(number: BucketNumber, id: &BucketId, seen: &VersionVector) -> Buried {
        Buried { number, id: *id, is_going: false, seen: seen.clone(), path: None, was: None }
    }

    /// Where it was.
    pub(super) fn at(self, path: &BucketPath) -> Buried {
        Buried { path: Some(path.clone()), ..self }
    }

    pub(super) fn was(self, path: &BucketPath, value: Option<CatalogValue>) -> Buried {
        Buried { was: value, ..self.at(path) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = self.id.0.to_vec();
        row.push(u8::from(self.is_going));
        self.seen.encode(&mut row);
        if let Some(path) = &self.path {
            let path = path.to_string();
            put_varint(&mut row, path.len() as u64);
            row.extend_from_slice(path.as_bytes());
        }
        if let (Some(_), Some(value)) = (&self.path, &self.was) {
            // Serializing plain strings and numbers does not fail.
            row.extend(serde_json::to_vec(value).unwrap_or_default());
        }
        row
    }

    fn decode(number: BucketNumber, row: &[u8]) -> Result<Buried> {
        let unreadable = || Error::damaged("what is known of a deleted bucket can't be read");
        let Some((id, [going @ (0 | 1), rest @ ..])) = row.split_first_chunk::<16>() else {
            return Err(unreadable());
        };
        let mut rest = rest;
        // As it was written before there was a vector.
        let seen = if rest.is_empty() { VersionVector::new() } else { VersionVector::decode(&mut rest)? };
        let (mut path, mut was) = (None, None);
        if !rest.is_empty() {
            let length = take_varint(&mut rest)?;
            let text = std::str::from_utf8(take_slice(&mut rest, length)?).map_err(|_| unreadable())?;
            path = Some(text.parse()?);
        }
        if !rest.is_empty() {
            was = Some(serde_json::from_slice(rest).map_err(|error| unreadable().because(error))?);
        }
        Ok(Buried { number, id: BucketId(*id), is_going: *going == 1, seen, path, was })
    }
}

/// The same row, read and written again; `None`: it is none of these.
pub(super) fn rewrite(key: &[u8], row: &[u8]) -> Result<Option<Vec<u8>>> {
    if key.starts_with(PREFIX) { Ok(Some(Buried::decode(number_of(key)?, row)?.encode())) } else { Ok(None) }
}

/// Takes a deleted bucket's number away. `is_shared`: other segments may bring it back.
pub(super) fn bury(txn: &mut Txn, buried: Buried, is_shared: bool) {
    txn.delete(Space::Meta, number_row(&buried.id).into());
    let buried = Buried { is_going: !is_shared, ..buried };
    txn.put(Space::Meta, row_of(buried.number), buried.encode());
}

/// Gives a bucket that is buried its number again, if it can have it. What others had promised it counts for nothing: as long as it was deleted they were told so.
pub(super) async fn dig_up(txn: &mut Txn, id: &BucketId) -> Result<bool> {
    let snapshot = txn.ledger().store().snapshot().await?;
    for (key, _) in snapshot.scan(Space::Meta, KeyRange::prefix(PREFIX), usize::MAX, false).await?.rows {
        let Some(row) = txn.read(Space::Meta, &key).await? else { continue };
        let buried = Buried::decode(number_of(&key)?, &row)?;
        if buried.id == *id && !buried.is_going {
            txn.delete(Space::Meta, key);
            txn.put(Space::Meta, number_row(id).into(), buried.number.to_be_bytes().to_vec());
            namespace::forget_receipts(txn, buried.number).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn number_of(key: &[u8]) -> Result<BucketNumber> {
    let number = key.strip_prefix(PREFIX).and_then(|number| number.try_into().ok());
    number.map(u32::from_be_bytes).ok_or_else(|| Error::damaged("a deleted bucket has no number"))
}

/// Has a buried bucket go if nothing of it is promised; returns whether it goes.
async fn go(txn: &mut Txn, buried: Buried) -> Result<bool> {
    if buried.is_going {
        return Ok(true);
    }
    // As long as it is buried nothing is promised, so there are no more than this snapshot shows.
    let snapshot = txn.ledger().store().snapshot().await?;
    let goes = namespace::promises(&snapshot, buried.number).await?.is_empty();
    if goes {
        // Whoever else may have it may bring it back.
        namespace::retire(txn, buried.number, &buried.id, &buried.seen).await?;
        txn.put(Space::Meta, row_of(buried.number), Buried { is_going: true, ..buried }.encode());
    }
    Ok(goes)
}

impl Catalog {
    /// To whom this segment has promised to hold data of buckets that are deleted here. Each is to be asked for its promise back
    /// ([`Catalog::end_promise_of_deleted`]).
    pub async fn promises_of_deleted(&self) -> Result<Vec<(BucketId, Vec<SegmentId>)>> {
        let snapshot = self.0.store().snapshot().await?;
        let mut found = Vec::new();
        for buried in self.buried().await? {
            let promises = namespace::promises(&snapshot, buried.number).await?;
            if !buried.is_going && !promises.is_empty() {
                found.push((buried.id, promises.into_iter().map(|(segment, _)| segment).collect()));
            }
        }
        Ok(found)
    }

    /// `segment` relies no longer on what it was promised about a bucket that is deleted here: it has said that it has no such bucket, or that it was
    /// [released](super::Bucket::release) there. With the last promise the bucket's rows go. Returns whether there was a promise.
    pub async fn end_promise_of_deleted(&self, bucket: &BucketId, segment: &SegmentId) -> Result<bool> {
        let mut is_ended = false;
        for buried in self.buried().await?.into_iter().filter(|buried| buried.id == *bucket && !buried.is_going) {
            let promises = namespace::promises(&self.0.store().snapshot().await?, buried.number).await?;
            if promises.iter().any(|(to, _)| to == segment) {
                is_ended |= transact!(self.0, txn, {
                    // It may have come back, and the promise with it.
                    let is_buried = txn.read(Space::Meta, &row_of(buried.number)).await?.is_some();
                    if is_buried {
                        namespace::end_promise(&mut txn, buried.number, segment);
                    }
                    is_buried
                })?
                .0;
                self.settle_buried(buried.number).await?;
            }
        }
        Ok(is_ended)
    }

    /// `segment` is declared gone. Returns in how many deleted buckets it had been promised something.
    pub(super) async fn end_promises_of_deleted(&self, segment: &SegmentId) -> Result<u64> {
        let mut ended = 0;
        for (bucket, _) in self.promises_of_deleted().await?.iter().filter(|(_, to)| to.contains(segment)) {
            ended += u64::from(self.end_promise_of_deleted(bucket, segment).await?);
        }
        Ok(ended)
    }

    async fn buried(&self) -> Result<Vec<Buried>> {
        let snapshot = self.0.store().snapshot().await?;
        let rows = snapshot.scan(Space::Meta, KeyRange::prefix(PREFIX), usize::MAX, false).await?.rows;
        rows.iter().map(|(key, row)| Buried::decode(number_of(key)?, row)).collect()
    }

    /// Drops what is left of deleted buckets, as far as it may go. A collection begins with it.
    pub(super) async fn settle_all_buried(&self) -> Result<()> {
        for buried in self.buried().await? {
            self.settle_buried(buried.number).await?;
        }
        Ok(())
    }

    /// Where deleted buckets were that may come back, and their ids.
    pub(super) async fn buried_paths(&self) -> Result<Vec<(BucketPath, BucketId)>> {
        let view = self.0.store().snapshot().await?;
        let mut found = Vec::new();
        for (key, row) in view.scan(Space::Meta, KeyRange::prefix(PREFIX), usize::MAX, false).await?.rows {
            let buried = Buried::decode(number_of(&key)?, &row)?;
            found.extend(buried.path.map(|path| (path, buried.id)));
        }
        Ok(found)
    }

    /// Drops what is left of a deleted bucket, if nobody relies on it: hidden directories, tombstones, what deletions kept, times.
    #[boxed]
    pub(super) async fn settle_buried(&self, number: BucketNumber) -> Result<()> {
        let (is_going, _) = transact!(self.0, txn, {
            match txn.read(Space::Meta, &row_of(number)).await? {
                Some(row) => {
                    let buried = Buried::decode(number, &row)?;
                    !self.comes_back(&mut txn, &buried).await? && go(&mut txn, buried).await?
                }
                None => false,
            }
        })?;
        if !is_going {
            return Ok(());
        }
        self.0.ledger().forget_bucket(number);
        for row in namespace::bucket_rows(number) {
            self.erase(Space::Meta, &row).await?;
        }
        for space in [Space::Entries, Space::Nodes, Space::Index, Space::History, Space::Past, Space::Derived] {
            self.erase(space, &keys::bucket_prefix(number)).await?;
        }
        transact!(self.0, txn, { txn.delete(Space::Meta, row_of(number)) })?;
        Ok(())
    }

    /// Another segment's deletion buried it, and something is in it that this had not seen: a write that was under way then, for one. Nobody can write to it since, so
    /// that can be told now.
    async fn comes_back(&self, txn: &mut Txn, buried: &Buried) -> Result<bool> {
        let was = buried.path.as_ref().zip(buried.was.as_ref()).filter(|_| !buried.is_going);
        let Some((path, value)) = was else { return Ok(false) };
        if !self.has_news(txn, buried.number, &buried.seen).await? {
            return Ok(false);
        }
        dig_up(txn, &buried.id).await?;
        let key = catalog::bucket_key(path);
        if txn.catalog(key).await?.register.value().is_some() {
            self.rename(txn, path, &buried.id, Some(value.clone())).await?;
        } else {
            self.revive(txn, path, value.clone()).await?;
        }
        Ok(true)
    }

    async fn erase(&self, space: Space, prefix: &Bytes) -> Result<()> {
        loop {
            let view = self.0.store().snapshot().await?;
            let page = view.scan(space, KeyRange::prefix(prefix), 4096, false).await?;
            if page.rows.is_empty() {
                return Ok(());
            }
            transact!(self.0, txn, {
                for (key, _) in &page.rows {
                    txn.delete(space, key.clone());
                }
            })?;
        }
    }

    /// As [`Catalog::settle_all_buried`], for who makes room: what can't be written for lack of space waits.
    pub(super) async fn settle_what_fits(&self) -> Result<()> {
        match self.settle_all_buried().await {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "what is left of deleted buckets stays for lack of space");
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture;
    use crate::{Bucket, BucketPolicy, DeleteOptions, GetOptions, PutOptions, Segment};

    async fn bury_and_crash(segment: &Segment, id: &BucketId, number: BucketNumber, is_shared: bool) -> Result<()> {
        transact!(segment, txn, { bury(&mut txn, Buried::new(number, id, &VersionVector::new()), is_shared) })?;
        Ok(())
    }

    /// A crash between the deletion of a bucket and the end of its rows left them for ever, and the chunks of what deletions had kept.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_collection_goes_on_with_what_a_crash_has_left() {
        let (_dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
        bucket.changes_since(&bucket.vector().await.unwrap()).await.unwrap();
        bucket.put("x", vec![7; 100_000], PutOptions::default()).await.unwrap();
        bucket.delete("x", DeleteOptions::default()).await.unwrap();
        let (id, number) = (bucket.state().id, bucket.state().number);
        for is_shared in [true, false] {
            bury_and_crash(&segment, &id, number, is_shared).await.unwrap();
            let left = async || {
                let view = segment.store().snapshot().await.unwrap();
                let rows = view.scan(Space::Nodes, KeyRange::prefix(&keys::bucket_prefix(number)), 9, false).await;
                (rows.unwrap().rows.len(), segment.catalog().buried().await.unwrap().len())
            };
            assert_eq!(left().await.1, 1);
            segment.gc().await.unwrap();
            assert_eq!(left().await, (0, 0));
        }
        assert_eq!(segment.gc().await.unwrap().chunks_live, 0);
    }

    async fn bury_for_another(segment: &Segment, bucket: &Bucket, seen: &VersionVector) -> Result<()> {
        let (state, key) = (bucket.state(), catalog::bucket_key(bucket.path()));
        transact!(segment, txn, {
            let was = txn.catalog(key.clone()).await?.register.value().cloned();
            bury(&mut txn, Buried::new(state.number, &state.id, seen).was(bucket.path(), was), true);
            crate::engine::catalog::write(&mut txn, key.clone(), None).await?
        })?;
        Ok(())
    }

    /// P1: what was written while the bucket was being buried for another segment's deletion, which did not know of it, was acknowledged, and its rows were about to go.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_with_something_that_its_deletion_did_not_know_comes_back() {
        for is_path_taken in [false, true] {
            let (_dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
            bucket.changes_since(&VersionVector::new()).await.unwrap();
            // From now on a bucket that is made again has another id.
            segment.catalog().export(&|_| true).await.unwrap();
            bucket.put("known", "x", PutOptions::default()).await.unwrap();
            let seen = bucket.vector().await.unwrap();
            bucket.put("news", "x", PutOptions::default()).await.unwrap();
            let (id, path) = (bucket.state().id, bucket.path().clone());
            bury_for_another(&segment, &bucket, &seen).await.unwrap();
            bucket.state().set_deleted();
            segment.0.buckets.write().remove(&path);
            if is_path_taken {
                segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
            }
            segment.gc().await.unwrap();
            let back = segment.catalog().bucket_with_id(&id).await.unwrap();
            assert_eq!(back.path() == &path, !is_path_taken);
            back.head("news", GetOptions::default()).await.unwrap();
        }
    }

    #[test]
    fn rows_that_cannot_be_read_are_refused() {
        let seen: VersionVector = [crate::register::Dot::new(SegmentId([2; 16]), 300)].into_iter().collect();
        let whole = Buried { is_going: true, ..Buried::new(7, &BucketId([1; 16]), &seen) }.encode();
        assert_eq!(Buried::decode(7, &whole).unwrap().seen, seen);
        let path: BucketPath = "a/b/c".parse().unwrap();
        let was = Buried::new(7, &BucketId([1; 16]), &seen).was(&path, Some(CatalogValue::Tenant { created_ns: 5 }));
        let decoded = Buried::decode(7, &was.encode()).unwrap();
        assert_eq!((decoded.path, decoded.was), (Some(path), Some(CatalogValue::Tenant { created_ns: 5 })));
        // As it was before there was a vector.
        assert!(Buried::decode(7, &whole[..17]).unwrap().is_going);
        for bad in [&whole[..16], &[], &whole[..18], &[&whole[..16], &[2]].concat(), &[&whole[..], &[0]].concat()] {
            assert!(Buried::decode(7, bad).is_err(), "{bad:?}");
        }
        assert!(number_of(b"buried/123").is_err());
    }
}
