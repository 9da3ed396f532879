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

mod attributes;
mod body;
mod budget;
mod caller;
mod change;
mod hold;
mod locks;
mod open_file;
mod open_nodes;
mod overlay;
mod read;
mod save;
mod store;

pub use attributes::{AttributeChange, ChangeStamp, DirectoryChange, FileAttributes, SetAttributes, SetTime};
pub use caller::{Access, Caller};
pub use change::{RowChange, Watch};
pub use locks::{HeldLock, LOCKS_PER_NODE_MAX, LockMode, LockOwner, Locks};
pub use open_file::{AllocateMode, OpenFile, OpenFlags, SeekTo};
pub(super) use open_nodes::OpenNodes;

use crate::error::Result;
use crate::id::NodeId;
use crate::object::{FileType, TimeNs};
use bytes::Bytes;

/// The root directory of every bucket.
pub const ROOT: NodeId = NodeId::ROOT;
/// The longest name in a directory, in bytes, as POSIX doors show it.
pub const POSIX_NAME_BYTES_MAX: usize = 255;

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
    /// The name as POSIX sees it (escaped where needed). Pass it as `after` to continue behind it.
    pub name: Bytes,
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

    /// The same, with its changes marked as made by `origin`, so that a watcher can tell its own ([`RowChange::origin`]). 0: nobody.
    pub fn with_origin(&self, origin: u32) -> FileSystem {
        FileSystem { origin, ..self.clone() }
    }

    /// Attributes of a node. `NotFound` about [`Subject::Node`](crate::Subject::Node) (ESTALE) if it is gone.
    pub async fn attributes(&self, node: &NodeId) -> Result<FileAttributes> { todo!() }

    /// Changes attributes. With `guard`, only if the node's change time is still that one (else `Precondition`; NFS3ERR_NOT_SYNC).
    pub async fn set_attributes(&self, caller: &Caller, node: &NodeId, set: SetAttributes, guard: Option<TimeNs>) -> Result<AttributeChange> { todo!() }

    /// The node called `name` in `directory`. Takes `.` and `..` (the root's is itself).
    pub async fn lookup(&self, caller: &Caller, directory: &NodeId, name: &[u8]) -> Result<FileAttributes> { todo!() }

    /// Which of `wanted` the caller may do.
    pub async fn access(&self, caller: &Caller, node: &NodeId, wanted: Access) -> Result<Access> { todo!() }

    /// The target of a symbolic link.
    pub async fn read_link(&self, node: &NodeId) -> Result<Bytes> { todo!() }

    /// Makes a regular file. `set.mode` is as the caller's umask left it.
    pub async fn create(&self, caller: &Caller, directory: &NodeId, name: &[u8], mode: CreateMode, set: SetAttributes) -> Result<Made> { todo!() }

    /// Makes a directory.
    pub async fn make_directory(&self, caller: &Caller, directory: &NodeId, name: &[u8], set: SetAttributes) -> Result<Made> { todo!() }

    /// Makes a symbolic link.
    pub async fn make_symlink(&self, caller: &Caller, directory: &NodeId, name: &[u8], target: &[u8], set: SetAttributes) -> Result<Made> { todo!() }

    /// Makes a fifo, socket or device node. `rdev`: major and minor as Linux packs them (`makedev`).
    pub async fn make_special(&self, caller: &Caller, directory: &NodeId, name: &[u8], kind: FileType, rdev: u64, set: SetAttributes) -> Result<Made> { todo!() }

    /// Gives a file one more name.
    pub async fn link(&self, caller: &Caller, node: &NodeId, directory: &NodeId, name: &[u8]) -> Result<Made> { todo!() }

    /// Takes a name away that is not a directory's (a directory's: `IsDirectory`). Also tells the node, for doors that keep it open.
    pub async fn unlink(&self, caller: &Caller, directory: &NodeId, name: &[u8]) -> Result<(NodeId, DirectoryChange)> { todo!() }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, caller: &Caller, directory: &NodeId, name: &[u8]) -> Result<(NodeId, DirectoryChange)> { todo!() }

    /// Renames. The changes are those of the source's and the target's directory.
    pub async fn rename(&self, caller: &Caller, from: (&NodeId, &[u8]), to: (&NodeId, &[u8]), mode: RenameMode) -> Result<(DirectoryChange, DirectoryChange)> { todo!() }

    /// Entries of a directory after the name `after`, at most `limit`. Needs read permission unless `caller` is None (already checked at open).
    pub async fn read_directory(&self, caller: Option<&Caller>, directory: &NodeId, after: Option<&[u8]>, limit: usize, with_attributes: bool) -> Result<DirectoryPage> { todo!() }

    /// The directory that a directory is in; the root's is itself.
    pub async fn parent(&self, directory: &NodeId) -> Result<NodeId> { todo!() }

    /// An extended attribute. `NotFound` about [`Subject::Attribute`](crate::Subject::Attribute) (ENODATA).
    pub async fn xattr(&self, caller: &Caller, node: &NodeId, name: &str) -> Result<Bytes> { todo!() }

    /// All names of extended attributes.
    pub async fn list_xattrs(&self, caller: &Caller, node: &NodeId) -> Result<Vec<String>> { todo!() }

    /// Sets an extended attribute. `must_exist`: `Some(true)` XATTR_REPLACE, `Some(false)` XATTR_CREATE.
    pub async fn set_xattr(&self, caller: &Caller, node: &NodeId, name: &str, value: Bytes, must_exist: Option<bool>) -> Result<()> { todo!() }

    /// Removes one.
    pub async fn remove_xattr(&self, caller: &Caller, node: &NodeId, name: &str) -> Result<()> { todo!() }

    /// Space and limits.
    pub async fn status(&self) -> Result<FileSystemStatus> { todo!() }

    /// Returns when all metadata changes, and all versions made, before the call are on disk (not: bytes of open files that no version has yet).
    pub async fn sync(&self) -> Result<()> { todo!() }

    /// Hears of every change of the bucket's entries and nodes, whoever makes it.
    pub fn watch(&self) -> Watch { todo!() }
}
