//! Tokens: as text, and as the bytes beneath it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::Token;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text, "a token has one text");
    }
});
