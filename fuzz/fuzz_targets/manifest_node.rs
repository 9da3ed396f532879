//! A node of a manifest tree.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = tombolo_core::manifest::decode(data);
});
