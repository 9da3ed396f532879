//! What a peer has asked and not yet taken the answers to, and the catalog on its way to it: bounded, whatever the peer asks and however slowly it reads.
//!
//! An answer counts until it is written. A peer that has more of them open than any would is let go. Of the catalog, which may be large, one copy at a time waits for the
//! wire: what changes, and who asks, meanwhile, has the next one.

use crate::outbox::Hold;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tombolo_core::{Error, ErrorKind, Result};

/// Questions of one peer whose answers are not written.
pub(crate) const QUESTIONS_MAX: usize = 1024;

/// Short answers that are not written: refusals of what came, and words about keys and promises. Many may be due at once when a link is made.
const REPLIES_MAX: usize = 1 << 16;

/// See the module.
pub(crate) struct Questions {
    open: Arc<Semaphore>,
    replies: Arc<Semaphore>,
    /// Of questions where this segment stands in a bucket: each has an answer, whichever comes first.
    about_buckets: Mutex<VecDeque<Arc<OwnedSemaphorePermit>>>,
    /// Taken while a catalog waits for the wire.
    line: Arc<Semaphore>,
    catalog: Mutex<Catalog>,
}

#[derive(Default)]
struct Catalog {
    /// It has changed since the one that is on its way.
    is_due: bool,
    /// Numbers of the questions that the next one answers.
    asked: Vec<(u64, Hold)>,
}

/// A catalog that is to be sent now.
pub(crate) struct Offer {
    /// Goes with it.
    pub(crate) hold: Hold,
    /// The questions that it answers, each with what goes with the answer.
    pub(crate) asked: Vec<(u64, Hold)>,
}

impl Default for Questions {
    fn default() -> Self {
        Questions {
            open: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            replies: Arc::new(Semaphore::new(REPLIES_MAX)),
            about_buckets: Mutex::default(),
            line: Arc::new(Semaphore::new(1)),
            catalog: Mutex::default(),
        }
    }
}

impl Questions {
    /// The peer asks something. What goes with the answer; `Busy` if it has too much open.
    pub(crate) fn ask(&self) -> Result<Hold> {
        let permit = self.open.clone().try_acquire_owned();
        permit
            .map(|permit| Some(Arc::new(permit)))
            .map_err(|_| Error::new(ErrorKind::Busy, "the other side asks more than it takes the answers to"))
    }

    /// Something short is to be said to what the peer has sent. What goes with it; `Busy` if it does not read what is said.
    pub(crate) fn reply(&self) -> Result<Hold> {
        let permit = self.replies.clone().try_acquire_owned();
        permit
            .map(|permit| Some(Arc::new(permit)))
            .map_err(|_| Error::new(ErrorKind::Busy, "the other side sends more than it reads the answers to"))
    }

    /// It asks where this segment stands in a bucket.
    pub(crate) fn ask_about_bucket(&self) -> Result<()> {
        let hold = self.ask()?;
        self.about_buckets.lock().extend(hold);
        Ok(())
    }

    /// What goes with an answer to that.
    pub(crate) fn answer_about_bucket(&self) -> Hold {
        self.about_buckets.lock().pop_front()
    }

    /// It asks for the catalog.
    pub(crate) fn ask_for_catalog(&self, nonce: u64) -> Result<()> {
        let hold = self.ask()?;
        self.catalog.lock().asked.push((nonce, hold));
        Ok(())
    }

    /// The catalog is to be sent; `None`: not before the one that waits for the wire is written.
    pub(crate) fn offer(&self) -> Option<Offer> {
        let mut catalog = self.catalog.lock();
        let permit = self.line.clone().try_acquire_owned();
        catalog.is_due = permit.is_err();
        let hold = Some(Arc::new(permit.ok()?));
        Some(Offer { hold, asked: std::mem::take(&mut catalog.asked) })
    }

    /// Waits until the catalog that was to be sent is written, or can't be any more. Returns whether another is due.
    pub(crate) async fn written(&self) -> bool {
        // The line is never closed.
        drop(self.line.acquire().await);
        let catalog = self.catalog.lock();
        catalog.is_due || !catalog.asked.is_empty()
    }
}
