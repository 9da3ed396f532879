//! A bucket through the library.

use super::{Door, Failure, Item, Page, VersionRow};
use crate::content::Content;
use bytes::Bytes;
use std::ops::Range;
use tokio::runtime::Handle;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, CompleteOptions, CompletePart, Condition, CopyOptions, DeleteOptions, Error,
    ErrorKind, EtagMatch, GetOptions, ListItem, ListOptions, ListVersionsOptions, Metadata, Object, ObjectWriter,
    PutOptions, Segment, VersionId, VersionItem, Versioning,
};

/// Contents from this size on go in piece by piece.
const STREAMED_BYTES_MIN: usize = 100_000;
/// A piece: no round number, so that pieces and chunks end apart.
const PIECE_BYTES: usize = 77_777;

/// A bucket of an open segment.
#[derive(Clone)]
pub struct EngineDoor {
    runtime: Handle,
    bucket: Bucket,
    snapshot: Option<String>,
}

impl EngineDoor {
    /// A door to `path`, which is created, with its tenant, if it is not there.
    pub fn open(runtime: &Handle, segment: &Segment, path: &BucketPath) -> Result<EngineDoor, Error> {
        let bucket = runtime.block_on(async {
            let catalog = segment.catalog();
            for created in [
                catalog.create_cluster(&path.tenant.cluster).await,
                catalog.create_tenant(&path.tenant).await,
                catalog.create_bucket(path, BucketPolicy::default()).await.map(drop),
            ] {
                match created {
                    Err(error) if error.kind() != ErrorKind::Exists => return Err(error),
                    _ => {}
                }
            }
            segment.bucket(path).await
        })?;
        Ok(EngineDoor { runtime: runtime.clone(), bucket, snapshot: None })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The same bucket as snapshot `name` saw it, for reading and listing.
    #[must_use]
    pub fn at_snapshot(&self, name: &str) -> EngineDoor {
        EngineDoor { snapshot: Some(name.into()), ..self.clone() }
    }

    async fn open_object(&self, key: &[u8], version: Option<&str>) -> Result<Option<Object>, Failure> {
        let version = version.map(VersionId::parse).transpose().map_err(refused)?;
        match self.bucket.get(key, GetOptions { version, snapshot: self.snapshot.clone() }).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }
}

fn refused(error: Error) -> Failure {
    Failure::Refused(format!("{error:?}"))
}

fn labelled(content: Content) -> PutOptions {
    let user = [(Content::LABEL.to_string(), content.label())].into();
    PutOptions { metadata: Metadata { user, ..Metadata::default() }, ..PutOptions::default() }
}

async fn push_all(mut writer: ObjectWriter, bytes: &[u8]) -> Result<tombolo_core::SealedObject, Error> {
    for piece in bytes.chunks(PIECE_BYTES) {
        writer.push(Bytes::copy_from_slice(piece)).await?;
    }
    writer.seal().await
}

impl Door for EngineDoor {
    fn put(&mut self, key: &[u8], content: Content, only_if_absent: bool) -> Result<bool, Failure> {
        let mut options = labelled(content);
        if only_if_absent {
            options.condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
        }
        let bytes = content.bytes();
        let result = self.runtime.block_on(async {
            if content.size < STREAMED_BYTES_MIN {
                return self.bucket.put(key, bytes, options).await;
            }
            push_all(self.bucket.writer(key, options).await?, &bytes).await?.commit().await
        });
        match result {
            Ok(info) if info.size == content.size as u64 => Ok(true),
            Ok(info) => Err(Failure::lie(key, &format!("{} bytes stored of {}", info.size, content.size))),
            Err(error) if only_if_absent && error.kind() == ErrorKind::Precondition => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    fn multipart(&mut self, key: &[u8], content: Content, part_bytes: usize) -> Result<(), Failure> {
        let bytes = content.bytes();
        let numbered: Vec<_> = bytes.chunks(part_bytes.max(1)).zip(1..).collect();
        let result = self.runtime.block_on(async {
            let upload = self.bucket.create_upload(key, labelled(content)).await?.id;
            let mut parts = Vec::new();
            for (part, number) in numbered.into_iter().rev() {
                let writer = self.bucket.part_writer(key, &upload, number, None).await?;
                let info = push_all(writer, part).await?.commit_part().await?;
                parts.insert(0, CompletePart { number, etag: info.etag.to_string() });
            }
            self.bucket.complete_upload(key, &upload, &parts, CompleteOptions::default()).await
        });
        result.map(drop).map_err(refused)
    }

    fn copy(&mut self, from: &[u8], to: &[u8]) -> Result<bool, Failure> {
        self.runtime.block_on(async {
            let Some(source) = self.open_object(from, None).await? else {
                return Ok(false);
            };
            self.bucket.copy(&source, to, CopyOptions::default()).await.map(|_| true).map_err(refused)
        })
    }

    fn delete(&mut self, keys: &[Vec<u8>]) -> Result<(), Failure> {
        self.runtime.block_on(async {
            if let [key] = keys {
                return self.bucket.delete(key, DeleteOptions::default()).await.map(drop).map_err(refused);
            }
            let items = keys.iter().map(|key| (Bytes::copy_from_slice(key), DeleteOptions::default())).collect();
            let answers = self.bucket.delete_many(items).await.map_err(refused)?;
            answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(refused)
        })
    }

    fn delete_version(&mut self, key: &[u8], version: &str) -> Result<(), Failure> {
        let version = Some(VersionId::parse(version).map_err(refused)?);
        let options = DeleteOptions { version, ..DeleteOptions::default() };
        self.runtime.block_on(self.bucket.delete(key, options)).map(drop).map_err(refused)
    }

    fn set_versioning(&mut self, on: bool) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut policy = self.bucket.info().await.map_err(refused)?.policy;
            policy.versioning = if on { Versioning::On } else { Versioning::Suspended };
            self.bucket.segment().catalog().set_policy(self.bucket.path(), policy).await.map_err(refused)
        })
    }

    fn read(&mut self, key: &[u8], version: Option<&str>) -> Result<Option<Content>, Failure> {
        self.runtime.block_on(async {
            let Some(object) = self.open_object(key, version).await? else {
                return Ok(None);
            };
            let mut reader = object.read(0..u64::MAX);
            let mut bytes = Vec::new();
            while let Some(piece) = reader.next().await.map_err(refused)? {
                bytes.extend_from_slice(&piece);
            }
            let label = object.info().metadata.user.get(Content::LABEL).cloned().unwrap_or_default();
            Content::recognise(&label, &bytes).map(Some).map_err(|what| Failure::lie(key, &what))
        })
    }

    fn read_range(&mut self, key: &[u8], range: Range<u64>) -> Result<Vec<u8>, Failure> {
        self.runtime.block_on(async {
            let object = self.open_object(key, None).await?.ok_or(Failure::Refused("no such key".into()))?;
            object.bytes(range).await.map(|bytes| bytes.to_vec()).map_err(refused)
        })
    }

    fn list(
        &mut self,
        prefix: &[u8],
        delimiter: Option<&[u8]>,
        start: Option<&[u8]>,
        next: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let options = ListOptions {
            prefix: Bytes::copy_from_slice(prefix),
            delimiter: delimiter.map(Bytes::copy_from_slice),
            after: next.or(start).map(Bytes::copy_from_slice),
            limit,
            snapshot: self.snapshot.clone(),
            with_away: false,
        };
        let page = self.runtime.block_on(self.bucket.list(options)).map_err(refused)?;
        let item = |item| match item {
            ListItem::Object(summary) => Item::Key(summary.key.to_vec(), summary.size),
            ListItem::Prefix(prefix) => Item::Prefix(prefix.to_vec()),
        };
        Ok(Page { items: page.items.into_iter().map(item).collect(), next: page.next.map(|next| next.to_vec()) })
    }

    fn versions(&mut self, prefix: &[u8]) -> Result<Vec<VersionRow>, Failure> {
        let mut rows = Vec::new();
        let mut next = None;
        loop {
            let (after, after_version) = next.map_or((None, None), |(key, version)| (Some(key), version));
            let prefix = Bytes::copy_from_slice(prefix);
            let options = ListVersionsOptions { prefix, delimiter: None, after, after_version, limit: 100 };
            let page = self.runtime.block_on(self.bucket.list_versions(options)).map_err(refused)?;
            for item in page.items {
                match item {
                    VersionItem::Version { summary, version, is_current, is_marker, .. } => {
                        let key = summary.key.to_vec();
                        rows.push(VersionRow { key, version: version.to_string(), is_current, is_marker });
                    }
                    VersionItem::Prefix(prefix) => {
                        return Err(Failure::lie(&prefix, "a prefix without a delimiter"));
                    }
                }
            }
            next = page.next;
            if next.is_none() {
                return Ok(rows);
            }
        }
    }
}
