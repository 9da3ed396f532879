//! Taking things away: names, contents, single versions.

use super::content::{Goes, Losers, drop_copy, drop_losers, forget_name, take_losers, write_content};
use super::directory::{drop_empty_parents, find_directory, make_directories, make_implied, write_entry};
use super::history::{drop_kept, drop_null_version, kept, put_marker, retire, trim};
use super::rows::{Shown, ShownFile};
use super::txn::Txn;
use super::wanted::want_copy;
use super::write::{current_write, directory_info, fresh_node, info, show_new_file, version_id};
use super::{BucketState, Place, is_directory_name, split};
use crate::error::Result;
use crate::id::VersionId;
use crate::object::{DeleteOptions, Deleted};
use crate::policy::Versioning;
use crate::register::{Dot, Write};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;

/// What a removal leaves behind in a bucket that keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The version, as an older one.
    History,
    /// Nothing: the version is deleted for good.
    Nothing,
}

/// Deletes a key, or one version of it. The dot, if any, is that of the delete marker made: its id follows from the commit.
#[boxed]
pub async fn delete(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    options: &DeleteOptions,
) -> Result<(Deleted, Option<Dot>)> {
    let (directories, name) = split(key).place();
    let versioning = bucket.versioning();
    let makes_marker = options.version.is_none() && versioning != Versioning::Off;
    let seen = find_directory(txn, bucket, &directories).await?;
    let parent = match seen {
        Some(parent) => Some(parent),
        None => find_hidden(txn, bucket, &directories).await?,
    };
    let parent = match parent {
        Some(parent) => parent,
        None => {
            options.condition.check(None)?;
            if !makes_marker {
                return Ok((Deleted::default(), None));
            }
            make_directories(txn, bucket, &directories, false).await?
        }
    };
    let place = (parent, name);
    // What came by a delta without the directories above it is seen by nobody.
    let shown = txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone().filter(|_| seen.is_some());
    check_condition(txn, bucket, key, &shown, options).await?;
    if let Some(version) = options.version {
        return Ok((delete_version(txn, bucket, &place, shown, version).await?, None));
    }
    let mut marker = None;
    // A directory that nothing is left in takes those above it along unless there is history below them.
    if makes_marker && matches!(&shown, Some(Shown::Directory { explicit: Some(_), .. })) {
        marker = Some(mark(txn, bucket, &place, versioning).await?);
    }
    let existed = match &shown {
        Some(Shown::File(_)) => {
            let leave = if versioning == Versioning::Off { Leave::Nothing } else { Leave::History };
            remove_file_only(txn, bucket, &place, leave).await?;
            true
        }
        Some(Shown::Directory { explicit: Some(_), .. }) => {
            remove_directory_object(txn, bucket, &place, versioning).await?;
            true
        }
        _ => false,
    };
    if makes_marker {
        if marker.is_none() {
            marker = Some(mark(txn, bucket, &place, versioning).await?);
        }
        trim(txn, bucket, &place).await?;
    }
    if existed {
        drop_empty_parents(txn, bucket, place.0, &place.1).await?;
    }
    let version = marker.map(|_| VersionId::Null);
    Ok((Deleted { existed, version, is_marker: marker.is_some() }, marker.filter(|_| versioning == Versioning::On)))
}

async fn mark(txn: &mut Txn, bucket: &BucketState, place: &Place, versioning: Versioning) -> Result<Dot> {
    if versioning == Versioning::Suspended {
        drop_null_version(txn, bucket, place).await?;
    }
    Ok(put_marker(txn, bucket, place, versioning == Versioning::Suspended))
}

/// The directory at `directories`, also where it is hidden because only history is left below.
pub(super) async fn find_hidden(
    txn: &mut Txn,
    bucket: &BucketState,
    directories: &[Bytes],
) -> Result<Option<crate::NodeId>> {
    let mut parent = crate::NodeId::ROOT;
    for name in directories {
        let row = txn.entry(bucket.number, &parent, name).await?;
        parent = match (&row.shown, row.register.value()) {
            (Some(Shown::Directory { node, .. }), _) => *node,
            (None, Some(value)) => value.node,
            _ => return Ok(None),
        };
    }
    Ok(Some(parent))
}

async fn check_condition(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    shown: &Option<Shown>,
    options: &DeleteOptions,
) -> Result<()> {
    if options.condition.is_empty() {
        return Ok(());
    }
    let current = match shown {
        Some(Shown::File(file)) => {
            let row = txn.node(bucket.number, &file.node).await?;
            match row.shown_content(file.content, &bucket.rules()) {
                Some(write) => Some(info(key.clone(), file.node, write, row, true)?),
                None => None,
            }
        }
        Some(Shown::Directory { node, explicit: Some(object) }) => {
            let row = txn.node(bucket.number, node).await?.clone();
            Some(directory_info(&crate::SegmentId::default(), key.clone(), *node, object, &row))
        }
        _ => None,
    };
    options.condition.check(current.as_ref())
}

/// Where a file was removed by its name, not by its key: what S3 clients see there is a delete.
pub async fn leave_marker_of_removal(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    let versioning = bucket.versioning();
    if versioning == Versioning::Off {
        return Ok(());
    }
    mark(txn, bucket, place, versioning).await?;
    trim(txn, bucket, place).await
}

/// Takes the file at `place` away; the directories above it are left as they are.
pub async fn remove_file(txn: &mut Txn, bucket: &BucketState, place: &Place, leave: Leave) -> Result<()> {
    remove_file_only(txn, bucket, place, leave).await
}

#[boxed]
async fn remove_file_only(txn: &mut Txn, bucket: &BucketState, place: &Place, leave: Leave) -> Result<()> {
    let Some(Shown::File(file)) = txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() else {
        return Ok(());
    };
    take_losers(txn, bucket, place).await?;
    if file.content.is_some() {
        return drop_copy(txn, bucket, place, &file, Goes::Deleted).await;
    }
    if leave == Leave::History && bucket.versioning() != Versioning::Off {
        let row = txn.node(bucket.number, &file.node).await?.clone();
        let write = current_write(&row, bucket, &place.1)?;
        let is_null = write.value.as_ref().is_some_and(|v| v.is_null);
        if bucket.versioning() == Versioning::On || !is_null {
            retire(txn, bucket, place, &row, write).await?;
        }
    }
    unlink(txn, bucket, place, &file).await
}

/// Takes a name away; the content goes with the last one.
async fn unlink(txn: &mut Txn, bucket: &BucketState, place: &Place, file: &ShownFile) -> Result<()> {
    write_entry(txn, bucket, &place.0, &place.1, None).await?;
    txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown = None;
    forget_name(txn, bucket, &file.node, place).await?;
    let size = i64::try_from(file.size).unwrap_or(i64::MAX);
    txn.count(bucket.number, |u| {
        u.objects -= 1;
        u.logical_bytes -= size;
    });
    txn.touch_directory(bucket.number, &place.0);
    Ok(())
}

/// `DELETE a/`: the directory loses what makes it an object by itself.
async fn remove_directory_object(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    versioning: Versioning,
) -> Result<()> {
    let Some(Shown::Directory { node, explicit: Some(object) }) =
        txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone()
    else {
        return Ok(());
    };
    let row = txn.node(bucket.number, &node).await?.clone();
    if let Some(write) = row.content.shown().filter(|w| w.value.is_some()) {
        let is_null = write.value.as_ref().is_some_and(|v| v.is_null);
        if versioning == Versioning::On || versioning == Versioning::Suspended && !is_null {
            retire(txn, bucket, place, &row, write).await?;
        }
        if bucket.is_shared() {
            write_content(txn, bucket, &node, None, &[write.dot]).await?;
        } else {
            txn.edit_node(bucket.number, &node).await?.content = Default::default();
        }
    }
    let size = i64::try_from(object.size).unwrap_or(i64::MAX);
    txn.count(bucket.number, |u| u.logical_bytes -= size);
    make_implied(txn, bucket, &place.0, &place.1, node).await
}

/// Deletes one version for good. The next older one becomes current, if the deleted one was (or was the marker on top).
async fn delete_version(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    shown: Option<Shown>,
    version: VersionId,
) -> Result<Deleted> {
    let current = match &shown {
        Some(Shown::File(file)) if file.content.is_none() => {
            let row = txn.node(bucket.number, &file.node).await?;
            Some(version_id(current_write(row, bucket, &place.1)?))
        }
        Some(Shown::Directory { node, explicit: Some(_) }) => {
            let row = txn.node(bucket.number, node).await?;
            Some(row.content.shown().filter(|w| w.value.is_some()).map_or(VersionId::Null, version_id))
        }
        _ => None,
    };
    if current == Some(version) {
        match shown {
            Some(Shown::Directory { .. }) => remove_directory_object(txn, bucket, place, Versioning::Off).await?,
            _ => remove_file_only(txn, bucket, place, Leave::Nothing).await?,
        }
        bring_back(txn, bucket, place).await?;
        drop_empty_parents(txn, bucket, place.0, &place.1).await?;
        return Ok(Deleted { existed: true, version: Some(version), is_marker: false });
    }
    if drop_losers(txn, bucket, place, Losers::One(version)).await? {
        return Ok(Deleted { existed: true, version: Some(version), is_marker: false });
    }
    let all = kept(txn, bucket, place, usize::MAX).await?;
    let Some(position) = all.iter().position(|k| k.id == version) else {
        return Ok(Deleted { existed: false, version: Some(version), is_marker: false });
    };
    let Some(gone) = all.get(position) else {
        return Ok(Deleted::default());
    };
    let is_marker = gone.version.is_marker;
    drop_kept(txn, bucket, gone).await?;
    if position == 0 && current.is_none() {
        bring_back(txn, bucket, place).await?;
    }
    drop_empty_parents(txn, bucket, place.0, &place.1).await?;
    Ok(Deleted { existed: true, version: Some(version), is_marker })
}

/// Makes the newest kept version current, unless it is a delete marker.
#[boxed]
async fn bring_back(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    let Some(newest) = kept(txn, bucket, place, 1).await?.into_iter().next() else {
        return Ok(());
    };
    if newest.version.is_marker {
        return Ok(());
    }
    drop_kept(txn, bucket, &newest).await?;
    let mut version = newest.version;
    version.id = if version.is_null { None } else { Some(newest.id) };
    version.at = place.clone();
    if is_directory_name(&place.1) {
        let object = super::ExplicitDirectory {
            size: version.size,
            modified_ns: version.modified_ns,
            etag: version.etag.clone(),
        };
        let node = match txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() {
            Some(Shown::Directory { node, .. }) => {
                super::directory::make_explicit(txn, bucket, &place.0, &place.1, node, object).await?;
                node
            }
            _ => {
                txn.count(bucket.number, |u| u.objects += 1);
                super::directory::make_directory(txn, bucket, &place.0, &place.1, Some(object), true).await?
            }
        };
        let size = i64::try_from(version.size).unwrap_or(i64::MAX);
        txn.count(bucket.number, |u| u.logical_bytes += size);
        let (dot, own) = (txn.dot(), *txn.own());
        want_copy(txn, bucket, dot, &version).await?;
        let row = txn.edit_node(bucket.number, &node).await?;
        let old = row.content.dots();
        row.content.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(version)), &old);
        return Ok(());
    }
    let node = fresh_node(txn);
    let dot = show_new_file(txn, bucket, place, node, version.clone()).await?;
    want_copy(txn, bucket, dot, &version).await?;
    super::directory::show_parents(txn, bucket, place.0).await
}
