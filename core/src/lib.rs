//! Tombolo's engine: one directory (a *segment*) that stores objects and files as immutable,
//! content-addressed chunks below a versioned namespace, `cluster/tenant/bucket/key`.
//!
//! The layers, each using only the one below: [`engine`] (what doors call) → `namespace` (registers,
//! tree, versions) → `manifest` → `chunk` → `disk`. Metadata goes through the [`kv`] seam.
//! The crate knows no protocol, opens no socket and never prints.
//!
//! Start at [`Segment`].

pub mod catalog;
pub mod chunk;
mod descriptors;
pub mod disk;
mod durable;
pub mod engine;
mod env;
mod error;
mod id;
pub mod kv;
pub mod manifest;
pub mod namespace;
mod object;
mod path;
mod policy;
pub mod register;
pub mod sync;
pub mod tree;

pub use chunk::{Codec, StoredChunk};
pub use descriptors::raise_descriptor_limit;
pub use engine::fs::OpenFile;
pub use engine::{
    Bucket, Catalog, CatalogChanges, CatalogName, Change, Changed, ChunkImport, ChunkSource, CreateOptions,
    FileOptions, Housekeeping, Lacking, Missing, Object, ObjectReader, ObjectWriter, OpenOptions, Residence,
    SealedObject, Segment, SegmentWatch, Token, Whole,
};
pub use env::{Clock, Entropy, Environment};
pub use error::{Error, ErrorKind, Result, Subject};
pub use id::{BucketId, ChunkId, NodeId, SegmentId, VersionId};
pub use namespace::{
    Comparison, Conflict, Counterpart, Delta, DeltaLimit, Difference, Gather, Held, Keeping, Pin, RANGES_MAX,
    RangeSummary, Resolution, RowName, RowRange, RowSummary, Stay, Summary, Wanted, compare,
};
pub use object::*;
pub use path::{BucketPath, KEY_BYTES_MAX, NAME_BYTES_MAX, ObjectPath, TenantPath, check_key, check_name};
pub use policy::{BucketPolicy, Chunking, Compression, ConflictPolicy, EtagKind, POLICY_KEYS, Versioning};
pub use register::{Carrier, Carriers, Dot, Stance, VersionVector};
pub use tree::ConflictKind;
