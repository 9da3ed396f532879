//! How fast a collection goes that nobody waits for.

use super::segment::Segment;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How often a collection that waits for its pace looks whether somebody waits for it.
const PACE_LOOK: Duration = Duration::from_millis(100);

/// How fast a collection moves what it keeps.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When more may be moved.
    due: Instant,
    /// How many wait for its end.
    waiting: Arc<AtomicUsize>,
}

/// Somebody waits for a collection to end.
pub(super) struct Soon(Arc<AtomicUsize>);

impl Drop for Soon {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Segment {
    /// A collection that is under way takes no longer than it must while this is held.
    pub(super) fn collects_soon(&self) -> Soon {
        self.0.collecting_soon.fetch_add(1, Ordering::Relaxed);
        Soon(self.0.collecting_soon.clone())
    }
}

impl Pace {
    /// `waiting`: how many wait for the collection's end.
    pub(super) fn new(bytes_per_second: u64, waiting: Arc<AtomicUsize>) -> Pace {
        Pace { bytes_per_second, due: Instant::now(), waiting }
    }

    /// Waits until more may be moved, which is so many bytes.
    pub(super) async fn keep(&mut self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        while self.due > Instant::now() && self.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep_until(self.due.min(Instant::now() + PACE_LOOK)).await;
        }
        // Time in which nothing was to be moved is no credit.
        self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
    }
}
