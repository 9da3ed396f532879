//! `ls`

use super::{Session, catalog, named, place};
use crate::arguments::LsArgs;
use crate::failure::Outcome;
use crate::output::{Output, locality, prefix_json, summary_json};
use crate::path::{Place, directory_prefix};
use crate::quantity::{short_time, size};
use crate::wire::{Item, ObjectRecord, Operation, SummaryRecord};
use bytes::Bytes;
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Subject};

pub(super) async fn list(session: &mut Session, args: LsArgs) -> Outcome {
    let place = place(&args.path)?;
    session.after(&place, &args.after).await?;
    match place {
        Place::Root => catalog::clusters(session).await,
        Place::Cluster(cluster) => catalog::tenants(session, &cluster).await,
        Place::Tenant(tenant) => catalog::buckets(session, &tenant.to_string()).await,
        Place::Bucket(bucket) => keys(session, &bucket, Bytes::new(), &args).await,
        Place::Object(object) => keys(session, &object.bucket, object.key, &args).await,
    }
}

/// Lists the object `key`, if there is one, and what is in the directory `key`.
async fn keys(session: &mut Session, bucket: &BucketPath, key: Bytes, args: &LsArgs) -> Outcome {
    session.output.begin();
    let mut found = key.is_empty();
    if args.all && !key.is_empty() && !key.ends_with(b"/") {
        if let Some(summary) = any(session, bucket, &key, args.long).await? {
            found = true;
            print(&mut session.output, &Item::Object(summary), 0, args)?;
        }
    } else if !key.is_empty() && !key.ends_with(b"/") {
        let mut at = named(bucket, &key);
        at.snapshot = args.snapshot.clone();
        match session.call::<ObjectRecord>(Operation::Head { at, local: args.long }).await {
            Ok(record) => {
                found = true;
                let summary = SummaryRecord {
                    key: record.key,
                    size: record.size,
                    modified_ns: record.modified_ns,
                    etag: record.etag,
                    file_type: record.file_type,
                    local_bytes: record.local_bytes,
                    is_away: false,
                };
                print(&mut session.output, &Item::Object(summary), 0, args)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => {}
            Err(error) => return Err(error.into()),
        }
    }
    let prefix = directory_prefix(&key);
    let cut = if args.recursive { 0 } else { prefix.len() };
    let mut listing = session.listing(bucket, prefix.clone(), !args.recursive, args.snapshot.clone());
    (listing.local, listing.away) = (args.long, args.all);
    while let Some(page) = listing.next().await? {
        for item in page.items {
            found = true;
            // A directory is not inside itself.
            let is_itself = matches!(&item, Item::Object(summary) if summary.key.0 == prefix);
            if !is_itself {
                print(&mut session.output, &item, cut, args)?;
            }
        }
    }
    if !found {
        let what = format!("there is nothing at '{bucket}/{}'", crate::path::show(&key));
        return Err(Error::not_found(Subject::Key, what).into());
    }
    session.output.end()
}

/// The object `key`, though its name may be away.
async fn any(session: &mut Session, bucket: &BucketPath, key: &Bytes, local: bool) -> Result<Option<SummaryRecord>> {
    let mut listing = session.listing(bucket, key.clone(), true, None);
    (listing.local, listing.away) = (local, true);
    // It is the first of those that begin with it.
    let first = listing.next().await?.and_then(|page| page.items.into_iter().next());
    Ok(match first {
        Some(Item::Object(summary)) if summary.key.0 == *key => Some(summary),
        _ => None,
    })
}

/// Prints an item, in text without the first `cut` bytes of its key.
fn print(output: &mut Output, item: &Item, cut: usize, args: &LsArgs) -> Outcome {
    let key = match item {
        Item::Object(summary) => &summary.key,
        Item::Prefix(prefix) => prefix,
    };
    let name = output.key(key.0.get(cut..).unwrap_or_default());
    output.item(
        || match item {
            Item::Object(summary) => summary_json(summary),
            Item::Prefix(prefix) => prefix_json(prefix),
        },
        || match item {
            _ if !args.long => name,
            Item::Object(summary) => {
                let local = match summary.local_bytes {
                    _ if summary.is_away => "away",
                    bytes => bytes.map_or("", |bytes| locality(bytes, summary.size)),
                };
                let columns = format!(
                    "{} {:>9}  {local:4}  {}  ",
                    summary.file_type.letter(),
                    size(summary.size),
                    short_time(summary.modified_ns)
                );
                [columns.as_bytes(), &name].concat()
            }
            Item::Prefix(_) => [format!("d {:>9}  {:4}  {:19}  ", "", "", "").as_bytes(), &name].concat(),
        },
    )
}
