//! Finding things: names, links' targets, parents, what a caller may do, what a directory holds.

use super::names::{self, Wanted};
use super::node::{gone, must_be_directory};
use super::{Access, Caller, DirectoryPage, FileAttributes, FileEntry, FileSystem};
use crate::error::{Error, Result, Subject};
use crate::id::NodeId;
use crate::kv::Space;
use crate::namespace::{self, Content, EntryRow, NodeRow, Shown, Txn, View, is_directory_name, keys};
use crate::object::FileType;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashSet;
use std::ops::Bound;

/// The most entries of one page.
const PAGE_ENTRIES_MAX: usize = 4096;

/// An entry: its name as stored, and what shows.
pub(super) type Entry = (Bytes, Shown);

/// What a lookup stands on: a transaction, or the store as it is, without names that are away.
pub(super) enum Rows<'a> {
    In(&'a mut Txn),
    Now(&'a FileSystem),
}

impl Rows<'_> {
    async fn shown(&mut self, number: u32, directory: &NodeId, name: &[u8]) -> Result<Option<Shown>> {
        match self {
            Rows::In(txn) => Ok(txn.entry(number, directory, name).await?.shown.clone()),
            Rows::Now(files) => {
                let row =
                    files.bucket.segment().store().get(Space::Entries, &keys::entry(number, directory, name)).await?;
                let shown = row.map(EntryRow::decode_shown).transpose()?.and_then(|(_, shown, _)| shown);
                match shown {
                    Some(shown) if files.bucket.is_away(&shown).await? => Ok(None),
                    shown => Ok(shown),
                }
            }
        }
    }
}

pub(super) fn with_slash(name: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + 1);
    out.put_slice(name);
    out.put_u8(b'/');
    out.freeze()
}

fn missing(name: &[u8]) -> Error {
    Error::not_found(Subject::Key, format!("there is no '{}'", String::from_utf8_lossy(name)))
}

fn without_slash(name: &[u8]) -> &[u8] {
    name.strip_suffix(b"/").unwrap_or(name)
}

impl FileSystem {
    /// The entry that is shown as `name`; `None`: there is none.
    pub(super) async fn find(&self, mut rows: Rows<'_>, directory: &NodeId, name: &[u8]) -> Result<Option<Entry>> {
        if name.len() > super::POSIX_NAME_BYTES_MAX {
            let text = format!("a name has at most {} bytes", super::POSIX_NAME_BYTES_MAX);
            return Err(Error::invalid(text).about(Subject::Length));
        }
        let number = self.bucket.state().number;
        match names::read(name) {
            None => Ok(None),
            Some(Wanted::Plain(name)) => {
                let as_directory = with_slash(&name);
                if let Some(shown) = rows.shown(number, directory, &as_directory).await? {
                    return Ok(Some((as_directory, shown)));
                }
                // An entry without a name is a directory's.
                let shown = if name.is_empty() { None } else { rows.shown(number, directory, &name).await? };
                Ok(shown.map(|shown| (name, shown)))
            }
            Some(Wanted::Shadowed(name)) => {
                let is_shadowed = rows.shown(number, directory, &with_slash(&name)).await?.is_some();
                let shown = if is_shadowed { rows.shown(number, directory, &name).await? } else { None };
                Ok(shown.map(|shown| (name, shown)))
            }
            Some(Wanted::Hashed { beginning, hash }) => {
                let view = self.bucket.view(None).await?;
                let mut cursor = view.entries(*directory, Bound::Included(beginning.clone()));
                while let Some((stored, _)) = cursor.next().await? {
                    if !stored.starts_with(&beginning) {
                        break;
                    }
                    if names::has_hash(without_slash(&stored), &hash) {
                        let shown = rows.shown(number, directory, &stored).await?;
                        return Ok(shown.map(|shown| (stored, shown)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// As [`FileSystem::find`] in a transaction; `NotFound` if there is none.
    pub(super) async fn must_find(&self, txn: &mut Txn, directory: &NodeId, name: &[u8]) -> Result<Entry> {
        self.find(Rows::In(txn), directory, name).await?.ok_or_else(|| missing(name))
    }

    /// The node called `name` in `directory`. Takes `.` and `..` (the root's is itself).
    pub async fn lookup(&self, caller: &Caller, directory: &NodeId, name: &[u8]) -> Result<FileAttributes> {
        let parent = self.attributes(directory).await?;
        must_be_directory(&parent)?;
        caller.must(&parent, Access::EXECUTE)?;
        match name {
            b"." => return Ok(parent),
            b".." => return self.attributes(&self.parent(directory).await?).await,
            _ => {}
        }
        // The entry may be renamed or removed before its node is read.
        for _ in 0..LOOKUPS_MAX {
            let (stored, shown) = self.find(Rows::Now(self), directory, name).await?.ok_or_else(|| missing(name))?;
            match self.attributes(&shown.identity(directory, &stored)).await {
                Err(error) if error.subject() == Subject::Node => {}
                other => return other,
            }
        }
        Err(missing(name))
    }

    /// Whether the caller may do all of `wanted`.
    pub async fn may(&self, caller: &Caller, node: &NodeId, wanted: Access) -> Result<bool> {
        Ok(caller.may(&self.attributes(node).await?, wanted))
    }

    /// The directory that a directory is in; the root's is itself.
    pub async fn parent(&self, directory: &NodeId) -> Result<NodeId> {
        if *directory == NodeId::ROOT {
            return Ok(NodeId::ROOT);
        }
        let row = self.node_row(directory).await?;
        let home = row.home.value().map(|(parent, _)| *parent);
        if home.is_some() && self.bucket.state().is_shared() {
            // It may hang elsewhere: what was taken out of a circle hangs under the root.
            let place = namespace::directory_place(&self.bucket.view(None).await?, directory).await?;
            return place.map(|(parent, _)| parent).ok_or_else(|| gone(directory));
        }
        home.ok_or_else(|| Error::invalid("it is not a directory").about(Subject::NotDirectory))
    }

    /// Whether `node` is `directory`, or has a name somewhere below it. An open file that has lost its last name is nowhere. `NotFound` if the
    /// node is gone.
    pub async fn is_within(&self, node: &NodeId, directory: &NodeId) -> Result<bool> {
        if node == directory || *directory == NodeId::ROOT {
            return Ok(true);
        }
        if *node == NodeId::ROOT {
            return Ok(false);
        }
        let row = self.node_row(node).await?;
        let home = row.home.value().map(|(parent, _)| *parent);
        let mut above: Vec<NodeId> = row.names.iter().map(|(parent, _)| *parent).chain(home).collect();
        // Concurrent moves can make a circle of homes.
        let mut seen = HashSet::from([*node]);
        while let Some(parent) = above.pop() {
            if parent == *directory {
                return Ok(true);
            }
            if parent != NodeId::ROOT && seen.insert(parent) {
                above.push(self.parent(&parent).await?);
            }
        }
        Ok(false)
    }

    pub(super) async fn node_row(&self, node: &NodeId) -> Result<NodeRow> {
        let row = namespace::node_row(self.bucket.segment().ledger(), self.bucket.state(), node).await?;
        row.ok_or_else(|| gone(node))
    }

    /// The target of a symbolic link.
    pub async fn read_link(&self, node: &NodeId) -> Result<Bytes> {
        let row = self.node_row(node).await?;
        let version = row.current_version(&self.bucket.state().rules());
        let version = version.filter(|v| v.file_type == FileType::Symlink);
        match version.map(|v| &v.content) {
            Some(Content::Inline(target)) => Ok(target.clone()),
            Some(Content::Manifest(_)) => Err(Error::invalid("the link's target is too long").about(Subject::Length)),
            None => Err(Error::invalid("it is not a symbolic link")),
        }
    }

    /// Entries of a directory behind `after` (an [`FileEntry::position`]), at most `limit`. Needs read permission unless `caller` is None
    /// (it was checked when the directory was opened). Entries that come and go meanwhile may be seen or not; others are seen once.
    pub async fn read_directory(
        &self,
        caller: Option<&Caller>,
        directory: &NodeId,
        after: Option<&[u8]>,
        limit: usize,
        with_attributes: bool,
    ) -> Result<DirectoryPage> {
        let parent = self.attributes(directory).await?;
        must_be_directory(&parent)?;
        if let Some(caller) = caller {
            caller.must(&parent, Access::READ)?;
        }
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let view = self.bucket.view_for_doors(None).await?;
        let start = after.map_or(Bound::Unbounded, |name| Bound::Excluded(Bytes::copy_from_slice(name)));
        let mut cursor = view.entries(*directory, start);
        let mut found: Vec<Entry> = Vec::with_capacity(limit.min(1024));
        let mut is_end = true;
        while let Some(entry) = cursor.next().await? {
            if found.len() == limit {
                is_end = false;
                break;
            }
            found.push(entry);
        }
        let mut entries = Vec::with_capacity(found.len());
        for (at, (stored, shown)) in found.iter().enumerate() {
            let rest = found.get(at + 1..).unwrap_or_default();
            let is_shadowed = !is_directory_name(stored) && is_followed(&view, directory, stored, rest, is_end).await?;
            let node = shown.identity(directory, stored);
            let attributes = match with_attributes {
                true => match self.attributes(&node).await {
                    Ok(attributes) => Some(attributes),
                    // Gone since the page was read.
                    Err(error) if error.subject() == Subject::Node => continue,
                    Err(error) => return Err(error),
                },
                false => None,
            };
            entries.push(FileEntry {
                name: names::show(without_slash(stored), is_shadowed),
                position: stored.clone(),
                node,
                file_type: match shown {
                    Shown::File(file) => file.file_type,
                    Shown::Directory { .. } => FileType::Directory,
                },
                attributes,
            });
        }
        Ok(DirectoryPage { entries, is_end })
    }
}

/// How often a lookup that meets concurrent changes is tried.
const LOOKUPS_MAX: usize = 16;

/// Whether a directory with the name of the file `stored` shows; `rest` is what comes after it in the directory.
async fn is_followed(view: &View, directory: &NodeId, stored: &[u8], rest: &[Entry], is_end: bool) -> Result<bool> {
    let wanted = with_slash(stored);
    match rest.iter().find(|(name, _)| *name >= wanted) {
        Some((name, _)) => Ok(*name == wanted),
        None if is_end => Ok(false),
        None => Ok(matches!(view.shown(directory, &wanted).await?, Some(namespace::Shown::Directory { .. }))),
    }
}
