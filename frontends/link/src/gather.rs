//! Giving local data up to those who hold it (P11). Whoever gathers asks its peers what they hold; they promise, durably, and say so whenever it is more; what
//! they have said is durable here before a collection gives anything up.
//!
//! A promise ends when whoever made it is not to hold all data any more, asks for it back, and hears that nobody relies on it: because others hold the data, or the asker
//! holds it itself again. The same is asked when the bucket is deleted here; who has no such bucket relies on nothing. Both sides forget it on their disks first,
//! and the one that relied on it before the other.

use crate::hub::{Hub, Peer, gathers};
use crate::links::Link;
use crate::wire;
use rand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tombolo_core::{Bucket, BucketId, ErrorKind, Gather, Result, SegmentId, VersionVector};

/// Clocks are read to the millisecond.
const GRACE: Duration = Duration::from_millis(100);
/// Collecting takes at most one part in so many of the time.
const COLLECTING_SHARE: u32 = 10;
/// The most buckets that a peer may ask about.
const ASKED_MAX: usize = 1 << 16;

/// Has the engine gather or not, as the links say, and asks those over whose links data goes for good.
pub(crate) async fn follow(hub: &Arc<Hub>, bucket: &Bucket, id: BucketId) -> Result<()> {
    let gather = hub.gather(bucket.path());
    let before = bucket.gather().await?;
    bucket.set_gather(gather).await?;
    if gather != before {
        // What others hold already may be given up on other terms now.
        hub.terms.notify_one();
        hub.receipts.notify_one();
    }
    if gather.is_some() {
        for peer in hub.peers() {
            if hub.link(&peer.id).is_some_and(|link| gathers(&link, bucket.path())) {
                peer.say(wire::gathers(id));
            }
        }
    }
    Ok(())
}

/// What a peer says about a bucket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Word {
    /// It gives up data, and asks what is held here.
    Gathers,
    /// It promises to hold all data up to a vector.
    Holds(VersionVector),
    /// It wants its promise back; a number to be given back.
    Returns(u64),
    /// It relies no longer on what was promised here, with the number of the question.
    Released(u64),
}

/// Hears what a peer says.
pub(crate) async fn hear(hub: &Arc<Hub>, peer: &Arc<Peer>, id: BucketId, word: Word) {
    let heard = match word {
        Word::Gathers => {
            asked(hub, peer.id, id);
            Ok(())
        }
        Word::Holds(vector) => promised(hub, peer, id, &vector).await,
        Word::Returns(nonce) => returns(hub, peer, id, nonce).await,
        Word::Released(nonce) => released(hub, &peer.id, id, nonce).await,
    };
    if let Err(error) = heard {
        tracing::warn!(peer = peer.name, bucket = %id, %error, "what a linked segment said of who holds data was not taken in");
    }
}

/// A peer asks what is held here. It hears of it after the next look at what is to be brought, and whenever it is more; also of a bucket that is not known here
/// yet, when it is.
fn asked(hub: &Hub, peer: SegmentId, id: BucketId) {
    let mut gatherers = hub.gatherers.lock();
    let asked = gatherers.entry(peer).or_default();
    if asked.len() < ASKED_MAX && !asked.contains_key(&id) {
        asked.insert(id, VersionVector::new());
        drop(gatherers);
        hub.wanted.notify_one();
    }
}

/// A connection has ended: whoever asked asks again.
pub(crate) fn disconnected(hub: &Hub, peer: &SegmentId) {
    hub.gatherers.lock().remove(peer);
    hub.returning.lock().retain(|(id, _), _| id != peer);
}

/// Promises those who have asked to hold what is here, if that is more than they know of. Where not all data is to be here any more, asks for what was promised
/// back.
pub(crate) async fn promise(hub: &Arc<Hub>, bucket: &Bucket, id: BucketId) -> Result<()> {
    let _one = hub.promising.lock().await;
    let Some(now) = bucket.promisable().await? else {
        if !hub.wants_data(bucket.path()) {
            take_back(hub, bucket, id).await?;
        }
        return Ok(());
    };
    let askers: Vec<_> = {
        let gatherers = hub.gatherers.lock();
        let lacks = |asked: &HashMap<_, VersionVector>| asked.get(&id).is_some_and(|told| !told.dominates(&now));
        gatherers.iter().filter(|(_, asked)| lacks(asked)).map(|(peer, _)| *peer).collect()
    };
    for asker in askers {
        let may = |link: &Link| link.direction.receives() && link.scope.covers(bucket.path());
        let Some(peer) = hub.peer(&asker).filter(|_| hub.link(&asker).is_some_and(|link| may(&link))) else { continue };
        // What it says about an earlier promise from now on is not about this one.
        hub.returning.lock().remove(&(asker, id));
        let Some(vector) = bucket.promise(&asker).await? else { return Ok(()) };
        peer.say(wire::holds(id, &vector));
        if let Some(told) = hub.gatherers.lock().get_mut(&asker).and_then(|asked| asked.get_mut(&id)) {
            told.merge(&vector);
        }
    }
    Ok(())
}

async fn take_back(hub: &Hub, bucket: &Bucket, id: BucketId) -> Result<()> {
    bucket.promises().await?.into_iter().for_each(|(segment, _)| ask_back(hub, segment, id));
    Ok(())
}

/// Asks for what was promised about buckets that are deleted here: what they held goes when nobody relies on it.
pub(crate) async fn take_back_of_deleted(hub: &Hub) -> Result<()> {
    let _one = hub.promising.lock().await;
    for (id, promised) in hub.segment.catalog().promises_of_deleted().await? {
        promised.into_iter().for_each(|segment| ask_back(hub, segment, id));
    }
    Ok(())
}

fn ask_back(hub: &Hub, segment: SegmentId, id: BucketId) {
    if let Some(peer) = hub.peer(&segment) {
        let nonce = rand::rng().random();
        hub.returning.lock().insert((segment, id), nonce);
        peer.say(wire::returns(id, nonce));
    }
}

/// A peer has promised to hold data.
async fn promised(hub: &Hub, peer: &Peer, id: BucketId, vector: &VersionVector) -> Result<()> {
    let bucket = hub.segment.catalog().bucket_with_id(&id).await?;
    if hub.link(&peer.id).is_some_and(|link| gathers(&link, bucket.path())) {
        bucket.add_receipt(&peer.id, vector).await?;
        hub.receipts.notify_one();
    }
    Ok(())
}

/// A peer wants its promise back. It is asked for again as long as it is relied on.
async fn returns(hub: &Hub, peer: &Peer, id: BucketId, nonce: u64) -> Result<()> {
    let is_released = match hub.segment.catalog().bucket_with_id(&id).await {
        Ok(bucket) => bucket.release(&peer.id).await?,
        // Nothing relies on it where there is no such bucket.
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if is_released {
        peer.reply(wire::released(id, nonce));
    }
    Ok(())
}

/// A peer relies no longer on what was promised here, unless more was promised since it was asked.
async fn released(hub: &Hub, peer: &SegmentId, id: BucketId, nonce: u64) -> Result<()> {
    let _one = hub.promising.lock().await;
    let is_meant = hub.returning.lock().get(&(*peer, id)) == Some(&nonce);
    if is_meant {
        match hub.segment.catalog().bucket_with_id(&id).await {
            Ok(bucket) => bucket.end_promise(peer).await?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                hub.segment.catalog().end_promise_of_deleted(&id, peer).await?;
            }
            Err(error) => return Err(error),
        }
        hub.returning.lock().remove(&(*peer, id));
        if let Some(told) = hub.gatherers.lock().get_mut(peer).and_then(|asked| asked.get_mut(&id)) {
            *told = VersionVector::new();
        }
    }
    Ok(())
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
    // What has been received by now was written before now.
    let since = Instant::now();
    loop {
        let buckets = hub.segment.catalog().all_buckets().await?;
        let delays = buckets.iter().filter_map(|info| hub.gather(&info.path)).map(|Gather { delay_ms, .. }| delay_ms);
        let Some(delay_ms) = delays.max() else { return Ok(Duration::ZERO) };
        tokio::select! {
            () = sleep((Duration::from_millis(delay_ms) + GRACE).saturating_sub(since.elapsed())) => break,
            // It may have become shorter.
            () = hub.terms.notified() => {}
        }
    }
    let began = Instant::now();
    let report = hub.segment.gc().await?;
    tracing::info!(bytes_freed = report.bytes_freed, "data that others hold is given up");
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::hub;

    /// A question about a bucket that was not known yet was forgotten, and asked again at the next pass or connection; so was one where the look-up failed.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_before_a_bucket_is_known_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _) = hub(dir.path(), "a").await;
        let (peer, later) = (SegmentId([1; 16]), BucketId([2; 16]));
        asked(&hub, peer, later);
        let knows = |peer, id| hub.gatherers.lock().get(&peer).is_some_and(|asked| asked.contains_key(&id));
        assert!(knows(peer, later));
        // What a peer asks takes bounded memory, and keeps nobody else from asking.
        for n in 0..=ASKED_MAX as u64 {
            let mut id = [3; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            asked(&hub, peer, BucketId(id));
        }
        asked(&hub, SegmentId([5; 16]), later);
        assert_eq!(hub.gatherers.lock().get(&peer).map(HashMap::len), Some(ASKED_MAX));
        assert!(knows(SegmentId([5; 16]), later));
        disconnected(&hub, &peer);
        assert_eq!(hub.gatherers.lock().len(), 1);
    }

    /// An answer to a question that is not the last one is about an earlier promise.
    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_last_question_ends_a_promise() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, bucket) = hub(dir.path(), "a").await;
        let (peer, id) = (SegmentId([1; 16]), bucket.info().await.unwrap().id);
        bucket.put("k", "v", Default::default()).await.unwrap();
        bucket.keep_data(true).await.unwrap();
        bucket.promise(&peer).await.unwrap().unwrap();
        hub.returning.lock().insert((peer, id), 7);
        released(&hub, &peer, id, 6).await.unwrap();
        assert_eq!(bucket.promises().await.unwrap().len(), 1);
        released(&hub, &peer, id, 7).await.unwrap();
        assert_eq!(bucket.promises().await.unwrap(), []);
        bucket.promise(&peer).await.unwrap().unwrap();
        released(&hub, &peer, id, 7).await.unwrap();
        assert_eq!(bucket.promises().await.unwrap().len(), 1, "it was promised again");
    }
}
