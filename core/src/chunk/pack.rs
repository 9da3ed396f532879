//! The pack file around the records: a header, and once sealed an index with a trailer at the very end.
//!
//! ```text
//! pack    = header record* (index trailer)?
//! header  = magic "TMBLPACK" | version u32 | flags u32 | segment [16] | number u64 | zeros [16] | checksum [8]
//! index   = (id [32] | offset u64 | stored u32 | raw u32)*          sorted by id, then offset
//! trailer = magic "TMBLSEAL" | version u32 | flags u32 | number u64 | index offset u64 | count u64 | index hash [16] | checksum [8]
//! ```
//!
//! Numbers are little-endian. Checksums are the first 8 bytes of BLAKE3 of what precedes them in the header or trailer; the
//! index hash is the first 16 bytes of BLAKE3 of the index.

use super::location::Location;
use super::record::{RECORD_ALIGN, RECORD_HEADER_BYTES, checksum};
use crate::error::{Error, Result};
use crate::id::{ChunkId, SegmentId};
use bytes::{Buf, BufMut};

/// Length of a pack's header.
pub(super) const PACK_HEADER_BYTES: u64 = 64;
/// Length of a pack's trailer.
pub(super) const TRAILER_BYTES: u64 = 64;
/// Length of one entry of the index.
pub(super) const ENTRY_BYTES: u64 = 48;

const PACK_MAGIC: &[u8; 8] = b"TMBLPACK";
const SEAL_MAGIC: &[u8; 8] = b"TMBLSEAL";
/// What is written. Packs of version 1 have no records with hashes of their parts, and are read as well.
const VERSION: u32 = 2;
const VERSION_MIN: u32 = 1;

/// One record of a pack, as its index lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Where its record starts in the file, in bytes.
    pub offset: u64,
    /// Length of the payload, in bytes.
    pub stored: u32,
    /// Length of the chunk, in bytes.
    pub raw: u32,
}

impl IndexEntry {
    /// The entry as a place in pack `pack`.
    pub fn location(&self, pack: u64) -> Location {
        Location { pack, offset: self.offset, stored: self.stored, raw: self.raw }
    }
}

/// Where a sealed pack's index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) number: u64,
    pub(super) index_offset: u64,
    pub(super) count: u64,
    pub(super) index_hash: [u8; 16],
}

/// The file name of pack `number`.
pub fn pack_name(number: u64) -> String {
    format!("{number:016x}.pack")
}

/// The number in a pack's file name; `None` if it is no such name.
pub fn pack_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".pack")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (pack_name(number) == name).then_some(number)
}

/// A pack's first bytes.
pub(super) fn encode_pack_header(segment: &SegmentId, number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(PACK_HEADER_BYTES as usize);
    out.put_slice(PACK_MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(0);
    out.put_slice(&segment.0);
    out.put_u64_le(number);
    out.put_bytes(0, 16);
    let sum = checksum(&out);
    out.put_slice(&sum);
    out
}

/// Refuses a header that is not that of pack `number` of `segment`: `Invalid` for an unknown version, else `Damaged`.
pub(super) fn check_pack_header(bytes: &[u8], segment: &SegmentId, number: u64) -> Result<()> {
    let mut fields = checked(bytes, PACK_MAGIC, "header")?;
    check_version(&mut fields)?;
    let owner = SegmentId::from_slice(fields.get(..SegmentId::LEN).unwrap_or_default())?;
    fields.advance(SegmentId::LEN);
    if owner != *segment {
        return Err(Error::damaged(format!("the pack belongs to segment {owner}, not to {segment}")));
    }
    check_number(fields.get_u64_le(), number)
}

/// The fields of a header or trailer after the magic, if the checksum is right.
fn checked<'a>(bytes: &'a [u8], magic: &[u8; 8], what: &str) -> Result<&'a [u8]> {
    let block = bytes
        .first_chunk::<{ PACK_HEADER_BYTES as usize }>()
        .ok_or_else(|| Error::damaged(format!("the pack's {what} is cut off")))?;
    let (fields, sum) = block.split_at(block.len() - 8);
    if !fields.starts_with(magic) || sum != checksum(fields) {
        return Err(Error::damaged(format!("the pack's {what} is damaged or missing")));
    }
    Ok(fields.get(magic.len()..).unwrap_or_default())
}

fn check_version(fields: &mut &[u8]) -> Result<()> {
    let (version, flags) = (fields.get_u32_le(), fields.get_u32_le());
    if !(VERSION_MIN..=VERSION).contains(&version) || flags != 0 {
        return Err(Error::invalid(format!(
            "the pack has format version {version}, flags {flags}; this build reads versions {VERSION_MIN} to {VERSION} without flags"
        )));
    }
    Ok(())
}

fn check_number(found: u64, expected: u64) -> Result<()> {
    if found != expected {
        return Err(Error::damaged(format!("the pack says it is {}", pack_name(found))));
    }
    Ok(())
}

/// Index and trailer for the records of pack `number`, to stand at `index_offset`. Sorts `entries`.
pub(super) fn encode_footer(number: u64, index_offset: u64, entries: &mut [IndexEntry]) -> Vec<u8> {
    entries.sort_unstable();
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES as usize + TRAILER_BYTES as usize);
    for entry in entries.iter() {
        out.put_slice(&entry.id.0);
        out.put_u64_le(entry.offset);
        out.put_u32_le(entry.stored);
        out.put_u32_le(entry.raw);
    }
    let index_hash = index_hash(&out);
    let mut trailer = Vec::with_capacity(TRAILER_BYTES as usize);
    trailer.put_slice(SEAL_MAGIC);
    trailer.put_u32_le(VERSION);
    trailer.put_u32_le(0);
    trailer.put_u64_le(number);
    trailer.put_u64_le(index_offset);
    trailer.put_u64_le(entries.len() as u64);
    trailer.put_slice(&index_hash);
    let sum = checksum(&trailer);
    out.put_slice(&trailer);
    out.put_slice(&sum);
    out
}

fn index_hash(index: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.iter_mut().zip(blake3::hash(index).as_bytes()).for_each(|(slot, byte)| *slot = *byte);
    out
}

/// Reads the trailer of pack `number`, a file of `file_bytes`, from its last [`TRAILER_BYTES`].
pub(super) fn read_trailer(bytes: &[u8], number: u64, file_bytes: u64) -> Result<Trailer> {
    let mut fields = checked(bytes, SEAL_MAGIC, "trailer")?;
    check_version(&mut fields)?;
    let (found, index_offset, count) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
    check_number(found, number)?;
    let fits = count
        .checked_mul(ENTRY_BYTES)
        .and_then(|index| index.checked_add(index_offset)?.checked_add(TRAILER_BYTES))
        .is_some_and(|end| end == file_bytes && index_offset >= PACK_HEADER_BYTES);
    let hash = fields.first_chunk::<16>().filter(|_| fits);
    let index_hash = *hash.ok_or_else(|| Error::damaged("the pack's trailer does not fit the file"))?;
    Ok(Trailer { number, index_offset, count, index_hash })
}

/// Decodes a trailer for a file of `file_bytes`; gives the index' offset and number of entries. For fuzzing and tools.
pub fn decode_trailer(bytes: &[u8], number: u64, file_bytes: u64) -> Result<(u64, u64)> {
    read_trailer(bytes, number, file_bytes).map(|trailer| (trailer.index_offset, trailer.count))
}

/// Decodes an index that ends where the trailer starts, without its hash. Strict: sorted, aligned, within the file's
/// first `index_offset` bytes.
pub fn decode_index(index: &[u8], index_offset: u64) -> Result<Vec<IndexEntry>> {
    let (rows, rest) = index.as_chunks::<{ ENTRY_BYTES as usize }>();
    if !rest.is_empty() {
        return Err(Error::damaged("the pack's index is cut off"));
    }
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, mut fields) = row.split_at(ChunkId::LEN);
        let entry = IndexEntry {
            id: ChunkId::from_slice(id)?,
            offset: fields.get_u64_le(),
            stored: fields.get_u32_le(),
            raw: fields.get_u32_le(),
        };
        entry.location(0).check()?;
        let end = entry.offset.checked_add(RECORD_HEADER_BYTES as u64 + u64::from(entry.stored));
        let inside = entry.offset >= PACK_HEADER_BYTES && end.is_some_and(|end| end <= index_offset);
        if !inside || !entry.offset.is_multiple_of(RECORD_ALIGN) || entries.last().is_some_and(|last| *last >= entry) {
            return Err(Error::damaged(format!("the pack's index has a bad entry for chunk {}", entry.id)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

impl Trailer {
    /// Length of the index in bytes.
    pub(super) fn index_bytes(&self) -> u64 {
        self.count * ENTRY_BYTES
    }

    /// Decodes the index after comparing it with its hash.
    pub(super) fn decode_index(&self, index: &[u8]) -> Result<Vec<IndexEntry>> {
        if index_hash(index) != self.index_hash {
            return Err(Error::damaged("the pack's index does not match its hash"));
        }
        decode_index(index, self.index_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<IndexEntry> {
        (0..50u64)
            .map(|n| IndexEntry { id: ChunkId::of(&n.to_le_bytes()), offset: 64 + n * 160, stored: 100, raw: 200 })
            .collect()
    }

    #[test]
    fn names_are_numbers() {
        assert_eq!(pack_name(0xab), "00000000000000ab.pack");
        for number in [0, 1, u64::MAX] {
            assert_eq!(pack_number(&pack_name(number)), Some(number));
        }
        for bad in ["1.pack", "00000000000000AB.pack", "+0000000000000ab.pack", "00000000000000ab.pac", ".pack"] {
            assert_eq!(pack_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_say_whose_they_are() {
        let segment = SegmentId([3; 16]);
        let bytes = encode_pack_header(&segment, 7);
        check_pack_header(&bytes, &segment, 7).unwrap();
        assert!(check_pack_header(&bytes, &segment, 8).is_err());
        assert!(check_pack_header(&bytes, &SegmentId([4; 16]), 7).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check_pack_header(&flipped, &segment, 7).is_err(), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 3;
        let sum = checksum(&newer[..56]);
        newer[56..].copy_from_slice(&sum);
        let error = check_pack_header(&newer, &segment, 7).unwrap_err();
        assert!(error.to_string().contains("version 3"), "{error}");
        newer[8] = 1;
        let sum = checksum(&newer[..56]);
        newer[56..].copy_from_slice(&sum);
        check_pack_header(&newer, &segment, 7).unwrap();
    }

    #[test]
    fn footers_survive_and_damage_is_seen() {
        let mut all = entries();
        let index_offset = 64 + 50 * 160;
        let footer = encode_footer(7, index_offset, &mut all);
        let (index, tail) = footer.split_at(footer.len() - 64);
        let file_bytes = index_offset + footer.len() as u64;
        let trailer = read_trailer(tail, 7, file_bytes).unwrap();
        assert_eq!(trailer.decode_index(index).unwrap(), all);
        assert!(read_trailer(tail, 8, file_bytes).is_err() && read_trailer(tail, 7, file_bytes - 8).is_err());
        for at in 0..footer.len() {
            let mut flipped = footer.clone();
            flipped[at] ^= 0x10;
            let (index, tail) = flipped.split_at(flipped.len() - 64);
            assert!(read_trailer(tail, 7, file_bytes).and_then(|t| t.decode_index(index)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_bad_entry_is_refused_even_with_a_good_hash() {
        let good = entries();
        let bend: [fn(&mut Vec<IndexEntry>); 5] = [
            |e| e[3].offset = 8,
            |e| e[3].offset = u64::MAX - 7,
            |e| e[3].offset += 4,
            |e| e[3].stored = 201,
            |e| e[3] = e[4],
        ];
        for (number, bend) in bend.iter().enumerate() {
            let mut bad = good.clone();
            bend(&mut bad);
            let footer = encode_footer(7, 64 + 50 * 160, &mut bad);
            assert!(decode_index(&footer[..footer.len() - 64], 64 + 50 * 160).is_err(), "case {number}");
        }
    }
}
