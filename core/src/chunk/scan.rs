//! Finding the records of a pack without its index, however torn the file is.
//!
//! From each record the scan hops to the next. Where none starts (a write that was lost or torn, a hole of zeros that a
//! failed write left between two others), it looks for the next aligned header. A record counts only if its payload
//! matches its id, so nothing that a crash tore apart is ever listed, and a payload that happens to contain the image of another
//! pack can't put up anything but true chunks.

use super::pack::{IndexEntry, PACK_HEADER_BYTES};
use super::record::{RECORD_ALIGN, RECORD_HEADER_BYTES, RECORD_MAGIC, decode_header, decode_payload};
use crate::disk::File;
use crate::error::Result;
use bytes::{Bytes, BytesMut};

/// How much is read at once, in bytes.
const WINDOW_BYTES: usize = 1 << 20;
/// Payload bytes hashed in vain before a scan gives up: bounds what a payload full of forged headers can cost.
const FUTILE_BYTES_MAX: u64 = 1 << 30;

/// What a pack holds.
pub(super) struct Scan {
    /// Its whole records, by offset.
    pub(super) entries: Vec<IndexEntry>,
    /// Where the last of them ends, in bytes; the end of the pack's header if there is none.
    pub(super) end: u64,
    /// Bytes between the pack's header and `end` that belong to no record.
    pub(super) gap_bytes: u64,
    /// Whether the whole file was seen. If not, records may follow that are not listed, and nothing may be cut.
    pub(super) is_complete: bool,
}

/// Lists the whole records of `file`.
pub(super) fn scan(file: &dyn File) -> Result<Scan> {
    let mut window = Window { file, start: 0, bytes: Bytes::new(), file_bytes: file.len()? };
    let mut scan = Scan { entries: Vec::new(), end: PACK_HEADER_BYTES, gap_bytes: 0, is_complete: true };
    let mut futile_bytes = 0;
    let mut position = PACK_HEADER_BYTES;
    while position + (RECORD_HEADER_BYTES as u64) < window.file_bytes {
        let head = window.get(position, RECORD_HEADER_BYTES)?;
        let header = match decode_header(&head) {
            Ok(header) => header,
            Err(_) => {
                position = window.next_magic(position + RECORD_ALIGN)?;
                continue;
            }
        };
        let payload_start = position + RECORD_HEADER_BYTES as u64;
        let is_whole = position + header.record_bytes() <= window.file_bytes && {
            let payload = window.get(payload_start, header.stored as usize)?;
            decode_payload(&header, payload).is_ok()
        };
        if is_whole {
            let entry = IndexEntry { id: header.id, offset: position, stored: header.stored, raw: header.raw };
            scan.entries.push(entry);
            scan.gap_bytes += position - scan.end;
            position += header.record_bytes();
            scan.end = position;
        } else {
            futile_bytes += u64::from(header.raw);
            if futile_bytes > FUTILE_BYTES_MAX {
                scan.is_complete = false;
                break;
            }
            position = window.next_magic(position + RECORD_ALIGN)?;
        }
    }
    Ok(scan)
}

/// A stretch of the file in memory.
struct Window<'a> {
    file: &'a dyn File,
    start: u64,
    bytes: Bytes,
    file_bytes: u64,
}

impl Window<'_> {
    /// `length` bytes at `position`, fewer if the file ends before.
    fn get(&mut self, position: u64, length: usize) -> Result<Bytes> {
        if position < self.start || position + length as u64 > self.start + self.bytes.len() as u64 {
            let rest = usize::try_from(self.file_bytes.saturating_sub(position)).unwrap_or(usize::MAX);
            let mut buffer = BytesMut::zeroed(length.max(WINDOW_BYTES).min(rest));
            let count = self.file.read_at(&mut buffer, position)?;
            buffer.truncate(count);
            self.start = position;
            self.bytes = buffer.freeze();
        }
        let from = (position - self.start) as usize;
        let to = (from + length).min(self.bytes.len());
        Ok(self.bytes.slice(from.min(to)..to))
    }

    /// The first aligned place at or after `position` where a record may start; the file's length if there is none.
    fn next_magic(&mut self, mut position: u64) -> Result<u64> {
        while position < self.file_bytes {
            let held_end = self.start + self.bytes.len() as u64;
            let left = if position >= self.start { held_end.saturating_sub(position) as usize } else { 0 };
            let ahead = self.get(position, left.max(RECORD_ALIGN as usize))?;
            let words = ahead.chunks(RECORD_ALIGN as usize);
            match words.into_iter().position(|word| word.starts_with(&RECORD_MAGIC)) {
                Some(index) => return Ok(position + index as u64 * RECORD_ALIGN),
                None => position += (ahead.len() as u64).next_multiple_of(RECORD_ALIGN).max(RECORD_ALIGN),
            }
        }
        Ok(self.file_bytes)
    }
}
