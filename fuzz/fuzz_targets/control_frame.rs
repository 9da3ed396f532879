//! What comes over the control socket: frames, and the JSON in them as every kind of message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_cli::{MESSAGES, reframe};

/// What is behind the headers of whole frames.
fn payloads(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ([_, length @ ..], rest) = frames.split_first_chunk::<5>()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        frames = rest;
        Some(payload)
    })
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (again, is_whole) = runtime.block_on(reframe(data));
    assert_eq!(again, data[..again.len()], "a frame has one form");
    assert!(!is_whole || again.len() == data.len(), "nothing is passed over");
    for json in std::iter::once(data).chain(payloads(&again)) {
        for message in MESSAGES {
            let Ok(once) = (message.rewrite)(json) else { continue };
            let twice = (message.rewrite)(&once).expect(message.name);
            assert!(message.has_fractions || once == twice, "{}: {once:?} and {twice:?}", message.name);
        }
    }
});
