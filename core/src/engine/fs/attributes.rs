//! What `stat` shows, what `chmod`, `chown`, `utimes` and `truncate` change, and what changed, from one transaction.

use super::AccessList;
use crate::id::NodeId;
use crate::object::{FileType, TimeNs};
use std::sync::Arc;

/// Attributes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAttributes {
    /// The node.
    pub node: NodeId,
    /// 64 bits of it, for `st_ino` and NFS' fileid; never 0.
    pub file_id: u64,
    /// Its kind.
    pub file_type: FileType,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Number of names; of a directory 2 and one for each directory in it.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; of a symbolic link the target's length; of a directory a constant.
    pub size: u64,
    /// Bytes that are not holes, before deduplication and compression.
    pub allocated_bytes: u64,
    /// Device number of a device node, else 0.
    pub rdev: u64,
    /// Last read, as far as it is kept: set by hand, else the modification time.
    pub accessed_ns: TimeNs,
    /// Last change of the content (of a directory: of its entries).
    pub modified_ns: TimeNs,
    /// Last change of content, attributes or names.
    pub changed_ns: TimeNs,
    /// Further users and groups that may do something with it.
    pub access_list: Option<Arc<AccessList>>,
}

/// What NFS' weak cache consistency compares (RFC 1813, `wcc_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeStamp {
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
    /// Change time.
    pub changed_ns: TimeNs,
}

/// A node before and after one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeChange {
    /// Before; `None` where it could not be read in the same instant as the change was made.
    pub before: Option<ChangeStamp>,
    /// After.
    pub after: FileAttributes,
}

/// A directory before and after one transaction that changed its entries.
pub type DirectoryChange = AttributeChange;

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The server's clock.
    Now,
    /// This, in nanoseconds since 1970.
    To(TimeNs),
}

/// Attributes to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Permission bits that something new does not get, unless its directory has a default access control list. Doors whose clients have taken
    /// them off already leave it 0.
    pub umask: u32,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Cut or extend the content.
    pub size: Option<u64>,
    /// Access time.
    pub accessed: SetTime,
    /// Modification time.
    pub modified: SetTime,
}
