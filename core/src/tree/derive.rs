//! [`derive`]: registers in, tree and conflicts out.

use super::names::{is_directory_name, is_file_name};
use super::naming::{DirectoryWish, FileWish, Stray, name_directories, name_files, strays_of};
use super::registers::RegisterSource;
use super::show::{Rules, contents, entry_files};
use super::{EntryKind, Place};
use crate::id::NodeId;
use crate::register::Dot;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a bucket's registers show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// The files, by directory and the name they show under.
    pub files: BTreeMap<Place, ShownFile>,
    /// The directories, by node; the root is not listed.
    pub directories: BTreeMap<NodeId, ShownDirectory>,
    /// The same directories, by where they show.
    pub directories_at: BTreeMap<Place, NodeId>,
    /// What somebody should look at.
    pub conflicts: Vec<Conflict>,
}

/// A file (or symbolic link, …) that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownFile {
    /// Its node.
    pub node: NodeId,
    /// The place it has a claim to, the key of its entry register: where it shows, or where it would if it had not lost.
    pub place: Place,
    /// Which of the node's contents.
    pub content: Dot,
    /// The write to the entry register that gives it this name; `None` if it has no name left and was rescued.
    pub entry: Option<Dot>,
    /// Why it shows under a derived name, or at all.
    pub conflict: Option<ConflictKind>,
    /// Whether a change of this file is a change of the node. Otherwise it is one of several contents of the node (the loser of two edits, or all of them when a
    /// file is rescued), and to change it means to make it a file of its own: a new node with a name here, and a tombstone over just this content.
    pub is_main: bool,
}

/// A directory that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownDirectory {
    /// Where it shows.
    pub place: Place,
    /// Where its home register says.
    pub home: Place,
    /// Whether it stays when it is empty.
    pub explicit: bool,
    /// Why it shows under a derived name.
    pub conflict: Option<ConflictKind>,
}

/// Kinds of conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictKind {
    /// Two files under one name, or two edits of one file.
    File,
    /// Two directories under one name.
    DirectoryName,
    /// Directories were moved into each other; this one hangs under the root instead.
    Cycle,
    /// A file that was edited while somebody deleted it.
    Rescued,
}

/// Something that concurrent changes left for somebody to decide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Kind.
    pub kind: ConflictKind,
    /// The place in contention.
    pub place: Place,
    /// Where the loser shows. `None`: by bucket policy it does not, and is an older version of `place`.
    pub shown: Option<Place>,
    /// The loser's node.
    pub node: NodeId,
    /// The loser's content; `None` for directories.
    pub content: Option<Dot>,
    /// The write that lost, which also names it.
    pub dot: Dot,
}

impl Shown {
    /// The directory that shows at `place`.
    pub fn directory_at(&self, place: &Place) -> Option<NodeId> {
        self.directories_at.get(place).copied()
    }

    /// The path of a directory that shows, ending in `/`; the root's is empty.
    pub fn path(&self, directory: &NodeId) -> Option<Bytes> {
        let mut names = Vec::new();
        let mut at = *directory;
        while at != NodeId::ROOT {
            let shown = self.directories.get(&at)?;
            names.push(shown.place.name.clone());
            at = shown.place.parent;
        }
        names.reverse();
        Some(names.concat().into())
    }

    /// The key of a file that shows at `place`.
    pub fn key(&self, place: &Place) -> Option<Bytes> {
        let path = self.path(&place.parent)?;
        Some([path, place.name.clone()].concat().into())
    }
}

/// Works out what `source` shows.
///
/// Takes memory in proportion to what it visits. Registers whose counterparts have not arrived (an entry without content, a directory whose parent is not known)
/// do not show yet.
pub fn derive<S: RegisterSource>(source: &S, rules: &Rules) -> Shown {
    derive_below(source, rules, false)
}

/// The same, with what shows in directories that do not hang under the root yet, because one above them has not arrived: nobody finds a way there, but
/// when that one arrives nothing below it has to be derived again.
pub fn derive_loose<S: RegisterSource>(source: &S, rules: &Rules) -> Shown {
    derive_below(source, rules, true)
}

fn derive_below<S: RegisterSource>(source: &S, rules: &Rules, with_loose: bool) -> Shown {
    let mut homes = collect_homes(source);
    collect_directory_entries(source, &mut homes);
    let parents = cut_cycles(&mut homes);
    let mut wishes = collect_files(source, rules);
    let mut children: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for (&node, &parent) in &parents {
        children.entry(parent).or_default().push(node);
    }

    // Parents before children. What does not hang under the root has not arrived in full.
    let mut order = vec![NodeId::ROOT];
    if with_loose {
        let unknown = |node: &&NodeId| **node != NodeId::ROOT && !homes.contains_key(*node);
        let holders: HashSet<NodeId> = children.keys().chain(wishes.keys()).filter(unknown).copied().collect();
        order.extend(holders);
    }
    let mut next = 0;
    while let Some(directory) = order.get(next).copied() {
        order.extend(children.get(&directory).into_iter().flatten().copied());
        next += 1;
    }
    // A directory is alive if it was made by itself, or holds a file or another that is alive (rule 4).
    let mut alive: HashSet<NodeId> = HashSet::new();
    for directory in order.iter().rev() {
        let explicit = homes.get(directory).is_some_and(|home| home.explicit);
        let holds_file = wishes.contains_key(directory);
        let below = || children.get(directory).into_iter().flatten().any(|child| alive.contains(child));
        if explicit || holds_file || below() {
            alive.insert(*directory);
        }
    }

    let mut shown = Shown::default();
    for directory in order {
        if let Some(all) = children.get(&directory) {
            let living = all.iter().filter(|child| alive.contains(*child));
            let wishes = living.filter_map(|node| homes.get(node)).collect();
            name_directories(&directory, wishes, rules, &mut shown);
        }
        if let Some(files) = wishes.remove(&directory) {
            name_files(&directory, files, rules, &mut shown);
        }
    }
    shown.conflicts.sort();
    shown
}

fn collect_homes<S: RegisterSource>(source: &S) -> BTreeMap<NodeId, DirectoryWish> {
    let mut homes = BTreeMap::new();
    source.visit_homes(&mut |node, register| {
        if let Some((write, place)) = register.live_values().next()
            && *node != NodeId::ROOT
        {
            let (dot, stamp) = (write.dot, write.stamp());
            let (node, place) = (*node, place.clone());
            homes.insert(node, DirectoryWish { node, place, dot, stamp, entry: None, explicit: false, is_cut: false });
        }
    });
    homes
}

/// An entry counts for a directory only at the directory's home (rule 3).
fn collect_directory_entries<S: RegisterSource>(source: &S, homes: &mut BTreeMap<NodeId, DirectoryWish>) {
    source.visit_entries(&mut |place, register| {
        if !is_directory_name(&place.name) {
            return;
        }
        for (write, value) in register.live_values() {
            if let EntryKind::Directory { explicit } = value.kind
                && let Some(home) = homes.get_mut(&value.node)
                && home.place == *place
            {
                home.hear(write, explicit);
            }
        }
    });
}

/// The parent of each directory, with cycles cut at the home that was written last (rule 3).
fn cut_cycles(homes: &mut BTreeMap<NodeId, DirectoryWish>) -> BTreeMap<NodeId, NodeId> {
    let mut parents: BTreeMap<NodeId, NodeId> = homes.iter().map(|(node, home)| (*node, home.place.parent)).collect();
    let mut settled: HashSet<NodeId> = HashSet::new();
    for start in homes.keys().copied().collect::<Vec<_>>() {
        let mut path = Vec::new();
        let mut on_path = HashSet::new();
        let mut at = start;
        while !settled.contains(&at) && on_path.insert(at) {
            path.push(at);
            match parents.get(&at) {
                Some(parent) => at = *parent,
                None => break,
            }
        }
        if !settled.contains(&at) && parents.contains_key(&at) {
            // Here `at` was met twice: from its first place on, the path is a cycle.
            let cycle = path.iter().skip_while(|node| **node != at);
            let rank = |node: &NodeId| homes.get(node).map(DirectoryWish::rank_in_cycle);
            if let Some(last) = cycle.copied().max_by_key(rank) {
                parents.insert(last, NodeId::ROOT);
                if let Some(home) = homes.get_mut(&last) {
                    home.is_cut = true;
                }
            }
        }
        settled.extend(path);
    }
    parents
}

/// The files of each directory.
fn collect_files<S: RegisterSource>(source: &S, rules: &Rules) -> HashMap<NodeId, Vec<FileWish>> {
    let mut wishes: HashMap<NodeId, Vec<FileWish>> = HashMap::new();
    // The contents of each file, best first; and live contents of files that may turn out to have no name.
    let mut shown_by: HashMap<NodeId, Vec<Dot>> = HashMap::new();
    let mut strays: HashMap<NodeId, Vec<Stray>> = HashMap::new();
    source.visit_contents(&mut |node, register| {
        shown_by.insert(*node, contents(register, rules).iter().map(|(write, _)| write.dot).collect());
        strays.insert(*node, strays_of(register, rules));
    });
    source.visit_entries(&mut |place, register| {
        if !is_file_name(&place.name) {
            return;
        }
        for (i, (write, node)) in entry_files(register, rules).into_iter().enumerate() {
            strays.remove(&node);
            for (j, content) in shown_by.get(&node).into_iter().flatten().enumerate() {
                let wish = FileWish::named(&place.name, write, node, *content, (i, j));
                wishes.entry(place.parent).or_default().push(wish);
            }
        }
    });
    // Live content without a name shows where it was last written (rule 5).
    for (node, contents) in strays {
        let several = contents.len() > 1;
        for stray in contents {
            wishes.entry(stray.0.parent).or_default().push(FileWish::stray(stray, node, several));
        }
    }
    wishes
}
