//! Times: nanoseconds in the engine, whole seconds in S3, so that listings, headers and conditions agree.

use s3s::dto::Timestamp;
use time::OffsetDateTime;
use tombolo_core::TimeNs;

const SECOND_NS: i64 = 1_000_000_000;

/// Whole seconds since the Unix epoch.
pub(crate) fn seconds_of(ns: TimeNs) -> i64 {
    ns.div_euclid(SECOND_NS)
}

/// As S3 shows it.
pub(crate) fn timestamp(ns: TimeNs) -> Timestamp {
    OffsetDateTime::from_unix_timestamp(seconds_of(ns)).unwrap_or(OffsetDateTime::UNIX_EPOCH).into()
}

/// As the engine counts it; times that nanoseconds can't hold become the nearest that they can.
pub(crate) fn timestamp_ns(timestamp: &Timestamp) -> TimeNs {
    let time: OffsetDateTime = timestamp.clone().into();
    let ns = time.unix_timestamp_nanos();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_down_on_both_sides_of_the_epoch() {
        assert_eq!(seconds_of(1_999_999_999), 1);
        assert_eq!(seconds_of(-1), -1);
        assert_eq!(timestamp_ns(&timestamp(1_999_999_999)), 1_000_000_000);
        assert_eq!(timestamp_ns(&timestamp(-1)), -1_000_000_000);
    }
}
