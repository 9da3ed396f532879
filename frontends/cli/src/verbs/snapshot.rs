//! `snapshot`

use super::{Session, place};
use crate::arguments::SnapshotVerb;
use crate::failure::Outcome;
use crate::quantity::{short_time, time};
use crate::wire::{Operation, Raw, SnapshotRecord};
use serde_json::{Value, json};

pub(super) async fn snapshot(session: &mut Session, verb: SnapshotVerb) -> Outcome {
    match verb {
        SnapshotVerb::Create { bucket, name } => {
            let bucket = place(&bucket)?.bucket()?.to_string();
            let record: SnapshotRecord =
                session.call(Operation::CreateSnapshot { bucket: bucket.clone(), name }).await?;
            session.output.answer(snapshot_json(&bucket, &record), "")
        }
        SnapshotVerb::List { bucket } => {
            let bucket = place(&bucket)?.bucket()?.to_string();
            let records: Vec<SnapshotRecord> = session.call(Operation::Snapshots { bucket: bucket.clone() }).await?;
            let row = |record: &SnapshotRecord| {
                (snapshot_json(&bucket, record), vec![record.name.clone(), short_time(record.created_ns)])
            };
            session.output.table(&["SNAPSHOT", "CREATED (UTC)"], records.iter().map(row).collect())
        }
        SnapshotVerb::Delete { bucket, name } => {
            let bucket = place(&bucket)?.bucket()?.to_string();
            let operation = Operation::DeleteSnapshot { bucket: bucket.clone(), name: name.clone() };
            session.call::<()>(operation).await?;
            session.output.answer(json!({ "bucket": bucket, "name": name, "deleted": true }), "")
        }
        SnapshotVerb::Clone { path, target, snapshot } => {
            let (bucket, prefix) = place(&path)?.bucket_and_directory()?;
            let target = place(&target)?.bucket()?.to_string();
            let operation =
                Operation::Clone { bucket: bucket.to_string(), prefix: Raw(prefix), target: target.clone(), snapshot };
            let objects: u64 = session.call(operation).await?;
            session.output.answer(
                json!({ "bucket": target, "objects": objects }),
                &format!("{target} has {objects} objects of {bucket}"),
            )
        }
    }
}

fn snapshot_json(bucket: &str, record: &SnapshotRecord) -> Value {
    json!({ "bucket": bucket, "name": record.name, "created": time(record.created_ns) })
}
