//! An S3 request's path and `x-amz-copy-source` to a bucket and a key, and the key to its place in the tree.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use s3s::dto::CopySource;
use s3s::path::parse_path_style;

fuzz_target!(|data: &[u8]| {
    let key = Bytes::copy_from_slice(data);
    if tombolo_core::check_key(&key).is_ok() {
        // Directories and name together are the key again.
        let (directories, name) = tombolo_core::namespace::split(&key).place();
        assert_eq!([directories.concat(), name.to_vec()].concat(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(path) = parse_path_style(text)
        && let Some((bucket, key)) = path.as_object()
    {
        assert!(!bucket.is_empty() && tombolo_core::check_key(key.as_bytes()).is_ok());
    }
    let _ = CopySource::parse(text);
});
