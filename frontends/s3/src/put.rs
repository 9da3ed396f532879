//! Storing objects: PUT and COPY, and the path a content takes in whatever request it came.
//!
//! A content is stored and hashed first, then held against every checksum and length the client stated, then
//! committed. Refusing it means dropping what has no name yet, so a refused upload leaves nothing behind.

use crate::checksum::{Algorithm, Declared, Hasher, SharedHasher, payload_mismatch};
use crate::conditions::{self, ReadCondition};
use crate::errors::{from_engine, refuse};
use crate::get::{checksum_type, show_checksums};
use crate::metadata::{described, tags_of_header};
use crate::ops::{Operations, Payload, check_features, show_version, version};
use crate::time::timestamp;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{Extensions, HeaderMap};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError, TrailingHeaders};
use tombolo_core::{
    Bucket, Checksum, CopyOptions, EtagKind, Object, ObjectInfo, ObjectWriter, PutOptions, SealedObject, check_key,
};

/// Contents up to this size are collected and put in one step, which costs a small object one round through the engine.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A content on its way in, with all that the request states about it.
pub(crate) struct Upload<S> {
    stream: S,
    /// Bytes the request says there are. `None`: as many as come.
    length: Option<u64>,
    length_max: u64,
    /// The least bytes that are taken.
    pub(crate) length_min: u64,
    pub(crate) declared: Declared,
    trailers: Option<TrailingHeaders>,
    payload: Payload,
}

impl Upload<StreamingBlob> {
    /// Takes the body's particulars from a request. `trailers`: those of the body, unless a detour left them in the extensions.
    pub(crate) fn of(
        body: Option<StreamingBlob>,
        headers: &HeaderMap,
        extensions: &Extensions,
        trailers: Option<TrailingHeaders>,
        length_max: u64,
    ) -> S3Result<Upload<StreamingBlob>> {
        let payload = extensions.get::<Payload>().cloned().unwrap_or_default();
        let body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
        let trailers = trailers.or_else(|| extensions.get::<TrailingHeaders>().cloned());
        Upload::new(body, payload, Declared::from_headers(headers)?, trailers, length_max)
    }
}

impl<S: Stream<Item = Result<Bytes, StdError>> + Unpin> Upload<S> {
    pub(crate) fn new(
        stream: S,
        payload: Payload,
        declared: Declared,
        trailers: Option<TrailingHeaders>,
        length_max: u64,
    ) -> S3Result<Upload<S>> {
        if payload.length.is_some_and(|length| length > length_max) {
            return Err(too_large(length_max));
        }
        Ok(Upload { stream, length: payload.length, length_max, length_min: 0, declared, trailers, payload })
    }

    async fn next(&mut self) -> S3Result<Option<Bytes>> {
        match self.stream.next().await {
            None => Ok(None),
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) => Err(self.payload.fault.take().unwrap_or_else(|| body_error(&error))),
        }
    }

    /// Whether `size` bytes are what the request stated; `at_end`: no more will come.
    fn check_length(&self, size: u64, at_end: bool) -> S3Result<()> {
        if size > self.length_max {
            return Err(too_large(self.length_max));
        }
        match self.length {
            Some(length) if size > length || (at_end && size < length) => {
                let message = format!("You did not provide the number of bytes specified: {size} instead of {length}");
                Err(refuse(S3ErrorCode::IncompleteBody, message))
            }
            _ if at_end && size < self.length_min => {
                let message = "Your proposed upload is smaller than the minimum allowed size";
                Err(refuse(S3ErrorCode::EntityTooSmall, message))
            }
            _ => Ok(()),
        }
    }

    /// Reads a content that is known to be small.
    async fn collect(&mut self) -> S3Result<Bytes> {
        let Some(first) = self.next().await? else {
            self.check_length(0, true)?;
            return Ok(Bytes::new());
        };
        self.check_length(first.len() as u64, false)?;
        let Some(second) = self.next().await? else {
            self.check_length(first.len() as u64, true)?;
            return Ok(first);
        };
        let mut all =
            BytesMut::with_capacity(usize::try_from(self.length.unwrap_or(0).min(SMALL_BYTES_MAX)).unwrap_or(0));
        all.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            self.check_length((all.len() + piece.len()) as u64, false)?;
            all.extend_from_slice(&piece);
            next = self.next().await?;
        }
        self.check_length(all.len() as u64, true)?;
        Ok(all.freeze())
    }

    /// Pushes the whole content through `writer`, seals it and verifies everything but the entity tag.
    /// `hasher` must be the writer's tap.
    pub(crate) async fn store(
        &mut self,
        mut writer: ObjectWriter,
        hasher: &SharedHasher,
    ) -> S3Result<(SealedObject, Vec<Checksum>)> {
        let mut size = 0u64;
        while let Some(piece) = writer.idle(self.next()).await.map_err(from_engine)?? {
            size += piece.len() as u64;
            self.check_length(size, false)?;
            writer.push(piece).await.map_err(from_engine)?;
        }
        self.check_length(size, true)?;
        self.read_trailers()?;
        let mut sealed = writer.seal().await.map_err(from_engine)?;
        let (checksums, md5) = hasher.finish();
        self.declared.verify(&checksums, md5.or(sealed.md5()))?;
        sealed.set_checksums(checksums.clone());
        Ok((sealed, checksums))
    }

    fn read_trailers(&mut self) -> S3Result<()> {
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take);
        self.declared.read_trailers(trailers.as_ref())
    }

    /// Stores the content as an object.
    pub(crate) async fn put(&mut self, bucket: &Bucket, key: &str, mut options: PutOptions) -> S3Result<ObjectInfo> {
        let algorithms: Vec<Algorithm> = self.declared.algorithm.into_iter().collect();
        if self.length.is_some_and(|length| length <= SMALL_BYTES_MAX) {
            let content = self.collect().await?;
            self.read_trailers()?;
            let mut hasher = Hasher::new(&algorithms, self.declared.md5.is_some());
            hasher.update(&content);
            let (checksums, md5) = hasher.finish();
            self.declared.verify(&checksums, md5)?;
            options.checksums = checksums;
            return bucket.put(key, content, options).await.map_err(from_engine);
        }
        let needs_md5 = self.needs_md5(bucket).await?;
        let hasher = SharedHasher::new(Hasher::new(&algorithms, needs_md5));
        if needs_md5 || !algorithms.is_empty() {
            options.tap = Some(hasher.tap());
        }
        let writer = bucket.writer(key, options).await.map_err(from_engine)?;
        let (sealed, _) = self.store(writer, &hasher).await?;
        sealed.commit().await.map_err(from_engine)
    }

    /// Whether `Content-MD5` is stated and the engine won't compute it for the entity tag anyway.
    pub(crate) async fn needs_md5(&self, bucket: &Bucket) -> S3Result<bool> {
        if self.declared.md5.is_none() {
            return Ok(false);
        }
        Ok(bucket.info().await.map_err(from_engine)?.policy.etag != EtagKind::Md5)
    }
}

fn too_large(limit: u64) -> S3Error {
    let message =
        format!("Your proposed upload exceeds the maximum allowed size of {limit} bytes; use a multipart upload");
    refuse(S3ErrorCode::EntityTooLarge, message)
}

/// What a body that broke off means. s3s keeps its error types to itself, so their texts have to do.
pub(crate) fn body_error(error: &StdError) -> S3Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if text.contains("SignatureMismatch") {
        let message = "The request signature we calculated does not match the signature you provided.";
        return refuse(S3ErrorCode::SignatureDoesNotMatch, message);
    }
    if text.contains("Sha256Mismatch") {
        return payload_mismatch();
    }
    if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        return refuse(S3ErrorCode::InvalidRequest, format!("the aws-chunked body is malformed: {text}"));
    }
    refuse(S3ErrorCode::IncompleteBody, format!("the request body broke off: {text}"))
}

/// Refuses keys that S3 does not have.
pub(crate) fn check_object_key(key: &str) -> S3Result<()> {
    match check_key(key.as_bytes()) {
        Ok(()) => Ok(()),
        Err(_) if key.is_empty() => Err(refuse(S3ErrorCode::UserKeyMustBeSpecified, "The key must not be empty")),
        Err(_) => Err(refuse(S3ErrorCode::KeyTooLongError, "Your key is too long")),
    }
}

impl Operations {
    pub(crate) async fn put(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        check_features(&req.headers)?;
        let mut input = req.input;
        check_object_key(&input.key)?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let options = PutOptions {
            md5_etag: true,
            tags: input.tagging.as_deref().map(tags_of_header).transpose()?.unwrap_or_default(),
            condition: conditions::of_write(input.if_match.as_ref(), input.if_none_match.as_ref()),
            metadata: described!(input, req.extensions).into_metadata()?,
            ..PutOptions::default()
        };
        let mut upload =
            Upload::of(input.body, &req.headers, &req.extensions, req.trailing_headers, self.limits.put_bytes_max)?;
        let info = upload.put(&bucket, &input.key, options).await?;
        let mut output = PutObjectOutput {
            e_tag: Some(ETag::Strong(info.etag.to_string())),
            version_id: show_version(info.version, false),
            ..Default::default()
        };
        show_checksums!(output, &info.checksums);
        output.checksum_type = checksum_type(&info.checksums);
        Ok(S3Response::new(output))
    }

    /// Opens the source of a copy: that of the header, unless a detour left another one in the extensions.
    pub(crate) async fn copy_source(
        &self,
        extensions: &Extensions,
        source: &CopySource,
        condition: &ReadCondition,
    ) -> S3Result<(Object, String, String, Option<String>)> {
        let source = extensions.get::<CopySource>().unwrap_or(source);
        let CopySource::Bucket { bucket: name, key, version_id } = source else {
            let message = "Copying from an access point or an outpost is not implemented";
            return Err(refuse(S3ErrorCode::NotImplemented, message));
        };
        check_object_key(key)?;
        let bucket = self.bucket(extensions, name).await?;
        let object = match self.open(&bucket, key, version(version_id.as_deref())?).await {
            Ok(object) => object,
            // A delete marker can't be copied; that is an argument's fault here, not a method's.
            Err(error) if error.code() == &S3ErrorCode::MethodNotAllowed => {
                let message =
                    "The source of a copy request may not specifically refer to a delete marker by version id.";
                return Err(refuse(S3ErrorCode::InvalidRequest, message));
            }
            Err(error) => return Err(error),
        };
        condition.check_source(object.info())?;
        let shown = show_version(object.info().version, version_id.is_some());
        Ok((object, name.to_string(), key.to_string(), shown))
    }

    pub(crate) async fn copy(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        check_features(&req.headers)?;
        let mut input = req.input;
        check_object_key(&input.key)?;
        let replaces = |directive: Option<&str>, name: &str| match directive {
            None | Some("COPY") => Ok(false),
            Some("REPLACE") => Ok(true),
            Some(_) => Err(refuse(S3ErrorCode::InvalidArgument, format!("Unknown {name} directive."))),
        };
        let replaces_metadata = replaces(input.metadata_directive.as_ref().map(|d| d.as_str()), "metadata")?;
        let replaces_tags = replaces(input.tagging_directive.as_ref().map(|d| d.as_str()), "tagging")?;
        let bucket = self.bucket(&req.extensions, &input.bucket).await?;
        let condition = ReadCondition {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        };
        let (source, source_bucket, source_key, source_version) =
            self.copy_source(&req.extensions, &input.copy_source, &condition).await?;
        let is_itself = source_bucket == input.bucket && source_key == input.key && source.info().is_current;
        let wanted = input.checksum_algorithm.as_ref().map(|a| Algorithm::parse(a.as_str())).transpose()?;
        let has_checksum =
            |a: Algorithm| source.info().checksums.iter().any(|c| c.algorithm == a.name() && c.parts == 0);
        let new_checksum = wanted.filter(|&a| !has_checksum(a));
        if is_itself && !replaces_metadata && !replaces_tags && new_checksum.is_none() {
            let message = "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.";
            return Err(refuse(S3ErrorCode::InvalidRequest, message));
        }
        let options = CopyOptions {
            tags: match replaces_tags {
                true => Some(input.tagging.as_deref().map(tags_of_header).transpose()?.unwrap_or_default()),
                false => None,
            },
            metadata: match replaces_metadata {
                true => Some(described!(input, req.extensions).into_metadata()?),
                false => None,
            },
            condition: conditions::of_headers(&req.headers)?,
            checksums: match new_checksum {
                Some(algorithm) => Some(hash_object(&source, 0..source.info().size, algorithm).await?),
                None => None,
            },
            ..CopyOptions::default()
        };
        let info = bucket.copy(&source, &input.key, options).await.map_err(from_engine)?;
        let mut result = CopyObjectResult {
            e_tag: Some(ETag::Strong(info.etag.to_string())),
            last_modified: Some(timestamp(info.modified_ns)),
            checksum_type: checksum_type(&info.checksums),
            ..Default::default()
        };
        show_checksums!(result, &info.checksums);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: source_version,
            version_id: show_version(info.version, false),
            ..Default::default()
        }))
    }
}

/// The checksum of a range of an object, by reading it.
async fn hash_object(object: &Object, span: std::ops::Range<u64>, algorithm: Algorithm) -> S3Result<Vec<Checksum>> {
    let mut hasher = Hasher::new(&[algorithm], false);
    let mut reader = object.read(span);
    while let Some(piece) = reader.next().await.map_err(from_engine)? {
        hasher.update(&piece);
    }
    Ok(hasher.finish().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn upload(
        pieces: &[&'static str],
        length: Option<u64>,
    ) -> Upload<impl Stream<Item = Result<Bytes, StdError>> + Unpin> {
        let pieces: Vec<Result<Bytes, StdError>> =
            pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        let payload = Payload { length, ..Payload::default() };
        Upload::new(stream::iter(pieces), payload, Declared::default(), None, 20).unwrap()
    }

    #[tokio::test]
    async fn small_contents_must_have_their_stated_length() {
        assert_eq!(upload(&["hello"], Some(5)).collect().await.unwrap(), "hello");
        assert_eq!(upload(&["hel", "l", "o"], Some(5)).collect().await.unwrap(), "hello");
        assert_eq!(upload(&[], Some(0)).collect().await.unwrap(), "");
        for (pieces, length) in
            [(&["hell"][..], 5), (&["hello!"], 5), (&["hel", "lo", "!"], 5), (&["he", "l"], 5), (&[], 1)]
        {
            let error = upload(pieces, Some(length)).collect().await.unwrap_err();
            assert_eq!(error.code(), &S3ErrorCode::IncompleteBody, "{pieces:?}");
        }
        let error = upload(&["0123456789", "0123456789", "0"], None).collect().await.unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::EntityTooLarge);
    }

    #[test]
    fn too_long_a_statement_is_refused_before_reading() {
        let payload = Payload { length: Some(21), ..Payload::default() };
        let body = stream::empty::<Result<Bytes, StdError>>();
        let error = Upload::new(body, payload, Declared::default(), None, 20).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::EntityTooLarge);
    }

    #[test]
    fn broken_bodies_have_codes_of_their_own() {
        let code = |text: &str| body_error(&text.to_owned().into()).code().as_str().to_owned();
        assert_eq!(code("AwsChunkedStreamError: SignatureMismatch"), "SignatureDoesNotMatch");
        assert_eq!(code("UploadStreamError: Sha256Mismatch"), "XAmzContentSHA256Mismatch");
        assert_eq!(code("AwsChunkedStreamError: FormatError"), "InvalidRequest");
        assert_eq!(code("UploadStreamError: LengthMismatch"), "IncompleteBody");
        assert_eq!(code("connection reset"), "IncompleteBody");
    }

    #[test]
    fn keys_have_one_to_1024_bytes() {
        assert!(check_object_key("a//b/../.").is_ok());
        assert!(check_object_key(&"k".repeat(1024)).is_ok());
        assert_eq!(check_object_key(&"k".repeat(1025)).unwrap_err().code(), &S3ErrorCode::KeyTooLongError);
        assert_eq!(check_object_key("").unwrap_err().code(), &S3ErrorCode::UserKeyMustBeSpecified);
    }
}
