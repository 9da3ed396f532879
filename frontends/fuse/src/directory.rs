//! Open directories.
//!
//! The kernel asks for entries behind an offset. Offsets count the entries that a handle has shown, and are good for that handle alone: it
//! keeps one page of names, and where each page began, so going back (`seekdir`) reads a page again. A page in hand stays as it is while its entries come
//! and go: read again it would have others at the same offsets. Offset 0 begins anew.

use crate::caller::{Who, as_caller};
use crate::door::{Door, EBADF, ENOENT, Outcome, Refusal};
use crate::inodes::Inodes;
use crate::target::{Level, Target};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Mutex;
use tombolo_core::engine::fs::{Access, Caller, FileAttributes, FileEntry, FileSystem};
use tombolo_core::{Error, ErrorKind, FileType, NodeId, Subject};

/// Entries read at once.
const PAGE_ENTRIES: usize = 512;
/// `.` and `..`.
const DOTS: u64 = 2;

pub(crate) struct DirectoryHandle {
    number: u64,
    of: Of,
    pages: Mutex<Pages>,
}

enum Of {
    Node(u32, FileSystem, NodeId),
    /// All entries: there are few.
    Level(Vec<(String, Target)>),
}

/// The page in hand, and where others begin.
#[derive(Default)]
struct Pages {
    /// The position before each page that was reached, but for the first's.
    starts: Vec<Bytes>,
    current: Option<Page>,
}

struct Page {
    /// [`Inodes::name_changes`](crate::inodes::Inodes::name_changes) before it was read.
    name_changes: u64,
    index: usize,
    is_last: bool,
    entries: Vec<FileEntry>,
}

/// One entry as the kernel is told of it.
pub(crate) struct Listed<'a> {
    pub(crate) name: &'a [u8],
    /// What `readdir` continues behind.
    pub(crate) offset: u64,
    pub(crate) number: u64,
    pub(crate) kind: FileType,
    /// For `readdirplus`. Of `.` and `..` only the number counts.
    pub(crate) attributes: Option<&'a FileAttributes>,
}

impl Pages {
    /// Brings page `index` in; `None`: the directory ends before it.
    async fn load(
        &mut self,
        inodes: &Inodes,
        files: &FileSystem,
        node: &NodeId,
        index: usize,
    ) -> Outcome<Option<&Page>> {
        if self.current.as_ref().is_none_or(|page| page.index != index) {
            let before = match index.checked_sub(1) {
                None => None,
                Some(previous) => match self.starts.get(previous) {
                    Some(start) => Some(start.clone()),
                    None => return Ok(None),
                },
            };
            let name_changes = inodes.name_changes();
            let page = files.read_directory(None, node, before.as_deref(), PAGE_ENTRIES, false).await?;
            self.starts.truncate(index);
            if let Some(last) = page.entries.last().filter(|_| !page.is_end) {
                self.starts.push(last.position.clone());
            }
            let is_last = self.starts.len() == index;
            self.current = Some(Page { name_changes, index, is_last, entries: page.entries });
        }
        Ok(self.current.as_ref())
    }
}

impl Door {
    pub(crate) async fn open_directory(self: &Arc<Self>, who: Who, number: u64) -> Outcome<u64> {
        let of = match self.target(number)? {
            Target::Node(..) => {
                let (bucket, files, node) = self.node(number, ENOENT)?;
                let granted = as_caller!(who, caller, {
                    match files.may(&caller, &node, Access::READ).await {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(Error::new(ErrorKind::Denied, "the directory can't be listed")),
                        Err(error) => Err(error),
                    }
                });
                granted?;
                Of::Node(bucket, files, node)
            }
            Target::Level(level) => Of::Level(self.entries_of(&level).await?),
        };
        Ok(self.directories.add(DirectoryHandle { number, of, pages: Mutex::default() }))
    }

    async fn entries_of(self: &Arc<Self>, level: &Level) -> Outcome<Vec<(String, Target)>> {
        let catalog = self.segment.catalog();
        let of_level = |level| Target::Level(Arc::new(level));
        let mut entries = Vec::new();
        match level {
            Level::Top => {
                let clusters = catalog.clusters().await?;
                entries.extend(clusters.into_iter().map(|name| (name.clone(), of_level(Level::Cluster(name)))));
            }
            Level::Cluster(cluster) => {
                for tenant in catalog.tenants(cluster).await? {
                    entries.push((tenant.tenant.clone(), of_level(Level::Tenant(tenant))));
                }
            }
            Level::Tenant(tenant) => {
                for bucket in catalog.buckets(tenant).await? {
                    match self.bucket_at(&bucket.path).await {
                        Ok(number) => entries.push((bucket.path.bucket, Target::Node(number, NodeId::ROOT))),
                        // Deleted since.
                        Err(Refusal(ENOENT)) => {}
                        Err(refusal) => return Err(refusal),
                    }
                }
            }
        }
        Ok(entries)
    }

    /// Shows entries behind `offset` to `add` until it says that it has no room for one more. `plus`: with attributes; the kernel is told of each.
    pub(crate) async fn list(
        &self,
        handle: u64,
        offset: u64,
        plus: bool,
        add: &mut (dyn for<'a> FnMut(&Listed<'a>) -> bool + Send),
    ) -> Outcome<()> {
        let directory = self.directories.get(handle).ok_or(Refusal(EBADF))?;
        let mut pages = directory.pages.lock().await;
        if offset == 0 {
            *pages = Pages::default();
        }
        for (at, name) in [(0, &b"."[..]), (1, b"..")] {
            // The kernel knows where `..` leads; only that it has a number matters.
            let dot =
                Listed { name, offset: at + 1, number: directory.number, kind: FileType::Directory, attributes: None };
            if at >= offset && add(&dot) {
                return Ok(());
            }
        }
        let mut at = usize::try_from(offset.saturating_sub(DOTS)).map_err(|_| Refusal(ENOENT))?;
        let (bucket, files, node) = match &directory.of {
            Of::Node(bucket, files, node) => (*bucket, files, node),
            Of::Level(entries) => {
                let attributes = Door::level_attributes();
                for (index, (name, target)) in entries.iter().enumerate().skip(at) {
                    let offset = index as u64 + 1 + DOTS;
                    let place = (None, name.as_bytes());
                    if self.show(target, place, offset, FileType::Directory, plus.then_some(&attributes), add) {
                        break;
                    }
                }
                return Ok(());
            }
        };
        loop {
            let index = at / PAGE_ENTRIES;
            let Some(page) = pages.load(&self.inodes, files, node, index).await? else {
                return Ok(());
            };
            for (place, entry) in page.entries.iter().enumerate().skip(at % PAGE_ENTRIES) {
                let next = if place + 1 < page.entries.len() {
                    index * PAGE_ENTRIES + place + 1
                } else {
                    (index + 1) * PAGE_ENTRIES
                };
                let attributes = match plus {
                    false => None,
                    true => {
                        // The page may have been in hand for long, and the kernel takes this for an answer to a lookup.
                        let now = match page.name_changes == self.inodes.name_changes() {
                            true => files.attributes(&entry.node).await,
                            false => files.lookup(&Caller::root(), node, &entry.name).await,
                        };
                        match now {
                            Ok(attributes) => Some(attributes),
                            Err(error) if error.kind() == ErrorKind::NotFound || error.subject() == Subject::Node => {
                                continue;
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                };
                let there = attributes.as_ref().map_or((entry.node, entry.file_type), |now| (now.node, now.file_type));
                let target = Target::Node(bucket, there.0);
                let next = next as u64 + DOTS;
                let place = (Some(directory.number), &entry.name[..]);
                if self.show(&target, place, next, there.1, attributes.as_ref(), add) {
                    return Ok(());
                }
            }
            if page.is_last {
                return Ok(());
            }
            at = (index + 1) * PAGE_ENTRIES;
        }
    }

    /// True: there was no room for it. The kernel is not told by name of what is above buckets.
    fn show(
        &self,
        target: &Target,
        (parent, name): (Option<u64>, &[u8]),
        offset: u64,
        kind: FileType,
        attributes: Option<&FileAttributes>,
        add: &mut (dyn for<'a> FnMut(&Listed<'a>) -> bool + Send),
    ) -> bool {
        let Some(attributes) = attributes else {
            let number = self.inodes.number(target);
            return add(&Listed { name, offset, number, kind, attributes: None });
        };
        // Counted before the kernel can have it, and forgotten again where there was no room.
        let number = self.inodes.tell(target, None);
        let is_full = add(&Listed { name, offset, number, kind, attributes: Some(attributes) });
        if let Some(parent) = parent.filter(|_| !is_full) {
            self.inodes.tell(target, Some((parent, Bytes::copy_from_slice(name))));
        }
        if is_full || parent.is_some() {
            self.inodes.forget(number, 1);
        }
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use std::collections::BTreeSet;
    use tombolo_core::PutOptions;

    /// `rm -rf` of a large directory ended in "not empty": the kernel began without attributes and went on with them, the page was read again, and
    /// as many live entries were passed over as had gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn entries_that_go_while_a_directory_is_read_hide_no_others() {
        const FILES: usize = PAGE_ENTRIES + 100;
        let (_dir, bucket) = fixture::bucket().await;
        fixture::put(&bucket, (0..FILES).map(|number| format!("{number:04}"))).await;
        let (door, _stale) = fixture::door(&bucket).await;
        let root = Who { uid: 0, gid: 0, thread: std::process::id() };
        let handle = door.open_directory(root, 1).await.unwrap();
        let mut seen = BTreeSet::new();
        let mut offset = 0;
        door.list(handle, 0, false, &mut |listed| {
            let is_full = seen.len() == 100;
            if !is_full {
                seen.insert(listed.name.to_vec());
                offset = listed.offset;
            }
            is_full
        })
        .await
        .unwrap();
        for name in seen.iter().filter(|name| name.len() == 4) {
            bucket.delete(std::str::from_utf8(name).unwrap(), tombolo_core::DeleteOptions::default()).await.unwrap();
        }
        bucket.put("0200", "longer", PutOptions::default()).await.unwrap();
        door.list(handle, offset, true, &mut |listed| {
            let size = listed.attributes.unwrap().size;
            assert_eq!(size, if listed.name == b"0200" { 6 } else { 1 }, "attributes of long ago");
            assert!(seen.insert(listed.name.to_vec()), "twice");
            false
        })
        .await
        .unwrap();
        assert_eq!(seen.len(), FILES + 2, "with `.` and `..`");
    }

    /// A log that is rotated while its directory is read: the page in hand says that the old file has the name, and the kernel took that for an answer to a lookup, for
    /// up to a minute.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_that_leads_elsewhere_by_now_is_told_so() {
        let (_dir, bucket) = fixture::bucket().await;
        fixture::put(&bucket, ["early", "log"]).await;
        let (door, _stale) = fixture::door(&bucket).await;
        let root = Who { uid: 0, gid: 0, thread: std::process::id() };
        let handle = door.open_directory(root, 1).await.unwrap();
        let mut offset = 0;
        let mut first = |listed: &Listed<'_>| {
            let is_full = listed.name == b"log";
            if !is_full {
                offset = listed.offset;
            }
            is_full
        };
        door.list(handle, 0, true, &mut first).await.unwrap();
        let before = door.inodes.name_changes();
        bucket.rename("log", "log.1").await.unwrap();
        let log = bucket.put("log", "x", PutOptions::default()).await.unwrap().node;
        while door.inodes.name_changes() < before + 2 {
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        let mut rest = |listed: &Listed<'_>| {
            told.push((listed.name.to_vec(), listed.attributes.unwrap().node));
            false
        };
        door.list(handle, offset, true, &mut rest).await.unwrap();
        assert_eq!(told, [(b"log".to_vec(), log)]);
    }
}
