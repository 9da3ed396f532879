//! Pairing codes: as text, and as the bytes under the checksum, which no fuzzer would guess.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_link::Code;

fuzz_target!(|data: &[u8]| {
    if let Ok(code) = Code::from_bytes(data) {
        assert_eq!(code.to_bytes().unwrap(), data, "a code has one form");
        assert_eq!(code.to_string().parse::<Code>().unwrap(), code);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(code) = text.parse::<Code>() {
        assert_eq!(code.to_string(), text.trim().to_ascii_lowercase(), "a code has one text");
    }
});
