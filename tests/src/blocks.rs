//! A file of blocks that are written again and again, and what may be read of it: which write a block is of can be told from its bytes.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::sync::Mutex;

/// How far the writes of one block are: the last that was begun, that was done, and that is known to be kept. The first is 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct At {
    /// Somebody writes it, or has.
    pub begun: u64,
    /// The write has returned.
    pub written: u64,
    /// And an fsync after it.
    pub saved: u64,
}

/// What was written to a file, block by block. For one writer and any number of readers.
pub struct Blocks(Vec<Mutex<At>>);

impl Blocks {
    /// The length of a block.
    pub const BYTES: usize = 4096;

    /// A file of so many blocks that nobody has written yet.
    pub fn new(count: usize) -> Blocks {
        Blocks((0..count).map(|_| Mutex::default()).collect())
    }

    /// A file that holds these bytes.
    pub fn with(bytes: &[u8]) -> Blocks {
        let blocks = Blocks::new(bytes.len() / Blocks::BYTES);
        for (number, bytes) in bytes.chunks(Blocks::BYTES).enumerate() {
            let found = Blocks::generation(number, bytes, "a file that was there");
            *blocks.0[number].lock().expect("no panic") = At { begun: found, written: found, saved: found };
        }
        blocks
    }

    /// Where a block begins.
    pub fn offset(number: usize) -> u64 {
        (number * Blocks::BYTES) as u64
    }

    /// The length of the file.
    pub fn bytes(&self) -> usize {
        self.0.len() * Blocks::BYTES
    }

    fn content(number: usize, generation: u64) -> Vec<u8> {
        let mut bytes = vec![0; Blocks::BYTES];
        StdRng::seed_from_u64(((number as u64) << 32) ^ generation).fill_bytes(&mut bytes);
        bytes[..8].copy_from_slice(&generation.to_le_bytes());
        bytes
    }

    /// Which write of a block `bytes` are. Panics if they are not those of any.
    pub fn generation(number: usize, bytes: &[u8], who: &str) -> u64 {
        assert_eq!(bytes.len(), Blocks::BYTES, "{who}: block {number} is cut short");
        let generation = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        assert!(bytes == Blocks::content(number, generation), "{who}: block {number} holds what nobody wrote");
        generation
    }

    /// How far the writes of a block are.
    pub fn at(&self, number: usize) -> At {
        *self.0[number].lock().expect("no panic")
    }

    /// A write begins: of these bytes.
    pub fn begin(&self, number: usize) -> Vec<u8> {
        let mut at = self.0[number].lock().expect("no panic");
        at.begun += 1;
        Blocks::content(number, at.begun)
    }

    /// It has returned.
    pub fn written(&self, number: usize) {
        let mut at = self.0[number].lock().expect("no panic");
        at.written = at.begun;
    }

    /// An fsync after it has returned.
    pub fn saved(&self, number: usize) {
        let mut at = self.0[number].lock().expect("no panic");
        at.saved = at.written;
    }

    /// All bytes as they were written last, while nobody writes.
    pub fn all(&self) -> Vec<u8> {
        (0..self.0.len()).flat_map(|number| Blocks::content(number, self.at(number).written)).collect()
    }

    /// `bytes` is the file after a crash: of each block what was saved last, or a later write. That is what it holds from now on.
    pub fn survived(&self, bytes: &[u8], when: &str) {
        assert_eq!(bytes.len(), self.bytes(), "{when}: the file's length");
        for (number, bytes) in bytes.chunks(Blocks::BYTES).enumerate() {
            let found = Blocks::generation(number, bytes, when);
            let At { begun, saved, .. } = self.at(number);
            assert!((saved..=begun).contains(&found), "{when}: block {number} is at {found}, not in {saved}..={begun}");
            *self.0[number].lock().expect("no panic") = At { begun, written: found, saved: found };
        }
    }
}
