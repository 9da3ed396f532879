//! Threads that cut, hash, compress and verify, beside the ones that serve the network.

use crate::error::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

/// A fixed number of threads and one queue, first come first served. Who submits bounds how much is queued.
pub(crate) struct Pool {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Pool {
    /// `threads`: 0 for one per core.
    pub(crate) fn new(threads: usize) -> Result<Pool> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let shared = Arc::new((Mutex::new(Queue { jobs: VecDeque::new(), is_closed: false }), Condvar::new()));
        for n in 0..if threads == 0 { cores.max(2) } else { threads } {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("tombolo-work-{n}"))
                .spawn(move || work(&shared))
                .map_err(|e| Error::io("a worker thread could not be started", e))?;
        }
        Ok(Pool { shared })
    }

    /// Queues `job`; the receiver gets its result.
    pub(crate) fn submit<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Who asked may have gone away.
            let _ = done.send(job());
        });
        let (queue, signal) = &*self.shared;
        queue.lock().jobs.push_back(job);
        signal.notify_one();
        result
    }

    /// Runs `job` on the pool and waits for it.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        received(self.submit(job).await)
    }
}

/// A job's result; a job that panicked has none.
pub(crate) fn received<T>(result: Result<T, oneshot::error::RecvError>) -> Result<T> {
    result.map_err(|_| Error::new(ErrorKind::Failed, "a worker thread gave up on its job; this is a bug"))
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (queue, signal) = &*self.shared;
        queue.lock().is_closed = true;
        signal.notify_all();
    }
}

fn work(shared: &(Mutex<Queue>, Condvar)) {
    let (queue, signal) = shared;
    loop {
        let job = {
            let mut queue = queue.lock();
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.is_closed {
                    return;
                }
                signal.wait(&mut queue);
            }
        };
        // A panicking job must not take the thread, and with it every later job, along.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job of the worker pool panicked");
        }
    }
}
