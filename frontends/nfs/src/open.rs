//! Files kept open between calls. Clients never say that they open or close; a file that was quiet for a while is closed for them, and what was written to
//! it becomes a version then, if no COMMIT has made one before.

use crate::status::Outcome;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tombolo_core::engine::fs::{Caller, FileSystem, OpenFlags};
use tombolo_core::{BucketId, NodeId, OpenFile};

/// The most files that are kept open.
const OPEN_MAX: usize = 1024;
/// A file is closed when it was quiet for this long.
const QUIET: Duration = Duration::from_secs(5);

type Key = (BucketId, NodeId);

struct Kept {
    file: Arc<OpenFile>,
    writes: bool,
    used: Instant,
}

#[derive(Default)]
pub(crate) struct OpenFiles(Mutex<HashMap<Key, Kept>>);

impl OpenFiles {
    /// The file, opened if it is not. Who may do what with it is the caller's to check. `writes`: to be written to. Else nothing is decided by it: a conflict copy that is only read
    /// stays one.
    pub(crate) async fn get(
        &self,
        files: &FileSystem,
        bucket: BucketId,
        node: NodeId,
        writes: bool,
    ) -> Outcome<Arc<OpenFile>> {
        let key = (bucket, node);
        if let Some(kept) = self.0.lock().get_mut(&key).filter(|kept| kept.writes || !writes) {
            kept.used = Instant::now();
            return Ok(kept.file.clone());
        }
        let flags = OpenFlags { read: true, write: writes, truncate: false, is_granted: true };
        // Clients hear of losses by the verifier.
        let file = Arc::new(files.open(&Caller::root(), &node, flags).await?.without_losses());
        let (_replaced, evicted) = {
            let mut open = self.0.lock();
            // Another call may have been faster: one handle is as good as the other, but one to read with must not take the place of one to write with.
            let replaced = match open.get_mut(&key) {
                Some(kept) if kept.writes && !writes => None,
                _ => open.insert(key, Kept { file: file.clone(), writes, used: Instant::now() }),
            };
            let oldest = open.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let evicted = if open.len() > OPEN_MAX { oldest.and_then(|oldest| open.remove(&oldest)) } else { None };
            (replaced, evicted)
        };
        // Closing begins a save, and may free much: not under the lock.
        drop(evicted);
        Ok(file)
    }

    /// The node has lost a name: if that was its last, nobody comes back for it.
    pub(crate) fn forget(&self, bucket: BucketId, node: NodeId) {
        let forgotten = self.0.lock().remove(&(bucket, node));
        drop(forgotten);
    }

    /// Closes what was quiet for a while.
    pub(crate) fn sweep(&self) {
        let quiet: Vec<Kept> = {
            let mut open = self.0.lock();
            let keys: Vec<Key> =
                open.iter().filter(|(_, kept)| kept.used.elapsed() >= QUIET).map(|(key, _)| *key).collect();
            keys.iter().filter_map(|key| open.remove(key)).collect()
        };
        drop(quiet);
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        drop(all);
    }
}
