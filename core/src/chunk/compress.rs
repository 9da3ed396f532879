//! Compression of single chunks, given up early where it does not pay.
//!
//! Most bytes that reach a store are compressed already. So a few samples are tried first; only if one of them shrinks
//! is the whole chunk compressed, and the result is kept if it saves at least a sixteenth.

use super::record::Codec;
use crate::error::{Error, Result};
use crate::policy::Compression;
use bytes::Bytes;
use std::cell::RefCell;

/// Length of one sample, in bytes.
const SAMPLE_BYTES: usize = 4 << 10;
/// Chunks shorter than this are compressed without sampling.
const SAMPLED_BYTES_MIN: usize = 32 << 10;
/// Chunks shorter than this are never compressed.
const COMPRESSED_BYTES_MIN: usize = 64;

thread_local! {
    /// zstd contexts are large and reusable; one of each per thread of the pool.
    static ZSTD: RefCell<Zstd> = RefCell::new(Zstd::default());
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Zstd {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

/// Calls `with` on the codec and payload to store for `raw`.
pub(super) fn compressed<T>(raw: &[u8], compression: Compression, with: impl FnOnce(Codec, &[u8]) -> T) -> T {
    if compression == Compression::None || raw.len() < COMPRESSED_BYTES_MIN {
        return with(Codec::Raw, raw);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if raw.len() >= SAMPLED_BYTES_MIN && !is_promising(raw, scratch) {
            return with(Codec::Raw, raw);
        }
        let (codec, length) = match compression {
            Compression::None => (Codec::Raw, None),
            Compression::Lz4 => (Codec::Lz4, lz4(raw, scratch)),
            Compression::Zstd => (Codec::Zstd, zstd(raw, scratch)),
        };
        match length.and_then(|length| scratch.get(..length)) {
            Some(payload) if saves(raw.len(), payload.len()) => with(codec, payload),
            _ => with(Codec::Raw, raw),
        }
    })
}

/// Undoes [`compressed`]: exactly `raw_bytes` bytes, which the caller has checked against the limit.
pub(super) fn expand(codec: Codec, payload: Bytes, raw_bytes: usize) -> Result<Bytes> {
    let mut raw = match codec {
        Codec::Raw => return Ok(payload),
        Codec::Lz4 | Codec::Zstd => vec![0; raw_bytes],
    };
    let length = if codec == Codec::Lz4 {
        lz4_flex::block::decompress_into(&payload, &mut raw)
            .map_err(|error| Error::damaged("its lz4 block can't be decoded").because(error))?
    } else {
        ZSTD.with_borrow_mut(|zstd| {
            let decompressor = match &mut zstd.decompressor {
                Some(decompressor) => decompressor,
                slot => slot.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(&payload[..], &mut raw[..])
        })
        .map_err(|error| Error::damaged("its zstd frame can't be decoded").because(error))?
    };
    if length != raw_bytes {
        return Err(Error::damaged(format!("it has {length} bytes instead of {raw_bytes}")));
    }
    Ok(Bytes::from(raw))
}

fn saves(raw_bytes: usize, stored_bytes: usize) -> bool {
    stored_bytes < raw_bytes - raw_bytes / 16
}

/// Whether a sample from the first quarter, the middle or the last quarter shrinks.
fn is_promising(raw: &[u8], scratch: &mut Vec<u8>) -> bool {
    [raw.len() / 8, raw.len() / 2, raw.len() - raw.len() / 8].into_iter().any(|middle| {
        let start = middle.saturating_sub(SAMPLE_BYTES / 2);
        let sample = raw.get(start..start + SAMPLE_BYTES).unwrap_or_default();
        lz4(sample, scratch).is_some_and(|length| saves(sample.len(), length))
            // Bytes that use few of the 256 values, text or numbers without repeats: for zstd's entropy coder.
            || is_uneven(sample)
    })
}

/// Whether some byte values are so much more common than others that an entropy coder gains a sixteenth or more.
fn is_uneven(sample: &[u8]) -> bool {
    let mut counts = [0u64; 256];
    for byte in sample {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    // The chance that two bytes are equal is 1/256 for noise (expected sum of squares: n²/256 + n).
    let n = sample.len() as u64;
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    n > 0 && squares > 2 * (n * n / 256 + n)
}

fn lz4(raw: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
    scratch.resize(scratch.len().max(lz4_flex::block::get_maximum_output_size(raw.len())), 0);
    lz4_flex::block::compress_into(raw, scratch).ok()
}

fn zstd(raw: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
    scratch.resize(scratch.len().max(raw.len()), 0);
    ZSTD.with_borrow_mut(|zstd| {
        let compressor = match &mut zstd.compressor {
            Some(compressor) => compressor,
            slot => slot.insert(zstd::bulk::Compressor::new(1).ok()?),
        };
        // A result longer than the input does not fit, which is an answer too.
        compressor.compress_to_buffer(raw, &mut scratch[..]).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn stored(raw: &[u8], compression: Compression) -> (Codec, Vec<u8>) {
        compressed(raw, compression, |codec, payload| (codec, payload.to_vec()))
    }

    #[test]
    fn text_shrinks_noise_stays_and_both_come_back() {
        let text: Vec<u8> = (0..40_000u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let half = [noise(200_000), vec![7; 100_000]].concat();
        for (raw, shrinks) in [(&text, true), (&noise(300_000), false), (&half, true), (&noise(20), false)] {
            for (compression, codec) in
                [(Compression::None, Codec::Raw), (Compression::Lz4, Codec::Lz4), (Compression::Zstd, Codec::Zstd)]
            {
                let (used, payload) = stored(raw, compression);
                assert_eq!(used, if shrinks { codec } else { Codec::Raw });
                if used != Codec::Raw {
                    assert!(payload.len() <= raw.len() - raw.len() / 16);
                }
                let back = expand(used, payload.into(), raw.len()).unwrap();
                assert!(back == raw);
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for codec in [Codec::Lz4, Codec::Zstd] {
            assert!(expand(codec, noise(100).into(), 1000).is_err());
            let text = vec![b'a'; 1000];
            let compression = if codec == Codec::Lz4 { Compression::Lz4 } else { Compression::Zstd };
            let (used, payload) = stored(&text, compression);
            assert_eq!(used, codec);
            assert!(expand(codec, payload.clone().into(), 999).is_err(), "too short for it");
            assert!(expand(codec, payload.into(), 1001).is_err(), "too long for it");
        }
    }
}
