//! The same few operations on a bucket through the engine and through S3, so that one test drives both.

mod engine;
mod s3;

pub use engine::EngineDoor;
pub use s3::{PART_BYTES_MIN, S3Door};

use crate::content::Content;
use std::fmt;

/// Why an operation did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was refused: nothing changed.
    Refused(String),
    /// No answer came: it may have happened or not.
    Unknown(String),
    /// It answered, and what it said cannot be true.
    Lie(String),
}

impl Failure {
    /// An answer about `key` that cannot be true.
    pub fn lie(key: &[u8], what: &str) -> Failure {
        Failure::Lie(format!("'{}': {what}", key.escape_ascii()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, what) = match self {
            Failure::Refused(what) => ("refused", what),
            Failure::Unknown(what) => ("no answer", what),
            Failure::Lie(what) => ("an answer that cannot be true", what),
        };
        write!(f, "{kind}: {what}")
    }
}

impl std::error::Error for Failure {}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A key and its size in bytes.
    Key(Vec<u8>, u64),
    /// A common prefix.
    Prefix(Vec<u8>),
}

impl Item {
    /// The key or prefix.
    pub fn name(&self) -> &[u8] {
        match self {
            Item::Key(name, _) | Item::Prefix(name) => name,
        }
    }
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In byte order.
    pub items: Vec<Item>,
    /// What continues it, if there is more.
    pub next: Option<Vec<u8>>,
}

/// One version of a key.
#[derive(Debug, Clone)]
pub struct VersionRow {
    /// The key.
    pub key: Vec<u8>,
    /// The version's id.
    pub version: String,
    /// Whether it is the current one.
    pub is_current: bool,
    /// Whether it is a delete marker.
    pub is_marker: bool,
}

/// A bucket behind some door. Each method returns when the operation is acknowledged.
pub trait Door {
    /// Stores a content with its label. With `only_if_absent`, answers whether it did.
    fn put(&mut self, key: &[u8], content: Content, only_if_absent: bool) -> Result<bool, Failure>;
    /// Stores a content as a multipart upload, the parts sent last to first.
    fn multipart(&mut self, key: &[u8], content: Content, part_bytes: usize) -> Result<(), Failure>;
    /// Copies with metadata; answers whether there was a source.
    fn copy(&mut self, from: &[u8], to: &[u8]) -> Result<bool, Failure>;
    /// Deletes, in one request.
    fn delete(&mut self, keys: &[Vec<u8>]) -> Result<(), Failure>;
    /// Deletes one version for good.
    fn delete_version(&mut self, key: &[u8], version: &str) -> Result<(), Failure>;
    /// Switches versioning on or suspends it.
    fn set_versioning(&mut self, on: bool) -> Result<(), Failure>;
    /// Reads a content whole and holds it against its label; `None` if there is no such key.
    fn read(&mut self, key: &[u8], version: Option<&str>) -> Result<Option<Content>, Failure>;
    /// Reads a range of the current version.
    fn read_range(&mut self, key: &[u8], range: std::ops::Range<u64>) -> Result<Vec<u8>, Failure>;
    /// One page of a listing: the first after `start`, or the one that `next` continues with.
    fn list(
        &mut self,
        prefix: &[u8],
        delimiter: Option<&[u8]>,
        start: Option<&[u8]>,
        next: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, Failure>;
    /// All versions below `prefix`, each kind newest first within its key.
    fn versions(&mut self, prefix: &[u8]) -> Result<Vec<VersionRow>, Failure>;
}
