//! Cutting fragmented stretches of an open file's content anew.
//!
//! What is cut anew is the stored part of a body: the same bytes, of other chunks. That is no change of the file: nothing becomes unsaved by it, and no version is made for it. The
//! next save that somebody's change asks for carries it. Where no other segment can have seen the bucket, the row of the version that is there is
//! changed too ([`Body::keep`]), so that files that nobody writes to any more get it as well.
//!
//! Reading, cutting and storing go on beside everything else; only laying the result under the file holds `edit`, and what was saved meanwhile stays over it. Only
//! data that is kept here is read: nothing is brought over a link, or kept for longer, for this.
//!
//! After a crash a stretch is as it was, or as it is now; chunks that nothing refers to are garbage.

use super::super::contents::{Contents, LocalNodes};
use super::super::packs::{Packs, Residence};
use super::super::segment::shared_row;
use super::super::session::Session;
use super::super::transact;
use super::body::{Body, Working};
use super::fragments::{Grain, Stretch, is_as_before};
use super::hold::Hold;
use super::overlay::HeldContent;
use crate::chunk::Cutter;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ChunkId;
use crate::kv::Space;
use crate::manifest::{Extent, Manifest, Source};
use crate::namespace::{self, Content};
use crate::policy::Chunking;
use async_recursion::async_recursion as boxed;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Of a window not more extents than this are looked at.
const EXTENTS_MAX: usize = 8192;
/// Nor is it cut anew more often than this in one pass.
const ROUNDS_MAX: usize = 64;
/// Nor more often than this while nothing is saved: for each time something holds chunks that no version refers to yet.
const UNSAVED_MAX: usize = 1024;
/// What is left for others of the space that can be written to, in bytes.
const SPARE_BYTES: u64 = 64 << 20;
/// Chunks in hand, in bytes: the pieces of a fragmented stretch are parts of the same few chunks.
const IN_HAND_BYTES: usize = 8 << 20;

/// What was done about fragmented files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecutReport {
    /// Windows that were looked at.
    pub windows: u64,
    /// Bytes that were cut anew.
    pub bytes: u64,
    /// Extents they consisted of, and consist of now.
    pub extents_before: u64,
    /// See above.
    pub extents_after: u64,
}

impl RecutReport {
    pub(super) fn add(&mut self, other: &RecutReport) {
        self.windows += other.windows;
        self.bytes += other.bytes;
        self.extents_before += other.extents_before;
        self.extents_after += other.extents_after;
    }
}

/// Chunks made one after the other.
struct Made {
    start: u64,
    end: u64,
    extents: Vec<Extent>,
}

impl Made {
    fn push(&mut self, length: u64, id: ChunkId) {
        self.end += length;
        self.extents.push(Extent::chunk(id, u32::try_from(length).unwrap_or(u32::MAX)));
    }

    /// Appends those of `range`.
    fn part(&self, range: Range<u64>, out: &mut Vec<Extent>) {
        let mut at = self.start;
        for extent in &self.extents {
            out.extend(extent.part(range.start.saturating_sub(at), range.end.saturating_sub(at)));
            at += extent.length;
        }
    }
}

impl Body {
    /// Cuts what is fragmented in a window of the stored content anew. Adds what it did to `report`, also if it fails.
    #[boxed]
    pub(super) async fn recut(&self, window: Range<u64>, report: &mut RecutReport) -> Result<()> {
        let grain = Grain::new(self.bucket.state().policy().chunking);
        for _ in 0..ROUNDS_MAX {
            let (content, limit) = {
                let state = self.state();
                let mut sessions = Vec::new();
                state.hold.sessions(&mut sessions);
                if sessions.len() >= UNSAVED_MAX {
                    // Until the next save.
                    break;
                }
                match &state.working {
                    Working::Stored(content) if !state.is_orphan => (content.clone(), state.limit),
                    _ => break,
                }
            };
            let extents = self.extents(&content.manifest, grain.around(&window), limit).await?;
            let Some(stretch) = grain.worn(&extents, &window) else { break };
            let contents = self.bucket.contents();
            if contents.writable_bytes()? < SPARE_BYTES {
                return Err(Error::new(ErrorKind::NoSpace, "there is no room to cut files anew"));
            }
            let session = Session::new(contents, self.bucket.state().policy().compression);
            let made = self.cut(&grain, &extents, &stretch, &session).await?;
            let Some((before, after)) = self.lay(&extents, &made, &session).await? else { break };
            report.bytes += made.end - made.start;
            report.extents_before += before;
            report.extents_after += after;
        }
        Ok(())
    }

    /// The extents that touch `range` and lie before `limit`.
    async fn extents(&self, manifest: &Manifest, range: Range<u64>, limit: u64) -> Result<Vec<(u64, Extent)>> {
        let nodes = LocalNodes(self.bucket.contents().clone());
        let mut cursor = manifest.extents(nodes, range.start..limit);
        let mut extents = Vec::new();
        while extents.len() < EXTENTS_MAX
            && let Some((start, extent)) = cursor.next().await?
            && start < range.end
        {
            extents.push((start, extent));
        }
        Ok(extents)
    }

    /// Reads a stretch and stores what it is cut into.
    async fn cut(
        &self,
        grain: &Grain,
        extents: &[(u64, Extent)],
        stretch: &Stretch,
        session: &Arc<Session>,
    ) -> Result<Made> {
        let contents = self.bucket.contents();
        let mut made = Made { start: stretch.start, end: stretch.start, extents: Vec::new() };
        let mut slicer = Slicer::new(grain.chunking, stretch.start);
        let mut in_hand = InHand::default();
        for (start, extent) in extents {
            let end = if stretch.is_exact { stretch.end_min } else { u64::MAX };
            let part = extent.part(stretch.start.saturating_sub(*start), end.saturating_sub(*start));
            let Some(part) = part else { continue };
            let Source::Chunk { id, offset, .. } = part.source else { break };
            let bytes = in_hand.part(contents, &id, offset, part.length).await?;
            let session = session.clone();
            let (back, stored) = contents
                .pool
                .run(move || {
                    let stored = store(&session, slicer.push(bytes));
                    (slicer, stored)
                })
                .await?;
            slicer = back;
            for (length, id) in stored? {
                made.push(length, id);
                if !stretch.is_exact && grain.ends(extents, made.end, stretch.end_min) {
                    return Ok(made);
                }
            }
        }
        let session = session.clone();
        for (length, id) in contents.pool.run(move || store(&session, slicer.finish())).await?? {
            made.push(length, id);
        }
        Ok(made)
    }

    /// Lays what was made of `before` under the file, but not where something else is by now. Returns how many extents that stretch consisted of and consists
    /// of; `None`: there is nothing to be gained any more.
    async fn lay(&self, before: &[(u64, Extent)], made: &Made, session: &Arc<Session>) -> Result<Option<(u64, u64)>> {
        let _edit = self.edit.lock().await;
        let Working::Stored(content) = self.state().working.clone() else { return Ok(None) };
        let range = made.start..made.end.min(content.manifest.size());
        let mut with = Vec::new();
        let mut count = 0;
        let mut same = range.start..range.start;
        let nodes = LocalNodes(self.bucket.contents().clone());
        let mut cursor = content.manifest.extents(nodes, range.clone());
        while let Some((start, extent)) = cursor.next().await? {
            count += 1;
            let end = start + extent.length;
            if is_as_before(before, start, &extent) {
                same.end = end;
                continue;
            }
            made.part(same, &mut with);
            with.push(extent);
            same = end..end;
        }
        made.part(same, &mut with);
        let after = with.len() as u64;
        if after >= count {
            return Ok(None);
        }
        let manifest = content.manifest.overwrite(&**session, range, with).await?;
        let mut state = self.state();
        // Another door may have put a version there, that has been taken over.
        if state.is_orphan || !matches!(&state.working, Working::Stored(now) if Arc::ptr_eq(now, &content)) {
            return Ok(None);
        }
        let hold = Arc::new(Hold { pin: None, session: Some(session.clone()), others: vec![state.hold.clone()] });
        state.hold = hold.clone();
        state.working = Working::Stored(Arc::new(HeldContent { manifest, hold }));
        Ok(Some((count, after)))
    }

    /// If something was stored and nothing is unsaved: commits the rows of what was stored, and puts the content as it is cut now in place of the version's, where
    /// only this segment can have seen that. Else the next save does it.
    pub(super) async fn keep(&self) -> Result<()> {
        let _edit = self.edit.lock().await;
        let (content, hold, version) = {
            let state = self.state();
            let Working::Stored(content) = &state.working else { return Ok(()) };
            let is_all = state.overlay.is_empty() && state.limit == content.manifest.size();
            if state.is_unsaved() || state.is_orphan || !is_all {
                return Ok(());
            }
            (content.clone(), state.hold.clone(), state.version)
        };
        let mut sessions = Vec::new();
        hold.sessions(&mut sessions);
        if sessions.is_empty() {
            return Ok(());
        }
        let bucket = self.bucket.state();
        transact!(self.bucket.segment(), txn, {
            self.bucket.require(&mut txn).await?;
            // Nobody waits for it, and nobody sees a difference.
            txn.without_sync();
            txn.set_origin(namespace::UNSEEN);
            for session in &sessions {
                session.add_rows(&mut txn);
            }
            if txn.read(Space::Meta, &shared_row(&bucket.id)).await?.is_none() {
                let content = Content::Manifest(content.manifest.clone());
                namespace::recut(&mut txn, bucket, &self.node, &version, content).await?;
            }
        })?;
        let hold = Arc::new(Hold {
            pin: Some(self.bucket.contents().pin(&content.manifest)),
            session: None,
            others: Vec::new(),
        });
        let mut state = self.state();
        let is_same = matches!(&state.working, Working::Stored(now) if Arc::ptr_eq(now, &content));
        if is_same && !state.is_unsaved() && !state.is_orphan {
            let manifest = content.manifest.clone();
            state.hold = hold.clone();
            state.session = None;
            state.working = Working::Stored(Arc::new(HeldContent { manifest, hold }));
        }
        Ok(())
    }
}

fn store(session: &Session, chunks: Vec<Bytes>) -> Result<Vec<(u64, ChunkId)>> {
    chunks.into_iter().map(|chunk| Ok((chunk.len() as u64, session.store(&chunk)?))).collect()
}

/// A cutter that begins in the middle of a file: chunks of a fixed size begin at multiples of it.
struct Slicer {
    cutter: Cutter,
    head: BytesMut,
    head_bytes: usize,
}

impl Slicer {
    fn new(chunking: Chunking, start: u64) -> Slicer {
        let head_bytes = match chunking {
            Chunking::Fixed(bytes) => (u64::from(bytes) - start % u64::from(bytes)) % u64::from(bytes),
            Chunking::Content(_) => 0,
        };
        Slicer {
            cutter: Cutter::new(chunking),
            head: BytesMut::new(),
            head_bytes: usize::try_from(head_bytes).unwrap_or_default(),
        }
    }

    fn push(&mut self, mut bytes: Bytes) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        if self.head_bytes > 0 {
            let now = bytes.split_to(self.head_bytes.min(bytes.len()));
            self.head_bytes -= now.len();
            self.head.extend_from_slice(&now);
            if self.head_bytes > 0 {
                return chunks;
            }
            chunks.push(std::mem::take(&mut self.head).freeze());
        }
        chunks.extend(self.cutter.push(bytes));
        chunks
    }

    fn finish(mut self) -> Vec<Bytes> {
        let head = (!self.head.is_empty()).then(|| self.head.freeze());
        head.into_iter().chain(self.cutter.finish()).collect()
    }
}

/// Chunks that were read last.
#[derive(Default)]
struct InHand {
    chunks: VecDeque<(ChunkId, Bytes)>,
    bytes: usize,
}

impl InHand {
    /// A part of a chunk, if that is kept here.
    async fn part(&mut self, contents: &Arc<Contents>, id: &ChunkId, offset: u32, length: u64) -> Result<Bytes> {
        let known = self.chunks.iter().find(|(known, _)| known == id).map(|(_, chunk)| chunk.clone());
        let chunk = match known {
            Some(chunk) => chunk,
            None => {
                let location = contents.located(id).await?;
                if Packs::residence(location.pack) != Residence::Kept {
                    return Err(Error::new(ErrorKind::Offline, "what is here for readers alone is not cut anew"));
                }
                let chunk = contents.read_local(id, false).await?;
                self.bytes += chunk.len();
                self.chunks.push_back((*id, chunk.clone()));
                while self.bytes > IN_HAND_BYTES
                    && let Some((_, old)) = self.chunks.pop_front()
                {
                    self.bytes -= old.len();
                }
                chunk
            }
        };
        let start = offset as usize;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        match end.filter(|end| *end <= chunk.len()) {
            Some(end) => Ok(chunk.slice(start..end)),
            None => Err(Error::damaged("a manifest refers to more of a chunk than there is")),
        }
    }
}
