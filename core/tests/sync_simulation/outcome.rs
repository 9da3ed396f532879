//! What is run, and what a run says of itself: how often each thing really happened.

/// A schedule that can be run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub sites: usize,
    pub steps: Vec<u32>,
    /// Everybody sees every change before the next one is made.
    pub handover: bool,
    /// Contents are in chunks, which may be elsewhere, and sites leave and return.
    pub data: bool,
}

/// What a run that held found out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Names of conflict copies that showed at the end.
    pub conflicts: usize,
    pub operations: usize,
    pub deltas: usize,
    pub crashes: usize,
    /// Rows that lost something because everybody had it.
    pub dropped: usize,
    /// Times that a site had been away too long.
    pub comparisons: usize,
    /// Schedules with conflicts at the end.
    pub with_conflicts: usize,
    /// Versions that came because a pin covers them; because they are to stay for good where only names come; and because all data is to be there.
    pub pinned: usize,
    pub persisted: usize,
    pub brought: usize,
    /// Objects whose data went with the pin; because others hold it.
    pub unpinned: usize,
    pub given_up: usize,
    /// Changes of a part of a content whose rest was not there.
    pub parts: usize,
    /// Sites that came back, and those of them that had been forgotten and had to compare; and contents that they had without their bytes then.
    pub returned: usize,
    pub compared: usize,
    pub without_bytes: usize,
    /// Waits for what a peer had that came to their end, and contents that were held against it.
    pub waits: usize,
    pub waited_for: usize,
}

impl Outcome {
    /// What two runs found out.
    pub fn add(&mut self, other: Outcome) {
        let Outcome { conflicts, operations, deltas, crashes, dropped, comparisons, pinned, persisted, .. } = other;
        let Outcome { brought, unpinned, given_up, parts, returned, compared, without_bytes, waits, .. } = other;
        self.with_conflicts += usize::from(conflicts > 0);
        self.waited_for += other.waited_for;
        for (sum, of) in [
            (&mut self.conflicts, conflicts),
            (&mut self.operations, operations),
            (&mut self.deltas, deltas),
            (&mut self.crashes, crashes),
            (&mut self.dropped, dropped),
            (&mut self.comparisons, comparisons),
            (&mut self.pinned, pinned),
            (&mut self.persisted, persisted),
            (&mut self.brought, brought),
            (&mut self.unpinned, unpinned),
            (&mut self.given_up, given_up),
            (&mut self.parts, parts),
            (&mut self.returned, returned),
            (&mut self.compared, compared),
            (&mut self.without_bytes, without_bytes),
            (&mut self.waits, waits),
        ] {
            *sum += of;
        }
    }
}
