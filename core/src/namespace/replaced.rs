//! Contents that were replaced, and that somebody may have taken bytes from before hearing of that (P1, P8, P11).
//!
//! Where only names are, a copy or a change of a part makes a version of bytes that others hold. Whoever holds them must not drop them for a newer content
//! before it has heard of all that was made of the old one. So a content that goes from the registers of a shared bucket leaves a row, in the same commit, whoever
//! replaced it. The row keeps its chunks until every carrier stands where it was replaced and all that they had made by then is here: until a mark of
//! `drop.rs` is complete that the row lies below. Then nobody can take bytes from it any more.
//!
//! The other half is [`lender`]: a commit refers to bytes that are not here only if the content that they are taken from is live in the same bucket in that very
//! commit. `docs/notes/0006-forgetting.md` has the argument.

use super::drop::Mark;
use super::hold::{Given, given_in};
use super::keep::{Keeping, keeping_in};
use super::keys::BucketNumber;
use super::ledger::Sequenced;
use super::txn::{Field, Txn};
use super::version::{Content, Version};
use super::wanted::is_wanted;
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Space};
use crate::manifest::{Manifest, Root};
use crate::register::{Context, Dot, Register, VersionVector, Write};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeSet, HashSet};

const FORMAT: u8 = 1;
const PREFIX: &[u8] = b"replaced/";
/// Rows that one commit looks at.
const PAGE_ROWS: usize = 1024;

/// `replaced/`, bucket (4).
pub fn replaced_prefix(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(PREFIX);
    key.put_u32(bucket);
    key.freeze()
}

/// A register of contents that a transaction changes: its field, the key of its row, and what it was and is.
pub(super) type Changed<'a> = (Field, &'a Bytes, &'a Register<Version>, &'a Register<Version>);

/// A replaced content.
struct Replaced {
    commit: u64,
    /// The register's context since then: who stands at it does not show the content any more.
    context: Context,
    write: Write<Version>,
}

impl Replaced {
    fn encode(&self, version: &Version) -> Vec<u8> {
        let mut row = vec![FORMAT];
        row.put_u64(self.commit);
        row.put_u64(self.write.stamp_time);
        self.context.encode(&mut row);
        version.encode(&mut row);
        row
    }

    fn decode(key: &[u8], row: &Bytes) -> Result<Replaced> {
        let bad = || Error::damaged("the row of a replaced content can't be read");
        let dot = key.get(PREFIX.len() + 4..).and_then(|rest| rest.split_first_chunk::<16>()).ok_or_else(bad)?;
        let sequence = dot.1.first_chunk::<8>().ok_or_else(bad)?;
        let dot = Dot { segment: SegmentId(*dot.0), sequence: u64::from_be_bytes(*sequence) };
        let mut input = row.as_ref();
        if input.try_get_u8().map_err(|_| bad())? != FORMAT {
            return Err(Error::damaged("the row of a replaced content has a format that this build does not read"));
        }
        let commit = input.try_get_u64().map_err(|_| bad())?;
        let stamp_time = input.try_get_u64().map_err(|_| bad())?;
        let context = VersionVector::decode(&mut input)?;
        let version = Version::decode(row.slice(row.len() - input.len()..))?;
        Ok(Replaced { commit, context, write: Write { dot, stamp_time, value: Some(version) } })
    }
}

fn manifest_of(version: &Version) -> Option<Vec<u8>> {
    match &version.content {
        Content::Manifest(manifest) => Some(manifest.encode()),
        Content::Inline(_) => None,
    }
}

/// Adds the rows for what goes from registers of `shared` buckets, and is in none that the same transaction changes.
pub(super) fn write(
    shared: &BTreeSet<BucketNumber>,
    changed: &[Changed<'_>],
    own: &SegmentId,
    sequenced: &Sequenced,
    writes: &mut Vec<(Space, Bytes, Option<Bytes>)>,
) {
    let number = |key: &Bytes| key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
    let of_shared = || changed.iter().filter(|(_, key, ..)| shared.contains(&number(key)));
    let mut gone = Vec::new();
    for (_, key, before, now) in of_shared() {
        for (write, version) in before.live_values().filter(|(write, _)| !now.is_live(&write.dot)) {
            gone.extend(manifest_of(version).map(|manifest| (number(key), manifest, write, version, *now)));
        }
    }
    if gone.is_empty() {
        return;
    }
    // A version that is kept, or a deletion, has the same content.
    let live =
        of_shared().flat_map(|(_, key, _, now)| now.live_values().map(move |(_, version)| (number(key), version)));
    let live: HashSet<_> = live.filter_map(|(bucket, version)| Some((bucket, manifest_of(version)?))).collect();
    for (bucket, manifest, write, version, now) in gone {
        if live.contains(&(bucket, manifest)) {
            continue;
        }
        let mut key = BytesMut::from(replaced_prefix(bucket).as_ref());
        key.put_slice(&write.dot.segment.0);
        key.put_u64(write.dot.sequence);
        let mut context = now.context().clone();
        context.assign(own, sequenced.first_sequence);
        let row = Replaced {
            commit: sequenced.commit,
            context,
            write: Write { dot: write.dot, stamp_time: write.stamp_time, value: None },
        };
        writes.push((Space::Meta, key.freeze(), Some(row.encode(version).into())));
    }
}

/// The same row, read and written again.
pub(super) fn rewrite(key: &[u8], row: &Bytes) -> Result<Vec<u8>> {
    let replaced = Replaced::decode(key, row)?;
    let version = replaced.write.value.as_ref().ok_or_else(|| Error::damaged("a replaced content has no version"))?;
    Ok(replaced.encode(version))
}

/// The bucket and the write of a row of [`Space::Meta`], if it is one of these.
pub fn replaced_content(key: &[u8], row: &Bytes) -> Result<Option<(BucketNumber, Write<Version>)>> {
    let Some(bucket) = key.strip_prefix(PREFIX).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
    Ok(Some((u32::from_be_bytes(*bucket), Replaced::decode(key, row)?.write)))
}

/// Drops rows that lie below a complete mark, of a page behind `after`; `floor`: all that was ever dropped, what the mark covers included. Returns where the next
/// page begins; `None`: there is none.
pub async fn drop_replaced(
    txn: &mut Txn,
    bucket: BucketNumber,
    mark: &Mark,
    floor: &VersionVector,
    after: Option<Bytes>,
) -> Result<Option<Bytes>> {
    let prefix = replaced_prefix(bucket);
    let range = match after {
        Some(after) => KeyRange::prefix_after(&prefix, after),
        None => KeyRange::prefix(&prefix),
    };
    let snapshot = txn.ledger().store().snapshot().await?;
    let page = snapshot.scan(Space::Meta, range, PAGE_ROWS, false).await?;
    for (key, row) in &page.rows {
        let replaced = Replaced::decode(key, row)?;
        // What replaced it may have come in the middle of a way: then not all who stand at the mark have it.
        if replaced.commit <= mark.commit && floor.dominates(&replaced.context) {
            txn.delete(Space::Meta, key.clone());
        }
    }
    Ok(page.rows.last().filter(|_| page.more).map(|(key, _)| key.clone()))
}

/// A live content that another version takes bytes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Lender {
    /// The content, and those that it was taken from in its turn.
    pub contents: Vec<Manifest>,
    /// Where their bytes are.
    pub whereabouts: Whereabouts,
}

/// What is known of where the bytes of a [`Lender`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Here, to stay.
    Here,
    /// It has to be looked at.
    Unknown,
    /// Not all of them are here, or stay.
    Elsewhere,
}

/// Which live write of a node's content is meant: the one with this dot, or one with this content.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// By its dot.
    Write(&'a Dot),
    /// By what it wrote.
    Content(&'a Content),
}

/// A node's content as a lender; `None`: it is not live. The commit fails if that changes before.
pub async fn lender(txn: &mut Txn, bucket: BucketNumber, node: &NodeId, which: Which<'_>) -> Result<Option<Lender>> {
    let own = *txn.own();
    let given = given_in(txn, bucket).await?;
    let row = txn.node(bucket, node).await?;
    let is_meant = |(write, version): &(&Write<Version>, &Version)| match which {
        Which::Write(dot) => write.dot == *dot,
        Which::Content(content) => version.content == *content,
    };
    let Some((write, version)) = row.content.live_values().find(is_meant) else { return Ok(None) };
    let (dot, mut contents) = (write.dot, version.lenders.clone());
    let manifest = match &version.content {
        Content::Inline(_) => None,
        Content::Manifest(manifest) => Some(manifest.clone()),
    };
    let is_wanted = is_wanted(txn, bucket, &dot).await?;
    // A manifest without nodes names no lenders, whatever it is made of.
    let has_nodes = manifest.as_ref().is_none_or(|manifest| matches!(manifest.root(), Root::Tree { .. }));
    let is_whole = has_nodes && contents.is_empty();
    // What was made here of what others lend is here, but for what they lend; a copy may be made elsewhere, and is wanted then.
    let is_made_here = dot.segment == own && given != Given::Up && !is_wanted;
    contents.extend(manifest.filter(|_| !has_nodes || is_whole || !is_made_here));
    let is_here = match keeping_in(txn, bucket).await? {
        Keeping::Listed => !is_wanted,
        Keeping::NamesOnly | Keeping::Later | Keeping::Listing => is_whole && is_made_here && given == Given::Nothing,
    };
    let whereabouts = if is_here { Whereabouts::Here } else { Whereabouts::Unknown };
    Ok(Some(Lender { contents, whereabouts }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_return_and_damaged_ones_are_refused() {
        let own = SegmentId([7; 16]);
        let version = Version {
            size: 3,
            content: Content::Inline("abc".into()),
            ..Version::marker((NodeId::ROOT, Bytes::new()), 5, true)
        };
        let mut context = Context::new();
        context.advance(Dot::new(own, 9));
        let write = Write { dot: Dot::new(own, 4), stamp_time: 8, value: Some(version.clone()) };
        let row = Replaced { commit: 3, context, write };
        let bytes = Bytes::from(row.encode(&version));
        let key = [replaced_prefix(2).as_ref(), &own.0, &4u64.to_be_bytes()].concat();
        let back = Replaced::decode(&key, &bytes).unwrap();
        assert_eq!((back.commit, &back.context, &back.write), (3, &row.context, &row.write));
        assert_eq!(replaced_content(&key, &bytes).unwrap(), Some((2, row.write)));
        assert_eq!(replaced_content(b"wanted/", &bytes).unwrap(), None);
        for bad in [&bytes[..10], &bytes[..20], &[], &[2; 40]] {
            assert!(Replaced::decode(&key, &Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        assert!(Replaced::decode(&key[..20], &bytes).is_err());
    }
}
