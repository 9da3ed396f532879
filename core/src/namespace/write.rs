//! Putting a version under a key, and changing what goes with it.

use super::alias::{is_rescued, make_own_at};
use super::content::{Goes, drop_copy, take_losers, write_content};
use super::directory::{find_directory, make_directories, make_directory, make_explicit, write_entry};
use super::history::{drop_null_version, retire, trim};
use super::remove::{Leave, remove_file};
use super::rows::{AttributesValue, ExplicitDirectory, NodeRow, Shown, ShownFile, TagsValue};
use super::txn::Txn;
use super::version::Version;
use super::{BucketState, CAPABILITIES, Place, is_directory_name, split};
use crate::error::{Error, Result, Subject};
use crate::id::{NodeId, SegmentId, VersionId};
use crate::object::{Attributes, Condition, FileType, ObjectInfo, Tags, TimeNs};
use crate::policy::Versioning;
use crate::register::{Dot, Write};
use crate::tree::{EntryKind, EntryValue};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::borrow::Cow;

/// A version to be put under a key; its place and id are filled in by the commit.
pub struct NewVersion {
    /// What is stored. `at`, `is_null`, `id` are set here.
    pub version: Version,
    /// POSIX attributes; `None` keeps what is there.
    pub attributes: Option<Attributes>,
    /// Whether a file of several names loses this one, and what is stored is a file of its own.
    pub unlinks: bool,
}

/// What was stored, for the answer.
pub struct Stored {
    /// The file's node.
    pub node: NodeId,
    /// The pending dot of the content.
    pub dot: Dot,
    /// The version as stored.
    pub version: Version,
    /// POSIX attributes.
    pub attributes: Attributes,
    /// Number of names.
    pub links: u32,
}

/// Puts `new` under `key` if `condition` holds of what is there.
#[boxed]
pub async fn put(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    new: NewVersion,
    condition: &Condition,
) -> Result<Stored> {
    let (directories, name) = split(key).place();
    let is_seen = find_directory(txn, bucket, &directories).await?.is_some();
    let parent = make_directories(txn, bucket, &directories, true).await?;
    let policy = bucket.policy();
    txn.limit(bucket.number, policy.quota_bytes, policy.quota_objects);
    let place = (parent, name);
    if !is_seen && txn.entry(bucket.number, &place.0, &place.1).await?.shown.is_some() {
        // It came by a delta without the directories above it, so nobody can mean to replace it.
        txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown = None;
    }
    let entry = txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone();
    let mut version = new.version;
    version.at = place.clone();
    version.id = None;
    version.deleted = None;
    version.is_null = policy.versioning != Versioning::On;
    if is_directory_name(&place.1) {
        version.file_type = FileType::Directory;
        return put_directory(txn, bucket, key, &place, entry, version, new.attributes, condition).await;
    }
    if entry.is_some() {
        take_losers(txn, bucket, &place).await?;
    }
    let entry = match entry {
        // What shows without a name is that file all the same, and gets its name back.
        Some(Shown::File(file)) if is_rescued(txn, bucket, &file).await? => {
            make_own_at(txn, bucket, &place).await?;
            txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone()
        }
        entry => entry,
    };
    let is_parted = match &entry {
        Some(Shown::File(file)) if new.unlinks => txn.node(bucket.number, &file.node).await?.names.len() > 1,
        _ => false,
    };
    match entry {
        Some(Shown::File(file)) if file.content.is_none() && !is_parted => {
            let row = txn.node(bucket.number, &file.node).await?.clone();
            let current = current_write(&row, bucket, &place.1)?;
            if !condition.is_empty() {
                condition.check(Some(&info(key.clone(), file.node, current, &row, true)?))?;
            }
            retire_current(txn, bucket, &place, &row, current, policy.versioning).await?;
            if policy.versioning == Versioning::Suspended {
                drop_null_version(txn, bucket, &place).await?;
            }
            let dot = replace_content(txn, bucket, &file, &row, version.clone()).await?;
            // A time that was set by hand on a version is known by that version's time, which may be this one's.
            let by_hand = row.shown_attributes().and_then(|value| value.modified_ns);
            let by_hand = by_hand.filter(|(_, of)| *of == version.modified_ns).map(|(_, of)| (of, of));
            let attributes = new.attributes.or_else(|| unprivileged(&row));
            let attributes = set_attributes(txn, bucket, &file.node, attributes, by_hand).await?;
            trim(txn, bucket, &place).await?;
            Ok(Stored { node: file.node, dot, version, attributes, links: u32::try_from(row.names.len()).unwrap_or(1) })
        }
        found => {
            let mut attributes = new.attributes;
            if let Some(Shown::File(old)) = found {
                let row = txn.node(bucket.number, &old.node).await?.clone();
                let write = row.shown_content(old.content, &bucket.rules());
                let write = write.ok_or_else(|| Error::damaged("an entry shows a content that is gone"))?;
                condition.check(Some(&info(key.clone(), old.node, write, &row, true)?))?;
                if old.content.is_some() {
                    drop_copy(txn, bucket, &place, &old, Goes::Rewritten).await?;
                } else {
                    let as_before = || row.shown_attributes().map(|value| value.attributes.clone());
                    attributes = attributes.or_else(|| unprivileged(&row).or_else(as_before));
                    remove_file(txn, bucket, &place, Leave::History).await?;
                }
            } else {
                condition.check(None)?;
            }
            if policy.versioning == Versioning::Suspended {
                drop_null_version(txn, bucket, &place).await?;
            }
            let node = fresh_node(txn);
            let dot = show_new_file(txn, bucket, &place, node, version.clone()).await?;
            let attributes = set_attributes(txn, bucket, &node, attributes, None).await?;
            trim(txn, bucket, &place).await?;
            Ok(Stored { node, dot, version, attributes, links: 1 })
        }
    }
}

/// The attributes of a file whose content somebody replaces who says nothing of them, if they give what is executed privileges: without these. As when it is written to
/// by whoever has no privileges.
fn unprivileged(row: &NodeRow) -> Option<Attributes> {
    const SET_UID: u32 = 0o4000;
    const SET_GID: u32 = 0o2000;
    const GROUP_EXECUTES: u32 = 0o010;
    let before = &row.shown_attributes()?.attributes;
    let mut attributes = before.clone();
    attributes.mode = attributes.mode.map(|mode| match mode {
        mode if mode & GROUP_EXECUTES != 0 => mode & !(SET_UID | SET_GID),
        mode => mode & !SET_UID,
    });
    attributes.xattrs.remove(CAPABILITIES);
    (attributes != *before).then_some(attributes)
}

/// Makes a file in a directory that shows, at a place where nothing shows.
pub async fn create(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    version: Version,
    attributes: AttributesValue,
) -> Result<NodeId> {
    let policy = bucket.policy();
    txn.limit(bucket.number, policy.quota_bytes, policy.quota_objects);
    if policy.versioning == Versioning::Suspended {
        drop_null_version(txn, bucket, place).await?;
    }
    let version = Version { at: place.clone(), is_null: policy.versioning != Versioning::On, id: None, ..version };
    let node = fresh_node(txn);
    show_new_file(txn, bucket, place, node, version).await?;
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_node(bucket.number, &node).await?;
    row.attributes.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(attributes)), &[]);
    if policy.versioning != Versioning::Off {
        trim(txn, bucket, place).await?;
    }
    Ok(node)
}

/// An id for a new file.
pub(super) fn fresh_node(txn: &Txn) -> NodeId {
    let mut id = [0; 16];
    txn.ledger().fill_random(&mut id);
    NodeId(id)
}

/// Shows `version` as a new file, `node`, at `place`, where nothing shows.
pub(super) async fn show_new_file(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    node: NodeId,
    version: Version,
) -> Result<Dot> {
    let (dot, own) = (txn.dot(), *txn.own());
    let size = i64::try_from(version.size).unwrap_or(i64::MAX);
    let shown = ShownFile::of(node, None, &version);
    write_entry(txn, bucket, &place.0, &place.1, Some(EntryValue { node, kind: EntryKind::File })).await?;
    txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown = Some(Shown::File(shown));
    let row = txn.new_node(bucket.number, &node);
    if !row.names.contains(place) {
        row.names.push(place.clone());
    }
    row.content.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(version)), &[]);
    txn.count(bucket.number, |u| {
        u.objects += 1;
        u.logical_bytes += size;
    });
    txn.touch_directory(bucket.number, &place.0);
    Ok(dot)
}

/// Replaces the content that shows of `file` under all its names.
pub(super) async fn replace_content(
    txn: &mut Txn,
    bucket: &BucketState,
    file: &ShownFile,
    row: &NodeRow,
    version: Version,
) -> Result<Dot> {
    let names = row.names.clone();
    let change = i64::try_from(version.size).unwrap_or(i64::MAX) - i64::try_from(file.size).unwrap_or(i64::MAX);
    let shown = ShownFile::of(file.node, None, &version);
    let old = row.replaced_contents(&bucket.rules());
    let dot = write_content(txn, bucket, &file.node, Some(version), &old).await?;
    for (parent, name) in &names {
        // Where another file has the name this one is in conflict with it, see `show`.
        if has_name(&txn.entry(bucket.number, parent, name).await?.shown, &file.node) {
            txn.edit_entry(bucket.number, parent, name).await?.shown = Some(Shown::File(shown.clone()));
            txn.count(bucket.number, |u| u.logical_bytes += change);
        }
    }
    Ok(dot)
}

/// Whether an entry shows the file `node` as what the entry stands for, and not another file or a conflict copy.
pub(super) fn has_name(shown: &Option<Shown>, node: &NodeId) -> bool {
    matches!(shown, Some(Shown::File(file)) if file.node == *node && file.content.is_none())
}

/// Sets the time that shows under those `names` that `node` has.
pub(super) async fn show_time(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    names: &[Place],
    modified_ns: TimeNs,
) -> Result<()> {
    for (parent, name) in names {
        if has_name(&txn.entry(bucket.number, parent, name).await?.shown, node)
            && let Some(Shown::File(shown)) = &mut txn.edit_entry(bucket.number, parent, name).await?.shown
        {
            shown.modified_ns = modified_ns;
        }
    }
    Ok(())
}

/// Keeps the version that is about to be replaced, if the bucket keeps versions.
pub(super) async fn retire_current(
    txn: &mut Txn,
    bucket: &BucketState,
    place: &Place,
    file: &NodeRow,
    current: &Write<Version>,
    versioning: Versioning,
) -> Result<()> {
    let is_null = current.value.as_ref().is_some_and(|v| v.is_null);
    match versioning {
        Versioning::Off => Ok(()),
        Versioning::Suspended if is_null => Ok(()),
        Versioning::On | Versioning::Suspended => retire(txn, bucket, place, file, current).await,
    }
}

#[expect(clippy::too_many_arguments, reason = "the pieces of one put, already looked up")]
async fn put_directory(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    place: &Place,
    shown: Option<Shown>,
    version: Version,
    attributes: Option<Attributes>,
    condition: &Condition,
) -> Result<Stored> {
    let object = ExplicitDirectory { size: version.size, modified_ns: version.modified_ns, etag: version.etag.clone() };
    let versioning = bucket.versioning();
    let (node, old_size) = match shown {
        Some(Shown::Directory { node, explicit: Some(old) }) => {
            let row = txn.node(bucket.number, &node).await?.clone();
            if !condition.is_empty() {
                condition.check(Some(&directory_info(txn.own(), key.clone(), node, &old, &row)))?;
            }
            if let Some(current) = row.content.shown().filter(|w| w.value.is_some()) {
                retire_current(txn, bucket, place, &row, current, versioning).await?;
            }
            txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown =
                Some(Shown::Directory { node, explicit: Some(object) });
            (node, old.size)
        }
        Some(Shown::Directory { node, explicit: None }) => {
            condition.check(None)?;
            make_explicit(txn, bucket, &place.0, &place.1, node, object).await?;
            (node, 0)
        }
        _ => {
            condition.check(None)?;
            let node = make_directory(txn, bucket, &place.0, &place.1, Some(object), true).await?;
            txn.count(bucket.number, |u| u.objects += 1);
            (node, 0)
        }
    };
    if versioning == Versioning::Suspended {
        drop_null_version(txn, bucket, place).await?;
    }
    let change = i64::try_from(version.size).unwrap_or(i64::MAX) - i64::try_from(old_size).unwrap_or(i64::MAX);
    txn.count(bucket.number, |u| u.logical_bytes += change);
    let old: Vec<_> = txn.node(bucket.number, &node).await?.content.shown().map(|w| w.dot).into_iter().collect();
    let dot = write_content(txn, bucket, &node, Some(version.clone()), &old).await?;
    let attributes = set_attributes(txn, bucket, &node, attributes, None).await?;
    trim(txn, bucket, place).await?;
    Ok(Stored { node, dot, version, attributes, links: 1 })
}

/// Replaces a node's attributes, or (with `modified_ns`) the time set by hand; returns what holds then.
#[boxed]
pub async fn set_attributes(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    attributes: Option<Attributes>,
    modified_ns: Option<(TimeNs, TimeNs)>,
) -> Result<Attributes> {
    let old = txn.node(bucket.number, node).await?.shown_attributes().map(Cow::into_owned);
    if attributes.is_none() && modified_ns.is_none() {
        return Ok(old.map(|v| v.attributes).unwrap_or_default());
    }
    let value = edit_attributes(txn, bucket, node, |value| {
        if let Some(attributes) = attributes {
            value.attributes = attributes;
        }
        value.modified_ns = modified_ns.or(value.modified_ns);
    })
    .await?;
    Ok(value.attributes)
}

/// Changes a node's attributes; returns what holds then.
pub async fn edit_attributes(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    edit: impl FnOnce(&mut AttributesValue),
) -> Result<AttributesValue> {
    let now = txn.now_ns();
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_node(bucket.number, node).await?;
    let before = row.shown_attributes().map(Cow::into_owned);
    let before = before.unwrap_or_default();
    let mut value = before.clone();
    edit(&mut value);
    value.changed_ns = now.max(value.changed_ns.saturating_add(1));
    value.note_changes(&before);
    let replaced = row.attributes.dots();
    row.attributes.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value.clone())), &replaced);
    Ok(value)
}

/// Sets the modification time of a file or directory by hand: what shows under its names moves with it.
pub async fn set_modified(txn: &mut Txn, bucket: &BucketState, place: &Place, modified_ns: TimeNs) -> Result<()> {
    match txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() {
        Some(Shown::File(file)) => {
            let row = txn.node(bucket.number, &file.node).await?.clone();
            let written = row.current_version(&bucket.rules()).map_or(0, |v| v.modified_ns);
            set_attributes(txn, bucket, &file.node, None, Some((modified_ns, written))).await?;
            show_time(txn, bucket, &file.node, &row.names, modified_ns).await
        }
        Some(Shown::Directory { node, .. }) => {
            let moved = txn.observe_directory(bucket.number, &node).await?.unwrap_or_default();
            let set = txn.now_ns().max(moved);
            set_attributes(txn, bucket, &node, None, Some((modified_ns, set))).await?;
            if let Some(Shown::Directory { explicit: Some(object), .. }) =
                &mut txn.edit_entry(bucket.number, &place.0, &place.1).await?.shown
            {
                object.modified_ns = modified_ns;
            }
            Ok(())
        }
        None => Err(Error::not_found(Subject::Key, format!("there is no '{}'", String::from_utf8_lossy(&place.1)))),
    }
}

/// The modification time of a node was set by hand: listings show it under all its names.
pub async fn show_modified(txn: &mut Txn, bucket: &BucketState, node: &NodeId, modified_ns: TimeNs) -> Result<()> {
    let row = txn.node(bucket.number, node).await?;
    let (names, home) = (row.names.clone(), row.home.value().cloned());
    show_time(txn, bucket, node, &names, modified_ns).await?;
    if let Some((parent, name)) = home
        && matches!(
            txn.entry(bucket.number, &parent, &name).await?.shown,
            Some(Shown::Directory { explicit: Some(_), .. })
        )
        && let Some(Shown::Directory { explicit: Some(object), .. }) =
            &mut txn.edit_entry(bucket.number, &parent, &name).await?.shown
    {
        object.modified_ns = modified_ns;
    }
    Ok(())
}

/// Replaces the tags of a version of `key`; `None`: of the current one.
pub async fn set_tags(
    txn: &mut Txn,
    bucket: &BucketState,
    key: &Bytes,
    version: Option<VersionId>,
    tags: Tags,
) -> Result<()> {
    let missing =
        |subject| Error::not_found(subject, format!("there is no such version of '{}'", String::from_utf8_lossy(key)));
    let (directories, name) = split(key).place();
    let parent = super::remove::find_hidden(txn, bucket, &directories).await?.ok_or_else(|| missing(Subject::Key))?;
    let place = (parent, name);
    make_own_at(txn, bucket, &place).await?;
    let node = match txn.entry(bucket.number, &place.0, &place.1).await?.shown.clone() {
        Some(Shown::File(file)) => Some(file.node),
        Some(Shown::Directory { node, explicit: Some(_) }) => Some(node),
        _ => None,
    };
    if let Some(node) = node {
        let row = txn.node(bucket.number, &node).await?;
        let current = row.current(&bucket.rules());
        let about = current.map_or(VersionId::Null, write_id);
        if version.is_none_or(|v| v == current.map_or(VersionId::Null, version_id)) {
            // A conflict copy has become a file of its own just now: its write has no id yet, and carries its tags itself.
            let pending = current.map(|write| write.dot).filter(Dot::is_pending);
            if let Some(dot) = pending {
                let row = txn.edit_node(bucket.number, &node).await?;
                if let Some(version) = row.content.value_mut(&dot) {
                    version.tags = tags;
                }
                return Ok(());
            }
            let (dot, own) = (txn.dot(), *txn.own());
            let row = txn.edit_node(bucket.number, &node).await?;
            let replaced = row.tags.dots();
            let value = TagsValue { version: about.to_bytes(), tags };
            row.tags.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value)), &replaced);
            return Ok(());
        }
    }
    let Some(version) = version else {
        return Err(missing(Subject::Key));
    };
    let all = super::history::kept(txn, bucket, &place, usize::MAX).await?;
    let kept =
        all.into_iter().find(|k| k.id == version && !k.version.is_marker).ok_or_else(|| missing(Subject::Version))?;
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_history(kept.key).await?;
    let replaced = row.register.dots();
    let value = Version { tags, ..kept.version };
    row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, Some(value)), &replaced);
    Ok(())
}

/// The write of the content that shows.
pub(super) fn current_write<'a>(row: &'a NodeRow, bucket: &BucketState, name: &[u8]) -> Result<&'a Write<Version>> {
    row.current(&bucket.rules()).ok_or_else(|| {
        Error::damaged(format!("'{}' shows, but its node has no content", String::from_utf8_lossy(name)))
    })
}

/// The write of a version, as an id.
pub(super) fn write_id(write: &Write<Version>) -> VersionId {
    VersionId::Id { stamp: write.stamp_time, segment: write.dot.segment, sequence: write.dot.sequence }
}

/// The tags of a version of a file: those that it came with, or those that it was given since.
pub fn tags_of(row: &NodeRow, write: &Write<Version>) -> Tags {
    let given = row.tags.shown().and_then(|given| Some((given, given.value.as_ref()?)));
    let given = given.filter(|(given, set)| {
        let no_id = VersionId::Null.to_bytes();
        set.version == write_id(write).to_bytes()
            || set.version != no_id && set.version == version_id(write).to_bytes()
            // Before there was an id for each write.
            || set.version == no_id && given.stamp_time > write.stamp_time
    });
    match given {
        Some((_, set)) => set.tags.clone(),
        None => write.value.as_ref().map(|version| version.tags.clone()).unwrap_or_default(),
    }
}

/// The id of a version from the write that carries it.
pub(super) fn version_id(write: &Write<Version>) -> VersionId {
    let own = write_id(write);
    write.value.as_ref().map_or(own, |v| v.version_id(own))
}

/// What doors hear about a version.
pub fn info(key: Bytes, node: NodeId, write: &Write<Version>, row: &NodeRow, is_current: bool) -> Result<ObjectInfo> {
    let version = write.value.as_ref().ok_or_else(|| Error::damaged("a tombstone was taken for a version"))?;
    let id = version_id(write);
    let attributes = row.shown_attributes();
    let attributes = attributes.as_deref();
    let by_hand = attributes.and_then(|a| a.modified_ns).filter(|(_, of)| *of == version.modified_ns && is_current);
    let tags = tags_of(row, write);
    Ok(ObjectInfo {
        key,
        node,
        version: id,
        is_current,
        size: version.size,
        allocated_bytes: version.size.saturating_sub(version.hole_bytes),
        modified_ns: by_hand.map_or(version.modified_ns, |(time, _)| time),
        etag: version.etag.clone(),
        file_type: version.file_type,
        metadata: version.metadata.clone(),
        checksums: version.checksums.clone(),
        tags,
        attributes: attributes.map(|a| a.attributes.clone()).unwrap_or_default(),
        part_sizes: version.part_sizes.clone(),
        links: u32::try_from(row.names.len().max(1)).unwrap_or(u32::MAX),
        segment: write.dot.segment,
    })
}

/// What doors hear about a file that shows at a place of `parent`.
pub fn file_info(
    key: Bytes,
    (parent, name): (&NodeId, &[u8]),
    file: &ShownFile,
    write: &Write<Version>,
    row: &NodeRow,
) -> Result<ObjectInfo> {
    let mut info = info(key, file.identity(parent, name), write, row, true)?;
    if file.is_apart {
        info.links = 1;
    }
    Ok(info)
}

/// When the entries of a directory last changed: `moved` as this segment saw it, unless a time was set by hand since; else when it was made.
pub fn directory_modified_ns(row: &NodeRow, moved: Option<TimeNs>, made: TimeNs) -> TimeNs {
    let by_hand = row.shown_attributes().and_then(|a| a.modified_ns);
    match (by_hand, moved) {
        (Some((time, set)), Some(moved)) if set >= moved => time,
        (Some((time, _)), None) => time,
        (_, Some(moved)) => moved,
        (None, None) => made,
    }
}

/// What doors hear about a directory that is an object by itself.
pub fn directory_info(
    own: &SegmentId,
    key: Bytes,
    node: NodeId,
    object: &ExplicitDirectory,
    row: &NodeRow,
) -> ObjectInfo {
    if let Some(write) = row.content.shown().filter(|w| w.value.is_some())
        && let Ok(mut info) = info(key.clone(), node, write, row, true)
    {
        info.file_type = FileType::Directory;
        info.modified_ns = object.modified_ns;
        return info;
    }
    let home = row.home.shown();
    ObjectInfo {
        key,
        node,
        version: VersionId::Null,
        is_current: true,
        size: object.size,
        allocated_bytes: object.size,
        modified_ns: object.modified_ns,
        etag: object.etag.clone(),
        file_type: FileType::Directory,
        metadata: Default::default(),
        checksums: Vec::new(),
        tags: Tags::new(),
        attributes: row.shown_attributes().map(|a| a.attributes.clone()).unwrap_or_default(),
        part_sizes: Vec::new(),
        links: 1,
        segment: home.map_or(*own, |w| w.dot.segment),
    }
}
