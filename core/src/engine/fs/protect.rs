//! What is written to a file that stays open is put where a crash of the process or the power does not reach it, without becoming a version: other doors
//! and other segments see versions only.
//!
//! A row of the metadata holds the working content of an open body, every few seconds while it changes; the save that makes a version of it takes the
//! row away. After a crash the next opening of the segment makes the version: unless the file is gone, or somebody else's version has come meanwhile,
//! which nobody's unsaved bytes replace.

use super::super::segment::Segment;
use super::super::transact;
use super::super::writer::opaque;
use super::body::Body;
use super::open_nodes::OpenNodes;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Space};
use crate::namespace::keys::BucketNumber;
use crate::namespace::{self, Content, NewContent, Version};
use crate::object::{Etag, FileType, Metadata, Tags, TimeNs};
use crate::path::BucketPath;
use crate::register::Dot;
use async_recursion::async_recursion as boxed;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use std::sync::Arc;

const FORMAT: u8 = 1;
const PREFIX: &[u8] = b"working/";
/// How many bodies are protected at once.
const PROTECTED_MAX: usize = 64;

/// The key of a node's row in [`Space::Meta`].
pub(super) fn key(bucket: BucketNumber, node: &NodeId) -> Bytes {
    let mut key = BytesMut::from(PREFIX);
    key.put_u32(bucket);
    key.put_slice(&node.0);
    key.freeze()
}

/// A row: the working content, and the version that it was made from.
struct Row {
    bucket: BucketPath,
    base: Dot,
    content: NewContent,
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_slice(&self.base.segment.0);
        out.put_u64(self.base.sequence);
        out.put_u8(u8::from(self.content.by_hand_ns.is_some()));
        out.put_i64(self.content.by_hand_ns.unwrap_or_default());
        let path = self.bucket.to_string();
        out.put_u16(u16::try_from(path.len()).unwrap_or(u16::MAX));
        out.put_slice(path.as_bytes());
        self.version().encode(&mut out);
        out
    }

    fn version(&self) -> Version {
        let content = &self.content;
        Version {
            size: content.size,
            modified_ns: content.written_ns,
            hole_bytes: content.hole_bytes,
            file_type: FileType::Regular,
            etag: content.etag.clone(),
            content: content.content.clone(),
            metadata: Metadata::default(),
            checksums: Vec::new(),
            part_sizes: Vec::new(),
            tags: Tags::new(),
            is_null: true,
            id: None,
            is_marker: false,
            deleted: None,
            lenders: content.lenders.clone(),
            at: (NodeId::ROOT, Bytes::new()),
        }
    }

    fn decode(mut row: Bytes) -> Result<Row> {
        let short = |_| Error::damaged("the row of an open file is cut short");
        if row.try_get_u8().map_err(short)? != FORMAT {
            return Err(Error::damaged("the row of an open file has a format that this build does not read"));
        }
        let mut segment = [0; 16];
        row.try_copy_to_slice(&mut segment).map_err(short)?;
        let sequence = row.try_get_u64().map_err(short)?;
        let is_by_hand = row.try_get_u8().map_err(short)? != 0;
        let by_hand_ns = row.try_get_i64().map_err(short)?;
        let length = usize::from(row.try_get_u16().map_err(short)?);
        if length > row.len() {
            return Err(Error::damaged("the row of an open file is cut short"));
        }
        let path = row.split_to(length);
        let path = std::str::from_utf8(&path).map_err(|_| Error::damaged("a bucket's path is not text"))?;
        let version = Version::decode(row)?;
        Ok(Row {
            bucket: path.parse()?,
            base: Dot { segment: SegmentId(segment), sequence },
            content: NewContent {
                content: version.content,
                size: version.size,
                hole_bytes: version.hole_bytes,
                written_ns: version.modified_ns,
                by_hand_ns: is_by_hand.then_some(by_hand_ns),
                etag: version.etag,
                // Nobody knows any more what its bytes were taken from.
                is_copied: true,
                lenders: version.lenders,
                former: None,
            },
        })
    }
}

/// What a row of [`Space::Meta`] is to become, if it is one of these.
pub(in crate::engine) fn version_of(key: &[u8], row: Bytes) -> Result<Option<Version>> {
    if key.starts_with(PREFIX) { Ok(Some(Row::decode(row)?.version())) } else { Ok(None) }
}

/// The same row, read and written again; `None`: it is none of these.
pub(in crate::engine) fn rewrite(key: &[u8], row: Bytes) -> Result<Option<Vec<u8>>> {
    if key.starts_with(PREFIX) { Ok(Some(Row::decode(row)?.encode())) } else { Ok(None) }
}

impl Body {
    /// Puts what is unsaved where a crash does not reach it.
    async fn protect(self: &Arc<Self>, nodes: &OpenNodes) -> Result<()> {
        let _edit = self.edit.lock().await;
        let (base, is_due) = {
            let state = self.state();
            let is_due = state.is_unsaved() && !state.is_orphan && state.protected_stamp != Some(state.stamp);
            (state.version, is_due)
        };
        if !is_due {
            return Ok(());
        }
        let mut moment = self.moment();
        // Even a small content goes into chunks here: what is in memory stays, as the pieces of an open file.
        self.store_moment(&mut moment).await?;
        let (manifest, hole_bytes) = moment.manifest().await?;
        let content = Content::Manifest(manifest);
        let etag = Etag::Opaque(opaque(&content));
        let (size, written_ns, by_hand_ns) = (moment.size, moment.written_ns, moment.by_hand_ns);
        let new = NewContent {
            content,
            size,
            hole_bytes,
            written_ns,
            by_hand_ns,
            etag,
            is_copied: true,
            lenders: Vec::new(),
            former: None,
        };
        let mut sessions = Vec::new();
        moment.hold_of_all().sessions(&mut sessions);
        let key = key(self.bucket.state().number, &self.node);
        let (segment, number) = (self.bucket.segment(), self.bucket.state().number);
        let (rows, _) = transact!(segment, txn, {
            self.bucket.require(&mut txn).await?;
            let lenders = match self.bucket.contents().was_shared() {
                true => moment.lenders(&mut txn, number, &self.node).await?,
                false => Some(Vec::new()),
            };
            let lenders = match lenders {
                Some(lenders) => segment.lenders(&new.content, lenders).await?,
                None => None,
            };
            if let Some(lenders) = lenders {
                let mut rows = 0;
                for session in &sessions {
                    let count = session.add_rows(&mut txn);
                    if Arc::ptr_eq(session, &moment.session) {
                        rows = count;
                    }
                }
                let content = NewContent { lenders, ..new.clone() };
                let row = Row { bucket: self.bucket.path().clone(), base, content };
                txn.put(Space::Meta, key.clone(), row.encode());
                Some(rows)
            } else {
                None
            }
        })?;
        let Some(rows) = rows else {
            // It is made of what has been replaced: no version can be made of it before its bytes are here, which fsync sees to.
            self.state().fold_limit = None;
            return Ok(());
        };
        moment.session.committed(rows);
        let is_first = {
            let mut state = self.state();
            state.fold_limit = None;
            state.protected_stamp.replace(moment.stamp).is_none()
        };
        if is_first {
            let key = (self.bucket.state().number, self.node);
            nodes.protected().lock().insert(key, Arc::downgrade(self));
        }
        if self.has_many_pieces() {
            self.fold().await?;
        }
        Ok(())
    }
}

impl OpenNodes {
    /// Protects open files that were written to at least `age_ns` ago.
    pub(super) async fn protect(&self, segment: &Segment, age_ns: TimeNs) {
        self.unprotect(segment).await;
        let due = self.bodies(None).into_iter().filter(|body| {
            let state = body.state();
            let since = state.unsaved_since_ns.filter(|_| state.is_unsaved() && !state.is_orphan && state.handles > 0);
            since.is_some_and(|since| body.now_ns().saturating_sub(since) >= age_ns)
        });
        let work = futures::stream::iter(due).map(|body| async move {
            if let Err(error) = body.protect(self).await {
                tracing::warn!(%error, node = %body.node, "what is written to an open file is not safe from a crash yet");
            }
        });
        work.buffer_unordered(PROTECTED_MAX).for_each(|()| std::future::ready(())).await;
    }

    /// Takes away the rows of files that were removed while they were open. What was saved has taken its row with it.
    async fn unprotect(&self, segment: &Segment) {
        let mut gone = Vec::new();
        self.protected().lock().retain(|(bucket, node), body| {
            // A body that was let go is saved, or it had no name any more.
            let state = body.upgrade().map(|body| {
                let state = body.state();
                (state.is_orphan, state.protected_stamp.is_some())
            });
            let (is_gone, is_kept) = state.unwrap_or((true, false));
            if is_gone {
                gone.push(key(*bucket, node));
            }
            is_kept && !is_gone
        });
        if gone.is_empty() {
            return;
        }
        if let Err(error) = forget(segment, &gone).await {
            // They go when the segment is opened next.
            tracing::warn!(%error, "the bytes of removed files are not given back yet");
        }
    }
}

async fn forget(segment: &Segment, keys: &[Bytes]) -> Result<()> {
    transact!(segment, txn, {
        for key in keys {
            txn.delete(Space::Meta, key.clone());
        }
    })?;
    Ok(())
}

impl Segment {
    /// Makes versions of what open files held when the last process that had the segment ended without closing it.
    pub(in crate::engine) async fn recover_files(&self) -> Result<()> {
        let view = self.store().snapshot().await?;
        let mut range = KeyRange::prefix(PREFIX);
        loop {
            let page = view.scan(Space::Meta, range, 1000, false).await?;
            for (key, row) in &page.rows {
                match self.recover_file(key, row.clone()).await {
                    Ok(()) => {}
                    // It stays for the next opening.
                    Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Quota) => {
                        tracing::warn!(%error, "what an open file held before the crash is not its version yet");
                    }
                    Err(error) => return Err(error),
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(PREFIX, last.clone()),
                _ => return Ok(()),
            }
        }
    }

    #[boxed]
    async fn recover_file(&self, key: &Bytes, row: Bytes) -> Result<()> {
        let place = key.get(PREFIX.len()..).and_then(|rest| Some((rest.first_chunk::<4>()?, rest.get(4..)?)));
        let (number, node) = place.ok_or_else(|| Error::damaged("the key of an open file is cut short"))?;
        let (number, node) = (u32::from_be_bytes(*number), NodeId::from_slice(node)?);
        let row = Row::decode(row)?;
        let bucket = match self.bucket(&row.bucket).await {
            Ok(bucket) => Some(bucket).filter(|bucket| bucket.state().number == number),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (is_recovered, _) = transact!(self, txn, {
            txn.delete(Space::Meta, key.clone());
            let mut is_recovered = false;
            if let Some(bucket) = &bucket {
                bucket.require(&mut txn).await?;
                let there = txn.node(number, &node).await?;
                let is_based = there.current(&bucket.state().rules()).is_some_and(|write| write.dot == row.base);
                if is_based && !there.names.is_empty() {
                    let content = row.content.clone();
                    let replaced = namespace::replace(&mut txn, bucket.state(), &node, &row.base, content).await?;
                    is_recovered = replaced.is_some();
                    bucket.settle(&mut txn).await?;
                }
            }
            is_recovered
        })?;
        tracing::info!(%node, bucket = %row.bucket, is_recovered, "a file was open when the last process ended");
        Ok(())
    }
}
