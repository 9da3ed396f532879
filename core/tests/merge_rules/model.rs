//! A segment in memory: registers, the writes that each operation makes, and the ways to break it on purpose.

use crate::broken::{Bent, Broken};
use crate::operation::{ContentId, ModelSegment, Operation, Refused, Tree};
use std::collections::{BTreeSet, HashSet};
use tombolo_core::register::{Dot, HybridClock, Register, VersionVector, Write};
use tombolo_core::tree::{
    ContentRegister, ContentValue, EntryValue, Place, Registers, Rules, Shown, ShownFile, contents, derive,
    directory_candidates,
};
use tombolo_core::{ConflictPolicy, NodeId, SegmentId};

/// What travels between models.
#[derive(Debug, Clone)]
pub struct Delta {
    since: VersionVector,
    /// The vector it reaches; none if it was taken apart on the way.
    reaches: Option<VersionVector>,
    registers: Registers<ContentId>,
}

/// A segment in memory.
pub struct MemorySegment {
    id: SegmentId,
    registers: Registers<ContentId>,
    vector: VersionVector,
    clock: HybridClock,
    conflicts: ConflictPolicy,
    origin: SegmentId,
    /// Whether it writes tombstones over implied directories that went with their last entry.
    tidies: bool,
    broken: Broken,
    nodes_made: u64,
}

impl MemorySegment {
    pub fn new(id: SegmentId, conflicts: ConflictPolicy, origin: SegmentId, tidies: bool, broken: Broken) -> Self {
        MemorySegment {
            id,
            registers: Registers::default(),
            vector: VersionVector::new(),
            clock: HybridClock::default(),
            conflicts,
            origin,
            tidies,
            broken,
            nodes_made: 0,
        }
    }

    fn rules(&self) -> Rules<'static> {
        Rules::new(self.conflicts, self.origin)
    }

    fn shown(&self) -> Shown {
        derive(&Bent { registers: &self.registers, broken: self.broken, rules: self.rules() }, &self.rules())
    }
}

impl ModelSegment for MemorySegment {
    type Delta = Delta;

    fn apply(&mut self, operation: &Operation, now_ns: i64) -> Result<(), Refused> {
        let shown = self.shown();
        let before = self.registers.clone();
        let mut change = Change { slots: 0, shown, segment: self };
        let result = change.apply(operation);
        let slots = change.slots;
        match result {
            Ok(()) => self.commit(slots, now_ns),
            // What was done before the refusal never happened.
            Err(_) => self.registers = before,
        }
        result
    }

    fn vector(&self) -> VersionVector {
        self.vector.clone()
    }

    fn changes_since(&self, vector: &VersionVector) -> Delta {
        let mut registers = self.registers.changes_since(vector);
        if self.broken == Broken::Delta {
            registers.entries.retain(|_, r| r.context().dots().all(|dot| !vector.covers(&dot)));
            registers.homes.retain(|_, r| r.context().dots().all(|dot| !vector.covers(&dot)));
            registers.contents.retain(|_, r| r.context().dots().all(|dot| !vector.covers(&dot)));
        }
        Delta { since: vector.clone(), reaches: Some(self.vector.clone()), registers }
    }

    fn part(delta: &Delta, keep: &mut dyn FnMut() -> bool) -> Delta {
        let mut registers = delta.registers.clone();
        registers.entries.retain(|_, _| keep());
        registers.homes.retain(|_, _| keep());
        registers.contents.retain(|_, _| keep());
        Delta { since: delta.since.clone(), reaches: None, registers }
    }

    fn merge(&mut self, delta: &Delta) {
        assert!(self.vector.dominates(&delta.since), "a delta for somebody else");
        if self.broken == Broken::Context {
            self.registers.entries.extend(delta.registers.entries.clone());
            self.registers.homes.extend(delta.registers.homes.clone());
            self.registers.contents.extend(delta.registers.contents.clone());
        } else {
            self.registers.merge(&delta.registers);
        }
        if self.broken != Broken::Observe {
            self.clock.observe(delta.registers.time_max());
        }
        if let Some(reaches) = &delta.reaches {
            self.vector.merge(reaches);
        }
    }

    fn restart(&mut self) {
        self.clock = HybridClock::seeded(self.registers.time_max().max(self.clock.last()));
    }

    fn tree(&self) -> Tree {
        let shown = self.shown();
        let text = |key: bytes::Bytes| String::from_utf8(key.to_vec()).expect("schedules use text");
        let key = |place: &Place| text(shown.key(place).expect("what shows hangs under the root"));
        let payload = |node: &NodeId, content: &Dot| {
            let register = self.registers.contents.get(node).expect("a file that shows has content");
            let write = register.ordered().iter().find(|w| w.dot == *content).expect("it is live");
            write.value.as_ref().expect("it is no tombstone").payload
        };
        let mut tree = Tree::default();
        for (place, file) in &shown.files {
            let rival = tree.files.insert(key(place), payload(&file.node, &file.content));
            assert_eq!(rival, None, "two files under {place:?}");
        }
        for (node, directory) in &shown.directories {
            let path = text(shown.path(node).expect("what shows hangs under the root"));
            let rival = tree.directories.insert(path, directory.explicit);
            assert_eq!(rival, None, "two directories under {:?}", directory.place);
        }
        for conflict in &shown.conflicts {
            let content = conflict.content.map(|content| payload(&conflict.node, &content));
            let kind = conflict.kind;
            tree.contested.extend(content);
            tree.derived_directories += usize::from(content.is_none());
            match (&conflict.shown, content) {
                (None, Some(content)) => {
                    tree.older.insert((key(&conflict.place), content));
                    tree.conflicts.push(format!("{kind:?} {} has an older version c{content}", key(&conflict.place)));
                }
                (Some(place), _) => tree.conflicts.push(format!("{kind:?} {} {content:?}", key(place))),
                (None, None) => panic!("a directory that lost does not show"),
            }
        }
        tree
    }

    fn fingerprint(&self) -> String {
        format!("{:?}", self.registers)
    }

    /// A file that has a name somewhere shows, under that name or another, if its content is here.
    fn check(&self) -> Result<(), String> {
        let shown = self.shown();
        let nodes = shown.files.values().map(|file| file.node);
        let nodes: HashSet<NodeId> = nodes.chain(shown.conflicts.iter().map(|conflict| conflict.node)).collect();
        for (place, register) in &self.registers.entries {
            for (_, value) in register.live_values().filter(|(_, value)| value.is_file()) {
                if self.registers.contents.contains_key(&value.node) && !nodes.contains(&value.node) {
                    let content = self.registers.contents.get(&value.node);
                    return Err(format!("P6: {value:?} at {place:?} does not show: {content:?}"));
                }
            }
        }
        let roots = shown.directories.values().filter(|d| d.place.parent == NodeId::ROOT).count();
        if !shown.directories.is_empty() && roots == 0 {
            return Err("P6: no directory hangs under the root".into());
        }
        Ok(())
    }
}

impl MemorySegment {
    fn commit(&mut self, slots: u32, now_ns: i64) {
        if slots == 0 {
            return;
        }
        let first_sequence = self.vector.get(&self.id) + 1;
        let first_time = self.clock.reserve(now_ns, slots.into());
        let own = self.id;
        self.registers.entries.values_mut().for_each(|r| r.assign(&own, first_sequence, first_time));
        self.registers.homes.values_mut().for_each(|r| r.assign(&own, first_sequence, first_time));
        self.registers.contents.values_mut().for_each(|r| r.assign(&own, first_sequence, first_time));
        self.vector.advance(Dot::new(self.id, first_sequence + u64::from(slots) - 1));
    }
}

/// One operation under way: what showed when it began, and how many writes it has made.
struct Change<'a> {
    segment: &'a mut MemorySegment,
    shown: Shown,
    slots: u32,
}

impl Change<'_> {
    fn apply(&mut self, operation: &Operation) -> Result<(), Refused> {
        match operation {
            Operation::Put { key, content } => self.put(key, *content)?,
            Operation::Delete { key } => {
                let place = self.place(key)?;
                let file = self.file(&place)?;
                self.take_losers(&file.place);
                self.take_name(&file);
            }
            Operation::Link { from, to } => self.link(from, to)?,
            Operation::Rename { from, to } => self.rename(from, to)?,
            Operation::Mkdir { path } => self.mkdir(path)?,
            Operation::Rmdir { path } => self.rmdir(path)?,
            Operation::RenameDirectory { from, to } => self.rename_directory(from, to)?,
        }
        self.tidy();
        Ok(())
    }

    // ---- looking

    /// The place of a key whose directory shows.
    fn place(&self, key: &str) -> Result<Place, Refused> {
        let mut parent = NodeId::ROOT;
        let mut parts = key.split_inclusive('/').peekable();
        while let Some(part) = parts.next() {
            let place = Place::new(parent, part.to_owned());
            if parts.peek().is_none() {
                return Ok(place);
            }
            parent = self.shown.directory_at(&place).ok_or(Refused::NotFound)?;
        }
        Err(Refused::NotFound)
    }

    fn file(&self, place: &Place) -> Result<ShownFile, Refused> {
        self.shown.files.get(place).cloned().ok_or(Refused::NotFound)
    }

    fn entry(&self, place: &Place) -> Register<EntryValue> {
        self.segment.registers.entries.get(place).cloned().unwrap_or_default()
    }

    fn content(&self, node: &NodeId) -> ContentRegister<ContentId> {
        self.segment.registers.contents.get(node).cloned().unwrap_or_default()
    }

    /// Whether the node has arrived. What has not was not seen, so no write may replace it.
    fn is_known(&self, value: &EntryValue) -> bool {
        let registers = &self.segment.registers;
        registers.contents.contains_key(&value.node) || registers.homes.contains_key(&value.node)
    }

    /// Which writes of an entry a new one replaces: those that name one of `nodes`, and tombstones. If the policy keeps one winner, all that is known.
    fn replaced(&self, place: &Place, nodes: &[NodeId]) -> Vec<Dot> {
        let register = self.entry(place);
        let keeps_both = self.segment.rules().keeps_both();
        let mut named: Vec<Dot> = register
            .live_values()
            .filter(|(_, v)| nodes.contains(&v.node) || (!keeps_both && v.is_file() && self.is_known(v)))
            .map(|(write, _)| write.dot)
            .collect();
        match self.segment.broken {
            Broken::WholeName => named.truncate(1),
            Broken::OnlyShown => named = register.live_values().map(|(write, _)| write.dot).collect(),
            _ => {}
        }
        named.extend(register.tombstones().map(|write| write.dot));
        named
    }

    /// The places that name a node, `but` one.
    fn other_names(&self, node: &NodeId, but: &Place) -> usize {
        let entries = self.segment.registers.entries.iter();
        let naming = entries.filter(|(place, register)| {
            *place != but && register.live_values().any(|(_, value)| value.is_file() && value.node == *node)
        });
        naming.count()
    }

    // ---- writing registers

    fn slot(&mut self) -> u32 {
        self.slots += 1;
        self.slots - 1
    }

    fn write_entry(&mut self, place: &Place, value: Option<EntryValue>, replaces: &[Dot]) {
        let write = Write::pending(self.slot(), self.segment.id, value);
        self.segment.registers.entries.entry(place.clone()).or_default().local_write(write, replaces);
    }

    fn write_home(&mut self, node: NodeId, place: &Place) {
        let write = Write::pending(self.slot(), self.segment.id, Some(place.clone()));
        let register = self.segment.registers.homes.entry(node).or_default();
        let replaces = register.dots();
        register.local_write(write, &replaces);
    }

    /// Writes a content in place of `taken`, and of what had been deleted before.
    fn write_content(&mut self, node: NodeId, value: Option<ContentValue<ContentId>>, taken: &[Dot]) {
        let write = Write::pending(self.slot(), self.segment.id, value);
        let breaks = self.segment.broken == Broken::OnlyShown;
        let register = self.segment.registers.contents.entry(node).or_default();
        // A new content takes the place of all that was deleted before; a deletion, of what had been written earlier than what it deletes; the tombstone over
        // a content that becomes a file of its own, of nothing.
        let value = write.value.clone();
        let stale = |old: &ContentValue<ContentId>| match &value {
            Some(new) => old.deleted.is_some() && (new.deleted.is_none() || old.deleted < new.deleted),
            None => false,
        };
        let replaces: Vec<Dot> = register
            .ordered()
            .iter()
            .filter(|w| breaks || taken.contains(&w.dot) || w.value.as_ref().is_none_or(stale))
            .map(|w| w.dot)
            .collect();
        register.local_write(write, &replaces);
    }

    /// The contents of a file that a change of it through a name replaces: the one that shows, or if the policy keeps one winner, all.
    fn replaced_contents(&self, node: &NodeId) -> Vec<Dot> {
        let register = self.content(node);
        let shown = contents(&register, &self.segment.rules()).into_iter().map(|(write, _)| write.dot);
        if self.segment.rules().keeps_both() { shown.take(1).collect() } else { shown.collect() }
    }

    fn new_node(&mut self) -> NodeId {
        self.segment.nodes_made += 1;
        let mut id = self.segment.id.0;
        for (byte, counted) in id.iter_mut().skip(8).zip(self.segment.nodes_made.to_be_bytes()) {
            *byte = counted;
        }
        NodeId(id)
    }

    /// Takes contents away. The first is kept in case somebody gives the file another name meanwhile.
    fn delete_contents(&mut self, node: NodeId, taken: &[Dot]) {
        let register = self.content(&node);
        let found = register.ordered().iter().find(|w| taken.first() == Some(&w.dot));
        let mut value = found.and_then(ContentValue::deleting);
        if self.segment.broken == Broken::KeepDeleted {
            value = None;
        }
        self.write_content(node, value, taken);
    }

    /// A name of `node` at `place` goes. If it is the last, the content that shows goes with it.
    fn forget_name(&mut self, node: NodeId, place: &Place) {
        if self.other_names(&node, place) == 0 && self.segment.broken != Broken::LastName {
            let taken = self.replaced_contents(&node);
            if !taken.is_empty() {
                self.delete_contents(node, &taken);
            }
        }
    }

    // ---- files

    fn put(&mut self, key: &str, content: ContentId) -> Result<(), Refused> {
        let (parents, name) =
            key.rsplit_once('/').map_or(("", key), |(_, name)| (&key[..key.len() - name.len()], name));
        let parent = self.make_directories(parents);
        let place = Place::new(parent, name.to_owned());
        let value = ContentValue { at: place.clone(), payload: content, deleted: None };
        match self.shown.files.get(&place).cloned() {
            Some(file) if file.is_main => {
                self.take_losers(&file.place);
                let taken = self.replaced_contents(&file.node);
                self.adopt(&place, &file);
                self.write_content(file.node, Some(value), &taken);
            }
            loser => {
                let node = self.new_node();
                if let Some(loser) = loser {
                    // One of several contents of a file becomes a file of its own.
                    self.take_losers(&loser.place);
                    self.write_content(loser.node, None, &[loser.content]);
                }
                let replaces = self.replaced(&place, &[]);
                self.write_content(node, Some(value), &[]);
                self.write_entry(&place, Some(EntryValue::file(node)), &replaces);
            }
        }
        Ok(())
    }

    /// Gives a rescued file the name it shows under.
    fn adopt(&mut self, place: &Place, file: &ShownFile) {
        if file.entry.is_none() {
            let replaces = self.replaced(place, &[]);
            self.write_entry(place, Some(EntryValue::file(file.node)), &replaces);
        }
    }

    /// Takes away what a file shows under: a name, or one content.
    fn take_name(&mut self, file: &ShownFile) {
        if file.entry.is_some() && file.is_main {
            let replaces = self.replaced(&file.place, &[file.node]);
            self.forget_name(file.node, &file.place);
            self.write_entry(&file.place, None, &replaces);
        } else {
            self.delete_contents(file.node, &[file.content]);
        }
    }

    /// If the policy keeps one winner, a change of the name settles its conflicts.
    fn take_losers(&mut self, place: &Place) {
        let conflicts = self.shown.conflicts.iter();
        let losers: Vec<_> = conflicts.filter(|c| c.place == *place && c.shown.is_none()).cloned().collect();
        let winner = self.shown.files.get(place).cloned();
        let mut nodes = BTreeSet::new();
        for loser in losers {
            let named = self.entry(place).live_values().any(|(_, v)| v.is_file() && v.node == loser.node);
            let is_winner = winner.as_ref().is_some_and(|winner| winner.node == loser.node);
            match loser.content {
                Some(content) if !named => self.delete_contents(loser.node, &[content]),
                _ if named && !is_winner && nodes.insert(loser.node) => self.forget_name(loser.node, place),
                _ => {}
            }
        }
        if let Some(winner) = winner
            && !nodes.is_empty()
        {
            let replaces = self.replaced(place, &[winner.node]);
            self.write_entry(place, Some(EntryValue::file(winner.node)), &replaces);
        }
    }

    fn link(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let file = self.file(&source)?;
        if self.shown.files.contains_key(&target) {
            return Err(Refused::Exists);
        }
        if !file.is_main {
            return Err(Refused::Pointless);
        }
        self.adopt(&source, &file);
        let replaces = self.replaced(&target, &[]);
        self.write_entry(&target, Some(EntryValue::file(file.node)), &replaces);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let file = self.file(&source)?;
        let over = self.shown.files.get(&target).cloned();
        let same_file = |over: &ShownFile| over.node == file.node && over.is_main && file.is_main;
        if source == target || over.as_ref().is_some_and(same_file) {
            return Err(Refused::Pointless);
        }
        self.take_losers(&file.place);
        let node = if file.is_main {
            file.node
        } else {
            let payload = self.payload(&file);
            let node = self.new_node();
            self.write_content(file.node, None, &[file.content]);
            let value = ContentValue { at: target.clone(), payload, deleted: None };
            self.write_content(node, Some(value), &[]);
            node
        };
        let mut names = vec![file.node];
        if let Some(over) = &over {
            self.take_losers(&over.place);
            if over.place == target && over.entry.is_some() && over.is_main {
                self.forget_name(over.node, &target);
                names.push(over.node);
            } else {
                // What shows there shows under a derived name, or was rescued.
                self.take_name(over);
            }
        }
        let replaces = self.replaced(&target, &names);
        self.write_entry(&target, Some(EntryValue::file(node)), &replaces);
        if file.is_main && file.entry.is_some() && file.place != target {
            let replaces = self.replaced(&file.place, &[file.node]);
            self.write_entry(&file.place, None, &replaces);
        }
        Ok(())
    }

    fn payload(&self, file: &ShownFile) -> ContentId {
        let register = self.content(&file.node);
        let write = register.ordered().iter().find(|w| w.dot == file.content);
        write.and_then(|w| w.value.as_ref()).expect("what shows is live").payload
    }

    // ---- directories

    /// The directory at `path`, made as implied where it does not show.
    fn make_directories(&mut self, path: &str) -> NodeId {
        let mut parent = NodeId::ROOT;
        for part in path.split_inclusive('/') {
            let place = Place::new(parent, part.to_owned());
            parent = match self.shown.directory_at(&place) {
                Some(node) => node,
                None => self.make_directory(&place, false),
            };
        }
        parent
    }

    fn make_directory(&mut self, place: &Place, explicit: bool) -> NodeId {
        let register = self.entry(place);
        let homes = &self.segment.registers.homes;
        let usable = |node: &NodeId, may_be_new: bool| match homes.get(node).and_then(Register::value) {
            Some(home) => home == place && !self.shown.directories.contains_key(node),
            None => may_be_new,
        };
        let mut candidates = directory_candidates(&place.parent, &place.name, &register).into_iter();
        let chosen = candidates.find(|c| usable(&c.node, c.may_be_new)).map(|c| c.node);
        let chosen = chosen.filter(|_| self.segment.broken != Broken::SameNode);
        let node = chosen.unwrap_or_else(|| self.new_node());
        let replaces = self.replaced_directories(place);
        self.write_entry(place, Some(EntryValue::directory(node, explicit)), &replaces);
        if !self.segment.registers.homes.contains_key(&node) {
            self.write_home(node, place);
        }
        node
    }

    /// Where no directory shows, all that an entry names and that has arrived is out of date.
    fn replaced_directories(&self, place: &Place) -> Vec<Dot> {
        let register = self.entry(place);
        let stale = register.live_values().filter(|(_, value)| self.is_known(value)).map(|(write, _)| write.dot);
        stale.chain(register.tombstones().map(|write| write.dot)).collect()
    }

    fn mkdir(&mut self, path: &str) -> Result<(), Refused> {
        let parent = self.make_directories(crate::operation::parent_of(path));
        let name = &path[crate::operation::parent_of(path).len()..];
        let place = Place::new(parent, name.to_owned());
        let Some(node) = self.shown.directory_at(&place) else {
            self.make_directory(&place, true);
            return Ok(());
        };
        let directory = self.shown.directories.get(&node).cloned().ok_or(Refused::NotFound)?;
        if directory.explicit {
            return Err(Refused::Exists);
        }
        let replaces = self.replaced(&directory.home, &[node]);
        self.write_entry(&directory.home, Some(EntryValue::directory(node, true)), &replaces);
        Ok(())
    }

    fn rmdir(&mut self, path: &str) -> Result<(), Refused> {
        let node = self.shown.directory_at(&self.place(path)?).ok_or(Refused::NotFound)?;
        let holds_file = self.shown.files.keys().any(|place| place.parent == node);
        if holds_file || self.shown.directories.values().any(|d| d.place.parent == node) {
            return Err(Refused::NotEmpty);
        }
        let home = self.shown.directories.get(&node).ok_or(Refused::NotFound)?.home.clone();
        let replaces = self.replaced(&home, &[node]);
        self.write_entry(&home, None, &replaces);
        Ok(())
    }

    fn rename_directory(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let node = self.shown.directory_at(&source).ok_or(Refused::NotFound)?;
        if self.shown.directory_at(&target).is_some() {
            return Err(Refused::Exists);
        }
        let mut above = target.parent;
        while above != NodeId::ROOT {
            if above == node {
                return Err(Refused::Pointless);
            }
            above = self.shown.directories.get(&above).ok_or(Refused::NotFound)?.place.parent;
        }
        let directory = self.shown.directories.get(&node).cloned().ok_or(Refused::NotFound)?;
        let named = self.entry(&directory.home).live_values().any(|(_, value)| value.node == node);
        if named && directory.home != target {
            let replaces = self.replaced(&directory.home, &[node]);
            self.write_entry(&directory.home, None, &replaces);
        }
        let replaces = self.replaced_directories(&target);
        self.write_entry(&target, Some(EntryValue::directory(node, directory.explicit)), &replaces);
        self.write_home(node, &target);
        Ok(())
    }

    /// Implied directories that went with their last entry get a tombstone, so that their rows can go.
    fn tidy(&mut self) {
        if !self.segment.tidies {
            return;
        }
        let after = self.segment.shown();
        let gone =
            self.shown.directories.iter().filter(|(node, d)| !after.directories.contains_key(*node) && !d.explicit);
        for (node, directory) in gone.map(|(node, d)| (*node, d.clone())).collect::<Vec<_>>() {
            if self.entry(&directory.home).live_values().any(|(_, value)| value.node == node) {
                let replaces = self.replaced(&directory.home, &[node]);
                self.write_entry(&directory.home, None, &replaces);
            }
        }
    }
}
