//! Snapshots and clones. A snapshot is a commit number: taking one costs a row, and later changes keep what they overwrite. A clone
//! is a new bucket with the same tree, sharing all content.

use super::bucket::Bucket;
use super::catalog::{create, remove};
use super::segment::Segment;
use super::transact;
use crate::catalog::{self, CatalogRow, CatalogValue};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::kv::{KeyRange, Space};
use crate::namespace::{self, NewVersion, Shown, keys};
use crate::object::{Condition, SnapshotInfo};
use crate::path::{BucketPath, check_name};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

/// How many files a clone commits in one go.
const CLONE_BATCH: usize = 256;

impl Segment {
    /// Drops what deletions of snapshots have left that were interrupted, or lacked the room.
    pub(super) async fn drop_left_past(&self) -> Result<()> {
        let buckets = self.bucket_numbers().await?;
        for id in buckets.values() {
            let dropped = match self.catalog().bucket_with_id(id).await {
                Ok(bucket) => bucket.drop_past().await,
                Err(error) => Err(error),
            };
            match dropped {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // The room that this takes is made by the collection.
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    tracing::warn!(%error, "what snapshots have left stays for lack of space");
                }
                dropped => dropped?,
            }
        }
        Ok(())
    }
}

impl Bucket {
    /// Keeps the bucket's present state readable under `name`.
    pub async fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        check_name(name)?;
        self.settle_files().await;
        let created_ns = self.segment().now_ns();
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            txn.marks_snapshot(self.state().number);
            let key = catalog::snapshot_key(&self.state().id, name);
            create(&mut txn, key, CatalogValue::Snapshot { created_ns }, Subject::Snapshot, name).await?
        })?;
        Ok(SnapshotInfo { name: name.to_owned(), created_ns })
    }

    /// The commit that a snapshot shows.
    pub(super) async fn snapshot_commit(&self, name: &str) -> Result<u64> {
        let key = catalog::snapshot_key(&self.state().id, name);
        let row = self.segment().store().get(Space::Catalog, &key).await?;
        let missing = || Error::not_found(Subject::Snapshot, format!("{} has no snapshot '{name}'", self.state().path));
        Ok(CatalogRow::decode(row.ok_or_else(missing)?, &self.segment().id())?.commit)
    }

    /// Gives a snapshot up, and what only it kept.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        let commit = self.snapshot_commit(name).await?;
        let (bucket, name) = (self.clone(), name.to_owned());
        // Whoever asked for it may go away: what is gone must not be kept rows for.
        let deleting = tokio::spawn(async move {
            transact!(bucket.segment(), txn, {
                let key = catalog::snapshot_key(&bucket.state().id, &name);
                remove(&mut txn, key, Subject::Snapshot, &name).await?
            })?;
            bucket.segment().ledger().remove_snapshot(bucket.state().number, commit);
            Result::Ok(())
        });
        let broken = |error| Error::new(ErrorKind::Failed, "deleting a snapshot broke off").because(error);
        deleting.await.map_err(broken)??;
        self.drop_past().await
    }

    /// Drops kept rows that no snapshot shows. A crash on the way leaves garbage, which the next call finds, or the next collection.
    pub(super) async fn drop_past(&self) -> Result<()> {
        let prefix = keys::bucket_prefix(self.state().number);
        let mut range = KeyRange::prefix(&prefix);
        loop {
            let view = self.segment().store().snapshot().await?;
            // After the view: a snapshot that is not among these is later than all rows in it, and needs none of them.
            let left = self.segment().ledger().snapshots(self.state().number);
            let page = view.scan(Space::Past, range, 1024, false).await?;
            let mut unseen = Vec::new();
            for (key, row) in &page.rows {
                let (_, _, superseded) = keys::parse_past(key)?;
                let written = namespace::row_commit(row)?;
                if !left.iter().any(|at| written <= *at && *at < superseded) {
                    unseen.push(key);
                }
            }
            if !unseen.is_empty() {
                transact!(self.segment(), txn, {
                    unseen.iter().for_each(|key| txn.delete(Space::Past, Bytes::clone(key)));
                })?;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The bucket's snapshots, by name.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.alive()?;
        let rows = self.segment().catalog().rows(catalog::level_prefix(5, &[&self.state().id.to_string()])).await?;
        Ok(rows
            .into_iter()
            .filter_map(|(names, value)| match (names.into_iter().nth(1), value) {
                (Some(name), CatalogValue::Snapshot { created_ns }) => Some(SnapshotInfo { name, created_ns }),
                _ => None,
            })
            .collect())
    }

    /// Makes `target`, a new bucket with this one's policy, a writable copy of `prefix` as `snapshot` saw it (`None`: as it is now),
    /// sharing all content. Returns the number of files and explicit directories. A failure half way leaves a bucket with a part of it.
    pub async fn clone_to(&self, target: &BucketPath, prefix: &[u8], snapshot: Option<&str>) -> Result<u64> {
        self.settle_files().await;
        // Rows, and the content they refer to, must stay while they are copied: hold on to a snapshot, and keep collections out.
        let soon = self.segment().collects_soon();
        let collecting = Arc::new(self.segment().0.collecting.clone().lock_owned().await);
        drop(soon);
        let view = self.view(snapshot).await?;
        let copy = self.segment().catalog().create_bucket(target, (*self.state().policy()).clone()).await?;
        let mut walk = vec![(NodeId::ROOT, Bytes::new(), Bound::Unbounded)];
        let mut nodes: HashMap<NodeId, Bytes> = HashMap::new();
        let mut cloned = 0;
        while let Some((directory, path, start)) = walk.pop() {
            let mut cursor = view.entries(directory, start);
            let mut batch = Vec::new();
            let mut resume = None;
            while let Some((name, shown)) = cursor.next().await? {
                let mut key = BytesMut::from(path.as_ref());
                key.put_slice(&name);
                let key = key.freeze();
                if let Shown::Directory { node, .. } = &shown
                    && (key.starts_with(prefix) || prefix.starts_with(&key))
                {
                    walk.push((*node, key.clone(), Bound::Unbounded));
                }
                if key.starts_with(prefix) {
                    batch.push((key, shown));
                }
                if batch.len() >= CLONE_BATCH {
                    resume = Some(name);
                    break;
                }
            }
            if let Some(name) = resume {
                walk.insert(0, (directory, path, Bound::Excluded(name)));
            }
            cloned += copy.clone_batch(&view, batch, &mut nodes, &collecting).await?;
        }
        Ok(cloned)
    }

    async fn clone_batch(
        &self,
        view: &namespace::View,
        batch: Vec<(Bytes, Shown)>,
        nodes: &mut HashMap<NodeId, Bytes>,
        collecting: &Arc<tokio::sync::OwnedMutexGuard<()>>,
    ) -> Result<u64> {
        let mut cloned = 0;
        let mut rows = Vec::new();
        for (key, shown) in batch {
            let node = match &shown {
                Shown::File(file) => file.node,
                Shown::Directory { node, .. } => *node,
            };
            rows.push((key, shown, view.node(&node).await?));
        }
        transact!(self.segment(), txn, {
            cloned = 0;
            // A collection that began before the commit would not see what it refers to.
            txn.hold(collecting.clone());
            for (key, shown, row) in &rows {
                let (directories, name) = namespace::split(key).place();
                match shown {
                    Shown::File(file) => {
                        if let Some(first) = nodes.get(&file.node).filter(|first| *first != key && !file.is_apart) {
                            let from = namespace::split(first).place();
                            let parent = namespace::make_directories(&mut txn, self.state(), &from.0, true).await?;
                            let into = namespace::make_directories(&mut txn, self.state(), &directories, true).await?;
                            namespace::link(&mut txn, self.state(), &(parent, from.1), &(into, name)).await?;
                            cloned += 1;
                            continue;
                        }
                        let write = row.shown_content(file.content, view.rules());
                        let version = write.and_then(|write| Some((write, write.value.clone()?)));
                        let (write, version) = version.ok_or_else(|| Error::damaged("a file has no content"))?;
                        let attributes = row.shown_attributes().map(|a| a.attributes.clone());
                        let modified_ns = file.modified_ns;
                        let tags = namespace::tags_of(row, write);
                        let version = namespace::Version { modified_ns, tags, deleted: None, ..version };
                        let new = NewVersion { version, attributes, unlinks: false };
                        let stored = namespace::put(&mut txn, self.state(), key, new, &Condition::default()).await?;
                        namespace::want_copy(&mut txn, self.state(), stored.dot, &stored.version).await?;
                        cloned += 1;
                        if row.names.len() > 1 && !file.is_apart {
                            nodes.insert(file.node, key.clone());
                        }
                    }
                    Shown::Directory { explicit, .. } => {
                        let attributes = row.shown_attributes().map(|a| a.attributes.clone());
                        let node = match (explicit, row.content.value()) {
                            (Some(_), Some(version)) => {
                                let new = NewVersion { version: version.clone(), attributes: None, unlinks: false };
                                namespace::put(&mut txn, self.state(), key, new, &Condition::default()).await?.node
                            }
                            (Some(object), None) => {
                                let parent =
                                    namespace::make_directories(&mut txn, self.state(), &directories, true).await?;
                                let node = namespace::mkdir(&mut txn, self.state(), &parent, &name).await?;
                                namespace::set_modified(&mut txn, self.state(), &(parent, name), object.modified_ns)
                                    .await?;
                                node
                            }
                            // Implied again by what is below it.
                            (None, _) => continue,
                        };
                        cloned += 1;
                        namespace::set_attributes(&mut txn, self.state(), &node, attributes, None).await?;
                    }
                }
            }
        })?;
        Ok(cloned)
    }
}
