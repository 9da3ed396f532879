//! Times, between the engine's nanoseconds and the system's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn to_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

pub(crate) fn from_time(time: SystemTime) -> i64 {
    let ns = |distance: Duration| i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -ns(before.duration()), ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_survive() {
        for ns in [0, 1, -1, -1_500_000_000, 1_700_000_000_123_456_789, i64::MAX, i64::MIN + 1] {
            assert_eq!(from_time(to_time(ns)), ns);
        }
    }
}
