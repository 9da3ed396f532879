//! Putting names away whose data is given up, and having them seen again (`docs/notes/0009-gathering-names.md`).
//!
//! A collection puts away what it has found to be given up, in commits of their own: a crash in between leaves stubs, which the next one puts away. Nothing here
//! touches a register, so no other segment hears of it, and nothing that is away is lost by it.

use super::bucket::Bucket;
use super::pins::checked_path;
use super::segment::Segment;
use super::transact;
use crate::error::{ErrorKind, Result};
use crate::id::NodeId;
use crate::kv::{KeyRange, Snapshot, Space};
use crate::namespace::{self, Hold, Holds, NodeRow, Shown, Txn, View, away, keys};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

/// Rows that are looked at, and files that are put away or seen again, in one go.
const BATCH_FILES: usize = 256;

impl Bucket {
    /// Has names below `path` that are away (see [`Gather::names`](crate::Gather::names)) seen again: the file of that key, and all that is below it as if
    /// it were a directory; with a `/` at the end what is in the directory; empty: all of the bucket. They stay for as long as if they had been written
    /// now; [`Bucket::pin`] has them stay. Returns how many files that were.
    pub async fn recall(&self, path: impl AsRef<[u8]>) -> Result<u64> {
        self.bring_back(&checked_path(path)?, Some(self.segment().now_ns())).await
    }

    /// How many files are away.
    pub async fn count_away(&self) -> Result<u64> {
        self.alive()?;
        if !self.state().may_have_away() {
            return Ok(0);
        }
        let (snapshot, mut after, mut count) = (self.segment().store().snapshot().await?, None, 0);
        loop {
            let page = away::page(&snapshot, self.state().number, after).await?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            after = Some(*last);
            count += page.iter().filter(|(_, is_away)| *is_away).count() as u64;
        }
    }

    /// Whether what shows is a name that is away.
    pub(super) async fn is_away(&self, shown: &Shown) -> Result<bool> {
        match away::node_of_name(shown) {
            Some(node) if self.state().may_have_away() => {
                away::is_away(&self.segment().store().snapshot().await?, self.state().number, node).await
            }
            _ => Ok(false),
        }
    }

    /// A file is seen again with what `txn` does.
    pub(super) async fn recall_in(&self, txn: &mut Txn, node: &NodeId) -> Result<()> {
        if self.state().may_have_away() {
            let now_ns = txn.now_ns();
            away::recall(txn, self.state().number, node, Some(now_ns)).await?;
        }
        Ok(())
    }

    /// Has names below `path` seen again. `at_ns`: for as long as if they had been written at that time; `None`: until a collection finds them given up.
    pub(super) async fn bring_back(&self, path: &Bytes, at_ns: Option<i64>) -> Result<u64> {
        self.alive()?;
        let mut count = 0;
        if !self.state().may_have_away() {
            return Ok(count);
        }
        let view = self.view(None).await?;
        if path.is_empty() {
            let mut after = None;
            loop {
                let page = away::page(view.store_snapshot(), self.state().number, after).await?;
                let Some((last, _)) = page.last() else { return Ok(count) };
                after = Some(*last);
                let nodes: Vec<NodeId> = page.into_iter().map(|(node, _)| node).collect();
                count += self.bring_back_files(&nodes, at_ns).await?;
            }
        }
        let (above, name) = namespace::split(path).place();
        let Some(parent) = view.directory(&above).await? else { return Ok(0) };
        let mut directories = Vec::new();
        let as_directory = if namespace::is_directory_name(&name) {
            name
        } else {
            if let Some(shown) = view.shown(&parent, &name).await? {
                count += self
                    .bring_back_files(&away::node_of_name(&shown).copied().into_iter().collect::<Vec<_>>(), at_ns)
                    .await?;
            }
            [name.as_ref(), b"/"].concat().into()
        };
        if let Some(Shown::Directory { node, .. }) = view.shown(&parent, &as_directory).await? {
            directories.push(node);
        }
        while let Some(directory) = directories.pop() {
            let mut cursor = view.entries(directory, Bound::Unbounded);
            let mut files = Vec::new();
            while let Some((_, shown)) = cursor.next().await? {
                if let Shown::Directory { node, .. } = &shown {
                    directories.push(*node);
                }
                files.extend(away::node_of_name(&shown));
                if files.len() == BATCH_FILES {
                    count += self.bring_back_files(&std::mem::take(&mut files), at_ns).await?;
                }
            }
            count += self.bring_back_files(&files, at_ns).await?;
        }
        Ok(count)
    }

    async fn bring_back_files(&self, nodes: &[NodeId], at_ns: Option<i64>) -> Result<u64> {
        let mut count = 0;
        for nodes in nodes.chunks(BATCH_FILES) {
            let (recalled, _) = transact!(self.segment(), txn, {
                self.require(&mut txn).await?;
                let mut recalled = 0;
                for node in nodes {
                    recalled += u64::from(away::recall(&mut txn, self.state().number, node, at_ns).await?);
                }
                recalled
            })?;
            count += recalled;
        }
        Ok(count)
    }
}

impl Segment {
    /// Puts away, of all buckets that gather names, the files whose contents are given up: those that a collection found so in `snapshot`, which it took at or after `now_ns`.
    #[boxed]
    pub(super) async fn put_names_away(&self, snapshot: &Arc<dyn Snapshot>, now_ns: i64) -> Result<()> {
        for info in self.catalog().all_buckets().await? {
            let bucket = match self.catalog().bucket_with_id(&info.id).await {
                // It has gone meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found?,
            };
            if bucket.gather().await?.is_some_and(|gather| gather.names) {
                match bucket.put_names_away(snapshot, now_ns).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

impl Bucket {
    #[boxed]
    async fn put_names_away(&self, snapshot: &Arc<dyn Snapshot>, now_ns: i64) -> Result<()> {
        let (segment, number) = (self.segment(), self.state().number);
        let holds = Holds::new(snapshot, segment.ledger(), self.state(), now_ns).await?;
        let Some(gather) = holds.gather().filter(|gather| gather.names && self.state().is_shared()) else {
            return Ok(());
        };
        let delay_ns = i64::try_from(gather.delay_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let until_ns = now_ns.saturating_sub(delay_ns);
        let view = View::new(snapshot.clone(), segment.id(), self.state(), None);
        let prefix = keys::bucket_prefix(number);
        let mut range = KeyRange::prefix(&prefix);
        loop {
            let page = snapshot.scan(Space::Nodes, range, BATCH_FILES, false).await?;
            let mut files = Vec::new();
            for (key, row) in &page.rows {
                let row = NodeRow::decode(row.clone(), &segment.id())?;
                let (node, _) = keys::parse_entry(key)?;
                if self.goes(&view, &holds, key, &node, &row).await? {
                    files.push((node, row.commit));
                }
            }
            if !files.is_empty() {
                self.state().expect_away();
                transact!(segment, txn, {
                    self.require(&mut txn).await?;
                    Holds::watch(&mut txn, number);
                    // What has been set since the snapshot was taken counts.
                    if self.is_as_in(snapshot).await? {
                        for (node, commit) in &files {
                            away::put_away(&mut txn, number, node, *commit, until_ns).await?;
                        }
                    }
                })?;
            }
            tokio::task::yield_now().await;
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Whether the bucket still gathers as it did, and just the same is pinned.
    async fn is_as_in(&self, snapshot: &Arc<dyn Snapshot>) -> Result<bool> {
        let (now, number) = (self.segment().store().snapshot().await?, self.state().number);
        let pinned = |pins: Vec<crate::Pin>| pins.into_iter().map(|pin| pin.path).collect::<HashSet<_>>();
        Ok(namespace::gather(&now, number).await? == namespace::gather(snapshot, number).await?
            && namespace::keeping(&now, number).await? == namespace::keeping(snapshot, number).await?
            && pinned(namespace::pins(&now, number).await?) == pinned(namespace::pins(snapshot, number).await?))
    }

    /// Whether a file's names go: all that is live of it is given up, no snapshot shows it, nobody has it open, and it is not away already.
    async fn goes(&self, view: &View, holds: &Holds, key: &[u8], node: &NodeId, row: &NodeRow) -> Result<bool> {
        let (segment, number) = (self.segment(), self.state().number);
        let is_file = row.home.is_empty() && !row.names.is_empty() && row.current_version(view.rules()).is_some();
        let is_in_snapshot = || segment.ledger().snapshots(number).iter().any(|commit| row.commit <= *commit);
        if !is_file || is_in_snapshot() || segment.open_nodes().is_in_use(number, node) {
            return Ok(false);
        }
        for (write, _) in row.content.live_values() {
            if holds.of_content(key, row, write).await? != Hold::GivenUp {
                return Ok(false);
            }
        }
        Ok(!away::is_away(view.store_snapshot(), number, node).await?)
    }
}
