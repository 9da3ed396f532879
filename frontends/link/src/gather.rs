//! Giving local data up to those who hold it (P11). Whoever gathers asks its peers what they hold; they promise, durably, and say so whenever it is more; what
//! they have said is durable here before a collection gives anything up.

use crate::hub::{Hub, Peer, gathers};
use crate::wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tombolo_core::{Bucket, BucketId, Gather, Result, VersionVector};

/// Clocks are read to the millisecond.
const GRACE: Duration = Duration::from_millis(100);
/// Collecting takes at most one part in so many of the time.
const COLLECTING_SHARE: u32 = 10;

/// Has the engine gather or not, as the links say, and asks those over whose links data goes for good.
pub(crate) async fn follow(hub: &Arc<Hub>, bucket: &Bucket, id: BucketId) -> Result<()> {
    let gather = hub.gather(bucket.path());
    bucket.set_gather(gather).await?;
    if gather.is_some() {
        for peer in hub.peers() {
            if hub.link(&peer.id).is_some_and(|link| gathers(&link, bucket.path())) {
                peer.say(wire::gathers(id));
            }
        }
    }
    Ok(())
}

/// A peer asks what is held here. It hears of it after the next look at what is to be brought, and whenever it is more.
pub(crate) async fn asked(hub: &Arc<Hub>, peer: &Arc<Peer>, id: BucketId) {
    let Ok(bucket) = hub.segment.catalog().bucket_with_id(&id).await else { return };
    let Some(link) = hub.link(&peer.id) else { return };
    if link.direction.receives() && link.scope.covers(bucket.path()) {
        hub.gatherers.lock().entry((peer.id, id)).or_default();
        hub.wanted.notify_one();
    }
}

/// Promises those who have asked to hold what is here, if that is more than they know of.
pub(crate) async fn promise(hub: &Arc<Hub>, bucket: &Bucket, id: BucketId) -> Result<()> {
    let askers: Vec<_> = {
        let gatherers = hub.gatherers.lock();
        gatherers.iter().filter(|((_, of), _)| *of == id).map(|((peer, _), told)| (*peer, told.clone())).collect()
    };
    if askers.is_empty() {
        return Ok(());
    }
    let now = bucket.data_vector().await?;
    if askers.iter().all(|(_, told)| told.dominates(&now)) {
        return Ok(());
    }
    let Some(vector) = bucket.promise().await? else { return Ok(()) };
    for (asker, _) in askers {
        if let Some(peer) = hub.peer(&asker) {
            peer.say(wire::holds(id, &vector));
        }
        if let Some(told) = hub.gatherers.lock().get_mut(&(asker, id)) {
            told.merge(&vector);
        }
    }
    Ok(())
}

/// A peer has promised to hold data.
pub(crate) async fn promised(hub: &Arc<Hub>, peer: &Arc<Peer>, id: BucketId, vector: &VersionVector) {
    let noted = async {
        let bucket = hub.segment.catalog().bucket_with_id(&id).await?;
        if hub.link(&peer.id).is_some_and(|link| gathers(&link, bucket.path())) {
            bucket.add_receipt(&peer.id, vector).await?;
            hub.receipts.notify_one();
        }
        Result::<()>::Ok(())
    };
    if let Err(error) = noted.await {
        tracing::warn!(peer = peer.name, %error, "what a peer holds was not noted");
    }
}

/// Collects what may be given up, when others have promised to hold it and it is old enough; for ever.
pub(crate) async fn run(hub: Arc<Hub>) {
    loop {
        hub.receipts.notified().await;
        match give_up(&hub).await {
            Ok(took) => sleep(took * COLLECTING_SHARE).await,
            Err(error) => tracing::warn!(%error, "data that others hold could not be given up"),
        }
    }
}

/// Returns how long the collection took.
async fn give_up(hub: &Hub) -> Result<Duration> {
    let buckets = hub.segment.catalog().all_buckets().await?;
    let delays = buckets.iter().filter_map(|info| hub.gather(&info.path)).map(|Gather { delay_ms, .. }| delay_ms);
    let Some(delay_ms) = delays.max() else { return Ok(Duration::ZERO) };
    // What has been received by now was written before now.
    sleep(Duration::from_millis(delay_ms) + GRACE).await;
    let began = Instant::now();
    let report = hub.segment.gc().await?;
    tracing::info!(bytes_freed = report.bytes_freed, "data that others hold is given up");
    Ok(began.elapsed())
}
