//! Making a version of a body: the one transaction behind fsync, close and truncation.
//!
//! The version is what the file was at one instant; writes go on beside it. Its entity tag is the MD5 of the content for contents small
//! enough to be kept in the metadata, if the bucket's tags are made of MD5, and else made of the chunks' hashes: the MD5 of a large file would cost a
//! pass over all of it for every fsync.
//!
//! A save that fails changes nothing: what earlier ones made is there, and the unsaved bytes stay with the body.

use super::super::transact;
use super::super::writer::opaque;
use super::body::{Body, Working};
use super::hold::Hold;
use super::overlay::HeldContent;
use super::protect;
use super::read::gather;
use super::store::Moment;
use crate::error::Result;
use crate::id::NodeId;
use crate::kv::Space;
use crate::manifest::Root;
use crate::namespace::keys::BucketNumber;
use crate::namespace::{self, Content, Lender, NewContent, Txn, Whereabouts, Which};
use crate::object::Etag;
use crate::policy::EtagKind;
use crate::register::Dot;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::sync::Arc;

impl Moment {
    /// What lends it bytes; `None`: not all of that is live in its bucket. The commit fails if that changes before.
    pub(super) async fn lenders(
        &self,
        txn: &mut Txn,
        bucket: BucketNumber,
        node: &NodeId,
    ) -> Result<Option<Vec<Lender>>> {
        let own = *txn.own();
        let row = txn.node(bucket, node).await?;
        if row.names.is_empty() {
            // What rescues a deleted file must not take bytes from it that go with it. Otherwise it becomes no version.
            let takes = self.base.is_some() || !self.origins.is_empty();
            let is_rescue = namespace::rescues(row, &own, &self.version, self.former.is_some());
            return Ok(if takes && is_rescue { None } else { Some(Vec::new()) });
        }
        let Some(mut lenders) = self.origins.lenders(txn, bucket).await? else { return Ok(None) };
        if let Some(base) = &self.base {
            let Some(lender) = namespace::lender(txn, bucket, node, Which::Write(base)).await? else { return Ok(None) };
            lenders.push(match &self.lent {
                // It is as live as any, and what it takes from elsewhere is known: no fsync but the first after opening looks at all of a file.
                Some(lent) => Lender { contents: lent.clone(), whereabouts: Whereabouts::Elsewhere },
                None => lender,
            });
        }
        Ok(Some(lenders))
    }
}

impl Body {
    /// Makes a version of what was done since the last. `is_durable`: it, and the one before, are on disk when this returns.
    pub(super) async fn save(&self, is_durable: bool) -> Result<()> {
        let _edit = self.edit.lock().await;
        let is_unsaved = {
            let state = self.state();
            if state.is_orphan {
                return Ok(());
            }
            state.is_unsaved()
        };
        if is_unsaved {
            self.save_now(is_durable).await
        } else if is_durable {
            // Its version, and what was done to its names and attributes since.
            self.bucket.segment().sync_commits().await
        } else {
            Ok(())
        }
    }

    #[boxed]
    async fn save_now(&self, is_durable: bool) -> Result<()> {
        let origin = self.state().origin.take().unwrap_or_default();
        let is_protected = self.state().protected_stamp.is_some();
        // While there is something to save nobody else's version takes its place.
        let base = self.state().version;
        let mut moment = self.moment();
        let (content, hole_bytes) = match moment.small.take() {
            // Copied, so that what is kept does not hold on to a larger buffer.
            Some(plan) => {
                let bytes = gather(self.bucket.contents(), plan).await?;
                (Content::Inline(Bytes::copy_from_slice(&bytes)), 0)
            }
            None => {
                self.store_moment(&mut moment).await?;
                let (manifest, hole_bytes) = moment.manifest().await?;
                (Content::Manifest(manifest), hole_bytes)
            }
        };
        let etag = match &content {
            Content::Inline(bytes) if self.bucket.state().policy().etag == EtagKind::Md5 => {
                Etag::Md5(Md5::digest(bytes).into())
            }
            content => Etag::Opaque(opaque(content)),
        };
        let mut sessions = Vec::new();
        moment.hold_of_all().sessions(&mut sessions);
        let size = moment.size;
        let (written_ns, by_hand_ns) = (moment.written_ns, moment.by_hand_ns);
        let is_copied = !moment.origins.is_empty();
        let former = moment.former.clone().map(|former| (former, self.state().attributes.clone()));
        let lenders = Vec::new();
        let new = NewContent { content, size, hole_bytes, written_ns, by_hand_ns, etag, is_copied, lenders, former };
        let segment = self.bucket.segment();
        let number = self.bucket.state().number;
        let mut is_here = !self.bucket.contents().was_shared() || matches!(new.content, Content::Inline(_));
        // Held until the version is committed.
        let import = (!is_here).then(|| segment.chunk_import());
        let ((dot, rows, lenders), sequenced) = loop {
            let (outcome, sequenced) = transact!(segment, txn, {
                self.bucket.require(&mut txn).await?;
                let lenders = match is_here {
                    true => Some(Vec::new()),
                    false => match moment.lenders(&mut txn, number, &self.node).await? {
                        Some(lenders) => segment.lenders(&new.content, lenders).await?,
                        None => None,
                    },
                };
                if let Some(lenders) = lenders {
                    let new = NewContent { lenders: lenders.clone(), ..new.clone() };
                    if !is_durable {
                        txn.without_sync();
                    }
                    txn.set_origin(origin);
                    if is_protected {
                        txn.delete(Space::Meta, protect::key(number, &self.node));
                    }
                    let dot = namespace::replace(&mut txn, self.bucket.state(), &self.node, &base, new).await?;
                    self.bucket.settle(&mut txn).await?;
                    let mut rows = 0;
                    if dot.is_some() {
                        for session in &sessions {
                            let count = session.add_rows(&mut txn);
                            if Arc::ptr_eq(session, &moment.session) {
                                rows = count;
                            }
                        }
                    }
                    Some((dot, rows, lenders))
                } else {
                    None
                }
            })?;
            if let Some(done) = outcome {
                break (done, sequenced);
            }
            // What it was made from has been replaced: whoever has its bytes may drop them.
            if let (Some(import), Content::Manifest(manifest)) = (&import, &new.content) {
                // What was stored for it here is found by its rows.
                for session in &sessions {
                    segment.commit_rows(session).await?;
                }
                import.complete(manifest).await?;
            }
            is_here = true;
        };
        let Some(dot) = dot else {
            let mut state = self.state();
            state.is_orphan = true;
            state.fold_limit = None;
            return Ok(());
        };
        let manifest = match &new.content {
            Content::Manifest(manifest) => Some(manifest.clone()),
            Content::Inline(_) => None,
        };
        let pin = manifest.as_ref().map(|manifest| self.bucket.contents().pin(manifest));
        let hold = Arc::new(Hold { pin, session: None, others: Vec::new() });
        let mut state = self.state();
        let working = match new.content {
            Content::Inline(bytes) => Working::Inline(bytes),
            Content::Manifest(manifest) => Working::Stored(Arc::new(HeldContent { manifest, hold: hold.clone() })),
        };
        state.stored(working, moment.stamp, hole_bytes);
        state.hold = hold;
        state.session = None;
        state.saved_stamp = moment.stamp;
        state.origins.saved(moment.stamp);
        state.is_based = true;
        state.saved_size = size;
        state.grows_from = size.min(state.size);
        state.unsaved_since_ns = state.is_unsaved().then(|| self.now_ns());
        state.version = Dot {
            segment: segment.id(),
            sequence: sequenced.first_sequence + u64::from(dot.slot().unwrap_or_default()),
        };
        // A content without nodes names nobody, whatever it takes.
        let has_nodes = manifest.as_ref().is_some_and(|manifest| matches!(manifest.root(), Root::Tree { .. }));
        state.lent = has_nodes.then_some(lenders);
        state.looked_at = sequenced.commit;
        state.failure = None;
        state.protected_stamp = None;
        drop(state);
        moment.session.committed(rows);
        self.changed.notify_waiters();
        if let Some(manifest) = manifest {
            self.note_wear(&manifest, &moment.pieces);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::fixture;
    use crate::engine::fs::{Caller, ROOT, RenameMode, SetAttributes};
    use crate::{BucketPolicy, FileOptions};

    /// What was done to a file's names and attributes after an fsync was not on disk after the next one, because nothing was written in between.
    #[tokio::test(flavor = "multi_thread")]
    async fn fsync_is_about_names_and_attributes_too() {
        let (_dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
        let is_synced = || segment.ledger().durable() >= segment.ledger().published();
        let file = bucket.open_file("x", FileOptions::create()).await.unwrap();
        file.write_at(0, "some".into()).await.unwrap();
        file.fsync().await.unwrap();
        let (files, root) = (bucket.file_system(), Caller::root());
        let node = files.lookup(&root, &ROOT, b"x").await.unwrap().node;
        let mode = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
        files.set_attributes(&root, &node, mode, None).await.unwrap();
        assert!(!is_synced(), "else this shows nothing");
        file.fsync().await.unwrap();
        assert!(is_synced());
        files.rename(&root, (&ROOT, b"x"), (&ROOT, b"y"), RenameMode::Replace).await.unwrap();
        assert!(!is_synced());
        file.fsync().await.unwrap();
        assert!(is_synced());
    }
}
