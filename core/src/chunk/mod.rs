//! Chunks: immutable bytes named by their BLAKE3 hash, kept in append-only pack files.
//!
//! A content is cut by a [`Cutter`], each chunk goes to [`PackStore::append`], and the [`Location`] that comes back is what the
//! metadata remembers. [`PackStore::sync`] makes all that was appended durable. [`PackStore::read`] gives a chunk back,
//! never without having compared it with its id. Which chunks exist already, and which are still needed, is not
//! known here: the layers above keep the index from ids to locations and decide what to drop.
//!
//! The format, and why it survives crashes, is in `docs/format/pack.md`.

mod background;
mod cache;
mod compress;
mod cutter;
mod location;
mod maps;
mod open_pack;
mod pack;
mod read;
mod record;
mod recover;
mod scan;
mod store;
mod stored;
mod tree;
pub(crate) mod varint;
mod write;

pub use cache::ChunkCache;
pub use cutter::{CHUNKER_FASTCDC_2020, CHUNKER_FIXED, Cutter};
pub use location::Location;
pub use pack::{IndexEntry, decode_index, decode_trailer, pack_name, pack_number};
pub use record::{CHUNK_BYTES_MAX, Codec, RECORD_HEADER_BYTES, RecordHeader, decode_header};
pub use recover::{DamagedPack, RecoveredPack, Recovery};
pub use store::{OnVerified, PackInfo, PackOptions, PackStore};
pub use stored::StoredChunk;
pub use tree::ChunkTree;
