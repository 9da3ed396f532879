//! Listening, connections and shutdown.

use crate::auth::Keys;
use crate::gate::Gate;
use crate::host::Domains;
use crate::ops::Operations;
use crate::options::{S3Limits, S3Options};
use crate::requests::S3Counts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tombolo_core::{Error, Result, Segment};

/// How long accepting pauses when the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client that takes nothing of its answer for so many times [`S3Limits::body_timeout`] is let go. That much, because the system tells of progress only when a good part of its
/// send buffer is free: a slow client may take a minute or two for that.
const ANSWER_PATIENCE: u32 = 10;

/// An S3 endpoint over one segment: bound, not yet serving.
///
/// Life: [`S3Door::bind`] listens (connections wait in the kernel's queue), [`S3Door::serve`] answers until its shutdown
/// future is done, then stops listening, lets requests in flight end and returns.
pub struct S3Door {
    listeners: Vec<TcpListener>,
    gate: Arc<Gate>,
    limits: S3Limits,
}

impl S3Door {
    /// Listens on `addresses` (port 0: any free one).
    ///
    /// # Errors
    /// `Failed` or `Denied`, naming the address.
    pub async fn bind(segment: Segment, addresses: &[SocketAddr], options: S3Options) -> Result<S3Door> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|e| Error::io(format!("the S3 door can't listen on {address}"), e))?);
        }
        Ok(S3Door::with_listeners(segment, listeners, options))
    }

    /// Takes over sockets that listen already.
    pub fn with_listeners(segment: Segment, listeners: Vec<TcpListener>, options: S3Options) -> S3Door {
        let keys = Keys::new(&segment, options.tenant);
        let limits = options.limits;
        let operations = Operations { segment, limits: limits.clone() };
        let domains = Domains::new(&options.domains);
        S3Door { listeners, gate: Arc::new(Gate::new(operations, keys, domains, limits.clone())), limits }
    }

    /// Where it listens, in the order of the addresses it was bound to.
    ///
    /// # Errors
    /// `Failed` when the system does not say.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let address =
            |l: &TcpListener| l.local_addr().map_err(|e| Error::io("the S3 door does not know its address", e));
        self.listeners.iter().map(address).collect()
    }

    /// How many requests it has answered; counts on while it serves.
    pub fn counts(&self) -> Arc<S3Counts> {
        self.gate.counts()
    }

    /// Answers requests until `shutdown` is done, then ends: no new connections, idle ones are closed, requests in
    /// flight get [`S3Limits::drain_timeout`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        let graceful = Arc::new(GracefulShutdown::new());
        let mut accepting = JoinSet::new();
        let connections = Arc::new(parking_lot::Mutex::new(JoinSet::new()));
        for listener in self.listeners {
            let (gate, limits, slots) = (self.gate.clone(), self.limits.clone(), slots.clone());
            let (graceful, connections) = (graceful.clone(), connections.clone());
            accepting.spawn(async move {
                let builder = builder(&limits);
                loop {
                    let Ok(slot) = slots.clone().acquire_owned().await else {
                        return;
                    };
                    let stream = match listener.accept().await {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            tracing::warn!(%error, "the S3 door can't accept a connection");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                            continue;
                        }
                    };
                    let connection =
                        connection(&builder, stream, gate.clone(), limits.body_timeout.saturating_mul(ANSWER_PATIENCE));
                    let connection = graceful.watch(connection);
                    let mut connections = connections.lock();
                    while connections.try_join_next().is_some() {}
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a connection of the S3 door ended early");
                        }
                        drop(slot);
                    });
                }
            });
        }
        shutdown.await;
        accepting.shutdown().await;
        let Ok(graceful) = Arc::try_unwrap(graceful) else {
            tracing::error!("a listener of the S3 door outlived its shutdown");
            return;
        };
        if tokio::time::timeout(self.limits.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still running when the S3 door closed");
        }
        connections.lock().abort_all();
    }
}

/// [`S3Door::bind`] and [`S3Door::serve`] in one.
///
/// # Errors
/// Those of [`S3Door::bind`].
pub async fn serve(
    segment: Segment,
    addresses: &[SocketAddr],
    options: S3Options,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    S3Door::bind(segment, addresses, options).await?.serve(shutdown).await;
    Ok(())
}

/// HTTP/1.1, which is what S3's clients speak. Who says nothing, or idles, is let go after [`S3Limits::header_timeout`].
fn builder(limits: &S3Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.read_buffer_bytes.max(16 << 10))
        .writev(true);
    builder
}

/// One connection, answering through `gate`. Head and body of a small answer leave in one write, unhindered by Nagle. A client that takes nothing of its
/// answer for `patience` is let go.
fn connection(
    builder: &http1::Builder,
    stream: TcpStream,
    gate: Arc<Gate>,
    patience: Duration,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + 'static {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience));
    let service = service_fn(move |request| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(gate.handle(request).await) }
    });
    builder.serve_connection(TokioIo::new(Box::pin(stream)), service)
}
