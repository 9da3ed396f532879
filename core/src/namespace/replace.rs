//! Putting a content on a file, whatever its names: what a file system's fsync and close do.

use super::BucketState;
use super::content::take_losers_of;
use super::history::{drop_null_version, trim};
use super::rows::{AttributesValue, ShownFile};
use super::txn::Txn;
use super::version::{Content, Version};
use super::wanted::{want_copy, want_retired};
use super::write::{replace_content, retire_current, show_time, tags_of};
use crate::error::Result;
use crate::id::NodeId;
use crate::manifest::Manifest;
use crate::object::{Etag, TimeNs};
use crate::policy::Versioning;
use crate::register::{Dot, Write};
use async_recursion::async_recursion as boxed;

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
}

/// Makes `new` the content of the file `node` under all its names; keeps headers, user metadata and tags, and the version before it if the
/// bucket keeps versions (under the name that one was written under). `None`: the file has no name left, and nothing was changed.
#[boxed]
pub async fn replace(txn: &mut Txn, bucket: &BucketState, node: &NodeId, new: NewContent) -> Result<Option<Dot>> {
    let names = txn.node(bucket.number, node).await?.names.clone();
    take_losers_of(txn, bucket, node, &names).await?;
    let row = txn.node(bucket.number, node).await?.clone();
    let Some(current) = row.current(&bucket.rules()) else { return Ok(None) };
    let (Some(old), Some(first)) = (&current.value, row.names.first()) else { return Ok(None) };
    let place = if row.names.contains(&old.at) { old.at.clone() } else { first.clone() };
    let policy = bucket.policy();
    txn.limit(bucket.number, policy.quota_bytes, policy.quota_objects);
    retire_current(txn, bucket, &place, &row, current, policy.versioning).await?;
    if policy.versioning == Versioning::Suspended {
        drop_null_version(txn, bucket, &place).await?;
    }
    let tags = tags_of(&row, current);
    let version = Version {
        size: new.size,
        modified_ns: new.written_ns,
        hole_bytes: new.hole_bytes,
        file_type: old.file_type,
        etag: new.etag,
        content: new.content,
        metadata: old.metadata.clone(),
        checksums: Vec::new(),
        part_sizes: Vec::new(),
        tags,
        is_null: policy.versioning != Versioning::On,
        id: None,
        is_marker: false,
        deleted: None,
        lenders: new.lenders,
        at: place.clone(),
    };
    let file = ShownFile::of(*node, None, old);
    let dot = replace_content(txn, bucket, &file, &row, version.clone()).await?;
    // What was not overwritten is as absent as before.
    want_retired(txn, bucket, dot, &current.dot).await?;
    if new.is_copied {
        want_copy(txn, bucket, dot, &version).await?;
    }
    if let Some(time) = new.by_hand_ns {
        set_by_hand(txn, bucket, node, time, new.written_ns).await?;
    }
    trim(txn, bucket, &place).await?;
    Ok(Some(dot))
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
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_node(bucket.number, node).await?;
    let old = row.attributes.value().cloned().unwrap_or_default();
    let value = AttributesValue { modified_ns: Some((time, written_ns)), ..old };
    let replaced = row.attributes.dots();
    row.attributes.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value)), &replaced);
    let names = row.names.clone();
    show_time(txn, bucket, node, &names, time).await
}
