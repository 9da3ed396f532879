//! Putting a content on a file, whatever its names: what a file system's fsync and close do.

use super::attributes::Part;
use super::content::{take_losers_of, write_content};
use super::history::{drop_null_version, trim};
use super::rows::{AttributesValue, NodeRow, ShownFile};
use super::txn::Txn;
use super::version::{Content, Version};
use super::wanted::{want_copy, want_retired};
use super::write::{replace_content, retire_current, show_time, tags_of};
use super::{BucketState, Place};
use crate::error::Result;
use crate::id::{NodeId, SegmentId};
use crate::manifest::Manifest;
use crate::object::{Attributes, Etag, Tags, TimeNs};
use crate::policy::Versioning;
use crate::register::{Dot, Write};
use async_recursion::async_recursion as boxed;
use std::borrow::Cow;
use std::sync::Arc;

/// A content to be put on a file. Its bytes are stored.
#[derive(Debug, Clone)]
pub struct NewContent {
    /// Where the bytes are.
    pub content: Content,
    /// Size in bytes.
    pub size: u64,
    /// How many of them are holes.
    pub hole_bytes: u64,
    /// When it was last changed.
    pub written_ns: TimeNs,
    /// The modification time, if it was set by hand after that.
    pub by_hand_ns: Option<TimeNs>,
    /// Entity tag.
    pub etag: Etag,
    /// Whether bytes were taken from other versions than the one before, so that they may not be here.
    pub is_copied: bool,
    /// [`Version::lenders`].
    pub lenders: Vec<Manifest>,
    /// The version that it was made from, without its bytes, and the file's attributes: what a rescue stands on where nothing is left of the file. `None`: it was
    /// in no shared bucket.
    pub former: Option<(Arc<Version>, Attributes)>,
}

/// Makes `new` the content of the file `node` under all its names; keeps headers, user metadata and tags, and the version before it if the
/// bucket keeps versions (under the name that one was written under). `base`: the write that it was made from. What another segment has made of that since stays beside it
/// (P6), and where another segment has deleted the file it is rescued. `None`: the file has no name left, and nothing was changed.
#[boxed]
pub async fn replace(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    base: &Dot,
    new: NewContent,
) -> Result<Option<Dot>> {
    let names = txn.node(bucket.number, node).await?.names.clone();
    take_losers_of(txn, bucket, node, &names).await?;
    let row = txn.node(bucket.number, node).await?.clone();
    let own = *txn.own();
    let is_foreign = |write: &&Write<Version>| bucket.is_shared() && write.dot != *base && write.dot.segment != own;
    let Some(first) = row.names.first() else { return rescue(txn, bucket, node, &row, base, new).await };
    let Some(current) = row.current(&bucket.rules()) else { return Ok(None) };
    let Some(old) = &current.value else { return Ok(None) };
    let place = if row.names.contains(&old.at) { old.at.clone() } else { first.clone() };
    let policy = bucket.policy();
    txn.limit(bucket.number, policy.quota_bytes, policy.quota_objects);
    let (is_copied, by_hand) = (new.is_copied, new.by_hand_ns.map(|time| (time, new.written_ns)));
    let version = new.version(old, place.clone(), tags_of(&row, current), policy.versioning);
    let dot = if is_foreign(&current) {
        let before = row.content.ordered().iter().find(|write| write.dot == *base && write.value.is_some());
        if let Some(before) = before {
            retire_current(txn, bucket, &place, &row, before, policy.versioning).await?;
        }
        let dot = write_content(txn, bucket, node, Some(version.clone()), &[*base]).await?;
        want_retired(txn, bucket, dot, base).await?;
        dot
    } else {
        retire_current(txn, bucket, &place, &row, current, policy.versioning).await?;
        if policy.versioning == Versioning::Suspended {
            drop_null_version(txn, bucket, &place).await?;
        }
        let file = ShownFile::of(*node, None, old);
        let dot = replace_content(txn, bucket, &file, &row, version.clone()).await?;
        // What was not overwritten is as absent as before.
        want_retired(txn, bucket, dot, &current.dot).await?;
        dot
    };
    if is_copied {
        want_copy(txn, bucket, dot, &version).await?;
    }
    if let Some((time, written_ns)) = by_hand {
        set_by_hand(txn, bucket, node, time, written_ns).await?;
    }
    trim(txn, bucket, &place).await?;
    Ok(Some(dot))
}

/// The content of a file that was written to while another segment deleted it: it shows again where it was. `None`: it was deleted here, which takes it from who has it open.
async fn rescue(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    row: &NodeRow,
    base: &Dot,
    mut new: NewContent,
) -> Result<Option<Dot>> {
    if !bucket.is_shared() {
        return Ok(None);
    }
    let own = *txn.own();
    let policy = bucket.policy();
    txn.limit(bucket.number, policy.quota_bytes, policy.quota_objects);
    let found = row.content.live_values().find(|written| is_rescue(written, &own, base));
    let former = new.former.take().filter(|_| is_forgotten(row));
    let mut taken = vec![*base];
    let (old, tags, attributes) = match (found, former) {
        (Some((write, old)), _) => {
            taken.push(write.dot);
            if old.deleted.is_none() {
                retire_current(txn, bucket, &old.at, row, write, policy.versioning).await?;
            }
            (old.clone(), tags_of(row, write), row.shown_attributes().map(Cow::into_owned))
        }
        (None, Some((old, attributes))) => {
            let attributes = AttributesValue { attributes, changed_ns: txn.now_ns(), ..AttributesValue::default() };
            (Version::clone(&old), old.tags.clone(), Some(attributes))
        }
        (None, None) => return Ok(None),
    };
    let (is_copied, by_hand) = (new.is_copied, new.by_hand_ns.map(|time| (time, new.written_ns)));
    let version = new.version(&old, old.at.clone(), tags, policy.versioning);
    let dot = write_content(txn, bucket, node, Some(version.clone()), &taken).await?;
    for taken in &taken {
        want_retired(txn, bucket, dot, taken).await?;
    }
    if is_copied {
        want_copy(txn, bucket, dot, &version).await?;
    }
    // Who has dropped the file has dropped these with it.
    let value = match by_hand {
        Some(_) => Some(AttributesValue { modified_ns: by_hand, ..attributes.unwrap_or_default() }),
        None => attributes,
    };
    if let Some(value) = value {
        let dot = txn.dot();
        let row = txn.edit_node(bucket.number, node).await?;
        let replaced = row.attributes.dots();
        row.attributes.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value)), &replaced);
    }
    Ok(Some(dot))
}

/// Whether a save that was made from `base` would show a file again which has no name. `is_known`: whoever saves knows what the file was.
pub fn rescues(row: &NodeRow, own: &SegmentId, base: &Dot, is_known: bool) -> bool {
    is_known && is_forgotten(row) || row.content.live_values().any(|written| is_rescue(&written, own, base))
}

fn is_rescue((write, version): &(&Write<Version>, &Version), own: &SegmentId, base: &Dot) -> bool {
    match version.deleted {
        Some(_) => write.dot.segment != *own,
        // It was rescued before.
        None => write.dot == *base,
    }
}

/// Nothing is left of the file: others have deleted it, and have dropped that. What was deleted here leaves something for as long as the file is open (`drop.rs`).
fn is_forgotten(row: &NodeRow) -> bool {
    row.content.ordered().is_empty()
}

impl NewContent {
    /// As a version at `at`, with what it keeps of the one before.
    fn version(self, old: &Version, at: Place, tags: Tags, versioning: Versioning) -> Version {
        Version {
            size: self.size,
            modified_ns: self.written_ns,
            hole_bytes: self.hole_bytes,
            file_type: old.file_type,
            etag: self.etag,
            content: self.content,
            metadata: old.metadata.clone(),
            checksums: Vec::new(),
            part_sizes: Vec::new(),
            tags,
            is_null: versioning != Versioning::On,
            id: None,
            is_marker: false,
            deleted: None,
            lenders: self.lenders,
            at,
        }
    }
}

/// Puts `content`, the same bytes of other chunks, in place of what the write `dot` of `node` carries. False, and nothing is changed: that is not the file's
/// content any more, or others may have seen it. To them a write is what it carries: they would ask for chunks that nothing refers to here any more.
pub async fn recut(txn: &mut Txn, bucket: &BucketState, node: &NodeId, dot: &Dot, content: Content) -> Result<bool> {
    let row = txn.node(bucket.number, node).await?;
    let is_current = row.current(&bucket.rules()).is_some_and(|write| write.dot == *dot);
    if bucket.is_shared() || row.names.is_empty() || !is_current {
        return Ok(false);
    }
    let row = txn.edit_node(bucket.number, node).await?;
    if let Some(version) = row.content.value_mut(dot) {
        version.content = content;
    }
    Ok(true)
}

/// Ties a time that was set by hand to the content written at `written_ns`. When it was set is known already.
async fn set_by_hand(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    time: TimeNs,
    written_ns: TimeNs,
) -> Result<()> {
    let (dot, own, now) = (txn.dot(), *txn.own(), txn.now_ns());
    let row = txn.edit_node(bucket.number, node).await?;
    let old = row.shown_attributes().map(Cow::into_owned).unwrap_or_default();
    let mut value = AttributesValue { modified_ns: Some((time, written_ns)), ..old };
    value.note(Part::Modified, now);
    let replaced = row.attributes.dots();
    row.attributes.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value)), &replaced);
    let names = row.names.clone();
    show_time(txn, bucket, node, &names, time).await
}
