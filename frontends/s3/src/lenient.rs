//! Headers that AWS takes and s3s refuses. Of reads, what HTTP ignores when it can't be understood: several ranges in one `Range`, other units, dates in other
//! forms. Of writes, an `Expires` that is no date, and the source of a copy in a bucket whose name S3 would not give.
//!
//! Such a request is authenticated as it came, then carried out without them. What a write needs of them is in its extensions: the text of `Expires`, and
//! the [`CopySource`].

use crate::auth::Keys;
use crate::metadata::expires_text;
use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri, header};
use percent_encoding::percent_decode_str;
use s3s::dto::{CopySource, ParseCopySourceError, Range, Timestamp, TimestampFormat};
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3Request, S3Response, S3Result};

const COPY_SOURCE: &str = "x-amz-copy-source";
/// What s3s gets to read in place of a source that it would refuse.
const ANY_SOURCE: &str = "bucket/key";

/// The detour of requests with such headers.
pub(crate) struct Lenient {
    /// The same operations, without authentication of their own.
    inner: S3Service,
    keys: Keys,
}

impl Lenient {
    pub(crate) fn new(inner: S3Service, keys: Keys) -> Lenient {
        Lenient { inner, keys }
    }
}

/// The headers of a read that are to be ignored.
fn ignored(headers: &HeaderMap) -> Vec<header::HeaderName> {
    let text = |name: &header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("\0"));
    let mut names = Vec::new();
    if text(&header::RANGE).is_some_and(|value| Range::parse(value).is_err()) {
        names.push(header::RANGE);
    }
    for name in [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE] {
        if text(&name)
            .is_some_and(|value| !value.is_empty() && Timestamp::parse(TimestampFormat::HttpDate, value).is_err())
        {
            names.push(name);
        }
    }
    names
}

/// Whether `Expires` is there and no date.
fn has_opaque_expires(headers: &HeaderMap) -> bool {
    expires_text(headers).is_some_and(|text| Timestamp::parse(TimestampFormat::HttpDate, text).is_err())
}

/// The source of a copy, if all that s3s has against it is the name of its bucket.
fn other_source(headers: &HeaderMap) -> Option<CopySource> {
    let mut values = headers.get_all(COPY_SOURCE).iter();
    let text = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let Err(ParseCopySourceError::InvalidBucketName) = CopySource::parse(text) else { return None };
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    let (path, version) = match text.split_once("?versionId=") {
        Some((path, version)) => (path, Some(decode(version)?)),
        None => (text, None),
    };
    let path = decode(path)?;
    let (bucket, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/')?;
    Some(CopySource::Bucket { bucket: bucket.into(), key: key.into(), version_id: version.map(String::into) })
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

#[async_trait]
impl S3Route for Lenient {
    fn is_match(&self, method: &Method, _: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        match is_read(method) {
            true => !ignored(headers).is_empty(),
            false => has_opaque_expires(headers) || other_source(headers).is_some(),
        }
    }

    async fn check_access(&self, req: &mut S3Request<Body>) -> S3Result<()> {
        let credentials = req.credentials.as_ref().ok_or_else(crate::auth::anonymous)?;
        let caller = self.keys.admit(&credentials.access_key, &req.headers).await?;
        req.extensions.insert(caller);
        Ok(())
    }

    async fn call(&self, mut req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if is_read(&req.method) {
            for name in ignored(&req.headers) {
                req.headers.remove(name);
            }
        } else {
            if has_opaque_expires(&req.headers) {
                req.headers.remove(header::EXPIRES);
            }
            if let Some(source) = other_source(&req.headers) {
                req.headers.insert(COPY_SOURCE, HeaderValue::from_static(ANY_SOURCE));
                req.extensions.insert(source);
            }
            // The inner service knows neither that the body was in chunks nor where their trailers will be.
            if let Some(trailers) = req.trailing_headers {
                req.extensions.insert(trailers);
            }
        }
        // The signature has been checked and must not be looked at again.
        req.headers.remove(header::AUTHORIZATION);
        let mut request = Request::new(req.input);
        *request.method_mut() = req.method;
        *request.uri_mut() = without_signature(&req.uri);
        *request.headers_mut() = req.headers;
        *request.extensions_mut() = req.extensions;
        let response = self.inner.call(request).await.map_err(|error| {
            let error: s3s::StdError = error.into();
            s3s::S3Error::with_source(s3s::S3ErrorCode::InternalError, error)
        })?;
        let (parts, body) = response.into_parts();
        let mut answer = S3Response::with_headers(body, parts.headers);
        answer.status = Some(parts.status);
        answer.extensions = parts.extensions;
        Ok(answer)
    }
}

/// The URI without the parameters of a presigned URL.
fn without_signature(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else {
        return uri.clone();
    };
    let is_kept = |pair: &&str| {
        let name: Vec<u8> = percent_decode_str(pair.split('=').next().unwrap_or("")).collect();
        !name.get(..6).is_some_and(|head| head.eq_ignore_ascii_case(b"x-amz-"))
            && !matches!(name.as_slice(), b"AWSAccessKeyId" | b"Signature" | b"Expires")
    };
    let query: Vec<&str> = query.split('&').filter(is_kept).collect();
    let path = format!("{}?{}", uri.path(), query.join("&"));
    Uri::builder().path_and_query(path).build().unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(header::HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_cannot_be_understood_is_ignored() {
        assert!(ignored(&HeaderMap::new()).is_empty());
        assert!(ignored(&headers(&[(header::RANGE, "bytes=0-1")])).is_empty());
        assert_eq!(ignored(&headers(&[(header::RANGE, "bytes=0-1,4-5")])), [header::RANGE]);
        assert_eq!(ignored(&headers(&[(header::RANGE, "lines=1-2")])), [header::RANGE]);
        assert_eq!(ignored(&headers(&[(header::RANGE, "bytes=5-1")])), [header::RANGE]);
        assert!(ignored(&headers(&[(header::IF_MODIFIED_SINCE, "Wed, 21 Oct 2015 07:28:00 GMT")])).is_empty());
        assert_eq!(ignored(&headers(&[(header::IF_MODIFIED_SINCE, "yesterday")])), [header::IF_MODIFIED_SINCE]);
    }

    #[test]
    fn only_sources_of_other_names_take_the_detour() {
        let source = |text: &str| other_source(&headers(&[(header::HeaderName::from_static(COPY_SOURCE), text)]));
        for text in ["bucket/key", "bucket", "arn:aws:s3:::x", "%ff/key", "My_Bucket"] {
            assert_eq!(source(text), None, "{text}");
        }
        let other = |key: &str, version: Option<&str>| {
            Some(CopySource::Bucket { bucket: "My_B".into(), key: key.into(), version_id: version.map(Into::into) })
        };
        assert_eq!(source("My_B/a%20b/c"), other("a b/c", None));
        assert_eq!(source("/My_B/k?versionId=v%31"), other("k", Some("v1")));
        assert_eq!(source("%2FMy%5FB%2Fk%3FversionId=1"), other("k?versionId=1", None));
    }

    #[test]
    fn an_expires_that_is_a_date_is_left_to_s3s() {
        let opaque = |list: &[&str]| {
            has_opaque_expires(&list.iter().map(|text| (header::EXPIRES, text.parse().unwrap())).collect())
        };
        assert!(opaque(&["0"]) && opaque(&["Thu, 1 Dec 2026"]));
        assert!(!opaque(&[]) && !opaque(&[""]) && !opaque(&["Wed, 21 Oct 2015 07:28:00 GMT"]));
        assert!(!opaque(&["0", "1"]), "s3s refuses two");
    }

    #[test]
    fn the_signature_is_taken_out_of_the_uri() {
        let uri: Uri = "http://host/b/k%20?versionId=v&X-Amz-Signature=s&x-amz-date=d&partNumber=1&Signature=x&Expires=1&AWSAccessKeyId=k".parse().unwrap();
        assert_eq!(without_signature(&uri).to_string(), "/b/k%20?versionId=v&partNumber=1");
        let uri: Uri = "/b/k".parse().unwrap();
        assert_eq!(without_signature(&uri), uri);
    }
}
