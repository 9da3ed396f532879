//! What every operation starts with: the caller's tenant, its bucket, a version id, and headers we must not ignore.

use crate::auth::{Caller, anonymous};
use crate::body::Fault;
use crate::errors::{from_engine, refuse, with_header};
use crate::options::S3Limits;
use crate::time::timestamp;
use http::{Extensions, HeaderMap};
use s3s::dto::TimestampFormat;
use s3s::{S3Error, S3ErrorCode, S3Result};
use tombolo_core::{
    Bucket, ErrorKind, GetOptions, ListVersionsOptions, Object, ObjectInfo, Segment, Subject, VersionId, VersionItem,
    Versioning,
};

/// The operations of the door over one segment.
#[derive(Clone)]
pub(crate) struct Operations {
    pub(crate) segment: Segment,
    pub(crate) limits: S3Limits,
}

/// What the gate found out about a request's body, in the request's extensions.
#[derive(Clone, Default)]
pub(crate) struct Payload {
    /// Bytes of content, framing not counted.
    pub(crate) length: Option<u64>,
    /// Says why the body broke, when it does.
    pub(crate) fault: Fault,
}

/// The authenticated user.
pub(crate) fn caller(extensions: &Extensions) -> S3Result<&Caller> {
    extensions.get::<Caller>().ok_or_else(anonymous)
}

/// Whether S3 would let anyone make a bucket of this name (S3 user guide, "Bucket naming rules").
pub(crate) fn is_s3_bucket_name(name: &str) -> bool {
    s3s::path::check_bucket_name(name)
        && !name.contains(".-")
        && !name.contains("-.")
        && !name.starts_with("sthree-")
        && !name.ends_with("-s3alias")
        && !name.ends_with("--ol-s3")
}

impl Operations {
    /// The bucket of this name of the caller's tenant. Other tenants' buckets don't exist for the caller.
    pub(crate) async fn bucket(&self, extensions: &Extensions, name: &str) -> S3Result<Bucket> {
        let tenant = caller(extensions)?.tenant();
        let invalid = || refuse(S3ErrorCode::InvalidBucketName, "The specified bucket is not valid.");
        let path = tenant.bucket(name).map_err(|_| invalid())?;
        match self.segment.bucket(&path).await {
            Ok(bucket) => Ok(bucket),
            Err(error) if error.kind() == ErrorKind::NotFound && !is_s3_bucket_name(name) => Err(invalid()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(refuse(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist"))
            }
            Err(error) => Err(from_engine(error)),
        }
    }

    /// Opens a version. A delete marker is told apart from a key that never was.
    pub(crate) async fn open(&self, bucket: &Bucket, key: &str, version: Option<VersionId>) -> S3Result<Object> {
        match bucket.get(key, GetOptions { version, snapshot: None }).await {
            Ok(object) => Ok(object),
            Err(error) => Err(self.explain(bucket, key, version, error).await),
        }
    }

    /// As [`Operations::open`], without the content.
    pub(crate) async fn look(&self, bucket: &Bucket, key: &str, version: Option<VersionId>) -> S3Result<ObjectInfo> {
        match bucket.head(key, GetOptions { version, snapshot: None }).await {
            Ok(info) => Ok(info),
            Err(error) => Err(self.explain(bucket, key, version, error).await),
        }
    }

    /// Finds out what is at a key that could not be opened: nothing, or a delete marker.
    async fn explain(
        &self,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionId>,
        error: tombolo_core::Error,
    ) -> S3Error {
        if error.kind() != ErrorKind::NotFound || !matches!(error.subject(), Subject::Key | Subject::Version) {
            return from_engine(error);
        }
        match find_marker(bucket, key, version).await {
            Ok(Some((marker, modified_ns))) => marker_error(marker, modified_ns, version.is_some()),
            Ok(None) if version.is_some() => {
                let missing = refuse(S3ErrorCode::NoSuchVersion, "The specified version does not exist.");
                with_source(missing, error)
            }
            Ok(None) => with_source(refuse(S3ErrorCode::NoSuchKey, "The specified key does not exist."), error),
            Err(other) => from_engine(other),
        }
    }
}

fn with_source(mut error: S3Error, source: tombolo_core::Error) -> S3Error {
    error.set_source(Box::new(source));
    error
}

/// The delete marker that is `version` of `key` (`None`: its current version), with its time.
async fn find_marker(
    bucket: &Bucket,
    key: &str,
    version: Option<VersionId>,
) -> tombolo_core::Result<Option<(VersionId, i64)>> {
    if bucket.info().await?.policy.versioning == Versioning::Off {
        return Ok(None);
    }
    let mut options = ListVersionsOptions {
        prefix: key.as_bytes().to_vec().into(),
        limit: if version.is_some() { 1000 } else { 1 },
        ..ListVersionsOptions::default()
    };
    loop {
        let page = bucket.list_versions(options.clone()).await?;
        for item in page.items {
            let VersionItem::Version { summary, version: id, is_current, is_marker, .. } = item else {
                continue;
            };
            // Versions of a key come together and the key itself is the first of all that start with it.
            if summary.key.as_ref() != key.as_bytes() {
                return Ok(None);
            }
            match version {
                Some(wanted) if wanted == id => {
                    return Ok(is_marker.then_some((id, summary.modified_ns)));
                }
                Some(_) => {}
                None if is_current => return Ok(is_marker.then_some((id, summary.modified_ns))),
                None => return Ok(None),
            }
        }
        match (version, page.next) {
            (Some(_), Some((after, after_version))) => {
                (options.after, options.after_version) = (Some(after), after_version)
            }
            _ => return Ok(None),
        }
    }
}

/// What S3 says about a delete marker: 405 when it was asked for by its id, else 404, both with its headers.
fn marker_error(marker: VersionId, modified_ns: i64, by_id: bool) -> S3Error {
    let error = if by_id {
        let error = refuse(S3ErrorCode::MethodNotAllowed, "The specified method is not allowed against this resource.");
        let mut date = Vec::new();
        let date = match timestamp(modified_ns).format(TimestampFormat::HttpDate, &mut date) {
            Ok(()) => String::from_utf8(date).unwrap_or_default(),
            Err(_) => String::new(),
        };
        with_header(with_header(error, "allow", "DELETE"), "last-modified", &date)
    } else {
        refuse(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
    };
    with_header(with_header(error, "x-amz-delete-marker", "true"), "x-amz-version-id", &marker.to_string())
}

/// A version id from a request.
pub(crate) fn version(text: Option<&str>) -> S3Result<Option<VersionId>> {
    let invalid = |_| refuse(S3ErrorCode::InvalidArgument, "Invalid version id specified");
    text.map(VersionId::parse).transpose().map_err(invalid)
}

/// The version id for a response: versions of buckets that never kept any have none, unless it was asked for.
pub(crate) fn show_version(version: VersionId, asked: bool) -> Option<String> {
    (asked || version != VersionId::Null).then(|| version.to_string())
}

/// Refuses what a client believes we do and we don't: encryption, retention, grants, storage classes, appending.
pub(crate) fn check_features(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let name = name.as_str();
        let value = || headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let is_refused = name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-copy-source-server-side-encryption")
            || name.starts_with("x-amz-object-lock-")
            || name == "x-amz-bucket-object-lock-enabled" && !value().eq_ignore_ascii_case("false")
            || name == "x-amz-write-offset-bytes";
        if is_refused {
            let message = format!("A header you provided implies functionality that is not implemented: {name}");
            return Err(refuse(S3ErrorCode::NotImplemented, message));
        }
        let is_grant = name.starts_with("x-amz-grant-")
            || name == "x-amz-acl"
                && !matches!(value(), "" | "private" | "bucket-owner-full-control" | "bucket-owner-read");
        if is_grant {
            let message = "The bucket does not allow ACLs";
            return Err(refuse(S3ErrorCode::AccessControlListNotSupported, message));
        }
        if name == "x-amz-storage-class" && !matches!(value(), "" | "STANDARD") {
            let message = "The storage class you specified is not valid: there is STANDARD only";
            return Err(refuse(S3ErrorCode::InvalidStorageClass, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn promises_we_cannot_keep_are_refused() {
        for (name, value, code) in [
            ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256", "NotImplemented"),
            ("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented"),
            ("x-amz-bucket-object-lock-enabled", "true", "NotImplemented"),
            ("x-amz-acl", "public-read", "AccessControlListNotSupported"),
            ("x-amz-grant-read", "id=1", "AccessControlListNotSupported"),
            ("x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
        ] {
            assert_eq!(check_features(&headers(name, value)).unwrap_err().code().as_str(), code, "{name}");
        }
        for (name, value) in [("x-amz-acl", "private"), ("x-amz-storage-class", "STANDARD"), ("x-amz-meta-acl", "x")] {
            assert!(check_features(&headers(name, value)).is_ok(), "{name}");
        }
    }

    #[test]
    fn bucket_names_follow_the_rules_of_s3() {
        for name in ["abc", "a.b-c", "123", &"a".repeat(63)] {
            assert!(is_s3_bucket_name(name), "{name}");
        }
        for name in [
            "ab",
            "Abc",
            "a_b",
            "-ab",
            "ab-",
            "a..b",
            "a.-b",
            "a-.b",
            "1.2.3.4",
            "xn--ab",
            "ab-s3alias",
            &"a".repeat(64),
        ] {
            assert!(!is_s3_bucket_name(name), "{name}");
        }
    }

    #[test]
    fn version_ids_are_parsed_and_shown() {
        assert_eq!(version(None).unwrap(), None);
        assert_eq!(version(Some("null")).unwrap(), Some(VersionId::Null));
        assert_eq!(version(Some("nonsense")).unwrap_err().code(), &S3ErrorCode::InvalidArgument);
        assert_eq!(version(Some("")).unwrap_err().code(), &S3ErrorCode::InvalidArgument);
        assert_eq!(show_version(VersionId::Null, false), None);
        assert_eq!(show_version(VersionId::Null, true).as_deref(), Some("null"));
    }

    #[test]
    fn markers_say_what_they_are() {
        let error = marker_error(VersionId::Null, 0, false);
        assert_eq!(error.code(), &S3ErrorCode::NoSuchKey);
        assert_eq!(error.headers().unwrap()["x-amz-delete-marker"], "true");
        let error = marker_error(VersionId::Null, 0, true);
        assert_eq!(error.code(), &S3ErrorCode::MethodNotAllowed);
        assert_eq!(error.headers().unwrap()["allow"], "DELETE");
        assert_eq!(error.headers().unwrap()["last-modified"], "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
