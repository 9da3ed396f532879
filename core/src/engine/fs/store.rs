//! Putting written bytes into chunks, and chunks into manifests, beside further writes.
//!
//! A long run is cut as the bucket cuts streams, from where it begins. While the file is still being written the run's last chunk, which has
//! not ended yet, stays in memory, and so does what lies behind a gap of a growing file (requests of one writer overtake each other): so a file that is written from
//! start to end gets the chunks that a streamed upload gets. Short runs become chunks as they are.

use super::super::contents::Contents;
use super::super::pool::received;
use super::super::session::Session;
use super::body::{Body, Plan, Working};
use super::hold::Hold;
use super::origins::Origins;
use super::overlay::{Data, HeldContent, Piece};
use crate::chunk::Cutter;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::manifest::{Builder, Extent, Manifest, NodeStore, Source};
use crate::namespace::{INLINE_BYTES_MAX, Version};
use crate::object::TimeNs;
use crate::policy::Chunking;
use crate::register::Dot;
use async_recursion::async_recursion as boxed;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes that are cut in one go.
const BLOCK_BYTES: usize = 1 << 20;
/// How many times as much as is stored at a time may wait for writes that were overtaken.
const WAITING_FACTOR: u64 = 2;
/// Chunks of one file that may wait to be stored, in bytes.
const WINDOW_BYTES: usize = 8 << 20;
/// How many chunk rows are committed ahead of the version.
const ROWS_AHEAD: usize = 1024;
/// How many stored pieces may lie over a content before it is put together anew.
const PIECES_MAX: usize = 512;

/// Everything about a body at one instant.
pub(super) struct Moment {
    pub(super) pieces: Vec<(u64, Piece)>,
    pub(super) working: Working,
    pub(super) limit: u64,
    pub(super) size: u64,
    pub(super) hole_bytes: u64,
    pub(super) stamp: u64,
    pub(super) written_ns: TimeNs,
    pub(super) by_hand_ns: Option<TimeNs>,
    /// All bytes, if they are few enough to be kept in the metadata.
    pub(super) small: Option<Plan>,
    pub(super) session: Arc<Session>,
    pub(super) hold: Arc<Hold>,
    /// The version that it was made from, if it has bytes of it, and those that bytes were taken from.
    pub(super) base: Option<Dot>,
    /// The version that it was made from, whatever it has of it, and what that was, see [`State::former`](super::body::State::former).
    pub(super) version: Dot,
    pub(super) former: Option<Arc<Version>>,
    /// What is known of where the base's bytes are, see [`State::lent`](super::body::State::lent).
    pub(super) lent: Option<Vec<Manifest>>,
    pub(super) origins: Origins,
}

/// Chunks under way, in order.
struct Storing<'a> {
    body: &'a Body,
    contents: Arc<Contents>,
    session: Arc<Session>,
    stamp: u64,
    /// Where the next chunk begins.
    at: u64,
    window: VecDeque<(u64, u32, oneshot::Receiver<Result<ChunkId>>)>,
    window_bytes: usize,
    done: Vec<(u64, Piece)>,
}

impl Storing<'_> {
    fn push(&mut self, chunk: Bytes) {
        let length = chunk.len();
        let session = self.session.clone();
        let done = self.contents.pool.submit(move || session.store(&chunk));
        self.window.push_back((self.at, u32::try_from(length).unwrap_or(u32::MAX), done));
        self.window_bytes += length;
        self.at += length as u64;
    }

    /// Collects what was stored until at most `left` bytes are under way, and lays it over the file.
    async fn drain(&mut self, left: usize) -> Result<()> {
        while self.window_bytes > left
            && let Some((offset, length, done)) = self.window.pop_front()
        {
            let id = received(done.await)??;
            self.window_bytes -= length as usize;
            let source = Source::Chunk { id, offset: 0, raw: length };
            let piece = Piece::stored(length.into(), self.stamp, source);
            self.body.state().overlay.replace(offset, &piece);
            self.body.changed.notify_waiters();
            self.done.push((offset, piece));
        }
        Ok(())
    }
}

impl Body {
    /// Stores memory in chunks. `all`: every byte; else what is left of the run at hand stays.
    #[boxed]
    pub(super) async fn store(&self, all: bool) -> Result<()> {
        let _edit = self.edit.lock().await;
        self.store_runs(all).await?;
        if self.has_many_pieces() {
            self.fold().await?;
        }
        Ok(())
    }

    /// Whether stored pieces are to be put together before there are more of them.
    pub(super) fn has_many_pieces(&self) -> bool {
        self.state().overlay.stored_count() > PIECES_MAX
    }

    async fn store_runs(&self, all: bool) -> Result<()> {
        let (runs, last_end) = {
            let state = self.state();
            let is_open =
                |edge: u64, beside: Range<u64>| edge > state.grows_from && !state.overlay.gaps(beside).is_empty();
            let open = |run: Range<u64>| {
                let begins = is_open(run.start, run.start.saturating_sub(1)..run.start);
                let ends = is_open(run.end, run.end..run.end + 1);
                (run, begins, ends)
            };
            let runs: Vec<_> = state.overlay.memory_runs().into_iter().map(open).collect();
            (runs, state.last_end)
        };
        // What waits for what comes before or after it.
        let mut room = self.bucket.segment().open_nodes().stored_bytes * WAITING_FACTOR;
        let tail_max = match self.bucket.state().policy().chunking {
            Chunking::Content(average) => 4 * u64::from(average),
            Chunking::Fixed(bytes) => bytes.into(),
        };
        for (run, is_begin_open, is_end_open) in runs {
            let length = run.end - run.start;
            if !all && is_begin_open && length <= room {
                room -= length;
                continue;
            }
            let tail = length.min(tail_max);
            let stays = !all && is_end_open && tail <= room;
            room -= if stays { tail } else { 0 };
            let ends = all || !stays && run.end != last_end;
            let (pieces, stamp, session) = {
                let mut state = self.state();
                let session = state.session(&self.bucket);
                (state.overlay.snapshot_of(run.clone()), state.stamp, session)
            };
            self.store_run(memory(pieces, &run), &session, stamp, ends).await?;
            if session.len() >= ROWS_AHEAD {
                self.bucket.segment().commit_rows(&session).await?;
            }
        }
        Ok(())
    }

    /// Stores pieces that touch each other; gives the chunks. Unless it `ends` here, the last chunk is left out.
    async fn store_run(
        &self,
        pieces: VecDeque<(u64, Bytes)>,
        session: &Arc<Session>,
        stamp: u64,
        ends: bool,
    ) -> Result<Vec<(u64, Piece)>> {
        let Some((start, _)) = pieces.front() else { return Ok(Vec::new()) };
        let contents = self.bucket.contents().clone();
        let chunking = self.bucket.state().policy().chunking;
        let length: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        contents.check_space(0)?;
        let mut storing = Storing {
            body: self,
            contents: contents.clone(),
            session: session.clone(),
            stamp,
            at: *start,
            window: VecDeque::new(),
            window_bytes: 0,
            done: Vec::new(),
        };
        let mut pieces: VecDeque<Bytes> = pieces.into_iter().map(|(_, bytes)| bytes).collect();
        // Chunks of a fixed size begin at multiples of it.
        let (least, head) = match chunking {
            Chunking::Fixed(bytes) => (0, (u64::from(bytes) - storing.at % u64::from(bytes)) % u64::from(bytes)),
            Chunking::Content(average) => (average as usize / 4, 0),
        };
        let head = usize::try_from(head).unwrap_or(usize::MAX).min(length);
        if length <= least {
            if ends {
                storing.push(join(&mut pieces, length));
            }
            storing.drain(0).await?;
            return Ok(storing.done);
        }
        if head > 0 {
            storing.push(join(&mut pieces, head));
        }
        let mut cutter = Cutter::new(chunking);
        while !pieces.is_empty() {
            let mut block = Vec::new();
            let mut bytes = 0;
            while bytes < BLOCK_BYTES
                && let Some(piece) = pieces.pop_front()
            {
                bytes += piece.len();
                block.push(piece);
            }
            let ends = ends && pieces.is_empty();
            let (back, chunks) = contents
                .pool
                .run(move || {
                    let mut chunks = Vec::new();
                    for piece in block {
                        chunks.extend(cutter.push(piece));
                    }
                    if ends {
                        chunks.extend(cutter.finish());
                    }
                    (cutter, chunks)
                })
                .await?;
            cutter = back;
            chunks.into_iter().for_each(|chunk| storing.push(chunk));
            storing.drain(WINDOW_BYTES).await?;
        }
        storing.drain(0).await?;
        Ok(storing.done)
    }

    /// The body as it is now. Holds `edit`.
    pub(super) fn moment(&self) -> Moment {
        let mut state = self.state();
        let session = state.session(&self.bucket);
        state.fold_limit = Some(u64::MAX);
        Moment {
            pieces: state.overlay.snapshot(),
            working: state.working.clone(),
            limit: state.limit,
            size: state.size,
            hole_bytes: state.hole_bytes,
            stamp: state.stamp,
            written_ns: state.written_ns,
            by_hand_ns: state.by_hand_ns,
            small: (state.size <= INLINE_BYTES_MAX as u64).then(|| state.plan(0..state.size)),
            session,
            hold: state.hold.clone(),
            base: state.shows_base().then_some(state.version),
            version: state.version,
            former: state.former.clone(),
            lent: state.lent.clone(),
            origins: state.origins.clone(),
        }
    }

    /// Stores all memory of a moment. Holds `edit`.
    pub(super) async fn store_moment(&self, moment: &mut Moment) -> Result<()> {
        let mut rest = std::mem::take(&mut moment.pieces).into_iter().peekable();
        let mut pieces = Vec::with_capacity(rest.len());
        while let Some((start, piece)) = rest.next() {
            if !piece.is_memory() {
                pieces.push((start, piece));
                continue;
            }
            let mut end = start + piece.length;
            let mut run = vec![(start, piece)];
            while let Some((start, piece)) = rest.next_if(|(start, piece)| *start == end && piece.is_memory()) {
                end = start + piece.length;
                run.push((start, piece));
            }
            let run = memory(run, &(start..end));
            pieces.extend(self.store_run(run, &moment.session, moment.stamp, true).await?);
        }
        moment.pieces = pieces;
        Ok(())
    }

    /// Puts stored pieces and stored content together. Holds `edit`.
    pub(super) async fn fold(&self) -> Result<()> {
        let mut moment = self.moment();
        // What is still in memory stays over the result.
        moment.pieces.retain(|(_, piece)| !piece.is_memory());
        let (manifest, hole_bytes) = moment.manifest().await?;
        let mut state = self.state();
        let hold = moment.hold_of_all();
        state.hold = hold.clone();
        let working = Working::Stored(Arc::new(HeldContent { manifest: manifest.clone(), hold }));
        state.limit = state.fold_limit.take().unwrap_or(u64::MAX).min(working.size());
        state.working = working;
        state.hole_bytes = hole_bytes;
        for (start, piece) in &moment.pieces {
            // Memory of that age in between was not stored.
            state.overlay.drop_stored(*start..*start + piece.length, moment.stamp);
        }
        drop(state);
        self.note_wear(&manifest, &moment.pieces);
        Ok(())
    }

    /// All bytes as a content of their own, and what holds it: for copies by reference.
    pub(super) async fn as_content(&self) -> Result<Arc<HeldContent>> {
        let _edit = self.edit.lock().await;
        {
            let state = self.state();
            if let Working::Stored(content) = &state.working
                && state.overlay.is_empty()
                && state.limit == state.size
                && content.manifest.size() == state.size
            {
                return Ok(content.clone());
            }
        }
        let mut moment = self.moment();
        self.store_moment(&mut moment).await?;
        let (manifest, hole_bytes) = moment.manifest().await?;
        let content = Arc::new(HeldContent { manifest, hold: moment.hold_of_all() });
        let mut state = self.state();
        if !matches!(state.working, Working::Inline(_)) {
            state.hold = content.hold.clone();
            state.stored(Working::Stored(content.clone()), moment.stamp, hole_bytes);
        } else {
            state.fold_limit = None;
        }
        Ok(content)
    }
}

impl Moment {
    /// What holds everything the moment refers to.
    pub(super) fn hold_of_all(&self) -> Arc<Hold> {
        self.pieces.iter().fold(self.hold.clone(), |hold, (_, piece)| match &piece.data {
            Data::Part(content, _) => hold.with(&content.hold),
            _ => hold,
        })
    }

    /// The manifest of the moment, and its hole bytes. All pieces are stored; what stays in memory has been left out.
    #[boxed]
    pub(super) async fn manifest(&self) -> Result<(Manifest, u64)> {
        let inline;
        let base = match &self.working {
            Working::Stored(content) => &content.manifest,
            Working::Inline(bytes) if bytes.is_empty() => {
                inline = Manifest::empty();
                &inline
            }
            Working::Inline(bytes) => {
                let (session, chunk) = (self.session.clone(), bytes.clone());
                let id = session.store(&chunk)?;
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                inline = Manifest::empty()
                    .overwrite(&*self.session, 0..length.into(), vec![Extent::chunk(id, length)])
                    .await?;
                &inline
            }
        };
        let is_whole = self.limit == base.size() && self.size == base.size();
        if self.pieces.is_empty() && is_whole {
            return Ok((base.clone(), self.hole_bytes));
        }
        let store: &dyn NodeStore = &*self.session;
        let mut builder = Builder::new();
        let mut holes = Holes { store, base, base_bytes: self.hole_bytes, gone: 0, new: 0 };
        let mut at = 0;
        for (start, piece) in &self.pieces {
            self.push_base(&mut builder, &mut holes, base, at..*start).await?;
            at = start + piece.length;
            holes.forget(*start..at).await?;
            match &piece.data {
                Data::Stored(source) => {
                    if *source == Source::Hole {
                        holes.new += piece.length;
                    }
                    builder.push(store, Extent { length: piece.length, source: *source }).await?;
                }
                Data::Part(content, offset) => {
                    let range = *offset..*offset + piece.length;
                    holes.new += hole_bytes(store, &content.manifest, range.clone()).await?;
                    builder.push_range(store, &content.manifest, range).await?;
                }
                Data::Memory(_) | Data::Growing(_) => {
                    return Err(Error::invalid("bytes in memory can't be part of a manifest; this is a bug"));
                }
            }
        }
        self.push_base(&mut builder, &mut holes, base, at..self.size.max(at)).await?;
        holes.forget(self.limit.max(at)..base.size()).await?;
        let hole_bytes = (self.hole_bytes + holes.new).saturating_sub(holes.gone);
        Ok((builder.finish(store).await?, hole_bytes))
    }

    /// Appends `range` of the content as it was: what is beyond its limit is a hole.
    async fn push_base(
        &self,
        builder: &mut Builder,
        holes: &mut Holes<'_>,
        base: &Manifest,
        range: Range<u64>,
    ) -> Result<()> {
        let there = range.start..range.end.min(self.limit).min(base.size());
        if !there.is_empty() {
            builder.push_range(&*self.session, base, there).await?;
        }
        let beyond = range.start.max(self.limit.min(base.size()))..range.end;
        if !beyond.is_empty() {
            holes.new += beyond.end - beyond.start;
            builder.push(&*self.session, Extent::hole(beyond.end - beyond.start)).await?;
        }
        Ok(())
    }
}

/// Counts hole bytes while a content is changed.
struct Holes<'a> {
    store: &'a dyn NodeStore,
    base: &'a Manifest,
    base_bytes: u64,
    gone: u64,
    new: u64,
}

impl Holes<'_> {
    /// `range` of the old content is no longer part of the new one.
    async fn forget(&mut self, range: Range<u64>) -> Result<()> {
        if self.base_bytes > self.gone && !range.is_empty() {
            self.gone += hole_bytes(self.store, self.base, range).await?;
        }
        Ok(())
    }
}

/// Hole bytes of a range. Reads the leaves it touches.
pub(super) async fn hole_bytes(store: &dyn NodeStore, manifest: &Manifest, range: Range<u64>) -> Result<u64> {
    let mut cursor = manifest.extents(store, range);
    let mut bytes = 0;
    while let Some((_, extent)) = cursor.next().await? {
        if extent.source == Source::Hole {
            bytes += extent.length;
        }
    }
    Ok(bytes)
}

/// The bytes of pieces in memory that lie in `range`.
fn memory(pieces: Vec<(u64, Piece)>, range: &Range<u64>) -> VecDeque<(u64, Bytes)> {
    let mut out = VecDeque::new();
    let mut at = range.start;
    for (start, piece) in pieces {
        // A change may have put something else there since the run was seen.
        if start != at || start >= range.end {
            break;
        }
        at = start + piece.length;
        match piece.data {
            Data::Memory(bytes) => out.push_back((start, bytes)),
            Data::Growing(bytes) => out.push_back((start, bytes.into())),
            Data::Stored(_) | Data::Part(..) => break,
        }
    }
    out
}

/// Takes `length` bytes off the front as one piece.
fn join(pieces: &mut VecDeque<Bytes>, length: usize) -> Bytes {
    if let Some(first) = pieces.front_mut()
        && first.len() >= length
    {
        let head = first.split_to(length);
        if first.is_empty() {
            pieces.pop_front();
        }
        return head;
    }
    let mut out = BytesMut::with_capacity(length);
    while out.len() < length
        && let Some(mut piece) = pieces.pop_front()
    {
        let left = length - out.len();
        out.extend_from_slice(&piece.split_to(left.min(piece.len())));
        if !piece.is_empty() {
            pieces.push_front(piece);
        }
    }
    out.freeze()
}
