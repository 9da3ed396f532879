//! A daemon: the doors of one segment, open and then serving until they are told to stop.

use super::admin::AdminDoor;
use super::credentials::Credentials;
use super::metrics::Metrics;
use crate::arguments::ServeArgs;
use crate::control::ControlDoor;
use crate::doors::{self, Door};
use crate::failure::Outcome;
use crate::hosted::Hosted;
use crate::mounts::Mounts;
use crate::output::Output;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tombolo_core::{Error, ErrorKind, Housekeeping, Result, Segment};
use tombolo_fuse::Mount;
use tombolo_link::LinkDoor;

const S3_PORT: u16 = 9000;

/// The doors of a segment, open and not serving yet.
pub(crate) struct Daemon {
    segment: Segment,
    stop: watch::Sender<bool>,
    hosted: Hosted,
    s3: Option<Door>,
    nfs: Option<Door>,
    admin: Option<AdminDoor>,
    control: ControlDoor,
    mounted: Vec<(String, Arc<Mount>)>,
    housekeeping: Housekeeping,
    shutdown_timeout: Duration,
    is_mount_only: bool,
}

impl Daemon {
    /// Opens every door that `args` ask for, or none.
    pub(crate) async fn open(segment: &Segment, args: &ServeArgs) -> Result<Daemon> {
        let (stop, stopped) = watch::channel(false);
        let default_s3 = SocketAddr::from((Ipv4Addr::LOCALHOST, S3_PORT));
        let is_default = args.admin.is_none() && args.nfs.is_none() && args.link.is_empty() && args.mount.is_empty();
        let s3 = match args.s3.or_else(|| is_default.then_some(default_s3)) {
            Some(address) => {
                let (domains, drain) = (args.s3_domain.clone(), args.shutdown_timeout);
                Some(doors::s3(segment.clone(), address, domains, drain, stopped.clone()).await?)
            }
            None if !args.s3_domain.is_empty() => {
                return Err(Error::invalid("--s3-domain is for the S3 door, which is not opened; add --s3 ADDR"));
            }
            None => None,
        };
        let nfs = match args.nfs {
            Some(address) => {
                let (exports, stopped) = (args.nfs_export.clone(), stopped.clone());
                let port_mapper = args.port_mapper();
                Some(doors::nfs(segment.clone(), address, port_mapper, exports, args.shutdown_timeout, stopped).await?)
            }
            None => None,
        };
        // It is there without an address, too: it dials the segments that were linked, and any whose code is accepted.
        let links = doors::link(segment.clone(), &args.link).await?;
        let control = ControlDoor::open(segment.dir())?;
        let counts = s3.as_ref().and_then(|door| door.counts.clone());
        let metrics = Metrics::new(segment.clone(), links.clone(), control.metrics(), counts, stopped.clone());
        let metrics = Arc::new(metrics);
        let admin = match args.admin {
            Some(address) => Some(AdminDoor::bind(address, metrics).await?),
            None => None,
        };
        let mounts = Mounts::default();
        let mut mounted = Vec::new();
        for (path, point) in &args.mount {
            mounted.push((path.clone(), mounts.add(segment, path, point, &args.mount_options).await?));
        }
        Ok(Daemon {
            segment: segment.clone(),
            stop,
            hosted: Hosted { mounts, links, stopped },
            // A daemon that only mounts has nothing to do when that is unmounted.
            is_mount_only: s3.is_none() && nfs.is_none() && admin.is_none() && args.link.is_empty(),
            s3,
            nfs,
            admin,
            control,
            mounted,
            housekeeping: Housekeeping {
                upload_expiry: args.upload_expiry,
                gc_interval: args.gc_interval,
                gc_bytes_per_second: args.gc_rate,
                scrub_interval: args.scrub_interval,
                scrub_bytes_per_second: args.scrub_rate,
            },
            shutdown_timeout: args.shutdown_timeout,
        })
    }

    /// Where S3 is served.
    pub(crate) fn s3_address(&self) -> Option<SocketAddr> {
        self.s3.as_ref().and_then(|door| door.addresses.first()).copied()
    }

    /// Where NFS is served.
    pub(crate) fn nfs_address(&self) -> Option<SocketAddr> {
        self.nfs.as_ref().and_then(|door| door.addresses.first()).copied()
    }

    /// The link door.
    pub(crate) fn links(&self) -> &LinkDoor {
        &self.hosted.links
    }

    /// What is mounted.
    pub(crate) fn mounts(&self) -> &Mounts {
        &self.hosted.mounts
    }

    /// Says where everything is. `credentials`: of a user that was just made.
    pub(super) fn announce(&self, output: &mut Output, credentials: Option<&Credentials>) -> Outcome {
        let segment = &self.segment;
        let s3 = self.s3_address().map(|address| format!("http://{address}"));
        let admin = self.admin.as_ref().map(|door| format!("http://{}", door.address()));
        let dir = segment.dir().display().to_string();
        let mut text = format!("Segment {} of cluster {} in {dir}", segment.name(), segment.cluster());
        if let Some(url) = &s3 {
            text.push_str(&format!("\nS3       {url}"));
        }
        if let Some(url) = &admin {
            text.push_str(&format!("\nAdmin    {url}/metrics {url}/healthz {url}/readyz"));
        }
        let nfs = self.nfs_address();
        if let Some(address) = nfs {
            let (host, port) = (address.ip(), address.port());
            // Clients that find the port mapper find the rest.
            let is_found = self.nfs.iter().flat_map(|door| &door.addresses).any(|address| address.port() == 111);
            let options =
                if is_found { "vers=3".into() } else { format!("vers=3,tcp,port={port},mountport={port},nolock") };
            text.push_str(&format!("\nNFS      mount -t nfs -o {options} {host}:/CLUSTER/TENANT/BUCKET /mnt"));
        }
        let links: Vec<_> = self.links().addresses().iter().map(ToString::to_string).collect();
        for address in &links {
            text.push_str(&format!("\nLink     {address}"));
        }
        for (path, mount) in &self.mounted {
            let path = if path.is_empty() { "everything" } else { path.as_str() };
            text.push_str(&format!("\nMount    {path} on {}", mount.point().display()));
        }
        text.push_str(&format!("\nControl  tombolo --dir {dir} status"));
        if let (Some(credentials), Some(url)) = (credentials, &s3) {
            text.push_str(&credentials.text(url));
        }
        let json = json!({
            "segment": segment.id().to_string(),
            "name": segment.name(),
            "cluster": segment.cluster(),
            "dir": dir,
            "pid": std::process::id(),
            "s3": s3,
            "nfs": nfs.map(|address| address.to_string()),
            "link": links.first(),
            "links": links,
            "admin": admin,
            "mounts": self.mounted.iter().map(|(path, mount)| json!({ "path": path, "point": mount.point().display().to_string() })).collect::<Vec<_>>(),
            "credentials": credentials.map(Credentials::json),
        });
        output.answer(json, &text)?;
        output.flush()
    }

    /// Begins to serve.
    pub(crate) fn start(self) -> Running {
        let (segment, stopped) = (self.segment, self.hosted.stopped.clone());
        let until_unmounted = self.is_mount_only.then(|| self.hosted.mounts.clone());
        let mut serving = JoinSet::new();
        for door in self.s3.into_iter().chain(self.nfs) {
            serving.spawn(door.serving);
        }
        if let Some(admin) = self.admin {
            serving.spawn(admin.serve(stopped.clone()));
        }
        let mut stop = stopped.clone();
        let link_stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        serving.spawn(self.hosted.links.clone().serve(link_stopped));
        serving.spawn(self.hosted.mounts.clone().serve(stopped.clone()));
        serving.spawn(self.control.serve(segment.clone(), self.hosted));
        let (mut stop, housekeeping) = (stopped, self.housekeeping);
        serving.spawn(async move {
            tokio::select! {
                // All of it goes on where it was cut off.
                _ = stop.wait_for(|stop| *stop) => {}
                () = segment.keep_house(housekeeping) => {}
            }
        });
        Running { serving, stop: self.stop, shutdown_timeout: self.shutdown_timeout, until_unmounted }
    }
}

/// A daemon that serves.
pub(crate) struct Running {
    serving: JoinSet<()>,
    stop: watch::Sender<bool>,
    shutdown_timeout: Duration,
    /// Mounts, later ones too, after whose end there is nothing left to do.
    until_unmounted: Option<Mounts>,
}

impl Running {
    /// Returns when there is a reason to stop other than being told to. An error is to be passed on once all has stopped: who supervises the process starts it again.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let unmounted = async {
            match &self.until_unmounted {
                Some(mounts) => mounts.none_left().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = unmounted => {
                tracing::info!("stopping: nothing is mounted any more");
                Ok(())
            }
            // Doors serve until they are stopped.
            Some(result) = self.serving.join_next() => {
                tracing::error!(?result, "a door ended by itself; stopping");
                Err(broken(result))
            }
        }
    }

    /// Stops accepting, and waits for requests under way as long as they may take.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        // Each door has its own deadline inside this one; the control socket has only this.
        let deadline = Instant::now() + self.shutdown_timeout + Duration::from_secs(1);
        loop {
            tokio::select! {
                result = self.serving.join_next() => match result {
                    None => return,
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::error!(%error, "a door broke off"),
                },
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!("some requests have not ended in time and are cut off");
                    self.serving.shutdown().await;
                    return;
                }
            }
        }
    }
}

/// Why a daemon stops whose door did not serve until it was told to stop.
fn broken(result: std::result::Result<(), JoinError>) -> Error {
    let error = Error::new(ErrorKind::Failed, "a door ended by itself, so the daemon stopped; its log says more");
    match result {
        Ok(()) => error,
        Err(cause) => error.because(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(serving: JoinSet<()>, until_unmounted: Option<Mounts>) -> Running {
        Running { serving, stop: watch::Sender::new(false), shutdown_timeout: Duration::ZERO, until_unmounted }
    }

    /// Who supervises a daemon looks at its exit code: a door that broke is not an end that was wished for.
    #[tokio::test]
    async fn a_door_that_ends_is_an_error_and_the_last_unmount_is_none() {
        let mut serving = JoinSet::new();
        serving.spawn(async {});
        let mut first = running(serving, None);
        assert_eq!(first.ended().await.unwrap_err().kind(), ErrorKind::Failed);
        let mut serving = JoinSet::new();
        serving.spawn(std::future::pending());
        let mut second = running(serving, Some(Mounts::default()));
        second.ended().await.unwrap();
    }
}
