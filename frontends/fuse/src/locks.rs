//! POSIX record locks. They are the segment's, so every door sees them.
//!
//! The crate below has no way to hear that a caller who waits was interrupted, and the kernel lets nobody leave a call that the door holds. So
//! the door looks after the callers that wait itself.

use crate::caller::{Who, is_interrupted};
use crate::door::{Door, EBADF, EINTR, EINVAL, Outcome, Refusal};
use std::time::Duration;
use tombolo_core::engine::fs::{FileSystem, HeldLock, LockMode, LockOwner};
use tombolo_core::{ErrorKind, NodeId};

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

impl Door {
    /// The kernel's name for a lock's owner, told apart from those of other doors.
    pub(crate) fn lock_owner(&self, owner: u64) -> LockOwner {
        owner ^ u64::from(self.origin).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn locked(&self, handle: u64) -> Outcome<(FileSystem, NodeId)> {
        let open = self.files.get(handle).ok_or(Refusal(EBADF))?;
        Ok((open.files.clone(), open.node))
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
        let (files, node) = self.locked(handle)?;
        Ok(match files.locks().test(&node, &self.wanted(&described)?) {
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
        let (files, node) = self.locked(handle)?;
        let locks = files.locks();
        if described.kind == F_UNLCK {
            let range = described.start..described.end.saturating_add(1);
            return Ok(locks.unlock(&node, self.lock_owner(described.owner), range)?);
        }
        let wanted = self.wanted(&described)?;
        let taking = locks.lock(&node, wanted, waits);
        tokio::pin!(taking);
        loop {
            match tokio::time::timeout(LOOK, taking.as_mut()).await {
                Ok(Err(error)) if error.kind() == ErrorKind::Busy => return Err(Refusal(EAGAIN)),
                Ok(taken) => return Ok(taken?),
                Err(_) if is_interrupted(who.thread) => return Err(Refusal(EINTR)),
                Err(_) => {}
            }
        }
    }
}
