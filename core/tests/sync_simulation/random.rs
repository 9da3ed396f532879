//! SplitMix64: small, and the same for ever.

use parking_lot::Mutex;
use tombolo_core::Entropy;

pub struct Random(u64);

impl Random {
    /// The choices of one step of one seed, whatever the steps before it drew: leaving steps out changes nothing about the others.
    pub fn of_step(seed: u64, step: u32) -> Random {
        let mut random = Random(seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(step) << 32));
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or_default()
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

/// Ids from a seed.
pub struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(Random::of_step(seed, u32::MAX)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        let mut random = self.0.lock();
        for piece in out.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}
