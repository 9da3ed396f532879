//! What is done at once the first time, and a little later when it comes in a row: so that many times are one.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

pub(crate) struct Pace<K> {
    pause: Duration,
    done: HashMap<K, Instant>,
    due: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Pace<K> {
    /// `pause`: between two times for the same thing.
    pub(crate) fn new(pause: Duration) -> Pace<K> {
        Pace { pause, done: HashMap::new(), due: HashMap::new() }
    }

    /// Whether it is to be done now; else it is due later.
    pub(crate) fn is_now(&mut self, thing: K, now: Instant) -> bool {
        let next = self.done.get(&thing).map(|done| *done + self.pause).filter(|next| *next > now);
        match next {
            Some(next) => drop(self.due.entry(thing).or_insert(next)),
            None => drop(self.done.insert(thing, now)),
        }
        next.is_none()
    }

    /// When something is due.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// What is to be done now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<K> {
        let due: Vec<K> = self.due.iter().filter(|(_, at)| **at <= now).map(|(thing, _)| *thing).collect();
        let pause = self.pause;
        self.done.retain(|_, done| *done + pause > now);
        for thing in &due {
            self.due.remove(thing);
            self.done.insert(*thing, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_a_row_is_done_once_in_a_while() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut pace = Pace::new(ms(5));
        assert!(pace.is_now(1, start) && pace.is_now(2, start));
        assert!(!pace.is_now(1, start + ms(1)) && !pace.is_now(1, start + ms(3)));
        assert_eq!(pace.due_at(), Some(start + ms(5)));
        assert_eq!(pace.take_due(start + ms(4)), [0; 0]);
        assert_eq!(pace.take_due(start + ms(5)), [1]);
        assert_eq!(pace.due_at(), None);
        assert!(!pace.is_now(1, start + ms(9)));
        assert!(pace.is_now(2, start + ms(9)), "it has been quiet");
        assert_eq!(pace.take_due(start + ms(20)), [1]);
        assert!(pace.take_due(start + ms(40)).is_empty() && pace.done.is_empty());
    }
}
