//! How a transaction changes what a bucket holds: [`UsageDelta`].

use crate::object::Usage;

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
