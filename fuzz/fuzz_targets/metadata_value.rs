//! Every value that the metadata store keeps, by the first byte of the input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tombolo_core::namespace::decode_any(data);
});
