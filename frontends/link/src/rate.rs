//! How fast names and data come, over the last few seconds, for each bucket and linked segment: what status says of rates and of the time that is left.

use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use tombolo_core::{BucketId, SegmentId};

/// Rates are over this time.
const WINDOW_S: u64 = 15;
/// Shorter than that nothing can be said.
const KNOWN_S_MIN: f64 = 1.0;

/// What came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Amount {
    /// Directory entries.
    pub(crate) names: u64,
    /// How far the bucket's vector moved, in changes of all segments.
    pub(crate) changes: u64,
    /// Bytes of chunks before compression.
    pub(crate) bytes: u64,
}

/// How much of it a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Names a second.
    pub names_per_second: f64,
    /// Bytes of data a second, before compression.
    pub bytes_per_second: f64,
    /// Changes a second, as version vectors count them.
    pub(crate) changes_per_second: f64,
}

/// Amounts by the second in which they came, the last few of them.
#[derive(Debug, Default)]
struct Meter(VecDeque<(u64, Amount)>);

impl Meter {
    fn add(&mut self, second: u64, amount: Amount) {
        match self.0.back_mut() {
            Some((last, sum)) if *last >= second => {
                sum.names += amount.names;
                sum.changes += amount.changes;
                sum.bytes += amount.bytes;
            }
            _ => self.0.push_back((second, amount)),
        }
        self.forget(second);
    }

    fn forget(&mut self, second: u64) {
        while self.0.front().is_some_and(|(first, _)| first + WINDOW_S <= second) {
            self.0.pop_front();
        }
    }

    /// The rate at `now_s`; `None`: nothing came lately, or all of it just now.
    fn rate(&mut self, now_s: f64) -> Option<Rate> {
        self.forget(now_s as u64);
        let (first, _) = self.0.front()?;
        let took = now_s - *first as f64;
        if took < KNOWN_S_MIN {
            return None;
        }
        let per_second =
            |of: fn(&Amount) -> u64| self.0.iter().map(|(_, amount)| of(amount)).sum::<u64>() as f64 / took;
        Some(Rate {
            names_per_second: per_second(|amount| amount.names),
            bytes_per_second: per_second(|amount| amount.bytes),
            changes_per_second: per_second(|amount| amount.changes),
        })
    }
}

/// All meters.
pub(crate) struct Rates {
    started: Instant,
    meters: Mutex<HashMap<(BucketId, SegmentId), Meter>>,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { started: Instant::now(), meters: Mutex::default() }
    }
}

impl Rates {
    /// Something of a bucket came from a peer.
    pub(crate) fn add(&self, bucket: BucketId, peer: SegmentId, amount: Amount) {
        let second = self.started.elapsed().as_secs();
        self.meters.lock().entry((bucket, peer)).or_default().add(second, amount);
    }

    /// How fast a bucket comes from a peer; `None`: it does not, as far as the last seconds tell.
    pub(crate) fn rate(&self, bucket: BucketId, peer: SegmentId) -> Option<Rate> {
        let now_s = self.started.elapsed().as_secs_f64();
        let mut meters = self.meters.lock();
        let meter = meters.get_mut(&(bucket, peer))?;
        let rate = meter.rate(now_s);
        if meter.0.is_empty() {
            meters.remove(&(bucket, peer));
        }
        rate
    }
}

/// How long `left` takes at `per_second`; `None`: nothing is left, or it does not move.
pub(crate) fn time_left(left: u64, per_second: f64) -> Option<Duration> {
    if left == 0 || per_second <= 0.0 {
        return None;
    }
    Duration::try_from_secs_f64(left as f64 / per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: u64) -> Amount {
        Amount { bytes, ..Amount::default() }
    }

    #[test]
    fn a_rate_is_over_the_last_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(0.0), None);
        meter.add(0, bytes(1000));
        assert_eq!(meter.rate(0.5), None, "one burst is no rate");
        meter.add(1, Amount { names: 4, changes: 8, bytes: 3000 });
        let rate = meter.rate(2.0).unwrap();
        assert_eq!((rate.names_per_second, rate.changes_per_second, rate.bytes_per_second), (2.0, 4.0, 2000.0));
        // It falls when nothing comes, and is forgotten.
        assert_eq!(meter.rate(10.0).unwrap().bytes_per_second, 400.0);
        for second in 10..100 {
            meter.add(second, bytes(500));
        }
        assert!(meter.0.len() <= WINDOW_S as usize);
        assert_eq!(meter.rate(100.0).unwrap().bytes_per_second, 500.0);
        assert_eq!(meter.rate(200.0), None);
        assert!(meter.0.is_empty());
    }

    #[test]
    fn time_is_left_only_where_something_moves() {
        assert_eq!(time_left(1000, 100.0), Some(Duration::from_secs(10)));
        assert_eq!(time_left(0, 100.0), None);
        assert_eq!(time_left(1000, 0.0), None);
        assert_eq!(time_left(u64::MAX, f64::MIN_POSITIVE), None, "beyond all time");
    }
}
