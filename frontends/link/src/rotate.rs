//! Changing this segment's key: the next key is made, each linked segment is told of it over a link that the present key proves, and when all have it on disk the
//! next key takes the present one's place. A linked segment takes both until it has seen the next one; from then on the old one is nobody's.
//!
//! Where this stands is on disk: the next key in its file, who was told of it in the list of links. So it goes on after a restart.

use crate::dial::blocking;
use crate::door::WAIT_STEP;
use crate::hub::{Hub, Peer};
use crate::identity::{Fingerprint, Identity};
use crate::links::Link;
use crate::wire::{self, Body};
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::Instant;
use tombolo_core::{Error, Result};

/// Where a change of keys stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that is in use.
    pub fingerprint: Fingerprint,
    /// The one that is to follow; `None`: it has.
    pub next: Option<Fingerprint>,
    /// Linked segments that know of it.
    pub told: Vec<String>,
    /// Linked segments that have to hear of it before it is used.
    pub waiting: Vec<String>,
}

/// Makes the next key, unless it is there, and tells everybody. Returns when it is in use, or at the deadline.
pub(crate) async fn rotate(hub: &Arc<Hub>, is_at_once: bool, deadline: Instant) -> Result<Rotation> {
    let before = hub.identity().fingerprint();
    let next = blocking(hub, |hub| Identity::prepare(hub.segment.dir())).await?.fingerprint();
    *hub.next_key.lock() = Some(next);
    for peer in hub.peers() {
        tell(hub, &peer);
    }
    if is_at_once {
        adopt(hub).await?;
    } else {
        settle(hub).await?;
    }
    while hub.identity().fingerprint() == before && Instant::now() < deadline {
        tokio::time::sleep(WAIT_STEP).await;
    }
    let is_used = hub.identity().fingerprint() == next;
    let (told, waiting) = hub.links.list().into_iter().partition(|link| is_used || link.told_key == Some(next));
    let names = |links: Vec<Link>| links.into_iter().map(|link| link.name).collect();
    Ok(Rotation {
        fingerprint: hub.identity().fingerprint(),
        next: (!is_used).then_some(next),
        told: names(told),
        waiting: names(waiting),
    })
}

/// Tells a segment that is connected of the next key, if there is one that it has not said to know.
pub(crate) fn tell(hub: &Hub, peer: &Peer) {
    let next = *hub.next_key.lock();
    let is_told = |next| hub.links.by_peer(&peer.id).is_some_and(|link| link.told_key == Some(next));
    if let Some(next) = next.filter(|next| !is_told(*next) && peer.version >= wire::VERSION_ROTATES) {
        peer.say(Body::NewKey(Bytes::copy_from_slice(&next.0)));
    }
}

/// A connected segment says which key it will have. When that is on disk it is told so.
pub(crate) async fn heard(hub: &Arc<Hub>, peer: &Peer, key: &[u8]) -> Result<()> {
    let next = fingerprint(key)?;
    let id = peer.id;
    let change = move |link: &mut Link| link.next_fingerprint = Some(next).filter(|next| *next != link.fingerprint);
    match blocking(hub, move |hub| hub.links.change(&id, change)).await {
        Ok(_) => peer.reply(Body::KeyTaken(Bytes::copy_from_slice(key))),
        // It goes on with the key that it has.
        Err(error) => hub.trouble(&peer.id, format!("its next key was not taken: {error}")),
    }
    Ok(())
}

/// A connected segment has the next key on disk.
pub(crate) async fn taken(hub: &Arc<Hub>, peer: &Peer, key: &[u8]) -> Result<()> {
    let told = fingerprint(key)?;
    if *hub.next_key.lock() == Some(told) {
        let id = peer.id;
        blocking(hub, move |hub| hub.links.change(&id, |link| link.told_key = Some(told))).await?;
    }
    Ok(())
}

/// Looks whenever a link has changed, and when it begins, whether the next key can be used.
pub(crate) async fn run(hub: Arc<Hub>) {
    let mut links = hub.links.watch();
    loop {
        if let Err(error) = settle(&hub).await {
            tracing::error!(%error, "the next key could not be used");
        }
        if links.changed().await.is_err() {
            return;
        }
    }
}

/// Uses the next key if all linked segments know it.
async fn settle(hub: &Arc<Hub>) -> Result<()> {
    let next = *hub.next_key.lock();
    match next {
        Some(next) if hub.links.list().iter().all(|link| link.told_key == Some(next)) => adopt(hub).await,
        _ => Ok(()),
    }
}

async fn adopt(hub: &Arc<Hub>) -> Result<()> {
    // Once, whoever comes first.
    let Some(next) = hub.next_key.lock().take() else { return Ok(()) };
    let adopted = blocking(hub, |hub| {
        let identity = Identity::adopt(hub.segment.dir())?;
        // Codes that were given out name the old key.
        for invite in hub.invites.list(0) {
            hub.invites.cancel(&invite.id)?;
        }
        Ok(identity)
    });
    let identity = match adopted.await {
        Ok(identity) => identity,
        Err(error) => {
            *hub.next_key.lock() = Some(next);
            return Err(error);
        }
    };
    tracing::info!(fingerprint = %identity.fingerprint(), "the key of this segment has changed");
    hub.set_identity(identity);
    for peer in hub.peers() {
        peer.close("the key of this segment has changed");
    }
    Ok(())
}

/// The link of a segment that has just proved `proven`: if that is the key that it announced, the one before does not count any more.
pub(crate) async fn proved(hub: &Arc<Hub>, link: Link, proven: Fingerprint) -> Result<Link> {
    if link.next_fingerprint != Some(proven) {
        return Ok(link);
    }
    let peer = link.peer;
    let change = move |link: &mut Link| (link.fingerprint, link.next_fingerprint) = (proven, None);
    blocking(hub, move |hub| hub.links.change(&peer, change)).await
}

fn fingerprint(key: &[u8]) -> Result<Fingerprint> {
    Ok(Fingerprint(key.try_into().map_err(|_| Error::damaged("a key's fingerprint has 32 bytes"))?))
}
