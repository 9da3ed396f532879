//! A bounded amount of memory that many share: what is taken is given back when the last holder drops it.
//!
//! Unlike a semaphore it can be asked how much is taken, and lets a request through that is larger than all of it once nothing else is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// See the module.
pub(super) struct Budget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    freed: Notify,
}

impl Budget {
    pub(super) fn new(limit_bytes: u64) -> Arc<Budget> {
        Arc::new(Budget { limit_bytes: limit_bytes.max(1), used_bytes: AtomicU64::new(0), freed: Notify::new() })
    }

    /// Bytes taken now.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// Takes `bytes` if they are left. More than there is in all is let through when nothing is taken.
    pub(super) fn try_take(self: &Arc<Budget>, bytes: u64) -> Option<Taken> {
        let take = |used: u64| (used == 0 || used.saturating_add(bytes) <= self.limit_bytes).then_some(used + bytes);
        self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Taken { budget: self.clone(), bytes })
    }

    /// Waits until something is given back, if less than `before` are taken by then it returns at once.
    pub(super) async fn freed_below(&self, before: u64) {
        let freed = self.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if self.used_bytes() >= before {
            freed.await;
        }
    }
}

/// Bytes taken from a [`Budget`].
pub(super) struct Taken {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Taken {
    /// Takes over what `other` holds.
    pub(super) fn merge(&mut self, mut other: Taken) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_comes_back() {
        let budget = Budget::new(100);
        let mut first = budget.try_take(60).unwrap();
        assert!(budget.try_take(50).is_none());
        first.merge(budget.try_take(40).unwrap());
        assert_eq!(budget.used_bytes(), 100);
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.try_take(1000).is_some(), "nothing else is taken");
    }
}
