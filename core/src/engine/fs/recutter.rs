//! What has fragmented files cut anew in the background: one window at a time in the whole segment, for as long as it rests in between.

use super::super::Bucket;
use super::super::segment::{Inner, Segment};
use super::body::Body;
use super::fragments::Grain;
use super::open_nodes::{Key, OpenNodes};
use super::overlay::{Data, Piece};
use super::recut::RecutReport;
use super::wear::Wear;
use crate::error::{ErrorKind, Result};
use crate::manifest::{EXTENTS_INLINE_MAX, Manifest, Root, Source};
use crate::namespace::BucketState;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// The longest rest between two windows. It rests for as long as it has worked.
const REST_MAX: Duration = Duration::from_secs(1);
/// The longest rest while nothing can be cut anew. The first is as long as the longest between two windows, each further one twice as long as the one before.
const STUCK_REST_MAX: Duration = Duration::from_secs(30);

/// Where a file is. Does not hold on to the segment.
#[derive(Clone)]
struct Place {
    segment: Weak<Inner>,
    bucket: Arc<BucketState>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Recutter {
    wear: Mutex<Wear<Place>>,
    is_running: AtomicBool,
    is_stopped: AtomicBool,
    /// Held while a window is cut anew.
    one: tokio::sync::Mutex<()>,
    done: Mutex<RecutReport>,
}

/// The task in the background; it may end with its runtime.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How a step ended.
enum Step {
    /// A window was looked at.
    Done(RecutReport),
    /// It can't go on now.
    Stuck,
    /// Nothing is due.
    Nothing,
}

impl Body {
    /// Notes the pieces that a content was just made of: where they are short it may be worth cutting anew.
    pub(super) fn note_wear(&self, manifest: &Manifest, pieces: &[(u64, Piece)]) {
        if matches!(manifest.root(), Root::Empty)
            || matches!(manifest.root(), Root::Extents(extents) if extents.len() < EXTENTS_INLINE_MAX)
        {
            return;
        }
        let grain = Grain::new(self.bucket.state().policy().chunking);
        let is_short = |(_, piece): &&(u64, Piece)| {
            grain.is_short(piece.length) && matches!(piece.data, Data::Stored(Source::Chunk { .. }))
        };
        let mut met = pieces.iter().filter(is_short).map(|(start, _)| start / grain.window_bytes()).peekable();
        if met.peek().is_some() {
            self.bucket.segment().open_nodes().worn(&self.bucket, (self.bucket.state().number, self.node), met);
        }
    }
}

impl OpenNodes {
    fn worn(self: &Arc<Self>, bucket: &Bucket, key: Key, met: impl Iterator<Item = u64>) {
        let place = Place { segment: Arc::downgrade(&bucket.segment().0), bucket: bucket.state().clone() };
        let recutter = &self.recutter;
        let is_due = recutter.wear.lock().note(key, &place, met);
        // Without a runtime it waits for one, or for who asks for it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !is_due || recutter.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        runtime.spawn(async move {
            loop {
                this.recut_by_turns().await;
                // What was noted since is ours, unless somebody else has begun.
                if this.recutter.is_stopped.load(Ordering::Acquire)
                    || !this.recutter.wear.lock().has_due()
                    || this.recutter.is_running.swap(true, Ordering::AcqRel)
                {
                    return;
                }
            }
        });
    }

    /// Cuts what is due, with rests, until nothing is.
    async fn recut_by_turns(&self) {
        let recutter = &self.recutter;
        let _running = Running(&recutter.is_running);
        let mut stuck_rest = REST_MAX;
        loop {
            let began = Instant::now();
            match self.recut_next().await {
                Step::Done(_) => {
                    tokio::time::sleep(began.elapsed().min(REST_MAX)).await;
                    stuck_rest = REST_MAX;
                }
                Step::Stuck => {
                    tokio::time::sleep(stuck_rest).await;
                    stuck_rest = STUCK_REST_MAX.min(2 * stuck_rest);
                }
                Step::Nothing => return,
            }
        }
    }

    /// Cuts the next window that is due.
    async fn recut_next(&self) -> Step {
        let recutter = &self.recutter;
        let _one = recutter.one.lock().await;
        if recutter.is_stopped.load(Ordering::Acquire) {
            return Step::Nothing;
        }
        let next = recutter.wear.lock().next();
        let Some((key, place, window)) = next else { return Step::Nothing };
        let Some(segment) = place.segment.upgrade() else {
            recutter.wear.lock().forget(&key);
            return Step::Done(RecutReport::default());
        };
        let bucket = Bucket::new(Segment(segment), place.bucket);
        match self.recut_window(&bucket, &key, window).await {
            Ok(Some(report)) => Step::Done(report),
            Ok(None) => {
                recutter.wear.lock().put_off(&key, window);
                Step::Done(RecutReport::default())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                recutter.wear.lock().forget(&key);
                Step::Done(RecutReport::default())
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::debug!(%error, node = %key.1, "a file stays fragmented until there is room");
                recutter.wear.lock().again(&key, window);
                Step::Stuck
            }
            Err(error) => {
                tracing::debug!(%error, node = %key.1, "a file stays fragmented for now");
                recutter.wear.lock().put_off(&key, window);
                // Offline, damaged: that is this window's alone.
                let is_general = !matches!(error.kind(), ErrorKind::Offline | ErrorKind::Damaged);
                if is_general { Step::Stuck } else { Step::Done(RecutReport::default()) }
            }
        }
    }

    /// `None`: it would be for nothing.
    async fn recut_window(&self, bucket: &Bucket, key: &Key, window: u64) -> Result<Option<RecutReport>> {
        bucket.alive()?;
        let body = match self.get(key.0, &key.1) {
            Some(body) => body,
            // No save will come that carries it, and without one others would not hear of it.
            None if bucket.state().is_shared() => return Ok(None),
            None => Arc::new(Body::open(bucket, &key.1).await?),
        };
        let bytes = Grain::new(bucket.state().policy().chunking).window_bytes();
        let start = window.saturating_mul(bytes);
        let mut report = RecutReport { windows: 1, ..RecutReport::default() };
        let outcome = body.recut(start..start.saturating_add(bytes), &mut report).await;
        self.recutter.done.lock().add(&report);
        // What was cut before it failed, and what an earlier pass could not keep.
        body.keep().await?;
        outcome.map(|()| Some(report))
    }

    /// Nothing is cut anew after this.
    pub(in crate::engine) async fn stop_recutting(&self) {
        self.recutter.is_stopped.store(true, Ordering::Release);
        // What is under way ends first.
        drop(self.recutter.one.lock().await);
    }

    /// What was done since the segment was opened.
    pub(in crate::engine) fn recut_so_far(&self) -> RecutReport {
        *self.recutter.done.lock()
    }
}

impl Segment {
    /// Cuts anew what is known to be fragmented of files that were written to in short pieces, without the rests that the background takes in between. What it
    /// does shows in nothing but speed, and in the space that fragments take; it happens by itself, and this is for who wants to wait for it.
    pub async fn recut_files(&self) -> RecutReport {
        let mut report = RecutReport::default();
        while let Step::Done(one) = self.open_nodes().recut_next().await {
            report.add(&one);
        }
        report
    }
}
