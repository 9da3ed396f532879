//! Uploads from HTML forms: `POST /bucket` with `multipart/form-data` and a signed policy.
//!
//! s3s 0.14.1 collects the whole file in memory before it looks at the policy's conditions; here it streams into the
//! engine, and the fields before it are bounded. See "Browser-based uploads using POST" in the S3 API reference.

use crate::auth::{Caller, Keys, anonymous};
use crate::body::GuardBody;
use crate::checksum::Declared;
use crate::errors::{custom, refuse};
use crate::gate::escape;
use crate::get::show_checksums;
use crate::host::HostBucket;
use crate::metadata::{Described, tags_of_header};
use crate::ops::{Operations, Payload, check_features, show_version};
use crate::put::{Upload, check_object_key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use s3s::dto::PutObjectOutput;
use s3s::post_policy::{PostPolicy, PostPolicyCondition};
use s3s::{Body, S3Error, S3ErrorCode, S3Result, StdError};
use sha2::Sha256;
use tombolo_core::{Environment, ObjectInfo, PutOptions};

/// The most bytes of everything before the file (the limit of AWS).
const FIELDS_BYTES_MAX: usize = 20 << 10;

/// The fields of a form before its file, names in lower case.
#[derive(Debug, Default)]
struct Fields {
    list: Vec<(String, String)>,
    file_name: String,
    file_type: Option<String>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn take(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// The object's key: `${filename}` stands for the name of the file as the browser gives it, without directories.
    fn key(&self) -> S3Result<String> {
        let missing = || {
            let message = "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.";
            refuse(S3ErrorCode::InvalidArgument, message)
        };
        let name = self.file_name.rsplit(['/', '\\']).next().unwrap_or("");
        let key = self.get("key").ok_or_else(missing)?.replace("${filename}", name);
        check_object_key(&key)?;
        Ok(key)
    }

    /// The fields that would be headers of a PUT.
    fn headers(&self) -> S3Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.list {
            let name = if name == "acl" { "x-amz-acl" } else { name };
            let is_header = name == "content-md5" || (name.starts_with("x-amz-") && !name.starts_with("x-amz-meta-"));
            if is_header {
                let invalid = || refuse(S3ErrorCode::InvalidArgument, format!("the form field {name} is not valid"));
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
                headers.insert(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
            }
        }
        Ok(headers)
    }
}

/// Answers a form upload.
pub(crate) async fn post(
    operations: &Operations,
    keys: &Keys,
    parts: &Parts,
    body: GuardBody<Incoming>,
) -> S3Result<Response<Body>> {
    let bucket_name = bucket_of(parts.uri.path(), parts.extensions.get())?;
    let payload = Payload { length: None, ..parts.extensions.get::<Payload>().cloned().unwrap_or_default() };
    let mut reader = FormReader::new(Box::pin(Body::http_body(body)), boundary(&parts.headers)?);
    let fields = reader.fields().await.map_err(|error| payload.fault.take().unwrap_or(error))?;
    let caller = authenticate(keys, &fields).await?;
    let key = fields.key()?;
    let now_ns = Environment::default().clock.now_ns();
    let size_range = check_policy(&fields, &bucket_name, &key, now_ns)?;

    let headers = fields.headers()?;
    check_features(&headers)?;
    let mut extensions = http::Extensions::new();
    extensions.insert(caller);
    let bucket = operations.bucket(&extensions, &bucket_name).await?;
    if fields.get("tagging").is_some() {
        return Err(refuse(
            S3ErrorCode::NotImplemented,
            "The form field 'tagging' is not implemented; use x-amz-tagging",
        ));
    }
    let options = PutOptions {
        md5_etag: true,
        metadata: described(&fields)?.into_metadata()?,
        tags: fields.get("x-amz-tagging").map(tags_of_header).transpose()?.unwrap_or_default(),
        ..PutOptions::default()
    };
    let limit = size_range.1.min(operations.limits.put_bytes_max);
    let stream = Box::pin(reader.into_file());
    let mut upload = Upload::new(stream, payload, Declared::from_headers(&headers)?, None, limit)?;
    upload.length_min = size_range.0;
    let info = upload.put(&bucket, &key, options).await?;
    let at = crate::host::location(&parts.extensions, &bucket_name, &key);
    let mut response = answer(&fields, (&bucket_name, &key), at, &info);
    response.headers_mut().extend(crate::after::token(&bucket).await);
    Ok(response)
}

fn bucket_of(path: &str, host: Option<&HostBucket>) -> S3Result<String> {
    let path = percent_encoding::percent_decode_str(path).decode_utf8();
    let path = path.map_err(|_| refuse(S3ErrorCode::InvalidURI, "Couldn't parse the specified URI."))?;
    let name = path.trim_start_matches('/');
    if let Some(HostBucket(bucket)) = host.filter(|_| name.is_empty()) {
        return Ok(bucket.clone());
    }
    let name = name.strip_suffix('/').unwrap_or(name);
    if host.is_some() || name.is_empty() || name.contains('/') {
        let message = "The specified method is not allowed against this resource.";
        return Err(refuse(S3ErrorCode::MethodNotAllowed, message));
    }
    Ok(name.to_owned())
}

fn malformed(message: &'static str) -> S3Error {
    refuse(S3ErrorCode::MalformedPOSTRequest, message)
}

fn boundary(headers: &HeaderMap) -> S3Result<Vec<u8>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let value = kind.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    match value {
        Some(value) if (1..=70).contains(&value.len()) => Ok(value.as_bytes().to_vec()),
        _ => Err(malformed("The body of your POST request is not well-formed multipart/form-data: no boundary")),
    }
}

/// Finds the user whose key signed the policy.
async fn authenticate(keys: &Keys, fields: &Fields) -> S3Result<Caller> {
    let Some(policy) = fields.get("policy") else {
        return Err(anonymous());
    };
    if let (Some(access_key), Some(signature)) = (fields.get("awsaccesskeyid"), fields.get("signature")) {
        // The older form, still the default of some SDKs: HMAC-SHA1 of the policy, which carries its own end.
        let (caller, secret) = keys.find(access_key).await?;
        let signature = STANDARD.decode(signature).map_err(|_| mismatch())?;
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.expose().as_bytes()).map_err(|_| mismatch())?;
        mac.update(policy.as_bytes());
        mac.verify_slice(&signature).map_err(|_| mismatch())?;
        return Ok(caller);
    }
    let Some(signature) = fields.get("x-amz-signature") else {
        return Err(anonymous());
    };
    let missing = |name: &str| {
        let message = format!(
            "Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the fields."
        );
        refuse(S3ErrorCode::InvalidArgument, message)
    };
    let field = |name: &str| fields.get(name).ok_or_else(|| missing(name));
    if field("x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(refuse(S3ErrorCode::InvalidArgument, "x-amz-algorithm must be AWS4-HMAC-SHA256"));
    }
    let credential = field("x-amz-credential")?;
    let scope: Vec<&str> = credential.rsplitn(5, '/').collect();
    let [terminal, service, region, date, access_key] = scope.as_slice() else {
        return Err(refuse(S3ErrorCode::InvalidArgument, "x-amz-credential is malformed"));
    };
    if *terminal != "aws4_request" || *service != "s3" || !field("x-amz-date")?.starts_with(*date) {
        return Err(refuse(S3ErrorCode::InvalidArgument, "x-amz-credential is malformed or does not match x-amz-date"));
    }
    let (caller, secret) = keys.find(access_key).await?;
    let key = [*date, *region, *service, *terminal]
        .into_iter()
        .try_fold(format!("AWS4{}", secret.expose()).into_bytes(), |key, step| {
            Some(hmac(&key, step.as_bytes())?.to_vec())
        });
    let signature = unhex(signature).ok_or_else(mismatch)?;
    let mut mac = key.and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok()).ok_or_else(mismatch)?;
    mac.update(policy.as_bytes());
    mac.verify_slice(&signature).map_err(|_| mismatch())?;
    Ok(caller)
}

fn mismatch() -> S3Error {
    let message = "The request signature we calculated does not match the signature you provided.";
    refuse(S3ErrorCode::SignatureDoesNotMatch, message)
}

fn hmac(key: &[u8], data: &[u8]) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(data);
    Some(mac.finalize().into_bytes().into())
}

/// 32 bytes in hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

/// Evaluates the policy; gives the range the file's size must be in.
fn check_policy(fields: &Fields, bucket: &str, key: &str, now_ns: i64) -> S3Result<(u64, u64)> {
    let denied = |what: String| refuse(S3ErrorCode::AccessDenied, format!("Invalid according to Policy: {what}"));
    let policy = PostPolicy::from_base64(fields.get("policy").unwrap_or(""));
    let policy =
        policy.map_err(|error| refuse(S3ErrorCode::InvalidPolicyDocument, format!("Invalid Policy: {error}")))?;
    if now_ns >= crate::time::timestamp_ns(&policy.expiration) {
        return Err(denied("Policy expired.".into()));
    }
    let value = |name: &str| match name {
        "bucket" => bucket,
        "key" => key,
        _ => fields.get(name).unwrap_or(""),
    };
    let mut range = (0, u64::MAX);
    for condition in &policy.conditions {
        match condition {
            PostPolicyCondition::Eq { field, value: wanted } if value(field) != wanted => {
                return Err(denied(format!("Policy Condition failed: [\"eq\", \"${field}\", \"{wanted}\"]")));
            }
            PostPolicyCondition::StartsWith { field, prefix } if !value(field).starts_with(prefix.as_str()) => {
                return Err(denied(format!("Policy Condition failed: [\"starts-with\", \"${field}\", \"{prefix}\"]")));
            }
            PostPolicyCondition::ContentLengthRange { min, max } => range = (range.0.max(*min), range.1.min(*max)),
            _ => {}
        }
    }
    let is_covered = |name: &str| {
        policy.conditions.iter().any(|condition| match condition {
            PostPolicyCondition::Eq { field, .. } | PostPolicyCondition::StartsWith { field, .. } => field == name,
            PostPolicyCondition::ContentLengthRange { .. } => false,
        })
    };
    let is_exempt = |name: &str| {
        matches!(name, "policy" | "x-amz-signature" | "signature" | "awsaccesskeyid" | "submit")
            || name.starts_with("x-ignore-")
    };
    match fields.list.iter().find(|(name, _)| !is_exempt(name) && !is_covered(name)) {
        Some((name, _)) => Err(denied(format!("Extra input fields: {name}"))),
        None => Ok(range),
    }
}

/// The fields that come back as headers must be able to.
fn check_headers(fields: &Fields) -> S3Result<()> {
    const HEADERS: [&str; 7] = [
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
        "x-amz-website-redirect-location",
    ];
    for (name, value) in &fields.list {
        let is_header = HEADERS.contains(&name.as_str()) || name.starts_with("x-amz-meta-");
        if is_header
            && (HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_bytes(value.as_bytes()).is_err())
        {
            return Err(refuse(S3ErrorCode::InvalidArgument, format!("the form field {name} can't be a header")));
        }
    }
    Ok(())
}

fn described(fields: &Fields) -> S3Result<Described> {
    check_headers(fields)?;
    let user = fields
        .list
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("x-amz-meta-")?.to_owned(), value.clone())));
    Ok(Described {
        cache_control: fields.take("cache-control"),
        content_disposition: fields.take("content-disposition"),
        content_encoding: fields.take("content-encoding"),
        content_language: fields.take("content-language"),
        content_type: fields.take("content-type"),
        expires: fields.take("expires"),
        website_redirect_location: fields.take("x-amz-website-redirect-location"),
        user: Some(user.collect()),
    })
}

fn answer(fields: &Fields, (bucket, key): (&str, &str), location: String, info: &ObjectInfo) -> Response<Body> {
    let etag = format!("\"{}\"", info.etag);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let mut header = |name: &'static str, value: Option<String>| {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            response.headers_mut().insert(name, value);
        }
    };
    header("etag", Some(etag.clone()));
    header("location", Some(location.clone()));
    header("x-amz-version-id", show_version(info.version, false));
    let mut shown = PutObjectOutput::default();
    show_checksums!(shown, &info.checksums);
    header("x-amz-checksum-crc32", shown.checksum_crc32);
    header("x-amz-checksum-crc32c", shown.checksum_crc32c);
    header("x-amz-checksum-crc64nvme", shown.checksum_crc64nvme);
    header("x-amz-checksum-sha1", shown.checksum_sha1);
    header("x-amz-checksum-sha256", shown.checksum_sha256);
    if let Some(target) = fields.get("success_action_redirect").or_else(|| fields.get("redirect"))
        && let Some(target) = redirect(target, bucket, key, &etag)
    {
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, target);
        return response;
    }
    match fields.get("success_action_status") {
        Some("200") => *response.status_mut() = StatusCode::OK,
        Some("201") => {
            *response.status_mut() = StatusCode::CREATED;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            *response.body_mut() = Body::from(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><PostResponse><Location>{}</Location><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></PostResponse>",
                escape(&location),
                escape(bucket),
                escape(key),
                escape(&etag)
            ));
        }
        _ => {}
    }
    response
}

/// The redirect's URL with what was stored in its query; `None` when the form gave no URL.
fn redirect(target: &str, bucket: &str, key: &str, etag: &str) -> Option<HeaderValue> {
    let uri: http::Uri = target.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let encode =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let joint = if uri.query().is_some() { '&' } else { '?' };
    let target = format!("{target}{joint}bucket={}&key={}&etag={}", encode(bucket), encode(key), encode(etag));
    HeaderValue::try_from(target).ok()
}

/// Reads `multipart/form-data` piece by piece: fields into memory up to a limit, then the file as a stream.
struct FormReader<S> {
    body: S,
    buffer: BytesMut,
    /// Line end, two dashes and the boundary.
    delimiter: Vec<u8>,
    is_file_done: bool,
}

impl<S: Stream<Item = Result<Bytes, StdError>> + Unpin + Send + 'static> FormReader<S> {
    fn new(body: S, boundary: Vec<u8>) -> FormReader<S> {
        let delimiter = [b"\r\n--", boundary.as_slice()].concat();
        // The first delimiter may open the body, without the line end that the others have.
        FormReader { body, buffer: BytesMut::from(&b"\r\n"[..]), delimiter, is_file_done: false }
    }

    /// Reads on; whether there was more.
    async fn fill(&mut self) -> S3Result<bool> {
        match self.body.next().await {
            None => Ok(false),
            Some(Ok(piece)) => {
                self.buffer.extend_from_slice(&piece);
                Ok(true)
            }
            Some(Err(error)) => Err(crate::put::body_error(&error)),
        }
    }

    /// Takes everything before `mark`, and the mark away.
    async fn until(&mut self, mark: &[u8], budget: &mut usize) -> S3Result<Bytes> {
        let mut from = 0;
        loop {
            if let Some(at) = find(self.buffer.get(from..).unwrap_or(&[]), mark) {
                let head = self.buffer.split_to(from + at).freeze();
                self.buffer.advance(mark.len());
                *budget = budget.checked_sub(head.len()).ok_or_else(too_many_fields)?;
                return Ok(head);
            }
            if self.buffer.len() > budget.saturating_add(mark.len()) {
                return Err(too_many_fields());
            }
            from = self.buffer.len().saturating_sub(mark.len() - 1);
            if !self.fill().await? {
                return Err(malformed(
                    "The body of your POST request is not well-formed multipart/form-data: it ends early",
                ));
            }
        }
    }

    /// Reads up to the content of the file.
    async fn fields(&mut self) -> S3Result<Fields> {
        let mut budget = FIELDS_BYTES_MAX;
        let mut fields = Fields::default();
        let delimiter = self.delimiter.clone();
        self.until(&delimiter, &mut budget).await?;
        loop {
            let rest = self.until(b"\r\n", &mut budget).await?;
            if rest.starts_with(b"--") {
                let message = "POST requires exactly one file upload per request.";
                return Err(refuse(S3ErrorCode::IncorrectNumberOfFilesInPostRequest, message));
            }
            let (mut name, mut file_name, mut kind) = (None, None, None);
            loop {
                let line = self.until(b"\r\n", &mut budget).await?;
                if line.is_empty() {
                    break;
                }
                let line = std::str::from_utf8(&line).map_err(|_| malformed("A header in the form is not UTF-8"))?;
                let (key, value) =
                    line.split_once(':').ok_or_else(|| malformed("A header in the form is malformed"))?;
                match key.trim().to_ascii_lowercase().as_str() {
                    "content-disposition" => {
                        name = parameter_of(value, "name");
                        file_name = parameter_of(value, "filename");
                    }
                    "content-type" => kind = Some(value.trim().to_owned()),
                    _ => {}
                }
            }
            let name = name.ok_or_else(|| malformed("A part of the form has no name"))?.to_ascii_lowercase();
            if name == "file" {
                (fields.file_name, fields.file_type) = (file_name.unwrap_or_default(), kind);
                return Ok(fields);
            }
            let value = self.until(&delimiter, &mut budget).await?;
            let value =
                std::str::from_utf8(&value).map_err(|_| malformed("A field of the form is not UTF-8"))?.to_owned();
            if fields.get(&name).is_some() {
                return Err(malformed("A field of the form is there twice"));
            }
            budget = budget.checked_sub(name.len()).ok_or_else(too_many_fields)?;
            fields.list.push((name, value));
        }
    }

    /// The content of the file, up to the next delimiter. What follows it is ignored, as AWS does.
    fn into_file(self) -> impl Stream<Item = Result<Bytes, StdError>> + Send + 'static {
        futures::stream::try_unfold(self, |mut reader| async move {
            loop {
                if reader.is_file_done {
                    return Ok(None);
                }
                if let Some(at) = find(&reader.buffer, &reader.delimiter) {
                    reader.is_file_done = true;
                    let last = reader.buffer.split_to(at).freeze();
                    return Ok((!last.is_empty()).then_some((last, reader)));
                }
                // All but what could be the beginning of the delimiter.
                let safe = reader.buffer.len().saturating_sub(reader.delimiter.len() - 1);
                if safe > 0 {
                    let piece = reader.buffer.split_to(safe).freeze();
                    return Ok(Some((piece, reader)));
                }
                match reader.body.next().await {
                    Some(Ok(piece)) => reader.buffer.extend_from_slice(&piece),
                    Some(Err(error)) => return Err(error),
                    None => return Err("the form ends before its file does".into()),
                }
            }
        })
    }
}

/// What a fuzzer gets to see of a form.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenForm {
    /// The fields before the file, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The sizes in bytes that the policy allows for an upload to the bucket `bucket`, or the code of the error.
    pub sizes: Result<(u64, u64), String>,
    /// The content of the file; `None`: the form ends before it does.
    pub file: Option<Vec<u8>>,
}

/// For a fuzzer: reads a form that comes in these pieces, at this time, as an upload does; or the code of the error.
#[doc(hidden)]
pub async fn read_form(boundary: &str, pieces: Vec<Bytes>, now_ns: i64) -> Result<SeenForm, String> {
    let code = |error: S3Error| error.code().as_str().to_owned();
    let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, StdError>));
    let mut reader = FormReader::new(pieces, boundary.as_bytes().to_vec());
    let fields = reader.fields().await.map_err(code)?;
    let sizes = fields.key().and_then(|key| check_policy(&fields, "bucket", &key, now_ns)).map_err(code);
    drop(fields.headers().and_then(|headers| Declared::from_headers(&headers)));
    drop(described(&fields).and_then(Described::into_metadata));
    drop(fields.get("x-amz-tagging").map(tags_of_header));
    drop(fields.get("success_action_redirect").map(|target| redirect(target, "bucket", &fields.file_name, "\"e\"")));
    let file = futures::TryStreamExt::try_collect::<Vec<Bytes>>(reader.into_file()).await;
    Ok(SeenForm { fields: fields.list, sizes, file: file.ok().map(|pieces| pieces.concat()) })
}

fn too_many_fields() -> S3Error {
    custom(
        "MaxPostPreDataLengthExceeded",
        StatusCode::BAD_REQUEST,
        "Your POST request fields preceding the upload file were too large.",
    )
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, mark)
}

/// A parameter of a `Content-Disposition`: quoted, with `\"` for quotes inside, or bare.
fn parameter_of(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value;
    while let Some((_, tail)) = rest.split_once(';') {
        let tail = tail.trim_start();
        let (name, tail) = tail.split_once('=')?;
        let (text, after) = match tail.strip_prefix('"') {
            Some(quoted) => {
                let mut text = String::new();
                let mut characters = quoted.char_indices();
                let end = loop {
                    match characters.next()? {
                        (at, '"') => break at + 1,
                        (_, '\\') if characters.as_str().starts_with('"') => {
                            characters.next();
                            text.push('"');
                        }
                        (_, c) => text.push(c),
                    }
                };
                (text, quoted.get(end..)?)
            }
            None => {
                let end = tail.find(';').unwrap_or(tail.len());
                (tail.get(..end)?.trim().to_owned(), tail.get(end..)?)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nuser/${filename}\r\n--XX\r\nContent-Disposition: form-data; name=\"X-Amz-Meta-A\"\r\n\r\nb\r\nc\r\n--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a \\\"b\\\".txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--X\r\nworld\r\n--XX\r\nContent-Disposition: form-data; name=\"late\"\r\n\r\nx\r\n--XX--\r\n";

    fn reader(
        text: &[u8],
        step: usize,
    ) -> FormReader<impl Stream<Item = Result<Bytes, StdError>> + Unpin + Send + 'static> {
        let pieces: Vec<Result<Bytes, StdError>> = text.chunks(step).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        FormReader::new(futures::stream::iter(pieces), b"XX".to_vec())
    }

    #[tokio::test]
    async fn fields_and_file_survive_any_cuts() {
        for step in 1..FORM.len() {
            let mut reader = reader(FORM.as_bytes(), step);
            let fields = reader.fields().await.unwrap();
            assert_eq!(
                fields.list,
                [("key".into(), "user/${filename}".into()), ("x-amz-meta-a".into(), "b\r\nc".into())]
            );
            assert_eq!(fields.key().unwrap(), "user/a \"b\".txt");
            assert_eq!(fields.file_type.as_deref(), Some("text/plain"));
            let file: Vec<Bytes> = reader.into_file().try_collect().await.unwrap();
            assert_eq!(file.concat(), b"hello\r\n--X\r\nworld", "cut every {step} bytes");
        }
    }

    #[tokio::test]
    async fn broken_forms_are_refused() {
        let error = |text: String| async move {
            reader(text.as_bytes(), 7).fields().await.unwrap_err().code().as_str().to_owned()
        };
        assert_eq!(error("".into()).await, "MalformedPOSTRequest");
        assert_eq!(error("--XX--\r\n".into()).await, "IncorrectNumberOfFilesInPostRequest");
        assert_eq!(error("--XX\r\n\r\nvalue\r\n--XX--\r\n".into()).await, "MalformedPOSTRequest");
        assert_eq!(error("--XX\r\nnonsense\r\n\r\n".into()).await, "MalformedPOSTRequest");
        let huge = format!("--XX\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n{}", "k".repeat(1 << 20));
        assert_eq!(error(huge).await, "MaxPostPreDataLengthExceeded");
        let field = "--XX\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n";
        assert_eq!(error(format!("{field}{field}")).await, "MalformedPOSTRequest");
        let mut cut = reader(b"--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhello", 4);
        cut.fields().await.unwrap();
        assert!(cut.into_file().try_collect::<Vec<_>>().await.is_err(), "a file that breaks off is not a shorter file");
    }

    fn fields(policy: &str, list: &[(&str, &str)]) -> Fields {
        let mut list: Vec<(String, String)> = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        list.push(("policy".into(), STANDARD.encode(policy)));
        Fields { list, ..Fields::default() }
    }

    #[test]
    fn policies_are_evaluated() {
        let policy = r#"{"expiration":"2026-01-01T00:00:00Z","conditions":[{"bucket":"photos"},["starts-with","$key","user/"],
            {"acl":"private"},["starts-with","$x-amz-meta-tag",""],["content-length-range",2,5]]}"#;
        let before = 1_700_000_000_000_000_000;
        let good = [("key", "user/a"), ("acl", "private"), ("x-amz-meta-tag", "x"), ("x-ignore-me", "x")];
        assert_eq!(check_policy(&fields(policy, &good), "photos", "user/a", before).unwrap(), (2, 5));
        let code = |list: &[(&str, &str)], bucket: &str, key: &str, now: i64| {
            check_policy(&fields(policy, list), bucket, key, now).unwrap_err().message().unwrap().to_owned()
        };
        assert!(code(&good, "photos", "user/a", 1_800_000_000_000_000_000).contains("expired"));
        assert!(code(&good, "videos", "user/a", before).contains("$bucket"));
        assert!(code(&good, "photos", "other/a", before).contains("$key"));
        assert!(code(&[("key", "user/a"), ("acl", "public-read")], "photos", "user/a", before).contains("$acl"));
        let extra = [("key", "user/a"), ("acl", "private"), ("content-type", "text/html")];
        assert!(code(&extra, "photos", "user/a", before).contains("Extra input fields: content-type"));
        let error = check_policy(&fields("{", &good), "photos", "user/a", before).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::InvalidPolicyDocument);
    }

    #[test]
    fn redirects_go_to_urls_only() {
        let target = redirect("https://example.com/done?x=1", "b", "a b", "\"e\"").unwrap();
        assert_eq!(target, "https://example.com/done?x=1&bucket=b&key=a%20b&etag=%22e%22");
        assert!(redirect("javascript:alert(1)", "b", "k", "e").is_none());
        assert!(redirect("/relative", "b", "k", "e").is_none());
    }

    #[test]
    fn paths_and_boundaries_are_read() {
        assert_eq!(bucket_of("/photos", None).unwrap(), "photos");
        assert_eq!(bucket_of("/photos/", None).unwrap(), "photos");
        assert_eq!(bucket_of("/photos/key", None).unwrap_err().code(), &S3ErrorCode::MethodNotAllowed);
        let host = HostBucket("photos".into());
        assert_eq!(bucket_of("/", Some(&host)).unwrap(), "photos");
        assert_eq!(bucket_of("/key", Some(&host)).unwrap_err().code(), &S3ErrorCode::MethodNotAllowed);
        assert_eq!(bucket_of("/", None).unwrap_err().code(), &S3ErrorCode::MethodNotAllowed);
        let headers = |kind: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        assert_eq!(boundary(&headers("multipart/form-data; boundary=\"a b\"")).unwrap(), b"a b");
        assert_eq!(boundary(&headers("multipart/form-data; charset=x; Boundary=ab")).unwrap(), b"ab");
        assert!(boundary(&headers("multipart/form-data")).is_err());
    }
}
