//! Taking names away, and moving them.

use super::find::{Entry, Rows, with_slash};
use super::make::entries_changed;
use super::{Access, Caller, DirectoryChange, FileAttributes, FileSystem, RenameMode, names};
use crate::engine::transact;
use crate::error::{Error, Result, Subject};
use crate::id::NodeId;
use crate::namespace::{self, Leave, Place, Shown, Txn};
use crate::object::FileType;
use bytes::Bytes;

impl FileSystem {
    /// Takes a name away that is not a directory's. Also tells the node, for doors that keep it open.
    pub async fn unlink(&self, caller: &Caller, directory: &NodeId, name: &[u8]) -> Result<(NodeId, DirectoryChange)> {
        let ((there, parent), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let parent = self.directory_in(&mut txn, directory).await?;
            caller.must(&parent, Access::EXECUTE)?;
            let (stored, shown) = self.must_find(&mut txn, directory, name).await?;
            let there = self.attributes_in(&mut txn, &shown.identity(directory, &stored)).await?;
            caller.must_take(&parent, &there)?;
            if there.file_type == FileType::Directory {
                return Err(Error::invalid("it is a directory; rmdir removes it").about(Subject::IsDirectory));
            }
            self.take_file(&mut txn, &(*directory, stored)).await?;
            self.bucket.settle(&mut txn).await?;
            (there, parent)
        })?;
        let node = there.node;
        self.has_lost_a_name(there, sequenced.wall_ns);
        Ok((node, entries_changed(parent, 0, &sequenced)))
    }

    async fn take_file(&self, txn: &mut Txn, place: &Place) -> Result<()> {
        namespace::remove_file(txn, self.bucket.state(), place, Leave::History).await?;
        namespace::leave_marker_of_removal(txn, self.bucket.state(), place).await?;
        namespace::keep_directory(txn, self.bucket.state(), &place.0, &place.1).await
    }

    fn has_lost_a_name(&self, last: FileAttributes, changed_ns: i64) {
        if last.links <= 1 {
            let last = FileAttributes { links: 0, changed_ns, ..last };
            self.bucket.segment().open_nodes().unlinked(self.bucket.state().number, last);
        }
    }

    /// Removes an empty directory.
    pub async fn remove_directory(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
    ) -> Result<(NodeId, DirectoryChange)> {
        match name {
            b"." => return Err(Error::invalid("'.' can't be removed")),
            b".." => return Err(not_empty(name)),
            _ => {}
        }
        let ((node, parent), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let parent = self.directory_in(&mut txn, directory).await?;
            caller.must(&parent, Access::EXECUTE)?;
            let (stored, shown) = self.must_find(&mut txn, directory, name).await?;
            let there = self.attributes_in(&mut txn, &shown.identity(directory, &stored)).await?;
            caller.must_take(&parent, &there)?;
            super::node::must_be_directory(&there)?;
            namespace::rmdir(&mut txn, self.bucket.state(), directory, &stored).await?;
            self.bucket.settle(&mut txn).await?;
            (there.node, parent)
        })?;
        Ok((node, entries_changed(parent, -1, &sequenced)))
    }

    /// Renames. The changes are those of the source's and the target's directory.
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (&NodeId, &[u8]),
        to: (&NodeId, &[u8]),
        mode: RenameMode,
    ) -> Result<(DirectoryChange, DirectoryChange)> {
        if [from.1, to.1].iter().any(|name| *name == b"." || *name == b"..") {
            return Err(Error::invalid("'.' and '..' can't be renamed"));
        }
        let nodes = self.bucket.segment().open_nodes();
        if nodes.has_closed()
            && let Some((stored, shown)) = self.find(Rows::Now(self), from.0, from.1).await?
        {
            nodes.settle_node(self.bucket.state().number, &shown.identity(from.0, &stored)).await?;
        }
        let ((parents, lost, directories), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let parents = (self.directory_in(&mut txn, from.0).await?, self.directory_in(&mut txn, to.0).await?);
            caller.must(&parents.0, Access::EXECUTE)?;
            caller.must(&parents.1, Access::EXECUTE)?;
            let source = self.must_find(&mut txn, from.0, from.1).await?;
            let moved = self.attributes_in(&mut txn, &source.1.identity(from.0, &source.0)).await?;
            let target = self.find(Rows::In(&mut txn), to.0, to.1).await?;
            caller.must_take(&parents.0, &moved)?;
            let replaced = match &target {
                Some((stored, shown)) => Some(self.attributes_in(&mut txn, &shown.identity(to.0, stored)).await?),
                None => None,
            };
            match &replaced {
                Some(replaced) => caller.must_take(&parents.1, replaced)?,
                None => caller.must(&parents.1, Access::CHANGE)?,
            }
            if from.0 != to.0 {
                // Its '..' changes, which is an entry of its own.
                let write = Access { read: false, write: true, execute: false };
                for node in
                    [Some(&moved), replaced.as_ref().filter(|_| mode == RenameMode::Exchange)].into_iter().flatten()
                {
                    if node.file_type == FileType::Directory {
                        caller.must(node, write)?;
                    }
                }
            }
            // How many directories more are in each parent.
            let is_directory = |node: &FileAttributes| i32::from(node.file_type == FileType::Directory);
            let (comes, goes) = (is_directory(&moved), replaced.as_ref().map_or(0, is_directory));
            let directories = match mode {
                _ if replaced.as_ref().is_some_and(|replaced| replaced.node == moved.node) => (0, 0),
                _ if from.0 == to.0 && mode == RenameMode::Exchange => (0, 0),
                _ if from.0 == to.0 => (-goes, -goes),
                RenameMode::Exchange => (goes - comes, comes - goes),
                _ => (-comes, comes - goes),
            };
            let lost = match (mode, target) {
                (RenameMode::NoReplace, Some(_)) => {
                    return Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(to.1))));
                }
                (RenameMode::Exchange, None) => {
                    let text = format!("there is no '{}'", String::from_utf8_lossy(to.1));
                    return Err(Error::not_found(Subject::Key, text));
                }
                (RenameMode::Exchange, Some(target)) => {
                    self.exchange(&mut txn, (*from.0, source), (*to.0, target)).await?;
                    None
                }
                (_, target) => self.replace(&mut txn, (from.0, source), to, (target, replaced)).await?,
            };
            self.bucket.settle(&mut txn).await?;
            (parents, lost, directories)
        })?;
        if let Some(lost) = lost {
            self.has_lost_a_name(lost, sequenced.wall_ns);
        }
        Ok((
            entries_changed(parents.0, directories.0, &sequenced),
            entries_changed(parents.1, directories.1, &sequenced),
        ))
    }

    /// Moves `source` to the name `to`, in place of the target there; tells the file that has lost a name by it.
    async fn replace(
        &self,
        txn: &mut Txn,
        (from, source): (&NodeId, Entry),
        to: (&NodeId, &[u8]),
        (target, replaced): (Option<Entry>, Option<FileAttributes>),
    ) -> Result<Option<FileAttributes>> {
        let is_directory = matches!(source.1, Shown::Directory { .. });
        match &target {
            Some((stored, shown)) if shown.identity(to.0, stored) == source.1.identity(from, &source.0) => {
                return Ok(None);
            }
            Some((_, Shown::Directory { .. })) if !is_directory => {
                return Err(Error::invalid("a directory is in the way").about(Subject::IsDirectory));
            }
            Some((_, Shown::File(_))) if is_directory => {
                return Err(Error::invalid("a file is in the way").about(Subject::NotDirectory));
            }
            _ => {}
        }
        let stored = match target {
            Some((stored, _)) => stored,
            None if is_directory => with_slash(&names::new(to.1)?),
            None => names::new(to.1)?,
        };
        self.move_entry(txn, (*from, source.0), (*to.0, stored), is_directory).await?;
        Ok(replaced.filter(|node| node.file_type != FileType::Directory))
    }

    async fn move_entry(&self, txn: &mut Txn, from: Place, to: Place, is_directory: bool) -> Result<()> {
        if is_directory {
            namespace::rename_directory(txn, self.bucket.state(), &from, &to).await
        } else {
            namespace::rename_file(txn, self.bucket.state(), &from, &to).await
        }
    }

    async fn exchange(&self, txn: &mut Txn, a: (NodeId, Entry), b: (NodeId, Entry)) -> Result<()> {
        let ((a_parent, (a_name, a_shown)), (b_parent, (b_name, b_shown))) = (a, b);
        if a_shown.identity(&a_parent, &a_name) == b_shown.identity(&b_parent, &b_name) {
            return Ok(());
        }
        let is_directory = |shown: &Shown| matches!(shown, Shown::Directory { .. });
        let named = |name: &Bytes, as_directory: bool| {
            let plain = name.strip_suffix(b"/").unwrap_or(name);
            if as_directory { with_slash(plain) } else { Bytes::copy_from_slice(plain) }
        };
        let (a_is, b_is) = (is_directory(&a_shown), is_directory(&b_shown));
        let half_way = (a_parent, named(&Bytes::from_static(namespace::HALF_WAY), a_is));
        // Neither may end up below itself: the first move of each checks it.
        self.move_entry(txn, (a_parent, a_name.clone()), half_way.clone(), a_is).await?;
        self.move_entry(txn, (b_parent, b_name.clone()), (a_parent, named(&a_name, b_is)), b_is).await?;
        self.move_entry(txn, half_way, (b_parent, named(&b_name, a_is)), a_is).await
    }
}

fn not_empty(name: &[u8]) -> Error {
    let text = format!("the directory '{}' is not empty", String::from_utf8_lossy(name));
    Error::new(crate::ErrorKind::NotEmpty, text).about(Subject::Key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture;
    use crate::engine::fs::{CreateMode, ROOT, SetAttributes};
    use crate::{BucketPolicy, ListVersionsOptions, VersionItem, Versioning};

    /// The name that one of them goes by meanwhile was kept as a version of its own, with a delete marker on it.
    #[tokio::test]
    async fn an_exchange_leaves_no_name_behind() {
        let policy = BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() };
        let (_dir, _segment, bucket) = fixture::bucket(policy).await;
        let (files, root) = (bucket.file_system(), Caller::root());
        let mut nodes = Vec::new();
        for name in ["a", "b"] {
            let made = files.create(&root, &ROOT, name.as_bytes(), CreateMode::Guarded, SetAttributes::default()).await;
            nodes.push(made.unwrap().attributes.node);
        }
        files.rename(&root, (&ROOT, b"a"), (&ROOT, b"b"), RenameMode::Exchange).await.unwrap();
        for (name, node) in ["b", "a"].iter().zip(nodes) {
            assert_eq!(files.lookup(&root, &ROOT, name.as_bytes()).await.unwrap().node, node);
        }
        let options = ListVersionsOptions { limit: 100, ..ListVersionsOptions::default() };
        let listed = bucket.list_versions(options).await.unwrap().items;
        assert!(listed.len() >= 2);
        for item in &listed {
            let VersionItem::Version { summary, .. } = item else { panic!("{item:?}") };
            assert!(matches!(&summary.key[..], b"a" | b"b"), "{item:?}");
        }
    }
}
