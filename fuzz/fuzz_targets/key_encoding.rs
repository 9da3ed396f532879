//! Keys, names and version ids as text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::{BucketPath, ObjectPath, TenantPath, VersionId};

fuzz_target!(|data: &[u8]| {
    if let Ok(version) = VersionId::from_bytes(data) {
        assert_eq!(VersionId::parse(&version.to_string()).unwrap(), version);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    // `null` is all zeros, which have a text of their own.
    if let Ok(version @ VersionId::Id { .. }) = VersionId::parse(text) {
        assert_eq!(version.to_string(), text, "a version id has one text");
    }
    if let Ok(path) = text.parse::<ObjectPath>() {
        assert_eq!(path.to_string(), text);
    }
    if let Ok(path) = text.parse::<BucketPath>() {
        assert_eq!(path.to_string(), text.trim_end_matches('/'));
    }
    if let Ok(path) = text.parse::<TenantPath>() {
        assert_eq!(path.to_string(), text.trim_end_matches('/'));
    }
});
