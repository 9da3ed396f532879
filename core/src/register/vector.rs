//! [`VersionVector`]: for each segment, a sequence number up to which something is known.

use super::codec::{put_varint, take_array, take_varint};
use super::dot::Dot;
use crate::error::{Error, Result};
use crate::id::SegmentId;
use smallvec::SmallVec;
use std::fmt;
use std::str::FromStr;

/// The context of a register: for each segment that ever wrote it, the highest sequence seen.
///
/// Two contexts tell *before* from *concurrent*: a write that the other side's context covers, and that is not live there, was seen there and replaced.
pub type Context = VersionVector;

/// For each segment, the sequence number up to which everything is here. Segments that are not listed stand at 0.
///
/// Sorted by segment, no zero entries: equal vectors compare equal. The text form, for tokens, has a part
/// `SEGMENT-SEQUENCE` (32 hexadecimal digits, decimal) per segment, joined by `.`; the empty vector is `0`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct VersionVector {
    entries: SmallVec<[(SegmentId, u64); 1]>,
}

/// Where a segment stands in a bucket, as it says to others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stance {
    /// After which vector they are to begin.
    pub vector: VersionVector,
    /// It compares all that it holds with what others have (note 0006), and holds more than `vector` says. It can't tell before that is over what of it is to stay.
    pub is_comparing: bool,
}

impl VersionVector {
    /// The most segments a decoded vector may list.
    pub const SEGMENTS_MAX: usize = 4096;

    /// Knows nothing.
    pub fn new() -> VersionVector {
        VersionVector::default()
    }

    /// The sequence number of `segment`, 0 if it is not listed.
    pub fn get(&self, segment: &SegmentId) -> u64 {
        self.find(segment).ok().and_then(|at| self.entries.get(at)).map_or(0, |(_, sequence)| *sequence)
    }

    /// Raises `dot.segment` to at least `dot.sequence`; returns whether that changed anything.
    pub fn advance(&mut self, dot: Dot) -> bool {
        if dot.sequence == 0 {
            return false;
        }
        match self.find(&dot.segment) {
            Ok(at) => match self.entries.get_mut(at) {
                Some((_, sequence)) if *sequence < dot.sequence => {
                    *sequence = dot.sequence;
                    true
                }
                _ => false,
            },
            Err(at) => {
                self.entries.insert(at, (dot.segment, dot.sequence));
                true
            }
        }
    }

    /// Whether `dot` is at or below this vector.
    pub fn covers(&self, dot: &Dot) -> bool {
        self.get(&dot.segment) >= dot.sequence
    }

    /// Whether this vector covers all that `other` covers.
    pub fn dominates(&self, other: &VersionVector) -> bool {
        other.dots().all(|dot| self.covers(&dot))
    }

    /// Raises every segment to what `other` knows; returns whether that changed anything.
    pub fn merge(&mut self, other: &VersionVector) -> bool {
        other.dots().fold(false, |changed, dot| self.advance(dot) | changed)
    }

    /// Forgets `segment`: for a segment that an operator has declared gone.
    pub fn remove(&mut self, segment: &SegmentId) {
        self.entries.retain(|(listed, _)| listed != segment);
    }

    /// The last known dot of each listed segment, by segment.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.entries.iter().map(|&(segment, sequence)| Dot { segment, sequence })
    }

    /// How many segments are listed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Binary form: a varint count, then for each segment its 16 bytes and its sequence number as a varint.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.entries.len() as u64);
        for (segment, sequence) in &self.entries {
            out.extend_from_slice(segment.as_bytes());
            put_varint(out, *sequence);
        }
    }

    /// Reads the binary form from the front of `input`; anything but what [`VersionVector::encode`] writes is `Damaged`.
    pub fn decode(input: &mut &[u8]) -> Result<VersionVector> {
        let count = take_varint(input)?;
        if count > Self::SEGMENTS_MAX as u64 {
            return Err(Error::damaged(format!("a version vector of {count} segments")));
        }
        let mut vector = VersionVector::new();
        for _ in 0..count {
            let segment = SegmentId(take_array(input)?);
            vector.push_decoded(Dot { segment, sequence: take_varint(input)? })?;
        }
        Ok(vector)
    }

    /// Appends an entry that must follow all others.
    pub(super) fn push_decoded(&mut self, dot: Dot) -> Result<()> {
        let in_order = self.entries.last().is_none_or(|(last, _)| *last < dot.segment);
        if !in_order || dot.sequence == 0 || dot.is_pending() {
            return Err(Error::damaged("the entries of a version vector are not in order"));
        }
        self.entries.push((dot.segment, dot.sequence));
        Ok(())
    }

    /// Replaces the pending number of `own`, if it is one.
    pub(crate) fn assign(&mut self, own: &SegmentId, first_sequence: u64) {
        if let Ok(at) = self.find(own)
            && let Some((segment, sequence)) = self.entries.get_mut(at)
            && let Some(slot) = Dot::new(*segment, *sequence).slot()
        {
            *sequence = first_sequence.saturating_add(slot.into());
        }
    }

    fn find(&self, segment: &SegmentId) -> Result<usize, usize> {
        self.entries.binary_search_by(|(listed, _)| listed.cmp(segment))
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = VersionVector::new();
        for dot in dots {
            vector.advance(dot);
        }
        vector
    }
}

impl fmt::Display for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("0");
        }
        for (at, (segment, sequence)) in self.entries.iter().enumerate() {
            let dot = if at == 0 { "" } else { "." };
            write!(f, "{dot}{segment}-{sequence}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.dots()).finish()
    }
}

impl FromStr for VersionVector {
    type Err = Error;

    /// Reads the text form. The parts may come in any order, each segment once.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("not a version vector: SEGMENT-SEQUENCE, joined by '.'");
        if text == "0" {
            return Ok(VersionVector::new());
        }
        let mut vector = VersionVector::new();
        for part in text.split('.') {
            let (segment, digits) = part.split_once('-').ok_or_else(bad)?;
            let segment = SegmentId::from_hex(segment).map_err(|_| bad())?;
            let fine = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            let sequence: u64 = digits.parse().map_err(|_| bad())?;
            let dot = Dot { segment, sequence };
            if !fine || dot.is_pending() || vector.get(&segment) != 0 {
                return Err(bad());
            }
            if vector.len() == Self::SEGMENTS_MAX {
                return Err(Error::invalid("a version vector of too many segments"));
            }
            vector.advance(dot);
        }
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vectors() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((0u8..6, 1u64..1 << 40), 0..6)
            .prop_map(|parts| parts.into_iter().map(|(s, n)| Dot::new(SegmentId([s; 16]), n)).collect())
    }

    proptest! {
        #[test]
        fn merging_takes_the_least_upper_bound(a in vectors(), b in vectors(), c in vectors()) {
            let join = |x: &VersionVector, y: &VersionVector| { let mut z = x.clone(); z.merge(y); z };
            let ab = join(&a, &b);
            prop_assert!(ab.dominates(&a) && ab.dominates(&b));
            prop_assert_eq!(&ab, &join(&b, &a));
            prop_assert_eq!(&ab, &join(&ab, &a));
            prop_assert_eq!(join(&ab, &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(a.dominates(&b), ab == a);
        }

        #[test]
        fn both_forms_survive(a in vectors()) {
            prop_assert_eq!(&a.to_string().parse::<VersionVector>().unwrap(), &a);
            let mut bytes = Vec::new();
            a.encode(&mut bytes);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(&VersionVector::decode(&mut rest).unwrap(), &a);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[0-9a-f.-]{0,80}") {
            let mut rest = bytes.as_slice();
            if let Ok(vector) = VersionVector::decode(&mut rest) {
                let mut again = Vec::new();
                vector.encode(&mut again);
                prop_assert_eq!(again.as_slice(), &bytes[..bytes.len() - rest.len()]);
            }
            if let Ok(vector) = text.parse::<VersionVector>() {
                prop_assert_eq!(vector.to_string().parse::<VersionVector>().unwrap(), vector);
            }
        }
    }

    #[test]
    fn bad_tokens_are_refused() {
        let id = SegmentId([0xab; 16]);
        assert_eq!(format!("{id}-7").parse::<VersionVector>().unwrap().get(&id), 7);
        for bad in [
            String::new(),
            "00".into(),
            format!("{id}"),
            format!("{id}-"),
            format!("{id}-0"),
            format!("{id}-+7"),
            format!("{id}-07"),
            format!("{id}-7."),
            format!("{id}-7.{id}-8"),
            format!("{id}-{}", u64::MAX),
        ] {
            assert!(bad.parse::<VersionVector>().is_err(), "{bad}");
        }
    }
}
