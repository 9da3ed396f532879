//! Random sequences of operations against a model that is nothing but maps, through the engine and through S3.
//!
//! `PROPTEST_CASES` sets how many sequences. A failure shrinks to its smallest sequence, which is printed;
//! `PROPTEST_RNG_SEED` repeats a run's choices.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use tombolo_core::{BucketPath, CreateOptions, OpenOptions, Segment};
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, Failure, PART_BYTES_MIN, S3Door};
use tombolo_tests::model::{Model, Op, list_all, observe, perform};
use tombolo_tests::server::Site;

/// Few keys, so that operations meet; chosen to get in each other's way.
const KEYS: &[&[u8]] = &[
    b"a",
    b"a/",
    b"a/b",
    b"a/b/c",
    b"a//b",
    b"a/b ",
    b"a-b",
    b"a0",
    b"b",
    b".",
    b"..",
    b"a/../b",
    b"/",
    b"//",
    b"/a",
    b"b/",
    "\u{e9}t\u{e9}/caf\u{e9}".as_bytes(),
    "\u{1f980}".as_bytes(),
    b"a+b%2Fc&d=e?f#g",
    b"<x>&'\"",
    b"c/d/e/f/g/h",
];
/// Keys that S3's XML cannot say, for the engine.
const BINARY_KEYS: &[&[u8]] = &[b"\0", b"a\0b", b"a/\xff", b"\xff\xff", b"a\x01/b"];
const PREFIXES: &[&[u8]] = &[b"", b"a", b"a/", b"a/b", b"/", b"b", b"c/d/", b"zzz", b"a//"];
const DELIMITERS: &[Option<&[u8]>] = &[None, Some(b"/"), Some(b"/"), Some(b"b"), Some(b"/b"), Some(b"//")];

#[derive(Clone)]
enum Step {
    Do(Op),
    List {
        prefix: &'static [u8],
        delimiter: Option<&'static [u8]>,
        limit: usize,
        start: Option<&'static [u8]>,
    },
    Range {
        key: Vec<u8>,
        from: Index,
        length: usize,
    },
    /// Takes a snapshot; at the end it must still show what was there.
    Snapshot,
}

impl fmt::Debug for Step {
    /// Keys as text, so that a failing sequence can be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| format!("'{}'", bytes.escape_ascii());
        match self {
            Step::Do(op) => op.fmt(f),
            Step::List { prefix, delimiter, limit, start } => {
                let (delimiter, start) = (delimiter.map(text), start.map(text));
                write!(f, "List {} delimiter {delimiter:?} after {start:?}, pages of {limit}", text(prefix))
            }
            Step::Range { key, length, .. } => write!(f, "Range of {length} bytes of {}", text(key)),
            Step::Snapshot => f.write_str("Snapshot"),
        }
    }
}

struct Size {
    part_bytes: usize,
    keys: Vec<&'static [u8]>,
}

fn content() -> impl Strategy<Value = Content> {
    let size = prop_oneof![
        4 => 0_usize..200,
        2 => 200_usize..10_000,
        1 => 60_000_usize..400_000,
        1 => Just(0_usize),
    ];
    (any::<u64>(), size).prop_map(|(seed, size)| Content::new(seed, size))
}

fn step(size: &Size) -> impl Strategy<Value = Step> + use<> {
    let key = select(size.keys.clone()).prop_map(<[u8]>::to_vec);
    let part_bytes = size.part_bytes;
    let put = (key.clone(), content()).prop_map(|(key, content)| Op::Put { key, content });
    let put_if_absent = (key.clone(), content()).prop_map(|(key, content)| Op::PutIfAbsent { key, content });
    let multipart = (key.clone(), any::<u64>(), 1..part_bytes * 2).prop_map(move |(key, seed, bytes)| Op::Multipart {
        key,
        content: Content::new(seed, bytes),
        part_bytes,
    });
    let copy = (key.clone(), key.clone()).prop_map(|(from, to)| Op::Copy { from, to });
    let delete = key.clone().prop_map(|key| Op::Delete { keys: vec![key] });
    let delete_many = vec(key.clone(), 2..5).prop_map(|mut keys| {
        keys.sort();
        keys.dedup();
        Op::Delete { keys }
    });
    let delete_version = (key.clone(), 0..4_usize, any::<bool>())
        .prop_map(|(key, index, is_marker)| Op::DeleteVersion { key, index, is_marker });
    let versioning = prop::bool::weighted(0.7).prop_map(|on| Op::Versioning { on });
    let list = (select(PREFIXES), select(DELIMITERS), 1..6_usize, prop::option::weighted(0.3, select(KEYS))).prop_map(
        // With a delimiter, what `start` inside a common prefix means is the implementation's choice.
        |(prefix, delimiter, limit, start)| Step::List {
            prefix,
            delimiter,
            limit,
            start: start.filter(|_| delimiter.is_none()),
        },
    );
    let range =
        (key, any::<Index>(), 1..100_000_usize).prop_map(|(key, from, length)| Step::Range { key, from, length });
    prop_oneof![
        12 => put.prop_map(Step::Do),
        2 => put_if_absent.prop_map(Step::Do),
        1 => multipart.prop_map(Step::Do),
        4 => copy.prop_map(Step::Do),
        5 => delete.prop_map(Step::Do),
        2 => delete_many.prop_map(Step::Do),
        2 => delete_version.prop_map(Step::Do),
        1 => versioning.prop_map(Step::Do),
        4 => list,
        3 => range,
        1 => Just(Step::Snapshot),
    ]
}

fn wrong(what: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{what:?}"))
}

/// Takes a snapshot of this name and gives a door to it, where the door has snapshots.
type TakeSnapshot<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Box<dyn Door>>, Failure>;

/// Carries out `steps` through `door`, and holds every answer and the end against the model.
fn follow(door: &mut dyn Door, steps: &[Step], snapshot: TakeSnapshot<'_>) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    let mut snapshots = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Do(op) => {
                if !model.is_defined(op) {
                    continue;
                }
                let expected = model.apply(op);
                let answer = perform(door, op).map_err(|failure| wrong((op, failure)))?;
                prop_assert_eq!(answer, expected, "step {}: {:?}", number, op);
            }
            Step::List { prefix, delimiter, limit, start } => {
                let shown = list_all(door, prefix, *delimiter, *start, *limit).map_err(wrong)?;
                prop_assert_eq!(shown, model.list(prefix, *delimiter, *start), "step {}: {:?}", number, step);
            }
            Step::Range { key, from, length } => {
                let Some(content) = model.current(key).filter(|content| content.size > 0) else {
                    continue;
                };
                let from = from.index(content.size);
                let to = (from + length).min(content.size);
                let read = door.read_range(key, from as u64..to as u64).map_err(wrong)?;
                prop_assert!(read == content.bytes()[from..to], "step {}: {}..{} of {:?}", number, from, to, key);
            }
            Step::Snapshot => {
                let name = format!("at-{number}");
                if let Some(past) = snapshot(&name).map_err(wrong)? {
                    snapshots.push((past, model.clone()));
                }
            }
        }
    }
    let found = observe(door, b"").map_err(wrong)?;
    prop_assert_eq!(found, model.state());
    for (mut past, then) in snapshots {
        prop_assert_eq!(list_all(&mut *past, b"", None, None, 3).map_err(wrong)?, then.list(b"", None, None));
        for item in then.list(b"", None, None) {
            prop_assert_eq!(past.read(item.name(), None).map_err(wrong)?, then.current(item.name()));
        }
    }
    Ok(())
}

#[test]
fn the_engine_does_what_the_model_does() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let create = CreateOptions { name: "test".into(), cluster: "Test".into() };
    let segment = runtime.block_on(Segment::create(dir.path().join("data"), create, OpenOptions::default())).unwrap();
    let keys = [KEYS, BINARY_KEYS].concat();
    let size = Size { part_bytes: 100_000, keys };
    let numbers = AtomicU32::new(0);
    let mut runner = TestRunner::new(config(48));
    let result = runner.run(&vec(step(&size), 1..60), |steps| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let path = BucketPath::new("Test", "lab", &format!("bucket-{number}")).unwrap();
        let mut door = EngineDoor::open(runtime.handle(), &segment, &path).map_err(wrong)?;
        let bucket = door.clone();
        follow(&mut door, &steps, &mut |name| {
            let made = runtime.block_on(bucket.bucket().create_snapshot(name));
            made.map_err(|error| Failure::Refused(error.to_string()))?;
            Ok(Some(Box::new(bucket.at_snapshot(name))))
        })
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    // What all that left behind is sound, before and after it is swept.
    for _ in 0..2 {
        let report = runtime.block_on(segment.scrub(0, |_, _| {})).unwrap();
        assert_eq!((report.damage, report.affected), (vec![], vec![]));
        runtime.block_on(segment.gc()).unwrap();
    }
}

#[test]
fn s3_does_what_the_model_does() {
    let site = Site::new();
    let server = site.serve();
    let size = Size { part_bytes: PART_BYTES_MIN, keys: KEYS.to_vec() };
    let numbers = AtomicU32::new(0);
    let mut runner = TestRunner::new(config(24));
    let result = runner.run(&vec(step(&size), 1..50), |steps| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let mut door = S3Door::open(server.client(), &format!("bucket-{number}")).map_err(wrong)?;
        follow(&mut door, &steps, &mut |_| Ok(None))
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    server.stop();
}

/// `fallback` cases, unless `PROPTEST_CASES` says otherwise. A step shrinks slowly, as it touches the disk.
fn config(fallback: u32) -> Config {
    let mut config = Config { failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = fallback;
    }
    config
}
