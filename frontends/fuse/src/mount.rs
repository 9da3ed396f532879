//! Mounting and unmounting.

use crate::adapter::{self, Session};
use crate::caches::Follower;
use crate::door::Door;
use crate::options::MountOptions;
use crate::target::MountPath;
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tombolo_core::{Error, ErrorKind, Result, Segment};

/// How long an unmount waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// A mounted file system, answered for until it is unmounted.
///
/// Dropping it without [`Mount::unmount`] unmounts, too, as far as that goes without waiting.
pub struct Mount {
    point: PathBuf,
    session: Mutex<Option<Session>>,
    ended: watch::Receiver<bool>,
}

impl Mount {
    /// Mounts what `path` names on the directory `point`. What a killed process left mounted there is replaced.
    ///
    /// Must be called on a runtime that lives as long as the mount.
    ///
    /// # Errors
    /// `NotFound`: there is no such bucket or directory, or no `point`. `Denied`: this user may not mount. `Failed`: the system refuses.
    pub async fn new(
        segment: Segment,
        path: &MountPath,
        point: impl AsRef<Path>,
        options: MountOptions,
    ) -> Result<Mount> {
        let point = point.as_ref();
        if is_stale(point) {
            tracing::info!(point = %point.display(), "replacing what a process that is gone left mounted");
            detach(point)?;
        }
        let point = point
            .canonicalize()
            .map_err(|error| Error::io(format!("the mount point {} can't be used", point.display()), error))?;
        let runtime = Handle::current();
        let (follower, stale) = Follower::new(runtime.clone());
        let door = Door::open(segment, path, options, follower).await?;
        let (end, ended) = watch::channel(false);
        let shown = point.clone();
        let session = tokio::task::spawn_blocking(move || adapter::mount(door, &shown, runtime, end, stale))
            .await
            .map_err(|error| Error::new(ErrorKind::Failed, "mounting broke off").because(error))?
            .map_err(|error| Error::io(format!("cannot mount on {}", point.display()), error))?;
        Ok(Mount { point, session: Mutex::new(Some(session)), ended })
    }

    /// Where.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Returns when it is unmounted, by whomever.
    pub async fn ended(&self) {
        // An error is the session's end as well.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Unmounts: what is dirty in the kernel is handed over first. If it is in use it vanishes from the tree at once, and from under those who
    /// use it a little later.
    ///
    /// # Errors
    /// `Failed`: the system refuses.
    pub async fn unmount(&self) -> Result<()> {
        let Some(session) = self.session.lock().take() else { return Ok(()) };
        if !*self.ended.borrow() {
            let point = self.point.clone();
            let unmounted = tokio::task::spawn_blocking(move || unmount(&point)).await;
            unmounted.map_err(|error| Error::new(ErrorKind::Failed, "unmounting broke off").because(error))??;
            if tokio::time::timeout(DRAIN, self.ended()).await.is_err() {
                tracing::warn!(point = %self.point.display(), "still in use; those who use it are cut off");
            }
        }
        if *self.ended.borrow() {
            // It ends without waiting. What is not mounted any more can't be unmounted once more.
            match session.join() {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
                other => other.map_err(|error| Error::io("the mount's requests can't be read", error))?,
            }
        }
        Ok(())
    }
}

/// Unmounts `point`: if it is in use, lazily. Dirty pages are written back first where that can be waited for.
///
/// # Errors
/// `Failed` or `Denied`: the system refuses, as when nothing is mounted there.
pub fn unmount(point: &Path) -> Result<()> {
    // A detached mount is written back at its end only, which may come after the process's.
    if let Ok(root) = std::fs::File::open(point) {
        // What can't be written back now was, or will be, told to whoever closes or syncs it.
        let _ = rustix::fs::syncfs(&root);
    }
    match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => by_helper(point),
        Err(_) => detach(point),
    }
}

/// Takes what is mounted on `point` out of the tree.
fn detach(point: &Path) -> Result<()> {
    match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => by_helper(point),
        Err(error) => Err(Error::io(format!("cannot unmount {}", point.display()), error.into())),
    }
}

/// Users unmount through the helper that has the right to.
fn by_helper(point: &Path) -> Result<()> {
    for helper in ["fusermount3", "fusermount"] {
        match Command::new(helper).args(["-u", "-z", "--"]).arg(point).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::new(ErrorKind::Failed, format!("{helper}: {said}")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("{helper} can't be run"), error)),
        }
    }
    Err(Error::new(ErrorKind::Denied, "only root unmounts without fusermount3 (Debian's fuse3)"))
}

/// Whether what is mounted on `point` has nobody left to answer.
pub fn is_stale(point: &Path) -> bool {
    // Attributes may be the kernel's; space is always asked for.
    matches!(rustix::fs::statvfs(point), Err(rustix::io::Errno::NOTCONN))
}
