//! Which buckets have changed, for those who carry changes elsewhere. What is not fetched in time adds up, so nothing is missed and
//! nothing grows with the number of changes.

use super::keys::BucketNumber;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

#[derive(Default)]
struct Slot {
    changed: Mutex<BTreeSet<BucketNumber>>,
    woken: Notify,
}

/// Everybody who watches.
#[derive(Default)]
pub(super) struct BucketWatchers(Mutex<Vec<Weak<Slot>>>);

/// Hears which buckets' registers have changed; 0 is the catalog.
pub struct BucketWatch(Arc<Slot>);

impl BucketWatchers {
    pub(super) fn watch(&self) -> BucketWatch {
        let slot = Arc::new(Slot::default());
        let mut watchers = self.0.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&slot));
        BucketWatch(slot)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub(super) fn tell(&self, changed: &BTreeSet<BucketNumber>) {
        if changed.is_empty() {
            return;
        }
        for slot in self.0.lock().iter().filter_map(Weak::upgrade) {
            slot.changed.lock().extend(changed);
            slot.woken.notify_one();
        }
    }
}

impl BucketWatch {
    /// The buckets that have changed since the last call; waits for one.
    pub async fn next(&mut self) -> BTreeSet<BucketNumber> {
        loop {
            let changed = std::mem::take(&mut *self.0.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.0.woken.notified().await;
        }
    }
}
