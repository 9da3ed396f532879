//! A bucket: objects, versions, listings.

use super::contents::Contents;
use super::packs::Residence;
use super::reader::Object;
use super::segment::{Segment, number_row, shared_row};
use super::transact;
use super::writer::{ObjectWriter, SealedObject, Target};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{NodeId, VersionId};
use crate::kv::Space;
use crate::namespace::{self, BucketState, Content, NewVersion, Sequenced, Shown, Stored, Txn, Version, View};
use crate::object::{
    BucketInfo, Condition, CopyOptions, DeleteOptions, Deleted, GetOptions, ListOptions, ListPage, ListVersionsOptions,
    Metadata, ObjectInfo, PutOptions, Tags, Usage, VersionPage,
};
use crate::path::{BucketPath, check_key};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::sync::Arc;

/// The most tags a version can have, and the longest names and values in characters (the S3 limits).
const TAGS_MAX: usize = 10;
/// The most items of one listing page.
const PAGE_ITEMS_MAX: usize = 10_000;

/// A bucket of a segment. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    segment: Segment,
    state: Arc<BucketState>,
}

impl Bucket {
    pub(super) fn new(segment: Segment, state: Arc<BucketState>) -> Bucket {
        Bucket { segment, state }
    }

    pub(super) fn state(&self) -> &Arc<BucketState> {
        &self.state
    }

    pub(super) fn contents(&self) -> &Arc<Contents> {
        self.segment.contents()
    }

    /// `cluster/tenant/bucket`.
    pub fn path(&self) -> &BucketPath {
        &self.state.path
    }

    /// The segment it is in.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Path, id, age and policy.
    pub async fn info(&self) -> Result<BucketInfo> {
        self.alive()?;
        Ok(BucketInfo {
            path: self.state.path.clone(),
            id: self.state.id,
            created_ns: self.state.created_ns,
            policy: (*self.state.policy()).clone(),
        })
    }

    /// What it holds.
    pub async fn usage(&self) -> Result<Usage> {
        self.alive()?;
        self.settle_files().await;
        Ok(self.segment.ledger().usage(self.state.number))
    }

    pub(super) fn alive(&self) -> Result<()> {
        if self.state.is_deleted() { Err(self.gone()) } else { Ok(()) }
    }

    fn gone(&self) -> Error {
        Error::not_found(Subject::Bucket, format!("there is no bucket {}", self.state.path))
    }

    /// Fails the transaction if the bucket is, or by then has been, deleted.
    pub(super) async fn require(&self, txn: &mut Txn) -> Result<()> {
        if !self.state.is_shared() {
            // What leaves no tombstone must not come after others may have seen what goes.
            txn.watch(Space::Meta, &shared_row(&self.state.id));
        }
        match txn.read(Space::Meta, &number_row(&self.state.id)).await? {
            Some(_) => Ok(()),
            None => Err(self.gone()),
        }
    }

    /// Stores `content` under `key`; durable and visible when it returns.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        content: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<ObjectInfo> {
        let mut writer = self.writer(key, options).await?;
        writer.push(content.into()).await?;
        writer.seal().await?.commit().await
    }

    /// Stores a content of any size piece by piece. Nothing shows until [`SealedObject::commit`]; dropping it leaves nothing behind.
    pub async fn writer(&self, key: impl AsRef<[u8]>, options: PutOptions) -> Result<ObjectWriter> {
        let key = checked(key)?;
        self.alive()?;
        check_options(&options)?;
        self.contents().check_space(0)?;
        Ok(ObjectWriter::new(self.clone(), Target::Key(key), options))
    }

    /// Puts a sealed content under `key`.
    pub(super) async fn commit_version(&self, key: &Bytes, sealed: SealedObject) -> Result<ObjectInfo> {
        self.contents().check_space(sealed.size.min(4096))?;
        self.settle_files().await;
        let (stored, sequenced, rows) = {
            let ((stored, rows), sequenced) = transact!(self.segment, txn, {
                self.require(&mut txn).await?;
                let new = self.new_version(&sealed);
                let stored = namespace::put(&mut txn, &self.state, key, new, &sealed.options.condition).await?;
                self.settle(&mut txn).await?;
                (stored, sealed.session.add_rows(&mut txn))
            })?;
            (stored, sequenced, rows)
        };
        sealed.session.committed(rows);
        self.segment.announce(&self.state, key);
        Ok(stored_info(&self.segment, key.clone(), stored, &sequenced))
    }

    fn new_version(&self, sealed: &SealedObject) -> NewVersion {
        let options = &sealed.options;
        NewVersion {
            version: Version {
                size: sealed.size,
                modified_ns: options.modified_ns.unwrap_or_else(|| self.segment.now_ns()),
                hole_bytes: sealed.hole_bytes,
                file_type: options.file_type,
                etag: sealed.etag.clone(),
                content: sealed.content.clone(),
                metadata: options.metadata.clone(),
                checksums: options.checksums.clone(),
                part_sizes: Vec::new(),
                tags: options.tags.clone(),
                is_null: false,
                id: None,
                is_marker: false,
                deleted: None,
                lenders: Vec::new(),
                at: (NodeId::ROOT, Bytes::new()),
            },
            attributes: options.attributes.clone(),
            unlinks: options.unlinks,
        }
    }

    /// The bucket as it is now, or as a snapshot saw it.
    pub(super) async fn view(&self, snapshot: Option<&str>) -> Result<View> {
        self.alive()?;
        let at = match snapshot {
            Some(name) => Some(self.snapshot_commit(name).await?),
            None => None,
        };
        let store = self.segment.store().snapshot().await?;
        Ok(View::new(store, self.segment.id(), &self.state, at))
    }

    /// The same as doors show it: without names that are away.
    pub(super) async fn view_for_doors(&self, snapshot: Option<&str>) -> Result<View> {
        Ok(self.view(snapshot).await?.for_doors(&self.state))
    }

    /// Opens one version for reading; it stays readable, whole, however long that takes.
    pub async fn get(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<Object> {
        let key = checked(key)?;
        self.settle_files().await;
        // A collection that starts now waits until the content is registered as open.
        let gate = self.contents().readers_gate.read().await;
        let view = self.view_for_doors(options.snapshot.as_deref()).await?;
        let (info, content) = self.find(&view, &key, options.version).await?;
        let pin = match &content {
            Content::Manifest(manifest) => Some(self.contents().pin(manifest)),
            Content::Inline(_) => None,
        };
        drop(gate);
        let is_live = info.is_current && options.snapshot.is_none();
        let source = is_live.then_some((self.state.number, info.node));
        Ok(Object::new(info, content, self.contents().clone(), source, pin))
    }

    /// One version's info.
    pub async fn head(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<ObjectInfo> {
        let key = checked(key)?;
        self.settle_files().await;
        let view = self.view_for_doors(options.snapshot.as_deref()).await?;
        Ok(self.find(&view, &key, options.version).await?.0)
    }

    #[boxed]
    async fn find(&self, view: &View, key: &Bytes, version: Option<VersionId>) -> Result<(ObjectInfo, Content)> {
        let missing = || {
            Error::not_found(
                Subject::Key,
                format!("there is no object '{}' in {}", String::from_utf8_lossy(key), self.state.path),
            )
        };
        let found = view.find(key).await?;
        let current = match found.as_ref().map(|f| (f, &f.shown)) {
            Some((found, Shown::File(file))) => {
                let row = view.node(&file.node).await?;
                let write = row
                    .shown_content(file.content, view.rules())
                    .ok_or_else(|| Error::damaged(format!("'{}' has no content", String::from_utf8_lossy(key))))?;
                let info = namespace::file_info(key.clone(), (&found.parent, &found.name), file, write, &row)?;
                Some((info, write.value.as_ref().map(|v| v.content.clone())))
            }
            Some((_, Shown::Directory { node, explicit: Some(object) })) => {
                let row = view.node(node).await?;
                let info = namespace::directory_info(view.own(), key.clone(), *node, object, &row);
                let content = row.content.value().map(|v| v.content.clone());
                Some((info, content))
            }
            _ => None,
        };
        match (version, current) {
            (None, Some((info, content))) => Ok((info, content.unwrap_or(Content::Inline(Bytes::new())))),
            (None, None) => Err(self.or_marker(view, key).await?.unwrap_or_else(missing)),
            (Some(version), Some((info, content))) if info.version == version => {
                Ok((info, content.unwrap_or(Content::Inline(Bytes::new()))))
            }
            (Some(version), _) => self.find_kept(view, key, version).await,
        }
    }

    /// A key that is deleted in a bucket with versions says so.
    async fn or_marker(&self, view: &View, key: &Bytes) -> Result<Option<Error>> {
        if self.state.versioning() == crate::Versioning::Off {
            return Ok(None);
        }
        let newest = namespace::newest_kept(view, self.state.number, key).await?;
        Ok(newest.filter(|(_, version)| version.is_marker).map(|(id, _)| {
            Error::not_found(Subject::Key, format!("'{}' is deleted", String::from_utf8_lossy(key))).with_marker(id)
        }))
    }

    async fn find_kept(&self, view: &View, key: &Bytes, version: VersionId) -> Result<(ObjectInfo, Content)> {
        let missing = || {
            Error::not_found(Subject::Version, format!("'{}' has no version {version}", String::from_utf8_lossy(key)))
        };
        let kept = namespace::find_kept(view, self.state.number, key, version).await?;
        let write = kept.ok_or_else(missing)?;
        let found = write.value.as_ref().ok_or_else(missing)?;
        if found.is_marker {
            return Err(Error::not_found(
                Subject::Version,
                format!("the version {version} of '{}' is a delete marker", String::from_utf8_lossy(key)),
            )
            .with_marker(version));
        }
        let mut info = namespace::info(key.clone(), NodeId::ROOT, &write, &Default::default(), false)?;
        info.version = version;
        if let VersionId::Id { segment, .. } = version {
            info.segment = segment;
        }
        Ok((info, found.content.clone()))
    }

    /// Deletes a key or one of its versions.
    pub async fn delete(&self, key: impl AsRef<[u8]>, options: DeleteOptions) -> Result<Deleted> {
        let key = checked(key)?;
        self.settle_files().await;
        let ((mut deleted, marker), sequenced) = transact!(self.segment, txn, {
            self.require(&mut txn).await?;
            let deleted = namespace::delete(&mut txn, &self.state, &key, &options).await?;
            self.settle(&mut txn).await?;
            deleted
        })?;
        if let Some(dot) = marker {
            deleted.version = Some(assigned(&self.segment, dot.slot(), &sequenced));
        }
        self.segment.announce(&self.state, &key);
        Ok(deleted)
    }

    /// Deletes many; one answer per item, in order. What is deleted is durable when it returns.
    pub async fn delete_many(&self, items: Vec<(Bytes, DeleteOptions)>) -> Result<Vec<Result<Deleted>>> {
        self.settle_files().await;
        let runs = items.chunks(DELETES_PER_COMMIT).map(|run| self.delete_run(run));
        Ok(futures::future::join_all(runs).await.into_iter().flatten().collect())
    }

    /// Deletes a few in one transaction. A delete that is refused changes nothing and leaves the others be.
    async fn delete_run(&self, items: &[(Bytes, DeleteOptions)]) -> Vec<Result<Deleted>> {
        let outcome = async {
            transact!(self.segment, txn, {
                self.require(&mut txn).await?;
                let mut done = Vec::with_capacity(items.len());
                for (key, options) in items {
                    done.push(match checked(key) {
                        Err(refused) => Err(refused),
                        Ok(key) => match namespace::delete(&mut txn, &self.state, &key, options).await {
                            Err(error) if !is_refusal(&error) => return Err(error),
                            other => other,
                        },
                    });
                }
                self.settle(&mut txn).await?;
                done
            })
        };
        let (done, sequenced) = match outcome.await {
            Ok(outcome) => outcome,
            // Each hears of its own failure.
            Err(_) => {
                let each = items.iter().map(|(key, options)| self.delete(key, options.clone()));
                return futures::future::join_all(each).await;
            }
        };
        let deleted = items.iter().zip(done).map(|((key, _), outcome)| {
            let (mut deleted, marker) = outcome?;
            if let Some(dot) = marker {
                deleted.version = Some(assigned(&self.segment, dot.slot(), &sequenced));
            }
            self.segment.announce(&self.state, key);
            Ok(deleted)
        });
        deleted.collect()
    }

    /// Copies a version, opened by [`Bucket::get`] in any bucket of the segment, to `key` here. Shares the content. What is not here is brought first unless it is
    /// what shows in this bucket: only of that others keep the bytes until they have heard of the copy.
    pub async fn copy(&self, source: &Object, key: impl AsRef<[u8]>, options: CopyOptions) -> Result<ObjectInfo> {
        let key = checked(key)?;
        let info = source.info();
        let metadata = options.metadata.unwrap_or_else(|| info.metadata.clone());
        let tags = options.tags.unwrap_or_else(|| info.tags.clone());
        check_metadata(&metadata, &tags)?;
        self.contents().check_space(4096)?;
        self.settle_files().await;
        let checksums = options.checksums.unwrap_or_else(|| info.checksums.clone());
        // What the copy shares must not go because it was only cached.
        let import = self.segment.chunk_import();
        let mut is_here = !self.contents().was_shared() || matches!(source.content(), Content::Inline(_));
        if let Content::Manifest(manifest) = source.content()
            && self.contents().packs().of(Residence::Cached).stored_bytes() > 0
        {
            is_here = import.adopt(manifest).await?.is_none();
        }
        let version = Version {
            size: info.size,
            modified_ns: options.modified_ns.unwrap_or_else(|| self.segment.now_ns()),
            hole_bytes: info.size.saturating_sub(info.allocated_bytes),
            file_type: info.file_type,
            // A multipart tag names parts that the copy does not have; without an MD5 of the whole, the tag stays as it is.
            etag: info.etag.clone(),
            content: source.content().clone(),
            metadata,
            checksums,
            part_sizes: info.part_sizes.clone(),
            tags,
            is_null: false,
            id: None,
            is_marker: false,
            deleted: None,
            lenders: Vec::new(),
            at: (NodeId::ROOT, Bytes::new()),
        };
        let (stored, sequenced) = loop {
            let (stored, sequenced) = transact!(self.segment, txn, {
                self.require(&mut txn).await?;
                // Until it is committed nothing else refers to it, if the source goes meanwhile and so does who asked for the copy.
                txn.hold(source.held());
                txn.hold(import.held());
                let lenders = match is_here {
                    true => Some(Vec::new()),
                    false => match source.lender(&mut txn, self.state.number).await? {
                        Some(lender) => self.segment.lenders(source.content(), vec![lender]).await?,
                        None => None,
                    },
                };
                match lenders {
                    Some(lenders) => {
                        let version = Version { lenders, ..version.clone() };
                        let (attributes, unlinks) = (options.attributes.clone(), options.unlinks);
                        let new = NewVersion { version, attributes, unlinks };
                        Some(self.put_copy(&mut txn, &key, new, &options.condition).await?)
                    }
                    None => None,
                }
            })?;
            match (stored, source.content()) {
                (Some(stored), _) => break (stored, sequenced),
                // It has been replaced: whoever has its bytes may drop them.
                (None, Content::Manifest(manifest)) => import.complete(manifest).await?,
                (None, Content::Inline(_)) => {}
            }
            is_here = true;
        };
        self.segment.announce(&self.state, &key);
        Ok(stored_info(&self.segment, key, stored, &sequenced))
    }

    async fn put_copy(&self, txn: &mut Txn, key: &Bytes, new: NewVersion, condition: &Condition) -> Result<Stored> {
        let stored = namespace::put(txn, &self.state, key, new, condition).await?;
        namespace::want_copy(txn, &self.state, stored.dot, &stored.version).await?;
        self.settle(txn).await?;
        Ok(stored)
    }

    /// Replaces the tags of a version.
    pub async fn set_tags(&self, key: impl AsRef<[u8]>, version: Option<VersionId>, tags: Tags) -> Result<ObjectInfo> {
        let key = checked(key)?;
        check_metadata(&Metadata::default(), &tags)?;
        self.settle_files().await;
        transact!(self.segment, txn, {
            self.require(&mut txn).await?;
            namespace::set_tags(&mut txn, &self.state, &key, version, tags.clone()).await?;
            self.settle(&mut txn).await?;
        })?;
        self.head(&key, GetOptions { version, snapshot: None }).await
    }

    /// A page of keys in byte order.
    pub async fn list(&self, options: ListOptions) -> Result<ListPage> {
        self.settle_files().await;
        let view = match options.with_away {
            true => self.view(options.snapshot.as_deref()).await?,
            false => self.view_for_doors(options.snapshot.as_deref()).await?,
        };
        let options = ListOptions { limit: options.limit.min(PAGE_ITEMS_MAX), ..options };
        namespace::list(view, &options).await
    }

    /// A page of versions: keys in byte order, each key's versions newest first.
    pub async fn list_versions(&self, options: ListVersionsOptions) -> Result<VersionPage> {
        self.settle_files().await;
        let view = self.view_for_doors(None).await?;
        let options = ListVersionsOptions { limit: options.limit.min(PAGE_ITEMS_MAX), ..options };
        namespace::list_versions(view, self.state.number, &options).await
    }
}

/// How many deletes of one call share a transaction.
const DELETES_PER_COMMIT: usize = 128;

/// Whether a delete was turned down before it changed anything.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Precondition | ErrorKind::NotFound)
}

pub(super) fn checked(key: impl AsRef<[u8]>) -> Result<Bytes> {
    let key = key.as_ref();
    check_key(key)?;
    Ok(Bytes::copy_from_slice(key))
}

pub(super) fn check_options(options: &PutOptions) -> Result<()> {
    check_metadata(&options.metadata, &options.tags)
}

fn check_metadata(metadata: &Metadata, tags: &Tags) -> Result<()> {
    if metadata.size_bytes() > Metadata::BYTES_MAX {
        return Err(Error::invalid(format!(
            "{} bytes of metadata are more than {}",
            metadata.size_bytes(),
            Metadata::BYTES_MAX
        )));
    }
    if tags.len() > TAGS_MAX {
        return Err(Error::invalid(format!("{} tags are more than {TAGS_MAX}", tags.len())));
    }
    if tags.iter().any(|(k, v)| k.is_empty() || k.chars().count() > 128 || v.chars().count() > 256) {
        return Err(Error::invalid("a tag has 1 to 128 characters for its name and at most 256 for its value"));
    }
    Ok(())
}

/// The version id of the write in `slot` of a sequenced transaction.
pub(super) fn assigned(segment: &Segment, slot: Option<u32>, sequenced: &Sequenced) -> VersionId {
    let slot = u64::from(slot.unwrap_or_default());
    VersionId::Id {
        stamp: sequenced.first_time + slot,
        segment: segment.id(),
        sequence: sequenced.first_sequence + slot,
    }
}

/// What the caller of a put hears.
pub(super) fn stored_info(segment: &Segment, key: Bytes, stored: Stored, sequenced: &Sequenced) -> ObjectInfo {
    let id = assigned(segment, stored.dot.slot(), sequenced);
    let version = stored.version;
    ObjectInfo {
        key,
        node: stored.node,
        version: version.version_id(id),
        is_current: true,
        size: version.size,
        allocated_bytes: version.size - version.hole_bytes.min(version.size),
        modified_ns: version.modified_ns,
        etag: version.etag,
        file_type: version.file_type,
        metadata: version.metadata,
        checksums: version.checksums,
        tags: version.tags,
        attributes: stored.attributes,
        part_sizes: version.part_sizes,
        links: stored.links,
        segment: segment.id(),
    }
}
