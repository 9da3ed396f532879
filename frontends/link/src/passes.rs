//! What a link brings in time: the pass that a link with `initial` or `continuous` makes when it begins. Both wait for what the other side has then: `initial` names and
//! data, after which nothing more comes, `continuous` names, after which the data of whatever is new comes, too.

use crate::dial::blocking;
use crate::door::{FOREVER, wait_for};
use crate::hub::Hub;
use crate::links::{Link, Passes};
use crate::scope::Scope;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use tokio::time::Instant;
use tombolo_core::{Result, SegmentId};

/// Ends passes that have got there, for ever.
pub(crate) async fn run(hub: Arc<Hub>) {
    let mut links = hub.links.watch();
    loop {
        let is_due =
            |link: &Link| link.passes != Passes::Both && !link.is_passed && !link.paused && link.direction.receives();
        let mut passing: FuturesUnordered<_> =
            hub.links.list().into_iter().filter(is_due).map(|link| pass(&hub, link)).collect();
        tokio::select! {
            Some((link, outcome)) = passing.next() => {
                if let Err(error) = outcome {
                    tracing::warn!(peer = link.name, %error, "a pass over what a linked segment has broke off; it begins anew");
                    // Whatever it was may still be so.
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
                let (id, passes) = (link.peer, link.passes);
                if let Err(error) = blocking(&hub, move |hub| passed(hub, &id, passes)).await {
                    tracing::warn!(peer = link.name, %error, "a pass is over and could not be noted");
                }
            }
            // A link may have gone, or begin another pass.
            changed = links.changed() => if changed.is_err() { return },
        }
    }
}

async fn pass(hub: &Arc<Hub>, link: Link) -> (Link, Result<()>) {
    let outcome = wait_for(hub, &link, &Scope::everything(), Instant::now() + FOREVER).await;
    (link, outcome)
}

fn passed(hub: &Hub, peer: &SegmentId, passes: Passes) -> Result<Link> {
    hub.links.change(peer, |link| link.is_passed |= link.passes == passes)
}
