//! What a node's rows say about it: the attributes that `stat` shows.

use super::body::file_id;
use super::{AccessList, FileAttributes, FileSystem, acl};
use crate::engine::transact;
use crate::error::{Error, Result, Subject};
use crate::id::NodeId;
use crate::kv::Space;
use crate::namespace::{self, NodeRow, Txn, keys};
use crate::object::{Attributes, FileType, TimeNs};
use crate::register::HybridClock;
use async_recursion::async_recursion as boxed;
use std::sync::Arc;

/// What directories say their size is, in bytes.
const DIRECTORY_BYTES: u64 = 4096;

impl FileSystem {
    /// Attributes of a node, with what is written and not saved. `NotFound` about [`Subject::Node`] (ESTALE) if it is gone.
    pub async fn attributes(&self, node: &NodeId) -> Result<FileAttributes> {
        let (number, nodes) = (self.bucket.state().number, self.bucket.segment().open_nodes());
        loop {
            let before = nodes.last_save(number, node);
            let attributes = self.attributes_now(node).await;
            // A save that ended meanwhile: the rows are of before it, and there is nothing unsaved to show over them any more.
            if nodes.last_save(number, node) == before {
                return attributes;
            }
        }
    }

    async fn attributes_now(&self, node: &NodeId) -> Result<FileAttributes> {
        self.bucket.alive()?;
        let state = self.bucket.state();
        let store = self.bucket.segment().store();
        let row = match namespace::node_row(self.bucket.segment().ledger(), state, node).await? {
            Some(row) => row,
            None if *node == NodeId::ROOT => NodeRow::default(),
            None => return self.without_name(node).await,
        };
        let moved = if is_directory(node, &row) {
            let moved = store.get(Space::Derived, &keys::directory_time(state.number, node)).await?;
            moved.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes))
        } else {
            None
        };
        let below = if is_directory(node, &row) { self.directories_in(node).await? } else { 0 };
        // Where deletes leave tombstones a directory's rows outlive it.
        if state.is_shared()
            && row.home.value().is_some()
            && namespace::directory_place(&self.bucket.view(None).await?, node).await?.is_none()
        {
            return Err(gone(node));
        }
        match self.of_rows(node, &row, moved) {
            Some(attributes) => Ok(self.as_written(FileAttributes { links: attributes.links + below, ..attributes })),
            None => self.without_name(node).await,
        }
    }

    /// How many directories are in a directory: each has a link `..` to it.
    async fn directories_in(&self, directory: &NodeId) -> Result<u32> {
        let key = keys::directory_count(self.bucket.state().number, directory);
        let row = self.bucket.segment().store().get(Space::Derived, &key).await?;
        let count = row.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes)).unwrap_or_default();
        Ok(u32::try_from(count).unwrap_or_default())
    }

    /// The same inside a transaction, whose commit then depends on the node. A directory's times are only observed.
    pub(super) async fn attributes_in(&self, txn: &mut Txn, node: &NodeId) -> Result<FileAttributes> {
        let number = self.bucket.state().number;
        let row = namespace::node_row_in(txn, self.bucket.state(), node).await?;
        let moved = if is_directory(node, &row) { txn.observe_directory(number, node).await? } else { None };
        let below = if is_directory(node, &row) { self.directories_in(node).await? } else { 0 };
        let attributes = self.of_rows(node, &row, moved).ok_or_else(|| gone(node))?;
        Ok(self.as_written(FileAttributes { links: attributes.links + below, ..attributes }))
    }

    /// What is about to be changed, if it is a conflict copy, becomes a file of its own.
    pub(super) async fn own_in(&self, txn: &mut Txn, node: &NodeId) -> Result<()> {
        if namespace::make_own(txn, self.bucket.state(), node).await? {
            self.bucket.settle(txn).await?;
        }
        Ok(())
    }

    /// The same, in a transaction of its own.
    #[boxed]
    pub(super) async fn own(&self, node: &NodeId) -> Result<()> {
        if !namespace::is_copy(self.bucket.segment().ledger(), self.bucket.state(), node).await? {
            return Ok(());
        }
        transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            self.own_in(&mut txn, node).await?;
        })?;
        Ok(())
    }

    /// A directory inside a transaction.
    pub(super) async fn directory_in(&self, txn: &mut Txn, node: &NodeId) -> Result<FileAttributes> {
        let attributes = self.attributes_in(txn, node).await?;
        must_be_directory(&attributes)?;
        Ok(attributes)
    }

    async fn without_name(&self, node: &NodeId) -> Result<FileAttributes> {
        if let Some(open) = self.orphan(node).await? {
            return Ok(open);
        }
        // With unsaved bytes it has not looked.
        let body = self.bucket.segment().open_nodes().get(self.bucket.state().number, node);
        let body = body.ok_or_else(|| gone(node))?;
        let state = body.state();
        if state.handles > 0 { Ok(state.orphan_attributes(node)) } else { Err(gone(node)) }
    }

    /// The attributes of an open file without a name. Doors that know nothing of open files, and other segments, take names away, too: its body hears of that
    /// when it looks.
    pub(super) async fn orphan(&self, node: &NodeId) -> Result<Option<FileAttributes>> {
        let (number, nodes) = (self.bucket.state().number, self.bucket.segment().open_nodes());
        if let Some(body) = nodes.get(number, node) {
            body.refresh().await?;
        }
        Ok(nodes.orphan(number, node))
    }

    fn as_written(&self, mut attributes: FileAttributes) -> FileAttributes {
        if attributes.file_type == FileType::Regular {
            self.bucket.segment().open_nodes().overlay(self.bucket.state().number, &mut attributes);
        }
        attributes
    }

    /// Attributes from a node's rows; `None`: the node has no name.
    pub(super) fn of_rows(&self, node: &NodeId, row: &NodeRow, moved: Option<TimeNs>) -> Option<FileAttributes> {
        let state = self.bucket.state();
        let policy = state.policy();
        let set = row.shown_attributes();
        let set = set.as_deref();
        let by = |pick: fn(&crate::object::Attributes) -> Option<u32>| set.and_then(|v| pick(&v.attributes));
        let changed_ns = set.map_or(TimeNs::MIN, |v| v.changed_ns);
        let mut attributes = FileAttributes {
            node: *node,
            file_id: file_id(node),
            file_type: FileType::Directory,
            mode: by(|a| a.mode).unwrap_or(policy.file_mode) & 0o7777,
            links: 2,
            uid: by(|a| a.uid).unwrap_or(policy.uid),
            gid: by(|a| a.gid).unwrap_or(policy.gid),
            size: DIRECTORY_BYTES,
            allocated_bytes: DIRECTORY_BYTES,
            rdev: set.and_then(|v| v.attributes.rdev).unwrap_or_default(),
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            access_list: set.and_then(|v| access_list(&v.attributes)),
        };
        if is_directory(node, row) {
            let made = row.home.shown().map_or(state.created_ns, |home| HybridClock::wall_ns(home.stamp_time));
            attributes.mode = by(|a| a.mode).unwrap_or(policy.directory_mode) & 0o7777;
            attributes.modified_ns = namespace::directory_modified_ns(row, moved, made);
            attributes.changed_ns = moved.unwrap_or(made).max(changed_ns).max(row.names_changed_ns);
        } else {
            if row.names.is_empty() {
                return None;
            }
            let version = row.current_version(&state.rules())?;
            let by_hand = set.and_then(|a| a.modified_ns).filter(|(_, of)| *of == version.modified_ns);
            attributes.file_type = version.file_type;
            attributes.links = u32::try_from(row.names.len()).unwrap_or(u32::MAX);
            attributes.size = if is_special(version.file_type) { 0 } else { version.size };
            attributes.allocated_bytes = attributes.size.saturating_sub(version.hole_bytes);
            attributes.modified_ns = by_hand.map_or(version.modified_ns, |(time, _)| time);
            attributes.changed_ns = version.modified_ns.max(changed_ns).max(row.names_changed_ns);
            if version.file_type == FileType::Symlink {
                attributes.mode = by(|a| a.mode).unwrap_or(0o777) & 0o7777;
            }
        }
        attributes.accessed_ns = set.and_then(|v| v.accessed_ns).unwrap_or(attributes.modified_ns);
        Some(attributes)
    }
}

/// What is kept and can't be read lets nobody in whom only it could name: it has no such entry, and none for the owning group.
pub(super) fn access_list(attributes: &Attributes) -> Option<Arc<AccessList>> {
    let kept = attributes.xattrs.get(acl::ACCESS)?;
    Some(Arc::new(AccessList::read(kept).unwrap_or_default()))
}

fn is_special(kind: FileType) -> bool {
    matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice)
}

fn is_directory(node: &NodeId, row: &NodeRow) -> bool {
    *node == NodeId::ROOT || row.home.value().is_some()
}

pub(super) fn gone(node: &NodeId) -> Error {
    Error::not_found(Subject::Node, format!("there is no file or directory {node} any more"))
}

pub(super) fn must_be_directory(attributes: &FileAttributes) -> Result<()> {
    if attributes.file_type == FileType::Directory {
        return Ok(());
    }
    Err(Error::invalid("it is not a directory").about(Subject::NotDirectory))
}
