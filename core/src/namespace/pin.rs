//! Pins: what of a bucket is to be here, and stay, also where data comes only when it is read. A matter of this segment alone: no other hears of it.
//!
//! One row holds all pins of a bucket. Every change of a bucket that is shared looks at it, and lists in the same commit what it brought below a pin
//! (`wanted.rs`), so that no crash makes a segment claim what it does not hold (P8). What showed there before the pin, or came there with a directory, is
//! listed by a pass over the pinned path; until that is over the row says so.

use super::hold::{Given, given_in};
use super::keep::{Keeping, keeping_in};
use super::keys::{self, BucketNumber};
use super::place::Kin;
use super::rows::{NodeRow, Shown};
use super::show::node_of;
use super::txn::Txn;
use super::wanted::{Stay, want_write};
use super::{BucketState, Ledger, Place, View};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::kv::{Snapshot, Space};
use async_recursion::async_recursion as boxed;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most pins of a bucket: each change of the bucket is held against all of them.
const PINS_MAX: usize = 1000;
const FORMAT: u8 = 1;

/// How far the pass over a pinned path has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Due.
    Due = 0,
    /// Under way.
    Listing = 1,
    /// Over: whatever may not be here is listed.
    Listed = 2,
}

/// A path whose data is to be here: an object, and all below it as if it were a directory. With a `/` at its end: what is in the directory. Empty: the whole
/// bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The path.
    pub path: Bytes,
    pass: Pass,
}

impl Pin {
    /// Whether all below it that may not be here is listed as wanted.
    pub fn is_listed(&self) -> bool {
        self.pass == Pass::Listed
    }

    /// Whether what shows under `key` is pinned.
    pub fn covers(&self, key: &[u8]) -> bool {
        match key.strip_prefix(self.path.as_ref()) {
            Some([]) => true,
            Some([next, ..]) => self.path.last().is_none_or(|last| *last == b'/') || *next == b'/',
            None => false,
        }
    }
}

/// `pins/`, bucket (4).
pub(super) fn pins_row(bucket: BucketNumber) -> Bytes {
    let mut key = BytesMut::from(&b"pins/"[..]);
    key.put_u32(bucket);
    key.freeze()
}

pub(super) fn encode(pins: &[Pin]) -> Bytes {
    let mut row = BytesMut::new();
    row.put_u8(FORMAT);
    for pin in pins {
        row.put_u8(pin.pass as u8);
        row.put_u16(u16::try_from(pin.path.len()).unwrap_or(u16::MAX));
        row.put_slice(&pin.path);
    }
    row.freeze()
}

pub(super) fn decode(row: Option<Bytes>) -> Result<Vec<Pin>> {
    let Some(mut row) = row else { return Ok(Vec::new()) };
    let bad = || Error::damaged("the pins of a bucket can't be read");
    if row.try_get_u8().map_err(|_| bad())? != FORMAT {
        return Err(bad());
    }
    let mut pins = Vec::new();
    while let Ok(pass) = row.try_get_u8() {
        let pass = match pass {
            0 => Pass::Due,
            1 => Pass::Listing,
            2 => Pass::Listed,
            _ => return Err(bad()),
        };
        let length = usize::from(row.try_get_u16().map_err(|_| bad())?);
        if row.len() < length {
            return Err(bad());
        }
        pins.push(Pin { path: row.split_to(length), pass });
    }
    Ok(pins)
}

/// All pins of a bucket, as a snapshot has them.
pub async fn pins(snapshot: &Arc<dyn Snapshot>, bucket: BucketNumber) -> Result<Vec<Pin>> {
    decode(snapshot.get(Space::Meta, &pins_row(bucket)).await?)
}

pub(super) async fn pins_in(txn: &mut Txn, bucket: BucketNumber) -> Result<Vec<Pin>> {
    decode(txn.read(Space::Meta, &pins_row(bucket)).await?)
}

fn put_pins(txn: &mut Txn, bucket: BucketNumber, pins: &[Pin]) {
    match pins {
        [] => txn.delete(Space::Meta, pins_row(bucket)),
        pins => txn.put(Space::Meta, pins_row(bucket), encode(pins)),
    }
}

/// Adds a pin, or has one that is there pass over its path again.
pub async fn pin(txn: &mut Txn, bucket: BucketNumber, path: &Bytes) -> Result<()> {
    let mut pins = pins_in(txn, bucket).await?;
    pins.retain(|pin| pin.path != path);
    if pins.len() >= PINS_MAX {
        return Err(Error::invalid(format!("a bucket has at most {PINS_MAX} pins; pin what is above some of them")));
    }
    pins.push(Pin { path: path.clone(), pass: Pass::Due });
    put_pins(txn, bucket, &pins);
    Ok(())
}

/// Takes a pin back.
pub async fn unpin(txn: &mut Txn, bucket: BucketNumber, path: &Bytes) -> Result<()> {
    let mut pins = pins_in(txn, bucket).await?;
    let count = pins.len();
    pins.retain(|pin| pin.path != path);
    if pins.len() == count {
        let name = String::from_utf8_lossy(path);
        return Err(Error::new(ErrorKind::NotFound, format!("'{name}' is not pinned")).about(Subject::Key));
    }
    put_pins(txn, bucket, &pins);
    Ok(())
}

/// The pass over the path of a pin begins (`is_over`: ends). It is over unless something has made it due again meanwhile. Returns whether the pin is there.
pub async fn note_pass(txn: &mut Txn, bucket: BucketNumber, path: &Bytes, is_over: bool) -> Result<bool> {
    let mut pins = pins_in(txn, bucket).await?;
    let Some(pin) = pins.iter_mut().find(|pin| pin.path == path) else { return Ok(false) };
    match (is_over, pin.pass) {
        (false, _) => pin.pass = Pass::Listing,
        (true, Pass::Listing) => pin.pass = Pass::Listed,
        (true, Pass::Due | Pass::Listed) => return Ok(true),
    }
    put_pins(txn, bucket, &pins);
    Ok(true)
}

/// All pinned paths are to be passed over again.
pub(super) async fn list_again(txn: &mut Txn, bucket: BucketNumber) -> Result<()> {
    let mut pins = pins_in(txn, bucket).await?;
    if !pins.is_empty() {
        pins.iter_mut().for_each(|pin| pin.pass = Pass::Due);
        put_pins(txn, bucket, &pins);
    }
    Ok(())
}

/// A step of a pass: lists what shows under these keys now.
pub async fn list_keys(
    txn: &mut Txn,
    ledger: &Ledger,
    bucket: &BucketState,
    keys: &[Bytes],
    stay: Stay,
) -> Result<usize> {
    let snapshot = ledger.store().snapshot().await?;
    let view = View::new(snapshot, *ledger.own(), bucket, None);
    let is_given = given_in(txn, bucket.number).await? != Given::Nothing;
    let mut count = 0;
    for key in keys {
        // What changes meanwhile is listed by what changes it.
        let Some(found) = view.find(key).await? else { continue };
        let Some(node) = node_with_content(&found.shown) else { continue };
        let row = view.node(&node).await?;
        count += usize::from(want_shown(txn, bucket, &node, &found.shown, &row, stay, is_given));
    }
    Ok(count)
}

/// The node whose content shows.
fn node_with_content(shown: &Shown) -> Option<NodeId> {
    match shown {
        Shown::File(file) => Some(file.node),
        Shown::Directory { node, explicit } => explicit.as_ref().map(|_| *node),
    }
}

fn want_shown(
    txn: &mut Txn,
    bucket: &BucketState,
    node: &NodeId,
    shown: &Shown,
    row: &NodeRow,
    stay: Stay,
    is_given: bool,
) -> bool {
    let content = match shown {
        Shown::File(file) => file.content,
        Shown::Directory { .. } => None,
    };
    let write = row.shown_content(content, &bucket.rules());
    write.is_some_and(|write| want_write(txn, bucket.number, node, write, stay, is_given))
}

/// Lists what this transaction brought below a pin: after it has derived what shows.
#[boxed]
pub async fn want_pinned(txn: &mut Txn, bucket: &BucketState) -> Result<()> {
    let number = bucket.number;
    let mut pins = pins_in(txn, number).await?;
    // Where all data is to be here, all that comes is listed anyway.
    if pins.is_empty() || matches!(keeping_in(txn, number).await?, Keeping::Listing | Keeping::Listed) {
        return Ok(());
    }
    let is_given = given_in(txn, number).await? != Given::Nothing;
    let (places, moved) = changed_places(txn, number).await?;
    let mut kin = Kin::default();
    let mut is_due = false;
    for directory in moved {
        // A directory that comes with something in it may bring it below a pin.
        if txn.ledger().store().get(Space::Derived, &keys::entry_count(number, &directory)).await?.is_none() {
            continue;
        }
        let path = kin.path(txn, bucket, &directory).await?;
        for pin in &mut pins {
            let touches = path.as_ref().is_none_or(|path| pin.covers(path) || pin.path.starts_with(path));
            if touches && pin.pass != Pass::Due {
                pin.pass = Pass::Due;
                is_due = true;
            }
        }
    }
    for (place, shown) in places {
        let Some(node) = node_with_content(&shown) else { continue };
        let Some(directory) = kin.path(txn, bucket, &place.0).await? else {
            // It shows nowhere yet, or where it shows is being changed right now.
            is_due = is_due || pins.iter().any(Pin::is_listed);
            pins.iter_mut().for_each(|pin| pin.pass = Pass::Due);
            continue;
        };
        let key = [directory.as_ref(), place.1.as_ref()].concat();
        if pins.iter().any(|pin| pin.covers(&key)) {
            let row = txn.node(number, &node).await?.clone();
            want_shown(txn, bucket, &node, &shown, &row, Stay::AsLongAsPinned, is_given);
        }
    }
    if is_due {
        put_pins(txn, number, &pins);
    }
    Ok(())
}

type Places = BTreeMap<Place, Shown>;

/// Where a content may show that did not before, and the directories that show where they did not.
async fn changed_places(txn: &mut Txn, bucket: BucketNumber) -> Result<(Places, BTreeSet<NodeId>)> {
    let mut places: BTreeSet<Place> = BTreeSet::new();
    let mut moved = BTreeSet::new();
    for key in txn.changed_entries(bucket) {
        let (parent, name) = keys::parse_entry(&key)?;
        let before = txn.entry_before(&key).and_then(|row| node_of(&row.shown));
        if let Some(Shown::Directory { node, .. }) = &txn.entry(bucket, &parent, name).await?.shown
            && before != Some(*node)
        {
            moved.insert(*node);
        }
        places.insert((parent, Bytes::copy_from_slice(name)));
    }
    for key in txn.changed_nodes(bucket) {
        let (node, _) = keys::parse_entry(&key)?;
        let row = txn.node(bucket, &node).await?;
        places.extend(row.names.iter().chain(row.home.value()).cloned());
    }
    let mut shows = Places::new();
    for place in places {
        if let Some(shown) = txn.entry(bucket, &place.0, &place.1).await?.shown.clone() {
            shows.insert(place, shown);
        }
    }
    Ok((shows, moved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(path: &'static str) -> Pin {
        Pin { path: Bytes::from_static(path.as_bytes()), pass: Pass::Due }
    }

    #[test]
    fn a_pin_covers_an_object_and_what_is_below_it() {
        for (path, covered, not) in [
            ("", &["a", "a/b", "/"][..], &[][..]),
            ("a", &["a", "a/", "a/b", "a//"], &["ab", "b/a", ""]),
            ("a/", &["a/", "a/b", "a/b/c"], &["a", "ab/c"]),
            ("a/b", &["a/b", "a/b/c"], &["a/", "a/bc"]),
        ] {
            for key in covered {
                assert!(pin(path).covers(key.as_bytes()), "{path} {key}");
            }
            for key in not {
                assert!(!pin(path).covers(key.as_bytes()), "{path} {key}");
            }
        }
    }

    #[test]
    fn rows_return_and_damaged_ones_are_refused() {
        let pins = vec![pin(""), Pin { pass: Pass::Listed, ..pin("a/b") }, Pin { pass: Pass::Listing, ..pin("c/") }];
        let row = encode(&pins);
        assert_eq!(decode(Some(row.clone())).unwrap(), pins);
        assert_eq!(decode(None).unwrap(), []);
        for bad in [&row[..row.len() - 1], &[2], &[], &[1, 9, 0, 0], &[1, 0, 0]] {
            let error = decode(Some(Bytes::copy_from_slice(bad))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{bad:?}");
        }
    }
}
