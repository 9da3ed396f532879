//! A delta as it comes from another segment, and an exported catalog.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tombolo_core::Delta;
use tombolo_core::engine::check_catalog;

fuzz_target!(|data: &[u8]| {
    if let Ok((delta, sender)) = Delta::decode(Bytes::copy_from_slice(data)) {
        let again = Bytes::from(delta.encode(&sender));
        let (back, same) = Delta::decode(again).unwrap();
        assert!(back == delta && same == sender, "what was read is written so that it reads the same");
    }
    let _ = check_catalog(data);
});
