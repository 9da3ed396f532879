//! Memory for contents on their way in, which all writers of a segment share.
//!
//! A writer takes it as bytes arrive; it comes back as their chunks are stored. Who waits for memory holds none that only it can let go but for the chunk that is
//! not complete, and after [`PATIENCE`] not even that: it is cut short. From then on, until there is memory, whoever waits for its client cuts its chunk short
//! as well. So someone can always go on, however many clients stand still.

use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Granularity, in bytes.
const PERMIT_BYTES: usize = 4 << 10;
/// The least there is, in bytes: more than one writer ever takes at a time, which is two blocks and the longest chunk.
const BYTES_MIN: usize = 8 << 20;
/// How long a writer waits for memory before chunks are cut short for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct WriteBudget {
    permits: Arc<Semaphore>,
    permits_max: usize,
    /// How many writers have lost their patience and wait still.
    starving: watch::Sender<usize>,
}

/// How many permits stand for so many bytes.
pub(super) fn permits_of(bytes: usize) -> usize {
    bytes.div_ceil(PERMIT_BYTES)
}

impl WriteBudget {
    pub(super) fn new(bytes: usize) -> WriteBudget {
        let permits_max = permits_of(bytes.max(BYTES_MIN)).min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        WriteBudget { permits: Arc::new(Semaphore::new(permits_max)), permits_max, starving: watch::Sender::new(0) }
    }

    /// Takes `permits` if they are left, and nobody waits.
    pub(super) fn try_take(&self, permits: usize) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_many_owned(u32::try_from(permits).ok()?).ok()
    }

    /// Waits for `permits`, first come, first served.
    pub(super) async fn take(&self, permits: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(permits.min(self.permits_max)).unwrap_or(u32::MAX);
        let taken = self.permits.clone().acquire_many_owned(permits).await;
        taken.map_err(|e| Error::new(ErrorKind::Failed, "the segment is closed").because(e))
    }

    /// Whether so little is left that nobody should gather more than it must.
    pub(super) fn is_tight(&self) -> bool {
        self.permits.available_permits() < self.permits_max / 4
    }

    /// [`WriteBudget::take`] for one that has waited long enough.
    pub(super) async fn take_from_idle(&self, permits: usize) -> Result<OwnedSemaphorePermit> {
        self.starving.send_modify(|count| *count += 1);
        let _starving = Starving(&self.starving);
        self.take(permits).await
    }

    /// Waits until someone has waited for memory for long.
    pub(super) async fn wanted(&self) {
        let mut starving = self.starving.subscribe();
        // The sender is here, so it can't have gone.
        let _ = starving.wait_for(|count| *count > 0).await;
    }

    /// What is taken now, in permits.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.permits_max - self.permits.available_permits()
    }
}

struct Starving<'a>(&'a watch::Sender<usize>);

impl Drop for Starving<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
