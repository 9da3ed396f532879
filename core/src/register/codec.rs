//! The binary form of a register, for rows and for the wire.
//!
//! ```text
//! register  := varint(count << 1 | has_context) write{count} [context]
//! write     := varint(segment_ref << 1 | has_value) [segment: 16 bytes] varint(sequence) time: u64 big-endian
//!              [varint(length) value: length bytes]
//! context   := varint(count, at least 1) entry{count}
//! entry     := varint(segment_ref) [segment: 16 bytes] varint(sequence)
//! ```
//!
//! `segment_ref` is 0 for the segment that writes the row, 1 for a segment that is spelled out right after, and 2 + n for the nth
//! segment (from 0) spelled out before. Writes come in the order in which they show; the context lists, by segment, only what
//! is higher than the writes imply. So the usual register, one live write of one's own, costs 11 to 13 bytes beside its value.
//!
//! Every register has exactly one form, and the decoder refuses all else: `Ok` means that encoding gives the same bytes back.

use super::dot::{Dot, Stamp};
use super::vector::{Context, VersionVector};
use super::{Register, Write};
use crate::error::{Error, Result};
use crate::id::SegmentId;
use smallvec::SmallVec;

/// Appends `value` in LEB128: seven bits a byte, low bits first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number in its shortest LEB128 form from the front of `input`.
pub fn take_varint(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(input)?;
        let bits = u64::from(byte & 0x7f);
        let fits = shift < 63 || bits <= 1;
        if !fits || (byte == 0 && shift > 0) {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::damaged("a number is longer than it may be"))
}

/// Takes `N` bytes from the front of `input`.
pub fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or_else(|| Error::damaged("a record ends too early"))?;
    *input = rest;
    Ok(*head)
}

/// Takes `length` bytes from the front of `input`.
pub fn take_slice<'a>(input: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let short = || Error::damaged("a record ends too early");
    let length = usize::try_from(length).map_err(|_| short())?;
    let (head, rest) = input.split_at_checked(length).ok_or_else(short)?;
    *input = rest;
    Ok(head)
}

/// Segments spelled out so far in one record.
struct Spelled<'a> {
    own: &'a SegmentId,
    others: SmallVec<[SegmentId; 4]>,
}

impl<'a> Spelled<'a> {
    fn new(own: &'a SegmentId) -> Self {
        Spelled { own, others: SmallVec::new() }
    }

    /// Writes a reference, shifted to make room for `flags` in `flag_bits` bits below it.
    fn put(&mut self, out: &mut Vec<u8>, segment: &SegmentId, flag_bits: u32, flags: u64) {
        let known = self.others.iter().position(|other| other == segment);
        let reference = match known {
            _ if segment == self.own => 0,
            Some(at) => 2 + at as u64,
            None => 1,
        };
        put_varint(out, (reference << flag_bits) | flags);
        if reference == 1 {
            out.extend_from_slice(segment.as_bytes());
            self.others.push(*segment);
        }
    }

    fn take(&mut self, input: &mut &[u8], reference: u64) -> Result<SegmentId> {
        match reference {
            0 => Ok(*self.own),
            1 => {
                let segment = SegmentId(take_array(input)?);
                if segment == *self.own || self.others.contains(&segment) {
                    return Err(Error::damaged("a segment is spelled out twice"));
                }
                if self.others.len() == VersionVector::SEGMENTS_MAX {
                    return Err(Error::damaged("too many segments in one register"));
                }
                self.others.push(segment);
                Ok(segment)
            }
            at => usize::try_from(at - 2)
                .ok()
                .and_then(|at| self.others.get(at).copied())
                .ok_or_else(|| Error::damaged("a segment that was not spelled out")),
        }
    }
}

fn take_sequence(input: &mut &[u8], segment: SegmentId) -> Result<Dot> {
    let dot = Dot { segment, sequence: take_varint(input)? };
    if dot.sequence == 0 || dot.is_pending() {
        return Err(Error::damaged("a sequence number out of range"));
    }
    Ok(dot)
}

impl<V> Register<V> {
    /// Appends the binary form as `own`, the segment whose row or message this is, writes it. Nothing in the register may be pending.
    /// `value` appends the form of one value.
    pub fn encode(&self, out: &mut Vec<u8>, own: &SegmentId, value: impl Fn(&V, &mut Vec<u8>)) {
        let implied: Context = self.live.iter().map(|write| write.dot).collect();
        let extra: SmallVec<[Dot; 2]> = self.context.dots().filter(|dot| !implied.covers(dot)).collect();
        let mut spelled = Spelled::new(own);
        let mut scratch = Vec::new();
        put_varint(out, ((self.live.len() as u64) << 1) | u64::from(!extra.is_empty()));
        for write in &self.live {
            debug_assert!(!write.dot.is_pending(), "a pending change is about to be stored");
            spelled.put(out, &write.dot.segment, 1, u64::from(write.value.is_some()));
            put_varint(out, write.dot.sequence);
            out.extend_from_slice(&write.stamp_time.to_be_bytes());
            if let Some(inner) = &write.value {
                scratch.clear();
                value(inner, &mut scratch);
                put_varint(out, scratch.len() as u64);
                out.extend_from_slice(&scratch);
            }
        }
        if !extra.is_empty() {
            put_varint(out, extra.len() as u64);
            for dot in extra {
                spelled.put(out, &dot.segment, 0, 0);
                put_varint(out, dot.sequence);
            }
        }
    }

    /// Reads what [`Register::encode`] wrote with the same `own` from the front of `input`; anything else is `Damaged`. `value` reads one value and
    /// must take all of its bytes.
    pub fn decode(input: &mut &[u8], own: &SegmentId, value: impl Fn(&[u8]) -> Result<V>) -> Result<Register<V>> {
        let head = take_varint(input)?;
        let mut spelled = Spelled::new(own);
        let mut register = Register::empty();
        for _ in 0..head >> 1 {
            let tag = take_varint(input)?;
            let segment = spelled.take(input, tag >> 1)?;
            let dot = take_sequence(input, segment)?;
            let stamp_time = u64::from_be_bytes(take_array(input)?);
            if stamp_time > Stamp::TIME_MAX {
                return Err(Error::damaged("a stamp out of range"));
            }
            let value = if tag & 1 == 1 {
                let length = take_varint(input)?;
                Some(value(take_slice(input, length)?)?)
            } else {
                None
            };
            let write = Write { dot, stamp_time, value };
            if register.live.last().is_some_and(|last: &Write<V>| last.rank() <= write.rank()) {
                return Err(Error::damaged("the writes of a register are not in order"));
            }
            register.live.push(write);
        }
        let mut dots: SmallVec<[Dot; 4]> = register.live.iter().map(|write| write.dot).collect();
        dots.sort_unstable();
        if dots.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(Error::damaged("a write appears twice in a register"));
        }
        let implied: Context = dots.into_iter().collect();
        register.context = implied.clone();
        if head & 1 == 1 {
            let count = take_varint(input)?;
            let mut extra = Context::new();
            for _ in 0..count {
                let reference = take_varint(input)?;
                let segment = spelled.take(input, reference)?;
                let dot = take_sequence(input, segment)?;
                if implied.covers(&dot) {
                    return Err(Error::damaged("a context repeats what its writes imply"));
                }
                extra.push_decoded(dot)?;
            }
            if extra.is_empty() {
                return Err(Error::damaged("an empty context is spelled out"));
            }
            register.context.merge(&extra);
        }
        Ok(register)
    }
}
