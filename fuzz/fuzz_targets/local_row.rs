//! Rows that a segment keeps for itself, by what their keys begin with; places of chunks; and keys, which have one form each.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tombolo_core::SegmentId;
use tombolo_core::chunk::Location;
use tombolo_core::engine::rewrite_row;
use tombolo_core::kv::Space;
use tombolo_core::namespace::keys;

const KINDS: [(Space, &[u8]); 12] = [
    (Space::Meta, b"pins/"),
    (Space::Meta, b"gathers/"),
    (Space::Meta, b"away/"),
    (Space::Meta, b"mark/"),
    (Space::Meta, b"carriers/"),
    (Space::Meta, b"replaced/"),
    (Space::Meta, b"wanted/"),
    (Space::Meta, b"differing/"),
    (Space::Meta, b"buried/"),
    (Space::Meta, b"working/"),
    (Space::Derived, b"\0\0\0\x01a"),
    (Space::Derived, b"\0\0\0\x01c"),
];

fn check_row(space: Space, key: &[u8], row: &[u8]) {
    let Ok(Some((same, once))) = rewrite_row(space, key, Bytes::copy_from_slice(row)) else { return };
    assert_eq!(same, key, "a key has one form");
    let (_, twice) = rewrite_row(space, key, once.clone()).unwrap().unwrap();
    // A version record has maps, in no order.
    assert!(once == twice || key.starts_with(b"replaced/") && once.len() == twice.len(), "{once:?} and {twice:?}");
}

fn check_key(key: &[u8]) {
    let own = SegmentId([7; 16]);
    let bucket = key.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
    if let Ok((parent, name)) = keys::parse_entry(key) {
        assert_eq!(keys::entry(bucket, &parent, name), key);
    }
    if let Ok((parent, name, order)) = keys::parse_history(key) {
        assert_eq!(keys::history(bucket, &parent, &name, &order), key);
    }
    if let Ok((space, row, superseded)) = keys::parse_past(key) {
        assert_eq!(keys::past(space, &row, superseded), key);
    }
    if let Ok((segment, sequence)) = keys::parse_index(&own, key) {
        let again = keys::index(bucket, &own, &segment, sequence);
        assert_eq!(keys::parse_index(&own, &again).unwrap(), (segment, sequence));
    }
    if let Ok((name, id)) = keys::parse_upload(key) {
        assert_eq!(keys::parse_upload(&keys::upload(bucket, &name, &id)).unwrap(), (name, id));
    }
    if let Ok((directory, name)) = keys::parse_contention(key) {
        let again = keys::contention(bucket, &directory, name);
        assert_eq!(keys::parse_contention(&again).unwrap(), (directory, name));
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, length, rest @ ..] = data else { return };
    let (space, begin) = KINDS[usize::from(*kind) % KINDS.len()];
    let (end, row) = rest.split_at(rest.len().min(usize::from(*length)));
    check_row(space, &[begin, end].concat(), row);
    check_key(rest);
    if let Ok(location) = Location::decode(rest) {
        assert_eq!(location.encode(), rest, "a place has one form");
    }
});
