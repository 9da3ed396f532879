//! Seeded schedules: several segments, random operations, deltas that arrive late, twice and in part, clocks that are wrong; and the checks.
//!
//! A schedule is a seed, a number of segments and the steps of it that are taken. Each step draws its choices from (seed, step), whatever came before, so leaving
//! steps out is how a failing schedule shrinks.

use crate::operation::{ContentId, ModelSegment, Operation, Tree, parent_of};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A schedule that can be run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub segments: usize,
    pub steps: Vec<u32>,
    /// Whether directories are renamed.
    pub moves: bool,
    /// Everybody sees every change before the next one is made.
    pub handover: bool,
}

/// What a run that held found out.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Conflicts after all was delivered.
    pub conflicts: Vec<String>,
    /// Operations that changed something.
    pub applied: u32,
    /// Contents that were made.
    pub contents: u32,
}

/// A promise that did not hold, and what was done until then.
#[derive(Debug, Clone)]
pub struct Violation {
    pub what: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Schedule {
    /// As environment variables that run it again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(u32::to_string).collect();
        write!(f, "TOMBOLO_SEED={} TOMBOLO_SEGMENTS={} TOMBOLO_STEPS={}", self.seed, self.segments, steps.join(","))?;
        if self.handover { f.write_str(" TOMBOLO_HANDOVER=1") } else { Ok(()) }
    }
}

impl Schedule {
    pub fn new(seed: u64, steps: u32, handover: bool) -> Schedule {
        Schedule { seed, segments: 2 + (seed % 4) as usize, steps: (0..steps).collect(), moves: seed % 8 < 6, handover }
    }

    /// Runs it with segments from `make`, which is told the number of each.
    pub fn run<S: ModelSegment>(&self, make: &dyn Fn(usize) -> S) -> Result<Outcome, Violation> {
        let mut world = World::new(self, make);
        // A segment that panics breaks a promise too (P13), and its schedule shrinks like any other.
        let result = catch_unwind(AssertUnwindSafe(|| world.run(self)));
        let what = match result {
            Ok(Ok(conflicts)) => {
                return Ok(Outcome { conflicts, applied: world.applied, contents: world.made.len() as u32 });
            }
            Ok(Err(what)) => what,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                format!("panic: {}", text.unwrap_or_default())
            }
        };
        Err(Violation { what, trace: world.trace })
    }

    /// The smallest schedule found that still breaks a promise: fewer steps, then fewer segments, until neither helps.
    pub fn shrink<S: ModelSegment>(&self, make: &dyn Fn(usize) -> S) -> (Schedule, Violation) {
        let mut best = self.clone();
        let mut violation = self.run(make).expect_err("only a failing schedule shrinks");
        let mut chunk = best.steps.len().div_ceil(2);
        loop {
            let before = best.clone();
            let mut from = 0;
            while from < best.steps.len() {
                let mut fewer = best.clone();
                fewer.steps.drain(from..(from + chunk).min(best.steps.len()));
                match fewer.run(make) {
                    Err(found) => (best, violation) = (fewer, found),
                    Ok(_) => from += chunk,
                }
            }
            if best.segments > 2 {
                let fewer = Schedule { segments: best.segments - 1, ..best.clone() };
                if let Err(found) = fewer.run(make) {
                    (best, violation) = (fewer, found);
                }
            }
            if chunk > 1 {
                chunk = chunk.div_ceil(2);
            } else if best == before {
                return (best, violation);
            }
        }
    }
}

/// SplitMix64: small, and the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

struct World<S: ModelSegment> {
    segments: Vec<S>,
    /// Each segment's wall clock against true time, in nanoseconds.
    skews: Vec<i64>,
    now_ns: i64,
    /// Deltas on their way: receiver and content.
    flying: Vec<(usize, S::Delta)>,
    /// Contents by the operation that made them.
    made: BTreeMap<ContentId, String>,
    /// Contents that an operation which saw them took away.
    gone: BTreeSet<ContentId>,
    /// Contents that a put which saw them replaced: they never come back.
    overwritten: BTreeSet<ContentId>,
    /// Contents that became files of their own when a conflict was settled: a copy, which an overwriting elsewhere does not know.
    copied: BTreeSet<ContentId>,
    applied: u32,
    trace: Vec<String>,
}

const HOUR_NS: i64 = 3_600_000_000_000;
const SKEWS_NS: [i64; 8] = [0, 0, 1_000_000, -40_000_000, HOUR_NS, -HOUR_NS, 7 * HOUR_NS, -1_000 * HOUR_NS];

impl<S: ModelSegment> World<S> {
    fn new(schedule: &Schedule, make: &dyn Fn(usize) -> S) -> Self {
        let mut random = Random(schedule.seed);
        World {
            segments: (0..schedule.segments).map(make).collect(),
            skews: (0..schedule.segments).map(|_| *random.pick(&SKEWS_NS).expect("there are some")).collect(),
            now_ns: 1_700_000_000_000_000_000,
            flying: Vec::new(),
            made: BTreeMap::new(),
            gone: BTreeSet::new(),
            overwritten: BTreeSet::new(),
            copied: BTreeSet::new(),
            applied: 0,
            trace: Vec::new(),
        }
    }

    /// Runs all steps, delivers everything and returns the conflicts that are left.
    fn run(&mut self, schedule: &Schedule) -> Result<Vec<String>, String> {
        for &step in &schedule.steps {
            let mut random = Random(schedule.seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(step) << 32));
            random.next();
            self.now_ns += random.below(3) as i64 * 500_000;
            if schedule.handover {
                self.deliver_all()?;
                self.operate(schedule, step, &mut random)?;
                continue;
            }
            match random.below(100) {
                0..24 => self.send(&mut random),
                24..32 => self.deliver_one(&mut random),
                32..36 => {
                    let at = random.below(self.segments.len());
                    self.skews[at] = *random.pick(&SKEWS_NS).expect("there are some");
                    self.trace.push(format!("{at}: clock steps to {} h", self.skews[at] / HOUR_NS));
                }
                36..38 => {
                    let at = random.below(self.segments.len());
                    self.segments[at].restart();
                    self.trace.push(format!("{at}: restarts"));
                }
                _ => self.operate(schedule, step, &mut random)?,
            }
        }
        while !self.flying.is_empty() {
            self.deliver_one(&mut Random(self.flying.len() as u64));
        }
        self.deliver_all()?;
        self.check_settled(schedule)
    }

    // ---- deltas

    fn send(&mut self, random: &mut Random) {
        let (from, to) = (random.below(self.segments.len()), random.below(self.segments.len()));
        let mut delta = self.segments[from].changes_since(&self.segments[to].vector());
        let fate = random.below(100);
        if fate < 25 {
            delta = S::part(&delta, &mut || random.percent(60));
        }
        self.trace.push(format!("{from} => {to}: {}", if fate < 25 { "a part" } else { "all that is new" }));
        if fate >= 70 {
            // Late, and sometimes twice.
            self.flying.push((to, delta.clone()));
        }
        if !(70..90).contains(&fate) {
            self.segments[to].merge(&delta);
        }
    }

    fn deliver_one(&mut self, random: &mut Random) {
        if !self.flying.is_empty() {
            let (to, delta) = self.flying.swap_remove(random.below(self.flying.len()));
            self.trace.push(format!("late delta for {to}"));
            self.segments[to].merge(&delta);
        }
    }

    /// Everybody gets everything, along a chain there and back: forwarding must do.
    fn deliver_all(&mut self) -> Result<(), String> {
        let last = self.segments.len() - 1;
        let there = (0..last).map(|at| (at, at + 1));
        let back = (0..last).rev().map(|at| (at + 1, at));
        for (from, to) in there.chain(back) {
            let delta = self.segments[from].changes_since(&self.segments[to].vector());
            self.segments[to].merge(&delta);
        }
        let vector = self.segments[0].vector();
        match self.segments.iter().all(|segment| segment.vector() == vector) {
            true => Ok(()),
            false => Err("P5: vectors differ after all was delivered".into()),
        }
    }

    // ---- operations

    fn operate(&mut self, schedule: &Schedule, step: u32, random: &mut Random) -> Result<(), String> {
        let at = random.below(self.segments.len());
        let before = self.segments[at].tree();
        let Some(operation) = choose(&before, step, schedule.moves, random) else {
            return Ok(());
        };
        let result = self.segments[at].apply(&operation, self.now_ns + self.skews[at]);
        let after = self.segments[at].tree();
        self.trace.push(format!("{at}: {operation:?} {}", if result.is_ok() { "" } else { "refused" }));
        if result.is_err() {
            return match before == after {
                true => Ok(()),
                false => Err(format!("P6: {operation:?} was refused and changed something")),
            };
        }
        self.applied += 1;
        if let Operation::Put { key, content } = &operation {
            self.made.insert(*content, format!("{at}: put {key}"));
            self.overwritten.extend(before.files.get(key));
        }
        if let Operation::Rename { from, .. } = &operation {
            self.copied.extend(before.files.get(from).filter(|content| before.contested.contains(content)));
        }
        let removed: BTreeSet<ContentId> = before.contents().difference(&after.contents()).copied().collect();
        check_local(&operation, &before, &after, &removed)
            .map_err(|what| format!("P4: {what} by {operation:?}: {before:#?} became {after:#?}"))?;
        self.gone.extend(removed);
        Ok(())
    }

    // ---- checks

    fn check_settled(&self, schedule: &Schedule) -> Result<Vec<String>, String> {
        let first = self.segments[0].fingerprint();
        if self.segments.iter().any(|segment| segment.fingerprint() != first) {
            return Err("P5: registers differ after all was delivered".into());
        }
        let trees: Vec<Tree> = self.segments.iter().map(S::tree).collect();
        let tree = trees.first().cloned().unwrap_or_default();
        if let Some(other) = trees.iter().find(|other| **other != tree) {
            return Err(format!("P5: trees differ: {tree:#?} and {other:#?}"));
        }
        for key in tree.files.keys().chain(tree.directories.keys()) {
            let parent = parent_of(key);
            if !parent.is_empty() && !tree.directories.contains_key(parent) {
                return Err(format!("P6: {key} hangs in the air"));
            }
        }
        for (path, explicit) in &tree.directories {
            let below = tree.files.keys().chain(tree.directories.keys());
            if !explicit && !below.into_iter().any(|key| key.len() > path.len() && key.starts_with(path.as_str())) {
                // A directory that somebody removed and somebody else revived is empty for a reason; an implied one never is.
                return Err(format!("P6: the implied directory {path} is empty and shows"));
            }
        }
        let contents = tree.contents();
        for (content, by) in &self.made {
            if !self.gone.contains(content) && !contents.contains(content) {
                return Err(format!("P6: c{content} ({by}) is lost"));
            }
            let came_back = self.overwritten.contains(content) && !self.copied.contains(content);
            if came_back && contents.contains(content) {
                return Err(format!("P6: c{content} ({by}) was overwritten by somebody who saw it, and came back"));
            }
        }
        if !schedule.moves && tree.derived_directories > 0 {
            return Err(format!("P6: nobody renamed a directory, and they did not merge: {:?}", tree.conflicts));
        }
        if schedule.handover && !tree.conflicts.is_empty() {
            return Err(format!("P6: false conflicts: {:?}", tree.conflicts));
        }
        self.segments.iter().try_for_each(S::check)?;
        Ok(tree.conflicts)
    }
}

/// Picks an operation that makes sense (mostly) for what shows.
fn choose(tree: &Tree, step: u32, moves: bool, random: &mut Random) -> Option<Operation> {
    const FILES: [&str; 3] = ["x", "y", "z.txt"];
    const DIRECTORIES: [&str; 3] = ["p/", "q/", "r/"];
    let files: Vec<&String> = tree.files.keys().collect();
    let directories: Vec<&String> = tree.directories.keys().collect();
    let inside = |random: &mut Random| match random.below(directories.len() + 1) {
        0 => String::new(),
        at => directories[at - 1].clone(),
    };
    let name = |random: &mut Random, names: &[&str]| names[random.below(names.len())].to_owned();
    let file = |random: &mut Random| random.pick(&files).map(|key| (*key).clone());
    let directory = |random: &mut Random| random.pick(&directories).map(|path| (*path).clone());
    Some(match random.below(100) {
        0..18 => {
            let key = inside(random) + &name(random, &FILES);
            Operation::Put { key, content: step }
        }
        18..28 => {
            // A key with directories that may not be there yet.
            let mut key = if random.percent(50) { String::new() } else { inside(random) };
            for _ in 0..1 + random.below(3) {
                key += &name(random, &DIRECTORIES);
            }
            Operation::Put { key: key + &name(random, &FILES), content: step }
        }
        28..39 => Operation::Put { key: file(random)?, content: step },
        39..52 => Operation::Delete { key: file(random)? },
        52..64 => Operation::Mkdir { path: inside(random) + &name(random, &DIRECTORIES) },
        64..71 => Operation::Rmdir { path: directory(random)? },
        71..82 if moves => {
            let to = inside(random) + &name(random, &DIRECTORIES);
            Operation::RenameDirectory { from: directory(random)?, to }
        }
        82..92 => {
            let over = random.percent(30);
            let to = if over { file(random)? } else { inside(random) + &name(random, &FILES) };
            Operation::Rename { from: file(random)?, to }
        }
        _ => Operation::Link { from: file(random)?, to: inside(random) + &name(random, &FILES) },
    })
}

/// An operation does at once, on its own segment, what it says, and takes nothing away but what it is about.
fn check_local(
    operation: &Operation,
    before: &Tree,
    after: &Tree,
    removed: &BTreeSet<ContentId>,
) -> Result<(), &'static str> {
    let must = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    // Where a change settles a conflict, the loser takes over the plain name, and all below it moves.
    let settles = before.conflicts.iter().any(|conflict| !after.conflicts.contains(conflict));
    let at = |tree: &Tree, key: &String| tree.files.get(key).copied();
    let mut about: BTreeSet<ContentId> = BTreeSet::new();
    match operation {
        Operation::Put { key, content } => {
            about.extend(before.contents_at(key));
            must(at(after, key) == Some(*content), "the content does not show")?;
            must(before.directories.keys().all(|path| after.directories.contains_key(path)), "a directory went")?;
        }
        Operation::Delete { key } => {
            about.extend(before.contents_at(key));
            must(settles || at(after, key) != at(before, key), "the name is still there")?;
            must(settles || after.files.keys().all(|key| before.files.contains_key(key)), "a file came")?;
        }
        Operation::Link { from, to } => {
            must(at(after, to) == at(before, from), "the name is not there")?;
            must(at(after, from) == at(before, from), "the old name went")?;
        }
        Operation::Rename { from, to } => {
            about.extend(before.contents_at(to));
            about.extend(before.older.iter().filter(|(key, _)| key == from).map(|(_, content)| *content));
            must(settles || at(after, to) == at(before, from), "the name is not there")?;
            must(settles || at(after, from) != at(before, from), "the old name is still there")?;
        }
        Operation::Mkdir { path } => {
            must(after.directories.get(path) == Some(&true), "the directory is not there")?;
            // More may show: files below it that had arrived before their directory.
            must(before.files.keys().all(|key| at(after, key) == at(before, key)), "a file changed")?;
        }
        Operation::Rmdir { path } => {
            must(settles || !after.directories.contains_key(path), "the directory is still there")?;
            must(settles || after.files == before.files, "files changed")?;
        }
        Operation::RenameDirectory { from, to } => {
            let moved = |key: &String| match key.strip_prefix(from.as_str()) {
                Some(rest) => format!("{to}{rest}"),
                None => key.clone(),
            };
            must(settles || !after.directories.contains_key(from), "the old name is still there")?;
            must(settles || after.directories.contains_key(to), "the new name is not there")?;
            let along = before.files.keys().all(|key| at(after, &moved(key)) == at(before, key));
            must(settles || along, "a file below did not come along")?;
        }
    }
    // Directories that are made may bring to light what had arrived before them, and a conflict shows at every name of the file. Else nobody is in conflict with
    // what he sees.
    let reveals = matches!(operation, Operation::Put { .. } | Operation::Mkdir { .. } | Operation::Link { .. });
    must(settles || reveals || before.conflicts == after.conflicts, "a conflict came")?;
    must(removed.is_subset(&about), "it took away a content that it is not about")
}
