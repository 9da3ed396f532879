//! The table of open nodes of a segment: one body per node, whoever opens it, through whatever door.
//!
//! A body stays here while a handle is open, and after the last one is closed until its bytes are saved. Closing does not wait for that: a closed file is saved
//! in the background, many in one group, and whoever looks at whole objects waits for those that were closed before it looked
//! ([`Bucket::settle_files`]).
//!
//! What the metadata operations of the file system need to know about open files is here too: sizes and times that no version has yet
//! ([`OpenNodes::overlay`]), times set by hand ([`OpenNodes::set_attributes`]), truncation by node ([`OpenNodes::truncate`]) and files without a
//! name ([`OpenNodes::unlinked`], [`OpenNodes::orphan`]).

use super::super::budget::{Budget, Taken};
use super::super::segment::Segment;
use super::super::{Bucket, transact};
use super::FileAttributes;
use super::body::Body;
use super::locks::LockTable;
use super::overlay::PIECE_BYTES;
use super::recutter::Recutter;
use super::unsaved::Listeners;
use crate::error::{Error, ErrorKind, Result};
use crate::id::NodeId;
use crate::kv::Space;
use crate::namespace::keys::BucketNumber;
use crate::object::{Attributes, TimeNs};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A body is stored when it has this much in memory, in bytes; less if the budget is small.
const STORED_BYTES: u64 = 8 << 20;
/// Unsaved bytes of an open file are kept against a crash when they are this old, in nanoseconds.
const PROTECTED_AGE_NS: TimeNs = 2_000_000_000;
/// How long a closed file waits for company.
const SAVE_DELAY: Duration = Duration::from_millis(5);
/// How many closed files are saved at once.
const SAVES_MAX: usize = 64;
/// Of how many files it is remembered why what was written to them is lost.
const LOST_MAX: usize = 4096;

pub(super) type Key = (BucketNumber, NodeId);

/// See the module.
pub(in crate::engine) struct OpenNodes {
    bodies: Mutex<HashMap<Key, Arc<Body>>>,
    /// Files that were closed and are not saved yet.
    closed: Mutex<HashMap<Key, Arc<Body>>>,
    closed_count: AtomicUsize,
    is_draining: AtomicBool,
    /// How often unsaved bytes of a closed file were given up.
    losses: AtomicU64,
    /// Why, for who opens the file next.
    lost: Mutex<HashMap<Key, (ErrorKind, String)>>,
    /// Those whose bytes a row keeps against a crash.
    protected: Mutex<HashMap<Key, Weak<Body>>>,
    pub(super) locks: Arc<LockTable>,
    pub(super) recutter: Recutter,
    pub(super) listeners: Listeners,
    /// Memory for written bytes.
    pub(super) written: Arc<Budget>,
    /// Memory for chunks that sequential readers have in hand.
    pub(super) read: Arc<Budget>,
    /// When a body is stored.
    pub(super) stored_bytes: u64,
}

/// Takes `body` out of `map`. A later body of the same node, which another may have opened since, stays.
fn remove(map: &mut HashMap<Key, Arc<Body>>, key: &Key, body: &Arc<Body>) {
    if map.get(key).is_some_and(|known| Arc::ptr_eq(known, body)) {
        map.remove(key);
    }
}

impl OpenNodes {
    /// `buffer_bytes`: memory for written bytes. Readers get half as much.
    pub(in crate::engine) fn new(buffer_bytes: usize) -> OpenNodes {
        let bytes = (buffer_bytes as u64).max(64 << 10);
        OpenNodes {
            bodies: Mutex::default(),
            closed: Mutex::default(),
            closed_count: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            lost: Mutex::default(),
            protected: Mutex::default(),
            locks: Arc::default(),
            recutter: Recutter::default(),
            listeners: Listeners::default(),
            written: Budget::new(bytes),
            read: Budget::new(bytes / 2),
            stored_bytes: STORED_BYTES.min(bytes / 4),
        }
    }

    pub(super) fn get(&self, bucket: BucketNumber, node: &NodeId) -> Option<Arc<Body>> {
        self.bodies.lock().get(&(bucket, *node)).cloned()
    }

    /// Whether a node is open, or something that was written to it is not saved yet.
    pub(in crate::engine) fn is_in_use(&self, bucket: BucketNumber, node: &NodeId) -> bool {
        self.get(bucket, node).is_some_and(|body| {
            let state = body.state();
            state.handles > 0 || state.is_unsaved()
        })
    }

    /// Shows in `attributes` (which the metadata says) what was written to the node and not saved yet: size, allocated bytes and times.
    pub(in crate::engine) fn overlay(&self, bucket: BucketNumber, attributes: &mut FileAttributes) {
        let Some(body) = self.get(bucket, &attributes.node) else { return };
        let state = body.state();
        if state.is_unsaved() {
            attributes.size = state.size;
            attributes.allocated_bytes = state.allocated_bytes();
            attributes.modified_ns = state.by_hand_ns.unwrap_or(state.written_ns);
            attributes.changed_ns = attributes.changed_ns.max(state.changed_ns);
        }
    }

    /// Which save of which body of a node was the last: another answer than before means that what was read of the node's rows in between may be older than that.
    pub(super) fn last_save(&self, bucket: BucketNumber, node: &NodeId) -> Option<(usize, u64)> {
        let body = self.get(bucket, node)?;
        let saved = body.state().saved_stamp;
        Some((Arc::as_ptr(&body) as usize, saved))
    }

    /// The node's attributes were changed at `changed_ns`, its modification time perhaps set by hand, and that is committed: what was written before
    /// does not change it any more.
    pub(in crate::engine) fn set_attributes(
        &self,
        bucket: BucketNumber,
        node: &NodeId,
        attributes: &Attributes,
        modified_ns: Option<TimeNs>,
        changed_ns: TimeNs,
    ) {
        let Some(body) = self.get(bucket, node) else { return };
        let mut state = body.state();
        state.attributes = attributes.clone();
        if state.is_unsaved() {
            if let Some(time) = modified_ns {
                state.by_hand_ns = Some(time);
                // A save under way has the old time.
                state.stamp += 1;
            }
            state.changed_ns = state.changed_ns.max(changed_ns);
        }
    }

    /// Cuts or extends a file, open or not. When it returns the new size shows; it is a version if nobody has the file open, and on disk if
    /// `is_durable`.
    pub(in crate::engine) async fn truncate(
        self: &Arc<Self>,
        bucket: &Bucket,
        node: &NodeId,
        size: u64,
        is_durable: bool,
        origin: u32,
    ) -> Result<()> {
        let body = self.open(bucket, node).await?;
        let result = async {
            body.truncate(size, origin).await?;
            if is_durable { body.save(true).await } else { Ok(()) }
        }
        .await;
        self.release(&body);
        result
    }

    /// The node has lost its last name; `last`: its attributes then, with no link left. If it is open it stays readable and writable until the last
    /// handle is closed, and its bytes never become a version.
    pub(in crate::engine) fn unlinked(&self, bucket: BucketNumber, last: FileAttributes) {
        if let Some(body) = self.get(bucket, &last.node) {
            let mut state = body.state();
            state.is_orphan = true;
            state.last_attributes = Some(last);
        }
    }

    /// The attributes of an open file without a name.
    pub(in crate::engine) fn orphan(&self, bucket: BucketNumber, node: &NodeId) -> Option<FileAttributes> {
        let body = self.get(bucket, node)?;
        let state = body.state();
        if !state.is_orphan || state.handles == 0 {
            return None;
        }
        Some(state.orphan_attributes(node))
    }

    /// Replaces the attributes of an open file without a name (size and times of its content excepted).
    pub(in crate::engine) fn set_orphan(&self, bucket: BucketNumber, attributes: FileAttributes) {
        if let Some(body) = self.get(bucket, &attributes.node) {
            let mut state = body.state();
            if state.is_orphan {
                state.by_hand_ns = Some(attributes.modified_ns);
                state.last_attributes = Some(attributes);
            }
        }
    }

    /// The body of a node, with one more handle on it.
    pub(super) async fn open(self: &Arc<Self>, bucket: &Bucket, node: &NodeId) -> Result<Arc<Body>> {
        let key = (bucket.state().number, *node);
        let known = {
            let bodies = self.bodies.lock();
            bodies.get(&key).inspect(|body| body.state().handles += 1).cloned()
        };
        if let Some(body) = known {
            if let Err(error) = body.refresh().await {
                self.release(&body);
                return Err(error);
            }
            return Ok(body);
        }
        let body = Arc::new(Body::open(bucket, node).await?);
        // Of several that open it at once the first one's body counts.
        let mut bodies = self.bodies.lock();
        let body = bodies.entry(key).or_insert(body).clone();
        let lost = self.lost.lock().remove(&key);
        let mut state = body.state();
        state.handles += 1;
        state.lost = lost.or(state.lost.take());
        drop(state);
        drop(bodies);
        Ok(body)
    }

    /// A handle goes away.
    pub(super) fn release(self: &Arc<Self>, body: &Arc<Body>) {
        let key = (body.bucket.state().number, body.node);
        let is_unsaved = {
            let mut bodies = self.bodies.lock();
            let mut state = body.state();
            state.handles = state.handles.saturating_sub(1);
            if state.handles > 0 {
                return;
            }
            if let Some(lost) = state.lost.take() {
                // Nobody has heard of it yet.
                self.lost.lock().insert(key, lost);
            }
            let is_unsaved = state.is_unsaved() && !state.is_orphan;
            if !is_unsaved {
                remove(&mut bodies, &key, body);
            }
            is_unsaved
        };
        if is_unsaved {
            self.save_later(body);
        }
    }

    /// Has `body` saved in the background; who looks at whole objects waits for it.
    pub(super) fn save_later(self: &Arc<Self>, body: &Arc<Body>) {
        {
            let mut closed = self.closed.lock();
            closed.insert((body.bucket.state().number, body.node), body.clone());
            self.closed_count.store(closed.len(), Ordering::Release);
        }
        self.start_draining();
    }

    fn start_draining(self: &Arc<Self>) {
        // Without a runtime they wait for the next flush, or for the segment to be closed.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        runtime.spawn(async move {
            loop {
                // Those that are closed one after the other are saved together. Whoever can't wait settles them.
                tokio::time::sleep(SAVE_DELAY).await;
                let saved = this.drain(None).await;
                this.is_draining.store(false, Ordering::Release);
                // What was closed since is ours, unless somebody else has begun; what failed waits for the next flush.
                if saved == 0
                    || this.closed_count.load(Ordering::Acquire) == 0
                    || this.is_draining.swap(true, Ordering::AcqRel)
                {
                    return;
                }
            }
        });
    }

    /// Saves closed files, of one bucket or of all; returns how many of them are saved now.
    async fn drain(&self, bucket: Option<BucketNumber>) -> usize {
        let closed: Vec<_> = {
            let closed = self.closed.lock();
            closed
                .iter()
                .filter(|((number, _), _)| bucket.is_none_or(|b| b == *number))
                .map(|(_, b)| b.clone())
                .collect()
        };
        let saves = futures::stream::iter(closed).map(|body| async move {
            match body.save(false).await {
                Ok(()) => usize::from(self.saved(&body)),
                Err(error) => {
                    tracing::warn!(%error, node = %body.node, "a closed file could not be saved");
                    // What can't get better is given up; the rest is tried again.
                    let passes = [ErrorKind::NoSpace, ErrorKind::Quota, ErrorKind::Busy, ErrorKind::Offline];
                    if passes.contains(&error.kind()) {
                        body.state().failure = Some((error.kind(), error.to_string()));
                    } else {
                        self.forget(&body, &error);
                    }
                    0
                }
            }
        });
        saves.buffer_unordered(SAVES_MAX).fold(0, |sum, saved| async move { sum + saved }).await
    }

    /// A closed file was saved. False: it has changed again since.
    fn saved(&self, body: &Arc<Body>) -> bool {
        let key = (body.bucket.state().number, body.node);
        let mut bodies = self.bodies.lock();
        let mut closed = self.closed.lock();
        let state = body.state();
        if state.is_unsaved() && !state.is_orphan && state.handles == 0 {
            return false;
        }
        remove(&mut closed, &key, body);
        self.closed_count.store(closed.len(), Ordering::Release);
        if state.handles == 0 {
            remove(&mut bodies, &key, body);
        }
        true
    }

    fn forget(&self, body: &Arc<Body>, error: &Error) {
        let key = (body.bucket.state().number, body.node);
        let mut bodies = self.bodies.lock();
        let mut closed = self.closed.lock();
        remove(&mut closed, &key, body);
        self.closed_count.store(closed.len(), Ordering::Release);
        let state = body.state();
        if state.handles == 0 {
            // Before it is out of the table: who opens the file without these bytes finds them counted.
            // Of two saves that fail side by side one gives it up.
            let is_here = bodies.get(&key).is_some_and(|known| Arc::ptr_eq(known, body));
            if is_here && state.is_unsaved() && !state.is_orphan {
                self.losses.fetch_add(1, Ordering::AcqRel);
                tracing::error!(node = %body.node, "what was written to a file is lost");
                let mut lost = self.lost.lock();
                if lost.len() < LOST_MAX {
                    lost.insert(key, (error.kind(), error.to_string()));
                }
            }
            remove(&mut bodies, &key, body);
        }
    }

    /// See [`FileSystem::losses`](super::FileSystem::losses).
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Returns when every file of the bucket that was closed before the call has its version, or can't have one.
    pub(in crate::engine) async fn settle(&self, bucket: BucketNumber) {
        if self.closed_count.load(Ordering::Acquire) > 0 {
            self.drain(Some(bucket)).await;
        }
    }

    /// Whether any file was closed and has no version yet.
    pub(super) fn has_closed(&self) -> bool {
        self.closed_count.load(Ordering::Acquire) > 0
    }

    /// Returns when a file that was closed has its version: before it gets a name under which others look for a whole content.
    pub(super) async fn settle_node(&self, bucket: BucketNumber, node: &NodeId) -> Result<()> {
        let closed = self.closed.lock().get(&(bucket, *node)).cloned();
        match closed {
            Some(body) => body.save(false).await,
            None => Ok(()),
        }
    }

    /// See the field.
    pub(super) fn protected(&self) -> &Mutex<HashMap<Key, Weak<Body>>> {
        &self.protected
    }

    /// All bodies, of one bucket or of all.
    pub(super) fn bodies(&self, bucket: Option<BucketNumber>) -> Vec<Arc<Body>> {
        let bodies = self.bodies.lock();
        bodies.iter().filter(|((number, _), _)| bucket.is_none_or(|b| b == *number)).map(|(_, b)| b.clone()).collect()
    }

    /// Makes versions of what was closed, and of what was written to open files at least `age_ns` ago.
    pub(in crate::engine) async fn flush(&self, bucket: Option<BucketNumber>, age_ns: TimeNs) -> Result<()> {
        self.drain(bucket).await;
        let mut result = Ok(());
        for body in self.bodies(bucket) {
            let is_due = {
                let state = body.state();
                let since = state.unsaved_since_ns.filter(|_| state.is_unsaved() && !state.is_orphan);
                since.is_some_and(|since| body.now_ns().saturating_sub(since) >= age_ns)
            };
            if is_due && let Err(error) = body.save(false).await {
                tracing::warn!(%error, node = %body.node, "an open file could not be flushed");
                result = Err(error);
            }
        }
        result
    }

    /// Makes versions of everything: the segment closes.
    pub(in crate::engine) async fn save_all(&self) -> Result<()> {
        let mut result = Ok(());
        for body in self.bodies(None) {
            if let Err(error) = body.save(false).await {
                tracing::error!(%error, node = %body.node, "what was written to a file is lost");
                result = Err(error);
            }
            self.saved(&body);
        }
        // What failed will never be a version: it must not hold the segment, and with it the directory's lock.
        let mut bodies = self.bodies.lock();
        let mut closed = self.closed.lock();
        bodies.retain(|_, body| body.state().handles > 0);
        closed.clear();
        self.closed_count.store(0, Ordering::Release);
        result
    }

    /// Takes memory for `bytes` written to a file; has files stored if there is not enough.
    pub(super) async fn take(&self, bytes: usize) -> Result<Taken> {
        let bytes = bytes as u64 + PIECE_BYTES;
        let mut failed: Vec<Arc<Body>> = Vec::new();
        let mut failure = None;
        loop {
            if let Some(taken) = self.written.try_take(bytes) {
                return Ok(taken);
            }
            let before = self.written.used_bytes();
            let fullest = {
                let bodies = self.bodies.lock();
                let others = bodies.values().filter(|body| !failed.iter().any(|other| Arc::ptr_eq(other, body)));
                let sizes = others.map(|body| (body.state().overlay.memory_bytes(), body));
                sizes.max_by_key(|(bytes, _)| *bytes).filter(|(bytes, _)| *bytes > 0).map(|(_, body)| body.clone())
            };
            match (fullest, failure.take()) {
                (Some(body), last) => {
                    failure = last;
                    if let Err(error) = body.store(true).await {
                        // Whoever writes to that file hears of it; this one can do with another's room.
                        body.state().failure = Some((error.kind(), error.to_string()));
                        failed.push(body);
                        failure = Some(error);
                    }
                }
                (None, Some(error)) => return Err(error),
                // All of it is on its way to the disk, or being read.
                (None, None) => self.written.freed_below(before).await,
            }
        }
    }
}

impl Body {
    /// Writes at `offset`, or at the end; returns where.
    pub(super) async fn write(
        self: &Arc<Self>,
        nodes: &OpenNodes,
        offset: Option<u64>,
        data: Bytes,
        origin: u32,
    ) -> Result<u64> {
        if data.is_empty() {
            return Ok(offset.unwrap_or_else(|| self.state().size));
        }
        self.refresh().await?;
        let length = data.len() as u64;
        let end = offset.unwrap_or_else(|| self.state().size);
        self.check_growth(end, length)?;
        self.bucket.contents().check_space(0)?;
        let taken = nodes.take(data.len()).await?;
        let now = self.now_ns();
        let (at, is_resized, is_full) = {
            let mut state = self.state();
            if let Some((kind, message)) = state.failure.take() {
                return Err(Error::new(kind, message));
            }
            let at = offset.unwrap_or(state.size);
            if at.checked_add(length).is_none_or(|end| end > crate::manifest::CONTENT_BYTES_MAX) {
                return Err(Error::invalid("a file can't be that long"));
            }
            let is_resized = at + length > state.size;
            state.changed_by(origin);
            state.write(at, data, taken, now);
            let is_full = state.overlay.memory_bytes() >= nodes.stored_bytes && !state.is_storing;
            state.is_storing |= is_full;
            (at, is_resized, is_full)
        };
        self.tell(at..at + length, is_resized, origin);
        if is_full {
            let body = self.clone();
            tokio::spawn(async move {
                let result = body.store(false).await;
                {
                    let mut state = body.state();
                    state.is_storing = false;
                    if let Err(error) = result {
                        state.failure = Some((error.kind(), error.to_string()));
                    }
                }
                body.changed.notify_waiters();
            });
        }
        self.wait_for_room(nodes).await;
        Ok(at)
    }

    /// Waits while much more is in memory than is stored at a time: the disk can't keep up.
    async fn wait_for_room(&self, nodes: &OpenNodes) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                if state.overlay.memory_bytes() < nodes.stored_bytes * 2 || !state.is_storing {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Cuts or extends.
    pub(super) async fn truncate(&self, size: u64, origin: u32) -> Result<()> {
        self.refresh().await?;
        self.check_growth(0, size)?;
        let now = self.now_ns();
        let mut state = self.state();
        let before = state.size;
        state.changed_by(origin);
        state.truncate(size, now);
        drop(state);
        self.changed.notify_waiters();
        self.tell(size.min(before)..u64::MAX, size != before, origin);
        Ok(())
    }
}

impl OpenNodes {
    /// Whether something was written to files of a bucket that is no version yet.
    pub(in crate::engine) fn holds_unsaved(&self, bucket: BucketNumber) -> bool {
        self.bodies(Some(bucket)).iter().any(|body| {
            let state = body.state();
            state.is_unsaved() && !state.is_orphan
        })
    }
}

impl Bucket {
    /// Returns when files that were closed before the call show their contents.
    pub(in crate::engine) async fn settle_files(&self) {
        self.segment().open_nodes().settle(self.state().number).await;
    }
}

impl Segment {
    /// Makes versions of files that were closed, and of open ones that were written to at least `age_ns` ago, in all buckets; on disk with the
    /// next sync. Whole-object readers see such a version of a file that is still being written.
    pub async fn flush_files_older_than(&self, age_ns: TimeNs) -> Result<()> {
        self.open_nodes().flush(None, age_ns).await
    }

    /// Keeps what was written to open files at least `age_ns` ago against a crash, without making it a version.
    pub async fn protect_files_older_than(&self, age_ns: TimeNs) {
        self.open_nodes().protect(self, age_ns).await;
    }

    /// Makes versions of files that were closed (also of those where that has failed before), and puts all versions and metadata changes made before
    /// the call on disk. What is written to files that stay open is kept against a crash, too, without becoming a version. For a program's or
    /// daemon's timer: what POSIX doors change is on disk at fsync, else at the next of these.
    pub async fn sync(&self) -> Result<()> {
        self.open_nodes().drain(None).await;
        self.open_nodes().protect(self, PROTECTED_AGE_NS).await;
        self.sync_commits().await
    }

    /// Returns when everything committed before the call is on disk.
    pub(in crate::engine) async fn sync_commits(&self) -> Result<()> {
        if self.ledger().published() > self.ledger().durable() {
            transact!(self, txn, {
                txn.put(Space::Meta, Bytes::from_static(b"synced"), Bytes::new());
            })?;
        }
        Ok(())
    }
}
