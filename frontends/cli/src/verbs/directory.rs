//! `mkdir`

use super::{Session, place};
use crate::arguments::MkdirArgs;
use crate::failure::Outcome;
use crate::output::key_fields;
use crate::path::directory_prefix;
use crate::wire::{AttributesRecord, ObjectRecord, Operation, Raw};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Subject};

pub(super) async fn make(session: &mut Session, args: MkdirArgs) -> Outcome {
    let target = place(&args.path)?.object()?;
    let (bucket, key) = (target.bucket, directory_prefix(&target.key));
    let attributes = AttributesRecord::default();
    let made = if args.parents {
        make_directory(session, &bucket, key.clone(), attributes).await?
    } else {
        let (bucket, path) = (bucket.to_string(), Raw(key.clone()));
        session.call(Operation::MakeDirectory { bucket, path, attributes }).await?
    };
    let is_there = made
        || args.parents && {
            let (bucket, path) = (bucket.to_string(), Raw(key.clone()));
            match session.call::<ObjectRecord>(Operation::Stat { bucket, path }).await {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error.into()),
            }
        };
    if !is_there {
        return Err(Error::exists(Subject::Key, format!("'{bucket}/{}' exists", crate::path::show(&key))).into());
    }
    let mut map = Map::new();
    map.insert("path".into(), format!("{bucket}/{}", String::from_utf8_lossy(&key)).into());
    map.insert("bucket".into(), bucket.to_string().into());
    key_fields(&mut map, &Raw(key));
    map.insert("created".into(), made.into());
    session.output.answer(Value::Object(map), "")
}

/// Makes a directory, and those above it, which others may be making. What is there stays as it is. Whether it was made.
pub(super) fn make_directory<'a>(
    session: &'a Session,
    to: &'a BucketPath,
    key: Bytes,
    attributes: AttributesRecord,
) -> BoxFuture<'a, Result<bool>> {
    Box::pin(async move {
        let make = || {
            let (bucket, path) = (to.to_string(), Raw(key.clone()));
            session.call::<bool>(Operation::MakeDirectory { bucket, path, attributes: attributes.clone() })
        };
        let names = key.strip_suffix(b"/").unwrap_or(&key);
        let above = names.iter().rposition(|byte| *byte == b'/').map(|at| key.slice(..at + 1));
        match (make().await, above) {
            (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => {
                make_directory(session, to, above, AttributesRecord::default()).await?;
                make().await
            }
            (made, _) => made,
        }
    })
}
