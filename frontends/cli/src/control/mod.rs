//! The control socket: `control.sock` in the data directory, through which commands reach the daemon that has it open.
//!
//! The socket is made under a name of its own, restricted to its owner (mode 0600) and then renamed into place; besides,
//! the daemon serves only processes of its own user and of root. A socket that a killed daemon left behind refuses
//! connections, so commands fall back to opening the directory, and the next daemon replaces it.

mod client;
mod server;

pub(crate) use client::{Client, Connection};
pub(crate) use server::{ControlDoor, ControlMetrics};

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The socket's name in the data directory.
const SOCKET_NAME: &str = "control.sock";
/// Socket addresses hold 108 bytes on Linux and 104 on macOS, the closing zero included; the longest name that is ever
/// made in the directory must fit too.
const PATH_BYTES_MAX: usize = 80;

/// The data directory as socket addresses can name it, however long its path is.
struct ShortDirectory {
    path: PathBuf,
    /// Keeps `/proc/self/fd/N` alive.
    _handle: Option<OwnedFd>,
}

impl ShortDirectory {
    fn open(dir: &Path) -> std::io::Result<ShortDirectory> {
        if dir.as_os_str().len() <= PATH_BYTES_MAX || !cfg!(target_os = "linux") {
            return Ok(ShortDirectory { path: dir.to_path_buf(), _handle: None });
        }
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(dir, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        Ok(ShortDirectory { path, _handle: Some(handle) })
    }

    fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }
}
