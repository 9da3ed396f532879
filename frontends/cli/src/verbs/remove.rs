//! `rm`

use super::{Session, place};
use crate::arguments::RmArgs;
use crate::backend::Backend;
use crate::failure::{Errors, Outcome};
use crate::output::key_fields;
use crate::path::{directory_prefix, show};
use crate::wire::{DeletedRecord, Item, Operation, Raw, Refusal};
use bytes::Bytes;
use futures::stream::StreamExt;
use serde_json::{Map, Value, json};
use tombolo_core::{BucketPath, Error, ErrorKind, Subject};

/// Keys, and directories, that are deleted together.
const BATCH_KEYS: usize = 1000;
/// Directories being removed at once; they share syncs.
const REMOVALS_IN_FLIGHT: usize = 32;

pub(super) async fn remove(session: &mut Session, args: RmArgs) -> Outcome {
    let (bucket, key) = place(&args.path)?.bucket_and_key()?;
    if args.recursive {
        // What is left of "$BUCKET/$NAME" when there is no name.
        if key.is_empty() && args.path.as_encoded_bytes().ends_with(b"/") {
            let next = format!("to empty it: tombolo rm -r {bucket}");
            return Err(Error::invalid(format!("'{bucket}/' names nothing in the bucket; {next}")).into());
        }
        return remove_tree(session, &bucket, key).await;
    }
    if key.is_empty() {
        let next = format!("to empty it: tombolo rm -r {bucket}; to delete it: tombolo bucket delete {bucket}");
        return Err(Error::invalid(format!("'{bucket}' is a bucket; {next}")).into());
    }
    let path = || format!("{bucket}/{}", show(&key));
    if key.ends_with(b"/") && args.version.is_none() {
        session.call::<()>(Operation::RemoveDirectory { bucket: bucket.to_string(), path: Raw(key.clone()) }).await?;
        return session.output.answer(removed_json(&bucket, key), "");
    }
    let operation =
        Operation::Delete { bucket: bucket.to_string(), key: Raw(key.clone()), version: args.version, if_match: None };
    let deleted: DeletedRecord = session.call(operation).await?;
    if !deleted.existed {
        return Err(Error::not_found(Subject::Key, format!("there is no object '{}'", path())).into());
    }
    let mut json = removed_json(&bucket, key);
    if let Some(map) = json.as_object_mut() {
        map.insert("version".into(), json!(deleted.version));
        map.insert("marker".into(), deleted.marker.into());
    }
    session.output.answer(json, "")
}

fn removed_json(bucket: &BucketPath, key: Bytes) -> Value {
    let mut map = Map::new();
    map.insert("path".into(), format!("{bucket}/{}", String::from_utf8_lossy(&key)).into());
    map.insert("bucket".into(), bucket.to_string().into());
    key_fields(&mut map, &Raw(key));
    map.insert("existed".into(), true.into());
    Value::Object(map)
}

/// Deletes the object `key`, if there is one, and all below the directory `key`, itself included.
async fn remove_tree(session: &mut Session, bucket: &BucketPath, key: Bytes) -> Outcome {
    let mut removal = Removal {
        backend: session.backend.clone(),
        bucket: bucket.to_string(),
        batch: Vec::new(),
        directories: Vec::new(),
        left: Vec::new(),
        removed: 0,
        errors: Errors::new(session.output.is_json()),
    };
    let mut found = key.is_empty();
    if !key.is_empty() && !key.ends_with(b"/") {
        let operation =
            Operation::Delete { bucket: bucket.to_string(), key: Raw(key.clone()), version: None, if_match: None };
        let deleted: DeletedRecord = session.call(operation).await?;
        found = deleted.existed;
        removal.removed += u64::from(deleted.existed);
    }
    let mut listing = session.listing(bucket, directory_prefix(&key), false, None);
    while let Some(page) = listing.next().await? {
        for item in page.items {
            let Item::Object(summary) = item else {
                continue;
            };
            found = true;
            removal.add(summary.key).await?;
        }
    }
    removal.finish().await?;
    if !found {
        let what = format!("there is nothing at '{bucket}/{}'", show(&key));
        return Err(Error::not_found(Subject::Key, what).into());
    }
    session.output.answer(json!({ "removed": removal.removed, "failed": removal.errors.count }), "")?;
    removal.errors.outcome()
}

/// Keys on their way out, in key order: files in batches, a directory when the listing has left it.
struct Removal {
    backend: Backend,
    bucket: String,
    batch: Vec<Raw>,
    /// Directories that the listing is inside of, outermost first.
    directories: Vec<Raw>,
    /// Directories that it has left, to be removed with the next batch.
    left: Vec<Raw>,
    removed: u64,
    errors: Errors,
}

impl Removal {
    async fn add(&mut self, key: Raw) -> Outcome {
        while self.directories.last().is_some_and(|directory| !key.0.starts_with(&directory.0)) {
            self.leave().await?;
        }
        if key.0.ends_with(b"/") {
            self.directories.push(key);
            return Ok(());
        }
        self.batch.push(key);
        if self.batch.len() >= BATCH_KEYS { self.flush().await } else { Ok(()) }
    }

    async fn finish(&mut self) -> Outcome {
        while !self.directories.is_empty() {
            self.leave().await?;
        }
        self.flush().await
    }

    /// The listing has left the innermost directory: it can go once what is below it has gone.
    async fn leave(&mut self) -> Outcome {
        self.left.extend(self.directories.pop());
        if self.left.len() >= BATCH_KEYS { self.flush().await } else { Ok(()) }
    }

    /// Deletes the files of the batch, then the directories that have been left, the deepest first.
    async fn flush(&mut self) -> Outcome {
        if !self.batch.is_empty() {
            self.delete_files().await?;
        }
        let mut left = std::mem::take(&mut self.left);
        left.sort_by_key(|path| std::cmp::Reverse(depth(path)));
        for level in left.chunk_by(|a, b| depth(a) == depth(b)) {
            let (backend, bucket) = (&self.backend, &self.bucket);
            let removals = futures::stream::iter(level).map(|path| async move {
                let operation = Operation::RemoveDirectory { bucket: bucket.clone(), path: path.clone() };
                (path, backend.call::<()>(operation).await)
            });
            let removals: Vec<_> = removals.buffer_unordered(REMOVALS_IN_FLIGHT).collect().await;
            for (path, removed) in removals {
                match removed {
                    Ok(()) => self.removed += 1,
                    // It vanished with its last entry.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => self.failed(path, &error)?,
                }
            }
        }
        Ok(())
    }

    async fn delete_files(&mut self) -> Outcome {
        let keys = std::mem::take(&mut self.batch);
        let refusals: Vec<Option<Refusal>> =
            self.backend.call(Operation::DeleteMany { bucket: self.bucket.clone(), keys: keys.clone() }).await?;
        for (key, refusal) in keys.iter().zip(refusals) {
            match refusal {
                None => self.removed += 1,
                Some(refusal) => self.failed(key, &refusal.into())?,
            }
        }
        Ok(())
    }

    fn failed(&mut self, key: &Raw, error: &Error) -> Outcome {
        self.errors.note(&format!("{}/{}", self.bucket, show(&key.0)), error)
    }
}

/// How many directories lead to this one.
fn depth(path: &Raw) -> usize {
    path.0.iter().filter(|byte| **byte == b'/').count()
}
