//! `sync verify`

use super::Session;
use super::sync::scope;
use crate::failure::{Exit, Failure, Outcome};
use crate::path::show;
use crate::quantity::size;
use crate::wire::{DifferenceRecord, LinkOperation, Operation, OutcomeWord, VerifiedRecord};
use serde_json::json;
use std::ffi::OsStr;
use std::time::Duration;

pub(super) async fn verify(session: &mut Session, path: &OsStr, timeout: Duration) -> Outcome {
    let scope = scope(path)?;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let verified: Vec<VerifiedRecord> =
        session.call(Operation::Links(LinkOperation::Verify { scope, timeout_ms })).await?;
    let exit = exit_of(&verified);
    if session.output.is_json() {
        session.output.answer(json!({ "equal": exit == Exit::Done, "buckets": verified }), "")?;
    } else if verified.is_empty() {
        session.output.line(b"No link carries anything there")?;
    } else {
        let rows = verified.iter().map(|record| (json!(null), row(record))).collect();
        session.output.table(&["BUCKET", "PEER", "OUTCOME", ">ROWS", ">SENT", ">RECEIVED", "REMARKS"], rows)?;
        for record in &verified {
            for difference in &record.differences {
                session.output.line(line(record, difference).as_bytes())?;
            }
        }
    }
    match exit {
        Exit::Done => Ok(()),
        exit => Err(Failure::Reported(exit)),
    }
}

/// Different counts as damaged, what is not known as incomplete. Where nothing was compared, nothing is equal.
fn exit_of(verified: &[VerifiedRecord]) -> Exit {
    let is_any = |word: OutcomeWord| verified.iter().any(|record| record.outcome == word);
    if is_any(OutcomeWord::Different) {
        Exit::Damaged
    } else if is_any(OutcomeWord::UnderWay) || is_any(OutcomeWord::Unknown) {
        Exit::Incomplete
    } else if verified.is_empty() {
        Exit::NotFound
    } else {
        Exit::Done
    }
}

fn row(record: &VerifiedRecord) -> Vec<String> {
    let (outcome, remarks) = match record.outcome {
        OutcomeWord::Equal => ("equal", String::new()),
        OutcomeWord::Different => {
            let more = if record.is_more { "at least " } else { "" };
            ("different", format!("{more}{} differences", record.differences.len()))
        }
        OutcomeWord::UnderWay => ("under way", under_way(record)),
        OutcomeWord::Unknown => ("unknown", record.problem.clone().unwrap_or_default()),
    };
    vec![
        record.bucket.clone(),
        record.name.clone(),
        outcome.into(),
        record.rows.to_string(),
        size(record.sent_bytes),
        size(record.received_bytes),
        remarks,
    ]
}

fn under_way(record: &VerifiedRecord) -> String {
    let told = |dots: &[String], place: &str| {
        (!dots.is_empty()).then(|| format!("changes up to {} are not {place}", dots.join(", ")))
    };
    let there = format!("at {}", record.name);
    [told(&record.lacking_here, "here"), told(&record.lacking_there, &there)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

fn line(record: &VerifiedRecord, difference: &DifferenceRecord) -> String {
    let key = difference.key.as_ref().map_or("(no name here)".into(), |key| show(&key.0));
    let held = match difference.held.as_str() {
        "here" => format!("only here, not at {}", record.name),
        "there" => format!("only at {}", record.name),
        _ => format!("not the same at {}", record.name),
    };
    format!("{}/{key}: {} is {held}", record.bucket, difference.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Raw;
    use bytes::Bytes;

    #[test]
    fn the_worst_outcome_is_the_exit_code() {
        let record = |outcome| VerifiedRecord {
            bucket: "C/t/b".into(),
            peer: "01".repeat(16),
            name: "newyork".into(),
            outcome,
            rows: 3,
            differences: Vec::new(),
            is_more: false,
            lacking_here: vec!["01-7".into()],
            lacking_there: Vec::new(),
            problem: None,
            sent_bytes: 0,
            received_bytes: 0,
            questions: 0,
        };
        let all = [OutcomeWord::Equal, OutcomeWord::UnderWay, OutcomeWord::Different].map(record);
        assert_eq!(exit_of(&all[..0]), Exit::NotFound);
        assert_eq!(exit_of(&all[..1]), Exit::Done);
        assert_eq!(exit_of(&all[..2]), Exit::Incomplete);
        assert_eq!(exit_of(&all), Exit::Damaged);
        assert_eq!(row(&all[1])[6], "changes up to 01-7 are not here");
        let key = Some(Raw(Bytes::from_static(b"k")));
        let difference = DifferenceRecord { key, what: "name".into(), held: "there".into() };
        assert_eq!(line(&all[2], &difference), "C/t/b/k: name is only at newyork");
    }
}
