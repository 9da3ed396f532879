//! The bytes of a delta between segments. Byte table: `docs/format/delta.md`.
//!
//! Registers are written as the sender's rows have them (see `register::codec`), so the sender's id stands in front. The decoder believes
//! nothing: every length is held against what is left, and what it accepts merges like any other delta.

use super::codec::{Reader, put_bytes, put_varint};
use super::delta::{Delta, DeltaRegister};
use super::keys;
use super::rows::{
    AttributesValue, TagsValue, decode_attributes, decode_entry_value, decode_home, decode_tags, encode_attributes,
    encode_entry_value, encode_home, encode_tags,
};
use super::version::Version;
use crate::error::{Error, Result};
use crate::id::{BucketId, NodeId, SegmentId};
use crate::register::{Register, VersionVector};
use bytes::Bytes;

const FORMAT: u8 = 2;
const ENTRY: u8 = 0;
const HOME: u8 = 1;
const CONTENT: u8 = 2;
const ATTRIBUTES: u8 = 3;
const TAGS: u8 = 4;
const HISTORY: u8 = 5;

impl Delta {
    /// Its bytes, as `sender` writes them.
    pub fn encode(&self, sender: &SegmentId) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.is_whole)];
        out.extend_from_slice(&self.bucket.0);
        out.extend_from_slice(&sender.0);
        self.from.encode(&mut out);
        self.to.encode(&mut out);
        self.knows.encode(&mut out);
        self.floor.encode(&mut out);
        put_varint(&mut out, self.registers.len() as u64);
        let mut register = Vec::new();
        for each in &self.registers {
            register.clear();
            match each {
                DeltaRegister::Entry(parent, name, r) => {
                    out.push(ENTRY);
                    out.extend_from_slice(&parent.0);
                    put_bytes(&mut out, name);
                    r.encode(&mut register, sender, encode_entry_value);
                }
                DeltaRegister::Home(node, r) => {
                    node_field(&mut out, HOME, node);
                    r.encode(&mut register, sender, encode_home);
                }
                DeltaRegister::Content(node, r) => {
                    node_field(&mut out, CONTENT, node);
                    r.encode(&mut register, sender, |v, o| v.encode(o));
                }
                DeltaRegister::Attributes(node, r) => {
                    node_field(&mut out, ATTRIBUTES, node);
                    r.encode(&mut register, sender, encode_attributes);
                }
                DeltaRegister::Tags(node, r) => {
                    node_field(&mut out, TAGS, node);
                    r.encode(&mut register, sender, encode_tags);
                }
                DeltaRegister::History(key, r) => {
                    out.push(HISTORY);
                    put_bytes(&mut out, key);
                    r.encode(&mut register, sender, |v, o| v.encode(o));
                }
            }
            put_bytes(&mut out, &register);
        }
        out
    }

    /// Reads what [`Delta::encode`] wrote; also says who wrote it. `Invalid` for a format this build does not know, else `Damaged`.
    pub fn decode(bytes: Bytes) -> Result<(Delta, SegmentId)> {
        Delta::decode_bounded(bytes, u64::MAX)
    }

    /// The same of one with at most so many registers: each takes many times its bytes once it is decoded.
    pub fn decode_bounded(bytes: Bytes, registers_max: u64) -> Result<(Delta, SegmentId)> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(Error::invalid(format!("a delta has format {format}; this build reads format {FORMAT}")));
        }
        let is_whole = match reader.u8()? {
            0 => false,
            1 => true,
            other => return Err(Error::damaged(format!("a delta is of the unknown kind {other}"))),
        };
        let bucket = BucketId(reader.array()?);
        let sender = SegmentId(reader.array()?);
        let rest = reader.rest();
        let mut input = rest.as_ref();
        let from = VersionVector::decode(&mut input)?;
        let to = VersionVector::decode(&mut input)?;
        let knows = VersionVector::decode(&mut input)?;
        let floor = VersionVector::decode(&mut input)?;
        let mut reader = Reader::new(rest.slice_ref(input));
        let count = reader.varint()?;
        if count > registers_max {
            return Err(Error::invalid(format!("a delta of {count} registers; at most {registers_max} are taken")));
        }
        let mut registers = Vec::new();
        for _ in 0..count {
            registers.push(decode_register(&mut reader, &sender)?);
        }
        if !reader.is_empty() {
            return Err(Error::damaged("a delta has bytes after its end"));
        }
        Ok((Delta { bucket, from, to, knows, floor, registers, is_whole }, sender))
    }
}

fn node_field(out: &mut Vec<u8>, field: u8, node: &NodeId) {
    out.push(field);
    out.extend_from_slice(&node.0);
}

fn decode_register(reader: &mut Reader, sender: &SegmentId) -> Result<DeltaRegister> {
    let version = |b: &[u8]| Version::decode(Bytes::copy_from_slice(b));
    Ok(match reader.u8()? {
        ENTRY => {
            let parent = NodeId(reader.array()?);
            let name = reader.bytes()?;
            DeltaRegister::Entry(parent, name, whole(reader, sender, decode_entry_value)?)
        }
        HOME => DeltaRegister::Home(NodeId(reader.array()?), whole(reader, sender, decode_home)?),
        CONTENT => DeltaRegister::Content(NodeId(reader.array()?), whole(reader, sender, version)?),
        ATTRIBUTES => {
            let node = NodeId(reader.array()?);
            DeltaRegister::Attributes(node, whole::<AttributesValue>(reader, sender, decode_attributes)?)
        }
        TAGS => DeltaRegister::Tags(NodeId(reader.array()?), whole::<TagsValue>(reader, sender, decode_tags)?),
        HISTORY => {
            let key = reader.bytes()?;
            keys::parse_history(&[&[0; 4][..], &key].concat())?;
            DeltaRegister::History(key, whole(reader, sender, version)?)
        }
        other => return Err(Error::damaged(format!("a delta has a register of the unknown kind {other}"))),
    })
}

fn whole<V>(reader: &mut Reader, sender: &SegmentId, value: impl Fn(&[u8]) -> Result<V>) -> Result<Register<V>> {
    let bytes = reader.bytes()?;
    let mut input = bytes.as_ref();
    let register = Register::decode(&mut input, sender, value)?;
    if !input.is_empty() || register.is_empty() {
        return Err(Error::damaged("a register of a delta does not end where it should"));
    }
    Ok(register)
}
