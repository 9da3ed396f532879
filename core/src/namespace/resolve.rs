//! Deciding a conflict, by writes that anybody could have made: so what is decided on one segment is decided on all.

use super::content::{Goes, Losers, drop_copy, drop_losers, name_in_contention};
use super::directory::{drop_empty_parents, find_directory, move_directory, rename_file, rescue};
use super::loser::loser_id;
use super::place::{conflicts_at, directory_place_in};
use super::rows::{Shown, ShownFile};
use super::txn::Txn;
use super::version::Version;
use super::wanted::want_copy;
use super::write::{NewVersion, fresh_node, put, show_new_file};
use super::{BucketState, Place, split};
use crate::error::{Error, Result, Subject};
use crate::id::{NodeId, VersionId};
use crate::object::Condition;
use crate::register::Dot;
use crate::tree::{conflict_name, short_segment_name};
use bytes::Bytes;

/// What becomes of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The winner stays as it is, and the loser goes. What was rescued from a deletion goes too.
    KeepMine,
    /// The loser's content takes the name in contention. The winner's goes, as in any overwrite.
    TakeTheirs,
    /// The loser becomes an ordinary file, or directory, under its derived name.
    KeepBoth,
}

/// Decides the conflict whose loser shows at `key`, or, where losers do not show, the latest of those about `key`. `NotFound` if there is none. `Invalid` to have one
/// directory take another's place: it has to be emptied, or moved.
pub async fn resolve(txn: &mut Txn, bucket: &BucketState, key: &Bytes, resolution: Resolution) -> Result<()> {
    let none = || Error::not_found(Subject::Key, format!("'{}' is in no conflict", String::from_utf8_lossy(key)));
    let (directories, name) = split(key).place();
    let parent = find_directory(txn, bucket, &directories).await?.ok_or_else(none)?;
    let place = (parent, name);
    match txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() {
        Some(Shown::File(file)) if file.content.is_some() => {
            let lost = name_in_contention(txn, bucket, &place, &file).await?.ok_or_else(none)?;
            resolve_copy(txn, bucket, &place, &lost, file, resolution).await
        }
        Some(Shown::File(_)) => {
            let (version, content, dot) = latest_loser(txn, bucket, &place).await?.ok_or_else(none)?;
            resolve_hidden(txn, bucket, key, &place, (version, content, dot), resolution).await
        }
        Some(Shown::Directory { node, explicit }) => {
            let home = txn.node(bucket.number, &node).await?.home.value().cloned();
            if home.as_ref() == Some(&place) || directory_place_in(txn, bucket, &node).await?.as_ref() != Some(&place) {
                return Err(none());
            }
            match resolution {
                Resolution::KeepBoth => move_directory(txn, bucket, &place, &place, node, explicit).await,
                Resolution::KeepMine | Resolution::TakeTheirs => Err(Error::invalid(format!(
                    "'{}' is a directory: move what is in it, or rename it",
                    String::from_utf8_lossy(key)
                ))
                .about(Subject::Key)),
            }
        }
        None => Err(none()),
    }
}

async fn resolve_copy(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    lost: &Place,
    copy: ShownFile,
    resolution: Resolution,
) -> Result<()> {
    match resolution {
        Resolution::KeepMine => {
            drop_copy(txn, bucket, place, &copy, Goes::Deleted).await?;
            drop_empty_parents(txn, bucket, place.0, &place.1).await
        }
        Resolution::TakeTheirs if lost != place => rename_file(txn, bucket, place, lost).await,
        Resolution::TakeTheirs | Resolution::KeepBoth => rescue(txn, bucket, place, place, copy).await,
    }
}

/// Of those who lost `place` and show nowhere, the one that was written last: its version, that, and the write which lost.
async fn latest_loser(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<Option<(VersionId, Version, Dot)>> {
    let mut latest: Option<(VersionId, Version, Dot)> = None;
    for conflict in conflicts_at(txn, bucket, place).await?.into_iter().filter(|conflict| conflict.shown.is_none()) {
        let row = txn.node(bucket.number, &conflict.node).await?;
        let Some(content) = conflict.content else { continue };
        let Some(write) = row.shown_content(Some(content), &bucket.rules()) else { continue };
        let Some(version) = write.value.clone() else { continue };
        let id = loser_id(write);
        if latest.as_ref().is_none_or(|(other, _, _)| other.to_bytes() < id.to_bytes()) {
            latest = Some((id, version, conflict.dot));
        }
    }
    Ok(latest)
}

async fn resolve_hidden(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    place: &Place,
    (id, version, dot): (VersionId, Version, Dot),
    resolution: Resolution,
) -> Result<()> {
    match resolution {
        Resolution::KeepMine => {
            drop_losers(txn, bucket, place, Losers::One(id)).await?;
        }
        Resolution::TakeTheirs => {
            // It becomes what shows, as any content that is put there.
            let new = NewVersion { version, attributes: None, unlinks: false };
            let stored = put(txn, bucket, key, new, &Condition::default()).await?;
            want_copy(txn, bucket, stored.dot, &stored.version).await?;
        }
        Resolution::KeepBoth => {
            drop_losers(txn, bucket, place, Losers::One(id)).await?;
            let own = free_name(txn, bucket, &place.0, &place.1, dot).await?;
            let version = Version { at: own.clone(), deleted: None, ..version };
            let node = fresh_node(txn);
            let copy = show_new_file(txn, bucket, &own, node, version.clone()).await?;
            want_copy(txn, bucket, copy, &version).await?;
        }
    }
    Ok(())
}

async fn free_name(txn: &mut Txn, bucket: &BucketState, parent: &NodeId, name: &Bytes, dot: Dot) -> Result<Place> {
    let mut attempt = 1;
    loop {
        let derived = conflict_name(name, dot, &short_segment_name(&dot.segment), attempt);
        let entry = txn.entry(bucket.number, parent, &derived).await?;
        if entry.shown.is_none() && entry.register.is_tombstone_only() {
            return Ok((*parent, derived));
        }
        attempt += 1;
    }
}
