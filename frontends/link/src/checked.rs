//! What is looked at in a message before it is decoded.

use crate::wire::{Frame, Hello, WANTED_CHUNKS_MAX};
use bytes::{Buf, Bytes};
use prost::DecodeError;
use tombolo_core::{Error, Result};

/// Of [`Body::Chunks`] in a frame, and of a chunk in that.
const CHUNKS_TAG: u32 = 11;
const CHUNK_TAG: u32 = 2;

/// What is looked at before a message is decoded.
pub trait Checked {
    /// Refuses what would take far more memory than its bytes.
    fn check(_: &Bytes) -> Result<()> {
        Ok(())
    }
}

impl Checked for Hello {}

impl Checked for Frame {
    fn check(bytes: &Bytes) -> Result<()> {
        check_counts(bytes.clone())
    }
}

/// Refuses a frame with more chunks than anybody can have asked for: an empty one is 2 bytes here and many times that once it is decoded.
fn check_counts(frame: Bytes) -> Result<()> {
    let unreadable = |e| Error::damaged("a frame can't be understood").because(e);
    let mut count = 0;
    fields(frame, |tag, body| match tag {
        CHUNKS_TAG => fields(body, |tag, _| {
            count += usize::from(tag == CHUNK_TAG);
            Ok(())
        }),
        _ => Ok(()),
    })
    .map_err(unreadable)?;
    if count > WANTED_CHUNKS_MAX {
        return Err(Error::damaged(format!("a frame with {count} chunks; at most {WANTED_CHUNKS_MAX} are asked for")));
    }
    Ok(())
}

/// The fields of a message that are bytes.
fn fields(
    mut message: Bytes,
    mut each: impl FnMut(u32, Bytes) -> std::result::Result<(), DecodeError>,
) -> std::result::Result<(), DecodeError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    while message.has_remaining() {
        let (tag, kind) = decode_key(&mut message)?;
        if kind != WireType::LengthDelimited {
            skip_field(kind, tag, &mut message, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        if length > message.remaining() {
            // What decodes it says so.
            return Ok(());
        }
        each(tag, message.split_to(length))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Body, Chunk, Chunks, read};
    use prost::Message;

    /// P13: a frame of chunks that are nothing took fifty times its length.
    #[tokio::test]
    async fn chunks_are_counted_before_they_are_kept() {
        for (count, is_taken) in [(WANTED_CHUNKS_MAX, true), (WANTED_CHUNKS_MAX + 1, false)] {
            let chunks = Chunks { request: 1, chunks: vec![Chunk::default(); count], is_last: true };
            let frame = Frame { body: Some(Body::Chunks(chunks)) };
            let bytes = frame.encode_to_vec();
            let stream = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
            let found = read::<Frame>(&mut &stream[..], 1 << 20).await;
            assert_eq!(found.map(|found| found.map(|(frame, _)| frame)).ok(), is_taken.then_some(Some(frame)));
        }
    }
}
