//! A bucket through an S3 endpoint.

use super::{Door, Failure, Item, Page, VersionRow};
use crate::content::Content;
use crate::path_encoding::{decode, encode};
use crate::s3::{Client, Request, Response};
use crate::xml;
use md5::{Digest, Md5};
use std::ops::Range;

/// The least size of a part that is not the last, in bytes.
pub const PART_BYTES_MIN: usize = 5 << 20;

/// A bucket of a running server.
pub struct S3Door {
    client: Client,
    bucket: String,
}

impl S3Door {
    /// A door to `bucket`, which is created if it is not there.
    pub fn open(mut client: Client, bucket: &str) -> Result<S3Door, Failure> {
        let path = format!("/{bucket}");
        let request = Request { method: "PUT", path: path.as_bytes(), ..Request::default() };
        let response = client.send(&request).map_err(|error| Failure::Unknown(error.to_string()))?;
        match response.code().as_deref() {
            None | Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists") => {}
            Some(_) => return Err(refused(&response)),
        }
        Ok(S3Door { client, bucket: bucket.into() })
    }

    /// Sends a request about `key` (empty: about the bucket) and gives the answer, whatever its status.
    pub fn send(
        &mut self,
        method: &str,
        key: &[u8],
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Failure> {
        let mut path = format!("/{}", self.bucket).into_bytes();
        if !key.is_empty() {
            path.push(b'/');
            path.extend_from_slice(key);
        }
        let request = Request { method, path: &path, query, headers, body };
        self.client.send(&request).map_err(|error| Failure::Unknown(error.to_string()))
    }

    fn put_bytes(
        &mut self,
        key: &[u8],
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Failure> {
        success(self.send("PUT", key, query, headers, body)?)
    }

    fn get_text(&mut self, query: &[(&str, &str)]) -> Result<String, Failure> {
        Ok(success(self.send("GET", b"", query, &[], b"")?)?.text())
    }
}

fn refused(response: &Response) -> Failure {
    Failure::Refused(format!("{} {}", response.status, response.text()))
}

fn success(response: Response) -> Result<Response, Failure> {
    if response.is_success() { Ok(response) } else { Err(refused(&response)) }
}

/// Standard base64, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| (bits << 8) | u32::from(group.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let has_bits = digit <= group.len();
            out.push(if has_bits { DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char } else { '=' });
        }
    }
    out
}

impl Door for S3Door {
    fn put(&mut self, key: &[u8], content: Content, only_if_absent: bool) -> Result<bool, Failure> {
        let label = content.label();
        let headers = [("x-amz-meta-label", label.as_str()), ("if-none-match", "*")];
        let headers = if only_if_absent { &headers[..] } else { &headers[..1] };
        let response = self.send("PUT", key, &[], headers, &content.bytes())?;
        if only_if_absent && response.status == 412 {
            return Ok(false);
        }
        success(response).map(|_| true)
    }

    fn multipart(&mut self, key: &[u8], content: Content, part_bytes: usize) -> Result<(), Failure> {
        let label = content.label();
        let headers = [("x-amz-meta-label", label.as_str())];
        let created = success(self.send("POST", key, &[("uploads", "")], &headers, b"")?)?.text();
        let upload = xml::text(&created, "UploadId").ok_or_else(|| Failure::lie(key, "an upload without an id"))?;
        let bytes = content.bytes();
        let numbered: Vec<_> = bytes.chunks(part_bytes.max(PART_BYTES_MIN)).zip(1..).collect();
        let mut list = String::new();
        for (part, number) in numbered.into_iter().rev() {
            let number: u32 = number;
            let text = number.to_string();
            let response = self.put_bytes(key, &[("partNumber", &text), ("uploadId", &upload)], &[], part)?;
            let etag = response.header("etag").ok_or_else(|| Failure::lie(key, "a part without an ETag"))?;
            let etag = xml::escape(etag);
            list.insert_str(0, &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let response = success(self.send("POST", key, &[("uploadId", &upload)], &[], body.as_bytes())?)?;
        // Completing may answer 200 before it knows how it ends, and say so in the body.
        if response.code().is_some() { Err(refused(&response)) } else { Ok(()) }
    }

    fn copy(&mut self, from: &[u8], to: &[u8]) -> Result<bool, Failure> {
        let source = format!("/{}/{}", self.bucket, encode(from, true));
        let response = self.send("PUT", to, &[], &[("x-amz-copy-source", &source)], b"")?;
        if response.code().as_deref() == Some("NoSuchKey") {
            return Ok(false);
        }
        let response = success(response)?;
        if response.code().is_some() { Err(refused(&response)) } else { Ok(true) }
    }

    fn delete(&mut self, keys: &[Vec<u8>]) -> Result<(), Failure> {
        if let [key] = keys {
            return success(self.send("DELETE", key, &[], &[], b"")?).map(drop);
        }
        let mut body = String::from("<Delete>");
        for key in keys {
            let key = std::str::from_utf8(key).map_err(|_| Failure::Refused("XML has no such key".into()))?;
            body.push_str(&format!("<Object><Key>{}</Key></Object>", xml::escape(key)));
        }
        body.push_str("</Delete>");
        let digest = base64(&Md5::digest(body.as_bytes()));
        let headers = [("content-md5", digest.as_str())];
        let response = success(self.send("POST", b"", &[("delete", "")], &headers, body.as_bytes())?)?;
        if response.code().is_some() { Err(refused(&response)) } else { Ok(()) }
    }

    fn delete_version(&mut self, key: &[u8], version: &str) -> Result<(), Failure> {
        success(self.send("DELETE", key, &[("versionId", version)], &[], b"")?).map(drop)
    }

    fn set_versioning(&mut self, on: bool) -> Result<(), Failure> {
        let status = if on { "Enabled" } else { "Suspended" };
        let body = format!(
            "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status></VersioningConfiguration>"
        );
        self.put_bytes(b"", &[("versioning", "")], &[], body.as_bytes()).map(drop)
    }

    fn read(&mut self, key: &[u8], version: Option<&str>) -> Result<Option<Content>, Failure> {
        let query: Vec<_> = version.map(|version| ("versionId", version)).into_iter().collect();
        let response = self.send("GET", key, &query, &[], b"")?;
        if response.status == 404 && matches!(response.code().as_deref(), Some("NoSuchKey" | "NoSuchVersion")) {
            return Ok(None);
        }
        let response = success(response)?;
        let label = response.header("x-amz-meta-label").unwrap_or_default();
        Content::recognise(label, &response.body).map(Some).map_err(|what| Failure::lie(key, &what))
    }

    fn read_range(&mut self, key: &[u8], range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let response = success(self.send("GET", key, &[], &[("range", &value)], b"")?)?;
        if response.status != 206 {
            return Err(Failure::lie(key, &format!("a range answered with {}", response.status)));
        }
        Ok(response.body)
    }

    fn list(
        &mut self,
        prefix: &[u8],
        delimiter: Option<&[u8]>,
        start: Option<&[u8]>,
        next: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, Failure> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (prefix, limit) = (text(prefix), limit.to_string());
        let (delimiter, start, next) = (delimiter.map(text), start.map(text), next.map(text));
        let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("max-keys", limit.as_str())];
        if !prefix.is_empty() {
            query.push(("prefix", &prefix));
        }
        if let Some(delimiter) = &delimiter {
            query.push(("delimiter", delimiter));
        }
        if let Some(start) = &start {
            query.push(("start-after", start));
        }
        if let Some(next) = &next {
            query.push(("continuation-token", next));
        }
        let answer = self.get_text(&query)?;
        let mut items = Vec::new();
        for block in xml::blocks(&answer, "Contents") {
            let size = xml::text(block, "Size").and_then(|size| size.parse().ok());
            let key = xml::text(block, "Key").zip(size);
            let (key, size) = key.ok_or_else(|| Failure::lie(b"", "a listed object without key or size"))?;
            items.push(Item::Key(decode(&key), size));
        }
        for block in xml::blocks(&answer, "CommonPrefixes") {
            let prefix = xml::text(block, "Prefix").unwrap_or_default();
            items.push(Item::Prefix(decode(&prefix)));
        }
        items.sort_by(|a, b| a.name().cmp(b.name()));
        let is_truncated = xml::text(&answer, "IsTruncated").as_deref() == Some("true");
        let next = xml::text(&answer, "NextContinuationToken").map(String::into_bytes);
        if is_truncated != next.is_some() {
            return Err(Failure::lie(b"", "IsTruncated and NextContinuationToken disagree"));
        }
        Ok(Page { items, next })
    }

    fn versions(&mut self, prefix: &[u8]) -> Result<Vec<VersionRow>, Failure> {
        let prefix = String::from_utf8_lossy(prefix).into_owned();
        let mut rows = Vec::new();
        let mut next: Option<(String, Option<String>)> = None;
        loop {
            let mut query = vec![("versions", ""), ("encoding-type", "url"), ("max-keys", "100")];
            if !prefix.is_empty() {
                query.push(("prefix", &prefix));
            }
            if let Some((key, version)) = &next {
                query.push(("key-marker", key));
                if let Some(version) = version {
                    query.push(("version-id-marker", version));
                }
            }
            let answer = self.get_text(&query)?;
            for (kind, is_marker) in [("Version", false), ("DeleteMarker", true)] {
                for block in xml::blocks(&answer, kind) {
                    let field = |name| xml::text(block, name).unwrap_or_default();
                    rows.push(VersionRow {
                        key: decode(&field("Key")),
                        version: field("VersionId"),
                        is_current: field("IsLatest") == "true",
                        is_marker,
                    });
                }
            }
            if xml::text(&answer, "IsTruncated").as_deref() != Some("true") {
                return Ok(rows);
            }
            let key = xml::text(&answer, "NextKeyMarker");
            let key = key.ok_or_else(|| Failure::lie(b"", "a truncated answer without NextKeyMarker"))?;
            let key = String::from_utf8_lossy(&decode(&key)).into_owned();
            next = Some((key, xml::text(&answer, "NextVersionIdMarker")));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        let encoded = ["", "f", "fo", "foo", "foob"].map(|text| super::base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
