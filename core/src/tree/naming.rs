//! Who gets which name in one directory: the part of [`derive`](super::derive()) that looks at one directory at a time, for whoever derives no more than
//! has changed.

use super::derive::{Conflict, ConflictKind, Shown, ShownDirectory, ShownFile};
use super::names::{conflict_name, is_file_name};
use super::registers::ContentRegister;
use super::show::{Rank, Rules, live_contents};
use super::{EntryValue, Place};
use crate::id::NodeId;
use crate::register::{Dot, Stamp, Write};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A directory that wants to show under the name that its home says.
#[derive(Debug, Clone)]
pub struct DirectoryWish {
    /// The directory.
    pub node: NodeId,
    /// Where its home register says it is.
    pub place: Place,
    /// The write of the home.
    pub dot: Dot,
    /// When that was made.
    pub stamp: Stamp,
    /// The best entry at that place that names the directory.
    pub entry: Option<(Stamp, u64)>,
    /// Whether one of them says that it stays when it is empty.
    pub explicit: bool,
    /// Whether it was taken out of a cycle, and hangs under the root.
    pub is_cut: bool,
}

impl DirectoryWish {
    /// A write to the entry at its home names it.
    pub fn hear(&mut self, write: &Write<EntryValue>, explicit: bool) {
        self.explicit |= explicit;
        self.entry = self.entry.max(Some((write.stamp(), write.dot.sequence)));
    }

    /// Of the directories in a cycle, the one with the highest is taken out.
    pub fn rank_in_cycle(&self) -> (Stamp, u64, NodeId) {
        (self.stamp, self.dot.sequence, self.node)
    }
}

/// A live content of a file that may have no name: where it was written, which it is, where it stands among others.
pub type Stray = (Place, Dot, Rank);

/// The contents that show by themselves if their file has no name (rule 5).
pub fn strays_of<P>(register: &ContentRegister<P>, rules: &Rules) -> Vec<Stray> {
    let live = live_contents(register, rules);
    let strays = live.iter().filter(|(_, content)| is_file_name(&content.at.name));
    strays.map(|(write, content)| (content.at.clone(), write.dot, rules.rank(write))).collect()
}

/// A file that wants to show under a name. Sorts by name, then by precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileWish {
    name: Bytes,
    /// Named files by their entry's place among rivals, then the contents of one file; what was rescued comes last. The second is 0 for a content that stands for its file.
    order: (usize, usize),
    rescued_by: Reverse<Rank>,
    dot: Dot,
    node: NodeId,
    content: Dot,
    entry: Option<Dot>,
}

impl FileWish {
    /// `content` of `node`, which the write `entry` gives `name`. `order`: the file's place among those the entry names, the content's among the file's.
    pub fn named(
        name: &Bytes,
        entry: &Write<EntryValue>,
        node: NodeId,
        content: Dot,
        order: (usize, usize),
    ) -> FileWish {
        FileWish {
            name: name.clone(),
            order,
            rescued_by: Reverse((false, entry.stamp(), 0)),
            // The main content of a file is named after the write of the name, so that editing the file does not rename it.
            dot: if order.1 == 0 { entry.dot } else { content },
            node,
            content,
            entry: Some(entry.dot),
        }
    }

    /// A content of `node`, which has no name. `several`: it is not the only one.
    pub fn stray((place, dot, rank): Stray, node: NodeId, several: bool) -> FileWish {
        FileWish {
            name: place.name,
            order: (usize::MAX, usize::from(several)),
            rescued_by: Reverse(rank),
            dot,
            node,
            content: dot,
            entry: None,
        }
    }
}

/// The names that something took.
#[derive(Debug, Default)]
pub struct Taken {
    /// All of them, plain and derived.
    pub names: BTreeSet<Bytes>,
    /// Whether a derived name was in use, so that the next number had to be tried.
    pub is_crowded: bool,
}

impl Taken {
    /// A derived name that is not taken, now taken.
    fn free_name(&mut self, name: &Bytes, dot: Dot, rules: &Rules) -> Bytes {
        let segment = (rules.segment_name)(&dot.segment);
        let mut attempt = 1;
        loop {
            let candidate = conflict_name(name, dot, &segment, attempt);
            if self.names.insert(candidate.clone()) {
                return candidate;
            }
            self.is_crowded = true;
            attempt += 1;
        }
    }
}

/// Gives names to files of one directory.
///
/// Right for a part of the directory's files, if no other file has, or wants, one of the names that are taken at the end.
pub fn name_files(directory: &NodeId, mut wishes: Vec<FileWish>, rules: &Rules, shown: &mut Shown) -> Taken {
    wishes.sort_unstable();
    let mut taken = Taken::default();
    let mut losers = Vec::new();
    let mut show = |wish: &FileWish, name: Bytes, conflict: Option<ConflictKind>| {
        let is_main = wish.order.1 == 0;
        let place = Place::new(*directory, wish.name.clone());
        let file = ShownFile { node: wish.node, place, content: wish.content, entry: wish.entry, conflict, is_main };
        shown.files.insert(Place::new(*directory, name), file);
    };
    let mut conflicts = Vec::new();
    let mut tell = |wish: &FileWish, kind: ConflictKind, name: Option<Bytes>| {
        conflicts.push(Conflict {
            kind,
            place: Place::new(*directory, wish.name.clone()),
            shown: name.map(|name| Place::new(*directory, name)),
            node: wish.node,
            content: Some(wish.content),
            dot: wish.dot,
        });
    };
    // All plain names first, so that no derived name takes one.
    for wish in wishes {
        if !taken.names.insert(wish.name.clone()) {
            losers.push(wish);
        } else if wish.entry.is_none() {
            tell(&wish, ConflictKind::Rescued, Some(wish.name.clone()));
            show(&wish, wish.name.clone(), Some(ConflictKind::Rescued));
        } else {
            show(&wish, wish.name.clone(), None);
        }
    }
    for wish in losers {
        let kind = if wish.entry.is_none() { ConflictKind::Rescued } else { ConflictKind::File };
        if rules.keeps_both() {
            let name = taken.free_name(&wish.name, wish.dot, rules);
            tell(&wish, kind, Some(name.clone()));
            show(&wish, name, Some(kind));
        } else {
            tell(&wish, kind, None);
        }
    }
    shown.conflicts.append(&mut conflicts);
    taken
}

/// Gives names to directories that show in `parent`; right for a part of them under the same condition as [`name_files`].
pub fn name_directories(parent: &NodeId, mut wishes: Vec<&DirectoryWish>, rules: &Rules, shown: &mut Shown) -> Taken {
    // By name; an entry beats a mere home, because with only a home somebody has given up the name.
    wishes.sort_by_key(|wish| (&wish.place.name, Reverse((wish.entry, wish.stamp, wish.dot.sequence)), wish.node));
    let mut taken = Taken::default();
    let mut losers = Vec::new();
    let mut show = |wish: &DirectoryWish, name: Bytes, conflict: Option<ConflictKind>| {
        let place = Place::new(*parent, name);
        shown.directories_at.insert(place.clone(), wish.node);
        if let Some(kind) = conflict {
            let shown_at = Some(place.clone());
            let contended = wish.place.clone();
            shown.conflicts.push(Conflict {
                kind,
                place: contended,
                shown: shown_at,
                node: wish.node,
                content: None,
                dot: wish.dot,
            });
        }
        let directory = ShownDirectory { place, home: wish.place.clone(), explicit: wish.explicit, conflict };
        shown.directories.insert(wish.node, directory);
    };
    for wish in wishes {
        if !wish.is_cut && taken.names.insert(wish.place.name.clone()) {
            show(wish, wish.place.name.clone(), None);
        } else {
            losers.push(wish);
        }
    }
    for wish in losers {
        let kind = if wish.is_cut { ConflictKind::Cycle } else { ConflictKind::DirectoryName };
        let name = taken.free_name(&wish.place.name, wish.dot, rules);
        show(wish, name, Some(kind));
    }
    taken
}
