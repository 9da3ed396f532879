//! The few primitives that rows are laid out with: varints, length-prefixed bytes, a bounded reader.

use crate::error::{Error, Result};
use bytes::Bytes;

/// Appends `value` as a LEB128 varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a row; every length is held against what is left before anything is allocated.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        let bytes = self.take(8)?;
        Ok(u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| truncated())?))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.as_ref().try_into().map_err(|_| truncated())
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::damaged("a varint in a metadata row is too long"))
    }

    /// A varint that fits `T`.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        T::try_from(self.varint()?).map_err(|_| Error::damaged("a number in a metadata row is out of range"))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes> {
        let length = self.number::<usize>()?;
        self.take(length)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > self.rest.len() {
            return Err(truncated());
        }
        Ok(self.rest.split_to(length))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }
}

fn truncated() -> Error {
    Error::damaged("a metadata row ends too early")
}
