//! `status`, `scrub` and `gc`

use super::{Session, with_progress};
use crate::arguments::{GcArgs, ScrubArgs, StatusArgs};
use crate::backend::Backend;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::bucket_json;
use crate::progress::Progress;
use crate::quantity::size;
use crate::wire::{BucketRecord, GcRecord, Operation, ScrubRecord, StatusRecord};
use serde_json::json;

pub(super) async fn status(session: &mut Session, args: StatusArgs) -> Outcome {
    let status: StatusRecord = session.call(Operation::Status).await?;
    let daemon = matches!(session.backend, Backend::Daemon(_)).then_some(status.pid);
    let mut json = json!({
        "segment": status.segment,
        "name": status.name,
        "cluster": status.cluster,
        "dir": session.dir.display().to_string(),
        "daemon": daemon.map(|pid| json!({ "pid": pid })),
        "chunks": status.chunks,
        "unique_bytes": status.unique_bytes,
        "stored_bytes": status.stored_bytes,
        "packs": status.packs,
        "free_bytes": status.free_bytes,
        "damaged_chunks": status.damaged_chunks,
        "full": status.full,
    });
    let mut text = format!(
        "Segment    {} ({})\nCluster    {}\nDirectory  {}\nDaemon     {}\nUnique     {} in {} chunks\nStored     {} in {} packs\nFree       {}{}\nDamaged    {}",
        status.name,
        status.segment,
        status.cluster,
        session.dir.display(),
        daemon.map_or("none".into(), |pid| format!("process {pid}")),
        size(status.unique_bytes),
        status.chunks,
        size(status.stored_bytes),
        status.packs,
        size(status.free_bytes),
        if status.full { "; writes are refused until something is deleted and collected (tombolo gc)" } else { "" },
        match status.damaged_chunks {
            0 => "nothing known".into(),
            count => format!("{count} chunks; tombolo scrub says which objects need them"),
        },
    );
    if args.buckets {
        let buckets = all_buckets(session).await?;
        for bucket in &buckets {
            let usage = bucket.usage.unwrap_or_default();
            text.push_str(&format!(
                "\n{:>10}  {:>10} objects  {}",
                size(usage.logical_bytes),
                usage.objects,
                bucket.path
            ));
        }
        if let Some(map) = json.as_object_mut() {
            map.insert("buckets".into(), buckets.iter().map(bucket_json).collect());
        }
    }
    session.output.answer(json, &text)
}

async fn all_buckets(session: &Session) -> tombolo_core::Result<Vec<BucketRecord>> {
    let mut all = Vec::new();
    for cluster in session.call::<Vec<String>>(Operation::Clusters).await? {
        for tenant in session.call::<Vec<String>>(Operation::Tenants { cluster: cluster.clone() }).await? {
            let tenant = format!("{cluster}/{tenant}");
            for bucket in session.call::<Vec<BucketRecord>>(Operation::Buckets { tenant }).await? {
                all.push(session.call(Operation::Bucket { bucket: bucket.path }).await?);
            }
        }
    }
    Ok(all)
}

pub(super) async fn scrub(session: &mut Session, args: ScrubArgs) -> Outcome {
    let progress = Progress::start(session.output.is_json(), None);
    let call = session.begin(Operation::Scrub { bytes_per_second: args.rate }).await?;
    let report: tombolo_core::Result<ScrubRecord> = with_progress(call, &progress).await;
    progress.finish();
    let report = report?;
    let mut text = format!("{} in {} chunks of {} packs were read", size(report.bytes), report.chunks, report.packs);
    if report.healed > 0 {
        text.push_str(&format!("; {} damaged chunks were brought anew from linked segments", report.healed));
    }
    if report.damage.is_empty() {
        text.push_str("; all is well");
    } else {
        text.push_str("; there is damage:");
        report.damage.iter().for_each(|line| text.push_str(&format!("\n  {line}")));
        text.push_str(&more(report.damage_count, report.damage.len()));
        text.push_str("\nObjects that need what is damaged:");
        report.affected.iter().for_each(|key| text.push_str(&format!("\n  {}", crate::path::show(key.as_bytes()))));
        text.push_str(&more(report.affected_count, report.affected.len()));
    }
    let is_damaged = !report.damage.is_empty();
    session.output.answer(json!(report), &text)?;
    if is_damaged { Err(Failure::Reported(Exit::Damaged)) } else { Ok(()) }
}

/// What is left out of a list.
fn more(count: u64, listed: usize) -> String {
    match count.saturating_sub(listed as u64) {
        0 => String::new(),
        left => format!("\n  and {left} more"),
    }
}

pub(super) async fn gc(session: &mut Session, args: GcArgs) -> Outcome {
    let report: GcRecord = session.call(Operation::Gc { bytes_per_second: args.rate }).await?;
    let text = format!(
        "{} given back: {} chunks dropped, {} in use, {} packs removed, {} rewritten",
        size(report.bytes_freed),
        report.chunks_dropped,
        report.chunks_live,
        report.packs_removed,
        report.packs_rewritten,
    );
    session.output.answer(json!(report), &text)
}
