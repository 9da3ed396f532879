//! P2 and atomic conditions with many at once: one version, whole, whoever else writes; no update lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tombolo_core::{
    BucketPath, Condition, CreateOptions, ErrorKind, EtagMatch, GetOptions, OpenOptions, PutOptions, Segment,
};
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, S3Door};
use tombolo_tests::server::Site;

const WRITERS: u64 = 4;
const READERS: usize = 3;
const ROUNDS: u64 = 25;

struct Engine {
    runtime: tokio::runtime::Runtime,
    segment: Segment,
    _dir: tempfile::TempDir,
}

fn engine() -> Engine {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let create = CreateOptions { name: "test".into(), cluster: "Test".into() };
    let segment = runtime.block_on(Segment::create(dir.path().join("data"), create, OpenOptions::default())).unwrap();
    Engine { runtime, segment, _dir: dir }
}

impl Engine {
    fn door(&self) -> EngineDoor {
        let path = BucketPath::new("Test", "lab", "bucket").unwrap();
        EngineDoor::open(self.runtime.handle(), &self.segment, &path).unwrap()
    }
}

/// Writers overwrite one key with contents of very different sizes while readers read it: every read must give one of the
/// contents, whole, with its own metadata; the last one is some writer's last.
fn overwritten_and_read<D: Door>(open: impl Fn() -> D + Sync) {
    let content = |writer: u64, round: u64| {
        let size = [0, 100, 5_000, 90_000, 700_000][((writer + round) % 5) as usize];
        Content::new(writer * 1000 + round, size)
    };
    let writing = AtomicBool::new(true);
    open().put(b"contended", content(0, 0), false).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let open = &open;
                scope.spawn(move || {
                    let mut door = open();
                    for round in 0..ROUNDS {
                        door.put(b"contended", content(writer, round), false).unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..READERS {
            let (open, writing) = (&open, &writing);
            scope.spawn(move || {
                let mut door = open();
                while writing.load(Ordering::Relaxed) {
                    door.read(b"contended", None).expect("one whole version").expect("the key never goes away");
                }
            });
        }
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        writing.store(false, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.unwrap());
    });
    let last = open().read(b"contended", None).unwrap().unwrap();
    assert!((0..WRITERS).any(|writer| content(writer, ROUNDS - 1) == last), "{last:?} is nobody's last write");
}

#[test]
fn engine_readers_see_whole_versions_while_a_key_is_overwritten() {
    let engine = engine();
    overwritten_and_read(|| engine.door());
}

#[test]
fn s3_readers_see_whole_versions_while_a_key_is_overwritten() {
    let site = Site::new();
    let server = site.serve();
    overwritten_and_read(|| S3Door::open(server.client(), "bucket").unwrap());
    server.stop();
}

/// An open object stays readable, byte for byte, through overwrites, deletion and garbage collection.
#[test]
fn an_open_version_outlives_overwrites_and_collection() {
    let engine = engine();
    let mut door = engine.door();
    let content = Content::new(7, 3_000_000);
    door.put(b"key", content, false).unwrap();
    let bucket = door.bucket().clone();
    engine.runtime.block_on(async {
        let object = bucket.get("key", GetOptions::default()).await.unwrap();
        let mut reader = object.read(0..u64::MAX);
        let mut bytes = reader.next().await.unwrap().expect("a first piece").to_vec();
        for round in 0..5 {
            bucket.put("key", Content::new(100 + round, 500_000).bytes(), PutOptions::default()).await.unwrap();
            engine.segment.gc().await.unwrap();
        }
        bucket.delete("key", Default::default()).await.unwrap();
        engine.segment.gc().await.unwrap();
        while let Some(piece) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        assert!(bytes == content.bytes(), "the bytes changed under the reader");
        assert_eq!(object.info().size, content.size as u64);
    });
    assert_eq!(door.read(b"key", None).unwrap(), None);
}

/// Read, add one, write if unchanged, from many tasks: the sum tells whether an update was lost.
#[test]
fn conditional_puts_lose_no_update() {
    const TASKS: u64 = 8;
    const EACH: u64 = 20;
    let engine = engine();
    let bucket = engine.door().bucket().clone();
    engine.runtime.block_on(async {
        bucket.put("counter", "0", PutOptions::default()).await.unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let bucket = bucket.clone();
                tokio::spawn(async move {
                    let mut left = EACH;
                    while left > 0 {
                        let object = bucket.get("counter", GetOptions::default()).await.unwrap();
                        let text = object.bytes(0..100).await.unwrap();
                        let count: u64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
                        let if_match = Some(EtagMatch::OneOf(vec![object.info().etag.to_string()]));
                        let condition = Condition { if_match, ..Condition::default() };
                        let options = PutOptions { condition, ..PutOptions::default() };
                        match bucket.put("counter", (count + 1).to_string(), options).await {
                            Ok(_) => left -= 1,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Precondition, "{error}")
                            }
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let object = bucket.get("counter", GetOptions::default()).await.unwrap();
        assert_eq!(object.bytes(0..100).await.unwrap(), (TASKS * EACH).to_string());
    });
}

/// Of many that create the same key at once, exactly one does; in S3 too.
#[test]
fn one_of_many_creators_wins() {
    let site = Site::new();
    let server = site.serve();
    S3Door::open(server.client(), "bucket").unwrap();
    for round in 0..20_u64 {
        let key = format!("lock-{round}").into_bytes();
        let winners: BTreeSet<u64> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8_u64)
                .map(|writer| {
                    let (server, key) = (&server, &key);
                    scope.spawn(move || {
                        let mut door = S3Door::open(server.client(), "bucket").unwrap();
                        let content = Content::new(round * 100 + writer, 200);
                        door.put(key, content, true).unwrap().then_some(content.seed)
                    })
                })
                .collect();
            tries.into_iter().filter_map(|winner| winner.join().unwrap()).collect()
        });
        let stored = S3Door::open(server.client(), "bucket").unwrap().read(&key, None).unwrap().unwrap();
        assert_eq!(winners, BTreeSet::from([stored.seed]), "round {round}");
    }
    server.stop();
}
