//! The memory that calls and their replies take while they are under way: a share for each connection, inside a budget for all.
//!
//! Whoever waits for the budget of all holds none of it, or holds it with a deadline: so nobody waits for ever, and a connection whose client takes
//! no replies is in its own way alone.

use crate::connection::DATA_BYTES_MAX;
use crate::{mount, procedures};
use nfsserve::nfs;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is counted in these, in bytes.
const UNIT: usize = 4096;
/// The least that a connection can do with: a call of the longest kind, in fragments as odd as they may be, or its reply.
const SHARE_UNITS_MIN: usize = 512;
/// The least of all connections together.
const UNITS_MIN: usize = 1024;

/// Memory in use; given back when it is dropped.
pub(crate) struct Taken {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Taken {
    /// Both.
    pub(crate) fn merge(&mut self, other: Taken) {
        self.own.merge(other.own);
        self.all.merge(other.all);
    }
}

/// What there is for all connections.
pub(crate) struct Budget {
    all: Arc<Semaphore>,
    share_units: usize,
}

impl Budget {
    /// `bytes` for all connections, of which one has at most `share_bytes`.
    pub(crate) fn new(bytes: usize, share_bytes: usize) -> Budget {
        let units = (bytes / UNIT).clamp(UNITS_MIN, Semaphore::MAX_PERMITS);
        let share_units = (share_bytes / UNIT).clamp(SHARE_UNITS_MIN, units);
        Budget { all: Arc::new(Semaphore::new(units)), share_units }
    }

    /// The share of a new connection.
    pub(crate) fn share(&self) -> Share {
        Share { own: Arc::new(Semaphore::new(self.share_units)), all: self.all.clone() }
    }
}

/// What there is for one connection.
pub(crate) struct Share {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Share {
    /// Waits until there is memory for `bytes`.
    pub(crate) async fn take(&self, bytes: usize) -> Result<Taken> {
        let closed = |_| Error::from(ErrorKind::BrokenPipe);
        let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX);
        // The own share first: who waits for that holds up nobody.
        let own = self.own.clone().acquire_many_owned(units).await.map_err(closed)?;
        let all = self.all.clone().acquire_many_owned(units).await.map_err(closed)?;
        Ok(Taken { own, all })
    }
}

/// What the reply to a call may take beyond a unit, in bytes; 0: it is short. Of what is read and listed the last word of the call says how much is
/// wanted.
pub(crate) fn reply_bytes(record: &[u8]) -> usize {
    let word = |at: usize| Some(u32::from_be_bytes(*record.get(at..)?.first_chunk()?));
    let last = || word(record.len().checked_sub(4)?).map(|count| (count as usize).min(DATA_BYTES_MAX));
    // No such call is longer than that: it will be refused.
    if record.len() > UNIT {
        return 0;
    }
    match (word(12), word(20)) {
        (Some(nfs::PROGRAM), Some(procedures::READ | procedures::READDIR | procedures::READDIRPLUS)) => {
            last().unwrap_or_default()
        }
        (Some(mount::PROGRAM), Some(mount::DUMP | mount::EXPORT)) => DATA_BYTES_MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_all_that_one_connection_gets_and_comes_back() {
        let budget = Budget::new(8 << 20, 2 << 20);
        let (greedy, modest) = (budget.share(), budget.share());
        let mut held = greedy.take(1 << 20).await.unwrap();
        held.merge(greedy.take(1 << 20).await.unwrap());
        assert!(futures::FutureExt::now_or_never(greedy.take(1)).is_none(), "no more for this one");
        let other = modest.take(2 << 20).await.unwrap();
        assert_eq!(budget.all.available_permits(), 1024);
        drop((greedy, held));
        assert_eq!(budget.all.available_permits(), 1024 + 512);
        drop(other);
        assert_eq!(budget.all.available_permits(), 2048);
    }

    #[test]
    fn what_a_reply_takes_is_known_from_the_call() {
        let call = |program: u32, procedure: u32, last: u32| {
            [7, 0, 2, program, 3, procedure, 0, 0, 0, 0, last].iter().flat_map(|word| word.to_be_bytes()).collect()
        };
        let bytes = |record: Vec<u8>| reply_bytes(&record);
        assert_eq!(bytes(call(nfs::PROGRAM, 6, 70_000)), 70_000);
        assert_eq!(bytes(call(nfs::PROGRAM, 17, u32::MAX)), DATA_BYTES_MAX);
        assert_eq!(bytes(call(nfs::PROGRAM, 1, 70_000)), 0);
        assert_eq!(bytes(call(mount::PROGRAM, 5, 0)), DATA_BYTES_MAX);
        assert_eq!(bytes(vec![]), 0);
        let mut long: Vec<u8> = call(nfs::PROGRAM, 6, 0);
        long.resize(UNIT + 1, 0xff);
        assert_eq!(bytes(long), 0);
    }
}
