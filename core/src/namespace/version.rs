//! One immutable state of a file's content, as it is kept in registers.

use super::codec::Reader;
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId, VersionId};
use crate::manifest::Manifest;
use crate::object::{Checksum, Etag, FileType, Metadata, Tags, TimeNs};
use crate::register::{Dot, Write};
use crate::tree::WriteId;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, HashMap};

/// The longest content that is kept in the metadata row itself.
pub const INLINE_BYTES_MAX: usize = 4 << 10;

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// In the row; at most [`INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// In chunks.
    Manifest(Manifest),
}

/// A version, or a delete marker.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
    /// Bytes of the content that are holes.
    pub hole_bytes: u64,
    /// Kind of node.
    pub file_type: FileType,
    /// Entity tag.
    pub etag: Etag,
    /// Where the bytes are.
    pub content: Content,
    /// Headers and user metadata.
    pub metadata: Metadata,
    /// Verified checksums.
    pub checksums: Vec<Checksum>,
    /// Sizes of the parts of a multipart upload.
    pub part_sizes: Vec<u64>,
    /// The tags it was written with.
    pub tags: Tags,
    /// Whether its id is `null`.
    pub is_null: bool,
    /// Its id, if that is not the one of the write that carries it (a version that came back).
    pub id: Option<VersionId>,
    /// Whether this is a delete marker.
    pub is_marker: bool,
    /// The directory and name it was written under.
    pub at: (NodeId, Bytes),
    /// Set where this is what a file's deletion keeps: the write whose content it was. It counts as no content, unless the file turns out to have a name
    /// that somebody gave it meanwhile, and nothing else to show.
    pub deleted: Option<WriteId>,
    /// Contents that bytes of this one were taken from where they were not here. Whoever has them, and not all nodes of this one's manifest, can't know which of
    /// their chunks it refers to, and keeps them all.
    pub lenders: Vec<Manifest>,
}

/// The most [`Version::lenders`].
pub const LENDERS_MAX: usize = 16;

impl Version {
    /// A delete marker.
    pub fn marker(at: (NodeId, Bytes), modified_ns: TimeNs, is_null: bool) -> Version {
        Version {
            size: 0,
            modified_ns,
            hole_bytes: 0,
            file_type: FileType::Regular,
            etag: Etag::Opaque([0; 16]),
            content: Content::Inline(Bytes::new()),
            metadata: Metadata::default(),
            checksums: Vec::new(),
            part_sizes: Vec::new(),
            tags: Tags::new(),
            is_null,
            id: None,
            is_marker: true,
            at,
            deleted: None,
            lenders: Vec::new(),
        }
    }

    /// All that it says beside its bytes.
    pub fn without_bytes(&self) -> Version {
        let content = Content::Inline(Bytes::new());
        Version { content, checksums: Vec::new(), part_sizes: Vec::new(), lenders: Vec::new(), ..self.clone() }
    }

    /// The id of this version when `write` is the id of the write that carries it.
    pub fn version_id(&self, write: VersionId) -> VersionId {
        if self.is_null { VersionId::Null } else { self.id.unwrap_or(write) }
    }

    /// What to write in place of `write` when its content is deleted and another segment may have given the file a name meanwhile. `None`: a plain
    /// tombstone, because there is no content, or nobody else can have seen it.
    pub fn deleting(write: &Write<Version>) -> Option<Version> {
        let version = write.value.as_ref().filter(|_| !write.dot.is_pending())?;
        // A content that was deleted before, and showed all the same, remains what it was.
        let first = version.deleted.unwrap_or(WriteId { stamp_time: write.stamp_time, dot: write.dot });
        // It may show again, and then is the version that it was.
        let id = (!version.is_null).then(|| {
            let carried =
                VersionId::Id { stamp: write.stamp_time, segment: write.dot.segment, sequence: write.dot.sequence };
            version.version_id(carried)
        });
        Some(Version { deleted: Some(first), id, ..version.clone() })
    }

    /// Appends the row form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (content, inline) = match &self.content {
            Content::Inline(bytes) => (None, Some(bytes.clone())),
            Content::Manifest(manifest) => (Some(manifest.encode().into()), None),
        };
        let record = Record {
            size: self.size,
            modified_ns: self.modified_ns,
            file_type: file_type_to_byte(self.file_type).into(),
            etag: etag_to_bytes(&self.etag),
            inline,
            manifest: content,
            headers: self.metadata.headers.clone().into_iter().collect(),
            user: self.metadata.user.clone().into_iter().collect(),
            checksums: self
                .checksums
                .iter()
                .map(|c| ChecksumRecord { algorithm: c.algorithm.clone(), value: c.value.clone(), parts: c.parts })
                .collect(),
            part_sizes: self.part_sizes.clone(),
            tags: self.tags.clone().into_iter().collect(),
            is_null: self.is_null,
            id: self.id.map_or(Bytes::new(), |id| Bytes::copy_from_slice(&id.to_bytes())),
            is_marker: self.is_marker,
            at_parent: Bytes::copy_from_slice(&self.at.0.0),
            at_name: self.at.1.clone(),
            hole_bytes: self.hole_bytes,
            deleted: self.deleted.map(|write| WriteRecord {
                segment: Bytes::copy_from_slice(&write.dot.segment.0),
                sequence: write.dot.sequence,
                stamp_time: write.stamp_time,
            }),
            lenders: self.lenders.iter().map(|lender| lender.encode().into()).collect(),
        };
        out.reserve(record.encoded_len());
        // Encoding into a Vec can't run out of room.
        let _ = record.encode(out);
    }

    /// Reads the row form.
    pub fn decode(bytes: Bytes) -> Result<Version> {
        let record =
            Record::decode(bytes).map_err(|e| Error::damaged("a version record cannot be decoded").because(e))?;
        if record.lenders.len() > LENDERS_MAX {
            return Err(Error::damaged(format!("a version record with {} lenders", record.lenders.len())));
        }
        let content = match (record.manifest, record.inline) {
            (Some(manifest), None) => Content::Manifest(Manifest::decode(&manifest)?),
            (None, inline) => Content::Inline(inline.unwrap_or_default()),
            (Some(_), Some(_)) => return Err(Error::damaged("a version record has two contents")),
        };
        let size_of_content = match &content {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Manifest(manifest) => manifest.size(),
        };
        if size_of_content != record.size {
            return Err(Error::damaged(format!(
                "a version record says {} bytes, its content has {size_of_content}",
                record.size
            )));
        }
        Ok(Version {
            size: record.size,
            modified_ns: record.modified_ns,
            hole_bytes: record.hole_bytes.min(record.size),
            file_type: file_type_from_byte(u8::try_from(record.file_type).unwrap_or(u8::MAX))?,
            etag: etag_from_bytes(&record.etag)?,
            content,
            metadata: Metadata { headers: sorted(record.headers), user: sorted(record.user) },
            checksums: record
                .checksums
                .into_iter()
                .map(|c| Checksum { algorithm: c.algorithm, value: c.value, parts: c.parts })
                .collect(),
            part_sizes: record.part_sizes,
            tags: sorted(record.tags),
            is_null: record.is_null,
            id: if record.id.is_empty() { None } else { Some(VersionId::from_bytes(&record.id)?) },
            is_marker: record.is_marker,
            at: (NodeId::from_slice(&record.at_parent)?, record.at_name),
            deleted: record.deleted.map(|write| write.decode()).transpose()?,
            lenders: record.lenders.iter().map(|lender| Manifest::decode(lender)).collect::<Result<_>>()?,
        })
    }
}

/// Reads the row of an upload or a part: a format byte and a version record.
pub fn decode_upload(row: &Bytes) -> Result<Version> {
    match row.first() {
        Some(1) => Version::decode(row.slice(1..)),
        _ => Err(Error::damaged("an upload's row has a format that this build does not read")),
    }
}

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// `[kind][16 bytes][parts, big-endian, multipart only]`.
pub(crate) fn etag_to_bytes(etag: &Etag) -> Vec<u8> {
    let (kind, bytes, parts) = match etag {
        Etag::Md5(bytes) => (0, bytes, None),
        Etag::Multipart(bytes, parts) => (1, bytes, Some(parts.to_be_bytes())),
        Etag::Opaque(bytes) => (2, bytes, None),
    };
    let mut out = vec![kind];
    out.extend_from_slice(bytes);
    out.extend(parts.into_iter().flatten());
    out
}

pub(crate) fn etag_from_bytes(bytes: &[u8]) -> Result<Etag> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let kind = reader.u8()?;
    let value = reader.array::<16>()?;
    Ok(match kind {
        0 => Etag::Md5(value),
        1 => Etag::Multipart(value, u32::from_be_bytes(reader.array()?)),
        2 => Etag::Opaque(value),
        _ => return Err(Error::damaged(format!("an entity tag has the unknown kind {kind}"))),
    })
}

pub(crate) fn file_type_to_byte(kind: FileType) -> u8 {
    match kind {
        FileType::Regular => 0,
        FileType::Directory => 1,
        FileType::Symlink => 2,
        FileType::Fifo => 3,
        FileType::Socket => 4,
        FileType::CharDevice => 5,
        FileType::BlockDevice => 6,
    }
}

pub(crate) fn file_type_from_byte(byte: u8) -> Result<FileType> {
    Ok(match byte {
        0 => FileType::Regular,
        1 => FileType::Directory,
        2 => FileType::Symlink,
        3 => FileType::Fifo,
        4 => FileType::Socket,
        5 => FileType::CharDevice,
        6 => FileType::BlockDevice,
        _ => return Err(Error::damaged(format!("a node has the unknown file type {byte}"))),
    })
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    size: u64,
    #[prost(sint64, tag = "2")]
    modified_ns: i64,
    #[prost(uint32, tag = "3")]
    file_type: u32,
    #[prost(bytes = "vec", tag = "4")]
    etag: Vec<u8>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    inline: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    manifest: Option<Bytes>,
    #[prost(map = "string, string", tag = "7")]
    headers: HashMap<String, String>,
    #[prost(map = "string, string", tag = "8")]
    user: HashMap<String, String>,
    #[prost(message, repeated, tag = "9")]
    checksums: Vec<ChecksumRecord>,
    #[prost(uint64, repeated, tag = "10")]
    part_sizes: Vec<u64>,
    #[prost(map = "string, string", tag = "11")]
    tags: HashMap<String, String>,
    #[prost(bool, tag = "12")]
    is_null: bool,
    #[prost(bytes = "bytes", tag = "13")]
    id: Bytes,
    #[prost(bool, tag = "14")]
    is_marker: bool,
    #[prost(bytes = "bytes", tag = "15")]
    at_parent: Bytes,
    #[prost(bytes = "bytes", tag = "16")]
    at_name: Bytes,
    #[prost(uint64, tag = "17")]
    hole_bytes: u64,
    #[prost(message, optional, tag = "18")]
    deleted: Option<WriteRecord>,
    #[prost(bytes = "bytes", repeated, tag = "19")]
    lenders: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteRecord {
    #[prost(bytes = "bytes", tag = "1")]
    segment: Bytes,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    stamp_time: u64,
}

impl WriteRecord {
    fn decode(self) -> Result<WriteId> {
        let bad = |_| Error::damaged("a version record names a write of no segment");
        let segment = SegmentId(self.segment.as_ref().try_into().map_err(bad)?);
        Ok(WriteId { stamp_time: self.stamp_time, dot: Dot { segment, sequence: self.sequence } })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChecksumRecord {
    #[prost(string, tag = "1")]
    pub(crate) algorithm: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) parts: u32,
}
