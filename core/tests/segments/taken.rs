//! P1, P8, P11: versions that are made of bytes which only others hold, as copies and changes of a part are where names came without data. Whoever holds the bytes
//! keeps them until it has heard of all that was made of them; what is made of bytes that nobody need keep is not acknowledged before they are here.

use crate::Dice;
use crate::forgetting::{drop_all, tell};
use crate::site::{Site, Sites};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tombolo_core::*;

const SIZE: usize = 300_000;

pub(crate) fn noise(seed: u8) -> Vec<u8> {
    let mut content = vec![0; SIZE];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    hasher.finalize_xof().fill(&mut content);
    content
}

/// Of what is put here there are so many chunks that its manifest has nodes.
fn small_chunks() -> BucketPolicy {
    BucketPolicy { chunking: Chunking::Fixed(4 << 10), ..BucketPolicy::default() }
}

async fn put(site: &Site, key: &str, seed: u8) {
    site.bucket.put(key, noise(seed), PutOptions::default()).await.unwrap();
}

async fn get(site: &Site, key: &str) -> Object {
    site.bucket.get(key, GetOptions::default()).await.unwrap()
}

pub(crate) async fn bytes(site: &Site, key: &str) -> Vec<u8> {
    get(site, key).await.bytes(0..u64::MAX).await.unwrap().to_vec()
}

pub(crate) async fn local(site: &Site, key: &str) -> u64 {
    get(site, key).await.local_bytes().await.unwrap().0
}

pub(crate) async fn collect(site: &Site) -> u64 {
    site.bucket.segment().gc().await.unwrap();
    // What the first one has spared because it was just being looked at.
    site.bucket.segment().gc().await.unwrap().chunks_live
}

pub(crate) struct Source {
    from: Segment,
    to: Segment,
    chunks: AtomicU64,
}

#[async_trait]
impl ChunkSource for Source {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        for id in chunks {
            let chunk = self.from.export_chunk(&id).await?;
            let chunk = chunk.ok_or_else(|| Error::new(ErrorKind::Offline, "it is not there either"))?;
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.to.chunk_import_as(Residence::Cached).import(vec![chunk]).await?;
        }
        Ok(())
    }
}

/// `here` reads what `there` has.
pub(crate) fn linked(here: &Site, there: &Site) -> Arc<Source> {
    let (from, to) = (there.bucket.segment().clone(), here.bucket.segment().clone());
    let source = Arc::new(Source { from, to, chunks: AtomicU64::new(0) });
    here.bucket.segment().set_chunk_source(Some(source.clone()));
    source
}

fn apart(here: &Site) {
    here.bucket.segment().set_chunk_source(None);
}

/// Each has what the other has, and says so.
async fn meet(a: &Site, b: &Site) {
    for _ in 0..2 {
        a.pull(b).await;
        b.pull(a).await;
        tell(a, b).await;
    }
}

fn changed() -> FileOptions {
    FileOptions { read: true, write: true, ..FileOptions::default() }
}

/// Opens a file, writes to it, and saves and closes it.
async fn change_at(site: &Site, key: &str, at: usize, data: &[u8]) {
    let file = site.bucket.open_file(key, changed()).await.unwrap();
    file.write_at(at as u64, data.to_vec().into()).await.unwrap();
    file.fsync().await.unwrap();
    file.close().await.unwrap();
}

/// `copy_file_range` from data that was still to come was listed under the name of its source alone: when that was deleted, the copy counted as complete, and no
/// byte of it was here.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_into_a_file_is_wanted_for_itself() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("cloned", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let own = b.bucket.segment().id();
    b.bucket.keep_data(true).await.unwrap();
    put(a, "x", 1).await;
    b.pull(a).await;
    let source = b.bucket.open_file("x", FileOptions::read()).await.unwrap();
    // A copy of a copy that no version has yet.
    let first = b.bucket.open_file("first", FileOptions::create()).await.unwrap();
    let second = b.bucket.open_file("second", FileOptions::create()).await.unwrap();
    let link = linked(b, a);
    assert_eq!(first.copy_from(&source, 0, 0, SIZE as u64).await.unwrap(), SIZE as u64);
    assert_eq!(second.copy_from(&first, 0, 0, SIZE as u64).await.unwrap(), SIZE as u64);
    first.fsync().await.unwrap();
    second.fsync().await.unwrap();
    assert!(link.chunks.load(Ordering::Relaxed) <= 1, "the manifest at most is needed for it");
    apart(b);
    drop((source, first));
    b.bucket.delete("x", DeleteOptions::default()).await.unwrap();
    let wanted = b.bucket.wanted(None, 10).await.unwrap();
    let paths: Vec<_> = wanted.iter().filter_map(|w| w.path.clone()).collect();
    assert_eq!(paths, ["first", "second"]);
    assert!(b.bucket.data_vector().await.unwrap().get(&own) < wanted[0].dot.sequence);

    // Changed again it is as absent as before; and what a crash left of it is looked at, too.
    second.write_at(0, "changed".into()).await.unwrap();
    second.fsync().await.unwrap();
    let wanted = b.bucket.wanted(None, 10).await.unwrap();
    assert_eq!(wanted.iter().filter_map(|w| w.path.clone()).collect::<Vec<_>>(), ["first", "second"]);
    drop(second);
    let path = b.bucket.path().clone();
    drop((sites, link));
    all.reopen(1).await;
    let b = all.segments[1].bucket(&path).await.unwrap();
    assert_eq!(b.wanted(None, 10).await.unwrap().len(), 2);
}

/// P9, P11: each version of an open file whose data is elsewhere was a lender of the next one. With the seventeenth all of the file had to come, and where it could not be had the
/// fsync failed. What they name is still held: the first version's bytes are there after they were overwritten and collected.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_is_saved_as_often_as_one_likes() {
    let all = Sites::new(2).await;
    let sites = all.bucket("saved", 2, &small_chunks()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", 1).await;
    meet(a, b).await;
    let link = linked(b, a);
    let file = b.bucket.open_file("x", changed()).await.unwrap();
    let mut content = noise(1);
    for n in 0..40_u8 {
        file.write_at(0, vec![n; 100].into()).await.unwrap();
        content[..100].fill(n);
        file.fsync().await.unwrap();
        // The nodes on the way to it have come.
        apart(b);
    }
    assert!(local(b, "x").await < SIZE as u64 / 2);
    drop(file);
    put(a, "x", 2).await;
    collect(a).await;
    linked(b, a);
    drop(link);
    assert_eq!(bytes(b, "x").await, content);
}

/// As above, and opened anew for each change: it is made of what it was made of before, and of bytes that are here. The seventeenth save failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_opened_and_saved_as_often_as_one_likes() {
    let all = Sites::new(2).await;
    let sites = all.bucket("reopened", 2, &small_chunks()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", 1).await;
    meet(a, b).await;
    let link = linked(b, a);
    let mut content = noise(1);
    for n in 0..40_u8 {
        let at = usize::from(n % 3) * 100_000;
        change_at(b, "x", at, &[n; 100]).await;
        content[at..at + 100].fill(n);
        if n > 2 {
            // The nodes on the way to all three have come.
            apart(b);
        }
    }
    assert!(local(b, "x").await < SIZE as u64 / 2);
    put(a, "x", 2).await;
    collect(a).await;
    // It hears of the name, and of no node.
    meet(a, b).await;
    collect(a).await;
    meet(a, b).await;
    collect(a).await;
    linked(b, a);
    drop(link);
    let copy = b.conflicts().await.into_iter().find_map(|found| found.key).unwrap();
    let mut found = [bytes(b, "x").await, bytes(b, std::str::from_utf8(&copy).unwrap()).await];
    found.sort();
    let mut wanted = [noise(2), content];
    wanted.sort();
    assert!(found == wanted, "each has what it wrote");
}

/// P11: a copy, and a small file's version, were written where they were made, though not a byte of them is there. What is made of them names its lenders, and who has the bytes
/// keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_a_copy_or_of_a_small_file_names_its_lenders() {
    let all = Sites::new(2).await;
    let sites = all.bucket("second", 2, &small_chunks()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let small = &noise(7)[..5 * 4096];
    put(a, "copied", 1).await;
    a.bucket.put("small", small.to_vec(), PutOptions::default()).await.unwrap();
    meet(a, b).await;
    let link = linked(b, a);
    b.bucket.copy(&get(b, "copied").await, "copy", CopyOptions::default()).await.unwrap();
    change_at(b, "copy", 10, b"by new york").await;
    change_at(b, "small", 3, b"changed").await;
    // It becomes one whose manifest has nodes.
    change_at(b, "small", small.len(), &noise(8)).await;
    for key in ["copy", "small"] {
        let (here, of) = get(b, key).await.local_bytes().await.unwrap();
        assert!(here < of, "else this shows nothing: {key} {here} of {of}");
    }
    apart(b);
    a.bucket.delete("copied", DeleteOptions::default()).await.unwrap();
    meet(a, b).await;
    collect(a).await;
    meet(a, b).await;
    collect(a).await;
    linked(b, a);
    drop(link);
    let mut copy = noise(1);
    copy[10..21].copy_from_slice(b"by new york");
    assert!(bytes(b, "copy").await == copy);
    let grown = [&small[..3], b"changed", &small[10..], &noise(8)].concat();
    assert!(bytes(b, "small").await == grown);
}

/// New York copies and changes what is in San Francisco only; before San Francisco hears of it, it overwrites all of that, and collects. Both of New York's acknowledged
/// versions had lost their bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_of_a_replaced_content_keeps_its_bytes() {
    let all = Sites::new(2).await;
    let sites = all.bucket("lent", 2, &small_chunks()).await;
    let (a, b) = (&sites[0], &sites[1]);
    let before = collect(a).await;
    for (key, seed) in [("copied", 1), ("changed", 2), ("left", 3), ("deleted", 4)] {
        put(a, key, seed).await;
    }
    meet(a, b).await;
    let link = linked(b, a);
    b.bucket.copy(&get(b, "copied").await, "copy", CopyOptions::default()).await.unwrap();
    b.bucket.copy(&get(b, "deleted").await, "kept", CopyOptions::default()).await.unwrap();
    change_at(b, "changed", 10, b"by new york").await;
    apart(b);
    for (key, seed) in [("copied", 11), ("changed", 12), ("left", 13)] {
        put(a, key, seed).await;
    }
    a.bucket.delete("deleted", DeleteOptions::default()).await.unwrap();
    collect(a).await;
    assert_eq!(local(b, "copy").await, 0, "else this shows nothing");

    // San Francisco has the names of what was made, and the manifest of the changed one is in New York: it can't tell which chunks that takes.
    meet(a, b).await;
    collect(a).await;
    meet(a, b).await;
    collect(a).await;
    linked(b, a);
    linked(a, b);
    let mut expected = noise(2);
    expected[10..21].copy_from_slice(b"by new york");
    let conflicts = a.conflicts().await;
    assert_eq!(conflicts.len(), 1);
    let versions = ["changed", std::str::from_utf8(conflicts[0].key.as_ref().unwrap()).unwrap()];
    for site in [a, b] {
        assert!(bytes(site, "copy").await == noise(1) && bytes(site, "kept").await == noise(4));
        assert!(bytes(site, "copied").await == noise(11));
        let mut both = [bytes(site, versions[0]).await, bytes(site, versions[1]).await];
        both.sort();
        let mut wanted = [noise(12), expected.clone()];
        wanted.sort();
        assert!(both == wanted, "each has what it wrote");
    }
    apart(a);
    apart(b);
    drop(link);

    // What nothing was made of goes when everybody has heard of that, and all goes in the end.
    while let Some(key) = a.shows().await.into_keys().next() {
        a.bucket.delete(&key, DeleteOptions::default()).await.unwrap();
    }
    meet(a, b).await;
    collect(a).await;
    meet(a, b).await;
    assert_eq!(collect(a).await, before);
}

/// As above, but what was replaced there goes as soon as nobody can make anything of it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_content_goes_when_all_have_heard_of_it() {
    let all = Sites::new(2).await;
    for versioning in [Versioning::Off, Versioning::On] {
        let policy = BucketPolicy { versioning, versions_max: Some(1), ..BucketPolicy::default() };
        let sites = all.bucket(&format!("goes-{versioning:?}").to_lowercase(), 2, &policy).await;
        let (a, b) = (&sites[0], &sites[1]);
        let before = collect(a).await;
        put(a, "x", 1).await;
        meet(a, b).await;
        let one = collect(a).await;
        for seed in 2..6 {
            put(a, "x", seed).await;
        }
        let held = collect(a).await;
        assert!(held >= one + 4, "{versioning:?}: all that was replaced is here");
        meet(a, b).await;
        assert!(collect(a).await < held, "{versioning:?}");
        for text in ["small", "smaller"] {
            a.bucket.put("x", text, PutOptions::default()).await.unwrap();
        }
        meet(a, b).await;
        assert_eq!(collect(a).await, before, "{versioning:?}");
    }
}

/// An open file, an opened object and an upload can be used long after what they show was replaced, and everybody knows that. Nobody keeps the bytes for that: they come
/// before anything made of them is acknowledged, or nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_what_nobody_keeps_is_brought_first() {
    let all = Sites::new(2).await;
    let sites = all.bucket("late", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    for (key, seed) in [("opened", 1), ("copied", 2), ("part", 3), ("ranged", 4)] {
        put(a, key, seed).await;
    }
    b.pull(a).await;
    let link = linked(b, a);
    let file = b.bucket.open_file("opened", changed()).await.unwrap();
    file.write_at(0, "mine".into()).await.unwrap();
    let target = b.bucket.open_file("target", FileOptions::create()).await.unwrap();
    let ranged = b.bucket.open_file("ranged", FileOptions::read()).await.unwrap();
    target.copy_from(&ranged, 0, 0, SIZE as u64).await.unwrap();
    let object = get(b, "copied").await;
    let upload = b.bucket.create_upload("joined", PutOptions::default()).await.unwrap().id;
    let part = b.bucket.copy_part("joined", &upload, 1, &get(b, "part").await, 0..SIZE as u64).await.unwrap();
    for (key, seed) in [("opened", 11), ("copied", 12), ("part", 13), ("ranged", 14)] {
        put(a, key, seed).await;
    }
    meet(a, b).await;

    apart(b);
    assert_eq!(file.fsync().await.unwrap_err().kind(), ErrorKind::Offline);
    assert_eq!(target.fsync().await.unwrap_err().kind(), ErrorKind::Offline);
    let copying = b.bucket.copy(&object, "copy", CopyOptions::default()).await;
    assert_eq!(copying.unwrap_err().kind(), ErrorKind::Offline);
    assert!(b.bucket.head("copy", GetOptions::default()).await.is_err());

    let link_again = linked(b, a);
    file.fsync().await.unwrap();
    target.fsync().await.unwrap();
    b.bucket.copy(&object, "copy", CopyOptions::default()).await.unwrap();
    let parts = [CompletePart { number: 1, etag: part.etag.to_string() }];
    b.bucket.complete_upload("joined", &upload, &parts, CompleteOptions::default()).await.unwrap();
    drop((file, target, ranged, object));
    apart(b);
    drop((link, link_again));
    drop_all(a).await;
    collect(a).await;
    collect(b).await;
    let mut expected = noise(1);
    expected[..4].copy_from_slice(b"mine");
    assert!(bytes(b, "opened").await == expected);
    for (key, seed) in [("target", 4), ("copy", 2), ("joined", 3)] {
        assert!(bytes(b, key).await == noise(seed), "{key}");
    }
}

/// P11: a conflict copy that is renamed is written here, and was made elsewhere: what is changed of it names the copy's content as well as what that was made of. Who had made
/// it dropped what was only in there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_a_renamed_conflict_copy_names_its_content() {
    let all = Sites::new(3).await;
    let sites = all.bucket("rescued", 3, &small_chunks()).await;
    let (home, editor, other) = (&sites[0], &sites[1], &sites[2]);
    let meet_all = async || {
        for _ in 0..2 {
            meet(home, editor).await;
            meet(editor, other).await;
            meet(home, other).await;
        }
    };
    put(home, "x", 1).await;
    meet_all().await;
    let link = linked(editor, home);
    change_at(editor, "x", 10, b"by the editor").await;
    apart(editor);
    drop(link);
    home.writes_after(editor).await;
    put(home, "x", 2).await;
    meet_all().await;
    let copy = other.conflicts().await.into_iter().find_map(|found| found.key).unwrap();
    other.bucket.rename(&copy, "moved").await.unwrap();
    let is_up = Arc::new(AtomicBool::new(true));
    let others = vec![home.bucket.segment().clone(), editor.bucket.segment().clone()];
    let net = Net { others, to: other.bucket.segment().clone(), is_up: is_up.clone() };
    other.bucket.segment().set_chunk_source(Some(Arc::new(net)));
    change_at(other, "moved", 200_000, b"by the other").await;
    is_up.store(false, Ordering::Relaxed);
    assert!(local(other, "moved").await < SIZE as u64 / 2, "else this shows nothing");
    for _ in 0..3 {
        meet_all().await;
        collect(home).await;
        collect(editor).await;
    }
    is_up.store(true, Ordering::Relaxed);
    let mut expected = noise(1);
    expected[10..23].copy_from_slice(b"by the editor");
    expected[200_000..200_012].copy_from_slice(b"by the other");
    assert!(bytes(other, "moved").await == expected);
    apart(other);
}

/// What can't be saved when a segment closes is lost, which the closing says; it held the directory's lock until the process ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_could_not_save_everything_lets_go_of_its_directory() {
    let mut all = Sites::new(2).await;
    let sites = all.bucket("closed", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    put(a, "x", 1).await;
    b.pull(a).await;
    let link = linked(b, a);
    let file = b.bucket.open_file("x", changed()).await.unwrap();
    file.write_at(0, "mine".into()).await.unwrap();
    put(a, "x", 2).await;
    meet(a, b).await;
    apart(b);
    drop((link, file));
    drop(sites);
    let segment = all.segments.remove(1);
    let dir = segment.dir().to_owned();
    assert_eq!(segment.close().await.unwrap_err().kind(), ErrorKind::Offline);
    drop(segment);
    all.open(1, &dir).await;
}

/// Reads what any of the others has, while the network is up.
struct Net {
    others: Vec<Segment>,
    to: Segment,
    is_up: Arc<AtomicBool>,
}

impl Net {
    async fn bring(&self, chunks: Vec<ChunkId>, residence: Residence) -> Result<()> {
        for id in chunks {
            let mut found = None;
            for other in self.others.iter().filter(|_| self.is_up.load(Ordering::Relaxed)) {
                found = found.or(other.export_chunk(&id).await?);
            }
            let chunk = found.ok_or_else(|| Error::new(ErrorKind::Offline, format!("nobody has {id}")))?;
            self.to.chunk_import_as(residence).import(vec![chunk]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ChunkSource for Net {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        self.bring(chunks, Residence::Cached).await
    }
}

/// One that is offline, or what was to be changed is gone, is no matter.
fn settled<T>(outcome: Result<T>) {
    if let Err(error) = outcome {
        assert!(matches!(error.kind(), ErrorKind::Offline | ErrorKind::NotFound), "{error:?}");
    }
}

async fn change(site: &Site, dice: &mut Dice, step: u64) {
    let keys = ["u", "v", "w", "x"];
    let (key, other) = (dice.pick(&keys), dice.pick(&keys));
    match dice.roll(8) {
        0..=2 => put(site, key, u8::try_from(step).unwrap()).await,
        3 | 4 => {
            let Ok(object) = site.bucket.get(key, GetOptions::default()).await else { return };
            settled(site.bucket.copy(&object, other, CopyOptions::default()).await);
        }
        5 | 6 => {
            let Ok(file) = site.bucket.open_file(key, changed()).await else { return };
            let at = dice.roll(SIZE as u64);
            settled(file.write_at(at, format!("at {step}").into()).await);
            if dice.roll(2) == 0
                && let Ok(from) = site.bucket.open_file(other, FileOptions::read()).await
                && key != other
            {
                settled(file.copy_from(&from, 0, 0, 100_000).await);
            }
            settled(file.fsync().await);
        }
        _ => settled(site.bucket.delete(key, DeleteOptions::default()).await),
    }
}

/// What segments that hold all data, names only, or give their data to others do to each other: after any schedule every object that shows anywhere can be read there.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_shows_can_be_read() {
    let seeds: u64 = std::env::var("TOMBOLO_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60) / 10;
    let first: u64 = std::env::var("TOMBOLO_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let all = Sites::new(3).await;
    let is_up = Arc::new(AtomicBool::new(true));
    let mut nets = Vec::new();
    for (at, to) in all.segments.iter().enumerate() {
        let others =
            all.segments.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, s)| s.clone()).collect();
        let net = Arc::new(Net { others, to: to.clone(), is_up: is_up.clone() });
        to.set_chunk_source(Some(net.clone()));
        nets.push(net);
    }
    for seed in first..if first > 0 { first + 1 } else { seeds.max(1) } {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = BucketPolicy {
            chunking: Chunking::Fixed(4 << 10),
            versioning: if dice.roll(3) == 0 { Versioning::On } else { Versioning::Off },
            versions_max: Some(1),
            ..BucketPolicy::default()
        };
        is_up.store(true, Ordering::Relaxed);
        let sites = all.bucket(&format!("random-{seed}"), 3, &policy).await;
        // The first holds all data; the others may, or have names only, or give theirs to the first.
        for (at, site) in sites.iter().enumerate() {
            match dice.roll(4) {
                _ if at == 0 => site.bucket.keep_data(true).await.unwrap(),
                0 => site.bucket.keep_data(true).await.unwrap(),
                1 => {}
                _ => site.bucket.set_gather(Some(Gather { receipts: 1, delay_ms: 0, names: false })).await.unwrap(),
            }
        }
        for step in 0..50 {
            let (at, from) = (dice.roll(3) as usize, dice.roll(3) as usize);
            let site = &sites[at];
            match dice.roll(10) {
                0..=4 => change(site, &mut dice, step + 50 * (seed % 4)).await,
                5..=7 if at != from => {
                    site.pull(&sites[from]).await;
                    tell(site, &sites[from]).await;
                    if is_up.load(Ordering::Relaxed) {
                        exchange(site, &nets[at], &sites).await;
                    }
                }
                8 => drop(site.bucket.segment().gc().await.unwrap()),
                _ => drop(is_up.fetch_xor(true, Ordering::Relaxed)),
            }
        }
        is_up.store(true, Ordering::Relaxed);
        for round in 0..3 {
            for (at, site) in sites.iter().enumerate() {
                for from in sites.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, site)| site) {
                    site.pull(from).await;
                    tell(site, from).await;
                }
                exchange(site, &nets[at], &sites).await;
                site.bucket.segment().gc().await.unwrap();
            }
            for (at, site) in sites.iter().enumerate() {
                let page = site.bucket.list(ListOptions { limit: 100, ..ListOptions::default() }).await.unwrap();
                for item in page.items {
                    let ListItem::Object(object) = item else { continue };
                    let read =
                        site.bucket.get(&object.key, GetOptions::default()).await.unwrap().bytes(0..u64::MAX).await;
                    let key = String::from_utf8_lossy(&object.key).into_owned();
                    assert!(read.is_ok(), "TOMBOLO_SEED={seed}, round {round}: {key} at {at}: {:?}", read.err());
                }
            }
        }
    }
    all.segments.iter().for_each(|segment| segment.set_chunk_source(None));
}

/// What is to be here comes, and those who hold all data say so to those who give theirs up.
async fn exchange(site: &Site, net: &Net, sites: &[Site]) {
    for wanted in site.bucket.wanted(None, 1000).await.unwrap() {
        loop {
            let missing = site.bucket.segment().missing_chunks(&wanted.manifest, 64).await.unwrap();
            if missing.is_empty() {
                break;
            }
            net.bring(missing, Residence::Kept).await.unwrap();
        }
        let import = site.bucket.segment().chunk_import();
        if import.adopt(&wanted.manifest).await.unwrap().is_none() {
            site.bucket.data_arrived(&[wanted.key]).await.unwrap();
        }
    }
    let own = site.bucket.segment().id();
    for other in sites.iter().filter(|other| other.bucket.segment().id() != own) {
        if let Some(promised) = site.bucket.promise(&other.bucket.segment().id()).await.unwrap() {
            other.bucket.add_receipt(&own, &promised).await.unwrap();
        }
    }
}
