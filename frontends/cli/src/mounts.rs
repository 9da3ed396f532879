//! The file systems that a daemon has mounted.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tombolo_core::{Result, Segment};
use tombolo_fuse::{Mount, MountOptions, MountPath};

/// Mounts by their points. Cheap to clone; all clones are one list.
#[derive(Clone, Default)]
pub(crate) struct Mounts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<BTreeMap<PathBuf, Arc<Mount>>>,
    /// How many have not ended, those included that others were mounted over.
    live: watch::Sender<usize>,
}

impl Mounts {
    /// Mounts `path` of the segment (empty or `/`: all of it) on `point`.
    pub(crate) async fn add(&self, segment: &Segment, path: &str, point: &Path, options: &str) -> Result<Arc<Mount>> {
        let path: MountPath = path.parse()?;
        let mut parsed = MountOptions::default();
        parsed.set(options)?;
        let mount = Arc::new(Mount::new(segment.clone(), &path, point, parsed).await?);
        tracing::info!(%path, point = %mount.point().display(), "mounted");
        self.0.live.send_modify(|live| *live += 1);
        if self.0.list.lock().insert(mount.point().to_owned(), mount.clone()).is_some() {
            tracing::warn!(point = %mount.point().display(), "mounted over an earlier mount");
        }
        tokio::spawn(self.clone().forget(mount.clone()));
        Ok(mount)
    }

    /// Takes a mount off the list when it has ended.
    async fn forget(self, mount: Arc<Mount>) {
        mount.ended().await;
        {
            let mut mounts = self.0.list.lock();
            if mounts.get(mount.point()).is_some_and(|listed| Arc::ptr_eq(listed, &mount)) {
                mounts.remove(mount.point());
            }
        }
        tracing::info!(point = %mount.point().display(), "unmounted");
        if let Err(error) = mount.unmount().await {
            tracing::warn!(point = %mount.point().display(), %error, "the mount ended badly");
        }
        self.0.live.send_modify(|live| *live = live.saturating_sub(1));
    }

    /// Returns when nothing is mounted.
    pub(crate) async fn none_left(&self) {
        // The sender lives in `self`, so waiting can't fail.
        let _ = self.0.live.subscribe().wait_for(|live| *live == 0).await;
    }

    /// Unmounts everything when `stop` turns true.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>) {
        // Nobody left who could stop it is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        loop {
            let next = self.0.list.lock().pop_last();
            let Some((point, mount)) = next else { return };
            if let Err(error) = mount.unmount().await {
                tracing::error!(point = %point.display(), %error, "cannot unmount");
            }
        }
    }
}
