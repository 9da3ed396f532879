//! Who makes a request: what the kernel says, and the groups it doesn't say.

use tombolo_core::engine::fs::Caller;
use tombolo_core::{Error, ErrorKind};

pub(crate) const SET_GID: u32 = 0o2000;

/// The caller as the request names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The calling thread; 0 where it is not visible from here.
    pub(crate) thread: u32,
}

impl Who {
    /// Without supplementary groups.
    pub(crate) fn plain(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid, groups: Vec::new() }
    }

    /// With them, as the system tells. Root needs none.
    pub(crate) fn with_groups(&self) -> Caller {
        let groups = if self.uid == 0 { Vec::new() } else { groups_of(self.thread) };
        Caller { groups, ..self.plain() }
    }

    /// Who makes something with this mode: whether a caller is in a group decides what becomes of set-group-id, and no refusal says that one was
    /// missing.
    pub(crate) fn making(&self, mode: u32) -> Caller {
        if mode & SET_GID != 0 { self.with_groups() } else { self.plain() }
    }

    /// Whether a refusal may be for want of a supplementary group.
    pub(crate) fn may_retry(&self, error: &Error) -> bool {
        self.uid != 0 && error.kind() == ErrorKind::Denied
    }
}

/// Makes a call without supplementary groups, which cost a look into `/proc`, and with them if it is refused. The kernel has granted it already, with
/// all of the caller's groups.
macro_rules! as_caller {
    ($who:expr, $caller:ident, $call:expr) => {
        as_caller!($who, $who.plain(), $caller, $call)
    };
    ($who:expr, $first:expr, $caller:ident, $call:expr) => {{
        let $caller = $first;
        match $call {
            Err(error) if $who.may_retry(&error) => {
                let $caller = $who.with_groups();
                $call
            }
            result => result,
        }
    }};
}
pub(crate) use as_caller;

/// Supplementary groups of a thread; none if it is gone.
fn groups_of(thread: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    field(&status, "Groups:")
        .map(|groups| groups.split_whitespace().filter_map(|group| group.parse().ok()).collect())
        .unwrap_or_default()
}

/// Whether a signal waits for a thread that it neither blocks nor ignores: it wants to leave the call it is in.
pub(crate) fn is_interrupted(thread: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else {
        // Gone altogether.
        return thread != 0;
    };
    let mask = |name| field(&status, name).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & !mask("SigIgn:") != 0
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_runs_is_not_interrupted() {
        assert!(!is_interrupted(std::process::id()));
        assert!(is_interrupted(u32::MAX));
        assert!(groups_of(u32::MAX).is_empty());
    }
}
