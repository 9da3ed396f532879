//! Which chunks writers under way rely on, so that garbage collection leaves them alone: a Bloom filter per era.
//!
//! A writer that finds a chunk already stored, or has stored one, does not refer to it from any version until it commits. Each such
//! chunk is noted in the filter of the current era. A collection begins a new era, and then takes the snapshot that it
//! marks from: writers that had finished by then are in the snapshot, and all others have every chunk they rely on in the filters of
//! the eras since the oldest of them began. False positives keep garbage for one more round; memory is bounded.

use crate::id::ChunkId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

const FILTER_WORDS: usize = 1 << 17;
const PROBES: usize = 4;
/// Filters that there are at a time, 1 MiB each.
const FILTERS_MAX: usize = 8;

struct Filter {
    era: u64,
    words: Box<[AtomicU64]>,
}

impl Filter {
    fn new(era: u64) -> Arc<Filter> {
        Arc::new(Filter { era, words: (0..FILTER_WORDS).map(|_| AtomicU64::new(0)).collect() })
    }

    /// What is in either.
    fn of_both(first: &Filter, second: &Filter) -> Filter {
        let both =
            |(a, b): (&AtomicU64, &AtomicU64)| AtomicU64::new(a.load(Ordering::Relaxed) | b.load(Ordering::Relaxed));
        Filter { era: first.era.max(second.era), words: first.words.iter().zip(&second.words).map(both).collect() }
    }

    fn bits(id: &ChunkId) -> impl Iterator<Item = (usize, u64)> + '_ {
        // The id is a hash already.
        id.0.chunks_exact(4).take(PROBES).map(|four| {
            let n = four.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b)) % (FILTER_WORDS * 64);
            (n / 64, 1u64 << (n % 64))
        })
    }

    fn insert(&self, id: &ChunkId) {
        for (word, bit) in Filter::bits(id) {
            if let Some(word) = self.words.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn contains(&self, id: &ChunkId) -> bool {
        Filter::bits(id).all(|(word, bit)| self.words.get(word).is_some_and(|w| w.load(Ordering::Relaxed) & bit != 0))
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
        Touched { filters: RwLock::new(vec![Filter::new(0)]), writers: Mutex::new(BTreeMap::new()) }
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
        // Under the lock, so that nothing is put into a filter that is being copied.
        if let Some(current) = read(&self.filters).last() {
            current.insert(id);
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
        let oldest = writers.keys().next().copied().unwrap_or(era);
        filters.retain(|f| f.era >= oldest);
        // A writer may be under way for weeks. The two oldest become one, as old as the younger of them: what is in it goes no sooner.
        if filters.len() >= FILTERS_MAX
            && let [first, second, ..] = filters.as_slice()
        {
            let both = Filter::of_both(first, second);
            filters.splice(..2, [Arc::new(both)]);
        }
        filters.push(Filter::new(era));
    }

    fn current(&self) -> Arc<Filter> {
        let filters = read(&self.filters);
        filters.last().cloned().unwrap_or_else(|| Filter::new(0))
    }
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
}
