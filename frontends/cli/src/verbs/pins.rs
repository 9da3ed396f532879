//! `sync pin`, `unpin`, `persist` and `recall`

use super::{Session, place};
use crate::failure::Outcome;
use crate::output::key_fields;
use crate::wire::{Keep, Operation, Raw};
use serde_json::{Map, Value};
use std::ffi::OsStr;

pub(super) async fn keep(session: &mut Session, path: &OsStr, keep: Keep) -> Outcome {
    let (bucket, path) = place(path)?.bucket_and_key()?;
    let operation = Operation::Keep { bucket: bucket.to_string(), path: Raw(path.clone()), keep };
    let listed: u64 = session.call(operation).await?;
    let mut answer = Map::new();
    answer.insert("bucket".into(), bucket.to_string().into());
    key_fields(&mut answer, &Raw(path));
    match keep {
        Keep::Pin => answer.insert("pinned".into(), true.into()),
        Keep::Unpin => answer.insert("pinned".into(), false.into()),
        Keep::Persist => answer.insert("persisted".into(), listed.into()),
        Keep::Recall => answer.insert("recalled".into(), listed.into()),
    };
    session.output.answer(Value::Object(answer), "")
}
