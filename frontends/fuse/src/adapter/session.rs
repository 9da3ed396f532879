//! The session: mounting, and telling the kernel what to forget.

use super::Adapter;
use crate::caches::Stale;
use crate::door::Door;
use fuser::{BackgroundSession, Config, INodeNo, MountOption, SessionACL};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// What runs while it is mounted.
pub(crate) struct Session(BackgroundSession);

impl Session {
    /// Waits for its end.
    pub(crate) fn join(self) -> std::io::Result<()> {
        self.0.umount_and_join()
    }
}

/// Mounts, and starts answering.
pub(crate) fn mount(
    door: Arc<Door>,
    point: &Path,
    runtime: Handle,
    end: watch::Sender<bool>,
    stale: mpsc::Receiver<Stale>,
) -> std::io::Result<Session> {
    let options = &door.options;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(options.fs_name.clone()), MountOption::DefaultPermissions];
    config.mount_options.extend(options.subtype.clone().map(MountOption::Subtype));
    config.mount_options.push(if options.read_only { MountOption::RO } else { MountOption::RW });
    config.mount_options.extend(options.flags.iter().map(|flag| flag_of(flag)));
    let is_root = rustix::process::geteuid().is_root();
    config.acl = if options.allow_other || is_root { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.clone_fd = options.threads > 1;
    let session = fuser::Session::new(Adapter { door: door.clone(), runtime, end }, point, &config)?.spawn()?;
    let notifier = session.notifier();
    door.hands_over_by(Box::new(move |number| {
        if let Err(error) = notifier.inval_inode(INodeNo(number), 0, -1) {
            tracing::debug!(number, %error, "the kernel keeps what it has");
        }
    }));
    let notifier = session.notifier();
    std::thread::Builder::new().name("fuse-caches".into()).spawn(move || tell(&notifier, stale))?;
    Ok(Session(session))
}

fn flag_of(flag: &str) -> MountOption {
    match flag {
        "dev" => MountOption::Dev,
        "nodev" => MountOption::NoDev,
        "suid" => MountOption::Suid,
        "nosuid" => MountOption::NoSuid,
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "atime" => MountOption::Atime,
        "noatime" => MountOption::NoAtime,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        "dirsync" => MountOption::DirSync,
        other => MountOption::CUSTOM(other.to_owned()),
    }
}

/// Tells the kernel what to forget, until the door is closed.
fn tell(notifier: &fuser::Notifier, mut stale: mpsc::Receiver<Stale>) {
    while let Some(stale) = stale.blocking_recv() {
        let told = match &stale {
            Stale::Name(parent, name) => notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name)),
            Stale::Inode(number) => notifier.inval_inode(INodeNo(*number), 0, -1),
            Stale::Part(number, range) => {
                let (offset, length) = as_told(range);
                notifier.inval_inode(INodeNo(*number), offset, length)
            }
        };
        if let Err(error) = told {
            // Unmounted, or the name is a directory that is in use: it stays until its timeout.
            tracing::debug!(?stale, %error, "the kernel keeps what it has");
        }
    }
}

/// A range of bytes as the kernel takes it: a negative offset for attributes alone, a negative length for all that follows.
fn as_told(range: &Range<u64>) -> (i64, i64) {
    let offset = i64::try_from(range.start).unwrap_or(i64::MAX);
    match i64::try_from(range.end) {
        _ if range.is_empty() => (-1, 0),
        Ok(end) => (offset, end - offset),
        Err(_) => (offset, -1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_as_the_kernel_takes_them() {
        assert_eq!(as_told(&(4096..10_000)), (4096, 5904));
        assert_eq!(as_told(&(7..u64::MAX)), (7, -1));
        assert_eq!(as_told(&(0..0)), (-1, 0));
    }
}
