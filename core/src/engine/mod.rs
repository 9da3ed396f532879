//! What doors and programs call: a [`Segment`] with its [`Catalog`], [`Bucket`]s, objects and uploads.

use crate::*;
use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How to make a segment.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Its name, a site's: `newyork`.
    pub name: String,
    /// The cluster it makes buckets in by default. It is created too.
    pub cluster: String,
}

/// How to open a segment.
#[derive(Clone)]
pub struct OpenOptions {
    /// Memory for verified chunks, in bytes.
    pub chunk_cache_bytes: usize,
    /// Memory for metadata (caches and write buffers together), in bytes.
    pub metadata_cache_bytes: usize,
    /// Memory for contents on their way in, all writers together, in bytes.
    pub write_buffer_bytes: usize,
    /// Writes are refused when the file system has less free than this.
    pub reserve_bytes: u64,
    /// Threads that cut, hash and compress; 0: one per core.
    pub workers: usize,
    /// Clock and randomness.
    pub environment: Environment,
}

impl Default for OpenOptions {
    fn default() -> Self { todo!() }
}

/// An open segment. Cheap to clone; the directory is released when the last clone and all that came from it are gone.
#[derive(Clone)]
pub struct Segment(Arc<()>);

impl Segment {
    /// Makes a segment in `dir` (created if absent, must be empty) and opens it.
    pub async fn create(dir: impl AsRef<Path>, options: CreateOptions, open: OpenOptions) -> Result<Segment> { todo!() }
    /// Opens the segment in `dir`. A directory that another process has open gives `Busy` and a message that names it.
    pub async fn open(dir: impl AsRef<Path>, options: OpenOptions) -> Result<Segment> { todo!() }
    /// Whether `dir` holds a segment.
    pub fn exists(dir: impl AsRef<Path>) -> bool { todo!() }
    /// Flushes and stops: later writes through clones fail.
    pub async fn close(&self) -> Result<()> { todo!() }
    pub fn id(&self) -> SegmentId { todo!() }
    pub fn name(&self) -> &str { todo!() }
    pub fn cluster(&self) -> &str { todo!() }
    pub fn dir(&self) -> &Path { todo!() }
    pub fn catalog(&self) -> Catalog { todo!() }
    /// A handle on a bucket; `NotFound` about `Bucket` if there is none.
    pub async fn bucket(&self, path: &BucketPath) -> Result<Bucket> { todo!() }
    pub async fn status(&self) -> Result<SegmentStatus> { todo!() }
    /// Reads and verifies everything, at most `bytes_per_second` (0: unlimited); calls `progress` with (bytes done, bytes in total).
    pub async fn scrub(&self, bytes_per_second: u64, progress: impl FnMut(u64, u64) + Send) -> Result<ScrubReport> { todo!() }
    /// Drops what nothing refers to and rewrites packs that are mostly garbage.
    pub async fn gc(&self) -> Result<GcReport> { todo!() }
    /// Drops uploads started longer than `age` ago; returns how many.
    pub async fn expire_uploads(&self, age: Duration) -> Result<u64> { todo!() }
    /// Names and values of counters and gauges since opening, for metrics: (`name_with_unit`, help text, is counter, value).
    pub fn metrics(&self) -> Vec<(&'static str, &'static str, bool, f64)> { todo!() }
}

/// Clusters, tenants, buckets and users.
#[derive(Clone)]
pub struct Catalog(Segment);

impl Catalog {
    pub async fn create_cluster(&self, cluster: &str) -> Result<()> { todo!() }
    pub async fn delete_cluster(&self, cluster: &str) -> Result<()> { todo!() }
    pub async fn clusters(&self) -> Result<Vec<String>> { todo!() }
    pub async fn create_tenant(&self, tenant: &TenantPath) -> Result<()> { todo!() }
    pub async fn delete_tenant(&self, tenant: &TenantPath) -> Result<()> { todo!() }
    pub async fn tenants(&self, cluster: &str) -> Result<Vec<TenantPath>> { todo!() }
    /// The tenant must exist. `Exists` if the bucket does.
    pub async fn create_bucket(&self, path: &BucketPath, policy: BucketPolicy) -> Result<Bucket> { todo!() }
    /// `NotEmpty` while it holds an object, a kept version, a snapshot or an upload.
    pub async fn delete_bucket(&self, path: &BucketPath) -> Result<()> { todo!() }
    pub async fn buckets(&self, tenant: &TenantPath) -> Result<Vec<BucketInfo>> { todo!() }
    pub async fn set_policy(&self, path: &BucketPath, policy: BucketPolicy) -> Result<()> { todo!() }
    /// Makes a user; keys that are not given are generated. Access keys are unique in the segment.
    pub async fn create_user(&self, tenant: &TenantPath, name: &str, keys: Option<(String, Secret)>) -> Result<(UserInfo, Secret)> { todo!() }
    pub async fn delete_user(&self, tenant: &TenantPath, name: &str) -> Result<()> { todo!() }
    pub async fn users(&self, tenant: &TenantPath) -> Result<Vec<UserInfo>> { todo!() }
    /// The user of an access key and the secret, for doors that authenticate. Answered from memory mostly.
    pub async fn find_key(&self, access_key: &str) -> Result<Option<(UserInfo, Secret)>> { todo!() }
}

/// A bucket.
#[derive(Clone)]
pub struct Bucket(Segment);

impl Bucket {
    pub fn path(&self) -> &BucketPath { todo!() }
    pub fn segment(&self) -> &Segment { todo!() }
    pub async fn info(&self) -> Result<BucketInfo> { todo!() }
    pub async fn usage(&self) -> Result<Usage> { todo!() }

    // ---- objects
    /// Stores `content` under `key`; durable and visible when it returns.
    pub async fn put(&self, key: impl AsRef<[u8]>, content: impl Into<Bytes>, options: PutOptions) -> Result<ObjectInfo> { todo!() }
    /// Stores a content of any size piece by piece. Nothing shows until [`SealedObject::commit`]; dropping it leaves nothing behind.
    pub async fn writer(&self, key: impl AsRef<[u8]>, options: PutOptions) -> Result<ObjectWriter> { todo!() }
    /// Opens one version for reading; it stays readable, whole, however long that takes.
    pub async fn get(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<Object> { todo!() }
    pub async fn head(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<ObjectInfo> { todo!() }
    pub async fn delete(&self, key: impl AsRef<[u8]>, options: DeleteOptions) -> Result<Deleted> { todo!() }
    /// Deletes many in one commit; one answer per item, in order.
    pub async fn delete_many(&self, items: Vec<(Bytes, DeleteOptions)>) -> Result<Vec<Result<Deleted>>> { todo!() }
    /// Copies a version, opened by [`Bucket::get`] in any bucket of the segment, to `key` here. Shares the content.
    pub async fn copy(&self, source: &Object, key: impl AsRef<[u8]>, options: CopyOptions) -> Result<ObjectInfo> { todo!() }
    /// Replaces the tags of a version.
    pub async fn set_tags(&self, key: impl AsRef<[u8]>, version: Option<VersionId>, tags: Tags) -> Result<ObjectInfo> { todo!() }
    pub async fn list(&self, options: ListOptions) -> Result<ListPage> { todo!() }
    pub async fn list_versions(&self, options: ListVersionsOptions) -> Result<VersionPage> { todo!() }

    // ---- multipart
    pub async fn create_upload(&self, key: impl AsRef<[u8]>, options: PutOptions) -> Result<UploadInfo> { todo!() }
    pub async fn upload(&self, key: impl AsRef<[u8]>, upload: &UploadId) -> Result<UploadInfo> { todo!() }
    /// A writer whose [`SealedObject::commit_part`] stores part `number` (1 to 10,000), replacing an earlier one.
    pub async fn part_writer(&self, key: impl AsRef<[u8]>, upload: &UploadId, number: u32, tap: Option<Tap>) -> Result<ObjectWriter> { todo!() }
    /// A part that shares `range` of an object's content.
    pub async fn copy_part(&self, key: impl AsRef<[u8]>, upload: &UploadId, number: u32, source: &Object, range: Range<u64>) -> Result<PartInfo> { todo!() }
    pub async fn complete_upload(&self, key: impl AsRef<[u8]>, upload: &UploadId, parts: &[CompletePart], options: CompleteOptions) -> Result<ObjectInfo> { todo!() }
    pub async fn abort_upload(&self, key: impl AsRef<[u8]>, upload: &UploadId) -> Result<()> { todo!() }
    /// Uploads with keys that start with `prefix`, after (`after_key`, `after_id`), by key then id; at most `limit`, and whether there are more.
    pub async fn uploads(&self, prefix: &[u8], after: Option<(Bytes, Option<UploadId>)>, limit: usize) -> Result<(Vec<UploadInfo>, bool)> { todo!() }
    /// Parts after number `after`, ascending; at most `limit`, and whether there are more.
    pub async fn parts(&self, key: impl AsRef<[u8]>, upload: &UploadId, after: u32, limit: usize) -> Result<(Vec<PartInfo>, bool)> { todo!() }

    // ---- files and directories (paths are keys; a directory's may end in `/` or not)
    pub async fn mkdir(&self, path: impl AsRef<[u8]>, attributes: Attributes) -> Result<()> { todo!() }
    pub async fn rmdir(&self, path: impl AsRef<[u8]>) -> Result<()> { todo!() }
    /// Renames a file, or a directory with all below it in one step; a file at `to` is replaced.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> { todo!() }
    /// Gives the file at `existing` a further name.
    pub async fn link(&self, existing: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> { todo!() }
    /// A file's, symlink's or directory's info (`path` with or without `/`; the bucket's root is `b""`); symlinks are not followed.
    pub async fn stat(&self, path: impl AsRef<[u8]>) -> Result<ObjectInfo> { todo!() }
    pub async fn set_attributes(&self, path: impl AsRef<[u8]>, attributes: Attributes, modified_ns: Option<TimeNs>) -> Result<()> { todo!() }
    /// Entries of a directory after name `after`, at most `limit`, and whether there are more.
    pub async fn read_dir(&self, path: impl AsRef<[u8]>, after: Option<Bytes>, limit: usize) -> Result<(Vec<DirEntry>, bool)> { todo!() }

    // ---- snapshots
    pub async fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> { todo!() }
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> { todo!() }
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> { todo!() }
    /// Makes `target`, a new bucket, a writable copy of `prefix` as `snapshot` saw it (`None`: as it is now), sharing all content. Returns the number of objects.
    pub async fn clone_to(&self, target: &BucketPath, prefix: &[u8], snapshot: Option<&str>) -> Result<u64> { todo!() }
}

/// A content on its way in.
pub struct ObjectWriter(());

impl ObjectWriter {
    /// Appends; waits while the pipeline is full.
    pub async fn push(&mut self, data: Bytes) -> Result<()> { todo!() }
    /// Appends `length` zero bytes that take no space.
    pub async fn push_hole(&mut self, length: u64) -> Result<()> { todo!() }
    /// Ends the content: everything is cut, hashed and handed to the disk, the tap has seen it all.
    pub async fn seal(self) -> Result<SealedObject> { todo!() }
}

/// A content that is stored but has no name yet.
pub struct SealedObject(());

impl SealedObject {
    pub fn size(&self) -> u64 { todo!() }
    /// MD5 of the content, if the bucket's ETags are made of it.
    pub fn md5(&self) -> Option<[u8; 16]> { todo!() }
    pub fn etag(&self) -> &Etag { todo!() }
    /// Checksums to keep with the version.
    pub fn set_checksums(&mut self, checksums: Vec<Checksum>) { todo!() }
    /// Makes it the current version of its key; durable and visible when it returns.
    pub async fn commit(self) -> Result<ObjectInfo> { todo!() }
    /// Makes it a part of its upload (for writers from [`Bucket::part_writer`]).
    pub async fn commit_part(self) -> Result<PartInfo> { todo!() }
}

/// One version, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct Object(Arc<()>);

impl Object {
    pub fn info(&self) -> &ObjectInfo { todo!() }
    /// Reads `range` (cut to the size) as verified pieces, reading ahead.
    pub fn read(&self, range: Range<u64>) -> ObjectReader { todo!() }
    /// Reads `range` into one piece; for small ranges.
    pub async fn bytes(&self, range: Range<u64>) -> Result<Bytes> { todo!() }
    /// The next stretch of data at or after `offset`, for sparse contents: (start, end). `None`: only holes follow.
    pub async fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> { todo!() }
}

/// A `Stream` of `Result<Bytes>`; `Send + Sync + Unpin`.
pub struct ObjectReader(());

impl ObjectReader {
    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> { todo!() }
}

impl futures::Stream for ObjectReader {
    type Item = Result<Bytes>;
    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> { todo!() }
}
