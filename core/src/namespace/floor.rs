//! Where the first rows of a list are that grows at one end and is worked off at the other.
//!
//! A log-structured store keeps a deleted row until a compaction, and whoever looks for the first that is left passes all of them: with a version that has come for each, which made the look after each version cost as much
//! as all that had come before. So it is remembered below which key there is nothing.

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::HashMap;

/// For each prefix that somebody has looked for the first row of: below which key there is none.
#[derive(Default)]
pub(super) struct Floors(Mutex<HashMap<Bytes, Floor>>);

struct Floor {
    key: Bytes,
    /// The lowest keys that commits have written of late, with the numbers of these.
    written: Vec<(u64, Bytes)>,
    /// Who is looking now, and may have a view from before some of them.
    looking: usize,
}

/// Longer than any key of the lists.
const AFTER_ALL: [u8; 96] = [u8::MAX; 96];

impl Floors {
    /// `commit`, which nobody sees yet, writes a row whose key starts with `prefixes`.
    pub(super) fn written<'a>(&self, commit: u64, key: &Bytes, prefixes: impl IntoIterator<Item = &'a [u8]>) {
        let mut floors = self.0.lock();
        for prefix in prefixes {
            let Some(floor) = floors.get_mut(prefix) else { continue };
            if *key < floor.key {
                floor.key = key.clone();
            }
            match floor.written.last_mut() {
                // As long as nobody looks it is enough to know the lowest of all.
                Some((last, lowest)) if *last == commit || floor.looking == 0 => {
                    *last = commit;
                    *lowest = key.min(lowest).clone();
                }
                _ => floor.written.push((commit, key.clone())),
            }
        }
    }

    /// Somebody looks for the first row of `prefix`, with a view that is to be taken after this, and has all up to the commit `published`. `sequenced`: the last commit that was told of.
    pub(super) fn look(&self, prefix: &Bytes, published: u64, sequenced: u64) -> Look<'_> {
        let mut floors = self.0.lock();
        // What is under way may write anything.
        let first = || Floor { key: prefix.clone(), written: vec![(sequenced, prefix.clone())], looking: 0 };
        let floor = floors.entry(prefix.clone()).or_insert_with(first);
        if floor.looking == 0 {
            floor.written.retain(|(commit, _)| *commit > published);
        }
        floor.looking += 1;
        Look { floors: self, prefix: prefix.clone(), from: floor.key.clone() }
    }
}

/// Looks at lists, with one view that is taken after they began.
#[derive(Default)]
pub struct Looks<'a>(HashMap<Bytes, Look<'a>>);

impl<'a> Looks<'a> {
    pub(super) fn new(floors: &'a Floors, prefix: &Bytes, published: u64, sequenced: u64) -> Looks<'a> {
        let lists: Vec<Bytes> = floors.0.lock().keys().filter(|list| list.starts_with(prefix)).cloned().collect();
        Looks(lists.into_iter().map(|list| (list.clone(), floors.look(&list, published, sequenced))).collect())
    }

    pub(super) fn take(&mut self, list: &Bytes) -> Option<Look<'a>> {
        self.0.remove(list)
    }
}

/// A look for the first row of a prefix.
pub(super) struct Look<'a> {
    floors: &'a Floors,
    prefix: Bytes,
    /// There is nothing before it.
    pub(super) from: Bytes,
}

impl Look<'_> {
    /// The first row that the view has from there on.
    pub(super) fn found(self, first: Option<&Bytes>) {
        let mut floors = self.floors.0.lock();
        let Some(floor) = floors.get_mut(&self.prefix) else { return };
        let after_all = || {
            let mut end = BytesMut::from(self.prefix.as_ref());
            end.put_slice(&AFTER_ALL);
            end.freeze()
        };
        let mut key = first.cloned().unwrap_or_else(after_all);
        // What the view may not have.
        for (_, written) in &floor.written {
            key = key.min(written.clone());
        }
        floor.key = key.max(floor.key.clone());
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if let Some(floor) = self.floors.0.lock().get_mut(&self.prefix) {
            floor.looking -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    struct List {
        floors: Floors,
        prefix: Bytes,
        commit: std::cell::Cell<u64>,
    }

    impl List {
        fn write(&self, row: &'static str) {
            self.commit.set(self.commit.get() + 1);
            self.floors.written(self.commit.get(), &key(row), [self.prefix.as_ref()]);
        }

        /// With a view in which the last `behind` commits are not.
        fn look(&self, behind: u64) -> Look<'_> {
            self.floors.look(&self.prefix, self.commit.get() - behind, self.commit.get())
        }
    }

    fn list() -> List {
        List { floors: Floors::default(), prefix: key("w/"), commit: std::cell::Cell::new(7) }
    }

    #[test]
    fn nothing_is_below_the_floor() {
        let list = list();
        list.write("w/1");
        let look = list.look(0);
        assert_eq!(look.from, "w/");
        look.found(Some(&key("w/5")));
        assert_eq!(list.look(0).from, "w/5");
        // What is written below it lowers it, what is written above does not.
        list.write("w/7");
        assert_eq!(list.look(0).from, "w/5");
        list.write("w/3");
        assert_eq!(list.look(0).from, "w/3");
        // Nothing is left.
        list.look(0).found(None);
        assert!(list.look(0).from > key("w/\u{fe}"));
        list.write("w/9");
        assert_eq!(list.look(0).from, "w/9");
    }

    /// What is written while somebody looks, or was not committed yet when the view was taken, may not be in the view.
    #[test]
    fn a_look_does_not_pass_what_it_may_not_have_seen() {
        let list = list();
        // Before anybody had looked.
        list.write("w/2");
        list.look(1).found(None);
        assert_eq!(list.look(1).from, "w/");
        list.look(0).found(None);
        let (one, other) = (list.look(0), list.look(0));
        list.write("w/4");
        one.found(Some(&key("w/6")));
        assert_eq!(list.look(0).from, "w/4");
        other.found(None);
        assert_eq!(list.look(0).from, "w/4");
        // Sequenced before the look, and committed after its view was taken.
        list.write("w/3");
        list.look(1).found(None);
        assert_eq!(list.look(0).from, "w/3");
        drop(list.look(0));
        list.look(0).found(None);
        assert!(list.look(0).from > key("w/4"));
        list.write("w/5");
        list.write("w/8");
        list.look(1).found(None);
        assert_eq!(list.look(0).from, "w/5");
        list.look(0).found(Some(&key("w/8")));
        assert_eq!(list.look(0).from, "w/8");
    }
}
