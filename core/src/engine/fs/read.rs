//! Reading from an open file: what lies over the content, then its chunks, verified, with read-ahead for those who read on.
//!
//! A [`Reader`] belongs to one handle. It remembers the extents around the place that was read last and the chunks it has in hand, so that the next request
//! for a part of the same chunk neither looks for it nor verifies it again. What it has in hand counts against a budget that all handles of
//! the segment share; without a share it reads through the chunk cache alone.

use super::super::budget::{Budget, Taken};
use super::super::contents::{Contents, ReadNodes};
use super::super::fetch::Asking;
use super::super::part::cut;
use super::body::{Part, Plan};
use super::overlay::HeldContent;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::manifest::{Extent, Source};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// How far ahead of a sequential reader chunks are fetched, in bytes: at first, and at most.
const AHEAD_BYTES: Range<u64> = (512 << 10)..(4 << 20);
/// How many times as far chunks are asked for that are not in this segment.
const ABSENT_AHEAD_FACTOR: u64 = 4;
/// How far requests of a sequential reader may be out of order, in bytes, and in requests of the same length: clients have several under way, which are taken up
/// in any order.
const STRAY_BYTES: u64 = 1 << 20;
const STRAY_REQUESTS: u64 = 8;
/// The most extents that are remembered.
const EXTENTS_MAX: usize = 256;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A chunk that was asked for.
struct InHand {
    id: ChunkId,
    bytes: u64,
    chunk: Arc<OnceCell<Bytes>>,
    _taken: Taken,
}

/// What a handle remembers of its reads.
#[derive(Default)]
struct Memory {
    /// Where the last read ended.
    next: u64,
    ahead_bytes: u64,
    /// Extents of `content` that follow each other from `extents_start` to `extents_end`.
    content: Option<Arc<HeldContent>>,
    extents: Vec<(u64, Extent)>,
    covered: Range<u64>,
    in_hand: VecDeque<InHand>,
    in_hand_bytes: u64,
    /// What was asked for of a content that is not all here.
    asking: Option<(Arc<HeldContent>, Asking)>,
}

/// One handle's reading.
pub(super) struct Reader {
    contents: Arc<Contents>,
    budget: Arc<Budget>,
    memory: Mutex<Memory>,
}

impl Reader {
    pub(super) fn new(contents: Arc<Contents>, budget: Arc<Budget>) -> Reader {
        Reader { contents, budget, memory: Mutex::default() }
    }

    /// Reads what `plan` says, of `range` or what there is of it, in pieces.
    pub(super) async fn read(&self, range: Range<u64>, plan: Plan) -> Result<Vec<Bytes>> {
        let ahead_bytes = {
            let mut memory = self.memory.lock();
            let stray_bytes = STRAY_BYTES.max((range.end - range.start).saturating_mul(STRAY_REQUESTS));
            let is_next = range.start.abs_diff(memory.next) <= stray_bytes;
            memory.ahead_bytes = match memory.ahead_bytes {
                _ if !is_next => 0,
                0 => AHEAD_BYTES.start,
                bytes => (bytes * 2).min(AHEAD_BYTES.end),
            };
            if !is_next {
                memory.in_hand.clear();
                memory.asking = None;
                memory.in_hand_bytes = 0;
            }
            memory.next = if is_next { memory.next.max(range.end) } else { range.end };
            memory.ahead_bytes
        };
        let Plan { parts, _hold } = plan;
        let mut out = Pieces::default();
        for part in parts {
            match part {
                Part::Memory(bytes) => out.push(bytes),
                Part::Zeros(length) => out.push_zeros(length)?,
                Part::Stored(Source::Hole, length) => out.push_zeros(length)?,
                Part::Stored(Source::Chunk { id, offset, raw }, length) => {
                    out.push(self.part(&id, raw, offset, length, ahead_bytes > 0).await?);
                }
                Part::Content(content, range) => self.read_content(&content, range, ahead_bytes, &mut out).await?,
            }
        }
        Ok(out.0)
    }

    async fn read_content(
        &self,
        content: &Arc<HeldContent>,
        range: Range<u64>,
        ahead_bytes: u64,
        out: &mut Pieces,
    ) -> Result<()> {
        self.ask(content, &range, ahead_bytes).await?;
        let extents = self.extents(content, &range, ahead_bytes).await?;
        let mut wanted = Vec::new();
        for (start, extent) in extents {
            let end = start + extent.length;
            if end <= range.start {
                continue;
            }
            let is_ahead = start >= range.end;
            if let Source::Chunk { id, raw, .. } = extent.source
                && (is_ahead || (start > range.start && ahead_bytes > 0))
            {
                if start >= range.end.saturating_add(ahead_bytes) {
                    break;
                }
                self.fetch_ahead(&id, raw.into());
            }
            if !is_ahead {
                wanted.push((start, extent));
            }
        }
        for (start, extent) in wanted {
            let part = extent.part(range.start.saturating_sub(start), range.end - start);
            match part.map(|part| (part.source, part.length)) {
                None => {}
                Some((Source::Hole, length)) => out.push_zeros(length)?,
                Some((Source::Chunk { id, offset, raw }, length)) => {
                    out.push(self.part(&id, raw, offset, length, ahead_bytes > 0).await?);
                }
            }
        }
        Ok(())
    }

    /// Has what is absent brought here, much further ahead than memory is given to.
    async fn ask(&self, content: &Arc<HeldContent>, range: &Range<u64>, ahead_bytes: u64) -> Result<()> {
        let known = self.memory.lock().asking.take();
        let known = known.filter(|(known, _)| Arc::ptr_eq(known, content));
        let mut asking = known.map(|(_, asking)| asking).unwrap_or_default();
        let end = range.end.saturating_add(ahead_bytes * ABSENT_AHEAD_FACTOR);
        asking.ask(&self.contents, &content.manifest, range.start, end).await?;
        if ahead_bytes > 0 {
            self.memory.lock().asking = Some((content.clone(), asking));
        }
        Ok(())
    }

    /// The extents of `range`, and some that follow.
    async fn extents(
        &self,
        content: &Arc<HeldContent>,
        range: &Range<u64>,
        ahead_bytes: u64,
    ) -> Result<Vec<(u64, Extent)>> {
        let end_of_content = content.manifest.size();
        {
            let memory = self.memory.lock();
            let wanted_end = range.end.saturating_add(ahead_bytes / 2).min(end_of_content);
            if memory.content.as_ref().is_some_and(|known| Arc::ptr_eq(known, content))
                && memory.covered.start <= range.start
                && memory.covered.end >= wanted_end.max(range.end)
            {
                let first = memory.extents.partition_point(|(start, extent)| start + extent.length <= range.start);
                let limit = range.end.saturating_add(ahead_bytes);
                let known = memory.extents.iter().skip(first);
                return Ok(known.take_while(|(start, _)| *start < limit).copied().collect());
            }
        }
        let end = range.end.saturating_add(ahead_bytes * 2).min(end_of_content);
        let mut cursor = content.manifest.extents(ReadNodes(self.contents.clone()), range.start..end);
        let mut extents = Vec::new();
        let mut covered = range.start..range.start;
        while (covered.end < range.end || extents.len() < EXTENTS_MAX)
            && let Some((start, extent)) = cursor.next().await?
        {
            covered.end = start + extent.length;
            extents.push((start, extent));
        }
        if ahead_bytes > 0 && extents.len() <= EXTENTS_MAX * 2 {
            let mut memory = self.memory.lock();
            memory.content = Some(content.clone());
            memory.extents.clone_from(&extents);
            memory.covered = covered;
        }
        Ok(extents)
    }

    /// The verified bytes of a part of a chunk of `raw` bytes.
    async fn part(&self, id: &ChunkId, raw: u32, offset: u32, length: u64, is_sequential: bool) -> Result<Bytes> {
        if !is_sequential {
            let end = offset.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
            return self.contents.read_part(id, raw, offset..end).await;
        }
        let chunk = match self.in_hand(id, raw.into()) {
            Some(chunk) => chunk.get_or_try_init(|| self.contents.read_chunk(id, false)).await.cloned()?,
            None => self.contents.read_chunk(id, true).await?,
        };
        let start = offset as usize;
        cut(&chunk, start..start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)))
    }

    /// The place in hand for a chunk; `None`: there is no share of the budget left for it.
    fn in_hand(&self, id: &ChunkId, bytes: u64) -> Option<Arc<OnceCell<Bytes>>> {
        let mut memory = self.memory.lock();
        if let Some(known) = memory.in_hand.iter().find(|known| known.id == *id) {
            return Some(known.chunk.clone());
        }
        while memory.in_hand_bytes + bytes > AHEAD_BYTES.end * 2
            && let Some(old) = memory.in_hand.pop_front()
        {
            memory.in_hand_bytes -= old.bytes;
        }
        let taken = self.budget.try_take(bytes)?;
        let chunk = Arc::new(OnceCell::new());
        memory.in_hand.push_back(InHand { id: *id, bytes, chunk: chunk.clone(), _taken: taken });
        memory.in_hand_bytes += bytes;
        Some(chunk)
    }

    /// Starts fetching a chunk that will be wanted soon.
    fn fetch_ahead(&self, id: &ChunkId, bytes: u64) {
        {
            let memory = self.memory.lock();
            if memory.in_hand.iter().any(|known| known.id == *id) {
                return;
            }
        }
        if let Some(chunk) = self.in_hand(id, bytes) {
            let (contents, id) = (self.contents.clone(), *id);
            tokio::spawn(async move {
                // Who needs it will try again and hear of the error.
                let _ = chunk.get_or_try_init(|| contents.read_chunk(&id, false)).await;
            });
        }
    }
}

/// All that `plan` covers in one piece, without read-ahead.
pub(super) async fn gather(contents: &Arc<Contents>, plan: Plan) -> Result<Bytes> {
    let nowhere = u64::MAX / 2;
    Ok(join(Reader::new(contents.clone(), Budget::new(1)).read(nowhere..nowhere, plan).await?))
}

/// Pieces of an answer.
#[derive(Default)]
struct Pieces(Vec<Bytes>);

impl Pieces {
    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.0.push(bytes);
        }
    }

    fn push_zeros(&mut self, length: u64) -> Result<()> {
        let mut left = usize::try_from(length).map_err(|e| Error::invalid("a read that long").because(e))?;
        while left > 0 {
            let now = left.min(ZEROS.len());
            self.push(Bytes::from_static(&ZEROS).slice(..now));
            left -= now;
        }
        Ok(())
    }
}

/// Pieces put together; a single one is handed on as it is.
pub(super) fn join(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.pop().unwrap_or_default(),
        _ => {
            let mut out = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| out.extend_from_slice(piece));
            out.freeze()
        }
    }
}
