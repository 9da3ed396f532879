//! The NFS door: any record, and any arguments of every procedure, with handles that are good and others. A reply, or none, but no harm; and
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

struct World {
    runtime: Runtime,
    door: NfsDoor,
    root: Vec<u8>,
    _dir: tempfile::TempDir,
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 700))
}

/// A call with credentials of root.
fn call(program: u32, procedure: u32, arguments: &[u8]) -> Bytes {
    let mut record = Vec::new();
    // No identification, no name, user and group 0, no further groups.
    for word in [7, 0, 2, program, 3, procedure, 1, 20, 0, 0, 0, 0, 0, 0, 0] {
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
    let (door, root) = runtime.block_on(async {
        let create = CreateOptions { name: "fuzz".into(), cluster: "C".into() };
        let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
        let path: BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let options = NfsOptions { exports: Exports::AllToLoopback, limits: NfsLimits::default() };
        let door = NfsDoor::bind(segment, &[], options).await.unwrap();
        let reply = door.answer(peer(), call(MOUNT, 1, &opaque(b"/C/t/b"))).await.unwrap();
        // Behind the reply's header and the status: length and bytes of the handle.
        (door, reply[32..32 + 57].to_vec())
    });
    Mutex::new(World { runtime, door, root, _dir: dir })
});

fuzz_target!(|data: &[u8]| {
    let [kind, procedure, rest @ ..] = data else { return };
    let world = WORLD.lock().unwrap();
    let record = match kind % 3 {
        0 => Bytes::copy_from_slice(rest),
        1 => call(NFS, u32::from(*procedure) % 24, rest),
        _ => call(NFS, u32::from(*procedure) % 24, &[&opaque(&world.root)[..], rest].concat()),
    };
    world.runtime.block_on(async {
        let reply = world.door.answer(peer(), record).await;
        assert!(reply.is_none_or(|reply| reply.len() % 4 == 0 && reply.len() < (2 << 20)));
        let reply = world.door.answer(peer(), call(NFS, 1, &opaque(&world.root))).await.unwrap();
        assert_eq!(reply[24..28], [0; 4], "the root is there");
    });
});
