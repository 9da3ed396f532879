//! The conformance battery: what every [`Store`] must do, whoever wrote it.
//!
//! Call [`run`] (and [`run_reopen`] for a store that outlives its handle) from a test of the implementation. A failure is
//! an error whose message names the case and what was found; nothing here panics.

use super::{
    Batch, Durability, KEY_BYTES_MAX, KeyRange, Page, Snapshot, Space, Store, VALUE_BYTES_MAX,
};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;

/// Runs all cases, each on an empty store of its own from `make`.
///
/// Needs no particular runtime. On one with several threads, `spawn` the stores' users yourself for more concurrency: the
/// cases here interleave at the store's own awaits only.
pub async fn run<F, M>(make: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    named("empty store", empty_store(&*make().await?)).await?;
    named("point reads and writes", point_operations(&*make().await?)).await?;
    named("order and bounds", order_and_bounds(&*make().await?)).await?;
    named("pages", pages(&*make().await?)).await?;
    named("spaces", spaces(&*make().await?)).await?;
    named("limits", limits(&*make().await?)).await?;
    named("one key twice in a batch", duplicates(&*make().await?)).await?;
    named("guards", guards(&*make().await?)).await?;
    named("guarded counters", guarded_counters(&*make().await?)).await?;
    named("snapshots", snapshots(&*make().await?)).await?;
    named("atomic batches", atomic_batches(&*make().await?)).await?;
    named("random operations", random_operations(&*make().await?)).await
}

/// Checks that a store that is closed and opened again holds what was committed. `open` opens the same store each time; it
/// is called only after the handle before it was dropped, and the store must be empty at first.
pub async fn run_reopen<F, M>(open: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    named("reopen", reopen(open)).await
}

async fn named(case: &str, run: impl Future<Output = Result<()>>) -> Result<()> {
    run.await
        .map_err(|error| Error::new(error.kind(), format!("case {case:?}")).because(error))
}

/// Fails unless `holds`; `found` says what was there instead.
fn ensure(holds: bool, found: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::damaged(found()))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    ensure(found == wanted, || {
        format!("{what}: found {found:?}, wanted {wanted:?}")
    })
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// A batch of puts.
fn puts<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    space: Space,
    rows: impl IntoIterator<Item = (K, V)>,
) -> Batch {
    let writes = rows
        .into_iter()
        .map(|(key, value)| (space, bytes(key), Some(bytes(value))))
        .collect();
    Batch {
        guards: Vec::new(),
        writes,
    }
}

fn delete(space: Space, key: impl AsRef<[u8]>) -> Batch {
    Batch {
        guards: Vec::new(),
        writes: vec![(space, bytes(key), None)],
    }
}

fn all() -> KeyRange {
    KeyRange {
        start: Bound::Unbounded,
        end: Bound::Unbounded,
    }
}

fn keys(page: &Page) -> Vec<String> {
    page.rows
        .iter()
        .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
        .collect()
}

/// Refused with `kind`, or the case fails.
fn refused(what: &str, result: Result<()>, kind: ErrorKind) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Error::damaged(format!(
            "{what}: refused as {:?}, wanted {kind:?}",
            error.kind()
        ))
        .because(error)),
        Ok(()) => Err(Error::damaged(format!(
            "{what}: was accepted, wanted {kind:?}"
        ))),
    }
}

async fn empty_store(store: &dyn Store) -> Result<()> {
    let snapshot = store.snapshot().await?;
    for space in Space::ALL {
        same("get", &store.get(space, b"key").await?, &None)?;
        same(
            "get of a snapshot",
            &snapshot.get(space, b"key").await?,
            &None,
        )?;
        for reverse in [false, true] {
            let page = snapshot.scan(space, all(), 10, reverse).await?;
            ensure(page.rows.is_empty() && !page.more, || {
                format!("scan of {space:?} found {page:?}")
            })?;
        }
    }
    store.commit(Batch::default(), Durability::Buffered).await?;
    store.commit(Batch::default(), Durability::Sync).await?;
    store
        .commit(delete(Space::Nodes, "never was"), Durability::Sync)
        .await
}

async fn point_operations(store: &dyn Store) -> Result<()> {
    for durability in [Durability::Buffered, Durability::Sync] {
        store
            .commit(puts(Space::Nodes, [("a", "1"), ("b", "")]), durability)
            .await?;
        same(
            "put",
            &store.get(Space::Nodes, b"a").await?,
            &Some(bytes("1")),
        )?;
        same(
            "empty value",
            &store.get(Space::Nodes, b"b").await?,
            &Some(Bytes::new()),
        )?;
        same(
            "a longer key",
            &store.get(Space::Nodes, b"aa").await?,
            &None,
        )?;
        same("the empty key", &store.get(Space::Nodes, b"").await?, &None)?;
        store
            .commit(puts(Space::Nodes, [("a", "2")]), durability)
            .await?;
        same(
            "overwrite",
            &store.get(Space::Nodes, b"a").await?,
            &Some(bytes("2")),
        )?;
        store.commit(delete(Space::Nodes, "a"), durability).await?;
        same("delete", &store.get(Space::Nodes, b"a").await?, &None)?;
        same(
            "the other key",
            &store.get(Space::Nodes, b"b").await?,
            &Some(Bytes::new()),
        )?;
        store.commit(delete(Space::Nodes, "a"), durability).await?;
        store
            .commit(puts(Space::Nodes, [("a", "3")]), durability)
            .await?;
        same(
            "put after delete",
            &store.get(Space::Nodes, b"a").await?,
            &Some(bytes("3")),
        )?;
        let page = store
            .snapshot()
            .await?
            .scan(Space::Nodes, all(), 10, false)
            .await?;
        same(
            "rows",
            &page.rows,
            &vec![(bytes("a"), bytes("3")), (bytes("b"), Bytes::new())],
        )?;
    }
    Ok(())
}

async fn order_and_bounds(store: &dyn Store) -> Result<()> {
    // Unsigned bytes, a prefix before what it starts, and no byte is special.
    let sorted: [&[u8]; 9] = [
        b"\0",
        b"\0\0",
        b"\x01",
        b"a",
        b"a\0",
        b"a/",
        b"b",
        b"\x80",
        b"\xff\xff",
    ];
    let shuffled = [4, 7, 0, 8, 2, 6, 1, 5, 3];
    for index in shuffled {
        if let Some(key) = sorted.get(index) {
            store
                .commit(puts(Space::Entries, [(key, b"v")]), Durability::Buffered)
                .await?;
        }
    }
    let snapshot = store.snapshot().await?;
    let bounds = |key: &'static [u8]| {
        [
            Bound::Included(Bytes::from_static(key)),
            Bound::Excluded(Bytes::from_static(key)),
            Bound::Unbounded,
        ]
    };
    // Bounds on keys that are there and on keys that are not, crossed ones included.
    let probes: [&'static [u8]; 6] = [b"\0", b"a", b"a.", b"b", b"z", b"\xff\xff"];
    for start in probes.into_iter().flat_map(bounds) {
        for end in probes.into_iter().flat_map(bounds) {
            let range = KeyRange {
                start: start.clone(),
                end,
            };
            let mut wanted: Vec<Bytes> = sorted
                .iter()
                .filter(|key| contains(&range, key))
                .map(|key| Bytes::from_static(key))
                .collect();
            for reverse in [false, true] {
                let page = snapshot
                    .scan(Space::Entries, range.clone(), 100, reverse)
                    .await?;
                let found: Vec<Bytes> = page.rows.into_iter().map(|(key, _)| key).collect();
                same(
                    &format!("keys in {range:?}, reverse {reverse}"),
                    &found,
                    &wanted,
                )?;
                same(
                    &format!("more in {range:?}, reverse {reverse}"),
                    &page.more,
                    &false,
                )?;
                wanted.reverse();
            }
        }
    }
    for (prefix, wanted) in [
        (&b"a"[..], 3),
        (b"a/", 1),
        (b"", 9),
        (b"\xff", 1),
        (b"\xff\xff", 1),
        (b"\0", 2),
        (b"c", 0),
    ] {
        let page = snapshot
            .scan(Space::Entries, KeyRange::prefix(prefix), 100, false)
            .await?;
        same(
            &format!("rows with prefix {prefix:?}"),
            &page.rows.len(),
            &wanted,
        )?;
    }
    let page = snapshot
        .scan(
            Space::Entries,
            KeyRange::prefix_after(b"a", bytes("a\0")),
            100,
            false,
        )
        .await?;
    same(
        "rows of a prefix after a key",
        &keys(&page),
        &vec!["a/".to_owned()],
    )
}

/// The definition of a range, in its plainest form.
fn contains(range: &KeyRange, key: &[u8]) -> bool {
    let after_start = match &range.start {
        Bound::Included(start) => key >= &start[..],
        Bound::Excluded(start) => key > &start[..],
        Bound::Unbounded => true,
    };
    let before_end = match &range.end {
        Bound::Included(end) => key <= &end[..],
        Bound::Excluded(end) => key < &end[..],
        Bound::Unbounded => true,
    };
    after_start && before_end
}

async fn pages(store: &dyn Store) -> Result<()> {
    let names: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    store
        .commit(
            puts(Space::Index, names.iter().map(|name| (name, name))),
            Durability::Buffered,
        )
        .await?;
    // Deleted rows must not show in `more` either.
    for name in ["050", "099"] {
        store
            .commit(delete(Space::Index, name), Durability::Buffered)
            .await?;
    }
    let mut wanted: Vec<String> = names
        .into_iter()
        .filter(|name| name != "050" && name != "099")
        .collect();
    let snapshot = store.snapshot().await?;
    for reverse in [false, true] {
        for limit in [1, 7, 49, 97, 98, 99] {
            let mut found = Vec::new();
            let mut range = all();
            loop {
                let page = snapshot
                    .scan(Space::Index, range.clone(), limit, reverse)
                    .await?;
                ensure(page.rows.len() <= limit, || {
                    format!("{} rows for limit {limit}", page.rows.len())
                })?;
                found.extend(keys(&page));
                same(
                    &format!("more after {} rows, limit {limit}", found.len()),
                    &page.more,
                    &(found.len() < wanted.len()),
                )?;
                let Some((last, _)) = page.rows.last() else {
                    break;
                };
                if !page.more {
                    break;
                }
                if reverse {
                    range.end = Bound::Excluded(last.clone());
                } else {
                    range.start = Bound::Excluded(last.clone());
                }
            }
            same(
                &format!("rows by {limit}, reverse {reverse}"),
                &found,
                &wanted,
            )?;
        }
        wanted.reverse();
    }
    let page = snapshot.scan(Space::Index, all(), 0, false).await?;
    ensure(page.rows.is_empty() && page.more, || {
        format!("limit 0 found {page:?}")
    })?;
    let page = snapshot
        .scan(Space::Index, KeyRange::prefix(b"x"), 0, true)
        .await?;
    ensure(page.rows.is_empty() && !page.more, || {
        format!("limit 0 of nothing found {page:?}")
    })
}

async fn spaces(store: &dyn Store) -> Result<()> {
    let mut batch = Batch::default();
    for space in Space::ALL {
        batch
            .writes
            .push((space, bytes("key"), Some(bytes(format!("{space:?}")))));
    }
    store.commit(batch, Durability::Sync).await?;
    store
        .commit(delete(Space::History, "key"), Durability::Buffered)
        .await?;
    let snapshot = store.snapshot().await?;
    for space in Space::ALL {
        let wanted = (space != Space::History).then(|| bytes(format!("{space:?}")));
        same(
            &format!("get in {space:?}"),
            &store.get(space, b"key").await?,
            &wanted,
        )?;
        let rows = snapshot.scan(space, all(), 10, false).await?.rows;
        let wanted: Vec<(Bytes, Bytes)> = wanted
            .into_iter()
            .map(|value| (bytes("key"), value))
            .collect();
        same(&format!("rows of {space:?}"), &rows, &wanted)?;
    }
    Ok(())
}

async fn limits(store: &dyn Store) -> Result<()> {
    let longest_key = vec![b'k'; KEY_BYTES_MAX];
    let largest_value = vec![7; VALUE_BYTES_MAX];
    store
        .commit(
            puts(Space::Nodes, [(&longest_key, &largest_value)]),
            Durability::Sync,
        )
        .await?;
    let found = store.get(Space::Nodes, &longest_key).await?;
    ensure(found.as_deref() == Some(&largest_value[..]), || {
        "the largest row came back different".into()
    })?;
    let rows = store
        .snapshot()
        .await?
        .scan(Space::Nodes, all(), 10, true)
        .await?
        .rows;
    let [(key, value)] = rows.as_slice() else {
        return Err(Error::damaged(format!("{} rows, wanted 1", rows.len())));
    };
    ensure(
        key[..] == longest_key[..] && value[..] == largest_value[..],
        || "the scanned row is different".into(),
    )?;

    let too_long = vec![b'k'; KEY_BYTES_MAX + 1];
    let too_large = vec![7; VALUE_BYTES_MAX + 1];
    for durability in [Durability::Buffered, Durability::Sync] {
        // The row before the bad one must not stay.
        let batch = puts(
            Space::Nodes,
            [(&b"bystander"[..], &b"1"[..]), (&too_long[..], &b"1"[..])],
        );
        refused(
            "a key that is too long",
            store.commit(batch, durability).await,
            ErrorKind::Invalid,
        )?;
        let batch = puts(Space::Nodes, [("bystander", "1"), ("", "1")]);
        refused(
            "an empty key",
            store.commit(batch, durability).await,
            ErrorKind::Invalid,
        )?;
        let batch = puts(
            Space::Nodes,
            [(&b"bystander"[..], &b"1"[..]), (&b"k"[..], &too_large[..])],
        );
        refused(
            "a value that is too large",
            store.commit(batch, durability).await,
            ErrorKind::Invalid,
        )?;
    }
    same(
        "the row before the bad one",
        &store.get(Space::Nodes, b"bystander").await?,
        &None,
    )?;
    store
        .commit(puts(Space::Nodes, [("after", "1")]), Durability::Sync)
        .await
}

async fn duplicates(store: &dyn Store) -> Result<()> {
    let write = |key: &str, value: Option<&str>| (Space::Nodes, bytes(key), value.map(bytes));
    let writes = vec![
        write("put put", Some("1")),
        write("put delete", Some("1")),
        write("delete put", None),
        write("put put", Some("2")),
        write("put delete", None),
        write("delete put", Some("2")),
        // The same key in another space is another key.
        (Space::Past, bytes("put put"), Some(bytes("past"))),
    ];
    // Once on an empty store, once over the result: deletes then meet older rows.
    for round in 0..2 {
        store
            .commit(
                Batch {
                    guards: Vec::new(),
                    writes: writes.clone(),
                },
                Durability::Sync,
            )
            .await?;
        let rows = store
            .snapshot()
            .await?
            .scan(Space::Nodes, all(), 10, false)
            .await?
            .rows;
        let wanted = vec![
            (bytes("delete put"), bytes("2")),
            (bytes("put put"), bytes("2")),
        ];
        same(&format!("rows after round {round}"), &rows, &wanted)?;
        same("get", &store.get(Space::Nodes, b"put delete").await?, &None)?;
        same(
            "the other space",
            &store.get(Space::Past, b"put put").await?,
            &Some(bytes("past")),
        )?;
    }
    Ok(())
}

async fn guards(store: &dyn Store) -> Result<()> {
    store
        .commit(
            puts(Space::Entries, [("there", "1"), ("empty", "")]),
            Durability::Sync,
        )
        .await?;
    let guard = |key: &str, value: Option<&str>| (Space::Entries, bytes(key), value.map(bytes));
    let held = vec![
        guard("there", Some("1")),
        guard("empty", Some("")),
        guard("absent", None),
    ];
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
            refused(
                &format!("guard {miss:?}"),
                store.commit(batch, durability).await,
                ErrorKind::Busy,
            )?;
            same(
                "a refused write",
                &store.get(Space::Nodes, b"written").await?,
                &None,
            )?;
            same(
                "a refused delete",
                &store.get(Space::Entries, b"there").await?,
                &Some(bytes("1")),
            )?;
        }
    }
    // Guards look at the rows before the batch, not at what the batch itself writes.
    let mut batch = puts(Space::Entries, [("there", "2"), ("absent", "2")]);
    batch.guards = held;
    store.commit(batch, Durability::Sync).await?;
    same(
        "a guarded write",
        &store.get(Space::Entries, b"absent").await?,
        &Some(bytes("2")),
    )?;
    // A batch may guard without writing.
    let batch = Batch {
        guards: vec![guard("there", Some("2"))],
        writes: Vec::new(),
    };
    store.commit(batch, Durability::Buffered).await?;
    let batch = Batch {
        guards: vec![guard("there", Some("1"))],
        writes: Vec::new(),
    };
    refused(
        "a guard without writes",
        store.commit(batch, Durability::Buffered).await,
        ErrorKind::Busy,
    )
}

async fn guarded_counters(store: &dyn Store) -> Result<()> {
    const WRITERS: usize = 8;
    const INCREMENTS: usize = 25;
    let increment = || async {
        for _ in 0..INCREMENTS {
            loop {
                let old = store.get(Space::Meta, b"counter").await?;
                let count = old.as_ref().map_or(0, |value| value.len());
                let mut batch = puts(Space::Meta, [("counter", vec![b'|'; count + 1])]);
                batch.guards.push((Space::Meta, bytes("counter"), old));
                match store.commit(batch, Durability::Buffered).await {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    try_join_all((0..WRITERS).map(|_| increment())).await?;
    let count = store
        .get(Space::Meta, b"counter")
        .await?
        .map_or(0, |value| value.len());
    same("increments that were kept", &count, &(WRITERS * INCREMENTS))
}

async fn snapshots(store: &dyn Store) -> Result<()> {
    let before = store.snapshot().await?;
    let mut taken = Vec::new();
    for round in 0..50 {
        let mut batch = puts(
            Space::Nodes,
            [
                ("changed", format!("{round}")),
                (&*format!("new {round:02}"), String::new()),
            ],
        );
        if round > 0 {
            batch
                .writes
                .push((Space::Nodes, bytes(format!("new {:02}", round - 1)), None));
        }
        let durability = if round % 10 == 0 {
            Durability::Sync
        } else {
            Durability::Buffered
        };
        store.commit(batch, durability).await?;
        taken.push(store.snapshot().await?);
    }
    same(
        "a row that came later",
        &before.get(Space::Nodes, b"changed").await?,
        &None,
    )?;
    ensure(
        before
            .scan(Space::Nodes, all(), 10, false)
            .await?
            .rows
            .is_empty(),
        || "rows that came later".into(),
    )?;
    // Dropping some must not disturb the others.
    let mut kept: Vec<(usize, Arc<dyn Snapshot>)> = taken
        .into_iter()
        .enumerate()
        .filter(|(round, _)| round % 3 != 1)
        .collect();
    for pass in 0..3 {
        for (round, snapshot) in &kept {
            let changed = snapshot.get(Space::Nodes, b"changed").await?;
            same(
                &format!("snapshot {round} in pass {pass}"),
                &changed,
                &Some(bytes(format!("{round}"))),
            )?;
            let page = snapshot.scan(Space::Nodes, all(), 10, pass == 1).await?;
            let mut wanted = vec!["changed".to_owned(), format!("new {round:02}")];
            if pass == 1 {
                wanted.reverse();
            }
            same(&format!("keys in snapshot {round}"), &keys(&page), &wanted)?;
        }
        kept.retain(|(round, _)| round % 2 == pass % 2);
        store
            .commit(delete(Space::Nodes, "changed"), Durability::Sync)
            .await?;
        store
            .commit(
                puts(Space::Nodes, [("changed", "later")]),
                Durability::Buffered,
            )
            .await?;
    }
    Ok(())
}

async fn atomic_batches(store: &dyn Store) -> Result<()> {
    const ROUNDS: usize = 200;
    let places = [
        (Space::Entries, "x"),
        (Space::Entries, "y"),
        (Space::Nodes, "x"),
        (Space::Index, "z"),
    ];
    let write = async {
        for round in 0..ROUNDS {
            let value = bytes(format!("{round:06}"));
            let writes = places
                .iter()
                .map(|(space, key)| (*space, bytes(key), Some(value.clone())))
                .collect();
            let durability = if round % 50 == 0 {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            store
                .commit(
                    Batch {
                        guards: Vec::new(),
                        writes,
                    },
                    durability,
                )
                .await?;
            yield_now().await;
        }
        Ok(())
    };
    let read = async {
        let mut newest = None;
        for _ in 0..ROUNDS {
            let snapshot = store.snapshot().await?;
            let mut values = Vec::new();
            for (space, key) in places {
                values.push(snapshot.get(space, key.as_bytes()).await?);
                yield_now().await;
            }
            ensure(
                values.windows(2).all(|pair| pair.first() == pair.last()),
                || format!("a torn batch: {values:?}"),
            )?;
            let seen = values.into_iter().next().flatten();
            ensure(seen >= newest, || {
                format!("a snapshot went back from {newest:?} to {seen:?}")
            })?;
            newest = seen;
        }
        Ok(())
    };
    let reads: Vec<_> = (0..3)
        .map(|_| Box::pin(read_clone(store, &places)))
        .collect();
    futures::try_join!(write, read, async { try_join_all(reads).await.map(drop) }).map(drop)
}

/// Latest reads in the order of the batch: once a row of a batch shows, all of it does.
async fn read_clone(store: &dyn Store, places: &[(Space, &str)]) -> Result<()> {
    for _ in 0..100 {
        let mut newest = None;
        for (space, key) in places {
            let seen = store.get(*space, key.as_bytes()).await?;
            ensure(seen >= newest, || {
                format!("after {newest:?} the same batch's row holds {seen:?}")
            })?;
            newest = seen;
        }
        yield_now().await;
    }
    Ok(())
}

/// Lets the other futures of the task run.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// What a store should hold.
type Model = BTreeMap<(Space, Bytes), Bytes>;

/// Random batches against a map, compared after each.
async fn random_operations(store: &dyn Store) -> Result<()> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut model = Model::new();
    let mut older: Vec<(Arc<dyn Snapshot>, Model)> = Vec::new();
    let used = [Space::Entries, Space::Nodes, Space::Index];
    let space_of = |random: &mut Random| {
        used.get(random.below(used.len()))
            .copied()
            .unwrap_or(Space::Entries)
    };
    for round in 0..300 {
        let mut batch = Batch::default();
        for _ in 0..=random.below(8) {
            let space = space_of(&mut random);
            let key = random.key();
            let value =
                (random.below(3) > 0).then(|| Bytes::from(vec![random.byte(); random.below(300)]));
            match &value {
                Some(value) => model.insert((space, key.clone()), value.clone()),
                None => model.remove(&(space, key.clone())),
            };
            batch.writes.push((space, key, value));
        }
        let durability = if random.below(20) == 0 {
            Durability::Sync
        } else {
            Durability::Buffered
        };
        store.commit(batch, durability).await?;
        if random.below(10) == 0 {
            older.push((store.snapshot().await?, model.clone()));
        }
        if older.len() > 5 {
            older.swap_remove(random.below(5));
        }

        let space = space_of(&mut random);
        let key = random.key();
        same(
            &format!("get in round {round}"),
            &store.get(space, &key).await?,
            &model.get(&(space, key)).cloned(),
        )?;
        let latest = store.snapshot().await?;
        compare_scan(&mut random, space, &*latest, &model).await?;
        let pick = random.below(older.len().max(1));
        if let Some((snapshot, model)) = older.get(pick) {
            compare_scan(&mut random, space, &**snapshot, model).await?;
        }
    }
    Ok(())
}

async fn compare_scan(
    random: &mut Random,
    space: Space,
    snapshot: &dyn Snapshot,
    model: &Model,
) -> Result<()> {
    let mut bound = || match random.below(3) {
        0 => Bound::Included(random.key()),
        1 => Bound::Excluded(random.key()),
        _ => Bound::Unbounded,
    };
    let range = KeyRange {
        start: bound(),
        end: bound(),
    };
    let (limit, reverse) = (random.below(40), random.below(2) == 0);
    let mut wanted: Vec<(Bytes, Bytes)> = model
        .iter()
        .filter(|((place, key), _)| *place == space && contains(&range, key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if reverse {
        wanted.reverse();
    }
    let more = wanted.len() > limit;
    wanted.truncate(limit);
    let page = snapshot.scan(space, range.clone(), limit, reverse).await?;
    same(
        &format!("rows of {range:?}, limit {limit}, reverse {reverse}"),
        &page.rows,
        &wanted,
    )?;
    same(
        &format!("more of {range:?}, limit {limit}, reverse {reverse}"),
        &page.more,
        &more,
    )
}

/// A fixed sequence (xorshift64*), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 33) % (end as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// One of few keys, so that they meet again; some are prefixes of others.
    fn key(&mut self) -> Bytes {
        let letters = b"ab/\xff";
        (0..=self.below(4))
            .filter_map(|_| letters.get(self.below(letters.len())))
            .copied()
            .collect()
    }
}

async fn reopen<F, M>(open: F) -> Result<()>
where
    F: Fn() -> M,
    M: Future<Output = Result<Arc<dyn Store>>>,
{
    let mut wanted: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for round in 0..6_usize {
        let store = open().await?;
        for space in Space::ALL {
            let rows = store
                .snapshot()
                .await?
                .scan(space, all(), 1_000, false)
                .await?
                .rows;
            let kept: Vec<(Bytes, Bytes)> = wanted
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            same(
                &format!("rows of {space:?} at opening {round}"),
                &rows,
                &kept,
            )?;
        }
        for number in 0..20_usize {
            let (key, value) = (
                bytes(format!("{round}-{number}")),
                bytes(vec![b'v'; 40 * number]),
            );
            let dropped = bytes(format!("{}-{number}", round.saturating_sub(3)));
            let mut batch = Batch::default();
            for space in Space::ALL {
                batch.writes.push((space, dropped.clone(), None));
                batch.writes.push((space, key.clone(), Some(value.clone())));
            }
            wanted.remove(&dropped);
            wanted.insert(key, value);
            // A store that is closed in order keeps its buffered commits as well.
            let durability = if number % 7 == 3 {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            store.commit(batch, durability).await?;
        }
    }
    Ok(())
}
