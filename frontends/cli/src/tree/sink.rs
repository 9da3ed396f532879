//! A file being written from frames, holes as holes.

use crate::wire::Frame;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const PIECES_AHEAD: usize = 2;

/// A file being written on a thread of its own.
pub(crate) struct Sink {
    frames: mpsc::Sender<Frame>,
    writer: JoinHandle<io::Result<File>>,
}

impl Sink {
    /// Writes to `file`, from its beginning; `size` bytes are expected.
    pub(crate) fn write(file: File, size: u64) -> Sink {
        let (frames, taken) = mpsc::channel(PIECES_AHEAD);
        let writer = tokio::task::spawn_blocking(move || pump(file, size, taken));
        Sink { frames, writer }
    }

    /// Hands in data or a hole; `false` when writing has failed, for which [`Sink::finish`] has the reason.
    pub(crate) async fn send(&mut self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    /// Waits until all is handed to the file system; refuses a content of another size than expected.
    pub(crate) async fn finish(self) -> io::Result<File> {
        drop(self.frames);
        self.writer.await.map_err(io::Error::other)?
    }
}

fn pump(file: File, size: u64, mut frames: mpsc::Receiver<Frame>) -> io::Result<File> {
    let can_seek = file.metadata()?.is_file();
    let mut offset = 0u64;
    while let Some(frame) = frames.blocking_recv() {
        match frame {
            Frame::Data(data) if can_seek => {
                file.write_all_at(&data, offset)?;
                offset += data.len() as u64;
            }
            Frame::Data(data) => {
                io::Write::write_all(&mut &file, &data)?;
                offset += data.len() as u64;
            }
            Frame::Hole(length) => {
                if !can_seek {
                    io::copy(&mut io::Read::take(io::repeat(0), length), &mut &file)?;
                }
                offset = offset.saturating_add(length);
            }
            _ => {}
        }
    }
    if offset != size {
        let what = format!("{offset} bytes came instead of {size}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    if can_seek {
        // A hole at the end is written by nobody.
        file.set_len(size)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn data_and_holes_make_the_file() {
        let file = tempfile::tempfile().unwrap();
        let mut sink = Sink::write(file, 3 + (1 << 20) + 2 + 100);
        assert!(sink.send(Frame::Data(Bytes::from_static(b"abc"))).await);
        assert!(sink.send(Frame::Hole(1 << 20)).await);
        assert!(sink.send(Frame::Data(Bytes::from_static(b"de"))).await);
        assert!(sink.send(Frame::Hole(100)).await);
        let file = sink.finish().await.unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 + (1 << 20) + 2 + 100);
        let mut piece = [9; 6];
        file.read_exact_at(&mut piece, 1 << 20).unwrap();
        assert_eq!(&piece, b"\0\0\0de\0");
    }

    #[tokio::test]
    async fn a_content_that_ends_early_is_refused() {
        let mut sink = Sink::write(tempfile::tempfile().unwrap(), 10);
        assert!(sink.send(Frame::Data(Bytes::from_static(b"abc"))).await);
        assert!(sink.finish().await.is_err());
    }
}
