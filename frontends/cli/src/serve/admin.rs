//! Metrics and health over HTTP. It answers GET and HEAD on three paths, takes no body and knows no secret.

use super::metrics::Metrics;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tombolo_core::{Error, Result};

const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for the head of a request, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a response under way may take after the signal to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The admin endpoint: bound, not yet serving.
pub(super) struct AdminDoor {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Arc<Metrics>,
}

impl AdminDoor {
    pub(super) async fn bind(address: SocketAddr, metrics: Arc<Metrics>) -> Result<AdminDoor> {
        let failed = |e| Error::io(format!("the admin address {address} cannot be listened on"), e);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics and health are open to whoever reaches this address");
        }
        Ok(AdminDoor { listener, address, metrics })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets responses under way end.
    pub(super) async fn serve(self, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let place = places.clone().acquire_owned();
            let accepted = async { (place.await, self.listener.accept().await) };
            let (place, stream) = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = accepted => accepted,
            };
            match stream {
                Ok((stream, _)) => {
                    let (metrics, stop) = (self.metrics.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, metrics, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors: others must end first.
                    tracing::warn!(%error, "the admin address cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            connections.shutdown().await;
        }
    }
}

async fn connection(stream: TcpStream, metrics: Arc<Metrics>, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let metrics = metrics.clone();
        async move {
            let (parts, _) = request.into_parts();
            Ok::<_, Infallible>(answer(&parts.method, parts.uri.path(), &metrics).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin address ended early");
    }
}

async fn answer(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
    }
    match path {
        "/metrics" => match metrics.text().await {
            Ok(text) => response(StatusCode::OK, METRICS, text),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/healthz" => response(StatusCode::OK, TEXT, "alive\n".into()),
        "/readyz" => match metrics.ready().await {
            Ok(text) => response(StatusCode::OK, TEXT, text),
            Err(text) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text),
        },
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

fn response(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
