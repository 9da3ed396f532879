//! Rows that are a matter of this segment alone, by their keys: for a fuzzer, which has no store to put them in.

use super::keys::{self, BucketNumber};
use super::{alias, away, contention, drop, hold, pin, replaced, standing, wanted};
use crate::error::{Error, Result};
use crate::kv::Space;
use crate::register::Carriers;
use bytes::Bytes;

/// A row of [`Space::Meta`] or [`Space::Derived`], read as who owns it does and written again: key and value. `None`: it is of another kind, or has no form
/// but bytes of a fixed number.
pub fn rewrite_row(space: Space, key: &[u8], row: Bytes) -> Result<Option<(Bytes, Bytes)>> {
    match space {
        Space::Meta => rewrite_meta(key, row),
        Space::Derived => rewrite_derived(key, row),
        _ => Ok(None),
    }
}

fn rewrite_meta(key: &[u8], row: Bytes) -> Result<Option<(Bytes, Bytes)>> {
    let Some(slash) = key.iter().position(|byte| *byte == b'/') else { return Ok(None) };
    let Some((kind, rest)) = key.split_at_checked(slash + 1) else { return Ok(None) };
    let bucket = || -> Result<BucketNumber> {
        let number = rest.first_chunk::<4>().ok_or_else(|| Error::damaged("the key of a row has no bucket"))?;
        Ok(BucketNumber::from_be_bytes(*number))
    };
    let row = match kind {
        b"pins/" => pin::encode(&pin::decode(Some(row))?),
        b"gathers/" => match hold::decode_gather(Some(row))? {
            Some(gather) => hold::encode_gather(&gather),
            None => return Ok(None),
        },
        b"away/" => away::State::decode(&row)?.encode(),
        b"mark/" => drop::Mark::decode(&row)?.encode().into(),
        b"carriers/" => {
            let mut out = Vec::new();
            Carriers::decode(&row)?.encode(&mut out);
            out.into()
        }
        b"replaced/" => replaced::rewrite(key, &row)?.into(),
        b"wanted/" => return Ok(Some((wanted::rewrite_key(bucket()?, key)?, row))),
        b"differing/" => {
            let (field, dot, target) = standing::parse_differing(bucket()?, key)?;
            let target = [&[field as u8], target.get(4..).unwrap_or_default()].concat();
            return Ok(Some((standing::differing_key(bucket()?, &dot, &target)?, row)));
        }
        _ => return Ok(None),
    };
    Ok(Some((Bytes::copy_from_slice(key), row)))
}

fn rewrite_derived(key: &[u8], row: Bytes) -> Result<Option<(Bytes, Bytes)>> {
    let row = match key.get(4) {
        Some(b'a') => alias::decode(row)?.encode(),
        Some(b'c') => match keys::parse_contention(key)? {
            (_, []) => return Ok(None),
            (directory, name) => contention::encode(&contention::decode(&directory, name, row)?).into(),
        },
        _ => return Ok(None),
    };
    Ok(Some((Bytes::copy_from_slice(key), row)))
}
