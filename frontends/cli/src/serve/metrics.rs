//! Figures in Prometheus' text format, version 0.0.4.

use crate::control::ControlMetrics;
use crate::wire::data_complete;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tombolo_core::{Result, Segment};
use tombolo_link::{LinkDoor, SyncStatus};
use tombolo_s3::S3Counts;

/// Buckets that get figures of their own; labels without bound would burden whoever scrapes.
const BUCKETS_MAX: usize = 1000;
/// Figures of buckets are read again when they are older than this.
const BUCKETS_AGE: Duration = Duration::from_secs(10);
/// The same for figures of links, which change faster.
const LINKS_AGE: Duration = Duration::from_secs(1);

/// Where the figures come from.
pub(super) struct Metrics {
    segment: Segment,
    links: LinkDoor,
    control: Arc<ControlMetrics>,
    s3: Option<Arc<S3Counts>>,
    stopped: watch::Receiver<bool>,
    started: Instant,
    buckets: Mutex<Option<(Instant, String)>>,
    link_figures: Mutex<Option<(Instant, String)>>,
}

impl Metrics {
    pub(super) fn new(
        segment: Segment,
        links: LinkDoor,
        control: Arc<ControlMetrics>,
        s3: Option<Arc<S3Counts>>,
        stopped: watch::Receiver<bool>,
    ) -> Metrics {
        let (buckets, link_figures) = (Mutex::new(None), Mutex::new(None));
        Metrics { segment, links, control, s3, stopped, started: Instant::now(), buckets, link_figures }
    }

    /// Whether requests are taken: the segment answers and nobody asked to stop. `Err` says why not.
    pub(super) async fn ready(&self) -> Result<String, String> {
        if *self.stopped.borrow() {
            return Err("stopping\n".into());
        }
        match self.segment.status().await {
            Ok(status) if status.is_full => Ok("ready for reads and deletes; the disk is full\n".into()),
            Ok(_) => Ok("ready\n".into()),
            Err(error) => Err(format!("{error}\n")),
        }
    }

    /// All figures as text.
    pub(super) async fn text(&self) -> Result<String> {
        let mut out = String::new();
        for (name, help, is_counter, value) in self.segment.metrics() {
            let name = if name.starts_with("tombolo_") { name.to_string() } else { format!("tombolo_{name}") };
            figure(&mut out, &name, help, is_counter, value);
        }
        let status = self.segment.status().await?;
        for (name, help, value) in [
            ("tombolo_segment_chunks", "Distinct chunks stored.", status.chunks),
            ("tombolo_segment_unique_bytes", "Bytes of distinct chunks before compression.", status.unique_bytes),
            ("tombolo_segment_stored_bytes", "Bytes of pack files.", status.stored_bytes),
            ("tombolo_segment_packs", "Pack files.", status.packs),
            ("tombolo_segment_free_bytes", "Free bytes on the file system.", status.free_bytes),
            ("tombolo_segment_damaged_chunks", "Damaged chunks found and not yet healed.", status.damaged_chunks),
            ("tombolo_segment_full", "1 while writes are refused for lack of space.", u64::from(status.is_full)),
        ] {
            figure(&mut out, name, help, false, value as f64);
        }
        for (name, help, value) in [
            ("tombolo_control_operations_total", "Operations of commands.", &self.control.operations),
            ("tombolo_control_failures_total", "Operations of commands that failed.", &self.control.failures),
        ] {
            figure(&mut out, name, help, true, value.load(Ordering::Relaxed) as f64);
        }
        if let Some(counts) = &self.s3 {
            let name = "tombolo_s3_requests_total";
            head(&mut out, name, "S3 requests that were answered, by the class of the status.", true);
            for (class, count) in counts.classes() {
                let _ = writeln!(out, "{name}{{status=\"{class}\"}} {count}");
            }
        }
        let uptime = self.started.elapsed().as_secs_f64();
        figure(&mut out, "tombolo_uptime_seconds", "Time since the daemon started.", false, uptime);
        if let Some(bytes) = resident_bytes() {
            figure(&mut out, "process_resident_memory_bytes", "Resident memory.", false, bytes as f64);
        }
        out.push_str(&self.buckets().await?);
        out.push_str(&self.link_figures().await?);
        Ok(out)
    }

    async fn link_figures(&self) -> Result<String> {
        let mut kept = self.link_figures.lock().await;
        if let Some((read, text)) = kept.as_ref()
            && read.elapsed() < LINKS_AGE
        {
            return Ok(text.clone());
        }
        let text = link_figures(&self.links.status().await?);
        *kept = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    async fn buckets(&self) -> Result<String> {
        let mut kept = self.buckets.lock().await;
        if let Some((read, text)) = kept.as_ref()
            && read.elapsed() < BUCKETS_AGE
        {
            return Ok(text.clone());
        }
        let mut usages = Vec::new();
        let catalog = self.segment.catalog();
        'all: for cluster in catalog.clusters().await? {
            for tenant in catalog.tenants(&cluster).await? {
                for bucket in catalog.buckets(&tenant).await? {
                    if usages.len() >= BUCKETS_MAX {
                        break 'all;
                    }
                    usages.push((bucket.path.to_string(), self.segment.bucket(&bucket.path).await?.usage().await?));
                }
            }
        }
        let mut out = String::new();
        for (name, help, value) in [
            ("tombolo_bucket_objects", "Objects that show.", (|u| u.objects) as fn(&tombolo_core::Usage) -> u64),
            ("tombolo_bucket_bytes", "Their sizes added up.", |u| u.logical_bytes),
            ("tombolo_bucket_old_versions", "Kept older versions and delete markers.", |u| u.old_versions),
            ("tombolo_bucket_old_bytes", "Their sizes added up.", |u| u.old_bytes),
        ] {
            if usages.is_empty() {
                break;
            }
            head(&mut out, name, help, false);
            for (path, usage) in &usages {
                // Names have letters, digits, '.', '-' and '_' only: nothing to escape.
                let _ = writeln!(out, "{name}{{bucket=\"{path}\"}} {}", value(usage));
            }
        }
        *kept = Some((Instant::now(), out.clone()));
        Ok(out)
    }
}

/// Figures of links and of how far they have come. Names have letters, digits, '.', '-' and '_' only: nothing to escape.
fn link_figures(status: &SyncStatus) -> String {
    let mut out = String::new();
    let links = |value: fn(&tombolo_link::LinkStatus) -> u64| {
        status.links.iter().map(|link| (format!("peer=\"{}\"", link.name), value(link))).collect::<Vec<_>>()
    };
    let buckets = || status.buckets.iter().take(BUCKETS_MAX);
    let bucket = |path: &tombolo_core::BucketPath| format!("bucket=\"{path}\"");
    let names = buckets().flat_map(|status| {
        let label = bucket(&status.path);
        status.peers.iter().map(move |peer| (format!("{label},peer=\"{}\"", peer.name), u64::from(peer.is_here)))
    });
    let data = buckets().filter_map(|status| Some((bucket(&status.path), u64::from(data_complete(status)?))));
    for (name, help, is_counter, values) in [
        ("tombolo_link_connected", "1 while the link is up.", false, links(|link| u64::from(link.is_connected))),
        ("tombolo_link_sent_bytes_total", "Bytes sent over the link.", true, links(|link| link.sent_bytes)),
        (
            "tombolo_link_received_bytes_total",
            "Bytes that came over the link.",
            true,
            links(|link| link.received_bytes),
        ),
        (
            "tombolo_sync_missing_objects",
            "Objects whose bytes are not here yet.",
            false,
            buckets().map(|status| (bucket(&status.path), status.missing_objects)).collect(),
        ),
        (
            "tombolo_sync_missing_bytes",
            "Bytes of these.",
            false,
            buckets().map(|status| (bucket(&status.path), status.missing_bytes)).collect(),
        ),
        (
            "tombolo_sync_waiting_objects",
            "Objects that have come and don't show before their bytes are here.",
            false,
            buckets().map(|status| (bucket(&status.path), status.waiting_objects)).collect(),
        ),
        (
            "tombolo_sync_away_objects",
            "Objects that are out of sight here, because others hold them.",
            false,
            buckets().map(|status| (bucket(&status.path), status.away_objects)).collect(),
        ),
        (
            "tombolo_sync_names_complete",
            "1 while every change that the peer is known to have is here by name.",
            false,
            names.collect(),
        ),
        ("tombolo_sync_data_complete", "1 while all bytes are here, in buckets that want them.", false, data.collect()),
    ] {
        if !values.is_empty() {
            head(&mut out, name, help, is_counter);
        }
        for (labels, value) in values {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    }
    let rates = |value: fn(&tombolo_link::PeerBucketStatus) -> Option<f64>| {
        let of = |status: &tombolo_link::BucketStatus| {
            let label = bucket(&status.path);
            let peers = status.peers.iter();
            peers.filter_map(|peer| Some((format!("{label},peer=\"{}\"", peer.name), value(peer)?))).collect::<Vec<_>>()
        };
        buckets().flat_map(of).collect::<Vec<_>>()
    };
    let left = buckets().filter_map(|status| Some((bucket(&status.path), status.data_left?.as_secs_f64()))).collect();
    let late = buckets().map(|status| (bucket(&status.path), status.data_lag.as_secs_f64())).collect();
    for (name, help, values) in [
        (
            "tombolo_sync_names_per_second",
            "Names that came lately.",
            rates(|peer| Some(peer.rate.map_or(0.0, |rate| rate.names_per_second))),
        ),
        (
            "tombolo_sync_data_bytes_per_second",
            "Bytes of data that came lately, before compression.",
            rates(|peer| Some(peer.rate.map_or(0.0, |rate| rate.bytes_per_second))),
        ),
        (
            "tombolo_sync_names_left_seconds",
            "Time until all names are here, while it can be told.",
            rates(|peer| Some(peer.names_left?.as_secs_f64())),
        ),
        (
            "tombolo_sync_names_lag_seconds",
            "Time since all names were here that the peer had told of.",
            rates(|peer| Some(peer.names_lag?.as_secs_f64())),
        ),
        ("tombolo_sync_data_lag_seconds", "Time since all data was here that is to be.", late),
        ("tombolo_sync_data_left_seconds", "Time until all data is here, while it can be told.", left),
    ] {
        if !values.is_empty() {
            head(&mut out, name, help, false);
        }
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    }
    out
}

fn head(out: &mut String, name: &str, help: &str, is_counter: bool) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    let kind = if is_counter { "counter" } else { "gauge" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn figure(out: &mut String, name: &str, help: &str, is_counter: bool, value: f64) {
    head(out, name, help, is_counter);
    let _ = writeln!(out, "{name} {value}");
}

/// Resident memory of this process, where `/proc` says it.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_the_text_format() {
        let mut out = String::new();
        figure(&mut out, "tombolo_x_total", "Two\nlines.", true, 3.0);
        figure(&mut out, "tombolo_y", "A gauge.", false, 0.5);
        assert_eq!(
            out,
            "# HELP tombolo_x_total Two\\nlines.\n# TYPE tombolo_x_total counter\ntombolo_x_total 3\n\
             # HELP tombolo_y A gauge.\n# TYPE tombolo_y gauge\ntombolo_y 0.5\n"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_known() {
        assert!(resident_bytes().unwrap() > 0);
    }
}
