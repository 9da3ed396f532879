//! What was done to a file since its content was last put together: pieces that lie over it.
//!
//! A piece is bytes in memory, a hole, a stored chunk (or part of one), or a range of another content. Each carries the number of the
//! change that made it, so that what is stored beside new writes replaces just the pieces it was made from: who stores takes a copy of the pieces
//! (cheap: bytes are shared), and comes back with the copy's stamp. Never waits, never does I/O.

use super::super::budget::Taken;
use super::hold::Hold;
use crate::manifest::{Manifest, Source};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Writes shorter than this are gathered with their neighbours.
const GATHERED_BYTES_MAX: usize = 32 << 10;
/// The longest gathered piece.
const GATHER_BYTES_MAX: usize = 256 << 10;
/// What a piece costs beside its bytes.
pub(super) const PIECE_BYTES: u64 = 160;

/// A stored content, and what keeps it from being collected.
#[derive(Clone)]
pub(super) struct HeldContent {
    pub(super) manifest: Manifest,
    pub(super) hold: Arc<Hold>,
}

/// Where a piece's bytes are.
pub(super) enum Data {
    /// In memory, still growing.
    Growing(Vec<u8>),
    /// In memory.
    Memory(Bytes),
    /// In a chunk, or nowhere.
    Stored(Source),
    /// In another content, from this offset on.
    Part(Arc<HeldContent>, u64),
}

/// A run of bytes of a file.
pub(super) struct Piece {
    pub(super) length: u64,
    /// The change that made it.
    pub(super) stamp: u64,
    pub(super) data: Data,
    /// The memory it holds on to.
    taken: Option<Arc<Taken>>,
}

impl Piece {
    pub(super) fn hole(length: u64, stamp: u64) -> Piece {
        Piece { length, stamp, data: Data::Stored(Source::Hole), taken: None }
    }

    pub(super) fn stored(length: u64, stamp: u64, source: Source) -> Piece {
        Piece { length, stamp, data: Data::Stored(source), taken: None }
    }

    pub(super) fn part_of(content: Arc<HeldContent>, offset: u64, length: u64, stamp: u64) -> Piece {
        Piece { length, stamp, data: Data::Part(content, offset), taken: None }
    }

    /// Bytes that are in memory anyway.
    pub(super) fn memory(bytes: Bytes, stamp: u64) -> Piece {
        Piece { length: bytes.len() as u64, stamp, data: Data::Memory(bytes), taken: None }
    }

    pub(super) fn is_memory(&self) -> bool {
        matches!(self.data, Data::Growing(_) | Data::Memory(_))
    }

    pub(super) fn is_hole(&self) -> bool {
        matches!(self.data, Data::Stored(Source::Hole))
    }

    fn freeze(&mut self) {
        if let Data::Growing(bytes) = &mut self.data {
            self.data = Data::Memory(std::mem::take(bytes).into());
        }
    }

    /// The bytes `from..to` of it. A growing piece's are copied; freeze it first.
    pub(super) fn part(&self, from: u64, to: u64) -> Piece {
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let data = match &self.data {
            Data::Growing(bytes) => {
                Data::Memory(Bytes::copy_from_slice(bytes.get(at(from)..at(to)).unwrap_or_default()))
            }
            Data::Memory(bytes) => Data::Memory(bytes.slice(at(from).min(bytes.len())..at(to).min(bytes.len()))),
            Data::Stored(Source::Hole) => Data::Stored(Source::Hole),
            Data::Stored(Source::Chunk { id, offset, raw }) => Data::Stored(Source::Chunk {
                id: *id,
                offset: offset.saturating_add(u32::try_from(from).unwrap_or(u32::MAX)),
                raw: *raw,
            }),
            Data::Part(content, offset) => Data::Part(content.clone(), offset.saturating_add(from)),
        };
        Piece { length: to - from, stamp: self.stamp, data, taken: self.taken.clone() }
    }
}

/// The pieces, by where they start. They don't overlap.
#[derive(Default)]
pub(super) struct Overlay {
    pieces: BTreeMap<u64, Piece>,
    memory_bytes: u64,
    stored_count: usize,
    hole_count: usize,
}

impl Overlay {
    /// Bytes in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Pieces that are not in memory.
    pub(super) fn stored_count(&self) -> usize {
        self.stored_count
    }

    /// Whether any piece is a hole.
    pub(super) fn has_holes(&self) -> bool {
        self.hole_count > 0
    }

    /// Where each piece starts, its length, and whether it is a hole.
    pub(super) fn extents(&self) -> impl Iterator<Item = (u64, u64, bool)> {
        self.pieces.iter().map(|(start, piece)| (*start, piece.length, piece.is_hole()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn add(&mut self, offset: u64, piece: Piece) {
        if piece.length == 0 {
            return;
        }
        if piece.is_memory() {
            self.memory_bytes += piece.length;
        } else {
            self.stored_count += 1;
            self.hole_count += usize::from(piece.is_hole());
        }
        self.pieces.insert(offset, piece);
    }

    fn take(&mut self, offset: u64) -> Option<Piece> {
        let piece = self.pieces.remove(&offset)?;
        if piece.is_memory() {
            self.memory_bytes -= piece.length;
        } else {
            self.stored_count -= 1;
            self.hole_count -= usize::from(piece.is_hole());
        }
        Some(piece)
    }

    /// The piece that begins before `offset` and reaches beyond it.
    fn across(&self, offset: u64) -> Option<u64> {
        let (start, piece) = self.pieces.range(..offset).next_back()?;
        (start + piece.length > offset).then_some(*start)
    }

    /// Splits the piece that lies across `offset`.
    fn split(&mut self, offset: u64) {
        if let Some(start) = self.across(offset)
            && let Some(mut piece) = self.take(start)
        {
            piece.freeze();
            let (left, right) = (piece.part(0, offset - start), piece.part(offset - start, piece.length));
            self.add(start, left);
            self.add(offset, right);
        }
    }

    /// Takes everything off `range`.
    pub(super) fn clear(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        while let Some((&start, _)) = self.pieces.range(range.clone()).next() {
            self.take(start);
        }
    }

    /// Lays `piece` over what is there.
    pub(super) fn put(&mut self, offset: u64, piece: Piece) {
        self.clear(offset..offset.saturating_add(piece.length));
        self.add(offset, piece);
    }

    /// Lays bytes over what is there; `taken` is what they were charged.
    pub(super) fn write(&mut self, offset: u64, data: Bytes, stamp: u64, taken: Taken) {
        let length = data.len() as u64;
        let end = offset + length;
        // Into, or at the end of, what is being gathered?
        if data.len() < GATHERED_BYTES_MAX
            && let Some((&start, piece)) = self.pieces.range_mut(..=offset).next_back()
            && let Data::Growing(bytes) = &mut piece.data
            && let Some(slot) = piece.taken.as_mut().and_then(Arc::get_mut)
        {
            let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
            if let Some(same) = bytes.get_mut(at..at.saturating_add(data.len())) {
                same.copy_from_slice(&data);
                piece.stamp = stamp;
                return;
            }
            if at == bytes.len() && at + data.len() <= GATHER_BYTES_MAX {
                bytes.extend_from_slice(&data);
                piece.length += length;
                piece.stamp = stamp;
                slot.merge(taken);
                self.memory_bytes += length;
                // What followed is overwritten.
                let grown = self.take(start);
                self.clear(start..end);
                if let Some(grown) = grown {
                    self.add(start, grown);
                }
                return;
            }
        }
        let data = if data.len() < GATHERED_BYTES_MAX { Data::Growing(data.to_vec()) } else { Data::Memory(data) };
        self.put(offset, Piece { length, stamp, data, taken: Some(Arc::new(taken)) });
    }

    /// All pieces as they are now. What was being gathered is gathered no more, so that the copy shares its bytes.
    pub(super) fn snapshot(&mut self) -> Vec<(u64, Piece)> {
        self.snapshot_of(0..u64::MAX)
    }

    /// The pieces that begin in `range` as they are now.
    pub(super) fn snapshot_of(&mut self, range: Range<u64>) -> Vec<(u64, Piece)> {
        self.pieces
            .range_mut(range)
            .map(|(start, piece)| {
                piece.freeze();
                (*start, piece.part(0, piece.length))
            })
            .collect()
    }

    /// The pieces in `range`, clipped to it, in order, with where they start.
    pub(super) fn parts(&self, range: Range<u64>) -> Vec<(u64, Piece)> {
        if range.is_empty() {
            return Vec::new();
        }
        let first = self.across(range.start).unwrap_or(range.start);
        self.pieces
            .range(first..range.end)
            .map(|(start, piece)| {
                let from = range.start.saturating_sub(*start);
                let to = piece.length.min(range.end - start);
                (start + from, piece.part(from, to))
            })
            .collect()
    }

    /// Runs of memory that touch each other, in order.
    pub(super) fn memory_runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (start, piece) in self.pieces.iter().filter(|(_, piece)| piece.is_memory()) {
            match runs.last_mut() {
                Some(run) if run.end == *start => run.end += piece.length,
                _ => runs.push(*start..*start + piece.length),
            }
        }
        runs
    }

    /// Takes the pieces, or parts of pieces, off `range` that changes up to `stamp` made; gives the ranges they covered.
    pub(super) fn drop_older(&mut self, range: Range<u64>, stamp: u64) -> Vec<Range<u64>> {
        self.split(range.start);
        self.split(range.end);
        let old: Vec<_> = self
            .pieces
            .range(range)
            .filter(|(_, piece)| piece.stamp <= stamp)
            .map(|(start, piece)| *start..start + piece.length)
            .collect();
        for range in &old {
            self.take(range.start);
        }
        old
    }

    /// Takes pieces that are not in memory off `range`, as far as changes up to `stamp` made them.
    pub(super) fn drop_stored(&mut self, range: Range<u64>, stamp: u64) {
        self.split(range.start);
        self.split(range.end);
        let old = self.pieces.range(range).filter(|(_, piece)| piece.stamp <= stamp && !piece.is_memory());
        let old: Vec<u64> = old.map(|(start, _)| *start).collect();
        for start in old {
            self.take(start);
        }
    }

    /// The bytes at `offset` are stored now: puts `stored` where pieces of changes up to its stamp still are.
    pub(super) fn replace(&mut self, offset: u64, stored: &Piece) {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in self.drop_older(offset..offset + stored.length, stored.stamp) {
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        for range in ranges {
            self.add(range.start, stored.part(range.start - offset, range.end - offset));
        }
    }

    /// The ranges of `within` that no piece covers.
    pub(super) fn gaps(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = within.start;
        for (start, piece) in self.parts(within.clone()) {
            if start > at {
                gaps.push(at..start);
            }
            at = start + piece.length;
        }
        if at < within.end {
            gaps.push(at..within.end);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::budget::Budget;
    use super::*;
    use proptest::prelude::*;

    /// The bytes of the overlay over zeros; holes and gaps read as zeros.
    fn bytes(overlay: &Overlay, length: u64) -> Vec<u8> {
        let mut out = vec![0; length as usize];
        for (start, piece) in overlay.parts(0..length) {
            let at = start as usize..(start + piece.length) as usize;
            match &piece.data {
                Data::Growing(bytes) => out[at].copy_from_slice(bytes),
                Data::Memory(bytes) => out[at].copy_from_slice(bytes),
                _ => out[at].fill(0),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn it_shows_the_last_write(ops in prop::collection::vec((0u64..200, 1usize..60, 0u8..6), 1..60)) {
            let budget = Budget::new(1 << 30);
            let mut overlay = Overlay::default();
            let mut model = vec![0u8; 300];
            for (stamp, (offset, length, kind)) in ops.into_iter().enumerate() {
                let stamp = stamp as u64 + 1;
                let at = offset as usize..offset as usize + length;
                match kind {
                    0 => {
                        overlay.put(offset, Piece::hole(length as u64, stamp));
                        model[at].fill(0);
                    }
                    1 => {
                        overlay.clear(offset..offset + length as u64);
                        model[at].fill(0);
                    }
                    2 => drop(overlay.snapshot()),
                    _ => {
                        let data = vec![stamp as u8 | 1; length];
                        model[at].copy_from_slice(&data);
                        overlay.write(offset, data.into(), stamp, budget.try_take(length as u64).unwrap());
                    }
                }
                prop_assert!(bytes(&overlay, 300) == model);
                let memory: u64 = overlay.pieces.values().filter(|p| p.is_memory()).map(|p| p.length).sum();
                prop_assert_eq!(memory, overlay.memory_bytes());
                let mut end = 0;
                for (start, piece) in &overlay.pieces {
                    prop_assert!(*start >= end && piece.length > 0);
                    end = start + piece.length;
                }
            }
            overlay.clear(0..u64::MAX);
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }

    #[test]
    fn what_was_stored_replaces_only_what_it_was_made_from() {
        let budget = Budget::new(1 << 30);
        let mut overlay = Overlay::default();
        overlay.write(0, vec![1; 100].into(), 1, budget.try_take(100).unwrap());
        let _copy = overlay.snapshot();
        overlay.write(40, vec![2; 10].into(), 2, budget.try_take(10).unwrap());
        overlay.replace(0, &Piece::hole(100, 1));
        assert!(overlay.memory_runs().into_iter().eq(std::iter::once(40..50)));
        assert!(overlay.gaps(0..120).into_iter().eq(std::iter::once(100..120)));
        overlay.drop_older(0..u64::MAX, 1);
        assert_eq!(overlay.gaps(0..100), [0..40, 50..100]);
    }
}
