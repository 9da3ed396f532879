//! Multipart uploads. Parts are stored, hashed and chunked once; completing moves references.
//!
//! The checksum algorithm an upload was started with is kept in its metadata under a name of our own and taken out of
//! what clients see. With one, every part is hashed with it whatever the client sends, so that completing can always
//! put the object's checksum together.

use crate::checksum::{Algorithm, Coverage, Hasher, SharedHasher, combine, encode};
use crate::conditions::{self, ReadCondition};
use crate::errors::{from_engine, refuse};
use crate::get::{checksum_type, show_checksums};
use crate::metadata::{UPLOAD_CHECKSUM, described, tags_of_header};
use crate::ops::{Operations, check_features, show_version};
use crate::put::{Upload, check_object_key};
use crate::time::timestamp;
use md5::Digest as _;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::collections::BTreeMap;
use tombolo_core::{
    Bucket, CompleteOptions, CompletePart, ErrorKind, Etag, GetOptions, ObjectInfo, PartInfo, PutOptions, UploadId,
    UploadInfo,
};

/// The most parts of an upload, and the highest part number.
pub(crate) const PARTS_MAX: i32 = 10_000;
/// The least bytes of every part but the last.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Parts asked from the engine at a time.
const PARTS_PAGE: usize = 1000;

fn upload_id(text: &str) -> UploadId {
    UploadId(text.to_owned())
}

/// The engine refuses ids that never were as it refuses those that are gone; clients hear one answer.
fn upload_error(error: tombolo_core::Error) -> S3Error {
    if matches!(error.kind(), ErrorKind::NotFound) && error.subject() == tombolo_core::Subject::Upload {
        let message = "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might have been aborted or completed.";
        return refuse(S3ErrorCode::NoSuchUpload, message);
    }
    from_engine(error)
}

fn part_number(number: i32) -> S3Result<u32> {
    match u32::try_from(number) {
        Ok(n) if (1..=PARTS_MAX).contains(&number) => Ok(n),
        _ => {
            let message = "Part number must be an integer between 1 and 10000, inclusive";
            Err(refuse(S3ErrorCode::InvalidArgument, message))
        }
    }
}

/// The checksum an upload was started with.
pub(crate) fn upload_checksum(info: &UploadInfo) -> Option<(Algorithm, Coverage)> {
    let (algorithm, coverage) = info.metadata.header(UPLOAD_CHECKSUM)?.split_once(':')?;
    Some((Algorithm::parse(algorithm).ok()?, Coverage::parse(coverage).ok()?))
}

impl Operations {
    pub(crate) async fn create_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check_features(&req.headers)?;
        let mut input = req.input;
        check_object_key(&input.key)?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let algorithm = input.checksum_algorithm.as_ref().map(|a| Algorithm::parse(a.as_str())).transpose()?;
        let coverage = input.checksum_type.as_ref().map(|t| Coverage::parse(t.as_str())).transpose()?;
        let checksum = match (algorithm, coverage) {
            (None, None) => None,
            (None, Some(_)) => {
                let message =
                    "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.";
                return Err(refuse(S3ErrorCode::InvalidRequest, message));
            }
            (Some(algorithm), coverage) => {
                let coverage = coverage.unwrap_or(algorithm.default_coverage());
                if !algorithm.allows(coverage) {
                    let message = format!(
                        "The {} checksum type cannot be used with the {} checksum algorithm.",
                        coverage.name(),
                        algorithm.name()
                    );
                    return Err(refuse(S3ErrorCode::InvalidRequest, message));
                }
                Some((algorithm, coverage))
            }
        };
        let tags = input.tagging.as_deref().map(tags_of_header).transpose()?.unwrap_or_default();
        let mut metadata = described!(input, req.extensions).into_metadata()?;
        if let Some((algorithm, coverage)) = checksum {
            metadata.headers.insert(UPLOAD_CHECKSUM.into(), format!("{}:{}", algorithm.name(), coverage.name()));
        }
        let options = PutOptions { metadata, tags, ..PutOptions::default() };
        let upload = bucket.create_upload(&input.key, options).await.map_err(from_engine)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload.id.0),
            checksum_algorithm: checksum.map(|(a, _)| ChecksumAlgorithm::from_static(a.s3_name())),
            checksum_type: checksum.map(|(_, c)| ChecksumType::from_static(c.name())),
            ..Default::default()
        }))
    }

    pub(crate) async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        check_features(&req.headers)?;
        let input = req.input;
        let number = part_number(input.part_number)?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let id = upload_id(&input.upload_id);
        let started = bucket.upload(&input.key, &id).await.map_err(upload_error)?;
        let limit = self.limits.put_bytes_max;
        let mut upload = Upload::of(input.body, &req.headers, &req.extensions, req.trailing_headers, limit)?;
        let kept = upload_checksum(&started).map(|(algorithm, _)| algorithm);
        if let (Some(kept), Some(sent)) = (kept, upload.declared.algorithm)
            && kept != sent
        {
            let message = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                kept.name(),
                sent.name()
            );
            return Err(refuse(S3ErrorCode::InvalidRequest, message));
        }
        let algorithms: Vec<Algorithm> = kept.or(upload.declared.algorithm).into_iter().collect();
        let needs_md5 = upload.needs_md5(&bucket).await?;
        let hasher = SharedHasher::new(Hasher::new(&algorithms, needs_md5));
        let tap = (needs_md5 || !algorithms.is_empty()).then(|| hasher.tap());
        let writer = bucket.part_writer(&input.key, &id, number, tap).await.map_err(upload_error)?;
        let (sealed, checksums) = upload.store(writer, &hasher).await?;
        let part = sealed.commit_part().await.map_err(upload_error)?;
        let mut output = UploadPartOutput { e_tag: Some(ETag::Strong(part.etag.to_string())), ..Default::default() };
        show_checksums!(output, &checksums);
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy_part(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        check_features(&req.headers)?;
        let mut input = req.input;
        let number = part_number(input.part_number)?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let id = upload_id(&input.upload_id);
        let started = bucket.upload(&input.key, &id).await.map_err(upload_error)?;
        let condition = ReadCondition {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        };
        let (source, _, _, source_version) = self.copy_source(&req.extensions, &input.copy_source, &condition).await?;
        let size = source.info().size;
        let span = match input.copy_source_range.as_deref() {
            None => 0..size,
            Some(text) => copy_range(text, size)?,
        };
        if span.end - span.start > self.limits.put_bytes_max {
            return Err(refuse(S3ErrorCode::EntityTooLarge, "The range to copy is larger than a part may be"));
        }
        let part = match upload_checksum(&started) {
            None => bucket.copy_part(&input.key, &id, number, &source, span).await.map_err(upload_error)?,
            // The upload's checksum needs the bytes; storing them again costs no space, their chunks are there.
            Some((algorithm, _)) => {
                let hasher = SharedHasher::new(Hasher::new(&[algorithm], false));
                let writer = bucket.part_writer(&input.key, &id, number, Some(hasher.tap())).await;
                let mut writer = writer.map_err(upload_error)?;
                let mut reader = source.read(span);
                while let Some(piece) = writer.idle(reader.next()).await.flatten().map_err(from_engine)? {
                    writer.push(piece).await.map_err(from_engine)?;
                }
                let mut sealed = writer.seal().await.map_err(from_engine)?;
                sealed.set_checksums(hasher.finish().0);
                sealed.commit_part().await.map_err(upload_error)?
            }
        };
        let mut result = CopyPartResult {
            e_tag: Some(ETag::Strong(part.etag.to_string())),
            last_modified: Some(timestamp(part.modified_ns)),
            ..Default::default()
        };
        show_checksums!(result, &part.checksums);
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source_version,
            ..Default::default()
        }))
    }

    pub(crate) async fn complete_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let location = crate::host::location(&req.extensions, &input.bucket, &input.key);
        let id = upload_id(&input.upload_id);
        let named = named_parts(input.multipart_upload.as_ref())?;
        let started = match bucket.upload(&input.key, &id).await {
            Ok(started) => started,
            Err(error) => match already_completed(&bucket, &input.key, &named).await? {
                Some(info) => return Ok(completed(input.bucket, input.key, location, &info)),
                None => return Err(upload_error(error)),
            },
        };
        let stored = stored_parts(&bucket, &input.key, &id, &named).await?;
        let checksum = self.checksum_of(&input, &started, &named, &stored)?;
        let negative = |_| refuse(S3ErrorCode::InvalidRequest, "Value for x-amz-mp-object-size header is invalid.");
        let options = CompleteOptions {
            condition: conditions::of_write(input.if_match.as_ref(), input.if_none_match.as_ref()),
            part_bytes_min: PART_BYTES_MIN,
            checksums: checksum.into_iter().collect(),
            size: input.mpu_object_size.map(u64::try_from).transpose().map_err(negative)?,
        };
        let parts: Vec<CompletePart> = named.into_iter().map(|part| part.engine).collect();
        let total: u64 = stored.iter().map(|part| part.size).sum();
        if options.size.is_some_and(|size| size != total) {
            let message = "The provided 'x-amz-mp-object-size' header does not match what was computed.";
            return Err(refuse(S3ErrorCode::InvalidRequest, message));
        }
        let except_last = stored.len().saturating_sub(1);
        if stored.iter().take(except_last).any(|part| part.size < PART_BYTES_MIN) {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(refuse(S3ErrorCode::EntityTooSmall, message));
        }
        let info = match bucket.complete_upload(&input.key, &id, &parts, options).await {
            Ok(info) => info,
            // Sizes are right, so what the engine dislikes is a part that was replaced since they were read.
            Err(error) if error.subject() == tombolo_core::Subject::Part => {
                return Err(refuse(S3ErrorCode::InvalidPart, error.message().to_owned()));
            }
            Err(error) => return Err(upload_error(error)),
        };
        Ok(completed(input.bucket, input.key, location, &info))
    }

    /// The object's checksum, verified against what the client says it and its parts must be.
    fn checksum_of(
        &self,
        input: &CompleteMultipartUploadInput,
        started: &UploadInfo,
        named: &[NamedPart],
        stored: &[PartInfo],
    ) -> S3Result<Option<tombolo_core::Checksum>> {
        for (part, info) in named.iter().zip(stored) {
            for (algorithm, value) in &part.checksums {
                let kept = info.checksums.iter().find(|c| c.algorithm == algorithm.name());
                if kept.is_none_or(|c| encode(c) != *value) {
                    let message = "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified checksum may not match the part's checksum.";
                    return Err(refuse(S3ErrorCode::InvalidPart, message));
                }
            }
        }
        let declared = [
            (Algorithm::Crc32, &input.checksum_crc32),
            (Algorithm::Crc32c, &input.checksum_crc32c),
            (Algorithm::Crc64Nvme, &input.checksum_crc64nvme),
            (Algorithm::Sha1, &input.checksum_sha1),
            (Algorithm::Sha256, &input.checksum_sha256),
        ];
        let declared = declared.into_iter().find_map(|(algorithm, value)| Some((algorithm, value.as_deref()?)));
        let stated = input.checksum_type.as_ref().map(|t| Coverage::parse(t.as_str())).transpose()?;
        let wanted = match (upload_checksum(started), declared) {
            (Some((algorithm, coverage)), _) => {
                if stated.is_some_and(|stated| stated != coverage) {
                    let message = "The upload was created using a different checksum type.";
                    return Err(refuse(S3ErrorCode::InvalidRequest, message));
                }
                Some((algorithm, coverage))
            }
            (None, Some((algorithm, _))) => Some((algorithm, stated.unwrap_or(algorithm.default_coverage()))),
            // Without any agreement the object gets the full CRC if all its parts happen to have one.
            (None, None) => Some((Algorithm::Crc64Nvme, Coverage::FullObject)),
        };
        let Some((algorithm, coverage)) = wanted else {
            return Ok(None);
        };
        let computed = combine(algorithm, coverage, stored);
        if let Some((sent, value)) = declared {
            let matches = sent == algorithm
                && computed.as_ref().is_some_and(|c| {
                    let whole = encode(c);
                    whole == value || whole.rsplit_once('-').is_some_and(|(bare, _)| bare == value)
                });
            if !matches {
                return Err(sent.mismatch());
            }
        }
        Ok(computed)
    }

    pub(crate) async fn abort_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        bucket.abort_upload(&req.input.key, &upload_id(&req.input.upload_id)).await.map_err(upload_error)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

fn completed(
    bucket: String,
    key: String,
    location: String,
    info: &ObjectInfo,
) -> S3Response<CompleteMultipartUploadOutput> {
    let mut output = CompleteMultipartUploadOutput {
        location: Some(location),
        bucket: Some(bucket),
        key: Some(key),
        e_tag: Some(ETag::Strong(info.etag.to_string())),
        version_id: show_version(info.version, false),
        checksum_type: checksum_type(&info.checksums),
        ..Default::default()
    };
    show_checksums!(output, &info.checksums);
    S3Response::new(output)
}

/// A part as the completing client names it.
#[derive(Debug)]
struct NamedPart {
    engine: CompletePart,
    checksums: Vec<(Algorithm, String)>,
}

fn named_parts(list: Option<&CompletedMultipartUpload>) -> S3Result<Vec<NamedPart>> {
    let malformed = || {
        let message = "The XML you provided was not well-formed or did not validate against our published schema";
        refuse(S3ErrorCode::MalformedXML, message)
    };
    let parts = list.and_then(|list| list.parts.as_ref()).filter(|parts| !parts.is_empty()).ok_or_else(malformed)?;
    let mut named: Vec<NamedPart> = Vec::with_capacity(parts.len().min(PARTS_MAX as usize));
    for part in parts {
        let number = part_number(part.part_number.ok_or_else(malformed)?)?;
        if named.last().is_some_and(|last| last.engine.number >= number) {
            let message = "The list of parts was not in ascending order. The parts list must be specified in order by part number.";
            return Err(refuse(S3ErrorCode::InvalidPartOrder, message));
        }
        let etag = part.e_tag.as_ref().ok_or_else(malformed)?.value().to_owned();
        let checksums = [
            (Algorithm::Crc32, &part.checksum_crc32),
            (Algorithm::Crc32c, &part.checksum_crc32c),
            (Algorithm::Crc64Nvme, &part.checksum_crc64nvme),
            (Algorithm::Sha1, &part.checksum_sha1),
            (Algorithm::Sha256, &part.checksum_sha256),
        ];
        let checksums = checksums.into_iter().filter_map(|(a, value)| Some((a, value.clone()?))).collect();
        named.push(NamedPart { engine: CompletePart { number, etag }, checksums });
    }
    Ok(named)
}

/// What is stored of the named parts, in their order. A part that is replaced after this has another tag, which the
/// engine refuses when it completes.
async fn stored_parts(bucket: &Bucket, key: &str, id: &UploadId, named: &[NamedPart]) -> S3Result<Vec<PartInfo>> {
    let mut stored: BTreeMap<u32, PartInfo> = BTreeMap::new();
    let mut after = named.first().map_or(0, |part| part.engine.number - 1);
    loop {
        let (page, more) = bucket.parts(key, id, after, PARTS_PAGE).await.map_err(upload_error)?;
        after = page.last().map_or(after, |part| part.number);
        stored.extend(page.into_iter().map(|part| (part.number, part)));
        if !more {
            break;
        }
    }
    let missing = || {
        let message = "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
        refuse(S3ErrorCode::InvalidPart, message)
    };
    named
        .iter()
        .map(|part| {
            let found = stored.remove(&part.engine.number).filter(|found| found.etag.to_string() == part.engine.etag);
            found.ok_or_else(missing)
        })
        .collect()
}

/// The object that completing these parts has made before: clients repeat the call when its answer got lost.
async fn already_completed(bucket: &Bucket, key: &str, named: &[NamedPart]) -> S3Result<Option<ObjectInfo>> {
    let Some(etag) = multipart_etag(named) else {
        return Ok(None);
    };
    match bucket.head(key, GetOptions::default()).await {
        Ok(info) if info.etag == etag => Ok(Some(info)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(from_engine(error)),
    }
}

/// The tag of an object of these parts, if their tags are MD5s.
fn multipart_etag(named: &[NamedPart]) -> Option<Etag> {
    let mut digest = md5::Md5::new();
    for part in named {
        let text = part.engine.etag.as_bytes();
        if text.len() != 32 {
            return None;
        }
        for pair in text.chunks_exact(2) {
            let byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            digest.update([byte]);
        }
    }
    Some(Etag::Multipart(digest.finalize().into(), u32::try_from(named.len()).ok()?))
}

/// `x-amz-copy-source-range` has one form only, `bytes=FIRST-LAST`, and must lie inside the source.
fn copy_range(text: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    let range = Range::parse(text).ok();
    match range {
        Some(Range::Int { first, last: Some(last) }) if last < size => Ok(first..last + 1),
        Some(Range::Int { last: Some(_), .. }) => {
            let message = format!("The specified copy range is invalid for the source object size: {size}");
            Err(refuse(S3ErrorCode::InvalidRange, message))
        }
        _ => {
            let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy";
            Err(refuse(S3ErrorCode::InvalidArgument, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: i32, etag: &str) -> CompletedPart {
        CompletedPart { part_number: Some(number), e_tag: Some(ETag::Strong(etag.into())), ..Default::default() }
    }

    fn named(parts: Vec<CompletedPart>) -> Result<Vec<NamedPart>, String> {
        let list = CompletedMultipartUpload { parts: Some(parts) };
        named_parts(Some(&list)).map_err(|e| e.code().as_str().to_owned())
    }

    #[test]
    fn the_list_of_parts_is_checked() {
        let good = named(vec![part(1, "a"), part(7, "b"), part(10_000, "c")]).unwrap();
        assert_eq!(good.iter().map(|p| p.engine.number).collect::<Vec<_>>(), [1, 7, 10_000]);
        assert_eq!(named(vec![]).unwrap_err(), "MalformedXML");
        assert_eq!(named_parts(None).unwrap_err().code(), &S3ErrorCode::MalformedXML);
        assert_eq!(named(vec![part(2, "a"), part(1, "b")]).unwrap_err(), "InvalidPartOrder");
        assert_eq!(named(vec![part(1, "a"), part(1, "b")]).unwrap_err(), "InvalidPartOrder");
        assert_eq!(named(vec![part(0, "a")]).unwrap_err(), "InvalidArgument");
        assert_eq!(named(vec![part(10_001, "a")]).unwrap_err(), "InvalidArgument");
        assert_eq!(
            named(vec![CompletedPart { part_number: Some(1), ..Default::default() }]).unwrap_err(),
            "MalformedXML"
        );
    }

    #[test]
    fn the_tag_of_a_completed_upload_can_be_foreseen() {
        // MD5 of the two binary MD5s of "hello" and "world".
        let parts = vec![part(1, "5d41402abc4b2a76b9719d911017c592"), part(2, "7d793037a0760186574b0282f2f435e7")];
        let mut digest = md5::Md5::new();
        digest.update([0x5d, 0x41, 0x40, 0x2a, 0xbc, 0x4b, 0x2a, 0x76, 0xb9, 0x71, 0x9d, 0x91, 0x10, 0x17, 0xc5, 0x92]);
        digest.update([0x7d, 0x79, 0x30, 0x37, 0xa0, 0x76, 0x01, 0x86, 0x57, 0x4b, 0x02, 0x82, 0xf2, 0xf4, 0x35, 0xe7]);
        let expected = Etag::Multipart(digest.finalize().into(), 2);
        assert_eq!(multipart_etag(&named(parts).unwrap()), Some(expected));
        assert_eq!(multipart_etag(&named(vec![part(1, "opaque-0")]).unwrap()), None);
        assert_eq!(multipart_etag(&named(vec![part(1, &"zz".repeat(16))]).unwrap()), None);
    }

    #[test]
    fn copy_ranges_have_one_form() {
        assert_eq!(copy_range("bytes=0-9", 10).unwrap(), 0..10);
        assert_eq!(copy_range("bytes=3-3", 10).unwrap(), 3..4);
        let code = |text| copy_range(text, 10).unwrap_err().code().as_str().to_owned();
        assert_eq!(code("bytes=0-10"), "InvalidRange");
        for bad in ["bytes=0-", "bytes=-5", "0-5", "bytes=5-0", "bytes=0-1,3-4"] {
            assert_eq!(code(bad), "InvalidArgument", "{bad}");
        }
    }

    #[test]
    fn an_upload_remembers_its_checksum() {
        let mut info = UploadInfo {
            id: UploadId("x".into()),
            key: bytes::Bytes::new(),
            started_ns: 0,
            metadata: Default::default(),
        };
        assert_eq!(upload_checksum(&info), None);
        info.metadata.headers.insert(UPLOAD_CHECKSUM.into(), "sha256:COMPOSITE".into());
        assert_eq!(upload_checksum(&info), Some((Algorithm::Sha256, Coverage::Composite)));
    }

    #[test]
    fn part_numbers_have_bounds() {
        assert_eq!(part_number(1).unwrap(), 1);
        assert_eq!(part_number(10_000).unwrap(), 10_000);
        for bad in [0, -1, 10_001, i32::MIN] {
            assert_eq!(part_number(bad).unwrap_err().code(), &S3ErrorCode::InvalidArgument);
        }
    }
}
