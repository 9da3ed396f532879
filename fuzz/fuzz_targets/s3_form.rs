//! Uploads from HTML forms: any body in any pieces, a file of any content, any policy.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tombolo_s3::{SeenForm, read_form};

const BOUNDARY: &str = "XX";
const DELIMITER: &[u8] = b"\r\n--XX";

/// The same in pieces and in one.
fn read(form: &[u8], piece: u8, now_ns: i64) -> Result<SeenForm, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut seen = [usize::from(piece).max(1), form.len().max(1)].map(|piece| {
        let pieces = form.chunks(piece).map(Bytes::copy_from_slice).collect();
        runtime.block_on(read_form(BOUNDARY, pieces, now_ns))
    });
    assert_eq!(seen[0], seen[1], "pieces of {piece} bytes");
    std::mem::replace(&mut seen[0], Err(String::new()))
}

fn part(form: &mut Vec<u8>, name: &str, value: &[u8]) {
    form.extend(b"--XX\r\nContent-Disposition: form-data; name=\"");
    form.extend([name.as_bytes(), b"\"\r\n\r\n", value, b"\r\n"].concat());
}

fuzz_target!(|data: &[u8]| {
    let [kind, piece, rest @ ..] = data else { return };
    match kind % 3 {
        0 => drop(read(rest, *piece, 0)),
        1 => {
            let mut form = Vec::new();
            part(&mut form, "key", b"a");
            part(&mut form, "file\"; filename=\"b", rest);
            form.extend(b"--XX--\r\n");
            let seen = read(&form, *piece, 0).unwrap();
            assert_eq!(seen.fields, [("key".to_owned(), "a".to_owned())]);
            if !rest.windows(DELIMITER.len()).any(|window| window == DELIMITER) {
                assert_eq!(seen.file.as_deref(), Some(rest), "a file arrives as it is");
            }
        }
        _ => {
            let form = |extra: bool| {
                let mut form = Vec::new();
                part(&mut form, "key", b"user/a");
                part(&mut form, "policy", STANDARD.encode(rest).as_bytes());
                if extra {
                    part(&mut form, "zz", b"1");
                }
                part(&mut form, "file", b"content");
                form
            };
            let is_allowed = |form: &[u8], now_ns: i64| read(form, *piece, now_ns).is_ok_and(|seen| seen.sizes.is_ok());
            if is_allowed(&form(false), 0) {
                assert!(!is_allowed(&form(false), i64::MAX), "a policy has an end");
                let text = rest.to_ascii_lowercase();
                if !text.contains(&b'\\') && !text.windows(2).any(|two| two == b"zz") {
                    assert!(!is_allowed(&form(true), 0), "a field that the policy does not name");
                }
            }
        }
    }
});
