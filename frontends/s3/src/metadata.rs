//! Headers, user metadata and tags: from S3 requests into the engine and back.

use crate::errors::{custom, refuse};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use s3s::dto::Tag;
use s3s::{S3ErrorCode, S3Result};
use std::collections::{BTreeMap, HashMap};
use tombolo_core::{Metadata, Tags};

/// The most bytes of user metadata, names and values together (S3 user guide, "Working with object metadata").
pub(crate) const USER_METADATA_BYTES_MAX: usize = 2048;
/// The most tags of an object.
const TAGS_MAX: usize = 10;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;

/// What S3 says for content without a `Content-Type`.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";
/// Where a multipart upload keeps its checksum algorithm until it is completed.
pub(crate) const UPLOAD_CHECKSUM: &str = "x-tombolo-upload-checksum";

/// The metadata of a request, whichever operation it came in.
#[derive(Debug, Default)]
pub(crate) struct Described {
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) website_redirect_location: Option<String>,
    pub(crate) user: Option<HashMap<String, String>>,
}

/// `Expires` as the client wrote it, in the request's extensions: S3 keeps any text and gives it back, s3s knows dates.
#[derive(Debug, Clone)]
pub(crate) struct ExpiresText(String);

/// The `Expires` of a request; `None` also if there are several, or bytes that are no text, which s3s refuses.
pub(crate) fn expires_text(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::EXPIRES).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    std::str::from_utf8(value.as_bytes()).ok().filter(|text| !text.is_empty())
}

/// Keeps `Expires` for the operation that may want it.
pub(crate) fn keep_expires(headers: &HeaderMap, extensions: &mut Extensions) {
    if let Some(text) = expires_text(headers) {
        extensions.insert(ExpiresText(text.to_owned()));
    }
}

/// What [`keep_expires`] kept.
pub(crate) fn kept_expires(extensions: &Extensions) -> Option<String> {
    extensions.get::<ExpiresText>().map(|text| text.0.clone())
}

/// Takes the metadata out of a put-like input of s3s and its request's extensions.
macro_rules! described {
    ($input:expr, $extensions:expr) => {
        $crate::metadata::Described {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $crate::metadata::kept_expires(&$extensions),
            website_redirect_location: $input.website_redirect_location.take(),
            user: $input.metadata.take(),
        }
    };
}
pub(crate) use described;

/// Writes a version's metadata into the output of a get or head, all but `Expires`: [`show_expires`].
macro_rules! show_metadata {
    ($output:expr, $metadata:expr) => {{
        let header = |name: &str| $metadata.header(name).map(str::to_owned);
        $output.cache_control = header("cache-control");
        $output.content_disposition = header("content-disposition");
        $output.content_encoding = header("content-encoding");
        $output.content_language = header("content-language");
        $output.content_type =
            Some(header("content-type").unwrap_or_else(|| $crate::metadata::DEFAULT_CONTENT_TYPE.to_owned()));
        $output.website_redirect_location = header("x-amz-website-redirect-location");
        if !$metadata.user.is_empty() {
            $output.metadata = Some($metadata.user.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        }
    }};
}
pub(crate) use show_metadata;

impl Described {
    /// As the engine keeps it.
    ///
    /// # Errors
    /// `MetadataTooLarge`.
    pub(crate) fn into_metadata(self) -> S3Result<Metadata> {
        let mut headers = BTreeMap::new();
        let mut keep = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                headers.insert(name.to_owned(), value);
            }
        };
        keep("cache-control", self.cache_control);
        keep("content-disposition", self.content_disposition);
        keep("content-encoding", self.content_encoding.and_then(without_aws_chunked));
        keep("content-language", self.content_language);
        keep("content-type", self.content_type);
        keep("expires", self.expires);
        keep("x-amz-website-redirect-location", self.website_redirect_location);
        let user: BTreeMap<String, String> = self.user.unwrap_or_default().into_iter().collect();
        let bytes: usize = user.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > USER_METADATA_BYTES_MAX {
            let message = "Your metadata headers exceed the maximum allowed metadata size";
            return Err(refuse(S3ErrorCode::MetadataTooLarge, message));
        }
        let metadata = Metadata { headers, user };
        if metadata.size_bytes() > Metadata::BYTES_MAX {
            return Err(refuse(S3ErrorCode::MetadataTooLarge, "Your headers exceed the maximum allowed size"));
        }
        Ok(metadata)
    }
}

/// `Content-Encoding` says how the object is encoded; `aws-chunked` is about its transfer only.
fn without_aws_chunked(encoding: String) -> Option<String> {
    if !encoding.contains("aws-chunked") {
        return Some(encoding);
    }
    let rest: Vec<&str> = encoding.split(',').map(str::trim).filter(|e| !e.is_empty() && *e != "aws-chunked").collect();
    (!rest.is_empty()).then(|| rest.join(","))
}

/// Writes the kept `Expires` into the headers of an answer, date or not.
pub(crate) fn show_expires(headers: &mut HeaderMap, metadata: &Metadata) {
    if let Some(Ok(value)) = metadata.header("expires").map(|text| HeaderValue::from_bytes(text.as_bytes())) {
        headers.insert(header::EXPIRES, value);
    }
}

/// The tags of an `x-amz-tagging` header: `key=value&key=value`, percent-encoded.
pub(crate) fn tags_of_header(text: &str) -> S3Result<Tags> {
    let malformed = || {
        refuse(
            S3ErrorCode::InvalidArgument,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    };
    let decode = |text: &str| -> S3Result<String> {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8().map(|s| s.into_owned()).map_err(|_| malformed())
    };
    let mut list = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        list.push((decode(key)?, decode(value)?));
    }
    checked_tags(list)
}

/// The tags of a `Tagging` document.
pub(crate) fn tags_of_set(set: Vec<Tag>) -> S3Result<Tags> {
    checked_tags(set.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect())
}

/// The tags as a `TagSet`.
pub(crate) fn tag_set(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

fn checked_tags(list: Vec<(String, String)>) -> S3Result<Tags> {
    if list.len() > TAGS_MAX {
        return Err(custom("BadRequest", StatusCode::BAD_REQUEST, "Object tags cannot be greater than 10"));
    }
    let mut tags = Tags::new();
    for (key, value) in list {
        if key.is_empty() || key.chars().count() > TAG_KEY_CHARS_MAX || !key.chars().all(tag_char) {
            return Err(refuse(S3ErrorCode::InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX || !value.chars().all(tag_char) {
            return Err(refuse(S3ErrorCode::InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags.insert(key, value).is_some() {
            return Err(refuse(S3ErrorCode::InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(tags)
}

/// Letters, digits and spaces of any script, and `+ - = . _ : / @` (S3 user guide, "Categorizing your storage using tags").
fn tag_char(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(c, ' ' | '+' | '-' | '=' | '.' | '_' | ':' | '/' | '@')
        || (!c.is_ascii() && !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_by_lower_case_name_and_transfer_codings_are_not() {
        let described = Described {
            content_type: Some("text/plain".into()),
            content_encoding: Some("aws-chunked, gzip".into()),
            cache_control: Some(String::new()),
            expires: Some("Thu, 1 Dec 2026".into()),
            user: Some(HashMap::from([("a".to_owned(), "ä".to_owned())])),
            ..Described::default()
        };
        let metadata = described.into_metadata().unwrap();
        let headers: Vec<_> = metadata.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            headers,
            [("content-encoding", "gzip"), ("content-type", "text/plain"), ("expires", "Thu, 1 Dec 2026")]
        );
        assert_eq!(metadata.user["a"], "ä");
        assert_eq!(without_aws_chunked("aws-chunked".into()), None);
    }

    #[test]
    fn user_metadata_has_the_limit_of_s3() {
        let user = |bytes: usize| Described {
            user: Some(HashMap::from([("k".to_owned(), "v".repeat(bytes - 1))])),
            ..Described::default()
        };
        assert!(user(USER_METADATA_BYTES_MAX).into_metadata().is_ok());
        let error = user(USER_METADATA_BYTES_MAX + 1).into_metadata().unwrap_err();
        assert_eq!(error.code(), &S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn tags_are_decoded_and_checked() {
        let tags = tags_of_header("a=1&b%20c=x%2By+z&empty").unwrap();
        assert_eq!(
            tags,
            Tags::from([("a".into(), "1".into()), ("b c".into(), "x+y z".into()), ("empty".into(), "".into())])
        );
        assert_eq!(tag_set(&tags).len(), 3);
        assert_eq!(tags_of_set(tag_set(&tags)).unwrap(), tags);
        let code = |text: &str| tags_of_header(text).unwrap_err().code().as_str().to_owned();
        assert_eq!(code("a=1&a=2"), "InvalidTag");
        assert_eq!(code("=1"), "InvalidTag");
        assert_eq!(code(&format!("{}=1", "k".repeat(129))), "InvalidTag");
        assert_eq!(code(&format!("k={}", "v".repeat(257))), "InvalidTag");
        assert_eq!(code("a=%ff"), "InvalidArgument");
        assert_eq!(code("a=1&b=1&c=1&d=1&e=1&f=1&g=1&h=1&i=1&j=1&k=1"), "BadRequest");
        assert_eq!(code("a<b=1"), "InvalidTag");
    }
}
