//! `cp` and `mv`

use super::{Session, named, place};
use crate::arguments::{CpArgs, MvArgs};
use crate::failure::Outcome;
use crate::output::object_json;
use crate::path::{base_name, directory_prefix, show};
use crate::wire::{AttributesRecord, DeletedRecord, Item, Kind, Named, ObjectRecord, Operation, Raw};
use bytes::Bytes;
use futures::future::BoxFuture;
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
    let source = Named { version: args.view.version, snapshot: args.view.snapshot, ..named(&from.bucket, &from.key) };
    let record = copy_object(session, source, &to.bucket, to.key, false).await?;
    session.output.answer(object_json(&to.bucket.to_string(), &record), "")
}

async fn copy_tree(session: &mut Session, args: CpArgs) -> Outcome {
    if args.view.version.is_some() {
        return Err(Error::invalid("--version names one object; it can't go with -r").into());
    }
    let (from, source) = place(&args.from)?.bucket_and_directory()?;
    let (to, target) = place(&args.to)?.bucket_and_directory()?;
    if from == to && target.starts_with(&source) {
        let what = format!("'{to}/{}' is inside '{from}/{}'", show(&target), show(&source));
        return Err(Error::invalid(what).into());
    }
    let mut listing = session.listing(&from, source.clone(), false, args.view.snapshot.clone());
    let (mut copied, mut bytes) = (0u64, 0u64);
    let mut directories = Vec::new();
    let mut under_way = FuturesUnordered::new();
    while let Some(page) = listing.next().await? {
        for item in page.items {
            let Item::Object(summary) = item else {
                continue;
            };
            let below = summary.key.0.get(source.len()..).unwrap_or_default();
            let key = Bytes::from([&target, below].concat());
            if key.is_empty() {
                continue;
            }
            if under_way.len() >= COPIES_IN_FLIGHT {
                finished(under_way.next().await)?;
            }
            (copied, bytes) = (copied + 1, bytes + summary.size);
            let source = Named { snapshot: args.view.snapshot.clone(), ..named(&from, &summary.key.0) };
            if summary.file_type == Kind::Directory {
                directories.push((source.clone(), key.clone()));
            }
            under_way.push(copy_one(session, source, &to, key, (summary.file_type, summary.size > 0)));
        }
    }
    while let Some(result) = under_way.next().await {
        result?;
    }
    drop(under_way);
    let shared: &Session = session;
    let mut finishing = futures::stream::iter(directories)
        .map(|(from, key)| finish_directory(shared, from, &to, key))
        .buffer_unordered(COPIES_IN_FLIGHT);
    while let Some(result) = finishing.next().await {
        result?;
    }
    drop(finishing);
    if copied == 0 {
        let what = format!("there is nothing below '{from}/{}'", show(&source));
        return Err(Error::not_found(Subject::Key, what).into());
    }
    session.output.answer(
        json!({ "copied": copied, "bytes": bytes }),
        &format!("{copied} objects copied, {}", crate::quantity::size(bytes)),
    )
}

fn finished(result: Option<Result<()>>) -> Result<()> {
    result.unwrap_or(Ok(()))
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
    make_directory(session, to, key, attributes).await
}

/// Makes a directory, and those above it, which may be on their way. What is there stays as it is.
fn make_directory<'a>(
    session: &'a Session,
    to: &'a BucketPath,
    key: Bytes,
    attributes: AttributesRecord,
) -> BoxFuture<'a, Result<()>> {
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
                make().await.map(drop)
            }
            (made, _) => made.map(drop),
        }
    })
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
