//! What the daemon does without being asked: puts on disk what POSIX doors don't ask to have there, expires uploads that nobody completes, and
//! collects garbage.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tombolo_core::{Result, Segment};

/// Uploads are looked at this often; their age is counted in days.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
/// What was written through a mount and not synced is on disk this much later.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Stands for "never" in a timer.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Works until `stop`; a failure is logged and tried again at the next turn.
pub(super) async fn run(
    segment: Segment,
    upload_expiry: Duration,
    gc_interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // Side by side: a collection takes as long as it takes, and what was written is to be on disk in seconds all the same.
    let sync = async {
        let mut timer = timer(SYNC_INTERVAL);
        loop {
            timer.tick().await;
            if let Err(error) = segment.sync().await {
                tracing::warn!(%error, "what was written is not on disk yet");
            }
        }
    };
    let expiry = async {
        let mut timer = timer(if upload_expiry.is_zero() { NEVER } else { EXPIRY_INTERVAL });
        loop {
            timer.tick().await;
            match segment.expire_uploads(upload_expiry).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "uploads that nobody completed are dropped"),
                Err(error) => tracing::warn!(%error, "old uploads could not be dropped"),
            }
        }
    };
    let collection = async {
        let mut timer = timer(if gc_interval.is_zero() { NEVER } else { gc_interval });
        let mut collected = None;
        loop {
            timer.tick().await;
            if let Err(error) = collect(&segment, &mut collected).await {
                tracing::warn!(%error, "garbage could not be collected");
            }
        }
    };
    tokio::select! {
        // Collection is resumable, so it may be cut off anywhere.
        _ = stop.wait_for(|stop| *stop) => {}
        () = async { tokio::join!(sync, expiry, collection); } => {}
    }
}

fn timer(period: Duration) -> tokio::time::Interval {
    let mut timer = interval_at(Instant::now() + period, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// What a segment holds, closely enough to tell that something was written or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Holdings {
    chunks: u64,
    stored_bytes: u64,
    packs: u64,
    objects: u64,
    logical_bytes: u64,
    old_versions: u64,
    old_bytes: u64,
}

/// Collects garbage if the holdings are other than after the last collection, or linked segments have heard since of something that is deleted.
async fn collect(segment: &Segment, collected: &mut Option<Holdings>) -> Result<()> {
    if *collected == Some(holdings(segment).await?) && segment.drop_acknowledged().await? == 0 {
        return Ok(());
    }
    let report = segment.gc().await?;
    *collected = Some(holdings(segment).await?);
    tracing::info!(bytes_freed = report.bytes_freed, packs_removed = report.packs_removed, "garbage is collected");
    Ok(())
}

async fn holdings(segment: &Segment) -> Result<Holdings> {
    let status = segment.status().await?;
    let mut held = Holdings {
        chunks: status.chunks,
        stored_bytes: status.stored_bytes,
        packs: status.packs,
        ..Holdings::default()
    };
    let catalog = segment.catalog();
    for cluster in catalog.clusters().await? {
        for tenant in catalog.tenants(&cluster).await? {
            for bucket in catalog.buckets(&tenant).await? {
                let usage = segment.bucket(&bucket.path).await?.usage().await?;
                held.objects = held.objects.wrapping_add(usage.objects);
                held.logical_bytes = held.logical_bytes.wrapping_add(usage.logical_bytes);
                held.old_versions = held.old_versions.wrapping_add(usage.old_versions);
                held.old_bytes = held.old_bytes.wrapping_add(usage.old_bytes);
            }
        }
    }
    Ok(held)
}
