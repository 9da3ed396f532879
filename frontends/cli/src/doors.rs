//! The protocol doors that `serve` opens.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tombolo_core::{Error, ErrorKind, Result, Segment};

/// A door that listens already.
pub(crate) struct Door {
    /// Where.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Answers requests until it is told to stop and those under way have ended.
    pub(crate) serving: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Opens the S3 door on `address`. It serves until `stop` turns true, and gives requests under way `drain` to end.
pub(crate) async fn s3(
    segment: Segment,
    address: SocketAddr,
    drain: Duration,
    stop: watch::Receiver<bool>,
) -> Result<Door> {
    drop((segment, drain, stop));
    Err(Error::new(ErrorKind::Failed, format!("S3 on {address}: this build has no S3 door")))
}
