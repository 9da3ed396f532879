//! The conformance battery: what every [`Store`] must do, whoever wrote it.
//!
//! Call [`run`] (and [`run_reopen`] for a store that outlives its handle) from a test of the implementation. A failure is
//! an error whose message names the case and what was found; nothing here panics.
//!
//! Needs a tokio runtime; only on one with several threads do the cases with several tasks show what they are meant to show.

mod commits;
mod concurrency;
mod random;
mod rows;

use super::{Batch, KeyRange, Page, Space, Store};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;

/// Runs all cases, each on an empty store of its own from `make`.
pub async fn run<F, M>(make: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    named("empty store", rows::empty_store(&*make().await?)).await?;
    named("point reads and writes", rows::point_operations(&*make().await?)).await?;
    named("order and bounds", rows::order_and_bounds(&*make().await?)).await?;
    named("pages", rows::pages(&*make().await?)).await?;
    named("spaces", rows::spaces(&*make().await?)).await?;
    named("limits", rows::limits(&*make().await?)).await?;
    named("one key twice in a batch", rows::duplicates(&*make().await?)).await?;
    named("guards", commits::guards(&*make().await?)).await?;
    named("snapshots", commits::snapshots(&*make().await?)).await?;
    named("random operations", random::random_operations(&*make().await?)).await?;
    named("guarded counters", concurrency::guarded_counters(make().await?)).await?;
    named("atomic batches", concurrency::atomic_batches(make().await?)).await
}

/// Checks that a store that is closed and opened again holds what was committed. `open` opens the same store each time; it
/// is called only after the handle before it was dropped, and the store must be empty at first.
pub async fn run_reopen<F, M>(open: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    named("reopen", commits::reopen(open)).await
}

async fn named(case: &str, run: impl Future<Output = Result<()>>) -> Result<()> {
    run.await.map_err(|error| Error::new(error.kind(), format!("case {case:?}")).because(error))
}

/// Fails unless `holds`; `found` says what was there instead.
fn ensure(holds: bool, found: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::damaged(found())) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    ensure(found == wanted, || format!("{what}: found {found:?}, wanted {wanted:?}"))
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// A batch of puts.
fn puts<K: AsRef<[u8]>, V: AsRef<[u8]>>(space: Space, rows: impl IntoIterator<Item = (K, V)>) -> Batch {
    let writes = rows.into_iter().map(|(key, value)| (space, bytes(key), Some(bytes(value)))).collect();
    Batch { guards: Vec::new(), writes }
}

fn delete(space: Space, key: impl AsRef<[u8]>) -> Batch {
    Batch { guards: Vec::new(), writes: vec![(space, bytes(key), None)] }
}

fn all() -> KeyRange {
    KeyRange { start: Bound::Unbounded, end: Bound::Unbounded }
}

fn keys(page: &Page) -> Vec<String> {
    page.rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

/// Refused with `kind`, or the case fails.
fn refused(what: &str, result: Result<()>, kind: ErrorKind) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => {
            Err(Error::damaged(format!("{what}: refused as {:?}, wanted {kind:?}", error.kind())).because(error))
        }
        Ok(()) => Err(Error::damaged(format!("{what}: was accepted, wanted {kind:?}"))),
    }
}
