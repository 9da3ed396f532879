//! One directory of files, named and flat: all that the chunk store asks of an operating system.
//!
//! [`SystemDisk`] is a real directory. [`FaultyDisk`] lives in memory and does what disks do on a bad day:
//! it loses, tears and reorders what was not synced, fills up, and fails.
//!
//! # Contract
//!
//! * What [`File::sync_data`] has returned for survives a crash, length included, *if* the file's name does.
//! * A name survives once [`Disk::sync_dir`] has returned after [`Disk::create`] or [`Disk::rename`]; the same goes for
//!   its absence after [`Disk::remove`].
//! * What was written and not synced may survive whole, in part (any subset of 512-byte sectors, in any order), or not.
//! * Calls come from many threads at once. Writes of different ranges of one file don't disturb each other.
//! * Removing a file leaves handles and mappings of it usable.

mod faulty;
mod mapping;
mod system;

pub use faulty::FaultyDisk;
pub use mapping::Mapping;
pub use system::SystemDisk;

use crate::error::Result;
use std::io::IoSlice;
use std::sync::Arc;

/// A file of a directory, as [`Disk::list`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A directory of files. See the [module](self) for what holds after a crash.
pub trait Disk: Send + Sync {
    /// Makes an empty file; `Exists` if there is one of that name.
    fn create(&self, name: &str) -> Result<Arc<dyn File>>;
    /// Opens a file for reading and writing; `NotFound` if there is none.
    fn open(&self, name: &str) -> Result<Arc<dyn File>>;
    /// All files, in no particular order. What is not a regular file is left out.
    fn list(&self) -> Result<Vec<FileInfo>>;
    /// Takes a file's name away; `NotFound` if there is none.
    fn remove(&self, name: &str) -> Result<()>;
    /// Gives a file another name, replacing a file of that name.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> Result<()>;
    /// Bytes that can still be written here by an ordinary user.
    fn free_bytes(&self) -> Result<u64>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes `parts`, one after the other, at `offset`. After an error any part of the range may have been written.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> Result<()>;
    /// Fills `buffer` from `offset`; returns how many bytes there were, less than asked for only at the end of the file.
    /// `Damaged` if the medium can't be read there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Makes everything written before this call durable.
    fn sync_data(&self) -> Result<()>;
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Whether nothing is in it.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) to `bytes`.
    fn truncate(&self, bytes: u64) -> Result<()>;
    /// Maps the whole file for reading. For files that nobody writes to any more.
    fn map(&self) -> Result<Mapping>;
}
