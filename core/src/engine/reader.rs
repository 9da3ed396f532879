//! Contents on their way out: one version, verified chunk by chunk, with read-ahead.
//!
//! What a reader has in hand beside the piece that it was asked for counts against a budget that all readers of the segment share, by the chunks that are in memory
//! for it. Without a share of that it reads one piece after the other.

use super::budget::Taken;
use super::contents::{Contents, Pin, ReadNodes};
use super::fetch::Asking;
use super::part::cut;
use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;
use crate::manifest::{Cursor, Extent, Source};
use crate::namespace::keys::BucketNumber;
use crate::namespace::{self, Content, Lender, Txn, Which};
use crate::object::ObjectInfo;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// How far a reader runs ahead of its caller, in bytes of chunks; it starts with one chunk and doubles.
const READ_AHEAD_BYTES_MAX: u64 = 4 << 20;
/// Holes come in pieces of this many bytes.
const ZEROS: &[u8] = &[0; 64 << 10];

/// One version, open for reading: it stays readable, whole, whatever is written or collected meanwhile. Cheap to clone.
#[derive(Clone)]
pub struct Object(Arc<Open>);

struct Open {
    info: ObjectInfo,
    content: Content,
    contents: Arc<Contents>,
    source: Option<(BucketNumber, NodeId)>,
    _pin: Option<Pin>,
}

impl Object {
    /// What keeps its content from going while it lives: for a transaction that refers to it.
    pub(super) fn held(&self) -> Arc<dyn std::any::Any + Send + Sync> {
        self.0.clone()
    }

    /// `source`: the node whose content it was. `pin` must have been taken before a collection could miss the content.
    pub(super) fn new(
        info: ObjectInfo,
        content: Content,
        contents: Arc<Contents>,
        source: Option<(BucketNumber, NodeId)>,
        pin: Option<Pin>,
    ) -> Object {
        Object(Arc::new(Open { info, content, contents, source, _pin: pin }))
    }

    /// What it lends if it is live in `bucket` still; the commit fails if that changes before. Of older versions and snapshots that is not known.
    pub(super) async fn lender(&self, txn: &mut Txn, bucket: BucketNumber) -> Result<Option<Lender>> {
        match &self.0.source {
            Some((number, node)) if *number == bucket => {
                namespace::lender(txn, bucket, node, Which::Content(&self.0.content)).await
            }
            _ => Ok(None),
        }
    }

    /// What it is.
    pub fn info(&self) -> &ObjectInfo {
        &self.0.info
    }

    pub(super) fn content(&self) -> &Content {
        &self.0.content
    }

    pub(super) fn contents(&self) -> &Arc<Contents> {
        &self.0.contents
    }

    /// Reads `range` (cut to the size) as verified pieces, reading ahead.
    pub fn read(&self, range: Range<u64>) -> ObjectReader {
        let range = range.start.min(self.0.info.size)..range.end.min(self.0.info.size);
        ObjectReader::new(self.clone(), range)
    }

    /// Reads `range` (cut to the size) into one piece; for ranges that fit in memory.
    pub async fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        let range = range.start.min(self.0.info.size)..range.end.min(self.0.info.size);
        let mut reader = Feed::new(self.clone(), range);
        let Some(first) = reader.next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = reader.next().await? else {
            return Ok(first);
        };
        let mut out = BytesMut::from(first.as_ref());
        out.extend_from_slice(&second);
        while let Some(piece) = reader.next().await? {
            out.extend_from_slice(&piece);
        }
        Ok(out.freeze())
    }

    /// The next stretch of data at or after `offset`; `None`: only a hole follows.
    pub async fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let size = self.0.info.size;
        let Content::Manifest(manifest) = &self.0.content else {
            return Ok((offset < size).then_some(offset..size));
        };
        let nodes = ReadNodes(self.0.contents.clone());
        let mut cursor = manifest.extents(nodes, offset.min(size)..size);
        let mut found: Option<Range<u64>> = None;
        while let Some((start, extent)) = cursor.next().await? {
            match (&extent.source, &mut found) {
                (Source::Hole, None) => {}
                (Source::Hole, Some(_)) => break,
                (Source::Chunk { .. }, None) => found = Some(start..start + extent.length),
                (Source::Chunk { .. }, Some(data)) => data.end = start + extent.length,
            }
        }
        Ok(found)
    }

    /// An error of a read, with the object's name.
    fn explain(&self, error: Error) -> Error {
        let key = String::from_utf8_lossy(&self.0.info.key);
        let why = match error.kind() {
            ErrorKind::Offline => ": its bytes are not here, and no segment that has them can be reached",
            _ => "",
        };
        Error::new(error.kind(), format!("'{key}' (version {}) can't be read{why}", self.0.info.version))
            .about(error.subject())
            .because(error)
    }
}

/// A piece on its way.
enum Piece {
    Here(Bytes),
    Coming(JoinHandle<Result<Bytes>>, Range<usize>),
}

/// A piece in hand.
struct InHand {
    piece: Piece,
    /// What is in memory for it, in bytes.
    bytes: u64,
    _taken: Option<Taken>,
}

/// Fetches pieces in order.
struct Feed {
    object: Object,
    cursor: Option<Cursor<ReadNodes>>,
    asking: Asking,
    end: u64,
    inline: Option<Bytes>,
    /// The extent that comes next, if there was no memory to read it ahead.
    waiting: Option<Extent>,
    ahead: VecDeque<InHand>,
    ahead_bytes: u64,
    window_bytes: u64,
    hole_bytes: u64,
    is_partial: bool,
}

impl Feed {
    fn new(object: Object, range: Range<u64>) -> Feed {
        let (cursor, inline) = match object.content() {
            _ if range.is_empty() => (None, None),
            Content::Inline(bytes) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                (None, Some(bytes.slice(at(range.start)..at(range.end))))
            }
            Content::Manifest(manifest) => {
                (Some(manifest.extents(ReadNodes(object.0.contents.clone()), range.clone())), None)
            }
        };
        // Who reads a small part will likely read the next one: keep what was verified.
        let is_partial = range.end - range.start < (256 << 10);
        Feed {
            object,
            cursor,
            asking: Asking::default(),
            end: range.end,
            inline,
            waiting: None,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            window_bytes: 1,
            hole_bytes: 0,
            is_partial,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.inline.take() {
            return Ok(Some(bytes));
        }
        self.fill().await.map_err(|e| self.object.explain(e))?;
        let Some(InHand { piece, bytes, .. }) = self.ahead.pop_front() else {
            return Ok(None);
        };
        self.ahead_bytes -= bytes;
        self.window_bytes = (self.window_bytes * 2).clamp(512 << 10, READ_AHEAD_BYTES_MAX);
        match piece {
            Piece::Here(bytes) => Ok(Some(bytes)),
            Piece::Coming(task, part) => {
                let chunk = task
                    .await
                    .map_err(|e| Error::new(ErrorKind::Failed, "a read was given up").because(e))?
                    .map_err(|e| self.object.explain(e))?;
                self.cut(&chunk, part).map(Some)
            }
        }
    }

    fn cut(&self, chunk: &Bytes, part: Range<usize>) -> Result<Bytes> {
        cut(chunk, part).map_err(|e| self.object.explain(e))
    }

    /// Starts fetching as far as the window goes.
    async fn fill(&mut self) -> Result<()> {
        let contents = self.object.0.contents.clone();
        while self.ahead.is_empty() || self.ahead_bytes < self.window_bytes {
            if self.hole_bytes > 0 {
                let now = self.hole_bytes.min(ZEROS.len() as u64);
                let zeros = Bytes::from_static(ZEROS).slice(..usize::try_from(now).unwrap_or(ZEROS.len()));
                self.add(Piece::Here(zeros), now, None);
                self.hole_bytes -= now;
                continue;
            }
            let Some(extent) = self.next_extent(&contents).await? else { return Ok(()) };
            match extent.source {
                Source::Hole => self.hole_bytes = extent.length,
                Source::Chunk { id, offset, raw } => {
                    let bytes = u64::from(raw);
                    // The piece that is asked for is read in any case.
                    let taken = if self.ahead.is_empty() { None } else { contents.read_ahead.try_take(bytes) };
                    if taken.is_none() && !self.ahead.is_empty() {
                        self.waiting = Some(extent);
                        return Ok(());
                    }
                    let start = offset as usize;
                    let part = start..start + usize::try_from(extent.length).unwrap_or(usize::MAX - start);
                    let keep = self.is_partial;
                    let contents = contents.clone();
                    let piece = if self.ahead.is_empty() && self.window_bytes == 1 {
                        // The first chunk is wanted at once.
                        if keep {
                            let end = offset.saturating_add(u32::try_from(extent.length).unwrap_or(u32::MAX));
                            let part = contents.read_part(&id, raw, offset..end).await?;
                            self.add(Piece::Here(part), bytes, None);
                            continue;
                        }
                        let chunk = contents.read_chunk(&id, keep).await?;
                        Piece::Here(self.cut(&chunk, part)?)
                    } else {
                        Piece::Coming(tokio::spawn(async move { contents.read_chunk(&id, keep).await }), part)
                    };
                    self.add(piece, bytes, taken);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, piece: Piece, bytes: u64, taken: Option<Taken>) {
        self.ahead_bytes += bytes;
        self.ahead.push_back(InHand { piece, bytes, _taken: taken });
    }

    /// The extent to read next, asked for if it is not here.
    async fn next_extent(&mut self, contents: &Arc<Contents>) -> Result<Option<Extent>> {
        if let Some(extent) = self.waiting.take() {
            return Ok(Some(extent));
        }
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let Some((start, extent)) = cursor.next().await? else {
            self.cursor = None;
            return Ok(None);
        };
        if let Content::Manifest(manifest) = self.object.content() {
            self.asking.ask(contents, manifest, start, self.end).await?;
        }
        Ok(Some(extent))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for InHand { piece, .. } in &self.ahead {
            if let Piece::Coming(task, _) = piece {
                task.abort();
            }
        }
    }
}

/// The pieces of a range, in order: a `Stream` of `Result<Bytes>`.
pub struct ObjectReader {
    // A stream is not `Sync`; nobody polls it through a shared reference.
    pieces: Mutex<StdPin<Box<dyn Stream<Item = Result<Bytes>> + Send>>>,
}

impl ObjectReader {
    fn new(object: Object, range: Range<u64>) -> ObjectReader {
        let pieces = futures::stream::unfold(Some(Feed::new(object, range)), |feed| async {
            let mut feed = feed?;
            match feed.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(feed))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        ObjectReader { pieces: Mutex::new(Box::pin(pieces)) }
    }

    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.pieces.get_mut().next().await.transpose()
    }
}

impl Stream for ObjectReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: StdPin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.get_mut().as_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, noise};
    use super::*;
    use crate::{
        Bucket, BucketPolicy, Chunking, CompleteOptions, CompletePart, EtagKind, GetOptions, OpenOptions, PutOptions,
        Segment,
    };
    use tempfile::TempDir;

    const CHUNK_BYTES: usize = 1 << 20;

    /// An object of `chunks` chunks in a segment with the least memory for reading ahead.
    async fn object(chunks: usize) -> (TempDir, Segment, Bucket, Object, Bytes) {
        let policy = BucketPolicy {
            chunking: Chunking::Fixed(CHUNK_BYTES as u32),
            etag: EtagKind::Opaque,
            ..BucketPolicy::default()
        };
        let open = OpenOptions { chunk_cache_bytes: 0, ..OpenOptions::default() };
        let (dir, segment, bucket) = fixture::bucket_with(policy, open).await;
        let content = noise(chunks * CHUNK_BYTES, 1);
        bucket.put("k", content.clone(), PutOptions::default()).await.unwrap();
        let object = bucket.get("k", GetOptions::default()).await.unwrap();
        (dir, segment, bucket, object, content)
    }

    fn feed(object: &Object) -> Feed {
        Feed::new(object.clone(), 0..object.info().size)
    }

    /// P12: each reader of a long object had 4 MiB in hand, however many there were.
    #[tokio::test(flavor = "multi_thread")]
    async fn readers_share_the_memory_for_what_they_read_ahead() {
        let (_dir, segment, _bucket, object, content) = object(12).await;
        let budget = segment.contents().read_ahead.clone();
        let mut alone = feed(&object);
        for _ in 0..6 {
            alone.next().await.unwrap().unwrap();
        }
        assert_eq!(alone.ahead_bytes, READ_AHEAD_BYTES_MAX - CHUNK_BYTES as u64, "all but what it has given out");
        drop(alone);
        let mut readers: Vec<(Feed, Vec<u8>)> = (0..8).map(|_| (feed(&object), Vec::new())).collect();
        // Far enough for each to have as much in hand as it may.
        for _ in 0..6 {
            for (feed, read) in &mut readers {
                read.extend_from_slice(&feed.next().await.unwrap().unwrap());
            }
        }
        let ahead_bytes: u64 = readers.iter().map(|(feed, _)| feed.ahead_bytes).sum();
        assert!(ahead_bytes <= 8 << 20, "{ahead_bytes}");
        assert_eq!(budget.used_bytes(), ahead_bytes);
        for (mut feed, mut read) in readers {
            while let Some(piece) = feed.next().await.unwrap() {
                read.extend_from_slice(&piece);
            }
            assert!(read == content);
        }
        assert_eq!(budget.used_bytes(), 0);
    }

    /// P12: of a fragmented object a reader had 4 MiB of fragments in hand, and for each of them a whole chunk.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_in_hand_counts_with_the_chunks_that_it_takes() {
        const FRAGMENT_BYTES: u64 = 8 << 10;
        let (_dir, _segment, bucket, source, content) = object(8).await;
        let upload = bucket.create_upload("fragments", PutOptions::default()).await.unwrap();
        let (mut parts, mut expected) = (Vec::new(), Vec::new());
        for number in 1..=64_u32 {
            let start = u64::from(number) * 12_000 + u64::from(number % 8) * CHUNK_BYTES as u64;
            let range = start..start + FRAGMENT_BYTES;
            expected.extend_from_slice(&content.slice(range.start as usize..range.end as usize));
            let part = bucket.copy_part("fragments", &upload.id, number, &source, range).await.unwrap();
            parts.push(CompletePart { number, etag: part.etag.to_string() });
        }
        bucket.complete_upload("fragments", &upload.id, &parts, CompleteOptions::default()).await.unwrap();
        let object = bucket.get("fragments", GetOptions::default()).await.unwrap();
        let (mut feed, mut read) = (feed(&object), Vec::new());
        while let Some(piece) = feed.next().await.unwrap() {
            read.extend_from_slice(&piece);
            assert!(feed.ahead.len() <= 4, "{} chunks", feed.ahead.len());
        }
        assert!(read == expected);
    }
}
