//! Since when something is not here that a peer has told of (P8): the other half of "complete up to which change" is "up to which time".
//!
//! All that a peer had told of by a moment is here, if this segment stood there then. The moment moves on as long as it does; when the peer tells of more it stands still until that
//! has come, and when the line goes down until the peer has said again where it stands. What was written here needs no telling.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;
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
    data: HashMap<BucketId, SystemTime>,
}

#[derive(Default)]
struct Told {
    vector: VersionVector,
    /// Since when that is not here, or the peer is out of reach; `None`: it is here.
    since: Option<SystemTime>,
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
    pub(crate) fn told(&self, bucket: BucketId, peer: SegmentId, vector: &VersionVector, now: SystemTime) {
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
    pub(crate) fn parted(&self, peer: &SegmentId, now: SystemTime) {
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
    pub(crate) fn lacks_data(&self, bucket: BucketId, is_lacking: bool, now: SystemTime) {
        let mut state = self.state.lock();
        match is_lacking {
            true => drop(state.data.entry(bucket).or_insert(now)),
            false => drop(state.data.remove(&bucket)),
        }
    }

    /// Up to when all is here by name that a peer had told of; `None`: it has told of nothing since the process began.
    pub(crate) fn names_until(&self, bucket: BucketId, peer: SegmentId, now: SystemTime) -> Option<SystemTime> {
        self.state.lock().told.get(&(bucket, peer)).map(|told| told.since.unwrap_or(now))
    }

    /// Since when data is missing.
    pub(crate) fn data_since(&self, bucket: BucketId) -> Option<SystemTime> {
        self.state.lock().data.get(&bucket).copied()
    }

    fn covers(&self, here: &VersionVector, told: &VersionVector) -> bool {
        told.dots().all(|dot| dot.segment == self.own || here.covers(&dot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tombolo_core::Dot;

    const OWN: SegmentId = SegmentId([1; 16]);
    const PEER: SegmentId = SegmentId([2; 16]);
    const BUCKET: BucketId = BucketId([3; 16]);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn vector(own: u64, peer: u64) -> VersionVector {
        [Dot { segment: OWN, sequence: own }, Dot { segment: PEER, sequence: peer }].into_iter().collect()
    }

    #[test]
    fn time_stands_still_while_something_is_on_its_way() {
        let lags = Lags::new(OWN);
        let until = |now: u64| lags.names_until(BUCKET, PEER, at(now));
        assert_eq!(until(1), None, "nothing was told");
        lags.stands(BUCKET, &vector(0, 3));
        // What was made here meanwhile counts as here.
        lags.told(BUCKET, PEER, &vector(9, 3), at(2));
        assert_eq!(until(5), Some(at(5)));
        lags.told(BUCKET, PEER, &vector(9, 4), at(6));
        lags.told(BUCKET, PEER, &vector(9, 5), at(7));
        lags.stands(BUCKET, &vector(9, 4));
        assert_eq!(until(8), Some(at(6)), "there is more to come");
        lags.stands(BUCKET, &vector(9, 5));
        assert_eq!(until(9), Some(at(9)));
        lags.parted(&PEER, at(10));
        lags.stands(BUCKET, &vector(10, 5));
        assert_eq!(until(20), Some(at(10)));
        lags.told(BUCKET, PEER, &vector(9, 6), at(21));
        assert_eq!(until(22), Some(at(10)), "since the line went down");
        lags.stands(BUCKET, &vector(10, 6));
        assert_eq!(until(23), Some(at(23)));
        lags.forget(BUCKET, PEER);
        assert_eq!(until(24), None);
    }

    #[test]
    fn data_is_missing_since_the_first_of_it() {
        let lags = Lags::new(OWN);
        lags.lacks_data(BUCKET, true, at(1));
        lags.lacks_data(BUCKET, true, at(2));
        assert_eq!(lags.data_since(BUCKET), Some(at(1)));
        lags.lacks_data(BUCKET, false, at(3));
        assert_eq!(lags.data_since(BUCKET), None);
    }
}
