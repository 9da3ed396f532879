//! What a batch of the journal says of its place in the order of commits, and the key that vouches for it.
//!
//! The key is in `journal.key` beside the journals: `TBJK`, the version 1, 32 random bytes, and the first 8 bytes of the BLAKE3 hash of all that.

use crate::durable::write_durably;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::io;
use std::path::Path;

/// The row in which each batch carries its mark.
pub const MARK_KEY: &[u8] = b"tombolo: number of this batch and of the last synced one";
/// A mark with its tag, in bytes.
pub(super) const MARK_BYTES: usize = 32;
/// A mark as it was written before there were tags.
const UNTAGGED_BYTES: usize = 16;

const KEY_NAME: &str = "journal.key";
const KEY_MAGIC: &[u8] = b"TBJK\x01";
const KEY_HASH_BYTES: usize = 8;

/// The place of a batch in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Number of the batch, from 1.
    pub number: u64,
    /// Number of the last batch that was synced when this one was written.
    pub synced: u64,
}

impl Mark {
    fn numbers(self) -> [u8; UNTAGGED_BYTES] {
        (u128::from(self.synced) << 64 | u128::from(self.number)).to_le_bytes()
    }

    /// Its numbers and a tag.
    pub fn encode(self, key: &MarkKey) -> Bytes {
        let numbers = self.numbers();
        [numbers, key.tag(&numbers)].concat().into()
    }

    /// Its numbers, whoever wrote them.
    pub(super) fn decode(value: &[u8]) -> Option<Mark> {
        let numbers = match value.len() {
            UNTAGGED_BYTES | MARK_BYTES => u128::from_le_bytes(*value.first_chunk()?),
            _ => return None,
        };
        Some(Mark { number: numbers as u64, synced: (numbers >> 64) as u64 })
    }
}

/// What the marks of one store are tagged with. It is in no batch, so nobody can write contents that look like one.
#[derive(Clone, PartialEq, Eq)]
pub struct MarkKey([u8; 32]);

impl From<[u8; 32]> for MarkKey {
    fn from(key: [u8; 32]) -> Self {
        MarkKey(key)
    }
}

impl MarkKey {
    pub(super) fn random() -> MarkKey {
        MarkKey(rand::random())
    }

    /// That of the store in `dir`, `None` if it has none: it is new, or was last written before there were tags.
    pub(super) fn read(dir: &Path) -> Result<Option<MarkKey>> {
        let path = dir.join(KEY_NAME);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("{} can't be read", path.display()), error)),
        };
        let key = content.strip_prefix(KEY_MAGIC).and_then(|rest| {
            let (key, hash) = rest.split_first_chunk()?;
            let key = MarkKey(*key);
            (hash == key.hash()).then_some(key)
        });
        key.map(Some).ok_or_else(|| {
            Error::damaged(format!(
                "{} is damaged, or of another version; without the file the store opens with less protection against damage of its journal",
                path.display()
            ))
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        write_durably(dir, KEY_NAME, &[KEY_MAGIC, &self.0, &self.hash()].concat())
    }

    fn hash(&self) -> [u8; KEY_HASH_BYTES] {
        let [h0, h1, h2, h3, h4, h5, h6, h7, ..] = *blake3::hash(&[KEY_MAGIC, &self.0].concat()).as_bytes();
        [h0, h1, h2, h3, h4, h5, h6, h7]
    }

    fn tag(&self, numbers: &[u8; UNTAGGED_BYTES]) -> [u8; MARK_BYTES - UNTAGGED_BYTES] {
        let hash = blake3::keyed_hash(&self.0, numbers);
        let mut tag = [0; MARK_BYTES - UNTAGGED_BYTES];
        hash.as_bytes().iter().zip(&mut tag).for_each(|(from, to)| *to = *from);
        tag
    }

    /// Whether it was this store that wrote the mark.
    pub(super) fn vouches_for(&self, mark: &[u8]) -> bool {
        mark.split_first_chunk().is_some_and(|(numbers, tag)| tag == self.tag(numbers))
    }
}
