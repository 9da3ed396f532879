//! Which versions an open file's unsaved bytes were taken from by reference. While all of them are live, their bytes are kept where they are
//! (`namespace/replaced.rs`); a version that is made of others brings its bytes here first.

use crate::error::Result;
use crate::id::NodeId;
use crate::namespace::keys::BucketNumber;
use crate::namespace::{self, Lender, Txn, Which};
use crate::register::Dot;

/// More than so many are not told apart.
const KNOWN_MAX: usize = 64;

/// The version of a file.
pub(super) type Origin = (BucketNumber, NodeId, Dot);

/// See the module. Each with the last change that took bytes from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins {
    known: Vec<(Origin, u64)>,
    /// The last change that took bytes from one that is not listed.
    more: Option<u64>,
}

impl Origins {
    /// The change `stamp` takes bytes from `origin`.
    pub(super) fn add(&mut self, origin: Origin, stamp: u64) {
        if let Some((_, last)) = self.known.iter_mut().find(|(known, _)| *known == origin) {
            *last = stamp;
        } else if self.known.len() < KNOWN_MAX {
            self.known.push((origin, stamp));
        } else {
            self.more = Some(stamp);
        }
    }

    /// The change `stamp` takes bytes from a file whose unsaved bytes are of `others`.
    pub(super) fn add_all(&mut self, others: &Origins, stamp: u64) {
        others.known.iter().for_each(|(origin, _)| self.add(*origin, stamp));
        self.more = others.more.map(|_| stamp).or(self.more);
    }

    /// What changes up to `stamp` took is in a version now.
    pub(super) fn saved(&mut self, stamp: u64) {
        self.known.retain(|(_, last)| *last > stamp);
        self.more = self.more.filter(|last| *last > stamp);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.more.is_none()
    }

    /// What they lend; `None`: not all of them are live versions of files of `bucket`. The commit fails if that changes before.
    pub(super) async fn lenders(&self, txn: &mut Txn, bucket: BucketNumber) -> Result<Option<Vec<Lender>>> {
        let mut lenders = Vec::new();
        for ((number, node, dot), _) in &self.known {
            if *number != bucket || self.more.is_some() {
                return Ok(None);
            }
            let Some(lender) = namespace::lender(txn, bucket, node, Which::Write(dot)).await? else { return Ok(None) };
            lenders.push(lender);
        }
        Ok(Some(lenders))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SegmentId;

    #[test]
    fn what_was_taken_after_a_save_began_is_not_forgotten_by_it() {
        let of = |n: u8| (1, NodeId([n; 16]), Dot::new(SegmentId([n; 16]), 1));
        let mut origins = Origins::default();
        origins.add(of(1), 1);
        origins.add(of(2), 2);
        origins.add(of(1), 5);
        origins.saved(3);
        assert_eq!(origins.known, [(of(1), 5)]);
        (0..=KNOWN_MAX as u8).for_each(|n| origins.add(of(n), 6));
        let mut others = Origins::default();
        others.add_all(&origins, 7);
        assert_eq!((others.known.len(), others.more), (KNOWN_MAX, Some(7)));
        others.saved(7);
        assert!(others.is_empty());
    }
}
