//! Since when something is not here that a peer has told of (P8): the other half of "complete up to which change" is "up to which time".
//!
//! All that a peer had told of by a moment is here, if this segment stood there then. The moment moves on as long as it does; when the peer tells of more it stands still until that
//! has come, and when the line goes down until the peer has said again where it stands. What was written here needs no telling.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;
use tombolo_core::{BucketId, SegmentId, VersionVector};

/// See the module.
pub(crate) struct Lags {
    own: SegmentId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where this segment stands, as it was heard last.
    here: HashMap<BucketId, VersionVector>,
    /// What peers have told of.
    told: BTreeMap<(BucketId, SegmentId), Told>,
    /// Since when data of a bucket is missing.
    data: HashMap<BucketId, Instant>,
}

#[derive(Default)]
struct Told {
    vector: VersionVector,
    /// Since when that is not here, or the peer is out of reach; `None`: it is here.
    since: Option<Instant>,
    /// It has not said yet where it stands, on this connection.
    is_parted: bool,
}

impl Lags {
    pub(crate) fn new(own: SegmentId) -> Lags {
        Lags { own, state: Mutex::default() }
    }

    /// This segment stands at `vector`.
    pub(crate) fn stands(&self, bucket: BucketId, vector: &VersionVector) {
        let mut state = self.state.lock();
        let State { here, told, .. } = &mut *state;
        here.insert(bucket, vector.clone());
        for (_, told) in told.range_mut((bucket, SegmentId([0; 16]))..=(bucket, SegmentId([0xff; 16]))) {
            if !told.is_parted && self.covers(vector, &told.vector) {
                told.since = None;
            }
        }
    }

    /// A peer tells of what is in `vector`.
    pub(crate) fn told(&self, bucket: BucketId, peer: SegmentId, vector: &VersionVector, now: Instant) {
        let mut state = self.state.lock();
        let State { here, told, .. } = &mut *state;
        let told = told.entry((bucket, peer)).or_insert_with(Told::default);
        told.is_parted = false;
        told.vector.merge(vector);
        told.since = match here.get(&bucket).is_some_and(|here| self.covers(here, &told.vector)) {
            true => None,
            false => told.since.or(Some(now)),
        };
    }

    /// A peer is out of reach.
    pub(crate) fn parted(&self, peer: &SegmentId, now: Instant) {
        let mut state = self.state.lock();
        for (_, told) in state.told.iter_mut().filter(|((_, of), _)| of == peer) {
            // It begins anew with what it says then.
            told.vector = VersionVector::new();
            told.is_parted = true;
            told.since.get_or_insert(now);
        }
    }

    /// A bucket does not go over the link to a peer any more.
    pub(crate) fn forget(&self, bucket: BucketId, peer: SegmentId) {
        self.state.lock().told.remove(&(bucket, peer));
    }

    /// Whether data of a bucket is missing that is to be here.
    pub(crate) fn lacks_data(&self, bucket: BucketId, is_lacking: bool, now: Instant) {
        let mut state = self.state.lock();
        match is_lacking {
            true => drop(state.data.entry(bucket).or_insert(now)),
            false => drop(state.data.remove(&bucket)),
        }
    }

    /// How long ago all was here by name that a peer had told of; `None`: it has told of nothing since the process began.
    pub(crate) fn of_names(&self, bucket: BucketId, peer: SegmentId, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        let since = state.told.get(&(bucket, peer))?.since;
        Some(since.map_or(Duration::ZERO, |since| now.duration_since(since)))
    }

    /// How long data is missing.
    pub(crate) fn of_data(&self, bucket: BucketId, now: Instant) -> Duration {
        self.state.lock().data.get(&bucket).map_or(Duration::ZERO, |since| now.duration_since(*since))
    }

    fn covers(&self, here: &VersionVector, told: &VersionVector) -> bool {
        told.dots().all(|dot| dot.segment == self.own || here.covers(&dot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Dot;

    const OWN: SegmentId = SegmentId([1; 16]);
    const PEER: SegmentId = SegmentId([2; 16]);
    const BUCKET: BucketId = BucketId([3; 16]);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn vector(own: u64, peer: u64) -> VersionVector {
        [Dot { segment: OWN, sequence: own }, Dot { segment: PEER, sequence: peer }].into_iter().collect()
    }

    #[test]
    fn time_stands_still_while_something_is_on_its_way() {
        let (lags, start) = (Lags::new(OWN), Instant::now());
        let at = |seconds| start + s(seconds);
        let late = |now: u64| lags.of_names(BUCKET, PEER, at(now));
        assert_eq!(late(1), None, "nothing was told");
        lags.stands(BUCKET, &vector(0, 3));
        // What was made here meanwhile counts as here.
        lags.told(BUCKET, PEER, &vector(9, 3), at(2));
        assert_eq!(late(5), Some(s(0)));
        lags.told(BUCKET, PEER, &vector(9, 4), at(6));
        lags.told(BUCKET, PEER, &vector(9, 5), at(7));
        lags.stands(BUCKET, &vector(9, 4));
        assert_eq!(late(8), Some(s(2)), "there is more to come");
        lags.stands(BUCKET, &vector(9, 5));
        assert_eq!(late(9), Some(s(0)));
        lags.parted(&PEER, at(10));
        lags.stands(BUCKET, &vector(10, 5));
        assert_eq!(late(20), Some(s(10)));
        lags.told(BUCKET, PEER, &vector(9, 6), at(21));
        assert_eq!(late(22), Some(s(12)), "since the line went down");
        lags.stands(BUCKET, &vector(10, 6));
        assert_eq!(late(23), Some(s(0)));
        lags.forget(BUCKET, PEER);
        assert_eq!(late(24), None);
    }

    #[test]
    fn data_is_missing_since_the_first_of_it() {
        let (lags, start) = (Lags::new(OWN), Instant::now());
        let at = |seconds| start + s(seconds);
        lags.lacks_data(BUCKET, true, at(1));
        lags.lacks_data(BUCKET, true, at(2));
        assert_eq!(lags.of_data(BUCKET, at(3)), s(2));
        lags.lacks_data(BUCKET, false, at(3));
        assert_eq!(lags.of_data(BUCKET, at(4)), s(0));
    }
}
