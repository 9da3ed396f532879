//! What a segment that is open for long has done without being asked: what POSIX doors don't ask to have on disk gets there, uploads that nobody completes
//! expire, garbage is collected, and what lies on the disk is read again before it is needed.

use super::segment::Segment;
use super::transact;
use crate::error::Result;
use crate::kv::Space;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Uploads are looked at this often; their age is counted in days.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
/// What was written through a mount and not synced is on disk this much later.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Whether a scrub is due is looked at this often.
const SCRUB_LOOK: Duration = Duration::from_secs(600);
/// Stands for "never" in a timer.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// The row of [`Space::Meta`] that says when the last scrub ended, in nanoseconds since the epoch, big-endian.
const SCRUBBED_ROW: &[u8] = b"scrubbed";

/// How [`Segment::keep_house`] goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Housekeeping {
    /// Multipart uploads that were started longer ago are dropped; zero: never.
    pub upload_expiry: Duration,
    /// Garbage is collected this often, when anything was written or deleted in between; zero: never.
    pub gc_interval: Duration,
    /// What a collection moves at most, in bytes per second; 0: unlimited.
    pub gc_bytes_per_second: u64,
    /// All chunks are read and verified this long after the last time; zero: never.
    pub scrub_interval: Duration,
    /// What that reads at most, in bytes per second; 0: unlimited.
    pub scrub_bytes_per_second: u64,
}

impl Default for Housekeeping {
    fn default() -> Self {
        Housekeeping {
            upload_expiry: Duration::from_secs(7 * 86_400),
            gc_interval: Duration::from_secs(3600),
            gc_bytes_per_second: 128 << 20,
            scrub_interval: Duration::from_secs(30 * 86_400),
            scrub_bytes_per_second: 32 << 20,
        }
    }
}

impl Segment {
    /// Keeps house until it is dropped, which may happen at any time. A failure is logged and tried again at the next turn.
    ///
    /// ```
    /// # async fn run(dir: &std::path::Path) -> tombolo_core::Result<()> {
    /// use tombolo_core::{CreateOptions, Housekeeping, OpenOptions, Segment};
    ///
    /// let create = CreateOptions { name: "lab".into(), cluster: "Lab".into() };
    /// let segment = Segment::create(dir.join("data"), create, OpenOptions::default()).await?;
    /// let keeper = segment.clone();
    /// let keeping = tokio::spawn(async move { keeper.keep_house(Housekeeping::default()).await });
    /// // ... work with the segment ...
    /// keeping.abort();
    /// segment.close().await
    /// # }
    /// # let dir = std::env::temp_dir().join(format!("tombolo-house-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(run(&dir)).unwrap();
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// ```
    pub async fn keep_house(&self, options: Housekeeping) {
        // Side by side: a collection takes as long as it takes, and what was written is to be on disk in seconds all the same.
        let sync = async {
            let mut timer = timer(SYNC_INTERVAL);
            loop {
                timer.tick().await;
                if let Err(error) = self.sync().await {
                    tracing::warn!(%error, "what was written is not on disk yet");
                }
            }
        };
        let expiry = async {
            let mut timer = timer(if options.upload_expiry.is_zero() { NEVER } else { EXPIRY_INTERVAL });
            loop {
                timer.tick().await;
                match self.expire_uploads(options.upload_expiry).await {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "uploads that nobody completed are dropped"),
                    Err(error) => tracing::warn!(%error, "old uploads could not be dropped"),
                }
            }
        };
        let collection = async {
            let mut timer = timer(if options.gc_interval.is_zero() { NEVER } else { options.gc_interval });
            let mut collected = None;
            loop {
                timer.tick().await;
                if let Err(error) = self.collect(&mut collected, options.gc_bytes_per_second).await {
                    tracing::warn!(%error, "garbage could not be collected");
                }
            }
        };
        let scrubbing = async {
            let mut timer = timer(if options.scrub_interval.is_zero() { NEVER } else { SCRUB_LOOK });
            loop {
                timer.tick().await;
                if let Err(error) = self.scrub_if_due(&options).await {
                    tracing::warn!(%error, "what is stored could not be read again");
                }
            }
        };
        tokio::join!(sync, expiry, collection, scrubbing);
    }

    /// Collects garbage if the holdings are other than after the last collection, or linked segments have heard since of something that is deleted.
    async fn collect(&self, collected: &mut Option<Holdings>, bytes_per_second: u64) -> Result<()> {
        if *collected == Some(self.holdings().await?) && self.drop_acknowledged().await? == 0 {
            return Ok(());
        }
        let report = self.gc_slowly(bytes_per_second).await?;
        *collected = Some(self.holdings().await?);
        tracing::info!(bytes_freed = report.bytes_freed, packs_removed = report.packs_removed, "garbage is collected");
        Ok(())
    }

    async fn scrub_if_due(&self, options: &Housekeeping) -> Result<()> {
        let row = self.store().get(Space::Meta, SCRUBBED_ROW).await?;
        let last_ns = row.and_then(|row| row.as_ref().try_into().ok().map(i64::from_be_bytes));
        let since_ns = last_ns.map_or(i64::MAX, |last| self.now_ns().saturating_sub(last));
        // A clock that has gone back says nothing; nor does a segment that never was scrubbed: it may hold nothing yet.
        let interval_ns = i64::try_from(options.scrub_interval.as_nanos()).unwrap_or(i64::MAX);
        if last_ns.is_some() && (0..interval_ns).contains(&since_ns) {
            return Ok(());
        }
        if last_ns.is_some() {
            let report = self.scrub(options.scrub_bytes_per_second, |_, _| {}).await?;
            if report.damage_count > 0 {
                tracing::error!(
                    damage = report.damage_count,
                    affected = report.affected_count,
                    "stored data is damaged: tombolo scrub names it"
                );
            } else {
                tracing::info!(bytes = report.bytes, healed = report.healed, "what is stored was read again");
            }
        }
        let now_ns = self.now_ns();
        transact!(self, txn, {
            txn.put(Space::Meta, Bytes::from_static(SCRUBBED_ROW), now_ns.to_be_bytes().to_vec());
        })?;
        Ok(())
    }

    async fn holdings(&self) -> Result<Holdings> {
        let status = self.status().await?;
        let mut held = Holdings {
            chunks: status.chunks,
            stored_bytes: status.stored_bytes,
            packs: status.packs,
            ..Holdings::default()
        };
        for info in self.catalog().all_buckets().await? {
            let usage = self.bucket(&info.path).await?.usage().await?;
            held.objects = held.objects.wrapping_add(usage.objects);
            held.logical_bytes = held.logical_bytes.wrapping_add(usage.logical_bytes);
            held.old_versions = held.old_versions.wrapping_add(usage.old_versions);
            held.old_bytes = held.old_bytes.wrapping_add(usage.old_bytes);
        }
        Ok(held)
    }
}

/// What a segment holds, closely enough to tell that something was written or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Holdings {
    chunks: u64,
    stored_bytes: u64,
    packs: u64,
    objects: u64,
    logical_bytes: u64,
    old_versions: u64,
    old_bytes: u64,
}

fn timer(period: Duration) -> tokio::time::Interval {
    let mut timer = interval_at(Instant::now() + period, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture;
    use crate::{BucketPolicy, PutOptions};

    /// The first look only notes the time; from then on what was found damaged is known without anybody asking.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_scrub_is_due_when_its_time_has_come() {
        let (dir, segment, bucket) = fixture::bucket(BucketPolicy::default()).await;
        bucket.put("k", fixture::noise(300_000, 1), PutOptions::default()).await.unwrap();
        segment.gc().await.unwrap();
        for pack in std::fs::read_dir(dir.path().join("a/packs")).unwrap() {
            let path = pack.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[100_000] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let damaged = async || segment.status().await.unwrap().damaged_chunks;
        let often = Housekeeping { scrub_interval: Duration::from_nanos(1), ..Housekeeping::default() };
        let seldom = Housekeeping { scrub_interval: Duration::from_secs(3600), ..Housekeeping::default() };
        for options in [&often, &seldom] {
            segment.scrub_if_due(options).await.unwrap();
            assert_eq!(damaged().await, 0);
        }
        segment.scrub_if_due(&often).await.unwrap();
        assert_eq!(damaged().await, 1);
    }
}
