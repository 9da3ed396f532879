//! The cache of chunks that were fetched for readers: how much it may take, and which pack goes next.
//!
//! Chunks come into packs of their own, and whole packs go, so making room costs no reading and no rewriting. Packs are in two queues (a segmented LRU):
//! new ones on trial, and those of which something was read again later. What is on trial goes first, oldest first; so one long scan pushes out what other
//! scans left, and not what is read again and again. Nothing that may not go is ever in these packs, see `packs.rs`.
//!
//! After a restart all packs are on trial, in their old order. A crash between dropping rows and removing the file leaves a pack without rows, which
//! goes when its turn comes.

use super::packs::{Packs, Residence};
use super::segment::Segment;
use crate::chunk::{Location, PackInfo};
use crate::error::{ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The least the cache may take, in bytes: less than what readers ask for ahead would make them fetch in vain.
const BUDGET_BYTES_MIN: u64 = 4 << 20;
/// Packs of which something was read again take at most this part of the cache; others are to have a chance.
const PROVEN_PERCENT: u64 = 80;
/// A second read counts when this many newer packs have been begun: readers come back to the edges of what they have just read.
const LATER_PACKS: u64 = 2;
/// One bit for so many bytes of a pack.
const SLOT_BYTES: u64 = 4096;
/// Rows dropped in one commit.
const BATCH_ROWS: usize = 1024;

/// What is known of the packs in the cache.
pub(crate) struct Cache {
    budget_bytes: u64,
    uses: Mutex<Uses>,
    pub(crate) evicted_bytes: AtomicU64,
    pub(crate) trimming: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Uses {
    packs: HashMap<u64, Use>,
    newest_pack: u64,
    tick: u64,
}

#[derive(Default)]
struct Use {
    /// Which slots were read.
    read: Vec<u64>,
    is_proven: bool,
    /// When it came to the queue it is in; 0: as it was made.
    since: u64,
}

impl Cache {
    pub(crate) fn new(budget_bytes: u64) -> Cache {
        Cache {
            budget_bytes: budget_bytes.max(BUDGET_BYTES_MIN),
            uses: Mutex::default(),
            evicted_bytes: AtomicU64::new(0),
            trimming: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// A chunk was read from the disk.
    pub(crate) fn touch(&self, location: &Location) {
        if Packs::residence(location.pack) != Residence::Cached {
            return;
        }
        let mut uses = self.uses.lock();
        uses.newest_pack = uses.newest_pack.max(location.pack);
        let is_later = location.pack + LATER_PACKS <= uses.newest_pack;
        uses.tick += 1;
        let tick = uses.tick;
        let slot = location.offset / SLOT_BYTES;
        let (word, bit) = (usize::try_from(slot / 64).unwrap_or_default(), 1u64 << (slot % 64));
        let of = uses.packs.entry(location.pack).or_default();
        if word >= of.read.len() {
            of.read.resize(word + 1, 0);
        }
        let Some(read) = of.read.get_mut(word) else { return };
        if *read & bit == 0 {
            *read |= bit;
        } else if is_later {
            (of.is_proven, of.since) = (true, tick);
        }
    }

    /// A pack has been written to.
    pub(crate) fn note_pack(&self, pack: u64) {
        let mut uses = self.uses.lock();
        uses.newest_pack = uses.newest_pack.max(pack);
    }

    fn forget(&self, pack: u64) {
        self.uses.lock().packs.remove(&pack);
    }

    /// Sealed packs in the order in which they go.
    fn order(&self, packs: &[PackInfo]) -> Vec<PackInfo> {
        let mut uses = self.uses.lock();
        let mut proven: Vec<(u64, PackInfo)> = Vec::new();
        for pack in packs {
            if let Some(of) = uses.packs.get(&pack.number).filter(|of| of.is_proven) {
                proven.push((of.since, *pack));
            }
        }
        proven.sort_by_key(|(since, _)| *since);
        let mut bytes: u64 = proven.iter().map(|(_, pack)| pack.bytes).sum();
        for (_, pack) in &proven {
            if bytes <= self.budget_bytes.saturating_mul(PROVEN_PERCENT) / 100 {
                break;
            }
            bytes -= pack.bytes;
            uses.tick += 1;
            let tick = uses.tick;
            if let Some(of) = uses.packs.get_mut(&pack.number) {
                (of.is_proven, of.since) = (false, tick);
            }
        }
        let mut order: Vec<PackInfo> = packs.iter().filter(|pack| pack.is_sealed).copied().collect();
        order.sort_by_key(|pack| {
            let of = uses.packs.get(&pack.number);
            (of.is_some_and(|of| of.is_proven), of.map_or(0, |of| of.since), pack.number)
        });
        order
    }
}

impl Segment {
    /// Drops packs of the cache until it takes no more than it may.
    pub(super) async fn trim_cache(&self) -> Result<()> {
        let contents = self.contents().clone();
        let store = contents.packs().of(Residence::Cached);
        if store.stored_bytes() <= contents.disk_cache.budget_bytes {
            return Ok(());
        }
        let _one = contents.disk_cache.trimming.lock().await;
        let mut bytes = store.stored_bytes();
        for pack in contents.disk_cache.order(&store.packs()) {
            if bytes <= contents.disk_cache.budget_bytes {
                break;
            }
            if self.evict(pack.number).await? {
                bytes = bytes.saturating_sub(pack.bytes);
                contents.disk_cache.evicted_bytes.fetch_add(pack.bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Drops a pack of the cache, and the rows that lead to it. Returns whether it went; one whose last chunks are still being committed stays.
    async fn evict(&self, pack: u64) -> Result<bool> {
        let contents = self.contents().clone();
        let this = contents.clone();
        // What was appended to it is noted by then, and nothing more comes to a sealed pack.
        contents.pool.run(move || this.settle_appends()).await?;
        let entries = match contents.packs().entries(pack) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => return Ok(false),
            Err(error) => return Err(error),
        };
        if entries.iter().any(|(id, _)| contents.is_uncommitted(id)) {
            return Ok(false);
        }
        for batch in entries.chunks(BATCH_ROWS) {
            self.drop_rows(batch).await?;
        }
        self.prove_commits().await?;
        contents.packs().remove_pack(pack)?;
        contents.disk_cache.forget(pack);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(pack: u64) -> Location {
        Location { pack: (1 << 40) + pack, offset: 64, stored: 1, raw: 1 }
    }

    fn packs(numbers: std::ops::Range<u64>, bytes: u64) -> Vec<PackInfo> {
        numbers.map(|n| PackInfo { number: (1 << 40) + n, bytes, is_sealed: true }).collect()
    }

    fn order(cache: &Cache, packs: &[PackInfo]) -> Vec<u64> {
        cache.order(packs).iter().map(|pack| pack.number - (1 << 40)).collect()
    }

    #[test]
    fn what_is_read_again_later_goes_last() {
        let cache = Cache::new(100 << 20);
        (0..6).for_each(|pack| cache.note_pack((1 << 40) + pack));
        let packs = packs(0..6, 1 << 20);
        assert_eq!(order(&cache, &packs), [0, 1, 2, 3, 4, 5]);
        for pack in [1, 5, 3] {
            cache.touch(&location(pack));
        }
        assert_eq!(order(&cache, &packs), [0, 1, 2, 3, 4, 5], "the first read is what it was fetched for");
        for pack in [3, 1, 5] {
            cache.touch(&location(pack));
        }
        assert_eq!(order(&cache, &packs), [0, 2, 4, 5, 3, 1], "that of the newest came too soon to count");
    }

    #[test]
    fn what_has_proven_itself_leaves_room_for_others() {
        let cache = Cache::new(10 << 20);
        (0..10).for_each(|pack| cache.note_pack((1 << 40) + pack));
        let packs = packs(0..10, 1 << 20);
        cache.note_pack((1 << 40) + 20);
        for pack in (0..10).chain(0..10) {
            cache.touch(&location(pack));
        }
        // All were read again; those for which that is longest ago are on trial anew.
        let order = order(&cache, &packs);
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(cache.uses.lock().packs.values().filter(|of| of.is_proven).count(), 8);
    }
}
