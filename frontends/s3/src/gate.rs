//! What stands between the connection and s3s: requests that s3s 0.14.1 would take and AWS would not are refused here,
//! bodies get their [`GuardBody`], and every answer gets a request id.
//!
//! Refused: signature version 2 in headers (s3s does not check its date, so a captured request would be good for ever;
//! in URLs and forms, where some SDKs still use it by default, it carries its own end and is taken), `x-amz-*` headers that the signature leaves out, scopes of other services than `s3`, presigned URLs good for more than a week.

use crate::auth::Keys;
use crate::body::{BUDGET_UNIT_BYTES, Fault, Guard, GuardBody, Leftover};
use crate::checksum::{Declared, content_md5, refuse_unknown};
use crate::errors::refuse;
use crate::form::{self, unhex};
use crate::host::{Domains, HostBucket};
use crate::lenient::Lenient;
use crate::metadata::keep_expires;
use crate::ops::{Operations, Payload};
use crate::options::S3Limits;
use crate::rechunk::{ChunkMode, Rechunker};
use crate::requests::{RequestIds, S3Counts};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::validation::NameValidation;
use s3s::{Body, S3Error, S3ErrorCode, S3Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;

/// The longest life of a presigned URL (SigV4 for S3, "X-Amz-Expires").
const PRESIGNED_SECONDS_MAX: u32 = 604_800;
/// What of an unread body is read away after an early answer, so that the client gets to see it.
const DRAIN_BYTES_MAX: usize = 256 << 10;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Bucket names as the engine knows them: other doors make buckets that S3 would not, and they can be used.
struct EngineNames;

impl NameValidation for EngineNames {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        name.len() <= 63 && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.bytes().all(fine)
    }
}

/// A status for the answer, in its extensions: s3s writes a HEAD of a range as 200.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status(pub(crate) StatusCode);

/// The entrance of every request.
pub(crate) struct Gate {
    service: S3Service,
    operations: Operations,
    keys: Keys,
    domains: Domains,
    budget: Arc<Semaphore>,
    limits: S3Limits,
    request_ids: RequestIds,
    counts: Arc<S3Counts>,
}

impl Gate {
    pub(crate) fn new(operations: Operations, keys: Keys, domains: Domains, limits: S3Limits) -> Gate {
        let mut config = S3Config::default();
        config.xml_max_body_size = limits.xml_bytes_max;
        let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
        let build = |with_keys: bool, route: Option<Lenient>| {
            let mut builder = S3ServiceBuilder::new(operations.clone());
            builder.set_config(config.clone());
            builder.set_validation(EngineNames);
            if !domains.are_none() {
                builder.set_host(domains.clone());
            }
            if with_keys {
                builder.set_auth(keys.clone());
                builder.set_access(keys.clone());
            }
            if let Some(route) = route {
                builder.set_route(route);
            }
            builder.build()
        };
        let lenient = Lenient::new(build(false, None), keys.clone());
        let service = build(true, Some(lenient));
        // A chunk that may be sent must fit, or it would wait for ever.
        let budget = limits.signed_chunk_budget_bytes.max(limits.signed_chunk_bytes_max).div_ceil(BUDGET_UNIT_BYTES);
        let budget = usize::try_from(budget).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Gate {
            service,
            operations,
            keys,
            domains,
            budget: Arc::new(Semaphore::new(budget)),
            limits,
            request_ids: RequestIds::new(),
            counts: Arc::default(),
        }
    }

    pub(crate) fn counts(&self) -> Arc<S3Counts> {
        self.counts.clone()
    }

    /// Answers one request, counts it and says so in the log: at level `warn` if it failed through no fault of the client's, else `debug`.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let id = self.request_ids.next();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let began = Instant::now();
        let response = self.answer(request, &id).await;
        let response = finish(response, &method, &path, &id);
        let status = response.status();
        self.counts.add(status);
        let (status, ms) = (status.as_u16(), began.elapsed().as_millis() as u64);
        if status >= 500 && status != 501 {
            tracing::warn!(request_id = %id, %method, path, status, ms, "an S3 request failed");
        } else {
            tracing::debug!(request_id = %id, %method, path, status, ms, "an S3 request");
        }
        response
    }

    async fn answer(&self, request: Request<Incoming>, id: &str) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        if let Some(bucket) = self.domains.bucket_of(&parts.headers) {
            parts.extensions.insert(bucket);
        }
        let expects_continue = parts.headers.contains_key(header::EXPECT);
        let (fault, leftover) = (Fault::default(), Leftover::default());
        let response = match screen(&parts, &self.limits) {
            Err(error) => {
                *leftover.lock() = Some(body);
                respond(error)
            }
            Ok(screened) => {
                let guard = Guard {
                    rechunker: screened.rechunker,
                    digest: screened.digest,
                    bytes_max: screened.is_document.then_some(self.limits.xml_bytes_max as u64),
                    idle_timeout: self.limits.body_timeout,
                    budget: PollSemaphore::new(self.budget.clone()),
                };
                let body = GuardBody::new(body, guard, fault.clone(), leftover.clone());
                parts.extensions.insert(Payload { length: screened.length, fault: fault.clone() });
                keep_expires(&parts.headers, &mut parts.extensions);
                if screened.is_form {
                    match form::post(&self.operations, &self.keys, &parts, body).await {
                        Ok(response) => response,
                        Err(error) => respond(error),
                    }
                } else {
                    match self.service.call(Request::from_parts(parts, Body::http_body(body))).await {
                        Ok(response) => response,
                        Err(error) => {
                            let error: s3s::StdError = error.into();
                            tracing::error!(%error, request_id = %id, "an answer could not be written");
                            respond(refuse(
                                S3ErrorCode::InternalError,
                                "We encountered an internal error. Please try again.",
                            ))
                        }
                    }
                }
            }
        };
        // Where s3s read the body itself, it took whatever broke it for an internal error. Who is not let in hears nothing else.
        let status = response.status();
        let response = match fault.take() {
            Some(error)
                if status.is_server_error() || (status.is_client_error() && status != StatusCode::FORBIDDEN) =>
            {
                respond(error)
            }
            _ => response,
        };
        let rest = leftover.lock().take();
        if let Some(rest) = rest
            && !response.status().is_success()
            && !expects_continue
        {
            drain(rest).await;
        }
        response
    }
}

/// Reads a little of what the client is still sending: closing a connection with unread bytes resets it, and the client
/// would see the reset and not the answer.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    if tokio::time::timeout(DRAIN_TIME_MAX, read).await.is_err() {
        tracing::debug!("a client goes on sending after it was refused");
    }
}

/// An error as an answer.
fn respond(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Adds what every answer has: a request id, also in the XML of an error, with what the error is about.
fn finish(mut response: Response<Body>, method: &Method, path: &str, id: &str) -> Response<Body> {
    if let Some(Status(status)) = response.extensions_mut().remove::<Status>() {
        *response.status_mut() = status;
    }
    let status = response.status();
    if status == StatusCode::NOT_MODIFIED || (*method == Method::HEAD && !status.is_success()) {
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if status == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
    } else if (status.is_client_error() || status.is_server_error())
        && let Some(text) = response.body().bytes()
        && let Some(head) = text.strip_suffix(b"</Error>")
    {
        let tail = format!("<Resource>{}</Resource><RequestId>{id}</RequestId></Error>", escape(path));
        *response.body_mut() = Body::from([head, tail.as_bytes()].concat());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/xml"));
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert("x-amz-request-id", value);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("Tombolo"));
    response
}

/// Text inside an XML element.
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            _ => out.push(c),
        }
        out
    })
}

/// For a fuzzer: the length that a request's head says its content has, or the code of the error that the gate answers with.
#[doc(hidden)]
pub fn screen_head(parts: &Parts) -> Result<Option<u64>, String> {
    match screen(parts, &S3Limits::default()) {
        Ok(screened) => Ok(screened.length),
        Err(error) => Err(error.code().as_str().to_owned()),
    }
}

/// What the head of a request says about its body.
struct Screened {
    rechunker: Option<Rechunker>,
    digest: Option<Declared>,
    length: Option<u64>,
    is_form: bool,
    /// Whether s3s reads the body into memory.
    is_document: bool,
}

/// Looks at the head of a request before anything of its body is read.
fn screen(parts: &Parts, limits: &S3Limits) -> S3Result<Screened> {
    let query = parts.uri.query().unwrap_or("");
    check_signature_shape(&parts.headers, query)?;
    check_operation(parts, query)?;
    refuse_unknown(&parts.headers)?;
    let is_form = parts.method == Method::POST
        && text(&parts.headers, "content-type")
            .is_some_and(|t| t.to_ascii_lowercase().starts_with("multipart/form-data"));
    let rechunker = rechunker(&parts.headers, limits)?;
    let length = match &rechunker {
        Some((_, decoded)) => Some(*decoded),
        None => text(&parts.headers, "content-length").and_then(|t| t.parse().ok()),
    };
    let is_document = !is_form && is_document(parts, query);
    let digest = if is_document && rechunker.is_none() { digest_of(parts, query)? } else { None };
    Ok(Screened { rechunker: rechunker.map(|(rechunker, _)| rechunker), digest, length, is_form, is_document })
}

/// Operations that s3s does not know, and takes for the plain one on the object or bucket.
fn check_operation(parts: &Parts, query: &str) -> S3Result<()> {
    const OF_OBJECTS: [&str; 2] = ["encryption", "renameObject"];
    const OF_BUCKETS: [&str; 5] =
        ["abac", "metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "metadataAnnotationTable"];
    let has = |name: &&str| parameter(query, name).is_some();
    let unknown = if has_key(parts) { OF_OBJECTS.iter().find(|n| has(n)) } else { OF_BUCKETS.iter().find(|n| has(n)) };
    if let Some(name) = unknown {
        let message = format!("A header or query you provided implies functionality that is not implemented: {name}");
        return Err(refuse(S3ErrorCode::NotImplemented, message));
    }
    if parts.method == Method::PUT && has_key(parts) && has(&"uploadId") != has(&"partNumber") {
        return Err(refuse(S3ErrorCode::InvalidArgument, "a part needs both uploadId and partNumber"));
    }
    Ok(())
}

/// A header as s3s reads it: a value that is not UTF-8 is not there. What the gate does not see and s3s does would pass unchecked.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(name).iter().find_map(as_text).map(str::trim)
}

fn as_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// The value of a query parameter, still encoded. Its name is decoded, as s3s does: `X%2DAmz-Signature` is one, too.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decode_str(key).eq(name.bytes()).then_some(value)
    })
}

/// The re-chunker an aws-chunked body needs, with the length of its content.
fn rechunker(headers: &HeaderMap, limits: &S3Limits) -> S3Result<Option<(Rechunker, u64)>> {
    let (mode, has_trailers) = match text(headers, "x-amz-content-sha256") {
        Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER") => (ChunkMode::Unsigned, true),
        Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD") => (ChunkMode::Signed, false),
        Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER") => (ChunkMode::Signed, true),
        _ => return Ok(None),
    };
    let missing =
        || refuse(S3ErrorCode::MissingContentLength, "You must provide the x-amz-decoded-content-length header.");
    let decoded = text(headers, "x-amz-decoded-content-length").ok_or_else(missing)?;
    let invalid = |_| refuse(S3ErrorCode::InvalidArgument, "The x-amz-decoded-content-length header is not a number");
    let decoded: u64 = decoded.parse().map_err(invalid)?;
    let announced = if has_trailers { text(headers, "x-amz-trailer").unwrap_or("") } else { "" };
    let announced: Vec<&str> = announced.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    Ok(Some((Rechunker::new(mode, decoded, limits.signed_chunk_bytes_max, &announced), decoded)))
}

/// As s3s reads a path, which decodes it first.
fn has_key(parts: &Parts) -> bool {
    let path: Vec<u8> = percent_decode_str(parts.uri.path()).collect();
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    if parts.extensions.get::<HostBucket>().is_some() {
        return !path.is_empty();
    }
    path.iter().position(|byte| *byte == b'/').is_some_and(|slash| slash + 1 < path.len())
}

/// Whether the body is a document that s3s reads whole, and not the content of an object or a part.
fn is_document(parts: &Parts, query: &str) -> bool {
    let has = |name| parameter(query, name).is_some();
    match parts.method {
        Method::PUT => !has_key(parts) || ["acl", "tagging", "legal-hold", "retention"].into_iter().any(has),
        Method::POST => true,
        _ => false,
    }
}

/// What a document must hash to. Contents of objects and parts are verified where they are stored.
fn digest_of(parts: &Parts, query: &str) -> S3Result<Option<Declared>> {
    // On completing an upload the checksum headers are about the object.
    let mut declared = if has_key(parts) && parameter(query, "uploadId").is_some() {
        Declared { md5: content_md5(&parts.headers)?, ..Declared::default() }
    } else {
        Declared::from_headers(&parts.headers)?
    };
    declared.payload = text(&parts.headers, "x-amz-content-sha256").and_then(unhex).map(Bytes::from);
    Ok((declared.md5.is_some() || declared.value.is_some() || declared.payload.is_some()).then_some(declared))
}

/// Checks what of a signature can be checked without its key.
fn check_signature_shape(headers: &HeaderMap, query: &str) -> S3Result<()> {
    let authorization = text(headers, "authorization");
    let is_presigned = parameter(query, "X-Amz-Signature").is_some() || parameter(query, "X-Amz-Algorithm").is_some();
    if authorization.is_some_and(|a| a.starts_with("AWS ")) {
        let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
        return Err(refuse(S3ErrorCode::InvalidRequest, message));
    }
    let is_presigned_v2 = parameter(query, "Signature").is_some();
    if [is_presigned, is_presigned_v2, authorization.is_some()].into_iter().filter(|is_one| *is_one).count() > 1 {
        let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified";
        return Err(refuse(S3ErrorCode::InvalidArgument, message));
    }
    if is_presigned_v2 {
        return check_presigned_v2(headers, query);
    }
    if is_presigned {
        return check_presigned(headers, query);
    }
    let Some(authorization) = authorization else {
        return Ok(());
    };
    let malformed = |message: &'static str| refuse(S3ErrorCode::AuthorizationHeaderMalformed, message);
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| {
        refuse(S3ErrorCode::InvalidRequest, "Missing or unsupported Authorization header: use AWS4-HMAC-SHA256")
    })?;
    // s3s reads the same header once more: what it could read otherwise is not let through.
    let field = |name: &str| {
        let mut values = fields.split(',').filter_map(|field| {
            field.trim_start_matches(' ').strip_prefix(name).and_then(|rest| rest.strip_prefix('='))
        });
        values.next().filter(|value| values.next().is_none() && !value.contains(|c: char| c.is_whitespace()))
    };
    let credential = field("Credential")
        .ok_or_else(|| malformed("The authorization header is malformed; it must contain one Credential"))?;
    check_scope(credential, S3ErrorCode::AuthorizationHeaderMalformed)?;
    let signed = field("SignedHeaders")
        .ok_or_else(|| malformed("The authorization header is malformed; it must contain one SignedHeaders"))?;
    check_signed_headers(headers, signed.split(';'))
}

fn check_presigned(headers: &HeaderMap, query: &str) -> S3Result<()> {
    let malformed = |message: String| refuse(S3ErrorCode::AuthorizationQueryParametersError, message);
    let decoded = |name: &str| -> S3Result<String> {
        let value = parameter(query, name).ok_or_else(|| {
            malformed("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.".into())
        })?;
        let value = percent_decode_str(value).decode_utf8();
        value.map(|v| v.into_owned()).map_err(|_| malformed(format!("{name} is not UTF-8")))
    };
    for name in ["X-Amz-Algorithm", "X-Amz-Date", "X-Amz-Signature"] {
        decoded(name)?;
    }
    check_scope(&decoded("X-Amz-Credential")?, S3ErrorCode::AuthorizationQueryParametersError)?;
    match decoded("X-Amz-Expires")?.parse::<i64>() {
        Err(_) => return Err(malformed("X-Amz-Expires should be a number".into())),
        Ok(seconds) if seconds < 0 => {
            return Err(malformed("X-Amz-Expires must be non-negative".into()));
        }
        Ok(seconds) if seconds > i64::from(PRESIGNED_SECONDS_MAX) => {
            return Err(malformed(format!(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than {PRESIGNED_SECONDS_MAX} seconds"
            )));
        }
        Ok(_) => {}
    }
    check_signed_headers(headers, decoded("X-Amz-SignedHeaders")?.split(';'))
}

/// The older form signs all `x-amz-*` headers, and those parameters that choose another operation. s3s leaves out of that what is there twice, and acts on it all the same.
fn check_presigned_v2(headers: &HeaderMap, query: &str) -> S3Result<()> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut names: Vec<Vec<u8>> =
        pairs.map(|pair| percent_decode_str(pair.split('=').next().unwrap_or("")).collect()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
        let message = "A parameter of a presigned URL must not be there twice.";
        return Err(refuse(S3ErrorCode::InvalidArgument, message));
    }
    check_signed_headers(headers, headers.keys().map(|name| name.as_str()).chain(["host"]))
}

/// `KEY/DATE/REGION/s3/aws4_request`; a key may have slashes of its own.
fn check_scope(credential: &str, code: S3ErrorCode) -> S3Result<()> {
    let mut fields = credential.rsplit('/');
    let (terminal, service) = (fields.next(), fields.next());
    if terminal != Some("aws4_request") || fields.count() < 3 {
        return Err(refuse(
            code,
            "The credential is malformed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
        ));
    }
    if service != Some("s3") {
        let message = format!("incorrect service \"{}\". This endpoint belongs to \"s3\".", service.unwrap_or(""));
        return Err(refuse(code, message));
    }
    Ok(())
}

/// Every `x-amz-*` header must be signed, or anyone on the way could add one. (`x-amz-content-sha256` is part of what is
/// signed in any case.) s3s passes over signed names that no header has, those in capitals among them, and over headers that are not text.
fn check_signed_headers<'a>(headers: &HeaderMap, signed: impl Iterator<Item = &'a str>) -> S3Result<()> {
    let signed: Vec<&str> = signed.collect();
    let is_text = |name: &str| headers.get_all(name).iter().all(|value| as_text(value).is_some());
    let is_signed = |name: &str| signed.contains(&name) && is_text(name);
    let unsigned: Vec<&str> = headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("x-amz-") && *name != "x-amz-content-sha256" && !is_signed(name))
        .collect();
    if !unsigned.is_empty() || !is_signed("host") {
        let names = if unsigned.is_empty() { "host".to_owned() } else { unsigned.join(", ") };
        let message = format!("There were headers present in the request which were not signed: {names}");
        return Err(refuse(S3ErrorCode::AccessDenied, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: &str = "AK/20260101/anywhere/s3/aws4_request";

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(method: &str, uri: &str, headers: &[(&str, &str)]) -> String {
        match screen(&parts(method, uri, headers), &S3Limits::default()) {
            Ok(_) => "ok".into(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    fn v4(scope: &str, signed: &str) -> String {
        format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature=00")
    }

    #[test]
    fn signatures_must_have_the_shape_that_aws_takes() {
        let good = v4(SCOPE, "host;x-amz-date;x-amz-meta-a");
        let headers = |authorization: &str| {
            code("GET", "/b/k", &[("authorization", authorization), ("x-amz-date", "d"), ("x-amz-content-sha256", "c")])
        };
        assert_eq!(headers(&good), "ok");
        assert_eq!(headers("AWS AK:sig"), "InvalidRequest");
        assert_eq!(headers("Bearer x"), "InvalidRequest");
        assert_eq!(headers(&v4(SCOPE, "host")), "AccessDenied");
        assert_eq!(headers(&v4(SCOPE, "x-amz-date")), "AccessDenied");
        assert_eq!(
            headers(&v4("AK/20260101/anywhere/sts/aws4_request", "host;x-amz-date")),
            "AuthorizationHeaderMalformed"
        );
        assert_eq!(headers(&v4("AK/20260101/s3/aws4_request", "host;x-amz-date")), "AuthorizationHeaderMalformed");
        assert_eq!(headers(&v4("a/b/20260101/anywhere/s3/aws4_request", "host;x-amz-date")), "ok");
        assert_eq!(headers("AWS4-HMAC-SHA256 SignedHeaders=host"), "AuthorizationHeaderMalformed");
        assert_eq!(code("GET", "/b/k", &[]), "ok", "anonymous requests are for s3s to refuse");
    }

    #[test]
    fn presigned_urls_live_a_week_at_most() {
        let url = |expires: &str, signed: &str| {
            format!(
                "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101%2Fr%2Fs3%2Faws4_request&X-Amz-Date=d&X-Amz-Expires={expires}&X-Amz-SignedHeaders={signed}&X-Amz-Signature=00"
            )
        };
        assert_eq!(code("GET", &url("604800", "host"), &[]), "ok");
        assert_eq!(code("GET", &url("604801", "host"), &[]), "AuthorizationQueryParametersError");
        assert_eq!(code("GET", &url("-1", "host"), &[]), "AuthorizationQueryParametersError");
        assert_eq!(code("GET", &url("x", "host"), &[]), "AuthorizationQueryParametersError");
        assert_eq!(code("PUT", &url("60", "host"), &[("x-amz-meta-a", "b")]), "AccessDenied");
        assert_eq!(code("PUT", &url("60", "host%3Bx-amz-meta-a"), &[("x-amz-meta-a", "b")]), "ok");
        assert_eq!(code("GET", &url("60", "host"), &[("authorization", &v4(SCOPE, "host"))]), "InvalidArgument");
        assert_eq!(code("GET", "/b/k?X-Amz-Signature=00", &[]), "AuthorizationQueryParametersError");
        assert_eq!(
            code("GET", "/b/k?AWSAccessKeyId=a&Signature=b&Expires=1", &[]),
            "ok",
            "the older form has its own end"
        );
    }

    /// What the gate does not see and s3s does lets anyone who has a presigned URL, or is on the way, add headers: the source of a copy, say.
    #[test]
    fn no_other_spelling_of_a_signature_passes_unseen() {
        let url = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260101%2Fr%2Fs3%2Faws4_request&X-Amz-Date=d&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
        let copy_header = ("x-amz-copy-source", "b/other");
        assert_eq!(code("PUT", url, &[copy_header]), "AccessDenied");
        let encoded = url.replace("X-Amz-", "X%2DAm%7a-");
        assert_eq!(code("PUT", &encoded, &[]), "ok");
        assert_eq!(code("PUT", &encoded, &[copy_header]), "AccessDenied");
        assert_eq!(
            code("PUT", &url.replace("X-Amz-Expires=60", "X-%41mz-Expires=604801"), &[]),
            "AuthorizationQueryParametersError"
        );

        let signed = |names: &str, headers: &[(&'static str, &[u8])]| {
            let mut parts = parts("PUT", "/b/k", &[]);
            let authorization = v4(SCOPE, names);
            for (name, value) in [("authorization", authorization.as_bytes())].iter().chain(headers) {
                parts.headers.insert(*name, HeaderValue::from_bytes(value).unwrap());
            }
            screen(&parts, &S3Limits::default()).map_or_else(|error| error.code().as_str().to_owned(), |_| "ok".into())
        };
        let copy: (&str, &[u8]) = ("x-amz-copy-source", b"b/other");
        assert_eq!(signed("host", &[copy]), "AccessDenied");
        assert_eq!(signed("host;X-Amz-Copy-Source", &[copy]), "AccessDenied", "s3s finds no header of this name");
        assert_eq!(signed("host;\u{e9}", &[copy]), "AccessDenied", "nor of this one");
        assert_eq!(signed("host;x-amz-copy-source", &[copy]), "ok");
        assert_eq!(signed("host;x-amz-meta-a", &[("x-amz-meta-a", b"\xff")]), "AccessDenied", "s3s signs text only");

        let authorization = v4(SCOPE, "host");
        let mut parts = parts("PUT", "/b/k", &[("authorization", &authorization), copy_header]);
        parts.headers.insert("authorization", HeaderValue::from_bytes(b"\xff").unwrap());
        parts.headers.append("authorization", authorization.parse().unwrap());
        let error = screen(&parts, &S3Limits::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::AccessDenied, "s3s passes over the first");
    }

    #[test]
    fn presigned_urls_of_the_older_kind_choose_one_operation() {
        let url = "/b/k?AWSAccessKeyId=a&Signature=b&Expires=1";
        assert_eq!(code("PUT", &format!("{url}&tagging"), &[("x-amz-meta-a", "b")]), "ok", "both are signed");
        assert_eq!(code("PUT", &format!("{url}&tagging&tagging"), &[]), "InvalidArgument");
        assert_eq!(code("PUT", &format!("{url}&tagging&ta%67ging=1"), &[]), "InvalidArgument");
        // s3s looks at the older form first, and at no other then.
        assert_eq!(code("PUT", url, &[("authorization", &v4(SCOPE, "host"))]), "InvalidArgument");
        let both = "X-Amz-Algorithm=a&X-Amz-Credential=AK%2F20260101%2Fr%2Fs3%2Faws4_request&X-Amz-Date=d&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
        assert_eq!(code("PUT", &format!("{url}&{both}"), &[]), "InvalidArgument");
    }

    #[test]
    fn aws_chunked_bodies_must_say_how_long_they_are() {
        let chunked = |extra: &[(&str, &str)]| {
            let mut headers =
                vec![("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), ("content-length", "99")];
            headers.extend_from_slice(extra);
            screen(&parts("PUT", "/b/k", &headers), &S3Limits::default())
        };
        assert_eq!(chunked(&[]).map(|_| ()).unwrap_err().code(), &S3ErrorCode::MissingContentLength);
        let error = chunked(&[("x-amz-decoded-content-length", "5x")]).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::InvalidArgument);
        let screened = chunked(&[("x-amz-decoded-content-length", "5")]).unwrap();
        assert_eq!(screened.length, Some(5));
        assert!(screened.rechunker.is_some() && screened.digest.is_none());
    }

    #[test]
    fn documents_are_verified_where_they_are_read() {
        let digest = |method: &str, uri: &str, headers: &[(&str, &str)]| {
            screen(&parts(method, uri, headers), &S3Limits::default()).unwrap().digest
        };
        let md5 = [("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")];
        let crc = [("x-amz-checksum-crc32", "AAAAAA==")];
        assert!(digest("POST", "/b?delete", &md5).is_some());
        assert!(digest("POST", "/b?delete", &crc).unwrap().value.is_some());
        assert!(digest("PUT", "/b?versioning", &md5).is_some());
        assert!(digest("PUT", "/b/k?tagging", &md5).is_some());
        assert!(digest("PUT", "/b/k", &md5).is_none());
        assert!(digest("POST", "/b/k?uploadId=1", &crc).is_none(), "that is the object's checksum");
        assert!(digest("POST", "/b/k?uploadId=1", &md5).is_some());
        assert!(digest("GET", "/b/k", &md5).is_none());
        assert_eq!(code("POST", "/b?delete", &[("content-md5", "x")]), "InvalidDigest");
    }

    #[test]
    fn errors_carry_the_request_and_what_it_was_about() {
        let response = respond(refuse(S3ErrorCode::NoSuchKey, "gone"));
        let response = finish(response, &Method::GET, "/b/a<b>&c", "ID");
        assert_eq!(response.headers()["x-amz-request-id"], "ID");
        let body = String::from_utf8(response.body().bytes().unwrap().to_vec()).unwrap();
        assert!(body.contains("<Code>NoSuchKey</Code>"), "{body}");
        assert!(body.ends_with("<Resource>/b/a&lt;b&gt;&amp;c</Resource><RequestId>ID</RequestId></Error>"), "{body}");
        let response = finish(respond(refuse(S3ErrorCode::NoSuchKey, "gone")), &Method::HEAD, "/b/k", "ID");
        assert!(response.body().bytes().unwrap().is_empty());
        let response = finish(respond(refuse(S3ErrorCode::NotModified, "")), &Method::GET, "/b/k", "ID");
        assert!(response.body().bytes().unwrap().is_empty());
    }

    #[test]
    fn request_ids_differ() {
        let ids = RequestIds::new();
        let all: std::collections::HashSet<String> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn names_of_other_doors_can_be_used() {
        assert!(EngineNames.validate_bucket_name("My_Bucket"));
        assert!(!EngineNames.validate_bucket_name(""));
        assert!(!EngineNames.validate_bucket_name(".hidden"));
        assert!(!EngineNames.validate_bucket_name("a b"));
    }
}
