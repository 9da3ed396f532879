//! Who is to be asked again for what could not be taken in, and when: twice as long after each time, up to a limit.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use tombolo_core::SegmentId;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// For each peer, when it is to be asked, and how long after the last time that is.
#[derive(Default)]
pub(crate) struct Retries(HashMap<SegmentId, (Instant, Duration)>);

impl Retries {
    /// What a peer sent could not be taken in.
    pub(crate) fn failed(&mut self, peer: SegmentId, now: Instant) {
        let wait = self.0.get(&peer).map_or(FIRST, |(_, wait)| *wait * 2).min(LONGEST);
        self.0.insert(peer, (now + wait, wait));
    }

    /// It could be, or the peer is gone.
    pub(crate) fn done(&mut self, peer: &SegmentId) {
        self.0.remove(peer);
    }

    /// When somebody is to be asked.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.0.values().map(|(due, _)| *due).min()
    }

    /// Who is to be asked now; and again after the longest time, should no answer come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<SegmentId> {
        let late = self.0.iter_mut().filter(|(_, (due, _))| *due <= now);
        late.map(|(peer, (due, _))| {
            *due = now + LONGEST;
            *peer
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_longer_each_time() {
        let (peer, mut now) = (SegmentId([1; 16]), Instant::now());
        let mut retries = Retries::default();
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            retries.failed(peer, now);
            assert_eq!(retries.due_at(), Some(now + Duration::from_secs(wait)));
            assert!(retries.take_due(now).is_empty());
            now += Duration::from_secs(wait);
            assert_eq!(retries.take_due(now), [peer]);
            assert!(retries.take_due(now).is_empty());
        }
        retries.done(&peer);
        assert_eq!(retries.due_at(), None);
    }
}
