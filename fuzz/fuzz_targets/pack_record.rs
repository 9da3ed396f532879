//! A chunk record's header, as a scan of a torn pack meets it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::chunk::{RECORD_HEADER_BYTES, decode_header};

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = decode_header(data) {
        // What decodes encodes to the same bytes: there is one form of each header.
        assert_eq!(header.encode().as_slice(), &data[..RECORD_HEADER_BYTES]);
        assert!(header.record_bytes() >= RECORD_HEADER_BYTES as u64);
    }
});
