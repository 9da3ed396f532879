//! One process owns a data directory.

use crate::error::{Error, ErrorKind, Result, Subject};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// The lock of a data directory, held until dropped. The kernel lets go of it when the process ends, however it ends.
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirectoryLock {
    /// Takes the lock; [`ErrorKind::Busy`] names the process that has it.
    pub(crate) fn take(dir: &Path) -> Result<DirectoryLock> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(format!("the lock file {} can't be opened", path.display()), e))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut owner = String::new();
            // A file that can't be read only makes the message poorer.
            let _ = file.read_to_string(&mut owner);
            let owner = if owner.trim().is_empty() { "another process".to_owned() } else { owner.trim().to_owned() };
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the data directory {} is in use by {owner}", dir.display()),
            )
            .about(Subject::Segment));
        }
        let program = std::env::args()
            .take(2)
            .map(|a| a.rsplit('/').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
            .join(" ");
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "process {} ({program})", std::process::id()));
        written.map_err(|e| Error::io(format!("the lock file {} can't be written", path.display()), e))?;
        Ok(DirectoryLock(file))
    }
}
