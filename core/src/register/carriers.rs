//! [`Carriers`]: who carries a bucket, and up to where each is known to have it on its disk.

use super::codec::{put_varint, take_array, take_varint};
use super::vector::VersionVector;
use crate::error::{Error, Result};
use crate::id::SegmentId;
use std::collections::BTreeMap;

const FORMAT: u8 = 1;

/// What is known of one segment that carries a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carrier {
    /// How often it was forgotten and came back; odd: it is forgotten now, and nobody waits for it.
    pub turns: u64,
    /// All changes up to here are on its disk, or were dropped there after everybody had them.
    pub vector: VersionVector,
}

impl Carrier {
    /// The most that a decoded table has of them.
    pub const TURNS_MAX: u64 = 1 << 40;

    /// Whether an operator has declared it gone, and it has not come back.
    pub fn is_forgotten(&self) -> bool {
        self.turns % 2 == 1
    }
}

/// Who carries a bucket. Merging takes the highest of everything, so tables may come late, twice and by any way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carriers(BTreeMap<SegmentId, Carrier>);

impl Carriers {
    /// The most segments of a decoded table.
    pub const MAX: usize = 4096;
    /// The longest binary form that is to be kept, in bytes.
    pub const BYTES_MAX: usize = 16 << 20;

    /// Whether it is small enough to be kept, whoever sent what was merged into it.
    pub fn fits(&self) -> bool {
        let vectors = self.0.values().map(|carrier| carrier.vector.len());
        let bytes: usize = self.0.values().map(|carrier| 32 + 26 * carrier.vector.len()).sum();
        self.0.len() <= Self::MAX
            && bytes <= Self::BYTES_MAX
            && vectors.max().unwrap_or(0) <= VersionVector::SEGMENTS_MAX
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&SegmentId, &Carrier)> {
        self.0.iter()
    }

    /// What is known of `segment`.
    pub fn get(&self, segment: &SegmentId) -> Option<&Carrier> {
        self.0.get(segment)
    }

    /// The same, to be changed; a segment that is not listed becomes so.
    pub fn entry(&mut self, segment: SegmentId) -> &mut Carrier {
        self.0.entry(segment).or_default()
    }

    /// Takes in another table; returns whether that changed anything.
    pub fn merge(&mut self, other: &Carriers) -> bool {
        let mut changed = false;
        for (segment, theirs) in &other.0 {
            changed |= !self.0.contains_key(segment);
            let ours = self.entry(*segment);
            changed |= ours.vector.merge(&theirs.vector) | (theirs.turns > ours.turns);
            ours.turns = ours.turns.max(theirs.turns);
        }
        changed
    }

    /// Binary form: format (1), a varint count, then for each segment its 16 bytes, its turns as a varint, and its vector.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_varint(out, self.0.len() as u64);
        for (segment, carrier) in &self.0 {
            out.extend_from_slice(segment.as_bytes());
            put_varint(out, carrier.turns);
            carrier.vector.encode(out);
        }
    }

    /// Reads the binary form, to the end. `Invalid` for a format that this build does not know, else `Damaged`.
    pub fn decode(mut input: &[u8]) -> Result<Carriers> {
        match take_array::<1>(&mut input)? {
            [FORMAT] => {}
            [other] => {
                return Err(Error::invalid(format!(
                    "a table of carriers has format {other}; this build reads {FORMAT}"
                )));
            }
        }
        let count = take_varint(&mut input)?;
        if count > Self::MAX as u64 {
            return Err(Error::damaged(format!("a table of {count} carriers")));
        }
        let mut carriers = Carriers::default();
        for _ in 0..count {
            let segment = SegmentId(take_array(&mut input)?);
            if carriers.0.last_key_value().is_some_and(|(last, _)| *last >= segment) {
                return Err(Error::damaged("a table of carriers is not in order"));
            }
            let turns = take_varint(&mut input)?;
            if turns > Carrier::TURNS_MAX {
                return Err(Error::damaged("a segment was forgotten more often than can be"));
            }
            carriers.0.insert(segment, Carrier { turns, vector: VersionVector::decode(&mut input)? });
        }
        if input.is_empty() { Ok(carriers) } else { Err(Error::damaged("a table of carriers has bytes after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::Dot;
    use proptest::prelude::*;

    fn tables() -> impl Strategy<Value = Carriers> {
        prop::collection::vec((0u8..5, 0u64..4, 0u8..3, 0u64..9), 0..5).prop_map(|rows| {
            let mut carriers = Carriers::default();
            for (segment, turns, of, sequence) in rows {
                let row = carriers.entry(SegmentId([segment; 16]));
                row.turns = turns;
                row.vector.advance(Dot::new(SegmentId([of; 16]), sequence));
            }
            carriers
        })
    }

    proptest! {
        #[test]
        fn merging_takes_the_highest_whatever_the_order(a in tables(), b in tables()) {
            let (mut ab, mut ba) = (a.clone(), b.clone());
            ab.merge(&b);
            ba.merge(&a);
            prop_assert_eq!(&ab, &ba);
            prop_assert!(!ab.merge(&a) && !ab.merge(&b));
            let mut bytes = Vec::new();
            ab.encode(&mut bytes);
            prop_assert_eq!(Carriers::decode(&bytes).unwrap(), ab);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let with_format = [&[FORMAT][..], &bytes].concat();
            for bytes in [bytes, with_format] {
                if let Ok(carriers) = Carriers::decode(&bytes) {
                    let mut again = Vec::new();
                    carriers.encode(&mut again);
                    prop_assert_eq!(again, bytes);
                }
            }
        }
    }
}
