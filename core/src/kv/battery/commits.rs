//! What commits and snapshots must do, one after the other.

use super::{all, bytes, delete, ensure, keys, puts, refused, same};
use crate::error::{ErrorKind, Result};
use crate::kv::{Batch, Durability, Snapshot, Space, Store};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) async fn guards(store: &dyn Store) -> Result<()> {
    store.commit(puts(Space::Entries, [("there", "1"), ("empty", "")]), Durability::Sync).await?;
    let guard = |key: &str, value: Option<&str>| (Space::Entries, bytes(key), value.map(bytes));
    let held = vec![guard("there", Some("1")), guard("empty", Some("")), guard("absent", None)];
    let missed = [
        guard("there", Some("2")),
        guard("there", None),
        guard("there", Some("")),
        guard("empty", None),
        guard("absent", Some("1")),
        guard("absent", Some("")),
        // Right key, wrong space.
        (Space::Nodes, bytes("there"), Some(bytes("1"))),
    ];
    for durability in [Durability::Buffered, Durability::Sync] {
        for miss in &missed {
            let mut batch = puts(Space::Nodes, [("written", "1")]);
            batch.writes.push((Space::Entries, bytes("there"), None));
            batch.guards.clone_from(&held);
            batch.guards.push(miss.clone());
            refused(&format!("guard {miss:?}"), store.commit(batch, durability).await, ErrorKind::Busy)?;
            same("a refused write", &store.get(Space::Nodes, b"written").await?, &None)?;
            same("a refused delete", &store.get(Space::Entries, b"there").await?, &Some(bytes("1")))?;
        }
    }
    // Guards look at the rows before the batch, not at what the batch itself writes.
    let mut batch = puts(Space::Entries, [("there", "2"), ("absent", "2")]);
    batch.guards = held;
    store.commit(batch, Durability::Sync).await?;
    same("a guarded write", &store.get(Space::Entries, b"absent").await?, &Some(bytes("2")))?;
    // A batch may guard without writing.
    let batch = Batch { guards: vec![guard("there", Some("2"))], writes: Vec::new() };
    store.commit(batch, Durability::Buffered).await?;
    let batch = Batch { guards: vec![guard("there", Some("1"))], writes: Vec::new() };
    refused("a guard without writes", store.commit(batch, Durability::Buffered).await, ErrorKind::Busy)
}

pub(super) async fn snapshots(store: &dyn Store) -> Result<()> {
    let before = store.snapshot().await?;
    let mut taken = Vec::new();
    for round in 0..50 {
        let mut batch =
            puts(Space::Nodes, [("changed", format!("{round}")), (&*format!("new {round:02}"), String::new())]);
        if round > 0 {
            batch.writes.push((Space::Nodes, bytes(format!("new {:02}", round - 1)), None));
        }
        let durability = if round % 10 == 0 { Durability::Sync } else { Durability::Buffered };
        store.commit(batch, durability).await?;
        taken.push(store.snapshot().await?);
    }
    same("a row that came later", &before.get(Space::Nodes, b"changed").await?, &None)?;
    ensure(before.scan(Space::Nodes, all(), 10, false).await?.rows.is_empty(), || "rows that came later".into())?;
    // Dropping some must not disturb the others.
    let mut kept: Vec<(usize, Arc<dyn Snapshot>)> =
        taken.into_iter().enumerate().filter(|(round, _)| round % 3 != 1).collect();
    for pass in 0..3 {
        for (round, snapshot) in &kept {
            let changed = snapshot.get(Space::Nodes, b"changed").await?;
            same(&format!("snapshot {round} in pass {pass}"), &changed, &Some(bytes(format!("{round}"))))?;
            let page = snapshot.scan(Space::Nodes, all(), 10, pass == 1).await?;
            let mut wanted = vec!["changed".to_owned(), format!("new {round:02}")];
            if pass == 1 {
                wanted.reverse();
            }
            same(&format!("keys in snapshot {round}"), &keys(&page), &wanted)?;
        }
        kept.retain(|(round, _)| round % 2 == pass % 2);
        store.commit(delete(Space::Nodes, "changed"), Durability::Sync).await?;
        store.commit(puts(Space::Nodes, [("changed", "later")]), Durability::Buffered).await?;
    }
    Ok(())
}

pub(super) async fn reopen<F, M>(open: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    let mut wanted: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for round in 0..6_usize {
        let store = open().await?;
        for space in Space::ALL {
            let rows = store.snapshot().await?.scan(space, all(), 1_000, false).await?.rows;
            let kept: Vec<(Bytes, Bytes)> = wanted.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            same(&format!("rows of {space:?} at opening {round}"), &rows, &kept)?;
        }
        for number in 0..20_usize {
            let (key, value) = (bytes(format!("{round}-{number}")), bytes(vec![b'v'; 40 * number]));
            let dropped = bytes(format!("{}-{number}", round.saturating_sub(3)));
            let mut batch = Batch::default();
            for space in Space::ALL {
                batch.writes.push((space, dropped.clone(), None));
                batch.writes.push((space, key.clone(), Some(value.clone())));
            }
            wanted.remove(&dropped);
            wanted.insert(key, value);
            // A store that is closed in order keeps its buffered commits as well.
            let durability = if number % 7 == 3 { Durability::Sync } else { Durability::Buffered };
            store.commit(batch, durability).await?;
        }
    }
    Ok(())
}
