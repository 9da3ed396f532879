//! What single rows, ranges and pages must do.

use super::{all, bytes, delete, ensure, keys, puts, refused, same};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Batch, Durability, KEY_BYTES_MAX, KeyRange, Space, Store, VALUE_BYTES_MAX};
use bytes::Bytes;
use std::ops::Bound;

pub(super) async fn empty_store(store: &dyn Store) -> Result<()> {
    let snapshot = store.snapshot().await?;
    for space in Space::ALL {
        same("get", &store.get(space, b"key").await?, &None)?;
        same("get of a snapshot", &snapshot.get(space, b"key").await?, &None)?;
        for reverse in [false, true] {
            let page = snapshot.scan(space, all(), 10, reverse).await?;
            ensure(page.rows.is_empty() && !page.more, || format!("scan of {space:?} found {page:?}"))?;
        }
    }
    store.commit(Batch::default(), Durability::Buffered).await?;
    store.commit(Batch::default(), Durability::Sync).await?;
    store.commit(delete(Space::Nodes, "never was"), Durability::Sync).await
}

pub(super) async fn point_operations(store: &dyn Store) -> Result<()> {
    for durability in [Durability::Buffered, Durability::Sync] {
        store.commit(puts(Space::Nodes, [("a", "1"), ("b", "")]), durability).await?;
        same("put", &store.get(Space::Nodes, b"a").await?, &Some(bytes("1")))?;
        same("empty value", &store.get(Space::Nodes, b"b").await?, &Some(Bytes::new()))?;
        same("a longer key", &store.get(Space::Nodes, b"aa").await?, &None)?;
        same("the empty key", &store.get(Space::Nodes, b"").await?, &None)?;
        store.commit(puts(Space::Nodes, [("a", "2")]), durability).await?;
        same("overwrite", &store.get(Space::Nodes, b"a").await?, &Some(bytes("2")))?;
        store.commit(delete(Space::Nodes, "a"), durability).await?;
        same("delete", &store.get(Space::Nodes, b"a").await?, &None)?;
        same("the other key", &store.get(Space::Nodes, b"b").await?, &Some(Bytes::new()))?;
        store.commit(delete(Space::Nodes, "a"), durability).await?;
        store.commit(puts(Space::Nodes, [("a", "3")]), durability).await?;
        same("put after delete", &store.get(Space::Nodes, b"a").await?, &Some(bytes("3")))?;
        let page = store.snapshot().await?.scan(Space::Nodes, all(), 10, false).await?;
        same("rows", &page.rows, &vec![(bytes("a"), bytes("3")), (bytes("b"), Bytes::new())])?;
    }
    Ok(())
}

pub(super) async fn order_and_bounds(store: &dyn Store) -> Result<()> {
    // Unsigned bytes, a prefix before what it starts, and no byte is special.
    let sorted: [&[u8]; 9] = [b"\0", b"\0\0", b"\x01", b"a", b"a\0", b"a/", b"b", b"\x80", b"\xff\xff"];
    let shuffled = [4, 7, 0, 8, 2, 6, 1, 5, 3];
    for index in shuffled {
        if let Some(key) = sorted.get(index) {
            store.commit(puts(Space::Entries, [(key, b"v")]), Durability::Buffered).await?;
        }
    }
    let snapshot = store.snapshot().await?;
    let bounds = |key: &'static [u8]| {
        [Bound::Included(Bytes::from_static(key)), Bound::Excluded(Bytes::from_static(key)), Bound::Unbounded]
    };
    // Bounds on keys that are there and on keys that are not, crossed ones included.
    let probes: [&'static [u8]; 6] = [b"\0", b"a", b"a.", b"b", b"z", b"\xff\xff"];
    for start in probes.into_iter().flat_map(bounds) {
        for end in probes.into_iter().flat_map(bounds) {
            let range = KeyRange { start: start.clone(), end };
            let mut wanted: Vec<Bytes> =
                sorted.iter().filter(|key| contains(&range, key)).map(|key| Bytes::from_static(key)).collect();
            for reverse in [false, true] {
                let page = snapshot.scan(Space::Entries, range.clone(), 100, reverse).await?;
                let found: Vec<Bytes> = page.rows.into_iter().map(|(key, _)| key).collect();
                same(&format!("keys in {range:?}, reverse {reverse}"), &found, &wanted)?;
                same(&format!("more in {range:?}, reverse {reverse}"), &page.more, &false)?;
                wanted.reverse();
            }
        }
    }
    for (prefix, wanted) in
        [(&b"a"[..], 3), (b"a/", 1), (b"", 9), (b"\xff", 1), (b"\xff\xff", 1), (b"\0", 2), (b"c", 0)]
    {
        let page = snapshot.scan(Space::Entries, KeyRange::prefix(prefix), 100, false).await?;
        same(&format!("rows with prefix {prefix:?}"), &page.rows.len(), &wanted)?;
    }
    let page = snapshot.scan(Space::Entries, KeyRange::prefix_after(b"a", bytes("a\0")), 100, false).await?;
    same("rows of a prefix after a key", &keys(&page), &vec!["a/".to_owned()])
}

/// The definition of a range, in its plainest form.
pub(super) fn contains(range: &KeyRange, key: &[u8]) -> bool {
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

pub(super) async fn pages(store: &dyn Store) -> Result<()> {
    let names: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    store.commit(puts(Space::Index, names.iter().map(|name| (name, name))), Durability::Buffered).await?;
    // Deleted rows must not show in `more` either.
    for name in ["050", "099"] {
        store.commit(delete(Space::Index, name), Durability::Buffered).await?;
    }
    let mut wanted: Vec<String> = names.into_iter().filter(|name| name != "050" && name != "099").collect();
    let snapshot = store.snapshot().await?;
    for reverse in [false, true] {
        for limit in [1, 7, 49, 97, 98, 99] {
            let mut found = Vec::new();
            let mut range = all();
            loop {
                let page = snapshot.scan(Space::Index, range.clone(), limit, reverse).await?;
                ensure(page.rows.len() <= limit, || format!("{} rows for limit {limit}", page.rows.len()))?;
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
            same(&format!("rows by {limit}, reverse {reverse}"), &found, &wanted)?;
        }
        wanted.reverse();
    }
    let page = snapshot.scan(Space::Index, all(), 0, false).await?;
    ensure(page.rows.is_empty() && page.more, || format!("limit 0 found {page:?}"))?;
    let page = snapshot.scan(Space::Index, KeyRange::prefix(b"x"), 0, true).await?;
    ensure(page.rows.is_empty() && !page.more, || format!("limit 0 of nothing found {page:?}"))
}

pub(super) async fn spaces(store: &dyn Store) -> Result<()> {
    let mut batch = Batch::default();
    for space in Space::ALL {
        batch.writes.push((space, bytes("key"), Some(bytes(format!("{space:?}")))));
    }
    store.commit(batch, Durability::Sync).await?;
    store.commit(delete(Space::History, "key"), Durability::Buffered).await?;
    let snapshot = store.snapshot().await?;
    for space in Space::ALL {
        let wanted = (space != Space::History).then(|| bytes(format!("{space:?}")));
        same(&format!("get in {space:?}"), &store.get(space, b"key").await?, &wanted)?;
        let rows = snapshot.scan(space, all(), 10, false).await?.rows;
        let wanted: Vec<(Bytes, Bytes)> = wanted.into_iter().map(|value| (bytes("key"), value)).collect();
        same(&format!("rows of {space:?}"), &rows, &wanted)?;
    }
    Ok(())
}

pub(super) async fn limits(store: &dyn Store) -> Result<()> {
    let longest_key = vec![b'k'; KEY_BYTES_MAX];
    let largest_value = vec![7; VALUE_BYTES_MAX];
    store.commit(puts(Space::Nodes, [(&longest_key, &largest_value)]), Durability::Sync).await?;
    let found = store.get(Space::Nodes, &longest_key).await?;
    ensure(found.as_deref() == Some(&largest_value[..]), || "the largest row came back different".into())?;
    let rows = store.snapshot().await?.scan(Space::Nodes, all(), 10, true).await?.rows;
    let [(key, value)] = rows.as_slice() else {
        return Err(Error::damaged(format!("{} rows, wanted 1", rows.len())));
    };
    ensure(key[..] == longest_key[..] && value[..] == largest_value[..], || "the scanned row is different".into())?;

    let too_long = vec![b'k'; KEY_BYTES_MAX + 1];
    let too_large = vec![7; VALUE_BYTES_MAX + 1];
    for durability in [Durability::Buffered, Durability::Sync] {
        // The row before the bad one must not stay.
        let batch = puts(Space::Nodes, [(&b"bystander"[..], &b"1"[..]), (&too_long[..], &b"1"[..])]);
        refused("a key that is too long", store.commit(batch, durability).await, ErrorKind::Invalid)?;
        let batch = puts(Space::Nodes, [("bystander", "1"), ("", "1")]);
        refused("an empty key", store.commit(batch, durability).await, ErrorKind::Invalid)?;
        let batch = puts(Space::Nodes, [(&b"bystander"[..], &b"1"[..]), (&b"k"[..], &too_large[..])]);
        refused("a value that is too large", store.commit(batch, durability).await, ErrorKind::Invalid)?;
    }
    same("the row before the bad one", &store.get(Space::Nodes, b"bystander").await?, &None)?;
    store.commit(puts(Space::Nodes, [("after", "1")]), Durability::Sync).await
}

pub(super) async fn duplicates(store: &dyn Store) -> Result<()> {
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
        store.commit(Batch { guards: Vec::new(), writes: writes.clone() }, Durability::Sync).await?;
        let rows = store.snapshot().await?.scan(Space::Nodes, all(), 10, false).await?.rows;
        let wanted = vec![(bytes("delete put"), bytes("2")), (bytes("put put"), bytes("2"))];
        same(&format!("rows after round {round}"), &rows, &wanted)?;
        same("get", &store.get(Space::Nodes, b"put delete").await?, &None)?;
        same("the other space", &store.get(Space::Past, b"put put").await?, &Some(bytes("past")))?;
    }
    Ok(())
}
