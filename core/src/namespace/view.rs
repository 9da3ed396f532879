//! Reading a bucket: as it is now, or as a snapshot saw it.
//!
//! A snapshot is a commit number. A row that was written later is looked up in [`Space::Past`], where the commit that first
//! overwrote it put the old bytes; a row that is neither old enough nor there did not exist.

use super::keys::{self, BucketNumber};
use super::rows::{EntryRow, HistoryRow, NodeRow, Shown, row_commit};
use super::{BucketState, away};
use crate::error::{Error, Result, Subject};
use crate::id::{NodeId, SegmentId};
use crate::kv::{KeyRange, Snapshot, Space, end_of_prefix};
use crate::tree::Rules;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// A bucket at one instant.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<dyn Snapshot>,
    own: SegmentId,
    bucket: BucketNumber,
    at: Option<u64>,
    rules: Rules<'static>,
    passes_over_away: bool,
}

/// An entry found by a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The directory it is in.
    pub parent: NodeId,
    /// Its name there.
    pub name: Bytes,
    /// What shows.
    pub shown: Shown,
}

impl View {
    /// The bucket as the store's `snapshot` has it; `at`: as it was after that commit (read by the rules that hold now).
    pub fn new(snapshot: Arc<dyn Snapshot>, own: SegmentId, bucket: &BucketState, at: Option<u64>) -> View {
        View { snapshot, own, bucket: bucket.number, at, rules: bucket.rules(), passes_over_away: false }
    }

    /// The same as doors show it: without the names that are away. What a snapshot showed, it shows.
    pub fn for_doors(self, bucket: &BucketState) -> View {
        View { passes_over_away: self.at.is_none() && bucket.may_have_away(), ..self }
    }

    /// Whether what shows is a name that is away.
    pub async fn is_away(&self, shown: &Shown) -> Result<bool> {
        match away::node_of_name(shown) {
            Some(node) if self.at.is_none() => away::is_away(&self.snapshot, self.bucket, node).await,
            _ => Ok(false),
        }
    }

    async fn is_passed_over(&self, shown: &Shown) -> Result<bool> {
        Ok(self.passes_over_away && self.is_away(shown).await?)
    }

    /// Whether doors pass over what shows under `name` in `parent`.
    pub async fn passes_over(&self, parent: &NodeId, name: &[u8]) -> Result<bool> {
        Ok(self.passes_over_away
            && match self.any_shown(parent, name).await? {
                Some(shown) => self.is_away(&shown).await?,
                None => false,
            })
    }

    /// The bucket's number.
    pub fn bucket(&self) -> BucketNumber {
        self.bucket
    }

    /// Whether it shows an earlier state.
    pub fn is_snapshot(&self) -> bool {
        self.at.is_some()
    }

    /// The rules that registers are read by.
    pub fn rules(&self) -> &Rules<'static> {
        &self.rules
    }

    /// The store's snapshot below.
    pub fn store_snapshot(&self) -> &Arc<dyn Snapshot> {
        &self.snapshot
    }

    /// This segment.
    pub fn own(&self) -> &SegmentId {
        &self.own
    }

    async fn row(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let now = self.snapshot.get(space, key).await?;
        match (self.at, &now) {
            (None, _) => Ok(now),
            (Some(at), Some(row)) if row_commit(row)? <= at => Ok(now),
            (Some(at), _) => self.past(space, key, at).await,
        }
    }

    async fn past(&self, space: Space, key: &[u8], at: u64) -> Result<Option<Bytes>> {
        let prefix = keys::past_of_row(space as u8, key);
        let range = KeyRange { start: Bound::Excluded(keys::past(space as u8, key, at)), end: end_of_prefix(&prefix) };
        let page = self.snapshot.scan(Space::Past, range, 1, false).await?;
        match page.rows.into_iter().next() {
            Some((_, row)) if row_commit(&row)? <= at => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    /// What shows under `name` in `parent`.
    pub async fn shown(&self, parent: &NodeId, name: &[u8]) -> Result<Option<Shown>> {
        match self.any_shown(parent, name).await? {
            Some(shown) if !self.is_passed_over(&shown).await? => Ok(Some(shown)),
            _ => Ok(None),
        }
    }

    async fn any_shown(&self, parent: &NodeId, name: &[u8]) -> Result<Option<Shown>> {
        match self.row(Space::Entries, &keys::entry(self.bucket, parent, name)).await? {
            Some(row) => Ok(EntryRow::decode_shown(row)?.1),
            None => Ok(None),
        }
    }

    /// The node of the directory that showed at `directories`.
    pub async fn directory(&self, directories: &[Bytes]) -> Result<Option<NodeId>> {
        let mut parent = NodeId::ROOT;
        for name in directories {
            match self.shown(&parent, name).await? {
                Some(Shown::Directory { node, .. }) => parent = node,
                _ => return Ok(None),
            }
        }
        Ok(Some(parent))
    }

    /// The node of the directory at `directories`, also where it is hidden because only history is left in it.
    pub async fn any_directory(&self, directories: &[Bytes]) -> Result<Option<NodeId>> {
        let mut parent = NodeId::ROOT;
        for name in directories {
            let Some(row) = self.row(Space::Entries, &keys::entry(self.bucket, &parent, name)).await? else {
                return Ok(None);
            };
            let row = EntryRow::decode(row, &self.own)?;
            parent = match (&row.shown, row.register.value()) {
                (Some(Shown::Directory { node, .. }), _) => *node,
                (None, Some(value)) => value.node,
                _ => return Ok(None),
            };
        }
        Ok(Some(parent))
    }

    /// What shows under `key`.
    pub async fn find(&self, key: &Bytes) -> Result<Option<Found>> {
        let (directories, name) = super::split(key).place();
        let Some(parent) = self.directory(&directories).await? else {
            return Ok(None);
        };
        Ok(self.shown(&parent, &name).await?.map(|shown| Found { parent, name, shown }))
    }

    /// A node.
    pub async fn node(&self, node: &NodeId) -> Result<NodeRow> {
        match self.row(Space::Nodes, &keys::node(self.bucket, node)).await? {
            Some(row) => NodeRow::decode(row, &self.own),
            None => Err(Error::damaged(format!("the node {node} of an entry is missing")).about(Subject::Key)),
        }
    }

    /// A kept version's row.
    pub async fn history(&self, key: &[u8]) -> Result<Option<HistoryRow>> {
        match self.snapshot.get(Space::History, key).await? {
            Some(row) => Ok(Some(HistoryRow::decode(row, &self.own)?)),
            None => Ok(None),
        }
    }

    /// Reads the entries of `directory` that show, in order, from `start` on.
    pub fn entries(&self, directory: NodeId, start: Bound<Bytes>) -> EntryCursor {
        let prefix = keys::entry(self.bucket, &directory, b"");
        let full = |name: Bytes| keys::entry(self.bucket, &directory, &name);
        let start = match start {
            Bound::Unbounded => Bound::Included(prefix.clone()),
            Bound::Included(name) => Bound::Included(full(name)),
            Bound::Excluded(name) => Bound::Excluded(full(name)),
        };
        let past_start = match &start {
            Bound::Included(key) => {
                let whole = keys::past_of_row(Space::Entries as u8, key);
                Bound::Included(whole.slice(..whole.len().saturating_sub(2)))
            }
            // Behind all states of the row.
            Bound::Excluded(key) => match end_of_prefix(&keys::past_of_row(Space::Entries as u8, key)) {
                Bound::Excluded(end) => Bound::Included(end),
                other => other,
            },
            Bound::Unbounded => Bound::Unbounded,
        };
        EntryCursor {
            view: self.clone(),
            rows: VecDeque::new(),
            past: VecDeque::new(),
            next: Some(KeyRange { start, end: end_of_prefix(&prefix) }),
            next_past: self.at.map(|_| KeyRange {
                start: past_start,
                end: end_of_prefix(&keys::past_of_prefix(Space::Entries as u8, &prefix)),
            }),
            prefix,
            page_rows: 32,
        }
    }
}

/// Entries of one directory that show, in byte order of their names.
pub struct EntryCursor {
    view: View,
    prefix: Bytes,
    rows: VecDeque<(Bytes, Bytes)>,
    /// Names of rows that later commits changed, with the row as the view saw it.
    past: VecDeque<(Bytes, Bytes)>,
    next: Option<KeyRange>,
    next_past: Option<KeyRange>,
    page_rows: usize,
}

/// The most rows a cursor reads in one go. Pages start small, so that a listing of one key reads little.
const PAGE_ROWS_MAX: usize = 1024;

impl EntryCursor {
    /// The next entry that shows.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Shown)>> {
        loop {
            self.fill().await?;
            if self.view.at.is_some() {
                self.fill_past().await?;
            }
            let take_past = match (self.rows.front(), self.past.front()) {
                (None, None) => return Ok(None),
                (Some((row, _)), Some((past, _))) => past <= row,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            let (key, value) = if take_past {
                let taken = self.past.pop_front();
                if let (Some((key, _)), Some((row, _))) = (&taken, self.rows.front())
                    && key == row
                {
                    self.rows.pop_front();
                }
                taken
            } else {
                self.rows.pop_front()
            }
            .ok_or_else(|| Error::damaged("a listing lost its place"))?;
            let (commit, shown, _) = EntryRow::decode_shown(value)?;
            if self.view.at.is_some_and(|at| commit > at) {
                continue;
            }
            if let Some(shown) = shown
                && !self.view.is_passed_over(&shown).await?
            {
                return Ok(Some((key.slice(self.prefix.len()..), shown)));
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        while self.rows.is_empty()
            && let Some(range) = self.next.take()
        {
            let end = range.end.clone();
            let page = self.view.snapshot.scan(Space::Entries, range, self.page_rows, false).await?;
            self.page_rows = (self.page_rows * 4).min(PAGE_ROWS_MAX);
            if let (true, Some((last, _))) = (page.more, page.rows.last()) {
                self.next = Some(KeyRange { start: Bound::Excluded(last.clone()), end });
            }
            self.rows.extend(page.rows);
        }
        Ok(())
    }

    async fn fill_past(&mut self) -> Result<()> {
        let Some(at) = self.view.at else {
            return Ok(());
        };
        while self.past.is_empty()
            && let Some(range) = self.next_past.take()
        {
            let end = range.end.clone();
            let page = self.view.snapshot.scan(Space::Past, range, self.page_rows, false).await?;
            let mut rows = page.rows;
            if let (true, Some((last, _))) = (page.more, rows.last()) {
                self.next_past = Some(KeyRange { start: Bound::Excluded(last.clone()), end });
            }
            rows.retain(|(_, value)| row_commit(value).is_ok_and(|commit| commit <= at));
            for (key, value) in rows {
                let (_, row, superseded) = keys::parse_past(&key)?;
                // Of several states, the one this view saw was superseded after it.
                if superseded > at && self.past.back().is_none_or(|(last, _)| *last != row) {
                    self.past.push_back((row, value));
                }
            }
        }
        Ok(())
    }
}
