//! The engine through its public calls: objects, versions, listings, uploads, files, snapshots, collection, reopening.

#![expect(clippy::unwrap_used, reason = "a test says what failed by failing")]

use bytes::Bytes;
use std::sync::{Arc, Mutex, mpsc};
use tempfile::TempDir;
use tombolo_core::kv::{Space, memory::MemoryStore};
use tombolo_core::namespace::{ContentBarrier, Ledger};
use tombolo_core::*;

struct World {
    dir: TempDir,
    segment: Segment,
    bucket: Bucket,
}

async fn world() -> World {
    world_with(BucketPolicy::default()).await
}

async fn world_with(policy: BucketPolicy) -> World {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "here".into(), cluster: "Here".into() };
    let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
    let path: BucketPath = "Here/lab/b".parse().unwrap();
    segment.catalog().create_tenant(&path.tenant).await.unwrap();
    let bucket = segment.catalog().create_bucket(&path, policy).await.unwrap();
    World { dir, segment, bucket }
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

async fn read(bucket: &Bucket, key: &str) -> Bytes {
    let object = bucket.get(key, GetOptions::default()).await.unwrap();
    object.bytes(0..u64::MAX).await.unwrap()
}

async fn keys(bucket: &Bucket, prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut after = None;
    loop {
        let options = ListOptions {
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            delimiter: delimiter.map(|d| Bytes::copy_from_slice(d.as_bytes())),
            after,
            limit,
            ..ListOptions::default()
        };
        let page = bucket.list(options).await.unwrap();
        assert!(page.items.len() <= limit);
        for item in page.items {
            out.push(match item {
                ListItem::Object(o) => String::from_utf8_lossy(&o.key).into_owned(),
                ListItem::Prefix(p) => format!("{}*", String::from_utf8_lossy(&p)),
            });
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return out,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_is_read_back_whole_and_after_reopening() {
    let world = world().await;
    let sizes = [0, 1, 4096, 4097, 70_000, 1 << 20, (5 << 20) + 3];
    for (i, size) in sizes.iter().enumerate() {
        let content = noise(*size, i as u64);
        let info = world.bucket.put(format!("k/{size}"), content.clone(), PutOptions::default()).await.unwrap();
        assert_eq!(info.size, *size as u64);
        assert_eq!(read(&world.bucket, &format!("k/{size}")).await, content);
    }
    let object = world.bucket.get(format!("k/{}", (5 << 20) + 3), GetOptions::default()).await.unwrap();
    let whole = noise((5 << 20) + 3, 6);
    for range in [0..10, 1_000_000..1_000_010, 100_000..3_000_000, 5_242_880..u64::MAX] {
        let end = (range.end as usize).min(whole.len());
        assert_eq!(object.bytes(range.clone()).await.unwrap(), whole.slice(range.start as usize..end));
    }
    drop(object);
    let (path, dir) = (world.bucket.path().clone(), world.segment.dir().to_owned());
    world.segment.close().await.unwrap();
    drop((world.bucket, world.segment));
    let segment = Segment::open(dir, OpenOptions::default()).await.unwrap();
    let bucket = segment.bucket(&path).await.unwrap();
    for (i, size) in sizes.iter().enumerate() {
        assert_eq!(read(&bucket, &format!("k/{size}")).await, noise(*size, i as u64));
    }
    assert_eq!(bucket.usage().await.unwrap().objects, sizes.len() as u64);
    drop(world.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_owns_a_directory() {
    let world = world().await;
    let error = Segment::open(world.segment.dir(), OpenOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_is_its_own_place() {
    let world = world().await;
    let mut all = vec![
        "a", "a/", "a/b", "a//b", "a/./b", "a/../b", "/", "//", "/a", "a.txt", "a0", "b/c/d", "b/c/", "ü/ß", ".", "..",
    ];
    for key in &all {
        world.bucket.put(key, key.as_bytes().to_vec(), PutOptions::default()).await.unwrap();
    }
    all.sort_unstable();
    for limit in [1, 2, 3, 100] {
        assert_eq!(keys(&world.bucket, "", None, limit).await, all);
    }
    for key in &all {
        assert_eq!(read(&world.bucket, key).await, key.as_bytes());
    }
    for limit in [1, 2, 100] {
        assert_eq!(
            keys(&world.bucket, "", Some("/"), limit).await,
            [".", "..", "/*", "a", "a.txt", "a/*", "a0", "b/*", "ü/*"]
        );
        assert_eq!(keys(&world.bucket, "a/", Some("/"), limit).await, ["a/", "a/../*", "a/./*", "a//*", "a/b"]);
        assert_eq!(keys(&world.bucket, "a", None, limit).await, {
            let mut expected: Vec<_> = all.iter().filter(|k| k.starts_with('a')).copied().collect();
            expected.sort_unstable();
            expected
        });
        assert_eq!(keys(&world.bucket, "", Some("b"), limit).await, {
            let mut expected: Vec<String> = all
                .iter()
                .map(|k| match k.find('b') {
                    Some(at) => format!("{}*", &k[..=at]),
                    None => (*k).to_owned(),
                })
                .collect();
            expected.dedup();
            expected
        });
    }
    for key in &all {
        assert!(world.bucket.delete(key, DeleteOptions::default()).await.unwrap().existed, "{key}");
    }
    assert!(keys(&world.bucket, "", None, 100).await.is_empty());
    assert_eq!(world.bucket.usage().await.unwrap(), Usage::default());
    world.segment.catalog().delete_bucket(world.bucket.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_markers_and_what_comes_back() {
    let policy = BucketPolicy { versioning: Versioning::On, ..BucketPolicy::default() };
    let world = world_with(policy).await;
    let one = world.bucket.put("d/k", "one", PutOptions::default()).await.unwrap();
    let two = world.bucket.put("d/k", "two", PutOptions::default()).await.unwrap();
    assert_ne!(one.version, two.version);
    let get = |version| GetOptions { version: Some(version), snapshot: None };
    assert_eq!(world.bucket.get("d/k", get(one.version)).await.unwrap().bytes(0..9).await.unwrap(), "one");
    let deleted = world.bucket.delete("d/k", DeleteOptions::default()).await.unwrap();
    assert!(deleted.is_marker && deleted.existed);
    let error = world.bucket.get("d/k", GetOptions::default()).await.err().unwrap();
    assert_eq!((error.kind(), error.marker()), (ErrorKind::NotFound, deleted.version));
    assert!(keys(&world.bucket, "", None, 10).await.is_empty());
    for limit in [1, 2, 10] {
        let mut found = Vec::new();
        let mut options = ListVersionsOptions { limit, ..ListVersionsOptions::default() };
        loop {
            let page = world.bucket.list_versions(options.clone()).await.unwrap();
            for item in page.items {
                if let VersionItem::Version { version, is_current, is_marker, .. } = item {
                    found.push((version, is_current, is_marker));
                }
            }
            match page.next {
                Some((key, version)) => (options.after, options.after_version) = (Some(key), version),
                None => break,
            }
        }
        let expected =
            [(deleted.version.unwrap(), true, true), (two.version, false, false), (one.version, false, false)];
        assert_eq!(found, expected);
    }
    // The marker goes: the version below is current again, with its id.
    let options = DeleteOptions { version: deleted.version, ..DeleteOptions::default() };
    assert!(world.bucket.delete("d/k", options).await.unwrap().is_marker);
    let current = world.bucket.head("d/k", GetOptions::default()).await.unwrap();
    assert_eq!((current.version, current.is_current), (two.version, true));
    for version in [two.version, one.version] {
        let options = DeleteOptions { version: Some(version), ..DeleteOptions::default() };
        assert!(world.bucket.delete("d/k", options).await.unwrap().existed);
    }
    assert_eq!(world.bucket.usage().await.unwrap(), Usage::default());
    world.segment.catalog().delete_bucket(world.bucket.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_under_a_race() {
    let world = world().await;
    let mut tasks = Vec::new();
    for i in 0..32 {
        let bucket = world.bucket.clone();
        tasks.push(tokio::spawn(async move {
            let condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
            bucket.put("once", format!("{i}"), PutOptions { condition, ..PutOptions::default() }).await
        }));
    }
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Precondition),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_join_parts_by_reference() {
    let world = world().await;
    let upload = world.bucket.create_upload("big", PutOptions::default()).await.unwrap();
    let parts: Vec<Bytes> = (0..4).map(|i| noise(if i == 3 { 100 } else { 6 << 20 }, 40 + i)).collect();
    let mut named = Vec::new();
    for i in [2usize, 0, 3, 1, 1] {
        let mut writer = world.bucket.part_writer("big", &upload.id, i as u32 + 1, None).await.unwrap();
        writer.push(parts[i].clone()).await.unwrap();
        let part = writer.seal().await.unwrap().commit_part().await.unwrap();
        named.push(CompletePart { number: part.number, etag: part.etag.to_string() });
    }
    named.sort_by_key(|p| p.number);
    named.dedup();
    let before = world.segment.status().await.unwrap();
    let options = CompleteOptions { part_bytes_min: 5 << 20, ..CompleteOptions::default() };
    let info = world.bucket.complete_upload("big", &upload.id, &named, options).await.unwrap();
    assert_eq!(info.part_sizes, parts.iter().map(|p| p.len() as u64).collect::<Vec<_>>());
    assert!(matches!(info.etag, Etag::Multipart(_, 4)));
    assert_eq!(read(&world.bucket, "big").await, parts.concat());
    let after = world.segment.status().await.unwrap();
    assert!(after.stored_bytes - before.stored_bytes < 64 << 10, "completing stored the content again");
    assert!(world.bucket.upload("big", &upload.id).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_keeps_what_is_needed_and_drops_the_rest() {
    let world = world().await;
    for i in 0..20 {
        world.bucket.put(format!("k{i}"), noise(2 << 20, i), PutOptions::default()).await.unwrap();
    }
    let reader = world.bucket.get("k19", GetOptions::default()).await.unwrap();
    world.bucket.create_snapshot("s").await.unwrap();
    for i in 0..20 {
        if i != 3 && i != 7 {
            world.bucket.delete(format!("k{i}"), DeleteOptions::default()).await.unwrap();
        }
    }
    let kept = world.segment.gc().await.unwrap();
    assert_eq!(kept.chunks_dropped, 0, "the snapshot needs them");
    let old = GetOptions { version: None, snapshot: Some("s".into()) };
    assert_eq!(world.bucket.get("k5", old).await.unwrap().bytes(0..u64::MAX).await.unwrap(), noise(2 << 20, 5));
    world.bucket.delete_snapshot("s").await.unwrap();
    let report = world.segment.gc().await.unwrap();
    assert!(report.chunks_dropped > 0 && report.bytes_freed > 30 << 20, "{report:?}");
    assert_eq!(reader.bytes(0..u64::MAX).await.unwrap(), noise(2 << 20, 19), "an open reader's content was dropped");
    for i in [3, 7] {
        assert_eq!(read(&world.bucket, &format!("k{i}")).await, noise(2 << 20, i));
    }
    drop(reader);
    world.bucket.delete("k3", DeleteOptions::default()).await.unwrap();
    world.bucket.delete("k7", DeleteOptions::default()).await.unwrap();
    world.segment.gc().await.unwrap();
    let status = world.segment.status().await.unwrap();
    assert_eq!((status.chunks, status.stored_bytes < 1 << 20), (0, true), "{status:?}");
    // What was dropped can be stored again.
    world.bucket.put("k3", noise(2 << 20, 3), PutOptions::default()).await.unwrap();
    assert_eq!(read(&world.bucket, "k3").await, noise(2 << 20, 3));
    let report = world.segment.scrub(0, |_, _| {}).await.unwrap();
    assert_eq!((report.damage.len(), report.chunks > 0), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_is_stored_once() {
    let world = world().await;
    world.bucket.put("a", noise(8 << 20, 1), PutOptions::default()).await.unwrap();
    let before = world.segment.status().await.unwrap();
    let shifted = [noise(1000, 2), noise(8 << 20, 1)].concat();
    world.bucket.put("b", shifted, PutOptions::default()).await.unwrap();
    world.bucket.put("c", noise(8 << 20, 1), PutOptions::default()).await.unwrap();
    let after = world.segment.status().await.unwrap();
    assert!(after.unique_bytes - before.unique_bytes < 3 << 20, "{} {}", before.unique_bytes, after.unique_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_files_links_and_renames() {
    let world = world().await;
    let bucket = &world.bucket;
    bucket.mkdir("d", Attributes::default()).await.unwrap();
    assert_eq!(bucket.mkdir("d", Attributes::default()).await.unwrap_err().kind(), ErrorKind::Exists);
    bucket.put("d/e/f", "x", PutOptions::default()).await.unwrap();
    bucket.link("d/e/f", "d/g").await.unwrap();
    assert_eq!(bucket.stat("d/g").await.unwrap().links, 2);
    bucket.put("d/g", "longer", PutOptions::default()).await.unwrap();
    assert_eq!(read(bucket, "d/e/f").await, "longer");
    bucket.rename("d", "moved").await.unwrap();
    assert_eq!(keys(bucket, "", None, 10).await, ["moved/", "moved/e/f", "moved/g"]);
    // The name is free again, for another directory.
    bucket.put("d/new", "y", PutOptions::default()).await.unwrap();
    assert_eq!(keys(bucket, "", None, 10).await, ["d/new", "moved/", "moved/e/f", "moved/g"]);
    assert_eq!(bucket.rename("moved", "moved/e/inside").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bucket.rmdir("moved").await.unwrap_err().kind(), ErrorKind::NotEmpty);
    bucket.rename("moved/e/f", "moved/h").await.unwrap();
    // e was implied by its only file.
    assert_eq!(bucket.stat("moved/e").await.unwrap_err().kind(), ErrorKind::NotFound);
    bucket.delete("moved/g", DeleteOptions::default()).await.unwrap();
    assert_eq!(bucket.stat("moved/h").await.unwrap().links, 1);
    bucket.delete("moved/h", DeleteOptions::default()).await.unwrap();
    bucket.rmdir("moved").await.unwrap();
    assert_eq!(keys(bucket, "", None, 10).await, ["d/new"]);
    let (entries, more) = bucket.read_dir("", None, 10).await.unwrap();
    assert_eq!((entries.len(), more, entries[0].name.as_ref()), (1, false, b"d/".as_slice()));
}

fn transactions(world: &World) -> u64 {
    let metrics = world.segment.metrics();
    metrics.iter().find(|(name, ..)| *name == "tombolo_transactions_total").unwrap().3 as u64
}

/// Whoever gave a name of a file to another deleted it first: on a full disk, and after a kill in between, the name was missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_goes_from_one_file_to_another_in_one_commit() {
    for versioning in [Versioning::Off, Versioning::On, Versioning::Suspended] {
        let policy = BucketPolicy { versioning, quota_bytes: Some(64), ..BucketPolicy::default() };
        let world = world_with(policy).await;
        let bucket = &world.bucket;
        let attributes = Some(Attributes { mode: Some(0o600), ..Attributes::default() });
        bucket.put("a", "one", PutOptions { attributes, ..PutOptions::default() }).await.unwrap();
        bucket.link("a", "b").await.unwrap();
        let unlinks = || PutOptions { unlinks: true, ..PutOptions::default() };
        let refused = bucket.put("b", vec![0; 100], unlinks()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Quota);
        let condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
        let refused = bucket.put("b", "two", PutOptions { condition, ..unlinks() }).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert_eq!((read(bucket, "b").await, bucket.stat("b").await.unwrap().links), ("one".into(), 2));

        let before = transactions(&world);
        let stored = bucket.put("b", "two", unlinks()).await.unwrap();
        assert_eq!(transactions(&world), before + 1);
        assert_eq!((read(bucket, "a").await, read(bucket, "b").await), ("one".into(), "two".into()));
        let (a, b) = (bucket.stat("a").await.unwrap(), bucket.stat("b").await.unwrap());
        assert_eq!((a.links, b.links, b.node, b.attributes.mode), (1, 1, stored.node, Some(0o600)));
        assert_ne!(a.node, b.node);
        let usage = bucket.usage().await.unwrap();
        let kept = u64::from(versioning == Versioning::On);
        assert_eq!((usage.objects, usage.logical_bytes, usage.old_versions), (2, 6, kept));

        let before = transactions(&world);
        bucket.link_over("a", "b").await.unwrap();
        bucket.link_over("a", "b").await.unwrap();
        bucket.link_over("b", "b").await.unwrap();
        assert_eq!(transactions(&world), before + 1);
        let (a, b) = (bucket.stat("a").await.unwrap(), bucket.stat("b").await.unwrap());
        assert_eq!((a.links, b.links, a.node), (2, 2, b.node));
        assert_eq!(bucket.link_over("none", "b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bucket.link("none", "b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bucket.link("a", "b").await.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(read(bucket, "b").await, "one");

        // A file of one name is replaced as ever, and so is one of several without the option.
        bucket.put("c", "c", PutOptions::default()).await.unwrap();
        let node = bucket.stat("c").await.unwrap().node;
        assert_eq!(bucket.put("c", "C", unlinks()).await.unwrap().node, node);
        bucket.put("b", "three", PutOptions::default()).await.unwrap();
        assert_eq!(read(bucket, "a").await, "three");
    }
}

/// A copy's attributes were set by a second commit: a crash in between left a copy without them.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_what_files_have_if_that_is_asked_for() {
    let world = world().await;
    let bucket = &world.bucket;
    let attributes = Attributes { mode: Some(0o640), uid: Some(7), ..Attributes::default() };
    let put = PutOptions { attributes: Some(attributes.clone()), modified_ns: Some(1000), ..PutOptions::default() };
    bucket.put("f", "content", put).await.unwrap();
    let object = bucket.get("f", GetOptions::default()).await.unwrap();
    let plain = bucket.copy(&object, "plain", CopyOptions::default()).await.unwrap();
    assert_eq!(plain.attributes, Attributes::default());
    assert_ne!(plain.modified_ns, 1000);

    let whole = || CopyOptions {
        attributes: Some(attributes.clone()),
        modified_ns: Some(1000),
        unlinks: true,
        ..CopyOptions::default()
    };
    let seen = async |key: &str| {
        let info = bucket.head(key, GetOptions::default()).await.unwrap();
        let page = bucket.list(ListOptions { prefix: key.to_owned().into(), limit: 1, ..ListOptions::default() }).await;
        let time = |item: &ListItem| matches!(item, ListItem::Object(o) if o.modified_ns == info.modified_ns);
        assert!(page.unwrap().items.iter().all(time), "a listing shows another time");
        (info.attributes, info.modified_ns)
    };
    for key in ["whole", "plain"] {
        let before = transactions(&world);
        let copy = bucket.copy(&object, key, whole()).await.unwrap();
        assert_eq!(transactions(&world), before + 1);
        assert_eq!((copy.attributes, copy.modified_ns), (attributes.clone(), 1000));
        assert_eq!(seen(key).await, (attributes.clone(), 1000));
    }

    // The time that was set by hand belongs to the version before, though that has the time of this one.
    bucket.set_attributes("whole", Attributes::default(), Some(5000)).await.unwrap();
    assert_eq!(seen("whole").await, (Attributes::default(), 5000));
    bucket.copy(&object, "whole", whole()).await.unwrap();
    assert_eq!(seen("whole").await, (attributes.clone(), 1000));

    bucket.put("other", "other", PutOptions::default()).await.unwrap();
    bucket.link("other", "linked").await.unwrap();
    bucket.copy(&object, "linked", whole()).await.unwrap();
    assert_eq!((read(bucket, "other").await, read(bucket, "linked").await), ("other".into(), "content".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_clones_show_what_was() {
    let world = world().await;
    let bucket = &world.bucket;
    for i in 0..300 {
        bucket.put(format!("d{}/k{i:03}", i % 3), format!("{i}"), PutOptions::default()).await.unwrap();
    }
    bucket.create_snapshot("one").await.unwrap();
    for i in 0..300 {
        match i % 4 {
            0 => drop(bucket.delete(format!("d{}/k{i:03}", i % 3), DeleteOptions::default()).await.unwrap()),
            1 => drop(bucket.put(format!("d{}/k{i:03}", i % 3), "changed", PutOptions::default()).await.unwrap()),
            2 => drop(bucket.put(format!("d{}/new{i:03}", i % 3), "new", PutOptions::default()).await.unwrap()),
            _ => {}
        }
    }
    bucket.rename("d2", "e").await.unwrap();
    let options = ListOptions { limit: 1000, snapshot: Some("one".into()), ..ListOptions::default() };
    let page = bucket.list(options.clone()).await.unwrap();
    assert_eq!(page.items.len(), 300);
    let paged = {
        let mut items = Vec::new();
        let mut options = ListOptions { limit: 7, ..options.clone() };
        loop {
            let page = bucket.list(options.clone()).await.unwrap();
            items.extend(page.items);
            match page.next {
                Some(next) => options.after = Some(next),
                None => break items,
            }
        }
    };
    assert_eq!(paged, page.items);
    for i in [0, 1, 2, 3, 299] {
        let get = GetOptions { version: None, snapshot: Some("one".into()) };
        let object = bucket.get(format!("d{}/k{i:03}", i % 3), get).await.unwrap();
        assert_eq!(object.bytes(0..99).await.unwrap(), format!("{i}"));
    }
    let copy: BucketPath = "Here/lab/copy".parse().unwrap();
    assert_eq!(bucket.clone_to(&copy, b"", Some("one")).await.unwrap(), 300);
    let copy = world.segment.bucket(&copy).await.unwrap();
    assert_eq!(keys(&copy, "", None, 1000).await.len(), 300);
    assert_eq!(read(&copy, "d2/k002").await, "2");
    bucket.delete_snapshot("one").await.unwrap();
    assert_eq!(bucket.list(options).await.unwrap_err().subject(), Subject::Snapshot);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_versions_while_writers_replace_them() {
    let world = world().await;
    let version = |n: u64| Bytes::from(vec![n as u8; 300_000 + n as usize]);
    world.bucket.put("k", version(0), PutOptions::default()).await.unwrap();
    let writer = {
        let bucket = world.bucket.clone();
        tokio::spawn(async move {
            for n in 1..60 {
                bucket.put("k", version(n), PutOptions::default()).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let object = world.bucket.get("k", GetOptions::default()).await.unwrap();
        let bytes = object.bytes(0..u64::MAX).await.unwrap();
        assert_eq!(bytes, version(u64::from(bytes[0])), "a mix of versions");
        assert_eq!(object.info().size, bytes.len() as u64);
    }
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_users() {
    let policy = BucketPolicy { quota_objects: Some(2), quota_bytes: Some(100), ..BucketPolicy::default() };
    let world = world_with(policy).await;
    world.bucket.put("a", "1", PutOptions::default()).await.unwrap();
    world.bucket.put("b", "2", PutOptions::default()).await.unwrap();
    assert_eq!(world.bucket.put("c", "3", PutOptions::default()).await.unwrap_err().kind(), ErrorKind::Quota);
    assert_eq!(world.bucket.put("b", vec![0; 200], PutOptions::default()).await.unwrap_err().kind(), ErrorKind::Quota);
    world.bucket.put("b", vec![0; 90], PutOptions::default()).await.unwrap();
    let catalog = world.segment.catalog();
    let tenant: TenantPath = "Here/lab".parse().unwrap();
    let (user, secret) = catalog.create_user(&tenant, "ann", None).await.unwrap();
    assert_eq!(catalog.find_key(&user.access_key).await.unwrap().unwrap().1, secret);
    assert_eq!(catalog.users(&tenant).await.unwrap(), std::slice::from_ref(&user));
    catalog.delete_user(&tenant, "ann").await.unwrap();
    assert!(catalog.find_key(&user.access_key).await.unwrap().is_none());
    assert_eq!(catalog.delete_tenant(&tenant).await.unwrap_err().kind(), ErrorKind::NotEmpty);
}

/// A disk whose syncs take as long as the test wants.
struct Gate {
    begun: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl ContentBarrier for Gate {
    fn sync(&self) -> Result<()> {
        self.begun.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(())
    }
}

/// Group commit: while one is under way, however many come, they wait for the next, and that is one.
#[tokio::test]
async fn those_who_wait_for_a_commit_under_way_go_together() {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let gate = Arc::new(Gate { begun, go_on: Mutex::new(may_go_on) });
    let store = Arc::new(MemoryStore::new());
    let ledger = Ledger::open(SegmentId([1; 16]), store, gate, Environment::default()).await.unwrap();
    let mut commits: Vec<_> = (0..64u8)
        .map(|n| {
            let mut txn = ledger.begin();
            txn.put(Space::Meta, Bytes::from(vec![n]), Bytes::new());
            txn.refers_to_new_chunks();
            Box::pin(ledger.commit(txn))
        })
        .collect();
    let mut rest = commits.split_off(1);
    assert!(futures::poll!(commits[0].as_mut()).is_pending());
    has_begun.recv().unwrap();
    for commit in &mut rest {
        assert!(futures::poll!(commit.as_mut()).is_pending());
    }
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    commits.extend(rest);
    futures::future::join_all(commits).await.into_iter().for_each(|done| assert!(done.is_ok()));
    assert_eq!(ledger.counters().0, 2);
    ledger.close().await.unwrap();
}

/// The marker was put where the directory above had gone, with the one that lost its object: no listing of versions led there.
#[tokio::test]
async fn a_directory_that_is_an_object_leaves_its_marker() {
    for versioning in ["on", "suspended"] {
        let mut policy = BucketPolicy::default();
        policy.set("versioning", "on").unwrap();
        let world = world_with(policy.clone()).await;
        policy.set("versioning", versioning).unwrap();
        world.segment.catalog().set_policy(world.bucket.path(), policy).await.unwrap();
        for key in ["d/", "d/e/", "//", "a//b/"] {
            world.bucket.put(key, "", PutOptions::default()).await.unwrap();
            world.bucket.delete(key, DeleteOptions::default()).await.unwrap();
        }
        let options = ListVersionsOptions { limit: 100, ..ListVersionsOptions::default() };
        let listed = world.bucket.list_versions(options).await.unwrap().items;
        let markers: Vec<_> = listed
            .iter()
            .filter_map(|item| match item {
                VersionItem::Version { summary, is_marker: true, is_current: true, .. } => Some(&summary.key[..]),
                _ => None,
            })
            .collect();
        assert_eq!(markers, [&b"//"[..], b"a//b/", b"d/", b"d/e/"], "{versioning}");
    }
}
