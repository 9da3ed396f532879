//! Data to store: incompressible, never the same twice, made ahead so that making it is not measured.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// The size of a piece, in bytes: what a network read or a file read hands to the engine.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Makes pieces one after the other.
pub(crate) struct Source(StdRng);

impl Source {
    pub(crate) fn new(seed: u64) -> Source {
        Source(StdRng::seed_from_u64(seed))
    }

    /// The next `size` bytes.
    pub(crate) fn piece(&mut self, size: usize) -> Bytes {
        let mut piece = vec![0; size];
        self.0.fill_bytes(&mut piece);
        piece.into()
    }

    /// `mib` pieces of 1 MiB, held in memory.
    pub(crate) fn pieces(&mut self, mib: u64) -> Vec<Bytes> {
        (0..mib).map(|_| self.piece(PIECE_BYTES)).collect()
    }
}
