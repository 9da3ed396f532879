//! Making things in directories: files, directories, symbolic links, special files, further names.

use super::caller::{GROUP_EXECUTE, SET_GID};
use super::find::{Rows, with_slash};
use super::node::gone;
use super::{
    Access, AccessList, Caller, ChangeStamp, CreateMode, DirectoryChange, FileAttributes, FileSystem, Made,
    SetAttributes, SetTime, acl, names,
};
use crate::engine::transact;
use crate::engine::writer::opaque;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::namespace::{self, AttributesValue, Content, INLINE_BYTES_MAX, MD5_OF_NOTHING, Sequenced, Txn, Version};
use crate::object::{Attributes, Etag, FileType, Metadata, Tags, TimeNs};
use crate::policy::EtagKind;
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::BTreeMap;

/// Where the verifier of an exclusive create is kept: among the extended attributes, under a name that no caller can say.
const VERIFIER: &str = "tombolo.create";

impl FileSystem {
    /// How every change of metadata begins.
    pub(super) async fn start(&self, txn: &mut Txn) -> Result<()> {
        if !self.is_durable {
            txn.without_sync();
        }
        txn.keep_directories();
        txn.set_origin(self.origin);
        self.bucket.require(txn).await
    }

    /// Makes a regular file. `set.mode` is as the caller's umask left it.
    pub async fn create(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
        mode: CreateMode,
        set: SetAttributes,
    ) -> Result<Made> {
        let mut extra = BTreeMap::new();
        if let CreateMode::Exclusive(verifier) = mode {
            extra.insert(VERIFIER.to_owned(), Bytes::copy_from_slice(&verifier));
        }
        let made = self
            .make_file(caller, directory, name, &set, Some(mode), |now| {
                (self.inline(FileType::Regular, Bytes::new(), now), None, extra.clone())
            })
            .await?;
        // What was there is taken as it is; size 0 cuts it.
        if !made.is_new && mode == CreateMode::Unchecked && set != SetAttributes::default() {
            let only_size = SetAttributes { size: set.size, ..SetAttributes::default() };
            if only_size.size.is_some() {
                let change = self.set_attributes(caller, &made.attributes.node, only_size, None).await?;
                return Ok(Made { attributes: change.after, ..made });
            }
        }
        if made.is_new && set.size.is_some_and(|size| size > 0) {
            let only_size = SetAttributes { size: set.size, ..SetAttributes::default() };
            let change = self.set_attributes(&Caller::root(), &made.attributes.node, only_size, None).await?;
            return Ok(Made { attributes: change.after, ..made });
        }
        Ok(made)
    }

    /// Makes a symbolic link.
    pub async fn make_symlink(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
        target: &[u8],
        set: SetAttributes,
    ) -> Result<Made> {
        if target.is_empty() || target.len() >= INLINE_BYTES_MAX {
            let text = format!("a link's target has 1 to {} bytes", INLINE_BYTES_MAX - 1);
            return Err(Error::invalid(text).about(Subject::Length));
        }
        let target = Bytes::copy_from_slice(target);
        let set = SetAttributes { mode: Some(set.mode.unwrap_or(0o777)), ..set };
        self.make_file(caller, directory, name, &set, None, |now| {
            (self.inline(FileType::Symlink, target.clone(), now), None, BTreeMap::new())
        })
        .await
    }

    /// Makes a fifo, socket or device node. `rdev`: major and minor as Linux packs them (`makedev`). Devices are root's to make.
    pub async fn make_special(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
        kind: FileType,
        rdev: u64,
        set: SetAttributes,
    ) -> Result<Made> {
        let rdev = match kind {
            FileType::Fifo | FileType::Socket => None,
            FileType::CharDevice | FileType::BlockDevice if caller.uid == 0 => Some(rdev),
            FileType::CharDevice | FileType::BlockDevice => {
                return Err(Error::new(ErrorKind::Denied, "only root makes devices").about(Subject::Owner));
            }
            _ => return Err(Error::invalid("only fifos, sockets and devices are special")),
        };
        self.make_file(caller, directory, name, &set, None, |now| {
            (self.inline(kind, Bytes::new(), now), rdev, BTreeMap::new())
        })
        .await
    }

    /// Makes something that is no directory. `mode`: what to do about a regular file that is there.
    async fn make_file(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
        set: &SetAttributes,
        mode: Option<CreateMode>,
        what: impl Fn(TimeNs) -> (Version, Option<u64>, BTreeMap<String, Bytes>),
    ) -> Result<Made> {
        let state = self.bucket.state();
        let ((attributes, parent, is_new), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let parent = self.directory_in(&mut txn, directory).await?;
            caller.must(&parent, Access::EXECUTE)?;
            if let Some((stored, shown)) = self.find(Rows::In(&mut txn), directory, name).await? {
                let there = self.attributes_in(&mut txn, &shown.identity(directory, &stored)).await?;
                let there = self.taken(&mut txn, there, mode, name).await?;
                // It may be away, and is opened.
                self.bucket.recall_in(&mut txn, &there.node).await?;
                (there, parent, false)
            } else {
                caller.must(&parent, Access::CHANGE)?;
                let stored = names::new(name)?;
                let now = txn.now_ns();
                let (version, rdev, xattrs) = what(now);
                let default = self.default_list(&mut txn, directory).await?;
                let mut owned = Owned::of(caller, &parent, set, version.file_type, default.as_ref());
                owned.xattrs.extend(xattrs);
                let value = AttributesValue {
                    attributes: Attributes { rdev, ..owned.attributes() },
                    modified_ns: time(set.modified, now).map(|time| (time, now)),
                    changed_ns: now,
                    accessed_ns: time(set.accessed, now),
                    set: Vec::new(),
                };
                let place = (*directory, stored);
                let node = namespace::create(&mut txn, state, &place, version, value).await?;
                self.bucket.settle(&mut txn).await?;
                let row = txn.node(state.number, &node).await?;
                let attributes = self.of_rows(&node, row, None).ok_or_else(|| gone(&node))?;
                (attributes, parent, true)
            }
        })?;
        if !is_new {
            let directory = DirectoryChange { before: Some(stamp(&parent)), after: parent };
            return Ok(Made { attributes, directory, is_new });
        }
        Ok(Made { attributes, directory: entries_changed(parent, 0, &sequenced), is_new })
    }

    /// The name is taken by `there`.
    async fn taken(
        &self,
        txn: &mut Txn,
        there: FileAttributes,
        mode: Option<CreateMode>,
        name: &[u8],
    ) -> Result<FileAttributes> {
        let is_same = match mode {
            Some(CreateMode::Unchecked) => there.file_type == FileType::Regular,
            Some(CreateMode::Exclusive(verifier)) => {
                let row = namespace::node_row_in(txn, self.bucket.state(), &there.node).await?;
                let set = row.shown_attributes();
                let kept = set.as_deref().and_then(|value| value.attributes.xattrs.get(VERIFIER));
                kept.is_some_and(|kept| kept[..] == verifier)
            }
            Some(CreateMode::Guarded) | None => false,
        };
        if is_same {
            return Ok(there);
        }
        Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(name))))
    }

    /// Makes a directory.
    pub async fn make_directory(
        &self,
        caller: &Caller,
        directory: &NodeId,
        name: &[u8],
        set: SetAttributes,
    ) -> Result<Made> {
        let state = self.bucket.state();
        let ((mut attributes, parent), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let parent = self.directory_in(&mut txn, directory).await?;
            caller.must(&parent, Access::EXECUTE)?;
            if self.find(Rows::In(&mut txn), directory, name).await?.is_some() {
                return Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(name))));
            }
            caller.must(&parent, Access::CHANGE)?;
            let stored = with_slash(&names::new(name)?);
            let policy = state.policy();
            txn.limit(state.number, policy.quota_bytes, policy.quota_objects);
            let node = namespace::mkdir(&mut txn, state, directory, &stored).await?;
            self.bucket.settle(&mut txn).await?;
            let default = self.default_list(&mut txn, directory).await?;
            let owned = Owned::of(caller, &parent, &set, FileType::Directory, default.as_ref());
            let now = txn.now_ns();
            namespace::edit_attributes(&mut txn, state, &node, |value| {
                value.attributes = owned.attributes();
                value.accessed_ns = time(set.accessed, now);
                value.modified_ns = None;
            })
            .await?;
            txn.touch_directory(state.number, &node);
            let row = txn.node(state.number, &node).await?;
            // Its times are those of the commit.
            (self.of_rows(&node, row, Some(TimeNs::MIN)).ok_or_else(|| gone(&node))?, parent)
        })?;
        attributes.modified_ns = sequenced.wall_ns;
        attributes.changed_ns = sequenced.wall_ns.max(attributes.changed_ns);
        if set.accessed == SetTime::Keep {
            attributes.accessed_ns = sequenced.wall_ns;
        }
        Ok(Made { attributes, directory: entries_changed(parent, 1, &sequenced), is_new: true })
    }

    /// Gives a file one more name.
    pub async fn link(&self, caller: &Caller, node: &NodeId, directory: &NodeId, name: &[u8]) -> Result<Made> {
        let state = self.bucket.state();
        self.bucket.segment().open_nodes().settle_node(state.number, node).await?;
        let ((attributes, parent), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let there = self.attributes_in(&mut txn, node).await?;
            let parent = self.directory_in(&mut txn, directory).await?;
            caller.must(&parent, Access::EXECUTE)?;
            if there.file_type == FileType::Directory {
                let error = Error::new(ErrorKind::Denied, "a directory has one name");
                return Err(error.about(Subject::Owner));
            }
            if self.find(Rows::In(&mut txn), directory, name).await?.is_some() {
                return Err(Error::exists(Subject::Key, format!("'{}' exists", String::from_utf8_lossy(name))));
            }
            caller.must(&parent, Access::CHANGE)?;
            let stored = names::new(name)?;
            self.own_in(&mut txn, node).await?;
            let policy = state.policy();
            txn.limit(state.number, policy.quota_bytes, policy.quota_objects);
            namespace::link_node(&mut txn, state, node, &(*directory, stored)).await?;
            self.bucket.settle(&mut txn).await?;
            (self.attributes_in(&mut txn, node).await?, parent)
        })?;
        Ok(Made { attributes, directory: entries_changed(parent, 0, &sequenced), is_new: true })
    }

    /// What is made in the directory begins with this access control list.
    async fn default_list(&self, txn: &mut Txn, directory: &NodeId) -> Result<Option<AccessList>> {
        let row = txn.node(self.bucket.state().number, directory).await?;
        let set = row.shown_attributes();
        let kept = set.as_deref().and_then(|value| value.attributes.xattrs.get(acl::DEFAULT));
        Ok(kept.and_then(|kept| AccessList::read(kept)))
    }

    fn inline(&self, file_type: FileType, bytes: Bytes, now: TimeNs) -> Version {
        let size = bytes.len() as u64;
        let is_md5 = self.bucket.state().policy().etag == EtagKind::Md5;
        let etag = match (is_md5, bytes.is_empty()) {
            (true, true) => Etag::Md5(MD5_OF_NOTHING),
            (true, false) => Etag::Md5(Md5::digest(&bytes).into()),
            (false, _) => Etag::Opaque(opaque(&Content::Inline(bytes.clone()))),
        };
        Version {
            size,
            modified_ns: now,
            hole_bytes: 0,
            file_type,
            etag,
            content: Content::Inline(bytes),
            metadata: Metadata::default(),
            checksums: Vec::new(),
            part_sizes: Vec::new(),
            tags: Tags::new(),
            is_null: false,
            id: None,
            is_marker: false,
            deleted: None,
            lenders: Vec::new(),
            at: (NodeId::ROOT, Bytes::new()),
        }
    }
}

/// A time to be set; `None`: to be left.
pub(super) fn time(set: SetTime, now: TimeNs) -> Option<TimeNs> {
    match set {
        SetTime::Keep => None,
        SetTime::Now => Some(now),
        SetTime::To(time) => Some(time),
    }
}

pub(super) fn stamp(attributes: &FileAttributes) -> ChangeStamp {
    ChangeStamp { size: attributes.size, modified_ns: attributes.modified_ns, changed_ns: attributes.changed_ns }
}

/// A directory whose entries the commit changed. `directories`: how many more are in it than before.
pub(super) fn entries_changed(before: FileAttributes, directories: i32, sequenced: &Sequenced) -> DirectoryChange {
    let exact = sequenced.is_observed.then(|| stamp(&before));
    // A directory's access time follows its modification time unless it was set.
    let is_followed = before.accessed_ns == before.modified_ns;
    let after = FileAttributes {
        links: before.links.saturating_add_signed(directories),
        accessed_ns: if is_followed { sequenced.wall_ns } else { before.accessed_ns },
        modified_ns: sequenced.wall_ns,
        changed_ns: sequenced.wall_ns.max(before.changed_ns),
        ..before
    };
    DirectoryChange { before: exact, after }
}

/// Who owns something new, and its mode.
struct Owned {
    uid: u32,
    gid: u32,
    mode: u32,
    xattrs: BTreeMap<String, Bytes>,
}

impl Owned {
    /// As Linux decides it (`inode_init_owner`): a set-group-id directory passes its group on, and the bit to directories.
    /// A default access control list of the directory takes the place of the umask (`posix_acl_create`).
    fn of(
        caller: &Caller,
        parent: &FileAttributes,
        set: &SetAttributes,
        kind: FileType,
        default: Option<&AccessList>,
    ) -> Owned {
        let is_directory = kind == FileType::Directory;
        let inherits = parent.mode & SET_GID != 0;
        let own = if inherits { parent.gid } else { caller.gid };
        let (uid, gid) = match caller.uid {
            0 => (set.uid.unwrap_or(caller.uid), set.gid.unwrap_or(own)),
            _ => (caller.uid, own),
        };
        let mut mode = set.mode.unwrap_or(if is_directory { 0o755 } else { 0o644 }) & 0o7777;
        if inherits && is_directory {
            mode |= SET_GID;
        } else if mode & (SET_GID | GROUP_EXECUTE) == SET_GID | GROUP_EXECUTE && caller.uid != 0 && !caller.is_in(gid) {
            mode &= !SET_GID;
        }
        let mut xattrs = BTreeMap::new();
        match default.filter(|_| kind != FileType::Symlink) {
            Some(default) => {
                let list = default.of_new(mode);
                mode = mode & !0o777 | list.mode();
                if !list.is_mode() {
                    xattrs.insert(acl::ACCESS.to_owned(), list.write());
                }
                if is_directory {
                    xattrs.insert(acl::DEFAULT.to_owned(), default.write());
                }
            }
            None => mode &= !(set.umask & 0o777),
        }
        Owned { uid, gid, mode, xattrs }
    }

    fn attributes(&self) -> Attributes {
        Attributes {
            mode: Some(self.mode),
            uid: Some(self.uid),
            gid: Some(self.gid),
            rdev: None,
            xattrs: self.xattrs.clone(),
        }
    }
}
