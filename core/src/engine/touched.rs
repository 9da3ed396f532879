//! Which chunks writers under way rely on, so that garbage collection leaves them alone: a Bloom filter per era.
//!
//! A writer that finds a chunk already stored, or has stored one, does not refer to it from any version until it commits. Each such
//! chunk is noted in the filter of the current era. A collection begins a new era, and then takes the snapshot that it
//! marks from: writers that had finished by then are in the snapshot, and all others have every chunk they rely on in the filters of
//! the eras since the oldest of them began. False positives keep garbage for one more round; they are few as long as an era has less than some ten million chunks. Memory is bounded.

use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

/// A filter has this many words, or a power of two times as many.
const WORDS_MIN: usize = 1 << 17;
const WORDS_MAX: usize = 1 << 20;
const PROBES: usize = 4;
/// A filter with fewer bits for each chunk is followed by a larger one, or by another of the largest.
const BITS_MIN: usize = 8;
/// Filters that there are at a time, 1 to 8 MiB each.
const FILTERS_MAX: usize = 8;

struct Filter {
    era: u64,
    words: Box<[AtomicU64]>,
    /// How many chunks are in it.
    count: AtomicUsize,
}

impl Filter {
    fn new(era: u64, words: usize) -> Arc<Filter> {
        let words = words.next_power_of_two().clamp(WORDS_MIN, WORDS_MAX);
        Arc::new(Filter { era, words: (0..words).map(|_| AtomicU64::new(0)).collect(), count: AtomicUsize::new(0) })
    }

    /// What is in either. A place in the smaller one is that place in each of as many parts of the larger one.
    fn of_both(first: &Filter, second: &Filter) -> Filter {
        let (large, small) = if first.words.len() > second.words.len() { (first, second) } else { (second, first) };
        let both =
            |(a, b): (&AtomicU64, &AtomicU64)| AtomicU64::new(a.load(Ordering::Relaxed) | b.load(Ordering::Relaxed));
        Filter {
            era: first.era.max(second.era),
            words: large.words.iter().zip(small.words.iter().cycle()).map(both).collect(),
            count: AtomicUsize::new(first.count() + second.count()),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.count() * BITS_MIN > self.words.len() * 64
    }

    fn bits(&self, id: &ChunkId) -> impl Iterator<Item = (usize, u64)> {
        let bits = self.words.len() * 64;
        // The id is a hash already.
        id.0.chunks_exact(4).take(PROBES).map(move |four| {
            let n = four.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b)) % bits;
            (n / 64, 1u64 << (n % 64))
        })
    }

    fn insert(&self, id: &ChunkId) {
        let mut is_new = false;
        for (word, bit) in self.bits(id) {
            if let Some(word) = self.words.get(word) {
                is_new |= word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
            }
        }
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.bits(id).all(|(word, bit)| self.words.get(word).is_some_and(|w| w.load(Ordering::Relaxed) & bit != 0))
    }
}

/// See the module.
pub(crate) struct Touched {
    filters: RwLock<Vec<Arc<Filter>>>,
    /// How many writers that began in an era are still under way.
    writers: Mutex<BTreeMap<u64, usize>>,
}

impl Touched {
    pub(crate) fn new() -> Touched {
        Touched { filters: RwLock::new(vec![Filter::new(0, WORDS_MIN)]), writers: Mutex::new(BTreeMap::new()) }
    }

    /// A writer begins; returns its era, for [`Touched::leave`].
    pub(crate) fn enter(&self) -> u64 {
        // Under the writers' lock, so that a new era can't begin between reading it and counting the writer.
        let mut writers = self.writers.lock();
        let era = self.current().era;
        *writers.entry(era).or_default() += 1;
        era
    }

    /// A writer that began in `era` has committed or given up.
    pub(crate) fn leave(&self, era: u64) {
        let mut writers = self.writers.lock();
        if let Some(count) = writers.get_mut(&era) {
            *count -= 1;
            if *count == 0 {
                writers.remove(&era);
            }
        }
    }

    /// A writer relies on `id`.
    pub(crate) fn insert(&self, id: &ChunkId) {
        let is_full = {
            // Under the lock, so that nothing is put into a filter that is being copied.
            let filters = read(&self.filters);
            let Some(current) = filters.last() else { return };
            current.insert(id);
            current.is_full()
        };
        if is_full {
            let mut filters = self.filters.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Another may have seen it first.
            if let Some(current) = filters.last().filter(|current| current.is_full()) {
                let next = Filter::new(current.era, current.words.len() * 2);
                push(&mut filters, next);
            }
        }
    }

    /// Whether a writer under way may rely on `id`.
    pub(crate) fn contains(&self, id: &ChunkId) -> bool {
        read(&self.filters).iter().any(|f| f.contains(id))
    }

    /// A collection begins.
    pub(crate) fn next_era(&self) {
        let writers = self.writers.lock();
        let mut filters = self.filters.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let era = filters.last().map_or(0, |f| f.era) + 1;
        // As large as the last era would have needed.
        let last: usize = filters.iter().filter(|f| f.era + 1 == era).map(|f| f.count()).sum();
        let oldest = writers.keys().next().copied().unwrap_or(era);
        filters.retain(|f| f.era >= oldest);
        push(&mut filters, Filter::new(era, last * 2 * BITS_MIN / 64));
    }

    fn current(&self) -> Arc<Filter> {
        let filters = read(&self.filters);
        filters.last().cloned().unwrap_or_else(|| Filter::new(0, WORDS_MIN))
    }
}

/// Adds a filter. A writer may be under way for weeks: if there are too many, the two oldest become one, as old as the younger of them: what is in it goes no sooner.
fn push(filters: &mut Vec<Arc<Filter>>, filter: Arc<Filter>) {
    if filters.len() >= FILTERS_MAX
        && let [first, second, ..] = filters.as_slice()
    {
        let both = Filter::of_both(first, second);
        filters.splice(..2, [Arc::new(both)]);
    }
    filters.push(filter);
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_writer_touched_is_kept_while_it_is_under_way() {
        let touched = Touched::new();
        let (a, b) = (ChunkId::of(b"a"), ChunkId::of(b"b"));
        let first = touched.enter();
        touched.insert(&a);
        touched.next_era();
        let second = touched.enter();
        touched.insert(&b);
        assert!(touched.contains(&a) && touched.contains(&b));
        touched.leave(first);
        assert!(touched.contains(&a), "a collection may be under way that does not see what the writer committed");
        touched.next_era();
        assert!(!touched.contains(&a) && touched.contains(&b));
        touched.leave(second);
        touched.next_era();
        assert!(!touched.contains(&b));

        // One that is under way for long: what it touched is known, in bounded memory.
        let long = touched.enter();
        let ids: Vec<ChunkId> = (0..100u32).map(|n| ChunkId::of(&n.to_be_bytes())).collect();
        for id in &ids {
            touched.insert(id);
            touched.next_era();
        }
        assert!(ids.iter().all(|id| touched.contains(id)) && !touched.contains(&a));
        assert!(read(&touched.filters).len() <= FILTERS_MAX);
        touched.leave(long);
        touched.next_era();
        assert!(!ids.iter().any(|id| touched.contains(id)));
    }

    /// Filters of one size were full after a few hundred thousand chunks, and then a collection kept nearly everything.
    #[test]
    fn filters_grow_with_what_is_put_into_them() {
        let touched = Touched::new();
        let id = |n: u32| ChunkId::of(&n.to_be_bytes());
        let writer = touched.enter();
        let many = 3_000_000;
        (0..many).for_each(|n| touched.insert(&id(n)));
        assert!((0..many).step_by(1000).all(|n| touched.contains(&id(n))));
        let wrong = |from: u32| (from..from + 10_000).filter(|n| touched.contains(&id(*n))).count();
        assert!(wrong(many) < 800, "{}", wrong(many));
        // The next one is as large from the start, and eras that are put together are as good.
        for _ in 0..2 * FILTERS_MAX {
            touched.next_era();
            touched.insert(&id(u32::MAX));
        }
        assert!((0..many).step_by(1000).chain([u32::MAX]).all(|n| touched.contains(&id(n))));
        assert!(wrong(many) < 2500, "{}", wrong(many));
        let words: usize = read(&touched.filters).iter().map(|filter| filter.words.len()).sum();
        assert!(words <= FILTERS_MAX * WORDS_MAX);
        touched.leave(writer);
        touched.next_era();
        assert!(!touched.contains(&id(0)));
    }
}
