//! The rows of the namespace: registers with what is derived from them. Byte tables: `docs/format/metadata.md`.
//!
//! Every row starts with a format byte and the commit that wrote it; snapshots compare the latter (see `view`).

use super::attributes::{PARTS_MAX, Part};
use super::codec::{Reader, put_bytes, put_varint};
use super::version::{Version, etag_from_bytes, etag_to_bytes, file_type_from_byte, file_type_to_byte};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId};
use crate::object::{Attributes, Etag, FileType, ObjectSummary, Tags, TimeNs};
use crate::register::{Dot, Register, Write};
use crate::tree::{self, EntryKind, EntryValue, Rules};
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The format of rows written by this code. Rows of another format are refused.
pub(super) const ROW_FORMAT: u8 = 1;

/// What an entry shows under its name.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// A directory.
    Directory {
        /// Its node.
        node: NodeId,
        /// The object it is by itself, if it stays when it is empty (`mkdir`, `PUT a/`).
        explicit: Option<ExplicitDirectory>,
    },
    /// A file, object, symbolic link or special file.
    File(ShownFile),
}

impl Shown {
    /// The node that it is to whoever names things by their nodes, where it shows at a place.
    pub fn identity(&self, parent: &NodeId, name: &[u8]) -> NodeId {
        match self {
            Shown::File(file) => file.identity(parent, name),
            Shown::Directory { node, .. } => *node,
        }
    }

    /// The size of the object that shows; `None`: none does (an implied directory).
    pub fn object_size(&self) -> Option<u64> {
        match self {
            Shown::File(file) => Some(file.size),
            Shown::Directory { explicit, .. } => explicit.as_ref().map(|object| object.size),
        }
    }
}

/// The object that a directory made by itself shows as.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplicitDirectory {
    /// Size of the content; nearly always 0.
    pub size: u64,
    /// When it was made or last written.
    pub modified_ns: TimeNs,
    /// Entity tag.
    pub etag: Etag,
}

impl ExplicitDirectory {
    /// Made by `mkdir`: no content.
    pub fn empty(modified_ns: TimeNs) -> ExplicitDirectory {
        ExplicitDirectory { size: 0, modified_ns, etag: Etag::Md5(MD5_OF_NOTHING) }
    }

    /// As a line of a listing.
    pub fn summary(&self, key: Bytes) -> ObjectSummary {
        ObjectSummary {
            key,
            size: self.size,
            modified_ns: self.modified_ns,
            etag: self.etag.clone(),
            file_type: FileType::Directory,
            is_away: false,
        }
    }
}

/// MD5 of the empty string (RFC 1321, appendix A.5).
pub const MD5_OF_NOTHING: [u8; 16] =
    [0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e];

/// A file as a listing shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownFile {
    /// Its node.
    pub node: NodeId,
    /// The content, if not the one that shows for the node (a conflict copy), or if the node has no name (it was deleted while somebody edited it).
    pub content: Option<Dot>,
    /// Whether it is a file by itself, because it is one of several contents of its node, and a change of that is no change of it. See [`ShownFile::identity`].
    pub is_apart: bool,
    /// Size of the content.
    pub size: u64,
    /// Modification time.
    pub modified_ns: TimeNs,
    /// Entity tag.
    pub etag: Etag,
    /// Kind of node.
    pub file_type: FileType,
}

impl ShownFile {
    /// What `version` shows as.
    pub fn of(node: NodeId, content: Option<Dot>, version: &Version) -> ShownFile {
        ShownFile {
            node,
            content,
            is_apart: false,
            size: version.size,
            modified_ns: version.modified_ns,
            etag: version.etag.clone(),
            file_type: version.file_type,
        }
    }

    /// The node that it is to whoever names files by their nodes, where it shows at `place`.
    pub fn identity(&self, parent: &NodeId, name: &[u8]) -> NodeId {
        match &self.content {
            Some(dot) if self.is_apart => super::alias::id(&self.node, dot, parent, name),
            _ => self.node,
        }
    }

    /// As a line of a listing.
    pub fn summary(&self, key: Bytes) -> ObjectSummary {
        ObjectSummary {
            key,
            size: self.size,
            modified_ns: self.modified_ns,
            etag: self.etag.clone(),
            file_type: self.file_type,
            is_away: false,
        }
    }
}

/// A directory entry: its register, and what shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EntryRow {
    /// The commit that wrote the row.
    pub commit: u64,
    /// What shows; `None`: nothing (deleted, hidden, or its node has not arrived).
    pub shown: Option<Shown>,
    /// What was said about the name.
    pub register: Register<EntryValue>,
}

/// A node: its registers, and the names it shows under.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeRow {
    /// The commit that wrote the row.
    pub commit: u64,
    /// Where entries with this node are live, also those where another file has the name. A directory has none here: its home tells.
    pub names: Vec<(NodeId, Bytes)>,
    /// When this segment last linked, unlinked or renamed the file; 0: never.
    pub names_changed_ns: TimeNs,
    /// A directory's place: (parent, name).
    pub home: Register<(NodeId, Bytes)>,
    /// Contents.
    pub content: Register<Version>,
    /// POSIX attributes, and the modification time set by hand.
    pub attributes: Register<AttributesValue>,
    /// Tags set after the version was written.
    pub tags: Register<TagsValue>,
}

/// POSIX attributes as they are kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AttributesValue {
    /// The attributes.
    pub attributes: Attributes,
    /// A modification time set by hand, and the time of the version it was set on: a later version's own time wins.
    pub modified_ns: Option<(TimeNs, TimeNs)>,
    /// When attributes were last changed.
    pub changed_ns: TimeNs,
    /// An access time set by hand.
    pub accessed_ns: Option<TimeNs>,
    /// When parts were set that were set since the node was made, in their order.
    pub set: Vec<(Part, TimeNs)>,
}

/// Tags of one version.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TagsValue {
    /// The version's id in bytes.
    pub version: [u8; 32],
    /// The tags.
    pub tags: Tags,
}

/// An older version, or a delete marker.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HistoryRow {
    /// The commit that wrote the row.
    pub commit: u64,
    /// The version.
    pub register: Register<Version>,
}

/// The commit number of any row of the namespace, without decoding the rest.
pub fn row_commit(row: &[u8]) -> Result<u64> {
    match row.split_first() {
        Some((&ROW_FORMAT, rest)) => rest
            .first_chunk::<8>()
            .map(|c| u64::from_be_bytes(*c))
            .ok_or_else(|| Error::damaged("a metadata row ends too early")),
        Some((other, _)) => Err(unknown_format(*other)),
        None => Err(Error::damaged("a metadata row is empty")),
    }
}

fn unknown_format(format: u8) -> Error {
    Error::damaged(format!("a metadata row has format {format}; this build reads format {ROW_FORMAT}"))
}

fn begin(commit: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(ROW_FORMAT);
    out.extend_from_slice(&commit.to_be_bytes());
    out
}

fn open(bytes: Bytes) -> Result<(u64, Reader)> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    if format != ROW_FORMAT {
        return Err(unknown_format(format));
    }
    Ok((reader.u64()?, reader))
}

impl EntryRow {
    /// The row's bytes.
    pub fn encode(&self, own: &SegmentId) -> Vec<u8> {
        let mut out = begin(self.commit);
        match &self.shown {
            None => out.push(0),
            Some(Shown::Directory { node, explicit }) => {
                out.push(if explicit.is_some() { 2 } else { 1 });
                out.extend_from_slice(&node.0);
                if let Some(object) = explicit {
                    put_varint(&mut out, object.size);
                    out.extend_from_slice(&object.modified_ns.to_be_bytes());
                    put_bytes(&mut out, &etag_to_bytes(&object.etag));
                }
            }
            Some(Shown::File(file)) => {
                out.push(match (&file.content, file.is_apart) {
                    (None, _) => 3,
                    (Some(_), false) => 4,
                    (Some(_), true) => 5,
                });
                out.extend_from_slice(&file.node.0);
                if let Some(dot) = &file.content {
                    out.extend_from_slice(&dot.segment.0);
                    put_varint(&mut out, dot.sequence);
                }
                put_varint(&mut out, file.size);
                out.extend_from_slice(&file.modified_ns.to_be_bytes());
                put_bytes(&mut out, &etag_to_bytes(&file.etag));
                out.push(file_type_to_byte(file.file_type));
            }
        }
        self.register.encode(&mut out, own, encode_entry_value);
        out
    }

    /// What shows, without decoding the register: for listings.
    pub fn decode_shown(bytes: Bytes) -> Result<(u64, Option<Shown>, Bytes)> {
        let (commit, mut reader) = open(bytes)?;
        let kind = reader.u8()?;
        let shown = match kind {
            0 => None,
            1 => Some(Shown::Directory { node: NodeId(reader.array()?), explicit: None }),
            2 => Some(Shown::Directory {
                node: NodeId(reader.array()?),
                explicit: Some(ExplicitDirectory {
                    size: reader.varint()?,
                    modified_ns: i64::from_be_bytes(reader.array()?),
                    etag: etag_from_bytes(&reader.bytes()?)?,
                }),
            }),
            3..=5 => {
                let node = NodeId(reader.array()?);
                let content = if kind != 3 {
                    Some(Dot { segment: SegmentId(reader.array()?), sequence: reader.varint()? })
                } else {
                    None
                };
                Some(Shown::File(ShownFile {
                    node,
                    content,
                    is_apart: kind == 5,
                    size: reader.varint()?,
                    modified_ns: i64::from_be_bytes(reader.array()?),
                    etag: etag_from_bytes(&reader.bytes()?)?,
                    file_type: file_type_from_byte(reader.u8()?)?,
                }))
            }
            _ => return Err(Error::damaged(format!("an entry shows the unknown kind {kind}"))),
        };
        Ok((commit, shown, reader.rest()))
    }

    /// Reads the row.
    pub fn decode(bytes: Bytes, own: &SegmentId) -> Result<EntryRow> {
        let (commit, shown, rest) = EntryRow::decode_shown(bytes)?;
        let register = decode_register(&rest, own, decode_entry_value)?;
        Ok(EntryRow { commit, shown, register })
    }
}

impl NodeRow {
    /// The row's bytes.
    pub fn encode(&self, own: &SegmentId) -> Vec<u8> {
        let mut out = begin(self.commit);
        let dated = if self.names_changed_ns == 0 { 0 } else { 2 };
        // The usual file has one name, the one its content was written under.
        let usual = self.content.shown().and_then(|w| w.value.as_ref()).map(|v| &v.at);
        if let ([name], Some(at)) = (self.names.as_slice(), usual)
            && name == at
        {
            out.push(1 | dated);
        } else {
            out.push(dated);
            put_varint(&mut out, self.names.len() as u64);
            for (parent, name) in &self.names {
                out.extend_from_slice(&parent.0);
                put_bytes(&mut out, name);
            }
        }
        if dated != 0 {
            out.extend_from_slice(&self.names_changed_ns.to_be_bytes());
        }
        let mut register = Vec::new();
        let mut put = |out: &mut Vec<u8>, encode: &dyn Fn(&mut Vec<u8>)| {
            register.clear();
            encode(&mut register);
            put_bytes(out, &register);
        };
        let none = |empty: bool, r: &mut Vec<u8>, encode: &dyn Fn(&mut Vec<u8>)| {
            if !empty {
                encode(r);
            }
        };
        put(&mut out, &|r| none(self.home.is_empty(), r, &|r| self.home.encode(r, own, encode_home)));
        put(&mut out, &|r| none(self.content.is_empty(), r, &|r| self.content.encode(r, own, |v, o| v.encode(o))));
        put(&mut out, &|r| none(self.attributes.is_empty(), r, &|r| self.attributes.encode(r, own, encode_attributes)));
        put(&mut out, &|r| none(self.tags.is_empty(), r, &|r| self.tags.encode(r, own, encode_tags)));
        out
    }

    /// Reads the row.
    pub fn decode(bytes: Bytes, own: &SegmentId) -> Result<NodeRow> {
        let (commit, mut reader) = open(bytes)?;
        let kind = reader.u8()?;
        if kind > 3 {
            return Err(Error::damaged(format!("a node row has names of the unknown kind {kind}")));
        }
        let is_usual = kind & 1 != 0;
        let mut names = Vec::new();
        if !is_usual {
            for _ in 0..reader.varint()? {
                names.push((NodeId(reader.array()?), reader.bytes()?));
            }
        }
        let names_changed_ns = if kind & 2 != 0 { i64::from_be_bytes(reader.array()?) } else { 0 };
        let home = decode_optional(reader.bytes()?, own, decode_home)?;
        let content = decode_optional(reader.bytes()?, own, |b| Version::decode(Bytes::copy_from_slice(b)))?;
        let attributes = decode_optional(reader.bytes()?, own, decode_attributes)?;
        let tags = decode_optional(reader.bytes()?, own, decode_tags)?;
        if is_usual {
            let at = content.shown().and_then(|w| w.value.as_ref()).map(|v: &Version| v.at.clone());
            names.push(at.ok_or_else(|| Error::damaged("a node row has a name but no content"))?);
        }
        Ok(NodeRow { commit, names, names_changed_ns, home, content, attributes, tags })
    }

    /// The content that shows for the node, with its value. What a deletion kept shows only where the node has a name and nothing else to show.
    pub fn current(&self, rules: &Rules) -> Option<&Write<Version>> {
        let mut live = self.content.live_values();
        let (first, version) = live.next()?;
        if live.next().is_none() && version.deleted.is_none() {
            return Some(first);
        }
        let contents = super::show::contents_of(&self.content);
        let shown = match self.names.is_empty() {
            true => tree::live_contents(&contents, rules),
            false => tree::contents(&contents, rules),
        };
        self.content_of(shown.first()?.0.dot)
    }

    /// The attributes that show.
    pub fn shown_attributes(&self) -> Option<Cow<'_, AttributesValue>> {
        super::attributes::shown(&self.attributes)
    }

    /// The value of [`NodeRow::current`].
    pub fn current_version(&self, rules: &Rules) -> Option<&Version> {
        self.current(rules).and_then(|write| write.value.as_ref())
    }

    /// The content that a [`ShownFile`] of this node shows; `None`: it is gone.
    pub fn shown_content(&self, content: Option<Dot>, rules: &Rules) -> Option<&Write<Version>> {
        match content {
            Some(dot) => self.content_of(dot),
            None => self.current(rules),
        }
    }

    fn content_of(&self, dot: Dot) -> Option<&Write<Version>> {
        self.content.live_values().map(|(write, _)| write).find(|write| write.dot == dot)
    }

    /// The dots of the contents that a change of this file replaces: that of the one that shows, first; if the policy keeps one winner, also all others.
    pub(super) fn replaced_contents(&self, rules: &Rules) -> SmallVec<[Dot; 2]> {
        let current: SmallVec<[Dot; 2]> = self.current(rules).map(|write| write.dot).into_iter().collect();
        if rules.keeps_both() || current.is_empty() {
            return current;
        }
        let first = current.first().copied();
        let others =
            self.content.live_values().filter(|(write, version)| version.deleted.is_none() && Some(write.dot) != first);
        current.iter().copied().chain(others.map(|(write, _)| write.dot)).collect()
    }

    /// Whether nothing is left in the row.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.home.is_empty()
            && self.content.is_empty()
            && self.attributes.is_empty()
            && self.tags.is_empty()
    }
}

impl HistoryRow {
    /// The row's bytes.
    pub fn encode(&self, own: &SegmentId) -> Vec<u8> {
        let mut out = begin(self.commit);
        self.register.encode(&mut out, own, |v, o| v.encode(o));
        out
    }

    /// Reads the row.
    pub fn decode(bytes: Bytes, own: &SegmentId) -> Result<HistoryRow> {
        let (commit, reader) = open(bytes)?;
        let rest = reader.rest();
        Ok(HistoryRow {
            commit,
            register: decode_register(&rest, own, |b| Version::decode(Bytes::copy_from_slice(b)))?,
        })
    }
}

fn decode_register<V>(bytes: &[u8], own: &SegmentId, value: impl Fn(&[u8]) -> Result<V>) -> Result<Register<V>> {
    let mut rest = bytes;
    let register = Register::decode(&mut rest, own, value)?;
    if !rest.is_empty() {
        return Err(Error::damaged("a metadata row has bytes after its end"));
    }
    Ok(register)
}

fn decode_optional<V>(bytes: Bytes, own: &SegmentId, value: impl Fn(&[u8]) -> Result<V>) -> Result<Register<V>> {
    if bytes.is_empty() { Ok(Register::empty()) } else { decode_register(&bytes, own, value) }
}

/// `[0 file | 1 implied directory | 2 explicit directory][node]`.
pub(super) fn encode_entry_value(value: &EntryValue, out: &mut Vec<u8>) {
    out.push(match value.kind {
        EntryKind::File => 0,
        EntryKind::Directory { explicit: false } => 1,
        EntryKind::Directory { explicit: true } => 2,
    });
    out.extend_from_slice(&value.node.0);
}

/// See [`encode_entry_value`].
pub(super) fn decode_entry_value(bytes: &[u8]) -> Result<EntryValue> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let kind = match reader.u8()? {
        0 => EntryKind::File,
        1 => EntryKind::Directory { explicit: false },
        2 => EntryKind::Directory { explicit: true },
        other => return Err(Error::damaged(format!("an entry has the unknown kind {other}"))),
    };
    Ok(EntryValue { node: NodeId(reader.array()?), kind })
}

/// `[parent][name]`.
pub(super) fn encode_home(value: &(NodeId, Bytes), out: &mut Vec<u8>) {
    out.extend_from_slice(&value.0.0);
    out.extend_from_slice(&value.1);
}

/// See [`encode_home`].
pub(super) fn decode_home(bytes: &[u8]) -> Result<(NodeId, Bytes)> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    Ok((NodeId(reader.array()?), reader.rest()))
}

/// Optional numbers as value + 1, then times, then extended attributes.
pub(super) fn encode_attributes(value: &AttributesValue, out: &mut Vec<u8>) {
    let a = &value.attributes;
    for number in [a.mode.map(u64::from), a.uid.map(u64::from), a.gid.map(u64::from)] {
        put_varint(out, number.map_or(0, |n| n + 1));
    }
    match a.rdev {
        Some(rdev) => {
            out.push(1);
            put_varint(out, rdev);
        }
        None => out.push(0),
    }
    match value.modified_ns {
        Some((time, version)) => {
            out.push(1);
            out.extend_from_slice(&time.to_be_bytes());
            out.extend_from_slice(&version.to_be_bytes());
        }
        None => out.push(0),
    }
    out.extend_from_slice(&value.changed_ns.to_be_bytes());
    match value.accessed_ns {
        Some(time) => {
            out.push(1);
            out.extend_from_slice(&time.to_be_bytes());
        }
        None => out.push(0),
    }
    put_varint(out, a.xattrs.len() as u64);
    for (name, value) in &a.xattrs {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value);
    }
    for (part, time) in &value.set {
        out.push(match part {
            Part::Access => 0,
            Part::Modified => 1,
            Part::Accessed => 2,
            Part::Xattr(_) => 3,
        });
        // Mostly it was not long before the last change, or at it.
        put_varint(out, value.changed_ns.wrapping_sub(*time).cast_unsigned());
        if let Part::Xattr(name) = part {
            put_bytes(out, name.as_bytes());
        }
    }
}

/// See [`encode_attributes`].
pub(super) fn decode_attributes(bytes: &[u8]) -> Result<AttributesValue> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let optional = |reader: &mut Reader| -> Result<Option<u32>> {
        match reader.varint()? {
            0 => Ok(None),
            n => u32::try_from(n - 1).map(Some).map_err(|_| Error::damaged("an attribute is out of range")),
        }
    };
    let (mode, uid, gid) = (optional(&mut reader)?, optional(&mut reader)?, optional(&mut reader)?);
    let rdev = if reader.u8()? == 1 { Some(reader.varint()?) } else { None };
    let modified_ns = if reader.u8()? == 1 {
        Some((i64::from_be_bytes(reader.array()?), i64::from_be_bytes(reader.array()?)))
    } else {
        None
    };
    let changed_ns = i64::from_be_bytes(reader.array()?);
    let accessed_ns = if reader.u8()? == 1 { Some(i64::from_be_bytes(reader.array()?)) } else { None };
    let mut xattrs = BTreeMap::new();
    for _ in 0..reader.varint()? {
        let name = String::from_utf8_lossy(&reader.bytes()?).into_owned();
        xattrs.insert(name, reader.bytes()?);
    }
    let mut set: Vec<(Part, TimeNs)> = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let time = changed_ns.wrapping_sub(reader.varint()?.cast_signed());
        let part = match kind {
            0 => Part::Access,
            1 => Part::Modified,
            2 => Part::Accessed,
            3 => Part::Xattr(String::from_utf8_lossy(&reader.bytes()?).into_owned()),
            _ => return Err(Error::damaged("a part of attributes is of an unknown kind")),
        };
        if set.last().is_some_and(|(last, _)| *last >= part) || set.len() == PARTS_MAX {
            return Err(Error::damaged("the parts of attributes are not in order, or too many"));
        }
        set.push((part, time));
    }
    Ok(AttributesValue {
        attributes: Attributes { mode, uid, gid, rdev, xattrs },
        modified_ns,
        changed_ns,
        accessed_ns,
        set,
    })
}

/// `[version, 32 bytes]`, then key and value of each tag.
pub(super) fn encode_tags(value: &TagsValue, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.version);
    for (key, value) in &value.tags {
        put_bytes(out, key.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

/// See [`encode_tags`].
pub(super) fn decode_tags(bytes: &[u8]) -> Result<TagsValue> {
    let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
    let version = reader.array()?;
    let mut tags = Tags::new();
    while !reader.is_empty() {
        let key = String::from_utf8_lossy(&reader.bytes()?).into_owned();
        tags.insert(key, String::from_utf8_lossy(&reader.bytes()?).into_owned());
    }
    Ok(TagsValue { version, tags })
}
