//! A real directory.

use super::{Disk, File, FileInfo, Mapping};
use crate::error::{Error, Result, Subject};
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of the operating system.
pub struct SystemDisk {
    path: PathBuf,
    /// Held open for `fsync` and `statvfs`.
    handle: fs::File,
}

struct SystemFile {
    path: PathBuf,
    file: fs::File,
}

impl SystemDisk {
    /// Opens `dir`, which is made if it does not exist (its parent must).
    pub fn open(dir: impl AsRef<Path>) -> Result<SystemDisk> {
        let path = dir.as_ref().to_path_buf();
        match fs::create_dir(&path) {
            Ok(()) => {
                if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    let parent_handle = fs::File::open(parent).map_err(|e| failed("open", parent, e))?;
                    parent_handle.sync_all().map_err(|e| failed("sync", parent, e))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", &path, error)),
        }
        let handle = fs::File::open(&path).map_err(|e| failed("open", &path, e))?;
        Ok(SystemDisk { path, handle })
    }

    fn file(&self, name: &str, options: &fs::OpenOptions, verb: &str) -> Result<Arc<dyn File>> {
        let path = self.path.join(name);
        match options.open(&path) {
            Ok(file) => Ok(Arc::new(SystemFile { path, file })),
            Err(error) => Err(failed(verb, &path, error)),
        }
    }
}

/// Maps an error of the operating system; names that are missing or taken keep their kind.
fn failed(verb: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("cannot {verb} {}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(Subject::Pack, message).because(error),
        io::ErrorKind::AlreadyExists => Error::exists(Subject::Pack, message).because(error),
        _ => Error::io(message, error),
    }
}

impl Disk for SystemDisk {
    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.file(name, fs::OpenOptions::new().read(true).write(true).create_new(true), "create")
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        self.file(name, fs::OpenOptions::new().read(true).write(true), "open")
    }

    fn list(&self) -> Result<Vec<FileInfo>> {
        let list = |error| failed("list", &self.path, error);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(list)? {
            let entry = entry.map_err(list)?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("inspect", &entry.path(), error)),
            };
            // A name that is not UTF-8 is none that we gave.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push(FileInfo { name, bytes: metadata.len() });
            }
        }
        Ok(files)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(|e| failed("remove", &path, e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let path = self.path.join(from);
        fs::rename(&path, self.path.join(to)).map_err(|e| failed("rename", &path, e))
    }

    fn sync_dir(&self) -> Result<()> {
        self.handle.sync_all().map_err(|e| failed("sync", &self.path, e))
    }

    fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.handle).map_err(|e| failed("inspect", &self.path, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl File for SystemFile {
    fn write_at(&self, parts: &[IoSlice<'_>], mut offset: u64) -> Result<()> {
        let mut parts = parts.to_vec();
        let mut parts: &mut [IoSlice<'_>] = &mut parts;
        // Empty parts would make a write of zero bytes look like a full disk.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.file, parts, offset) {
                Ok(0) => return Err(failed("write", &self.path, io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    IoSlice::advance_slices(&mut parts, written);
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed("write", &self.path, error.into())),
            }
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Err(Error::damaged(format!("cannot read {}", self.path.display())).because(error));
                }
                Err(error) => return Err(failed("read", &self.path, error)),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| failed("sync", &self.path, e))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| failed("inspect", &self.path, e))?.len())
    }

    fn truncate(&self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(|e| failed("truncate", &self.path, e))
    }

    fn map(&self) -> Result<Mapping> {
        let map = || Mapping::of_file(self.file.try_clone()?);
        map().map_err(|e| failed("map", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn files_keep_what_is_written_and_map_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SystemDisk::open(dir.path().join("packs")).unwrap();
        let file = disk.create("a").unwrap();
        assert_eq!(disk.create("a").err().unwrap().kind(), ErrorKind::Exists);
        assert_eq!(disk.open("b").err().unwrap().kind(), ErrorKind::NotFound);
        file.write_at(&[IoSlice::new(b""), IoSlice::new(b"hello "), IoSlice::new(b"world")], 3).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), [FileInfo { name: "a".into(), bytes: 14 }]);
        let mut buffer = [9; 20];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 14);
        assert_eq!(&buffer[..14], b"\0\0\0hello world");
        let mapping = file.map().unwrap();
        let bytes = mapping.slice(3..8).unwrap();
        disk.rename("a", "c").unwrap();
        disk.remove("c").unwrap();
        drop((mapping, file));
        assert_eq!(&bytes[..], b"hello", "a slice outlives its map's handle and its file's name");
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_file_cut_behind_a_map_is_an_error_not_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SystemDisk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(&[IoSlice::new(&[7; 100_000])], 0).unwrap();
        let mapping = file.map().unwrap();
        file.truncate(4096).unwrap();
        assert_eq!(&mapping.slice(0..4096).unwrap()[..], &[7; 4096]);
        assert_eq!(mapping.slice(50_000..60_000).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(mapping.slice(99_999..100_001).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
