//! `cp` and `mv`

use super::{Session, named, place};
use crate::arguments::{CpArgs, MvArgs};
use crate::failure::Outcome;
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
    let source = Named { version: args.view.version, snapshot: args.view.snapshot, ..named(&from.bucket, &from.key) };
    let operation = Operation::Copy { from: source, bucket: to.bucket.to_string(), key: Raw(to.key) };
    let record: ObjectRecord = session.call(operation).await?;
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
            under_way.push(copy_one(session, source, &to, key, summary.file_type));
        }
    }
    while let Some(result) = under_way.next().await {
        result?;
    }
    drop(under_way);
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

async fn copy_one(session: &Session, from: Named, to: &BucketPath, key: Bytes, kind: Kind) -> Result<()> {
    let (bucket, key) = (to.to_string(), Raw(key));
    if kind != Kind::Directory {
        return session.call::<ObjectRecord>(Operation::Copy { from, bucket, key }).await.map(drop);
    }
    let record: ObjectRecord = session.call(Operation::Head { at: from, local: false }).await?;
    let attributes: AttributesRecord = record.attributes;
    session.call::<bool>(Operation::MakeDirectory { bucket, path: key, attributes }).await.map(drop)
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
    let operation = Operation::Copy {
        from: named(&from.bucket, &from.key),
        bucket: to.bucket.to_string(),
        key: Raw(to.key.clone()),
    };
    let copied = match session.call::<ObjectRecord>(operation).await {
        Ok(copied) => copied,
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
        if_match: Some(copied.etag),
    };
    session.call::<DeletedRecord>(operation).await?;
    session.output.answer(moved, "")
}

async fn is_directory(session: &Session, bucket: &BucketPath, key: &Bytes) -> Result<bool> {
    let page = session.listing(bucket, directory_prefix(key), true, None).next().await?;
    Ok(page.is_some_and(|page| !page.items.is_empty()))
}
