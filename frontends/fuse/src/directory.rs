//! Open directories.
//!
//! The kernel asks for entries behind an offset. Offsets count the entries that a handle has shown, and are good for that handle alone: it
//! keeps one page of entries, and where each page began, so going back (`seekdir`) reads a page again. Offset 0 begins anew.

use crate::caller::{Who, as_caller};
use crate::door::{Door, EBADF, ENOENT, Outcome, Refusal};
use crate::target::{Level, Target};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Mutex;
use tombolo_core::engine::fs::{Access, FileAttributes, FileEntry, FileSystem};
use tombolo_core::{Error, ErrorKind, FileType, NodeId};

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
    index: usize,
    has_attributes: bool,
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
    async fn load(&mut self, files: &FileSystem, node: &NodeId, index: usize, plus: bool) -> Outcome<Option<&Page>> {
        let is_there = self.current.as_ref().is_some_and(|page| page.index == index && (page.has_attributes || !plus));
        if !is_there {
            let before = match index.checked_sub(1) {
                None => None,
                Some(previous) => match self.starts.get(previous) {
                    Some(start) => Some(start.clone()),
                    None => return Ok(None),
                },
            };
            let page = files.read_directory(None, node, before.as_deref(), PAGE_ENTRIES, plus).await?;
            let mut last = page.entries.last().map(|entry| entry.position.clone());
            if last.is_none() && !page.is_end {
                // All of them have gone since they were found; where they were is still the way to the next.
                let names = files.read_directory(None, node, before.as_deref(), PAGE_ENTRIES, false).await?;
                last = names.entries.last().map(|entry| entry.position.clone());
            }
            self.starts.truncate(index);
            if let Some(last) = last.filter(|_| !page.is_end) {
                self.starts.push(last);
            }
            let is_last = self.starts.len() == index;
            self.current = Some(Page { index, has_attributes: plus, is_last, entries: page.entries });
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
                    if self.show(target, name.as_bytes(), offset, FileType::Directory, plus.then_some(&attributes), add)
                    {
                        break;
                    }
                }
                return Ok(());
            }
        };
        loop {
            let index = at / PAGE_ENTRIES;
            let Some(page) = pages.load(files, node, index, plus).await? else {
                return Ok(());
            };
            for (place, entry) in page.entries.iter().enumerate().skip(at % PAGE_ENTRIES) {
                let next = if place + 1 < page.entries.len() {
                    index * PAGE_ENTRIES + place + 1
                } else {
                    (index + 1) * PAGE_ENTRIES
                };
                let target = Target::Node(bucket, entry.node);
                let attributes = entry.attributes.as_ref().filter(|_| plus);
                if self.show(&target, &entry.name, next as u64 + DOTS, entry.file_type, attributes, add) {
                    return Ok(());
                }
            }
            if page.is_last {
                return Ok(());
            }
            at = (index + 1) * PAGE_ENTRIES;
        }
    }

    /// True: there was no room for it.
    fn show(
        &self,
        target: &Target,
        name: &[u8],
        offset: u64,
        kind: FileType,
        attributes: Option<&FileAttributes>,
        add: &mut (dyn for<'a> FnMut(&Listed<'a>) -> bool + Send),
    ) -> bool {
        let number = if attributes.is_some() { self.inodes.tell(target) } else { self.inodes.number(target) };
        let is_full = add(&Listed { name, offset, number, kind, attributes });
        if is_full && attributes.is_some() {
            self.inodes.forget(number, 1);
        }
        is_full
    }
}
