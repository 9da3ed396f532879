//! A register: live writes, context and values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::SegmentId;
use tombolo_core::register::{Register, VersionVector};

fuzz_target!(|data: &[u8]| {
    let own = SegmentId([7; 16]);
    let mut rest = data;
    if let Ok(register) = Register::<Vec<u8>>::decode(&mut rest, &own, |value| Ok(value.to_vec())) {
        let mut again = Vec::new();
        register.encode(&mut again, &own, |value, out| out.extend_from_slice(value));
        assert_eq!(again, data[..data.len() - rest.len()], "a register has one form");
        let mut merged = register.clone();
        assert!(!merged.merge(&register), "merging with itself changes nothing");
    }
    let mut rest = data;
    if let Ok(vector) = VersionVector::decode(&mut rest) {
        let mut again = Vec::new();
        vector.encode(&mut again);
        assert_eq!(again, data[..data.len() - rest.len()], "a vector has one form");
    }
});
