//! Writing and taking away a file's content: what a write replaces, what a deletion keeps, and which losers of a conflict go with it.
//!
//! A deletion in a shared bucket keeps what it deletes, because somebody may have given the file another name meanwhile (see [`Version::deleted`]).

use super::directory::write_entry_of;
use super::history::retire;
use super::loser::loser_id;
use super::place::conflicts_at;
use super::rows::{Shown, ShownFile};
use super::txn::Txn;
use super::version::Version;
use super::write::tags_of;
use super::{BucketState, Place};
use crate::error::Result;
use crate::id::{NodeId, VersionId};
use crate::policy::Versioning;
use crate::register::{Dot, Write};
use crate::tree::{Conflict, EntryKind, EntryValue};
use async_recursion::async_recursion as boxed;
use std::collections::BTreeSet;

/// Writes a content of `node` in place of `taken`, of all tombstones, and of what had been deleted before. (What is written as deleted takes only the place of
/// what was written earlier than it: a deletion must not bring an older content to light.)
pub(super) async fn write_content(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    value: Option<Version>,
    taken: &[Dot],
) -> Result<Dot> {
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_node(bucket.number, node).await?;
    let is_stale = |old: &Version| {
        let new = value.as_ref();
        new.is_some_and(|new| old.deleted.is_some() && (new.deleted.is_none() || old.deleted < new.deleted))
    };
    let goes = |w: &&Write<Version>| taken.contains(&w.dot) || w.value.as_ref().is_none_or(is_stale);
    let replaces: Vec<Dot> = row.content.ordered().iter().filter(goes).map(|w| w.dot).collect();
    row.content.local_write(Write::pending(dot.slot().unwrap_or_default(), own, value), &replaces);
    Ok(dot)
}

/// Takes contents of `node` away. The first is kept in case somebody gives the file a name meanwhile.
async fn delete_contents(txn: &mut Txn, bucket: &BucketState, node: &NodeId, taken: &[Dot]) -> Result<()> {
    let Some(first) = taken.first() else { return Ok(()) };
    let row = txn.node(bucket.number, node).await?;
    let found = row.content.ordered().iter().find(|w| w.dot == *first);
    // With the tags that it was given since: those go by the write, which is another from here on.
    let kept = found.and_then(|w| Some(Version { tags: tags_of(row, w), ..Version::deleting(w)? }));
    write_content(txn, bucket, node, kept, taken).await?;
    Ok(())
}

/// `node` has no name at `place` any more. If that was the last, the content goes with it.
pub(super) async fn forget_name(txn: &mut Txn, bucket: &BucketState, node: &NodeId, place: &Place) -> Result<()> {
    let now = txn.now_ns();
    let row = txn.edit_node(bucket.number, node).await?;
    // What shows depends on whether there is a name.
    let taken = row.replaced_contents(&bucket.rules());
    row.names.retain(|name| name != place);
    row.names_changed_ns = now;
    if !row.names.is_empty() {
        return Ok(());
    }
    if bucket.is_shared() {
        return delete_contents(txn, bucket, node, &taken).await;
    }
    *row = Default::default();
    Ok(())
}

/// What becomes of a conflict copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// It is deleted.
    Deleted,
    /// A file of its own takes its place.
    Rewritten,
}

/// The name of the same directory that the copy at `place` would have, if another had not: known only if it is a file by itself, and not one of several
/// contents, or one that was rescued.
pub(super) async fn lost_name(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    file: &ShownFile,
) -> Result<Option<Place>> {
    let row = txn.node(bucket.number, &file.node).await?;
    if row.names.is_empty() || row.current(&bucket.rules()).map(|write| write.dot) != file.content {
        return Ok(None);
    }
    name_in_contention(txn, bucket, place, file).await
}

/// The place that the copy at `place` is in conflict about; its own, if it was rescued there.
pub(super) async fn name_in_contention(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    file: &ShownFile,
) -> Result<Option<Place>> {
    let row = txn.node(bucket.number, &file.node).await?;
    let written = row.content.live_values().map(|(_, version)| &version.at);
    let names: BTreeSet<Place> =
        row.names.iter().chain(written).filter(|(parent, _)| *parent == place.0).cloned().collect();
    for lost in names {
        let here = |conflict: &Conflict| {
            conflict.node == file.node
                && conflict.content == file.content
                && conflict.shown.as_ref().is_some_and(|shown| shown.name == place.1)
        };
        if conflicts_at(txn, bucket, &lost).await?.iter().any(here) {
            return Ok(Some(lost));
        }
    }
    Ok(None)
}

/// Takes a conflict copy away, and nothing else: the name that it has lost, or one content.
pub(super) async fn drop_copy(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    file: &ShownFile,
    goes: Goes,
) -> Result<()> {
    let Some(content) = file.content else { return Ok(()) };
    if let Some(lost) = lost_name(txn, bucket, place, file).await? {
        write_entry_of(txn, bucket, &lost, None, &[file.node]).await?;
        forget_name(txn, bucket, &file.node, &lost).await?;
    } else if goes == Goes::Rewritten && !txn.node(bucket.number, &file.node).await?.names.is_empty() {
        // Another of its contents is the file's.
        write_content(txn, bucket, &file.node, None, &[content]).await?;
    } else {
        delete_contents(txn, bucket, &file.node, &[content]).await?;
    }
    txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown = None;
    let size = i64::try_from(file.size).unwrap_or(i64::MAX);
    txn.count(bucket.number, |u| {
        u.objects -= 1;
        u.logical_bytes -= size;
    });
    txn.touch_directory(bucket.number, &place.0);
    Ok(())
}

/// Where the policy keeps one winner, a change of a name settles its conflicts: whoever lost it goes, and stays as an older version if the bucket keeps those.
pub(super) async fn take_losers(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    if bucket.rules().keeps_both() || !bucket.is_shared() {
        return Ok(());
    }
    drop_losers(txn, bucket, place, Losers::All).await?;
    Ok(())
}

/// As [`take_losers`], but for a rename of the file that shows: its other contents go with it.
pub(super) async fn take_rivals(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<()> {
    if bucket.rules().keeps_both() || !bucket.is_shared() {
        return Ok(());
    }
    drop_losers(txn, bucket, place, Losers::OtherFiles).await?;
    Ok(())
}

/// Which of those who lost a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Losers {
    /// All.
    All,
    /// Those that are not contents of the file that shows.
    OtherFiles,
    /// The one with this version, for good.
    One(VersionId),
}

/// Takes those away who lost `place` and show nowhere. Returns whether there was any.
#[boxed]
pub(super) async fn drop_losers(txn: &mut Txn, bucket: &BucketState, place: &Place, which: Losers) -> Result<bool> {
    let mut losers = conflicts_at(txn, bucket, place).await?;
    losers.retain(|conflict| conflict.shown.is_none());
    let entry = txn.entry(bucket.number, &place.0, &place.1).await?;
    let winner = match &entry.shown {
        Some(Shown::File(file)) => Some(file.node),
        _ => None,
    };
    let named = super::show::named_files(&entry.register);
    let mut gone: BTreeSet<NodeId> = BTreeSet::new();
    let mut is_any = false;
    for loser in losers {
        let Some(content) = loser.content else { continue };
        let row = txn.node(bucket.number, &loser.node).await?.clone();
        let Some(write) = row.shown_content(Some(content), &bucket.rules()).cloned() else { continue };
        let is_meant = match which {
            Losers::All => true,
            Losers::OtherFiles => Some(loser.node) != winner,
            Losers::One(version) => loser_id(&write) == version,
        };
        if !is_meant {
            continue;
        }
        let is_for_good = matches!(which, Losers::One(_));
        is_any = true;
        if bucket.versioning() == Versioning::On && !is_for_good {
            retire(txn, bucket, place, &row, &write).await?;
        }
        if !named.contains(&loser.node) {
            delete_contents(txn, bucket, &loser.node, &[content]).await?;
        } else if is_for_good && is_one_of_several(txn, bucket, &loser).await? {
            write_content(txn, bucket, &loser.node, None, &[content]).await?;
        } else if Some(loser.node) != winner && gone.insert(loser.node) {
            forget_name(txn, bucket, &loser.node, place).await?;
        }
    }
    if let (Some(winner), false) = (winner, gone.is_empty()) {
        gone.insert(winner);
        let gone: Vec<NodeId> = gone.into_iter().collect();
        let value = EntryValue { node: winner, kind: EntryKind::File };
        write_entry_of(txn, bucket, place, Some(value), &gone).await?;
    }
    Ok(is_any)
}

/// Whether a loser is not what its file shows elsewhere.
async fn is_one_of_several(txn: &mut Txn, bucket: &BucketState, loser: &Conflict) -> Result<bool> {
    let row = txn.node(bucket.number, &loser.node).await?;
    Ok(row.current(&bucket.rules()).map(|write| write.dot) != loser.content)
}

/// As [`take_losers`], at all of `places` where `node` has the name.
pub(super) async fn take_losers_of(txn: &mut Txn, bucket: &BucketState, node: &NodeId, places: &[Place]) -> Result<()> {
    if bucket.rules().keeps_both() {
        return Ok(());
    }
    for place in places {
        let shown = &txn.entry(bucket.number, &place.0, &place.1).await?.shown;
        if super::write::has_name(shown, node) {
            take_losers(txn, bucket, place).await?;
        }
    }
    Ok(())
}
