//! How a transaction changes what a bucket holds: [`UsageDelta`].

use super::keys::BucketNumber;
use crate::object::Usage;
use bytes::Bytes;

/// How a transaction changes what a bucket holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct UsageDelta {
    /// Objects that show.
    pub objects: i64,
    /// Their sizes.
    pub logical_bytes: i64,
    /// Older versions and delete markers.
    pub old_versions: i64,
    /// The older versions' sizes.
    pub old_bytes: i64,
}

impl UsageDelta {
    /// What takes the change back.
    pub fn inverse(&self) -> UsageDelta {
        UsageDelta {
            objects: -self.objects,
            logical_bytes: -self.logical_bytes,
            old_versions: -self.old_versions,
            old_bytes: -self.old_bytes,
        }
    }

    /// Adds the change to what is held.
    pub fn apply(&self, usage: &mut Usage) {
        usage.objects = usage.objects.saturating_add_signed(self.objects);
        usage.logical_bytes = usage.logical_bytes.saturating_add_signed(self.logical_bytes);
        usage.old_versions = usage.old_versions.saturating_add_signed(self.old_versions);
        usage.old_bytes = usage.old_bytes.saturating_add_signed(self.old_bytes);
    }
}

/// The row that says what a bucket holds.
pub(super) fn usage_row(bucket: BucketNumber) -> Bytes {
    let mut key = b"usage/".to_vec();
    key.extend_from_slice(&bucket.to_be_bytes());
    key.into()
}

/// `None`: nothing.
pub(super) fn encode_usage(held: &Usage) -> Option<Bytes> {
    let fields = [held.objects, held.logical_bytes, held.old_versions, held.old_bytes];
    let row: Vec<u8> = fields.iter().flat_map(|n| n.to_be_bytes()).collect();
    (fields != [0; 4]).then(|| row.into())
}

pub(super) fn decode_usage(row: &[u8]) -> Usage {
    let mut fields = row.chunks_exact(8).filter_map(|c| c.try_into().ok().map(u64::from_be_bytes));
    let mut next = || fields.next().unwrap_or_default();
    Usage { objects: next(), logical_bytes: next(), old_versions: next(), old_bytes: next() }
}
