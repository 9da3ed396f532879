//! Which parts of a content are worth cutting anew: a pure function of its extents.
//!
//! A *fragment* is an extent that the bucket's cutter would not have made: a part of a chunk, or a chunk shorter than its least. What is cut anew begins
//! where the cutter began once, at the head of a chunk, and ends where its cuts meet those that are there already, so that the result has the chunks that a streamed
//! upload of the same bytes has. Holes are neither read nor filled.
//!
//! The rule bounds both sides: a stretch with more extents than one for each [`Grain::fragment_bytes`] is cut anew, and none is cut anew for less. So fragments
//! are never much shorter than that on average, and each extent that goes has cost at most that many bytes of writing.

use crate::manifest::{Extent, Source};
use crate::policy::Chunking;
use std::ops::Range;

/// The longest average of fragments that are put together, in bytes. A shorter one leaves more fragments, a longer one writes more for each.
const FRAGMENT_BYTES: u64 = 16 << 10;
/// Fewer extents than this are not worth a pass.
const EXTENTS_MIN: usize = 32;
/// A file is looked at in windows of so many average chunks.
const WINDOW_CHUNKS: u64 = 8;
const WINDOW_BYTES_MIN: u64 = 1 << 20;

/// How a bucket's contents are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grain {
    pub(super) chunking: Chunking,
    /// The shortest chunk that the cutter makes, but for the last of a run.
    least: u64,
    /// The longest.
    most: u64,
}

/// A stretch that is to be cut anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where to begin.
    pub(super) start: u64,
    /// From here on the first cut that meets one that is there already ends it.
    pub(super) end_min: u64,
    /// It ends there whether there is a cut or not.
    pub(super) is_exact: bool,
}

impl Grain {
    pub(super) fn new(chunking: Chunking) -> Grain {
        match chunking {
            Chunking::Content(average) => {
                Grain { chunking, least: u64::from(average) / 4, most: 4 * u64::from(average) }
            }
            Chunking::Fixed(bytes) => Grain { chunking, least: bytes.into(), most: bytes.into() },
        }
    }

    fn average(&self) -> u64 {
        match self.chunking {
            Chunking::Content(bytes) | Chunking::Fixed(bytes) => bytes.into(),
        }
    }

    /// The unit that a file is looked at in, in bytes.
    pub(super) fn window_bytes(&self) -> u64 {
        (self.average() * WINDOW_CHUNKS).max(WINDOW_BYTES_MIN)
    }

    /// What has to be known of a content to decide about a window: some of what lies before it, and of what follows.
    pub(super) fn around(&self, window: &Range<u64>) -> Range<u64> {
        window.start.saturating_sub(self.most)..window.end.saturating_add(2 * self.most)
    }

    /// See the module.
    fn fragment_bytes(&self) -> u64 {
        FRAGMENT_BYTES.min(self.average() / 4)
    }

    /// Whether a stored piece of `length` bytes leaves a fragment.
    pub(super) fn is_short(&self, length: u64) -> bool {
        length < self.least
    }

    /// Whether the cutter may have made the extent.
    pub(super) fn is_whole(&self, start: u64, extent: &Extent) -> bool {
        let is_chunk = |raw: u32| extent.length == u64::from(raw) && u64::from(raw) >= self.least;
        match (extent.source, self.chunking) {
            (Source::Hole, _) => false,
            (Source::Chunk { raw, .. }, Chunking::Content(_)) => is_chunk(raw),
            (Source::Chunk { raw, .. }, Chunking::Fixed(bytes)) => is_chunk(raw) && start.is_multiple_of(bytes.into()),
        }
    }

    fn is_fragment(&self, start: u64, extent: &Extent) -> bool {
        extent.source != Source::Hole && !self.is_whole(start, extent)
    }

    /// Whether the extent begins where the cutter began a chunk.
    fn is_head(&self, extent: &Extent) -> bool {
        matches!(extent.source, Source::Chunk { offset: 0, raw, .. } if u64::from(raw) >= self.least)
    }

    /// What of `window` is to be cut anew first, if anything. `extents` follow each other and cover what is [`Grain::around`] the window.
    pub(super) fn worn(&self, extents: &[(u64, Extent)], window: &Range<u64>) -> Option<Stretch> {
        let is_fragment = |(start, extent): &(u64, Extent)| self.is_fragment(*start, extent);
        let mut rest = extents;
        while let Some(first) = rest.iter().position(is_fragment) {
            let run = rest.get(first..).unwrap_or_default();
            let length = run.iter().position(|one| !is_fragment(one)).unwrap_or(run.len());
            let (run, behind) = run.split_at_checked(length).unwrap_or_default();
            // What ends at a hole, or at the end, need not meet anything.
            let meets = behind.first().is_some_and(|(_, extent)| extent.source != Source::Hole);
            let stretch = self.tiny(run, window).or_else(|| self.long(extents, run, window, meets));
            if stretch.is_some() {
                return stretch;
            }
            rest = behind;
        }
        None
    }

    /// Pieces that are tiny beside what they lie behind, as appended lines are: they are put together by themselves, so that not all that is behind the last cut
    /// is written again for a few of them. The result is short enough to be put together with its like later.
    fn tiny(&self, run: &[(u64, Extent)], window: &Range<u64>) -> Option<Stretch> {
        let tiny_bytes = self.fragment_bytes() / EXTENTS_MIN as u64;
        let mut rest = run;
        while let Some(first) = rest.iter().position(|(_, extent)| extent.length < tiny_bytes) {
            let tiny = rest.get(first..).unwrap_or_default();
            let length = tiny.iter().position(|(_, extent)| extent.length >= tiny_bytes).unwrap_or(tiny.len());
            let (tiny, behind) = tiny.split_at_checked(length).unwrap_or_default();
            for some in tiny.chunks(EXTENTS_MIN).filter(|some| some.len() == EXTENTS_MIN) {
                if let (Some((start, _)), Some((last, extent))) = (some.first(), some.last())
                    && window.contains(start)
                {
                    return Some(Stretch { start: *start, end_min: last + extent.length, is_exact: true });
                }
            }
            rest = behind;
        }
        None
    }

    /// As much of a run of fragments as is in the window, from the head of the chunk that its first belongs to.
    fn long(
        &self,
        extents: &[(u64, Extent)],
        run: &[(u64, Extent)],
        window: &Range<u64>,
        meets: bool,
    ) -> Option<Stretch> {
        let inside = run.iter().position(|(start, extent)| start + extent.length > window.start)?;
        let (before, _) = run.split_at_checked(inside + 1)?;
        let head = before.iter().rposition(|(_, extent)| self.is_head(extent));
        // What is known may begin in the middle of the run.
        let is_all = run.first().map(|(start, _)| *start) != extents.first().map(|(start, _)| *start)
            || run.first().is_some_and(|(start, _)| *start == 0);
        let first = head.unwrap_or(if is_all { 0 } else { inside });
        let taken: Vec<_> = run.get(first..)?.iter().take_while(|(start, _)| *start < window.end).copied().collect();
        let ((mut start, _), (last, extent)) = (*taken.first()?, *taken.last()?);
        let end_min = last + extent.length;
        if start >= window.end || taken.len() < EXTENTS_MIN {
            return None;
        }
        if let Chunking::Fixed(bytes) = self.chunking {
            // From a boundary on, if there is nothing but data since.
            let boundary = start - start % u64::from(bytes);
            let holes = extents.iter().filter(|(_, extent)| extent.source == Source::Hole);
            let clear = holes.map(|(start, hole)| start + hole.length).filter(|end| *end <= start).max();
            let known = extents.first().map_or(0, |(start, _)| *start);
            start = boundary.max(clear.unwrap_or(0)).max(known).min(start);
        }
        let bytes = end_min - start + if meets { self.average() } else { 0 };
        let is_worn = bytes <= (taken.len() as u64).saturating_mul(self.fragment_bytes());
        is_worn.then_some(Stretch { start, end_min, is_exact: false })
    }

    /// Whether a cut at `at` ends a stretch that must reach `end_min`: there is a cut already, or it lies in what is a fragment anyway.
    pub(super) fn ends(&self, extents: &[(u64, Extent)], at: u64, end_min: u64) -> bool {
        let index = extents.partition_point(|(start, extent)| start + extent.length <= at);
        at >= end_min
            && extents.get(index).is_none_or(|(start, extent)| *start == at || self.is_fragment(*start, extent))
    }
}

/// Whether `piece`, which starts at `start`, shows the bytes that `extents` show there, from the same place.
pub(super) fn is_as_before(extents: &[(u64, Extent)], start: u64, piece: &Extent) -> bool {
    let index = extents.partition_point(|(at, extent)| at + extent.length <= start);
    let Some((at, extent)) = extents.get(index) else { return false };
    start
        .checked_sub(*at)
        .and_then(|from| extent.part(from, from.saturating_add(piece.length)))
        .is_some_and(|part| part == *piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    const AVERAGE: u32 = 256 << 10;

    fn grain() -> Grain {
        Grain::new(Chunking::Content(AVERAGE))
    }

    fn id(n: usize) -> ChunkId {
        ChunkId::of(&n.to_le_bytes())
    }

    /// Extents one after the other.
    fn laid(extents: &[Extent]) -> Vec<(u64, Extent)> {
        let mut at = 0;
        extents
            .iter()
            .map(|extent| {
                at += extent.length;
                (at - extent.length, *extent)
            })
            .collect()
    }

    /// Chunks of the average length, the one in the middle with `count` pieces of 4 KiB evenly in it.
    fn written(count: u64) -> Vec<(u64, Extent)> {
        let whole = |n| Extent::chunk(id(n), AVERAGE);
        let mut extents: Vec<Extent> = (0..4).map(whole).collect();
        let step = u64::from(AVERAGE) * 4 / count;
        for n in 0..count {
            extents.push(Extent::chunk(id(1000 + n as usize), 4096));
            let (old, from) = (whole(4 + (n * step / u64::from(AVERAGE)) as usize), n * step % u64::from(AVERAGE));
            extents.extend(old.part(from + 4096, from + step));
        }
        extents.extend((20..24).map(whole));
        laid(&extents)
    }

    #[test]
    fn a_stretch_is_worn_when_its_extents_are_short() {
        let grain = grain();
        let window = 0..grain.window_bytes();
        assert_eq!(grain.worn(&written(8), &window), None, "few extents");
        assert_eq!(grain.worn(&written(32), &window), None, "long extents");
        let extents = written(64);
        let stretch = grain.worn(&extents, &window).unwrap();
        let (start, end) = (4 * u64::from(AVERAGE), 8 * u64::from(AVERAGE));
        assert_eq!(stretch, Stretch { start, end_min: end, is_exact: false });
        assert!(grain.ends(&extents, end, end) && !grain.ends(&extents, end + 1, end), "only at the next chunk");
        assert!(!grain.ends(&extents, start + 1, end));
        assert_eq!(grain.worn(&written(128), &(1 << 40..1 << 41)), None, "another window");
    }

    #[test]
    fn it_begins_at_the_head_of_a_chunk() {
        let whole = Extent::chunk(id(1), AVERAGE);
        let mut extents = vec![whole, whole.part(0, 100_000).unwrap()];
        for n in 0..60 {
            extents.push(Extent::chunk(id(100 + n), 2048));
        }
        extents.push(whole.part(222_880, AVERAGE.into()).unwrap());
        let window = u64::from(AVERAGE) + 110_000..1 << 30;
        let stretch = grain().worn(&laid(&extents), &window).unwrap();
        assert_eq!(stretch.start, u64::from(AVERAGE), "not in the middle of the chunk");
    }

    #[test]
    fn holes_end_it_and_are_not_part_of_it() {
        let mut extents = vec![Extent::hole(1 << 20)];
        (0..40).for_each(|n| extents.push(Extent::chunk(id(n), 4096)));
        extents.push(Extent::hole(4096));
        (0..40).for_each(|n| extents.push(Extent::chunk(id(n + 100), 4096)));
        for chunking in [Chunking::Content(AVERAGE), Chunking::Fixed(64 << 10)] {
            let extents = laid(&extents);
            let stretch = Grain::new(chunking).worn(&extents, &(0..1 << 21)).unwrap();
            assert_eq!((stretch.start, stretch.end_min), (1 << 20, (1 << 20) + 40 * 4096));
        }
        let alternating: Vec<_> = (0..200).flat_map(|n| [Extent::chunk(id(n), 4096), Extent::hole(4096)]).collect();
        assert_eq!(grain().worn(&laid(&alternating), &(0..1 << 21)), None);
    }

    #[test]
    fn lines_are_put_together_by_themselves() {
        let mut extents = vec![Extent::chunk(id(0), AVERAGE), Extent::chunk(id(1), 60_000)];
        (0..40).for_each(|n| extents.push(Extent::chunk(id(2 + n), 100)));
        let start = u64::from(AVERAGE) + 60_000;
        let stretch = grain().worn(&laid(&extents), &(0..1 << 21)).unwrap();
        assert_eq!(stretch, Stretch { start, end_min: start + 3200, is_exact: true });
        assert_eq!(grain().worn(&laid(&extents[..30]), &(0..1 << 21)), None);
    }

    #[test]
    fn fixed_chunks_are_cut_from_their_boundaries() {
        let grain = Grain::new(Chunking::Fixed(64 << 10));
        let whole = Extent::chunk(id(1), 64 << 10);
        let mut extents = vec![whole, whole.part(0, 20_000).unwrap()];
        (0..60).for_each(|n| extents.push(Extent::chunk(id(2 + n), 2000)));
        extents.push(whole.part(10_000, 64 << 10).unwrap());
        let stretch = grain.worn(&laid(&extents), &(0..1 << 20)).unwrap();
        assert_eq!(stretch.start, 64 << 10);
        let small = Grain::new(Chunking::Fixed(4096));
        let blocks: Vec<_> = (0..500).map(|n| Extent::chunk(id(n), 4096)).collect();
        assert_eq!(small.worn(&laid(&blocks), &(0..1 << 20)), None, "they are as they should be");
    }

    #[test]
    fn what_changed_meanwhile_is_told_from_what_did_not() {
        let whole = Extent::chunk(id(1), AVERAGE);
        let extents = laid(&[whole, Extent::hole(4096), Extent::chunk(id(2), 4096)]);
        assert!(is_as_before(&extents, 1000, &whole.part(1000, 2000).unwrap()));
        assert!(!is_as_before(&extents, 1000, &whole.part(1001, 2000).unwrap()));
        assert!(!is_as_before(&extents, 1000, &Extent::chunk(id(3), 100)));
        assert!(!is_as_before(&extents, u64::from(AVERAGE), &Extent::hole(8192)), "more than there was");
        assert!(!is_as_before(&extents, 1 << 30, &whole));
    }
}
