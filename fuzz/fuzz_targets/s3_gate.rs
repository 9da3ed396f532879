//! The head of an S3 request: what passes the gate with a signature, however that is spelled, passes with no header of Amazon's that it leaves out.
#![no_main]

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use tombolo_s3::screen_head;

const CHUNKED: [&str; 3] = [
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
];

/// A method, a space and a URI; then headers, each on a line.
fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(first.next()?).ok()?;
    parts.uri = Uri::try_from(first.next()?).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        parts.headers.append(HeaderName::from_bytes(&line[..colon]).ok()?, value);
    }
    Some(parts)
}

fuzz_target!(|data: &[u8]| {
    let Some(parts) = head(data) else { return };
    let Ok(length) = screen_head(&parts) else { return };
    // As s3s reads it.
    let text =
        |name: &str| parts.headers.get_all(name).iter().find_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let in_query = |name: &str| {
        let names = parts.uri.query().unwrap_or("").split('&').map(|pair| pair.split('=').next().unwrap_or(""));
        names.map(|name| name.replace('+', " ")).any(|other| percent_decode_str(&other).decode_utf8_lossy() == name)
    };
    let mut more = parts.clone();
    if in_query("Signature") {
        more.uri = format!("{}&acl&acl", parts.uri).parse().unwrap_or_default();
        assert!(screen_head(&more).is_err() || more.uri.query().is_none(), "one operation");
    } else if (in_query("X-Amz-Signature") || text("authorization").is_some())
        && !data.windows(4).any(|window| window.eq_ignore_ascii_case(b"fuzz"))
    {
        more.headers.insert("x-amz-fuzz", HeaderValue::from_static("1"));
        assert!(screen_head(&more).is_err(), "a header that is not signed");
    }
    let is_chunked = text("x-amz-content-sha256").is_some_and(|hash| CHUNKED.contains(&hash));
    assert!(!is_chunked || length.is_some(), "chunks say how much they hold");
});
