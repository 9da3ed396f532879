//! Where operations are carried out: in this process on a directory it opened, or in the daemon that has the directory.
//! Verbs cannot tell the difference.

use crate::control::{Client, Connection};
use crate::execute::Exchange;
use crate::wire::{Frame, Operation, Refusal, decode, encode};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tombolo_core::{Error, ErrorKind, OpenOptions, Result, Segment, Subject};

/// How long a directory may be held by another command, or by a daemon that is about to open its socket or to end.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_RETRY: Duration = Duration::from_millis(25);

/// The segment that a command works on.
#[derive(Clone)]
pub(crate) enum Backend {
    /// Opened by this process.
    Here(Segment),
    /// In a daemon.
    Daemon(Arc<Client>),
}

impl Backend {
    /// Finds the daemon of `dir`, or opens it.
    pub(crate) async fn open(dir: &Path) -> Result<Backend> {
        let deadline = Instant::now() + BUSY_WAIT;
        loop {
            if let Some(client) = Client::connect(dir).await? {
                return Ok(Backend::Daemon(Arc::new(client)));
            }
            if !Segment::exists(dir) {
                return Err(Error::not_found(Subject::Segment, format!("there is no segment in {}", dir.display())));
            }
            match Segment::open(dir, OpenOptions::default()).await {
                Ok(segment) => return Ok(Backend::Here(segment)),
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts an operation that exchanges more than a question and an answer.
    pub(crate) async fn begin(&self, operation: Operation) -> Result<Call> {
        match self {
            Backend::Here(segment) => Ok(Call::Here(Exchange::start(segment, None, operation))),
            Backend::Daemon(client) => {
                let takes_input = operation.takes_input();
                let mut connection = client.take().await?;
                connection.send(Frame::Operation(encode(&operation)?)).await?;
                if !takes_input {
                    connection.flush().await?;
                }
                Ok(Call::Daemon(DaemonCall {
                    connection: Some(connection),
                    client: client.clone(),
                    takes_input,
                    is_over: false,
                }))
            }
        }
    }

    /// Carries out an operation that answers once.
    pub(crate) async fn call<R: DeserializeOwned>(&self, operation: Operation) -> Result<R> {
        self.begin(operation).await?.reply().await
    }

    /// Ends the work; a directory that was opened here is flushed and closed.
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Backend::Here(segment) => segment.close().await,
            Backend::Daemon(_) => Ok(()),
        }
    }
}

/// An operation under way. Dropping it cancels it.
pub(crate) enum Call {
    /// In this process.
    Here(Exchange),
    /// In the daemon.
    Daemon(DaemonCall),
}

/// An operation that a daemon carries out.
pub(crate) struct DaemonCall {
    /// Taken when the call is dropped.
    connection: Option<Connection>,
    client: Arc<Client>,
    takes_input: bool,
    /// Whether both sides have ended it, so that the connection can carry the next.
    is_over: bool,
}

impl Drop for DaemonCall {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.is_over
        {
            self.client.give_back(connection);
        }
    }
}

/// What comes out of an operation.
pub(crate) enum Piece<R> {
    /// Part of the answer, content or progress.
    Frame(Frame),
    /// The answer; nothing follows.
    Reply(R),
}

impl Call {
    /// Hands in a piece of content. `false`: the operation takes no more, since it has failed; [`Call::reply`] says why.
    pub(crate) async fn send(&mut self, frame: Frame) -> bool {
        match self {
            Call::Here(exchange) => exchange.send(frame).await,
            Call::Daemon(call) => {
                let Some(connection) = &mut call.connection else {
                    return false;
                };
                let last = frame == Frame::End;
                connection.send(frame).await.is_ok() && (!last || connection.flush().await.is_ok())
            }
        }
    }

    /// The next frame, or the reply.
    pub(crate) async fn next<R: DeserializeOwned>(&mut self) -> Result<Piece<R>> {
        let broke_off = || Error::new(ErrorKind::Failed, "the operation broke off; this is a bug of tombolo");
        let frame = match self {
            Call::Here(exchange) => exchange.next().await.ok_or_else(broke_off)?,
            Call::Daemon(call) => {
                let frame = call.connection.as_mut().ok_or_else(broke_off)?.next().await?;
                // After a failure input may still be under way; the daemon closes such a connection.
                call.is_over =
                    matches!(frame, Frame::Done(_)) || matches!(frame, Frame::Failed(_)) && !call.takes_input;
                frame
            }
        };
        match frame {
            Frame::Done(json) => Ok(Piece::Reply(decode(&json)?)),
            Frame::Failed(json) => Err(decode::<Refusal>(&json)?.into()),
            other => Ok(Piece::Frame(other)),
        }
    }

    /// The reply, passing over everything before it.
    pub(crate) async fn reply<R: DeserializeOwned>(mut self) -> Result<R> {
        loop {
            if let Piece::Reply(reply) = self.next().await? {
                return Ok(reply);
            }
        }
    }
}
