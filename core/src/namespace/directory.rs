//! Directories: made, implied, kept while something is below them, moved, removed.

use super::alias::is_rescued;
use super::content::{Goes, drop_copy, lost_name, take_rivals};
use super::place::directory_place_in;
use super::rows::{ExplicitDirectory, Shown, ShownFile};
use super::txn::Txn;
use super::version::Version;
use super::{BucketState, Place, is_directory_name, keys};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::kv::{KeyRange, Space};
use crate::register::{Register, Write};
use crate::tree::{EntryKind, EntryValue, directory_candidates, directory_id};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Bound;

/// The most names a file can have.
pub const LINKS_MAX: usize = 1024;
/// How many entries are looked at in one go for something that shows.
const SCAN_ROWS: usize = 256;
/// How far from a removed name another one is looked for, in entries.
const WITNESS_ROWS: usize = 64;

/// The node of the directory at `directories`, if all of them show.
pub async fn find_directory(txn: &mut Txn, bucket: &BucketState, directories: &[Bytes]) -> Result<Option<NodeId>> {
    let mut parent = NodeId::ROOT;
    for name in directories {
        match &txn.entry(bucket.number, &parent, name).await?.shown {
            Some(Shown::Directory { node, .. }) => parent = *node,
            _ => return Ok(None),
        }
    }
    Ok(Some(parent))
}

/// The node of the directory at `directories`; the ones that are missing are implied. With `shows` unset they stay
/// hidden: they only carry history.
pub async fn make_directories(
    txn: &mut Txn,
    bucket: &BucketState,
    directories: &[Bytes],
    shows: bool,
) -> Result<NodeId> {
    let mut parent = NodeId::ROOT;
    for name in directories {
        let entry = txn.entry(bucket.number, &parent, name).await?;
        parent = match &entry.shown {
            Some(Shown::Directory { node, .. }) => *node,
            _ => make_directory(txn, bucket, &parent, name, None, shows).await?,
        };
    }
    Ok(parent)
}

/// Makes the directory `name` (which ends in `/` and does not show yet) in `parent`.
#[boxed]
pub(super) async fn make_directory(
    txn: &mut Txn,
    bucket: &BucketState,
    parent: &NodeId,
    name: &Bytes,
    explicit: Option<ExplicitDirectory>,
    shows: bool,
) -> Result<NodeId> {
    let is_explicit = explicit.is_some();
    let place = (*parent, name.clone());
    let register = txn.entry(bucket.number, parent, name).await?.register.clone();
    let node = directory_to_make(txn, bucket, &place, &register).await?;
    let says = |value: &EntryValue| {
        value.node == node && matches!(value.kind, EntryKind::Directory { explicit } if explicit || !is_explicit)
    };
    if !register.live_values().any(|(_, value)| says(value)) {
        // No directory shows here, so all that the entry names and that has arrived is out of date.
        let mut stale = vec![node];
        for (_, value) in register.live_values() {
            if !txn.node(bucket.number, &value.node).await?.home.is_empty() {
                stale.push(value.node);
            }
        }
        let value = EntryValue { node, kind: EntryKind::Directory { explicit: is_explicit } };
        write_entry_of(txn, bucket, &place, Some(value), &stale).await?;
    }
    if txn.node(bucket.number, &node).await?.home.is_empty() {
        let (dot, own) = (txn.dot(), *txn.own());
        let row = txn.edit_node(bucket.number, &node).await?;
        row.home.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(place)), &[]);
    }
    if shows {
        txn.edit_entry(bucket.number, parent, name).await?.shown = Some(Shown::Directory { node, explicit });
        show_parents(txn, bucket, *parent).await?;
        txn.touch_directory(bucket.number, parent);
    }
    txn.watch(Space::Derived, &keys::directory_time(bucket.number, parent));
    Ok(node)
}

/// The node of a directory to be made at `place`, where none shows: the one that was there before, or a new one whose id follows from the name and what was said
/// about it, so that segments which make the same directory make the same node.
async fn directory_to_make(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    register: &Register<EntryValue>,
) -> Result<NodeId> {
    let candidates = directory_candidates(&place.0, &place.1, register);
    let mut node = directory_id(&place.0, &place.1, &[]);
    for candidate in candidates {
        let home = &txn.node(bucket.number, &candidate.node).await?.home;
        let is_usable = match home.value() {
            Some(home) => home == place && directory_place_in(txn, bucket, &candidate.node).await?.is_none(),
            None => candidate.may_be_new && home.is_empty(),
        };
        if is_usable {
            return Ok(candidate.node);
        }
        node = candidate.node;
    }
    // All of them live elsewhere. The last one's home tells which, in the same way on every segment.
    while let Some(home) = txn.node(bucket.number, &node).await?.home.shown().map(|w| w.dot) {
        node = directory_id(&node, &place.1, &[home]);
    }
    Ok(node)
}

/// Makes the hidden directories above `node` show, because something below them does now.
pub(super) async fn show_parents(txn: &mut Txn, bucket: &BucketState, mut node: NodeId) -> Result<()> {
    while node != NodeId::ROOT {
        let Some((parent, name)) = txn.node(bucket.number, &node).await?.home.value().cloned() else {
            return Ok(());
        };
        let entry = txn.entry(bucket.number, &parent, &name).await?;
        if entry.shown.is_some() {
            return Ok(());
        }
        txn.edit_entry(bucket.number, &parent, &name).await?.shown = Some(Shown::Directory { node, explicit: None });
        txn.touch_directory(bucket.number, &parent);
        node = parent;
    }
    Ok(())
}

/// Replaces what shows in an entry's register; `None` takes the entry away (with a tombstone where others must hear of it).
pub(super) async fn write_entry(
    txn: &mut Txn,
    bucket: &BucketState,
    parent: &NodeId,
    name: &[u8],
    value: Option<EntryValue>,
) -> Result<()> {
    if value.is_none() && !bucket.is_shared() {
        let row = txn.edit_entry(bucket.number, parent, name).await?;
        row.register = Default::default();
        return Ok(());
    }
    let (dot, own) = (txn.dot(), *txn.own());
    let slot = dot.slot().unwrap_or_default();
    let row = txn.edit_entry(bucket.number, parent, name).await?;
    let replaces: Vec<_> = match row.register.value() {
        // A directory comes with all its twins: the ids are the same on every segment that made it.
        Some(EntryValue { kind: EntryKind::Directory { .. }, node }) => {
            let same = |w: &&Write<EntryValue>| w.value.is_none_or(|v| v.node == *node);
            row.register.ordered().iter().filter(same).map(|w| w.dot).collect()
        }
        // A name is all the writes that give it: two segments may have given one file the same name. What is there and does not show, because its
        // content has not arrived, is not replaced by somebody who did not see it.
        Some(EntryValue { kind: EntryKind::File, .. }) => {
            let shows = match &row.shown {
                Some(Shown::File(file)) if file.content.is_none() => Some(file.node),
                _ => None,
            };
            let replaced = |w: &&Write<EntryValue>| w.value.is_none_or(|v| Some(v.node) == shows);
            row.register.ordered().iter().filter(replaced).map(|w| w.dot).collect()
        }
        None => row.register.dots().to_vec(),
    };
    row.register.local_write(Write::pending(slot, own, value), &replaces);
    Ok(())
}

/// Writes an entry's register in place of all writes that name one of `nodes`, and of tombstones; what the entry shows is left to be derived.
pub(super) async fn write_entry_of(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    value: Option<EntryValue>,
    nodes: &[NodeId],
) -> Result<()> {
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_entry(bucket.number, &place.0, &place.1).await?;
    let goes = |w: &&Write<EntryValue>| w.value.is_none_or(|value| nodes.contains(&value.node));
    let replaces: Vec<_> = row.register.ordered().iter().filter(goes).map(|w| w.dot).collect();
    row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, value), &replaces);
    Ok(())
}

/// Writes what is said about the directory `node`, which shows at `place`: in the entry at its home. Under a derived name it has none.
async fn write_directory(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    node: &NodeId,
    value: Option<EntryKind>,
) -> Result<()> {
    let value = value.map(|kind| EntryValue { node: *node, kind });
    if !bucket.is_shared() {
        return write_entry(txn, bucket, &place.0, &place.1, value).await;
    }
    let home = txn.node(bucket.number, node).await?.home.value().cloned();
    write_entry_of(txn, bucket, &home.unwrap_or_else(|| place.clone()), value, &[*node]).await
}

/// Whether an entry near `name`, which this transaction takes away, shows. If so the directory stays, and the commit fails if that entry goes
/// too. Those who delete side by side in one directory so meet each other only when little is left in it: the witness is the
/// furthest of a page, as neighbours are often deleted together. `false` says nothing.
pub(super) async fn has_witness(txn: &mut Txn, bucket: &BucketState, directory: &NodeId, name: &Bytes) -> Result<bool> {
    let edited = txn.edited_entries(bucket.number, directory);
    if edited.iter().any(|(n, shows)| *shows && n != name) {
        return Ok(true);
    }
    // Whoever deletes here looks at the same witness until it goes itself.
    if let Some(known) = bucket.witness(directory)
        && known != *name
        && edited.iter().all(|(n, _)| *n != known)
        && txn.entry(bucket.number, directory, &known).await?.shown.is_some()
    {
        return Ok(true);
    }
    let prefix = keys::entry(bucket.number, directory, b"");
    let here = keys::entry(bucket.number, directory, name);
    let snapshot = txn.ledger().store().snapshot().await?;
    for reverse in [false, true] {
        let range = if reverse {
            KeyRange { start: Bound::Included(prefix.clone()), end: Bound::Excluded(here.clone()) }
        } else {
            KeyRange::prefix_after(&prefix, here.clone())
        };
        let page = snapshot.scan(Space::Entries, range, WITNESS_ROWS, reverse).await?;
        for (key, value) in page.rows.into_iter().rev() {
            let name = key.slice(prefix.len()..);
            if edited.iter().all(|(n, _)| *n != name) && super::EntryRow::decode_shown(value)?.1.is_some() {
                txn.watch(Space::Entries, &key);
                bucket.remember_witness(directory, &name);
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether something that shows, and whether anything at all, is in a directory.
async fn contents(txn: &mut Txn, bucket: &BucketState, directory: &NodeId) -> Result<(bool, bool)> {
    // A create that is sequenced after this transaction began touches the directory, so that this commit fails.
    txn.watch(Space::Derived, &keys::directory_time(bucket.number, directory));
    let edited = txn.edited_entries(bucket.number, directory);
    if edited.iter().any(|(_, shows)| *shows) {
        return Ok((true, true));
    }
    let prefix = keys::entry(bucket.number, directory, b"");
    let snapshot = txn.ledger().store().snapshot().await?;
    let mut range = KeyRange::prefix(&prefix);
    let mut any = false;
    loop {
        let page = snapshot.scan(Space::Entries, range, SCAN_ROWS, false).await?;
        for (key, value) in &page.rows {
            let name = key.slice(prefix.len()..);
            if edited.iter().any(|(n, _)| *n == name) {
                continue;
            }
            let row = super::EntryRow::decode(value.clone(), txn.own())?;
            if row.shown.is_some() {
                return Ok((true, true));
            }
            any |= !row.register.is_tombstone_only();
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => break,
        }
    }
    let edited_but_alive = {
        let mut alive = false;
        for (name, _) in &edited {
            alive |= !txn.entry(bucket.number, directory, name).await?.register.is_tombstone_only();
        }
        alive
    };
    any |= edited_but_alive || has_history(txn, bucket, directory).await?;
    Ok((false, any))
}

async fn has_history(txn: &mut Txn, bucket: &BucketState, directory: &NodeId) -> Result<bool> {
    if txn.keeps_history(bucket.number, directory) {
        return Ok(true);
    }
    let prefix = keys::entry(bucket.number, directory, b"");
    let snapshot = txn.ledger().store().snapshot().await?;
    let mut range = KeyRange::prefix(&prefix);
    loop {
        let page = snapshot.scan(Space::History, range, SCAN_ROWS, false).await?;
        for (key, value) in &page.rows {
            if txn.drops_history(key) {
                continue;
            }
            let row = super::HistoryRow::decode(value.clone(), txn.own())?;
            if !row.register.is_tombstone_only() {
                return Ok(true);
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => return Ok(false),
        }
    }
}

/// `gone` was taken out of `directory`: takes away the directory and the ones above it as far as they are implied and nothing shows below them
/// any more.
#[boxed]
pub(super) async fn drop_empty_parents(
    txn: &mut Txn,
    bucket: &BucketState,
    mut directory: NodeId,
    gone: &Bytes,
) -> Result<()> {
    if txn.keeps_directories() {
        return keep_directory(txn, bucket, &directory, gone).await;
    }
    let mut gone = gone.clone();
    while directory != NodeId::ROOT {
        let Some(home) = txn.node(bucket.number, &directory).await?.home.value().cloned() else {
            return Ok(());
        };
        let (parent, name) = directory_place_in(txn, bucket, &directory).await?.unwrap_or(home);
        let shown = txn.entry(bucket.number, &parent, &name).await?.shown.clone();
        if matches!(&shown, Some(Shown::Directory { explicit, node }) if explicit.is_some() || *node != directory) {
            return Ok(());
        }
        if has_witness(txn, bucket, &directory, &gone).await? {
            return Ok(());
        }
        let (shows, holds) = contents(txn, bucket, &directory).await?;
        if shows {
            return Ok(());
        }
        if holds {
            txn.edit_entry(bucket.number, &parent, &name).await?.shown = None;
        } else {
            drop_directory(txn, bucket, &parent, &name, &directory).await?;
        }
        txn.touch_directory(bucket.number, &parent);
        directory = parent;
        gone = name;
    }
    Ok(())
}

/// `gone` was taken out of `directory` by somebody who thinks in files: a directory that only its entries implied, and that is empty now, stays
/// until it is removed itself.
pub async fn keep_directory(txn: &mut Txn, bucket: &BucketState, directory: &NodeId, gone: &Bytes) -> Result<()> {
    if *directory == NodeId::ROOT {
        return Ok(());
    }
    let Some((parent, name)) = directory_place_in(txn, bucket, directory).await? else {
        return Ok(());
    };
    let shown = &txn.entry(bucket.number, &parent, &name).await?.shown;
    if !matches!(shown, Some(Shown::Directory { explicit: None, .. }))
        || has_witness(txn, bucket, directory, gone).await?
        || contents(txn, bucket, directory).await?.0
    {
        return Ok(());
    }
    let made = ExplicitDirectory::empty(txn.now_ns());
    make_explicit(txn, bucket, &parent, &name, *directory, made).await
}

/// Takes away an empty directory's entry and node.
async fn drop_directory(
    txn: &mut Txn,
    bucket: &BucketState,
    parent: &NodeId,
    name: &Bytes,
    node: &NodeId,
) -> Result<()> {
    write_directory(txn, bucket, &(*parent, name.clone()), node, None).await?;
    txn.edit_entry(bucket.number, parent, name).await?.shown = None;
    if !bucket.is_shared() {
        *txn.edit_node(bucket.number, node).await? = Default::default();
        txn.forget_directory(bucket.number, node);
    }
    Ok(())
}

/// `mkdir`: makes `name` (with its `/`) in `parent`, explicit. `Exists` if a directory shows there by itself;
/// an implied one becomes explicit.
pub async fn mkdir(txn: &mut Txn, bucket: &BucketState, parent: &NodeId, name: &Bytes) -> Result<NodeId> {
    let now = txn.now_ns();
    let made = ExplicitDirectory::empty(now);
    match txn.entry(bucket.number, parent, name).await?.shown.clone() {
        Some(Shown::Directory { explicit: Some(_), .. }) => {
            Err(Error::exists(Subject::Key, format!("the directory '{}' exists", String::from_utf8_lossy(name))))
        }
        Some(Shown::Directory { node, explicit: None }) => {
            make_explicit(txn, bucket, parent, name, node, made).await?;
            Ok(node)
        }
        _ => {
            let node = make_directory(txn, bucket, parent, name, Some(made), true).await?;
            txn.count(bucket.number, |u| u.objects += 1);
            Ok(node)
        }
    }
}

/// Makes an implied directory stay by itself.
pub(super) async fn make_explicit(
    txn: &mut Txn,
    bucket: &BucketState,
    parent: &NodeId,
    name: &Bytes,
    node: NodeId,
    object: ExplicitDirectory,
) -> Result<()> {
    let kind = EntryKind::Directory { explicit: true };
    write_directory(txn, bucket, &(*parent, name.clone()), &node, Some(kind)).await?;
    txn.count(bucket.number, |u| u.objects += 1);
    txn.edit_entry(bucket.number, parent, name).await?.shown = Some(Shown::Directory { node, explicit: Some(object) });
    Ok(())
}

/// Lets an explicit directory go: it stays as an implied one while something shows below it.
pub(super) async fn make_implied(
    txn: &mut Txn,
    bucket: &BucketState,
    parent: &NodeId,
    name: &Bytes,
    node: NodeId,
) -> Result<()> {
    let kind = EntryKind::Directory { explicit: false };
    write_directory(txn, bucket, &(*parent, name.clone()), &node, Some(kind)).await?;
    txn.count(bucket.number, |u| u.objects -= 1);
    txn.edit_entry(bucket.number, parent, name).await?.shown = Some(Shown::Directory { node, explicit: None });
    drop_empty_parents(txn, bucket, node, &Bytes::new()).await
}

/// `rmdir`: takes away the empty directory `name` of `parent`.
pub async fn rmdir(txn: &mut Txn, bucket: &BucketState, parent: &NodeId, name: &Bytes) -> Result<()> {
    let Some(Shown::Directory { node, explicit }) = txn.entry(bucket.number, parent, name).await?.shown.clone() else {
        return Err(Error::not_found(
            Subject::Key,
            format!("there is no directory '{}'", String::from_utf8_lossy(name)),
        ));
    };
    let (shows, holds) = contents(txn, bucket, &node).await?;
    if shows {
        return Err(Error::new(
            ErrorKind::NotEmpty,
            format!("the directory '{}' is not empty", String::from_utf8_lossy(name)),
        )
        .about(Subject::Key));
    }
    if let Some(object) = explicit {
        txn.count(bucket.number, |u| {
            u.objects -= 1;
            u.logical_bytes -= i64::try_from(object.size).unwrap_or(i64::MAX);
        });
    }
    if holds {
        let kind = EntryKind::Directory { explicit: false };
        write_directory(txn, bucket, &(*parent, name.clone()), &node, Some(kind)).await?;
        txn.edit_entry(bucket.number, parent, name).await?.shown = None;
    } else {
        drop_directory(txn, bucket, parent, name, &node).await?;
    }
    txn.touch_directory(bucket.number, parent);
    drop_empty_parents(txn, bucket, *parent, name).await
}

/// Gives a file one more name.
pub async fn link(txn: &mut Txn, bucket: &BucketState, from: &Place, to: &Place) -> Result<()> {
    let Some(Shown::File(file)) = txn.entry(bucket.number, &from.0, &from.1).await?.shown.clone() else {
        return Err(Error::not_found(Subject::Key, format!("there is no file '{}'", String::from_utf8_lossy(&from.1))));
    };
    let node = file.identity(&from.0, &from.1);
    super::alias::make_own_at(txn, bucket, from).await?;
    link_node(txn, bucket, &node, to).await
}

/// Gives the file `node` one more name.
pub async fn link_node(txn: &mut Txn, bucket: &BucketState, node: &NodeId, to: &Place) -> Result<()> {
    if txn.entry(bucket.number, &to.0, &to.1).await?.shown.is_some() {
        return Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(&to.1))));
    }
    let now = txn.now_ns();
    let row = txn.edit_node(bucket.number, node).await?;
    if row.names.len() >= LINKS_MAX {
        return Err(Error::new(ErrorKind::Quota, format!("a file has at most {LINKS_MAX} names")).about(Subject::Link));
    }
    let shown = super::show::plain_file(node, row, &bucket.rules()).filter(|_| !row.names.is_empty());
    let shown =
        shown.ok_or_else(|| Error::not_found(Subject::Node, format!("the file {node} has no name any more")))?;
    row.names.push(to.clone());
    row.names_changed_ns = now;
    write_entry(txn, bucket, &to.0, &to.1, Some(EntryValue { node: *node, kind: EntryKind::File })).await?;
    txn.count(bucket.number, |u| {
        u.objects += 1;
        u.logical_bytes += i64::try_from(shown.size).unwrap_or(i64::MAX);
    });
    txn.edit_entry(bucket.number, &to.0, &to.1).await?.shown = Some(Shown::File(shown));
    txn.touch_directory(bucket.number, &to.0);
    show_parents(txn, bucket, to.0).await
}

/// Renames a file, replacing a file at the target.
pub async fn rename_file(txn: &mut Txn, bucket: &BucketState, from: &Place, to: &Place) -> Result<()> {
    let Some(Shown::File(file)) = txn.entry(bucket.number, &from.0, &from.1).await?.shown.clone() else {
        return Err(Error::not_found(Subject::Key, format!("there is no file '{}'", String::from_utf8_lossy(&from.1))));
    };
    if is_directory_name(&to.1) {
        return Err(Error::invalid("a file can't take the name of a directory"));
    }
    let target = txn.entry(bucket.number, &to.0, &to.1).await?.shown.clone();
    // POSIX: two names of one file stay as they are.
    if from == to
        || matches!(&target, Some(Shown::File(old)) if old.node == file.node && old.content.is_none() && file.content.is_none())
    {
        return Ok(());
    }
    if target.is_some() {
        super::remove::remove_file(txn, bucket, to, super::remove::Leave::History).await?;
    }
    if file.content.is_some() {
        return rescue(txn, bucket, from, to, file).await;
    }
    take_rivals(txn, bucket, from).await?;
    // What is on its way between two names that are exchanged was never anywhere.
    if from.1 != super::HALF_WAY {
        super::history::leave_marker(txn, bucket, from, &file).await?;
    }
    let now = txn.now_ns();
    let row = txn.edit_node(bucket.number, &file.node).await?;
    row.names.retain(|name| name != from);
    row.names.push(to.clone());
    row.names_changed_ns = now;
    write_entry(txn, bucket, &to.0, &to.1, Some(EntryValue { node: file.node, kind: EntryKind::File })).await?;
    txn.edit_entry(bucket.number, &to.0, &to.1).await?.shown = Some(Shown::File(file));
    write_entry(txn, bucket, &from.0, &from.1, None).await?;
    txn.edit_entry(bucket.number, &from.0, &from.1).await?.shown = None;
    txn.touch_directory(bucket.number, &from.0);
    txn.touch_directory(bucket.number, &to.0);
    show_parents(txn, bucket, to.0).await?;
    drop_empty_parents(txn, bucket, from.0, &from.1).await
}

/// Gives a conflict copy a name of its own, and a node if it is one of several contents of a file. `to` may be where it shows. A file that shows without a name
/// gets one again.
#[boxed]
pub(super) async fn rescue(
    txn: &mut Txn,
    bucket: &BucketState,
    from: &Place,
    to: &Place,
    file: ShownFile,
) -> Result<()> {
    take_rivals(txn, bucket, from).await?;
    let lost = lost_name(txn, bucket, from, &file).await?;
    if lost.is_some() || is_rescued(txn, bucket, &file).await? {
        if let Some(lost) = &lost {
            // A file that another has taken the name from gets this one instead.
            write_entry_of(txn, bucket, lost, None, &[file.node]).await?;
        }
        let now = txn.now_ns();
        let row = txn.edit_node(bucket.number, &file.node).await?;
        row.names.retain(|name| Some(name) != lost.as_ref());
        row.names.push(to.clone());
        row.names_changed_ns = now;
        write_entry(txn, bucket, &to.0, &to.1, Some(EntryValue { node: file.node, kind: EntryKind::File })).await?;
        txn.edit_entry(bucket.number, &from.0, &from.1).await?.shown = None;
        txn.edit_entry(bucket.number, &to.0, &to.1).await?.shown =
            Some(Shown::File(ShownFile { content: None, is_apart: false, ..file }));
        txn.touch_directory(bucket.number, &to.0);
        show_parents(txn, bucket, to.0).await?;
    } else {
        let row = txn.node(bucket.number, &file.node).await?;
        let version = row.shown_content(file.content, &bucket.rules()).and_then(|write| write.value.clone());
        let version = version.ok_or_else(|| Error::not_found(Subject::Key, "the conflict copy is gone"))?;
        // One of several contents becomes a file of its own.
        let version = Version { at: to.clone(), deleted: None, ..version };
        let attributes = row.shown_attributes().map(Cow::into_owned);
        drop_copy(txn, bucket, from, &file, Goes::Rewritten).await?;
        // Whoever has the copy open, or knows its id, goes on with the file.
        let node = if file.is_apart { file.identity(&from.0, &from.1) } else { super::write::fresh_node(txn) };
        // Another segment may have made the same file of it.
        txn.edit_node(bucket.number, &node).await?;
        let dot = super::write::show_new_file(txn, bucket, to, node, version.clone()).await?;
        super::wanted::want_copy(txn, bucket, dot, &version).await?;
        if let Some(attributes) = attributes {
            super::write::edit_attributes(txn, bucket, &node, |value| *value = attributes).await?;
        }
    }
    txn.touch_directory(bucket.number, &from.0);
    drop_empty_parents(txn, bucket, from.0, &from.1).await
}

/// Renames a directory with all below it; an empty directory at the target is replaced.
pub async fn rename_directory(txn: &mut Txn, bucket: &BucketState, from: &Place, to: &Place) -> Result<()> {
    let Some(Shown::Directory { node, explicit }) = txn.entry(bucket.number, &from.0, &from.1).await?.shown.clone()
    else {
        return Err(Error::not_found(
            Subject::Key,
            format!("there is no directory '{}'", String::from_utf8_lossy(&from.1)),
        ));
    };
    if from == to {
        return Ok(());
    }
    // Walking up also reads every home on the way, so that concurrent moves can't close a circle.
    let mut above = to.0;
    let mut met = BTreeSet::new();
    // Homes that are in a circle already, because they were moved on different segments, don't lead to the root.
    while above != NodeId::ROOT && met.insert(above) {
        if above == node {
            return Err(Error::invalid("a directory can't be moved into itself"));
        }
        let home = txn.node(bucket.number, &above).await?.home.value().cloned();
        above = home.ok_or_else(|| Error::damaged("a directory has no home"))?.0;
    }
    if txn.entry(bucket.number, &to.0, &to.1).await?.shown.is_some() {
        rmdir_for_rename(txn, bucket, to).await?;
    }
    move_directory(txn, bucket, from, to, node, explicit).await
}

/// Moves the directory `node` from where it shows to a place where none does, or gives it the derived name that it shows under.
pub(super) async fn move_directory(
    txn: &mut Txn,
    bucket: &BucketState,
    from: &Place,
    to: &Place,
    node: NodeId,
    explicit: Option<ExplicitDirectory>,
) -> Result<()> {
    write_directory(txn, bucket, from, &node, None).await?;
    txn.edit_entry(bucket.number, &from.0, &from.1).await?.shown = None;
    let value = EntryValue { node, kind: EntryKind::Directory { explicit: explicit.is_some() } };
    write_entry(txn, bucket, &to.0, &to.1, Some(value)).await?;
    txn.edit_entry(bucket.number, &to.0, &to.1).await?.shown = Some(Shown::Directory { node, explicit });
    let (dot, own, now) = (txn.dot(), *txn.own(), txn.now_ns());
    let row = txn.edit_node(bucket.number, &node).await?;
    let old = row.home.dots();
    row.home.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(to.clone())), &old);
    row.names_changed_ns = now;
    txn.touch_directory(bucket.number, &from.0);
    txn.touch_directory(bucket.number, &to.0);
    show_parents(txn, bucket, to.0).await?;
    drop_empty_parents(txn, bucket, from.0, &from.1).await
}

async fn rmdir_for_rename(txn: &mut Txn, bucket: &BucketState, to: &Place) -> Result<()> {
    let Some(Shown::Directory { node, explicit }) = txn.entry(bucket.number, &to.0, &to.1).await?.shown.clone() else {
        return Ok(());
    };
    let (shows, _) = contents(txn, bucket, &node).await?;
    if shows {
        return Err(Error::new(
            ErrorKind::NotEmpty,
            format!("the directory '{}' is not empty", String::from_utf8_lossy(&to.1)),
        )
        .about(Subject::Key));
    }
    if let Some(object) = explicit {
        txn.count(bucket.number, |u| {
            u.objects -= 1;
            u.logical_bytes -= i64::try_from(object.size).unwrap_or(i64::MAX);
        });
    }
    drop_directory(txn, bucket, &to.0, &to.1, &node).await
}
