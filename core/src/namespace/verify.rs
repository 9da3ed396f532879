//! Whether what shows is what the registers say: the whole bucket derived at once ([`tree::derive_loose`]), held against what was derived change by change.

use super::contention;
use super::keys::{self, BucketNumber};
use super::rows::{EntryRow, NodeRow, Shown};
use super::show::{contents_of, named_files, shown_file, shown_object};
use super::{BucketState, Ledger, Place};
use crate::error::Result;
use crate::id::NodeId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::object::Usage;
use crate::tree::{self, Conflict, Registers};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SCAN_ROWS: usize = 1024;

/// All that differs between what a bucket's registers show and what its derived rows say, a line for each; sorted by kind. Reads, and holds in memory,
/// all of the bucket's metadata, as they were at one instant. In a bucket that was never shared the conflicts can't be wrong and are empty.
#[boxed]
pub async fn verify(ledger: &Ledger, bucket: &BucketState) -> Result<Vec<String>> {
    let snapshot = ledger.store().snapshot().await?;
    let whole = Whole::load(ledger, &snapshot, bucket.number).await?;
    let tree = tree::derive_loose(&whole.registers()?, &bucket.rules());
    let mut differences = Vec::new();
    let mut differ = |what: String, stored: String, derived: String| {
        if stored != derived {
            differences.push(format!("{what}: stored {stored}, derived {derived}"));
        }
    };
    let mut wanted = whole.shown(&tree);
    // P6: who has a name and a content is to be found.
    let found: BTreeSet<NodeId> = tree.files.values().map(|file| file.node).collect();
    let lost = tree.conflicts.iter().map(|conflict| conflict.node).collect::<BTreeSet<_>>();
    for (node, row) in &whole.nodes {
        let is_file = !row.names.is_empty() && row.home.is_empty() && !row.content.is_empty();
        if is_file && !found.contains(node) && !lost.contains(node) {
            differ(format!("the file {node}, which has a name"), "nothing".into(), format!("{:?}", row.content));
        }
    }
    let (mut usage, mut counts) = (Usage::default(), BTreeMap::<Bytes, i64>::new());
    for shown in wanted.values() {
        if let Some(size) = shown.object_size() {
            usage.objects += 1;
            usage.logical_bytes += size;
        }
    }
    for (parent, name) in wanted.keys() {
        if *parent != NodeId::ROOT {
            *counts.entry(keys::entry_count(bucket.number, parent)).or_default() += 1;
        }
        if name.ends_with(b"/") {
            *counts.entry(keys::directory_count(bucket.number, parent)).or_default() += 1;
        }
    }
    for (place, row) in &whole.entries {
        differ(format!("shown at {}", text(place)), format!("{:?}", row.shown), format!("{:?}", wanted.remove(place)));
    }
    for (place, shown) in wanted {
        differ(format!("shown at {}", text(&place)), "nothing".into(), format!("{shown:?}"));
    }
    let mut names: BTreeMap<NodeId, BTreeSet<Place>> = BTreeMap::new();
    for (place, row) in whole.entries.iter().filter(|(place, _)| tree::is_file_name(&place.1)) {
        for node in named_files(&row.register) {
            names.entry(node).or_default().insert(place.clone());
        }
    }
    for (node, row) in &whole.nodes {
        let stored: BTreeSet<Place> = row.names.iter().cloned().collect();
        differ(
            format!("names of {node}"),
            format!("{stored:?}"),
            format!("{:?}", names.remove(node).unwrap_or_default()),
        );
    }
    for (node, names) in names {
        differ(format!("names of {node}"), "no node".into(), format!("{names:?}"));
    }
    let held = ledger.usage_at(&snapshot, bucket.number).await?;
    let held = (held.objects, held.logical_bytes);
    differ("objects and bytes".into(), format!("{held:?}"), format!("{:?}", (usage.objects, usage.logical_bytes)));

    let mut conflicts: BTreeMap<Place, Vec<Conflict>> = BTreeMap::new();
    for conflict in tree.conflicts {
        conflicts.entry(contention::place_of(&conflict)).or_default().push(conflict);
    }
    let mut homed: BTreeSet<Bytes> = BTreeSet::new();
    for (node, row) in &whole.nodes {
        homed.extend(row.home.value().map(|(parent, name)| keys::homed(bucket.number, parent, name, node)));
    }
    let mut copies: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for ((parent, name), row) in &whole.entries {
        copies.extend(super::alias::row(bucket.number, (parent, name), row.shown.as_ref(), |dot| dot));
    }
    for (key, row) in whole.derived {
        match key.get(4) {
            Some(b'a') => {
                differ(
                    format!("copy {key:?}"),
                    format!("{row:?}"),
                    format!("{:?}", copies.remove(&key).unwrap_or_default()),
                );
            }
            Some(b'c') => {
                let (directory, name) = keys::parse_contention(&key)?;
                if !name.is_empty() {
                    let place = (directory, Bytes::copy_from_slice(name));
                    let stored = contention::decode(&directory, name, row)?;
                    let derived = conflicts.remove(&place).unwrap_or_default();
                    differ(format!("conflicts at {}", text(&place)), format!("{stored:?}"), format!("{derived:?}"));
                }
            }
            Some(b'e' | b's') => {
                let stored = row.as_ref().try_into().ok().map(i64::from_be_bytes).unwrap_or_default();
                let derived = counts.remove(&key).unwrap_or_default();
                differ(format!("count {key:?}"), stored.to_string(), derived.to_string());
            }
            Some(b'h') if !homed.remove(&key) => differ(format!("home {key:?}"), "here".into(), "elsewhere".into()),
            _ => {}
        }
    }
    for (place, conflicts) in conflicts {
        differ(format!("conflicts at {}", text(&place)), "none".into(), format!("{conflicts:?}"));
    }
    for (key, row) in copies {
        differ(format!("copy {key:?}"), "none".into(), format!("{row:?}"));
    }
    for (key, count) in counts {
        differ(format!("count {key:?}"), "none".into(), count.to_string());
    }
    for key in homed {
        differ(format!("home {key:?}"), "none".into(), "here".into());
    }
    Ok(differences)
}

fn text(place: &Place) -> String {
    format!("{}/{}", place.0, String::from_utf8_lossy(&place.1))
}

/// All rows of a bucket.
struct Whole {
    entries: BTreeMap<Place, EntryRow>,
    nodes: BTreeMap<NodeId, NodeRow>,
    derived: Vec<(Bytes, Bytes)>,
}

impl Whole {
    async fn load(ledger: &Ledger, snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Whole> {
        let mut whole = Whole { entries: BTreeMap::new(), nodes: BTreeMap::new(), derived: Vec::new() };
        let prefix = keys::bucket_prefix(bucket);
        for space in [Space::Entries, Space::Nodes, Space::Derived] {
            let mut range = KeyRange::prefix(&prefix);
            loop {
                let page = snapshot.scan(space, range, SCAN_ROWS, false).await?;
                for (key, row) in &page.rows {
                    if space == Space::Derived {
                        whole.derived.push((key.clone(), row.clone()));
                        continue;
                    }
                    let (node, name) = keys::parse_entry(key)?;
                    if space == Space::Entries {
                        let row = EntryRow::decode(row.clone(), ledger.own())?;
                        whole.entries.insert((node, Bytes::copy_from_slice(name)), row);
                    } else {
                        whole.nodes.insert(node, NodeRow::decode(row.clone(), ledger.own())?);
                    }
                }
                match page.rows.last() {
                    Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                    _ => break,
                }
            }
        }
        Ok(whole)
    }

    fn registers(&self) -> Result<Registers<()>> {
        let mut registers: Registers<()> = Registers::default();
        for (place, row) in self.entries.iter().filter(|(_, row)| !row.register.is_empty()) {
            registers.entries.insert(tree::Place::new(place.0, place.1.clone()), row.register.clone());
        }
        for (node, row) in &self.nodes {
            if !row.home.is_empty() {
                let home = row.home.view(|(parent, name)| tree::Place::new(*parent, name.clone()));
                registers.homes.insert(*node, home);
            } else if !row.content.is_empty() {
                registers.contents.insert(*node, contents_of(&row.content));
            }
        }
        Ok(registers)
    }

    /// What shows by place.
    fn shown(&self, tree: &tree::Shown) -> BTreeMap<Place, Shown> {
        let mut shown = BTreeMap::new();
        for (place, file) in &tree.files {
            let row = self.nodes.get(&file.node);
            if let Some(shows) = row.and_then(|row| shown_file(row, place, file)) {
                shown.insert((place.parent, place.name.clone()), shows);
            }
        }
        for (node, directory) in &tree.directories {
            let place = (directory.place.parent, directory.place.name.clone());
            let now = self.entries.get(&place).and_then(|row| row.shown.as_ref());
            let row = self.nodes.get(node).filter(|_| directory.explicit);
            let explicit = row.map(|row| {
                // A time set by hand is not the content's.
                match now {
                    Some(Shown::Directory { node: there, explicit: Some(object) }) if there == node => object.clone(),
                    _ => shown_object(row, now),
                }
            });
            shown.insert(place, Shown::Directory { node: *node, explicit });
        }
        shown
    }
}
