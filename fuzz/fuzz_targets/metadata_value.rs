//! Every kind of row that the metadata store keeps.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tombolo_core::SegmentId;
use tombolo_core::catalog::CatalogRow;
use tombolo_core::namespace::{EntryRow, HistoryRow, NodeRow, Version, decode_upload, row_commit};

fuzz_target!(|data: &[u8]| {
    let own = SegmentId([7; 16]);
    let row = Bytes::copy_from_slice(data);
    let _ = row_commit(&row);
    let _ = EntryRow::decode_shown(row.clone());
    if let Ok(entry) = EntryRow::decode(row.clone(), &own) {
        EntryRow::decode(entry.encode(&own).into(), &own).unwrap();
    }
    if let Ok(node) = NodeRow::decode(row.clone(), &own) {
        NodeRow::decode(node.encode(&own).into(), &own).unwrap();
    }
    if let Ok(history) = HistoryRow::decode(row.clone(), &own) {
        HistoryRow::decode(history.encode(&own).into(), &own).unwrap();
    }
    if let Ok(version) = Version::decode(row.clone()) {
        let mut again = Vec::new();
        version.encode(&mut again);
        Version::decode(again.into()).unwrap();
    }
    if let Ok(catalog) = CatalogRow::decode(row.clone(), &own) {
        CatalogRow::decode(catalog.encode(&own).into(), &own).unwrap();
    }
    let _ = decode_upload(&row);
});
