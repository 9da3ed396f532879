//! The door: one mount's state, and what all its requests need.

use crate::caches::{Follower, Stale};
use crate::data::OpenHandle;
use crate::directory::DirectoryHandle;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::options::MountOptions;
use crate::target::{Level, MountPath, Target};
use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tombolo_core::engine::fs::{Caller, FileAttributes, FileSystem, new_origin};
use tombolo_core::{BucketId, BucketPath, ErrorKind, FileType, NodeId, Segment};

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EBADF: i32 = 9;
pub(crate) const EXDEV: i32 = 18;
pub(crate) const EISDIR: i32 = 21;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const EROFS: i32 = 30;
pub(crate) const ERANGE: i32 = 34;
pub(crate) const ENODATA: i32 = 61;
pub(crate) const EOPNOTSUPP: i32 = 95;
pub(crate) const ESTALE: i32 = 116;
pub(crate) const EINTR: i32 = 4;

/// Why a request was not done, as an error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) i32);

impl From<tombolo_core::Error> for Refusal {
    fn from(error: tombolo_core::Error) -> Refusal {
        if matches!(error.kind(), ErrorKind::Failed | ErrorKind::Damaged | ErrorKind::Offline) {
            tracing::error!(%error, "a request of the kernel failed");
        }
        Refusal(error.errno())
    }
}

pub(crate) type Outcome<T> = std::result::Result<T, Refusal>;

/// A node as the kernel is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) number: u64,
    pub(crate) attributes: FileAttributes,
}

struct Opened {
    path: BucketPath,
    id: BucketId,
    files: FileSystem,
}

pub(crate) struct Door {
    pub(crate) segment: Segment,
    pub(crate) options: MountOptions,
    pub(crate) inodes: Inodes,
    pub(crate) files: Handles<OpenHandle>,
    pub(crate) directories: Handles<DirectoryHandle>,
    /// Marks what comes through this door.
    pub(crate) origin: u32,
    /// The kernel asks no more, and what it had open it does not close.
    is_cut_off: AtomicBool,
    buckets: RwLock<Vec<Opened>>,
    follower: Follower,
    hand_over: OnceLock<HandOver>,
}

/// Has the kernel write back and forget what it has of an inode. Returns when it has.
pub(crate) type HandOver = Box<dyn Fn(u64) + Send + Sync>;

impl Door {
    /// Opens what is mounted, or says that it is not there.
    pub(crate) async fn open(
        segment: Segment,
        path: &MountPath,
        options: MountOptions,
        follower: Follower,
    ) -> tombolo_core::Result<Arc<Door>> {
        let origin = new_origin();
        let mut buckets = Vec::new();
        let root = match path {
            MountPath::Level(level) => {
                let catalog = segment.catalog();
                match level {
                    Level::Top => {}
                    Level::Cluster(cluster) => drop(catalog.tenants(cluster).await?),
                    Level::Tenant(tenant) => drop(catalog.buckets(tenant).await?),
                }
                Target::Level(Arc::new(level.clone()))
            }
            MountPath::Bucket(path, below) => {
                let bucket = segment.bucket(path).await?;
                let id = bucket.info().await?.id;
                let files = bucket.file_system().with_origin(origin);
                let mut node = NodeId::ROOT;
                for name in below.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
                    node = files.lookup(&Caller::root(), &node, name).await?.node;
                }
                // A directory, or it can't be mounted.
                files.read_directory(None, &node, None, 1, false).await?;
                buckets.push(Opened { path: path.clone(), id, files });
                Target::Node(0, node)
            }
        };
        let door = Arc::new(Door {
            segment,
            options,
            inodes: Inodes::new(root),
            files: Handles::default(),
            directories: Handles::default(),
            origin,
            is_cut_off: AtomicBool::new(false),
            buckets: RwLock::new(buckets),
            follower,
            hand_over: OnceLock::new(),
        });
        if let Some(files) = door.bucket(0) {
            door.follower.follow(&door, 0, files.watch());
        }
        Ok(door)
    }

    /// The mount has ended. Of one that was cut off (`umount -f`) all that was open is let go.
    pub(crate) fn end(&self) {
        self.is_cut_off.store(true, Ordering::SeqCst);
        for open in self.files.take_all() {
            open.release_locks();
        }
        self.directories.take_all();
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::SeqCst)
    }

    fn bucket(&self, number: u32) -> Option<FileSystem> {
        self.buckets.read().get(number as usize).map(|opened| opened.files.clone())
    }

    /// The number of the bucket at `path`, as it is now.
    pub(crate) async fn bucket_at(self: &Arc<Self>, path: &BucketPath) -> Outcome<u32> {
        let bucket = self.segment.bucket(path).await.map_err(|_| Refusal(ENOENT))?;
        let id = bucket.info().await?.id;
        let (number, files) = {
            let mut buckets = self.buckets.write();
            let known = buckets.iter().position(|opened| opened.path == *path && opened.id == id);
            if let Some(known) = known {
                return Ok(known as u32);
            }
            let files = bucket.file_system().with_origin(self.origin);
            let watched = files.clone();
            buckets.push(Opened { path: path.clone(), id, files });
            (buckets.len() as u32 - 1, watched)
        };
        self.follower.follow(self, number, files.watch());
        Ok(number)
    }

    /// Has the kernel forget attributes and pages of an inode.
    pub(crate) fn forget_inode(&self, number: u64) {
        self.follower.tell(Stale::Inode(number));
    }

    /// How [`Door::hand_over`] is done.
    pub(crate) fn hands_over_by(&self, how: HandOver) {
        // A door is mounted once.
        let _ = self.hand_over.set(how);
    }

    /// Has the kernel hand over what it has of a file and has not written back, and waits for that. Not by way of the thread that tells what is stale: that may wait for the
    /// lock of a directory, which somebody may hold who waits for the file's, which whoever asks for this holds.
    pub(crate) async fn hand_over(self: &Arc<Self>, number: u64) {
        let door = self.clone();
        let handing = tokio::task::spawn_blocking(move || {
            if let Some(hand_over) = door.hand_over.get() {
                hand_over(number);
            }
        });
        if let Err(error) = handing.await {
            tracing::error!(%error, "asking the kernel for what it has of a file broke off");
        }
    }

    /// What an inode stands for.
    pub(crate) fn target(&self, number: u64) -> Outcome<Target> {
        self.inodes.target(number).ok_or(Refusal(ESTALE))
    }

    /// The node that an inode stands for, to be read. `refusal`: what is said of the levels above buckets.
    pub(crate) fn node(&self, number: u64, refusal: i32) -> Outcome<(u32, FileSystem, NodeId)> {
        match self.target(number)? {
            Target::Node(bucket, node) => Ok((bucket, self.bucket(bucket).ok_or(Refusal(ESTALE))?, node)),
            Target::Level(_) => Err(Refusal(refusal)),
        }
    }

    /// The same, to be changed; what is above buckets changes through other commands.
    pub(crate) fn node_to_change(&self, number: u64) -> Outcome<(u32, FileSystem, NodeId)> {
        if self.options.read_only {
            return Err(Refusal(EROFS));
        }
        self.node(number, EROFS)
    }

    /// Tells the kernel of a node, that a name in a directory leads to.
    pub(crate) fn tell(&self, bucket: u32, attributes: FileAttributes, (parent, name): (u64, &[u8])) -> Shown {
        let name = (parent, Bytes::copy_from_slice(name));
        let number = self.inodes.tell(&Target::Node(bucket, attributes.node), Some(name));
        Shown { number, attributes }
    }

    /// Attributes of a level above buckets.
    pub(crate) fn level_attributes() -> FileAttributes {
        FileAttributes {
            node: NodeId::ROOT,
            file_id: 0,
            file_type: FileType::Directory,
            mode: 0o755,
            links: 2,
            uid: 0,
            gid: 0,
            size: 4096,
            allocated_bytes: 4096,
            rdev: 0,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            access_list: None,
        }
    }
}
