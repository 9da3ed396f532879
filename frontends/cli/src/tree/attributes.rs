//! POSIX attributes of local files, read and set.

use crate::wire::{AttributesRecord, Kind, Raw};
use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// The most bytes of the list of names, and of one value (Linux' own limits).
const XATTR_BYTES_MAX: usize = 64 << 10;
/// `tv_nsec` that leaves a time alone.
const TIME_OMIT: i64 = rustix::fs::UTIME_OMIT;

/// What kind of file `metadata`, of the file itself and not of what it points to, is about.
pub(super) fn kind(metadata: &Metadata) -> Option<Kind> {
    let file_type = metadata.file_type();
    Some(match () {
        () if file_type.is_file() => Kind::File,
        () if file_type.is_dir() => Kind::Directory,
        () if file_type.is_symlink() => Kind::Symlink,
        () if file_type.is_fifo() => Kind::Fifo,
        () if file_type.is_socket() => Kind::Socket,
        () if file_type.is_char_device() => Kind::CharDevice,
        () if file_type.is_block_device() => Kind::BlockDevice,
        () => return None,
    })
}

/// Modification time in nanoseconds since the epoch.
pub(super) fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// Attributes of the file at `path`.
pub(super) fn read(path: &Path, metadata: &Metadata) -> io::Result<AttributesRecord> {
    let kind = kind(metadata);
    Ok(AttributesRecord {
        mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        rdev: matches!(kind, Some(Kind::CharDevice | Kind::BlockDevice)).then(|| metadata.rdev()),
        // Only files and directories can have user attributes.
        xattrs: if matches!(kind, Some(Kind::File | Kind::Directory)) { xattrs(path)? } else { BTreeMap::new() },
    })
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Raw>> {
    let mut found = BTreeMap::new();
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < XATTR_BYTES_MAX => names.resize(XATTR_BYTES_MAX, 0),
            // This file system has none.
            Err(Errno::NOTSUP) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    };
    let mut value = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") {
            continue;
        }
        let text = std::str::from_utf8(name).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, "the name of an extended attribute is not UTF-8")
        })?;
        value.resize(XATTR_BYTES_MAX, 0);
        match rustix::fs::lgetxattr(path, text, &mut value[..]) {
            Ok(length) => {
                let value = Bytes::copy_from_slice(value.get(..length).unwrap_or_default());
                found.insert(text.to_string(), Raw(value));
            }
            // It was removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Whether stored attributes say the same as those of a local file.
pub(super) fn is_same(stored: &AttributesRecord, local: &AttributesRecord) -> bool {
    let owner = |id: Option<u32>| id.unwrap_or(0);
    stored.mode == local.mode
        && owner(stored.uid) == owner(local.uid)
        && owner(stored.gid) == owner(local.gid)
        && stored.rdev.unwrap_or(0) == local.rdev.unwrap_or(0)
        && stored.xattrs == local.xattrs
}

/// Gives the file at `path`, which is not followed if it is a symbolic link, its stored attributes. Owners need root;
/// without it they are left alone.
pub(super) fn write(path: &Path, kind: Kind, stored: &AttributesRecord, modified_ns: Option<i64>) -> io::Result<()> {
    if rustix::process::geteuid().is_root() && (stored.uid.is_some() || stored.gid.is_some()) {
        let (uid, gid) = (stored.uid.map(Uid::from_raw), stored.gid.map(Gid::from_raw));
        rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if matches!(kind, Kind::File | Kind::Directory) {
        for (name, value) in &stored.xattrs {
            // Others belong to doors and systems of their own.
            if name.starts_with("user.") {
                rustix::fs::lsetxattr(path, name.as_str(), &value.0, XattrFlags::empty())?;
            }
        }
    }
    // After the owner, whose change takes set-id bits away.
    if let (Some(mode), false) = (stored.mode, kind == Kind::Symlink) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    match modified_ns {
        Some(time) => set_modified(path, time),
        None => Ok(()),
    }
}

/// Sets the modification time of the file at `path` itself.
pub(super) fn set_modified(path: &Path, time_ns: i64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: TIME_OMIT },
        last_modification: Timespec {
            tv_sec: time_ns.div_euclid(1_000_000_000),
            tv_nsec: time_ns.rem_euclid(1_000_000_000),
        },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let mut attributes = read(&path, &metadata).unwrap();
        attributes.mode = Some(0o751);
        write(&path, Kind::File, &attributes, Some(-1_500_000_000)).unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(modified_ns(&metadata), -1_500_000_000);
        assert!(is_same(&read(&path, &metadata).unwrap(), &attributes));
        attributes.mode = Some(0o750);
        assert!(!is_same(&read(&path, &metadata).unwrap(), &attributes));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, b"x").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        set_modified(&target, 1_000_000_000).unwrap();
        let stored = AttributesRecord { mode: Some(0o777), ..AttributesRecord::default() };
        write(&link, Kind::Symlink, &stored, Some(2_000_000_000)).unwrap();
        assert_eq!(modified_ns(&std::fs::symlink_metadata(&target).unwrap()), 1_000_000_000);
        assert_eq!(modified_ns(&std::fs::symlink_metadata(&link).unwrap()), 2_000_000_000);
        assert_eq!(kind(&std::fs::symlink_metadata(&link).unwrap()), Some(Kind::Symlink));
    }
}
