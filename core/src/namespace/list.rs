//! Listings: keys in byte order, by walking the tree. A directory's name sorts with its `/`, so the walk needs no sorting.

use super::history::kept_version_id;
use super::keys;
use super::loser::{Loser, losers};
use super::rows::{HistoryRow, Shown};
use super::view::{EntryCursor, View};
use super::{is_directory_name, split};
use crate::error::Result;
use crate::id::{NodeId, SegmentId, VersionId};
use crate::kv::{KeyRange, Space, end_of_prefix};
use crate::object::{ListItem, ListOptions, ListPage, ListVersionsOptions, ObjectSummary, VersionItem, VersionPage};
use crate::register::Write;
use async_recursion::async_recursion as boxed;
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Bound;

/// A directory being walked.
struct Level {
    key: Bytes,
    cursor: EntryCursor,
}

/// Walks keys in order, from a starting key on.
struct Walk {
    view: View,
    prefix: Bytes,
    levels: Vec<Level>,
}

/// What a walk meets.
enum Met {
    /// A key with what shows under it.
    Key(Bytes, Shown),
    /// A directory whose keys all start with this; not entered yet.
    Directory(Bytes, NodeId),
}

fn join(a: &Bytes, b: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(a.len() + b.len());
    out.put_slice(a);
    out.put_slice(b);
    out.freeze()
}

/// The smallest byte string that is greater than all that start with `prefix`, if there is one.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    match end_of_prefix(prefix) {
        Bound::Excluded(end) => Some(end),
        _ => None,
    }
}

impl Walk {
    /// Starts at the first key that starts with `prefix` and satisfies `start`.
    async fn new(view: View, prefix: Bytes, start: Bound<Bytes>) -> Result<Walk> {
        let mut walk = Walk { view, prefix: prefix.clone(), levels: Vec::new() };
        // The later of the two beginnings.
        let from = match start {
            Bound::Included(key) if key > prefix => Bound::Included(key),
            Bound::Excluded(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let (target, is_excluded) = match from {
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
            Bound::Unbounded => (Bytes::new(), false),
        };
        let parts = split(&target);
        let mut node = NodeId::ROOT;
        let mut key = Bytes::new();
        for name in &parts.directories {
            // This level goes on behind the directory on the path; the path itself is a level of its own.
            let below = walk.view.shown(&node, name).await?;
            let cursor = walk.view.entries(node, Bound::Excluded(name.clone()));
            walk.levels.push(Level { key: key.clone(), cursor });
            match below {
                Some(Shown::Directory { node: next, .. }) => {
                    node = next;
                    key = join(&key, name);
                }
                _ => return Ok(walk),
            }
        }
        // A target that is a directory's own key (`a/`) includes its object, which is met on the level above; so when it is
        // to be included the level above starts at it.
        if parts.leaf.is_empty() && !is_excluded && !target.is_empty() {
            if let (Some(level), Some(name)) = (walk.levels.last_mut(), parts.directories.last()) {
                let above = level.key.clone();
                let parent = walk.view.directory(&split(&above).directories).await?.unwrap_or(NodeId::ROOT);
                level.cursor = walk.view.entries(parent, Bound::Included(name.clone()));
            }
            return Ok(walk);
        }
        let start = match (parts.leaf.is_empty(), is_excluded) {
            (true, _) => Bound::Unbounded,
            (false, false) => Bound::Included(parts.leaf),
            (false, true) => Bound::Excluded(parts.leaf),
        };
        let cursor = walk.view.entries(node, start);
        walk.levels.push(Level { key, cursor });
        Ok(walk)
    }

    /// The next thing whose key starts with the prefix.
    async fn next(&mut self) -> Result<Option<Met>> {
        while let Some(level) = self.levels.last_mut() {
            let Some((name, shown)) = level.cursor.next().await? else {
                self.levels.pop();
                continue;
            };
            let key = join(&level.key, &name);
            if !key.starts_with(&self.prefix) && !self.prefix.starts_with(&key) {
                if key > self.prefix {
                    return Ok(None);
                }
                continue;
            }
            if let Shown::Directory { node, .. } = &shown {
                if key.starts_with(&self.prefix) {
                    // The object first; `enter` is up to the caller.
                    let node = *node;
                    return Ok(Some(match shown {
                        Shown::Directory { explicit: None, .. } => Met::Directory(key, node),
                        shown => Met::Key(key, shown),
                    }));
                }
                // On the way to the prefix.
                self.enter(key, *node);
                continue;
            }
            if key.starts_with(&self.prefix) {
                return Ok(Some(Met::Key(key, shown)));
            }
        }
        Ok(None)
    }

    fn enter(&mut self, key: Bytes, node: NodeId) {
        let cursor = self.view.entries(node, Bound::Unbounded);
        self.levels.push(Level { key, cursor });
    }
}

/// The common prefix that `key` is rolled up into.
pub(super) fn rolled_up(key: &Bytes, prefix: &Bytes, delimiter: Option<&Bytes>) -> Option<Bytes> {
    let delimiter = delimiter.filter(|d| !d.is_empty())?;
    let rest = key.get(prefix.len()..)?;
    let at = rest.windows(delimiter.len()).position(|w| w == delimiter.as_ref())?;
    Some(key.slice(..prefix.len() + at + delimiter.len()))
}

/// Where a listing that was cut after `after` goes on: behind the key, or behind everything under the prefix it is.
fn resume(prefix: &Bytes, delimiter: Option<&Bytes>, after: Option<&Bytes>) -> Option<Bound<Bytes>> {
    match after {
        None => Some(Bound::Unbounded),
        Some(after) => match rolled_up(after, prefix, delimiter).filter(|_| after.starts_with(prefix)) {
            Some(common) if common == *after => after_prefix(&common).map(Bound::Included),
            _ => Some(Bound::Excluded(after.clone())),
        },
    }
}

/// A page of keys.
#[boxed]
pub async fn list(view: View, options: &ListOptions) -> Result<ListPage> {
    let mut page = ListPage::default();
    let delimiter = options.delimiter.as_ref().filter(|d| !d.is_empty());
    let Some(start) = resume(&options.prefix, delimiter, options.after.as_ref()) else {
        return Ok(page);
    };
    if options.limit == 0 {
        return Ok(page);
    }
    let mut walk = Walk::new(view.clone(), options.prefix.clone(), start).await?;
    let mut last: Option<Bytes> = None;
    while let Some(met) = walk.next().await? {
        let (Met::Key(key, _) | Met::Directory(key, _)) = &met;
        let common = rolled_up(key, &options.prefix, delimiter);
        // A directory that is not an object is met before its keys: its own name may not be what they roll up into.
        if common.is_none()
            && let Met::Directory(key, node) = met
        {
            walk.enter(key, node);
            continue;
        }
        if page.items.len() == options.limit {
            page.next = last;
            return Ok(page);
        }
        match (common, met) {
            (Some(common), met) => {
                let (Met::Key(key, _) | Met::Directory(key, _)) = &met;
                let is_whole = common == *key && is_directory_name(key);
                page.items.push(ListItem::Prefix(common.clone()));
                if !is_whole {
                    // A delimiter inside a name: go on behind all that is rolled up.
                    match after_prefix(&common) {
                        Some(end) => {
                            walk = Walk::new(view.clone(), options.prefix.clone(), Bound::Included(end)).await?
                        }
                        None => return Ok(page),
                    }
                }
                last = Some(common);
            }
            (None, Met::Key(key, shown)) => {
                last = Some(key.clone());
                let is_away = options.with_away && view.is_away(&shown).await?;
                match shown {
                    Shown::File(file) => {
                        page.items.push(ListItem::Object(ObjectSummary { is_away, ..file.summary(key) }));
                    }
                    Shown::Directory { node, explicit } => {
                        if let Some(object) = explicit {
                            page.items.push(ListItem::Object(object.summary(key.clone())));
                        }
                        walk.enter(key, node);
                    }
                }
            }
            (None, Met::Directory(key, node)) => walk.enter(key, node),
        }
    }
    Ok(page)
}

/// Versions of one directory level, merged by name from what shows and what is kept.
struct VersionLevel {
    key: Bytes,
    node: NodeId,
    names: Vec<Bytes>,
}

/// A page of versions: every key that shows or has kept versions, each newest first.
///
/// Keys are gathered per directory from both spaces. A directory's page of names is bounded, and so is a key's page of versions.
#[boxed]
pub async fn list_versions(
    view: View,
    bucket: keys::BucketNumber,
    options: &ListVersionsOptions,
) -> Result<VersionPage> {
    let mut page = VersionPage::default();
    let delimiter = options.delimiter.as_ref().filter(|d| !d.is_empty());
    if options.limit == 0 {
        return Ok(page);
    }
    let mut walk = VersionWalk::new(view.clone(), bucket, options, delimiter).await?;
    let mut last: Option<(Bytes, Option<VersionId>)> = None;
    while let Some((key, parent, name)) = walk.next().await? {
        if view.passes_over(&parent, &name).await? {
            continue;
        }
        if let Some(common) = rolled_up(&key, &options.prefix, delimiter) {
            if page.items.last() == Some(&VersionItem::Prefix(common.clone())) {
                continue;
            }
            if page.items.len() == options.limit {
                page.next = last;
                return Ok(page);
            }
            if !is_directory_name(&key) || subtree_has_versions(&view, bucket, &key).await? {
                page.items.push(VersionItem::Prefix(common.clone()));
                last = Some((common.clone(), None));
            }
            if common == key {
                continue;
            }
            let Some(end) = after_prefix(&common) else {
                return Ok(page);
            };
            walk.restart(Bound::Included(end)).await?;
            continue;
        }
        let skip_to = match (&options.after, options.after_version) {
            (Some(after), Some(version)) if *after == key => Some(version),
            _ => None,
        };
        let versions = versions_of(&view, bucket, (&parent, &name), &key, options.limit + 1, skip_to).await?;
        for item in versions {
            if page.items.len() == options.limit {
                page.next = last;
                return Ok(page);
            }
            if let VersionItem::Version { version, .. } = &item {
                last = Some((key.clone(), Some(*version)));
            }
            page.items.push(item);
        }
        if is_directory_name(&key) {
            walk.enter(key).await?;
        }
    }
    Ok(page)
}

/// Whether anything below the directory `key` (or it itself) shows or is kept.
async fn subtree_has_versions(view: &View, bucket: keys::BucketNumber, key: &Bytes) -> Result<bool> {
    let options = ListVersionsOptions { prefix: key.clone(), limit: 1, ..ListVersionsOptions::default() };
    let page = Box::pin(list_versions(view.clone(), bucket, &options)).await?;
    Ok(!page.items.is_empty())
}

/// Where a listing of a key's versions goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// Behind this one in the list.
    Version(VersionId),
    /// Behind where a version was that has gone: those that were written before it.
    Write(VersionId),
}

/// The versions of one key, newest first; with `after`, those behind it, which may have gone meanwhile. Where the `null` version was is not known any more when it
/// has: then all of them.
async fn versions_of(
    view: &View,
    bucket: keys::BucketNumber,
    place: (&NodeId, &Bytes),
    key: &Bytes,
    limit: usize,
    after: Option<VersionId>,
) -> Result<Vec<VersionItem>> {
    let Some(after) = after else {
        return Ok(versions_behind(view, bucket, place, key, limit, Behind::Nothing).await?.0);
    };
    let (versions, is_found) = versions_behind(view, bucket, place, key, limit, Behind::Version(after)).await?;
    if is_found {
        return Ok(versions);
    }
    let behind = if after == VersionId::Null { Behind::Nothing } else { Behind::Write(after) };
    Ok(versions_behind(view, bucket, place, key, limit, behind).await?.0)
}

/// The same; and whether the version was found.
async fn versions_behind(
    view: &View,
    bucket: keys::BucketNumber,
    (parent, name): (&NodeId, &Bytes),
    key: &Bytes,
    limit: usize,
    behind: Behind,
) -> Result<(Vec<VersionItem>, bool)> {
    let mut out = Vec::new();
    let mut is_found = false;
    let mut push = |out: &mut Vec<VersionItem>, item: VersionItem, id: VersionId, write: VersionId| {
        let is_behind = match behind {
            Behind::Nothing => true,
            Behind::Version(_) => is_found,
            Behind::Write(gone) => write.to_bytes() < gone.to_bytes(),
        };
        is_found |= behind == Behind::Version(id);
        if is_behind {
            out.push(item);
        }
    };
    let shown = view.shown(parent, name).await?;
    match &shown {
        Some(Shown::File(file)) => {
            let row = view.node(&file.node).await?;
            if let Some(write) = row.shown_content(file.content, view.rules()) {
                let id = super::write::version_id(write);
                let item = item(file.summary(key.clone()), id, true, false, write.dot.segment);
                push(&mut out, item, id, super::write::write_id(write));
            }
        }
        Some(Shown::Directory { node, explicit: Some(object) }) => {
            let row = view.node(node).await?;
            let info = super::write::directory_info(view.own(), key.clone(), *node, object, &row);
            let item = item(object.summary(key.clone()), info.version, true, false, info.segment);
            // It comes first.
            let write = row.current(view.rules()).map_or(info.version, super::write::write_id);
            push(&mut out, item, info.version, write);
        }
        _ => {}
    }
    let has_current = matches!(&shown, Some(Shown::File(_) | Shown::Directory { explicit: Some(_), .. }));
    let prefix = keys::history_of_name(bucket, parent, name);
    let mut range = KeyRange::prefix(&prefix);
    let mut is_newest = !has_current;
    let mut losers = losers(view, parent, name).await?.into_iter().peekable();
    while out.len() < limit {
        let page = view.store_snapshot().scan(Space::History, range, 256, false).await?;
        for (row_key, value) in &page.rows {
            let row = HistoryRow::decode(value.clone(), view.own())?;
            let Some(write) = row.register.shown() else { continue };
            let Some(version) = &write.value else { continue };
            let id = kept_version_id(row_key, write)?;
            let (_, _, order) = keys::parse_history(row_key)?;
            while let Some(loser) = losers.next_if(|loser| loser.id.to_bytes() >= order.version().to_bytes()) {
                if loser.id != id {
                    push(&mut out, loser_item(key, &loser), loser.id, loser.id);
                }
            }
            let summary = summary_of(key, version);
            let segment = origin(id, write);
            let entry = item(summary, id, is_newest, version.is_marker, segment);
            is_newest = false;
            push(&mut out, entry, id, order.version());
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => break,
        }
    }
    for loser in losers {
        push(&mut out, loser_item(key, &loser), loser.id, loser.id);
    }
    Ok((out, is_found))
}

fn loser_item(key: &Bytes, loser: &Loser) -> VersionItem {
    item(summary_of(key, &loser.version), loser.id, false, false, loser.write.dot.segment)
}

fn summary_of(key: &Bytes, version: &super::Version) -> ObjectSummary {
    ObjectSummary {
        key: key.clone(),
        size: version.size,
        modified_ns: version.modified_ns,
        etag: version.etag.clone(),
        file_type: version.file_type,
        is_away: false,
    }
}

fn origin(id: VersionId, write: &Write<super::Version>) -> SegmentId {
    match id {
        VersionId::Id { segment, .. } => segment,
        VersionId::Null => write.dot.segment,
    }
}

fn item(
    summary: ObjectSummary,
    version: VersionId,
    is_current: bool,
    is_marker: bool,
    segment: SegmentId,
) -> VersionItem {
    VersionItem::Version { summary, version, is_current, is_marker, segment }
}

/// Walks all names, of what shows, of what is hidden and of what is only history.
struct VersionWalk {
    view: View,
    bucket: keys::BucketNumber,
    prefix: Bytes,
    levels: Vec<VersionLevel>,
}

/// How many names of a directory a version walk holds at a time.
const NAMES_MAX: usize = 1024;

impl VersionWalk {
    async fn new(
        view: View,
        bucket: keys::BucketNumber,
        options: &ListVersionsOptions,
        delimiter: Option<&Bytes>,
    ) -> Result<VersionWalk> {
        let mut walk = VersionWalk { view, bucket, prefix: options.prefix.clone(), levels: Vec::new() };
        let start = match (&options.after, options.after_version) {
            (Some(after), Some(_)) => Some(Bound::Included(after.clone())),
            (after, _) => resume(&options.prefix, delimiter, after.as_ref()),
        };
        match start {
            Some(start) => walk.restart(start).await?,
            None => walk.levels.clear(),
        }
        Ok(walk)
    }

    /// Begins again at `start`.
    async fn restart(&mut self, start: Bound<Bytes>) -> Result<()> {
        self.levels.clear();
        let from = match start {
            Bound::Included(key) if key > self.prefix => Bound::Included(key),
            Bound::Excluded(key) if key >= self.prefix => Bound::Excluded(key),
            _ => Bound::Included(self.prefix.clone()),
        };
        let (target, is_excluded) = match from {
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
            Bound::Unbounded => (Bytes::new(), false),
        };
        let parts = split(&target);
        let (mut node, mut key) = (NodeId::ROOT, Bytes::new());
        for (i, name) in parts.directories.iter().enumerate() {
            let is_target = parts.leaf.is_empty() && i + 1 == parts.directories.len();
            let includes_itself = is_target && !is_excluded;
            let start = if includes_itself { Bound::Included(name.clone()) } else { Bound::Excluded(name.clone()) };
            let names = self.names(node, start).await?;
            self.levels.push(VersionLevel { key: key.clone(), node, names });
            if includes_itself {
                return Ok(());
            }
            key = join(&key, name);
            match self.view.any_directory(&split(&key).directories).await? {
                Some(next) => node = next,
                None => return Ok(()),
            }
        }
        let start = match (parts.leaf.is_empty(), is_excluded) {
            (true, _) => Bound::Unbounded,
            (false, false) => Bound::Included(parts.leaf),
            (false, true) => Bound::Excluded(parts.leaf),
        };
        let names = self.names(node, start).await?;
        self.levels.push(VersionLevel { key, node, names });
        Ok(())
    }

    /// Names in a directory from `start` on, last first, at most [`NAMES_MAX`].
    async fn names(&self, directory: NodeId, start: Bound<Bytes>) -> Result<Vec<Bytes>> {
        let prefix = keys::entry(self.bucket, &directory, b"");
        let snapshot = self.view.store_snapshot();
        let entry_start = match &start {
            Bound::Included(name) => Bound::Included(keys::entry(self.bucket, &directory, name)),
            Bound::Excluded(name) => Bound::Excluded(keys::entry(self.bucket, &directory, name)),
            Bound::Unbounded => Bound::Included(prefix.clone()),
        };
        let range = KeyRange { start: entry_start, end: end_of_prefix(&prefix) };
        let entries = snapshot.scan(Space::Entries, range, NAMES_MAX, false).await?;
        let mut names: Vec<Bytes> = entries.rows.iter().map(|(key, _)| key.slice(prefix.len()..)).collect();
        let mut horizon = if entries.more { names.last().cloned() } else { None };
        // Names that are only in history: jump from name to name.
        let mut from = match &start {
            Bound::Included(name) => Bound::Included(keys::history_of_name(self.bucket, &directory, name)),
            Bound::Excluded(name) => {
                end_of_prefix(&keys::history_of_name(self.bucket, &directory, name)).map_included()
            }
            Bound::Unbounded => Bound::Included(prefix.clone()),
        };
        let mut found = 0;
        loop {
            let range = KeyRange { start: from, end: end_of_prefix(&prefix) };
            let page = snapshot.scan(Space::History, range, 1, false).await?;
            let Some((key, _)) = page.rows.first() else { break };
            let (_, name, _) = keys::parse_history(key)?;
            if horizon.as_ref().is_some_and(|h| name > *h) {
                break;
            }
            from = end_of_prefix(&keys::history_of_name(self.bucket, &directory, &name)).map_included();
            names.push(name.clone());
            found += 1;
            if found == NAMES_MAX {
                horizon = Some(name);
                break;
            }
        }
        names.sort_unstable();
        names.dedup();
        if let Some(horizon) = horizon {
            names.retain(|name| *name <= horizon);
        }
        names.reverse();
        Ok(names)
    }

    async fn next(&mut self) -> Result<Option<(Bytes, NodeId, Bytes)>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let (parent, key) = (level.node, join(&level.key, &name));
            if level.names.is_empty() {
                let more = self.names(parent, Bound::Excluded(name.clone())).await?;
                if let Some(level) = self.levels.last_mut() {
                    level.names = more;
                }
            }
            if key.starts_with(&self.prefix) {
                return Ok(Some((key, parent, name)));
            }
            if self.prefix.starts_with(&key) && is_directory_name(&key) {
                self.enter(key).await?;
            } else if key > self.prefix {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Goes into the directory whose key was met last. Not into one that it is in already: directories that were moved into each other at two sites show as a tree, but
    /// what does not show still leads around.
    async fn enter(&mut self, key: Bytes) -> Result<()> {
        let node = self.view.any_directory(&split(&key).directories).await?;
        if let Some(node) = node.filter(|node| self.levels.iter().all(|level| level.node != *node)) {
            let names = self.names(node, Bound::Unbounded).await?;
            self.levels.push(VersionLevel { key, node, names });
        }
        Ok(())
    }
}

trait MapIncluded {
    fn map_included(self) -> Bound<Bytes>;
}

impl MapIncluded for Bound<Bytes> {
    /// An end that a range excludes is where the next one starts.
    fn map_included(self) -> Bound<Bytes> {
        match self {
            Bound::Excluded(key) => Bound::Included(key),
            other => other,
        }
    }
}
