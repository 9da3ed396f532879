//! `serve`: the daemon. It holds the segment and opens the doors, the control socket among them.
//!
//! Life: open (or make) the segment, open every door or none, say so, serve; on the first SIGTERM or SIGINT stop accepting,
//! let what is under way end, flush, close. What was acknowledged is durable before any of this, so a second signal, which
//! ends the process at once, costs nothing but the work under way.

mod admin;
mod credentials;
mod housekeeping;
mod metrics;

use crate::arguments::ServeArgs;
use crate::control::ControlDoor;
use crate::doors::{self, Door};
use crate::failure::Outcome;
use crate::mounts::Mounts;
use crate::output::Output;
use admin::AdminDoor;
use metrics::Metrics;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_core::{CreateOptions, Error, ErrorKind, OpenOptions, Result, Segment, Subject};
use tombolo_fuse::Mount;

const S3_PORT: u16 = 9000;
/// How long a command may hold the directory when the daemon starts.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_RETRY: Duration = Duration::from_millis(25);

pub(crate) async fn serve(output: &mut Output, dir: &Path, args: Box<ServeArgs>) -> Outcome {
    let mut signals = Signals::new()?;
    let segment = tokio::select! {
        segment = open(dir, &args) => segment?,
        () = signals.next() => return Ok(()),
    };
    let served = serve_segment(output, &segment, &args, &mut signals).await;
    let closed = segment.close().await;
    served?;
    closed?;
    tracing::info!("the segment is closed");
    Ok(())
}

async fn serve_segment(output: &mut Output, segment: &Segment, args: &ServeArgs, signals: &mut Signals) -> Outcome {
    let (stop, stopped) = watch::channel(false);
    let default_s3 = SocketAddr::from((Ipv4Addr::LOCALHOST, S3_PORT));
    let is_default = args.admin.is_none() && args.nfs.is_none() && args.mount.is_empty();
    let s3_address = args.s3.or_else(|| is_default.then_some(default_s3));
    let s3 = match s3_address {
        Some(address) => Some(doors::s3(segment.clone(), address, args.shutdown_timeout, stopped.clone()).await?),
        None => None,
    };
    let nfs = match args.nfs {
        Some(address) => {
            let (exports, stopped) = (args.nfs_export.clone(), stopped.clone());
            Some(doors::nfs(segment.clone(), address, exports, args.shutdown_timeout, stopped).await?)
        }
        None => None,
    };
    let control = ControlDoor::open(segment.dir())?;
    let metrics = Arc::new(Metrics::new(segment.clone(), control.metrics(), stopped.clone()));
    let admin = match args.admin {
        Some(address) => Some(AdminDoor::bind(address, metrics).await?),
        None => None,
    };
    let credentials = match &s3 {
        Some(_) => credentials::first(segment, &args.tenant, &args.user).await?,
        None => None,
    };
    let mounts = Mounts::default();
    let mut mounted = Vec::new();
    for (path, point) in &args.mount {
        mounted.push((path, mounts.add(segment, path, point, &args.mount_options).await?));
    }
    announce(output, segment, (s3.as_ref(), nfs.as_ref(), admin.as_ref()), &mounted, credentials.as_ref())?;

    let mut serving = JoinSet::new();
    if let Some(Door { serving: door, .. }) = s3 {
        serving.spawn(door);
    }
    if let Some(Door { serving: door, .. }) = nfs {
        serving.spawn(door);
    }
    if let Some(admin) = admin {
        serving.spawn(admin.serve(stopped.clone()));
    }
    serving.spawn(control.serve(segment.clone(), mounts.clone(), stopped.clone()));
    serving.spawn(mounts.serve(stopped.clone()));
    serving.spawn(housekeeping::run(segment.clone(), args.upload_expiry, args.gc_interval, stopped));
    // A daemon that only mounts has nothing to do when that is unmounted.
    let is_mount_only = s3_address.is_none() && args.nfs.is_none() && args.admin.is_none();
    let unmounted = async {
        for (_, mount) in &mounted {
            mount.ended().await;
        }
        if !is_mount_only {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = signals.next() => tracing::info!("stopping: requests under way are finished, new ones refused"),
        () = unmounted => tracing::info!("stopping: nothing is mounted any more"),
        // Doors serve until they are stopped.
        Some(result) = serving.join_next() => tracing::error!(?result, "a door ended by itself; stopping"),
    }
    stop.send_replace(true);
    // Each door has its own deadline inside this one; the control socket has only this.
    let deadline = Instant::now() + args.shutdown_timeout + Duration::from_secs(1);
    loop {
        tokio::select! {
            result = serving.join_next() => match result {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::error!(%error, "a door broke off"),
            },
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!("some requests have not ended in time and are cut off");
                serving.shutdown().await;
                break;
            }
            () = signals.next() => {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(1);
            }
        }
    }
    Ok(())
}

async fn open(dir: &Path, args: &ServeArgs) -> Result<Segment> {
    let deadline = Instant::now() + BUSY_WAIT;
    loop {
        let opened = if Segment::exists(dir) {
            Segment::open(dir, options(args)).await
        } else {
            let name = match &args.segment {
                Some(name) => name.clone(),
                None => host_name(),
            };
            let create = CreateOptions { name, cluster: args.cluster.clone() };
            Segment::create(dir, create, options(args)).await
        };
        match opened {
            Ok(segment) => return Ok(segment),
            // A command that is soon done, perhaps; not another daemon, which stays.
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                if crate::control::Client::connect(dir).await?.is_some() {
                    return Err(error);
                }
                tokio::time::sleep(BUSY_RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn options(args: &ServeArgs) -> OpenOptions {
    let mut options = OpenOptions::default();
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    if let Some(size) = args.chunk_cache {
        options.chunk_cache_bytes = bytes(size);
    }
    if let Some(size) = args.metadata_cache {
        options.metadata_cache_bytes = bytes(size);
    }
    if let Some(size) = args.write_buffer {
        options.write_buffer_bytes = bytes(size);
    }
    if let Some(size) = args.reserve {
        options.reserve_bytes = size;
    }
    if let Some(workers) = args.workers {
        options.workers = workers;
    }
    options
}

/// The host's name as a segment's: up to its first dot, other characters replaced; `local` if nothing is left.
fn host_name() -> String {
    let uname = rustix::system::uname();
    segment_name(&uname.nodename().to_string_lossy())
}

fn segment_name(host: &str) -> String {
    let short = host.split('.').next().unwrap_or_default();
    let clean: String = short.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() { "local".into() } else { clean.into() }
}

fn announce(
    output: &mut Output,
    segment: &Segment,
    (s3, nfs, admin): (Option<&Door>, Option<&Door>, Option<&AdminDoor>),
    mounted: &[(&String, Arc<Mount>)],
    credentials: Option<&credentials::Credentials>,
) -> Outcome {
    let s3 = s3.and_then(|door| door.addresses.first()).map(|address| format!("http://{address}"));
    let admin = admin.map(|door| format!("http://{}", door.address()));
    let dir = segment.dir().display().to_string();
    let mut text = format!("Segment {} of cluster {} in {dir}", segment.name(), segment.cluster());
    if let Some(url) = &s3 {
        text.push_str(&format!("\nS3       {url}"));
    }
    if let Some(url) = &admin {
        text.push_str(&format!("\nAdmin    {url}/metrics {url}/healthz {url}/readyz"));
    }
    let nfs = nfs.and_then(|door| door.addresses.first());
    if let Some(address) = nfs {
        let (host, port) = (address.ip(), address.port());
        text.push_str(&format!(
            "\nNFS      mount -t nfs -o vers=3,tcp,port={port},mountport={port},nolock {host}:/CLUSTER/TENANT/BUCKET /mnt"
        ));
    }
    for (path, mount) in mounted {
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
        "admin": admin,
        "mounts": mounted.iter().map(|(path, mount)| json!({ "path": path, "point": mount.point().display().to_string() })).collect::<Vec<_>>(),
        "credentials": credentials.map(credentials::Credentials::json),
    });
    output.answer(json, &text)?;
    output.flush()
}

/// SIGTERM and SIGINT, noticed from the moment this exists.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let listen =
            |kind| signal(kind).map_err(|e| Error::io("signals cannot be listened for", e).about(Subject::Other));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_segment_names() {
        for (host, name) in [
            ("node7.example.org", "node7"),
            ("my_box", "my-box"),
            ("", "local"),
            ("--", "local"),
            ("\u{e9}t\u{e9}", "t"),
        ] {
            assert_eq!(segment_name(host), name);
        }
        assert!(!segment_name(&"x".repeat(300)).is_empty());
    }
}
