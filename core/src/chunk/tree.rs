//! BLAKE3's own tree over a chunk, down to groups of [`GROUP_BYTES`]. A chunk's id is the root of that tree; so with the hashes of the groups at hand a part of the
//! chunk proves itself without the rest, and who reads a page of a large file does not pay for the quarter MiB around it.

use crate::error::{Error, Result};
use crate::id::ChunkId;
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::ops::Range;

/// What one hash of the tree stands for, in bytes. A power of two, and a multiple of BLAKE3's own 1 KiB.
pub(super) const GROUP_BYTES: usize = 32 << 10;
/// Chunks longer than this have their tree stored, in bytes: below there is little to spare.
pub(super) const TREE_BYTES_MIN: usize = 2 * GROUP_BYTES;
/// Length of one hash.
const HASH_BYTES: usize = 32;

type Hash = [u8; HASH_BYTES];

/// A chunk's id, and the hashes of its groups, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTree {
    /// The id of the chunk.
    pub id: ChunkId,
    groups: Vec<Hash>,
}

impl ChunkTree {
    /// The tree over `raw`: costs little more than its id does.
    pub fn of(raw: &[u8]) -> ChunkTree {
        if raw.len() <= GROUP_BYTES {
            return ChunkTree { id: ChunkId::of(raw), groups: Vec::new() };
        }
        let groups: Vec<Hash> =
            raw.chunks(GROUP_BYTES).enumerate().map(|(index, group)| hash_group(index, group)).collect();
        ChunkTree { id: ChunkId(root(&groups)), groups }
    }

    /// Length of a stored tree over `raw` bytes, in bytes.
    pub(super) fn stored_bytes(raw: u32) -> usize {
        (raw as usize).div_ceil(GROUP_BYTES) * HASH_BYTES
    }

    /// The hashes, one after the other, as they are stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.groups.concat()
    }

    /// Reads what [`ChunkTree::encode`] wrote for the chunk `id` of `raw` bytes: `Damaged` unless its root is the id.
    pub(super) fn decode(stored: &[u8], id: &ChunkId, raw: u32) -> Result<ChunkTree> {
        let (groups, rest) = stored.as_chunks::<HASH_BYTES>();
        let is_whole = rest.is_empty() && stored.len() == ChunkTree::stored_bytes(raw) && groups.len() > 1;
        if !is_whole || root(groups) != id.0 {
            return Err(Error::damaged("the hashes of its parts do not match its id"));
        }
        Ok(ChunkTree { id: *id, groups: groups.to_vec() })
    }

    /// The groups that `part` of a chunk of `raw` bytes lies in, as a range of bytes.
    pub(super) fn around(part: &Range<u32>, raw: u32) -> Range<u32> {
        let group = GROUP_BYTES as u32;
        part.start / group * group..part.end.div_ceil(group).saturating_mul(group).min(raw)
    }

    /// Whether `bytes`, which begin at the chunk's byte `start`, the start of a group, and end with a group, are the chunk's.
    pub(super) fn has(&self, start: u32, bytes: &[u8]) -> bool {
        let first = start as usize / GROUP_BYTES;
        let mut groups = bytes.chunks(GROUP_BYTES).zip(first..);
        groups.all(|(group, index)| self.groups.get(index) == Some(&hash_group(index, group)))
    }
}

/// The hash of group number `index`, which is one of several.
fn hash_group(index: usize, group: &[u8]) -> Hash {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index as u64 * GROUP_BYTES as u64).update(group);
    hasher.finalize_non_root()
}

/// The root over two or more groups.
fn root(groups: &[Hash]) -> Hash {
    let (left, right) = halves(groups);
    *merge_subtrees_root(&inner(left), &inner(right), Mode::Hash).as_bytes()
}

/// The hash of an inner part of the tree; of none: what matches nothing.
fn inner(groups: &[Hash]) -> Hash {
    match groups {
        [] => Hash::default(),
        [one] => *one,
        more => {
            let (left, right) = halves(more);
            merge_subtrees_non_root(&inner(left), &inner(right), Mode::Hash)
        }
    }
}

/// The left half is the largest power of two that leaves something for the right one.
fn halves(groups: &[Hash]) -> (&[Hash], &[Hash]) {
    groups.split_at((groups.len().next_power_of_two() / 2).min(groups.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_root_is_the_id_and_each_part_proves_itself() {
        let all = noise(1_000_000);
        for length in [1, 1024, GROUP_BYTES, GROUP_BYTES + 1, 65_536, 65_537, 98_304, 262_144, 300_001, 999_999] {
            let raw = &all[..length];
            let tree = ChunkTree::of(raw);
            assert_eq!(tree.id, ChunkId::of(raw), "{length}");
            if length <= GROUP_BYTES {
                continue;
            }
            let stored = tree.encode();
            assert_eq!(ChunkTree::decode(&stored, &tree.id, length as u32).unwrap(), tree);
            for at in (0..length as u32).step_by(10_007) {
                let part = at..(at + 5000).min(length as u32);
                let around = ChunkTree::around(&part, length as u32);
                assert!(around.start <= part.start && around.end >= part.end);
                let mut bytes = raw[around.start as usize..around.end as usize].to_vec();
                assert!(tree.has(around.start, &bytes), "{length} at {at}");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                assert!(!tree.has(around.start, &bytes));
                bytes[middle] ^= 1;
                assert!(!tree.has(around.start + GROUP_BYTES as u32, &bytes), "a group elsewhere");
                assert!(
                    bytes.len() % GROUP_BYTES == 1 || !tree.has(around.start, &bytes[..bytes.len() - 1]),
                    "a group cut short"
                );
            }
        }
    }

    #[test]
    fn a_tree_that_is_not_the_chunks_is_refused() {
        let raw = noise(200_000);
        let tree = ChunkTree::of(&raw);
        let stored = tree.encode();
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 4;
            assert!(ChunkTree::decode(&flipped, &tree.id, 200_000).is_err());
        }
        assert!(ChunkTree::decode(&stored[..stored.len() - 32], &tree.id, 200_000).is_err());
        assert!(ChunkTree::decode(&stored, &tree.id, 300_000).is_err());
        assert!(ChunkTree::decode(&[], &tree.id, 0).is_err());
        assert!(ChunkTree::decode(&stored[..32], &tree.id, 1).is_err(), "one group has no tree");
    }
}
