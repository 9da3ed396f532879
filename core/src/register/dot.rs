//! [`Dot`], the identity of one local change, and [`Stamp`], its place in the order that everybody agrees on.

use crate::id::SegmentId;
use std::fmt;

/// The identity of one local change: which segment made it, and its number there.
///
/// Sequence numbers start at 1 and stay below 2^63. A change that is not committed yet has a *pending* dot: the top bit is
/// set and the low 32 bits are its slot in the transaction, see [`Register::assign`](super::Register::assign).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The segment that made the change.
    pub segment: SegmentId,
    /// Its number there.
    pub sequence: u64,
}

impl Dot {
    /// The bit that marks a pending sequence number (and a pending stamp time).
    pub const PENDING: u64 = 1 << 63;

    /// The dot of change `sequence` of `segment`.
    pub const fn new(segment: SegmentId, sequence: u64) -> Dot {
        Dot { segment, sequence }
    }

    /// The dot of a change of this segment, `own`, that will get its number at commit: it is the transaction's change number `slot`, counted from 0.
    pub const fn pending(slot: u32, own: SegmentId) -> Dot {
        Dot { segment: own, sequence: Dot::PENDING | slot as u64 }
    }

    /// Whether the number is still to be assigned.
    pub const fn is_pending(&self) -> bool {
        self.sequence & Dot::PENDING != 0
    }

    /// A pending dot's slot in its transaction.
    pub const fn slot(&self) -> Option<u32> {
        if self.is_pending() { Some(self.sequence as u32) } else { None }
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot() {
            Some(slot) => write!(f, "{:?}:pending{slot}", self.segment),
            None => write!(f, "{:?}:{}", self.segment, self.sequence),
        }
    }
}

/// When a change was made, as a total order: hybrid logical time first, then the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Hybrid logical time: unix milliseconds shifted left by 16, plus a counter. Below 2^63 once committed.
    pub time: u64,
    /// The segment that made the change.
    pub segment: SegmentId,
}

impl Stamp {
    /// The highest time a committed change can have; decoders refuse more. The bit above marks pending changes.
    pub const TIME_MAX: u64 = Dot::PENDING - 1;

    /// The time as unix milliseconds. Close to real time unless some segment's clock is far ahead.
    pub const fn unix_ms(&self) -> u64 {
        self.time >> 16
    }
}
