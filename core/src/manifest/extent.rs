//! One run of a content's bytes and where they come from.

use super::CONTENT_BYTES_MAX;
use crate::chunk::{CHUNK_BYTES_MAX, varint};
use crate::error::{Error, Result};
use crate::id::ChunkId;

/// A run of bytes of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Bytes of content it covers; never 0.
    pub length: u64,
    /// Where they come from.
    pub source: Source,
}

/// Where the bytes of an extent come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Nowhere: zeros that take no space.
    Hole,
    /// A chunk, or a part of one.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Where in the chunk the part starts, in bytes.
        offset: u32,
        /// Length of the whole chunk, in bytes.
        raw: u32,
    },
}

const HOLE: u8 = 0;
const WHOLE: u8 = 1;
const PART: u8 = 2;
/// A hole of a short length.
const EXTENT_BYTES_MIN: usize = 2;

impl Extent {
    /// `length` zeros.
    pub fn hole(length: u64) -> Extent {
        Extent { length, source: Source::Hole }
    }

    /// A whole chunk of `raw` bytes.
    pub fn chunk(id: ChunkId, raw: u32) -> Extent {
        Extent { length: raw.into(), source: Source::Chunk { id, offset: 0, raw } }
    }

    /// The bytes `from..to` of this extent, cut to its length; `None` if none are left.
    pub fn part(&self, from: u64, to: u64) -> Option<Extent> {
        let to = to.min(self.length);
        let length = to.checked_sub(from).filter(|length| *length > 0)?;
        let source = match self.source {
            Source::Hole => Source::Hole,
            Source::Chunk { id, offset, raw } => Source::Chunk { id, offset: offset + u32::try_from(from).ok()?, raw },
        };
        Some(Extent { length, source })
    }

    /// This extent and the one after it as one, if they are two holes or touching parts of one chunk.
    pub(super) fn join(&self, next: &Extent) -> Option<Extent> {
        let length = self.length.checked_add(next.length)?;
        match (self.source, next.source) {
            (Source::Hole, Source::Hole) => Some(Extent::hole(length)),
            (Source::Chunk { id, offset, raw }, Source::Chunk { id: next_id, offset: next_offset, raw: next_raw }) => {
                let touch =
                    id == next_id && raw == next_raw && u64::from(offset) + self.length == u64::from(next_offset);
                touch.then_some(Extent { length, source: self.source })
            }
            _ => None,
        }
    }

    /// Refuses an extent of nothing, and one that reaches beyond its chunk.
    pub(super) fn check(&self) -> Result<()> {
        let is_sound = match self.source {
            Source::Hole => self.length <= CONTENT_BYTES_MAX,
            Source::Chunk { offset, raw, .. } => {
                let end = self.length.checked_add(offset.into());
                raw <= CHUNK_BYTES_MAX && end.is_some_and(|end| end <= raw.into())
            }
        };
        if self.length == 0 || !is_sound {
            return Err(Error::damaged(format!("a manifest has an impossible extent: {self:?}")));
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self.source {
            Source::Hole => {
                out.push(HOLE);
                varint::put(out, self.length);
            }
            Source::Chunk { id, offset: 0, raw } if self.length == u64::from(raw) => {
                out.push(WHOLE);
                varint::put(out, self.length);
                out.extend(id.0);
            }
            Source::Chunk { id, offset, raw } => {
                out.push(PART);
                varint::put(out, self.length);
                out.extend(id.0);
                varint::put(out, offset.into());
                varint::put(out, raw.into());
            }
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Extent> {
        let cut_off = || Error::damaged("a manifest's extent is cut off");
        let (kind, rest) = input.split_first().ok_or_else(cut_off)?;
        *input = rest;
        let length = varint::take(input)?;
        let source = match *kind {
            HOLE => Source::Hole,
            WHOLE | PART => {
                let (id, rest) = input.split_first_chunk().ok_or_else(cut_off)?;
                *input = rest;
                let id = ChunkId(*id);
                if *kind == WHOLE {
                    let raw =
                        u32::try_from(length).map_err(|_| Error::damaged("a manifest has a chunk beyond 4 GiB"))?;
                    Source::Chunk { id, offset: 0, raw }
                } else {
                    let (offset, raw) = (varint::take_u32(input)?, varint::take_u32(input)?);
                    if offset == 0 && length == u64::from(raw) {
                        return Err(Error::damaged("a manifest lists a whole chunk as a part"));
                    }
                    Source::Chunk { id, offset, raw }
                }
            }
            _ => {
                return Err(Error::damaged(format!("a manifest has an extent of unknown kind {kind}")));
            }
        };
        let extent = Extent { length, source };
        extent.check()?;
        Ok(extent)
    }
}

/// Appends a count and the extents.
pub(super) fn encode_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    varint::put(out, extents.len() as u64);
    extents.iter().for_each(|extent| extent.encode(out));
}

/// Takes 1 to `count_max` extents off `input`, none of which could be joined with the next; gives their total length too.
pub(super) fn decode_extents(input: &mut &[u8], count_max: usize) -> Result<(Vec<Extent>, u64)> {
    let count = take_count(input, count_max, EXTENT_BYTES_MIN)?;
    let mut extents: Vec<Extent> = Vec::with_capacity(count);
    let mut total = 0u64;
    for _ in 0..count {
        let extent = Extent::decode(input)?;
        if extents.last().is_some_and(|last| last.join(&extent).is_some()) {
            return Err(Error::damaged("a manifest has two extents that should be one"));
        }
        total = add_length(total, extent.length)?;
        extents.push(extent);
    }
    Ok((extents, total))
}

/// Takes a count of entries, each at least `entry_bytes_min` long, that `input` can hold.
pub(super) fn take_count(input: &mut &[u8], count_max: usize, entry_bytes_min: usize) -> Result<usize> {
    let count = varint::take(input)?;
    let fits = count_max.min(input.len() / entry_bytes_min);
    match usize::try_from(count) {
        Ok(count) if count > 0 && count <= fits => Ok(count),
        _ => Err(Error::damaged(format!("a manifest claims {count} entries where 1 to {fits} can be"))),
    }
}

/// The sum of two lengths, if a content can be as long.
pub(super) fn add_length(total: u64, length: u64) -> Result<u64> {
    let sum = total.checked_add(length).filter(|sum| *sum <= CONTENT_BYTES_MAX);
    sum.ok_or_else(|| Error::invalid(format!("a content can't be longer than {CONTENT_BYTES_MAX} bytes")))
}
