//! The command's side: a pool of connections, one operation at a time on each.

use super::{SOCKET_NAME, ShortDirectory};
use crate::wire::{Frame, FrameReader, PROTOCOL, write_frame};
use parking_lot::Mutex;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tombolo_core::{Error, ErrorKind, Result};

/// Idle connections that are kept for the next operation.
const IDLE_CONNECTIONS_MAX: usize = 64;
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// A way to the daemon of a directory.
pub(crate) struct Client {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// Connects to the daemon that has `dir`; `None` when none listens.
    pub(crate) async fn connect(dir: &Path) -> Result<Option<Client>> {
        match dial(dir).await? {
            Some(connection) => Ok(Some(Client { dir: dir.into(), idle: Mutex::new(vec![connection]) })),
            None => Ok(None),
        }
    }

    /// A connection with nothing under way.
    pub(crate) async fn take(&self) -> Result<Connection> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(connection) => Ok(connection),
            None => dial(&self.dir)
                .await?
                .ok_or_else(|| Error::new(ErrorKind::Failed, format!("the daemon on {} stopped", self.dir.display()))),
        }
    }

    /// Gives back a connection whose operation has ended on both sides.
    pub(crate) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }
}

async fn dial(dir: &Path) -> Result<Option<Connection>> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot reach the daemon through {}", dir.join(SOCKET_NAME).display()), e)
    };
    let short = match ShortDirectory::open(dir) {
        Ok(short) => short,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    match UnixStream::connect(short.join(SOCKET_NAME)).await {
        Ok(stream) => {
            let (reader, writer) = stream.into_split();
            let reader = FrameReader::new(reader);
            let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
            write_frame(&mut writer, Frame::Hello(PROTOCOL)).await?;
            Ok(Some(Connection { reader, writer }))
        }
        Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// One connection to the daemon.
pub(crate) struct Connection {
    reader: FrameReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
}

impl Connection {
    /// Writes a frame; it is on its way for sure only after [`Connection::flush`].
    pub(crate) async fn send(&mut self, frame: Frame) -> Result<()> {
        write_frame(&mut self.writer, frame).await
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        let broke = |e| Error::new(ErrorKind::Failed, "the control connection broke").because(e);
        self.writer.flush().await.map_err(broke)
    }

    /// The next frame from the daemon; its going away is an error.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        self.reader.next().await?.ok_or_else(|| {
            Error::new(
                ErrorKind::Failed,
                "the daemon stopped before it answered; what it had not acknowledged may be undone",
            )
        })
    }
}
