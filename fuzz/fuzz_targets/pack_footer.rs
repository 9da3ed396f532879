//! A sealed pack's trailer and index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::chunk::{decode_index, decode_trailer};

fuzz_target!(|data: &[u8]| {
    let _ = decode_trailer(data, 1, data.len() as u64);
    if let Ok(entries) = decode_index(data, u64::from(u32::MAX)) {
        assert!(entries.is_sorted(), "an index that decodes is sorted");
    }
});
