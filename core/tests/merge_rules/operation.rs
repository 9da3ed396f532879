//! What a schedule does, and what it looks at: the seam between schedules and the segments they drive.
//!
//! Nothing here knows registers. A segment is anything that applies operations on keys, exchanges deltas and shows a tree: the model in
//! `model.rs`, or the real engine over a store in memory.

use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::register::VersionVector;

/// The identity of a content: each put of a schedule makes a new one.
pub type ContentId = u32;

/// A change made at one segment. Paths are keys as the segment's tree shows them; a directory's ends in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Stores a content, as an S3 PUT does: directories that are missing are implied. Takes the place of a file there.
    Put { key: String, content: ContentId },
    /// Takes away one name of a file.
    Delete { key: String },
    /// Gives a file a further name. Refused if `to` shows.
    Link { from: String, to: String },
    /// Renames a file, in place of a file at `to`.
    Rename { from: String, to: String },
    /// Makes a directory by itself, and the ones above it as implied ones; an implied directory becomes one that stays.
    Mkdir { path: String },
    /// Removes an empty directory.
    Rmdir { path: String },
    /// Renames a directory with all below it. Refused if `to` shows or is below `from`.
    RenameDirectory { from: String, to: String },
}

/// Why an operation changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// What it is about does not show.
    NotFound,
    /// The target shows, and may not be replaced.
    Exists,
    /// The directory is not empty.
    NotEmpty,
    /// Source and target are the same, or the target is below the source, or the like.
    Pointless,
}

/// What a segment shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Files by key.
    pub files: BTreeMap<String, ContentId>,
    /// Paths of directories, without the root, and whether they stay when empty.
    pub directories: BTreeMap<String, bool>,
    /// Losers that by policy don't show but are older versions of a key.
    pub older: BTreeSet<(String, ContentId)>,
    /// Contents that lost a conflict, or were rescued: changing such a file may mean to make it a file of its own.
    pub contested: BTreeSet<ContentId>,
    /// How many directories show under a derived name.
    pub derived_directories: usize,
    /// Conflicts, each with a line that says what it is about.
    pub conflicts: Vec<String>,
}

impl Tree {
    /// All contents that a user can get at.
    pub fn contents(&self) -> BTreeSet<ContentId> {
        self.files.values().copied().chain(self.older.iter().map(|(_, content)| *content)).collect()
    }

    /// The content at `key`, and those that are older versions of it.
    pub fn contents_at(&self, key: &str) -> BTreeSet<ContentId> {
        let older = self.older.iter().filter(|(at, _)| at == key).map(|(_, content)| *content);
        self.files.get(key).copied().into_iter().chain(older).collect()
    }
}

/// A segment, as a schedule drives it.
pub trait ModelSegment {
    /// What travels. Clone: it may be delivered twice.
    type Delta: Clone;

    /// Makes a change at wall-clock time `now_ns`.
    fn apply(&mut self, operation: &Operation, now_ns: i64) -> Result<(), Refused>;
    /// Up to where everything is here.
    fn vector(&self) -> VersionVector;
    /// All that a segment which stands at `vector` lacks.
    fn changes_since(&self, vector: &VersionVector) -> Self::Delta;
    /// A delta with just the registers that `keep` says yes to. It does not move the receiver's vector.
    fn part(delta: &Self::Delta, keep: &mut dyn FnMut() -> bool) -> Self::Delta;
    /// Takes in a delta that was made for a vector which this segment has reached.
    fn merge(&mut self, delta: &Self::Delta);
    /// Stops and starts again with what is durable.
    fn restart(&mut self);
    /// What shows.
    fn tree(&self) -> Tree;
    /// The same on segments that hold the same registers.
    fn fingerprint(&self) -> String;
    /// Checks that only the implementation can make.
    fn check(&self) -> Result<(), String>;
}

/// The directory part of a key, `` or ending in `/`.
pub fn parent_of(key: &str) -> &str {
    let body = key.strip_suffix('/').unwrap_or(key);
    body.rfind('/').and_then(|at| key.get(..=at)).unwrap_or("")
}
