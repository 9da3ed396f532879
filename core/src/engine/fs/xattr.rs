//! Extended attributes: those that callers set, and what clients of objects said about them.

use super::caller::SET_GID;
use super::node::gone;
use super::{Access, AccessList, Caller, FileAttributes, FileSystem, acl};
use crate::engine::transact;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::namespace::{self, NodeRow, Version};
use crate::object::FileType;
use bytes::Bytes;

/// The longest name, in bytes (`XATTR_NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// The longest value, in bytes (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 64 << 10;
/// The most bytes of names and values that a node has.
const TOTAL_BYTES_MAX: usize = 256 << 10;
/// User metadata of the object, read-only.
const OBJECT_META: &str = "user.object.meta.";
/// Headers of the object, read-only.
const OBJECT_HEADER: &str = "user.object.header.";

fn missing(name: &str) -> Error {
    Error::not_found(Subject::Attribute, format!("there is no extended attribute '{name}'"))
}

/// What a caller needs for a name: (to read it, to change it); `None`: no such name space.
fn needs(name: &str) -> Option<(Need, Need)> {
    match name.split_once('.')?.0 {
        "user" => Some((Need::Read, Need::Write)),
        "trusted" => Some((Need::Root, Need::Root)),
        "security" => Some((Need::Nothing, Need::Root)),
        "system" if is_list(name) => Some((Need::Nothing, Need::Owner)),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Read,
    Write,
    Owner,
    Root,
}

impl Need {
    fn check(self, caller: &Caller, node: &FileAttributes) -> Result<()> {
        match self {
            Need::Nothing => Ok(()),
            Need::Read => caller.must(node, Access::READ),
            Need::Write => caller.must(node, Access { read: false, write: true, execute: false }),
            Need::Owner => caller.must_own(node),
            Need::Root if caller.uid == 0 => Ok(()),
            Need::Root => Err(Error::new(ErrorKind::Denied, "only root may change that").about(Subject::Owner)),
        }
    }
}

/// `user.*` belongs to files and directories (xattr(7)).
fn fits(name: &str, node: &FileAttributes) -> bool {
    if is_list(name) {
        return node.file_type != FileType::Symlink;
    }
    !name.starts_with("user.") || matches!(node.file_type, FileType::Regular | FileType::Directory)
}

fn is_list(name: &str) -> bool {
    matches!(name, acl::ACCESS | acl::DEFAULT)
}

fn unsupported(name: &str) -> Error {
    Error::invalid(format!("'{name}' is in no name space of extended attributes that is kept")).about(Subject::Support)
}

fn of_object(version: &Version, name: &str) -> Option<Bytes> {
    let metadata = &version.metadata;
    let value = match (name.strip_prefix(OBJECT_META), name.strip_prefix(OBJECT_HEADER)) {
        (Some(name), _) => metadata.user.get(name),
        (_, Some(name)) => metadata.headers.get(name),
        _ => None,
    };
    value.map(|value| Bytes::copy_from_slice(value.as_bytes()))
}

impl FileSystem {
    async fn row_of(&self, node: &NodeId) -> Result<NodeRow> {
        match self.node_row(node).await {
            // Nothing was ever said about the root.
            Err(error) if error.subject() == Subject::Node && *node == NodeId::ROOT => Ok(NodeRow::default()),
            other => other,
        }
    }

    fn version_of<'a>(&self, row: &'a NodeRow) -> Option<&'a Version> {
        row.current_version(&self.bucket.state().rules())
    }

    /// An extended attribute. `NotFound` about [`Subject::Attribute`] (ENODATA).
    pub async fn xattr(&self, caller: &Caller, node: &NodeId, name: &str) -> Result<Bytes> {
        let there = self.attributes(node).await?;
        let (read, _) = needs(name).ok_or_else(|| unsupported(name))?;
        if read == Need::Root && caller.uid != 0 || !fits(name, &there) {
            return Err(missing(name));
        }
        read.check(caller, &there)?;
        if name == acl::ACCESS {
            // The mode is part of it.
            let list = there.access_list.as_ref().map(|list| list.with_mode(there.mode).write());
            return list.ok_or_else(|| missing(name));
        }
        let row = self.row_of(node).await?;
        let set = row.shown_attributes().and_then(|value| value.attributes.xattrs.get(name).cloned());
        set.or_else(|| self.version_of(&row).and_then(|version| of_object(version, name))).ok_or_else(|| missing(name))
    }

    /// All names of extended attributes that the caller may see.
    pub async fn list_xattrs(&self, caller: &Caller, node: &NodeId) -> Result<Vec<String>> {
        self.attributes(node).await?;
        let row = self.row_of(node).await?;
        let mut names = Vec::new();
        if let Some(value) = row.shown_attributes() {
            let seen = |name: &&String| needs(name).is_some_and(|(read, _)| read != Need::Root || caller.uid == 0);
            names.extend(value.attributes.xattrs.keys().filter(seen).cloned());
        }
        if let Some(version) = self.version_of(&row).filter(|v| v.file_type == FileType::Regular) {
            let said = version.metadata.user.keys().map(|name| format!("{OBJECT_META}{name}"));
            let said = said.chain(version.metadata.headers.keys().map(|name| format!("{OBJECT_HEADER}{name}")));
            names.extend(said.filter(|name| name.len() <= NAME_BYTES_MAX));
        }
        Ok(names)
    }

    /// Sets an extended attribute. `must_exist`: `Some(true)` XATTR_REPLACE, `Some(false)` XATTR_CREATE.
    pub async fn set_xattr(
        &self,
        caller: &Caller,
        node: &NodeId,
        name: &str,
        value: Bytes,
        must_exist: Option<bool>,
    ) -> Result<()> {
        if name.len() > NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            let text = format!("a name has at most {NAME_BYTES_MAX} bytes, a value {VALUE_BYTES_MAX}");
            return Err(Error::invalid(text).about(Subject::Attribute));
        }
        self.edit_xattrs(caller, node, name, Some(value), must_exist).await
    }

    /// Removes one.
    pub async fn remove_xattr(&self, caller: &Caller, node: &NodeId, name: &str) -> Result<()> {
        // As Linux has it, a list that is not there can be removed.
        let must_exist = if is_list(name) { None } else { Some(true) };
        self.edit_xattrs(caller, node, name, None, must_exist).await
    }

    async fn edit_xattrs(
        &self,
        caller: &Caller,
        node: &NodeId,
        name: &str,
        value: Option<Bytes>,
        must_exist: Option<bool>,
    ) -> Result<()> {
        let (_, change) = needs(name).ok_or_else(|| unsupported(name))?;
        let list = match &value {
            Some(value) if is_list(name) => {
                let text = "this is no access control list";
                Some(AccessList::read(value).ok_or_else(|| Error::invalid(text).about(Subject::Attribute))?)
            }
            _ => None,
        };
        let state = self.bucket.state();
        let (after, _) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let there = self.attributes_in(&mut txn, node).await?;
            change.check(caller, &there)?;
            if !fits(name, &there) || name.starts_with(OBJECT_META) || name.starts_with(OBJECT_HEADER) {
                let error = Error::new(ErrorKind::Denied, format!("'{name}' can't be set on this"));
                return Err(error.about(Subject::Owner));
            }
            if list.is_some() && name == acl::DEFAULT && there.file_type != FileType::Directory {
                return Err(Error::new(ErrorKind::Denied, "only directories have a default access control list"));
            }
            self.own_in(&mut txn, node).await?;
            // The mode says what it can of a list.
            let mode = list.as_ref().filter(|_| name == acl::ACCESS).map(|list| {
                let kept = if caller.uid == 0 || caller.is_in(there.gid) { !0o777 } else { !(0o777 | SET_GID) };
                there.mode & kept | list.mode()
            });
            let value = value.clone().filter(|_| !list.as_ref().is_some_and(|l| name == acl::ACCESS && l.is_mode()));
            let row = txn.node(state.number, node).await?;
            if row.names.is_empty() && there.file_type != FileType::Directory {
                return Err(gone(node));
            }
            let empty = Default::default();
            let set = row.shown_attributes();
            let known = set.as_deref().map_or(&empty, |value| &value.attributes.xattrs);
            match (known.contains_key(name), must_exist) {
                (true, Some(false)) => {
                    return Err(Error::exists(Subject::Attribute, format!("'{name}' exists")));
                }
                (false, Some(true)) => return Err(missing(name)),
                _ => {}
            }
            let others = known.iter().filter(|(other, _)| *other != name);
            let total: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            if total + name.len() + value.as_ref().map_or(0, Bytes::len) > TOTAL_BYTES_MAX {
                let text = format!("a file has at most {TOTAL_BYTES_MAX} bytes of extended attributes");
                return Err(Error::new(ErrorKind::NoSpace, text));
            }
            self.bucket.recall_in(&mut txn, node).await?;
            namespace::edit_attributes(&mut txn, state, node, |set| {
                set.attributes.mode = mode.or(set.attributes.mode);
                match &value {
                    Some(value) => set.attributes.xattrs.insert(name.to_owned(), value.clone()),
                    None => set.attributes.xattrs.remove(name),
                };
                set.changed_ns = set.changed_ns.max(there.changed_ns.saturating_add(1));
            })
            .await?
        })?;
        let nodes = self.bucket.segment().open_nodes();
        nodes.set_attributes(state.number, node, &after.attributes, None, after.changed_ns);
        Ok(())
    }
}
