//! The protocol doors that `serve` opens.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tombolo_core::{Result, Segment};
use tombolo_link::{LinkDoor, LinkLimits, LinkOptions};
use tombolo_nfs::{Export, Exports, NfsDoor, NfsLimits, NfsOptions};
use tombolo_s3::{S3Counts, S3Door, S3Limits, S3Options};

/// A door that listens already.
pub(crate) struct Door {
    /// Where.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Answers requests until it is told to stop and those under way have ended.
    pub(crate) serving: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// How many requests it has answered, of the S3 door.
    pub(crate) counts: Option<Arc<S3Counts>>,
}

/// Opens the S3 door on `address`. It serves until `stop` turns true, and gives requests under way `drain` to end.
pub(crate) async fn s3(
    segment: Segment,
    address: SocketAddr,
    domains: Vec<String>,
    drain: Duration,
    mut stop: watch::Receiver<bool>,
) -> Result<Door> {
    let limits = S3Limits { drain_timeout: drain, ..S3Limits::default() };
    let door = S3Door::bind(segment, &[address], S3Options { tenant: None, domains, limits }).await?;
    let (addresses, counts) = (door.addresses()?, Some(door.counts()));
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    Ok(Door { addresses, serving: Box::pin(door.serve(stopped)), counts })
}

/// Opens the NFS door on `address` and as a port mapper, for `exports` (none: every bucket, to this host), in the same way.
pub(crate) async fn nfs(
    segment: Segment,
    address: SocketAddr,
    port_mapper: Option<SocketAddr>,
    exports: Vec<Export>,
    drain: Duration,
    mut stop: watch::Receiver<bool>,
) -> Result<Door> {
    let exports = if exports.is_empty() { Exports::AllToLoopback } else { Exports::List(exports) };
    let limits = NfsLimits { drain_timeout: drain, ..NfsLimits::default() };
    let door = NfsDoor::bind(segment, &[address], NfsOptions { exports, port_mapper, limits }).await?;
    let addresses = door.addresses()?;
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    Ok(Door { addresses, serving: Box::pin(door.serve(stopped)), counts: None })
}

/// Opens the link door: it listens on `addresses` for segments that dial (none: nobody can), and dials the segments that it has links to.
pub(crate) async fn link(segment: Segment, addresses: &[SocketAddr]) -> Result<LinkDoor> {
    LinkDoor::open(segment, LinkOptions { listen: addresses.to_vec(), limits: LinkLimits::default() }).await
}
