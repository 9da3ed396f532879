//! Changing manifests. Each operation is one pass of a [`Builder`] over what stays and what comes.

use super::{Builder, Extent, Manifest, NodeStore};
use crate::error::{Error, Result};
use std::ops::Range;

impl Manifest {
    /// Replaces `range` by extents of the same total length. A range that ends beyond the content extends it; one that starts beyond it
    /// leaves a hole in between. Reads and writes the nodes of one path, or two.
    pub async fn overwrite(&self, store: &dyn NodeStore, range: Range<u64>, with: Vec<Extent>) -> Result<Manifest> {
        let total = with.iter().try_fold(0u64, |total, extent| total.checked_add(extent.length));
        if range.start > range.end || total != Some(range.end - range.start) {
            return Err(Error::invalid(format!("bytes {range:?} can't be replaced by extents of {total:?} bytes")));
        }
        if range.is_empty() {
            return Ok(self.clone());
        }
        let mut builder = Builder::new();
        builder.push_range(store, self, 0..range.start.min(self.size)).await?;
        if range.start > self.size {
            builder.push(store, Extent::hole(range.start - self.size)).await?;
        }
        for extent in with {
            builder.push(store, extent).await?;
        }
        if range.end < self.size {
            builder.push_range(store, self, range.end..self.size).await?;
        }
        builder.finish(store).await
    }

    /// The content cut, or extended by a hole, to `size` bytes.
    pub async fn truncate(&self, store: &dyn NodeStore, size: u64) -> Result<Manifest> {
        if size > self.size {
            return self.overwrite(store, self.size..size, vec![Extent::hole(size - self.size)]).await;
        }
        self.slice(store, 0..size).await
    }

    /// The bytes of `range` as a content of their own; `Invalid` if it reaches beyond the end.
    pub async fn slice(&self, store: &dyn NodeStore, range: Range<u64>) -> Result<Manifest> {
        if range == (0..self.size) {
            return Ok(self.clone());
        }
        let mut builder = Builder::new();
        builder.push_range(store, self, range).await?;
        builder.finish(store).await
    }

    /// This content and then `other`. Trees are grafted: the nodes along their common edge are read, not their extents.
    pub async fn concat(&self, store: &dyn NodeStore, other: &Manifest) -> Result<Manifest> {
        Manifest::concat_all(store, &[self, other]).await
    }

    /// Many contents one after the other, at the cost of the nodes along their edges and of a few above them.
    pub async fn concat_all(store: &dyn NodeStore, parts: &[&Manifest]) -> Result<Manifest> {
        let mut builder = Builder::new();
        for part in parts {
            builder.push_manifest(store, part).await?;
        }
        builder.finish(store).await
    }
}
