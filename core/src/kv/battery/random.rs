//! Random batches and scans against a map.

use super::rows::contains;
use super::same;
use crate::error::Result;
use crate::kv::{Batch, Durability, KeyRange, Snapshot, Space, Store};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// What a store should hold.
type Model = BTreeMap<(Space, Bytes), Bytes>;

/// Random batches against a map, compared after each.
pub(super) async fn random_operations(store: &dyn Store) -> Result<()> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut model = Model::new();
    let mut older: Vec<(Arc<dyn Snapshot>, Model)> = Vec::new();
    let used = [Space::Entries, Space::Nodes, Space::Index];
    let space_of = |random: &mut Random| used.get(random.below(used.len())).copied().unwrap_or(Space::Entries);
    for round in 0..300 {
        let mut batch = Batch::default();
        for _ in 0..=random.below(8) {
            let space = space_of(&mut random);
            let key = random.key();
            let value = (random.below(3) > 0).then(|| Bytes::from(vec![random.byte(); random.below(300)]));
            match &value {
                Some(value) => model.insert((space, key.clone()), value.clone()),
                None => model.remove(&(space, key.clone())),
            };
            batch.writes.push((space, key, value));
        }
        let durability = if random.below(20) == 0 { Durability::Sync } else { Durability::Buffered };
        store.commit(batch, durability).await?;
        if random.below(10) == 0 {
            older.push((store.snapshot().await?, model.clone()));
        }
        if older.len() > 5 {
            older.swap_remove(random.below(5));
        }

        let space = space_of(&mut random);
        let key = random.key();
        same(&format!("get in round {round}"), &store.get(space, &key).await?, &model.get(&(space, key)).cloned())?;
        let latest = store.snapshot().await?;
        compare_scan(&mut random, space, &*latest, &model).await?;
        let pick = random.below(older.len().max(1));
        if let Some((snapshot, model)) = older.get(pick) {
            compare_scan(&mut random, space, &**snapshot, model).await?;
        }
    }
    Ok(())
}

async fn compare_scan(random: &mut Random, space: Space, snapshot: &dyn Snapshot, model: &Model) -> Result<()> {
    let mut bound = || match random.below(3) {
        0 => Bound::Included(random.key()),
        1 => Bound::Excluded(random.key()),
        _ => Bound::Unbounded,
    };
    let range = KeyRange { start: bound(), end: bound() };
    let (limit, reverse) = (random.below(40), random.below(2) == 0);
    let mut wanted: Vec<(Bytes, Bytes)> = model
        .iter()
        .filter(|((place, key), _)| *place == space && contains(&range, key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if reverse {
        wanted.reverse();
    }
    let more = wanted.len() > limit;
    wanted.truncate(limit);
    let page = snapshot.scan(space, range.clone(), limit, reverse).await?;
    same(&format!("rows of {range:?}, limit {limit}, reverse {reverse}"), &page.rows, &wanted)?;
    same(&format!("more of {range:?}, limit {limit}, reverse {reverse}"), &page.more, &more)
}

/// A fixed sequence (xorshift64*), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 33) % (end as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// One of few keys, so that they meet again; some are prefixes of others.
    fn key(&mut self) -> Bytes {
        let letters = b"ab/\xff";
        (0..=self.below(4)).filter_map(|_| letters.get(self.below(letters.len()))).copied().collect()
    }
}
