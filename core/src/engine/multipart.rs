//! Multipart uploads: parts are stored and chunked once, completing moves references.

use super::bucket::{Bucket, check_options, checked, stored_info};
use super::reader::Object;
use super::segment::Segment;
use super::session::Session;
use super::transact;
use super::writer::{ObjectWriter, SealedObject, Target, opaque};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{ChunkId, NodeId};
use crate::kv::{KeyRange, Space};
use crate::manifest::{Builder, Extent, Manifest, Source};
use crate::namespace::{self, Content, NewVersion, Version, keys};
use crate::object::{
    Checksum, CompleteOptions, CompletePart, Etag, Metadata, ObjectInfo, PartInfo, PutOptions, Tags, Tap, UploadId,
    UploadInfo,
};
use crate::policy::EtagKind;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The highest part number (the S3 limit).
pub(super) const PART_NUMBER_MAX: u32 = 10_000;

/// A stored part. Its row is a version record: content, size, tag, time and checksums are the same things.
struct Part {
    number: u32,
    version: Version,
}

fn blank(
    metadata: Metadata,
    tags: Tags,
    content: Content,
    size: u64,
    etag: Etag,
    modified_ns: i64,
    checksums: Vec<Checksum>,
) -> Version {
    Version {
        size,
        modified_ns,
        hole_bytes: 0,
        file_type: Default::default(),
        etag,
        content,
        metadata,
        checksums,
        part_sizes: Vec::new(),
        tags,
        is_null: false,
        id: None,
        is_marker: false,
        deleted: None,
        lenders: Vec::new(),
        at: (NodeId::ROOT, Bytes::new()),
    }
}

fn encode(version: &Version) -> Bytes {
    let mut out = vec![1];
    version.encode(&mut out);
    out.into()
}

fn decode(row: &Bytes) -> Result<Version> {
    namespace::decode_upload(row)
}

fn no_upload(id: &UploadId) -> Error {
    Error::not_found(Subject::Upload, format!("there is no upload '{}'; it may have been completed or aborted", id.0))
}

impl Bucket {
    /// Starts an upload of `key`.
    pub async fn create_upload(&self, key: impl AsRef<[u8]>, options: PutOptions) -> Result<UploadInfo> {
        let key = checked(key)?;
        check_options(&options)?;
        self.contents().check_space(4096)?;
        let mut random = [0; 16];
        self.segment().ledger().fill_random(&mut random);
        let id = UploadId(NodeId(random).to_string());
        let started_ns = self.segment().now_ns();
        let empty = Content::Inline(Bytes::new());
        let row = blank(
            options.metadata.clone(),
            options.tags,
            empty,
            0,
            Etag::Opaque([0; 16]),
            started_ns,
            options.checksums,
        );
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            txn.put(Space::Uploads, keys::upload(self.state().number, &key, &id.0), encode(&row));
        })?;
        Ok(UploadInfo { id, key, started_ns, metadata: options.metadata })
    }

    async fn upload_row(&self, key: &[u8], upload: &UploadId) -> Result<Version> {
        self.alive()?;
        let row =
            self.segment().store().get(Space::Uploads, &keys::upload(self.state().number, key, &upload.0)).await?;
        decode(&row.ok_or_else(|| no_upload(upload))?)
    }

    /// An upload under way.
    pub async fn upload(&self, key: impl AsRef<[u8]>, upload: &UploadId) -> Result<UploadInfo> {
        let key = checked(key)?;
        let row = self.upload_row(&key, upload).await?;
        Ok(UploadInfo { id: upload.clone(), key, started_ns: row.modified_ns, metadata: row.metadata })
    }

    /// A writer whose [`SealedObject::commit_part`] stores part `number` (1 to 10,000), replacing an earlier one.
    pub async fn part_writer(
        &self,
        key: impl AsRef<[u8]>,
        upload: &UploadId,
        number: u32,
        tap: Option<Tap>,
    ) -> Result<ObjectWriter> {
        let key = checked(key)?;
        check_number(number)?;
        self.upload_row(&key, upload).await?;
        self.contents().check_space(0)?;
        let target = Target::Part { key, upload: upload.clone(), number };
        Ok(ObjectWriter::new(self.clone(), target, PutOptions { tap, md5_etag: true, ..PutOptions::default() }))
    }

    pub(super) async fn commit_part(
        &self,
        key: &Bytes,
        upload: &UploadId,
        number: u32,
        sealed: SealedObject,
    ) -> Result<PartInfo> {
        let checksums = sealed.options.checksums.clone();
        let info = PartInfo {
            number,
            size: sealed.size,
            etag: sealed.etag.clone(),
            modified_ns: self.segment().now_ns(),
            checksums,
        };
        self.store_part(key, upload, &info, sealed.content.clone(), &sealed.session, &[]).await?;
        Ok(info)
    }

    async fn store_part(
        &self,
        key: &Bytes,
        upload: &UploadId,
        info: &PartInfo,
        content: Content,
        session: &Arc<Session>,
        held: &[Arc<dyn std::any::Any + Send + Sync>],
    ) -> Result<()> {
        let part = blank(
            Metadata::default(),
            Tags::new(),
            content,
            info.size,
            info.etag.clone(),
            info.modified_ns,
            info.checksums.clone(),
        );
        let number = self.state().number;
        let (rows, _) = transact!(self.segment(), txn, {
            // The upload must still be there when the part is committed.
            if txn.read(Space::Uploads, &keys::upload(number, key, &upload.0)).await?.is_none() {
                return Err(no_upload(upload));
            }
            txn.put(Space::Uploads, keys::part(number, &upload.0, info.number), encode(&part));
            held.iter().for_each(|held| txn.hold(held.clone()));
            session.add_rows(&mut txn)
        })?;
        session.committed(rows);
        Ok(())
    }

    /// A part that shares `range` of an object's content.
    pub async fn copy_part(
        &self,
        key: impl AsRef<[u8]>,
        upload: &UploadId,
        number: u32,
        source: &Object,
        range: Range<u64>,
    ) -> Result<PartInfo> {
        let key = checked(key)?;
        check_number(number)?;
        self.upload_row(&key, upload).await?;
        if range.end > source.info().size || range.start > range.end {
            return Err(Error::invalid(format!(
                "the range {}-{} is not in an object of {} bytes",
                range.start,
                range.end,
                source.info().size
            )));
        }
        let policy = self.state().policy();
        if policy.etag == EtagKind::Md5 || matches!(source.content(), Content::Inline(_)) {
            // The tag needs the bytes anyway; they are found stored already.
            let mut writer = self.part_writer(&key, upload, number, None).await?;
            let mut reader = source.read(range);
            while let Some(piece) = writer.idle(reader.next()).await?? {
                writer.push(piece).await?;
            }
            return writer.seal().await?.commit_part().await;
        }
        let session = Session::new(self.contents(), policy.compression);
        let Content::Manifest(manifest) = source.content() else {
            return Err(Error::damaged("a content is neither inline nor in chunks"));
        };
        let slice = manifest.slice(&*session, range.clone()).await?;
        // A part may wait for longer than anybody keeps what it was copied from.
        let import = self.segment().chunk_import();
        if self.contents().was_shared() {
            // Nodes that were made for it are found by their rows.
            self.segment().commit_rows(&session).await?;
            import.complete(&slice).await?;
        }
        let content = Content::Manifest(slice);
        let info = PartInfo {
            number,
            size: range.end - range.start,
            etag: Etag::Opaque(opaque(&content)),
            modified_ns: self.segment().now_ns(),
            checksums: Vec::new(),
        };
        let held = [source.held(), import.held()];
        self.store_part(&key, upload, &info, content, &session, &held).await?;
        Ok(info)
    }

    /// Makes the listed parts, in order, the current version of the upload's key.
    pub async fn complete_upload(
        &self,
        key: impl AsRef<[u8]>,
        upload: &UploadId,
        parts: &[CompletePart],
        options: CompleteOptions,
    ) -> Result<ObjectInfo> {
        let key = checked(key)?;
        self.settle_files().await;
        let row = self.upload_row(&key, upload).await?;
        let stored = self.stored_parts(upload, parts, &options).await?;
        let size = stored.iter().map(|p| p.version.size).sum();
        if options.size.is_some_and(|expected| expected != size) {
            return Err(Error::invalid(format!("the parts have {size} bytes, not what was announced")));
        }
        let session = Session::new(self.contents(), self.state().policy().compression);
        let content = join(&session, &stored).await?;
        let etag = multipart_etag(&stored, &content);
        // A part may be a copy of what has not come.
        let is_here = match &content {
            Content::Manifest(manifest) if self.state().is_shared() => {
                self.segment().missing_chunks(manifest, 1).await?.is_empty()
            }
            _ => true,
        };
        let number = self.state().number;
        let ((stored, rows), sequenced) = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            // Completed or aborted by another call, or a part replaced, in the meantime: all of that fails the commit.
            let upload_key = keys::upload(number, &key, &upload.0);
            if txn.read(Space::Uploads, &upload_key).await?.is_none() {
                return Err(no_upload(upload));
            }
            for part in &stored {
                let row = txn.read(Space::Uploads, &keys::part(number, &upload.0, part.number)).await?;
                let now = row.as_ref().map(decode).transpose()?;
                // The same part once more, as after an answer that was lost, changes nothing.
                let is_same = |now: &Version| now.etag == part.version.etag && now.content == part.version.content;
                if !now.is_some_and(|now| is_same(&now)) {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("part {} was replaced while the upload was completed", part.number),
                    )
                    .about(Subject::Part));
                }
            }
            txn.delete(Space::Uploads, upload_key);
            for number_of_part in self.part_numbers(upload).await? {
                txn.delete(Space::Uploads, keys::part(number, &upload.0, number_of_part));
            }
            let mut version = blank(
                row.metadata.clone(),
                row.tags.clone(),
                content.clone(),
                size,
                etag.clone(),
                self.segment().now_ns(),
                options.checksums.clone(),
            );
            version.part_sizes = stored.iter().map(|p| p.version.size).collect();
            let new = NewVersion { version, attributes: None, unlinks: false };
            let put = namespace::put(&mut txn, self.state(), &key, new, &options.condition).await?;
            if !is_here {
                namespace::want_copy(&mut txn, self.state(), put.dot, &put.version).await?;
            }
            self.settle(&mut txn).await?;
            (put, session.add_rows(&mut txn))
        })?;
        session.committed(rows);
        if let Err(error) = self.drop_parts(upload).await {
            tracing::warn!(%error, "parts that came late stay behind");
        }
        self.segment().announce(self.state(), &key);
        Ok(stored_info(self.segment(), key, stored, &sequenced))
    }

    async fn stored_parts(
        &self,
        upload: &UploadId,
        parts: &[CompletePart],
        options: &CompleteOptions,
    ) -> Result<Vec<Part>> {
        let invalid = |number: u32, what: &str| Error::invalid(format!("part {number} {what}")).about(Subject::Part);
        if parts.is_empty() {
            return Err(Error::invalid("an upload can't be completed without parts"));
        }
        let mut stored = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            let row = self
                .segment()
                .store()
                .get(Space::Uploads, &keys::part(self.state().number, &upload.0, part.number))
                .await?;
            let row =
                row.ok_or_else(|| Error::not_found(Subject::Part, format!("part {} was not uploaded", part.number)))?;
            let version = decode(&row)?;
            if version.etag.to_string() != part.etag {
                return Err(Error::not_found(
                    Subject::Part,
                    format!("part {} has another tag than the one given", part.number),
                ));
            }
            if i + 1 < parts.len() && version.size < options.part_bytes_min {
                return Err(invalid(
                    part.number,
                    &format!("has {} bytes, less than {}", version.size, options.part_bytes_min),
                ));
            }
            stored.push(Part { number: part.number, version });
        }
        Ok(stored)
    }

    async fn part_numbers(&self, upload: &UploadId) -> Result<Vec<u32>> {
        let prefix = keys::part_prefix(self.state().number, &upload.0);
        let view = self.segment().store().snapshot().await?;
        let page = view.scan(Space::Uploads, KeyRange::prefix(&prefix), PART_NUMBER_MAX as usize, false).await?;
        Ok(page.rows.iter().filter_map(|(key, _)| key.last_chunk::<4>().map(|n| u32::from_be_bytes(*n))).collect())
    }

    /// Drops an upload and its parts.
    pub async fn abort_upload(&self, key: impl AsRef<[u8]>, upload: &UploadId) -> Result<()> {
        let key = checked(key)?;
        let number = self.state().number;
        transact!(self.segment(), txn, {
            let upload_key = keys::upload(number, &key, &upload.0);
            if txn.read(Space::Uploads, &upload_key).await?.is_none() {
                return Err(no_upload(upload));
            }
            txn.delete(Space::Uploads, upload_key);
            for part in self.part_numbers(upload).await? {
                txn.delete(Space::Uploads, keys::part(number, &upload.0, part));
            }
        })?;
        self.drop_parts(upload).await
    }

    /// Drops what is left of an upload that has gone: parts that were on their way into a commit when those that there are were looked for. There won't be more.
    async fn drop_parts(&self, upload: &UploadId) -> Result<()> {
        let left = self.part_numbers(upload).await?;
        if !left.is_empty() {
            let number = self.state().number;
            transact!(self.segment(), txn, {
                for part in &left {
                    txn.delete(Space::Uploads, keys::part(number, &upload.0, *part));
                }
            })?;
        }
        Ok(())
    }

    /// Uploads whose keys start with `prefix`, after (`key`, `id`), by key then id; at most `limit`, and whether there are more.
    /// Without an id all uploads of the key are skipped.
    pub async fn uploads(
        &self,
        prefix: &[u8],
        after: Option<(Bytes, Option<UploadId>)>,
        limit: usize,
    ) -> Result<(Vec<UploadInfo>, bool)> {
        self.alive()?;
        let number = self.state().number;
        let all = keys::upload_prefix(number);
        let mut range = KeyRange::prefix(&all);
        // An escaped key without its terminator sorts before all keys that start with it.
        let whole = keys::upload(number, prefix, "");
        range.start = std::ops::Bound::Included(whole.slice(..whole.len().saturating_sub(2)));
        match after {
            Some((key, _)) if key.as_ref() < prefix => {}
            Some((key, Some(id))) => range.start = std::ops::Bound::Excluded(keys::upload(number, &key, &id.0)),
            Some((key, None)) => {
                range.start = match crate::kv::end_of_prefix(&keys::upload(number, &key, "")) {
                    std::ops::Bound::Excluded(end) => std::ops::Bound::Included(end),
                    other => other,
                }
            }
            None => {}
        }
        let view = self.segment().store().snapshot().await?;
        let page = view.scan(Space::Uploads, range, limit.min(10_000) + 1, false).await?;
        let mut found = Vec::new();
        for (row_key, row) in &page.rows {
            let (key, id) = keys::parse_upload(row_key)?;
            if !key.starts_with(prefix) {
                return Ok((found, false));
            }
            if found.len() == limit {
                return Ok((found, true));
            }
            let row = decode(row)?;
            found.push(UploadInfo { id: UploadId(id), key, started_ns: row.modified_ns, metadata: row.metadata });
        }
        Ok((found, false))
    }

    /// Parts after number `after`, ascending; at most `limit`, and whether there are more.
    pub async fn parts(
        &self,
        key: impl AsRef<[u8]>,
        upload: &UploadId,
        after: u32,
        limit: usize,
    ) -> Result<(Vec<PartInfo>, bool)> {
        let key = checked(key)?;
        self.upload_row(&key, upload).await?;
        let prefix = keys::part_prefix(self.state().number, &upload.0);
        let range = KeyRange::prefix_after(&prefix, keys::part(self.state().number, &upload.0, after));
        let view = self.segment().store().snapshot().await?;
        let page = view.scan(Space::Uploads, range, limit, false).await?;
        let mut parts = Vec::new();
        for (key, row) in &page.rows {
            let number = key.last_chunk::<4>().map(|n| u32::from_be_bytes(*n)).unwrap_or_default();
            let version = decode(row)?;
            parts.push(PartInfo {
                number,
                size: version.size,
                etag: version.etag,
                modified_ns: version.modified_ns,
                checksums: version.checksums,
            });
        }
        Ok((parts, page.more))
    }
}

fn check_number(number: u32) -> Result<()> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        Ok(())
    } else {
        Err(Error::invalid(format!("{number} is not a part number, 1 to {PART_NUMBER_MAX}")))
    }
}

/// The parts' contents one after the other; nothing is read.
async fn join(session: &Session, parts: &[Part]) -> Result<Content> {
    if let [part] = parts {
        return Ok(part.version.content.clone());
    }
    let mut whole: Option<Manifest> = None;
    for part in parts {
        let manifest = match &part.version.content {
            Content::Manifest(manifest) => manifest.clone(),
            Content::Inline(bytes) if bytes.is_empty() => continue,
            Content::Inline(bytes) => {
                let id = ChunkId::of(bytes);
                session.store(bytes)?;
                let raw = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let mut builder = Builder::new();
                builder
                    .push(session, Extent { length: u64::from(raw), source: Source::Chunk { id, offset: 0, raw } })
                    .await?;
                builder.finish(session).await?
            }
        };
        whole = Some(match whole {
            None => manifest,
            Some(whole) => whole.concat(session, &manifest).await?,
        });
    }
    Ok(whole.map_or(Content::Inline(Bytes::new()), Content::Manifest))
}

fn multipart_etag(parts: &[Part], content: &Content) -> Etag {
    let mut md5 = Md5::new();
    for part in parts {
        match &part.version.etag {
            Etag::Md5(tag) => md5.update(tag),
            _ => return Etag::Opaque(opaque(content)),
        }
    }
    Etag::Multipart(md5.finalize().into(), u32::try_from(parts.len()).unwrap_or(u32::MAX))
}

impl Segment {
    /// Drops uploads that were started longer than `age` ago; returns how many.
    pub async fn expire_uploads(&self, age: Duration) -> Result<u64> {
        let limit_ns = self.now_ns().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let mut dropped = 0;
        for cluster in self.catalog().clusters().await? {
            for tenant in self.catalog().tenants(&cluster).await? {
                for info in self.catalog().buckets(&tenant).await? {
                    let bucket = match self.bucket(&info.path).await {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        bucket => bucket?,
                    };
                    dropped += bucket.expire(limit_ns).await?;
                }
            }
        }
        Ok(dropped)
    }
}

impl Bucket {
    async fn expire(&self, limit_ns: i64) -> Result<u64> {
        let (mut dropped, mut after) = (0, None);
        loop {
            let (uploads, more) = self.uploads(b"", after.take(), 1000).await?;
            for upload in &uploads {
                if upload.started_ns < limit_ns {
                    match self.abort_upload(&upload.key, &upload.id).await {
                        // Completed just now.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        result => {
                            result?;
                            dropped += 1;
                        }
                    }
                }
            }
            match uploads.last() {
                Some(last) if more => after = Some((last.key.clone(), Some(last.id.clone()))),
                _ => return Ok(dropped),
            }
        }
    }
}
