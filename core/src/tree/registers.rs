//! Where [`derive`](super::derive) reads registers from, and a plain collection of them in memory.

use super::{ContentValue, EntryValue, Place};
use crate::id::NodeId;
use crate::register::{Register, VersionVector};
use std::collections::BTreeMap;

/// A file's content.
pub type ContentRegister<P> = Register<ContentValue<P>>;

/// The registers of one bucket, or of the part of it that is of interest. Visiting order does not matter; each register is visited once.
pub trait RegisterSource {
    /// What a content register holds beside its place.
    type Payload;
    /// Visits all entries.
    fn visit_entries(&self, visit: &mut dyn FnMut(&Place, &Register<EntryValue>));
    /// Visits the homes of all directories.
    fn visit_homes(&self, visit: &mut dyn FnMut(&NodeId, &Register<Place>));
    /// Visits the contents of all files.
    fn visit_contents(&self, visit: &mut dyn FnMut(&NodeId, &ContentRegister<Self::Payload>));
}

/// Registers in memory: a whole (small) bucket, or a delta of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers<P> {
    /// Name in a directory → node.
    pub entries: BTreeMap<Place, Register<EntryValue>>,
    /// Directory → the place where it hangs. Never tombstones.
    pub homes: BTreeMap<NodeId, Register<Place>>,
    /// File → content.
    pub contents: BTreeMap<NodeId, ContentRegister<P>>,
}

impl<P> Default for Registers<P> {
    fn default() -> Self {
        Registers { entries: BTreeMap::new(), homes: BTreeMap::new(), contents: BTreeMap::new() }
    }
}

impl<P: Clone> Registers<P> {
    /// Takes in other registers; returns how many changed.
    pub fn merge(&mut self, delta: &Registers<P>) -> usize {
        merge_all(&mut self.entries, &delta.entries)
            + merge_all(&mut self.homes, &delta.homes)
            + merge_all(&mut self.contents, &delta.contents)
    }

    /// What a segment that stands at `vector` has not seen.
    pub fn changes_since(&self, vector: &VersionVector) -> Registers<P> {
        Registers {
            entries: news(&self.entries, vector),
            homes: news(&self.homes, vector),
            contents: news(&self.contents, vector),
        }
    }

    /// How many registers there are.
    pub fn len(&self) -> usize {
        self.entries.len() + self.homes.len() + self.contents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest stamp time among live writes, for the clock.
    pub fn time_max(&self) -> u64 {
        let entries = self.entries.values().map(Register::time_max);
        let homes = self.homes.values().map(Register::time_max);
        let contents = self.contents.values().map(Register::time_max);
        entries.chain(homes).chain(contents).max().unwrap_or(0)
    }
}

fn merge_all<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, Register<V>>, from: &BTreeMap<K, Register<V>>) -> usize {
    from.iter().filter(|(key, register)| into.entry((*key).clone()).or_default().merge(register)).count()
}

fn news<K: Ord + Clone, V: Clone>(
    registers: &BTreeMap<K, Register<V>>,
    vector: &VersionVector,
) -> BTreeMap<K, Register<V>> {
    registers
        .iter()
        .filter(|(_, register)| !register.covered_by(vector))
        .map(|(key, register)| (key.clone(), register.clone()))
        .collect()
}

impl<P> RegisterSource for Registers<P> {
    type Payload = P;

    fn visit_entries(&self, visit: &mut dyn FnMut(&Place, &Register<EntryValue>)) {
        self.entries.iter().for_each(|(place, register)| visit(place, register));
    }

    fn visit_homes(&self, visit: &mut dyn FnMut(&NodeId, &Register<Place>)) {
        self.homes.iter().for_each(|(node, register)| visit(node, register));
    }

    fn visit_contents(&self, visit: &mut dyn FnMut(&NodeId, &ContentRegister<P>)) {
        self.contents.iter().for_each(|(node, register)| visit(node, register));
    }
}
