//! Changing attributes: mode, owner, times, size, extended attributes.

use super::caller::{GROUP_EXECUTE, SET_GID, SET_UID};
use super::make::{stamp, time};
use super::{Access, AttributeChange, Caller, FileAttributes, FileSystem, SetAttributes, SetTime};
use crate::engine::transact;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::NodeId;
use crate::namespace;
use crate::object::{FileType, TimeNs};
use async_recursion::async_recursion as boxed;
use std::sync::Arc;

const WRITE: Access = Access { read: false, write: true, execute: false };

impl FileSystem {
    /// Changes attributes. With `guard`, only if the node's change time is still that one (else `Precondition`; NFS3ERR_NOT_SYNC).
    pub async fn set_attributes(
        &self,
        caller: &Caller,
        node: &NodeId,
        set: SetAttributes,
        guard: Option<TimeNs>,
    ) -> Result<AttributeChange> {
        if let Some(open) = self.orphan(node).await? {
            return self.set_without_name(caller, open, set, guard).await;
        }
        if let Some(size) = set.size {
            let before = self.attributes(node).await?;
            check_guard(&before, guard)?;
            may_set(caller, &before, &set)?;
            self.cut(caller, &before, size).await?;
            let rest = SetAttributes { size: None, ..set };
            let after = match rest == SetAttributes::default() {
                true => self.attributes(node).await?,
                false => self.set_rest(caller, node, rest, None).await?.after,
            };
            // Others may have written before it was cut, and since.
            return Ok(AttributeChange { before: None, after });
        }
        self.set_rest(caller, node, set, guard).await
    }

    #[boxed]
    async fn set_rest(
        &self,
        caller: &Caller,
        node: &NodeId,
        set: SetAttributes,
        guard: Option<TimeNs>,
    ) -> Result<AttributeChange> {
        let state = self.bucket.state();
        let seen = self.last_change(node);
        let ((before, value, after), sequenced) = transact!(self.bucket.segment(), txn, {
            self.start(&mut txn).await?;
            let before = self.attributes_in(&mut txn, node).await?;
            check_guard(&before, guard)?;
            may_set(caller, &before, &set)?;
            self.own_in(&mut txn, node).await?;
            self.bucket.recall_in(&mut txn, node).await?;
            let now = txn.now_ns();
            let mode = new_mode(caller, &before, &set);
            let modified = time(set.modified, now);
            // A time set by hand holds for the content it was set on; a directory's for the state of its entries.
            let of = if before.file_type == FileType::Directory { now.max(before.modified_ns) } else { 0 };
            let written =
                txn.node(state.number, node).await?.current_version(&state.rules()).map_or(of, |v| v.modified_ns);
            let value = namespace::edit_attributes(&mut txn, state, node, |value| {
                value.attributes.mode = mode.or(value.attributes.mode);
                value.attributes.uid = set.uid.or(value.attributes.uid);
                value.attributes.gid = set.gid.or(value.attributes.gid);
                value.accessed_ns = time(set.accessed, now).or(value.accessed_ns);
                if let Some(time) = modified {
                    value.modified_ns =
                        Some((time, if before.file_type == FileType::Directory { of } else { written }));
                }
                value.changed_ns = value.changed_ns.max(before.changed_ns.saturating_add(1));
            })
            .await?;
            if let Some(time) = modified {
                namespace::show_modified(&mut txn, state, node, time).await?;
            }
            let after = self.attributes_in(&mut txn, node).await?;
            (before, value, after)
        })?;
        let nodes = self.bucket.segment().open_nodes();
        let modified = time(set.modified, value.modified_ns.map_or(0, |(time, _)| time));
        nodes.set_attributes(state.number, node, &value.attributes, modified, value.changed_ns);
        let is_still = match before.file_type {
            FileType::Directory => sequenced.is_observed,
            _ => self.last_change(node) == seen,
        };
        if is_still {
            return Ok(AttributeChange { before: Some(stamp(&before)), after });
        }
        // A client must not take what others did meanwhile for the work of this call.
        Ok(AttributeChange { before: None, after: self.attributes(node).await? })
    }

    /// Which change of which body of a node was the last: what is written commits nothing, so no commit tells of it.
    fn last_change(&self, node: &NodeId) -> Option<(usize, u64)> {
        let body = self.bucket.segment().open_nodes().get(self.bucket.state().number, node)?;
        let stamp = body.state().stamp;
        Some((Arc::as_ptr(&body) as usize, stamp))
    }

    /// Cuts or extends a file, open or not.
    async fn cut(&self, caller: &Caller, before: &FileAttributes, size: u64) -> Result<()> {
        match before.file_type {
            FileType::Regular => {}
            FileType::Directory => return Err(Error::invalid("it is a directory").about(Subject::IsDirectory)),
            _ => return Err(Error::invalid("only files can be cut")),
        }
        if caller.uid != 0 && before.mode & (SET_UID | SET_GID) != 0 {
            let without = SetAttributes { mode: Some(cleared(before.mode)), ..SetAttributes::default() };
            self.set_rest(&Caller::root(), &before.node, without, None).await?;
        }
        self.own(&before.node).await?;
        let nodes = self.bucket.segment().open_nodes();
        nodes.truncate(&self.bucket, &before.node, size, self.is_durable, self.origin).await
    }

    /// The same for an open file that has lost its last name: there is nothing to commit.
    async fn set_without_name(
        &self,
        caller: &Caller,
        before: FileAttributes,
        set: SetAttributes,
        guard: Option<TimeNs>,
    ) -> Result<AttributeChange> {
        check_guard(&before, guard)?;
        may_set(caller, &before, &set)?;
        let nodes = self.bucket.segment().open_nodes();
        if let Some(size) = set.size {
            nodes.truncate(&self.bucket, &before.node, size, false, self.origin).await?;
        }
        let number = self.bucket.state().number;
        let now = self.bucket.segment().now_ns();
        let mut after = nodes.orphan(number, &before.node).unwrap_or_else(|| before.clone());
        after.mode = new_mode(caller, &before, &set).unwrap_or(after.mode);
        after.uid = set.uid.unwrap_or(after.uid);
        after.gid = set.gid.unwrap_or(after.gid);
        after.accessed_ns = time(set.accessed, now).unwrap_or(after.accessed_ns);
        after.modified_ns = time(set.modified, now).unwrap_or(after.modified_ns);
        after.changed_ns = now.max(after.changed_ns.saturating_add(1));
        nodes.set_orphan(number, after.clone());
        // Whoever has it open writes when it likes.
        Ok(AttributeChange { before: None, after })
    }
}

fn check_guard(before: &FileAttributes, guard: Option<TimeNs>) -> Result<()> {
    match guard {
        Some(time) if time != before.changed_ns => {
            Err(Error::new(ErrorKind::Precondition, "the file has changed since").about(Subject::Node))
        }
        _ => Ok(()),
    }
}

/// What Linux lets whom change (`setattr_prepare`).
fn may_set(caller: &Caller, before: &FileAttributes, set: &SetAttributes) -> Result<()> {
    if caller.uid == 0 {
        return Ok(());
    }
    if set.size.is_some() {
        caller.must(before, WRITE)?;
    }
    if set.mode.is_some() {
        caller.must_own(before)?;
    }
    if set.uid.is_some_and(|uid| caller.uid != before.uid || uid != before.uid) {
        return Err(Error::new(ErrorKind::Denied, "only root gives files away").about(Subject::Owner));
    }
    if set.gid.is_some_and(|gid| caller.uid != before.uid || gid != before.gid && !caller.is_in(gid)) {
        return Err(Error::new(ErrorKind::Denied, "only the owner, for groups of its own").about(Subject::Owner));
    }
    let times = [set.accessed, set.modified];
    if times.iter().any(|time| matches!(time, SetTime::To(_))) {
        caller.must_own(before)?;
    } else if times.contains(&SetTime::Now) && !caller.owns(before) {
        caller.must(before, WRITE)?;
    }
    Ok(())
}

/// The mode after a change, if that changes it: set-id bits go with a new owner, and set-group-id from who is not in the group.
fn new_mode(caller: &Caller, before: &FileAttributes, set: &SetAttributes) -> Option<u32> {
    let is_directory = before.file_type == FileType::Directory;
    let gid = set.gid.unwrap_or(before.gid);
    match set.mode {
        Some(mode) if caller.uid != 0 && !caller.is_in(gid) => Some(mode & 0o7777 & !SET_GID),
        Some(mode) => Some(mode & 0o7777),
        None if !is_directory && (set.uid.is_some() || set.gid.is_some()) && before.mode & (SET_UID | SET_GID) != 0 => {
            Some(cleared(before.mode))
        }
        None => None,
    }
}

/// Without set-user-id, and without set-group-id where it is not a sign for mandatory locks.
fn cleared(mode: u32) -> u32 {
    mode & !SET_UID & if mode & GROUP_EXECUTE != 0 { !SET_GID } else { !0 }
}
