//! Taking deltas in whole: what a delta brings shows when its data is here, and not before.
//!
//! A delta merges in one commit, and that commit knows which versions it would list as wanted. [`Bucket::apply_whole`] looks whether their bytes are here
//! before it lets the commit go; if not, nothing has happened, and it says what is lacking. So no interleaving of deltas, local changes and collections shows a
//! name before its data. Where the delta waits meanwhile is the affair of whoever brought it: this segment does not stand where the delta leads, tells
//! nobody that it does, and after a crash is sent it again.

use super::bucket::Bucket;
use super::contents::Pin;
use super::packs::Residence;
use super::transact;
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::{self, Delta, Stay, Txn, Wanted};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What became of a delta.
#[derive(Debug)]
pub enum Whole {
    /// It shows. How many registers changed.
    Applied(usize),
    /// Nothing has changed, for want of data.
    Lacking(Lacking),
}

/// The versions that a delta would show and whose bytes are not all here.
pub struct Lacking {
    /// In no order that means anything, with the paths under which they will show.
    pub versions: Vec<Wanted>,
    /// Held: also those of versions whose bytes are here already.
    _pins: Vec<Arc<Pin>>,
}

impl std::fmt::Debug for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.versions).finish()
    }
}

impl Bucket {
    /// [`Bucket::apply`], if the data is here of all versions that [`Bucket::wanted`] would list for it, but for those with these keys. Else it changes nothing and
    /// gives what is lacking; as long as that is held, no collection drops what has come or comes of the delta's data. Bring it ([`Wanted::stay`] says for how
    /// long), and call again: what is lacking then may be more, where something else has been taken in meanwhile.
    pub async fn apply_whole(&self, delta: &Delta, excused: &HashSet<Bytes>) -> Result<Whole> {
        let mut check = Check::new(self, excused);
        match self.take_in(delta, Some(&mut check)).await {
            Ok(changed) => Ok(Whole::Applied(changed)),
            Err(_) if !check.lacking.is_empty() => Ok(Whole::Lacking(check.end())),
            Err(error) => Err(error),
        }
    }

    /// What [`Bucket::apply_whole`] would find lacking now, without taking anything in or waiting for a delta that is being taken in. As long as the outcome
    /// is held no collection drops what is here of the delta's data, also if nothing is lacking.
    pub async fn lacking(&self, delta: &Delta, excused: &HashSet<Bytes>) -> Result<Lacking> {
        let mut check = Check { is_all: true, ..Check::new(self, excused) };
        let looked = transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            namespace::apply(&mut txn, self.state(), delta).await?;
            check.look(&mut txn).await?;
        });
        match looked {
            Err(error) if !check.has_looked => Err(error),
            _ => Ok(check.end()),
        }
    }
}

/// Holds a transaction that has merged a delta against what is here. It may be tried several times.
pub(super) struct Check<'a> {
    bucket: &'a Bucket,
    excused: &'a HashSet<Bytes>,
    /// Versions whose bytes are here, by their keys, until this is dropped.
    here: HashMap<Bytes, Arc<Pin>>,
    lacking: Vec<Wanted>,
    pins: Vec<Arc<Pin>>,
    /// Whether the last look came to its end.
    has_looked: bool,
    /// Whether a look is all: nothing is to be committed.
    is_all: bool,
}

impl<'a> Check<'a> {
    fn new(bucket: &'a Bucket, excused: &'a HashSet<Bytes>) -> Check<'a> {
        let (here, lacking, pins) = Default::default();
        Check { bucket, excused, here, lacking, pins, has_looked: false, is_all: false }
    }

    fn end(self) -> Lacking {
        let mut pins = self.pins;
        pins.extend(self.here.into_values());
        Lacking { versions: self.lacking, _pins: pins }
    }

    /// Refuses if something is lacking; else has the transaction leave what is here out of what it lists.
    #[boxed]
    pub(super) async fn look(&mut self, txn: &mut Txn) -> Result<()> {
        (self.lacking, self.pins, self.has_looked) = Default::default();
        let mut here = HashSet::new();
        for version in namespace::newly_wanted(txn, self.bucket.state()).await? {
            if self.excused.contains(&version.key) {
                continue;
            }
            if self.here.contains_key(&version.key) {
                here.insert(version.key);
                continue;
            }
            // Before it is looked at: a collection that begins later finds it, and one that is under way spares what is found here.
            let pin = Arc::new(self.bucket.contents().pin(&version.manifest));
            if self.is_here(&version).await? {
                here.insert(version.key.clone());
                self.here.insert(version.key, pin);
            } else {
                self.pins.push(pin);
                self.lacking.push(version);
            }
        }
        self.has_looked = true;
        if self.is_all || !self.lacking.is_empty() {
            return Err(Error::new(ErrorKind::Offline, "data of this delta is not here"));
        }
        // Until it is committed nothing else refers to it, also if nobody waits for that any more.
        self.here.values().for_each(|pin| txn.hold(pin.clone()));
        namespace::leave_out(txn, &here);
        Ok(())
    }

    /// Whether every byte is here, and stays for as long as it is to.
    async fn is_here(&self, version: &Wanted) -> Result<bool> {
        let segment = self.bucket.segment();
        if !segment.missing_chunks(&version.manifest, 1).await?.is_empty() {
            return Ok(false);
        }
        let residence = match version.stay {
            Stay::ForGood => Residence::Kept,
            Stay::AsLongAsPinned => Residence::Pinned,
        };
        match segment.chunk_import_as(residence).adopt(&version.manifest).await {
            Ok(missing) => Ok(missing.is_none()),
            // Evicted between the two looks, or found damaged by the second.
            Err(error) if matches!(error.kind(), ErrorKind::Offline | ErrorKind::Damaged) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
