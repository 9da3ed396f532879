//! What comes over the control socket: frames, and the JSON in them as every kind of message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_cli::{MESSAGES, reframe};

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (again, is_whole) = runtime.block_on(reframe(data));
    assert_eq!(again, data[..again.len()], "a frame has one form");
    assert!(!is_whole || again.len() == data.len(), "nothing is passed over");
    // By itself, and behind the header of a frame.
    for json in [data, data.get(5..).unwrap_or_default()] {
        for message in MESSAGES {
            let Ok(once) = (message.rewrite)(json) else { continue };
            let twice = (message.rewrite)(&once).expect(message.name);
            assert!(message.has_fractions || once == twice, "{}: {once:?} and {twice:?}", message.name);
        }
    }
});
