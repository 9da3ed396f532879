//! Reading single records and indexes, and what to say when that fails.

use super::location::Location;
use super::pack::{IndexEntry, PACK_HEADER_BYTES, TRAILER_BYTES, pack_name, read_trailer};
use super::record::{RECORD_HEADER_BYTES, RecordHeader, decode_header, decode_payload};
use super::stored::StoredChunk;
use super::tree::ChunkTree;
use crate::disk::{File, Mapping};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::ChunkId;
use bytes::{Bytes, BytesMut};
use std::ops::Range;

pub(super) fn no_pack(number: u64) -> Error {
    Error::not_found(Subject::Pack, format!("there is no pack {}", pack_name(number)))
}

/// What a failed read tells the caller. Running out of file handles, for one, is not the chunk's fault.
pub(super) fn chunk_error(id: &ChunkId, location: &Location, error: Error) -> Error {
    let (name, offset) = (pack_name(location.pack), location.offset);
    let place = format!("chunk {id} in pack {name} at offset {offset}");
    match error.kind() {
        ErrorKind::NotFound => Error::damaged(format!("{place} is lost: the pack is missing")),
        ErrorKind::Damaged | ErrorKind::Invalid => Error::damaged(format!("{place} is damaged")),
        _ => Error::new(ErrorKind::Failed, format!("{place} can't be read")),
    }
    .about(Subject::Chunk)
    .because(error)
}

/// What a failure to read a pack as a whole tells the caller.
pub(super) fn pack_error(number: u64, error: Error) -> Error {
    let name = pack_name(number);
    match error.kind() {
        ErrorKind::NotFound => Error::damaged(format!("pack {name} is missing")),
        kind => Error::new(kind, format!("pack {name} can't be used")),
    }
    .about(Subject::Pack)
    .because(error)
}

/// Reads a record with one call to the disk.
pub(super) fn read_record(file: &dyn File, id: &ChunkId, location: &Location) -> Result<Bytes> {
    Ok(decode_record(record_bytes(file, location)?, id, location)?.2)
}

/// Shows a record of a map; `is_kept`: as a copy.
pub(super) fn map_record(map: &Mapping, id: &ChunkId, location: &Location, is_kept: bool) -> Result<Bytes> {
    Ok(decode_record(mapped_bytes(map, location, is_kept)?, id, location)?.2)
}

/// Reads a record with one call to the disk; gives it as it is stored.
pub(super) fn read_stored(file: &dyn File, id: &ChunkId, location: &Location) -> Result<StoredChunk> {
    let (header, payload, _) = decode_record(record_bytes(file, location)?, id, location)?;
    Ok(StoredChunk { id: *id, codec: header.codec, raw_bytes: header.raw, payload })
}

/// Shows a record of a map as it is stored. A copy: what is compared with the id must be what is sent.
pub(super) fn map_stored(map: &Mapping, id: &ChunkId, location: &Location) -> Result<StoredChunk> {
    let (header, payload, _) = decode_record(mapped_bytes(map, location, true)?, id, location)?;
    Ok(StoredChunk { id: *id, codec: header.codec, raw_bytes: header.raw, payload })
}

/// Reads a part of a chunk by way of `bytes_at`, which gives the pack's bytes from an offset on. `None` if the record is not what `id` and `location` say, has no hashes of its
/// parts, or something does not match them: the whole chunk decides then.
pub(super) fn read_part(
    bytes_at: impl Fn(u64, usize) -> Result<Bytes>,
    id: &ChunkId,
    location: &Location,
    part: Range<u32>,
) -> Option<Bytes> {
    if part.start >= part.end || part.end > location.raw {
        return None;
    }
    let header = decode_header(&bytes_at(location.offset, RECORD_HEADER_BYTES).ok()?).ok()?;
    let is_it = header.id == *id && header.raw == location.raw && header.stored == location.stored;
    if !is_it || !header.has_tree {
        return None;
    }
    let payload = location.offset + RECORD_HEADER_BYTES as u64;
    let stored = bytes_at(payload + u64::from(header.stored), header.tree_bytes()).ok()?;
    let tree = ChunkTree::decode(&stored, id, header.raw).ok()?;
    let around = ChunkTree::around(&part, header.raw);
    let bytes = bytes_at(payload + u64::from(around.start), (around.end - around.start) as usize).ok()?;
    let wanted = (part.start - around.start) as usize..(part.end - around.start) as usize;
    tree.has(around.start, &bytes).then(|| bytes.slice(wanted))
}

/// A copy of the bytes of a map from `offset` on.
pub(super) fn map_exact(map: &Mapping, offset: u64, length: usize) -> Result<Bytes> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    map.copy(start..start.saturating_add(length))
}

fn record_bytes(file: &dyn File, location: &Location) -> Result<Bytes> {
    location.check()?;
    read_exact(file, location.offset, RECORD_HEADER_BYTES + location.stored as usize)
}

fn mapped_bytes(map: &Mapping, location: &Location, is_kept: bool) -> Result<Bytes> {
    location.check()?;
    let start = usize::try_from(location.offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(RECORD_HEADER_BYTES + location.stored as usize);
    if is_kept { map.copy(start..end) } else { map.slice(start..end) }
}

/// Header, payload, and the chunk that it decodes to.
fn decode_record(record: Bytes, id: &ChunkId, location: &Location) -> Result<(RecordHeader, Bytes, Bytes)> {
    let header = decode_header(&record)?;
    if header.id != *id || header.stored != location.stored || header.raw != location.raw {
        return Err(Error::damaged(format!("the record there is of chunk {}, {} bytes", header.id, header.raw)));
    }
    let payload = record.slice(RECORD_HEADER_BYTES..);
    let raw = decode_payload(&header, payload.clone())?;
    Ok((header, payload, raw))
}

pub(super) fn read_exact(file: &dyn File, offset: u64, length: usize) -> Result<Bytes> {
    let mut buffer = BytesMut::zeroed(length);
    let count = file.read_at(&mut buffer, offset)?;
    if count < length {
        return Err(Error::damaged("the file ends before it does"));
    }
    Ok(buffer.freeze())
}

/// Reads the index of a sealed pack.
pub(super) fn read_index(file: &dyn File, number: u64) -> Result<Vec<IndexEntry>> {
    let file_bytes = file.len()?;
    let start = file_bytes.checked_sub(TRAILER_BYTES).filter(|start| *start >= PACK_HEADER_BYTES);
    let start = start.ok_or_else(|| Error::damaged("the file was cut"))?;
    // The trailer has to fit the file, which bounds the index.
    let trailer = read_trailer(&read_exact(file, start, TRAILER_BYTES as usize)?, number, file_bytes)?;
    trailer.decode_index(&read_exact(file, trailer.index_offset, trailer.index_bytes() as usize)?)
}
