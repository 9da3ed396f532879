//! A node of a manifest tree, and the root that a version's row holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo_core::manifest::{Manifest, Node};

fuzz_target!(|data: &[u8]| {
    if let Ok(node) = Node::decode(data) {
        assert_eq!(Node::decode(&node.encode()).unwrap(), node);
        let _ = node.length();
    }
    if let Ok(manifest) = Manifest::decode(data) {
        let _ = Manifest::decode(&manifest.encode()).unwrap().size();
    }
});
