//! What doors say and hear about objects: metadata, conditions, options and answers.

use crate::error::{Error, ErrorKind, Result};
use crate::id::{NodeId, VersionId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;

/// Nanoseconds since the Unix epoch.
pub type TimeNs = i64;

/// Headers and user metadata of one version. At most [`Metadata::BYTES_MAX`] bytes together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Standard headers by lower-case name (`content-type`, `cache-control`, …), without the ones derived from content.
    pub headers: BTreeMap<String, String>,
    /// User metadata by lower-case name, without a protocol's prefix.
    pub user: BTreeMap<String, String>,
}

impl Metadata {
    /// The most bytes that names and values may have together.
    pub const BYTES_MAX: usize = 64 << 10;

    /// The value of header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Names and values together.
    pub fn size_bytes(&self) -> usize {
        self.headers.iter().chain(&self.user).map(|(k, v)| k.len() + v.len()).sum()
    }
}

/// Tags of one version, by key.
pub type Tags = BTreeMap<String, String>;

/// An entity tag, without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Etag {
    /// MD5 of the content.
    Md5([u8; 16]),
    /// MD5 of the parts' MD5s, and the number of parts.
    Multipart([u8; 16], u32),
    /// Something else that changes with the content.
    Opaque([u8; 16]),
}

impl fmt::Display for Etag {
    /// 32 hexadecimal digits; multipart adds `-PARTS`, opaque adds `-0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Etag::Md5(bytes) | Etag::Multipart(bytes, _) | Etag::Opaque(bytes)) = self;
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        match self {
            Etag::Md5(_) => Ok(()),
            Etag::Multipart(_, parts) => write!(f, "-{parts}"),
            Etag::Opaque(_) => f.write_str("-0"),
        }
    }
}

/// A checksum that a client sent and the door verified; kept and given back as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Lower-case algorithm name: `crc32`, `crc32c`, `crc64nvme`, `sha1`, `sha256`.
    pub algorithm: String,
    /// The raw value.
    pub value: Bytes,
    /// Number of parts when it is a checksum of the parts' checksums, 0 when it covers the whole content.
    pub parts: u32,
}

/// What kind of thing a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FileType {
    /// A file, or an S3 object.
    #[default]
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link; its content is the target.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// POSIX attributes that live apart from content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, without the file type. `None`: the bucket's default (0644, 0755 for directories).
    pub mode: Option<u32>,
    /// Owner. `None`: 0.
    pub uid: Option<u32>,
    /// Group. `None`: 0.
    pub gid: Option<u32>,
    /// Device number of a device node.
    pub rdev: Option<u64>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Bytes>,
}

/// A condition on an entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtagMatch {
    /// `*`: whatever exists.
    Any,
    /// One of these, as text without quotes.
    OneOf(Vec<String>),
}

impl EtagMatch {
    /// Whether `etag` (`None`: no such object) satisfies it.
    pub fn matches(&self, etag: Option<&Etag>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (EtagMatch::Any, Some(_)) => true,
            (EtagMatch::OneOf(list), Some(etag)) => {
                let etag = etag.to_string();
                list.contains(&etag)
            }
        }
    }
}

/// What must hold of the current version for a write to happen; checked in the same commit as the write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// The current version's tag must be one of these. Without a current version: [`ErrorKind::NotFound`].
    pub if_match: Option<EtagMatch>,
    /// The current version's tag must be none of these (`Any`: there must be no current version).
    pub if_none_match: Option<EtagMatch>,
    /// The current version must not be newer, to the second.
    pub if_unmodified_since: Option<TimeNs>,
    /// The current version must be newer, to the second.
    pub if_modified_since: Option<TimeNs>,
    /// The current version must have this time, to the second.
    pub if_time: Option<TimeNs>,
    /// The current version must have this size.
    pub if_size: Option<u64>,
}

impl Condition {
    /// No condition at all.
    pub fn is_empty(&self) -> bool {
        *self == Condition::default()
    }

    /// Holds the condition against the current version: `Ok`, [`ErrorKind::NotFound`] or [`ErrorKind::Precondition`].
    pub fn check(&self, current: Option<&ObjectInfo>) -> Result<()> {
        let failed = |what: &str| Err(Error::new(ErrorKind::Precondition, format!("{what} does not hold")));
        let etag = current.map(|c| &c.etag);
        if let Some(wanted) = &self.if_match {
            if current.is_none() {
                return Err(Error::not_found(crate::Subject::Key, "If-Match on an object that does not exist"));
            }
            if !wanted.matches(etag) {
                return failed("If-Match");
            }
        }
        if self.if_none_match.as_ref().is_some_and(|unwanted| unwanted.matches(etag)) {
            return failed("If-None-Match");
        }
        let Some(current) = current else {
            return Ok(());
        };
        let second = |ns: TimeNs| ns.div_euclid(1_000_000_000);
        let time = second(current.modified_ns);
        if self.if_unmodified_since.is_some_and(|limit| time > second(limit)) && self.if_match.is_none() {
            return failed("If-Unmodified-Since");
        }
        if self.if_modified_since.is_some_and(|limit| time <= second(limit)) && self.if_none_match.is_none() {
            return failed("If-Modified-Since");
        }
        if self.if_time.is_some_and(|wanted| time != second(wanted)) {
            return failed("the expected modification time");
        }
        if self.if_size.is_some_and(|wanted| current.size != wanted) {
            return failed("the expected size");
        }
        Ok(())
    }
}

/// Sees every byte of a content in order, on the worker pool, while it is stored: for checksums of a protocol's own.
pub type Tap = Box<dyn FnMut(&[u8]) + Send + Sync>;

/// How to store an object.
#[derive(Default)]
pub struct PutOptions {
    /// Headers and user metadata.
    pub metadata: Metadata,
    /// Tags.
    pub tags: Tags,
    /// What must hold for the write to happen.
    pub condition: Condition,
    /// POSIX attributes; `None` keeps those of the file that is replaced, or the defaults.
    pub attributes: Option<Attributes>,
    /// Modification time; `None`: the time of the commit.
    pub modified_ns: Option<TimeNs>,
    /// Checksums to keep with the version. May be set later, on the [`crate::SealedObject`].
    pub checksums: Vec<Checksum>,
    /// Sees the content.
    pub tap: Option<Tap>,
    /// Whether the entity tag is the content's MD5, as S3 clients expect it, where the bucket's policy has such tags. MD5 is slower than
    /// everything else that is done with a content, so it is only computed on demand; contents that are kept inline always have it.
    pub md5_etag: bool,
    /// What is stored; [`FileType::Symlink`] takes the target as content.
    pub file_type: FileType,
    /// What becomes of a file that has other names beside the key (hard links). `false`: it gets the content, which shows under all of them.
    /// `true`: it loses this name and keeps the others, and what is stored is a file of its own.
    pub unlinks: bool,
}

/// Which version, of which view.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// `None`: the current one.
    pub version: Option<VersionId>,
    /// Read from this snapshot of the bucket.
    pub snapshot: Option<String>,
}

/// One version of an object, without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectInfo {
    /// The key.
    pub key: Bytes,
    /// Identity of the file apart from its name.
    pub node: NodeId,
    /// The version. [`VersionId::Null`] when the bucket kept no versions at the time.
    pub version: VersionId,
    /// Whether the version is the current one of its key.
    pub is_current: bool,
    /// Size of the content in bytes.
    pub size: u64,
    /// Bytes of it that are not holes, before deduplication and compression.
    pub allocated_bytes: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
    /// Entity tag.
    pub etag: Etag,
    /// Kind of node.
    pub file_type: FileType,
    /// Headers and user metadata.
    pub metadata: Metadata,
    /// Verified checksums.
    pub checksums: Vec<Checksum>,
    /// Tags.
    pub tags: Tags,
    /// POSIX attributes.
    pub attributes: Attributes,
    /// Sizes of the parts of a multipart upload, in order; empty otherwise.
    pub part_sizes: Vec<u64>,
    /// Number of names of the file.
    pub links: u32,
    /// The segment that wrote the version.
    pub segment: crate::SegmentId,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectSummary {
    /// The key.
    pub key: Bytes,
    /// Size of the content in bytes.
    pub size: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
    /// Entity tag.
    pub etag: Etag,
    /// Kind of node. A directory appears when it was made by itself (`mkdir`, `PUT a/`), with a key that ends in `/`.
    pub file_type: FileType,
    /// Whether the name is away (see [`Gather::names`](crate::Gather::names)); only [`ListOptions::with_away`] lists such.
    pub is_away: bool,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Delete just this version for good. `None`: the current one, leaving a delete marker if the bucket keeps versions.
    pub version: Option<VersionId>,
    /// What must hold for the delete to happen.
    pub condition: Condition,
}

/// What a delete did. Deleting what does not exist is no error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Whether there was something to delete.
    pub existed: bool,
    /// The version that was removed, or the delete marker that was made.
    pub version: Option<VersionId>,
    /// Whether `version` is a delete marker (made, or removed).
    pub is_marker: bool,
}

/// What to list. Keys come in byte order.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only keys that start with this.
    pub prefix: Bytes,
    /// Keys that have this after the prefix are rolled up into one [`ListItem::Prefix`]. Any non-empty byte string.
    pub delimiter: Option<Bytes>,
    /// Only keys and prefixes after this. A prefix given here skips everything under it.
    pub after: Option<Bytes>,
    /// The most items; 0 gives an empty page.
    pub limit: usize,
    /// Read from this snapshot.
    pub snapshot: Option<String>,
    /// List names that are away, too, and say so of each.
    pub with_away: bool,
}

/// An object or a rolled-up prefix.
#[derive(Debug, Clone, PartialEq)]
pub enum ListItem {
    /// An object.
    Object(ObjectSummary),
    /// A common prefix, ending with the delimiter.
    Prefix(Bytes),
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListPage {
    /// At most `limit` items in byte order.
    pub items: Vec<ListItem>,
    /// When more follows: the value of [`ListOptions::after`] that continues (the last key or prefix of this page).
    pub next: Option<Bytes>,
}

/// What to list of versions: keys in byte order, each key's versions newest first.
#[derive(Debug, Clone, Default)]
pub struct ListVersionsOptions {
    /// Only keys that start with this.
    pub prefix: Bytes,
    /// As in [`ListOptions`].
    pub delimiter: Option<Bytes>,
    /// Only keys after this (or, with `after_version`, also this key's versions older than that).
    pub after: Option<Bytes>,
    /// See `after`.
    pub after_version: Option<VersionId>,
    /// The most items.
    pub limit: usize,
}

/// One line of a version listing.
#[derive(Debug, Clone, PartialEq)]
pub enum VersionItem {
    /// A version or a delete marker.
    Version {
        /// What a plain listing shows; a marker has size 0.
        summary: ObjectSummary,
        /// Its id.
        version: VersionId,
        /// Whether it is the current one.
        is_current: bool,
        /// Whether it is a delete marker.
        is_marker: bool,
        /// The segment that wrote it.
        segment: crate::SegmentId,
    },
    /// A common prefix.
    Prefix(Bytes),
}

/// A page of a version listing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VersionPage {
    /// At most `limit` items.
    pub items: Vec<VersionItem>,
    /// When more follows: the values of `after` and `after_version` that continue.
    pub next: Option<(Bytes, Option<VersionId>)>,
}

/// How to copy within a segment. Content is shared, not copied. By default a copy takes over what objects have, and not what only files do.
#[derive(Default)]
pub struct CopyOptions {
    /// Headers and user metadata of the copy; `None`: those of the source.
    pub metadata: Option<Metadata>,
    /// Tags of the copy; `None`: those of the source.
    pub tags: Option<Tags>,
    /// What must hold of the target.
    pub condition: Condition,
    /// Checksums of the copy; `None`: those of the source.
    pub checksums: Option<Vec<Checksum>>,
    /// POSIX attributes of the copy; `None` keeps those of the file that is replaced, or the defaults.
    pub attributes: Option<Attributes>,
    /// Modification time of the copy; `None`: the time of the commit.
    pub modified_ns: Option<TimeNs>,
    /// As [`PutOptions::unlinks`].
    pub unlinks: bool,
}

/// Names a multipart upload; random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub String);

/// One part of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// 1 to 10,000.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// MD5 or opaque tag of the part.
    pub etag: Etag,
    /// When it was stored.
    pub modified_ns: TimeNs,
    /// Checksums that were verified when it was stored.
    pub checksums: Vec<Checksum>,
}

/// An upload under way.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadInfo {
    /// Its id.
    pub id: UploadId,
    /// The key it will become.
    pub key: Bytes,
    /// When it was started.
    pub started_ns: TimeNs,
    /// Headers and user metadata it was started with.
    pub metadata: Metadata,
}

/// A part as the client that completes an upload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletePart {
    /// 1 to 10,000; strictly ascending in the list.
    pub number: u32,
    /// Its tag, as text without quotes.
    pub etag: String,
}

/// How to complete an upload.
#[derive(Debug, Clone, Default)]
pub struct CompleteOptions {
    /// What must hold of the target.
    pub condition: Condition,
    /// The least size of every part but the last; smaller ones are refused as [`ErrorKind::Invalid`] about [`crate::Subject::Part`].
    pub part_bytes_min: u64,
    /// Checksums to keep with the object.
    pub checksums: Vec<Checksum>,
    /// The size that the client says the object has.
    pub size: Option<u64>,
}

/// What a directory entry or path is, for callers that think in files.
#[derive(Debug, Clone, PartialEq)]
pub struct DirEntry {
    /// The entry's name; a directory's ends with `/`. Also the value of `after` that continues behind it.
    pub name: Bytes,
    /// The node behind it.
    pub node: NodeId,
    /// Kind of node.
    pub file_type: FileType,
    /// Size of the content; 0 for directories.
    pub size: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
}

/// What a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Objects, files and symbolic links that show.
    pub objects: u64,
    /// Their sizes added up.
    pub logical_bytes: u64,
    /// Kept older versions and delete markers.
    pub old_versions: u64,
    /// The older versions' sizes added up.
    pub old_bytes: u64,
}

/// A bucket, a tenant's or cluster's child in listings.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketInfo {
    /// `cluster/tenant/bucket`.
    pub path: crate::BucketPath,
    /// Identity apart from the name.
    pub id: crate::BucketId,
    /// When it was made.
    pub created_ns: TimeNs,
    /// Its policy.
    pub policy: crate::BucketPolicy,
}

/// A user of a tenant, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// The tenant.
    pub tenant: crate::TenantPath,
    /// The name inside the tenant.
    pub name: String,
    /// The public half of the key pair.
    pub access_key: String,
    /// When it was made.
    pub created_ns: TimeNs,
}

/// A secret that does not show in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A named, read-only state of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name, unique in the bucket.
    pub name: String,
    /// When it was taken.
    pub created_ns: TimeNs,
}

/// What a segment holds and how it is doing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SegmentStatus {
    /// Its id.
    pub segment: crate::SegmentId,
    /// Its name.
    pub name: String,
    /// The cluster it creates buckets in by default.
    pub cluster: String,
    /// Distinct chunks stored.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique_bytes: u64,
    /// Bytes of pack files.
    pub stored_bytes: u64,
    /// Pack files.
    pub packs: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// Damaged chunks found and not yet healed.
    pub damaged_chunks: u64,
    /// Whether writes are refused for lack of space.
    pub is_full: bool,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScrubReport {
    /// Packs read.
    pub packs: u64,
    /// Chunks verified.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged chunks that were brought from another segment and stored anew.
    pub healed: u64,
    /// One line for each damage that is left: what, in which pack, at which offset; at most 1,000.
    pub damage: Vec<String>,
    /// How many lines of damage there would be without that bound.
    pub damage_count: u64,
    /// Keys (as `cluster/tenant/bucket/key`) whose current version needs a chunk that is damaged or gone, and (with ` (version ID)` behind the key) older versions
    /// that need one that is damaged; at most 1,000. Chunks of shared
    /// buckets that have not come yet are neither.
    pub affected: Vec<String>,
    /// How many such keys there are without that bound.
    pub affected_count: u64,
}

/// What a garbage collection did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Deleted names, versions and files whose last traces went, because every segment that carries them knows.
    pub rows_dropped: u64,
    /// Chunks that something refers to.
    pub chunks_live: u64,
    /// Chunks given up.
    pub chunks_dropped: u64,
    /// Packs rewritten.
    pub packs_rewritten: u64,
    /// Packs removed.
    pub packs_removed: u64,
    /// Bytes of disk given back.
    pub bytes_freed: u64,
}
