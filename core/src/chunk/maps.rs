//! The maps of sealed packs that were read lately; a bounded number, so that address space and file handles are.

use crate::disk::Mapping;
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::HashMap;

/// A bounded set of maps, by pack number. Slices of a map that was let go stay valid.
pub(super) struct MapCache {
    maps_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Map, and the tick of its last use.
    maps: HashMap<u64, (Mapping, u64)>,
    tick: u64,
}

impl MapCache {
    /// Keeps at most `maps_max` maps, at least one.
    pub(super) fn new(maps_max: usize) -> MapCache {
        MapCache { maps_max: maps_max.max(1), state: Mutex::default() }
    }

    /// The map of pack `number`, made by `map` if it is not here.
    pub(super) fn get(&self, number: u64, map: impl FnOnce() -> Result<Mapping>) -> Result<Mapping> {
        {
            let state = &mut *self.state.lock();
            state.tick += 1;
            if let Some((mapping, used)) = state.maps.get_mut(&number) {
                *used = state.tick;
                return Ok(mapping.clone());
            }
        }
        let mapping = map()?;
        let state = &mut *self.state.lock();
        if state.maps.len() >= self.maps_max {
            let oldest = state.maps.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            oldest.and_then(|oldest| state.maps.remove(&oldest));
        }
        state.maps.insert(number, (mapping.clone(), state.tick));
        Ok(mapping)
    }

    /// Lets a map go.
    pub(super) fn remove(&self, number: u64) {
        self.state.lock().maps.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::cell::RefCell;

    #[test]
    fn the_least_recently_used_map_goes_first() {
        let cache = MapCache::new(2);
        let made = RefCell::new(Vec::new());
        let get = |number: u64| {
            let map = || {
                made.borrow_mut().push(number);
                Ok(Mapping::of_memory(Bytes::from(vec![number as u8])))
            };
            assert_eq!(cache.get(number, map).unwrap().slice(0..1).unwrap()[..], [number as u8]);
        };
        [1, 2, 1, 3, 1, 2].into_iter().for_each(get);
        assert_eq!(*made.borrow(), [1, 2, 3, 2]);
        cache.remove(2);
        get(2);
        assert_eq!(*made.borrow(), [1, 2, 3, 2, 2]);
    }
}
