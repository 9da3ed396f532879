//! What single registers show, under a bucket's conflict policy.

use super::names::short_segment_name;
use super::registers::ContentRegister;
use super::{ContentValue, EntryValue};
use crate::id::{NodeId, SegmentId};
use crate::policy::ConflictPolicy;
use crate::register::{Register, Stamp, Write};
use smallvec::SmallVec;
use std::cmp::Reverse;

/// A live write with its value.
pub type Live<'r, V> = (&'r Write<V>, &'r V);

/// Where a write stands among rivals, see `Rules::rank`.
pub type Rank = (bool, Stamp, u64);

/// What a bucket's policy says about conflicts, and what segments are called in conflict names.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// What happens to losers.
    pub conflicts: ConflictPolicy,
    /// The segment where the bucket was made, for [`ConflictPolicy::OriginWins`].
    pub origin: SegmentId,
    /// A segment's name. It must give the same answer everywhere, or trees differ in conflict names.
    pub segment_name: &'a (dyn Fn(&SegmentId) -> String + Sync),
}

impl Rules<'static> {
    /// Rules without a table of segment names: conflict names tell the first digits of the segment's id.
    pub fn new(conflicts: ConflictPolicy, origin: SegmentId) -> Rules<'static> {
        Rules { conflicts, origin, segment_name: &short_segment_name }
    }
}

impl Rules<'_> {
    /// Where a write with a value stands among rivals: the highest shows.
    pub(super) fn rank<V>(&self, write: &Write<V>) -> Rank {
        let by_origin = self.conflicts == ConflictPolicy::OriginWins && write.dot.segment == self.origin;
        (by_origin, write.stamp(), write.dot.sequence)
    }

    /// Whether losers of file conflicts show beside the winner. Otherwise they are older versions of the name, and a write to the name takes their place too.
    pub fn keeps_both(&self) -> bool {
        self.conflicts == ConflictPolicy::KeepBoth
    }

    /// Live values of a register, the one that shows first.
    pub fn values<'r, V>(&self, register: &'r Register<V>) -> SmallVec<[Live<'r, V>; 2]> {
        let mut values: SmallVec<[Live<'_, V>; 2]> = register.live_values().collect();
        if self.conflicts == ConflictPolicy::OriginWins {
            values.sort_by_key(|(write, _)| Reverse(self.rank(write)));
        }
        values
    }
}

/// The files that an entry register names, each once with its best write, the one that shows first.
pub fn entry_files<'r>(
    register: &'r Register<EntryValue>,
    rules: &Rules,
) -> SmallVec<[(&'r Write<EntryValue>, NodeId); 2]> {
    let mut files: SmallVec<[(&Write<EntryValue>, NodeId); 2]> = SmallVec::new();
    for (write, value) in rules.values(register) {
        if value.is_file() && !files.iter().any(|(_, node)| *node == value.node) {
            files.push((write, value.node));
        }
    }
    files
}

/// The contents that are live and not deleted, the one that shows first.
pub fn live_contents<'r, P>(
    register: &'r ContentRegister<P>,
    rules: &Rules,
) -> SmallVec<[Live<'r, ContentValue<P>>; 2]> {
    let mut contents = rules.values(register);
    contents.retain(|(_, content)| content.deleted.is_none());
    contents
}

/// The contents of a file that has a name, the one that shows first. If all were deleted, the file was given a name by somebody who did not know: then the one of them
/// that was written last shows. It has not been overwritten by somebody who saw it, or what overwrote it would be among them.
pub fn contents<'r, P>(register: &'r ContentRegister<P>, rules: &Rules) -> SmallVec<[Live<'r, ContentValue<P>>; 2]> {
    let live = live_contents(register, rules);
    if !live.is_empty() {
        return live;
    }
    register.live_values().max_by_key(|(_, content)| content.deleted).into_iter().collect()
}
