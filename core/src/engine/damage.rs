//! Chunks that are known to be damaged: what the index leads to is not what their ids say.
//!
//! Status counts them, and whoever stores one of them again stores it anew. A restart is not to forget that, so each has a row of [`Space::Meta`], on disk before the reader or
//! the scrub that met the damage says so. The row goes with the commit that gives the chunk another place or drops it, and when a scrub finds the chunk well. Of very many only
//! so many have rows: the others are met again.
//!
//! Where the disk takes no row there is none: it is the damage that the caller is to hear of.

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::kv::{KeyRange, Space};
use crate::namespace::{Ledger, Txn};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};

const PREFIX: &[u8] = b"damaged/";
const FORMAT: u8 = 1;
/// The most chunks that have rows.
const ROWS_MAX: usize = 1 << 16;

/// See the module.
#[derive(Default)]
pub(crate) struct Damage {
    known: Mutex<HashSet<ChunkId>>,
    /// Weak: it has the contents.
    ledger: OnceLock<Weak<Ledger>>,
}

fn key(id: &ChunkId) -> Bytes {
    [PREFIX, &id.0].concat().into()
}

impl Damage {
    /// Reads what was known when the segment was last open; from now on what is met gets rows.
    pub(crate) async fn open(&self, ledger: &Arc<Ledger>) -> Result<()> {
        let view = ledger.store().snapshot().await?;
        let rows = view.scan(Space::Meta, KeyRange::prefix(PREFIX), usize::MAX, false).await?.rows;
        let mut known = HashSet::with_capacity(rows.len());
        for (key, row) in rows {
            if row.as_ref() != [FORMAT] {
                let text = format!("a row of a damaged chunk is not of format {FORMAT}, which this build reads");
                return Err(Error::damaged(text));
            }
            known.insert(ChunkId::from_slice(key.get(PREFIX.len()..).unwrap_or_default())?);
        }
        self.known.lock().extend(known);
        // A segment is opened once.
        let _ = self.ledger.set(Arc::downgrade(ledger));
        Ok(())
    }

    /// How many are known.
    pub(crate) fn count(&self) -> u64 {
        self.known.lock().len() as u64
    }

    pub(crate) fn has(&self, id: &ChunkId) -> bool {
        self.known.lock().contains(id)
    }

    /// For each of `ids` whether it is known to be damaged.
    pub(crate) fn which(&self, ids: &[ChunkId]) -> Vec<bool> {
        let known = self.known.lock();
        ids.iter().map(|id| known.contains(id)).collect()
    }

    pub(crate) fn all(&self) -> Vec<ChunkId> {
        self.known.lock().iter().copied().collect()
    }

    /// The bytes of `ids` did not match them.
    pub(crate) async fn note(&self, ids: &[ChunkId]) {
        let mut new: Vec<ChunkId> = Vec::new();
        {
            let mut known = self.known.lock();
            let rows_left = ROWS_MAX.saturating_sub(known.len());
            new.extend(ids.iter().filter(|id| known.insert(**id)));
            new.truncate(rows_left);
        }
        self.commit(&new, |txn, key| txn.put(Space::Meta, key, vec![FORMAT])).await;
    }

    /// The bytes of `ids` match them, or nothing is said to be there any more.
    pub(crate) async fn forget(&self, ids: &[ChunkId]) {
        let gone: Vec<ChunkId> = {
            let mut known = self.known.lock();
            ids.iter().filter(|id| known.remove(*id)).copied().collect()
        };
        self.commit(&gone, |txn, key| txn.delete(Space::Meta, key)).await;
    }

    /// Has `txn`, which gives the chunk another place or drops it, take its row away; [`Damage::is_over`] once it is committed.
    pub(crate) fn end_in(&self, txn: &mut Txn, id: &ChunkId) {
        if self.has(id) {
            txn.delete(Space::Meta, key(id));
        }
    }

    /// See [`Damage::end_in`].
    pub(crate) fn is_over<'a>(&self, ids: impl IntoIterator<Item = &'a ChunkId>) {
        let mut known = self.known.lock();
        if !known.is_empty() {
            for id in ids {
                known.remove(id);
            }
        }
    }

    /// Once it is polled the commit happens, whoever goes away.
    async fn commit(&self, ids: &[ChunkId], change: impl Fn(&mut Txn, Bytes)) {
        let Some(ledger) = self.ledger.get().and_then(Weak::upgrade).filter(|_| !ids.is_empty()) else { return };
        let mut txn = ledger.begin();
        ids.iter().for_each(|id| change(&mut txn, key(id)));
        if let Err(error) = ledger.commit(txn).await {
            tracing::warn!(%error, "which chunks are damaged can't be noted on the disk");
        }
    }
}
