//! Making a manifest from extents and from parts of other manifests, in bounded memory.

use super::extent::{Extent, add_length};
use super::node::{Child, Node, is_complete};
use super::{CONTENT_BYTES_MAX, DEPTH_MAX, EXTENTS_INLINE_MAX, Manifest, NodeStore, Root};
use crate::error::{Error, Result};
use async_recursion::async_recursion as boxed;
use std::ops::Range;

/// Takes extents, and ranges of other manifests, in the order of the content.
///
/// Holds the entries of the last node of each level; nodes are written as they fill. What a range of another manifest
/// covers as whole nodes is taken over by reference: only nodes at the range's two ends are read, and joined with what
/// lies beside them so that they don't stay small.
#[derive(Default)]
pub struct Builder {
    size: u64,
    /// Entries of the leaf at hand.
    extents: Vec<Extent>,
    /// Entries of the inner node at hand, by level: `levels[0]` lists leaves.
    levels: Vec<Vec<Child>>,
    /// Whether nodes of other manifests were taken over.
    has_grafts: bool,
    /// Whether the last thing taken over was a node, which may have ended before it was complete.
    ends_in_graft: bool,
}

impl Builder {
    /// A builder of an empty content.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Length of the content so far, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends an extent. `Damaged` if it is none that can be, `Invalid` if the content would get too long.
    pub async fn push(&mut self, store: &dyn NodeStore, extent: Extent) -> Result<()> {
        extent.check()?;
        self.grow(extent.length)?;
        self.reopen(store, None).await?;
        self.append_extent(store, extent).await
    }

    /// Appends `range` of another manifest; `Invalid` if it reaches beyond its end.
    #[boxed]
    pub async fn push_range(&mut self, store: &dyn NodeStore, manifest: &Manifest, range: Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > manifest.size {
            let size = manifest.size;
            return Err(Error::invalid(format!("bytes {range:?} of a content of {size} bytes")));
        }
        match &manifest.root {
            Root::Empty => Ok(()),
            Root::Extents(extents) => self.push_clipped(store, extents, 0, &range).await,
            Root::Tree { id, depth } => {
                let root = Child { length: manifest.size, id: *id };
                self.push_nodes(store, root, depth.saturating_sub(1), range).await
            }
        }
    }

    /// Appends all of another manifest.
    pub async fn push_manifest(&mut self, store: &dyn NodeStore, manifest: &Manifest) -> Result<()> {
        self.push_range(store, manifest, 0..manifest.size).await
    }

    /// Writes what is left and gives the manifest.
    #[boxed]
    pub async fn finish(mut self, store: &dyn NodeStore) -> Result<Manifest> {
        let size = self.size;
        if self.levels.iter().all(Vec::is_empty) && self.extents.len() <= EXTENTS_INLINE_MAX {
            return Ok(Manifest { size, root: inline_root(self.extents) });
        }
        self.close_below(store, 0).await?;
        let (root, level) = self.close_top(store).await?;
        let root = match self.has_grafts {
            // What a truncation leaves may be higher than it needs to be.
            true => lowest_root(store, root, level).await?,
            false => Root::Tree { id: root.id, depth: level + 1 },
        };
        Ok(Manifest { size, root })
    }

    fn grow(&mut self, length: u64) -> Result<()> {
        self.size = add_length(self.size, length)?;
        Ok(())
    }

    /// Appends the parts of `extents`, which start at `start` in their content, that lie in `range`.
    async fn push_clipped(
        &mut self,
        store: &dyn NodeStore,
        extents: &[Extent],
        mut start: u64,
        range: &Range<u64>,
    ) -> Result<()> {
        for extent in extents {
            let part = extent.part(range.start.saturating_sub(start), range.end.saturating_sub(start));
            start = start.saturating_add(extent.length);
            if let Some(part) = part {
                self.push(store, part).await?;
            }
        }
        Ok(())
    }

    /// Appends `range` of the tree under `root`: whole nodes by reference, others by their entries.
    async fn push_nodes(&mut self, store: &dyn NodeStore, root: Child, level: u8, range: Range<u64>) -> Result<()> {
        // Nodes still to be taken, the next one last, with their places in the content.
        let mut waiting = vec![(root, level, 0u64)];
        // The first node is opened if a node is at hand that it can be joined with.
        let mut is_first = true;
        while let Some((child, level, start)) = waiting.pop() {
            let end = start.saturating_add(child.length);
            if end <= range.start || start >= range.end {
                continue;
            }
            let is_inside = range.start <= start && end <= range.end;
            if is_inside && !(is_first && self.has_open_below(level)) {
                is_first = false;
                self.graft(store, child, level).await?;
                continue;
            }
            match Node::read(store, &child, level).await? {
                Node::Leaf(extents) => {
                    is_first = false;
                    self.push_clipped(store, &extents, start, &range).await?;
                }
                Node::Inner { children, .. } => {
                    let mut end = end;
                    for child in children.into_iter().rev() {
                        end -= child.length.min(end);
                        waiting.push((child, level - 1, end));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether an unfinished node of `level` or below is at hand.
    fn has_open_below(&self, level: u8) -> bool {
        !self.extents.is_empty() || self.levels.iter().take(level.into()).any(|children| !children.is_empty())
    }

    /// Takes a node over by reference.
    async fn graft(&mut self, store: &dyn NodeStore, child: Child, level: u8) -> Result<()> {
        self.grow(child.length)?;
        self.reopen(store, Some(level)).await?;
        self.close_below(store, level.into()).await?;
        self.append_child(store, child, level.into()).await?;
        self.has_grafts = true;
        self.ends_in_graft = true;
        Ok(())
    }

    /// If the last thing is a graft, opens those of its last nodes again that had ended before they were complete, so that what
    /// comes next joins them: down to the list of nodes of `level`, or to the extents.
    async fn reopen(&mut self, store: &dyn NodeStore, level: Option<u8>) -> Result<()> {
        let floor = level.map_or(0, |level| usize::from(level) + 1);
        let target_is_open = match floor.checked_sub(1) {
            None => !self.extents.is_empty(),
            Some(target) => self.levels.get(target).is_some_and(|list| !list.is_empty()),
        };
        if !std::mem::take(&mut self.ends_in_graft) || target_is_open {
            return Ok(());
        }
        // Everything between the target and the graft's list is empty.
        let Some(graft) = (floor..self.levels.len()).find(|above| self.last_node(*above).is_some()) else {
            return Ok(());
        };
        // The last nodes from the graft downwards, and how many of them have to be opened: down to the lowest that is
        // not complete.
        let mut path: Vec<Node> = Vec::new();
        let mut open_count = 0;
        let mut next = self.last_node(graft);
        for above in (floor..=graft).rev() {
            let Some(child) = next else { break };
            let node = Node::read(store, &child, above as u8).await?;
            next = match &node {
                Node::Inner { children, .. } => children.last().copied(),
                Node::Leaf(_) => None,
            };
            if !node.is_complete() {
                open_count = path.len() + 1;
            }
            path.push(node);
        }
        path.truncate(open_count);
        for (above, node) in (floor..=graft).rev().zip(path) {
            if let Some(list) = self.levels.get_mut(above) {
                list.pop();
            }
            match (node, above.checked_sub(1).and_then(|below| self.levels.get_mut(below))) {
                (Node::Inner { children, .. }, Some(below)) => *below = children,
                (Node::Leaf(extents), _) => self.extents = extents,
                (Node::Inner { .. }, None) => {
                    return Err(Error::damaged("a manifest has an inner node among its leaves"));
                }
            }
        }
        Ok(())
    }

    /// The last of the nodes of `level` at hand.
    fn last_node(&self, level: usize) -> Option<Child> {
        self.levels.get(level).and_then(|list| list.last()).copied()
    }

    /// Appends to the leaf at hand. A leaf is ended only when an extent comes that can't be joined with its last, so that
    /// the result does not depend on how runs were split.
    async fn append_extent(&mut self, store: &dyn NodeStore, extent: Extent) -> Result<()> {
        if let Some(last) = self.extents.last_mut()
            && let Some(joined) = last.join(&extent)
        {
            *last = joined;
            return Ok(());
        }
        if is_complete(&self.extents) {
            let leaf = Node::Leaf(std::mem::take(&mut self.extents)).write(store).await?;
            self.append_child(store, leaf, 0).await?;
        }
        self.extents.push(extent);
        Ok(())
    }

    /// Appends a node to the list of those of its `level`, ending nodes above as they are complete.
    async fn append_child(&mut self, store: &dyn NodeStore, mut child: Child, mut level: usize) -> Result<()> {
        loop {
            if level >= usize::from(DEPTH_MAX) {
                return Err(Error::invalid(format!("a content of more than {DEPTH_MAX} levels of nodes")));
            }
            if self.levels.len() <= level {
                self.levels.resize_with(level + 1, Vec::new);
            }
            let Some(children) = self.levels.get_mut(level) else {
                return Ok(());
            };
            if !is_complete(children) {
                children.push(child);
                return Ok(());
            }
            let children = std::mem::replace(children, vec![child]);
            child = write_inner(store, level, children).await?;
            level += 1;
        }
    }

    /// Ends the leaf and the inner nodes at hand below the list of nodes of `level`.
    async fn close_below(&mut self, store: &dyn NodeStore, level: usize) -> Result<()> {
        if !self.extents.is_empty() {
            let leaf = Node::Leaf(std::mem::take(&mut self.extents)).write(store).await?;
            self.append_child(store, leaf, 0).await?;
        }
        for below in 0..level {
            let children = self.levels.get_mut(below).map(std::mem::take).unwrap_or_default();
            if !children.is_empty() {
                let child = write_inner(store, below, children).await?;
                self.append_child(store, child, below + 1).await?;
            }
        }
        Ok(())
    }

    /// Ends nodes upwards until one covers everything; gives it and its level. The leaf has been ended, and is not all.
    async fn close_top(&mut self, store: &dyn NodeStore) -> Result<(Child, u8)> {
        for level in 0..usize::from(DEPTH_MAX) {
            let is_top = self.levels.iter().skip(level + 1).all(Vec::is_empty);
            let children = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
            match children.as_slice() {
                [] => {}
                [only] if is_top => return Ok((*only, level as u8)),
                _ => {
                    let child = write_inner(store, level, children).await?;
                    self.append_child(store, child, level + 1).await?;
                }
            }
        }
        Err(Error::invalid(format!("a content of {CONTENT_BYTES_MAX} bytes or {DEPTH_MAX} levels can't be")))
    }
}

fn inline_root(extents: Vec<Extent>) -> Root {
    if extents.is_empty() { Root::Empty } else { Root::Extents(extents) }
}

/// The root that stands for the tree under `top`, without nodes of one entry above it, or without any node.
async fn lowest_root(store: &dyn NodeStore, mut top: Child, mut level: u8) -> Result<Root> {
    loop {
        match Node::read(store, &top, level).await? {
            Node::Leaf(extents) if extents.len() <= EXTENTS_INLINE_MAX => {
                return Ok(inline_root(extents));
            }
            Node::Inner { children, .. } if children.len() == 1 => {
                for only in children {
                    (top, level) = (only, level - 1);
                }
            }
            _ => {
                return Ok(Root::Tree { id: top.id, depth: level + 1 });
            }
        }
    }
}

/// Stores a node that lists nodes of `level`.
async fn write_inner(store: &dyn NodeStore, level: usize, children: Vec<Child>) -> Result<Child> {
    let level = u8::try_from(level + 1).unwrap_or(u8::MAX);
    Node::Inner { level, children }.write(store).await
}
