//! Three stores of packs, by how long what is in them stays: kept, pinned, and cached.
//!
//! A chunk is looked for by its location, whose pack number says which store it is in. What is in a store may count on chunks in the same store and in the
//! ones above it, never on those below: so a whole pack of the cache can go without asking who needs it (P11). Whoever keeps or pins what lies in the cache
//! has it copied up.

use crate::chunk::{ChunkTree, Location, PackInfo, PackOptions, PackStore, StoredChunk};
use crate::descriptors::descriptor_share;
use crate::disk::{Disk, SystemDisk};
use crate::error::Result;
use crate::id::{ChunkId, SegmentId};
use crate::policy::Compression;
use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// How long a chunk stays that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Residence {
    /// As long as the cache has room: it was fetched for a reader, and can be fetched again.
    Cached,
    /// As long as what is pinned refers to it.
    Pinned,
    /// As long as anything refers to it.
    Kept,
}

impl Residence {
    const ALL: [Residence; 3] = [Residence::Kept, Residence::Pinned, Residence::Cached];

    /// The store's directory, and the number of its first pack. Part of the format: `docs/format/pack.md`.
    const fn store(self) -> (&'static str, u64) {
        match self {
            Residence::Kept => ("packs", 0),
            Residence::Cached => ("cache", 1 << 40),
            Residence::Pinned => ("pinned", 1 << 41),
        }
    }
}

/// A pack is this part of its file system, within these bounds, in bytes: what is live in one that a collection rewrites must fit into what
/// is kept free for deletes and collections.
const FILE_SYSTEM_PARTS: u64 = 64;
const PACK_BYTES: std::ops::RangeInclusive<u64> = (4 << 20)..=(64 << 20);
/// A pack of the cache is this part of it, within these bounds, in bytes.
const CACHE_PARTS: u64 = 16;
const CACHE_PACK_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(64 << 20);

/// All packs of a segment.
pub(crate) struct Packs {
    cached: PackStore,
    pinned: PackStore,
    kept: PackStore,
    pack_bytes_max: u64,
}

impl Packs {
    /// Names in a data directory.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Residence::ALL.into_iter().map(|residence| residence.store().0)
    }

    /// Opens the stores below `dir`. The disk is that of what is kept.
    pub(crate) fn open(
        dir: &Path,
        segment: SegmentId,
        file_system_bytes: u64,
        cache_bytes: u64,
    ) -> Result<(Packs, Arc<dyn Disk>)> {
        let open = |residence: Residence, options: PackOptions| {
            let (name, first_number) = residence.store();
            let disk: Arc<dyn Disk> = Arc::new(SystemDisk::open(dir.join(name))?);
            let (packs, recovery) = PackStore::open(disk.clone(), segment, PackOptions { first_number, ..options })?;
            for pack in &recovery.damaged {
                tracing::warn!(?pack, "a pack is damaged; run scrub for what it holds");
            }
            Result::Ok((packs, disk))
        };
        let pack_bytes_max = (cache_bytes / CACHE_PARTS).clamp(*CACHE_PACK_BYTES.start(), *CACHE_PACK_BYTES.end());
        let maps_max = descriptor_share(16, 256);
        let small = PackOptions { pack_bytes_max, maps_max, appending_max: 1, ..PackOptions::default() };
        let pack_bytes_max = (file_system_bytes / FILE_SYSTEM_PARTS).clamp(*PACK_BYTES.start(), *PACK_BYTES.end());
        let large = PackOptions { pack_bytes_max, maps_max, ..PackOptions::default() };
        let kept = PackOptions { maps_max: descriptor_share(4, PackOptions::default().maps_max), ..large.clone() };
        let (kept, disk) = open(Residence::Kept, kept)?;
        let packs = Packs {
            cached: open(Residence::Cached, small)?.0,
            pinned: open(Residence::Pinned, large)?.0,
            kept,
            pack_bytes_max,
        };
        Ok((packs, disk))
    }

    /// What is kept and pinned goes to packs of at most this many bytes.
    pub(crate) fn pack_bytes_max(&self) -> u64 {
        self.pack_bytes_max
    }

    /// In which store a pack is.
    pub(crate) fn residence(pack: u64) -> Residence {
        match pack {
            pack if pack >= Residence::Pinned.store().1 => Residence::Pinned,
            pack if pack >= Residence::Cached.store().1 => Residence::Cached,
            _ => Residence::Kept,
        }
    }

    /// One of the stores.
    pub(crate) fn of(&self, residence: Residence) -> &PackStore {
        match residence {
            Residence::Cached => &self.cached,
            Residence::Pinned => &self.pinned,
            Residence::Kept => &self.kept,
        }
    }

    /// Whether a pack is there, be it damaged.
    pub(crate) fn has(&self, pack: u64) -> bool {
        self.with(pack).has(pack)
    }

    /// Whether a pack is there and was not found to be damaged at the opening.
    pub(crate) fn is_whole(&self, pack: u64) -> bool {
        self.with(pack).is_whole(pack)
    }

    fn with(&self, pack: u64) -> &PackStore {
        self.of(Packs::residence(pack))
    }

    fn all(&self) -> [&PackStore; 3] {
        Residence::ALL.map(|residence| self.of(residence))
    }

    pub(crate) fn append_hashed(
        &self,
        residence: Residence,
        tree: &ChunkTree,
        raw: &[u8],
        compression: Compression,
    ) -> Result<Location> {
        self.of(residence).append_hashed(tree, raw, compression)
    }

    pub(crate) fn append_stored(&self, residence: Residence, chunk: &StoredChunk) -> Result<Location> {
        self.of(residence).append_stored(chunk)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.all().into_iter().try_for_each(PackStore::sync)
    }

    pub(crate) fn seal_active(&self) -> Result<()> {
        self.all().into_iter().try_for_each(PackStore::seal_active)
    }

    pub(crate) fn read(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        self.with(location.pack).read(id, location)
    }

    pub(crate) fn read_copy(&self, id: &ChunkId, location: &Location) -> Result<Bytes> {
        self.with(location.pack).read_copy(id, location)
    }

    pub(crate) fn read_part(&self, id: &ChunkId, location: &Location, part: Range<u32>) -> Result<Option<Bytes>> {
        self.with(location.pack).read_part(id, location, part)
    }

    pub(crate) fn read_stored(&self, id: &ChunkId, location: &Location) -> Result<StoredChunk> {
        self.with(location.pack).read_stored(id, location)
    }

    pub(crate) fn packs(&self) -> Vec<PackInfo> {
        self.all().into_iter().flat_map(PackStore::packs).collect()
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.all().into_iter().map(PackStore::stored_bytes).sum()
    }

    pub(crate) fn entries(&self, pack: u64) -> Result<Vec<(ChunkId, Location)>> {
        self.with(pack).entries(pack)
    }

    pub(crate) fn remove_pack(&self, pack: u64) -> Result<()> {
        self.with(pack).remove_pack(pack)
    }
}
