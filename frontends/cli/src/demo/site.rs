//! One of the two sites.

use super::{BUCKET, tenant};
use crate::arguments::{DemoArgs, ServeArgs};
use crate::mounts::Mounts;
use crate::serve::{self, Daemon, Running};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tombolo_core::{BucketPath, BucketPolicy, Error, ErrorKind, Result, Segment, TenantPath};
use tombolo_link::LinkDoor;

/// NFS is this far above S3.
const NFS_ABOVE: u16 = 3049;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A segment whose doors are open.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) cluster: &'static str,
    /// Its data directory.
    pub(super) dir: PathBuf,
    pub(super) segment: Segment,
    pub(super) links: LinkDoor,
    mounts: Mounts,
    pub(super) s3: SocketAddr,
    pub(super) nfs: SocketAddr,
    /// Where it is mounted, or why it is not.
    pub(super) mounted: Result<PathBuf, String>,
    pub(super) running: Running,
}

impl Site {
    /// Opens the segment `name` below `root`, or makes it, and serves it; `number` tells its ports from the other site's.
    pub(super) async fn open(
        root: &Path,
        name: &'static str,
        cluster: &'static str,
        number: u16,
        args: &DemoArgs,
    ) -> Result<Site> {
        let dir = root.join(name);
        let port = |above: u16| if args.port_base == 0 { 0 } else { args.port_base.saturating_add(above + number) };
        let serve_args = ServeArgs {
            s3: Some(free(port(0))),
            nfs: Some(free(port(NFS_ABOVE))),
            link: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            segment: Some(name.into()),
            cluster: cluster.into(),
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            ..ServeArgs::defaults()
        };
        let segment = serve::open(&dir, &serve_args).await?;
        let daemon = Daemon::open(&segment, &serve_args).await?;
        let closed =
            || Error::new(ErrorKind::Failed, "a door that was asked for is not open; this is a bug of tombolo");
        let s3 = daemon.s3_address().ok_or_else(closed)?;
        let nfs = daemon.nfs_address().ok_or_else(closed)?;
        let (links, mounts) = (daemon.links().clone(), daemon.mounts().clone());
        let running = daemon.start();
        let mounted = Err("--no-mount was given".into());
        Ok(Site { name, cluster, dir, segment, links, mounts, s3, nfs, mounted, running })
    }

    /// The tenant in the site's own cluster.
    pub(super) fn tenant(&self) -> Result<TenantPath> {
        tenant(self.cluster)
    }

    /// The bucket of that tenant.
    pub(super) fn bucket(&self) -> Result<BucketPath> {
        self.tenant()?.bucket(BUCKET)
    }

    /// Makes tenant and bucket if they are not there.
    pub(super) async fn ensure_bucket(&self) -> Result<()> {
        let catalog = self.segment.catalog();
        unless_there(catalog.create_tenant(&self.tenant()?).await)?;
        unless_there(catalog.create_bucket(&self.bucket()?, BucketPolicy::default()).await.map(drop))
    }

    /// Mounts what the site sees below `root`, if this user may.
    pub(super) async fn mount(&mut self, root: &Path) {
        let point = root.join("mnt").join(self.name);
        self.mounted = mount(&self.mounts, &self.segment, &point).await.map_err(|error| error.to_string());
    }

    /// Ends what is under way and closes the segment.
    pub(super) async fn stop(self) -> Result<()> {
        self.running.stop().await;
        self.segment.close().await
    }
}

fn unless_there(made: Result<()>) -> Result<()> {
    match made {
        Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
        made => made,
    }
}

/// Mounts the whole namespace as the site sees it.
async fn mount(mounts: &Mounts, segment: &Segment, point: &Path) -> Result<PathBuf> {
    // What a killed demo left mounted there can't be looked at; mounting replaces it.
    if !tombolo_fuse::is_stale(point) {
        std::fs::create_dir_all(point)
            .map_err(|e| Error::io(format!("the mount point {} cannot be made", point.display()), e))?;
    }
    mounts.add(segment, "", point, "").await?;
    Ok(point.to_path_buf())
}

/// `port` on loopback, or any that is free if somebody has that one.
fn free(port: u16) -> SocketAddr {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(free(address.port()).port(), 0);
        assert!(free(0).ip().is_loopback());
    }
}
