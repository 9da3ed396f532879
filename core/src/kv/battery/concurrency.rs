//! What must hold while several tasks use the store at once.

use super::{bytes, ensure, puts, same};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Batch, Durability, Space, Store};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// Increments behind guards: none may be lost.
pub(super) async fn guarded_counters(store: Arc<dyn Store>) -> Result<()> {
    const WRITERS: usize = 8;
    const INCREMENTS: usize = 25;
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(increment(Arc::clone(&store), INCREMENTS))).collect();
    for writer in writers {
        finished(writer).await?;
    }
    let count = store.get(Space::Meta, b"counter").await?.map_or(0, |value| value.len());
    same("increments that were kept", &count, &(WRITERS * INCREMENTS))
}

async fn increment(store: Arc<dyn Store>, times: usize) -> Result<()> {
    for _ in 0..times {
        loop {
            let old = store.get(Space::Meta, b"counter").await?;
            let count = old.as_ref().map_or(0, Bytes::len);
            let mut batch = puts(Space::Meta, [("counter", vec![b'|'; count + 1])]);
            batch.guards.push((Space::Meta, bytes("counter"), old));
            match store.commit(batch, Durability::Buffered).await {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Rows that every batch sets to the same value, in the order in which they are read.
const PLACES: [(Space, &[u8]); 4] =
    [(Space::Entries, b"x"), (Space::Entries, b"y"), (Space::Nodes, b"x"), (Space::Index, b"z")];

/// Readers beside a writer: each sees whole batches only, in their order, and a snapshot never changes.
pub(super) async fn atomic_batches(store: Arc<dyn Store>) -> Result<()> {
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(tokio::spawn(read_snapshots(Arc::clone(&store), Arc::clone(&done))));
        readers.push(tokio::spawn(read_latest(Arc::clone(&store), Arc::clone(&done))));
    }
    let writer = tokio::spawn(async move {
        let result = write_batches(&*store).await;
        done.store(true, Ordering::Release);
        result
    });
    finished(writer).await?;
    for reader in readers {
        finished(reader).await?;
    }
    Ok(())
}

async fn write_batches(store: &dyn Store) -> Result<()> {
    // Enough bytes to make a store with write buffers write some of them out meanwhile.
    let filler = Bytes::from(vec![b'f'; 32 << 10]);
    for round in 0..600_usize {
        let value = bytes(format!("{round:06}"));
        let mut batch = Batch::default();
        for (space, key) in PLACES {
            batch.writes.push((space, Bytes::from_static(key), Some(value.clone())));
        }
        batch.writes.push((Space::Nodes, value, Some(filler.clone())));
        let durability = if round.is_multiple_of(4) { Durability::Buffered } else { Durability::Sync };
        store.commit(batch, durability).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn read_snapshots(store: Arc<dyn Store>, done: Arc<AtomicBool>) -> Result<()> {
    let mut newest = None;
    while !done.load(Ordering::Acquire) {
        let snapshot = store.snapshot().await?;
        let mut passes = [Vec::new(), Vec::new()];
        for values in &mut passes {
            for (space, key) in PLACES {
                values.push(snapshot.get(space, key).await?);
                tokio::task::yield_now().await;
            }
        }
        let mut values = passes.into_iter().flatten();
        let seen = values.next().flatten();
        ensure(values.all(|value| value == seen), || format!("a snapshot of {seen:?} shows something else as well"))?;
        ensure(seen >= newest, || format!("a snapshot of {seen:?} after one of {newest:?}"))?;
        newest = seen;
    }
    Ok(())
}

/// Latest reads: once a row of a batch shows, all of it does.
async fn read_latest(store: Arc<dyn Store>, done: Arc<AtomicBool>) -> Result<()> {
    let mut newest = None;
    while !done.load(Ordering::Acquire) {
        for (space, key) in PLACES {
            let seen = store.get(space, key).await?;
            ensure(seen >= newest, || format!("{seen:?} in {space:?} after {newest:?} was seen"))?;
            newest = seen;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn finished(task: JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|error| Error::new(ErrorKind::Failed, "a task of the battery died").because(error))?
}
