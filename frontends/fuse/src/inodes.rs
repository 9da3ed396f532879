//! Inode numbers: what the kernel was told each stands for, and which names lead to it, for as long as it remembers.
//!
//! A node's number is made of its id, so it stays the same over remounts and restarts; where that number is taken (another bucket's node with the
//! same 64 bits, the root's 1) the next free one is given.
//!
//! Names are kept so that the kernel can be told to forget one when all that is known is what it leads to, and is not told where nothing has changed. Of a
//! name it was told to forget, or has forgotten the node of, nothing is kept.

use crate::target::{Level, Target};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use tombolo_core::NodeId;
use tombolo_core::engine::fs::file_id;

/// What the kernel calls the directory that is mounted.
pub(crate) const ROOT: u64 = 1;

/// A directory's number, and a name in it.
pub(crate) type Name = (u64, Bytes);

struct Slot {
    target: Target,
    /// How often the kernel was told the number, less what it has forgotten.
    lookups: u64,
    /// What leads to it.
    names: Vec<Name>,
    /// Of a directory that the kernel has removed: it takes nothing in it any more, so the one that is made in its place gets another number, though it is the same node.
    is_dead: bool,
}

pub(crate) struct Inodes {
    root: Target,
    table: Mutex<Table>,
    changes: AtomicU64,
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Slot>,
    /// Where names lead.
    named: HashMap<Name, u64>,
    /// Those that did not get the number made of their id.
    displaced: HashMap<Target, u64>,
}

/// The number that `target` would have.
fn wanted(target: &Target) -> u64 {
    match target {
        // Every bucket's root has the same id.
        Target::Node(bucket, node) if *node == NodeId::ROOT => hash(&("bucket", *bucket)),
        Target::Node(_, node) => file_id(node),
        Target::Level(level) => match level.as_ref() {
            Level::Top => hash(&"top"),
            Level::Cluster(cluster) => hash(&("cluster", cluster)),
            Level::Tenant(tenant) => hash(&("tenant", tenant.to_string())),
        },
    }
}

fn hash(thing: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

impl Table {
    fn find(&self, target: &Target) -> Option<u64> {
        if let Some(displaced) = self.displaced.get(target) {
            return Some(*displaced);
        }
        let number = wanted(target);
        self.known.get(&number).is_some_and(|slot| slot.target == *target && !slot.is_dead).then_some(number)
    }

    /// The number that `target` has or would get.
    fn number(&self, target: &Target) -> u64 {
        if let Some(number) = self.find(target) {
            return number;
        }
        let mut number = wanted(target);
        while number <= ROOT || self.known.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        number
    }

    /// `name` leads to `number` from now on.
    fn name(&mut self, name: Name, number: u64) {
        if self.named.get(&name) == Some(&number) {
            return;
        }
        self.unname(&name);
        if let Some(slot) = self.known.get_mut(&number) {
            slot.names.push(name.clone());
            self.named.insert(name, number);
        }
    }

    /// `name` leads nowhere any more; tells where it led.
    fn unname(&mut self, name: &Name) -> Option<u64> {
        let number = self.named.remove(name)?;
        if let Some(slot) = self.known.get_mut(&number) {
            slot.names.retain(|other| other != name);
        }
        Some(number)
    }
}

impl Inodes {
    pub(crate) fn new(root: Target) -> Inodes {
        Inodes { root, table: Mutex::default(), changes: AtomicU64::new(0) }
    }

    /// A name was made, moved or taken away by whatever door.
    pub(crate) fn name_changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How often [`Inodes::name_changed`] was called. As long as that stays the same, names lead where they led.
    pub(crate) fn name_changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// What a number stands for; `None`: the kernel has forgotten it, or was never told.
    pub(crate) fn target(&self, number: u64) -> Option<Target> {
        if number == ROOT {
            return Some(self.root.clone());
        }
        self.table.lock().known.get(&number).filter(|slot| !slot.is_dead).map(|slot| slot.target.clone())
    }

    /// The number of `target`, if the kernel knows it.
    pub(crate) fn known(&self, target: &Target) -> Option<u64> {
        if *target == self.root {
            return Some(ROOT);
        }
        self.table.lock().find(target)
    }

    /// The number to show for `target`, without telling the kernel of it (`readdir`).
    pub(crate) fn number(&self, target: &Target) -> u64 {
        if *target == self.root {
            return ROOT;
        }
        self.table.lock().number(target)
    }

    /// The number of `target`, that the kernel is about to be told, and that `name` leads there.
    pub(crate) fn tell(&self, target: &Target, name: Option<Name>) -> u64 {
        if *target == self.root {
            return ROOT;
        }
        let mut table = self.table.lock();
        let number = table.number(target);
        if let Some(slot) = table.known.get_mut(&number) {
            slot.lookups += 1;
        } else {
            table.known.insert(number, Slot { target: target.clone(), lookups: 1, names: Vec::new(), is_dead: false });
            if number != wanted(target) {
                table.displaced.insert(target.clone(), number);
            }
        }
        if let Some(name) = name {
            table.name(name, number);
        }
        number
    }

    /// The kernel has forgotten `count` tellings.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        let mut table = self.table.lock();
        let Some(slot) = table.known.get_mut(&number) else { return };
        slot.lookups = slot.lookups.saturating_sub(count);
        if slot.lookups == 0
            && let Some(slot) = table.known.remove(&number)
        {
            if table.displaced.get(&slot.target) == Some(&number) {
                table.displaced.remove(&slot.target);
            }
            for name in &slot.names {
                table.named.remove(name);
            }
        }
    }

    /// Where the kernel was told that a name leads.
    pub(crate) fn named(&self, name: &Name) -> Option<u64> {
        self.table.lock().named.get(name).copied()
    }

    /// The kernel is told to forget a name, or has taken it away itself.
    pub(crate) fn forget_name(&self, name: &Name) {
        self.name_changed();
        self.table.lock().unname(name);
    }

    /// The kernel has removed a directory, or put another in its place.
    pub(crate) fn retire(&self, name: &Name) {
        self.name_changed();
        let mut table = self.table.lock();
        let Some(number) = table.unname(name) else { return };
        if let Some(slot) = table.known.get_mut(&number) {
            slot.is_dead = true;
            let target = slot.target.clone();
            if table.displaced.get(&target) == Some(&number) {
                table.displaced.remove(&target);
            }
        }
    }

    /// The kernel has moved a name, in place of another.
    pub(crate) fn rename(&self, from: &Name, to: Name) {
        self.name_changed();
        let mut table = self.table.lock();
        match table.unname(from) {
            Some(number) => table.name(to, number),
            None => {
                table.unname(&to);
            }
        }
    }

    /// The kernel has exchanged two names.
    pub(crate) fn exchange(&self, one: Name, other: Name) {
        self.name_changed();
        let mut table = self.table.lock();
        let (of_one, of_other) = (table.unname(&one), table.unname(&other));
        of_one.into_iter().for_each(|number| table.name(other.clone(), number));
        of_other.into_iter().for_each(|number| table.name(one.clone(), number));
    }

    /// The names that lead to a number.
    pub(crate) fn names_of(&self, number: u64) -> Vec<Name> {
        self.table.lock().known.get(&number).map(|slot| slot.names.clone()).unwrap_or_default()
    }

    /// All numbers that the kernel knows.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.table.lock().known.keys().copied().chain([ROOT]).collect()
    }

    /// All names that it was told, and has not been told to forget.
    pub(crate) fn all_names(&self) -> Vec<Name> {
        self.table.lock().named.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(bucket: u32, byte: u8) -> Target {
        Target::Node(bucket, NodeId([byte; 16]))
    }

    #[test]
    fn numbers_last_as_long_as_the_kernel_remembers() {
        let inodes = Inodes::new(Target::Node(0, NodeId::ROOT));
        assert_eq!(inodes.tell(&Target::Node(0, NodeId::ROOT), None), ROOT);
        let number = inodes.tell(&node(0, 7), None);
        assert_eq!(inodes.tell(&node(0, 7), None), number);
        assert_eq!(inodes.target(number), Some(node(0, 7)));
        inodes.forget(number, 1);
        assert_eq!(inodes.known(&node(0, 7)), Some(number));
        inodes.forget(number, 1);
        assert_eq!((inodes.known(&node(0, 7)), inodes.target(number)), (None, None));
        assert_eq!(inodes.all(), [ROOT]);
    }

    #[test]
    fn two_nodes_with_the_same_bits_have_two_numbers() {
        let inodes = Inodes::new(Target::Node(0, NodeId::ROOT));
        let numbers = [inodes.tell(&node(0, 7), None), inodes.tell(&node(1, 7), None), inodes.tell(&node(2, 7), None)];
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2]);
        // The first goes; the others keep theirs.
        inodes.forget(numbers[0], 1);
        assert_eq!([inodes.tell(&node(1, 7), None), inodes.tell(&node(2, 7), None)], [numbers[1], numbers[2]]);
        inodes.forget(numbers[1], 2);
        inodes.forget(numbers[2], 2);
        assert!(inodes.table.lock().displaced.is_empty());
    }

    #[test]
    fn names_lead_to_one_node_and_go_with_it() {
        let inodes = Inodes::new(Target::Node(0, NodeId::ROOT));
        let name = |name: &'static str| (ROOT, Bytes::from(name));
        let tell = |byte, to| inodes.tell(&node(0, byte), Some(name(to)));
        let (a, b) = (tell(1, "a"), tell(2, "b"));
        assert_eq!((tell(1, "a"), tell(1, "link")), (a, a));
        assert_eq!(inodes.names_of(a), [name("a"), name("link")]);
        inodes.rename(&name("link"), name("b"));
        assert_eq!((inodes.names_of(a), inodes.names_of(b)), (vec![name("a"), name("b")], vec![]));
        tell(2, "c");
        inodes.exchange(name("b"), name("c"));
        assert_eq!((inodes.named(&name("b")), inodes.named(&name("c"))), (Some(b), Some(a)));
        inodes.rename(&name("nothing is known of it"), name("c"));
        assert_eq!((inodes.named(&name("c")), inodes.names_of(a)), (None, vec![name("a")]));
        inodes.forget_name(&name("b"));
        inodes.forget(b, 2);
        assert_eq!(inodes.all_names(), [name("a")]);
        inodes.forget(a, 3);
        assert!(inodes.all_names().is_empty());
    }

    /// Whoever was in a directory that was removed kept the one that was made in its place from working for all.
    #[test]
    fn a_directory_that_is_made_again_has_another_number() {
        let inodes = Inodes::new(Target::Node(0, NodeId::ROOT));
        let name = (ROOT, Bytes::from("build"));
        let tell = || inodes.tell(&node(0, 7), Some(name.clone()));
        let first = tell();
        inodes.retire(&name);
        assert_eq!((inodes.target(first), inodes.known(&node(0, 7))), (None, None));
        let second = tell();
        assert_ne!(first, second);
        assert_eq!((inodes.target(second), inodes.known(&node(0, 7))), (Some(node(0, 7)), Some(second)));
        inodes.forget(first, 1);
        assert_eq!((tell(), inodes.named(&name)), (second, Some(second)));
        inodes.retire(&name);
        let third = tell();
        assert!(third != second);
        inodes.forget(second, 2);
        assert_eq!(inodes.known(&node(0, 7)), Some(third));
        inodes.forget(third, 1);
        assert!(inodes.table.lock().displaced.is_empty() && inodes.all() == [ROOT]);
    }

    #[test]
    fn low_bits_of_an_id_never_become_the_root() {
        let inodes = Inodes::new(Target::Node(0, NodeId::ROOT));
        let mut id = [0; 16];
        id[7] = 1;
        assert!(inodes.tell(&Target::Node(0, NodeId(id)), None) > ROOT);
    }
}
