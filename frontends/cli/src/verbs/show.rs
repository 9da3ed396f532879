//! `stat` and `versions`

use super::{Session, catalog, named, place};
use crate::arguments::{StatArgs, VersionsArgs};
use crate::failure::Outcome;
use crate::output::{locality, object_json, version_json};
use crate::path::{Place, show};
use crate::quantity::{short_time, size, time};
use crate::wire::{Named, ObjectRecord, Operation, Raw, VersionsPage};
use bytes::Bytes;
use tombolo_core::{BucketPath, Error, ErrorKind, Subject};

pub(super) async fn stat(session: &mut Session, args: StatArgs) -> Outcome {
    let place = place(&args.path)?;
    session.after(&place, &args.after).await?;
    let (bucket, key) = match place {
        Place::Root => return catalog::clusters(session).await,
        Place::Cluster(cluster) => return catalog::show_cluster(session, &cluster).await,
        Place::Tenant(tenant) => return catalog::show_tenant(session, &tenant.to_string()).await,
        Place::Bucket(bucket) => return catalog::show_bucket(session, &bucket.to_string()).await,
        Place::Object(object) => (object.bucket, object.key),
    };
    let is_now = args.view.version.is_none() && args.view.snapshot.is_none();
    let at = Named { version: args.view.version, snapshot: args.view.snapshot, ..named(&bucket, &key) };
    let record: ObjectRecord = match session.call(Operation::Head { at, local: true }).await {
        // What is no object may be a directory.
        Err(error) if is_now && error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => {
            session.call(Operation::Stat { bucket: bucket.to_string(), path: Raw(key.clone()) }).await?
        }
        other => other?,
    };
    let text = describe(&bucket, &record);
    session.output.answer(object_json(&bucket.to_string(), &record), &text)
}

fn describe(bucket: &BucketPath, record: &ObjectRecord) -> String {
    let attributes = &record.attributes;
    let mut text = format!(
        "Path       {bucket}/{}\nType       {}\nSize       {} ({} bytes)\nModified   {}\nVersion    {}{}\nETag       {}\nSegment    {}\nNode       {} ({} names)",
        show(&record.key.0),
        serde_json::json!(record.file_type).as_str().unwrap_or_default(),
        size(record.size),
        record.size,
        time(record.modified_ns),
        record.version,
        if record.current { "" } else { " (not current)" },
        record.etag,
        record.segment,
        record.node,
        record.links,
    );
    let mut line = |title: &str, value: String| text.push_str(&format!("\n{title:<10} {value}"));
    if let Some(bytes) = record.local_bytes {
        line("Local", format!("{} ({bytes} bytes)", locality(bytes, record.size)));
    }
    if let Some(mode) = attributes.mode {
        line("Mode", format!("{mode:04o}"));
    }
    if attributes.uid.is_some() || attributes.gid.is_some() {
        line("Owner", format!("{}:{}", attributes.uid.unwrap_or(0), attributes.gid.unwrap_or(0)));
    }
    if let Some(device) = attributes.rdev {
        line("Device", device.to_string());
    }
    for (name, value) in &record.headers {
        line("Header", show(format!("{name}: {value}").as_bytes()));
    }
    for (name, value) in &record.user {
        line("Metadata", show(format!("{name}: {value}").as_bytes()));
    }
    for (name, value) in &record.tags {
        line("Tag", show(format!("{name}={value}").as_bytes()));
    }
    for (name, value) in &attributes.xattrs {
        line("Xattr", format!("{}: {}", show(name.as_bytes()), show(&value.0)));
    }
    for checksum in &record.checksums {
        line("Checksum", format!("{} {}", checksum.algorithm, checksum.value));
    }
    if record.parts > 0 {
        line("Parts", record.parts.to_string());
    }
    text
}

pub(super) async fn versions(session: &mut Session, args: VersionsArgs) -> Outcome {
    let (bucket, key) = place(&args.path)?.bucket_and_key()?;
    let is_exact = !key.is_empty() && !key.ends_with(b"/");
    session.output.begin();
    let mut found = false;
    let mut after: Option<(Raw, Option<String>)> = None;
    loop {
        let operation =
            Operation::Versions { bucket: bucket.to_string(), prefix: Raw(key.clone()), after: after.take() };
        let page: VersionsPage = session.call(operation).await?;
        let mut is_past = false;
        for record in page.items {
            if is_exact && record.summary.key.0 != key {
                // Keys come in order: the one that is its own prefix comes first.
                is_past = true;
                break;
            }
            found = true;
            let name = session.output.key(&record.summary.key.0);
            let note = match (record.current, record.marker) {
                (true, true) => "current, delete marker",
                (true, false) => "current",
                (false, true) => "delete marker",
                (false, false) => "",
            };
            session.output.item(
                || version_json(&record),
                || {
                    let columns = format!(
                        "{:<43}  {:>9}  {}  {note:<22}  ",
                        record.version,
                        size(record.summary.size),
                        short_time(record.summary.modified_ns)
                    );
                    [columns.as_bytes(), &name].concat()
                },
            )?;
        }
        match page.next {
            Some(next) if !is_past => after = Some(next),
            _ => break,
        }
    }
    if is_exact && !found {
        return Err(no_version(&bucket, &key).into());
    }
    session.output.end()
}

fn no_version(bucket: &BucketPath, key: &Bytes) -> Error {
    Error::not_found(Subject::Key, format!("'{bucket}/{}' has no version", show(key)))
}
