//! Telling the kernel what came through other doors, so that it may trust what it keeps.
//!
//! A task per bucket hears of every commit and picks what the kernel knows of; one thread tells it, because telling waits for the kernel's locks,
//! which a request that is being answered may hold.

use crate::door::Door;
use crate::target::Target;
use bytes::Bytes;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tombolo_core::engine::fs::{RowChange, Watch};

/// How much the kernel may be behind.
const QUEUE: usize = 4096;

/// What the kernel shall forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stale {
    /// What a name in a directory leads to, or that it leads nowhere.
    Name(u64, Bytes),
    /// Attributes and pages of an inode.
    Inode(u64),
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
            stale(&door, bucket, change)
        };
        for stale in stale {
            let Some(queue) = queue.upgrade() else { return };
            if queue.send(stale).await.is_err() {
                return;
            }
        }
    }
}

fn stale(door: &Door, bucket: u32, change: RowChange) -> Vec<Stale> {
    let known = |node| door.inodes.known(&Target::Node(bucket, node));
    match change {
        RowChange::Entry { origin, .. } | RowChange::Node { origin, .. } if origin == door.origin => Vec::new(),
        RowChange::Entry { directory, name, .. } => match known(directory) {
            // The directory's times have moved, too.
            Some(parent) => vec![Stale::Name(parent, name), Stale::Inode(parent)],
            None => Vec::new(),
        },
        RowChange::Node { node, .. } => known(node).map(Stale::Inode).into_iter().collect(),
        // Names can't be enumerated; they are bounded by their timeout.
        RowChange::Everything => door.inodes.all().into_iter().map(Stale::Inode).collect(),
    }
}
