//! Tables of who carries a bucket, taken in and told.

use crate::hub::{Hub, Payload};
use parking_lot::Mutex;
use std::collections::HashMap;
use tombolo_core::sync::Event;
use tombolo_core::{BucketId, Carriers, ErrorKind, SegmentId};

/// Tables of carriers that are being taken in, each with the next one of the same peer and bucket, if that has come: it says all that those between said.
pub(crate) type Learning = Mutex<HashMap<(SegmentId, BucketId), Option<Carriers>>>;

/// Takes in a table of carriers, and those of the same peer and bucket that come meanwhile. Whether any of them said something new.
pub(crate) async fn learn(
    hub: &Hub,
    learning: &Learning,
    peer: SegmentId,
    bucket: BucketId,
    mut told: Carriers,
) -> bool {
    let mut is_news = false;
    loop {
        let learnt = async { hub.segment.catalog().bucket_with_id(&bucket).await?.learn_carriers(&told).await };
        match learnt.await {
            Ok(news) => is_news |= news,
            Err(error) => tracing::warn!(%bucket, %peer, %error, "who carries a bucket was not taken in"),
        }
        let mut learning = learning.lock();
        match learning.get_mut(&(peer, bucket)).and_then(Option::take) {
            Some(next) => told = next,
            None => {
                learning.remove(&(peer, bucket));
                return is_news;
            }
        }
    }
}

/// What peers are told of who carries a bucket; `None` if that can't be read.
pub(crate) async fn carriers(hub: &Hub, bucket: &BucketId) -> Option<Event<Payload>> {
    let found = async { hub.segment.catalog().bucket_with_id(bucket).await?.carriers().await };
    match found.await {
        Ok(carriers) => Some(Event::Carriers { bucket: *bucket, carriers }),
        // The bucket has gone.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%bucket, %error, "who carries a bucket can't be read");
            None
        }
    }
}
