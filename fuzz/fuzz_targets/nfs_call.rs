//! The NFS door: any record, and any arguments of every procedure, those of the lock manager included, with handles that are good and others. A reply, or none, but no harm; and
//! after it the door still answers.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex};
use tokio::runtime::{Builder, Runtime};
use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, OpenOptions, Segment};
use tombolo_nfs::{Exports, NfsDoor, NfsLimits, NfsOptions};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const LOCKS: u32 = 100_021;
const STATUS: u32 = 100_024;
const PORTS: u32 = 100_000;

struct World {
    runtime: Runtime,
    door: NfsDoor,
    root: Vec<u8>,
    /// A file.
    file: Vec<u8>,
    _dir: tempfile::TempDir,
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 700))
}

fn version(program: u32) -> u32 {
    match program {
        LOCKS => 4,
        STATUS => 1,
        PORTS => 2,
        _ => 3,
    }
}

/// A call with credentials of root.
fn call(program: u32, procedure: u32, arguments: &[u8]) -> Bytes {
    let mut record = Vec::new();
    // No identification, no name, user and group 0, no further groups.
    for word in [7, 0, 2, program, version(program), procedure, 1, 20, 0, 0, 0, 0, 0, 0, 0] {
        record.extend_from_slice(&u32::to_be_bytes(word));
    }
    record.extend_from_slice(arguments);
    record.into()
}

fn opaque(data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (door, root, file) = runtime.block_on(async {
        let create = CreateOptions { name: "fuzz".into(), cluster: "C".into() };
        let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
        let path: BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let options = NfsOptions { exports: Exports::AllToLoopback, port_mapper: None, limits: NfsLimits::default() };
        let door = NfsDoor::bind(segment, &[], options).await.unwrap();
        let reply = door.answer(peer(), call(MOUNT, 1, &opaque(b"/C/t/b"))).await.unwrap();
        // Behind the reply's header and the status: length and bytes of the handle.
        let root = reply[32..32 + 57].to_vec();
        // An unchecked CREATE without attributes: behind its status, that a handle follows.
        let args = [&opaque(&root)[..], &opaque(b"file"), &[0; 28]].concat();
        let reply = door.answer(peer(), call(NFS, 8, &args)).await.unwrap();
        (door, root, reply[36..36 + 57].to_vec())
    });
    Mutex::new(World { runtime, door, root, file, _dir: dir })
});

fuzz_target!(|data: &[u8]| {
    let [kind, procedure, rest @ ..] = data else { return };
    let world = WORLD.lock().unwrap();
    let record = match kind % 6 {
        0 => Bytes::copy_from_slice(rest),
        1 => call(NFS, u32::from(*procedure) % 24, rest),
        3 => call(LOCKS, u32::from(*procedure) % 25, rest),
        // Who locks what of a file that is there, with the rest before and behind it.
        4 => {
            let (before, behind) = rest.split_at(rest.len().min(16));
            let what = [&before[..], &opaque(b"client"), &opaque(&world.file), behind].concat();
            call(LOCKS, u32::from(*procedure) % 25, &what)
        }
        5 => call([STATUS, PORTS][usize::from(procedure / 8 % 2)], u32::from(procedure % 8), rest),
        _ => call(NFS, u32::from(*procedure) % 24, &[&opaque(&world.root)[..], rest].concat()),
    };
    world.runtime.block_on(async {
        let reply = world.door.answer(peer(), record).await;
        assert!(reply.is_none_or(|reply| reply.len() % 4 == 0 && reply.len() < (2 << 20)));
        let reply = world.door.answer(peer(), call(NFS, 1, &opaque(&world.root))).await.unwrap();
        assert_eq!(reply[24..28], [0; 4], "the root is there");
    });
});
