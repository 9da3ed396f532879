//! Contents on their way in: a bounded pipeline from pushed bytes to a manifest, then one commit.
//!
//! Per writer, blocks of pushed bytes go through two lanes that keep their order, the cutter and the digests, on different threads; the
//! chunks that fall out of the cutter are hashed, looked up, compressed and appended in parallel, and collected in order. Contents of at most
//! [`INLINE_BYTES_MAX`] bytes never get that far: they are kept in the metadata.
//!
//! Bytes count against the memory of all writers (`write_budget.rs`) from when they are pushed until their chunk is stored. Chunks depend on the bytes alone, but
//! for those that are cut short because others have waited for that memory for long.

use super::Bucket;
use super::pool::received;
use super::session::Session;
use super::write_budget::{PATIENCE, permits_of};
use crate::chunk::Cutter;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::manifest::{Builder, CONTENT_BYTES_MAX, Extent, Source};
use crate::namespace::{Content, INLINE_BYTES_MAX};
use crate::object::{Checksum, Etag, ObjectInfo, PartInfo, PutOptions, Tap, UploadId};
use crate::policy::EtagKind;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

/// Bytes that are cut in one go.
const BLOCK_BYTES: usize = 1 << 20;
/// The same while there is little memory left.
const TIGHT_BLOCK_BYTES: usize = BLOCK_BYTES / 4;
/// What a writer may hold that does not count: as much as small contents are, which cost nothing but their commit.
const FREE_BYTES: usize = 64 << 10;
/// A writer's chunks that may wait to be stored, in bytes.
const WINDOW_BYTES: usize = 8 << 20;
/// How many chunk rows a long content commits ahead of its version.
const ROWS_AHEAD: usize = 1024;
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
    /// What the cutter was given and no chunk was taken of.
    uncut_bytes: usize,
    /// Memory for both; none as long as they are few.
    permit: Option<OwnedSemaphorePermit>,
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
    Busy(oneshot::Receiver<(Cutter, Vec<Bytes>)>),
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
            uncut_bytes: 0,
            permit: None,
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
    ///
    /// What is not a chunk yet keeps memory from other writers. Who has to wait for more of the content does so in [`ObjectWriter::idle`].
    pub async fn push(&mut self, data: Bytes) -> Result<()> {
        self.begin()?;
        let mut data = data;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(BLOCK_BYTES - self.block_bytes));
            if !self.cover(piece.len()) {
                self.make_room(piece.len()).await?;
            }
            self.size += piece.len() as u64;
            self.block_bytes += piece.len();
            self.block.push(piece);
            if self.block_bytes >= BLOCK_BYTES {
                self.flush_block(false).await?;
            } else if self.block_bytes >= TIGHT_BLOCK_BYTES && self.bucket.segment().write_budget().is_tight() {
                self.settle().await?;
            }
        }
        self.is_between = false;
        Ok(())
    }

    /// Waits for `next`, where more of the content comes from. When others have waited long for the memory that this content takes, gives it to them: what came so
    /// far is cut as if it ended there. Dropping this before it returns is as dropping `next`, unless it was about to do that: then the content can't be continued.
    pub async fn idle<T>(&mut self, next: impl Future<Output = T>) -> Result<T> {
        if self.permit.is_none() {
            return Ok(next.await);
        }
        let mut next = pin!(next);
        tokio::select! {
            biased;
            next = &mut next => return Ok(next),
            () = self.bucket.segment().write_budget().wanted() => {}
        }
        self.begin()?;
        self.let_go().await?;
        self.is_between = false;
        Ok(next.await)
    }

    /// How many permits are missing for `bytes` more.
    fn missing(&self, bytes: usize) -> usize {
        let all = self.block_bytes + self.uncut_bytes + bytes;
        match &self.permit {
            None if all <= FREE_BYTES => 0,
            None => permits_of(all),
            Some(held) => permits_of(all).saturating_sub(held.num_permits()),
        }
    }

    /// Takes memory for `bytes` more, if there is some.
    fn cover(&mut self, bytes: usize) -> bool {
        let missing = self.missing(bytes);
        if missing == 0 {
            return true;
        }
        match self.bucket.segment().write_budget().try_take(missing) {
            Some(taken) => self.keep(taken),
            None => return false,
        }
        true
    }

    fn keep(&mut self, taken: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) => held.merge(taken),
            None => self.permit = Some(taken),
        }
    }

    /// Waits for memory for `bytes` more.
    #[boxed]
    async fn make_room(&mut self, bytes: usize) -> Result<()> {
        self.settle().await?;
        if self.cover(bytes) {
            return Ok(());
        }
        let missing = self.missing(bytes);
        match timeout(PATIENCE, self.bucket.segment().write_budget().take(missing)).await {
            Ok(taken) => self.keep(taken?),
            Err(_) => {
                self.let_go().await?;
                let missing = self.missing(bytes);
                if missing > 0 {
                    let taken = self.bucket.segment().write_budget().take_from_idle(missing).await?;
                    self.keep(taken);
                }
            }
        }
        Ok(())
    }

    /// Has all chunks that are complete stored.
    async fn settle(&mut self) -> Result<()> {
        self.flush_block(false).await?;
        let (cutter, chunks) = self.take_cutter().await?;
        self.cutting = Cutting::Idle(cutter);
        self.store(chunks);
        Ok(())
    }

    /// Gives back all memory but that of chunks on their way. Cuts the chunk at hand short unless there is little of it.
    async fn let_go(&mut self) -> Result<()> {
        if self.block_bytes + self.uncut_bytes > FREE_BYTES {
            self.flush_block(true).await?;
        }
        self.permit = None;
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
        let size = self.size.checked_add(length).filter(|size| *size <= CONTENT_BYTES_MAX);
        let too_long = || Error::invalid(format!("a content can't be longer than {CONTENT_BYTES_MAX} bytes"));
        let size = size.ok_or_else(too_long)?;
        self.begin()?;
        self.flush_block(true).await?;
        self.drain(0).await?;
        self.hole_bytes += length;
        self.size = size;
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
    async fn take_cutter(&mut self) -> Result<(Cutter, Vec<Bytes>)> {
        match std::mem::replace(&mut self.cutting, Cutting::Gone) {
            Cutting::Idle(cutter) => Ok((cutter, Vec::new())),
            Cutting::Busy(result) => received(result.await),
            Cutting::Gone => {
                Err(Error::invalid("an earlier push was given up half way; the content can't be continued"))
            }
        }
    }

    /// Queues chunks to be stored. Their memory goes with them.
    fn store(&mut self, chunks: Vec<Bytes>) {
        self.uncut_bytes -= chunks.iter().map(Bytes::len).sum::<usize>();
        let kept = permits_of(self.block_bytes + self.uncut_bytes);
        let permit = self.permit.as_mut().and_then(|held| held.split(held.num_permits().saturating_sub(kept)));
        let permit = permit.map(Arc::new);
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
        self.uncut_bytes += std::mem::take(&mut self.block_bytes);
        if block.is_empty() && !ends {
            return Ok(());
        }
        let contents = self.bucket.contents().clone();
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
        self.cutting = Cutting::Busy(cut);
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, noise};
    use super::super::write_budget::permits_of;
    use super::*;
    use crate::{BucketPolicy, Chunking, GetOptions, OpenOptions, Segment};
    use std::time::Duration;
    use tempfile::TempDir;
    use tokio::sync::watch;

    const DEADLINE: Duration = Duration::from_secs(60);
    const USUAL: Chunking = Chunking::Content(256 << 10);

    /// A bucket whose writers have 8 MiB.
    async fn small(chunking: Chunking) -> (TempDir, Segment, Bucket) {
        let open = OpenOptions { write_buffer_bytes: 8 << 20, ..OpenOptions::default() };
        fixture::bucket_with(BucketPolicy { chunking, ..BucketPolicy::default() }, open).await
    }

    async fn content(bucket: &Bucket, key: &str) -> Bytes {
        let object = bucket.get(key, GetOptions::default()).await.unwrap();
        object.bytes(0..object.info().size).await.unwrap()
    }

    /// P12: up to a MiB of each content was gathered before it counted.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_pushed_counts_until_its_chunk_is_stored() {
        let (_dir, segment, bucket) = small(USUAL).await;
        let budget = segment.write_budget();
        let mut writer = bucket.writer("k", PutOptions::default()).await.unwrap();
        let all = noise(3 << 20, 1);
        writer.push(all.slice(..FREE_BYTES)).await.unwrap();
        assert_eq!(budget.taken(), 0, "small contents cost nothing");
        writer.push(all.slice(FREE_BYTES..800_000)).await.unwrap();
        assert_eq!(budget.taken(), permits_of(800_000));
        writer.push(all.slice(800_000..)).await.unwrap();
        writer.settle().await.unwrap();
        writer.drain(0).await.unwrap();
        assert!(writer.uncut_bytes < 1 << 20, "the longest chunk");
        assert_eq!(budget.taken(), permits_of(writer.uncut_bytes));
        writer.seal().await.unwrap().commit().await.unwrap();
        assert_eq!(budget.taken(), 0);
        assert_eq!(content(&bucket, "k").await, all);
    }

    /// P12: contents whose senders stood still kept the memory, and all others waited for them.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_stands_still_gives_its_memory_to_who_waits() {
        let (_dir, segment, bucket) = small(USUAL).await;
        let (go_on, may_go_on) = watch::channel(false);
        let all: Vec<Bytes> = (0..16).map(|n| noise(2 << 20, n)).collect();
        let put = |n: usize| {
            let (bucket, all, mut may_go_on) = (bucket.clone(), all[n].clone(), may_go_on.clone());
            async move {
                let mut writer = bucket.writer(format!("{n}"), PutOptions::default()).await.unwrap();
                writer.push(all.slice(..1_500_000)).await.unwrap();
                assert!(writer.idle(async { may_go_on.wait_for(|go_on| *go_on).await.is_ok() }).await.unwrap());
                writer.push(all.slice(1_500_000..)).await.unwrap();
                writer.seal().await.unwrap().commit().await.unwrap();
            }
        };
        let standing: Vec<_> = (0..16).map(|n| tokio::spawn(put(n))).collect();
        let running = noise(20 << 20, 99);
        let put = bucket.put("running", running.clone(), PutOptions::default());
        tokio::time::timeout(DEADLINE, put).await.unwrap().unwrap();
        assert_eq!(content(&bucket, "running").await, running);
        go_on.send_replace(true);
        for standing in standing {
            tokio::time::timeout(DEADLINE, standing).await.unwrap().unwrap();
        }
        for (n, all) in all.iter().enumerate() {
            assert_eq!(content(&bucket, &n.to_string()).await, *all);
        }
        assert_eq!(segment.write_budget().taken(), 0);
    }

    /// Writers that have used up the memory together before any of them has a whole chunk get on.
    #[tokio::test(flavor = "multi_thread")]
    async fn many_writers_get_on_with_little_memory() {
        let (_dir, segment, bucket) = small(Chunking::Fixed(1 << 20)).await;
        let put = |n: u64| {
            let bucket = bucket.clone();
            async move {
                let mut writer = bucket.writer(format!("{n}"), PutOptions::default()).await.unwrap();
                let all = noise(1_500_000, n);
                for start in (0..all.len()).step_by(100_000) {
                    writer.push(all.slice(start..all.len().min(start + 100_000))).await.unwrap();
                }
                writer.seal().await.unwrap().commit().await.unwrap();
                assert_eq!(content(&bucket, &n.to_string()).await, all);
            }
        };
        let writers: Vec<_> = (0..16).map(|n| tokio::spawn(put(n))).collect();
        for writer in writers {
            tokio::time::timeout(DEADLINE, writer).await.unwrap().unwrap();
        }
        assert_eq!(segment.write_budget().taken(), 0);
    }

    /// A wait that is given up costs the content nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_can_be_given_up() {
        let (_dir, _segment, bucket) = small(USUAL).await;
        let mut writer = bucket.writer("k", PutOptions::default()).await.unwrap();
        writer.push(noise(500_000, 1)).await.unwrap();
        {
            let mut waiting = pin!(writer.idle(std::future::pending::<()>()));
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        writer.push(noise(500_000, 2)).await.unwrap();
        writer.seal().await.unwrap().commit().await.unwrap();
        assert_eq!(content(&bucket, "k").await, [noise(500_000, 1), noise(500_000, 2)].concat());
    }
}
