//! Rows of the metadata store that the engine or the namespace keeps for itself, by their keys: for a fuzzer.

use super::{buried, fs};
use crate::error::Result;
use crate::kv::Space;
use crate::namespace;
use bytes::Bytes;

/// A row, read as who owns it does and written again: key and value. `None`: it is of another kind.
pub fn rewrite_row(space: Space, key: &[u8], row: Bytes) -> Result<Option<(Bytes, Bytes)>> {
    if space == Space::Meta {
        let again = match buried::rewrite(key, &row)? {
            Some(again) => Some(again),
            None => fs::protect::rewrite(key, row.clone())?,
        };
        if let Some(again) = again {
            return Ok(Some((Bytes::copy_from_slice(key), again.into())));
        }
    }
    namespace::rewrite_row(space, key, row)
}
