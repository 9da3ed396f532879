//! Read-only memory maps of files that don't change any more. The one file of this crate with `unsafe` in it.
//!
//! # Why it is sound
//!
//! A `&[u8]` into a map promises that the bytes behind it neither change nor go away while it lives.
//!
//! * *Change*: only sealed packs are mapped. This process never writes to or truncates a sealed pack, and the lock on
//!   the data directory keeps other Tombolo processes out. Somebody with write access to the directory who edits a pack in
//!   place can break this promise, as they can for every program that maps a file (its own executable included); what
//!   they change before a chunk is verified is caught by its hash.
//! * *Go away*: a slice owns its map ([`Bytes::from_owner`]), so the map is not undone while a slice lives. Removing the
//!   file does not matter to a map. A page that can't be read (the file was cut behind our back, the disk is broken)
//!   would kill the process with SIGBUS; so every slice is first brought in by `MADV_POPULATE_READ`, which reports
//!   that as an error instead. Where the kernel has no such call, or it fails, slices are plain reads into memory.
//!   What remains is a page that was read well, was evicted while a slice of it lives, and fails to be read again.
//! * When a slice goes, its pages are let go by `MADV_DONTNEED`, so that the resident size of the process stays
//!   proportional to live slices, not to what was ever read. On a shared map of a file that call drops page table entries
//!   and nothing else: whoever reads a page again, a neighbouring slice for one, gets the same page of the same file.

use crate::error::{Error, Result};
use bytes::Bytes;
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A file's bytes, mapped. Cheap to clone.
#[derive(Clone)]
pub struct Mapping(Source);

#[derive(Clone)]
enum Source {
    File(Arc<Mapped>),
    Memory(Bytes),
}

struct Mapped {
    map: memmap2::Mmap,
    file: fs::File,
}

/// The part of a map that one [`Bytes`] shows.
struct Window {
    mapped: Arc<Mapped>,
    range: Range<usize>,
}

impl Mapping {
    /// Maps all of `file`, which nobody may change from now on.
    #[expect(unsafe_code, reason = "mapping a file; see the head of this file")]
    pub(super) fn of_file(file: fs::File) -> io::Result<Mapping> {
        // SAFETY: the file is sealed, and stays as it is while the map lives; see the head of this file.
        let map = unsafe { memmap2::MmapOptions::new().map(&file)? };
        Ok(Mapping(Source::File(Arc::new(Mapped { map, file }))))
    }

    /// A "map" of bytes in memory, for disks that are there.
    pub fn of_memory(bytes: Bytes) -> Mapping {
        Mapping(Source::Memory(bytes))
    }

    /// Length of the file when it was mapped, in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Source::File(mapped) => mapped.map.len(),
            Source::Memory(bytes) => bytes.len(),
        }
    }

    /// Whether the file was empty when it was mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, without a copy where possible. `Damaged` if the file ends before or can't be read.
    pub fn slice(&self, range: Range<usize>) -> Result<Bytes> {
        self.check(&range)?;
        match &self.0 {
            Source::Memory(bytes) => Ok(bytes.slice(range)),
            Source::File(_) if range.is_empty() => Ok(Bytes::new()),
            Source::File(mapped) if populate(&mapped.map, &range) => {
                Ok(Bytes::from_owner(Window { mapped: mapped.clone(), range }))
            }
            Source::File(mapped) => mapped.read(range),
        }
    }

    /// A copy of the bytes of `range`, for who keeps them: costs less than a window into the map that is closed again.
    pub fn copy(&self, range: Range<usize>) -> Result<Bytes> {
        self.check(&range)?;
        match &self.0 {
            Source::Memory(bytes) => Ok(Bytes::copy_from_slice(&bytes.slice(range))),
            Source::File(mapped) => mapped.read(range),
        }
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            let (start, end, len) = (range.start, range.end, self.len());
            return Err(Error::damaged(format!("bytes {start} to {end} are past the file's end at {len}")));
        }
        Ok(())
    }
}

impl Mapped {
    fn read(&self, range: Range<usize>) -> Result<Bytes> {
        let mut buffer: Vec<u8> = Vec::with_capacity(range.len());
        while buffer.len() < range.len() {
            let at = (range.start + buffer.len()) as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut buffer), at) {
                Ok(0) => return Err(Error::damaged("the file was cut while it was in use")),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::damaged("the disk can't read it").because(io::Error::from(error))),
            }
        }
        buffer.truncate(range.len());
        Ok(buffer.into())
    }
}

#[cfg(target_os = "linux")]
fn populate(map: &memmap2::Mmap, range: &Range<usize>) -> bool {
    map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &memmap2::Mmap, _: &Range<usize>) -> bool {
    false
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        // `range` was checked against the map's length when the window was made.
        self.mapped.map.get(self.range.clone()).unwrap_or_default()
    }
}

impl Drop for Window {
    #[expect(unsafe_code, reason = "letting pages of a shared file map go; see the head of this file")]
    fn drop(&mut self) {
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the map is shared and of a file, so no byte that anybody can see changes; see the head of this file.
        let outcome = unsafe { self.mapped.map.unchecked_advise_range(advice, self.range.start, self.range.len()) };
        if let Err(error) = outcome {
            tracing::trace!(%error, "pages of a pack stay resident");
        }
    }
}
