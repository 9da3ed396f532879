//! What is kept of requests: their number, and ids that tell them apart.

use http::StatusCode;
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests were answered, by the class of the answer's status.
#[derive(Debug, Default)]
pub struct S3Counts([AtomicU64; 3]);

impl S3Counts {
    /// Requests that were answered with the class of status that the text names.
    pub fn classes(&self) -> [(&'static str, u64); 3] {
        let [done, refused, failed] = &self.0;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        [("2xx", count(done)), ("4xx", count(refused)), ("5xx", count(failed))]
    }

    /// A redirection, "not modified", is something that was done.
    pub(crate) fn add(&self, status: StatusCode) {
        let [done, refused, failed] = &self.0;
        let of = match status.as_u16() {
            500.. => failed,
            400.. => refused,
            _ => done,
        };
        of.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ids that tell requests apart in logs and answers; not secret.
pub(crate) struct RequestIds {
    seed: u64,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        RequestIds { seed: RandomState::new().build_hasher().finish(), count: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // An odd factor permutes the numbers, so ids don't repeat.
        format!("{:016X}", self.seed ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
