//! Names and attributes: lookup, stat and its setters, and what makes, moves and removes names.

use crate::caller::{SET_GID, Who, as_caller};
use crate::data::OpenHandle;
use crate::door::{Door, EINVAL, ENOENT, EXDEV, Outcome, Refusal, Shown};
use crate::target::{Level, Target};
use bytes::Bytes;
use std::sync::Arc;
use tombolo_core::engine::fs::{
    Caller, CreateMode, FileSystem, FileSystemStatus, OpenFlags, RenameMode, SetAttributes, SetTime,
};
use tombolo_core::{BucketPath, ErrorKind, FileType, NodeId, Subject, TenantPath};

const SET_UID: u32 = 0o4000;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const O_EXCL: i32 = 0o200;
const O_ACCMODE: i32 = 0o3;
const O_TRUNC: i32 = 0o1000;

/// What a `setattr` asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) set: SetAttributes,
    /// It is the kernel that hands over times it kept, not a caller that sets them. With a size: when it was cut, which needs no owner.
    pub(crate) is_flushed: bool,
    pub(crate) handle: Option<u64>,
}

/// The mode that a program asks for, and its umask.
pub(crate) type Mode = (u32, u32);

/// What is made by `mknod`, `mkdir` and `symlink`.
pub(crate) enum Making {
    File,
    Special(FileType, u64),
    Directory,
    Symlink(Vec<u8>),
}

impl Door {
    pub(crate) async fn lookup(self: &Arc<Self>, parent: u64, name: &[u8]) -> Outcome<Option<Shown>> {
        match self.target(parent)? {
            Target::Node(..) => {
                let (bucket, files, directory) = self.node(parent, ENOENT)?;
                // The kernel has checked that the caller may search here.
                match files.lookup(&Caller::root(), &directory, name).await {
                    Ok(attributes) => Ok(Some(self.tell(bucket, attributes, (parent, name)))),
                    Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Target::Level(level) => self.lookup_in_level(&level, name).await.map(Some),
        }
    }

    async fn lookup_in_level(self: &Arc<Self>, level: &Level, name: &[u8]) -> Outcome<Shown> {
        let name = std::str::from_utf8(name).map_err(|_| Refusal(ENOENT))?;
        let catalog = self.segment.catalog();
        let below = match level {
            Level::Top => {
                let clusters = catalog.clusters().await?;
                clusters.into_iter().find(|cluster| cluster == name).map(Level::Cluster)
            }
            Level::Cluster(cluster) => {
                let tenant = TenantPath::new(cluster, name).map_err(|_| Refusal(ENOENT))?;
                catalog.tenants(cluster).await?.contains(&tenant).then_some(Level::Tenant(tenant))
            }
            Level::Tenant(tenant) => {
                let path = tenant.bucket(name).map_err(|_| Refusal(ENOENT))?;
                return self.tell_bucket(&path).await;
            }
        };
        let level = Target::Level(Arc::new(below.ok_or(Refusal(ENOENT))?));
        Ok(Shown { number: self.inodes.tell(&level, None), attributes: Door::level_attributes() })
    }

    async fn tell_bucket(self: &Arc<Self>, path: &BucketPath) -> Outcome<Shown> {
        let number = self.bucket_at(path).await?;
        let root = Target::Node(number, NodeId::ROOT);
        let inode = self.inodes.tell(&root, None);
        match self.attributes(inode, None).await {
            Ok(shown) => Ok(shown),
            Err(refusal) => {
                self.inodes.forget(inode, 1);
                Err(refusal)
            }
        }
    }

    pub(crate) async fn attributes(&self, number: u64, handle: Option<u64>) -> Outcome<Shown> {
        if let Some(open) = handle.and_then(|handle| self.files.get(handle)) {
            return Ok(Shown { number, attributes: open.file.attributes().await? });
        }
        let attributes = match self.target(number)? {
            Target::Level(_) => Door::level_attributes(),
            Target::Node(..) => {
                let (_, files, node) = self.node(number, ENOENT)?;
                files.attributes(&node).await?
            }
        };
        Ok(Shown { number, attributes })
    }

    pub(crate) async fn set_attributes(&self, who: Who, number: u64, wanted: Wanted) -> Outcome<Shown> {
        let (_, files, node) = self.node_to_change(number)?;
        let mut set = wanted.set;
        let open = wanted.handle.and_then(|handle| self.files.get(handle));
        if let (Some(size), Some(open)) = (set.size, &open) {
            // Who has it open for writing may cut it, whatever its mode says now.
            open.file.truncate(size).await?;
            set.size = None;
        }
        if wanted.is_flushed {
            if set.size.is_some() {
                let only_size = SetAttributes { size: set.size.take(), ..SetAttributes::default() };
                as_caller!(who, caller, files.set_attributes(&caller, &node, only_size, None).await)?;
            }
            if let (SetTime::To(time), Some(open)) = (set.modified, &open)
                && open.file.set_modified(time)
            {
                set.modified = SetTime::Keep;
            }
            if set != SetAttributes::default() {
                files.set_attributes(&Caller::root(), &node, set, None).await?;
            }
        } else if set != SetAttributes::default() {
            // Whether a caller is in a group decides what becomes of set-group-id, too.
            if set.mode.is_some_and(|mode| mode & SET_GID != 0) || set.gid.is_some() {
                files.set_attributes(&who.with_groups(), &node, set, None).await?;
            } else {
                as_caller!(who, caller, files.set_attributes(&caller, &node, set, None).await)?;
            }
        }
        self.attributes(number, wanted.handle).await
    }

    /// Takes set-user-id and set-group-id away from a file that somebody without the privilege to keep them has written to.
    pub(crate) async fn clear_privileges(files: &FileSystem, node: &NodeId) -> Outcome<()> {
        let mode = files.attributes(node).await?.mode;
        let without = mode & !SET_UID & if mode & 0o010 != 0 { !SET_GID } else { !0 };
        if without != mode {
            let set = SetAttributes { mode: Some(without), ..SetAttributes::default() };
            files.set_attributes(&Caller::root(), node, set, None).await?;
        }
        Ok(())
    }

    pub(crate) async fn make(
        &self,
        who: Who,
        parent: u64,
        name: &[u8],
        (mode, umask): Mode,
        making: Making,
    ) -> Outcome<Shown> {
        let (bucket, files, directory) = self.node_to_change(parent)?;
        let set = SetAttributes { mode: Some(mode & 0o7777), umask, ..SetAttributes::default() };
        let made = match making {
            Making::File => {
                let how = CreateMode::Guarded;
                as_caller!(who, who.making(mode), caller, files.create(&caller, &directory, name, how, set).await)
            }
            Making::Special(kind, rdev) => {
                let making = who.making(mode);
                as_caller!(who, making, caller, files.make_special(&caller, &directory, name, kind, rdev, set).await)
            }
            Making::Directory => as_caller!(who, caller, files.make_directory(&caller, &directory, name, set).await),
            Making::Symlink(target) => {
                let set = SetAttributes::default();
                as_caller!(who, caller, files.make_symlink(&caller, &directory, name, &target, set).await)
            }
        }?;
        Ok(self.tell(bucket, made.attributes, (parent, name)))
    }

    /// `open(2)` with O_CREAT.
    pub(crate) async fn create(
        &self,
        who: Who,
        parent: u64,
        name: &[u8],
        (mode, umask): Mode,
        flags: i32,
    ) -> Outcome<(Shown, u64)> {
        let (bucket, files, directory) = self.node_to_change(parent)?;
        let set = SetAttributes { mode: Some(mode & 0o7777), umask, ..SetAttributes::default() };
        let how = if flags & O_EXCL != 0 { CreateMode::Guarded } else { CreateMode::Unchecked };
        let made = as_caller!(who, who.making(mode), caller, files.create(&caller, &directory, name, how, set).await)?;
        let flags = OpenFlags { is_granted: made.is_new, ..open_flags(flags, self.options.writeback) };
        let node = made.attributes.node;
        let file = as_caller!(who, caller, files.open(&caller, &node, flags).await)?;
        let attributes = if made.is_new { made.attributes } else { file.attributes().await? };
        let handle = self.files.add(OpenHandle::new(file, files, node, flags.write));
        Ok((self.tell(bucket, attributes, (parent, name)), handle))
    }

    pub(crate) async fn link(&self, who: Who, number: u64, parent: u64, name: &[u8]) -> Outcome<Shown> {
        let (bucket, files, directory) = self.node_to_change(parent)?;
        let (of, _, node) = self.node_to_change(number)?;
        if of != bucket {
            return Err(Refusal(EXDEV));
        }
        let made = as_caller!(who, caller, files.link(&caller, &node, &directory, name).await)?;
        Ok(self.tell(bucket, made.attributes, (parent, name)))
    }

    pub(crate) async fn unlink(&self, who: Who, parent: u64, name: &[u8]) -> Outcome<()> {
        let (_, files, directory) = self.node_to_change(parent)?;
        as_caller!(who, caller, files.unlink(&caller, &directory, name).await)?;
        self.inodes.forget_name(&(parent, Bytes::copy_from_slice(name)));
        Ok(())
    }

    pub(crate) async fn remove_directory(&self, who: Who, parent: u64, name: &[u8]) -> Outcome<()> {
        let (_, files, directory) = self.node_to_change(parent)?;
        as_caller!(who, caller, files.remove_directory(&caller, &directory, name).await)?;
        self.inodes.retire(&(parent, Bytes::copy_from_slice(name)));
        Ok(())
    }

    pub(crate) async fn rename(&self, who: Who, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Outcome<()> {
        let (bucket, files, source) = self.node_to_change(from.0)?;
        let (other, _, target) = self.node_to_change(to.0)?;
        if bucket != other {
            return Err(Refusal(EXDEV));
        }
        let mode = match flags {
            0 => RenameMode::Replace,
            RENAME_NOREPLACE => RenameMode::NoReplace,
            RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Refusal(EINVAL)),
        };
        let replaces_directory = mode == RenameMode::Replace
            && self.inodes.named(&(to.0, Bytes::copy_from_slice(to.1))).is_some()
            && (files.lookup(&Caller::root(), &target, to.1).await)
                .is_ok_and(|old| old.file_type == FileType::Directory);
        as_caller!(who, caller, files.rename(&caller, (&source, from.1), (&target, to.1), mode).await)?;
        let [from, to] = [from, to].map(|(parent, name)| (parent, Bytes::copy_from_slice(name)));
        match mode {
            RenameMode::Exchange => self.inodes.exchange(from, to),
            RenameMode::Replace | RenameMode::NoReplace => {
                if replaces_directory {
                    self.inodes.retire(&to);
                }
                self.inodes.rename(&from, to);
            }
        }
        Ok(())
    }

    pub(crate) async fn read_link(&self, number: u64) -> Outcome<Bytes> {
        let (_, files, node) = self.node(number, EINVAL)?;
        Ok(files.read_link(&node).await?)
    }

    /// Space of a bucket; above buckets, of the disk.
    pub(crate) async fn status(&self, number: u64) -> Outcome<FileSystemStatus> {
        if let Ok((_, files, _)) = self.node(number, ENOENT) {
            return Ok(files.status().await?);
        }
        let disk = rustix::fs::statvfs(self.segment.dir()).map_err(|error| Refusal(error.raw_os_error()))?;
        Ok(FileSystemStatus {
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            total_nodes: disk.f_files,
            free_nodes: disk.f_favail,
        })
    }
}

/// How to open a file that the kernel has granted. With its write-back cache it reads what surrounds a write, too.
pub(crate) fn open_flags(flags: i32, writeback: bool) -> OpenFlags {
    let write = flags & O_ACCMODE != 0;
    OpenFlags {
        read: flags & O_ACCMODE != 1 || writeback,
        write,
        // Also of a file that is opened for reading only: who may write to it has it emptied.
        truncate: flags & O_TRUNC != 0,
        is_granted: true,
    }
}

/// The kind of a node in the format bits of a mode (`S_IFMT`).
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileType> {
    Some(match mode & 0o170_000 {
        0o010_000 => FileType::Fifo,
        0o020_000 => FileType::CharDevice,
        0o060_000 => FileType::BlockDevice,
        0o100_000 | 0 => FileType::Regular,
        0o140_000 => FileType::Socket,
        _ => return None,
    })
}
