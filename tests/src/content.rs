//! Contents that can be made again from a few words, so that what was written need not be kept to be checked.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// A content: `size` bytes that follow from `seed`. Every fourth seed compresses well, the others not at all.
///
/// Stored with its [`label`](Content::label) as user metadata, so that a reader can tell whether bytes and metadata belong
/// to the same version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Content {
    /// What the bytes follow from.
    pub seed: u64,
    /// Length in bytes.
    pub size: usize,
}

impl Content {
    /// The name of the user metadata that carries the label.
    pub const LABEL: &str = "label";

    /// The content of `seed` and `size`.
    pub fn new(seed: u64, size: usize) -> Content {
        Content { seed, size }
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut bytes = vec![0; self.size];
        if self.seed.is_multiple_of(4) {
            let mut line = [0; 64];
            random.fill_bytes(&mut line);
            for (number, chunk) in bytes.chunks_mut(64).enumerate() {
                let length = chunk.len();
                chunk.copy_from_slice(&line[..length]);
                chunk[0] = number as u8;
            }
        } else {
            random.fill_bytes(&mut bytes);
        }
        bytes
    }

    /// Seed and size as text.
    pub fn label(&self) -> String {
        format!("{}-{}", self.seed, self.size)
    }

    /// The content behind `bytes` that were stored under `label`; an explanation if they don't belong together.
    pub fn recognise(label: &str, bytes: &[u8]) -> Result<Content, String> {
        let parts = label.split_once('-').and_then(|(seed, size)| Some((seed.parse().ok()?, size.parse().ok()?)));
        let (seed, size) = parts.ok_or_else(|| format!("'{label}' is no label of a content"))?;
        let content = Content { seed, size };
        if size != bytes.len() {
            return Err(format!("label {label} on {} bytes", bytes.len()));
        }
        let wanted = content.bytes();
        match wanted.iter().zip(bytes).position(|(a, b)| a != b) {
            None => Ok(content),
            Some(at) => Err(format!("label {label}: byte {at} is not what was written")),
        }
    }
}
