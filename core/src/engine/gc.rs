//! Garbage collection: first drops what is deleted and everybody has who carries its bucket (see `forgetting`); marks from everything that refers to chunks, then drops rows and rewrites or removes packs.
//!
//! What a chunk may be referred to by: contents and kept versions in rows, rows kept for snapshots, parts of uploads, open readers (their
//! manifests are registered), and writers under way (see `touched`). The mark is a set of chunk ids; ids are taken one part of their
//! range at a time, as many passes as the memory for the set needs, so that memory is bounded whatever is stored.
//!
//! How strong a reference is decides where a chunk stays (`namespace/hold.rs`): what is only loosely held goes from where pins brought it, and what was given
//! up, because others hold it, goes from everywhere but the cache.
//!
//! Of a manifest whose chunks are still to come, nodes that are absent are passed over: what is below them can't be known. What is imported
//! meanwhile is safe as what a writer stores is, and what is found to be here meanwhile is noted as if a writer relied on it.
//!
//! Only sealed packs that existed when the collection began are looked at. A crash at any point leaves a consistent store: rows go
//! before packs do, and a moved chunk's row is changed by a commit that syncs the copy first.

use super::marker::{Marker, Part};
use super::pace::Pace;
use super::packs::{Packs, Residence};
use super::segment::Segment;
use super::transact;
use crate::chunk::Location;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{BucketId, ChunkId};
use crate::kv::{KeyRange, Snapshot, Space};
use crate::manifest::Manifest;
use crate::namespace::keys::{self, BucketNumber};
use crate::namespace::{self, Content, HistoryRow, Hold, Holds, NodeRow, Version};
use crate::object::GcReport;
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The most chunk ids held at a time: 32 MiB of them.
const MARKED_MAX: u64 = 1 << 20;
/// Packs with less live data than this are rewritten.
const LIVE_PERCENT_MIN: u64 = 70;
/// Every process that stores something leaves a pack; when more than this many are small, they are put together. Small is what is less than
/// this part of the most that a pack takes.
const SMALL_PACKS_MAX: usize = 16;
const SMALL_PACK_PARTS: u64 = 8;
/// Rows changed in one commit.
const BATCH_ROWS: usize = 1024;
/// The row of [`Space::Meta`] that says when a pack was last removed, in nanoseconds since the epoch, big-endian.
const COLLECTED_ROW: &[u8] = b"collected";

impl Segment {
    /// Drops what nothing refers to and rewrites packs that are mostly garbage. One at a time; goes on beside readers and writers.
    pub async fn gc(&self) -> Result<GcReport> {
        self.gc_slowly(0).await
    }

    /// [`Segment::gc`] that moves at most so many bytes per second (0: unlimited), but for when the disk is full and what it makes room for waits.
    pub async fn gc_slowly(&self, bytes_per_second: u64) -> Result<GcReport> {
        let _one = match bytes_per_second {
            0 => {
                let _waits = self.collects_soon();
                self.0.collecting.lock().await
            }
            _ => self.0.collecting.lock().await,
        };
        self.catalog().settle_what_fits().await?;
        self.drop_left_past().await?;
        let rows_dropped = match self.drop_acknowledged().await {
            Ok(rows) => rows,
            // The room that this takes is made below.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "what is deleted everywhere stays for lack of space");
                0
            }
            Err(error) => return Err(error),
        };
        let contents = self.contents().clone();
        let _collecting = contents.collecting();
        // What is appended from now on is not looked at.
        contents.packs().seal_active()?;
        let (packs, others): (Vec<_>, Vec<_>) = contents.packs().packs().into_iter().partition(|p| p.is_sealed);
        let mut damaged: Vec<_> = others.into_iter().filter(|p| !contents.packs().is_whole(p.number)).collect();
        // What is in these packs is noted by then.
        let this = contents.clone();
        contents.pool.run(move || this.settle_appends()).await?;
        // On disk before anything follows from it.
        self.begin_giving().await?;
        let now_ns = self.now_ns();
        let (snapshot, open) = {
            let _readers = contents.readers_gate.write().await;
            contents.touched.next_era();
            (self.store().snapshot().await?, contents.pinned())
        };
        let mut report = GcReport { rows_dropped, ..GcReport::default() };
        let total: u64 = self.count_chunks(&snapshot).await?;
        let passes = total.div_ceil(MARKED_MAX).max(1);
        let mut live_bytes: HashMap<u64, u64> = HashMap::new();
        for pass in 0..passes {
            let part = Part { pass, passes };
            let marked = self.mark(&snapshot, &open, part).await?;
            self.sweep(&snapshot, &marked, part, &packs, &mut live_bytes, &mut report).await?;
        }
        self.put_names_away(&snapshot, now_ns).await?;
        let is_cached = |number: u64| Packs::residence(number) == Residence::Cached;
        let small_bytes = contents.packs().pack_bytes_max() / SMALL_PACK_PARTS;
        let small = packs.iter().filter(|p| p.bytes < small_bytes && !is_cached(p.number)).count();
        // Packs without anything live first: on a full disk they make the room that rewriting the others needs.
        let live_in = |number: u64| live_bytes.get(&number).copied().unwrap_or_default();
        // The store keeps all that changes while a view is held.
        drop((snapshot, open));
        let mut pace = Pace::new(bytes_per_second, self.0.collecting_soon.clone());
        let mut packs = packs;
        packs.sort_by_key(|pack| live_in(pack.number));
        for pack in &packs {
            let live = live_in(pack.number);
            let is_sparse = live.saturating_mul(100) < pack.bytes.saturating_mul(LIVE_PERCENT_MIN)
                || small > SMALL_PACKS_MAX && pack.bytes < small_bytes;
            // Packs of the cache are small, and go as they are.
            if live > 0 && (!is_sparse || is_cached(pack.number)) {
                continue;
            }
            // Evictions are of packs of the cache; others are moved at a pace, for which fetches must not wait.
            let _one = match is_cached(pack.number) {
                true => Some(contents.disk_cache.trimming.lock().await),
                false => None,
            };
            match self.empty_pack(pack.number, &mut report, &mut pace).await {
                Ok(Emptied::Yes { moved_bytes }) => {
                    self.prove_commits().await?;
                    contents.packs().remove_pack(pack.number)?;
                    report.packs_removed += 1;
                    report.bytes_freed += pack.bytes.saturating_sub(moved_bytes);
                }
                Ok(Emptied::No) => {}
                Ok(Emptied::Damaged) => damaged.push(*pack),
                // No room to rewrite this one, nor those with more in them. What was moved so far is garbage for the next time.
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    tracing::warn!(%error, "packs are left unwritten for lack of space");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.remove_damaged(&damaged, &mut report).await?;
        let mut totals = self.0.gc_counters.lock();
        totals.chunks_dropped += report.chunks_dropped;
        totals.bytes_freed += report.bytes_freed;
        Ok(report)
    }

    /// Fails if a commit has failed: what it said may be in the store's journal, and come back at the next opening with references to chunks that nothing refers to now. A
    /// pack goes only after this.
    pub(super) async fn prove_commits(&self) -> Result<()> {
        let now_ns = self.now_ns();
        let proof = transact!(self, txn, {
            txn.put(Space::Meta, Bytes::from_static(COLLECTED_ROW), now_ns.to_be_bytes().to_vec());
        });
        match proof {
            // It was refused, and nothing was written.
            Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
            proof => proof.map(drop),
        }
    }

    /// Removes those damaged packs that no row leads to any more: all that was in them has been stored anew, or given up.
    #[boxed]
    async fn remove_damaged(&self, damaged: &[crate::chunk::PackInfo], report: &mut GcReport) -> Result<()> {
        let contents = self.contents().clone();
        let mut left: HashMap<u64, u64> = damaged.iter().map(|pack| (pack.number, pack.bytes)).collect();
        if left.is_empty() {
            return Ok(());
        }
        // First these: whoever commits the row of one meanwhile has it in the snapshot.
        for (location, _) in contents.uncommitted.lock().values() {
            left.remove(&location.pack);
        }
        let snapshot = self.store().snapshot().await?;
        each_row(&snapshot, Space::Chunks, |_, row| {
            left.remove(&Location::decode(row)?.pack);
            Ok(())
        })
        .await?;
        for (pack, bytes) in left {
            self.prove_commits().await?;
            match contents.packs().remove_pack(pack) {
                // It was evicted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => {
                    removed?;
                    report.packs_removed += 1;
                    report.bytes_freed += bytes;
                }
            }
        }
        Ok(())
    }

    async fn count_chunks(&self, snapshot: &Arc<dyn Snapshot>) -> Result<u64> {
        let mut count = 0;
        each_row(snapshot, Space::Chunks, |_, _| {
            count += 1;
            Ok(())
        })
        .await?;
        Ok(count)
    }

    /// The ids of `part` that something refers to, and how long they stay for that.
    #[boxed]
    async fn mark(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        open: &[Manifest],
        part: Part,
    ) -> Result<HashMap<ChunkId, Hold>> {
        let mut marker = Marker::new(self.contents(), part);
        let mut buckets = Buckets { segment: self, snapshot, numbers: None, holds: HashMap::new() };
        for manifest in open {
            marker.manifest(manifest, Hold::Needed).await?;
        }
        for space in [Space::Nodes, Space::Past, Space::History, Space::Uploads, Space::Meta] {
            let mut range = KeyRange::prefix(b"");
            loop {
                let page = snapshot.scan(space, range, BATCH_ROWS, false).await?;
                for (key, row) in &page.rows {
                    for (version, hold) in self.contents_of(space, key, row.clone(), &mut buckets).await? {
                        if let Content::Manifest(manifest) = &version.content {
                            let is_whole = marker.manifest(manifest, hold).await?;
                            // Without all of its nodes here it can't be told what it takes of these.
                            if !version.lenders.is_empty() && (!is_whole || self.lacks_nodes(manifest).await?) {
                                for lender in &version.lenders {
                                    marker.manifest(lender, hold).await?;
                                }
                            }
                        }
                    }
                }
                // Marking must not starve the requests that share the threads.
                tokio::task::yield_now().await;
                match page.rows.last() {
                    Some((last, _)) if page.more => range = KeyRange::prefix_after(b"", last.clone()),
                    _ => break,
                }
            }
        }
        Ok(marker.into_marked())
    }

    /// Whether nodes of a manifest are missing, or it can't be told.
    async fn lacks_nodes(&self, manifest: &Manifest) -> Result<bool> {
        match self.missing_nodes(manifest, 1).await {
            Ok(missing) => Ok(!missing.is_empty()),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// All versions, live in whatever way, of a row, and how long their contents stay.
    async fn contents_of(
        &self,
        space: Space,
        key: &[u8],
        row: Bytes,
        buckets: &mut Buckets<'_>,
    ) -> Result<Vec<(Version, Hold)>> {
        let own = self.id();
        let needed = |version: Version| (version, Hold::Needed);
        Ok(match space {
            Space::Nodes => {
                let row = NodeRow::decode(row, &own)?;
                let number = key.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or_default();
                let is_in_snapshot = self.ledger().snapshots(number).iter().any(|commit| row.commit <= *commit);
                let mut found = Vec::new();
                for (write, version) in row.content.live_values() {
                    let hold = match buckets.holds(key).await? {
                        Some(holds) => holds.of_content(key, &row, write).await?,
                        None => Hold::Needed,
                    };
                    // What a snapshot shows is asked of nobody else.
                    let hold = if hold == Hold::GivenUp && is_in_snapshot { Hold::Needed } else { hold };
                    found.push((version.clone(), hold));
                }
                found
            }
            Space::Past if keys::parse_past(key)?.0 == Space::Nodes as u8 => {
                let row = NodeRow::decode(row, &own)?;
                row.content.live_values().map(|(_, v)| needed(v.clone())).collect()
            }
            Space::History => {
                let row = HistoryRow::decode(row, &own)?;
                let holds = buckets.holds(key).await?;
                let hold = |write| holds.map_or(Hold::Needed, |holds| holds.of_write(write));
                row.register.live_values().map(|(write, v)| (v.clone(), hold(write))).collect()
            }
            Space::Uploads => vec![needed(namespace::decode_upload(&row)?)],
            Space::Meta => {
                if let Some((bucket, write)) = namespace::replaced_content(key, &row)? {
                    let holds = buckets.holds(&bucket.to_be_bytes()).await?;
                    let hold = holds.map_or(Hold::Needed, |holds| holds.of_replaced(&write));
                    return Ok(write.value.into_iter().map(|version| (version, hold)).collect());
                }
                super::fs::protect::version_of(key, row)?.into_iter().map(needed).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Drops the rows of unmarked chunks of `part` that are in `packs`, or in packs that are no good, and adds up what is live in each pack.
    #[boxed]
    async fn sweep(
        &self,
        snapshot: &Arc<dyn Snapshot>,
        marked: &HashMap<ChunkId, Hold>,
        part: Part,
        packs: &[crate::chunk::PackInfo],
        live_bytes: &mut HashMap<u64, u64>,
        report: &mut GcReport,
    ) -> Result<()> {
        let numbers: HashSet<u64> = packs.iter().map(|p| p.number).collect();
        let mut candidates: Vec<(ChunkId, Location)> = Vec::new();
        let mut range = KeyRange::prefix(b"");
        loop {
            let page = snapshot.scan(Space::Chunks, range, BATCH_ROWS, false).await?;
            for (key, row) in &page.rows {
                let (id, location) = (ChunkId::from_slice(key)?, Location::decode(row)?);
                if !part.contains(&id) {
                    continue;
                }
                // Of packs that are lost or damaged nobody has stored anything since.
                let is_looked_at = numbers.contains(&location.pack) || !self.contents().packs().is_whole(location.pack);
                if stays(marked.get(&id), &location) || !is_looked_at {
                    report.chunks_live += 1;
                    *live_bytes.entry(location.pack).or_default() += location.pack_bytes();
                } else {
                    candidates.push((id, location));
                }
            }
            let dropped = self.drop_chunks(&candidates, live_bytes).await?;
            report.chunks_dropped += dropped;
            report.chunks_live += candidates.len() as u64 - dropped;
            candidates.clear();
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(b"", last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Drops the rows of those candidates that no writer relies on; returns how many went.
    #[boxed]
    async fn drop_chunks(&self, candidates: &[(ChunkId, Location)], live_bytes: &mut HashMap<u64, u64>) -> Result<u64> {
        if candidates.is_empty() {
            return Ok(0);
        }
        let ids: Vec<ChunkId> = candidates.iter().map(|(id, _)| *id).collect();
        let (segment, candidates) = (self.clone(), candidates.to_vec());
        // Whoever asked for the collection may go away: what is condemned must be buried all the same.
        let dropping = tokio::spawn(async move {
            let condemned = segment.contents().condemn(&ids);
            let is_dead: HashSet<ChunkId> = condemned.iter().copied().collect();
            let (dead, alive): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|(id, _)| is_dead.contains(id));
            let dropped = segment.drop_rows(&dead).await;
            segment.contents().buried(&condemned);
            Result::Ok((dropped?, alive))
        });
        let broken = |error| Error::new(ErrorKind::Failed, "a collection broke off").because(error);
        let (dropped, alive) = dropping.await.map_err(broken)??;
        for (_, location) in alive {
            *live_bytes.entry(location.pack).or_default() += location.pack_bytes();
        }
        Ok(dropped)
    }

    /// Drops the rows of chunks that are at these places still; returns how many went.
    #[boxed]
    pub(super) async fn drop_rows(&self, chunks: &[(ChunkId, Location)]) -> Result<u64> {
        let damage = &self.contents().damage;
        let (dropped, _) = transact!(self, txn, {
            let mut dropped = Vec::new();
            for (id, location) in chunks {
                // A writer that stored it anew in the meantime has another place in its row.
                let row = txn.read(Space::Chunks, &id.0).await?;
                if row.is_some_and(|row| Location::decode(&row).is_ok_and(|now| now == *location)) {
                    txn.delete(Space::Chunks, keys::chunk(id));
                    damage.end_in(&mut txn, id);
                    dropped.push(*id);
                }
            }
            dropped
        })?;
        damage.is_over(&dropped);
        Ok(dropped.len() as u64)
    }

    /// Moves what is live out of a pack.
    #[boxed]
    async fn empty_pack(&self, pack: u64, report: &mut GcReport, pace: &mut Pace) -> Result<Emptied> {
        let contents = self.contents().clone();
        let entries = match contents.packs().entries(pack) {
            Ok(entries) => entries,
            // A pack whose index is damaged is scrub's business; its rows still tell what is in it.
            Err(error) if error.kind() == ErrorKind::Damaged => return Ok(Emptied::Damaged),
            // It was evicted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Emptied::No),
            Err(error) => return Err(error),
        };
        let (mut is_rewritten, mut moved_bytes) = (false, 0);
        for batch in entries.chunks(BATCH_ROWS) {
            let mut moved = Vec::new();
            for (id, location) in batch {
                if contents.is_uncommitted(id) {
                    return Ok(Emptied::No);
                }
                let row = self.store().get(Space::Chunks, &id.0).await?;
                if row.is_none_or(|row| Location::decode(&row).map_or(true, |now| now != *location)) {
                    continue;
                }
                if !contents.is_full() {
                    pace.keep(location.pack_bytes()).await;
                }
                let (this, id, old) = (contents.clone(), *id, *location);
                let copied = contents
                    .pool
                    .run(move || {
                        let stored = this.packs().read_stored(&id, &old)?;
                        this.packs().append_stored(Packs::residence(old.pack), &stored)
                    })
                    .await?;
                match copied {
                    Ok(new) => {
                        moved_bytes += new.pack_bytes();
                        moved.push((id, old, new));
                    }
                    // A damaged chunk is left where it is, to be healed or restored.
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        contents.damage.note(&[id]).await;
                        return Ok(Emptied::No);
                    }
                    Err(error) => return Err(error),
                }
            }
            if moved.is_empty() {
                continue;
            }
            is_rewritten = true;
            transact!(self, txn, {
                txn.refers_to_new_chunks();
                for (id, old, new) in &moved {
                    let row = txn.read(Space::Chunks, &id.0).await?;
                    if row.is_some_and(|row| Location::decode(&row).is_ok_and(|now| now == *old)) {
                        txn.put(Space::Chunks, keys::chunk(id), new.encode());
                    }
                }
            })?;
        }
        if is_rewritten {
            report.packs_rewritten += 1;
        }
        Ok(Emptied::Yes { moved_bytes })
    }
}

/// What became of a pack that was to be emptied.
enum Emptied {
    /// Nothing refers to it any more; so much of it is elsewhere now.
    Yes { moved_bytes: u64 },
    /// Something in it is still being committed, or can't be moved.
    No,
    /// What is in it can't be told.
    Damaged,
}

/// Whether a chunk stays where it is.
fn stays(hold: Option<&Hold>, location: &Location) -> bool {
    match Packs::residence(location.pack) {
        Residence::Kept => hold.is_some_and(|hold| *hold >= Hold::Loose),
        Residence::Pinned => hold == Some(&Hold::Needed),
        // It goes when the cache has no room.
        Residence::Cached => hold.is_some(),
    }
}

/// What decides about the versions of each bucket.
struct Buckets<'a> {
    segment: &'a Segment,
    snapshot: &'a Arc<dyn Snapshot>,
    numbers: Option<HashMap<BucketNumber, BucketId>>,
    holds: HashMap<BucketNumber, Option<Holds>>,
}

impl Buckets<'_> {
    /// `None`: all of the bucket stays.
    async fn holds(&mut self, key: &[u8]) -> Result<Option<&Holds>> {
        let number = key.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).unwrap_or_default();
        if !self.holds.contains_key(&number) {
            let numbers = match &mut self.numbers {
                Some(numbers) => numbers,
                none => none.insert(self.segment.bucket_numbers().await?),
            };
            let bucket = match numbers.get(&number) {
                Some(id) => self.segment.catalog().bucket_with_id(id).await,
                None => Err(Error::not_found(Subject::Bucket, "the bucket is gone")),
            };
            let holds = match bucket {
                Ok(bucket) if bucket.state().is_shared() => {
                    let now_ns = self.segment.now_ns();
                    Some(Holds::new(self.snapshot, self.segment.ledger(), bucket.state(), now_ns).await?)
                }
                Ok(_) => None,
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            self.holds.insert(number, holds);
        }
        Ok(self.holds.get(&number).and_then(Option::as_ref))
    }
}

async fn each_row(
    snapshot: &Arc<dyn Snapshot>,
    space: Space,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<()> + Send,
) -> Result<()> {
    let mut range = KeyRange::prefix(b"");
    loop {
        let page = snapshot.scan(space, range, BATCH_ROWS, false).await?;
        for (key, row) in &page.rows {
            visit(key, row)?;
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(b"", last.clone()),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture;
    use crate::id::NodeId;
    use crate::manifest::Root;
    use crate::namespace::{NewVersion, put};
    use crate::policy::Chunking;
    use crate::{BucketPolicy, Condition, DeleteOptions, GetOptions, PutOptions};

    /// Whoever sends a version says what its manifest refers to: a chunk that is no node, or a node of somebody else's content at another level. The first ended every
    /// collection; the second must not hide what is below it from whom it belongs to.
    #[tokio::test(flavor = "multi_thread")]
    async fn manifests_that_make_no_sense_harm_nobody() {
        let policy = BucketPolicy { chunking: Chunking::Fixed(4 << 10), ..BucketPolicy::default() };
        let (_dir, segment, bucket) = fixture::bucket(policy).await;
        let mut content = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        bucket.put("good", content.clone(), PutOptions::default()).await.unwrap();
        let object = bucket.get("good", GetOptions::default()).await.unwrap();
        let Content::Manifest(manifest) = object.content() else { panic!("it is too long to be inline") };
        let Root::Tree { id: root, .. } = manifest.root() else { panic!("it has too many chunks for a list") };
        let no_node = segment.store().snapshot().await.unwrap();
        let no_node = no_node.scan(Space::Chunks, KeyRange::prefix(b""), 2, false).await.unwrap().rows;
        let no_node = no_node.iter().map(|(key, _)| ChunkId::from_slice(key).unwrap()).find(|id| id != root).unwrap();
        let crooked = |id: &ChunkId, depth: u8| {
            let mut bytes = manifest.encode();
            let at = bytes.windows(32).position(|window| window == root.0).unwrap();
            bytes[at..at + 32].copy_from_slice(&id.0);
            bytes[at - 1] = depth;
            Manifest::decode(&bytes).unwrap()
        };
        for (key, manifest) in [("a", crooked(&no_node, 1)), ("b", crooked(root, 3)), ("z", crooked(&no_node, 2))] {
            let version = Version {
                size: manifest.size(),
                content: Content::Manifest(manifest),
                is_marker: false,
                ..Version::marker((NodeId::ROOT, Bytes::new()), 5, false)
            };
            let state = bucket.state().clone();
            let make = async || -> Result<()> {
                transact!(segment, txn, {
                    let new = NewVersion { version: version.clone(), attributes: None, unlinks: false };
                    put(&mut txn, &state, &Bytes::from_static(key.as_bytes()), new, &Condition::default()).await?
                })?;
                Ok(())
            };
            make().await.unwrap();
        }
        drop(object);
        bucket.put("garbage", vec![7; 100_000], PutOptions::default()).await.unwrap();
        bucket.delete("garbage", DeleteOptions::default()).await.unwrap();
        segment.gc().await.unwrap();
        assert!(segment.gc().await.unwrap().chunks_live > 70);
        let good = bucket.get("good", GetOptions::default()).await.unwrap();
        assert!(good.bytes(0..u64::MAX).await.unwrap() == content);
        let mut affected = segment.scrub(0, |_, _| {}).await.unwrap().affected;
        affected.sort();
        assert_eq!(affected, ["C/t/b/a", "C/t/b/b", "C/t/b/z"]);
    }

    /// Locations and codecs of all chunks.
    async fn stored(segment: &Segment) -> Vec<(Location, crate::chunk::Codec)> {
        let view = segment.store().snapshot().await.unwrap();
        let rows = view.scan(Space::Chunks, KeyRange::prefix(b""), 10_000, false).await.unwrap().rows;
        let mut found = Vec::new();
        for (key, row) in rows {
            let chunk = segment.export_chunk(&ChunkId::from_slice(&key).unwrap()).await.unwrap().unwrap();
            found.push((Location::decode(&row).unwrap(), chunk.codec));
        }
        found
    }

    /// What a bucket's policy had compressed well, a collection that moved it compressed less, or not at all.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_moved_stays_compressed_as_it_was() {
        let policy = BucketPolicy {
            chunking: Chunking::Fixed(64 << 10),
            compression: crate::policy::Compression::Zstd,
            ..BucketPolicy::default()
        };
        let (_dir, segment, bucket) = fixture::bucket(policy).await;
        // Few different bytes in no order: nothing for lz4.
        let text = |seed| fixture::noise(1 << 20, seed).iter().map(|byte| b'a' + byte % 8).collect::<Vec<_>>();
        bucket.put("stays", text(1), PutOptions::default()).await.unwrap();
        bucket.put("goes", text(2), PutOptions::default()).await.unwrap();
        let before = segment.status().await.unwrap().stored_bytes;
        assert!(stored(&segment).await.iter().all(|(_, codec)| *codec == crate::chunk::Codec::Zstd));
        bucket.delete("goes", DeleteOptions::default()).await.unwrap();
        let report = segment.gc().await.unwrap();
        assert_eq!((report.packs_rewritten, report.packs_removed), (1, 1));
        let left = stored(&segment).await;
        assert!(left.len() == 16 && left.iter().all(|(_, codec)| *codec == crate::chunk::Codec::Zstd));
        let after = segment.status().await.unwrap().stored_bytes;
        assert!(after < before * 2 / 3, "{before} then {after}");
        // What was moved is no room that was made.
        assert!(report.bytes_freed.abs_diff(before - after) < 4096, "{report:?}: {before} then {after}");
        let object = bucket.get("stays", GetOptions::default()).await.unwrap();
        let (mut reader, mut read) = (object.read(0..object.info().size), Vec::new());
        while let Some(piece) = reader.next().await.unwrap() {
            read.extend_from_slice(&piece);
        }
        assert!(read == text(1));
    }

    /// Deleting a snapshot was interrupted: nobody else dropped what it alone had kept.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_collection_drops_what_a_snapshot_has_left() {
        let (_dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
        bucket.put("k", fixture::noise(300_000, 1), PutOptions::default()).await.unwrap();
        bucket.create_snapshot("s").await.unwrap();
        bucket.put("k", "short", PutOptions::default()).await.unwrap();
        assert_eq!(segment.gc().await.unwrap().chunks_dropped, 0);
        let commit = bucket.snapshot_commit("s").await.unwrap();
        let take_away = async || -> Result<()> {
            transact!(segment, txn, {
                txn.edit_catalog(crate::catalog::snapshot_key(&bucket.state().id, "s")).await?.register =
                    Default::default();
            })?;
            Ok(())
        };
        take_away().await.unwrap();
        segment.ledger().remove_snapshot(bucket.state().number, commit);
        assert!(segment.gc().await.unwrap().chunks_dropped > 0);
        assert_eq!(segment.gc().await.unwrap().chunks_live, 0);
    }

    /// A pack that could not be read was never removed, though nothing led to it any more.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_pack_goes_when_nothing_leads_to_it() {
        let (dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
        bucket.put("k", fixture::noise(300_000, 1), PutOptions::default()).await.unwrap();
        segment.close().await.unwrap();
        drop((bucket, segment));
        let packs = dir.path().join("a/packs");
        let files = || std::fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let before = files();
        for pack in &before {
            // Its index, which is before a trailer of 64 bytes.
            let mut bytes = std::fs::read(pack).unwrap();
            let at = bytes.len() - 100;
            bytes[at] ^= 1;
            std::fs::write(pack, bytes).unwrap();
        }
        let segment = Segment::open(dir.path().join("a"), crate::OpenOptions::default()).await.unwrap();
        let bucket = segment.bucket(&"C/t/b".parse().unwrap()).await.unwrap();
        assert_eq!(segment.gc().await.unwrap().packs_removed, 0, "something needs it");
        bucket.delete("k", DeleteOptions::default()).await.unwrap();
        assert_eq!(segment.gc().await.unwrap().packs_removed, 1);
        assert!(files().iter().all(|pack| !before.contains(pack)));
    }
}
