//! Telling the kernel what came through other doors, so that it may trust what it keeps.
//!
//! A task per bucket hears of every commit, and of what is written to open files, and picks what the kernel knows of; one thread tells it, because telling waits
//! for the kernel's locks, which a request that is being answered may hold.
//!
//! To forget a name is to take it from whoever is in the directory that it leads to (`getcwd` finds none until somebody comes by), so a name goes only if it leads
//! elsewhere by now. One that leads to a file also goes where the kernel writes back, whenever the file's size may have changed: as long as anything
//! leads to a file the kernel believes nobody but itself about its size.

use crate::door::{Door, ENOENT};
use crate::inodes::Name;
use crate::target::Target;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tombolo_core::FileType;
use tombolo_core::engine::fs::{Caller, RowChange, Watch};

/// How much the kernel may be behind.
const QUEUE: usize = 4096;

/// What the kernel shall forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stale {
    /// What a name in a directory leads to, or that it leads nowhere.
    Name(u64, Bytes),
    /// Attributes and pages of an inode.
    Inode(u64),
    /// Attributes of an inode, and its pages with bytes of a range.
    Part(u64, Range<u64>),
}

/// Starts the tasks that follow buckets.
#[derive(Clone)]
pub(crate) struct Follower {
    runtime: Handle,
    queue: mpsc::Sender<Stale>,
}

impl Follower {
    pub(crate) fn new(runtime: Handle) -> (Follower, mpsc::Receiver<Stale>) {
        let (queue, stale) = mpsc::channel(QUEUE);
        (Follower { runtime, queue }, stale)
    }

    /// Follows a bucket for as long as the door is there.
    pub(crate) fn follow(&self, door: &Arc<Door>, bucket: u32, watch: Watch) {
        self.runtime.spawn(follow(Arc::downgrade(door), bucket, watch, self.queue.downgrade()));
    }

    /// Tells the kernel of something else. A request must not wait for that: its pages may be those that the kernel waits for to forget them.
    pub(crate) fn tell(&self, stale: Stale) {
        let queue = self.queue.clone();
        self.runtime.spawn(async move {
            // The kernel that nobody tells any more is gone.
            let _ = queue.send(stale).await;
        });
    }
}

async fn follow(door: Weak<Door>, bucket: u32, mut watch: Watch, queue: mpsc::WeakSender<Stale>) {
    while let Some(change) = watch.next().await {
        let stale = {
            let Some(door) = door.upgrade() else { return };
            door.stale(bucket, change).await
        };
        for stale in stale {
            let Some(queue) = queue.upgrade() else { return };
            if queue.send(stale).await.is_err() {
                return;
            }
        }
    }
}

impl Door {
    /// What of what the kernel knows a change makes stale.
    async fn stale(&self, bucket: u32, change: RowChange) -> Vec<Stale> {
        let known = |node| self.inodes.known(&Target::Node(bucket, node));
        let mut stale = Vec::new();
        if matches!(change, RowChange::Entry { .. } | RowChange::Everything) {
            self.inodes.name_changed();
        }
        match change {
            // The kernel knows what it asked for itself, but not that a file shown beside a directory goes by its own name now.
            RowChange::Entry { directory, shadowed, origin, .. } if origin == self.origin => {
                let shadowed = known(directory).map(|parent| (parent, shadowed));
                if let Some(name) = shadowed.filter(|name| self.inodes.named(name).is_some()) {
                    self.check_name(name, &mut stale).await;
                }
            }
            RowChange::Node { origin, .. } if origin == self.origin => {}
            RowChange::Entry { directory, name, shadowed, .. } => {
                if let Some(parent) = known(directory) {
                    let shadowed = Some((parent, shadowed)).filter(|name| self.inodes.named(name).is_some());
                    for name in [(parent, name)].into_iter().chain(shadowed) {
                        self.check_name(name, &mut stale).await;
                    }
                    // The directory's times have moved, too.
                    stale.push(Stale::Inode(parent));
                }
            }
            RowChange::Node { node, .. } => stale.extend(known(node).map(Stale::Inode)),
            RowChange::Written { node, range, is_resized } => {
                if let Some(number) = known(node) {
                    stale.push(Stale::Part(number, range));
                    if is_resized && self.options.writes_back() {
                        self.inodes.names_of(number).into_iter().for_each(|name| self.forget_name(name, &mut stale));
                    }
                }
            }
            RowChange::Everything => {
                stale.extend(self.inodes.all().into_iter().map(Stale::Inode));
                // Those that led nowhere are bounded by their timeout.
                for name in self.inodes.all_names() {
                    self.check_name(name, &mut stale).await;
                }
            }
        }
        stale
    }

    /// Has a name forgotten if it leads elsewhere than the kernel was told, or nobody knows what it was told, or for the sake of a file's size.
    async fn check_name(&self, name: Name, stale: &mut Vec<Stale>) {
        let told = self.inodes.named(&name);
        let is_kept = match self.node(name.0, ENOENT) {
            Ok((bucket, files, directory)) if told.is_some() => {
                let now = files.lookup(&Caller::root(), &directory, &name.1).await;
                now.is_ok_and(|now| {
                    let may_resize = self.options.writes_back() && now.file_type == FileType::Regular;
                    !may_resize && self.inodes.known(&Target::Node(bucket, now.node)) == told
                })
            }
            _ => false,
        };
        if !is_kept {
            self.forget_name(name, stale);
        }
    }

    fn forget_name(&self, name: Name, stale: &mut Vec<Stale>) {
        self.inodes.forget_name(&name);
        stale.push(Stale::Name(name.0, name.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::inodes::ROOT;
    use std::time::Duration;
    use tombolo_core::engine::fs::{FileSystem, SetAttributes};
    use tombolo_core::{DeleteOptions, NodeId, PutOptions};

    /// More than a watcher may be behind, in commits.
    const MISSED: usize = 1100;
    const DEADLINE: Duration = Duration::from_secs(120);

    async fn change_often(files: &FileSystem, node: &NodeId, times: usize) {
        for time in 0..times {
            let mode = Some(0o600 | (time as u32 & 1));
            let set = SetAttributes { mode, ..SetAttributes::default() };
            files.set_attributes(&Caller::root(), node, set, None).await.unwrap();
        }
    }

    /// A door that had fallen behind had the kernel forget attributes, and no name: deleted files stayed there, and files that others had written to kept their sizes.
    #[tokio::test(flavor = "multi_thread")]
    async fn after_falling_behind_the_kernel_is_told_of_all_that_it_was_told() {
        let (_dir, bucket) = fixture::bucket().await;
        fixture::put(&bucket, ["busy", "gone", "edited", "renamed", "stays/in", "both", "both/in"]).await;
        let (door, mut queue) = fixture::door(&bucket).await;
        let mut numbers = Vec::new();
        for name in ["busy", "gone", "edited", "renamed", "stays", "both", "both%~"] {
            numbers.push(door.lookup(ROOT, name.as_bytes()).await.unwrap().unwrap().number);
        }

        // Nobody tells the kernel anything: what fits into the queue is in it, and the rest is missed.
        let files = bucket.file_system();
        let busy = files.lookup(&Caller::root(), &NodeId::ROOT, b"busy").await.unwrap().node;
        change_often(&files, &busy, QUEUE + MISSED).await;
        for key in ["gone", "both"] {
            bucket.delete(key, DeleteOptions::default()).await.unwrap();
        }
        bucket.put("edited", "longer", PutOptions::default()).await.unwrap();
        bucket.rename("renamed", "other").await.unwrap();
        change_often(&files, &busy, MISSED).await;
        bucket.put("last", "x", PutOptions::default()).await.unwrap();

        let name = |name: &'static str| Stale::Name(ROOT, Bytes::from(name));
        let mut told = Vec::new();
        let all_told = async {
            while let Some(stale) = queue.recv().await {
                told.push(stale);
                if told.last() == Some(&name("last")) {
                    break;
                }
            }
        };
        tokio::time::timeout(DEADLINE, all_told).await.unwrap();
        for forgotten in ["gone", "edited", "renamed", "both%~"] {
            assert!(told.contains(&name(forgotten)), "{forgotten}");
        }
        for number in numbers.into_iter().chain([ROOT]) {
            assert!(told.contains(&Stale::Inode(number)));
        }
        for directory in ["stays", "both"] {
            assert!(!told.contains(&name(directory)), "{directory} leads where it led, and somebody may be in it");
        }
    }
}
