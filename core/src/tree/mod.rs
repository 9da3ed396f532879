//! The tree that a bucket's registers show, as a pure function of the registers.
//!
//! Four kinds of register make the tree: *entries* (a name in a directory → node), *homes* (a directory → the one place where it hangs), *contents* (a file → its
//! bytes) and attributes, which the tree does not look at. They merge one by one, in any order, so together they may say odd things: two files under one name, a file in a
//! directory that somebody removed, directories that are each other's parents. [`derive()`] says what shows then, and what is called a conflict. It never drops live
//! content, and every segment that holds the same registers gets the same answer. `docs/notes/0002-merge-rules.md` gives the reasons.
//!
//! This module never does I/O and writes nothing: what it finds is not replicated.

mod derive;
mod names;
mod naming;
mod registers;
mod show;

pub use derive::{Conflict, ConflictKind, Shown, ShownDirectory, ShownFile, derive, derive_loose};
pub use names::{conflict_name, is_directory_name, is_file_name, short_segment_name};
pub use naming::{DirectoryWish, FileWish, Stray, Taken, name_directories, name_files, strays_of};
pub use registers::{ContentRegister, RegisterSource, Registers};
pub use show::{Live, Rank, Rules, contents, entry_files, live_contents};

use crate::id::NodeId;
use crate::register::{Dot, Register, Write};
use bytes::Bytes;
use smallvec::SmallVec;

/// A name in a directory. A directory's name ends in `/`, a file's does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Bytes,
}

impl Place {
    /// The name `name` in `parent`.
    pub fn new(parent: NodeId, name: impl Into<Bytes>) -> Place {
        Place { parent, name: name.into() }
    }
}

/// What an entry leads to. Symbolic links and special files are files here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// Anything with content.
    File,
    /// A directory.
    Directory {
        /// Whether it was made by itself (mkdir, `PUT a/`) and so stays when empty, or is implied by a key and goes with its last entry.
        explicit: bool,
    },
}

/// The value of an entry register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryValue {
    /// The node it names.
    pub node: NodeId,
    /// What that is.
    pub kind: EntryKind,
}

impl EntryValue {
    /// Names a file.
    pub const fn file(node: NodeId) -> EntryValue {
        EntryValue { node, kind: EntryKind::File }
    }

    /// Names a directory.
    pub const fn directory(node: NodeId, explicit: bool) -> EntryValue {
        EntryValue { node, kind: EntryKind::Directory { explicit } }
    }

    /// Whether it names a file.
    pub const fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File)
    }
}

/// A write, and when it was made. Sorts by stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId {
    /// The time of its stamp.
    pub stamp_time: u64,
    /// The write; the stamp's segment is the dot's.
    pub dot: Dot,
}

/// The value of a content register.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentValue<P> {
    /// The name through which it was written: where it shows if the file has no name left.
    pub at: Place,
    /// The content.
    pub payload: P,
    /// Set when a file's last name is taken away: the write whose content this was. It counts as gone, unless it turns out that somebody else gave the
    /// file another name meanwhile. Keeping the payload makes that possible; it goes when the tombstones go.
    pub deleted: Option<WriteId>,
}

/// The id of the directory that is made at (`parent`, `name`) in place of the tombstones `replaced` (in any order; none of them pending).
pub fn directory_id(parent: &NodeId, name: &[u8], replaced: &[Dot]) -> NodeId {
    let mut dots: SmallVec<[Dot; 2]> = SmallVec::from_slice(replaced);
    dots.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key("tombolo 2026 directory id");
    hasher.update(parent.as_bytes());
    hasher.update(&(name.len() as u64).to_be_bytes());
    hasher.update(name);
    for dot in dots {
        hasher.update(dot.segment.as_bytes());
        hasher.update(&dot.sequence.to_be_bytes());
    }
    let mut id = [0; NodeId::LEN];
    hasher.finalize_xof().fill(&mut id);
    NodeId(id)
}

/// A directory id to try, see [`directory_candidates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryCandidate {
    /// The id.
    pub node: NodeId,
    /// Whether it may be taken when it has no home register yet. `false` for a directory that the entry names: one without home has not arrived.
    pub may_be_new: bool,
}

/// The ids to try, in order, for a directory to make at (`parent`, `name`), where no directory shows and `entry` is the register of the name.
///
/// Take the first that is homed at just this place and does not show anywhere: it is the directory that was here before, and making it again under its old
/// id lets it merge with what others still put into it. Or the first that has no home register, if it may be new. If there is none, take a random id.
pub fn directory_candidates(
    parent: &NodeId,
    name: &[u8],
    entry: &Register<EntryValue>,
) -> SmallVec<[DirectoryCandidate; 2]> {
    let mut candidates = SmallVec::new();
    for (_, value) in entry.live_values().filter(|(_, value)| !value.is_file()) {
        candidates.push(DirectoryCandidate { node: value.node, may_be_new: false });
    }
    candidates.push(DirectoryCandidate { node: directory_id(parent, name, &[]), may_be_new: true });
    let tombstones: SmallVec<[Dot; 2]> = entry.tombstones().map(|w| w.dot).filter(|dot| !dot.is_pending()).collect();
    if !tombstones.is_empty() {
        candidates.push(DirectoryCandidate { node: directory_id(parent, name, &tombstones), may_be_new: true });
    }
    candidates
}

impl<P: Clone> ContentValue<P> {
    /// What to write when the content in `write` goes with its file's last name. `None` for a tombstone.
    pub fn deleting(write: &Write<ContentValue<P>>) -> Option<ContentValue<P>> {
        let value = write.value.as_ref()?;
        // A content that was deleted before, and showed all the same, remains what it was.
        let first = value.deleted.unwrap_or(WriteId { stamp_time: write.stamp_time, dot: write.dot });
        Some(ContentValue { at: value.at.clone(), payload: value.payload.clone(), deleted: Some(first) })
    }
}
