//! Files and directories of a bucket by node, as kernels and NFS clients ask for them: one set of semantics for all POSIX doors.
//!
//! A [`FileSystem`] is a bucket seen as a tree of nodes. Every call names nodes by [`NodeId`] (they survive renames and restarts) and says
//! who calls; permission is decided here and nowhere else. What changes metadata is one transaction: visible to every
//! door when the call returns, and durable after the next [`FileSystem::sync`] (a door whose protocol promises durability per call asks for
//! it with [`FileSystem::durable`]).
//!
//! Contents go through an [`OpenFile`]. Written bytes are seen at once by every handle of the same node; they become a version (what
//! whole-object readers, other segments and crashes see) by [`OpenFile::fsync`], [`OpenFile::flush`] or the last close.
//!
//! Errors: [`ErrorKind`](crate::ErrorKind) as elsewhere; a POSIX door finds the errno in [`Error::errno`](crate::Error::errno).

mod acl;
mod attributes;
mod body;
mod caller;
mod find;
mod fragments;
mod hold;
mod locks;
mod make;
mod names;
mod node;
mod open_file;
mod open_nodes;
mod origins;
mod overlay;
pub(super) mod protect;
mod read;
mod recut;
mod recutter;
mod save;
mod set;
mod store;
mod take;
mod unsaved;
mod watch;
mod wear;
mod xattr;

pub use acl::AccessList;
pub use attributes::{AttributeChange, ChangeStamp, DirectoryChange, FileAttributes, SetAttributes, SetTime};
pub use body::file_id;
pub use caller::{Access, Caller};
pub use locks::{HeldLock, LOCKS_PER_NODE_MAX, LockMode, LockOwner, Locks};
pub use open_file::{AllocateMode, OpenFile, OpenFlags, SeekTo};
pub(super) use open_nodes::OpenNodes;
pub use recut::RecutReport;
pub use watch::{RowChange, Watch, new_origin};

pub use crate::manifest::CONTENT_BYTES_MAX as FILE_BYTES_MAX;
pub use crate::namespace::LINKS_MAX;

use crate::error::Result;
use crate::id::NodeId;
use crate::object::FileType;
use bytes::Bytes;

/// The root directory of every bucket.
pub const ROOT: NodeId = NodeId::ROOT;
/// The longest name in a directory, in bytes, as POSIX doors show it.
pub const POSIX_NAME_BYTES_MAX: usize = 255;

/// What a node without content takes, for the number of nodes that still fit, in bytes.
const NODE_BYTES: u64 = 512;

/// How [`FileSystem::create`] treats a name that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// The existing regular file is taken as it is (and changed as the attributes say: size 0 truncates).
    Unchecked,
    /// [`ErrorKind::Exists`](crate::ErrorKind::Exists).
    Guarded,
    /// `Exists`, unless the file there was created with the same verifier (RFC 1813, 3.3.8): then that one. The verifier is kept with the node.
    Exclusive([u8; 8]),
}

/// What [`FileSystem::rename`] does about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replace it (POSIX `rename`).
    #[default]
    Replace,
    /// `Exists` if it is there (`RENAME_NOREPLACE`).
    NoReplace,
    /// Both must be there and change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// Something made in a directory.
#[derive(Debug, Clone)]
pub struct Made {
    /// The new node.
    pub attributes: FileAttributes,
    /// Its directory, before and after.
    pub directory: DirectoryChange,
    /// False if it was there already ([`CreateMode::Unchecked`], a repeated [`CreateMode::Exclusive`]).
    pub is_new: bool,
}

/// One entry of a directory.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// The name as POSIX sees it (escaped where needed, see `docs/posix.md`).
    pub name: Bytes,
    /// Where it is in the directory: pass it as `after` to continue behind it.
    pub position: Bytes,
    /// The node.
    pub node: NodeId,
    /// Its kind.
    pub file_type: FileType,
    /// Filled if asked for.
    pub attributes: Option<FileAttributes>,
}

/// A page of a directory. `.` and `..` are not in it: doors add them.
#[derive(Debug, Clone, Default)]
pub struct DirectoryPage {
    /// In byte order of the names as stored.
    pub entries: Vec<FileEntry>,
    /// Whether the directory has none after these.
    pub is_end: bool,
}

/// Space and limits of a bucket as `statfs` shows them: of the quota if there is one, else of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemStatus {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes left.
    pub free_bytes: u64,
    /// Nodes there can be in all.
    pub total_nodes: u64,
    /// Nodes that can still be made.
    pub free_nodes: u64,
}

/// A bucket as a tree of nodes. Cheap to clone; all clones, and all that [`Bucket::file_system`](crate::Bucket::file_system) gives for one bucket, share open files.
#[derive(Clone)]
pub struct FileSystem {
    bucket: crate::Bucket,
    origin: u32,
    is_durable: bool,
}

impl FileSystem {
    pub(super) fn new(bucket: crate::Bucket) -> FileSystem {
        FileSystem { bucket, origin: 0, is_durable: false }
    }

    /// The bucket behind it.
    pub fn bucket(&self) -> &crate::Bucket {
        &self.bucket
    }

    /// The same, with metadata changes durable when a call returns.
    pub fn durable(&self) -> FileSystem {
        FileSystem { is_durable: true, ..self.clone() }
    }

    /// The same, with its changes marked as made by `origin`, so that a watcher can tell its own (the `origin` of a [`RowChange`]). 0: nobody.
    pub fn with_origin(&self, origin: u32) -> FileSystem {
        FileSystem { origin, ..self.clone() }
    }

    /// Space and limits.
    pub async fn status(&self) -> Result<FileSystemStatus> {
        let usage = self.bucket.usage().await?;
        let policy = self.bucket.state().policy();
        let disk_bytes = self.bucket.contents().writable_bytes()?;
        let used_bytes = usage.logical_bytes.saturating_add(usage.old_bytes);
        let free_bytes = match policy.quota_bytes {
            Some(quota) => quota.saturating_sub(used_bytes).min(disk_bytes),
            None => disk_bytes,
        };
        let free_nodes = match policy.quota_objects {
            Some(quota) => quota.saturating_sub(usage.objects),
            None => free_bytes / NODE_BYTES,
        };
        Ok(FileSystemStatus {
            total_bytes: policy.quota_bytes.unwrap_or(used_bytes.saturating_add(free_bytes)),
            free_bytes,
            total_nodes: usage.objects.saturating_add(free_nodes),
            free_nodes,
        })
    }

    /// Returns when all metadata changes, and all versions made, before the call are on disk (not: bytes of open files that no version has yet).
    pub async fn sync(&self) -> Result<()> {
        self.bucket.settle_files().await;
        self.bucket.segment().sync_commits().await
    }

    /// How often, since the segment was opened, a closed file could not be saved and what had been written to it since its last version was given up; of
    /// all its buckets together. A door whose clients may ask later whether unsaved bytes are still there looks at this before it takes
    /// bytes and after it has saved them: bytes taken at one number and saved at another may be gone.
    pub fn losses(&self) -> u64 {
        self.bucket.segment().open_nodes().losses()
    }

    /// Hears of every change of the bucket's entries and nodes from now on, and of what is written to its open files, whoever makes it; but not of those of
    /// its own origin, if it has one ([`FileSystem::with_origin`]).
    pub fn watch(&self) -> Watch {
        let (bucket, segment) = (self.bucket.state().number, self.bucket.segment());
        Watch {
            bucket,
            changes: segment.ledger().watch(self.origin),
            unsaved: segment.open_nodes().listeners.listen(bucket, self.origin),
            ready: std::collections::VecDeque::new(),
        }
    }
}

impl crate::Bucket {
    /// The bucket as a tree of files and directories.
    pub fn file_system(&self) -> FileSystem {
        FileSystem::new(self.clone())
    }
}
