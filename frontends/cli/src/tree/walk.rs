//! Goes through a local tree in order, on a thread of its own: a directory before what is in it, and a notice when it is left.

use super::draft::Draft;
use super::report::Report;
use crate::wire::AttributesRecord;
use std::fs::ReadDir;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Whether a directory is ready for what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// Not yet.
    Pending,
    /// It was made just now: nothing can be in it.
    New,
    /// It was there.
    Existing,
    /// It could not be made.
    Failed,
}

/// A directory under way. Its last holder finishes it.
pub(super) struct Directory {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its key, empty or ending with `/`.
    pub(super) key: Vec<u8>,
    pub(super) parent: Option<Arc<Directory>>,
    pub(super) made: watch::Sender<Made>,
    /// Attributes and modification time, once read, to be set when everything below is there.
    pub(super) finish: parking_lot::Mutex<Option<(AttributesRecord, i64)>>,
}

impl Directory {
    fn new(path: PathBuf, key: Vec<u8>, parent: Option<Arc<Directory>>) -> Arc<Directory> {
        let made = watch::Sender::new(Made::Pending);
        Arc::new(Directory { path, key, parent, made, finish: parking_lot::Mutex::new(None) })
    }

    /// Waits until it is made or has failed to be.
    pub(super) async fn ready(&self) -> Made {
        let mut made = self.made.subscribe();
        // The sender lives in `self`, so waiting can't fail.
        made.wait_for(|made| *made != Made::Pending).await.map_or(Made::Failed, |made| *made)
    }
}

/// Something for a worker to do.
pub(super) enum Job {
    /// Make a directory.
    Make(Arc<Directory>),
    /// Bring in a file of a directory: its path and key.
    File(Arc<Directory>, PathBuf, Vec<u8>),
    /// The walk is done with a directory.
    Leave(Arc<Directory>),
}

/// What to go through.
pub(super) struct Walk {
    pub(super) root: PathBuf,
    /// Key of the root, empty or ending with `/`.
    pub(super) key: Vec<u8>,
    pub(super) one_file_system: bool,
    /// A directory to leave out, as (device, inode): the data directory itself.
    pub(super) except: Option<(u64, u64)>,
}

impl Walk {
    /// Goes through the tree; ends early when nobody takes jobs any more or the report says so.
    pub(super) fn run(self, jobs: &mpsc::Sender<Job>, report: &Report) {
        let root = Directory::new(self.root.clone(), self.key.clone(), None);
        let device = match std::fs::metadata(&root.path) {
            Ok(metadata) => metadata.dev(),
            Err(error) => return report.failed_locally(&root.path.display().to_string(), &error),
        };
        let mut stack: Vec<(Arc<Directory>, ReadDir)> = Vec::new();
        if !self.enter(root, &mut stack, jobs, report) {
            return;
        }
        while let Some((directory, entries)) = stack.last_mut() {
            if report.is_stopped() {
                return;
            }
            let Some(entry) = entries.next() else {
                let Some((directory, _)) = stack.pop() else {
                    return;
                };
                if jobs.blocking_send(Job::Leave(directory)).is_err() {
                    return;
                }
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    report.failed_locally(&directory.path.display().to_string(), &error);
                    continue;
                }
            };
            if Draft::is_name(&entry.file_name()) {
                // Part of a file that an export or get is writing, or was.
                continue;
            }
            let path = entry.path();
            let mut key = [&directory.key, entry.file_name().as_bytes()].concat();
            let goes_on = match entry.file_type() {
                Ok(file_type) if file_type.is_dir() => {
                    key.push(b'/');
                    let below = Directory::new(path, key, Some(directory.clone()));
                    !self.is_wanted(&below.path, device, report) || self.enter(below, &mut stack, jobs, report)
                }
                Ok(_) => jobs.blocking_send(Job::File(directory.clone(), path, key)).is_ok(),
                Err(error) => {
                    report.failed_locally(&path.display().to_string(), &error);
                    true
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn enter(
        &self,
        directory: Arc<Directory>,
        stack: &mut Vec<(Arc<Directory>, ReadDir)>,
        jobs: &mpsc::Sender<Job>,
        report: &Report,
    ) -> bool {
        if jobs.blocking_send(Job::Make(directory.clone())).is_err() {
            return false;
        }
        match std::fs::read_dir(&directory.path) {
            Ok(entries) => {
                stack.push((directory, entries));
                true
            }
            Err(error) => {
                report.failed_locally(&directory.path.display().to_string(), &error);
                jobs.blocking_send(Job::Leave(directory)).is_ok()
            }
        }
    }

    fn is_wanted(&self, path: &Path, device: u64, report: &Report) -> bool {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) => {
                self.except != Some((metadata.dev(), metadata.ino()))
                    && (!self.one_file_system || metadata.dev() == device)
            }
            Err(error) => {
                report.failed_locally(&path.display().to_string(), &error);
                false
            }
        }
    }

    /// Bytes in the files of the tree, for a progress bar; what can't be read is not counted.
    pub(super) fn bytes(root: &Path) -> u64 {
        let mut total = 0u64;
        let mut stack: Vec<ReadDir> = std::fs::read_dir(root).into_iter().collect();
        while let Some(entries) = stack.last_mut() {
            let Some(entry) = entries.next() else {
                stack.pop();
                continue;
            };
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                stack.extend(std::fs::read_dir(entry.path()));
            } else if metadata.is_file() {
                total = total.saturating_add(metadata.len());
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[tokio::test]
    async fn directories_come_before_their_content_and_are_left_after_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), b"12345").unwrap();
        std::fs::write(dir.path().join("g"), b"678").unwrap();
        let except = std::fs::metadata(dir.path().join("store")).unwrap();
        let walk = Walk {
            root: dir.path().into(),
            key: b"to/".to_vec(),
            one_file_system: true,
            except: Some((except.dev(), except.ino())),
        };
        let (give, mut jobs) = mpsc::channel(1);
        let thread = tokio::task::spawn_blocking(move || {
            walk.run(&give, &Report::new(Progress::start(true, None), false));
        });
        let (mut open, mut files) = (Vec::new(), Vec::new());
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Make(directory) => open.push(directory.key.clone()),
                Job::File(directory, _, key) => {
                    assert!(open.contains(&directory.key));
                    files.push(String::from_utf8(key).unwrap());
                }
                Job::Leave(directory) => assert_eq!(open.pop(), Some(directory.key.clone())),
            }
        }
        thread.await.unwrap();
        assert!(open.is_empty());
        files.sort();
        assert_eq!(files, ["to/a/b/f", "to/g"]);
        assert_eq!(Walk::bytes(dir.path()), 8);
    }
}
