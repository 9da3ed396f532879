//! Contents on their way in: a bounded pipeline from pushed bytes to a manifest, then one commit.
//!
//! Per writer, blocks of pushed bytes go through two lanes that keep their order, the cutter and the digests, on different threads; the
//! chunks that fall out of the cutter are hashed, looked up, compressed and appended in parallel, and collected in order. Contents of at most
//! [`INLINE_BYTES_MAX`] bytes never get that far: they are kept in the metadata.

use super::Bucket;
use super::pool::received;
use super::session::Session;
use crate::chunk::Cutter;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::manifest::{Builder, Extent, Source};
use crate::namespace::{Content, INLINE_BYTES_MAX};
use crate::object::{Checksum, Etag, ObjectInfo, PartInfo, PutOptions, Tap, UploadId};
use crate::policy::EtagKind;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Bytes that are cut in one go.
const BLOCK_BYTES: usize = 1 << 20;
/// A writer's chunks that may wait to be stored, in bytes.
const WINDOW_BYTES: usize = 8 << 20;
/// How many chunk rows a long content commits ahead of its version.
const ROWS_AHEAD: usize = 1024;
/// Granularity of the shared write budget, in bytes.
pub(crate) const PERMIT_BYTES: usize = 4 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a content becomes.
pub(super) enum Target {
    /// The current version of a key.
    Key(Bytes),
    /// A part of an upload.
    Part {
        /// The upload's key.
        key: Bytes,
        /// The upload.
        upload: UploadId,
        /// The part's number.
        number: u32,
    },
}

/// A content on its way in. Dropping it leaves nothing behind.
pub struct ObjectWriter {
    bucket: Bucket,
    target: Target,
    options: PutOptions,
    session: Arc<Session>,
    block: Vec<Bytes>,
    block_bytes: usize,
    size: u64,
    hole_bytes: u64,
    cutting: Cutting,
    digests: Lane,
    builder: Builder,
    window: VecDeque<Stored>,
    window_bytes: usize,
    /// A call is under way, or was given up.
    is_between: bool,
}

/// A chunk being stored.
struct Stored {
    bytes: u32,
    done: oneshot::Receiver<Result<ChunkId>>,
}

/// The cutter, here or at work on the last block. It is one block ahead of storing, so that both go on side by side.
enum Cutting {
    Idle(Cutter),
    Busy(oneshot::Receiver<(Cutter, Vec<Bytes>)>, Arc<OwnedSemaphorePermit>),
    Gone,
}

/// The digests, here or at work on a block.
enum Lane {
    Idle(Digests),
    Busy(oneshot::Receiver<Digests>),
    Gone,
}

#[derive(Default)]
struct Digests {
    md5: Option<Md5>,
    tap: Option<Tap>,
}

impl Digests {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(tap) = &mut self.tap {
            tap(bytes);
        }
    }

    fn is_needed(&self) -> bool {
        self.md5.is_some() || self.tap.is_some()
    }
}

impl ObjectWriter {
    pub(super) fn new(bucket: Bucket, target: Target, mut options: PutOptions) -> ObjectWriter {
        let policy = bucket.state().policy();
        let session = Session::new(bucket.contents(), policy.compression);
        let md5 = (options.md5_etag && policy.etag == EtagKind::Md5).then(Md5::new);
        let digests = Lane::Idle(Digests { md5, tap: options.tap.take() });
        ObjectWriter {
            bucket,
            target,
            options,
            session,
            block: Vec::new(),
            block_bytes: 0,
            size: 0,
            hole_bytes: 0,
            cutting: Cutting::Idle(Cutter::new(policy.chunking)),
            digests,
            builder: Builder::new(),
            window: VecDeque::new(),
            window_bytes: 0,
            is_between: false,
        }
    }

    /// Appends; waits while the pipeline is full. Once this was dropped before it returned, or has failed, the content can't be continued.
    pub async fn push(&mut self, data: Bytes) -> Result<()> {
        self.begin()?;
        let mut data = data;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(BLOCK_BYTES - self.block_bytes));
            self.size += piece.len() as u64;
            self.block_bytes += piece.len();
            self.block.push(piece);
            if self.block_bytes >= BLOCK_BYTES {
                self.flush_block(false).await?;
            }
        }
        self.is_between = false;
        Ok(())
    }

    /// Refuses to go on from where an earlier call was given up half way: bytes of it may be missing.
    fn begin(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.is_between, true) {
            true => Err(Error::invalid("an earlier push was given up half way; the content can't be continued")),
            false => Ok(()),
        }
    }

    /// Appends `length` zero bytes that take no space.
    pub async fn push_hole(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.begin()?;
        self.flush_block(true).await?;
        self.drain(0).await?;
        self.hole_bytes += length;
        self.size += length;
        self.builder.push(&*self.session, Extent { length, source: Source::Hole }).await?;
        let mut digests = self.take_digests().await?;
        if digests.is_needed() {
            digests = self
                .bucket
                .contents()
                .pool
                .run(move || {
                    let mut left = length;
                    while left > 0 {
                        let piece =
                            ZEROS.get(..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())).unwrap_or(&ZEROS);
                        digests.update(piece);
                        left -= piece.len() as u64;
                    }
                    digests
                })
                .await?;
        }
        self.digests = Lane::Idle(digests);
        self.is_between = false;
        Ok(())
    }

    async fn take_digests(&mut self) -> Result<Digests> {
        match std::mem::replace(&mut self.digests, Lane::Gone) {
            Lane::Idle(digests) => Ok(digests),
            Lane::Busy(result) => received(result.await),
            Lane::Gone => Err(Error::invalid("an earlier push was given up half way; the content can't be continued")),
        }
    }

    /// The cutter, when it is done with the last block, and the chunks that it cut from it.
    async fn take_cutter(&mut self) -> Result<(Cutter, Option<(Vec<Bytes>, Arc<OwnedSemaphorePermit>)>)> {
        match std::mem::replace(&mut self.cutting, Cutting::Gone) {
            Cutting::Idle(cutter) => Ok((cutter, None)),
            Cutting::Busy(result, permit) => {
                let (cutter, chunks) = received(result.await)?;
                Ok((cutter, Some((chunks, permit))))
            }
            Cutting::Gone => {
                Err(Error::invalid("an earlier push was given up half way; the content can't be continued"))
            }
        }
    }

    /// Queues chunks to be stored.
    fn store(&mut self, cut: Option<(Vec<Bytes>, Arc<OwnedSemaphorePermit>)>) {
        let Some((chunks, permit)) = cut else { return };
        for chunk in chunks {
            let length = chunk.len();
            let session = self.session.clone();
            let permit = permit.clone();
            let done = self.bucket.contents().pool.submit(move || {
                let stored = session.store(&chunk);
                drop((chunk, permit));
                stored
            });
            self.window.push_back(Stored { bytes: u32::try_from(length).unwrap_or(u32::MAX), done });
            self.window_bytes += length;
        }
    }

    /// Sends the block through both lanes. `ends`: what is left in the cutter comes out too.
    #[boxed]
    async fn flush_block(&mut self, ends: bool) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        let bytes = std::mem::take(&mut self.block_bytes);
        if block.is_empty() && !ends {
            return Ok(());
        }
        let contents = self.bucket.contents().clone();
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permit = match self.bucket.segment().try_write_budget(permits) {
            Some(permit) => permit,
            None => {
                // Who waits for memory must not hold any that only it can let go: what is cut goes on its way first.
                let (cutter, chunks) = self.take_cutter().await?;
                self.cutting = Cutting::Idle(cutter);
                self.store(chunks);
                self.bucket.segment().write_budget(permits).await?
            }
        };
        let mut digests = self.take_digests().await?;
        self.digests = if digests.is_needed() && !block.is_empty() {
            let block = block.clone();
            Lane::Busy(contents.pool.submit(move || {
                block.iter().for_each(|piece| digests.update(piece));
                digests
            }))
        } else {
            Lane::Idle(digests)
        };
        let permit = Arc::new(permit);
        let (mut cutter, chunks) = self.take_cutter().await?;
        let chunking = self.bucket.state().policy().chunking;
        let cut = contents.pool.submit(move || {
            let mut chunks = Vec::new();
            for piece in block {
                chunks.extend(cutter.push(piece));
            }
            if ends {
                chunks.extend(cutter.finish());
                cutter = Cutter::new(chunking);
            }
            (cutter, chunks)
        });
        self.cutting = Cutting::Busy(cut, permit);
        self.store(chunks);
        if ends {
            let (cutter, chunks) = self.take_cutter().await?;
            self.cutting = Cutting::Idle(cutter);
            self.store(chunks);
        }
        self.drain(WINDOW_BYTES).await?;
        if self.session.len() >= ROWS_AHEAD {
            self.bucket.segment().commit_rows(&self.session).await?;
        }
        Ok(())
    }

    /// Collects stored chunks, oldest first, until at most `left` bytes are under way.
    #[boxed]
    async fn drain(&mut self, left: usize) -> Result<()> {
        while self.window_bytes > left
            && let Some(stored) = self.window.pop_front()
        {
            let id = received(stored.done.await)??;
            self.window_bytes -= stored.bytes as usize;
            let source = Source::Chunk { id, offset: 0, raw: stored.bytes };
            self.builder.push(&*self.session, Extent { length: stored.bytes.into(), source }).await?;
        }
        Ok(())
    }

    /// Ends the content: everything is cut, hashed and handed to the disk, the tap has seen it all.
    pub async fn seal(mut self) -> Result<SealedObject> {
        self.begin()?;
        let is_small =
            self.size <= INLINE_BYTES_MAX as u64 && self.block_bytes as u64 == self.size && self.hole_bytes == 0;
        let (content, md5) = if is_small {
            // Copied, so that a row does not hold on to a network buffer.
            let bytes = self.block.concat();
            let mut digests = self.take_digests().await?;
            if digests.md5.is_none() && self.bucket.state().policy().etag == EtagKind::Md5 {
                digests.md5 = Some(Md5::new());
            }
            digests.update(&bytes);
            (Content::Inline(bytes.into()), digests.md5)
        } else {
            self.flush_block(true).await?;
            self.drain(0).await?;
            let manifest = std::mem::take(&mut self.builder).finish(&*self.session).await?;
            (Content::Manifest(manifest), self.take_digests().await?.md5)
        };
        let md5 = md5.map(|md5| <[u8; 16]>::from(md5.finalize()));
        let etag = match md5 {
            Some(md5) => Etag::Md5(md5),
            None => Etag::Opaque(opaque(&content)),
        };
        Ok(SealedObject {
            bucket: self.bucket,
            target: self.target,
            options: self.options,
            session: self.session,
            content,
            size: self.size,
            hole_bytes: self.hole_bytes,
            md5,
            etag,
        })
    }
}

/// A tag from the chunks' hashes.
pub(super) fn opaque(content: &Content) -> [u8; 16] {
    let hash = match content {
        Content::Inline(bytes) => blake3::hash(bytes),
        Content::Manifest(manifest) => blake3::hash(&manifest.encode()),
    };
    let mut tag = [0; 16];
    tag.iter_mut().zip(hash.as_bytes()).for_each(|(t, h)| *t = *h);
    tag
}

/// A content that is stored but has no name yet. Dropping it leaves nothing behind.
pub struct SealedObject {
    pub(super) bucket: Bucket,
    pub(super) target: Target,
    pub(super) options: PutOptions,
    pub(super) session: Arc<Session>,
    pub(super) content: Content,
    pub(super) size: u64,
    pub(super) hole_bytes: u64,
    pub(super) md5: Option<[u8; 16]>,
    pub(super) etag: Etag,
}

impl SealedObject {
    /// Size of the content in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// MD5 of the content, if the bucket's tags are made of it.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.md5
    }

    /// The tag it will have.
    pub fn etag(&self) -> &Etag {
        &self.etag
    }

    /// Checksums to keep with the version or part.
    pub fn set_checksums(&mut self, checksums: Vec<Checksum>) {
        self.options.checksums = checksums;
    }

    /// Makes it the current version of its key; durable and visible when it returns.
    pub async fn commit(self) -> Result<ObjectInfo> {
        match &self.target {
            Target::Key(key) => {
                let key = key.clone();
                let bucket = self.bucket.clone();
                bucket.commit_version(&key, self).await
            }
            Target::Part { .. } => Err(Error::invalid("a part is committed by commit_part")),
        }
    }

    /// Makes it a part of its upload.
    pub async fn commit_part(self) -> Result<PartInfo> {
        match &self.target {
            Target::Part { key, upload, number } => {
                let (key, upload, number) = (key.clone(), upload.clone(), *number);
                let bucket = self.bucket.clone();
                bucket.commit_part(&key, &upload, number, self).await
            }
            Target::Key(_) => Err(Error::invalid("an object is committed by commit")),
        }
    }
}
