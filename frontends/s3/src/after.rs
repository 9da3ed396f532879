//! Reading what was written elsewhere: a write's answer carries a token in `x-tombolo-token`; a request with `x-tombolo-after: TOKEN` waits, once it is
//! authenticated, until this segment has what the token stands for, for at most `x-tombolo-timeout` seconds. Both are Tombolo's own headers, and signed or not.

use crate::errors::{custom, from_engine, refuse};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::{S3ErrorCode, S3Result};
use std::time::Duration;
use tombolo_core::{Bucket, ErrorKind, Segment, Token};

const TOKEN: HeaderName = HeaderName::from_static("x-tombolo-token");
const AFTER: HeaderName = HeaderName::from_static("x-tombolo-after");
const TIMEOUT: HeaderName = HeaderName::from_static("x-tombolo-timeout");

/// How long a request waits that does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The longest that a request may wait.
const TIMEOUT_MAX_SECONDS: u64 = 300;

/// Waits for what the request says that it must see.
///
/// # Errors
/// `InvalidArgument` for headers that make no sense; `AfterNotReached`, 503, which SDKs retry, when it is not here in time.
pub(crate) async fn wait(segment: &Segment, headers: &HeaderMap) -> S3Result<()> {
    let Some((token, limit)) = asked(headers)? else { return Ok(()) };
    match segment.wait_for(&token, limit).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Offline => {
            let message = "What x-tombolo-after stands for has not reached this segment in time.";
            Err(custom("AfterNotReached", StatusCode::SERVICE_UNAVAILABLE, message))
        }
        Err(error) => Err(from_engine(error)),
    }
}

fn asked(headers: &HeaderMap) -> S3Result<Option<(Token, Duration)>> {
    let invalid = |message: &str| refuse(S3ErrorCode::InvalidArgument, message);
    let Some(token) = headers.get(AFTER) else { return Ok(None) };
    let token = token.to_str().ok().and_then(|text| text.trim().parse().ok());
    let token = token.ok_or_else(|| invalid("x-tombolo-after is not a token"))?;
    let limit = match headers.get(TIMEOUT) {
        None => TIMEOUT_DEFAULT,
        Some(value) => {
            let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            let seconds = seconds.filter(|seconds| *seconds <= TIMEOUT_MAX_SECONDS);
            Duration::from_secs(seconds.ok_or_else(|| invalid("x-tombolo-timeout is not 0 to 300 seconds"))?)
        }
    };
    Ok(Some((token, limit)))
}

/// The header of a write's answer: what its bucket holds now, the write included. `None`: nobody reads it elsewhere, or that is not to be had, which does not undo the
/// write.
pub(crate) async fn token(bucket: &Bucket) -> Option<(HeaderName, HeaderValue)> {
    if !bucket.is_shared() {
        return None;
    }
    let token = bucket.token().await;
    let error = match token.map(|token| HeaderValue::from_str(&token.to_string())) {
        Ok(Ok(value)) => return Some((TOKEN, value)),
        Ok(Err(error)) => tombolo_core::Error::new(ErrorKind::Failed, "a token is no header").because(error),
        Err(error) => error,
    };
    tracing::warn!(%error, "a write was answered without its token");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::{BucketId, VersionVector};

    #[test]
    fn what_makes_no_sense_is_refused() {
        let token = Token { bucket: BucketId([1; 16]), vector: VersionVector::new() };
        let headers = |after: &str, timeout: &str| {
            HeaderMap::from_iter([(AFTER, after.parse().unwrap()), (TIMEOUT, timeout.parse().unwrap())])
        };
        assert!(asked(&HeaderMap::new()).unwrap().is_none());
        let text = token.to_string();
        assert_eq!(asked(&headers(&text, "5")).unwrap(), Some((token, Duration::from_secs(5))));
        for (after, timeout) in [("x", "5"), ("", "5"), (text.as_str(), "301"), (&text, "-1"), (&text, "soon")] {
            let refused = asked(&headers(after, timeout)).unwrap_err();
            assert_eq!(refused.code(), &S3ErrorCode::InvalidArgument, "{after} {timeout}");
        }
    }
}
