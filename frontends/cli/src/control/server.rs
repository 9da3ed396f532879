//! The daemon's side: accepts connections and passes frames between each and the operation under way on it.

use super::{SOCKET_NAME, ShortDirectory};
use crate::execute::{Exchange, refusal};
use crate::hosted::Hosted;
use crate::wire::{Frame, FrameReader, Operation, PROTOCOL, decode, write_frame};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tombolo_core::{Error, ErrorKind, Result, Segment};

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Counters of the control socket.
#[derive(Default)]
pub(crate) struct ControlMetrics {
    /// Operations started.
    pub(crate) operations: AtomicU64,
    /// Operations that ended with an error.
    pub(crate) failures: AtomicU64,
}

/// The control socket of a daemon; the file goes when this is dropped.
pub(crate) struct ControlDoor {
    listener: UnixListener,
    path: PathBuf,
    metrics: Arc<ControlMetrics>,
}

impl Drop for ControlDoor {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
        }
    }
}

impl ControlDoor {
    /// Opens the socket in `dir`, which this process must own: whatever socket is there is a dead daemon's.
    pub(crate) fn open(dir: &Path) -> Result<ControlDoor> {
        let failed = |e: std::io::Error| {
            Error::io(format!("cannot make the control socket {}", dir.join(SOCKET_NAME).display()), e)
        };
        let short = ShortDirectory::open(dir).map_err(failed)?;
        let draft = short.join("control.new");
        match std::fs::remove_file(&draft) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&draft, short.join(SOCKET_NAME)).map_err(failed)?;
        Ok(ControlDoor { listener, path: dir.join(SOCKET_NAME), metrics: Arc::default() })
    }

    pub(crate) fn metrics(&self) -> Arc<ControlMetrics> {
        self.metrics.clone()
    }

    /// Serves until the daemon stops and the operations under way have ended.
    pub(crate) async fn serve(self, segment: Segment, hosted: Hosted) {
        let mut stop = hosted.stopped.clone();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let stream = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                stream = accept(&self.listener, &places) => stream,
            };
            let (stream, place) = match stream {
                Ok(Some(accepted)) => accepted,
                Ok(None) => break,
                Err(error) => {
                    // Out of descriptors or memory: others must end first.
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (segment, hosted) = (segment.clone(), hosted.clone());
            let (metrics, stop) = (self.metrics.clone(), stop.clone());
            connections.spawn(async move {
                if let Err(error) = serve_connection(stream, segment, hosted, metrics, stop).await {
                    tracing::debug!(%error, "a control connection ended");
                }
                drop(place);
            });
        }
        // New work is refused from here on, while what is under way ends.
        drop(self);
        drop(segment);
        while connections.join_next().await.is_some() {}
    }
}

type Accepted = (UnixStream, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &UnixListener, places: &Arc<Semaphore>) -> std::io::Result<Option<Accepted>> {
    // A closed semaphore cannot be: nobody closes it.
    let Ok(place) = places.clone().acquire_owned().await else {
        return Ok(None);
    };
    let (stream, _) = listener.accept().await?;
    Ok(Some((stream, place)))
}

async fn serve_connection(
    stream: UnixStream,
    segment: Segment,
    hosted: Hosted,
    metrics: Arc<ControlMetrics>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let peer = stream.peer_cred().map_err(|e| Error::io("the caller's identity is not known", e))?;
    let own = rustix::process::geteuid().as_raw();
    let (reader, writer) = stream.into_split();
    let mut reader = FrameReader::new(reader);
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
    if peer.uid() != own && peer.uid() != 0 {
        let denied = Error::new(ErrorKind::Denied, format!("the daemon serves user {own} only"));
        return answer(&mut writer, refusal(&denied)).await;
    }
    let first = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
        first = reader.next() => first?,
    };
    match first {
        None => return Ok(()),
        Some(Frame::Hello(PROTOCOL)) => {}
        Some(_) => {
            let other = Error::invalid("the daemon is another version of tombolo than this command; restart it");
            return answer(&mut writer, refusal(&other)).await;
        }
    }
    loop {
        let frame = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            frame = reader.next() => frame?,
        };
        let operation: Operation = match frame {
            None => return Ok(()),
            Some(Frame::Operation(json)) => match decode(&json) {
                Ok(operation) => operation,
                Err(error) => return answer(&mut writer, refusal(&error)).await,
            },
            Some(_) => {
                return Err(Error::invalid("an operation was expected on the control connection"));
            }
        };
        metrics.operations.fetch_add(1, Ordering::Relaxed);
        let takes_input = operation.takes_input();
        let exchange = Exchange::start(&segment, Some(hosted.clone()), operation);
        let outcome = pass(exchange, takes_input, &mut reader, &mut writer).await;
        match outcome? {
            Outcome::Done => {}
            Outcome::Failed => {
                metrics.failures.fetch_add(1, Ordering::Relaxed);
                if takes_input {
                    return Ok(());
                }
            }
            Outcome::Gone => return Ok(()),
        }
    }
}

enum Outcome {
    Done,
    Failed,
    /// The client went away; the operation was cancelled.
    Gone,
}

/// Passes frames both ways until the operation ends.
async fn pass(
    mut exchange: Exchange,
    takes_input: bool,
    reader: &mut FrameReader<OwnedReadHalf>,
    writer: &mut BufWriter<OwnedWriteHalf>,
) -> Result<Outcome> {
    let mut open = takes_input;
    loop {
        tokio::select! {
            // An operation that has ended must be seen to have, so that no input is read in vain.
            biased;
            frame = exchange.next() => match frame {
                Some(frame @ Frame::Done(_)) => {
                    answer(writer, frame).await?;
                    return if open {
                        // It was content without the end of the input: the stream can't be followed any further.
                        Ok(Outcome::Gone)
                    } else {
                        Ok(Outcome::Done)
                    };
                }
                Some(frame @ Frame::Failed(_)) => {
                    answer(writer, frame).await?;
                    return Ok(Outcome::Failed);
                }
                Some(frame @ Frame::Progress(..)) => answer(writer, frame).await?,
                Some(frame) => write_frame(writer, frame).await?,
                None => {
                    let failed = Error::new(ErrorKind::Failed, "the operation broke off inside the daemon; see its log");
                    answer(writer, refusal(&failed)).await?;
                    return Ok(Outcome::Gone);
                }
            },
            frame = reader.next() => match frame? {
                Some(frame @ (Frame::Data(_) | Frame::Hole(_) | Frame::End)) if open => {
                    open = frame != Frame::End;
                    // When it takes no more it has failed, and says so next.
                    exchange.send(frame).await;
                }
                Some(_) => return Err(Error::invalid("input came that no operation takes")),
                None => return Ok(Outcome::Gone),
            },
        }
    }
}

async fn answer(writer: &mut BufWriter<OwnedWriteHalf>, frame: Frame) -> Result<()> {
    write_frame(writer, frame).await?;
    let broke = |e| Error::new(ErrorKind::Failed, "the control connection broke").because(e);
    writer.flush().await.map_err(broke)
}
