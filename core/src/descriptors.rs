//! How many files the process may have open, and who may have how many of them.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Where the system sets no limit, or a very high one.
const LIMIT_MAX: u64 = 1 << 20;
/// What a store takes at least, whatever is left for others.
const SHARE_MIN: u64 = 16;

/// Lets the process have as many files open as the system allows it: for programs, at their start. Packs and tables that are open already are read fastest, and each connection
/// is a file, too; the usual soft limit of 1,024 is for programs that use `select`.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(LIMIT_MAX, |maximum| maximum.min(LIMIT_MAX));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// One part of `parts` of the files that the process may have open, at most `most`.
pub(crate) fn descriptor_share(parts: u64, most: usize) -> usize {
    share(getrlimit(Resource::Nofile).current.unwrap_or(LIMIT_MAX), parts, most)
}

fn share(limit: u64, parts: u64, most: usize) -> usize {
    usize::try_from((limit / parts).max(SHARE_MIN)).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_leave_room_for_others() {
        // Packs that are kept, pinned and cached, and tables.
        let all = |limit| share(limit, 4, 1024) + 2 * share(limit, 16, 256) + share(limit, 4, 900);
        assert_eq!(all(1024), 256 + 2 * 64 + 256);
        assert_eq!(all(1 << 20), 1024 + 2 * 256 + 900);
        for limit in [256, 1024, 4096, 65_536] {
            assert!(all(limit) as u64 <= limit * 2 / 3, "{limit}");
        }
    }
}
