//! What shows, derived anew where a transaction has changed registers, and nowhere else.
//!
//! What shows at a name depends on the entry's register, on the files it names, on contents that have no name and were written there, and, for derived
//! names, on all that is in conflict in the directory. So files are derived name by name ([`tree::name_files`] over a part of a directory), and more names are
//! taken in where derived names meet. A directory shows where its home says, if it is alive; that goes upwards, as long as something appears
//! or vanishes. What is in a directory does not depend on where that hangs, nor on whether it hangs anywhere yet. `verify` holds all this against the whole.
//!
//! Rules that hold after every commit to a shared bucket:
//! * A file's node row lists exactly the entries that are live with it.
//! * Every conflict has its row (see `contention`), and nothing else has.
//! * A directory that shows is explicit, or something that shows is in it.

use super::contention::{Contentions, Names};
use super::cycles::Cycles;
use super::directory::has_witness;
use super::keys::{self, BucketNumber};
use super::rows::{ExplicitDirectory, NodeRow, Shown, ShownFile};
use super::txn::Txn;
use super::version::Version;
use super::{BucketState, Place, is_directory_name};
use crate::error::Result;
use crate::id::NodeId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::object::TimeNs;
use crate::policy::ConflictPolicy;
use crate::register::{Dot, Register, Write};
use crate::tree::{self, ContentValue, DirectoryWish, EntryKind, EntryValue, FileWish, Rules};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SCAN_ROWS: usize = 256;

/// Derives what the changes of `txn` make of what shows, writes what differs, and counts it.
pub async fn show(txn: &mut Txn, bucket: &BucketState) -> Result<()> {
    show_names(txn, bucket, BTreeMap::new()).await?;
    if bucket.may_have_away() {
        super::away::forget_nameless(txn, bucket.number).await?;
    }
    Ok(())
}

/// Meta: `rules/` and the bucket, by which rules its conflicts were derived.
pub fn rules_row(bucket: BucketNumber) -> Bytes {
    [&b"rules/"[..], &bucket.to_be_bytes()].concat().into()
}

/// What [`derive_conflicts`] writes there. No row: all losers show.
pub fn rules_value(bucket: &BucketState) -> Option<Bytes> {
    let rules = bucket.rules();
    match rules.conflicts {
        ConflictPolicy::KeepBoth => None,
        ConflictPolicy::LastWriterWins => Some(Bytes::from_static(&[1])),
        ConflictPolicy::OriginWins => Some([&[2][..], &rules.origin.0].concat().into()),
    }
}

/// Derives a page of the bucket's conflicts of files anew, because the rules have changed; `after`: behind the key that the page before returned. `None`: that
/// was the last, and the rules have been noted.
pub async fn derive_conflicts(txn: &mut Txn, bucket: &BucketState, after: Option<Bytes>) -> Result<Option<Bytes>> {
    let snapshot = txn.ledger().store().snapshot().await?;
    let prefix = keys::contentions(bucket.number);
    let range = match after {
        Some(after) => KeyRange::prefix_after(&prefix, after),
        None => KeyRange::prefix(&prefix),
    };
    let page = snapshot.scan(Space::Derived, range, SCAN_ROWS, false).await?;
    let mut files: BTreeMap<NodeId, BTreeSet<Bytes>> = BTreeMap::new();
    for (key, _) in &page.rows {
        let (directory, name) = keys::parse_contention(key)?;
        if tree::is_file_name(name) {
            files.entry(directory).or_default().insert(Bytes::copy_from_slice(name));
        }
    }
    show_names(txn, bucket, files).await?;
    let next = page.rows.last().filter(|_| page.more).map(|(last, _)| last.clone());
    if next.is_none() {
        match rules_value(bucket) {
            Some(row) => txn.put(Space::Meta, rules_row(bucket.number), row),
            None => txn.delete(Space::Meta, rules_row(bucket.number)),
        }
    }
    Ok(next)
}

#[boxed]
async fn show_names(txn: &mut Txn, bucket: &BucketState, files: BTreeMap<NodeId, BTreeSet<Bytes>>) -> Result<()> {
    let snapshot = txn.ledger().store().snapshot().await?;
    let mut pass = Pass {
        number: bucket.number,
        bucket,
        rules: bucket.rules(),
        contentions: Contentions::new(bucket.number, snapshot.clone()),
        cycles: Cycles::new(bucket.number),
        snapshot,
        txn,
        files,
        strays: BTreeMap::new(),
        directories: BTreeMap::new(),
        homed: BTreeMap::new(),
        cut: BTreeMap::new(),
    };
    let named = pass.name_nodes().await?;
    pass.mark_nodes(named).await?;
    while let Some((directory, names)) = pass.files.pop_first() {
        pass.show_files(directory, names).await?;
    }
    pass.mark_parents().await?;
    while let Some((directory, names)) = pass.directories.pop_first() {
        pass.show_directories(directory, names).await?;
    }
    let Pass { contentions, txn, .. } = pass;
    contentions.write(txn);
    txn.recount_shown(bucket.number);
    Ok(())
}

/// A node's contents as the tree sees them.
pub(super) fn contents_of(register: &Register<Version>) -> Register<ContentValue<()>> {
    register.view(|version| ContentValue {
        at: tree::Place::new(version.at.0, version.at.1.clone()),
        payload: (),
        deleted: version.deleted,
    })
}

/// What a file shows as under `place`.
pub(super) fn shown_file(row: &NodeRow, place: &tree::Place, file: &tree::ShownFile) -> Option<Shown> {
    let write = row.content.ordered().iter().find(|write| write.dot == file.content)?;
    let version = write.value.as_ref()?;
    let is_plain = file.is_main && file.conflict.is_none() && *place == file.place;
    let mut shown = ShownFile::of(file.node, (!is_plain).then_some(file.content), version);
    shown.is_apart = !is_plain && !file.is_main;
    if is_plain {
        shown.modified_ns = modified_ns(row, version);
    }
    Some(Shown::File(shown))
}

/// When the content that shows for a node was modified: the time that was set by hand, or when it was written.
fn modified_ns(row: &NodeRow, version: &Version) -> TimeNs {
    let by_hand = row.shown_attributes().and_then(|a| a.modified_ns).filter(|(_, of)| *of == version.modified_ns);
    by_hand.map_or(version.modified_ns, |(time, _)| time)
}

/// What a file shows as under one of its names, if no other has that.
pub(super) fn plain_file(node: &NodeId, row: &NodeRow, rules: &Rules) -> Option<ShownFile> {
    let version = row.current_version(rules)?;
    Some(ShownFile { modified_ns: modified_ns(row, version), ..ShownFile::of(*node, None, version) })
}

/// The object that an explicit directory shows as, where `now` shows so far.
pub(super) fn shown_object(row: &NodeRow, now: Option<&Shown>) -> ExplicitDirectory {
    // A directory's content is taken away with a plain tombstone, and all policies are the same for directories.
    match (row.content.value(), now) {
        (Some(v), _) => ExplicitDirectory { size: v.size, modified_ns: v.modified_ns, etag: v.etag.clone() },
        (None, Some(Shown::Directory { explicit: Some(object), .. })) => object.clone(),
        (None, _) => {
            let made_ms = row.home.shown().map_or(0, |write| write.stamp().unix_ms());
            ExplicitDirectory::empty(i64::try_from(made_ms).unwrap_or(0).saturating_mul(1_000_000))
        }
    }
}

/// The files that an entry's register names, in any order.
pub(super) fn named_files(register: &Register<EntryValue>) -> SmallVec<[NodeId; 2]> {
    let mut nodes = SmallVec::new();
    for (_, value) in register.live_values() {
        if value.is_file() && !nodes.contains(&value.node) {
            nodes.push(value.node);
        }
    }
    nodes
}

fn named_directories(register: &Register<EntryValue>) -> impl Iterator<Item = NodeId> + '_ {
    register.live_values().filter(|(_, value)| !value.is_file()).map(|(_, value)| value.node)
}

/// Where the contents of a node may show if it has no name.
fn stray_places(row: &NodeRow) -> Vec<Place> {
    if !row.names.is_empty() || !row.home.is_empty() {
        return Vec::new();
    }
    let live = row.content.live_values().filter(|(_, version)| version.deleted.is_none());
    let places = live.map(|(_, version)| version.at.clone());
    places.filter(|(_, name)| tree::is_file_name(name)).collect()
}

struct Pass<'a> {
    bucket: &'a BucketState,
    number: BucketNumber,
    rules: Rules<'static>,
    txn: &'a mut Txn,
    snapshot: Arc<dyn Snapshot>,
    contentions: Contentions,
    cycles: Cycles,
    /// Names of files to derive, by directory.
    files: BTreeMap<NodeId, BTreeSet<Bytes>>,
    /// Nodes of this transaction that may be without a name, by where their contents were written.
    strays: BTreeMap<Place, BTreeSet<NodeId>>,
    /// Names of directories to derive, by the directory they hang in.
    directories: BTreeMap<NodeId, BTreeSet<Bytes>>,
    /// Directories whose home this transaction changes, by where it is now.
    homed: BTreeMap<Place, BTreeSet<NodeId>>,
    /// Directories that may have been taken out of a cycle, by the name that their home says.
    cut: BTreeMap<Bytes, BTreeSet<NodeId>>,
}

impl Pass<'_> {
    /// Notes at nodes which entries name them now, and marks the names of changed entries. Returns the directories that they name.
    async fn name_nodes(&mut self) -> Result<BTreeSet<NodeId>> {
        let mut directories = BTreeSet::new();
        for key in self.txn.changed_entries(self.number) {
            let (parent, name) = keys::parse_entry(&key)?;
            let place = (parent, Bytes::copy_from_slice(name));
            let before = self.txn.entry_before(&key).map(|row| row.register.clone()).unwrap_or_default();
            let now = self.txn.entry(self.number, &place.0, &place.1).await?.register.clone();
            if is_directory_name(name) {
                directories.extend(named_directories(&before).chain(named_directories(&now)));
                self.directories.entry(place.0).or_default().insert(place.1);
            } else if tree::is_file_name(name) {
                let now = named_files(&now);
                for node in &now {
                    if !self.txn.node(self.number, node).await?.names.contains(&place) {
                        self.txn.edit_node(self.number, node).await?.names.push(place.clone());
                    }
                }
                for node in named_files(&before).iter().filter(|node| !now.contains(node)) {
                    if self.txn.node(self.number, node).await?.names.contains(&place) {
                        self.txn.edit_node(self.number, node).await?.names.retain(|name| *name != place);
                    }
                }
                self.files.entry(place.0).or_default().insert(place.1);
            }
        }
        Ok(directories)
    }

    /// Marks the names that depend on changed nodes, and on the directories `named` by changed entries.
    async fn mark_nodes(&mut self, named: BTreeSet<NodeId>) -> Result<()> {
        let mut moved = Vec::new();
        let mut directories = named;
        for key in self.txn.changed_nodes(self.number) {
            let (node, _) = keys::parse_entry(&key)?;
            let row = self.txn.node(self.number, &node).await?;
            let mut places = row.names.clone();
            let strays = stray_places(row);
            let (home, home_dot) = (row.home.value().cloned(), row.home.shown().map(|write| write.dot));
            let before = self.txn.node_before(&key);
            places.extend(before.into_iter().flat_map(|row| row.names.clone()));
            places.extend(before.into_iter().flat_map(stray_places));
            let home_before = before.and_then(|row| row.home.shown()).map(|write| (write.dot, write.value.clone()));
            for place in &strays {
                self.strays.entry(place.clone()).or_default().insert(node);
            }
            for (parent, name) in places.into_iter().chain(strays) {
                self.files.entry(parent).or_default().insert(name);
            }
            if node != NodeId::ROOT && (home.is_some() || home_before.is_some()) {
                directories.insert(node);
                if home_dot != home_before.as_ref().map(|(dot, _)| *dot) {
                    moved.push((node, home_before.and_then(|(_, place)| place)));
                    if let Some(place) = home {
                        self.homed.entry(place).or_default().insert(node);
                    }
                }
            }
        }
        for (node, before) in moved {
            if let Some((parent, name)) = before {
                self.directories.entry(NodeId::ROOT).or_default().insert(name.clone());
                self.directories.entry(parent).or_default().insert(name);
            }
            for then in [true, false] {
                for member in self.cycles.members(self.txn, &node, then).await? {
                    self.mark_cut(&member).await?;
                    directories.insert(member);
                }
            }
        }
        for node in directories {
            self.mark_directory(&node).await?;
        }
        Ok(())
    }

    /// A directory that is, or was, in a cycle.
    async fn mark_cut(&mut self, node: &NodeId) -> Result<()> {
        if let Some((parent, name)) = self.txn.node(self.number, node).await?.home.value().cloned() {
            self.cut.entry(name.clone()).or_default().insert(*node);
            self.directories.entry(NodeId::ROOT).or_default().insert(name.clone());
            self.directories.entry(parent).or_default().insert(name);
        }
        Ok(())
    }

    /// Marks the name that a directory wants.
    async fn mark_directory(&mut self, node: &NodeId) -> Result<()> {
        if *node == NodeId::ROOT {
            return Ok(());
        }
        let Some((parent, name)) = self.txn.node(self.number, node).await?.home.value().cloned() else {
            return Ok(());
        };
        if self.cycles.is_cut(self.txn, node).await? {
            self.cut.entry(name.clone()).or_default().insert(*node);
            self.directories.entry(NodeId::ROOT).or_default().insert(name);
        } else {
            self.directories.entry(parent).or_default().insert(name);
        }
        Ok(())
    }

    /// Marks the directories in which something appeared or vanished: they may have come to life, or be empty.
    async fn mark_parents(&mut self) -> Result<()> {
        let mut parents = BTreeSet::new();
        for key in self.txn.changed_entries(self.number) {
            let (parent, name) = keys::parse_entry(&key)?;
            let name = Bytes::copy_from_slice(name);
            let before = self.txn.entry_before(&key).is_some_and(|row| row.shown.is_some());
            if before != self.txn.entry(self.number, &parent, &name).await?.shown.is_some() {
                parents.insert(parent);
            }
        }
        for parent in parents {
            self.mark_directory(&parent).await?;
        }
        Ok(())
    }

    async fn show_files(&mut self, directory: NodeId, mut names: BTreeSet<Bytes>) -> Result<()> {
        let mut is_whole = self.contentions.is_crowded(self.txn, &directory, Names::Files).await?;
        if is_whole {
            names.extend(self.contentions.all(self.txn, &directory, Names::Files).await?);
        }
        let mut wishes: BTreeMap<Bytes, Vec<FileWish>> = BTreeMap::new();
        let (mut shown, taken, derived) = loop {
            let mut derived = BTreeSet::new();
            for name in &names {
                let conflicts = self.contentions.get(self.txn, &directory, name).await?;
                derived.extend(conflicts.iter().filter_map(|c| c.shown.as_ref()).map(|place| place.name.clone()));
                if !wishes.contains_key(name) {
                    let found = self.file_wishes(&directory, name).await?;
                    wishes.insert(name.clone(), found);
                }
            }
            let mut shown = tree::Shown::default();
            let all = wishes.values().flatten().cloned().collect();
            let taken = tree::name_files(&directory, all, &self.rules, &mut shown);
            let mut more = BTreeSet::new();
            let mut is_met = false;
            for name in names.union(&taken.names) {
                let row = self.txn.entry(self.number, &directory, name).await?;
                if !names.contains(name) && !named_files(&row.register).is_empty() {
                    more.insert(name.clone());
                }
                let before = self.txn.entry_before(&keys::entry(self.number, &directory, name));
                let is_copy =
                    before.is_some_and(|row| matches!(&row.shown, Some(Shown::File(file)) if file.content.is_some()));
                // The copy of another name that is in conflict shows there.
                is_met |= is_copy
                    && !derived.contains(name)
                    && self.contentions.get(self.txn, &directory, name).await?.is_empty();
            }
            if is_met && !is_whole {
                is_whole = true;
                more.extend(self.contentions.all(self.txn, &directory, Names::Files).await?);
            }
            if more.is_subset(&names) {
                break (shown, taken, derived);
            }
            names.extend(more);
        };
        let mut conflicts = by_name(std::mem::take(&mut shown.conflicts));
        for name in &names {
            self.contentions.set(&directory, name, conflicts.remove(name).unwrap_or_default());
        }
        if taken.is_crowded || is_whole {
            self.contentions.set_crowded(&directory, Names::Files, taken.is_crowded);
        }
        let mut all = names;
        all.extend(derived);
        all.extend(taken.names);
        for name in all {
            let place = tree::Place::new(directory, name);
            let shows = match shown.files.get(&place) {
                Some(file) => shown_file(self.txn.node(self.number, &file.node).await?, &place, file),
                None => None,
            };
            self.set(&directory, &place.name, shows).await?;
        }
        Ok(())
    }

    /// All that wants a name for a file.
    async fn file_wishes(&mut self, directory: &NodeId, name: &Bytes) -> Result<Vec<FileWish>> {
        let register = &self.txn.entry(self.number, directory, name).await?.register;
        let named: SmallVec<[(Write<EntryValue>, NodeId); 2]> =
            tree::entry_files(register, &self.rules).into_iter().map(|(write, node)| (*write, node)).collect();
        let mut wishes = Vec::new();
        for (i, (write, node)) in named.iter().enumerate() {
            let row = self.txn.node(self.number, node).await?;
            for (j, content) in contents_in_order(row, &self.rules).into_iter().enumerate() {
                wishes.push(FileWish::named(name, write, *node, content, (i, j)));
            }
        }
        let place = (*directory, name.clone());
        let mut strays: BTreeSet<NodeId> = self.strays.get(&place).cloned().unwrap_or_default();
        strays.extend(self.contentions.get(self.txn, directory, name).await?.iter().map(|conflict| conflict.node));
        for node in strays {
            let row = self.txn.node(self.number, &node).await?;
            if !row.names.is_empty() || !row.home.is_empty() {
                continue;
            }
            let all = tree::strays_of(&contents_of(&row.content), &self.rules);
            let several = all.len() > 1;
            let here = all.into_iter().filter(|(at, _, _)| at.parent == *directory && at.name == *name);
            wishes.extend(here.map(|stray| FileWish::stray(stray, node, several)));
        }
        Ok(wishes)
    }

    async fn show_directories(&mut self, parent: NodeId, mut names: BTreeSet<Bytes>) -> Result<()> {
        let is_whole = self.contentions.is_crowded(self.txn, &parent, Names::Directories).await?;
        if is_whole {
            names.extend(self.contentions.all(self.txn, &parent, Names::Directories).await?);
        }
        let mut wishes: BTreeMap<Bytes, Vec<DirectoryWish>> = BTreeMap::new();
        let (mut shown, taken, derived) = loop {
            // Where these names' losers showed so far.
            let mut derived: BTreeMap<Bytes, NodeId> = BTreeMap::new();
            for name in &names {
                let conflicts = self.contentions.get(self.txn, &parent, name).await?;
                let losers = conflicts.iter().filter_map(|c| Some((c.shown.as_ref()?.name.clone(), c.node)));
                derived.extend(losers);
                if !wishes.contains_key(name) {
                    let found = self.directory_wishes(&parent, name).await?;
                    wishes.insert(name.clone(), found);
                }
            }
            let mut shown = tree::Shown::default();
            let all = wishes.values().flatten().collect();
            let taken = tree::name_directories(&parent, all, &self.rules, &mut shown);
            let mut more = BTreeSet::new();
            for name in names.union(&taken.names) {
                let row = self.txn.entry(self.number, &parent, name).await?;
                if let Some(Shown::Directory { node, .. }) = row.shown {
                    // What shows there may have another name and lost it, or have just this one and not be among `names` yet.
                    more.extend(self.name_wanted_in(&parent, &node).await?);
                }
            }
            if more.is_subset(&names) {
                break (shown, taken, derived);
            }
            names.extend(more);
        };
        let mut conflicts = by_name(std::mem::take(&mut shown.conflicts));
        for name in &names {
            self.contentions.set(&parent, name, conflicts.remove(name).unwrap_or_default());
        }
        if taken.is_crowded || is_whole {
            self.contentions.set_crowded(&parent, Names::Directories, taken.is_crowded);
        }
        for (name, node) in derived {
            let now = &self.txn.entry(self.number, &parent, &name).await?.shown;
            let is_left = matches!(now, Some(Shown::Directory { node: there, .. }) if *there == node);
            if is_left {
                names.insert(name);
            }
        }
        names.extend(taken.names);
        let mut has_changed = false;
        for name in names {
            let place = tree::Place::new(parent, name);
            let shows = match shown.directories_at.get(&place) {
                Some(node) => {
                    let now = self.txn.entry(self.number, &parent, &place.name).await?.shown.clone();
                    let row = self.txn.node(self.number, node).await?;
                    let is_explicit = shown.directories.get(node).is_some_and(|directory| directory.explicit);
                    let explicit = is_explicit.then(|| shown_object(row, now.as_ref()));
                    Some(Shown::Directory { node: *node, explicit })
                }
                None => None,
            };
            has_changed |= self.set(&parent, &place.name, shows).await?;
        }
        if has_changed {
            self.mark_directory(&parent).await?;
        }
        Ok(())
    }

    /// The name that a directory wants in `parent`, if it hangs there.
    async fn name_wanted_in(&mut self, parent: &NodeId, node: &NodeId) -> Result<Option<Bytes>> {
        let Some((at, name)) = self.txn.node(self.number, node).await?.home.value().cloned() else {
            return Ok(None);
        };
        let at = if self.cycles.is_cut(self.txn, node).await? { NodeId::ROOT } else { at };
        Ok((at == *parent).then_some(name))
    }

    /// All that wants a name for a directory, and is alive.
    async fn directory_wishes(&mut self, parent: &NodeId, name: &Bytes) -> Result<Vec<DirectoryWish>> {
        let place = (*parent, name.clone());
        let mut nodes = self.homed.get(&place).cloned().unwrap_or_default();
        let prefix = keys::homed_at(self.number, parent, name);
        let mut range = KeyRange::prefix(&prefix);
        loop {
            let page = self.snapshot.scan(Space::Derived, range, SCAN_ROWS, false).await?;
            for (key, _) in &page.rows {
                nodes.insert(NodeId::from_slice(key.get(prefix.len()..).unwrap_or_default())?);
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => break,
            }
        }
        if *parent == NodeId::ROOT {
            nodes.extend(self.cut.get(name).into_iter().flatten().copied());
            let conflicts = self.contentions.get(self.txn, parent, name).await?;
            nodes.extend(conflicts.iter().map(|conflict| conflict.node));
        }
        let mut wishes = Vec::new();
        for node in nodes {
            if let Some(wish) = self.directory_wish(&node).await?
                && wish.place.name == *name
                && (if wish.is_cut { NodeId::ROOT } else { wish.place.parent }) == *parent
                && (wish.explicit || self.holds_something(&node).await?)
            {
                wishes.push(wish);
            }
        }
        Ok(wishes)
    }

    async fn directory_wish(&mut self, node: &NodeId) -> Result<Option<DirectoryWish>> {
        let home = self.txn.node(self.number, node).await?.home.live_values().next();
        let Some((write, place)) = home.map(|(write, place)| (write.clone(), place.clone())) else {
            return Ok(None);
        };
        let mut wish = DirectoryWish {
            node: *node,
            place: tree::Place::new(place.0, place.1.clone()),
            dot: write.dot,
            stamp: write.stamp(),
            entry: None,
            explicit: false,
            is_cut: self.cycles.is_cut(self.txn, node).await?,
        };
        if is_directory_name(&place.1) {
            for (write, value) in self.txn.entry(self.number, &place.0, &place.1).await?.register.live_values() {
                if let EntryKind::Directory { explicit } = value.kind
                    && value.node == *node
                {
                    wish.hear(write, explicit);
                }
            }
        }
        Ok(Some(wish))
    }

    /// Whether something that shows is in a directory. The commit fails if that may have changed by then.
    async fn holds_something(&mut self, directory: &NodeId) -> Result<bool> {
        let (shows, more) = self.txn.shown_entries(self.number, directory);
        if shows {
            return Ok(true);
        }
        let edited = self.txn.edited_entries(self.number, directory).into_iter().next();
        let near = edited.map(|(name, _)| name).unwrap_or_default();
        if has_witness(self.txn, self.bucket, directory, &near).await? {
            return Ok(true);
        }
        self.txn.watch(Space::Derived, &keys::directory_time(self.number, directory));
        let count = self.txn.read(Space::Derived, &keys::entry_count(self.number, directory)).await?;
        let count = count.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes)).unwrap_or_default();
        Ok(count + more > 0)
    }

    /// Sets what shows at a place; returns whether something appeared or vanished.
    async fn set(&mut self, directory: &NodeId, name: &Bytes, shown: Option<Shown>) -> Result<bool> {
        let now = &self.txn.entry(self.number, directory, name).await?.shown;
        if *now == shown {
            return Ok(false);
        }
        let appears = now.is_some() != shown.is_some();
        let is_other = identity_of(now, directory, name) != identity_of(&shown, directory, name);
        self.txn.edit_entry(self.number, directory, name).await?.shown = shown;
        if is_other {
            self.txn.touch_directory(self.number, directory);
        }
        Ok(appears)
    }
}

/// The node that shows.
pub(super) fn node_of(shown: &Option<Shown>) -> Option<NodeId> {
    shown.as_ref().map(|shown| match shown {
        Shown::Directory { node, .. } => *node,
        Shown::File(file) => file.node,
    })
}

fn identity_of(shown: &Option<Shown>, directory: &NodeId, name: &[u8]) -> Option<NodeId> {
    shown.as_ref().map(|shown| shown.identity(directory, name))
}

/// The contents of a file that has a name, the one that shows first.
fn contents_in_order(row: &NodeRow, rules: &Rules) -> SmallVec<[Dot; 2]> {
    // A node with a home is a directory, whatever an entry calls it.
    if !row.home.is_empty() {
        return SmallVec::new();
    }
    tree::contents(&contents_of(&row.content), rules).iter().map(|(write, _)| write.dot).collect()
}

fn by_name(conflicts: Vec<tree::Conflict>) -> BTreeMap<Bytes, Vec<tree::Conflict>> {
    let mut named: BTreeMap<Bytes, Vec<tree::Conflict>> = BTreeMap::new();
    for conflict in conflicts {
        named.entry(conflict.place.name.clone()).or_default().push(conflict);
    }
    for conflicts in named.values_mut() {
        conflicts.sort();
    }
    named
}
