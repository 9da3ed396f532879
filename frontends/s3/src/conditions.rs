//! Conditional requests: what S3 headers mean as an engine [`Condition`], and reads that are answered without content.
//!
//! Conditions of writes travel into the engine and are checked there, in the commit itself. Conditions of reads are
//! checked here against the version that was opened, so answer and content belong together.

use crate::errors::refuse;
use crate::time::{seconds_of, timestamp_ns};
use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result};
use tombolo_core::{Condition, EtagMatch, ObjectInfo};

/// The conditions of a read or of a copy's source.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadCondition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

/// What becomes of a conditional read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer in full.
    Serve,
    /// The client's copy is good: 304.
    NotModified,
    /// 412.
    Failed(&'static str),
}

impl ReadCondition {
    /// Evaluates in the order of the S3 API reference: `If-Match` wins over `If-Unmodified-Since`,
    /// `If-None-Match` over `If-Modified-Since`.
    pub(crate) fn evaluate(&self, info: &ObjectInfo) -> Verdict {
        let modified = seconds_of(info.modified_ns);
        let time = |limit: &Timestamp| seconds_of(timestamp_ns(limit));
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) if !etags(wanted).matches(Some(&info.etag)) => {
                return Verdict::Failed("If-Match");
            }
            (None, Some(limit)) if modified > time(limit) => {
                return Verdict::Failed("If-Unmodified-Since");
            }
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(known), _) if etags(known).matches(Some(&info.etag)) => Verdict::NotModified,
            (None, Some(limit)) if modified <= time(limit) => Verdict::NotModified,
            _ => Verdict::Serve,
        }
    }

    /// For the source of a copy, where whatever does not hold is a failure.
    pub(crate) fn check_source(&self, info: &ObjectInfo) -> S3Result<()> {
        match self.evaluate(info) {
            Verdict::Serve => Ok(()),
            Verdict::NotModified => Err(failed("x-amz-copy-source-If-None-Match or -If-Modified-Since")),
            Verdict::Failed(which) => Err(failed(which)),
        }
    }
}

/// 412 about a condition.
pub(crate) fn failed(which: &str) -> S3Error {
    let message = format!("At least one of the pre-conditions you specified did not hold: {which}");
    refuse(S3ErrorCode::PreconditionFailed, message)
}

/// The condition of a write from its `If-Match` and `If-None-Match`.
pub(crate) fn of_write(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> Condition {
    Condition { if_match: if_match.map(etags), if_none_match: if_none_match.map(etags), ..Condition::default() }
}

/// The condition of a write from raw headers, for operations whose s3s input lacks the two.
pub(crate) fn of_headers(headers: &http::HeaderMap) -> S3Result<Condition> {
    let read = |name: http::HeaderName| -> S3Result<Option<ETagCondition>> {
        let invalid = |_| refuse(S3ErrorCode::InvalidArgument, format!("invalid header: {name}"));
        headers.get(&name).map(|v| ETagCondition::parse_http_header(v.as_bytes()).map_err(invalid)).transpose()
    };
    let (if_match, if_none_match) = (read(http::header::IF_MATCH)?, read(http::header::IF_NONE_MATCH)?);
    Ok(of_write(if_match.as_ref(), if_none_match.as_ref()))
}

/// The condition of a delete.
pub(crate) fn of_delete(
    if_match: Option<&ETagCondition>,
    time: Option<&Timestamp>,
    size: Option<i64>,
) -> S3Result<Condition> {
    let negative = |_| refuse(S3ErrorCode::InvalidArgument, "x-amz-if-match-size must not be negative");
    Ok(Condition {
        if_match: if_match.map(etags),
        if_time: time.map(timestamp_ns),
        if_size: size.map(u64::try_from).transpose().map_err(negative)?,
        ..Condition::default()
    })
}

/// Entity tags as the engine compares them: text without quotes, weakness ignored. s3s hands a list
/// (`"a", "b"`) over as one tag with quotes inside.
pub(crate) fn etags(condition: &ETagCondition) -> EtagMatch {
    match condition {
        ETagCondition::Any => EtagMatch::Any,
        ETagCondition::ETag(etag) => EtagMatch::OneOf(
            etag.value()
                .split(',')
                .map(|one| {
                    let one = one.trim();
                    one.strip_prefix("W/").unwrap_or(one).trim_matches('"').to_owned()
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bytes::Bytes;
    use tombolo_core::{Attributes, Etag, FileType, Metadata, NodeId, SegmentId, VersionId};

    pub(crate) fn info(etag: Etag, modified_s: i64) -> ObjectInfo {
        ObjectInfo {
            key: Bytes::from_static(b"key"),
            node: NodeId::ROOT,
            version: VersionId::Null,
            is_current: true,
            size: 10,
            allocated_bytes: 10,
            modified_ns: modified_s * 1_000_000_000 + 500_000_000,
            etag,
            file_type: FileType::Regular,
            metadata: Metadata::default(),
            checksums: Vec::new(),
            tags: Default::default(),
            attributes: Attributes::default(),
            part_sizes: Vec::new(),
            links: 1,
            segment: SegmentId::default(),
        }
    }

    fn etag(text: &str) -> Option<ETagCondition> {
        Some(text.parse().unwrap())
    }

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(crate::time::timestamp(seconds * 1_000_000_000))
    }

    #[test]
    fn precedence_is_that_of_the_s3_reference() {
        let object = info(Etag::Md5([0xab; 16]), 1000);
        let (same, other) = ("\"abababababababababababababababab\"", "\"x\"");
        let cases = [
            (ReadCondition::default(), Verdict::Serve),
            (ReadCondition { if_match: etag(same), ..Default::default() }, Verdict::Serve),
            (ReadCondition { if_match: etag("*"), ..Default::default() }, Verdict::Serve),
            (ReadCondition { if_match: etag(other), ..Default::default() }, Verdict::Failed("If-Match")),
            (
                ReadCondition { if_match: etag(same), if_unmodified_since: at(999), ..Default::default() },
                Verdict::Serve,
            ),
            (
                ReadCondition { if_unmodified_since: at(999), ..Default::default() },
                Verdict::Failed("If-Unmodified-Since"),
            ),
            (ReadCondition { if_unmodified_since: at(1000), ..Default::default() }, Verdict::Serve),
            (ReadCondition { if_none_match: etag(same), ..Default::default() }, Verdict::NotModified),
            (ReadCondition { if_none_match: etag("*"), ..Default::default() }, Verdict::NotModified),
            (ReadCondition { if_none_match: etag(other), ..Default::default() }, Verdict::Serve),
            (
                ReadCondition { if_none_match: etag(other), if_modified_since: at(2000), ..Default::default() },
                Verdict::Serve,
            ),
            (
                ReadCondition { if_none_match: etag(same), if_modified_since: at(1), ..Default::default() },
                Verdict::NotModified,
            ),
            (ReadCondition { if_modified_since: at(1000), ..Default::default() }, Verdict::NotModified),
            (ReadCondition { if_modified_since: at(999), ..Default::default() }, Verdict::Serve),
        ];
        for (condition, verdict) in cases {
            assert_eq!(condition.evaluate(&object), verdict, "{condition:?}");
            assert_eq!(condition.check_source(&object).is_ok(), verdict == Verdict::Serve);
        }
    }

    #[test]
    fn tags_lose_quotes_and_weakness_and_lists_are_lists() {
        assert_eq!(etags(&etag("*").unwrap()), EtagMatch::Any);
        assert_eq!(etags(&etag("\"a\"").unwrap()), EtagMatch::OneOf(vec!["a".into()]));
        assert_eq!(etags(&etag("W/\"a\"").unwrap()), EtagMatch::OneOf(vec!["a".into()]));
        assert_eq!(
            etags(&etag("\"a\", W/\"b\",\"c\"").unwrap()),
            EtagMatch::OneOf(vec!["a".into(), "b".into(), "c".into()])
        );
    }

    #[test]
    fn deletes_carry_time_and_size() {
        let condition = of_delete(None, at(7).as_ref(), Some(9)).unwrap();
        assert_eq!((condition.if_time, condition.if_size), (Some(7_000_000_000), Some(9)));
        assert!(of_delete(None, None, Some(-1)).is_err());
    }
}
