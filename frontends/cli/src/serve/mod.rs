//! `serve`: the daemon. It holds the segment and opens the doors, the control socket among them.
//!
//! Life: open (or make) the segment, open every door or none, say so, serve; on the first SIGTERM or SIGINT stop accepting,
//! let what is under way end, flush, close. What was acknowledged is durable before any of this, so a second signal, which
//! ends the process at once, costs nothing but the work under way.

mod admin;
mod credentials;
mod daemon;
mod metrics;

pub(crate) use daemon::{Daemon, Running};

use crate::arguments::ServeArgs;
use crate::failure::Outcome;
use crate::output::Output;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tombolo_core::{CreateOptions, Error, ErrorKind, OpenOptions, Result, Segment, Subject};

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
    let daemon = Daemon::open(segment, args).await?;
    let credentials = match daemon.s3_address() {
        Some(_) => credentials::first(segment, &args.tenant, &args.user).await?,
        None => None,
    };
    daemon.announce(output, credentials.as_ref())?;
    let mut running = daemon.start();
    let ended = tokio::select! {
        () = signals.next() => {
            tracing::info!("stopping: requests under way are finished, new ones refused");
            Ok(())
        }
        ended = running.ended() => ended,
    };
    tokio::select! {
        () = running.stop() => {}
        () = signals.next() => end_at_once(),
    }
    Ok(ended?)
}

/// What a second signal asks for. What was acknowledged is durable.
pub(crate) fn end_at_once() -> ! {
    tracing::warn!("a second signal: ending at once");
    std::process::exit(1);
}

/// Opens the segment in `dir`, or makes it.
pub(crate) async fn open(dir: &Path, args: &ServeArgs) -> Result<Segment> {
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
    if let Some(size) = args.cache_size {
        // Less makes a few readers at a time fetch in vain.
        options.disk_cache_bytes = size.max(64 << 20);
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

/// SIGTERM and SIGINT, noticed from the moment this exists.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals> {
        let listen =
            |kind| signal(kind).map_err(|e| Error::io("signals cannot be listened for", e).about(Subject::Other));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
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
