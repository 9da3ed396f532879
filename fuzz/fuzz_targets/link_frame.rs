//! Frames of a link: as a stream of bytes, and what the sync machine would be told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_link::wire::{self, Body, Frame, Hello};

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut stream = data;
        let _ = wire::read::<Hello>(&mut stream, wire::HELLO_BYTES_MAX).await;
        let mut stream = data;
        while let Ok(Some((frame, _))) = wire::read::<Frame>(&mut stream, wire::FRAME_BYTES_MAX).await {
            let Some(body) = frame.body else { continue };
            if let Ok(Some(message)) = wire::to_message(&body) {
                let again = wire::to_body(message.clone());
                assert_eq!(wire::to_message(&again).unwrap(), Some(message));
            }
            match body {
                Body::Catalog(packed) => drop(packed.unpack()),
                Body::Delta(delta) => drop(delta.payload.map(|packed| packed.unpack())),
                Body::Compare(question) => {
                    if let Ok(ranges) = wire::ranges(&question.ranges) {
                        assert_eq!(wire::range_bytes(&ranges), question.ranges);
                    }
                }
                Body::Compared(answer) => {
                    if let Ok(rows) = wire::rows(&answer.rows) {
                        assert_eq!(wire::row_bytes(&rows), answer.rows);
                    }
                    let _ = (wire::vector(&answer.vector), wire::vector(&answer.effective));
                }
                Body::Want(want) => drop(wire::wanted(&want)),
                _ => {}
            }
        }
    });
});
