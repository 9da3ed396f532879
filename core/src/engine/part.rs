//! Small parts of long chunks, read without the rest of them.

use super::contents::Contents;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A part is small up to this part of its chunk.
const SMALL_PART: u32 = 4;

impl Contents {
    /// The verified bytes of `part` of the chunk `id`, which has `raw` bytes. Who reads here and there pays for what they read; what is read again and again is
    /// kept whole. `Damaged` if there is less of the chunk than that.
    pub(crate) async fn read_part(self: &Arc<Self>, id: &ChunkId, raw: u32, part: Range<u32>) -> Result<Bytes> {
        let is_small = part.start < part.end && (part.end - part.start) <= raw / SMALL_PART;
        if is_small
            && !self.cache.has(id)
            && !self.cache.wants_whole(id)
            && let Some(location) = self.locate(id).await?
            && let Some(bytes) = self.packs().read_part(id, &location, part.clone())?
        {
            self.disk_cache.touch(&location);
            self.counters.cache_misses.fetch_add(1, Ordering::Relaxed);
            self.counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Ok(bytes);
        }
        let chunk = self.read_chunk(id, true).await?;
        cut(&chunk, part.start as usize..part.end as usize)
    }
}

/// A part of a chunk, as a manifest refers to it. A small one is a copy: whoever keeps it would keep all of the chunk.
pub(super) fn cut(chunk: &Bytes, part: Range<usize>) -> Result<Bytes> {
    if part.start > part.end || part.end > chunk.len() {
        return Err(Error::damaged("a manifest refers to more of a chunk than there is"));
    }
    if part.len() < chunk.len() / 4 {
        return Ok(chunk.get(part).map(Bytes::copy_from_slice).unwrap_or_default());
    }
    Ok(chunk.slice(part))
}
