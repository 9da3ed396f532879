//! Reading objects: GET, HEAD, attributes, ranges and parts.

use crate::checksum::{self, Algorithm};
use crate::conditions::{ReadCondition, Verdict, failed};
use crate::errors::{from_engine, refuse, with_header};
use crate::metadata::{show_expires, show_metadata};
use crate::ops::{Operations, show_version, version};
use crate::time::timestamp;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use s3s::dto::*;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError};
use std::ops::Range as Span;
use std::pin::Pin;
use std::task::{Context, Poll};
use tombolo_core::{ObjectInfo, ObjectReader};

/// Contents up to this size are answered in one piece, in one write with the head.
const ONE_PIECE_BYTES_MAX: u64 = 64 << 10;

/// Which bytes of an object an answer carries.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    span: Span<u64>,
    /// `Content-Range`, which makes the answer a 206.
    content_range: Option<String>,
    parts_count: Option<i32>,
}

impl Slice {
    fn of(info: &ObjectInfo, range: Option<&Range>, part_number: Option<i32>) -> S3Result<Slice> {
        let size = info.size;
        let cut = |span: Span<u64>, parts_count: Option<i32>| {
            let content_range = format!("bytes {}-{}/{size}", span.start, span.end.saturating_sub(1));
            Slice { span, content_range: Some(content_range), parts_count }
        };
        match (range, part_number) {
            (Some(_), Some(_)) => {
                let message = "Cannot specify both Range header and partNumber query parameter.";
                Err(refuse(S3ErrorCode::InvalidRequest, message))
            }
            (None, None) => Ok(Slice { span: 0..size, content_range: None, parts_count: None }),
            (Some(range), None) => match range.check(size) {
                Ok(span) if !span.is_empty() => Ok(cut(span, None)),
                _ => Err(invalid_range(size, "The requested range is not satisfiable")),
            },
            (None, Some(number)) => {
                let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                let Some(index) = index else {
                    let message = "Part number must be an integer between 1 and 10000, inclusive";
                    return Err(refuse(S3ErrorCode::InvalidArgument, message));
                };
                if info.part_sizes.is_empty() && index == 0 {
                    // An object that was put in one go is its own first part.
                    return Ok(if size == 0 {
                        Slice { span: 0..0, content_range: None, parts_count: None }
                    } else {
                        cut(0..size, None)
                    });
                }
                let Some(&length) = info.part_sizes.get(index) else {
                    let message = "The requested partnumber is not satisfiable";
                    let mut error = invalid_range(size, message);
                    error.set_code(S3ErrorCode::Custom("InvalidPartNumber".into()));
                    error.set_status_code(http::StatusCode::RANGE_NOT_SATISFIABLE);
                    return Err(error);
                };
                let start: u64 = info.part_sizes.iter().take(index).sum();
                let count = i32::try_from(info.part_sizes.len()).unwrap_or(i32::MAX);
                Ok(if length == 0 {
                    Slice { span: start..start, content_range: None, parts_count: Some(count) }
                } else {
                    cut(start..start + length, Some(count))
                })
            }
        }
    }

    fn length(&self) -> u64 {
        self.span.end - self.span.start
    }

    fn is_whole(&self) -> bool {
        self.content_range.is_none()
    }
}

fn invalid_range(size: u64, message: &'static str) -> S3Error {
    with_header(refuse(S3ErrorCode::InvalidRange, message), "content-range", &format!("bytes */{size}"))
}

/// Answers a condition that does not hold.
fn check_condition(condition: &ReadCondition, info: &ObjectInfo) -> S3Result<()> {
    match condition.evaluate(info) {
        Verdict::Serve => Ok(()),
        Verdict::Failed(which) => Err(failed(which)),
        Verdict::NotModified => {
            let error = refuse(S3ErrorCode::NotModified, "Not Modified");
            let error = with_header(error, "etag", &format!("\"{}\"", info.etag));
            let mut date = Vec::new();
            let error = match timestamp(info.modified_ns).format(TimestampFormat::HttpDate, &mut date) {
                Ok(()) => with_header(error, "last-modified", &String::from_utf8(date).unwrap_or_default()),
                Err(_) => error,
            };
            Err(match info.metadata.header("cache-control") {
                Some(value) => with_header(error, "cache-control", value),
                None => error,
            })
        }
    }
}

/// Writes an algorithm's kept checksums into any output of s3s.
macro_rules! show_checksums {
    ($output:expr, $checksums:expr) => {{
        let checksums = $checksums;
        $output.checksum_crc32 = $crate::checksum::find(checksums, $crate::checksum::Algorithm::Crc32);
        $output.checksum_crc32c = $crate::checksum::find(checksums, $crate::checksum::Algorithm::Crc32c);
        $output.checksum_crc64nvme = $crate::checksum::find(checksums, $crate::checksum::Algorithm::Crc64Nvme);
        $output.checksum_sha1 = $crate::checksum::find(checksums, $crate::checksum::Algorithm::Sha1);
        $output.checksum_sha256 = $crate::checksum::find(checksums, $crate::checksum::Algorithm::Sha256);
    }};
}
pub(crate) use show_checksums;

/// The kept `x-amz-checksum-type`.
pub(crate) fn checksum_type(checksums: &[tombolo_core::Checksum]) -> Option<ChecksumType> {
    checksum::coverage_of(checksums).map(|coverage| ChecksumType::from_static(coverage.name()))
}

/// What GET and HEAD have in common.
macro_rules! show_object {
    ($output:expr, $info:expr, $slice:expr, $input:expr) => {{
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some(i64::try_from($slice.length()).unwrap_or(i64::MAX));
        $output.content_range = $slice.content_range.clone();
        $output.parts_count = $slice.parts_count;
        $output.e_tag = Some(ETag::Strong($info.etag.to_string()));
        $output.last_modified = Some(timestamp($info.modified_ns));
        $output.version_id = show_version($info.version, $input.version_id.is_some());
        show_metadata!($output, &$info.metadata);
        let wants_checksums = $input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        if wants_checksums && $slice.is_whole() {
            show_checksums!($output, &$info.checksums);
            $output.checksum_type = checksum_type(&$info.checksums);
        }
    }};
}

/// Whether a range is of this content, as `If-Range` says (RFC 9110, section 13.1.5). Otherwise the whole is wanted.
fn is_range_meant(headers: &http::HeaderMap, info: &ObjectInfo) -> bool {
    let Some(value) = headers.get(http::header::IF_RANGE) else { return true };
    let Ok(value) = value.to_str().map(str::trim) else { return false };
    if value.starts_with('"') || value.starts_with("W/") {
        return value == format!("\"{}\"", info.etag);
    }
    let date = Timestamp::parse(TimestampFormat::HttpDate, value);
    date.is_ok_and(|date| {
        time::OffsetDateTime::from(date).unix_timestamp() == info.modified_ns.div_euclid(1_000_000_000)
    })
}

impl Operations {
    pub(crate) async fn get(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let input = req.input;
        let object = self.open(&bucket, &input.key, version(input.version_id.as_deref())?).await?;
        let info = object.info();
        let condition = ReadCondition {
            if_match: input.if_match.clone(),
            if_none_match: input.if_none_match.clone(),
            if_modified_since: input.if_modified_since.clone(),
            if_unmodified_since: input.if_unmodified_since.clone(),
        };
        check_condition(&condition, info)?;
        let range = input.range.as_ref().filter(|_| is_range_meant(&req.headers, info));
        let slice = Slice::of(info, range, input.part_number)?;
        let mut output = GetObjectOutput::default();
        show_object!(output, info, slice, input);
        if !info.tags.is_empty() {
            output.tag_count = i32::try_from(info.tags.len()).ok();
        }
        output.body = Some(if slice.length() <= ONE_PIECE_BYTES_MAX {
            let bytes = object.bytes(slice.span.clone()).await.map_err(from_engine)?;
            StreamingBlob::from(Body::from(bytes))
        } else {
            // Damage at the start is still an answer of its own; later it can only break the connection.
            let mut reader = object.read(slice.span.clone());
            let first = reader.next().await.map_err(from_engine)?;
            StreamingBlob::new(Content { first, reader, left: slice.length() })
        });
        let mut response = S3Response::new(output);
        // s3s writes the one that was asked for, and these headers after it.
        if input.response_expires.is_none() {
            show_expires(&mut response.headers, &info.metadata);
        }
        Ok(response)
    }

    pub(crate) async fn head(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let input = req.input;
        let info = self.look(&bucket, &input.key, version(input.version_id.as_deref())?).await?;
        let condition = ReadCondition {
            if_match: input.if_match.clone(),
            if_none_match: input.if_none_match.clone(),
            if_modified_since: input.if_modified_since.clone(),
            if_unmodified_since: input.if_unmodified_since.clone(),
        };
        check_condition(&condition, &info)?;
        let range = input.range.as_ref().filter(|_| is_range_meant(&req.headers, &info));
        let slice = Slice::of(&info, range, input.part_number)?;
        let mut output = HeadObjectOutput::default();
        show_object!(output, info, slice, input);
        let content_type = input.response_content_type;
        output.content_type = content_type.or(output.content_type);
        output.cache_control = input.response_cache_control.or(output.cache_control);
        output.content_disposition = input.response_content_disposition.or(output.content_disposition);
        output.content_encoding = input.response_content_encoding.or(output.content_encoding);
        output.content_language = input.response_content_language.or(output.content_language);
        output.expires = input.response_expires;
        let mut response = S3Response::new(output);
        if response.output.expires.is_none() {
            show_expires(&mut response.headers, &info.metadata);
        }
        if !info.tags.is_empty() {
            response.headers.insert("x-amz-tagging-count", http::HeaderValue::from(info.tags.len()));
        }
        if response.output.content_range.is_some() {
            response.extensions.insert(crate::gate::Status(http::StatusCode::PARTIAL_CONTENT));
        }
        Ok(response)
    }

    pub(crate) async fn attributes(
        &self,
        req: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let input = req.input;
        let info = self.look(&bucket, &input.key, version(input.version_id.as_deref())?).await?;
        // s3s takes the comma-separated header for one attribute.
        let asked = || input.object_attributes.iter().flat_map(|list| list.as_str().split(',')).map(str::trim);
        let wants = |name: &str| asked().any(|attribute| attribute == name);
        let mut output = GetObjectAttributesOutput {
            last_modified: Some(timestamp(info.modified_ns)),
            version_id: show_version(info.version, input.version_id.is_some()),
            ..Default::default()
        };
        if wants(ObjectAttributes::ETAG) {
            output.e_tag = Some(ETag::Strong(info.etag.to_string()));
        }
        if wants(ObjectAttributes::OBJECT_SIZE) {
            output.object_size = Some(i64::try_from(info.size).unwrap_or(i64::MAX));
        }
        if wants(ObjectAttributes::STORAGE_CLASS) {
            output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
        }
        if wants(ObjectAttributes::CHECKSUM) && !info.checksums.is_empty() {
            let mut checksum = Checksum::default();
            show_checksums!(checksum, &info.checksums);
            // The attribute shows a composite value without its number of parts.
            for (value, algorithm) in [
                (&mut checksum.checksum_crc32, Algorithm::Crc32),
                (&mut checksum.checksum_crc32c, Algorithm::Crc32c),
                (&mut checksum.checksum_crc64nvme, Algorithm::Crc64Nvme),
                (&mut checksum.checksum_sha1, Algorithm::Sha1),
                (&mut checksum.checksum_sha256, Algorithm::Sha256),
            ] {
                let kept = info.checksums.iter().find(|c| c.algorithm == algorithm.name()).cloned();
                *value = kept.map(|kept| checksum::encode(&tombolo_core::Checksum { parts: 0, ..kept }));
            }
            checksum.checksum_type = checksum_type(&info.checksums);
            output.checksum = Some(checksum);
        }
        if wants(ObjectAttributes::OBJECT_PARTS) && !info.part_sizes.is_empty() {
            output.object_parts = Some(parts_of(&info, input.part_number_marker, input.max_parts)?);
        }
        Ok(S3Response::new(output))
    }
}

fn parts_of(info: &ObjectInfo, marker: Option<i32>, max: Option<i32>) -> S3Result<GetObjectAttributesParts> {
    let negative = |_| refuse(S3ErrorCode::InvalidArgument, "max-parts and part-number-marker must not be negative");
    let marker = usize::try_from(marker.unwrap_or(0)).map_err(negative)?;
    let max = usize::try_from(max.unwrap_or(1000)).map_err(negative)?.min(1000);
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let parts: Vec<ObjectPart> = (info.part_sizes.iter().enumerate().skip(marker).take(max))
        .map(|(index, &size)| ObjectPart {
            part_number: Some(number(index + 1)),
            size: Some(i64::try_from(size).unwrap_or(i64::MAX)),
            ..Default::default()
        })
        .collect();
    let end = marker.saturating_add(parts.len());
    let is_truncated = end < info.part_sizes.len();
    Ok(GetObjectAttributesParts {
        is_truncated: Some(is_truncated),
        max_parts: Some(number(max)),
        next_part_number_marker: is_truncated.then(|| number(end)),
        part_number_marker: Some(number(marker)),
        parts: Some(parts),
        total_parts_count: Some(number(info.part_sizes.len())),
    })
}

/// A content on its way out, with its exact length.
struct Content {
    first: Option<Bytes>,
    reader: ObjectReader,
    left: u64,
}

impl Stream for Content {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => std::task::ready!(self.reader.poll_next_unpin(context)),
        };
        Poll::Ready(next.map(|piece| match piece {
            Ok(piece) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(piece)
            }
            Err(error) => {
                tracing::error!(%error, "a content broke off while it was sent");
                Err(Box::new(error) as StdError)
            }
        }))
    }
}

impl ByteStream for Content {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.left).map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::tests::info;
    use tombolo_core::Etag;

    fn slice(size: u64, parts: &[u64], range: Option<&str>, part: Option<i32>) -> Result<Slice, String> {
        let mut info = info(Etag::Md5([0; 16]), 0);
        (info.size, info.part_sizes) = (size, parts.to_vec());
        let range = range.map(|r| Range::parse(r).unwrap());
        Slice::of(&info, range.as_ref(), part).map_err(|e| e.code().as_str().to_owned())
    }

    #[test]
    fn ranges_and_parts_cut_what_s3_cuts() {
        let cut = |size, parts: &[u64], range, part| {
            let slice = slice(size, parts, range, part).unwrap();
            (slice.span, slice.content_range.unwrap_or_default(), slice.parts_count)
        };
        assert_eq!(cut(10, &[], None, None), (0..10, String::new(), None));
        assert_eq!(cut(10, &[], Some("bytes=2-4"), None), (2..5, "bytes 2-4/10".into(), None));
        assert_eq!(cut(10, &[], Some("bytes=2-"), None), (2..10, "bytes 2-9/10".into(), None));
        assert_eq!(cut(10, &[], Some("bytes=-3"), None), (7..10, "bytes 7-9/10".into(), None));
        assert_eq!(cut(10, &[], Some("bytes=-30"), None), (0..10, "bytes 0-9/10".into(), None));
        assert_eq!(cut(10, &[], Some("bytes=0-99"), None), (0..10, "bytes 0-9/10".into(), None));
        assert_eq!(cut(10, &[], None, Some(1)), (0..10, "bytes 0-9/10".into(), None));
        assert_eq!(cut(10, &[6, 4], None, Some(2)), (6..10, "bytes 6-9/10".into(), Some(2)));
        assert_eq!(cut(0, &[], None, Some(1)), (0..0, String::new(), None));
        assert_eq!(cut(0, &[0], None, Some(1)), (0..0, String::new(), Some(1)));

        let code = |size, parts: &[u64], range, part| slice(size, parts, range, part).unwrap_err();
        assert_eq!(code(10, &[], Some("bytes=10-"), None), "InvalidRange");
        assert_eq!(code(0, &[], Some("bytes=0-"), None), "InvalidRange");
        assert_eq!(code(0, &[], Some("bytes=-5"), None), "InvalidRange");
        assert_eq!(code(10, &[], Some("bytes=-0"), None), "InvalidRange");
        assert_eq!(code(10, &[], None, Some(2)), "InvalidPartNumber");
        assert_eq!(code(10, &[6, 4], None, Some(3)), "InvalidPartNumber");
        assert_eq!(code(10, &[6, 4], None, Some(0)), "InvalidArgument");
        assert_eq!(code(10, &[6, 4], Some("bytes=0-1"), Some(1)), "InvalidRequest");
    }

    #[test]
    fn an_unsatisfiable_range_names_the_size() {
        let error = invalid_range(10, "no");
        assert_eq!(error.headers().unwrap()["content-range"], "bytes */10");
        assert_eq!(error.status_code().unwrap().as_u16(), 416);
    }

    #[test]
    fn attribute_parts_are_paged() {
        let mut info = info(Etag::Multipart([0; 16], 3), 0);
        info.part_sizes = vec![5, 6, 7];
        let page = parts_of(&info, Some(1), Some(1)).unwrap();
        assert_eq!(page.is_truncated, Some(true));
        assert_eq!(page.next_part_number_marker, Some(2));
        assert_eq!(page.total_parts_count, Some(3));
        let parts = page.parts.unwrap();
        assert_eq!((parts.len(), parts[0].part_number, parts[0].size), (1, Some(2), Some(6)));
        assert!(parts_of(&info, None, Some(-1)).is_err());
        assert_eq!(parts_of(&info, Some(99), None).unwrap().parts.unwrap().len(), 0);
    }

    #[test]
    fn a_fresh_copy_is_confirmed_with_its_tag() {
        let object = info(Etag::Md5([0xab; 16]), 1000);
        let condition = ReadCondition { if_none_match: Some(ETagCondition::Any), ..Default::default() };
        let error = check_condition(&condition, &object).unwrap_err();
        assert_eq!(error.status_code().unwrap().as_u16(), 304);
        assert_eq!(error.headers().unwrap()["etag"], format!("\"{}\"", "ab".repeat(16)).as_str());
    }
}
