//! AWS Signature Version 4 for requests with headers, after the "Authenticating Requests" pages of the S3 API reference.

use crate::path_encoding::encode;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// A key pair.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

/// What is signed of a request, beside its time.
pub struct Unsigned<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// Path as it goes on the wire, percent-encoded.
    pub path: &'a str,
    /// Query pairs, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Lower-case names; `host` must be among them.
    pub headers: &'a [(String, String)],
    /// Hexadecimal SHA-256 of the body or `UNSIGNED-PAYLOAD`.
    pub payload_hash: &'a str,
}

const REGION: &str = "us-east-1";

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hexadecimal SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The time now, as `YYYYMMDDTHHMMSSZ`.
#[expect(clippy::disallowed_methods, reason = "a signature carries the wall-clock time")]
pub fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let (year, month, day) = civil_date((now / 86_400) as i64);
    let second = now % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day number since 1970-01-01.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Counted in years that start on March 1st, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The query string as it goes on the wire: sorted and encoded.
pub fn query_string(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<_> =
        query.iter().map(|(name, value)| (encode(name.as_bytes(), false), encode(value.as_bytes(), false))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// The value of the `Authorization` header.
pub fn authorization(credentials: &Credentials, request: &Unsigned<'_>, timestamp: &str) -> String {
    let mut headers: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
    headers.sort();
    let signed_names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical_headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{canonical_headers}\n{signed_names}\n{}",
        request.method,
        request.path,
        query_string(request.query),
        request.payload_hash
    );
    let day = &timestamp[..8];
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret_key).into_bytes();
    for part in [day, REGION, "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_names}, Signature={}",
        credentials.access_key,
        hex(&hmac(&key, to_sign.as_bytes()))
    )
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(20_453), (2025, 12, 31));
    }

    /// The example "GET Object" of the S3 API reference, section "Signature Calculations for the Authorization Header".
    #[test]
    fn the_documented_example_has_the_documented_signature() {
        let empty = sha256_hex(b"");
        let header = |name: &str, value: &str| (name.to_string(), value.to_string());
        let request = Unsigned {
            method: "GET",
            path: "/test.txt",
            query: &[],
            headers: &[
                header("host", "examplebucket.s3.amazonaws.com"),
                header("range", "bytes=0-9"),
                header("x-amz-content-sha256", &empty),
                header("x-amz-date", "20130524T000000Z"),
            ],
            payload_hash: &empty,
        };
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let value = authorization(&credentials, &request, "20130524T000000Z");
        assert!(
            value.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
            "{value}"
        );
    }
}
