//! Who hears of what is written to open files: no commit tells of it before it is saved.
//!
//! What a listener has not taken yet is one range for each file, so one that is slow takes no more memory than its limit, and nobody who writes waits for it.

use super::body::Body;
use crate::id::NodeId;
use crate::namespace::keys::BucketNumber;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// How many files a listener may be behind with before it misses some.
const FILES_MAX: usize = 4096;
/// What follows within this time is told together.
const GATHERED: Duration = Duration::from_millis(2);

/// What was done to a file since its listener heard of it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// All changed bytes lie in it; empty: only times changed.
    pub(super) range: Range<u64>,
    pub(super) is_resized: bool,
}

impl Written {
    fn merge(&mut self, other: &Written) {
        self.range = match (self.range.is_empty(), other.range.is_empty()) {
            (_, true) => self.range.clone(),
            (true, false) => other.range.clone(),
            (false, false) => self.range.start.min(other.range.start)..self.range.end.max(other.range.end),
        };
        self.is_resized |= other.is_resized;
    }
}

/// What a listener hears.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Of one file.
    Written(NodeId, Written),
    /// So much at once that it was not kept.
    Missed,
}

/// All listeners, by the bucket that they listen to.
#[derive(Default)]
pub(super) struct Listeners(RwLock<HashMap<BucketNumber, Vec<Weak<Listener>>>>);

/// One who listens to a bucket's open files.
pub(super) struct Listener {
    /// Whose changes it does not hear of; 0: nobody's.
    origin: u32,
    news: Mutex<News>,
    has_news: Notify,
}

#[derive(Default)]
struct News {
    written: BTreeMap<NodeId, Written>,
    has_missed: bool,
}

impl Listeners {
    /// Listens from now on, for as long as the listener is kept.
    pub(super) fn listen(&self, bucket: BucketNumber, origin: u32) -> Arc<Listener> {
        let listener = Arc::new(Listener { origin, news: Mutex::default(), has_news: Notify::new() });
        let mut all = self.0.write();
        let here = all.entry(bucket).or_default();
        here.retain(|listener| listener.strong_count() > 0);
        here.push(Arc::downgrade(&listener));
        listener
    }

    fn tell(&self, bucket: BucketNumber, node: &NodeId, written: &Written, origin: u32) {
        let all = self.0.read();
        for listener in all.get(&bucket).into_iter().flatten().filter_map(Weak::upgrade) {
            if origin == 0 || origin != listener.origin {
                listener.hear(node, written);
            }
        }
    }
}

impl Listener {
    fn hear(&self, node: &NodeId, written: &Written) {
        {
            let mut news = self.news.lock();
            if let Some(known) = news.written.get_mut(node) {
                known.merge(written);
            } else if news.written.len() < FILES_MAX {
                news.written.insert(*node, written.clone());
            } else {
                news.written.clear();
                news.has_missed = true;
            }
        }
        self.has_news.notify_one();
    }

    fn take(&self) -> Option<Heard> {
        let mut news = self.news.lock();
        if std::mem::take(&mut news.has_missed) {
            news.written.clear();
            return Some(Heard::Missed);
        }
        news.written.pop_first().map(|(node, written)| Heard::Written(node, written))
    }

    /// What there is to hear; waits for it. Nothing is lost if this is dropped before it returns.
    pub(super) async fn next(&self) -> Heard {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            self.has_news.notified().await;
            tokio::time::sleep(GATHERED).await;
        }
    }
}

impl Body {
    /// Tells all but `origin` (0: all) that bytes in `range`, which no version has yet, were changed.
    pub(super) fn tell(&self, range: Range<u64>, is_resized: bool, origin: u32) {
        let listeners = &self.bucket.segment().open_nodes().listeners;
        listeners.tell(self.bucket.state().number, &self.node, &Written { range, is_resized }, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(range: Range<u64>, is_resized: bool) -> Written {
        Written { range, is_resized }
    }

    #[tokio::test]
    async fn what_was_not_taken_is_told_as_one_range_for_each_file() {
        let listeners = Listeners::default();
        let (mine, all) = (listeners.listen(1, 7), listeners.listen(1, 0));
        let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
        listeners.tell(1, &a, &written(10..20, false), 8);
        listeners.tell(1, &a, &written(0..0, false), 0);
        listeners.tell(1, &a, &written(4..5, true), 8);
        listeners.tell(1, &b, &written(0..1, false), 7);
        listeners.tell(2, &b, &written(0..1, false), 8);
        assert_eq!(mine.next().await, Heard::Written(a, written(4..20, true)));
        assert_eq!(mine.take(), None, "the rest is its own, and another bucket's");
        assert_eq!(all.next().await, Heard::Written(a, written(4..20, true)));
        assert_eq!(all.next().await, Heard::Written(b, written(0..1, false)));
    }

    #[test]
    fn a_listener_that_falls_behind_hears_that_it_has_missed_something() {
        let listeners = Listeners::default();
        let listener = listeners.listen(1, 0);
        for number in 0..=FILES_MAX as u128 {
            listeners.tell(1, &NodeId(number.to_be_bytes()), &written(0..1, false), 1);
        }
        assert_eq!((listener.take(), listener.take()), (Some(Heard::Missed), None));
        drop(listener);
        drop(listeners.listen(1, 0));
        assert_eq!(listeners.0.read()[&1].len(), 1, "those that are gone are forgotten");
    }
}
