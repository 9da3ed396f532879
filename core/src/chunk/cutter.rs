//! Cutting a stream of bytes into chunks.
//!
//! Content-defined cutting is FastCDC in its 2020 form ("The Design of Fast Content-Defined Chunking for Data
//! Deduplication Based Storage Systems", Xia et al., IEEE TPDS 2020) with the parameters of the crate `fastcdc`, module `v2020`: where it
//! cuts is compared with that crate in the tests. The scan here is our own because that crate's starts from the chunk's
//! first byte at every call, while this one goes on where the last piece ended: every byte is looked at once, and none
//! is copied to be looked at.

use crate::policy::Chunking;
use bytes::Bytes;
use fastcdc::v2020::{Normalization, select_masks};
use md5::{Digest, Md5};
use std::sync::LazyLock;

/// Names fixed-size cutting where a chunker is stored.
pub const CHUNKER_FIXED: u8 = 1;
/// Names FastCDC 2020, normalization level 1, least a quarter and most four times the average, where a chunker is stored.
pub const CHUNKER_FASTCDC_2020: u8 = 2;

/// Cuts a stream into chunks. Where it cuts depends on the bytes alone, not on how they are pushed.
pub struct Cutter {
    rule: Rule,
    /// The chunk at hand, if it began in an earlier piece.
    partial: Vec<u8>,
}

enum Rule {
    Fixed(usize),
    Content(Scanner),
}

impl Cutter {
    /// A cutter for a bucket's policy.
    pub fn new(chunking: Chunking) -> Cutter {
        let rule = match chunking {
            Chunking::Fixed(bytes) => Rule::Fixed((bytes as usize).max(1)),
            Chunking::Content(average) => Rule::Content(Scanner::new(average as usize)),
        };
        Cutter { rule, partial: Vec::new() }
    }

    /// What to store for this way of cutting.
    pub fn chunker(&self) -> u8 {
        match self.rule {
            Rule::Fixed(_) => CHUNKER_FIXED,
            Rule::Content(_) => CHUNKER_FASTCDC_2020,
        }
    }

    /// Takes the next piece of the stream; gives the chunks that end in it, in order. A chunk that lies inside `data`
    /// shares its memory; others are copied once.
    pub fn push(&mut self, mut data: Bytes) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while !data.is_empty() {
            let length = self.partial.len();
            let end = match &mut self.rule {
                Rule::Fixed(bytes) => (length + data.len() >= *bytes).then(|| *bytes - length),
                Rule::Content(scanner) => scanner.feed(&data),
            };
            match end {
                Some(end) if self.partial.is_empty() => chunks.push(data.split_to(end)),
                Some(end) => {
                    self.partial.extend_from_slice(&data.split_to(end));
                    chunks.push(self.take_partial());
                }
                None => {
                    self.partial.extend_from_slice(&data);
                    break;
                }
            }
        }
        chunks
    }

    /// Ends the stream; gives the rest, if there is any. The cutter can be used for another stream then.
    pub fn finish(&mut self) -> Option<Bytes> {
        if let Rule::Content(scanner) = &mut self.rule {
            scanner.restart();
        }
        (!self.partial.is_empty()).then(|| self.take_partial())
    }

    fn take_partial(&mut self) -> Bytes {
        // Without the slack of a growing vector, so that a chunk in memory takes what it counts.
        Bytes::from(std::mem::take(&mut self.partial).into_boxed_slice())
    }
}

/// FastCDC over a stream, one piece at a time.
struct Scanner {
    table: &'static [u64; 256],
    least: usize,
    average: usize,
    most: usize,
    /// Tested up to the average, and from there on. The low bit of each is 0.
    strict: u64,
    loose: u64,
    /// Length of the chunk so far.
    position: usize,
    hash: u64,
}

/// The gear table: the first 8 bytes of MD5 of 64 times the same byte.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let digest = Md5::digest([byte as u8; 64]);
        digest.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
    })
});

impl Scanner {
    fn new(average: usize) -> Scanner {
        let (strict, loose) = select_masks(average, Normalization::Level1);
        let (least, most) = (average / 4, average * 4);
        Scanner { table: &GEAR, least, average, most, strict, loose, position: 0, hash: 0 }
    }

    fn restart(&mut self) {
        self.position = 0;
        self.hash = 0;
    }

    /// Looks at the next bytes. If the chunk ends before or right after the last of them, gives how many belong to it and starts
    /// the next; else remembers where it is.
    fn feed(&mut self, data: &[u8]) -> Option<usize> {
        let start = self.position;
        let mut taken = 0;
        // Bytes before the least length are not looked at; after it come a strict stretch and a loose one.
        for (limit, mask) in [(self.least, None), (self.average, Some(self.strict)), (self.most, Some(self.loose))] {
            let rest = data.get(taken..).unwrap_or_default();
            let stretch = rest.get(..limit.saturating_sub(self.position).min(rest.len())).unwrap_or_default();
            let cut = mask.and_then(|mask| self.roll(stretch, mask));
            if let Some(cut) = cut {
                self.restart();
                return Some(taken + cut);
            }
            taken += stretch.len();
            self.position = start + taken;
        }
        if self.position < self.most {
            return None;
        }
        self.restart();
        Some(taken)
    }

    /// Rolls the hash over `bytes`; stops before the first one that makes the hash match `mask`.
    fn roll(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        let table = self.table;
        let gear = |byte: u8| table.get(usize::from(byte)).copied().unwrap_or_default();
        let mut hash = self.hash;
        let (quads, tail) = bytes.as_chunks::<4>();
        for (index, &[a, b, c, d]) in quads.iter().enumerate() {
            // Sums that don't need the old hash come first: the chain from one hash to the next is what bounds the speed.
            let one = gear(a);
            let two = (one << 1).wrapping_add(gear(b));
            let three = (two << 1).wrapping_add(gear(c));
            let four = (three << 1).wrapping_add(gear(d));
            let hashes = [
                (hash << 1).wrapping_add(one),
                (hash << 2).wrapping_add(two),
                (hash << 3).wrapping_add(three),
                (hash << 4).wrapping_add(four),
            ];
            if let Some(first) = hashes.iter().position(|hash| hash & mask == 0) {
                return Some(index * 4 + first);
            }
            let [.., last] = hashes;
            hash = last;
        }
        for (index, byte) in tail.iter().enumerate() {
            hash = (hash << 1).wrapping_add(gear(*byte));
            if hash & mask == 0 {
                return Some(quads.len() * 4 + index);
            }
        }
        self.hash = hash;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::FastCDC;
    use proptest::prelude::*;

    /// Noise with stretches of zeros in it, which are cut at the greatest length.
    fn sample(seed: u64, length: usize) -> Bytes {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        if seed.is_multiple_of(3) {
            bytes[length / 3..length / 2].fill(0);
        }
        Bytes::from(bytes)
    }

    fn cut(chunking: Chunking, data: &Bytes, pieces: &[usize]) -> Vec<Bytes> {
        let mut cutter = Cutter::new(chunking);
        let mut chunks = Vec::new();
        let mut rest = data.clone();
        for piece in pieces.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            chunks.extend(cutter.push(rest.split_to(piece.min(rest.len()))));
        }
        chunks.extend(cutter.finish());
        assert_eq!(cutter.finish(), None);
        chunks
    }

    #[test]
    fn it_cuts_where_the_fastcdc_crate_cuts() {
        for (seed, average) in [(1, 65_536), (2, 262_144), (3, 65_536), (4, 1 << 20), (5, 131_072), (6, 524_288)] {
            let data = sample(seed, 24 * average + 12_345);
            let chunks = cut(Chunking::Content(average as u32), &data, &[data.len()]);
            let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
            let expected: Vec<_> = FastCDC::new(&data, average / 4, average, average * 4).map(|c| c.length).collect();
            assert_eq!(lengths, expected, "average {average}");
            assert_eq!(chunks.concat(), data);
        }
    }

    #[test]
    fn fixed_chunks_are_all_as_long_but_the_last() {
        let data = sample(1, 10_000);
        let chunks = cut(Chunking::Fixed(4096), &data, &[10_000]);
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [4096, 4096, 1808]);
        assert_eq!(chunks[0].as_ptr(), data.as_ptr(), "no copy");
        assert_eq!(cut(Chunking::Fixed(5000), &data, &[7]).len(), 2, "nothing is left at a boundary");
        assert!(Cutter::new(Chunking::Fixed(4096)).finish().is_none());
    }

    #[test]
    fn a_change_moves_few_cuts() {
        let data = sample(7, 4 << 20);
        let edited = Bytes::from([&data[..2 << 20], b"inserted", &data[2 << 20..]].concat());
        let (old, new) = [&data, &edited].map(|d| cut(Chunking::Content(65_536), d, &[1 << 20])).into();
        let kept = new.iter().filter(|chunk| old.contains(chunk)).count();
        assert!(new.len() - kept <= 2, "{kept} of {} kept", new.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn cuts_do_not_depend_on_the_pieces(
            seed in 0u64..1000,
            length in 0usize..1_000_000,
            pieces in prop::collection::vec(1usize..200_000, 1..12),
            fixed in any::<bool>(),
        ) {
            let data = sample(seed, length);
            let chunking = if fixed { Chunking::Fixed(8192) } else { Chunking::Content(65_536) };
            let whole = cut(chunking, &data, &[length.max(1)]);
            prop_assert!(cut(chunking, &data, &pieces) == whole);
            prop_assert_eq!(whole.concat(), data);
        }
    }
}
