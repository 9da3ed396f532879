//! Files and directories of a bucket, for callers that think in paths: a path is a key, a directory's may end in `/` or not.

use super::bucket::{Bucket, checked};
use super::transact;
use crate::error::{Error, Result, Subject};
use crate::id::{NodeId, VersionId};
use crate::kv::Space;
use crate::namespace::{self, MD5_OF_NOTHING, Shown, Txn, keys, split};
use crate::object::{Attributes, DirEntry, Etag, FileType, ObjectInfo, TimeNs};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Bound;

/// `path` without trailing slashes, split into the directories above and the name.
struct Target {
    directories: Vec<Bytes>,
    name: Bytes,
    /// The path said that it must be a directory.
    is_directory: bool,
}

fn target(path: impl AsRef<[u8]>) -> Result<Target> {
    let key = checked(path)?;
    let is_directory = key.last() == Some(&b'/');
    let trimmed = if is_directory { key.slice(..key.len() - 1) } else { key };
    let parts = split(&trimmed);
    if parts.leaf.is_empty() {
        return Err(Error::invalid("a path needs a name at its end"));
    }
    Ok(Target { directories: parts.directories, name: parts.leaf, is_directory })
}

fn with_slash(name: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + 1);
    out.put_slice(name);
    out.put_u8(b'/');
    out.freeze()
}

fn missing(path: &[u8]) -> Error {
    Error::not_found(Subject::Key, format!("there is no file or directory '{}'", String::from_utf8_lossy(path)))
}

impl Bucket {
    async fn parent(&self, txn: &mut Txn, target: &Target) -> Result<NodeId> {
        namespace::find_directory(txn, self.state(), &target.directories)
            .await?
            .ok_or_else(|| missing(&target.directories.concat()))
    }

    /// Makes a directory that stays when it is empty. Its parent must exist; [`ErrorKind::Exists`](crate::ErrorKind::Exists) if something has the name.
    pub async fn mkdir(&self, path: impl AsRef<[u8]>, attributes: Attributes) -> Result<()> {
        let path = checked(path)?;
        let to = target(&path)?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let parent = self.parent(&mut txn, &to).await?;
            let number = self.state().number;
            if txn.entry(number, &parent, &to.name).await?.shown.is_some() {
                return Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(&path))));
            }
            let policy = self.state().policy();
            txn.limit(number, policy.quota_bytes, policy.quota_objects);
            let node = namespace::mkdir(&mut txn, self.state(), &parent, &with_slash(&to.name)).await?;
            self.settle(&mut txn).await?;
            if attributes != Attributes::default() {
                namespace::set_attributes(&mut txn, self.state(), &node, Some(attributes.clone()), None).await?;
            }
        })?;
        self.segment().announce(self.state(), &path);
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let path = checked(path)?;
        let to = target(&path)?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let parent = self.parent(&mut txn, &to).await?;
            namespace::rmdir(&mut txn, self.state(), &parent, &with_slash(&to.name)).await?;
            self.settle(&mut txn).await?;
        })?;
        self.segment().announce(self.state(), &path);
        Ok(())
    }

    /// Renames a file, or a directory with all below it in one step. A file replaces a file, a directory an empty directory; the
    /// target's parent must exist.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let (from_path, to_path) = (checked(from)?, checked(to)?);
        let (from, to) = (target(&from_path)?, target(&to_path)?);
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let number = self.state().number;
            let (source, into) = (self.parent(&mut txn, &from).await?, self.parent(&mut txn, &to).await?);
            let is_file = !from.is_directory && txn.entry(number, &source, &from.name).await?.shown.is_some();
            if is_file {
                if to.is_directory || txn.entry(number, &into, &with_slash(&to.name)).await?.shown.is_some() {
                    let text =
                        format!("'{}' is a directory; a file can't replace it", String::from_utf8_lossy(&to_path));
                    return Err(Error::exists(Subject::Key, text));
                }
                namespace::rename_file(&mut txn, self.state(), &(source, from.name.clone()), &(into, to.name.clone()))
                    .await?;
                self.settle(&mut txn).await?;
            } else {
                if txn.entry(number, &into, &to.name).await?.shown.is_some() {
                    let text =
                        format!("'{}' is a file; a directory can't replace it", String::from_utf8_lossy(&to_path));
                    return Err(Error::exists(Subject::Key, text));
                }
                let (from, to) = ((source, with_slash(&from.name)), (into, with_slash(&to.name)));
                namespace::rename_directory(&mut txn, self.state(), &from, &to).await?;
                self.settle(&mut txn).await?;
            }
        })?;
        self.segment().announce(self.state(), &from_path);
        self.segment().announce(self.state(), &to_path);
        Ok(())
    }

    /// Gives the file at `existing` a further name; directories on the way must exist, and no file of that name.
    pub async fn link(&self, existing: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        self.link_at(target(existing)?, checked(to)?, false).await
    }

    /// [`Bucket::link`], in one step in place of another file that has the name.
    pub async fn link_over(&self, existing: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        self.link_at(target(existing)?, checked(to)?, true).await
    }

    async fn link_at(&self, existing: Target, to_path: Bytes, replaces: bool) -> Result<()> {
        let to = target(&to_path)?;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let number = self.state().number;
            let (source, into) = (self.parent(&mut txn, &existing).await?, self.parent(&mut txn, &to).await?);
            let (from, place) = ((source, existing.name.clone()), (into, to.name.clone()));
            let file = txn.entry(number, &from.0, &from.1).await?.shown.clone();
            let there = txn.entry(number, &place.0, &place.1).await?.shown.clone().filter(|_| replaces);
            let is_done = match (&file, &there) {
                (Some(Shown::File(a)), Some(Shown::File(b))) => (a.node, a.content) == (b.node, b.content),
                _ => false,
            };
            if !is_done {
                let policy = self.state().policy();
                txn.limit(number, policy.quota_bytes, policy.quota_objects);
                if there.is_some() {
                    namespace::remove_file(&mut txn, self.state(), &place, namespace::Leave::History).await?;
                }
                namespace::link(&mut txn, self.state(), &from, &place).await?;
                self.settle(&mut txn).await?;
            }
        })?;
        self.segment().announce(self.state(), &to_path);
        Ok(())
    }

    /// What is at `path` (`b""`: the bucket's root). Symbolic links are not followed. A file is preferred to a directory
    /// of the same name unless the path ends in `/`.
    pub async fn stat(&self, path: impl AsRef<[u8]>) -> Result<ObjectInfo> {
        self.settle_files().await;
        let view = self.view_for_doors(None).await?;
        if path.as_ref().is_empty() {
            return self.directory_stat(&view, Bytes::new(), NodeId::ROOT, None).await;
        }
        let to = target(path.as_ref())?;
        let parent = view.directory(&to.directories).await?.ok_or_else(|| missing(path.as_ref()))?;
        let key = Bytes::copy_from_slice(path.as_ref());
        if !to.is_directory
            && let Some(Shown::File(file)) = view.shown(&parent, &to.name).await?
        {
            let row = view.node(&file.node).await?;
            let write =
                row.shown_content(file.content, view.rules()).ok_or_else(|| Error::damaged("a file has no content"))?;
            return namespace::file_info(key, (&parent, &to.name), &file, write, &row);
        }
        match view.shown(&parent, &with_slash(&to.name)).await? {
            Some(Shown::Directory { node, explicit }) => self.directory_stat(&view, key, node, explicit).await,
            _ => Err(missing(path.as_ref())),
        }
    }

    async fn directory_stat(
        &self,
        view: &namespace::View,
        key: Bytes,
        node: NodeId,
        explicit: Option<namespace::ExplicitDirectory>,
    ) -> Result<ObjectInfo> {
        let row = if node == NodeId::ROOT { Default::default() } else { view.node(&node).await? };
        let object = explicit.unwrap_or(namespace::ExplicitDirectory {
            size: 0,
            modified_ns: self.state().created_ns,
            etag: Etag::Md5(MD5_OF_NOTHING),
        });
        let mut info = namespace::directory_info(view.own(), key, node, &object, &row);
        let moved =
            view.store_snapshot().get(Space::Derived, &keys::directory_time(self.state().number, &node)).await?;
        let moved = moved.and_then(|t| t.as_ref().try_into().ok().map(i64::from_be_bytes));
        info.modified_ns = namespace::directory_modified_ns(&row, moved, object.modified_ns);
        info.version = VersionId::Null;
        Ok(info)
    }

    /// Replaces the attributes of what is at `path`, and sets its modification time if one is given.
    pub async fn set_attributes(
        &self,
        path: impl AsRef<[u8]>,
        attributes: Attributes,
        modified_ns: Option<TimeNs>,
    ) -> Result<()> {
        let path = checked(path)?;
        let to = target(&path)?;
        self.settle_files().await;
        transact!(self.segment(), txn, {
            self.require(&mut txn).await?;
            let number = self.state().number;
            let parent = self.parent(&mut txn, &to).await?;
            if namespace::make_own_at(&mut txn, self.state(), &(parent, to.name.clone())).await? {
                self.settle(&mut txn).await?;
            }
            let file = txn.entry(number, &parent, &to.name).await?.shown.clone().filter(|_| !to.is_directory);
            let (name, shown) = match file {
                Some(shown) => (to.name.clone(), Some(shown)),
                None => (with_slash(&to.name), txn.entry(number, &parent, &with_slash(&to.name)).await?.shown.clone()),
            };
            let node = match shown {
                Some(Shown::File(file)) => file.node,
                Some(Shown::Directory { node, .. }) => node,
                None => return Err(missing(&path)),
            };
            if let Some(time) = modified_ns {
                namespace::set_modified(&mut txn, self.state(), &(parent, name), time).await?;
            }
            namespace::set_attributes(&mut txn, self.state(), &node, Some(attributes.clone()), None).await?;
        })?;
        self.segment().announce(self.state(), &path);
        Ok(())
    }

    /// Entries of a directory after name `after`, at most `limit`, and whether there are more. Names that are both a file's and a
    /// directory's come twice.
    pub async fn read_dir(
        &self,
        path: impl AsRef<[u8]>,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<(Vec<DirEntry>, bool)> {
        self.settle_files().await;
        let view = self.view_for_doors(None).await?;
        let path = path.as_ref();
        let mut directories = Vec::new();
        if !path.is_empty() {
            let to = target(path)?;
            directories = to.directories;
            directories.push(with_slash(&to.name));
        }
        let node = view.directory(&directories).await?.ok_or_else(|| missing(path))?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut cursor = view.entries(node, start);
        let mut out = Vec::new();
        while let Some((name, shown)) = cursor.next().await? {
            if out.len() == limit {
                return Ok((out, true));
            }
            out.push(match shown {
                Shown::File(file) => DirEntry {
                    node: file.identity(&node, &name),
                    name,
                    file_type: file.file_type,
                    size: file.size,
                    modified_ns: file.modified_ns,
                },
                Shown::Directory { node, explicit } => DirEntry {
                    name,
                    node,
                    file_type: FileType::Directory,
                    size: 0,
                    modified_ns: explicit.map_or(self.state().created_ns, |e| e.modified_ns),
                },
            });
        }
        Ok((out, false))
    }
}
