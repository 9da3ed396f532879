//! The one table from engine errors to S3 errors, and the few S3 errors that s3s has no code for.
//!
//! Source of codes and statuses: the "Error responses" page of the S3 API reference. Where AWS has no such error
//! (a full disk, a quota), the code is ours and the status tells SDKs whether trying again can help: they retry
//! 500, 502, 503 and 504, and nothing else.

use http::{HeaderMap, StatusCode};
use s3s::{S3Error, S3ErrorCode};
use tombolo_core::{Error, ErrorKind, Subject};

/// An S3 error of a code that s3s does not know, with its status.
pub(crate) fn custom(code: &'static str, status: StatusCode, message: impl Into<String>) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message.into());
    error.set_status_code(status);
    error
}

/// An S3 error with a message.
pub(crate) fn refuse(code: S3ErrorCode, message: impl Into<String>) -> S3Error {
    S3Error::with_message(code, message.into())
}

/// Adds a response header to an error; a value that is no header value is left out.
pub(crate) fn with_header(mut error: S3Error, name: &'static str, value: &str) -> S3Error {
    if let Ok(value) = http::HeaderValue::from_str(value) {
        let mut headers = error.headers().cloned().unwrap_or_else(|| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
            headers
        });
        headers.insert(http::HeaderName::from_static(name), value);
        error.set_headers(headers);
    }
    error
}

/// What S3 calls an engine error of this kind about this subject.
pub(crate) fn code_of(kind: ErrorKind, subject: Subject) -> (S3ErrorCode, Option<StatusCode>) {
    use S3ErrorCode as Code;
    let known = |code: Code| (code, None);
    let own = |code: &'static str, status: StatusCode| (Code::Custom(code.into()), Some(status));
    match (kind, subject) {
        (ErrorKind::NotFound, Subject::Cluster | Subject::Tenant | Subject::Bucket) => known(Code::NoSuchBucket),
        (ErrorKind::NotFound, Subject::Key) => known(Code::NoSuchKey),
        (ErrorKind::NotFound, Subject::Version) => known(Code::NoSuchVersion),
        (ErrorKind::NotFound, Subject::Upload) => known(Code::NoSuchUpload),
        (ErrorKind::NotFound, Subject::Part) => known(Code::InvalidPart),
        (ErrorKind::NotFound, Subject::User) => known(Code::InvalidAccessKeyId),
        // Content that a version names and that is not there is damage, never "no such object".
        (ErrorKind::NotFound, Subject::Chunk | Subject::Pack | Subject::Segment) => known(Code::InternalError),
        (ErrorKind::NotFound, _) => known(Code::NoSuchResource),

        (ErrorKind::Exists, Subject::Bucket) => known(Code::BucketAlreadyOwnedByYou),
        (ErrorKind::Exists, Subject::Key | Subject::Version) => known(Code::PreconditionFailed),
        (ErrorKind::Exists, _) => known(Code::OperationAborted),

        (ErrorKind::Denied, _) => known(Code::AccessDenied),

        (ErrorKind::Invalid, Subject::Bucket) => known(Code::InvalidBucketName),
        (ErrorKind::Invalid, Subject::Part) => known(Code::EntityTooSmall),
        (ErrorKind::Invalid, Subject::Upload) => known(Code::NoSuchUpload),
        (ErrorKind::Invalid, _) => known(Code::InvalidArgument),

        (ErrorKind::Precondition, _) => known(Code::PreconditionFailed),

        (ErrorKind::NotEmpty, Subject::Bucket) => known(Code::BucketNotEmpty),
        (ErrorKind::NotEmpty, _) => known(Code::OperationAborted),

        (ErrorKind::Busy, _) => known(Code::SlowDown),
        (ErrorKind::NoSpace, _) => own("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE),
        (ErrorKind::Quota, _) => own("QuotaExceeded", StatusCode::FORBIDDEN),
        // Not ServiceUnavailable: the service is fine, and a client that looks can tell that waiting for a link is what helps.
        (ErrorKind::Offline, _) => own("ContentOffline", StatusCode::SERVICE_UNAVAILABLE),
        // `Damaged`, `Failed`, and whatever kind the engine grows before this table does.
        (_, _) => known(Code::InternalError),
    }
}

/// The S3 form of an engine error. The engine's message names the object; clients get it, the cause goes to the log.
pub(crate) fn from_engine(error: Error) -> S3Error {
    let (code, status) = code_of(error.kind(), error.subject());
    if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Failed) {
        tracing::error!(%error, "the engine could not serve a request");
    } else if error.kind() == ErrorKind::Offline {
        tracing::warn!(%error, "a request needs bytes that are out of reach");
    }
    let mut answer = S3Error::with_message(code, error.message().to_owned());
    if let Some(status) = status {
        answer.set_status_code(status);
    }
    answer.set_source(Box::new(error));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 12] = [
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Denied,
        ErrorKind::Invalid,
        ErrorKind::Precondition,
        ErrorKind::NotEmpty,
        ErrorKind::Busy,
        ErrorKind::NoSpace,
        ErrorKind::Quota,
        ErrorKind::Offline,
        ErrorKind::Damaged,
        ErrorKind::Failed,
    ];
    const SUBJECTS: [Subject; 13] = [
        Subject::Other,
        Subject::Segment,
        Subject::Cluster,
        Subject::Tenant,
        Subject::Bucket,
        Subject::Key,
        Subject::Version,
        Subject::Upload,
        Subject::Part,
        Subject::Snapshot,
        Subject::User,
        Subject::Chunk,
        Subject::Pack,
    ];

    fn expected(kind: ErrorKind) -> [(&'static str, u16); 13] {
        let all = |code, status| [(code, status); 13];
        match kind {
            // Order of columns: Other, Segment, Cluster, Tenant, Bucket, Key, Version, Upload, Part, Snapshot, User, Chunk, Pack.
            ErrorKind::NotFound => [
                ("NoSuchResource", 404),
                ("InternalError", 500),
                ("NoSuchBucket", 404),
                ("NoSuchBucket", 404),
                ("NoSuchBucket", 404),
                ("NoSuchKey", 404),
                ("NoSuchVersion", 404),
                ("NoSuchUpload", 404),
                ("InvalidPart", 400),
                ("NoSuchResource", 404),
                ("InvalidAccessKeyId", 403),
                ("InternalError", 500),
                ("InternalError", 500),
            ],
            ErrorKind::Exists => {
                let mut row = all("OperationAborted", 409);
                row[4] = ("BucketAlreadyOwnedByYou", 409);
                row[5] = ("PreconditionFailed", 412);
                row[6] = ("PreconditionFailed", 412);
                row
            }
            ErrorKind::Invalid => {
                let mut row = all("InvalidArgument", 400);
                row[4] = ("InvalidBucketName", 400);
                row[7] = ("NoSuchUpload", 404);
                row[8] = ("EntityTooSmall", 400);
                row
            }
            ErrorKind::NotEmpty => {
                let mut row = all("OperationAborted", 409);
                row[4] = ("BucketNotEmpty", 409);
                row
            }
            ErrorKind::Denied => all("AccessDenied", 403),
            ErrorKind::Precondition => all("PreconditionFailed", 412),
            ErrorKind::Busy => all("SlowDown", 503),
            ErrorKind::NoSpace => all("InsufficientStorage", 507),
            ErrorKind::Quota => all("QuotaExceeded", 403),
            ErrorKind::Offline => all("ContentOffline", 503),
            _ => all("InternalError", 500),
        }
    }

    #[test]
    fn every_kind_and_subject_has_its_code_and_status() {
        for kind in KINDS {
            for (subject, (code, status)) in SUBJECTS.into_iter().zip(expected(kind)) {
                let error = from_engine(Error::new(kind, "the message").about(subject));
                assert_eq!(error.code().as_str(), code, "{kind:?} about {subject:?}");
                assert_eq!(error.status_code().map(|s| s.as_u16()), Some(status), "{kind:?} about {subject:?}");
                assert_eq!(error.message(), Some("the message"));
            }
        }
    }

    #[test]
    fn headers_are_added_one_by_one() {
        let error = with_header(refuse(S3ErrorCode::NoSuchKey, "gone"), "x-amz-delete-marker", "true");
        let error = with_header(error, "x-amz-version-id", "v1");
        let headers = error.headers().unwrap();
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-amz-delete-marker"], "true");
        assert_eq!(headers["x-amz-version-id"], "v1");
    }
}
