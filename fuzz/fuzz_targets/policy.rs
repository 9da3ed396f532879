//! Bucket policies as `--set KEY=VALUE` takes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::BucketPolicy;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut policy = BucketPolicy::default();
    for pair in text.lines() {
        if let Some((key, value)) = pair.split_once('=')
            && policy.set(key, value).is_ok()
        {
            policy.check().expect("what set takes, check takes");
        }
    }
});
