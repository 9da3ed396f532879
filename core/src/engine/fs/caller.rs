//! Who calls, and what they may do: the one permission function of all doors.

use super::FileAttributes;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::object::FileType;

/// Set-user-id.
pub(super) const SET_UID: u32 = 0o4000;
/// Set-group-id; of a directory: what is made in it belongs to its group.
pub(super) const SET_GID: u32 = 0o2000;
/// Of a directory: entries are their owners'.
pub(super) const STICKY: u32 = 0o1000;
/// The group may run it.
pub(super) const GROUP_EXECUTE: u32 = 0o010;

/// The credentials of a request, as the door believes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A set of things one may do with a node: the bits of `access(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Read a file, list a directory.
    pub read: bool,
    /// Write a file, change a directory's entries.
    pub write: bool,
    /// Run a file, pass through a directory.
    pub execute: bool,
}

impl Access {
    /// To list a directory, or read a file.
    pub const READ: Access = Access { read: true, write: false, execute: false };
    /// To pass through a directory.
    pub const EXECUTE: Access = Access { read: false, write: false, execute: true };
    /// To change the entries of a directory.
    pub const CHANGE: Access = Access { read: false, write: true, execute: true };

    pub(super) fn of_bits(bits: u32) -> Access {
        Access { read: bits & 4 != 0, write: bits & 2 != 0, execute: bits & 1 != 0 }
    }

    pub(super) fn and(self, other: Access) -> Access {
        Access {
            read: self.read && other.read,
            write: self.write && other.write,
            execute: self.execute && other.execute,
        }
    }
}

impl Caller {
    /// May do everything.
    pub fn root() -> Caller {
        Caller { uid: 0, gid: 0, groups: Vec::new() }
    }

    /// Whether the caller belongs to group `gid`.
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the caller may do what only a node's owner may.
    pub fn owns(&self, node: &FileAttributes) -> bool {
        self.uid == 0 || self.uid == node.uid
    }

    /// Which of `wanted` the caller may do, each for itself.
    pub fn granted(&self, node: &FileAttributes, wanted: Access) -> Access {
        let write = Access { read: false, write: true, execute: false };
        Access {
            read: wanted.read && self.may(node, Access::READ),
            write: wanted.write && self.may(node, write),
            execute: wanted.execute && self.may(node, Access::EXECUTE),
        }
    }

    /// Whether the mode of `node`, and its access control list if it has one, let the caller do all of `wanted`. Root reads and writes everything, and
    /// runs what anybody may run.
    pub fn may(&self, node: &FileAttributes, wanted: Access) -> bool {
        let class = |bits: u32| wanted.and(Access::of_bits(bits)) == wanted;
        if self.uid == 0 {
            return !wanted.execute || node.file_type == FileType::Directory || node.mode & 0o111 != 0;
        }
        if self.uid == node.uid {
            return class(node.mode >> 6);
        }
        match &node.access_list {
            Some(list) => list.lets(self, node.gid, node.mode >> 3, wanted).unwrap_or_else(|| class(node.mode)),
            None if self.is_in(node.gid) => class(node.mode >> 3),
            None => class(node.mode),
        }
    }

    /// Refuses unless all of `wanted` is granted.
    pub(super) fn must(&self, node: &FileAttributes, wanted: Access) -> Result<()> {
        if self.may(node, wanted) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "the mode does not let this caller do that"))
    }

    /// Refuses whoever is neither the owner nor root.
    pub(super) fn must_own(&self, node: &FileAttributes) -> Result<()> {
        if self.owns(node) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "only the owner, or root, may do that").about(Subject::Owner))
    }

    /// Refuses who may not take `entry` out of `directory`, or put something in its place: the directory's mode, and its sticky bit.
    pub(super) fn must_take(&self, directory: &FileAttributes, entry: &FileAttributes) -> Result<()> {
        self.must(directory, Access::CHANGE)?;
        if directory.mode & STICKY != 0 && !self.owns(directory) && !self.owns(entry) {
            let message = "the directory is sticky, and what is in it belongs to others";
            return Err(Error::new(ErrorKind::Denied, message).about(Subject::Owner));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn node(mode: u32, uid: u32, gid: u32) -> FileAttributes {
        FileAttributes {
            node: NodeId::ROOT,
            file_id: 1,
            file_type: FileType::Regular,
            mode,
            links: 1,
            uid,
            gid,
            size: 0,
            allocated_bytes: 0,
            rdev: 0,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            access_list: None,
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let all = Access { read: true, write: true, execute: true };
        let caller = Caller { uid: 10, gid: 20, groups: vec![30] };
        for (mode, uid, gid, expected) in [
            (0o077, 10, 20, ""),
            (0o700, 10, 99, "rwx"),
            (0o040, 99, 20, "r"),
            (0o020, 99, 30, "w"),
            (0o707, 99, 30, ""),
            (0o001, 99, 99, "x"),
        ] {
            let got = caller.granted(&node(mode, uid, gid), all);
            let text: String = [(got.read, 'r'), (got.write, 'w'), (got.execute, 'x')]
                .iter()
                .filter_map(|(is, c)| is.then_some(*c))
                .collect();
            assert_eq!(text, expected, "{mode:o} {uid} {gid}");
        }
        let root = Caller::root();
        assert_eq!(root.granted(&node(0o000, 1, 1), all), Access { read: true, write: true, execute: false });
        assert_eq!(root.granted(&node(0o001, 1, 1), all), all);
    }
}
