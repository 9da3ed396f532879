//! Answers as they travel: the engine's answers in a form that has JSON.

use super::text::{Raw, SecretText};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tombolo_core::{
    Attributes, BucketInfo, BucketPolicy, FileType, GcReport, ListItem, ListPage, ObjectInfo, ObjectSummary,
    ScrubReport, SegmentStatus, SnapshotInfo, Usage, UserInfo, VersionItem, VersionPage,
};

/// One version of one object, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) bucket: String,
    pub(crate) key: Raw,
    pub(crate) version: Option<String>,
    pub(crate) snapshot: Option<String>,
}

/// Kinds of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    #[default]
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The letter of `ls -l`.
    pub(crate) fn letter(self) -> char {
        match self {
            Kind::File => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
        }
    }
}

impl From<FileType> for Kind {
    fn from(file_type: FileType) -> Kind {
        match file_type {
            FileType::Regular => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
        }
    }
}

impl From<Kind> for FileType {
    fn from(kind: Kind) -> FileType {
        match kind {
            Kind::File => FileType::Regular,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharDevice,
            Kind::BlockDevice => FileType::BlockDevice,
        }
    }
}

/// POSIX attributes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttributesRecord {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) rdev: Option<u64>,
    pub(crate) xattrs: BTreeMap<String, Raw>,
}

impl From<Attributes> for AttributesRecord {
    fn from(a: Attributes) -> Self {
        let xattrs = a.xattrs.into_iter().map(|(name, value)| (name, Raw(value))).collect();
        AttributesRecord { mode: a.mode, uid: a.uid, gid: a.gid, rdev: a.rdev, xattrs }
    }
}

impl From<AttributesRecord> for Attributes {
    fn from(a: AttributesRecord) -> Self {
        let xattrs = a.xattrs.into_iter().map(|(name, value)| (name, value.0)).collect();
        Attributes { mode: a.mode, uid: a.uid, gid: a.gid, rdev: a.rdev, xattrs }
    }
}

/// A checksum, its value in hexadecimal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChecksumRecord {
    pub(crate) algorithm: String,
    pub(crate) value: String,
    pub(crate) parts: u32,
}

/// All about one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) key: Raw,
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) current: bool,
    pub(crate) size: u64,
    pub(crate) modified_ns: i64,
    pub(crate) etag: String,
    pub(crate) file_type: Kind,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) user: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) checksums: Vec<ChecksumRecord>,
    pub(crate) attributes: AttributesRecord,
    pub(crate) parts: usize,
    pub(crate) links: u32,
    pub(crate) segment: String,
    /// Bytes of the content that are here, if that was asked for.
    pub(crate) local_bytes: Option<u64>,
}

impl From<&ObjectInfo> for ObjectRecord {
    fn from(info: &ObjectInfo) -> Self {
        let checksums = info.checksums.iter().map(|checksum| ChecksumRecord {
            algorithm: checksum.algorithm.clone(),
            value: super::text::to_hex(&checksum.value),
            parts: checksum.parts,
        });
        ObjectRecord {
            key: Raw(info.key.clone()),
            node: info.node.to_string(),
            version: info.version.to_string(),
            current: info.is_current,
            size: info.size,
            modified_ns: info.modified_ns,
            etag: info.etag.to_string(),
            file_type: info.file_type.into(),
            headers: info.metadata.headers.clone(),
            user: info.metadata.user.clone(),
            tags: info.tags.clone(),
            checksums: checksums.collect(),
            attributes: info.attributes.clone().into(),
            parts: info.part_sizes.len(),
            links: info.links,
            segment: info.segment.to_string(),
            local_bytes: None,
        }
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SummaryRecord {
    pub(crate) key: Raw,
    pub(crate) size: u64,
    pub(crate) modified_ns: i64,
    pub(crate) etag: String,
    pub(crate) file_type: Kind,
    /// Bytes of the content that are here, if that was asked for.
    pub(crate) local_bytes: Option<u64>,
    /// Whether the name is away: only who asks for such sees it.
    #[serde(default)]
    pub(crate) is_away: bool,
}

impl From<ObjectSummary> for SummaryRecord {
    fn from(summary: ObjectSummary) -> Self {
        SummaryRecord {
            key: Raw(summary.key),
            size: summary.size,
            modified_ns: summary.modified_ns,
            etag: summary.etag.to_string(),
            file_type: summary.file_type.into(),
            local_bytes: None,
            is_away: summary.is_away,
        }
    }
}

/// An object, or a prefix that stands for all below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Item {
    Object(SummaryRecord),
    Prefix(Raw),
}

/// A page of a listing; `next` continues it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) next: Option<Raw>,
}

impl From<ListPage> for Page {
    fn from(page: ListPage) -> Self {
        let items = page.items.into_iter().map(|item| match item {
            ListItem::Object(summary) => Item::Object(summary.into()),
            ListItem::Prefix(prefix) => Item::Prefix(Raw(prefix)),
        });
        Page { items: items.collect(), next: page.next.map(Raw) }
    }
}

/// A version or delete marker of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    pub(crate) summary: SummaryRecord,
    pub(crate) version: String,
    pub(crate) current: bool,
    pub(crate) marker: bool,
    pub(crate) segment: String,
}

/// A page of a version listing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct VersionsPage {
    pub(crate) items: Vec<VersionRecord>,
    pub(crate) next: Option<(Raw, Option<String>)>,
}

impl From<VersionPage> for VersionsPage {
    fn from(page: VersionPage) -> Self {
        let items = page.items.into_iter().filter_map(|item| match item {
            VersionItem::Version { summary, version, is_current, is_marker, segment } => Some(VersionRecord {
                summary: summary.into(),
                version: version.to_string(),
                current: is_current,
                marker: is_marker,
                segment: segment.to_string(),
            }),
            // Only a listing with a delimiter has prefixes, and none is asked for.
            VersionItem::Prefix(_) => None,
        });
        VersionsPage {
            items: items.collect(),
            next: page.next.map(|(key, version)| (Raw(key), version.map(|v| v.to_string()))),
        }
    }
}

/// What a delete did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeletedRecord {
    pub(crate) existed: bool,
    pub(crate) version: Option<String>,
    pub(crate) marker: bool,
}

/// What a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    pub(crate) objects: u64,
    pub(crate) logical_bytes: u64,
    pub(crate) old_versions: u64,
    pub(crate) old_bytes: u64,
}

impl From<Usage> for UsageRecord {
    fn from(usage: Usage) -> Self {
        UsageRecord {
            objects: usage.objects,
            logical_bytes: usage.logical_bytes,
            old_versions: usage.old_versions,
            old_bytes: usage.old_bytes,
        }
    }
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BucketRecord {
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) created_ns: i64,
    pub(crate) policy: BucketPolicy,
    pub(crate) usage: Option<UsageRecord>,
}

impl From<BucketInfo> for BucketRecord {
    fn from(info: BucketInfo) -> Self {
        BucketRecord {
            path: info.path.to_string(),
            id: info.id.to_string(),
            created_ns: info.created_ns,
            policy: info.policy,
            usage: None,
        }
    }
}

/// A user; the secret only when it was just made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) access_key: String,
    pub(crate) created_ns: i64,
    pub(crate) secret_key: Option<SecretText>,
}

impl From<UserInfo> for UserRecord {
    fn from(user: UserInfo) -> Self {
        UserRecord {
            tenant: user.tenant.to_string(),
            name: user.name,
            access_key: user.access_key,
            created_ns: user.created_ns,
            secret_key: None,
        }
    }
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) name: String,
    pub(crate) created_ns: i64,
}

impl From<SnapshotInfo> for SnapshotRecord {
    fn from(snapshot: SnapshotInfo) -> Self {
        SnapshotRecord { name: snapshot.name, created_ns: snapshot.created_ns }
    }
}

/// How the segment is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusRecord {
    pub(crate) segment: String,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) dir: String,
    /// Process that answered.
    pub(crate) pid: u32,
    pub(crate) chunks: u64,
    pub(crate) unique_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) packs: u64,
    pub(crate) free_bytes: u64,
    pub(crate) damaged_chunks: u64,
    pub(crate) full: bool,
}

impl StatusRecord {
    pub(crate) fn new(status: SegmentStatus, dir: &std::path::Path) -> StatusRecord {
        StatusRecord {
            segment: status.segment.to_string(),
            name: status.name,
            cluster: status.cluster,
            dir: dir.display().to_string(),
            pid: std::process::id(),
            chunks: status.chunks,
            unique_bytes: status.unique_bytes,
            stored_bytes: status.stored_bytes,
            packs: status.packs,
            free_bytes: status.free_bytes,
            damaged_chunks: status.damaged_chunks,
            full: status.is_full,
        }
    }
}

/// What a scrub found. Also its JSON on the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScrubRecord {
    pub(crate) packs: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) healed: u64,
    pub(crate) damage: Vec<String>,
    pub(crate) damage_count: u64,
    pub(crate) affected: Vec<String>,
    pub(crate) affected_count: u64,
}

impl From<ScrubReport> for ScrubRecord {
    fn from(report: ScrubReport) -> Self {
        ScrubRecord {
            packs: report.packs,
            chunks: report.chunks,
            bytes: report.bytes,
            healed: report.healed,
            damage: report.damage,
            damage_count: report.damage_count,
            affected: report.affected,
            affected_count: report.affected_count,
        }
    }
}

/// What a garbage collection did. Also its JSON on the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GcRecord {
    pub(crate) rows_dropped: u64,
    pub(crate) chunks_live: u64,
    pub(crate) chunks_dropped: u64,
    pub(crate) packs_rewritten: u64,
    pub(crate) packs_removed: u64,
    pub(crate) bytes_freed: u64,
}

impl From<GcReport> for GcRecord {
    fn from(report: GcReport) -> Self {
        GcRecord {
            rows_dropped: report.rows_dropped,
            chunks_live: report.chunks_live,
            chunks_dropped: report.chunks_dropped,
            packs_rewritten: report.packs_rewritten,
            packs_removed: report.packs_removed,
            bytes_freed: report.bytes_freed,
        }
    }
}
