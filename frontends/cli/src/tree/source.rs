//! A file's content as frames: data in pieces, holes as such.

use crate::wire::Frame;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use tokio::sync::mpsc;

/// Bytes read at once.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Pieces read ahead.
const PIECES_AHEAD: usize = 2;

/// A file being read on a thread of its own. It ends with its last frame, or an error.
pub(crate) struct Source {
    frames: mpsc::Receiver<io::Result<Frame>>,
}

impl Source {
    /// Reads all of `file`. A regular file that gets shorter meanwhile gives an error; what is appended meanwhile is left.
    pub(crate) fn read(file: File) -> Source {
        let (give, frames) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = pump(&file, &give) {
                // A receiver that is gone has lost interest.
                let _ = give.blocking_send(Err(error));
            }
        });
        Source { frames }
    }

    /// The next frame; `None` at the end of the file.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Frame>> {
        self.frames.recv().await
    }
}

type Give = mpsc::Sender<io::Result<Frame>>;

fn pump(file: &File, give: &Give) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return pump_stream(file, give);
    }
    let size = metadata.len();
    let mut offset = 0;
    while offset < size {
        let (start, end) = next_data(file, offset, size)?;
        if start > offset && give.blocking_send(Ok(Frame::Hole(start - offset))).is_err() {
            return Ok(());
        }
        let mut at = start;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut buffer = vec![0; piece];
            file.read_exact_at(&mut buffer, at)?;
            at += piece as u64;
            if give.blocking_send(Ok(Frame::Data(Bytes::from(buffer)))).is_err() {
                return Ok(());
            }
        }
        offset = end;
    }
    Ok(())
}

/// A pipe or a device: to its end.
fn pump_stream(mut file: &File, give: &Give) -> io::Result<()> {
    loop {
        let mut buffer = Vec::with_capacity(PIECE_BYTES);
        file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut buffer)?;
        if buffer.is_empty() || give.blocking_send(Ok(Frame::Data(Bytes::from(buffer)))).is_err() {
            return Ok(());
        }
    }
}

/// The stretch of data at or after `offset`, as (start, end); `(size, size)` when a hole reaches to the end.
/// A file system that knows nothing of holes has data everywhere.
pub(super) fn next_data(file: &File, offset: u64, size: u64) -> io::Result<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(Errno::INVAL) => return Ok((offset, size)),
        Err(error) => return Err(error.into()),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end,
        // The file has got shorter: reading says so.
        Err(Errno::NXIO | Errno::INVAL) => size,
        Err(error) => return Err(error.into()),
    };
    let start = start.clamp(offset, size);
    // Whatever the file system says, the next search starts further on.
    let end = if end > start { end.min(size) } else { size };
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(file: File) -> Vec<Frame> {
        let mut source = Source::read(file);
        let mut frames = Vec::new();
        while let Some(frame) = source.next().await {
            frames.push(frame.unwrap());
        }
        frames
    }

    #[tokio::test]
    async fn content_comes_whole_and_holes_stay_holes() {
        let file = tempfile::tempfile().unwrap();
        let data = vec![7; PIECE_BYTES + 5];
        file.write_all_at(&data, 1 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        let frames = frames(file).await;
        let mut content = Vec::new();
        for frame in &frames {
            match frame {
                Frame::Data(piece) => content.extend_from_slice(piece),
                Frame::Hole(length) => content.resize(content.len() + *length as usize, 0),
                other => panic!("{other:?}"),
            }
        }
        let mut expected = vec![0; 4 << 20];
        expected[1 << 20..][..data.len()].copy_from_slice(&data);
        assert!(content == expected);
        // Not every file system that tests run on knows holes; where one does, it must be used.
        if frames.iter().any(|frame| matches!(frame, Frame::Hole(_))) {
            assert_eq!(frames.first(), Some(&Frame::Hole(1 << 20)));
        }
    }

    #[tokio::test]
    async fn an_empty_file_gives_nothing() {
        assert!(frames(tempfile::tempfile().unwrap()).await.is_empty());
    }
}
