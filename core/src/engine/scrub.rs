//! Scrub: reads and verifies every chunk at a bounded rate, and says what is damaged and who needs it.

use super::bucket::Bucket;
use super::contents::LocalNodes;
use super::pool::received;
use super::segment::Segment;
use crate::chunk::Location;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::ChunkId;
use crate::kv::{KeyRange, Space};
use crate::manifest::{Child, Extent, Manifest, Node, Root, Source};
use crate::namespace::{Content, Shown, View};
use crate::object::{GetOptions, ListVersionsOptions, ScrubReport, VersionItem};
use async_recursion::async_recursion as boxed;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashSet;
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// The most lines of damage, and of affected keys, in a report.
const LINES_MAX: usize = 1000;
const BATCH_ROWS: usize = 256;

impl Segment {
    /// Reads and verifies every chunk that the index knows, at most `bytes_per_second` (0: unlimited); calls `progress` with (bytes
    /// done, bytes in total). What is damaged is brought anew from where [`Segment::set_chunk_source`] says, if it can be had there; else it counts
    /// in [`Segment::status`] from then on, and is stored anew when it is written again.
    pub async fn scrub(&self, bytes_per_second: u64, mut progress: impl FnMut(u64, u64) + Send) -> Result<ScrubReport> {
        let contents = self.contents().clone();
        let total = contents.packs().stored_bytes();
        let mut report = ScrubReport { packs: contents.packs().packs().len() as u64, ..ScrubReport::default() };
        let mut damaged = HashSet::new();
        let began = Instant::now();
        let mut range = KeyRange::prefix(b"");
        loop {
            // A view of its own for each page: a slow scrub takes days, and the store keeps all that changes while a view is held.
            let view = self.store().snapshot().await?;
            let page = view.scan(Space::Chunks, range, BATCH_ROWS, false).await?;
            drop(view);
            let mut reads = Vec::with_capacity(page.rows.len());
            for (key, row) in &page.rows {
                let (id, location) = (ChunkId::from_slice(key)?, Location::decode(row)?);
                let this = contents.clone();
                reads.push((id, location, contents.pool.submit(move || this.packs().read(&id, &location).map(drop))));
            }
            let (mut well, mut broken) = (Vec::new(), Vec::new());
            for (id, location, read) in reads {
                report.chunks += 1;
                report.bytes += u64::from(location.stored);
                let read = received(read.await)?;
                if read.is_ok() && !contents.damage.has(&id) {
                    continue;
                }
                // A collection may have moved or dropped it since the snapshot.
                let now = self.store().get(Space::Chunks, &id.0).await?;
                let is_still_there = now.is_some_and(|row| Location::decode(&row).is_ok_and(|now| now == location));
                match read {
                    _ if !is_still_there => {}
                    Ok(()) => well.push(id),
                    Err(error) if error.kind() == ErrorKind::Damaged => broken.push((id, error)),
                    Err(error) => return Err(error),
                }
            }
            contents.damage.forget(&well).await;
            let ids: Vec<ChunkId> = broken.iter().map(|(id, _)| *id).collect();
            contents.damage.note(&ids).await;
            // All of them are asked for before the first is waited for.
            contents.ask(&ids).await?;
            for (id, error) in broken {
                match contents.mend(&id, error).await {
                    Ok(()) => report.healed += 1,
                    Err(error) => {
                        damaged.insert(id);
                        report.damage_count += 1;
                        if report.damage.len() < LINES_MAX {
                            report.damage.push(error.to_string());
                        }
                    }
                }
            }
            progress(report.bytes.min(total), total);
            if bytes_per_second > 0 {
                let due = began + Duration::from_secs_f64(report.bytes as f64 / bytes_per_second as f64);
                tokio::time::sleep_until(due).await;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(b"", last.clone()),
                _ => break,
            }
        }
        self.find_affected(&damaged, &mut report).await?;
        self.forget_damage_of_what_is_gone().await?;
        Ok(report)
    }

    async fn forget_damage_of_what_is_gone(&self) -> Result<()> {
        let mut gone = Vec::new();
        for id in self.contents().damage.all() {
            if self.store().get(Space::Chunks, &id.0).await?.is_none() {
                gone.push(id);
            }
        }
        self.contents().damage.forget(&gone).await;
        Ok(())
    }

    /// The keys whose current version needs a chunk that is damaged or not there at all, and the older versions that need a damaged one.
    #[boxed]
    async fn find_affected(&self, damaged: &HashSet<ChunkId>, report: &mut ScrubReport) -> Result<()> {
        let catalog = self.catalog();
        for cluster in catalog.clusters().await? {
            for tenant in catalog.tenants(&cluster).await? {
                for info in catalog.buckets(&tenant).await? {
                    let bucket = match self.bucket(&info.path).await {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        bucket => bucket?,
                    };
                    let walked = async {
                        let view = bucket.view(None).await?;
                        self.walk(&view, &info.path.to_string(), damaged, report).await?;
                        if !damaged.is_empty() {
                            self.walk_versions(&bucket, damaged, report).await?;
                        }
                        Ok(())
                    };
                    let walked: Result<()> = walked.await;
                    match walked {
                        // It was deleted meanwhile.
                        Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Bucket => {}
                        walked => walked?,
                    }
                }
            }
        }
        Ok(())
    }

    async fn walk(
        &self,
        view: &View,
        bucket: &str,
        damaged: &HashSet<ChunkId>,
        report: &mut ScrubReport,
    ) -> Result<()> {
        let mut directories = vec![(crate::NodeId::ROOT, Bytes::new())];
        while let Some((directory, path)) = directories.pop() {
            let mut cursor = view.entries(directory, Bound::Unbounded);
            while let Some((name, shown)) = cursor.next().await? {
                let mut key = BytesMut::from(path.as_ref());
                key.put_slice(&name);
                let key = key.freeze();
                let (node, wanted) = match shown {
                    Shown::File(file) => (file.node, file.content),
                    Shown::Directory { node, explicit } => {
                        directories.push((node, key.clone()));
                        if explicit.is_none() {
                            continue;
                        }
                        (node, None)
                    }
                };
                let row = view.node(&node).await?;
                let write = row.shown_content(wanted, view.rules());
                let Some(Content::Manifest(manifest)) = write.and_then(|w| w.value.as_ref()).map(|v| v.content.clone())
                else {
                    continue;
                };
                if let Err(error) = self.check(&manifest, damaged).await {
                    let line = format!("{bucket}/{}", String::from_utf8_lossy(&key));
                    affected(report, line, &error);
                }
            }
        }
        Ok(())
    }

    /// Names the versions of a bucket that don't show, and need what is damaged.
    async fn walk_versions(&self, bucket: &Bucket, damaged: &HashSet<ChunkId>, report: &mut ScrubReport) -> Result<()> {
        let (mut after, mut after_version) = (None, None);
        loop {
            let options =
                ListVersionsOptions { after, after_version, limit: BATCH_ROWS, ..ListVersionsOptions::default() };
            let page = bucket.list_versions(options).await?;
            for item in &page.items {
                let VersionItem::Version { summary, version, is_current: false, is_marker: false, .. } = item else {
                    continue;
                };
                let options = GetOptions { version: Some(*version), ..GetOptions::default() };
                let object = match bucket.get(&summary.key, options).await {
                    // It has gone meanwhile.
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound) => continue,
                    object => object?,
                };
                if let Content::Manifest(manifest) = object.content()
                    && let Err(error) = self.check(manifest, damaged).await
                {
                    let path = &bucket.state().path;
                    let line = format!("{path}/{} (version {version})", String::from_utf8_lossy(&summary.key));
                    affected(report, line, &error);
                }
            }
            match page.next {
                Some((key, version)) => (after, after_version) = (Some(key), version),
                None => return Ok(()),
            }
        }
    }

    /// Whether all chunks of a manifest are in the index, or may still come, and none is damaged. Memory for its nodes, which are a small part of them. Others made it, and
    /// may mean harm: a node is walked once, wherever it is referred to.
    async fn check(&self, manifest: &Manifest, damaged: &HashSet<ChunkId>) -> Result<()> {
        let contents = self.contents().clone();
        let nodes = LocalNodes(contents.clone());
        let located = async |id: &ChunkId| {
            if damaged.contains(id) {
                return Err(Error::damaged(format!("needs the damaged chunk {id}")));
            }
            match contents.located(id).await {
                Err(error) if error.kind() != ErrorKind::Offline => Err(error),
                _ => Ok(()),
            }
        };
        let (mut waiting, mut seen) = (Vec::new(), HashSet::new());
        let chunks = |extents: &[Extent]| {
            let chunk = |extent: &Extent| match &extent.source {
                Source::Chunk { id, .. } => Some(*id),
                _ => None,
            };
            extents.iter().filter_map(chunk).collect::<Vec<_>>()
        };
        let mut here = match manifest.root() {
            Root::Empty => Vec::new(),
            Root::Extents(extents) => chunks(extents),
            Root::Tree { id, depth } => {
                waiting.push((Child { length: manifest.size(), id: *id }, depth.saturating_sub(1)));
                Vec::new()
            }
        };
        loop {
            for id in std::mem::take(&mut here) {
                located(&id).await?;
            }
            let Some((child, level)) = waiting.pop() else { return Ok(()) };
            if !seen.insert(child.id) {
                continue;
            }
            located(&child.id).await?;
            match Node::read(&nodes, &child, level).await {
                Ok(Node::Leaf(extents)) => here = chunks(&extents),
                Ok(Node::Inner { children, .. }) => {
                    waiting.extend(children.into_iter().rev().map(|child| (child, level - 1)));
                }
                // What is below it may still come, too.
                Err(error) if error.kind() == ErrorKind::Offline => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Notes that something needs what is damaged.
fn affected(report: &mut ScrubReport, line: String, error: &Error) {
    report.affected_count += 1;
    report.damage_count += 1;
    if report.damage.len() < LINES_MAX {
        report.damage.push(format!("{line}: {error}"));
    }
    if report.affected.len() < LINES_MAX {
        report.affected.push(line);
    }
}
