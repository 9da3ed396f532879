//! The protocol doors that `serve` opens.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tombolo_core::{Result, Segment};
<<<<<<< HEAD
=======
use tombolo_s3::{S3Door, S3Limits, S3Options};
>>>>>>> cli

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
    mut stop: watch::Receiver<bool>,
) -> Result<Door> {
<<<<<<< HEAD
    let mut options = tombolo_s3::S3Options::default();
    options.limits.drain_timeout = drain;
    let door = tombolo_s3::S3Door::bind(segment, &[address], options).await?;
    let addresses = door.addresses()?;
    let serving = Box::pin(async move {
        door.serve(async move {
            let mut stop = stop;
            // An error means that who could say stop is gone, which is as good.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await;
    });
    Ok(Door { addresses, serving })
=======
    let limits = S3Limits { drain_timeout: drain, ..S3Limits::default() };
    let door = S3Door::bind(segment, &[address], S3Options { tenant: None, limits }).await?;
    let addresses = door.addresses()?;
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    Ok(Door { addresses, serving: Box::pin(door.serve(stopped)) })
>>>>>>> cli
}
