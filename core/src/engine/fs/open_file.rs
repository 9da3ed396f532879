//! An open regular file: a handle on the body of a node, with what belongs to the handle alone (who opened it, for what, where it reads).

use super::body::{Body, Part};
use super::caller::{GROUP_EXECUTE, SET_GID, SET_UID};
use super::open_nodes::OpenNodes;
use super::overlay::Piece;
use super::read::{Reader, join};
use super::{Access, Caller, FileAttributes, FileSystem, Locks};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::manifest::{CONTENT_BYTES_MAX, Source};
use crate::namespace;
use crate::object::TimeNs;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::sync::Arc;

use super::super::contents::ReadNodes;
use super::super::transact;

/// A shorter range is copied as bytes.
const REFERENCED_BYTES_MIN: u64 = 64 << 10;
/// Bytes are copied in pieces of this length.
const COPIED_BYTES: u64 = 1 << 20;

/// How to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Cut to nothing (O_TRUNC).
    pub truncate: bool,
    /// The caller may, whatever the file's mode says: it has just made it (`open(2)`, O_CREAT), or was asked already.
    pub is_granted: bool,
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
///
/// Dropping it is closing it, without hearing of errors.
pub struct OpenFile {
    files: FileSystem,
    nodes: Arc<OpenNodes>,
    body: Arc<Body>,
    reader: Reader,
    caller: Caller,
    flags: OpenFlags,
    tells_losses: bool,
}

impl FileSystem {
    /// Opens a regular file. [`ErrorKind::Denied`] if the caller may not read or write it.
    pub async fn open(&self, caller: &Caller, node: &NodeId, flags: OpenFlags) -> Result<OpenFile> {
        let nodes = self.bucket.segment().open_nodes().clone();
        let wanted = Access { read: flags.read, write: flags.write || flags.truncate, execute: false };
        let is_checked = flags.is_granted || caller.uid == 0;
        if wanted.write && (is_checked || self.may(caller, node, wanted).await?) {
            self.own(node).await?;
        }
        let body = nodes.open(&self.bucket, node).await?;
        // From here on dropping the handle releases the body.
        let file = OpenFile {
            files: self.clone(),
            reader: Reader::new(self.bucket.contents().clone(), nodes.read.clone()),
            nodes,
            body,
            caller: caller.clone(),
            flags,
            tells_losses: true,
        };
        if !is_checked && !self.may(caller, node, wanted).await? {
            return Err(Error::new(ErrorKind::Denied, "the file's mode does not let this caller open it so"));
        }
        if flags.truncate {
            file.clear_privileges().await?;
            file.body.truncate(0, self.origin).await?;
        }
        Ok(file)
    }

    /// Locks on the bucket's files.
    pub fn locks(&self) -> Locks {
        Locks::new(self.bucket.segment().open_nodes().locks.clone(), self.bucket.state().number)
    }

    /// Makes versions of files that were closed, and of open ones that were written to at least `age_ns` ago; on disk with the next sync.
    /// Whole-object readers see such a version of a file that is still being written.
    pub async fn flush_older_than(&self, age_ns: TimeNs) -> Result<()> {
        self.bucket.segment().open_nodes().flush(Some(self.bucket.state().number), age_ns).await
    }
}

impl OpenFile {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.body.node
    }

    /// Attributes as they are now, written bytes included.
    pub async fn attributes(&self) -> Result<FileAttributes> {
        self.body.refresh().await?;
        {
            let state = self.body.state();
            if state.is_orphan {
                return Ok(state.orphan_attributes(&self.body.node));
            }
        }
        self.files.attributes(&self.body.node).await
    }

    /// Size in bytes, written bytes included.
    pub async fn size(&self) -> Result<u64> {
        self.body.refresh().await?;
        Ok(self.body.state().size)
    }

    /// Up to `length` bytes at `offset`; fewer only at the end.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        Ok(join(self.read_pieces_at(offset, length).await?))
    }

    /// The same in pieces that follow each other, for who can send them without putting them together.
    pub async fn read_pieces_at(&self, offset: u64, length: usize) -> Result<Vec<Bytes>> {
        self.must(self.flags.read, "reading")?;
        self.body.refresh().await?;
        let (range, plan) = {
            let state = self.body.state();
            let range = offset..offset.saturating_add(length as u64).min(state.size.max(offset));
            (range.clone(), state.plan(range))
        };
        self.reader.read(range, plan).await.map_err(|error| self.explain(error))
    }

    /// Writes; visible through every handle when it returns, durable after [`OpenFile::fsync`].
    ///
    /// [`ErrorKind::NoSpace`] and [`ErrorKind::Quota`] may also be about what was written before.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.must(self.flags.write, "writing")?;
        self.clear_privileges().await?;
        self.body.write(&self.nodes, Some(offset), data, self.files.origin).await.map(|_| ())
    }

    /// Writes at the end, atomically (O_APPEND). Returns where.
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        self.must(self.flags.write, "writing")?;
        self.clear_privileges().await?;
        self.body.write(&self.nodes, None, data, self.files.origin).await
    }

    /// Cuts or extends.
    pub async fn truncate(&self, size: u64) -> Result<()> {
        self.must(self.flags.write, "writing")?;
        self.clear_privileges().await?;
        self.body.truncate(size, self.files.origin).await
    }

    /// Sets the modification time of what was written and not saved yet, without a commit of its own. False: all is saved, and nothing was
    /// set ([`FileSystem::set_attributes`] does it then).
    pub fn set_modified(&self, modified_ns: TimeNs) -> bool {
        let mut state = self.body.state();
        if !state.is_unsaved() || state.is_orphan {
            return false;
        }
        state.changed_by(self.files.origin);
        state.by_hand_ns = Some(modified_ns);
        // A save under way has the old time.
        state.stamp += 1;
        drop(state);
        self.body.tell(0..0, false, self.files.origin);
        true
    }

    /// `fallocate`.
    pub async fn allocate(&self, mode: AllocateMode, offset: u64, length: u64) -> Result<()> {
        self.must(self.flags.write, "writing")?;
        let end = offset.checked_add(length).filter(|end| *end <= CONTENT_BYTES_MAX && length > 0);
        let end = end.ok_or_else(|| Error::invalid(format!("{length} bytes at {offset} are no range of a file")))?;
        self.clear_privileges().await?;
        self.body.refresh().await?;
        let extends = matches!(mode, AllocateMode::Allocate | AllocateMode::ZeroRange);
        if extends {
            self.body.check_growth(offset, length)?;
        }
        self.make_room_for_a_piece().await?;
        let now = self.body.now_ns();
        let mut state = self.body.state();
        let before = state.size;
        state.changed_by(self.files.origin);
        let clipped = if extends { end } else { end.min(state.size) };
        match mode {
            AllocateMode::Allocate if end > state.size => state.truncate(end, now),
            AllocateMode::Allocate | AllocateMode::KeepSize => return Ok(()),
            AllocateMode::PunchHole | AllocateMode::ZeroRange | AllocateMode::ZeroRangeKeepSize => {
                if clipped > offset {
                    state.put(offset, Piece::hole(clipped - offset, 0), now);
                }
            }
        }
        let is_resized = state.size != before;
        drop(state);
        self.body.tell(offset..clipped.max(offset), is_resized, self.files.origin);
        Ok(())
    }

    /// Before a piece is put there that takes nothing of the memory for written bytes: of those there are only so many.
    async fn make_room_for_a_piece(&self) -> Result<()> {
        if self.body.has_many_pieces() {
            self.body.store(false).await?;
        }
        Ok(())
    }

    /// `SEEK_DATA`, `SEEK_HOLE`. `Invalid` with errno ENXIO behind the end.
    pub async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> {
        self.body.refresh().await?;
        let (plan, size) = {
            let state = self.body.state();
            (state.plan(offset..state.size), state.size)
        };
        let beyond = || Error::invalid("there is no such place before the end of the file").about(Subject::Nowhere);
        if offset >= size {
            return Err(beyond());
        }
        let mut at = offset;
        for part in plan.parts {
            let (length, is_hole) = match part {
                Part::Memory(bytes) => (bytes.len() as u64, false),
                Part::Zeros(length) | Part::Stored(Source::Hole, length) => (length, true),
                Part::Stored(Source::Chunk { .. }, length) => (length, false),
                Part::Content(content, range) => {
                    let nodes = ReadNodes(self.files.bucket.contents().clone());
                    let mut cursor = content.manifest.extents(nodes, range.clone());
                    while let Some((start, extent)) = cursor.next().await? {
                        if (extent.source == Source::Hole) == (to == SeekTo::Hole) {
                            return Ok(at + (start - range.start));
                        }
                    }
                    at += range.end - range.start;
                    continue;
                }
            };
            if is_hole == (to == SeekTo::Hole) {
                return Ok(at);
            }
            at += length;
        }
        if to == SeekTo::Hole { Ok(size) } else { Err(beyond()) }
    }

    /// Copies a range from `source` by reference where it can (`copy_file_range`); returns how much. Less than `length` only at the source's end.
    pub async fn copy_from(&self, source: &OpenFile, source_offset: u64, offset: u64, length: u64) -> Result<u64> {
        self.must(self.flags.write, "writing")?;
        source.must(source.flags.read, "reading")?;
        let is_same = Arc::ptr_eq(&self.body, &source.body);
        if is_same && source_offset < offset.saturating_add(length) && offset < source_offset.saturating_add(length) {
            return Err(Error::invalid("a range can't be copied over itself"));
        }
        source.body.refresh().await?;
        let length = length.min(source.body.state().size.saturating_sub(source_offset));
        if length == 0 {
            return Ok(0);
        }
        self.clear_privileges().await?;
        self.body.refresh().await?;
        self.body.check_growth(offset, length)?;
        if length < REFERENCED_BYTES_MIN {
            let data = source.read_at(source_offset, usize::try_from(length).unwrap_or(usize::MAX)).await?;
            let copied = data.len() as u64;
            self.write_at(offset, data).await?;
            return Ok(copied);
        }
        let contents = source.files.bucket.segment().id() == self.files.bucket.segment().id();
        if !contents {
            return self.copy_bytes(source, source_offset, offset, length).await;
        }
        let (origin, others) = {
            let state = source.body.state();
            let own = (source.files.bucket.state().number, source.body.node, state.version);
            (state.shows_base().then_some(own), state.origins.clone())
        };
        let content = source.body.as_content().await?;
        let length = length.min(content.manifest.size().saturating_sub(source_offset));
        self.make_room_for_a_piece().await?;
        if length > 0 {
            let now = self.body.now_ns();
            let mut state = self.body.state();
            let before = state.size;
            state.changed_by(self.files.origin);
            state.put(offset, Piece::part_of(content, source_offset, length, 0), now);
            let stamp = state.stamp;
            origin.into_iter().for_each(|origin| state.origins.add(origin, stamp));
            state.origins.add_all(&others, stamp);
            let is_resized = state.size != before;
            drop(state);
            self.body.tell(offset..offset + length, is_resized, self.files.origin);
        }
        Ok(length)
    }

    async fn copy_bytes(&self, source: &OpenFile, source_offset: u64, offset: u64, length: u64) -> Result<u64> {
        let mut done = 0;
        while done < length {
            let now = usize::try_from((length - done).min(COPIED_BYTES)).unwrap_or(usize::MAX);
            let data = source.read_at(source_offset + done, now).await?;
            if data.is_empty() {
                break;
            }
            let copied = data.len() as u64;
            self.write_at(offset + done, data).await?;
            done += copied;
        }
        Ok(done)
    }

    /// Makes a version of what was written, durable when it returns.
    ///
    /// Whoever has the file open for writing hears once, here or from [`OpenFile::flush`], that what was written to it before and closed could not be kept.
    pub async fn fsync(&self) -> Result<()> {
        self.body.save(true).await?;
        self.loss()
    }

    /// Does not tell of what was lost before it was opened: the door has another way ([`FileSystem::losses`]).
    pub fn without_losses(mut self) -> OpenFile {
        self.tells_losses = false;
        self
    }

    fn loss(&self) -> Result<()> {
        let lost = if self.tells_losses && self.flags.write { self.body.state().lost.take() } else { None };
        lost.map_or(Ok(()), |(kind, message)| {
            Err(Error::new(kind, format!("what was written before is lost: {message}")))
        })
    }

    /// Makes a version of what was written (a close): every whole-object read that begins after this returns sees it, through any door; durable with the next sync.
    /// Saving goes on in the background.
    pub async fn flush(&self) -> Result<()> {
        let failure = {
            let mut state = self.body.state();
            if !state.is_unsaved() || state.is_orphan {
                drop(state);
                return self.loss();
            }
            state.failure.take()
        };
        self.nodes.save_later(&self.body);
        match failure {
            Some((kind, message)) => Err(Error::new(kind, message)),
            None => self.loss(),
        }
    }

    /// As [`OpenFile::flush`], then lets go. Dropping without it does the same, unheard.
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }

    fn must(&self, may: bool, what: &str) -> Result<()> {
        if may { Ok(()) } else { Err(Error::new(ErrorKind::Denied, format!("the file is not open for {what}"))) }
    }

    /// Takes set-user-id, and set-group-id from what the group may run, away from a file that somebody other than root changes.
    #[boxed]
    async fn clear_privileges(&self) -> Result<()> {
        let is_privileged = |mode: u32| mode & SET_UID != 0 || mode & SET_GID != 0 && mode & GROUP_EXECUTE != 0;
        let cleared = |mode: u32| mode & !SET_UID & if mode & GROUP_EXECUTE != 0 { !SET_GID } else { !0 };
        if self.caller.uid == 0 {
            return Ok(());
        }
        {
            let mut state = self.body.state();
            if !state.attributes.mode.is_some_and(is_privileged) {
                return Ok(());
            }
            if state.is_orphan {
                state.attributes.mode = state.attributes.mode.map(cleared);
                if let Some(last) = &mut state.last_attributes {
                    last.mode = cleared(last.mode);
                }
                return Ok(());
            }
        }
        let bucket = &self.files.bucket;
        let (mode, _) = transact!(bucket.segment(), txn, {
            bucket.require(&mut txn).await?;
            let row = txn.node(bucket.state().number, &self.body.node).await?;
            let mut attributes = row.shown_attributes().map(|a| a.attributes.clone()).unwrap_or_default();
            if attributes.mode.is_some_and(is_privileged) && !row.names.is_empty() {
                attributes.mode = attributes.mode.map(cleared);
                txn.without_sync();
                let mode = attributes.mode;
                namespace::set_attributes(&mut txn, bucket.state(), &self.body.node, Some(attributes), None).await?;
                mode
            } else {
                attributes.mode
            }
        })?;
        self.body.state().attributes.mode = mode;
        Ok(())
    }

    fn explain(&self, error: Error) -> Error {
        Error::new(error.kind(), format!("file {} can't be read", self.body.node)).about(error.subject()).because(error)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.nodes.release(&self.body);
    }
}
