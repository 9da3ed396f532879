//! An open regular file.

use super::FileAttributes;
use crate::error::Result;
use crate::id::NodeId;
use bytes::Bytes;

/// How to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Cut to nothing (O_TRUNC).
    pub truncate: bool,
}

/// What [`OpenFile::allocate`] does with a range (`fallocate(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocateMode {
    /// Extend the file if the range ends behind it. Space is not reserved.
    Allocate,
    /// As `Allocate`, without changing the size.
    KeepSize,
    /// Make a hole; the size stays.
    PunchHole,
    /// Make it read as zeros; extends the file.
    ZeroRange,
    /// Make it read as zeros; the size stays.
    ZeroRangeKeepSize,
}

/// What [`OpenFile::seek`] looks for (`SEEK_DATA`, `SEEK_HOLE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// An open regular file: stays readable and writable whatever happens to its names. All handles of a node see the same bytes.
pub struct OpenFile {}

impl OpenFile {
    /// The node.
    pub fn node(&self) -> NodeId { todo!() }

    /// Attributes as they are now, written bytes included.
    pub async fn attributes(&self) -> Result<FileAttributes> { todo!() }

    /// Up to `length` bytes at `offset`; fewer only at the end.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> { todo!() }

    /// Writes; visible through every handle when it returns, durable after [`OpenFile::fsync`].
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> { todo!() }

    /// Writes at the end, atomically (O_APPEND). Returns where.
    pub async fn append(&self, data: Bytes) -> Result<u64> { todo!() }

    /// Cuts or extends.
    pub async fn truncate(&self, size: u64) -> Result<()> { todo!() }

    /// `fallocate`.
    pub async fn allocate(&self, mode: AllocateMode, offset: u64, length: u64) -> Result<()> { todo!() }

    /// `SEEK_DATA`, `SEEK_HOLE`. `Invalid` with errno ENXIO behind the end.
    pub async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> { todo!() }

    /// Copies a range from `source` by reference where it can (`copy_file_range`); returns how much.
    pub async fn copy_from(&self, source: &OpenFile, source_offset: u64, offset: u64, length: u64) -> Result<u64> { todo!() }

    /// Makes a version of what was written, durable when it returns.
    pub async fn fsync(&self) -> Result<()> { todo!() }

    /// Makes a version of what was written (a close): other doors see it; durable with the next sync.
    pub async fn flush(&self) -> Result<()> { todo!() }

    /// As [`OpenFile::flush`], then lets go. Dropping without it flushes in the background.
    pub async fn close(self) -> Result<()> { todo!() }
}
