//! Listings: objects (V1, V2), versions, uploads and parts. The engine walks keys in byte order; this file says what
//! S3 calls the places to go on from, and how keys are written when a client asks for `encoding-type=url`.

use crate::errors::{from_engine, refuse};
use crate::multipart::upload_checksum;
use crate::ops::{Operations, caller, version};
use crate::time::timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use s3s::dto::*;
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};
use tombolo_core::{
    Bucket as EngineBucket, ListItem, ListOptions, ListPage, ListVersionsOptions, ObjectSummary, TenantPath, UploadId,
    UploadInfo, VersionItem,
};

/// The most lines of a page.
const PAGE_MAX: usize = 1000;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// What `encoding-type=url` leaves as it is. A space becomes `%20`, which every decoder reads, form decoders included.
pub(crate) const URL_SET: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// How keys are written in a listing.
#[derive(Clone, Copy)]
struct Writer {
    is_url: bool,
}

impl Writer {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Writer> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Writer { is_url: false }),
            Some(EncodingType::URL) => Ok(Writer { is_url: true }),
            Some(_) => Err(refuse(S3ErrorCode::InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    fn bytes(self, text: &[u8]) -> String {
        if self.is_url {
            percent_encode(text, URL_SET).to_string()
        } else {
            // Keys that S3 clients make are UTF-8; others can come from doors that take any bytes.
            String::from_utf8_lossy(text).into_owned()
        }
    }

    fn text(self, text: &str) -> String {
        self.bytes(text.as_bytes())
    }

    fn option(self, text: Option<&str>) -> Option<String> {
        text.map(|text| self.text(text))
    }

    fn prefix(self, prefix: &[u8]) -> CommonPrefix {
        CommonPrefix { prefix: Some(self.bytes(prefix)) }
    }
}

/// The number of lines asked for, at most [`PAGE_MAX`].
fn limit(max: Option<i32>, name: &str) -> S3Result<usize> {
    let invalid = |_| {
        refuse(S3ErrorCode::InvalidArgument, format!("Argument {name} must be an integer between 0 and 2147483647"))
    };
    Ok(usize::try_from(max.unwrap_or(1000)).map_err(invalid)?.min(PAGE_MAX))
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(crate) fn owner(tenant: &TenantPath) -> Owner {
    Owner { display_name: Some(tenant.tenant.clone()), id: Some(tenant.to_string()) }
}

/// A place to go on from, opaque to clients.
fn token(key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

fn read_token(token: &str) -> S3Result<Bytes> {
    match URL_SAFE_NO_PAD.decode(token) {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(key.into()),
        _ => Err(refuse(S3ErrorCode::InvalidArgument, "The continuation token provided is incorrect")),
    }
}

fn object(summary: ObjectSummary, writer: Writer, owner: Option<Owner>) -> Object {
    Object {
        e_tag: Some(ETag::Strong(summary.etag.to_string())),
        key: Some(writer.bytes(&summary.key)),
        last_modified: Some(timestamp(summary.modified_ns)),
        owner,
        size: Some(i64::try_from(summary.size).unwrap_or(i64::MAX)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    }
}

fn split(page: ListPage, writer: Writer, owner: Option<&Owner>) -> (Vec<Object>, Vec<CommonPrefix>, Option<Bytes>) {
    let (mut objects, mut prefixes) = (Vec::with_capacity(page.items.len()), Vec::new());
    for item in page.items {
        match item {
            ListItem::Object(summary) => objects.push(object(summary, writer, owner.cloned())),
            ListItem::Prefix(prefix) => prefixes.push(writer.prefix(&prefix)),
        }
    }
    (objects, prefixes, page.next)
}

async fn page(
    bucket: &EngineBucket,
    prefix: Option<&str>,
    delimiter: Option<&str>,
    after: Option<Bytes>,
    limit: usize,
) -> S3Result<ListPage> {
    // S3 answers a page of nothing without looking, and never as truncated.
    if limit == 0 {
        return Ok(ListPage::default());
    }
    let options = ListOptions {
        prefix: Bytes::copy_from_slice(prefix.unwrap_or("").as_bytes()),
        delimiter: delimiter.map(|d| Bytes::copy_from_slice(d.as_bytes())),
        after,
        limit,
        ..ListOptions::default()
    };
    bucket.list(options).await.map_err(from_engine)
}

impl Operations {
    pub(crate) async fn list(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let owner = owner(caller(&req.extensions)?.tenant());
        let input = req.input;
        let writer = Writer::new(input.encoding_type.as_ref())?;
        let limit = limit(input.max_keys, "max-keys")?;
        let delimiter = non_empty(input.delimiter);
        let after = non_empty(input.marker.clone()).map(|m| Bytes::from(m.into_bytes()));
        let page = page(&bucket, input.prefix.as_deref(), delimiter.as_deref(), after, limit).await?;
        let (contents, common_prefixes, next) = split(page, writer, Some(&owner));
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(writer.text(input.prefix.as_deref().unwrap_or(""))),
            marker: Some(writer.text(input.marker.as_deref().unwrap_or(""))),
            max_keys: Some(number(limit)),
            is_truncated: Some(next.is_some()),
            // Without a delimiter the last key is the next marker, and S3 leaves it to the client to know that.
            next_marker: next.filter(|_| delimiter.is_some()).map(|next| writer.bytes(&next)),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: writer.option(delimiter.as_deref()),
            encoding_type: input.encoding_type,
            request_charged: None,
        }))
    }

    pub(crate) async fn list_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let owner = owner(caller(&req.extensions)?.tenant());
        let input = req.input;
        let writer = Writer::new(input.encoding_type.as_ref())?;
        let limit = limit(input.max_keys, "max-keys")?;
        let delimiter = non_empty(input.delimiter);
        let after = match input.continuation_token.as_deref() {
            Some(token) => Some(read_token(token)?),
            None => non_empty(input.start_after.clone()).map(|s| Bytes::from(s.into_bytes())),
        };
        let page = page(&bucket, input.prefix.as_deref(), delimiter.as_deref(), after, limit).await?;
        let with_owner = input.fetch_owner.unwrap_or(false).then_some(&owner);
        let (contents, common_prefixes, next) = split(page, writer, with_owner);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(writer.text(input.prefix.as_deref().unwrap_or(""))),
            max_keys: Some(number(limit)),
            key_count: Some(number(contents.len() + common_prefixes.len())),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next.map(|next| token(&next)),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: writer.option(delimiter.as_deref()),
            encoding_type: input.encoding_type,
            start_after: writer.option(input.start_after.as_deref()),
            request_charged: None,
        }))
    }

    pub(crate) async fn list_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let owner = owner(caller(&req.extensions)?.tenant());
        let input = req.input;
        let writer = Writer::new(input.encoding_type.as_ref())?;
        let limit = limit(input.max_keys, "max-keys")?;
        let delimiter = non_empty(input.delimiter);
        let key_marker = non_empty(input.key_marker);
        let version_marker = non_empty(input.version_id_marker);
        if version_marker.is_some() && key_marker.is_none() {
            let message = "A version-id marker cannot be specified without a key marker.";
            return Err(refuse(S3ErrorCode::InvalidArgument, message));
        }
        let options = ListVersionsOptions {
            prefix: Bytes::copy_from_slice(input.prefix.as_deref().unwrap_or("").as_bytes()),
            delimiter: delimiter.as_deref().map(|d| Bytes::copy_from_slice(d.as_bytes())),
            after: key_marker.clone().map(|m| Bytes::from(m.into_bytes())),
            after_version: version(version_marker.as_deref())?,
            limit,
        };
        let page = match limit {
            0 => Default::default(),
            _ => bucket.list_versions(options).await.map_err(from_engine)?,
        };
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for item in page.items {
            match item {
                VersionItem::Prefix(prefix) => prefixes.push(writer.prefix(&prefix)),
                VersionItem::Version { summary, version, is_current, is_marker: true, .. } => {
                    markers.push(DeleteMarkerEntry {
                        is_latest: Some(is_current),
                        key: Some(writer.bytes(&summary.key)),
                        last_modified: Some(timestamp(summary.modified_ns)),
                        owner: Some(owner.clone()),
                        version_id: Some(version.to_string()),
                    });
                }
                VersionItem::Version { summary, version, is_current, .. } => versions.push(ObjectVersion {
                    e_tag: Some(ETag::Strong(summary.etag.to_string())),
                    is_latest: Some(is_current),
                    key: Some(writer.bytes(&summary.key)),
                    last_modified: Some(timestamp(summary.modified_ns)),
                    owner: Some(owner.clone()),
                    size: Some(i64::try_from(summary.size).unwrap_or(i64::MAX)),
                    storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
                    version_id: Some(version.to_string()),
                    ..Default::default()
                }),
            }
        }
        let (next_key, next_version) = page.next.map_or((None, None), |(key, version)| (Some(key), version));
        Ok(S3Response::new(ListObjectVersionsOutput {
            common_prefixes: Some(prefixes),
            delete_markers: Some(markers),
            delimiter: writer.option(delimiter.as_deref()),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: Some(writer.text(key_marker.as_deref().unwrap_or(""))),
            max_keys: Some(number(limit)),
            name: Some(input.bucket),
            next_key_marker: next_key.map(|key| writer.bytes(&key)),
            next_version_id_marker: next_version.map(|version| version.to_string()),
            prefix: Some(writer.text(input.prefix.as_deref().unwrap_or(""))),
            request_charged: None,
            version_id_marker: Some(version_marker.unwrap_or_default()),
            versions: Some(versions),
        }))
    }

    pub(crate) async fn list_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let tenant = caller(&req.extensions)?.tenant().clone();
        let input = req.input;
        let writer = Writer::new(input.encoding_type.as_ref())?;
        let limit = limit(input.max_uploads, "max-uploads")?;
        let delimiter = non_empty(input.delimiter);
        let prefix = input.prefix.clone().unwrap_or_default();
        let key_marker = non_empty(input.key_marker);
        // S3 ignores an upload marker that comes without a key marker.
        let id_marker = non_empty(input.upload_id_marker).filter(|_| key_marker.is_some());
        let after = key_marker.as_ref().map(|key| {
            let skipped =
                delimiter.as_deref().and_then(|d| common_prefix(key.as_bytes(), prefix.as_bytes(), d.as_bytes()));
            match skipped {
                // The marker is a prefix that was on the page before.
                Some(rolled) if rolled == key.as_bytes() => (past_prefix(rolled), None),
                _ => (Bytes::copy_from_slice(key.as_bytes()), id_marker.clone().map(UploadId)),
            }
        });
        let rolled =
            roll_uploads(&bucket, prefix.as_bytes(), delimiter.as_deref().map(str::as_bytes), after, limit).await?;
        let uploads = rolled.uploads.into_iter().map(|upload| multipart_upload(upload, writer, &tenant)).collect();
        let (next_key, next_id) = rolled.next.map_or((None, None), |(key, id)| (Some(key), id));
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(rolled.prefixes.iter().map(|prefix| writer.prefix(prefix)).collect()),
            delimiter: writer.option(delimiter.as_deref()),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: Some(writer.text(key_marker.as_deref().unwrap_or(""))),
            max_uploads: Some(number(limit)),
            next_key_marker: next_key.map(|key| writer.bytes(&key)),
            next_upload_id_marker: next_id.map(|id| id.0),
            prefix: Some(writer.text(&prefix)),
            request_charged: None,
            upload_id_marker: Some(id_marker.unwrap_or_default()),
            uploads: Some(uploads),
        }))
    }

    pub(crate) async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let tenant = caller(&req.extensions)?.tenant().clone();
        let input = req.input;
        let limit = limit(input.max_parts, "max-parts")?;
        let invalid = |_| refuse(S3ErrorCode::InvalidArgument, "part-number-marker must not be negative");
        let marker = u32::try_from(input.part_number_marker.unwrap_or(0)).map_err(invalid)?;
        let id = UploadId(input.upload_id.clone());
        let started = bucket.upload(&input.key, &id).await.map_err(from_engine)?;
        let (parts, more) = match limit {
            0 => (Vec::new(), false),
            _ => bucket.parts(&input.key, &id, marker, limit).await.map_err(from_engine)?,
        };
        let shown = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let checksum = upload_checksum(&started);
        let last = parts.last().map(|part| shown(part.number));
        let parts = parts
            .into_iter()
            .map(|part| {
                let mut line = Part {
                    e_tag: Some(ETag::Strong(part.etag.to_string())),
                    last_modified: Some(timestamp(part.modified_ns)),
                    part_number: Some(shown(part.number)),
                    size: Some(i64::try_from(part.size).unwrap_or(i64::MAX)),
                    ..Default::default()
                };
                crate::get::show_checksums!(line, &part.checksums);
                line
            })
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            checksum_algorithm: checksum.map(|(a, _)| ChecksumAlgorithm::from_static(a.s3_name())),
            checksum_type: checksum.map(|(_, c)| ChecksumType::from_static(c.name())),
            initiator: Some(initiator(&tenant)),
            owner: Some(owner(&tenant)),
            is_truncated: Some(more),
            max_parts: Some(number(limit)),
            next_part_number_marker: if more { last } else { None },
            part_number_marker: Some(shown(marker)),
            parts: Some(parts),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        }))
    }
}

fn initiator(tenant: &TenantPath) -> Initiator {
    Initiator { display_name: Some(tenant.tenant.clone()), id: Some(tenant.to_string()) }
}

fn multipart_upload(upload: UploadInfo, writer: Writer, tenant: &TenantPath) -> MultipartUpload {
    let checksum = upload_checksum(&upload);
    MultipartUpload {
        checksum_algorithm: checksum.map(|(a, _)| ChecksumAlgorithm::from_static(a.s3_name())),
        checksum_type: checksum.map(|(_, c)| ChecksumType::from_static(c.name())),
        initiated: Some(timestamp(upload.started_ns)),
        initiator: Some(initiator(tenant)),
        key: Some(writer.bytes(&upload.key)),
        owner: Some(owner(tenant)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload.id.0),
    }
}

#[derive(Debug, Default)]
struct RolledUploads {
    uploads: Vec<UploadInfo>,
    prefixes: Vec<Bytes>,
    /// The markers that continue, when more follows.
    next: Option<(Bytes, Option<UploadId>)>,
}

/// Rolls uploads up by a delimiter, a page of the engine's at a time.
async fn roll_uploads(
    bucket: &EngineBucket,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    mut after: Option<(Bytes, Option<UploadId>)>,
    limit: usize,
) -> S3Result<RolledUploads> {
    let mut rolled = RolledUploads::default();
    if limit == 0 {
        return Ok(rolled);
    }
    let mut last: Option<(Bytes, Option<UploadId>)> = None;
    loop {
        let (page, more) = bucket.uploads(prefix, after.take(), limit).await.map_err(from_engine)?;
        let mut skip_to = None;
        for upload in page {
            if rolled.uploads.len() + rolled.prefixes.len() == limit {
                rolled.next = last;
                return Ok(rolled);
            }
            match delimiter.and_then(|d| common_prefix(&upload.key, prefix, d)) {
                Some(common) => {
                    let common = Bytes::copy_from_slice(common);
                    after = Some((past_prefix(&common), None));
                    last = Some((common.clone(), None));
                    rolled.prefixes.push(common);
                    skip_to = after.clone();
                    break;
                }
                None => {
                    after = Some((upload.key.clone(), Some(upload.id.clone())));
                    last = after.clone();
                    rolled.uploads.push(upload);
                }
            }
        }
        if skip_to.is_none() && !more {
            return Ok(rolled);
        }
        if after.is_none() {
            // A page without lines that says more follows can't be continued.
            return Ok(rolled);
        }
    }
}

/// The part of `key` up to and with the first delimiter after `prefix`.
fn common_prefix<'a>(key: &'a [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len().max(1)).position(|window| window == delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// A marker behind every key that starts with `prefix`: no key has a byte 0xff, which UTF-8 never uses.
fn past_prefix(prefix: &[u8]) -> Bytes {
    let mut marker = prefix.to_vec();
    marker.resize(KEY_BYTES_MAX.max(prefix.len()) + 1, 0xff);
    marker.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_asked() {
        let url = Writer { is_url: true };
        assert_eq!(url.text("a b+c/ä&"), "a%20b%2Bc/%C3%A4%26");
        assert_eq!(url.bytes(b"\x01\xff~-_."), "%01%FF~-_.");
        let plain = Writer::new(None).unwrap();
        assert_eq!(plain.text("a b+c/ä&"), "a b+c/ä&");
        assert!(Writer::new(Some(&EncodingType::from_static("xml"))).is_err());
    }

    #[test]
    fn tokens_are_opaque_and_come_back() {
        for key in [&b"a"[..], b"a/b//", b"\xff\x00", &[b'k'; 1024]] {
            assert_eq!(read_token(&token(key)).unwrap(), key);
        }
        for bad in ["", "!", "a", &token(&[b'k'; 1025])] {
            assert_eq!(read_token(bad).unwrap_err().code(), &S3ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn page_sizes_are_capped() {
        assert_eq!(limit(None, "x").unwrap(), 1000);
        assert_eq!(limit(Some(0), "x").unwrap(), 0);
        assert_eq!(limit(Some(7), "x").unwrap(), 7);
        assert_eq!(limit(Some(5000), "x").unwrap(), 1000);
        assert!(limit(Some(-1), "x").is_err());
    }

    #[test]
    fn uploads_roll_up_at_the_first_delimiter_after_the_prefix() {
        assert_eq!(common_prefix(b"a/b/c", b"", b"/"), Some(&b"a/"[..]));
        assert_eq!(common_prefix(b"a/b/c", b"a/", b"/"), Some(&b"a/b/"[..]));
        assert_eq!(common_prefix(b"a/b", b"a/", b"/"), None);
        assert_eq!(common_prefix(b"x", b"a/", b"/"), None);
        assert_eq!(common_prefix(b"a--b--c", b"", b"--"), Some(&b"a--"[..]));
        let marker = past_prefix(b"a/");
        assert!(marker > Bytes::from_static("a/\u{10ffff}".as_bytes()));
        assert!(marker < Bytes::from_static(b"a0"));
    }
}
