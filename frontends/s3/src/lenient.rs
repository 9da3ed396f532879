//! Headers of reads that HTTP and AWS ignore when they can't be understood and that s3s refuses: several ranges in one
//! `Range`, other units, dates in other forms. Such a request is authenticated as it came, then answered without them.

use crate::auth::Keys;
use async_trait::async_trait;
use http::{Extensions, HeaderMap, Method, Request, Uri, header};
use s3s::dto::{Range, Timestamp, TimestampFormat};
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3Request, S3Response, S3Result};

/// The detour of reads with headers to ignore.
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

#[async_trait]
impl S3Route for Lenient {
    fn is_match(&self, method: &Method, _: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        (*method == Method::GET || *method == Method::HEAD) && !ignored(headers).is_empty()
    }

    async fn check_access(&self, req: &mut S3Request<Body>) -> S3Result<()> {
        let credentials = req.credentials.as_ref().ok_or_else(crate::auth::anonymous)?;
        let caller = self.keys.admit(&credentials.access_key, &req.headers).await?;
        req.extensions.insert(caller);
        Ok(())
    }

    async fn call(&self, mut req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        for name in ignored(&req.headers) {
            req.headers.remove(name);
        }
        // The signature has been checked and must not be looked at again.
        req.headers.remove(header::AUTHORIZATION);
        let mut request = Request::new(Body::empty());
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
        Ok(answer)
    }
}

/// The URI without the parameters of a presigned URL.
fn without_signature(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else {
        return uri.clone();
    };
    let is_kept = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or("");
        !pair.get(..6).is_some_and(|head| head.eq_ignore_ascii_case("x-amz-"))
            && !matches!(name, "AWSAccessKeyId" | "Signature" | "Expires")
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
    fn the_signature_is_taken_out_of_the_uri() {
        let uri: Uri = "http://host/b/k%20?versionId=v&X-Amz-Signature=s&x-amz-date=d&partNumber=1&Signature=x&Expires=1&AWSAccessKeyId=k".parse().unwrap();
        assert_eq!(without_signature(&uri).to_string(), "/b/k%20?versionId=v&partNumber=1");
        let uri: Uri = "/b/k".parse().unwrap();
        assert_eq!(without_signature(&uri), uri);
    }
}
