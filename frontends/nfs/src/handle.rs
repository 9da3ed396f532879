//! File handles: which node of which bucket, under which export, with a keyed check value, so that a handle got under one export is worth
//! nothing under another, and none can be made up.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | 1, the version of this table |
//! | 8 | export: the first bytes of the BLAKE3 hash of its path |
//! | 16 | bucket id |
//! | 16 | node id |
//! | 16 | the first bytes of the keyed BLAKE3 hash of the above |
//!
//! The key is made on the first start and kept in the data directory, so handles outlive restarts.

use crate::kept;
use std::io::{ErrorKind as IoKind, Read};
use std::path::Path;
use tombolo_core::{BucketId, Error, NodeId, Result};

const VERSION: u8 = 1;
const SIGNED: usize = 41;
const LENGTH: usize = 57;
/// What comes before is for `.` and `..`.
pub(crate) const FIRST_COOKIE: u64 = 3;
const KEY_NAME: &str = "nfs.key";
const KEY_BYTES: usize = 32;

/// What a handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle {
    pub(crate) export: u64,
    pub(crate) bucket: BucketId,
    pub(crate) node: NodeId,
}

/// Signs and checks handles.
#[derive(Clone)]
pub(crate) struct Signer([u8; KEY_BYTES]);

impl Signer {
    /// With the key in `dir`, made if there is none.
    pub(crate) fn open(dir: &Path) -> Result<Signer> {
        let path = dir.join(KEY_NAME);
        let failed =
            |error| Error::io(format!("the key of file handles, {}, can't be read or made", path.display()), error);
        let mut key = [0; KEY_BYTES];
        match std::fs::File::open(&path) {
            Ok(mut file) => {
                file.read_exact(&mut key).map_err(failed)?;
                return Ok(Signer(key));
            }
            Err(error) if error.kind() == IoKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        rand::fill(&mut key);
        kept::replace(dir, KEY_NAME, &key).map_err(failed)?;
        Ok(Signer(key))
    }

    fn check(&self, signed: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, signed)
    }

    /// The bytes of a handle.
    pub(crate) fn sign(&self, handle: &Handle) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend_from_slice(&handle.export.to_be_bytes());
        bytes.extend_from_slice(&handle.bucket.0);
        bytes.extend_from_slice(&handle.node.0);
        let check = self.check(&bytes);
        bytes.extend(check.as_bytes().iter().take(LENGTH - SIGNED));
        bytes
    }

    /// The number of a directory's entry: 62 bits of a keyed hash, never one of the first `.` and `..` have. Nobody can choose names that share a number,
    /// or make a number up. Linux clients hand them to programs as signed numbers.
    pub(crate) fn cookie(&self, directory: &NodeId, position: &[u8]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // No handle begins so.
        hasher.update(&[0]).update(&directory.0).update(position);
        let head = hasher.finalize().as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
        (head >> 2).max(FIRST_COOKIE)
    }

    /// The number of whoever holds locks as `owner`, a name that clients choose: nobody can choose one that is another's.
    pub(crate) fn lock_owner(&self, owner: &[u8]) -> u64 {
        // No handle, and no cookie, begins so.
        let hash = blake3::Hasher::new_keyed(&self.0).update(&[2]).update(owner).finalize();
        hash.as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }

    /// What the bytes of a handle say; `None`: they are not one of ours.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<Handle> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let (signed, check) = bytes.split_at_checked(SIGNED)?;
        let expected = self.check(signed);
        // All bytes are compared, whatever the first ones are.
        let differing = expected.as_bytes().iter().zip(check).fold(0, |differing, (a, b)| differing | (a ^ b));
        let (version, rest) = signed.split_first()?;
        if differing != 0 || *version != VERSION {
            return None;
        }
        let (export, rest) = rest.split_first_chunk::<8>()?;
        let (bucket, rest) = rest.split_first_chunk::<16>()?;
        let node = rest.first_chunk::<16>()?;
        Some(Handle { export: u64::from_be_bytes(*export), bucket: BucketId(*bucket), node: NodeId(*node) })
    }
}

/// The number of an export.
pub(crate) fn export_number(path: &str) -> u64 {
    blake3::hash(path.as_bytes()).as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_outlive_the_process_and_cannot_be_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let handle = Handle { export: export_number("/C/t/b"), bucket: BucketId([1; 16]), node: NodeId([2; 16]) };
        let bytes = Signer::open(dir.path()).unwrap().sign(&handle);
        assert!(bytes.len() == LENGTH && LENGTH <= 64);
        let signer = Signer::open(dir.path()).unwrap();
        assert_eq!(signer.read(&bytes), Some(handle));
        for at in 0..LENGTH {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_eq!(signer.read(&forged), None, "byte {at}");
        }
        assert_eq!(signer.read(&bytes[..LENGTH - 1]), None);
        let other = tempfile::tempdir().unwrap();
        assert_eq!(Signer::open(other.path()).unwrap().read(&bytes), None, "another segment's");
    }

    #[test]
    fn cookies_are_numbers_that_every_client_takes_and_nobody_makes_up() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (signer, stranger) = (Signer::open(dir.path()).unwrap(), Signer::open(other.path()).unwrap());
        let (here, there) = (NodeId([1; 16]), NodeId([2; 16]));
        for name in ["", "a", "a/", "b", "\u{e9}"] {
            let cookie = signer.cookie(&here, name.as_bytes());
            assert!((FIRST_COOKIE..1 << 62).contains(&cookie));
            assert_eq!(Signer::open(dir.path()).unwrap().cookie(&here, name.as_bytes()), cookie, "after a restart");
            assert_ne!(signer.cookie(&there, name.as_bytes()), cookie, "in another directory");
            assert_ne!(stranger.cookie(&here, name.as_bytes()), cookie, "in another segment");
        }
        assert_ne!(signer.cookie(&here, b"a"), signer.cookie(&here, b"b"));
    }
}
