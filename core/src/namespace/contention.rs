//! What is in conflict, by directory and name: derived rows, so that conflicts are found where they are, and not by looking at all that there is.
//!
//! A row says what wants the name and does not have it (or has it although no entry says so), and where that shows. A directory with derived names
//! that are in each other's way has a mark: there the names depend on each other.

use super::codec::{Reader, put_bytes, put_varint};
use super::keys::{self, BucketNumber};
use super::txn::Txn;
use super::{Place, is_directory_name};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::register::Dot;
use crate::tree::{self, Conflict, ConflictKind};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const ROW_FORMAT: u8 = 1;
const SCAN_ROWS: usize = 1024;

/// What is in conflict about one name of one directory.
pub(super) type Contention = Vec<Conflict>;

/// The directory and name that a conflict is kept under: where it would show, or does.
pub(super) fn place_of(conflict: &Conflict) -> Place {
    // What was taken out of a cycle wants a name of the root.
    let parent = if conflict.kind == ConflictKind::Cycle { NodeId::ROOT } else { conflict.place.parent };
    (parent, conflict.place.name.clone())
}

pub(super) fn encode(conflicts: &[Conflict]) -> Vec<u8> {
    let mut out = vec![ROW_FORMAT];
    put_varint(&mut out, conflicts.len() as u64);
    for conflict in conflicts {
        out.push(match conflict.kind {
            ConflictKind::File => 0,
            ConflictKind::DirectoryName => 1,
            ConflictKind::Cycle => 2,
            ConflictKind::Rescued => 3,
        });
        out.extend_from_slice(&conflict.place.parent.0);
        out.extend_from_slice(&conflict.node.0);
        put_dot(&mut out, &conflict.dot);
        out.push(u8::from(conflict.content.is_some()));
        if let Some(content) = &conflict.content {
            put_dot(&mut out, content);
        }
        out.push(u8::from(conflict.shown.is_some()));
        if let Some(shown) = &conflict.shown {
            put_bytes(&mut out, &shown.name);
        }
    }
    out
}

pub(super) fn decode(directory: &NodeId, name: &[u8], row: Bytes) -> Result<Contention> {
    let mut reader = open(row)?;
    let name = Bytes::copy_from_slice(name);
    let mut conflicts = Vec::new();
    for _ in 0..reader.varint()? {
        let kind = match reader.u8()? {
            0 => ConflictKind::File,
            1 => ConflictKind::DirectoryName,
            2 => ConflictKind::Cycle,
            3 => ConflictKind::Rescued,
            other => return Err(Error::damaged(format!("a conflict has the unknown kind {other}"))),
        };
        let parent = NodeId(reader.array()?);
        let node = NodeId(reader.array()?);
        let dot = take_dot(&mut reader)?;
        let content = if reader.u8()? == 1 { Some(take_dot(&mut reader)?) } else { None };
        let shown = if reader.u8()? == 1 { Some(tree::Place::new(*directory, reader.bytes()?)) } else { None };
        let place = tree::Place::new(parent, name.clone());
        conflicts.push(Conflict { kind, place, shown, node, content, dot });
    }
    Ok(conflicts)
}

fn open(row: Bytes) -> Result<Reader> {
    let mut reader = Reader::new(row);
    match reader.u8()? {
        ROW_FORMAT => Ok(reader),
        other => Err(Error::damaged(format!("a conflict has format {other}; this build reads format {ROW_FORMAT}"))),
    }
}

fn put_dot(out: &mut Vec<u8>, dot: &Dot) {
    out.extend_from_slice(&dot.segment.0);
    put_varint(out, dot.sequence);
}

fn take_dot(reader: &mut Reader) -> Result<Dot> {
    Ok(Dot { segment: SegmentId(reader.array()?), sequence: reader.varint()? })
}

/// Files and directories have names of their own; so the two are never in each other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Files = 1,
    Directories = 2,
}

impl Names {
    fn has(self, name: &[u8]) -> bool {
        !name.is_empty() && is_directory_name(name) == (self == Names::Directories)
    }
}

struct Cached {
    before: Contention,
    now: Contention,
}

/// The conflicts that a transaction has looked at, and what they are by now.
pub(super) struct Contentions {
    bucket: BucketNumber,
    snapshot: Arc<dyn Snapshot>,
    /// Directories that have rows.
    are_any: HashMap<NodeId, bool>,
    rows: BTreeMap<Place, Cached>,
    crowded: HashMap<NodeId, (u8, u8)>,
}

impl Contentions {
    pub(super) fn new(bucket: BucketNumber, snapshot: Arc<dyn Snapshot>) -> Contentions {
        Contentions { bucket, snapshot, are_any: HashMap::new(), rows: BTreeMap::new(), crowded: HashMap::new() }
    }

    async fn are_any(&mut self, directory: &NodeId) -> Result<bool> {
        if let Some(known) = self.are_any.get(directory) {
            return Ok(*known);
        }
        let prefix = keys::contention(self.bucket, directory, b"");
        let page = self.snapshot.scan(Space::Derived, KeyRange::prefix(&prefix), 1, false).await?;
        self.are_any.insert(*directory, !page.rows.is_empty());
        Ok(!page.rows.is_empty())
    }

    /// What is in conflict about a name. The commit fails if another changes that before.
    pub(super) async fn get(&mut self, txn: &mut Txn, directory: &NodeId, name: &Bytes) -> Result<&[Conflict]> {
        // Nearly always nothing is in conflict in the whole directory, and then nothing is remembered for each name.
        if !self.are_any(directory).await? {
            return match self.rows.get(&(*directory, name.clone())) {
                Some(cached) => Ok(&cached.now),
                None => {
                    txn.watch(Space::Derived, &keys::contention(self.bucket, directory, name));
                    Ok(&[])
                }
            };
        }
        let place = (*directory, name.clone());
        if !self.rows.contains_key(&place) {
            let row = txn.read(Space::Derived, &keys::contention(self.bucket, directory, name)).await?;
            let before = row.map(|row| decode(directory, name, row)).transpose()?.unwrap_or_default();
            self.rows.insert(place.clone(), Cached { now: before.clone(), before });
        }
        let cached = self.rows.get(&place).ok_or_else(|| Error::damaged("a conflict was read and is not there"))?;
        Ok(&cached.now)
    }

    /// Replaces what is in conflict about a name, which was looked at before.
    pub(super) fn set(&mut self, directory: &NodeId, name: &Bytes, conflicts: Contention) {
        match self.rows.get_mut(&(*directory, name.clone())) {
            Some(cached) => cached.now = conflicts,
            None if conflicts.is_empty() => {}
            None => {
                self.rows.insert((*directory, name.clone()), Cached { before: Contention::new(), now: conflicts });
            }
        }
    }

    /// All names of a directory that are in conflict.
    pub(super) async fn all(&mut self, txn: &mut Txn, directory: &NodeId, names: Names) -> Result<Vec<Bytes>> {
        if self.are_any(directory).await? {
            let prefix = keys::contention(self.bucket, directory, b"");
            let mut range = KeyRange::prefix(&prefix);
            loop {
                let page = self.snapshot.scan(Space::Derived, range, SCAN_ROWS, false).await?;
                for (key, _) in page.rows.iter().filter(|(key, _)| names.has(&key.slice(prefix.len()..))) {
                    self.get(txn, directory, &key.slice(prefix.len()..)).await?;
                }
                match page.rows.last() {
                    Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                    _ => break,
                }
            }
        }
        let here = self.rows.range((*directory, Bytes::new())..).take_while(|((at, _), _)| at == directory);
        let here = here.filter(|((_, name), cached)| names.has(name) && !cached.now.is_empty());
        Ok(here.map(|((_, name), _)| name.clone()).collect())
    }

    /// Whether derived names of a directory depend on each other.
    pub(super) async fn is_crowded(&mut self, txn: &mut Txn, directory: &NodeId, names: Names) -> Result<bool> {
        if !self.crowded.contains_key(directory) {
            let key = keys::contention(self.bucket, directory, b"");
            let mark = if self.are_any(directory).await? {
                txn.read(Space::Derived, &key).await?
            } else {
                txn.watch(Space::Derived, &key);
                None
            };
            let mark = mark.map(|row| open(row)?.u8()).transpose()?.unwrap_or_default();
            self.crowded.insert(*directory, (mark, mark));
        }
        Ok(self.crowded.get(directory).is_some_and(|(_, now)| now & names as u8 != 0))
    }

    /// Sets that, which was looked at before.
    pub(super) fn set_crowded(&mut self, directory: &NodeId, names: Names, is_crowded: bool) {
        if let Some((_, now)) = self.crowded.get_mut(directory) {
            *now = if is_crowded { *now | names as u8 } else { *now & !(names as u8) };
        }
    }

    /// Writes what has changed.
    pub(super) fn write(self, txn: &mut Txn) {
        for ((directory, name), cached) in self.rows {
            if cached.before != cached.now {
                let key = keys::contention(self.bucket, &directory, &name);
                if cached.now.is_empty() {
                    txn.delete(Space::Derived, key);
                } else {
                    txn.put_conflicts(key, cached.now);
                }
            }
        }
        for (directory, (before, now)) in self.crowded {
            if before != now {
                let key = keys::contention(self.bucket, &directory, b"");
                if now == 0 {
                    txn.delete(Space::Derived, key);
                } else {
                    txn.put(Space::Derived, key, vec![ROW_FORMAT, now]);
                }
            }
        }
    }
}
