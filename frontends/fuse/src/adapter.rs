//! Between the FUSE crate and the door: only this file and `session` below it name its types.
//!
//! A request is begun on the thread that read it, and answered there if nothing has to be waited for; else it goes on on the runtime, and the thread
//! reads the next.

mod session;

pub(crate) use session::{Session, mount};

use crate::caller::Who;
use crate::directory::Listed;
use crate::door::{Door, EINVAL, Outcome, Refusal, Shown};
use crate::locks::Described;
use crate::metadata::{Making, Mode, Wanted, kind_of_mode};
use crate::time::{from_time, to_time};
use crate::xattr::Sized as Answer;
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType as Kind, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tombolo_core::FileType;
use tombolo_core::engine::fs::{FileAttributes, SetAttributes, SetTime};

/// The most that one request carries, in bytes.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel makes ahead of anybody waiting: read-ahead and write-back.
const BACKGROUND: u16 = 64;
const GENERATION: Generation = Generation(0);
const BLOCK_BYTES: u32 = 4096;

struct Adapter {
    door: Arc<Door>,
    runtime: Handle,
    end: watch::Sender<bool>,
}

/// A reply that can say no.
trait Refuse: Send + 'static {
    fn refuse(self, refusal: Refusal);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, refusal: Refusal) {
            self.error(Errno::from_i32(refusal.0));
        }
    })* };
}
refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLock,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// Answers with what `outcome` has, or with its refusal.
fn answer<R: Refuse, T>(reply: R, outcome: Outcome<T>, with: impl FnOnce(R, T)) {
    match outcome {
        Ok(answer) => with(reply, answer),
        Err(refusal) => reply.refuse(refusal),
    }
}

impl Adapter {
    fn run(&self, request: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        let mut request = Box::pin(request);
        if request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.runtime.spawn(request);
        }
    }
}

fn entry(door: &Door, reply: ReplyEntry, shown: &Shown) {
    let attr = attr(shown.number, &shown.attributes);
    reply.entry_with_ttls(&door.options.attribute_timeout, &door.options.entry_timeout, &attr, GENERATION);
}

fn done(reply: ReplyEmpty, outcome: Outcome<()>) {
    answer(reply, outcome, |reply, ()| reply.ok());
}

fn attributes(door: &Door, reply: ReplyAttr, outcome: Outcome<Shown>) {
    let timeout = door.options.attribute_timeout;
    answer(reply, outcome, |reply, shown| reply.attr(&timeout, &attr(shown.number, &shown.attributes)));
}

fn kind(kind: FileType) -> Kind {
    match kind {
        FileType::Regular => Kind::RegularFile,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::NamedPipe,
        FileType::Socket => Kind::Socket,
        FileType::CharDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
    }
}

fn attr(number: u64, attributes: &FileAttributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: attributes.size,
        blocks: attributes.allocated_bytes.div_ceil(512),
        atime: to_time(attributes.accessed_ns),
        mtime: to_time(attributes.modified_ns),
        ctime: to_time(attributes.changed_ns),
        crtime: UNIX_EPOCH,
        kind: kind(attributes.file_type),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        // The kernel's packing has the same 32 low bits.
        rdev: attributes.rdev as u32,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn who(request: &Request) -> Who {
    Who { uid: request.uid(), gid: request.gid(), thread: request.pid() }
}

fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(from_time(time)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let options = &self.door.options;
        let mut wanted = vec![
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK,
            // The door tells when pages are stale.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        if options.writes_back() {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        for capability in wanted {
            if let Err(unsupported) = config.add_capabilities(capability) {
                tracing::debug!(?unsupported, "this kernel has no such thing");
            }
        }
        // Refused values come back as the nearest that is not.
        if let Err(most) = config.set_max_write(REQUEST_BYTES_MAX) {
            let _ = config.set_max_write(most);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        let _entered = self.runtime.enter();
        self.door.end();
        self.end.send_replace(true);
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (door, name) = (self.door.clone(), name.as_bytes().to_vec());
        self.run(async move {
            let outcome = door.lookup(parent.0, &name).await;
            answer(reply, outcome, |reply, shown| match shown {
                Some(shown) => entry(&door, reply, &shown),
                // Number 0: there is no such name, and that holds for a while.
                None => {
                    let (nothing, timeout) = (attr(0, &Door::level_attributes()), door.options.absence_timeout());
                    reply.entry_with_ttls(&timeout, &timeout, &nothing, GENERATION);
                }
            });
        });
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.door.inodes.forget(number.0, count);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let door = self.door.clone();
        self.run(async move {
            let outcome = door.attributes(number.0, handle.map(|handle| handle.0)).await;
            attributes(&door, reply, outcome);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (door, who) = (self.door.clone(), who(request));
        let set =
            SetAttributes { mode, umask: 0, uid, gid, size, accessed: set_time(atime), modified: set_time(mtime) };
        let wanted = Wanted {
            set,
            // Only the kernel's write-back names a change time, with or without a size.
            is_flushed: ctime.is_some() && mode.is_none() && uid.is_none() && gid.is_none(),
            handle: handle.map(|handle| handle.0),
        };
        self.run(async move {
            let outcome = door.set_attributes(who, number.0, wanted).await;
            attributes(&door, reply, outcome);
        });
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let door = self.door.clone();
        self.run(async move { answer(reply, door.read_link(number.0).await, |reply, target| reply.data(&target)) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let making = match kind_of_mode(mode) {
            Some(FileType::Regular) => Making::File,
            Some(kind) => Making::Special(kind, u64::from(rdev)),
            None => return reply.refuse(Refusal(EINVAL)),
        };
        self.make(request, parent, name, (mode, umask), making, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(request, parent, name, (mode, umask), Making::Directory, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        self.make(request, parent, name, (0, 0), Making::Symlink(target), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move { done(reply, door.unlink(who, parent.0, &name).await) });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move { done(reply, door.remove_directory(who, parent.0, &name).await) });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (door, who) = (self.door.clone(), who(request));
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        self.run(async move {
            done(reply, door.rename(who, (parent.0, &name), (new_parent.0, &new_name), flags.bits()).await);
        });
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move {
            let outcome = door.link(who, number.0, parent.0, &name).await;
            answer(reply, outcome, |reply, shown| entry(&door, reply, &shown));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move {
            let outcome = door.create(who, parent.0, &name, (mode, umask), flags).await;
            let timeout = door.options.entry_timeout;
            answer(reply, outcome, |reply, (shown, handle)| {
                let attr = attr(shown.number, &shown.attributes);
                reply.created(&timeout, &attr, GENERATION, FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            });
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (door, who) = (self.door.clone(), who(request));
        self.run(async move {
            answer(reply, door.open_node(who, number.0, flags.0).await, |reply, handle| {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            });
        });
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let door = self.door.clone();
        self.run(async move {
            answer(reply, door.read(handle.0, offset, size).await, |reply, data| reply.data(&data));
        });
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The buffer is the next request's.
        let (door, data) = (self.door.clone(), Bytes::copy_from_slice(data));
        let clears = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.run(async move {
            let outcome = door.write((number.0, handle.0), offset, data, clears, flags.0).await;
            answer(reply, outcome, |reply, length| reply.written(length));
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let door = self.door.clone();
        self.run(async move { done(reply, door.flush(handle.0, lock_owner.0).await) });
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _entered = self.runtime.enter();
        self.door.release(handle.0);
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _number: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let door = self.door.clone();
        self.run(async move { done(reply, door.fsync(handle.0).await) });
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (door, who) = (self.door.clone(), who(request));
        self.run(async move {
            answer(reply, door.open_directory(who, number.0).await, |reply, handle| {
                reply.opened(FileHandle(handle), FopenFlags::empty());
            });
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let door = self.door.clone();
        self.run(async move {
            let mut add = |listed: &Listed<'_>| {
                reply.add(INodeNo(listed.number), listed.offset, kind(listed.kind), OsStr::from_bytes(listed.name))
            };
            let outcome = door.list(handle.0, offset, false, &mut add).await;
            answer(reply, outcome, |reply, ()| reply.ok());
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let door = self.door.clone();
        self.run(async move {
            let timeout = door.options.attribute_timeout.min(door.options.entry_timeout);
            let dot = Door::level_attributes();
            let mut add = |listed: &Listed<'_>| {
                let attr = attr(listed.number, listed.attributes.unwrap_or(&dot));
                let name = OsStr::from_bytes(listed.name);
                reply.add(INodeNo(listed.number), listed.offset, name, &timeout, &attr, GENERATION)
            };
            let outcome = door.list(handle.0, offset, true, &mut add).await;
            answer(reply, outcome, |reply, ()| reply.ok());
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.door.directories.remove(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, number: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let door = self.door.clone();
        self.run(async move { done(reply, door.fsync_directory(number.0).await) });
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let door = self.door.clone();
        self.run(async move {
            answer(reply, door.status(number.0).await, |reply, status| {
                let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
                let free = blocks(status.free_bytes);
                reply.statfs(
                    blocks(status.total_bytes),
                    free,
                    free,
                    status.total_nodes,
                    status.free_nodes,
                    BLOCK_BYTES,
                    255,
                    BLOCK_BYTES,
                );
            });
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        let value = Bytes::copy_from_slice(value);
        self.run(async move {
            done(reply, door.set_xattr(who, number.0, &name, value, flags).await);
        });
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move { answer(reply, door.xattr(who, number.0, &name, size).await, sized) });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let (door, who) = (self.door.clone(), who(request));
        self.run(async move { answer(reply, door.list_xattrs(who, number.0, size).await, sized) });
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move { done(reply, door.remove_xattr(who, number.0, &name).await) });
    }

    fn getlk(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        reply: ReplyLock,
    ) {
        let described = Described { owner: owner.0, start, end, kind, process };
        let outcome = self.door.test_lock(handle.0, described);
        answer(reply, outcome, |reply, held| reply.locked(held.start, held.end, held.kind, held.process));
    }

    fn setlk(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let (door, who) = (self.door.clone(), who(request));
        let described = Described { owner: owner.0, start, end, kind, process };
        self.run(async move {
            done(reply, door.set_lock(who, handle.0, described, waits).await);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let door = self.door.clone();
        self.run(async move {
            done(reply, door.allocate(handle.0, offset, length, mode).await);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let door = self.door.clone();
        self.run(async move {
            answer(reply, door.seek((number.0, handle.0), offset, whence).await, |reply, offset| reply.offset(offset));
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let door = self.door.clone();
        self.run(async move {
            let outcome = door.copy_range((from_handle.0, from_offset), (to_handle.0, to_offset), length).await;
            answer(reply, outcome, |reply, copied| reply.written(copied));
        });
    }
}

impl Adapter {
    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: Mode, making: Making, reply: ReplyEntry) {
        let (door, who, name) = (self.door.clone(), who(request), name.as_bytes().to_vec());
        self.run(async move {
            let outcome = door.make(who, parent.0, &name, mode, making).await;
            answer(reply, outcome, |reply, shown| entry(&door, reply, &shown));
        });
    }
}

fn sized(reply: ReplyXattr, answer: Answer) {
    match answer {
        Answer::Length(length) => reply.size(length),
        Answer::Data(data) => reply.data(&data),
    }
}
