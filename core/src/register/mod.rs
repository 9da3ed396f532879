//! Registers: the one kind of thing that changes and is replicated.
//!
//! Everything mutable in a bucket (a directory entry, a file's content head, attributes, a policy) is a [`Register`]. It carries its
//! live writes, each with [`Dot`] and [`Stamp`], and its [`Context`]. Merging two copies is commutative, associative and idempotent, so deltas may
//! arrive in any order, in parts and twice. This module never does I/O, reads no clock and knows no names; what a set of registers shows as a tree is
//! [`crate::tree`]'s business.

mod carriers;
mod clock;
pub(crate) mod codec;
mod dot;
mod vector;

pub use carriers::{Carrier, Carriers};
pub use clock::HybridClock;
pub use codec::{put_varint, take_array, take_slice, take_varint};
pub use dot::{Dot, Stamp};
pub use vector::{Context, Stance, VersionVector};

use crate::id::SegmentId;
use smallvec::SmallVec;
use std::cmp::Reverse;

/// Dots to be looked up: there may be many, where nobody resolves conflicts or a peer means ill.
struct Dots(SmallVec<[Dot; 2]>);

impl Dots {
    fn new(dots: impl Iterator<Item = Dot>) -> Dots {
        let mut dots: SmallVec<[Dot; 2]> = dots.collect();
        dots.sort_unstable();
        Dots(dots)
    }

    fn contains(&self, dot: &Dot) -> bool {
        self.0.binary_search(dot).is_ok()
    }
}

/// One write to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write<V> {
    /// Which change it is.
    pub dot: Dot,
    /// The time of its stamp; the stamp's segment is the dot's.
    pub stamp_time: u64,
    /// What was written. `None`: the value was taken away (a tombstone).
    pub value: Option<V>,
}

impl<V> Write<V> {
    /// A write whose number and time are assigned at commit: change number `slot` of the transaction.
    pub fn pending(slot: u32, own: SegmentId, value: Option<V>) -> Write<V> {
        // The pending bit makes it the latest write of its register until it gets its real, later, time.
        Write { dot: Dot::pending(slot, own), stamp_time: Dot::PENDING | u64::from(slot), value }
    }

    /// When it was made.
    pub fn stamp(&self) -> Stamp {
        Stamp { time: self.stamp_time, segment: self.dot.segment }
    }

    /// What shows has the highest rank: values before tombstones, then the highest stamp. The sequence number only matters if a segment gave one stamp twice.
    fn rank(&self) -> (bool, Stamp, u64) {
        (self.value.is_some(), self.stamp(), self.dot.sequence)
    }
}

/// A replicated variable: its live writes, and for each segment that ever wrote it the highest sequence number seen.
///
/// Invariants: `live` is in the order in which writes show, best first; no dot is in it twice; `context` covers all of them. So equal states compare equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Register<V> {
    live: SmallVec<[Write<V>; 1]>,
    context: Context,
}

impl<V> Default for Register<V> {
    fn default() -> Self {
        Register::empty()
    }
}

impl<V> Register<V> {
    /// A register that nobody has written.
    pub fn empty() -> Register<V> {
        Register { live: SmallVec::new(), context: Context::new() }
    }

    /// Whether nobody has written it.
    pub fn is_empty(&self) -> bool {
        self.context.is_empty()
    }

    /// Adds a write of this segment in place of the live writes named in `replaces` (usually the one that showed). The others stay live: they are a conflict that this
    /// write was not made to resolve.
    pub fn local_write(&mut self, write: Write<V>, replaces: &[Dot]) {
        debug_assert!(!self.context.covers(&write.dot) || write.dot.is_pending(), "a dot is used twice");
        let replaces = Dots::new(replaces.iter().copied());
        self.live.retain(|old| !replaces.contains(&old.dot) && old.dot != write.dot);
        self.context.advance(write.dot);
        let at = self.live.partition_point(|old| old.rank() > write.rank());
        self.live.insert(at, write);
    }

    /// What shows, if anything was ever written: a value, or a tombstone if nothing but tombstones is live.
    pub fn shown(&self) -> Option<&Write<V>> {
        self.live.first()
    }

    /// The value that shows.
    pub fn value(&self) -> Option<&V> {
        self.shown().and_then(|write| write.value.as_ref())
    }

    /// All live writes, the one that shows first.
    pub fn ordered(&self) -> &[Write<V>] {
        &self.live
    }

    /// Live writes with a value, the one that shows first, each with its value.
    pub fn live_values(&self) -> impl Iterator<Item = (&Write<V>, &V)> + '_ {
        self.live.iter().map_while(|write| write.value.as_ref().map(|value| (write, value)))
    }

    /// Live tombstones, the latest first.
    pub fn tombstones(&self) -> impl Iterator<Item = &Write<V>> + '_ {
        self.live.iter().filter(|write| write.value.is_none())
    }

    /// The dots of all live writes, the one that shows first.
    pub fn dots(&self) -> SmallVec<[Dot; 2]> {
        self.live.iter().map(|write| write.dot).collect()
    }

    /// Whether no value is live. True for a register that nobody has written.
    pub fn is_tombstone_only(&self) -> bool {
        self.value().is_none()
    }

    /// Whether more than one value is live.
    pub fn has_conflict(&self) -> bool {
        self.live_values().nth(1).is_some()
    }

    /// For each segment that ever wrote it, the highest sequence number seen.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The changes that a change index finds it by: the highest of each segment, and those of live writes below.
    pub fn indexed(&self) -> impl Iterator<Item = Dot> + '_ {
        let below =
            self.live.iter().map(|write| write.dot).filter(|dot| self.context.get(&dot.segment) != dot.sequence);
        self.context.dots().chain(below)
    }

    /// Whether a segment that stands at `vector` has all of this: it need not be part of a delta for it.
    pub fn covered_by(&self, vector: &VersionVector) -> bool {
        vector.dominates(&self.context)
    }

    /// The highest time among the live writes, for [`HybridClock::observe`]; 0 if there is none.
    pub fn time_max(&self) -> u64 {
        self.live.iter().map(|write| write.stamp_time).max().unwrap_or(0)
    }

    /// Whether a write still waits for its number.
    pub fn is_pending(&self) -> bool {
        self.context.dots().any(|dot| dot.is_pending())
    }

    /// Gives pending changes of `own` their numbers and times: slot n becomes sequence `first_sequence` + n at time `first_time` + n. Both must be higher than all
    /// that `own` has given out or observed, so that what showed goes on to show.
    pub fn assign(&mut self, own: &SegmentId, first_sequence: u64, first_time: u64) {
        for write in &mut self.live {
            if let Some(slot) = write.dot.slot().filter(|_| write.dot.segment == *own) {
                write.dot.sequence = first_sequence.saturating_add(slot.into());
                write.stamp_time = first_time.saturating_add(slot.into());
            }
        }
        self.context.assign(own, first_sequence);
        self.live.sort_by_key(|write| Reverse(write.rank()));
    }

    /// The same register with what `view` takes from each value.
    pub fn view<W>(&self, mut view: impl FnMut(&V) -> W) -> Register<W> {
        let write =
            |w: &Write<V>| Write { dot: w.dot, stamp_time: w.stamp_time, value: w.value.as_ref().map(&mut view) };
        Register { live: self.live.iter().map(write).collect(), context: self.context.clone() }
    }

    /// The same register with other values, for instance decoded ones. Fails with the first error of `convert`.
    pub fn try_map<W, E>(self, mut convert: impl FnMut(V) -> Result<W, E>) -> Result<Register<W>, E> {
        let mut live = SmallVec::with_capacity(self.live.len());
        for Write { dot, stamp_time, value } in self.live {
            live.push(Write { dot, stamp_time, value: value.map(&mut convert).transpose()? });
        }
        Ok(Register { live, context: self.context })
    }
}

impl<V: Clone> Register<V> {
    /// Takes in what another segment's copy knows; returns whether that changed anything. What is live in both stays, and so does what is live in one
    /// and not covered by the other's context, because then the other side has not seen it.
    pub fn merge(&mut self, other: &Register<V>) -> bool {
        let before = self.live.len();
        let theirs = Dots::new(other.live.iter().map(|write| write.dot));
        self.live.retain(|mine| !other.context.covers(&mine.dot) || theirs.contains(&mine.dot));
        let mut changed = self.live.len() != before;
        for theirs in &other.live {
            if !self.context.covers(&theirs.dot) {
                self.live.push(theirs.clone());
                changed = true;
            }
        }
        if changed {
            self.live.sort_by_key(|write| Reverse(write.rank()));
        }
        self.context.merge(&other.context) | changed
    }

    /// The same where `dropped` is known in full, and what was dropped lies below it: a write that this covers, and that this register has never seen, was replaced
    /// long ago and dropped after everybody had that. It stays away.
    pub fn merge_where(&mut self, other: &Register<V>, dropped: &VersionVector) -> bool {
        if self.is_empty() && other.covered_by(dropped) {
            return false;
        }
        let is_old = |write: &Write<V>| dropped.covers(&write.dot) && !self.context.covers(&write.dot);
        if !other.live.iter().any(is_old) {
            return self.merge(other);
        }
        let live = other.live.iter().filter(|write| !is_old(write)).cloned().collect();
        self.merge(&Register { live, context: other.context.clone() })
    }
}

impl<V> Register<V> {
    /// Whether a write is live here.
    pub fn is_live(&self, dot: &Dot) -> bool {
        self.live.iter().any(|write| write.dot == *dot)
    }

    /// The value of a live write, for giving it another form. What it says must stay the same: a write is known by its dot.
    pub fn value_mut(&mut self, dot: &Dot) -> Option<&mut V> {
        self.live.iter_mut().find(|write| write.dot == *dot).and_then(|write| write.value.as_mut())
    }

    /// Takes a write away that is known to have been replaced elsewhere, and dropped. Nothing is left of a register without live writes that `known`, where
    /// that was dropped, covers.
    pub fn drop_write(&mut self, dot: &Dot, known: &VersionVector) {
        self.live.retain(|write| write.dot != *dot);
        if self.live.is_empty() && self.covered_by(known) {
            self.context = Context::new();
        }
    }
}

#[cfg(test)]
mod tests;
