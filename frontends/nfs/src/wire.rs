//! XDR (RFC 4506), decoded in place and within bounds.

use bytes::{Buf, Bytes};
use nfsserve::xdr::XDR;

/// The bytes are not what the procedure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Reads what a call carries. Nothing is copied.
#[derive(Debug, Clone)]
pub struct Decoder(Bytes);

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

impl Decoder {
    /// Of these bytes.
    pub fn new(bytes: Bytes) -> Decoder {
        Decoder(bytes)
    }

    /// What is left.
    pub fn rest(&self) -> &Bytes {
        &self.0
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Garbage> {
        if self.0.is_empty() { Ok(()) } else { Err(Garbage) }
    }

    /// An unsigned integer.
    pub fn u32(&mut self) -> Result<u32, Garbage> {
        self.0.try_get_u32().map_err(|_| Garbage)
    }

    /// An unsigned hyper integer.
    pub fn u64(&mut self) -> Result<u64, Garbage> {
        self.0.try_get_u64().map_err(|_| Garbage)
    }

    /// A boolean: 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    /// Fixed-length opaque data of 8 bytes.
    pub fn eight(&mut self) -> Result<[u8; 8], Garbage> {
        self.u64().map(u64::to_be_bytes)
    }

    /// Variable-length opaque data or a string of at most `max` bytes.
    pub fn opaque(&mut self, max: usize) -> Result<Bytes, Garbage> {
        let length = usize::try_from(self.u32()?).map_err(|_| Garbage)?;
        let padded = length.checked_add(padding(length)).ok_or(Garbage)?;
        if length > max || padded > self.0.len() {
            return Err(Garbage);
        }
        let mut data = self.0.split_to(padded);
        data.truncate(length);
        Ok(data)
    }

    /// A structure without variable lengths.
    pub fn fixed<T: XDR + Default>(&mut self) -> Result<T, Garbage> {
        let mut value = T::default();
        let mut reader: &[u8] = &self.0;
        value.deserialize(&mut reader).map_err(|_| Garbage)?;
        let left = reader.len();
        self.0.advance(self.0.len() - left);
        Ok(value)
    }
}

/// Writes what a reply carries.
#[derive(Debug, Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    /// An unsigned integer.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// An unsigned hyper integer.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Variable-length opaque data or a string. What is too long for the protocol can't come out of this program.
    pub fn opaque(&mut self, data: &[u8]) {
        self.u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(data);
        self.pad(data.len());
    }

    /// What aligns data of `length` bytes.
    pub fn pad(&mut self, length: usize) {
        self.0.resize(self.0.len() + padding(length), 0);
    }

    /// A structure.
    pub fn put(&mut self, value: &impl XDR) {
        // Writing to memory does not fail.
        let _ = value.serialize(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsserve::nfs::{sattr3, set_mode3};

    #[test]
    fn lengths_are_not_believed() {
        let decoder = |bytes: &'static [u8]| Decoder::new(Bytes::from_static(bytes));
        assert_eq!(decoder(&[0, 0, 0, 5, 1, 2, 3, 4]).opaque(64), Err(Garbage));
        assert_eq!(decoder(&[0xff; 8]).opaque(usize::MAX), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 3, 1, 2, 3]).opaque(64), Err(Garbage), "padding is part of it");
        assert_eq!(decoder(&[0, 0, 0, 4, 1, 2, 3, 4]).opaque(3), Err(Garbage));
        assert_eq!(decoder(&[0, 0, 0, 3, 1, 2, 3, 0]).opaque(3).unwrap(), [1, 2, 3][..]);
        assert_eq!(decoder(&[0, 0, 0, 2]).bool(), Err(Garbage));
        assert!(decoder(&[0, 0, 0, 1]).fixed::<sattr3>().is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        let mut encoder = Encoder::default();
        encoder.opaque(b"names");
        encoder.put(&sattr3 { mode: set_mode3::mode(0o644), ..sattr3::default() });
        encoder.u64(7);
        let mut decoder = Decoder::new(encoder.0.into());
        assert_eq!(decoder.opaque(255).unwrap(), "names");
        assert!(matches!(decoder.fixed::<sattr3>().unwrap().mode, set_mode3::mode(0o644)));
        assert_eq!((decoder.u64(), decoder.end()), (Ok(7), Ok(())));
    }
}
