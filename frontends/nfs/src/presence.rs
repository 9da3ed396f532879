//! Who is connected, and since when without a word: what ends a silent connection, and which one makes room for a new one.
//!
//! When there are as many connections as there may be, a new one takes the place of one that has no call under way and was silent for a second: first
//! those that have never sent a call, then whoever was silent longest. A client whose connection is closed between its calls makes a new one and loses
//! nothing; turning the new one away instead would let whoever holds connections open keep everybody out. While all are busy the new one waits.

use crate::door::NfsLimits;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Who was silent for less than this is not closed for another.
const SILENT_MIN: Duration = Duration::from_secs(1);
/// How often one who waits for a place looks whether somebody has become silent.
const LOOK: Duration = Duration::from_millis(200);

/// One connection.
pub(crate) struct Presence {
    /// When something came from the client, or went to it, last.
    last: Mutex<Instant>,
    has_called: AtomicBool,
    is_closing: AtomicBool,
    closing: Notify,
    /// Calls that may still be begun.
    pub(crate) calls: Arc<Semaphore>,
    calls_max: usize,
    _place: OwnedSemaphorePermit,
}

impl Presence {
    /// Something came from the client, or went to it.
    pub(crate) fn touch(&self) {
        *self.last.lock() = Instant::now();
    }

    /// A whole record came.
    pub(crate) fn called(&self) {
        self.touch();
        self.has_called.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_called(&self) -> bool {
        self.has_called.load(Ordering::Relaxed)
    }

    pub(crate) fn last(&self) -> Instant {
        *self.last.lock()
    }

    /// Whether a call is under way, its reply on its way out included.
    pub(crate) fn is_busy(&self) -> bool {
        self.calls.available_permits() < self.calls_max
    }

    /// Returns when the connection shall make room.
    pub(crate) async fn closing(&self) {
        self.closing.notified().await;
    }
}

/// All connections.
pub(crate) struct Crowd {
    places: Arc<Semaphore>,
    calls_max: usize,
    present: Mutex<Vec<Weak<Presence>>>,
}

impl Crowd {
    pub(crate) fn new(limits: &NfsLimits) -> Crowd {
        let places = limits.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let calls_max = limits.calls_per_connection.clamp(1, Semaphore::MAX_PERMITS);
        Crowd { places: Arc::new(Semaphore::new(places)), calls_max, present: Mutex::default() }
    }

    /// A place for a new connection, which it has until the last of what is returned is dropped. Waits if it must.
    pub(crate) async fn admit(&self) -> std::io::Result<Arc<Presence>> {
        let place = loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                break place;
            }
            self.make_room();
            if let Ok(place) = timeout(LOOK, self.places.clone().acquire_owned()).await {
                break place.map_err(std::io::Error::other)?;
            }
        };
        let presence = Arc::new(Presence {
            last: Mutex::new(Instant::now()),
            has_called: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            closing: Notify::new(),
            calls: Arc::new(Semaphore::new(self.calls_max)),
            calls_max: self.calls_max,
            _place: place,
        });
        let mut present = self.present.lock();
        present.retain(|known| known.strong_count() > 0);
        present.push(Arc::downgrade(&presence));
        Ok(presence)
    }

    fn make_room(&self) {
        let present: Vec<_> = self.present.lock().iter().filter_map(Weak::upgrade).collect();
        let silent = present
            .iter()
            .filter(|known| !known.is_busy() && known.last().elapsed() >= SILENT_MIN)
            .filter(|known| !known.is_closing.load(Ordering::Relaxed))
            .min_by_key(|known| (known.has_called(), known.last()));
        if let Some(silent) = silent {
            silent.is_closing.store(true, Ordering::Relaxed);
            silent.closing.notify_one();
        }
    }
}
