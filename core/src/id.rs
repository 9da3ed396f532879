//! Identities: fixed-size byte strings, each with one text form.

use crate::error::{Error, Result};
use std::fmt;

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// From exactly [`Self::LEN`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                match bytes.try_into() {
                    Ok(array) => Ok($name(array)),
                    Err(_) => Err(Error::damaged(format!(
                        "{} of {} bytes instead of {}", stringify!($name), bytes.len(), $len
                    ))),
                }
            }

            /// From lower- or upper-case hexadecimal.
            pub fn from_hex(text: &str) -> Result<Self> {
                let bad = || Error::invalid(format!("'{text}' is not {} hexadecimal digits", $len * 2));
                let mut out = [0u8; $len];
                if text.len() != $len * 2 {
                    return Err(bad());
                }
                for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
                }
                Ok($name(out))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().take(4).try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    };
}

byte_id!(
    /// A segment: random, made once by `create`.
    SegmentId,
    16
);
byte_id!(
    /// A node (file, directory, symlink, special file): random for files; for directories a hash
    /// of parent, name and the tombstones it replaces, so that two segments that make the same directory make the same node.
    NodeId,
    16
);
byte_id!(
    /// A bucket: a hash of its path and of the tombstones it replaces.
    BucketId,
    16
);
byte_id!(
    /// BLAKE3 of a chunk's bytes, before compression.
    ChunkId,
    32
);

impl NodeId {
    /// The root directory of every bucket.
    pub const ROOT: NodeId = NodeId([0; 16]);
}

impl ChunkId {
    /// The id of `data`.
    pub fn of(data: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(data).as_bytes())
    }
}

/// Names one version of an object for good: the stamp and dot of the write that made it.
///
/// Text form: `null` for versions written while the bucket kept none (as S3 does), else 43 characters of URL-safe base64
/// over 32 bytes: stamp, segment, sequence, each big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VersionId {
    /// The one version without an id.
    Null,
    /// A version with an id of its own.
    Id {
        /// Hybrid logical clock reading of the write.
        stamp: u64,
        /// The segment that wrote it.
        segment: SegmentId,
        /// That segment's sequence number.
        sequence: u64,
    },
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl VersionId {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<VersionId> {
        if text == "null" {
            return Ok(VersionId::Null);
        }
        let bad = || Error::invalid(format!("'{text}' is not a version id"));
        if text.len() != 43 {
            return Err(bad());
        }
        let out = base64_decode(text).ok_or_else(bad)?;
        match VersionId::from_bytes(&out) {
            // `null` has no other text.
            Ok(VersionId::Null) | Err(_) => Err(bad()),
            Ok(id) => Ok(id),
        }
    }

    /// The 32 bytes behind the text form; all zero for [`VersionId::Null`].
    pub fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        if let VersionId::Id { stamp, segment, sequence } = self {
            let fields = stamp.to_be_bytes().into_iter().chain(segment.0).chain(sequence.to_be_bytes());
            out.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
        }
        out
    }

    /// From the 32 bytes behind the text form.
    pub fn from_bytes(bytes: &[u8]) -> Result<VersionId> {
        let damaged = || Error::damaged("a version id is not 32 bytes long");
        let all: [u8; 32] = bytes.try_into().map_err(|_| damaged())?;
        if all == [0; 32] {
            return Ok(VersionId::Null);
        }
        let (stamp, rest) = all.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (segment, sequence) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
        Ok(VersionId::Id {
            stamp: u64::from_be_bytes(*stamp),
            segment: SegmentId(*segment),
            sequence: u64::from_be_bytes(sequence.try_into().map_err(|_| damaged())?),
        })
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == VersionId::Null {
            return f.write_str("null");
        }
        f.write_str(&base64_encode(&self.to_bytes()))
    }
}

/// URL-safe base64 without padding (RFC 4648, section 5).
pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    let (mut bits, mut count) = (0u32, 0u32);
    let mut put = |digit: u32| out.push(BASE64.get((digit & 63) as usize).copied().unwrap_or(b'A').into());
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 6 {
            count -= 6;
            put(bits >> count);
            bits &= (1 << count) - 1;
        }
    }
    if count > 0 {
        put(bits << (6 - count));
    }
    out
}

/// What [`base64_encode`] wrote; `None` for any other text.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u32);
    for c in text.bytes() {
        let digit = BASE64.iter().position(|&b| b == c)?;
        bits = (bits << 6) | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // Neither a digit too many nor bits behind the last byte.
    (count < 6 && bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ids_survive_their_text() {
        for stamp in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let id = VersionId::Id { stamp, segment: SegmentId([7; 16]), sequence: stamp ^ 99 };
            let text = id.to_string();
            assert_eq!(text.len(), 43);
            assert_eq!(VersionId::parse(&text).unwrap(), id);
        }
        assert_eq!(VersionId::parse("null").unwrap(), VersionId::Null);
        for bad in ["", "nul", "x", &"A".repeat(42), &"A".repeat(43), &"*".repeat(43), &"_".repeat(43)] {
            assert!(VersionId::parse(bad).is_err(), "{bad}");
        }
    }
}
