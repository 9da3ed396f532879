//! The re-chunker in front of the S3 door: any split of any body, within bounded memory.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use tombolo_s3::{ChunkMode, Rechunker};

fuzz_target!(|data: &[u8]| {
    let [flags, length, piece, body @ ..] = data else { return };
    let mode = if flags & 1 == 0 { ChunkMode::Unsigned } else { ChunkMode::Signed };
    let decoded = u64::from(*length) * 16;
    let mut rechunker = Rechunker::new(mode, decoded, 1 << 20, &["x-amz-checksum-crc32"]);
    let mut out = VecDeque::new();
    let fed = body
        .chunks(usize::from(*piece).max(1))
        .try_for_each(|piece| rechunker.push(Bytes::copy_from_slice(piece), &mut out))
        .and_then(|()| rechunker.finish(&mut out));
    let given: usize = out.iter().map(Bytes::len).sum();
    // Re-framing may add a header to each piece, and no more.
    assert!(given <= body.len() + 16 * body.len().div_ceil(usize::from(*piece).max(1)) + 64, "{given} bytes out");
    let _ = fed;
});
