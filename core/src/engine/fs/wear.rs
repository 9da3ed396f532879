//! Where files were written in short pieces: the windows of files that may be worth cutting anew.
//!
//! A window is due when it is met for the first time, since what was done to it before is not known, and then after every so many short pieces. What is remembered is bounded:
//! counts are forgotten first (a window met again is due again), and when there are nothing but due windows, further ones, until they are written to again. Nothing
//! of it is on disk: after a crash a file is looked at where it is written next.

use super::open_nodes::Key;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// A window is looked at again after so many short pieces. Each leaves up to two extents.
const PIECES: u8 = 16;
/// How many windows are remembered: about 4 MiB.
const WINDOWS_MAX: usize = 1 << 16;

struct Windows<P> {
    place: P,
    /// Short pieces since a window was looked at.
    counts: BTreeMap<u64, u8>,
    due: BTreeSet<u64>,
}

/// See the module. `P` says where a file is.
pub(super) struct Wear<P> {
    files: HashMap<Key, Windows<P>>,
    /// Files with due windows, each once, the next one first.
    waiting: VecDeque<Key>,
    windows: usize,
    windows_max: usize,
}

impl<P> Default for Wear<P> {
    fn default() -> Self {
        Wear { files: HashMap::new(), waiting: VecDeque::new(), windows: 0, windows_max: WINDOWS_MAX }
    }
}

impl<P: Clone> Wear<P> {
    /// Short pieces were written to the windows `met`, one for each time it is named. Returns whether something is due.
    pub(super) fn note(&mut self, key: Key, place: &P, met: impl Iterator<Item = u64>) -> bool {
        for window in met {
            if self.windows >= self.windows_max {
                self.forget_counts();
                if self.windows >= self.windows_max {
                    break;
                }
            }
            let file = self.files.entry(key).or_insert_with(|| Windows {
                place: place.clone(),
                counts: BTreeMap::new(),
                due: BTreeSet::new(),
            });
            if file.due.contains(&window) {
                continue;
            }
            let count = file.counts.entry(window).or_insert_with(|| {
                self.windows += 1;
                PIECES - 1
            });
            *count += 1;
            if *count >= PIECES {
                file.counts.remove(&window);
                if file.due.is_empty() {
                    self.waiting.push_back(key);
                }
                file.due.insert(window);
            }
        }
        self.has_due()
    }

    /// Whether any window is due.
    pub(super) fn has_due(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets all counts; due windows stay.
    fn forget_counts(&mut self) {
        for file in self.files.values_mut() {
            self.windows -= file.counts.len();
            file.counts.clear();
        }
        self.files.retain(|_, file| !file.due.is_empty());
    }

    /// The next window that is due, which is not due any more. `None`: nothing is due.
    pub(super) fn next(&mut self) -> Option<(Key, P, u64)> {
        while let Some(key) = self.waiting.pop_front() {
            let Some(file) = self.files.get_mut(&key) else { continue };
            let Some(window) = file.due.pop_first() else { continue };
            if !file.due.is_empty() {
                // Files take turns.
                self.waiting.push_back(key);
            }
            file.counts.insert(window, 0);
            return Some((key, file.place.clone(), window));
        }
        None
    }

    /// A window that was due could not be looked at for now: it is due again, and the first of its file.
    pub(super) fn again(&mut self, key: &Key, window: u64) {
        let Some(file) = self.files.get_mut(key) else { return };
        if file.counts.remove(&window).is_some() {
            if file.due.is_empty() {
                self.waiting.push_back(*key);
            }
            file.due.insert(window);
        }
    }

    /// A window that was due could not be looked at: it is due when it is met next.
    pub(super) fn put_off(&mut self, key: &Key, window: u64) {
        let Some(file) = self.files.get_mut(key) else { return };
        if file.counts.remove(&window).is_some() {
            self.windows -= 1;
        }
        if file.counts.is_empty() && file.due.is_empty() {
            self.files.remove(key);
        }
    }

    /// The file is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(file) = self.files.remove(key) {
            self.windows -= file.counts.len() + file.due.len();
        }
        self.waiting.retain(|other| other != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn key(n: u8) -> Key {
        (1, NodeId([n; 16]))
    }

    fn taken(wear: &mut Wear<()>) -> Vec<(u8, u64)> {
        std::iter::from_fn(|| wear.next()).map(|((_, node), (), window)| (node.0[0], window)).collect()
    }

    #[test]
    fn a_window_is_due_when_it_is_met_first_and_after_every_sixteenth_piece() {
        let mut wear = Wear::default();
        assert!(wear.note(key(1), &(), [7, 7, 7].into_iter()));
        assert_eq!(taken(&mut wear), [(1, 7)]);
        assert!(!wear.note(key(1), &(), std::iter::repeat_n(7, 15)));
        assert!(wear.note(key(1), &(), std::iter::once(7)));
        assert_eq!(taken(&mut wear), [(1, 7)]);
        wear.put_off(&key(1), 7);
        assert!(wear.note(key(1), &(), std::iter::once(7)), "it is not known any more");
    }

    #[test]
    fn a_window_for_which_there_was_no_room_is_due_again() {
        let mut wear = Wear::default();
        wear.note(key(1), &(), [3, 5].into_iter());
        assert_eq!(wear.next().unwrap().2, 3);
        wear.again(&key(1), 3);
        assert_eq!(taken(&mut wear), [(1, 3), (1, 5)]);
        wear.again(&key(1), 5);
        assert_eq!((taken(&mut wear), wear.windows), (vec![(1, 5)], 2));
        wear.forget(&key(1));
        wear.again(&key(1), 5);
        assert!(!wear.has_due());
    }

    #[test]
    fn files_take_turns() {
        let mut wear = Wear::default();
        wear.note(key(1), &(), 0..3);
        wear.note(key(2), &(), 0..2);
        wear.note(key(3), &(), 0..2);
        wear.forget(&key(3));
        assert_eq!(taken(&mut wear), [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut wear = Wear { windows_max: 4, ..Wear::default() };
        wear.note(key(1), &(), 0..4);
        wear.note(key(2), &(), 0..4);
        assert_eq!(taken(&mut wear), [(1, 0), (1, 1), (1, 2), (1, 3)], "due windows stay");
        wear.note(key(2), &(), 0..4);
        assert_eq!(taken(&mut wear), [(2, 0), (2, 1), (2, 2), (2, 3)], "counts don't");
        assert_eq!((wear.windows, wear.files.len()), (4, 1));
        wear.forget(&key(2));
        assert_eq!(wear.windows, 0);
    }
}
