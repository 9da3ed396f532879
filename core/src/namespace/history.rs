//! Kept versions and delete markers. They belong to a place (directory and name), as S3 counts versions per key; a
//! directory that is renamed takes its history along.

use super::keys::{self, HistoryOrder};
use super::rows::{HistoryRow, NodeRow, ShownFile};
use super::txn::Txn;
use super::version::Version;
use super::view::View;
use super::wanted::want_retired;
use super::write::tags_of;
use super::{BucketState, Place};
use crate::error::Result;
use crate::id::VersionId;
use crate::kv::{KeyRange, Space};
use crate::policy::Versioning;
use crate::register::Write;
use bytes::Bytes;

const SCAN_ROWS: usize = 64;

/// A kept version: its row's key, and the version.
pub(super) struct Kept {
    pub(super) key: Bytes,
    pub(super) id: VersionId,
    pub(super) version: Version,
}

/// Moves a version of `file` that stops being current into the history of its place, with the tags that it has by now.
pub(super) async fn retire(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    file: &NodeRow,
    write: &Write<Version>,
) -> Result<()> {
    let Some(version) = &write.value else {
        return Ok(());
    };
    let order = match version.id {
        Some(VersionId::Id { stamp, segment, sequence }) => HistoryOrder::of(stamp, segment, sequence),
        _ => HistoryOrder::of(write.stamp_time, write.dot.segment, write.dot.sequence),
    };
    let (dot, own) = (txn.dot(), *txn.own());
    want_retired(txn, bucket, dot, &write.dot).await?;
    let size = i64::try_from(version.size).unwrap_or(i64::MAX);
    let kept = Version { deleted: None, tags: tags_of(file, write), ..version.clone() };
    let row = txn.edit_history(keys::history(bucket.number, &place.0, &place.1, &order)).await?;
    let replaced = row.register.dots();
    // Another segment may have retired it, and its row have come before what took its place.
    let is_new = row.register.value().is_none();
    row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(kept)), &replaced);
    if is_new {
        txn.count(bucket.number, |u| {
            u.old_versions += 1;
            u.old_bytes += size;
        });
    }
    Ok(())
}

/// Puts a delete marker on top of the history; returns its pending dot.
pub(super) fn put_marker(txn: &mut Txn, bucket: &BucketState, place: &Place, is_null: bool) -> crate::register::Dot {
    let (dot, own) = (txn.dot(), *txn.own());
    let marker = Version::marker(place.clone(), txn.now_ns(), is_null);
    let mut row = HistoryRow::default();
    row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(marker)), &[]);
    txn.new_history(keys::history_of_name(bucket.number, &place.0, &place.1), dot, row);
    txn.count(bucket.number, |u| u.old_versions += 1);
    dot
}

/// A file leaves its name by a rename: what S3 clients see there is a delete.
pub(super) async fn leave_marker(txn: &mut Txn, bucket: &BucketState, place: &Place, file: &ShownFile) -> Result<()> {
    let versioning = bucket.versioning();
    if versioning == Versioning::Off {
        return Ok(());
    }
    let row = txn.node(bucket.number, &file.node).await?.clone();
    if let Some(write) = row.current(&bucket.rules()) {
        let is_null = write.value.as_ref().is_some_and(|v| v.is_null);
        if versioning == Versioning::On || !is_null {
            retire(txn, bucket, place, &row, write).await?;
        }
    }
    if versioning == Versioning::Suspended {
        drop_null_version(txn, bucket, place).await?;
    }
    put_marker(txn, bucket, place, versioning == Versioning::Suspended);
    trim(txn, bucket, place).await
}

/// The kept versions of a place, newest first, at most `limit`; without those this transaction has dropped.
pub(super) async fn kept(txn: &mut Txn, bucket: &BucketState, place: &Place, limit: usize) -> Result<Vec<Kept>> {
    let prefix = keys::history_of_name(bucket.number, &place.0, &place.1);
    let snapshot = txn.ledger().store().snapshot().await?;
    let mut range = KeyRange::prefix(&prefix);
    let mut out = Vec::new();
    loop {
        let page = snapshot.scan(Space::History, range, SCAN_ROWS, false).await?;
        for (key, _) in &page.rows {
            // Through the transaction, so that the commit fails if the row changes, and to see its own edits.
            let row = txn.history(key.clone()).await?;
            if let Some(write) = row.register.shown()
                && let Some(version) = &write.value
            {
                let (_, _, order) = keys::parse_history(key)?;
                let id = if version.is_null { VersionId::Null } else { order.version() };
                out.push(Kept { key: key.clone(), id, version: version.clone() });
                if out.len() >= limit {
                    return Ok(out);
                }
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => return Ok(out),
        }
    }
}

/// Drops a kept version for good.
pub(super) async fn drop_kept(txn: &mut Txn, bucket: &BucketState, kept: &Kept) -> Result<()> {
    if bucket.is_shared() {
        let (dot, own) = (txn.dot(), *txn.own());
        let row = txn.edit_history(kept.key.clone()).await?;
        let replaced = row.register.dots();
        row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, None), &replaced);
    } else {
        *txn.edit_history(kept.key.clone()).await? = HistoryRow::default();
    }
    let size = i64::try_from(kept.version.size).unwrap_or(i64::MAX);
    txn.count(bucket.number, |u| {
        u.old_versions -= 1;
        u.old_bytes -= size;
    });
    Ok(())
}

/// Drops the kept version whose id is `null`, if there is one: a new one takes its place.
pub(super) async fn drop_null_version(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    for old in kept(txn, bucket, place, usize::MAX).await? {
        if old.version.is_null {
            drop_kept(txn, bucket, &old).await?;
        }
    }
    Ok(())
}

/// Drops the oldest kept versions beyond what the bucket's policy keeps.
pub(super) async fn trim(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    let policy = bucket.policy();
    let Some(max) = policy.versions_max.filter(|_| policy.versioning == Versioning::On) else {
        return Ok(());
    };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    // What this transaction has just retired is not in the store yet, but in its cells: count it too.
    let fresh = txn.fresh_history(&keys::history_of_name(bucket.number, &place.0, &place.1));
    let old = kept(txn, bucket, place, usize::MAX).await?;
    let excess = (old.len() + fresh).saturating_sub(max).min(old.len());
    for gone in old.iter().rev().take(excess) {
        drop_kept(txn, bucket, gone).await?;
    }
    Ok(())
}

/// The id of the write that carries a kept version.
pub(super) fn kept_version_id(key: &[u8], write: &Write<Version>) -> Result<VersionId> {
    let (_, _, order) = keys::parse_history(key)?;
    Ok(if write.value.as_ref().is_some_and(|v| v.is_null) { VersionId::Null } else { order.version() })
}

/// The newest kept version of a key, and its id.
pub async fn newest_kept(view: &View, bucket: keys::BucketNumber, key: &Bytes) -> Result<Option<(VersionId, Version)>> {
    let mut found = None;
    each_kept(view, bucket, key, |id, write| {
        found = write.value.clone().map(|version| (id, version));
        found.is_some()
    })
    .await?;
    Ok(found)
}

/// A kept version of a key, by its id.
pub async fn find_kept(
    view: &View,
    bucket: keys::BucketNumber,
    key: &Bytes,
    version: VersionId,
) -> Result<Option<Write<Version>>> {
    let (directories, name) = super::split(key).place();
    let Some(parent) = view.any_directory(&directories).await? else {
        return Ok(None);
    };
    let lost = super::loser::losers(view, &parent, &name).await?.into_iter().find(|loser| loser.id == version);
    if let Some(lost) = lost {
        return Ok(Some(lost.write));
    }
    if let VersionId::Id { stamp, segment, sequence } = version {
        let key = keys::history(bucket, &parent, &name, &HistoryOrder::of(stamp, segment, sequence));
        let row = view.history(&key).await?;
        let write = row.and_then(|row| row.register.shown().cloned());
        return Ok(write.filter(|w| w.value.as_ref().is_some_and(|v| !v.is_null)));
    }
    let mut found = None;
    each_kept(view, bucket, key, |id, write| {
        if id == version {
            found = Some(write.clone());
        }
        found.is_some()
    })
    .await?;
    Ok(found)
}

/// Visits the kept versions of a key, newest first, until told to stop.
async fn each_kept(
    view: &View,
    bucket: keys::BucketNumber,
    key: &Bytes,
    mut visit: impl FnMut(VersionId, &Write<Version>) -> bool + Send,
) -> Result<()> {
    let (directories, name) = super::split(key).place();
    let Some(parent) = view.any_directory(&directories).await? else {
        return Ok(());
    };
    let prefix = keys::history_of_name(bucket, &parent, &name);
    let mut range = KeyRange::prefix(&prefix);
    loop {
        let page = view.store_snapshot().scan(Space::History, range, SCAN_ROWS, false).await?;
        for (row_key, value) in &page.rows {
            let row = HistoryRow::decode(value.clone(), view.own())?;
            if let Some(write) = row.register.shown().filter(|w| w.value.is_some())
                && visit(kept_version_id(row_key, write)?, write)
            {
                return Ok(());
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => return Ok(()),
        }
    }
}
