//! Who calls, and what they may do: the one permission function of all doors.

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

impl Caller {
    /// May do everything.
    pub fn root() -> Caller {
        Caller { uid: 0, gid: 0, groups: Vec::new() }
    }
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
