//! What power loss leaves that fjall doesn't open: a torn end of the journal, a creation that was not finished.
//!
//! fjall writes batches one after the other into a journal of 64 MiB that starts as a hole. Power loss can leave any of the
//! pages that were not synced as zeros. If the last batch lost its own end, fjall drops it; if it lost a page in the middle,
//! fjall finds a wrong checksum and refuses to open. So before fjall looks, [`cut_torn_end`] reads the newest journal (older
//! ones were synced whole) and cuts it behind the last batch before the first bad one.
//!
//! That must not hide damage to what was acknowledged. Each batch therefore begins with a [`Mark`]: its own number and the
//! number of the last batch known to be synced when it was written. A bad batch that some later one knows to be synced
//! is damage, and the store doesn't open.
//!
//! Batches hold contents as users wrote them, and those may look like batches. Behind a bad one, where nothing says any more where the next begins, only marks count
//! that the store's own [`MarkKey`] vouches for.
//!
//! ```text
//! journal = batch*, zeros
//! batch   = 01 items:u32 seqno:u64, item*, 03 xxh3(item*):u64 "FJL" 03
//! item    = 02 type:u8 compression:u8 keyspace:u64 key_bytes:u16 value_bytes:u32 stored_bytes:u32 key stored_value
//! ```
//!
//! All integers are little-endian. This is fjall's disk format 3 (`src/journal/entry.rs` there); an item of another kind (fjall has one
//! for clearing a keyspace, which this store never does) counts as bad.

use super::mark::{MARK_BYTES, MARK_KEY, Mark, MarkKey};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
/// A batch of a store with a key up to the end of its mark.
const MARKED_START_BYTES: usize = START_BYTES + ITEM_BYTES + MARK_KEY.len() + MARK_BYTES;
const END_MAGIC: &[u8] = b"FJL\x03";
/// What the search for batches behind a bad one reads at most, in bytes: 16 times a full journal. In a store without a key contents may look like the beginnings of
/// batches, each of which is to be read on from; without a bound, time would grow with the square of their number.
const SEARCH_BYTES_MAX: u64 = 1 << 30;

/// Makes the store in `dir` one that fjall opens, whatever moment of a write a crash hit. Fails with
/// [`ErrorKind::Busy`] if the store is open and with [`ErrorKind::Damaged`] if a batch is bad that was synced.
pub(super) fn cut_torn_end(dir: &Path, key: Option<&MarkKey>) -> Result<()> {
    let context = || format!("the journal of the metadata store in {} can't be checked", dir.display());
    let failed = |error| Error::io(context(), error);
    let lock = match OpenOptions::new().read(true).write(true).open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // fjall's own lock: the journal of an open store grows, and must not be cut.
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::new(ErrorKind::Busy, context()).because("another process has the store open"));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    if remove_unfinished(dir).map_err(failed)? {
        return Ok(());
    }
    let Some(path) = newest_journal(dir).map_err(failed)? else {
        return Ok(());
    };
    let file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let end = match journal_end(file, length, key).map_err(failed)? {
        JournalEnd::Whole => return Ok(()),
        JournalEnd::Torn(end) => end,
        JournalEnd::Damaged(end) => {
            return Err(Error::damaged(format!(
                "{} is damaged at byte {end}: what stands there was synced, or looks like it, but is not readable; restore the file",
                path.display()
            )));
        }
    };
    tracing::warn!(journal = %path.display(), end, "dropped what a crash left of commits that were not acknowledged as durable");
    let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
    file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)
}

/// Removes what a crash left of creating the store, which fjall would stumble over. Whether it did.
fn remove_unfinished(dir: &Path) -> io::Result<bool> {
    // The version is written before the first keyspace, and neither is ever removed.
    let version = dir.join("version");
    let version_bytes = match std::fs::metadata(&version) {
        Ok(file) => Some(file.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let has_keyspaces = match std::fs::read_dir(dir.join("keyspaces")) {
        Ok(mut entries) => entries.next().transpose()?.is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if version_bytes.unwrap_or(0) > 0 || has_keyspaces {
        return Ok(false);
    }
    if version_bytes.is_some() {
        std::fs::remove_file(&version)?;
    }
    while let Some(journal) = newest_journal(dir)? {
        std::fs::remove_file(journal)?;
    }
    Ok(true)
}

fn newest_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("jnl")) = (stem, path.extension().and_then(|extension| extension.to_str())) {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// How a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalEnd {
    /// With its last batch, but for zeros.
    Whole,
    /// What stands from this byte on is left of commits that were not acknowledged as durable.
    Torn(u64),
    /// What stands at this byte was synced, or can't be told from what was, and is not readable.
    Damaged(u64),
}

/// Reads a journal of `length` bytes of a store with `key`. For `cut_torn_end`, and for a fuzzer.
pub fn journal_end(journal: impl Read + Seek, length: u64, key: Option<&MarkKey>) -> io::Result<JournalEnd> {
    end_within(journal, length, key, SEARCH_BYTES_MAX)
}

fn end_within(
    journal: impl Read + Seek,
    length: u64,
    key: Option<&MarkKey>,
    search_bytes_max: u64,
) -> io::Result<JournalEnd> {
    let file = BufReader::with_capacity(64 << 10, journal);
    let mut journal = Journal { file, position: 0, end: length, read_bytes: 0 };
    let mut last = None;
    while let Some(batch) = journal.batch()? {
        last = Some(batch);
    }
    let end = last.map_or(0, |batch| batch.end);
    let starts = Starts { after_seqno: last.map_or(0, |batch| batch.seqno), key };
    let later = match journal.later_batches(end, &starts, search_bytes_max)? {
        Search::Nothing => return Ok(JournalEnd::Whole),
        Search::Found(later) => later,
        Search::GivenUp => return Ok(JournalEnd::Damaged(end)),
    };
    // The bad batch is the one after the last whole one; without one before it, at the latest the one before the next.
    let last_number = last.and_then(|batch| batch.mark).map(|mark| mark.number);
    let is_synced = match (last_number, later.first) {
        (Some(last), Some(_)) => later.synced > last,
        (None, Some(first)) => later.synced >= first.saturating_sub(1),
        (_, None) => false,
    };
    Ok(if is_synced { JournalEnd::Damaged(end) } else { JournalEnd::Torn(end) })
}

/// A batch that is whole.
#[derive(Clone, Copy)]
struct Batch {
    seqno: u64,
    mark: Option<Mark>,
    /// Where it ends.
    end: u64,
}

/// What follows a bad batch.
#[derive(Default)]
struct Later {
    /// The number of the first whole batch among it.
    first: Option<u64>,
    /// The highest number that a whole batch among it knows to be synced.
    synced: u64,
}

/// What came of looking for it.
enum Search {
    /// There are only zeros.
    Nothing,
    Found(Later),
    /// Too much looks like a batch and is none.
    GivenUp,
}

struct Journal<R> {
    file: BufReader<R>,
    /// Where the next read happens.
    position: u64,
    end: u64,
    /// How much was read in all.
    read_bytes: u64,
}

impl<R: Read + Seek> Journal<R> {
    /// The batch at the current position, `None` if there is no whole one.
    fn batch(&mut self) -> io::Result<Option<Batch>> {
        let Some([START, rest @ ..]) = self.array::<START_BYTES>()? else {
            return Ok(None);
        };
        let [i0, i1, i2, i3, seqno @ ..] = rest;
        let items = u32::from_le_bytes([i0, i1, i2, i3]);
        let mut checksum = Xxh3::new();
        let mut mark = None;
        for _ in 0..items {
            let Some(found) = self.item(&mut checksum)? else {
                return Ok(None);
            };
            mark = mark.or(found);
        }
        let Some([END, c0, c1, c2, c3, c4, c5, c6, c7, magic @ ..]) = self.array::<13>()? else {
            return Ok(None);
        };
        let stored = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        if magic != END_MAGIC || stored != checksum.digest() {
            return Ok(None);
        }
        Ok(Some(Batch { seqno: u64::from_le_bytes(seqno), mark, end: self.position }))
    }

    /// Reads an item into `checksum`: `None` if it is not whole, otherwise its mark if it carries one.
    fn item(&mut self, checksum: &mut Xxh3) -> io::Result<Option<Option<Mark>>> {
        let Some(header) = self.array::<ITEM_BYTES>()? else {
            return Ok(None);
        };
        let [ITEM, _, _, _, _, _, _, _, _, _, _, k0, k1, _, _, _, _, s0, s1, s2, s3] = header else {
            return Ok(None);
        };
        checksum.update(&header);
        let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
        let stored_bytes = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        if self.left() < key_bytes as u64 + stored_bytes {
            return Ok(None);
        }
        let mut key = vec![0; key_bytes];
        self.read(&mut key)?;
        checksum.update(&key);
        if key == MARK_KEY && stored_bytes <= MARK_BYTES as u64 {
            let mut value = vec![0; stored_bytes as usize];
            self.read(&mut value)?;
            checksum.update(&value);
            return Ok(Some(Mark::decode(&value)));
        }
        let mut left = stored_bytes;
        let mut part = [0; 4 << 10];
        while left > 0 {
            let part_bytes = left.min(part.len() as u64);
            let (part, _) = part.split_at_mut(part_bytes as usize);
            self.read(part)?;
            checksum.update(part);
            left -= part_bytes;
        }
        Ok(Some(None))
    }

    /// Looks at what is at `from` and later.
    fn later_batches(&mut self, from: u64, starts: &Starts, search_bytes_max: u64) -> io::Result<Search> {
        const WINDOW_BYTES: usize = 256 << 10;
        // Most of the file is what was set aside for later: comparing with this is fast however the program was compiled.
        static ZEROS: [u8; WINDOW_BYTES] = [0; WINDOW_BYTES];
        let read_bytes_max = self.read_bytes.saturating_add(search_bytes_max);
        let mut window = vec![0; WINDOW_BYTES];
        let mut later = None;
        let mut at = from;
        while at < self.end {
            self.seek(at)?;
            let window_bytes = self.left().min(WINDOW_BYTES as u64) as usize;
            let (window, _) = window.split_at_mut(window_bytes);
            self.read(window)?;
            // A batch that starts in the last bytes is found by the next window, which begins there.
            let searched =
                if at + window_bytes as u64 == self.end { window_bytes } else { window_bytes - starts.bytes() };
            let mut next = at + searched as u64;
            if ZEROS.get(..window.len()) != Some(&*window) {
                let later = later.get_or_insert_with(Later::default);
                for (offset, start) in window.windows(starts.bytes()).enumerate().take(searched) {
                    if !starts.include(start) {
                        continue;
                    }
                    if self.read_bytes > read_bytes_max {
                        return Ok(Search::GivenUp);
                    }
                    self.seek(at + offset as u64)?;
                    let mut end = None;
                    // Others follow it as a rule.
                    while let Some(batch) = self.batch()?.filter(|batch| batch.seqno > starts.after_seqno) {
                        if let Some(mark) = batch.mark {
                            later.first = later.first.or(Some(mark.number));
                            later.synced = later.synced.max(mark.synced);
                        }
                        end = Some(batch.end);
                    }
                    if let Some(end) = end {
                        next = end;
                        break;
                    }
                }
            }
            at = next;
        }
        Ok(later.map_or(Search::Nothing, Search::Found))
    }

    fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    fn seek(&mut self, position: u64) -> io::Result<()> {
        // Both lie in the file, whose length is an `i64` to the system. What is read already is not read again.
        self.file.seek_relative(position.wrapping_sub(self.position) as i64)?;
        self.position = position;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.left() < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(into)?;
        self.position += into.len() as u64;
        self.read_bytes += into.len() as u64;
        Ok(())
    }
}

/// How a batch may start: cheap to check before it is read whole.
struct Starts<'a> {
    after_seqno: u64,
    key: Option<&'a MarkKey>,
}

impl Starts<'_> {
    /// How much of a batch is to be looked at.
    fn bytes(&self) -> usize {
        if self.key.is_some() { MARKED_START_BYTES } else { START_BYTES + 2 }
    }

    fn include(&self, bytes: &[u8]) -> bool {
        let [START, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7, ITEM, 0..=4, rest @ ..] = bytes else {
            return false;
        };
        u64::from_le_bytes([*s0, *s1, *s2, *s3, *s4, *s5, *s6, *s7]) > self.after_seqno
            && self.key.is_none_or(|key| {
                let mark = rest.get(ITEM_BYTES - 2..).and_then(|rest| rest.strip_prefix(MARK_KEY));
                mark.is_some_and(|mark| key.vouches_for(mark))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::FjallStore;
    use super::{JournalEnd, MARK_KEY, Mark, MarkKey, end_within, journal_end, newest_journal};
    use crate::ErrorKind;
    use crate::kv::{Batch, Durability, Space, Store};
    use bytes::Bytes;
    use std::io::Cursor;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    const CACHE_BYTES: usize = 8 << 20;
    const PAGE_BYTES: usize = 4 << 10;
    const ROW_BYTES: usize = 3 * PAGE_BYTES;

    /// Rows of three pages filled with one byte, so that those of a batch can be found in the journal.
    async fn put(store: &FjallStore, fill: u8, durability: Durability) {
        let row =
            |number: u8| (Space::Nodes, Bytes::from(vec![fill, number]), Some(Bytes::from(vec![fill; ROW_BYTES])));
        store.commit(Batch { guards: Vec::new(), writes: (0..4).map(row).collect() }, durability).await.unwrap();
    }

    async fn has(store: &FjallStore, fill: u8) -> bool {
        let row = store.get(Space::Nodes, &[fill, 3]).await.unwrap();
        row.is_some_and(|value| value[..] == vec![fill; ROW_BYTES])
    }

    /// Zeros a page in the middle of the batch of `fill`, as power loss does to pages that were not synced.
    fn lose_page(dir: &Path, fill: u8) {
        let path = newest_journal(dir).unwrap().unwrap();
        let journal = std::fs::read(&path).unwrap();
        let at = journal.windows(ROW_BYTES).position(|page| page.iter().all(|byte| *byte == fill)).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; PAGE_BYTES], (at + PAGE_BYTES) as u64).unwrap();
    }

    #[tokio::test]
    async fn a_torn_last_batch_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
        put(&store, 1, Durability::Sync).await;
        put(&store, 2, Durability::Sync).await;
        drop(store);
        lose_page(dir.path(), 2);
        // fjall alone doesn't open this; when it does, this file can go.
        assert!(fjall::Database::builder(dir.path()).open().is_err());
        for fill in 3..6 {
            let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
            assert!(has(&store, 1).await && !has(&store, 2).await);
            put(&store, fill, Durability::Sync).await;
            for fill in 3..=fill {
                assert!(has(&store, fill).await);
            }
        }
    }

    #[tokio::test]
    async fn a_torn_batch_before_a_whole_one_is_dropped_if_neither_was_synced() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
        put(&store, 1, Durability::Sync).await;
        put(&store, 2, Durability::Buffered).await;
        // Written, but for all its successors know its sync never returned.
        put(&store, 3, Durability::Sync).await;
        drop(store);
        lose_page(dir.path(), 2);
        let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
        assert!(has(&store, 1).await && !has(&store, 2).await && !has(&store, 3).await);
    }

    #[tokio::test]
    async fn damage_to_a_synced_batch_is_not_hidden() {
        // The first batch of the journal, a buffered one that the next one's sync covered, and one that was synced itself.
        for bad in [1, 2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
            for (fill, durability) in
                [(1, Durability::Sync), (2, Durability::Buffered), (3, Durability::Sync), (4, Durability::Buffered)]
            {
                put(&store, fill, durability).await;
            }
            drop(store);
            lose_page(dir.path(), bad);
            let error = FjallStore::open(dir.path(), CACHE_BYTES).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            // Nothing was cut: it can still be restored.
            assert!(FjallStore::open(dir.path(), CACHE_BYTES).is_err());
        }
    }

    #[tokio::test]
    async fn an_unfinished_creation_starts_over() {
        for (version, journal) in [(None, false), (None, true), (Some(""), true)] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("lock"), "").unwrap();
            std::fs::create_dir(dir.path().join("keyspaces")).unwrap();
            if journal {
                std::fs::File::create(dir.path().join("0.jnl")).unwrap().set_len(64 << 20).unwrap();
            }
            if let Some(version) = version {
                std::fs::write(dir.path().join("version"), version).unwrap();
            }
            let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
            put(&store, 1, Durability::Sync).await;
        }
    }

    #[tokio::test]
    async fn an_open_store_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
        let error = FjallStore::open(dir.path(), CACHE_BYTES).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        put(&store, 1, Durability::Sync).await;
    }

    /// A whole batch: its mark, tagged if there is a key, and perhaps a row with `content`.
    fn batch(seqno: u64, mark: Mark, key: Option<&MarkKey>, content: &[u8]) -> Vec<u8> {
        let tagged = mark.encode(&key.cloned().unwrap_or_else(MarkKey::random));
        let mark = if key.is_some() { &tagged[..] } else { &tagged[..16] };
        let mut items = Vec::new();
        for (key, value) in [(MARK_KEY, mark), (b"row", content)] {
            items.extend([super::ITEM, 0, 0]);
            items.extend(0u64.to_le_bytes());
            items.extend((key.len() as u16).to_le_bytes());
            items.extend([(value.len() as u32).to_le_bytes(); 2].concat());
            items.extend_from_slice(key);
            items.extend_from_slice(value);
        }
        let mut out = vec![super::START, 2, 0, 0, 0];
        out.extend(seqno.to_le_bytes());
        out.extend_from_slice(&items);
        out.push(super::END);
        out.extend(xxhash_rust::xxh3::xxh3_64(&items).to_le_bytes());
        out.extend_from_slice(super::END_MAGIC);
        out
    }

    fn end_of(journal: &[u8], key: Option<&MarkKey>) -> JournalEnd {
        journal_end(Cursor::new(journal), journal.len() as u64, key).unwrap()
    }

    /// Marks are read from a disk: adding one to the highest number that there is ended the process.
    #[test]
    fn the_highest_numbers_are_numbers_too() {
        let key = MarkKey::random();
        for key in [None, Some(&key)] {
            let first = batch(1, Mark { number: u64::MAX, synced: 0 }, key, b"");
            let last = batch(3, Mark { number: 7, synced: u64::MAX }, key, b"");
            let at = first.len() as u64;
            assert_eq!(end_of(&[&first[..], &[0; 100]].concat(), key), JournalEnd::Whole);
            assert_eq!(end_of(&[&first[..], b"torn", &last[..]].concat(), key), JournalEnd::Torn(at));
            assert_eq!(end_of(&[&b"torn"[..], &last].concat(), key), JournalEnd::Damaged(0));
            assert_eq!(end_of(&[&b"torn"[..], &first].concat(), key), JournalEnd::Torn(0));
        }
    }

    /// Contents of files lie in the journal as they are. One that is a batch itself, and claims to know that all was synced, made a store that had lost its power
    /// while that was written one that does not open.
    #[test]
    fn contents_that_look_like_a_batch_are_none() {
        let key = MarkKey::random();
        let mark = |number| Mark { number, synced: number - 1 };
        let first = batch(1, mark(1), Some(&key), b"");
        let forged = batch(u64::MAX / 2, Mark { number: 1 << 40, synced: 1 << 40 }, Some(&MarkKey::random()), b"");
        let untagged = batch(u64::MAX / 2, Mark { number: 1 << 40, synced: 1 << 40 }, None, b"");
        for content in [&forged, &untagged] {
            let mut torn = batch(3, mark(2), Some(&key), &[&content[..], &[7; 100]].concat());
            let lost = torn.len() - 50;
            torn[lost] = 0;
            let journal = [&first[..], &torn].concat();
            assert_eq!(end_of(&journal, Some(&key)), JournalEnd::Torn(first.len() as u64));
            // What is the store's own is found behind it.
            let third = batch(5, mark(3), Some(&key), b"");
            let journal = [&journal[..], &third].concat();
            assert_eq!(end_of(&journal, Some(&key)), JournalEnd::Damaged(first.len() as u64));
        }
    }

    /// Those that look like one beginning of a batch after the other made a search that took time with the square of their number: hours, for a journal of them.
    #[test]
    fn a_search_among_false_beginnings_ends() {
        // An item without key and value, whose last bytes are the start of a batch of 65,535 items.
        let item: [u8; 21] = [2, 0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let key = MarkKey::random();
        let end = |items: usize, key: Option<&MarkKey>, search_bytes_max: u64| {
            let journal = item.repeat(items);
            end_within(Cursor::new(&journal), journal.len() as u64, key, search_bytes_max).unwrap()
        };
        assert_eq!(end(100, None, 1 << 20), JournalEnd::Torn(0));
        assert_eq!(end(10_000, None, 1 << 20), JournalEnd::Damaged(0), "it can't be told from what was synced");
        assert_eq!(end(10_000, Some(&key), 1 << 20), JournalEnd::Torn(0), "with a key it can");
    }

    /// A store that was written before there were keys: what it synced then is told from what it did not.
    #[tokio::test]
    async fn a_store_without_a_key_gets_one() {
        for bad in [None, Some(1)] {
            let dir = tempfile::tempdir().unwrap();
            let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
            put(&store, 1, Durability::Sync).await;
            drop(store);
            let key = dir.path().join("journal.key");
            let before = std::fs::read(&key).unwrap();
            std::fs::remove_file(&key).unwrap();
            drop(FjallStore::open(dir.path(), CACHE_BYTES).unwrap());
            assert_ne!(std::fs::read(&key).unwrap(), before);
            if let Some(fill) = bad {
                lose_page(dir.path(), fill);
            }
            match FjallStore::open(dir.path(), CACHE_BYTES) {
                Ok(store) => assert!(bad.is_none() && has(&store, 1).await),
                Err(error) => assert!(bad.is_some() && error.kind() == ErrorKind::Damaged, "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        drop(FjallStore::open(dir.path(), CACHE_BYTES).unwrap());
        let path = dir.path().join("journal.key");
        let mut key = std::fs::read(&path).unwrap();
        key[9] ^= 1;
        std::fs::write(&path, key).unwrap();
        let error = FjallStore::open(dir.path(), CACHE_BYTES).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        std::fs::remove_file(&path).unwrap();
        FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
    }
}
