//! Where a chunk's record is: what the metadata keeps for each chunk.

use super::pack::ENTRY_BYTES;
use super::record::{CHUNK_BYTES_MAX, Codec, RECORD_ALIGN, RecordHeader};
use super::varint;
use crate::error::{Error, Result};
use crate::id::ChunkId;

/// First byte of an encoded location.
const VERSION: u8 = 1;

/// Where a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Number of the pack.
    pub pack: u64,
    /// Where its record (the header) starts in the pack file, in bytes; a multiple of 8.
    pub offset: u64,
    /// Length of the payload as stored, in bytes, without header and padding.
    pub stored: u32,
    /// Length of the chunk, in bytes.
    pub raw: u32,
}

impl Location {
    /// What its record and its entry in the pack's index take, in bytes.
    pub fn pack_bytes(&self) -> u64 {
        let codec = if self.stored == self.raw { Codec::Raw } else { Codec::Lz4 };
        let has_tree = RecordHeader::takes_tree(codec, self.raw);
        let header = RecordHeader { codec, id: ChunkId([0; 32]), raw: self.raw, stored: self.stored, has_tree };
        header.record_bytes() + ENTRY_BYTES
    }

    /// A version byte and four varints: pack, offset / 8, stored, raw; 9 to 12 bytes as a rule.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.push(VERSION);
        varint::put(&mut out, self.pack);
        varint::put(&mut out, self.offset / RECORD_ALIGN);
        varint::put(&mut out, self.stored.into());
        varint::put(&mut out, self.raw.into());
        out
    }

    /// Reads what [`Location::encode`] wrote. `Invalid` for a version this build does not know, else `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Location> {
        let mut input = match bytes.split_first() {
            Some((&VERSION, rest)) => rest,
            Some((version, _)) => {
                return Err(Error::invalid(format!(
                    "a chunk location has format version {version}; this build reads {VERSION}"
                )));
            }
            None => return Err(Error::damaged("a chunk location is empty")),
        };
        let input = &mut input;
        let pack = varint::take(input)?;
        let offset = varint::take(input)?
            .checked_mul(RECORD_ALIGN)
            .ok_or_else(|| Error::damaged("a chunk location has an offset beyond 64 bits"))?;
        let location = Location { pack, offset, stored: varint::take_u32(input)?, raw: varint::take_u32(input)? };
        if !input.is_empty() {
            return Err(Error::damaged("a chunk location has bytes left over"));
        }
        location.check()?;
        Ok(location)
    }

    /// Refuses lengths that no record has.
    pub(super) fn check(&self) -> Result<()> {
        if self.raw == 0 || self.raw > CHUNK_BYTES_MAX || self.stored == 0 || self.stored > self.raw {
            let Location { stored, raw, .. } = self;
            return Err(Error::damaged(format!("a chunk of {raw} bytes, {stored} stored, can't be")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_survive_their_bytes() {
        for location in [
            Location { pack: 0, offset: 64, stored: 1, raw: 1 },
            Location { pack: u64::MAX, offset: !7, stored: 5, raw: CHUNK_BYTES_MAX },
            Location { pack: 77, offset: 250 << 20, stored: 200_000, raw: 262_144 },
        ] {
            let bytes = location.encode();
            assert_eq!(Location::decode(&bytes).unwrap(), location);
            for cut in 0..bytes.len() {
                assert!(Location::decode(&bytes[..cut]).is_err());
            }
            assert!(Location::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        let bad = Location { pack: 1, offset: 64, stored: 2, raw: 1 };
        assert!(Location::decode(&bad.encode()).is_err(), "stored beyond raw");
        assert!(Location::decode(&[2, 0, 0, 1, 1]).unwrap_err().message().contains("version 2"));
    }
}
