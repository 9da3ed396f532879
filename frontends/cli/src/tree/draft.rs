//! Files that appear under their name only when they are whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Something under a temporary name beside its place; removed unless published.
pub(crate) struct Draft {
    path: PathBuf,
    is_published: bool,
}

impl Draft {
    /// A free temporary name in the directory of `target`; `make` makes what it names and must fail if it exists.
    pub(crate) fn make<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(Draft, T)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let dir = match target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

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
