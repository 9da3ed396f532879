//! [`HybridClock`]: stamp times that always go forward and stay close to real time where clocks allow it.

/// A hybrid logical clock. A time is unix milliseconds shifted left by 16, plus a counter that carries into the milliseconds.
///
/// Two things must hold whatever wall clocks do: a segment's times strictly increase, and a change made after seeing another
/// has the higher time. The second is why [`HybridClock::observe`] follows a remote time as far ahead as any clock may be: if the distance were
/// limited, a write made here over one from a segment with a fast clock could lose to what it was made after. The price is that one clock that is far
/// ahead takes every segment's stamps with it until real time catches up. Order stays right, and nothing but order is read from stamps
/// (files' times come from the wall clock). [`HybridClock::ahead_ms`] is there for a status page to complain.
///
/// Ceilings keep the counter from running out: wall clocks are believed up to [`HybridClock::WALL_TIME_MAX`], links refuse changes
/// above [`HybridClock::REMOTE_TIME_MAX`], and [`Stamp::TIME_MAX`](super::Stamp::TIME_MAX) is 2^61 changes above that.
///
/// After a restart, seed it with the highest time that was persisted, own or merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HybridClock {
    last: u64,
}

impl HybridClock {
    /// The latest wall-clock reading that is believed: the year 4199.
    pub const WALL_TIME_MAX: u64 = 1 << 62;
    /// The highest time to accept from another segment; a delta with a higher one is invalid.
    pub const REMOTE_TIME_MAX: u64 = (1 << 62) + (1 << 61);
    /// What is merged moves the clock up to here at most, so that it never gives out what others refuse.
    pub const OBSERVED_TIME_MAX: u64 = Self::WALL_TIME_MAX + (1 << 60);

    /// Continues after `last`, the highest time given out or observed so far (0 for a new segment).
    pub const fn seeded(last: u64) -> HybridClock {
        HybridClock { last }
    }

    /// The highest time given out or observed.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The wall clock's reading in a time, in nanoseconds, to the millisecond; later where the clock had to run ahead.
    pub fn wall_ns(time: u64) -> i64 {
        i64::try_from(time >> 16).unwrap_or(i64::MAX).saturating_mul(1_000_000)
    }

    /// The next time: the wall clock's, or one above the last if the wall clock stands still or has stepped back.
    /// `now_ns` counts from the Unix epoch.
    pub fn next(&mut self, now_ns: i64) -> u64 {
        self.reserve(now_ns, 1)
    }

    /// The first of `count` consecutive times, all of them now taken.
    pub fn reserve(&mut self, now_ns: i64, count: u64) -> u64 {
        let first = wall_time(now_ns).max(self.last.saturating_add(1));
        self.last = first.saturating_add(count.saturating_sub(1));
        first
    }

    /// Sees the time of a merged change: all later times here are higher.
    /// But not higher than any clock can have come to honestly: one write with the highest time there is would end all others.
    pub fn observe(&mut self, remote: u64) {
        self.last = self.last.max(remote.min(HybridClock::OBSERVED_TIME_MAX));
    }

    /// How many milliseconds the clock runs ahead of `now_ns`, because some clock was ahead or this one has stepped back.
    pub fn ahead_ms(&self, now_ns: i64) -> u64 {
        (self.last >> 16).saturating_sub(wall_time(now_ns) >> 16)
    }
}

fn wall_time(now_ns: i64) -> u64 {
    let ms = u64::try_from(now_ns / 1_000_000).unwrap_or(0);
    ms.saturating_mul(1 << 16).min(HybridClock::WALL_TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_strictly_increase(steps in prop::collection::vec((any::<i64>(), 1u64..100, any::<bool>(), 0..=HybridClock::OBSERVED_TIME_MAX), 1..50)) {
            let mut clock = HybridClock::default();
            for (now, count, restart, remote) in steps {
                let before = clock.last();
                let first = clock.reserve(now, count);
                prop_assert!(first > before);
                prop_assert_eq!(clock.last(), first + count - 1);
                clock.observe(remote);
                prop_assert!(clock.next(now) > remote);
                if restart {
                    clock = HybridClock::seeded(clock.last());
                }
                prop_assert!(clock.last() <= HybridClock::REMOTE_TIME_MAX, "others would refuse it");
            }
        }
    }

    #[test]
    fn follows_the_wall_clock_and_does_not_step_back() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.next(5_000_000), 5 << 16);
        assert_eq!(clock.next(5_999_999), (5 << 16) + 1);
        assert_eq!(clock.next(7_000_000), 7 << 16);
        assert_eq!(clock.next(-1), (7 << 16) + 1);
        assert_eq!(clock.ahead_ms(5_000_000), 2);
        assert_eq!(clock.ahead_ms(9_000_000), 0);
    }
}
