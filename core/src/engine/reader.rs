//! Contents on their way out: one version, verified chunk by chunk, with read-ahead.

use super::contents::{Contents, Pin, ReadNodes};
use super::fetch::Asking;
use super::part::cut;
use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;
use crate::manifest::{Cursor, Source};
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

/// How far a reader runs ahead of its caller, in bytes; it starts with one chunk and doubles.
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

/// Fetches pieces in order.
struct Feed {
    object: Object,
    cursor: Option<Cursor<ReadNodes>>,
    asking: Asking,
    end: u64,
    inline: Option<Bytes>,
    ahead: VecDeque<(Piece, u64)>,
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
        let Some((piece, length)) = self.ahead.pop_front() else {
            return Ok(None);
        };
        self.ahead_bytes -= length;
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
                self.ahead.push_back((Piece::Here(zeros), now));
                self.ahead_bytes += now;
                self.hole_bytes -= now;
                continue;
            }
            let Some(cursor) = &mut self.cursor else { return Ok(()) };
            let Some((start, extent)) = cursor.next().await? else {
                self.cursor = None;
                return Ok(());
            };
            if let Content::Manifest(manifest) = self.object.content() {
                self.asking.ask(&contents, manifest, start, self.end).await?;
            }
            match extent.source {
                Source::Hole => self.hole_bytes = extent.length,
                Source::Chunk { id, offset, raw } => {
                    let start = offset as usize;
                    let part = start..start + usize::try_from(extent.length).unwrap_or(usize::MAX - start);
                    let keep = self.is_partial;
                    let contents = contents.clone();
                    let piece = if self.ahead.is_empty() && self.window_bytes == 1 {
                        // The first chunk is wanted at once.
                        if keep {
                            let end = offset.saturating_add(u32::try_from(extent.length).unwrap_or(u32::MAX));
                            let bytes = contents.read_part(&id, raw, offset..end).await?;
                            self.ahead.push_back((Piece::Here(bytes), extent.length));
                            self.ahead_bytes += extent.length;
                            continue;
                        }
                        let chunk = contents.read_chunk(&id, keep).await?;
                        Piece::Here(self.cut(&chunk, part)?)
                    } else {
                        Piece::Coming(tokio::spawn(async move { contents.read_chunk(&id, keep).await }), part)
                    };
                    self.ahead.push_back((piece, extent.length));
                    self.ahead_bytes += extent.length;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for (piece, _) in &self.ahead {
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
