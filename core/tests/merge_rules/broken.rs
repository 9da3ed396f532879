//! Rules left out on purpose: checks that don't notice are worth nothing.

use crate::operation::ContentId;
use std::collections::HashSet;
use tombolo_core::NodeId;
use tombolo_core::register::{Register, Write};
use tombolo_core::tree::{ConflictKind, ContentRegister, EntryValue, Place, RegisterSource, Registers, Rules, derive};

/// A rule left out, to see that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nothing is left out.
    Nothing,
    /// Rule 1: merging looks at contexts.
    Context,
    /// Rule 1: values show before tombstones.
    ValuesFirst,
    /// Rule 1: a local write replaces only what showed.
    OnlyShown,
    /// Rule 1: a write made after seeing another has the higher stamp.
    Observe,
    /// Rule 2: two sites that make the same directory make the same node.
    SameNode,
    /// Rule 3: cycles are cut.
    Cycle,
    /// Rule 4: a directory with something alive below it is alive.
    Revive,
    /// Rule 5: live content without a name shows.
    Rescue,
    /// Rule 5: with a file's last name its content goes.
    LastName,
    /// Rule 5, as amended: a name is all writes that name the node.
    WholeName,
    /// Rule 5, as amended: deleted content is kept for a name given meanwhile.
    KeepDeleted,
    /// Registers of a delta that are only partly new are sent.
    Delta,
}

/// Registers as they would look if a rule were left out of what shows.
pub struct Bent<'a> {
    pub registers: &'a Registers<ContentId>,
    pub broken: Broken,
    pub rules: Rules<'static>,
}

impl RegisterSource for Bent<'_> {
    type Payload = ContentId;

    fn visit_entries(&self, visit: &mut dyn FnMut(&Place, &Register<EntryValue>)) {
        for (place, register) in &self.registers.entries {
            let latest = register.tombstones().map(Write::stamp).max();
            if self.broken == Broken::ValuesFirst && latest > register.live_values().map(|(w, _)| w.stamp()).max() {
                continue;
            }
            visit(place, register);
        }
    }

    fn visit_homes(&self, visit: &mut dyn FnMut(&NodeId, &Register<Place>)) {
        let cut: HashSet<NodeId> = match self.broken {
            Broken::Cycle => {
                let shown = derive(self.registers, &self.rules);
                let cycles = shown.conflicts.iter().filter(|c| c.kind == ConflictKind::Cycle);
                cycles.map(|conflict| conflict.node).collect()
            }
            _ => HashSet::new(),
        };
        for (node, register) in &self.registers.homes {
            let names_it = |place: &Place| {
                let entry = self.registers.entries.get(place);
                entry.is_some_and(|entry| entry.live_values().any(|(_, value)| value.node == *node))
            };
            if cut.contains(node) || (self.broken == Broken::Revive && !register.value().is_some_and(names_it)) {
                continue;
            }
            visit(node, register);
        }
    }

    fn visit_contents(&self, visit: &mut dyn FnMut(&NodeId, &ContentRegister<ContentId>)) {
        for (node, register) in &self.registers.contents {
            let mut entries = self.registers.entries.values();
            let mut named = || entries.any(|entry| entry.live_values().any(|(_, value)| value.node == *node));
            if self.broken != Broken::Rescue || named() {
                visit(node, register);
            }
        }
    }
}
