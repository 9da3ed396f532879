//! `sync`

use super::link::link_json;
use super::{Session, conflicts, place, verify};
use crate::arguments::SyncVerb;
use crate::backend::Piece;
use crate::failure::Outcome;
use crate::path::{Place, show};
use crate::quantity::size;
use crate::wire::{BucketSyncRecord, Frame, Keep, LinkOperation, LinkRecord, Operation, PeerSyncRecord, decode};
use serde_json::json;
use std::ffi::OsStr;
use tombolo_core::{Error, Result};
use tombolo_link::{Passes, Scope};

pub(super) async fn sync(session: &mut Session, verb: SyncVerb) -> Outcome {
    match verb {
        SyncVerb::Status { path } => status(session, scope(&path)?).await,
        SyncVerb::Verify { path, timeout } => verify::verify(session, &path, timeout).await,
        SyncVerb::Conflicts(verb) => conflicts::conflicts(session, verb).await,
        SyncVerb::Forget { segment } => {
            let operation = LinkOperation::Forget { segment: segment.clone() };
            let buckets: u64 = session.call(Operation::Links(operation)).await?;
            let text = format!("Nobody waits for {segment} any more, which carries {buckets} of the buckets here");
            session.output.answer(json!({ "segment": segment, "forgotten": true, "buckets": buckets }), &text)
        }
        SyncVerb::Wait { path, timeout } => {
            let scope = scope(&path)?;
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let timeout_ms = (timeout_ms > 0).then_some(timeout_ms);
            session.call::<()>(Operation::Links(LinkOperation::Wait { scope, timeout_ms })).await?;
            session.output.answer(json!({ "complete": true }), "")
        }
        SyncVerb::Pin { path } => super::pins::keep(session, &path, Keep::Pin).await,
        SyncVerb::Unpin { path } => super::pins::keep(session, &path, Keep::Unpin).await,
        SyncVerb::Recall { path } => super::pins::keep(session, &path, Keep::Recall).await,
        SyncVerb::Persist { path } => super::pins::keep(session, &path, Keep::Persist).await,
    }
}

/// The part of the namespace that a path names, down to a bucket.
pub(super) fn scope(path: &OsStr) -> Result<Scope> {
    match place(path)? {
        Place::Root => Ok(Scope::everything()),
        Place::Object(object) => {
            Err(Error::invalid(format!("a bucket is in sync as a whole; give {} or what is above it", object.bucket)))
        }
        above => Scope::parse([above.to_string()]),
    }
}

async fn status(session: &mut Session, scope: Scope) -> Outcome {
    let mut call = session.begin(Operation::Links(LinkOperation::Status { scope })).await?;
    let mut buckets: Vec<BucketSyncRecord> = Vec::new();
    let links: Vec<LinkRecord> = loop {
        match call.next().await? {
            Piece::Frame(Frame::Record(json)) => buckets.push(decode(&json)?),
            Piece::Frame(_) => {}
            Piece::Reply(links) => break links,
        }
    };
    if session.output.is_json() {
        let json = json!({
            "complete": is_complete(&links, &buckets),
            "links": links.iter().map(link_json).collect::<Vec<_>>(),
            "buckets": buckets,
        });
        return session.output.answer(json, "");
    }
    if links.is_empty() {
        return session.output.line(b"This segment has no links; see tombolo link --help");
    }
    for link in links.iter().filter(|link| link.link.passes == Passes::Initial && link.link.is_passed) {
        let text = format!("The link to {} has made its one pass: what changes there does not come.", link.link.name);
        session.output.line(text.as_bytes())?;
    }
    for link in &links {
        if let Some(problem) = link.state.as_ref().and_then(|state| state.problem.as_ref()) {
            session.output.line(format!("The link to {} has a problem: {problem}", link.link.name).as_bytes())?;
        }
    }
    let rows = buckets.iter().flat_map(rows).map(|row| (json!(null), row)).collect();
    session.output.table(&["BUCKET", "PEER", "NAMES", "DATA", ">MISSING", "REMARKS"], rows)?;
    for bucket in &buckets {
        for missing in &bucket.missing {
            let key = missing.key.as_ref().map_or("an object without a name".into(), |key| show(&key.0));
            let line = format!("{}/{key} ({}): {}", bucket.bucket, size(missing.size), missing.reason);
            session.output.line(line.as_bytes())?;
        }
        for waiting in &bucket.waiting {
            let key = waiting.key.as_ref().map_or("an object without a name".into(), |key| show(&key.0));
            let line = format!(
                "{}/{key} ({}) waits until its data is here: {}",
                bucket.bucket,
                size(waiting.size),
                waiting.reason
            );
            session.output.line(line.as_bytes())?;
        }
    }
    Ok(())
}

/// Whether nothing is known to be missing, and every link that is to bring something is up.
fn is_complete(links: &[LinkRecord], buckets: &[BucketSyncRecord]) -> bool {
    let receiving = links.iter().filter(|link| link.link.receives());
    let is_up = |link: &LinkRecord| link.state.as_ref().is_some_and(|state| state.connected && state.catalog_complete);
    let are_up = receiving.into_iter().all(is_up);
    are_up && buckets.iter().all(|bucket| bucket.names_complete && bucket.data_complete != Some(false))
}

/// A line for each peer of a bucket.
fn rows(bucket: &BucketSyncRecord) -> Vec<Vec<String>> {
    let data = match (bucket.data_complete, bucket.on_demand) {
        (Some(true), false) => "complete",
        (Some(true), true) => "pinned is here",
        (Some(false), _) => "on its way",
        (None, _) => "on demand",
    };
    let more = if bucket.missing_is_more { "at least " } else { "" };
    let missing = match bucket.missing_objects {
        0 => "0".into(),
        count => format!("{more}{count} ({})", size(bucket.missing_bytes)),
    };
    let line = |peer: &PeerSyncRecord| {
        let names = if peer.here { "complete" } else { "on their way" };
        vec![
            bucket.bucket.clone(),
            peer.name.clone(),
            names.into(),
            data.into(),
            missing.clone(),
            remarks(bucket, peer),
        ]
    };
    bucket.peers.iter().map(line).collect()
}

fn remarks(bucket: &BucketSyncRecord, peer: &PeerSyncRecord) -> String {
    let mut remarks = Vec::new();
    if bucket.comparing {
        remarks.push("this segment was away too long and compares all that it holds".into());
    }
    if peer.comparing {
        remarks.push(format!("{} was away too long and compares all that it holds", peer.name));
    }
    if bucket.carriers.iter().any(|carrier| carrier.forgotten && carrier.segment == peer.peer) {
        remarks.push(format!("{} is forgotten", peer.name));
    }
    if bucket.waiting_objects > 0 {
        remarks.push(format!("{} ({}) wait for their data", bucket.waiting_objects, size(bucket.waiting_bytes)));
    }
    if bucket.away_objects > 0 {
        remarks.push(format!("{} names are away", bucket.away_objects));
    }
    if let Some(problem) = &peer.problem {
        remarks.push(problem.clone());
    } else if !peer.open {
        remarks.push("not connected".into());
    }
    if let Some(lag) = peer.names_lag_s.filter(|lag| !peer.here && *lag >= 1.0) {
        remarks.push(format!("names as of {} ago", span(lag)));
    }
    if bucket.data_complete == Some(false) && bucket.data_lag_s >= 1.0 {
        remarks.push(format!("data as of {} ago", span(bucket.data_lag_s)));
    }
    if !peer.there {
        remarks.push(format!("changes from here have not reached {}", peer.name));
    }
    if peer.in_flight > 0 {
        remarks.push(format!("{} requests under way", peer.in_flight));
    }
    if let Some(rate) = peer.names_per_second.filter(|rate| *rate >= 1.0) {
        remarks.push(format!("{rate:.0} names/s{}", left(peer.names_eta_s)));
    }
    if let Some(rate) = peer.bytes_per_second.filter(|rate| *rate >= 1.0) {
        remarks.push(format!("{}/s{}", size(rate as u64), left(bucket.data_eta_s)));
    }
    remarks.join("; ")
}

/// The time that is left, in words.
fn left(seconds: Option<f64>) -> String {
    seconds.map(|seconds| format!(", {} left", span(seconds))).unwrap_or_default()
}

fn span(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> BucketSyncRecord {
        BucketSyncRecord {
            bucket: "C/t/b".into(),
            vector: "0".into(),
            data_vector: "0".into(),
            names_complete: true,
            data_complete: Some(true),
            on_demand: false,
            pins: Vec::new(),
            missing_objects: 0,
            missing_bytes: 0,
            missing_is_more: false,
            missing: Vec::new(),
            whole: false,
            waiting_objects: 0,
            waiting_bytes: 0,
            waiting: Vec::new(),
            away_objects: 0,
            data_lag_s: 0.0,
            data_eta_s: None,
            comparing: false,
            carriers: Vec::new(),
            peers: vec![PeerSyncRecord {
                peer: "01".repeat(16),
                name: "newyork".into(),
                open: true,
                vector: "0".into(),
                here: true,
                there: true,
                comparing: false,
                in_flight: 0,
                names_per_second: None,
                bytes_per_second: None,
                names_lag_s: None,
                names_eta_s: None,
                problem: None,
            }],
        }
    }

    #[test]
    fn a_line_says_how_far_a_bucket_is() {
        assert_eq!(rows(&bucket()), [["C/t/b", "newyork", "complete", "complete", "0", ""]]);
        let away = BucketSyncRecord { away_objects: 7, ..bucket() };
        assert_eq!(remarks(&away, &away.peers[0]), "7 names are away");
        let mut behind = bucket();
        behind.data_complete = Some(false);
        (behind.missing_objects, behind.missing_bytes, behind.missing_is_more) = (1000, 1 << 20, true);
        behind.peers.iter_mut().for_each(|peer| (peer.open, peer.here, peer.there) = (false, false, false));
        let expected = "not connected; changes from here have not reached newyork";
        assert_eq!(
            rows(&behind),
            [["C/t/b", "newyork", "on their way", "on its way", "at least 1000 (1.00 MiB)", expected]]
        );
        let peer = &mut behind.peers[0];
        (peer.open, peer.there, peer.names_per_second, peer.names_eta_s) = (true, true, Some(1234.4), Some(59.2));
        (peer.bytes_per_second, behind.data_eta_s) = (Some(2048.0), Some(7201.0));
        assert_eq!(remarks(&behind, &behind.peers[0]), "1234 names/s, 60 s left; 2.00 KiB/s, 3 h left");
        (behind.peers[0].names_lag_s, behind.data_lag_s) = (Some(59.0), 180.0);
        assert!(remarks(&behind, &behind.peers[0]).starts_with("names as of 59 s ago; data as of 3 min ago; 1234"));
        behind.peers[0].comparing = true;
        assert!(remarks(&behind, &behind.peers[0]).starts_with("newyork was away too long and compares"));
        assert!(!is_complete(&[], &[behind]));
        assert!(is_complete(&[], &[BucketSyncRecord { data_complete: None, ..bucket() }]));
    }

    #[test]
    fn paths_are_scopes_down_to_buckets() {
        let read = |text: &str| scope(OsStr::new(text));
        assert_eq!(read("").unwrap(), Scope::everything());
        assert_eq!(read("A").unwrap().to_string(), "A");
        assert_eq!(read("A/b/c").unwrap().to_string(), "A/b/c");
        assert!(read("A/b/c/key").unwrap_err().to_string().contains("A/b/c"));
    }
}
