//! Things that the kernel has open, by the number it was given for each.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Handles<T> {
    open: Mutex<HashMap<u64, Arc<T>>>,
    last: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles { open: Mutex::default(), last: AtomicU64::new(0) }
    }
}

impl<T> Handles<T> {
    pub(crate) fn add(&self, thing: T) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(thing));
        number
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.open.lock().get(&number).cloned()
    }

    pub(crate) fn any(&self, is_it: impl Fn(&T) -> bool) -> bool {
        self.open.lock().values().any(|thing| is_it(thing))
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.lock().remove(&number)
    }

    /// Takes out all that is open.
    pub(crate) fn take_all(&self) -> Vec<Arc<T>> {
        self.open.lock().drain().map(|(_, thing)| thing).collect()
    }
}
