//! Unsigned LEB128, shortest form only, so that equal values have equal bytes.

use crate::error::{Error, Result};

/// Appends `value` in 1 to 10 bytes.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one value off the front of `input`.
pub(crate) fn take(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first().ok_or_else(|| Error::damaged("a number is cut off"))?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits || (*byte == 0 && shift > 0) {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::damaged("a number is not in its shortest form or exceeds 64 bits"))
}

/// Takes a value that must fit in 32 bits.
pub(crate) fn take_u32(input: &mut &[u8]) -> Result<u32> {
    u32::try_from(take(input)?).map_err(|_| Error::damaged("a number exceeds 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_long_forms_are_refused() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            bytes.push(9);
            let mut input = &bytes[..];
            assert_eq!(take(&mut input).unwrap(), value);
            assert_eq!(input, [9]);
            bytes.truncate(bytes.len() - 2);
            assert!(take(&mut &bytes[..]).is_err(), "cut off");
        }
        for bad in [&[0x80, 0][..], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert!(take(&mut &bad[..]).is_err(), "{bad:?}");
        }
        assert!(take_u32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]).is_err());
    }
}
