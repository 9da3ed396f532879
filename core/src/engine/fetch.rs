//! Bringing chunks here that are absent or damaged: one fetch for all who wait, and readers that ask for what comes next.
//!
//! A chunk that somebody waits for is a *flight*. It lands when an import has made the chunk durable, which may be long before the fetch that
//! it is part of ends, or with the error of that fetch. A flight goes on when those who wait for it have gone away: what it brings is wanted by
//! the metadata, whoever asked. Taking the source away ends all flights.

use super::contents::{Contents, LocalNodes};
use super::data::ChunkSource;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::ChunkId;
use crate::manifest::{Manifest, Source};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// How far a reader asks ahead, in bytes: at first, and at most. More than a fast and far link has under way.
const ASKED_BYTES: std::ops::Range<u64> = (4 << 20)..(16 << 20);
/// The most chunks that are asked for in one fetch.
const FETCH_CHUNKS_MAX: usize = 256;
/// How often a chunk is asked for when the fetches that it was part of failed.
const TRIES_MAX: usize = 3;

type Outcome = std::result::Result<(), Arc<Error>>;

/// A chunk on its way here.
struct Flight {
    /// The fetch that it is part of.
    fetch: u64,
    /// Whether it is all of that fetch.
    is_alone: bool,
    landed: watch::Sender<Option<Outcome>>,
}

/// The source, and all flights.
pub(crate) struct Fetches {
    source: RwLock<Option<Arc<dyn ChunkSource>>>,
    has_source: watch::Sender<bool>,
    flights: Mutex<HashMap<ChunkId, Flight>>,
    next: AtomicU64,
}

impl Default for Fetches {
    fn default() -> Fetches {
        Fetches {
            source: RwLock::new(None),
            has_source: watch::Sender::new(false),
            flights: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
}

impl Fetches {
    pub(super) fn set_source(&self, source: Option<Arc<dyn ChunkSource>>) {
        let has_source = source.is_some();
        *self.source.write() = source;
        self.has_source.send_replace(has_source);
    }

    pub(super) fn has_source(&self) -> bool {
        *self.has_source.borrow()
    }

    fn source(&self) -> Option<Arc<dyn ChunkSource>> {
        self.source.read().clone()
    }

    /// The flights of `fetch` among `ids` land.
    fn land(&self, fetch: u64, ids: &[ChunkId], outcome: &Outcome) {
        let mut flights = self.flights.lock();
        for id in ids {
            if flights.get(id).is_some_and(|flight| flight.fetch == fetch)
                && let Some(flight) = flights.remove(id)
            {
                flight.landed.send_replace(Some(outcome.clone()));
            }
        }
    }

    /// These chunks are here now, and durable: whoever waits for them goes on.
    pub(super) fn arrived(&self, ids: &[ChunkId]) {
        let mut flights = self.flights.lock();
        for flight in ids.iter().filter_map(|id| flights.remove(id)) {
            flight.landed.send_replace(Some(Ok(())));
        }
    }
}

impl Contents {
    /// Brings a chunk here that a read did not find, or found damaged: `found` says how, and is the error if it can't be brought.
    pub(super) async fn mend(self: &Arc<Self>, id: &ChunkId, found: Error) -> Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let Some((mut landed, is_alone)) = self.board(id) else {
                return Err(found);
            };
            let outcome = match landed.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
                Err(closed) => Err(Arc::new(Error::new(ErrorKind::Failed, "a fetch was lost").because(closed))),
            };
            match outcome {
                Ok(()) => return Ok(()),
                // A chunk that can't be had must not fail those that were asked for with it.
                Err(_) if !is_alone && tries < TRIES_MAX => {}
                Err(cause) => return Err(unmended(&found, &cause)),
            }
        }
    }

    /// Starts to bring those of `ids` here that are not. Does not wait for them, and tells nobody of a failure: whoever then
    /// reads them will meet it.
    pub(super) async fn ask(self: &Arc<Self>, ids: &[ChunkId]) -> Result<()> {
        let Some(source) = self.fetches.source() else {
            return Ok(());
        };
        let absent = self.absent(ids).await?;
        let grounded: Vec<ChunkId> = {
            let flights = self.fetches.flights.lock();
            absent.into_iter().filter(|id| !flights.contains_key(id)).collect()
        };
        for ids in grounded.chunks(FETCH_CHUNKS_MAX) {
            self.launch(&source, ids);
        }
        Ok(())
    }

    /// The flight of a chunk, started if there is none, and whether it is alone in its fetch; `None`: there is no source.
    fn board(self: &Arc<Self>, id: &ChunkId) -> Option<(watch::Receiver<Option<Outcome>>, bool)> {
        let source = self.fetches.source()?;
        self.launch(&source, &[*id])
    }

    /// Starts a fetch of those of `ids` that have no flight; gives the flight of the first, its own or one that was there.
    fn launch(
        self: &Arc<Self>,
        source: &Arc<dyn ChunkSource>,
        ids: &[ChunkId],
    ) -> Option<(watch::Receiver<Option<Outcome>>, bool)> {
        let number = self.fetches.next.fetch_add(1, Ordering::Relaxed);
        let (fetch, first) = {
            let mut flights = self.fetches.flights.lock();
            let new: Vec<ChunkId> = ids.iter().filter(|id| !flights.contains_key(id)).copied().collect();
            for id in &new {
                let flight = Flight { fetch: number, is_alone: new.len() == 1, landed: watch::Sender::new(None) };
                flights.insert(*id, flight);
            }
            let first = ids.first().and_then(|id| flights.get(id));
            let first = first.map(|flight| (flight.landed.subscribe(), flight.is_alone));
            (Fetch { contents: self.clone(), number, ids: new }, first)
        };
        if !fetch.ids.is_empty() {
            let source = source.clone();
            tokio::spawn(async move {
                let outcome = fetch.run(&*source).await.map_err(Arc::new);
                fetch.contents.fetches.land(fetch.number, &fetch.ids, &outcome);
            });
        }
        first
    }
}

/// Chunks that are asked for together. Whatever becomes of it, all its flights land.
struct Fetch {
    contents: Arc<Contents>,
    number: u64,
    ids: Vec<ChunkId>,
}

impl Fetch {
    async fn run(&self, source: &dyn ChunkSource) -> Result<()> {
        let fetches = &self.contents.fetches;
        // Another fetch may have brought some between the look and the start of this one.
        let wanted = self.contents.absent(&self.ids).await?;
        let still: HashSet<&ChunkId> = wanted.iter().collect();
        let here: Vec<ChunkId> = self.ids.iter().filter(|id| !still.contains(id)).copied().collect();
        fetches.land(self.number, &here, &Ok(()));
        if wanted.is_empty() {
            return Ok(());
        }
        let mut has_source = fetches.has_source.subscribe();
        tokio::select! {
            fetched = source.fetch(wanted.clone()) => fetched?,
            _ = has_source.wait_for(|has_source| !has_source) => return Err(offline("the links were closed")),
        }
        let missing = self.contents.absent(&wanted).await?;
        fetches.land(self.number, &missing, &Err(Arc::new(offline("the segment that was asked did not send it"))));
        Ok(())
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let lost = Error::new(ErrorKind::Failed, "a fetch was given up half way");
        self.contents.fetches.land(self.number, &self.ids, &Err(Arc::new(lost)));
    }
}

fn offline(message: &str) -> Error {
    Error::new(ErrorKind::Offline, message).about(Subject::Chunk)
}

/// What a reader is told: what it met, and why that could not be mended. The other side's reasons are not the reader's: to whoever
/// reads, a chunk that nobody gives is out of reach.
fn unmended(found: &Error, cause: &Error) -> Error {
    let kind = match (found.kind(), cause.kind()) {
        (ErrorKind::Offline, kind @ (ErrorKind::NoSpace | ErrorKind::Failed)) => kind,
        (kind, _) => kind,
    };
    Error::new(kind, found.message()).about(found.subject()).because(format!("it can't be brought here: {cause}"))
}

/// What a reader has asked for ahead of where it is.
#[derive(Default)]
pub(crate) struct Asking {
    until: u64,
    window_bytes: u64,
}

impl Asking {
    /// Asks for what is absent of `manifest` from `position` on, as far as the window goes and not beyond `end`. Costs next to nothing
    /// while enough was asked for. Never waits for a link.
    pub(crate) async fn ask(
        &mut self,
        contents: &Arc<Contents>,
        manifest: &Manifest,
        position: u64,
        end: u64,
    ) -> Result<()> {
        if !contents.fetches.has_source() {
            return Ok(());
        }
        let end = end.min(manifest.size());
        let enough = position.saturating_add(self.window_bytes - self.window_bytes / 4).min(end);
        if self.window_bytes > 0 && self.until >= enough {
            return Ok(());
        }
        self.window_bytes = (self.window_bytes * 2).clamp(ASKED_BYTES.start, ASKED_BYTES.end);
        let start = self.until.max(position);
        let mut until = position.saturating_add(self.window_bytes).min(end);
        let mut cursor = manifest.extents(LocalNodes(contents.clone()), start..until);
        let mut wanted = Vec::new();
        loop {
            match cursor.next().await {
                Ok(None) => break,
                Ok(Some((at, extent))) => {
                    if let Source::Chunk { id, .. } = extent.source {
                        wanted.push(id);
                    }
                    if wanted.len() >= FETCH_CHUNKS_MAX {
                        until = until.min(at.saturating_add(extent.length));
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::Offline | ErrorKind::Damaged) => {
                    let Some((node, range)) = cursor.skip_node() else { break };
                    wanted.push(node);
                    // What it stands for is asked for when it is here.
                    until = until.min(range.start);
                }
                Err(error) => return Err(error),
            }
        }
        self.until = until;
        contents.ask(&wanted).await
    }
}
