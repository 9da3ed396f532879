//! An S3 request's path and `x-amz-copy-source` to a bucket and a key.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = tombolo_s3::key_of_path(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = tombolo_s3::copy_source(text);
    }
});
