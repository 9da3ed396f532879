//! POSIX record locks. They are the segment's, so every door sees them.
//!
//! The crate below has no way to hear that a caller who waits was interrupted, and the kernel lets nobody leave a call that the door holds. So
//! the door looks after the callers that wait itself.

use crate::caller::{Who, is_interrupted};
use crate::data::OpenHandle;
use crate::door::{Door, EBADF, EINTR, EINVAL, Outcome, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tombolo_core::ErrorKind;
use tombolo_core::engine::fs::{HeldLock, LockMode, LockOwner};

const F_RDLCK: i32 = 0;
const F_WRLCK: i32 = 1;
const F_UNLCK: i32 = 2;
const EAGAIN: i32 = 11;
/// How often the door looks whether a waiting caller wants to leave.
const LOOK: Duration = Duration::from_millis(100);

/// A lock as the kernel describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described {
    pub(crate) owner: u64,
    pub(crate) start: u64,
    /// The last byte.
    pub(crate) end: u64,
    pub(crate) kind: i32,
    pub(crate) process: u32,
}

impl OpenHandle {
    /// Gives up what was locked through it.
    pub(crate) fn release_locks(&self) {
        for owner in std::mem::take(&mut *self.lockers.lock()) {
            self.files.locks().release(&self.node, owner);
        }
    }
}

impl Door {
    /// The kernel's name for a lock's owner, told apart from those of other doors.
    pub(crate) fn lock_owner(&self, owner: u64) -> LockOwner {
        owner ^ u64::from(self.origin).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn locked(&self, handle: u64) -> Outcome<Arc<OpenHandle>> {
        self.files.get(handle).ok_or(Refusal(EBADF))
    }

    fn wanted(&self, described: &Described) -> Outcome<HeldLock> {
        let mode = match described.kind {
            F_RDLCK => LockMode::Shared,
            F_WRLCK => LockMode::Exclusive,
            _ => return Err(Refusal(EINVAL)),
        };
        let range = described.start..described.end.saturating_add(1);
        Ok(HeldLock { owner: self.lock_owner(described.owner), process: described.process, mode, range })
    }

    /// Who is in the way of a lock; of kind `F_UNLCK`: nobody.
    pub(crate) fn test_lock(&self, handle: u64, described: Described) -> Outcome<Described> {
        let open = self.locked(handle)?;
        Ok(match open.files.locks().test(&open.node, &self.wanted(&described)?) {
            None => Described { kind: F_UNLCK, ..described },
            Some(held) => Described {
                owner: held.owner,
                // The kernel knows no offset behind this.
                start: held.range.start.min(i64::MAX as u64),
                end: held.range.end.saturating_sub(1).min(i64::MAX as u64),
                kind: if held.mode == LockMode::Shared { F_RDLCK } else { F_WRLCK },
                process: held.process,
            },
        })
    }

    pub(crate) async fn set_lock(&self, who: Who, handle: u64, described: Described, waits: bool) -> Outcome<()> {
        let open = self.locked(handle)?;
        let locks = open.files.locks();
        let owner = self.lock_owner(described.owner);
        if described.kind == F_UNLCK {
            let range = described.start..described.end.saturating_add(1);
            return Ok(locks.unlock(&open.node, owner, range)?);
        }
        open.lockers.lock().insert(owner);
        let taking = locks.lock(&open.node, self.wanted(&described)?, waits);
        tokio::pin!(taking);
        loop {
            match tokio::time::timeout(LOOK, taking.as_mut()).await {
                Ok(Err(error)) if error.kind() == ErrorKind::Busy => return Err(Refusal(EAGAIN)),
                Ok(taken) => {
                    if self.is_cut_off() {
                        // It may have been taken after the others were given up.
                        locks.release(&open.node, owner);
                    }
                    return Ok(taken?);
                }
                Err(_) if self.is_cut_off() || is_interrupted(who.thread) => return Err(Refusal(EINTR)),
                Err(_) => {}
            }
        }
    }
}
