//! Where things show: under the name that an entry or a home says, or, if another has that, under a derived one.

use super::keys::{self, BucketNumber};
use super::rows::NodeRow;
use super::show::node_of;
use super::txn::{Row, Txn};
use super::view::View;
use super::{BucketState, Place, contention};
use crate::error::Result;
use crate::id::NodeId;
use crate::kv::{Snapshot, Space};
use crate::register::Dot;
use crate::tree::Conflict;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What is in conflict about `place`, as it was when the transaction began.
pub(super) async fn conflicts_at(txn: &mut Txn, bucket: &BucketState, place: &Place) -> Result<Vec<Conflict>> {
    match txn.read(Space::Derived, &keys::contention(bucket.number, &place.0, &place.1)).await? {
        Some(row) => contention::decode(&place.0, &place.1, row),
        None => Ok(Vec::new()),
    }
}

/// Where a loser of `place` shows.
pub(super) async fn derived_place(
    snapshot: &Arc<dyn Snapshot>,
    bucket: BucketNumber,
    place: &Place,
    node: &NodeId,
    content: Option<Dot>,
) -> Result<Option<Place>> {
    let Some(row) = snapshot.get(Space::Derived, &keys::contention(bucket, &place.0, &place.1)).await? else {
        return Ok(None);
    };
    Ok(derived(contention::decode(&place.0, &place.1, row)?, node, content))
}

fn derived(conflicts: Vec<Conflict>, node: &NodeId, content: Option<Dot>) -> Option<Place> {
    let ours = conflicts.into_iter().find(|conflict| conflict.node == *node && conflict.content == content);
    ours.and_then(|conflict| conflict.shown).map(|shown| (shown.parent, shown.name))
}

/// Where a directory shows; `None`: nowhere. The root has no place.
pub async fn directory_place(view: &View, directory: &NodeId) -> Result<Option<Place>> {
    let (snapshot, bucket) = (view.store_snapshot(), view.bucket());
    let Some(row) = snapshot.get(NodeRow::SPACE, &keys::node(bucket, directory)).await? else { return Ok(None) };
    let Some(home) = NodeRow::decode(row, view.own())?.home.value().cloned() else { return Ok(None) };
    if node_of(&view.shown(&home.0, &home.1).await?) == Some(*directory) {
        return Ok(Some(home));
    }
    Ok(match derived_place(snapshot, bucket, &home, directory, None).await? {
        Some(shows) => Some(shows),
        // Taken out of a cycle it hangs under the root.
        None => derived_place(snapshot, bucket, &(NodeId::ROOT, home.1), directory, None).await?,
    })
}

/// The same in a transaction, as long as that has not moved it.
pub(super) async fn directory_place_in(
    txn: &mut Txn,
    bucket: &BucketState,
    directory: &NodeId,
) -> Result<Option<Place>> {
    let Some(home) = txn.node(bucket.number, directory).await?.home.value().cloned() else { return Ok(None) };
    if node_of(&txn.entry(bucket.number, &home.0, &home.1).await?.shown) == Some(*directory) {
        return Ok(Some(home));
    }
    if !bucket.is_shared() {
        return Ok(None);
    }
    let root = (NodeId::ROOT, home.1.clone());
    for place in [home, root] {
        if let Some(shows) = derived(conflicts_at(txn, bucket, &place).await?, directory, None)
            && node_of(&txn.entry(bucket.number, &shows.0, &shows.1).await?.shown) == Some(*directory)
        {
            return Ok(Some(shows));
        }
    }
    Ok(None)
}

/// The key of what is at `place`; `None`: a directory above does not show.
pub(super) async fn path_of(view: &View, place: &Place) -> Result<Option<Bytes>> {
    let mut names = vec![place.1.clone()];
    let mut at = place.0;
    let mut met = BTreeSet::new();
    while at != NodeId::ROOT {
        let Some((parent, name)) = directory_place(view, &at).await?.filter(|_| met.insert(at)) else {
            return Ok(None);
        };
        names.push(name);
        at = parent;
    }
    names.reverse();
    Ok(Some(names.concat().into()))
}

/// Paths of directories, as a transaction comes to know them.
#[derive(Default)]
pub(super) struct Kin(HashMap<NodeId, Option<Bytes>>);

impl Kin {
    /// The path of a directory, with its `/`; empty for the root. `None`: it shows nowhere, or where it shows is being changed by the transaction.
    pub(super) async fn path(
        &mut self,
        txn: &mut Txn,
        bucket: &BucketState,
        directory: &NodeId,
    ) -> Result<Option<Bytes>> {
        let mut names: Vec<(NodeId, Bytes)> = Vec::new();
        let mut at = *directory;
        let mut path = loop {
            if at == NodeId::ROOT {
                break Some(Bytes::new());
            }
            if let Some(known) = self.0.get(&at) {
                break known.clone();
            }
            let place = directory_place_in(txn, bucket, &at).await?;
            let Some((parent, name)) = place.filter(|_| names.iter().all(|(met, _)| *met != at)) else {
                self.0.insert(at, None);
                break None;
            };
            names.push((at, name));
            at = parent;
        };
        while let Some((node, name)) = names.pop() {
            path = path.map(|path| [path, name].concat().into());
            self.0.insert(node, path.clone());
        }
        Ok(path)
    }
}
