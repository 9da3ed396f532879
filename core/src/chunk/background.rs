//! The thread that keeps the disk busy while callers compute: it starts write-back of what was appended and seals full packs.
//!
//! Nobody depends on it for correctness: what it has not done by then is done by the next sync or the next open.

use super::open_pack::OpenPack;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// Work on a pack.
pub(super) enum Task {
    /// Sync what was appended.
    Flush(Arc<OpenPack>),
    /// Write the index.
    Seal(Arc<OpenPack>),
}

/// Tasks in order, and the bell that wakes the thread.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    is_closed: bool,
}

impl Queue {
    /// Adds a task. A flush is left out if one of the same pack is waiting already.
    pub(super) fn push(&self, task: Task) {
        let mut state = self.state.lock();
        if let Task::Flush(pack) = &task {
            let is_same = |other: &Task| matches!(other, Task::Flush(queued) if Arc::ptr_eq(queued, pack));
            if state.tasks.iter().any(is_same) {
                return;
            }
        }
        state.tasks.push_back(task);
        self.bell.notify_one();
    }

    /// Waits for a task; `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            match state.tasks.pop_front() {
                Some(task) => return Some(task),
                None => self.bell.wait(&mut state),
            }
        }
    }

    /// Ends the thread after the task at hand; tasks that wait are dropped.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.tasks.clear();
        self.bell.notify_all();
    }
}
