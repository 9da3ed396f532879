//! Directories that were moved into each other: which hang in a circle, looked for from one of them upwards.

use super::keys::{self, BucketNumber};
use super::txn::Txn;
use crate::error::Result;
use crate::id::NodeId;
use crate::register::Stamp;
use std::collections::HashMap;
use std::sync::Arc;

type Rank = (Stamp, u64, NodeId);

/// A circle, and which of its members hangs under the root instead.
struct Cycle {
    members: Vec<NodeId>,
    cut: Option<NodeId>,
}

/// What one transaction has found; the homes must not change any more.
pub(super) struct Cycles {
    bucket: BucketNumber,
    /// By directory: the circle it is in, if any; as it is now, and as it was.
    now: HashMap<NodeId, Option<Arc<Cycle>>>,
    before: HashMap<NodeId, Option<Arc<Cycle>>>,
}

impl Cycles {
    pub(super) fn new(bucket: BucketNumber) -> Cycles {
        Cycles { bucket, now: HashMap::new(), before: HashMap::new() }
    }

    /// Whether a directory hangs under the root because it was moved last of those in a circle.
    pub(super) async fn is_cut(&mut self, txn: &mut Txn, node: &NodeId) -> Result<bool> {
        Ok(self.find(txn, node, false).await?.is_some_and(|cycle| cycle.cut == Some(*node)))
    }

    /// All that are in a circle with a directory; `before`: before this transaction.
    pub(super) async fn members(&mut self, txn: &mut Txn, node: &NodeId, before: bool) -> Result<Vec<NodeId>> {
        Ok(self.find(txn, node, before).await?.map(|cycle| cycle.members.clone()).unwrap_or_default())
    }

    async fn find(&mut self, txn: &mut Txn, node: &NodeId, before: bool) -> Result<Option<Arc<Cycle>>> {
        let known = if before { &mut self.before } else { &mut self.now };
        let mut path: Vec<NodeId> = Vec::new();
        // Where on the path a directory is.
        let mut met: HashMap<NodeId, usize> = HashMap::new();
        let mut ranks: Vec<Rank> = Vec::new();
        let mut at = *node;
        let mut start = None;
        while at != NodeId::ROOT && !known.contains_key(&at) {
            if let Some(place) = met.get(&at) {
                start = Some(*place);
                break;
            }
            let row = txn.node(self.bucket, &at).await?;
            let row = if before {
                txn.node_before(&keys::node(self.bucket, &at)).cloned().unwrap_or_default()
            } else {
                row.clone()
            };
            let Some((write, place)) = row.home.live_values().next() else { break };
            met.insert(at, path.len());
            path.push(at);
            ranks.push((write.stamp(), write.dot.sequence, at));
            at = place.0;
        }
        let cycle = start.map(|start| {
            let cut = ranks.iter().skip(start).max().map(|(_, _, node)| *node);
            Arc::new(Cycle { members: path.iter().skip(start).copied().collect(), cut })
        });
        for (place, node) in path.into_iter().enumerate() {
            let is_member = start.is_some_and(|start| place >= start);
            known.insert(node, cycle.clone().filter(|_| is_member));
        }
        Ok(known.get(node).cloned().flatten())
    }
}
