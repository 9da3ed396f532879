//! Open files: reading, writing, and what makes it last.

use crate::caller::{Who, as_caller};
use crate::door::{Door, EBADF, EINVAL, EISDIR, EOPNOTSUPP, EROFS, Outcome, Refusal};
use crate::metadata::open_flags;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tombolo_core::engine::fs::{AllocateMode, FileSystem, LockOwner, SeekTo};
use tombolo_core::{NodeId, OpenFile};

const O_APPEND: i32 = 0o2000;
const FALLOC_FL_KEEP_SIZE: i32 = 0x01;
const FALLOC_FL_PUNCH_HOLE: i32 = 0x02;
const FALLOC_FL_ZERO_RANGE: i32 = 0x10;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// The most that is copied in one reply, in bytes: it counts in 32 bits.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// A file that the kernel has open.
pub(crate) struct OpenHandle {
    pub(crate) file: OpenFile,
    pub(crate) files: FileSystem,
    pub(crate) node: NodeId,
    /// Whether it may be written to.
    pub(crate) writes: bool,
    /// Who may hold locks that were taken through it.
    pub(crate) lockers: Mutex<BTreeSet<LockOwner>>,
}

impl OpenHandle {
    pub(crate) fn new(file: OpenFile, files: FileSystem, node: NodeId, writes: bool) -> OpenHandle {
        OpenHandle { file, files, node, writes, lockers: Mutex::default() }
    }
}

impl Door {
    fn open_file(&self, handle: u64) -> Outcome<Arc<OpenHandle>> {
        self.files.get(handle).ok_or(Refusal(EBADF))
    }

    pub(crate) async fn open_node(&self, who: Who, number: u64, flags: i32) -> Outcome<u64> {
        let flags = open_flags(flags, self.options.writes_back());
        if (flags.write || flags.truncate) && self.options.read_only {
            return Err(Refusal(EROFS));
        }
        let (_, files, node) = self.node(number, EISDIR)?;
        let file = as_caller!(who, caller, files.open(&caller, &node, flags).await)?;
        Ok(self.files.add(OpenHandle::new(file, files, node, flags.write)))
    }

    pub(crate) async fn read(&self, handle: u64, offset: u64, length: u32) -> Outcome<Bytes> {
        Ok(self.open_file(handle)?.file.read_at(offset, length as usize).await?)
    }

    /// `clears`: whoever wrote this has no privilege to keep set-user-id and set-group-id. `flags`: those that the file was opened with; none if
    /// it is the kernel that hands over pages.
    pub(crate) async fn write(
        &self,
        (number, handle): (u64, u64),
        offset: u64,
        data: Bytes,
        clears: bool,
        flags: i32,
    ) -> Outcome<u32> {
        let open = self.open_file(handle)?;
        if clears {
            Door::clear_privileges(&open.files, &open.node).await?;
        }
        let length = data.len() as u32;
        if flags & O_APPEND == 0 || self.options.writeback {
            open.file.write_at(offset, data).await?;
        } else if open.file.append(data).await? != offset {
            // Others have appended since the kernel heard of the size. It has put these bytes in its cache where it took the end to be.
            self.forget_inode(number);
        }
        Ok(length)
    }

    /// One of perhaps several descriptors is closed: others may see what was written.
    pub(crate) async fn flush(&self, handle: u64, lock_owner: u64) -> Outcome<()> {
        let open = self.open_file(handle)?;
        let owner = self.lock_owner(lock_owner);
        open.files.locks().release(&open.node, owner);
        open.lockers.lock().remove(&owner);
        Ok(open.file.flush().await?)
    }

    /// The last descriptor is closed. Errors were told by `flush`, which has given up the locks of processes, too; what is left are those of the
    /// open file itself (F_OFD_SETLK), and the kernel does not unlock them.
    pub(crate) fn release(&self, handle: u64) {
        if let Some(open) = self.files.remove(handle) {
            open.release_locks();
        }
    }

    pub(crate) async fn fsync(&self, handle: u64) -> Outcome<()> {
        Ok(self.open_file(handle)?.file.fsync().await?)
    }

    /// Names made and removed in a directory last.
    pub(crate) async fn fsync_directory(&self, number: u64) -> Outcome<()> {
        match self.node(number, 0) {
            Ok((_, files, _)) => Ok(files.sync().await?),
            // Levels above buckets change durably.
            Err(Refusal(0)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    pub(crate) async fn allocate(&self, handle: u64, offset: u64, length: u64, mode: i32) -> Outcome<()> {
        const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        let mode = match mode {
            0 => AllocateMode::Allocate,
            FALLOC_FL_KEEP_SIZE => AllocateMode::KeepSize,
            PUNCH => AllocateMode::PunchHole,
            FALLOC_FL_ZERO_RANGE => AllocateMode::ZeroRange,
            ZERO_KEEP => AllocateMode::ZeroRangeKeepSize,
            _ => return Err(Refusal(EOPNOTSUPP)),
        };
        Ok(self.open_file(handle)?.file.allocate(mode, offset, length).await?)
    }

    /// The kernel asks without having written back what it has of the file, which is data too.
    pub(crate) async fn seek(self: &Arc<Self>, (number, handle): (u64, u64), offset: i64, whence: i32) -> Outcome<i64> {
        let to = match whence {
            SEEK_DATA => SeekTo::Data,
            SEEK_HOLE => SeekTo::Hole,
            _ => return Err(Refusal(EINVAL)),
        };
        let offset = u64::try_from(offset).map_err(|_| Refusal(6))?;
        let open = self.open_file(handle)?;
        if self.options.writes_back() && self.files.any(|other| other.writes && other.node == open.node) {
            self.hand_over(number).await;
        }
        let found = open.file.seek(offset, to).await?;
        i64::try_from(found).map_err(|_| Refusal(EINVAL))
    }

    pub(crate) async fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Outcome<u32> {
        let (source, target) = (self.open_file(from.0)?, self.open_file(to.0)?);
        let length = length.min(COPY_BYTES_MAX);
        let copied = target.file.copy_from(&source.file, from.1, to.1, length).await?;
        u32::try_from(copied).map_err(|_| Refusal(EINVAL))
    }
}
