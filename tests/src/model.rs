//! What a bucket must hold after a sequence of operations, in memory, with nothing but maps.

use crate::content::Content;
use crate::door::{Door, Failure, Item, VersionRow};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// An operation on a bucket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Stores a content.
    Put { key: Vec<u8>, content: Content },
    /// Stores a content unless the key has one. Answers whether it did.
    PutIfAbsent { key: Vec<u8>, content: Content },
    /// Stores a content in parts of this size.
    Multipart { key: Vec<u8>, content: Content, part_bytes: usize },
    /// Copies. Answers whether there was a source.
    Copy { from: Vec<u8>, to: Vec<u8> },
    /// Deletes, several in one request if there are several.
    Delete { keys: Vec<Vec<u8>> },
    /// Deletes for good the `index`-th version (newest first) or delete marker of a key.
    DeleteVersion { key: Vec<u8>, index: usize, is_marker: bool },
    /// Switches versioning on, or suspends it.
    Versioning { on: bool },
}

impl fmt::Debug for Op {
    /// Keys as text, so that a failing sequence can be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = |content: &Content| format!("seed {}, {} bytes", content.seed, content.size);
        match self {
            Op::Put { key, content: c } => write!(f, "Put '{}' {}", key.escape_ascii(), content(c)),
            Op::PutIfAbsent { key, content: c } => write!(f, "PutIfAbsent '{}' {}", key.escape_ascii(), content(c)),
            Op::Multipart { key, content: c, part_bytes } => {
                write!(f, "Multipart '{}' {} in parts of {part_bytes}", key.escape_ascii(), content(c))
            }
            Op::Copy { from, to } => write!(f, "Copy '{}' to '{}'", from.escape_ascii(), to.escape_ascii()),
            Op::Delete { keys } => {
                write!(f, "Delete")?;
                keys.iter().try_for_each(|key| write!(f, " '{}'", key.escape_ascii()))
            }
            Op::DeleteVersion { key, index, is_marker } => {
                let kind = if *is_marker { "marker" } else { "version" };
                write!(f, "Delete {kind} {index} of '{}'", key.escape_ascii())
            }
            Op::Versioning { on } => write!(f, "Versioning {}", if *on { "on" } else { "suspended" }),
        }
    }
}

/// The states of a bucket's versioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// Never was on.
    #[default]
    Off,
    /// On.
    On,
    /// Was on.
    Suspended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    /// `None`: a delete marker.
    content: Option<Content>,
    /// Whether it is the version `null`.
    is_null: bool,
}

/// A bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    versioning: Versioning,
    /// Newest first; never empty.
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
}

/// What one key holds, as far as every door can tell it: S3's answers list versions and delete markers apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Contents, newest first.
    pub contents: Vec<Content>,
    /// Number of delete markers.
    pub markers: usize,
    /// Whether the current one is a content.
    pub is_live: bool,
}

/// What a bucket, or a prefix of it, holds.
pub type State = BTreeMap<Vec<u8>, Kept>;

impl Model {
    /// An empty bucket that never kept versions.
    pub fn new() -> Model {
        Model::default()
    }

    /// Whether every S3 implementation agrees on what `op` does now. The exceptions: deleting what is deleted already,
    /// while versions are kept (one more delete marker, or not), and versions that do not exist.
    pub fn is_defined(&self, op: &Op) -> bool {
        match op {
            Op::Delete { keys } => {
                self.versioning == Versioning::Off || keys.iter().all(|key| self.current(key).is_some())
            }
            Op::DeleteVersion { key, index, is_marker } => self.position(key, *index, *is_marker).is_some(),
            Op::Copy { from, to } => from != to,
            // Suspending what never was on.
            Op::Versioning { on } => *on || self.versioning != Versioning::Off,
            _ => true,
        }
    }

    /// Carries out `op`; gives the answer a door must give.
    pub fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Put { key, content } | Op::Multipart { key, content, .. } => self.write(key, Some(*content)),
            Op::PutIfAbsent { key, content } => {
                if self.current(key).is_some() {
                    return false;
                }
                self.write(key, Some(*content));
            }
            Op::Copy { from, to } => {
                let Some(content) = self.current(from) else {
                    return false;
                };
                self.write(to, Some(content));
            }
            Op::Delete { keys } => keys.iter().for_each(|key| match self.versioning {
                Versioning::Off => drop(self.keys.remove(key)),
                Versioning::On | Versioning::Suspended => self.write(key, None),
            }),
            Op::DeleteVersion { key, index, is_marker } => {
                let Some(position) = self.position(key, *index, *is_marker) else {
                    return false;
                };
                let versions = self.keys.get_mut(key).expect("a key with versions");
                versions.remove(position);
                if versions.is_empty() {
                    self.keys.remove(key);
                }
            }
            Op::Versioning { on } => {
                self.versioning = if *on { Versioning::On } else { Versioning::Suspended };
            }
        }
        true
    }

    /// The content that a plain read gives.
    pub fn current(&self, key: &[u8]) -> Option<Content> {
        self.keys.get(key)?.first()?.content
    }

    /// Everything in it.
    pub fn state(&self) -> State {
        let kept = |versions: &Vec<Version>| Kept {
            contents: versions.iter().filter_map(|version| version.content).collect(),
            markers: versions.iter().filter(|version| version.content.is_none()).count(),
            is_live: versions.first().is_some_and(|version| version.content.is_some()),
        };
        self.keys.iter().map(|(key, versions)| (key.clone(), kept(versions))).collect()
    }

    /// What a listing of `prefix` shows after `start`.
    pub fn list(&self, prefix: &[u8], delimiter: Option<&[u8]>, start: Option<&[u8]>) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for (key, versions) in &self.keys {
            let Some(content) = versions.first().and_then(|version| version.content) else {
                continue;
            };
            let Some(rest) = key.strip_prefix(prefix) else {
                continue;
            };
            let cut = delimiter.and_then(|delimiter| {
                rest.windows(delimiter.len()).position(|window| window == delimiter).map(|at| at + delimiter.len())
            });
            let item = match cut {
                Some(length) => Item::Prefix(key[..prefix.len() + length].to_vec()),
                None => Item::Key(key.clone(), content.size as u64),
            };
            if start.is_none_or(|start| item.name() > start) && items.last() != Some(&item) {
                items.push(item);
            }
        }
        items
    }

    fn write(&mut self, key: &[u8], content: Option<Content>) {
        let versions = self.keys.entry(key.to_vec()).or_default();
        let is_null = self.versioning != Versioning::On;
        if is_null {
            versions.retain(|version| !version.is_null);
        }
        versions.insert(0, Version { content, is_null });
    }

    fn position(&self, key: &[u8], index: usize, is_marker: bool) -> Option<usize> {
        let versions = self.keys.get(key)?.iter().enumerate();
        let mut matching = versions.filter(|(_, version)| version.content.is_none() == is_marker);
        matching.nth(index).map(|(position, _)| position)
    }
}

/// Carries out `op` through a door; gives its answer.
pub fn perform(door: &mut dyn Door, op: &Op) -> Result<bool, Failure> {
    match op {
        Op::Put { key, content } => door.put(key, *content, false),
        Op::PutIfAbsent { key, content } => door.put(key, *content, true),
        Op::Multipart { key, content, part_bytes } => door.multipart(key, *content, *part_bytes).map(|()| true),
        Op::Copy { from, to } => door.copy(from, to),
        Op::Delete { keys } => door.delete(keys).map(|()| true),
        Op::DeleteVersion { key, index, is_marker } => {
            let rows = door.versions(key)?;
            let mut matching = rows.iter().filter(|row| row.key == *key && row.is_marker == *is_marker);
            let Some(row) = matching.nth(*index) else {
                return Ok(false);
            };
            door.delete_version(key, &row.version).map(|()| true)
        }
        Op::Versioning { on } => door.set_versioning(*on).map(|()| true),
    }
}

/// Reads everything below `prefix` through a door, verifying every byte of every version against its label.
pub fn observe(door: &mut dyn Door, prefix: &[u8]) -> Result<State, Failure> {
    let mut state = State::new();
    for VersionRow { key, version, is_current, is_marker } in door.versions(prefix)? {
        let kept = state.entry(key.clone()).or_default();
        if is_current {
            kept.is_live = !is_marker;
        }
        if is_marker {
            kept.markers += 1;
            continue;
        }
        let content = door.read(&key, Some(&version))?;
        kept.contents.push(content.ok_or_else(|| Failure::lie(&key, "a listed version cannot be read"))?);
        if is_current && door.read(&key, None)? != kept.contents.first().copied() {
            return Err(Failure::lie(&key, "the current version is not the newest"));
        }
    }
    // What shows must be what is kept, and nothing more.
    let live: Vec<_> = state.iter().filter(|(_, kept)| kept.is_live).map(|(key, _)| key.clone()).collect();
    let shown: Vec<_> = list_all(door, prefix, None, None, 1000)?.iter().map(|item| item.name().to_vec()).collect();
    if live != shown {
        return Err(Failure::lie(prefix, &format!("a listing shows {shown:?}, but {live:?} are there")));
    }
    Ok(state)
}

/// Follows a listing to its end in pages of `limit` items.
pub fn list_all(
    door: &mut dyn Door,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    start: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    let mut next = None;
    loop {
        let page = door.list(prefix, delimiter, start, next.as_deref(), limit)?;
        if page.items.len() > limit || (page.items.is_empty() && page.next.is_some()) {
            return Err(Failure::lie(prefix, &format!("a page of {} items, limit {limit}", page.items.len())));
        }
        items.extend(page.items);
        next = page.next;
        if next.is_none() {
            return Ok(items);
        }
    }
}
