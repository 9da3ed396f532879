//! Percent-encoding as SigV4 wants it.

/// Everything but unreserved characters (and `/`, if `keep_slash`) as `%XX`.
pub fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The bytes behind `text` (`+` is a space, as in S3's `encoding-type=url`).
pub fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (bytes[at], hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        for keep_slash in [false, true] {
            assert_eq!(decode(&encode(&all, keep_slash)), all);
        }
        assert_eq!(encode(b"a/b c", true), "a/b%20c");
        assert_eq!(encode(b"a/b", false), "a%2Fb");
    }
}
