//! Objects, files and directories.

use super::{open, out_of_place};
use crate::wire::{
    DeletedRecord, Frame, Item, Keep, Named, ObjectRecord, Operation, Page, PutRequest, Refusal, VersionsPage, encode,
};
use bytes::Bytes;
use std::ops::Range;
use tokio::sync::mpsc;
use tombolo_core::{
    Attributes, Bucket, Condition, CopyOptions, DeleteOptions, Deleted, Error, ErrorKind, EtagMatch, GetOptions,
    ListOptions, ListVersionsOptions, Metadata, Object, PutOptions, Result, Segment, Subject, VersionId,
};

/// Keys in one page of a listing.
const PAGE_KEYS: usize = 1000;
/// A piece of a hole, for the digest.
const ZEROS: &[u8] = &[0; 64 << 10];

pub(super) async fn execute(segment: &Segment, operation: Operation) -> Result<Bytes> {
    match operation {
        Operation::Head { at, local: false } => {
            let bucket = open(segment, &at.bucket).await?;
            encode(&ObjectRecord::from(&bucket.head(&at.key.0, view(&at)?).await?))
        }
        Operation::Head { at, local: true } => {
            let object = object(segment, &at).await?;
            let local_bytes = Some(object.local_bytes().await?.0);
            encode(&ObjectRecord { local_bytes, ..ObjectRecord::from(object.info()) })
        }
        Operation::Stat { bucket, path } => {
            encode(&ObjectRecord::from(&open(segment, &bucket).await?.stat(&path.0).await?))
        }
        Operation::Digest { at } => encode(&digest(&object(segment, &at).await?).await?),
        Operation::Keep { bucket, path, keep } => {
            let bucket = open(segment, &bucket).await?;
            let listed = match keep {
                Keep::Pin => bucket.pin(&path.0).await.map(|()| 0)?,
                Keep::Unpin => bucket.unpin(&path.0).await.map(|()| 0)?,
                Keep::Persist => bucket.persist(&path.0).await?,
                Keep::Recall => bucket.recall(&path.0).await?,
            };
            encode(&listed)
        }
        Operation::List { bucket, prefix, delimiter, after, snapshot, local, away } => {
            let options = ListOptions {
                prefix: prefix.0,
                delimiter: delimiter.then(|| Bytes::from_static(b"/")),
                after: after.map(|raw| raw.0),
                limit: PAGE_KEYS,
                snapshot: snapshot.clone(),
                with_away: away,
            };
            let bucket = open(segment, &bucket).await?;
            let mut page = Page::from(bucket.list(options).await?);
            if local {
                add_local(&bucket, &mut page, snapshot).await?;
            }
            encode(&page)
        }
        Operation::Versions { bucket, prefix, after } => {
            let (after, after_version) = match after {
                Some((key, version)) => (Some(key.0), version.as_deref().map(VersionId::parse).transpose()?),
                None => (None, None),
            };
            let options =
                ListVersionsOptions { prefix: prefix.0, delimiter: None, after, after_version, limit: PAGE_KEYS };
            encode(&VersionsPage::from(open(segment, &bucket).await?.list_versions(options).await?))
        }
        Operation::Delete { bucket, key, version, if_match } => {
            let version = version.as_deref().map(VersionId::parse).transpose()?;
            let is_any = if_match.is_none() && version.is_none();
            let if_match = match if_match {
                Some(etag) => Some(EtagMatch::OneOf(vec![etag])),
                // What is not there leaves no delete marker.
                None => is_any.then_some(EtagMatch::Any),
            };
            let options = DeleteOptions { version, condition: Condition { if_match, ..Condition::default() } };
            let deleted = match open(segment, &bucket).await?.delete(&key.0, options).await {
                Err(error) if is_any && (error.kind(), error.subject()) == (ErrorKind::NotFound, Subject::Key) => {
                    Deleted::default()
                }
                deleted => deleted?,
            };
            encode(&DeletedRecord {
                existed: deleted.existed,
                version: deleted.version.map(|v| v.to_string()),
                marker: deleted.is_marker,
            })
        }
        Operation::DeleteMany { bucket, keys } => {
            let items = keys.into_iter().map(|key| (key.0, DeleteOptions::default())).collect();
            let results = open(segment, &bucket).await?.delete_many(items).await?;
            encode(&results.iter().map(|result| result.as_ref().err().map(Refusal::from)).collect::<Vec<_>>())
        }
        Operation::Copy { from, bucket, key, replaces } => {
            let source = object(segment, &from).await?;
            let target = open(segment, &bucket).await?;
            let info = source.info();
            // Where nothing but S3 knows the source, what was at its new place keeps what that had.
            let is_file = info.attributes != Attributes::default();
            let options = CopyOptions {
                attributes: is_file.then(|| info.attributes.clone()),
                modified_ns: is_file.then_some(info.modified_ns),
                unlinks: replaces,
                ..CopyOptions::default()
            };
            encode(&ObjectRecord::from(&target.copy(&source, &key.0, options).await?))
        }
        Operation::Rename { bucket, from, to } => encode(&open(segment, &bucket).await?.rename(&from.0, &to.0).await?),
        Operation::MakeDirectory { bucket, path, attributes } => {
            let made = open(segment, &bucket).await?.mkdir(&path.0, Attributes::from(attributes)).await;
            match made {
                Ok(()) => encode(&true),
                Err(error) if error.kind() == ErrorKind::Exists => encode(&false),
                Err(error) => Err(error),
            }
        }
        Operation::RemoveDirectory { bucket, path } => encode(&open(segment, &bucket).await?.rmdir(&path.0).await?),
        Operation::Link { bucket, existing, to, replaces: false } => {
            encode(&open(segment, &bucket).await?.link(&existing.0, &to.0).await?)
        }
        Operation::Link { bucket, existing, to, replaces: true } => {
            encode(&open(segment, &bucket).await?.link_over(&existing.0, &to.0).await?)
        }
        Operation::SetAttributes { bucket, path, attributes, modified_ns } => {
            let bucket = open(segment, &bucket).await?;
            encode(&bucket.set_attributes(&path.0, attributes.into(), modified_ns).await?)
        }
        other => Err(out_of_place(&other)),
    }
}

/// Says of each object of a page how much of it is here.
async fn add_local(bucket: &Bucket, page: &mut Page, snapshot: Option<String>) -> Result<()> {
    for item in &mut page.items {
        let Item::Object(summary) = item else { continue };
        let options = GetOptions { version: None, snapshot: snapshot.clone() };
        summary.local_bytes = match bucket.get(&summary.key.0, options).await {
            Ok(object) => Some(object.local_bytes().await?.0),
            // It has gone meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// Stores the content that comes as frames. An input that ends without `End` stores nothing.
pub(super) async fn put(segment: &Segment, request: PutRequest, input: &mut mpsc::Receiver<Frame>) -> Result<Bytes> {
    let bucket = open(segment, &request.bucket).await?;
    let mut options = PutOptions {
        metadata: Metadata { headers: request.headers, user: request.user },
        tags: request.tags,
        attributes: request.attributes.map(Attributes::from),
        modified_ns: request.modified_ns,
        file_type: request.file_type.into(),
        unlinks: request.unlinks,
        ..PutOptions::default()
    };
    if request.if_absent {
        options.condition.if_none_match = Some(EtagMatch::Any);
    }
    let key = request.key.0;
    // A content of one piece needs no pipeline.
    let first = taken(input).await?;
    let second = match &first {
        Frame::End => {
            return encode(&ObjectRecord::from(&bucket.put(&key, Bytes::new(), options).await?));
        }
        _ => taken(input).await?,
    };
    if let (Frame::Data(data), Frame::End) = (&first, &second) {
        return encode(&ObjectRecord::from(&bucket.put(&key, data.clone(), options).await?));
    }
    let mut writer = bucket.writer(&key, options).await?;
    let mut held = Some(second);
    let mut frame = first;
    loop {
        match frame {
            Frame::Data(data) => writer.push(data).await?,
            Frame::Hole(length) => writer.push_hole(length).await?,
            Frame::End => break,
            _ => return Err(Error::invalid("a content is made of data and holes only")),
        }
        frame = match held.take() {
            Some(frame) => frame,
            None => writer.idle(taken(input)).await??,
        };
    }
    encode(&ObjectRecord::from(&writer.seal().await?.commit().await?))
}

async fn taken(input: &mut mpsc::Receiver<Frame>) -> Result<Frame> {
    let gone = || Error::new(ErrorKind::Failed, "the content ended early; nothing was stored");
    input.recv().await.ok_or_else(gone)
}

/// Gives an object's record, then its content.
pub(super) async fn get(
    segment: &Segment,
    at: Named,
    unless_linked: bool,
    output: &mpsc::Sender<Frame>,
) -> Result<Bytes> {
    let object = object(segment, &at).await?;
    let info = object.info();
    give(output, Frame::Record(encode(&ObjectRecord::from(info))?)).await?;
    let (size, done) = (info.size, encode(&())?);
    if unless_linked && info.links > 1 {
        return Ok(done);
    }
    let mut offset = 0;
    while offset < size {
        let data = next_data(&object, offset, size).await?;
        if data.start > offset {
            give(output, Frame::Hole(data.start - offset)).await?;
        }
        let mut reader = object.read(data.clone());
        while let Some(piece) = reader.next().await? {
            give(output, Frame::Data(piece)).await?;
        }
        offset = data.end;
    }
    Ok(done)
}

async fn give(output: &mpsc::Sender<Frame>, frame: Frame) -> Result<()> {
    let gone = |_| Error::new(ErrorKind::Failed, "nobody takes the content any more");
    output.send(frame).await.map_err(gone)
}

async fn digest(object: &Object) -> Result<String> {
    let size = object.info().size;
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < size {
        let data = next_data(object, offset, size).await?;
        let mut hole = data.start.saturating_sub(offset);
        while hole > 0 {
            let piece = usize::try_from(hole).unwrap_or(usize::MAX).min(ZEROS.len());
            hasher.update(ZEROS.get(..piece).unwrap_or_default());
            hole -= piece as u64;
        }
        let mut reader = object.read(data.clone());
        while let Some(piece) = reader.next().await? {
            hasher.update(&piece);
        }
        offset = data.end;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The next stretch of data, `size..size` when only a hole is left. It always ends after `offset`.
async fn next_data(object: &Object, offset: u64, size: u64) -> Result<Range<u64>> {
    let data = object.next_data(offset).await?.unwrap_or(size..size);
    if data.start < offset || data.end <= offset || data.end < data.start {
        return Err(Error::damaged(format!("the extents of {:?} at {offset} make no sense", object.info().key)));
    }
    Ok(data)
}

async fn object(segment: &Segment, at: &Named) -> Result<Object> {
    open(segment, &at.bucket).await?.get(&at.key.0, view(at)?).await
}

fn view(at: &Named) -> Result<GetOptions> {
    let version = at.version.as_deref().map(VersionId::parse).transpose()?;
    Ok(GetOptions { version, snapshot: at.snapshot.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::Exchange;
    use crate::wire::{Frame, Operation, PutRequest, Raw, Refusal, decode};
    use bytes::Bytes;
    use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, OpenOptions, Segment};

    /// The length of a hole is what the other side says. Added to what had come before it ended the operation without an answer.
    #[tokio::test]
    async fn a_hole_that_no_content_can_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: "s".into(), cluster: "C".into() };
        let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
        let path: BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let key = Raw(Bytes::from_static(b"k"));
        let request = PutRequest { bucket: path.to_string(), key, ..PutRequest::default() };
        let mut exchange = Exchange::start(&segment, None, Operation::Put(Box::new(request)));
        for frame in [Frame::Data(Bytes::from_static(b"x")), Frame::Hole(u64::MAX), Frame::End] {
            exchange.send(frame).await;
        }
        let Some(Frame::Failed(json)) = exchange.next().await else { panic!("no refusal came") };
        assert_eq!(decode::<Refusal>(&json).unwrap().kind, "invalid");
    }
}
