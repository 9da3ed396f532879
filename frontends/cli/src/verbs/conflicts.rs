//! `sync conflicts`

use super::{Session, place};
use crate::arguments::ConflictsVerb;
use crate::backend::Piece;
use crate::failure::Outcome;
use crate::path::{Place, show};
use crate::wire::{ConflictRecord, Frame, Operation, Raw, Take, decode};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use tombolo_core::Result;
use tombolo_link::Scope;

pub(super) async fn conflicts(session: &mut Session, verb: ConflictsVerb) -> Outcome {
    match verb {
        ConflictsVerb::List { path } => list(session, &path).await,
        ConflictsVerb::Resolve { path, take } => resolve(session, &path, take).await,
    }
}

async fn list(session: &mut Session, path: &OsStr) -> Outcome {
    let (scope, below) = scope_and_key(path)?;
    let mut call = session.begin(Operation::Conflicts { scope, below: Raw(below) }).await?;
    session.output.begin();
    loop {
        match call.next::<()>().await? {
            Piece::Frame(Frame::Record(record)) => {
                let record: ConflictRecord = decode(&record)?;
                let loser = session.output.key(&record.place().0);
                session.output.item(|| record_json(&record), || line(&record, &loser))?;
            }
            Piece::Frame(_) => {}
            Piece::Reply(()) => break,
        }
    }
    session.output.end()
}

/// The part of the namespace that is meant, and what keys of it begin with.
fn scope_and_key(path: &OsStr) -> Result<(Scope, Bytes)> {
    Ok(match place(path)? {
        Place::Root => (Scope::everything(), Bytes::new()),
        Place::Object(object) => (Scope::parse([object.bucket.to_string()])?, object.key),
        above => (Scope::parse([above.to_string()])?, Bytes::new()),
    })
}

/// Kind, who made what lost, and the path to resolve, with the key in contention where that is another.
fn line(record: &ConflictRecord, loser: &[u8]) -> Vec<u8> {
    let columns = format!("{:<9}  {}  {}/", record.kind, record.segment, record.bucket);
    let of = match &record.copy {
        Some(copy) if *copy != record.key => format!("  (of {})", show(&record.key.0)),
        Some(_) => String::new(),
        None => "  (an older version)".into(),
    };
    [columns.as_bytes(), loser, of.as_bytes()].concat()
}

fn record_json(record: &ConflictRecord) -> Value {
    let mut map = Map::new();
    map.insert("path".into(), format!("{}/{}", record.bucket, String::from_utf8_lossy(&record.place().0)).into());
    if let Value::Object(fields) = json!(record) {
        map.extend(fields);
    }
    Value::Object(map)
}

async fn resolve(session: &mut Session, path: &OsStr, take: Take) -> Outcome {
    let object = place(path)?.object()?;
    let operation = Operation::Resolve { bucket: object.bucket.to_string(), key: Raw(object.key.clone()), take };
    session.call::<()>(operation).await?;
    let path = format!("{}/{}", object.bucket, String::from_utf8_lossy(&object.key));
    session.output.answer(json!({ "path": path, "take": take }), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_is_to_be_resolved() {
        let mut record = ConflictRecord {
            bucket: "C/t/b".into(),
            kind: "file".into(),
            key: Raw(Bytes::from_static(b"k")),
            copy: Some(Raw(Bytes::from_static(b"k (conflict x 7)"))),
            segment: "07".repeat(16),
            sequence: 7,
            version: None,
        };
        let text = |record: &ConflictRecord| String::from_utf8(line(record, &record.place().0)).unwrap();
        assert!(text(&record).ends_with("  C/t/b/k (conflict x 7)  (of k)"), "{}", text(&record));
        assert_eq!(record_json(&record)["path"], "C/t/b/k (conflict x 7)");
        record.copy = None;
        assert!(text(&record).ends_with("  C/t/b/k  (an older version)"), "{}", text(&record));
        assert_eq!(record_json(&record)["path"], "C/t/b/k");
    }

    #[test]
    fn a_key_narrows_the_list() {
        let (scope, key) = scope_and_key(OsStr::new("A/b/c/d/e")).unwrap();
        assert_eq!((scope.to_string().as_str(), key.as_ref()), ("A/b/c", &b"d/e"[..]));
        assert_eq!(scope_and_key(OsStr::new("")).unwrap().0, Scope::everything());
    }
}
