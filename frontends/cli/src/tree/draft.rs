//! Files that appear under their name only when they are whole.

use rustix::process::{Pid, test_kill_process};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Temporary files that nobody has written to for so long are swept, if their process is gone.
const SWEPT_AGE: Duration = Duration::from_secs(24 * 3600);

/// Something under a temporary name beside its place; removed unless published.
pub(crate) struct Draft {
    path: PathBuf,
    is_published: bool,
}

impl Draft {
    /// A free temporary name in the directory of `target`; `make` makes what it names and must fail if it exists.
    pub(crate) fn make<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(Draft, T)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let dir = directory_of(target);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".tombolo-{}-{count}.part", std::process::id()));
            match make(&path) {
                Ok(made) => {
                    return Ok((Draft { path, is_published: false }, made));
                }
                // Left behind by a process that had this number and was killed.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether a file name is a temporary one.
    pub(super) fn is_name(name: &OsStr) -> bool {
        process(name).is_some()
    }

    /// Removes what processes left in `dir` that were killed, a day ago or earlier: the same number may be alive on another host that shares the directory. What can't be looked at or removed is in nobody's way.
    pub(super) fn sweep(dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_left = process(&entry.file_name()).is_some_and(|process| !is_alive(process));
            if is_left && entry.metadata().is_ok_and(|found| !found.is_dir() && is_old(&found)) {
                let removed = std::fs::remove_file(entry.path());
                tracing::debug!(path = %entry.path().display(), ?removed, "a temporary file was left behind");
            }
        }
    }

    /// A new file, to be written.
    pub(crate) fn create_file_beside(target: &Path, mode: u32) -> io::Result<(Draft, File)> {
        Draft::make(target, |path| {
            std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
        })
    }

    /// The temporary path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, replacing a file of that name.
    pub(crate) fn publish(mut self, target: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, target)?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            // A rename onto another name of the same file does nothing, or the file has been moved away.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a temporary file stays behind")
            }
        }
    }
}

fn directory_of(target: &Path) -> &Path {
    match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The process that has, or had, a temporary name.
fn process(name: &OsStr) -> Option<i32> {
    let numbers = name.to_str()?.strip_prefix(".tombolo-")?.strip_suffix(".part")?;
    let (process, count) = numbers.split_once('-')?;
    let are_digits = [process, count].iter().all(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    process.parse().ok().filter(|_| are_digits)
}

/// Whether nothing was written for a day.
fn is_old(found: &std::fs::Metadata) -> bool {
    found.modified().is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age >= SWEPT_AGE))
}

/// Whether there is such a process, whoever owns it.
fn is_alive(process: i32) -> bool {
    Pid::from_raw(process).is_none_or(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A killed export left its temporary files for ever.
    #[test]
    fn only_what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        // Beyond what any system numbers processes with.
        let dead = format!(".tombolo-{}-3.part", i32::MAX);
        let own = format!(".tombolo-{}-7.part", std::process::id());
        let others = [own.as_str(), ".tombolo-x-1.part", ".tombolo-1.part", ".tombolo--1-2.part", "a.part"];
        for name in others.iter().copied().chain([dead.as_str()]) {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        Draft::sweep(dir.path());
        assert!(dir.path().join(&dead).exists(), "it may be another host's");
        crate::tree::attributes::set_modified(&dir.path().join(&dead), 0).unwrap();
        Draft::sweep(dir.path());
        assert!(!dir.path().join(&dead).exists());
        for name in others {
            assert!(dir.path().join(name).exists(), "{name}");
        }
        assert!([&dead, &own].iter().all(|name| Draft::is_name(OsStr::new(name.as_str()))));
        assert!(!others[1..].iter().any(|name| Draft::is_name(OsStr::new(name))));
    }

    #[test]
    fn only_what_is_published_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("name");
        let (draft, _) = Draft::create_file_beside(&target, 0o600).unwrap();
        drop(draft);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let (draft, _) = Draft::create_file_beside(&target, 0o600).unwrap();
        draft.publish(&target).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["name"]);
    }
}
