//! Waiting on a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long [`until`] waits. Far beyond what anything takes, so that only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Returns as soon as `condition` gives something; panics with `what` after [`DEADLINE`].
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "still waiting after {DEADLINE:?}: {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two looks at a condition")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
