//! `cp` and `mv`

use super::directory::make_directory;
use super::{Session, named, place};
use crate::arguments::{CpArgs, MvArgs};
use crate::failure::{Errors, Outcome};
use crate::output::object_json;
use crate::path::{base_name, directory_prefix, show};
use crate::wire::{AttributesRecord, DeletedRecord, Item, Kind, Named, ObjectRecord, Operation, Raw};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Subject};

/// Copies under way at once; each is a durable commit of its own, and they share syncs.
const COPIES_IN_FLIGHT: usize = 32;

pub(super) async fn copy(session: &mut Session, args: CpArgs) -> Outcome {
    if args.recursive {
        return copy_tree(session, args).await;
    }
    let from = place(&args.from)?.object()?;
    let to = place(&args.to)?.target(Some(base_name(&from.key)))?;
    session.refuse_directory(&to).await?;
    let source = Named { version: args.view.version, snapshot: args.view.snapshot, ..named(&from.bucket, &from.key) };
    let record = copy_object(session, source, &to.bucket, to.key, false).await?;
    session.output.answer(object_json(&to.bucket.to_string(), &record), "")
}

/// Copies the object FROM, if there is one, and all below the directory FROM.
async fn copy_tree(session: &mut Session, args: CpArgs) -> Outcome {
    if args.view.version.is_some() {
        return Err(Error::invalid("--version names one object; it can't go with -r").into());
    }
    let (from, key) = place(&args.from)?.bucket_and_key()?;
    let (source, (to, target)) = (directory_prefix(&key), place(&args.to)?.bucket_and_directory()?);
    if from == to && target.starts_with(&source) {
        let what = format!("'{to}/{}' is inside '{from}/{}'", show(&target), show(&source));
        return Err(Error::invalid(what).into());
    }
    let errors = Errors::new(session.output.is_json());
    let mut copies = Copies { bucket: from.to_string(), copied: 0, bytes: 0, errors };
    let snapshot = args.view.snapshot.clone();
    let mut found = key.is_empty();
    let mut listing = session.listing(&from, source.clone(), false, snapshot.clone());
    let mut directories = Vec::new();
    let shared: &Session = session;
    let mut under_way = FuturesUnordered::new();
    while let Some(page) = listing.next().await? {
        for item in page.items {
            let Item::Object(summary) = item else {
                continue;
            };
            found = true;
            let below = summary.key.0.get(source.len()..).unwrap_or_default();
            let key = Bytes::from([&target, below].concat());
            if key.is_empty() {
                continue;
            }
            if under_way.len() >= COPIES_IN_FLIGHT
                && let Some((key, result, bytes)) = under_way.next().await
            {
                copies.note(&key, &result, bytes)?;
            }
            let source = Named { snapshot: snapshot.clone(), ..named(&from, &summary.key.0) };
            if summary.file_type == Kind::Directory {
                directories.push((source.clone(), key.clone()));
            }
            let to = &to;
            under_way.push(async move {
                let what = (summary.file_type, summary.size > 0);
                (summary.key.0, copy_one(shared, source, to, key, what).await, summary.size)
            });
        }
    }
    while let Some((key, result, bytes)) = under_way.next().await {
        copies.note(&key, &result, bytes)?;
    }
    drop(under_way);
    let mut finishing = futures::stream::iter(directories)
        .map(|(from, key)| async { (from.key.0.clone(), finish_directory(shared, from, &to, key).await) })
        .buffer_unordered(COPIES_IN_FLIGHT);
    while let Some((key, result)) = finishing.next().await {
        if result.is_err() {
            copies.note(&key, &result, 0)?;
        }
    }
    drop(finishing);
    if !key.is_empty() && !key.ends_with(b"/") {
        let to = place(&args.to)?.target(Some(base_name(&key)))?;
        if !found {
            session.refuse_directory(&to).await?;
        }
        // Last: a directory can't be made where an object has its name, but an object can be put beside one.
        let at = Named { snapshot, ..named(&from, &key) };
        match copy_object(session, at, &to.bucket, to.key, false).await {
            Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => {}
            copied => {
                found = true;
                let size = copied.as_ref().map_or(0, |record| record.size);
                copies.note(&key, &copied.map(drop), size)?;
            }
        }
    }
    if !found {
        let what = format!("there is nothing at '{from}/{}'", show(&key));
        return Err(Error::not_found(Subject::Key, what).into());
    }
    let mut text = format!("{} objects copied, {}", copies.copied, crate::quantity::size(copies.bytes));
    let failed = copies.errors.count;
    if failed > 0 {
        text.push_str(&format!("; {failed} errors"));
    }
    session.output.answer(json!({ "copied": copies.copied, "bytes": copies.bytes, "failed": failed }), &text)?;
    copies.errors.outcome()
}

/// What became of the copies of a tree.
struct Copies {
    bucket: String,
    copied: u64,
    bytes: u64,
    errors: Errors,
}

impl Copies {
    fn note(&mut self, key: &Bytes, result: &Result<()>, bytes: u64) -> Outcome {
        match result {
            Ok(()) => (self.copied, self.bytes) = (self.copied + 1, self.bytes + bytes),
            Err(error) => self.errors.note(&format!("{}/{}", self.bucket, show(key)), error)?,
        }
        Ok(())
    }
}

async fn copy_one(
    session: &Session,
    from: Named,
    to: &BucketPath,
    key: Bytes,
    (kind, has_content): (Kind, bool),
) -> Result<()> {
    // A directory with content is an object of S3's.
    if kind != Kind::Directory || has_content {
        return copy_object(session, from, to, key, false).await.map(drop);
    }
    let attributes = directory(session, from).await?.attributes;
    make_directory(session, to, key, attributes).await.map(drop)
}

/// Copies an object with what POSIX knows of it. The copy has the tag that its source had.
async fn copy_object(
    session: &Session,
    from: Named,
    to: &BucketPath,
    key: Bytes,
    replaces: bool,
) -> Result<ObjectRecord> {
    let (bucket, key) = (to.to_string(), Raw(key));
    session.call(Operation::Copy { from, bucket, key, replaces }).await
}

/// Gives the copy of a directory its time, which what was copied into it has moved, and its attributes if it was there before.
async fn finish_directory(session: &Session, from: Named, to: &BucketPath, key: Bytes) -> Result<()> {
    let source = directory(session, from).await?;
    let (attributes, modified_ns) = (source.attributes, Some(source.modified_ns));
    if attributes == AttributesRecord::default() {
        return Ok(());
    }
    session.call(Operation::SetAttributes { bucket: to.to_string(), path: Raw(key), attributes, modified_ns }).await
}

async fn directory(session: &Session, at: Named) -> Result<ObjectRecord> {
    match at.snapshot {
        None => session.call(Operation::Stat { bucket: at.bucket, path: at.key }).await,
        Some(_) => session.call(Operation::Head { at, local: false }).await,
    }
}

pub(super) async fn rename(session: &mut Session, args: MvArgs) -> Outcome {
    let from = place(&args.from)?.object()?;
    let to = place(&args.to)?.target(Some(base_name(&from.key)))?;
    let moved = json!({ "from": from.to_string(), "to": to.to_string() });
    if from.bucket == to.bucket {
        let (from, to, bucket) = (Raw(from.key), Raw(to.key), from.bucket.to_string());
        session.call::<()>(Operation::Rename { bucket, from, to }).await?;
        return session.output.answer(moved, "");
    }
    session.refuse_directory(&to).await?;
    let copied = copy_object(session, named(&from.bucket, &from.key), &to.bucket, to.key.clone(), true).await;
    let etag = match copied {
        Ok(record) => record.etag,
        Err(error) if error.kind() == ErrorKind::NotFound && is_directory(session, &from.bucket, &from.key).await? => {
            let what = format!("'{from}' is a directory, which moves inside one bucket only");
            let next = format!("copy it with tombolo cp -r {from} {to}, then tombolo rm -r {from}");
            return Err(Error::invalid(format!("{what}; {next}")).into());
        }
        Err(error) => return Err(error.into()),
    };
    // Only what was copied may go, not what somebody wrote since.
    let operation = Operation::Delete {
        bucket: from.bucket.to_string(),
        key: Raw(from.key.clone()),
        version: None,
        if_match: Some(etag),
    };
    let deleted = session.call::<DeletedRecord>(operation).await;
    match deleted {
        Err(error) if error.kind() == ErrorKind::Precondition => {
            let what = format!("'{from}' was changed while it was moved: it stays, and '{to}' is what it was");
            Err(Error::new(ErrorKind::Precondition, what).about(Subject::Key).into())
        }
        deleted => deleted.map_err(Into::into).and_then(|_| session.output.answer(moved, "")),
    }
}

async fn is_directory(session: &Session, bucket: &BucketPath, key: &Bytes) -> Result<bool> {
    let page = session.listing(bucket, directory_prefix(key), true, None).next().await?;
    Ok(page.is_some_and(|page| !page.items.is_empty()))
}
