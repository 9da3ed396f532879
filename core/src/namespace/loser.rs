//! Who lost a conflict about a name, where that can be read: older versions of the name where the policy keeps one winner, and the list of all conflicts.

use super::keys;
use super::place::path_of;
use super::version::Version;
use super::view::View;
use super::{Place, contention};
use crate::error::{Error, Result};
use crate::id::{NodeId, SegmentId, VersionId};
use crate::kv::{KeyRange, Space};
use crate::register::{Dot, Write};
use crate::tree::{self, ConflictKind};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Bound;

const SCAN_ROWS: usize = 256;

/// A version that lost a name and shows nowhere: an older version of it until a change of the name settles that.
pub(super) struct Loser {
    pub(super) id: VersionId,
    pub(super) write: Write<Version>,
    pub(super) version: Version,
}

/// What to call a version that lost: where versions have no ids, the write's, so that it is told from the winner.
pub(super) fn loser_id(write: &Write<Version>) -> VersionId {
    match super::write::version_id(write) {
        VersionId::Null => {
            VersionId::Id { stamp: write.stamp_time, segment: write.dot.segment, sequence: write.dot.sequence }
        }
        id => id,
    }
}

/// Those who lost a name and show nowhere, newest first. A snapshot does not keep them.
pub(super) async fn losers(view: &View, parent: &NodeId, name: &Bytes) -> Result<Vec<Loser>> {
    if view.rules().keeps_both() || view.is_snapshot() {
        return Ok(Vec::new());
    }
    let key = keys::contention(view.bucket(), parent, name);
    let Some(row) = view.store_snapshot().get(Space::Derived, &key).await? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for conflict in contention::decode(parent, name, row)?.into_iter().filter(|conflict| conflict.shown.is_none()) {
        let row = view.node(&conflict.node).await?;
        if let Some(write) = conflict.content.and_then(|content| row.shown_content(Some(content), view.rules())) {
            let Some(version) = write.value.clone() else { continue };
            found.push(Loser { id: loser_id(write), write: write.clone(), version });
        }
    }
    found.sort_by_key(|loser| std::cmp::Reverse(loser.id.to_bytes()));
    Ok(found)
}

/// Something that concurrent changes left for somebody to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where it is in the list, for [`Bucket::conflicts`](crate::Bucket::conflicts).
    pub position: Bytes,
    /// Kind.
    pub kind: ConflictKind,
    /// The key in contention.
    pub of: Bytes,
    /// The key that the loser shows under; `None`: it is an older version of `of`.
    pub key: Option<Bytes>,
    /// The segment that made the write which lost.
    pub segment: SegmentId,
    /// That write's number there.
    pub sequence: u64,
    /// The loser's version; `None`: a directory.
    pub version: Option<VersionId>,
}

/// What is in conflict, by directory and name, behind `after` (a [`Conflict::position`]); at most `limit`. A conflict in a directory that does not show is not
/// listed.
pub async fn conflicts(view: &View, after: Option<Bytes>, limit: usize) -> Result<Vec<Conflict>> {
    let snapshot = view.store_snapshot();
    let prefix = keys::contentions(view.bucket());
    let mut range = KeyRange::prefix(&prefix);
    // The last four bytes count within one name.
    let after = match &after {
        Some(after) => {
            Some(after.split_last_chunk::<4>().ok_or_else(|| Error::invalid("not a position of a conflict"))?)
        }
        None => None,
    };
    let after = after.map(|(row, nth)| (Bytes::from([&prefix[..], row].concat()), u32::from_be_bytes(*nth)));
    if let Some((row, _)) = &after {
        range.start = Bound::Included(row.clone());
    }
    let mut found = Vec::new();
    loop {
        let page = snapshot.scan(Space::Derived, range, SCAN_ROWS, false).await?;
        for (key, row) in &page.rows {
            let (directory, name) = keys::parse_contention(key)?;
            if name.is_empty() {
                continue;
            }
            let conflicts = contention::decode(&directory, name, row.clone())?;
            for (nth, conflict) in (0u32..).zip(conflicts) {
                let mut position = BytesMut::from(key.get(prefix.len()..).unwrap_or_default());
                position.put_u32(nth);
                let position = position.freeze();
                if after.as_ref().is_some_and(|(row, last)| row == key && nth <= *last) {
                    continue;
                }
                if let Some(conflict) = describe(view, position, conflict).await? {
                    found.push(conflict);
                    if found.len() == limit {
                        return Ok(found);
                    }
                }
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
            _ => return Ok(found),
        }
    }
}

async fn describe(view: &View, position: Bytes, conflict: tree::Conflict) -> Result<Option<Conflict>> {
    let path = |place: tree::Place| async move {
        let place: Place = (place.parent, place.name);
        path_of(view, &place).await
    };
    let is_hidden = conflict.shown.is_none();
    let key = match conflict.shown {
        Some(place) => path(place).await?,
        None => None,
    };
    // Where a directory was moved from may be gone; then it is told by its name.
    let name = conflict.place.name.clone();
    let of = path(conflict.place).await?.or_else(|| key.is_some().then_some(name));
    let Some(of) = of.filter(|_| is_hidden || key.is_some()) else { return Ok(None) };
    let version = match conflict.content {
        Some(content) => {
            let row = view.node(&conflict.node).await?;
            let write = row.shown_content(Some(content), view.rules()).cloned();
            write.map(|write| if is_hidden { loser_id(&write) } else { super::write::version_id(&write) })
        }
        None => None,
    };
    let Dot { segment, sequence } = conflict.dot;
    Ok(Some(Conflict { position, kind: conflict.kind, of, key, segment, sequence, version }))
}
