//! Rows with registers, and those of uploads. Those without: `local_row`.
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
        assert_eq!(EntryRow::decode(entry.encode(&own).into(), &own).unwrap(), entry);
    }
    if let Ok(node) = NodeRow::decode(row.clone(), &own) {
        assert_eq!(NodeRow::decode(node.encode(&own).into(), &own).unwrap(), node);
    }
    if let Ok(history) = HistoryRow::decode(row.clone(), &own) {
        assert_eq!(HistoryRow::decode(history.encode(&own).into(), &own).unwrap(), history);
    }
    if let Ok(version) = Version::decode(row.clone()) {
        let mut again = Vec::new();
        version.encode(&mut again);
        assert_eq!(Version::decode(again.into()).unwrap(), version);
    }
    if let Ok(catalog) = CatalogRow::decode(row.clone(), &own) {
        assert_eq!(CatalogRow::decode(catalog.encode(&own).into(), &own).unwrap(), catalog);
    }
    let _ = decode_upload(&row);
});
