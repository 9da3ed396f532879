//! Paths as the command line takes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_cli::path::Place;

fuzz_target!(|data: &[u8]| {
    if let Ok(place) = Place::parse(data) {
        let _ = place.bucket_and_key();
    }
});
