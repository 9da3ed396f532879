//! P3, P8, P10, P11 in the engine: names that are here before their bytes. Two segments in one process; what one has the other brings by a source
//! with switches.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tombolo_core::*;

const MIB: usize = 1 << 20;
/// For conditions that other threads bring about.
const DEADLINE: Duration = Duration::from_secs(60);

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

fn path() -> BucketPath {
    "All/lab/b".parse().unwrap()
}

struct Site {
    dir: TempDir,
    segment: Segment,
    bucket: Bucket,
}

fn options() -> OpenOptions {
    OpenOptions { metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() }
}

async fn site(name: &str) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: name.into(), cluster: "All".into() };
    let segment = Segment::create(dir.path().join("s"), create, options()).await.unwrap();
    segment.catalog().create_tenant(&path().tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path(), BucketPolicy::default()).await.unwrap();
    Site { dir, segment, bucket }
}

impl Site {
    async fn put(&self, key: &str, content: &Bytes) {
        self.bucket.put(key, content.clone(), PutOptions::default()).await.unwrap();
    }

    async fn get(&self, key: &str) -> Object {
        self.bucket.get(key, GetOptions::default()).await.unwrap()
    }

    /// The names of `from`, not the bytes.
    async fn follow(&self, from: &Site) {
        let delta = from.bucket.changes_since(&self.bucket.vector().await.unwrap()).await.unwrap();
        self.bucket.apply(&delta).await.unwrap();
    }

    /// Reads what `from` has.
    fn linked_to(&self, from: &Site) -> Arc<Link> {
        let link = Arc::new(Link {
            from: from.segment.clone(),
            to: self.segment.clone(),
            asked: Mutex::default(),
            bytes: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            under_way_max: AtomicU64::new(0),
            is_offline: AtomicBool::new(false),
            bad: Mutex::default(),
            gate: Semaphore::new(1 << 20),
        });
        self.segment.set_chunk_source(Some(link.clone()));
        link
    }

    /// What was put here, brought as a whole: node by node, chunk by chunk.
    async fn complete(&self, key: &str, link: &Link) {
        let object = self.get(key).await;
        loop {
            let missing = object.missing_chunks(0..u64::MAX, 16).await.unwrap();
            if missing.is_empty() {
                return;
            }
            link.fetch(missing).await.unwrap();
        }
    }

    /// Closes, lets `change` the packs, and opens again.
    async fn reopened(self, change: impl FnOnce(&[PathBuf])) -> Site {
        let Site { dir, segment, bucket } = self;
        segment.close().await.unwrap();
        drop((segment, bucket));
        change(&files(&dir.path().join("s/packs")));
        let opened = async {
            loop {
                match Segment::open(dir.path().join("s"), options()).await {
                    // What is left of the last fetch has it for another moment.
                    Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                    opened => break opened.unwrap(),
                }
            }
        };
        let segment = tokio::time::timeout(DEADLINE, opened).await.unwrap();
        let bucket = segment.bucket(&path()).await.unwrap();
        Site { dir, segment, bucket }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Flips a byte of each place in `packs` where `needle` lies, which must be one at least.
fn damage(packs: &[PathBuf], needle: &[u8]) {
    let mut found = 0;
    for pack in packs {
        let mut data = std::fs::read(pack).unwrap();
        let places: Vec<usize> = (0..data.len().saturating_sub(needle.len()))
            .filter(|at| data[*at] == needle[0] && data[*at..].starts_with(needle))
            .collect();
        found += places.len();
        for at in &places {
            data[*at] ^= 1;
        }
        if !places.is_empty() {
            std::fs::write(pack, data).unwrap();
        }
    }
    assert!(found > 0, "the content is in no pack: is it compressed?");
}

/// A link from one segment to another.
struct Link {
    from: Segment,
    to: Segment,
    /// Each call's chunks.
    asked: Mutex<Vec<Vec<ChunkId>>>,
    /// Bytes of content that came.
    bytes: AtomicU64,
    under_way: AtomicU64,
    under_way_max: AtomicU64,
    is_offline: AtomicBool,
    /// These are sent with a wrong byte.
    bad: Mutex<HashSet<ChunkId>>,
    /// Each call takes one permit for good.
    gate: Semaphore,
}

impl Link {
    fn calls(&self) -> usize {
        self.asked.lock().len()
    }

    fn chunks_asked(&self) -> usize {
        self.asked.lock().iter().map(Vec::len).sum()
    }

    /// How often each chunk was asked for.
    fn times_asked(&self) -> BTreeMap<ChunkId, usize> {
        let mut times = BTreeMap::new();
        for id in self.asked.lock().iter().flatten() {
            *times.entry(*id).or_default() += 1;
        }
        times
    }

    /// Takes all permits away: calls wait.
    fn hold(&self) {
        self.gate.forget_permits(self.gate.available_permits());
    }

    fn let_go(&self) {
        self.gate.add_permits(1 << 20);
    }

    /// All calls have returned. A chunk can be read a little earlier than its row is durable.
    async fn settle(&self) {
        until("all fetches end", || self.under_way.load(Ordering::SeqCst) == 0).await;
    }

    async fn exported(&self, id: &ChunkId) -> Result<StoredChunk> {
        let chunk = self.from.export_chunk(id).await?;
        let mut chunk = chunk.ok_or_else(|| Error::new(ErrorKind::Offline, "the other side has it no more"))?;
        if self.bad.lock().contains(id) {
            let mut payload = chunk.payload.to_vec();
            payload[0] ^= 1;
            chunk.payload = payload.into();
        }
        Ok(chunk)
    }
}

#[async_trait]
impl ChunkSource for Link {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        self.asked.lock().push(chunks.clone());
        let count = chunks.len() as u64;
        let under_way = self.under_way.fetch_add(count, Ordering::SeqCst) + count;
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        let outcome = async {
            if self.is_offline.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Offline, "the link is down"));
            }
            let import = self.to.chunk_import();
            for part in chunks.chunks(8) {
                let mut batch = Vec::new();
                for id in part {
                    let chunk = self.exported(id).await?;
                    self.bytes.fetch_add(u64::from(chunk.raw_bytes), Ordering::SeqCst);
                    batch.push(chunk);
                }
                import.import(batch).await?;
            }
            Ok(())
        };
        let outcome = outcome.await;
        self.under_way.fetch_sub(count, Ordering::SeqCst);
        outcome
    }
}

/// Two sites, the content of `big` at one of them, its name at both.
async fn pair(bytes: usize) -> (Site, Site, Bytes) {
    let (here, there) = (site("here").await, site("there").await);
    let content = noise(bytes, 7);
    there.put("big", &content).await;
    here.follow(&there).await;
    (here, there, content)
}

/// Waits until `holds`.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_by_fetching_its_chunks_and_no_others() {
    let (here, there, content) = pair(24 * MIB).await;
    let link = here.linked_to(&there);
    let object = here.get("big").await;
    assert_eq!(object.info().size, content.len() as u64);
    assert_eq!(object.local_bytes().await.unwrap(), (0, content.len() as u64));
    let range = 9_000_000..9_300_000;
    let read = object.bytes(range.start as u64..range.end as u64).await.unwrap();
    assert!(read == content[range.clone()]);
    link.settle().await;
    let (bytes, calls) = (link.bytes.load(Ordering::SeqCst), link.calls());
    assert!(bytes < 3 * MIB as u64, "{bytes} bytes were fetched for 300,000");
    assert_eq!(object.missing_chunks(range.start as u64..range.end as u64, 10).await.unwrap(), []);
    let (local, of) = object.local_bytes().await.unwrap();
    assert!((300_000..bytes).contains(&local) && of == content.len() as u64, "{local} of {of} bytes are here");

    // What is here stays here, without anybody to ask.
    here.segment.set_chunk_source(None);
    assert!(object.bytes(range.start as u64..range.end as u64).await.unwrap() == content[range]);
    assert_eq!(link.calls(), calls);
    let error = object.bytes(20 * MIB as u64..21 * MIB as u64).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_wait_for_one_fetch() {
    let (here, there, content) = pair(8 * MIB).await;
    let link = here.linked_to(&there);
    link.hold();
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let bucket = here.bucket.clone();
            tokio::spawn(async move {
                let object = bucket.get("big", GetOptions::default()).await.unwrap();
                object.bytes(0..u64::MAX).await
            })
        })
        .collect();
    until("somebody asks", || link.calls() > 0).await;
    link.let_go();
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == content);
    }
    for (id, times) in link.times_asked() {
        assert_eq!(times, 1, "chunk {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_read_asks_in_batches_and_not_far_ahead() {
    let (here, there, content) = pair(64 * MIB).await;
    let link = here.linked_to(&there);
    let object = here.get("big").await;
    let mut reader = object.read(0..u64::MAX);
    let mut at = 0;
    while let Some(piece) = reader.next().await.unwrap() {
        assert!(piece == content[at..at + piece.len()], "at {at}");
        at += piece.len();
        let ahead = link.bytes.load(Ordering::SeqCst).saturating_sub(at as u64);
        assert!(ahead < 24 * MIB as u64, "{ahead} bytes ahead of the reader");
    }
    assert_eq!(at, content.len());
    link.settle().await;
    let (calls, chunks) = (link.calls(), link.chunks_asked());
    assert!(chunks > 100 && calls * 4 < chunks, "{calls} calls for {chunks} chunks");
    assert_eq!(object.local_bytes().await.unwrap(), (content.len() as u64, content.len() as u64));
    assert!(link.under_way_max.load(Ordering::SeqCst) < 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_asks_for_no_more() {
    let (here, there, content) = pair(64 * MIB).await;
    let link = here.linked_to(&there);
    let object = here.get("big").await;
    let first = object.read(0..u64::MAX).next().await.unwrap().unwrap();
    assert!(first == content[..first.len()]);
    link.settle().await;
    let bytes = link.bytes.load(Ordering::SeqCst);
    assert!(bytes < 24 * MIB as u64, "{bytes} bytes came for the first piece");
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_reach_is_an_error_of_its_own() {
    let (here, there, content) = pair(8 * MIB).await;
    let object = here.get("big").await;
    let error = object.bytes(0..u64::MAX).await.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Offline, 113));
    assert!(error.to_string().contains("'big'") && error.to_string().contains("chunk"), "{error}");

    let link = here.linked_to(&there);
    link.is_offline.store(true, Ordering::SeqCst);
    let error = object.bytes(0..u64::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
    assert!(error.to_string().contains("the link is down"), "{error}");
    assert_eq!(here.segment.status().await.unwrap().damaged_chunks, 0, "what is absent is not damaged");
    let report = here.segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!((report.damage, report.affected), (vec![], vec![]));

    link.is_offline.store(false, Ordering::SeqCst);
    assert!(object.bytes(0..u64::MAX).await.unwrap() == content);

    // The same after opening again.
    there.put("second", &noise(2 * MIB, 8)).await;
    here.follow(&there).await;
    drop(object);
    here.segment.set_chunk_source(None);
    drop(link);
    let here = here.reopened(|_| {}).await;
    assert!(here.get("big").await.bytes(0..u64::MAX).await.unwrap() == content);
    let error = here.get("second").await.bytes(0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_fetches() {
    let (here, there, _) = pair(8 * MIB).await;
    let link = here.linked_to(&there);
    link.hold();
    let object = here.get("big").await;
    let reader = tokio::spawn(async move { object.bytes(0..u64::MAX).await });
    until("it asks", || link.calls() > 0).await;
    here.segment.close().await.unwrap();
    let error = tokio::time::timeout(DEADLINE, reader).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_harm_no_others() {
    let (here, there, content) = pair(8 * MIB).await;
    let link = here.linked_to(&there);
    let object = here.get("big").await;
    // The manifest, so that the chunks are known.
    loop {
        let nodes = object.missing_nodes(100).await.unwrap();
        if nodes.is_empty() {
            break;
        }
        link.fetch(nodes).await.unwrap();
    }
    let chunks = object.missing_chunks(0..u64::MAX, 1000).await.unwrap();
    let bad = chunks[chunks.len() / 2];
    link.bad.lock().insert(bad);

    let mut both = Vec::new();
    for id in [chunks[0], bad] {
        both.push(link.exported(&id).await.unwrap());
    }
    let error = here.segment.import_chunks(both).await.unwrap_err();
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Invalid, Subject::Chunk));
    assert!(error.to_string().contains(&bad.to_string()), "{error}");
    assert_eq!(here.segment.absent_chunks(&[chunks[0], bad, bad]).await.unwrap(), [chunks[0], bad], "none was stored");

    let mut reader = object.read(0..u64::MAX);
    let mut at = 0;
    let error = loop {
        match reader.next().await {
            Ok(Some(piece)) => {
                assert!(piece == content[at..at + piece.len()]);
                at += piece.len();
            }
            Ok(None) => panic!("the bad chunk was read"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Offline, "{error}");
    assert!(error.to_string().contains(&bad.to_string()), "{error}");
    assert!(at > 0, "chunks before it are good");
    assert_eq!(here.segment.absent_chunks(&[bad]).await.unwrap(), [bad]);
    assert!(here.segment.export_chunk(&bad).await.unwrap().is_none());
    link.bad.lock().clear();
    assert!(object.bytes(0..u64::MAX).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_keeps_what_has_come_so_far() {
    let (here, there, content) = pair(24 * MIB).await;
    let link = here.linked_to(&there);
    // Nothing is here: nothing can be walked, and nothing is dropped.
    assert_eq!(here.segment.gc().await.unwrap().chunks_dropped, 0);
    let object = here.get("big").await;
    for _ in 0..3 {
        let missing = object.missing(0..u64::MAX, 8).await.unwrap();
        assert!(!missing.chunks.is_empty() && missing.until <= content.len() as u64);
        link.fetch(missing.chunks).await.unwrap();
    }
    let (before, of) = object.local_bytes().await.unwrap();
    assert!(before > 0 && before < of);
    drop(object);
    let report = here.segment.gc().await.unwrap();
    assert_eq!(report.chunks_dropped, 0);
    let object = here.get("big").await;
    assert_eq!(object.local_bytes().await.unwrap(), (before, of));
    here.complete("big", &link).await;
    assert_eq!(here.segment.gc().await.unwrap().chunks_dropped, 0);
    here.segment.set_chunk_source(None);
    assert!(object.bytes(0..u64::MAX).await.unwrap() == content);
    assert_eq!(link.times_asked().values().max(), Some(&1));

    // Nobody else is known to carry the bucket, who might rename or link it at the same time: what is deleted goes.
    drop(object);
    here.bucket.delete("big", DeleteOptions::default()).await.unwrap();
    assert!(here.segment.gc().await.unwrap().chunks_dropped > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_come_before_what_refers_to_them_are_kept_while_their_import_is_held() {
    let (here, there, _) = pair(24 * MIB).await;
    let whole = there.get("big").await;
    let middle = site("middle").await;
    middle.follow(&there).await;
    let link = middle.linked_to(&there);
    assert!(middle.get("big").await.bytes(0..MIB as u64).await.unwrap() == whole.bytes(0..MIB as u64).await.unwrap());
    // The last chunk that was fetched is one of the content, and its node is not here.
    let chunk = *link.asked.lock().last().unwrap().last().unwrap();
    let stored = there.segment.export_chunk(&chunk).await.unwrap().unwrap();

    let import = here.segment.chunk_import();
    assert_eq!(import.import(vec![stored.clone(), stored.clone()]).await.unwrap(), 1);
    assert_eq!(import.import(vec![stored.clone()]).await.unwrap(), 0, "it is here");
    for _ in 0..3 {
        here.segment.gc().await.unwrap();
        assert_eq!(here.segment.absent_chunks(&[chunk]).await.unwrap(), []);
    }
    assert_eq!(here.segment.export_chunk(&chunk).await.unwrap().unwrap(), stored, "as it came");
    drop(import);
    // The marks of a collection's own era go with the next one.
    for _ in 0..2 {
        here.segment.gc().await.unwrap();
    }
    assert_eq!(here.segment.absent_chunks(&[chunk]).await.unwrap(), [chunk]);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_beside_a_transfer_drop_nothing_of_it() {
    let (here, there, content) = pair(48 * MIB).await;
    let link = here.linked_to(&there);
    let done = Arc::new(AtomicBool::new(false));
    let collector = {
        let (segment, done) = (here.segment.clone(), done.clone());
        tokio::spawn(async move {
            let mut dropped = 0;
            while !done.load(Ordering::SeqCst) {
                dropped += segment.gc().await.unwrap().chunks_dropped;
            }
            dropped
        })
    };
    here.complete("big", &link).await;
    let object = here.get("big").await;
    assert_eq!(object.local_bytes().await.unwrap(), (content.len() as u64, content.len() as u64));
    done.store(true, Ordering::SeqCst);
    assert_eq!(collector.await.unwrap(), 0);
    here.segment.set_chunk_source(None);
    assert!(object.bytes(0..u64::MAX).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_healed_by_the_reader_that_meets_it() {
    let (here, there, content) = pair(8 * MIB).await;
    let link = here.linked_to(&there);
    here.complete("big", &link).await;
    here.segment.set_chunk_source(None);
    drop(link);
    let needle = content.slice(4 * MIB..4 * MIB + 64);
    let here = here.reopened(|packs| damage(packs, &needle)).await;

    let error = here.get("big").await.bytes(0..u64::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let link = here.linked_to(&there);
    link.is_offline.store(true, Ordering::SeqCst);
    let error = here.get("big").await.bytes(0..u64::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "damage stays damage while nobody can mend it");
    assert_eq!(here.segment.status().await.unwrap().damaged_chunks, 1);

    link.is_offline.store(false, Ordering::SeqCst);
    assert!(here.get("big").await.bytes(0..u64::MAX).await.unwrap() == content);
    assert_eq!(here.segment.status().await.unwrap().damaged_chunks, 0);
    here.segment.set_chunk_source(None);
    drop(link);
    let here = here.reopened(|_| {}).await;
    assert!(here.get("big").await.bytes(0..u64::MAX).await.unwrap() == content, "the new place is remembered");
    let report = here.segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!((report.healed, report.damage), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_heals_what_it_can() {
    let (here, there, content) = pair(8 * MIB).await;
    let link = here.linked_to(&there);
    here.complete("big", &link).await;
    let own = noise(MIB, 99);
    here.put("own", &own).await;
    here.segment.set_chunk_source(None);
    drop(link);
    let needles = [content.slice(MIB..MIB + 64), content.slice(6 * MIB..6 * MIB + 64), own.slice(600_000..600_064)];
    let here = here.reopened(|packs| needles.iter().for_each(|needle| damage(packs, needle))).await;

    let report = here.segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!((report.healed, report.affected), (0, vec!["All/lab/b/big".to_owned(), "All/lab/b/own".to_owned()]));
    assert_eq!(here.segment.status().await.unwrap().damaged_chunks, 3);
    let link = here.linked_to(&there);
    let report = here.segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!((report.healed, report.affected), (2, vec!["All/lab/b/own".to_owned()]));
    assert_eq!(report.damage.len(), 2, "the chunk that nobody else has, and its object: {:?}", report.damage);
    assert_eq!(here.segment.status().await.unwrap().damaged_chunks, 1);
    let fetched = link.bytes.load(Ordering::SeqCst);
    assert!(fetched < 4 * MIB as u64, "{fetched} bytes came for two chunks");
    assert_eq!(here.get("own").await.bytes(0..u64::MAX).await.unwrap_err().kind(), ErrorKind::Damaged);
    here.segment.set_chunk_source(None);
    assert!(here.get("big").await.bytes(0..u64::MAX).await.unwrap() == content);
}

/// What readers and scrubs had met was forgotten by the next restart: status knew of no damage, and what was stored once more was taken for stored.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_known_after_restarts_until_it_is_over() {
    async fn known(site: &Site) -> u64 {
        site.segment.status().await.unwrap().damaged_chunks
    }
    let here = site("here").await;
    let needle = |seed: u64| noise(MIB, seed).slice(600_000..600_064);
    for (key, seed) in [("read", 1), ("scrubbed", 2), ("restored", 3)] {
        here.put(key, &noise(MIB, seed)).await;
    }
    let here = here.reopened(|packs| damage(packs, &needle(1))).await;
    assert_eq!(here.get("read").await.bytes(0..u64::MAX).await.unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(known(&here).await, 1);
    let here = here.reopened(|_| {}).await;
    assert_eq!(known(&here).await, 1);
    here.put("again", &noise(MIB, 1)).await;
    assert!(here.get("read").await.bytes(0..u64::MAX).await.unwrap() == noise(MIB, 1), "it was stored anew");
    assert_eq!(known(&here).await, 0);
    let here = here.reopened(|packs| [2, 3].iter().for_each(|seed| damage(packs, &needle(*seed)))).await;
    assert_eq!(known(&here).await, 0, "the row went with the commit that gave the chunk its new place");

    assert_eq!(here.segment.scrub(0, |_, _| {}).await.unwrap().affected.len(), 2);
    let here = here.reopened(|_| {}).await;
    assert_eq!(known(&here).await, 2);
    here.bucket.delete("scrubbed", DeleteOptions::default()).await.unwrap();
    here.segment.gc().await.unwrap();
    assert_eq!(known(&here).await, 1, "nothing needs the other");
    let damaged = [&[needle(3)[0] ^ 1][..], &needle(3)[1..]].concat();
    let here = here.reopened(|packs| damage(packs, &damaged)).await;
    assert_eq!(known(&here).await, 1);
    assert_eq!(here.segment.scrub(0, |_, _| {}).await.unwrap().damage, [""; 0]);
    let here = here.reopened(|packs| packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap())).await;
    assert_eq!(known(&here).await, 0, "it was found well");

    // Of what lay in packs that are lost nothing stays but what is needed.
    here.segment.scrub(0, |_, _| {}).await.unwrap();
    assert!(known(&here).await > 0);
    for key in ["read", "again", "restored"] {
        here.bucket.delete(key, DeleteOptions::default()).await.unwrap();
    }
    here.segment.gc().await.unwrap();
    assert_eq!((known(&here).await, here.segment.status().await.unwrap().chunks), (0, 0));
    let here = here.reopened(|_| {}).await;
    assert_eq!(known(&here).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_and_copies_read_and_change_what_is_not_here() {
    let (here, there, content) = pair(24 * MIB).await;
    let link = here.linked_to(&there);
    let object = here.get("big").await;
    here.bucket.copy(&object, "copy", CopyOptions::default()).await.unwrap();
    assert_eq!(link.calls(), 0, "a copy needs no bytes");

    let file =
        here.bucket.open_file("big", FileOptions { read: true, write: true, ..FileOptions::default() }).await.unwrap();
    let read = file.read_at(12_000_000, 4096).await.unwrap();
    assert!(read == content[12_000_000..12_004_096]);
    let bytes = link.bytes.load(Ordering::SeqCst);
    assert!(bytes < 3 * MIB as u64, "{bytes} bytes came for 4 KiB");
    file.write_at(3_000_000, Bytes::from_static(b"changed")).await.unwrap();
    file.fsync().await.unwrap();
    let mut expected = content.to_vec();
    expected[3_000_000..3_000_007].copy_from_slice(b"changed");
    let bytes = link.bytes.load(Ordering::SeqCst);
    assert!(bytes < 4 * MIB as u64, "{bytes} bytes came to change 7");

    let mut at = 0;
    while at < expected.len() {
        let piece = file.read_at(at as u64, 128 << 10).await.unwrap();
        assert!(piece == expected[at..at + piece.len()] && !piece.is_empty(), "at {at}");
        at += piece.len();
    }
    let (calls, chunks) = (link.calls(), link.chunks_asked());
    assert!(calls * 3 < chunks, "{calls} calls for {chunks} chunks");
    drop((file, object));
    link.settle().await;
    here.segment.set_chunk_source(None);
    assert!(here.get("big").await.bytes(0..u64::MAX).await.unwrap() == expected);
    assert!(here.get("copy").await.bytes(0..u64::MAX).await.unwrap() == content);
}
