//! The content of one open node, shared by all its handles: what is stored, and what was done to it since.
//!
//! A body is *clean* when its bytes are those of the node's current version; then it follows that version, whoever makes the next. The first change
//! makes it *unsaved*: from then on its bytes are the content it had, with the changes over it, until they are saved as a version
//! (`save.rs`). If another door has put a version on the node meanwhile, the later of the two writers wins, as with two writers of one object.
//!
//! Invariants:
//! * Bytes of the stored content from `limit` on read as zeros; a truncation only moves `limit`.
//! * Whatever the stored content or a piece refers to is held (`hold`) until nobody can read it any more.
//! * What is stored, folded and saved holds `edit`; writes, truncations and reads never wait for it.
//!
//! After a crash a body is what its node's last version on disk was, or what `protect` kept of it since.

use super::super::Bucket;
use super::super::budget::Taken;
use super::super::session::Session;
use super::FileAttributes;
use super::hold::Hold;
use super::origins::Origins;
use super::overlay::{Data, HeldContent, Overlay, Piece};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::manifest::{CONTENT_BYTES_MAX, Manifest, Source};
use crate::namespace::{self, Content, Version};
use crate::object::{Attributes, FileType, TimeNs};
use crate::register::Dot;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// See the module.
pub(in crate::engine) struct Body {
    pub(super) bucket: Bucket,
    pub(super) node: NodeId,
    state: Mutex<State>,
    /// Held while something is stored, folded or saved.
    pub(super) edit: tokio::sync::Mutex<()>,
    /// Memory was freed, or storing has failed.
    pub(super) changed: Notify,
}

/// The stored part of a body.
#[derive(Clone)]
pub(super) enum Working {
    /// In memory, small.
    Inline(Bytes),
    /// In chunks.
    Stored(Arc<HeldContent>),
}

impl Working {
    pub(super) fn size(&self) -> u64 {
        match self {
            Working::Inline(bytes) => bytes.len() as u64,
            Working::Stored(content) => content.manifest.size(),
        }
    }
}

/// What is behind a body's lock.
pub(super) struct State {
    pub(super) working: Working,
    pub(super) limit: u64,
    /// While the content is folded: the least size since the fold began.
    pub(super) fold_limit: Option<u64>,
    /// Hole bytes of the stored content.
    pub(super) hole_bytes: u64,
    pub(super) size: u64,
    pub(super) overlay: Overlay,
    /// Number of the last change.
    pub(super) stamp: u64,
    /// The last change that is in the node's version.
    pub(super) saved_stamp: u64,
    pub(super) saved_size: u64,
    /// Where the file began to grow since then.
    pub(super) grows_from: u64,
    /// When the content was last changed.
    pub(super) written_ns: TimeNs,
    /// The modification time, if it was set by hand after that.
    pub(super) by_hand_ns: Option<TimeNs>,
    pub(super) changed_ns: TimeNs,
    /// When the oldest unsaved change was made.
    pub(super) unsaved_since_ns: Option<TimeNs>,
    /// Where the last write ended.
    pub(super) last_end: u64,
    pub(super) session: Option<Arc<Session>>,
    pub(super) hold: Arc<Hold>,
    pub(super) is_storing: bool,
    /// Why the last attempt to store in the background failed.
    pub(super) failure: Option<(ErrorKind, String)>,
    /// Why what was written to the file before it was opened is lost, until somebody who has it open for writing hears of it.
    pub(super) lost: Option<(ErrorKind, String)>,
    /// The write that made the version the content was read from, and up to which commit that is known to be the latest.
    pub(super) version: Dot,
    pub(super) looked_at: u64,
    pub(super) attributes: Attributes,
    /// In a shared bucket: the version that was read last, without its bytes.
    pub(super) former: Option<Arc<Version>>,
    /// The node has no name left.
    pub(super) is_orphan: bool,
    /// What its attributes were then.
    pub(super) last_attributes: Option<FileAttributes>,
    /// Whether the stored content has bytes of the version it was made from.
    pub(super) is_based: bool,
    /// Which versions unsaved bytes were taken from.
    pub(super) origins: Origins,
    /// If it is known: the contents that the current version has bytes of that may not be here. All others of its bytes are: they were when this body made it, and
    /// `hold` keeps them since.
    pub(super) lent: Option<Vec<Manifest>>,
    /// Who made the changes that no version has; `Some(0)`: several did.
    pub(super) origin: Option<u32>,
    /// The last change that a row keeps against a crash.
    pub(super) protected_stamp: Option<u64>,
    pub(super) handles: usize,
}

impl State {
    /// Whether something was done that no version has.
    pub(super) fn is_unsaved(&self) -> bool {
        self.stamp != self.saved_stamp
    }

    /// Whether it has bytes of the version that it was made from.
    pub(super) fn shows_base(&self) -> bool {
        self.is_based && !self.overlay.gaps(0..self.limit.min(self.size)).is_empty()
    }

    /// A change is `origin`'s.
    pub(super) fn changed_by(&mut self, origin: u32) {
        self.origin = Some(if self.origin.is_none_or(|known| known == origin) { origin } else { 0 });
    }

    /// Begins a change.
    fn change(&mut self, now_ns: TimeNs) {
        if let Working::Inline(bytes) = &self.working {
            // It may grow into chunks: as pieces it is cut together with what is written to it.
            let bytes = bytes.slice(..usize::try_from(self.limit).unwrap_or(usize::MAX).min(bytes.len()));
            for gap in self.overlay.gaps(0..bytes.len() as u64) {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                self.overlay.put(gap.start, Piece::memory(bytes.slice(at(gap.start)..at(gap.end)), self.stamp));
            }
            let manifest = Manifest::empty();
            self.working = Working::Stored(Arc::new(HeldContent { manifest, hold: self.hold.clone() }));
            self.limit = 0;
            self.hole_bytes = 0;
        }
        self.stamp += 1;
        self.unsaved_since_ns.get_or_insert(now_ns);
        self.touch(now_ns);
    }

    /// Moves the times. A time set by hand is tied to the time of the content it was set on, so two contents in a row have two times.
    fn touch(&mut self, now_ns: TimeNs) {
        self.written_ns = if now_ns == self.written_ns { now_ns.saturating_add(1) } else { now_ns };
        self.by_hand_ns = None;
        self.changed_ns = self.written_ns;
    }

    /// Writes at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: Bytes, taken: Taken, now_ns: TimeNs) {
        self.change(now_ns);
        let end = offset + data.len() as u64;
        self.overlay.write(offset, data, self.stamp, taken);
        self.size = self.size.max(end);
        self.last_end = end;
    }

    /// Lays a piece that takes no memory over `offset..`.
    pub(super) fn put(&mut self, offset: u64, mut piece: Piece, now_ns: TimeNs) {
        self.change(now_ns);
        let end = offset + piece.length;
        piece.stamp = self.stamp;
        self.overlay.put(offset, piece);
        self.size = self.size.max(end);
    }

    /// Cuts or extends.
    pub(super) fn truncate(&mut self, size: u64, now_ns: TimeNs) {
        self.change(now_ns);
        self.overlay.clear(size..u64::MAX);
        self.is_based &= size > 0;
        self.limit = self.limit.min(size);
        self.grows_from = self.grows_from.min(size);
        self.fold_limit = self.fold_limit.map(|limit| limit.min(size));
        self.size = size;
    }

    /// The attributes of a node without a name.
    pub(super) fn orphan_attributes(&self, node: &NodeId) -> FileAttributes {
        let mut attributes = self.last_attributes.clone().unwrap_or_else(|| FileAttributes {
            node: *node,
            file_id: file_id(node),
            file_type: FileType::Regular,
            mode: self.attributes.mode.unwrap_or(0o644),
            links: 0,
            uid: self.attributes.uid.unwrap_or_default(),
            gid: self.attributes.gid.unwrap_or_default(),
            size: 0,
            allocated_bytes: 0,
            rdev: 0,
            accessed_ns: self.written_ns,
            modified_ns: self.written_ns,
            changed_ns: self.changed_ns,
            access_list: super::node::access_list(&self.attributes),
        });
        attributes.size = self.size;
        attributes.allocated_bytes = self.allocated_bytes();
        if self.is_unsaved() {
            attributes.modified_ns = self.by_hand_ns.unwrap_or(self.written_ns);
            attributes.changed_ns = attributes.changed_ns.max(self.changed_ns);
        }
        attributes
    }

    /// Bytes that are not holes, nearly: what pieces in the middle of holes fill is known when they are saved.
    pub(super) fn allocated_bytes(&self) -> u64 {
        if self.hole_bytes == 0 && self.limit >= self.size && !self.overlay.has_holes() {
            return self.size;
        }
        let stored = self.limit.saturating_sub(self.hole_bytes);
        let (mut beyond, mut inside) = (0u64, 0u64);
        for (start, length, is_hole) in self.overlay.extents() {
            let within = self.limit.saturating_sub(start).min(length);
            if !is_hole {
                inside += within;
                beyond += length - within;
            }
        }
        (stored + inside.min(self.hole_bytes) + beyond).min(self.size)
    }

    /// What `range` consists of, cut to the size.
    pub(super) fn plan(&self, range: Range<u64>) -> Plan {
        let range = range.start.min(self.size)..range.end.min(self.size);
        let mut plan = Plan { parts: Vec::new(), _hold: self.hold.clone() };
        let mut at = range.start;
        if !self.overlay.is_empty() {
            for (start, piece) in self.overlay.parts(range.clone()) {
                self.plan_stored(at..start, &mut plan.parts);
                at = start + piece.length;
                plan.parts.push(match piece.data {
                    Data::Memory(bytes) => Part::Memory(bytes),
                    Data::Growing(bytes) => Part::Memory(bytes.into()),
                    Data::Stored(Source::Hole) => Part::Zeros(piece.length),
                    Data::Stored(source) => Part::Stored(source, piece.length),
                    Data::Part(content, offset) => Part::Content(content, offset..offset + piece.length),
                });
            }
        }
        self.plan_stored(at..range.end, &mut plan.parts);
        plan
    }

    fn plan_stored(&self, range: Range<u64>, parts: &mut Vec<Part>) {
        let there = range.start..range.end.min(self.limit);
        if !there.is_empty() {
            parts.push(match &self.working {
                Working::Inline(bytes) => {
                    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                    Part::Memory(bytes.slice(at(there.start)..at(there.end)))
                }
                Working::Stored(content) => Part::Content(content.clone(), there),
            });
        }
        let beyond = range.start.max(self.limit)..range.end;
        if !beyond.is_empty() {
            parts.push(Part::Zeros(beyond.end - beyond.start));
        }
    }

    /// The content is stored anew: what changes up to `stamp` made of it.
    pub(super) fn stored(&mut self, working: Working, stamp: u64, hole_bytes: u64) {
        self.limit = self.fold_limit.take().unwrap_or(u64::MAX).min(working.size());
        self.working = working;
        self.hole_bytes = hole_bytes;
        self.overlay.drop_older(0..u64::MAX, stamp);
    }

    /// The session that this body's chunks are stored with.
    pub(super) fn session(&mut self, bucket: &Bucket) -> Arc<Session> {
        if let Some(session) = &self.session {
            return session.clone();
        }
        let session = Session::new(bucket.contents(), bucket.state().policy().compression);
        self.hold = Arc::new(Hold { pin: None, session: Some(session.clone()), others: vec![self.hold.clone()] });
        self.session = Some(session.clone());
        session
    }
}

/// What a range consists of.
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) _hold: Arc<Hold>,
}

/// A part of a range.
pub(super) enum Part {
    Memory(Bytes),
    Zeros(u64),
    Stored(Source, u64),
    Content(Arc<HeldContent>, Range<u64>),
}

/// A node's content as its row has it.
pub(super) struct Loaded {
    pub(super) content: Content,
    pub(super) hold: Arc<Hold>,
    pub(super) hole_bytes: u64,
    pub(super) modified_ns: TimeNs,
    pub(super) attributes: Attributes,
    pub(super) former: Option<Arc<Version>>,
    pub(super) version: Dot,
    pub(super) looked_at: u64,
}

impl Loaded {
    /// Reads the node's row; `None`: it has no name any more.
    pub(super) async fn read(bucket: &Bucket, node: &NodeId) -> Result<Option<Loaded>> {
        let segment = bucket.segment();
        // A collection that starts now waits until the content is registered as open.
        let _gate = bucket.contents().readers_gate.read().await;
        let looked_at = segment.ledger().published();
        let Some(row) = namespace::node_row(segment.ledger(), bucket.state(), node).await? else {
            return Ok(None);
        };
        let shown = row.current(&bucket.state().rules());
        let shown = shown.and_then(|write| write.value.as_ref().map(|version| (write.dot, version)));
        // Without a name shows what was written while another segment deleted the file.
        let is_there =
            |version: &Version| !row.names.is_empty() || bucket.state().is_shared() && version.deleted.is_none();
        let Some((dot, version)) = shown.filter(|(_, version)| is_there(version)) else {
            return Ok(None);
        };
        if version.file_type != FileType::Regular {
            return Err(Error::invalid(format!("node {node} is not a regular file")));
        }
        let pin = match &version.content {
            Content::Manifest(manifest) => Some(bucket.contents().pin(manifest)),
            Content::Inline(_) => None,
        };
        Ok(Some(Loaded {
            content: version.content.clone(),
            hold: Arc::new(Hold { pin, session: None, others: Vec::new() }),
            hole_bytes: version.hole_bytes,
            modified_ns: version.modified_ns,
            attributes: row.shown_attributes().map(|a| a.attributes.clone()).unwrap_or_default(),
            former: bucket.state().is_shared().then(|| Arc::new(version.without_bytes())),
            version: dot,
            looked_at,
        }))
    }

    fn working(&self) -> Working {
        match &self.content {
            Content::Inline(bytes) => Working::Inline(bytes.clone()),
            Content::Manifest(manifest) => {
                Working::Stored(Arc::new(HeldContent { manifest: manifest.clone(), hold: self.hold.clone() }))
            }
        }
    }
}

impl Body {
    /// The body of a node, as its version is now.
    pub(super) async fn open(bucket: &Bucket, node: &NodeId) -> Result<Body> {
        let loaded = Loaded::read(bucket, node).await?.ok_or_else(|| gone(node))?;
        let working = loaded.working();
        let size = working.size();
        Ok(Body {
            bucket: bucket.clone(),
            node: *node,
            edit: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            state: Mutex::new(State {
                working,
                limit: size,
                fold_limit: None,
                hole_bytes: loaded.hole_bytes,
                size,
                overlay: Overlay::default(),
                stamp: 0,
                saved_stamp: 0,
                saved_size: size,
                grows_from: size,
                written_ns: loaded.modified_ns,
                by_hand_ns: None,
                changed_ns: loaded.modified_ns,
                unsaved_since_ns: None,
                last_end: 0,
                session: None,
                hold: loaded.hold,
                is_storing: false,
                failure: None,
                lost: None,
                version: loaded.version,
                looked_at: loaded.looked_at,
                attributes: loaded.attributes,
                former: loaded.former,
                is_orphan: false,
                last_attributes: None,
                is_based: true,
                origins: Origins::default(),
                lent: None,
                origin: None,
                protected_stamp: None,
                handles: 0,
            }),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn now_ns(&self) -> TimeNs {
        self.bucket.segment().now_ns()
    }

    /// Takes over a version that somebody else has made, if there are no unsaved changes; and a name that another segment gave the file while this one took its last.
    pub(super) async fn refresh(&self) -> Result<()> {
        let published = self.bucket.segment().ledger().published();
        let is_settled = |state: &State| match state.is_orphan {
            true => !self.bucket.state().is_shared(),
            false => state.is_unsaved(),
        };
        {
            let state = self.state();
            if is_settled(&state) || state.looked_at >= published {
                return Ok(());
            }
        }
        let loaded = Loaded::read(&self.bucket, &self.node).await?;
        let mut state = self.state();
        if is_settled(&state) {
            return Ok(());
        }
        let Some(loaded) = loaded else {
            state.is_orphan = true;
            state.looked_at = state.looked_at.max(published);
            return Ok(());
        };
        if loaded.looked_at < state.looked_at {
            return Ok(());
        }
        if std::mem::take(&mut state.is_orphan) {
            state.last_attributes = None;
            if state.is_unsaved() {
                return Ok(());
            }
        }
        state.looked_at = loaded.looked_at;
        state.attributes = loaded.attributes.clone();
        state.former = loaded.former.clone();
        if loaded.version != state.version {
            state.version = loaded.version;
            state.lent = None;
            state.is_based = true;
            state.working = loaded.working();
            state.size = state.working.size();
            state.saved_size = state.size;
            state.grows_from = state.size;
            state.limit = state.size;
            state.hole_bytes = loaded.hole_bytes;
            state.written_ns = loaded.modified_ns;
            state.by_hand_ns = None;
            state.hold = loaded.hold;
        }
        Ok(())
    }

    /// Refuses what would make the file longer than files can be, or take the bucket over its quota as far as that is known yet.
    pub(super) fn check_growth(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= CONTENT_BYTES_MAX);
        let end = end.ok_or_else(|| too_long(offset, length))?;
        let grown = {
            let state = self.state();
            if end <= state.size || state.is_orphan {
                return Ok(());
            }
            end.saturating_sub(state.saved_size)
        };
        if let Some(limit) = self.bucket.state().policy().quota_bytes {
            let usage = self.bucket.segment().ledger().usage(self.bucket.state().number);
            if usage.logical_bytes.saturating_add(usage.old_bytes).saturating_add(grown) > limit && grown > 0 {
                return Err(Error::new(ErrorKind::Quota, "the bucket's quota of bytes is used up"));
            }
        }
        Ok(())
    }
}

/// 64 bits of a node's id; never 0.
pub fn file_id(node: &NodeId) -> u64 {
    node.0.first_chunk::<8>().map_or(1, |head| u64::from_be_bytes(*head)).max(1)
}

/// The node has no name, and nobody has it open.
pub(super) fn gone(node: &NodeId) -> Error {
    Error::not_found(Subject::Node, format!("there is no file {node} any more"))
}

fn too_long(offset: u64, length: u64) -> Error {
    Error::invalid(format!("{length} bytes at {offset} are beyond the longest file, {CONTENT_BYTES_MAX} bytes"))
        .about(Subject::Size)
}
