//! The lock manager: who locks what, who waits, and who has started anew.

use crate::client::{Args, Client, MAPPER, NLM, NSM, Results, version, within};
use crate::served::{BUCKET, NEVER, Served, patient};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tombolo_core::NodeId;
use tombolo_core::engine::fs::{Caller, HeldLock, LockMode, SetAttributes};
use tombolo_nfs::NfsLimits;

const TEST: u32 = 1;
const LOCK: u32 = 2;
const CANCEL: u32 = 3;
const UNLOCK: u32 = 4;
const GRANTED: u32 = 5;
const NOTIFY: u32 = 6;

/// How a request comes out.
const YES: u32 = 0;
const DENIED: u32 = 1;
const NO_LOCKS: u32 = 2;
const BLOCKED: u32 = 3;
const GRACE: u32 = 4;
const DEADLOCK: u32 = 5;

/// A client's host, where its port mapper, lock manager and status monitor are called.
struct Host {
    port: u16,
    calls: mpsc::UnboundedReceiver<(u32, u32, Results)>,
}

impl Host {
    /// Says `status` to each GRANTED.
    async fn new(status: u32) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, port, status, sender.clone()));
            }
        });
        Host { port, calls }
    }

    fn limits(&self) -> NfsLimits {
        NfsLimits { client_port_mapper: self.port, grace_period: NEVER, ..patient() }
    }

    /// The next call: program, procedure, arguments.
    async fn called(&mut self) -> (u32, u32, Results) {
        within("the server calls", self.calls.recv()).await.unwrap()
    }
}

async fn answer(mut stream: TcpStream, port: u16, status: u32, calls: mpsc::UnboundedSender<(u32, u32, Results)>) {
    while let Ok(marker) = stream.read_u32().await {
        let mut record = vec![0; (marker & 0x7fff_ffff) as usize];
        stream.read_exact(&mut record).await.unwrap();
        let mut call = Results(record);
        let (xid, kind, rpc) = (call.u32(), call.u32(), call.u32());
        let (program, of, procedure) = (call.u32(), call.u32(), call.u32());
        assert_eq!((kind, rpc, of), (0, 2, version(program)));
        call.take(16);
        let reply = Args::new().u32(xid).u32(1).u32(0).u32(0).u32(0).u32(0);
        let reply = match (program, procedure) {
            (MAPPER, 3) => reply.u32(port.into()),
            (NLM, GRANTED) => reply.opaque(&[]).u32(status),
            _ => reply,
        };
        if program != MAPPER {
            calls.send((program, procedure, call)).unwrap();
        }
        stream.write_u32(0x8000_0000 | reply.0.len() as u32).await.unwrap();
        stream.write_all(&reply.0).await.unwrap();
    }
}

/// A lock of `length` bytes, 0: to the end, by the process `process` of a client.
fn described(name: &str, file: &[u8], process: u32, offset: u64, length: u64) -> Args {
    let owner = format!("{process}@{name}");
    Args::new().opaque(name.as_bytes()).opaque(file).opaque(owner.as_bytes()).u32(process).u64(offset).u64(length)
}

/// A client of the lock manager.
struct Locker<'a> {
    client: Client,
    name: &'a str,
    file: Vec<u8>,
    /// How often it has started.
    state: u32,
}

impl<'a> Locker<'a> {
    async fn new(served: &Served, name: &'a str) -> Locker<'a> {
        let mut client = served.client().await;
        let root = client.mount(BUCKET).await.unwrap();
        let file = client.lookup(&root, "file").await.unwrap();
        Locker { client, name, file, state: 1 }
    }

    async fn ask(&mut self, procedure: u32, args: Args) -> (u32, Results) {
        let mut results = self.client.ask(NLM, procedure, &args).await;
        assert_eq!(results.opaque(), b"cookie");
        (results.u32(), results)
    }

    fn lock_args(&self, process: u32, (offset, length): (u64, u64), blocks: bool, reclaims: bool) -> Args {
        let mut args = Args::new().opaque(b"cookie").u32(blocks.into()).u32(1);
        args.0.extend(described(self.name, &self.file, process, offset, length).0);
        args.u32(reclaims.into()).u32(self.state)
    }

    /// An exclusive lock.
    async fn lock(&mut self, process: u32, range: (u64, u64)) -> u32 {
        self.ask(LOCK, self.lock_args(process, range, false, false)).await.0
    }

    async fn lock_or_wait(&mut self, process: u32, range: (u64, u64)) -> u32 {
        self.ask(LOCK, self.lock_args(process, range, true, false)).await.0
    }

    async fn reclaim(&mut self, process: u32, range: (u64, u64)) -> u32 {
        self.ask(LOCK, self.lock_args(process, range, false, true)).await.0
    }

    async fn cancel(&mut self, process: u32, (offset, length): (u64, u64)) -> u32 {
        let mut args = Args::new().opaque(b"cookie").u32(1).u32(1);
        args.0.extend(described(self.name, &self.file, process, offset, length).0);
        self.ask(CANCEL, args).await.0
    }

    async fn unlock(&mut self, process: u32, (offset, length): (u64, u64)) -> u32 {
        let mut args = Args::new().opaque(b"cookie");
        args.0.extend(described(self.name, &self.file, process, offset, length).0);
        self.ask(UNLOCK, args).await.0
    }

    fn test_args(&self, process: u32, (offset, length): (u64, u64)) -> Args {
        let mut args = Args::new().opaque(b"cookie").u32(1);
        args.0.extend(described(self.name, &self.file, process, offset, length).0);
        args
    }

    /// Who is in the way of an exclusive lock: process, offset, length.
    async fn test(&mut self, process: u32, range: (u64, u64)) -> Option<(u32, u64, u64)> {
        let (status, mut results) = self.ask(TEST, self.test_args(process, range)).await;
        if status == YES {
            return None;
        }
        assert_eq!((status, results.u32()), (DENIED, 1), "the other's is exclusive");
        let process = results.u32();
        results.opaque();
        Some((process, results.u64(), results.u64()))
    }

    /// Waits until nobody is in the way.
    async fn until_free(&mut self, range: (u64, u64)) {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        while self.test(999, range).await.is_some() {
            interval.tick().await;
        }
    }
}

async fn with_file(limits: NfsLimits) -> (Served, NodeId) {
    let served = Served::new(&[], limits).await;
    let node = served.file(&NodeId::ROOT, "file").await;
    (served, node)
}

#[tokio::test]
async fn clients_and_other_doors_see_each_others_locks() {
    let (served, node) = with_file(patient()).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!(one.lock(7, (0, 10)).await, YES);
    assert_eq!((one.lock(7, (0, 10)).await, one.lock(8, (9, 1)).await), (YES, DENIED), "processes are told apart");
    assert_eq!(other.lock(7, (9, 0)).await, DENIED, "and hosts");
    assert_eq!(other.test(7, (5, 1)).await, Some((7, 0, 10)));
    let locks = served.files.locks();
    let mut local = HeldLock { owner: 1, process: 55, mode: LockMode::Shared, range: 9..u64::MAX };
    assert_eq!(locks.test(&node, &local).map(|held| (held.process, held.range)), Some((7, 0..10)));
    assert_eq!(one.unlock(7, (5, 5)).await, YES);
    locks.lock(&node, local.clone(), false).await.unwrap();
    assert_eq!((other.lock(7, (5, 4)).await, other.lock(7, (100, 1)).await), (YES, DENIED));
    local.mode = LockMode::Exclusive;
    locks.lock(&node, local.clone(), false).await.unwrap();
    assert_eq!(other.test(7, (100, 1)).await, Some((55, 9, 0)), "to the end");
    // What it lets go of where it has nothing is nobody else's.
    assert_eq!(other.unlock(8, (0, 0)).await, YES);
    assert_eq!(locks.held(&node).len(), 3);
}

#[tokio::test]
async fn who_may_not_open_a_file_does_not_lock_it() {
    let exports = ["/C/t/b:ro,insecure,client=127.0.0.1"];
    let served = Served::new(&exports, patient()).await;
    served.file(&NodeId::ROOT, "file").await;
    let mut locker = Locker::new(&served, "one").await;
    let [failed, read_only, stale, too_big] = [9, 6, 7, 8];
    assert_eq!(locker.lock(7, (0, 1)).await, read_only);
    assert_eq!((locker.lock(7, (5, u64::MAX)).await, locker.lock(7, (u64::MAX, 0)).await), (too_big, too_big));
    let (writable, node) = with_file(patient()).await;
    let private = SetAttributes { mode: Some(0o600), ..SetAttributes::default() };
    writable.files.set_attributes(&Caller::root(), &node, private, None).await.unwrap();
    let mut locker = Locker::new(&writable, "one").await;
    locker.client.caller = (1000, 1000);
    assert_eq!(locker.lock(7, (0, 1)).await, failed);
    locker.client.caller = (0, 0);
    locker.file[40] ^= 1;
    assert_eq!((locker.lock(7, (0, 1)).await, locker.unlock(7, (0, 1)).await), (stale, stale));
}

#[tokio::test]
async fn a_client_that_waits_is_told_when_it_has_the_lock() {
    let mut host = Host::new(YES).await;
    let (served, _) = with_file(host.limits()).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!(one.lock(7, (0, 10)).await, YES);
    assert_eq!(other.lock_or_wait(8, (5, 10)).await, BLOCKED);
    assert_eq!(other.lock_or_wait(8, (5, 10)).await, BLOCKED, "it asks again");
    assert_eq!(other.lock_or_wait(9, (5, 5)).await, BLOCKED);
    assert_eq!((other.cancel(9, (5, 5)).await, other.cancel(9, (5, 5)).await), (YES, DENIED));
    // One waits for the other already.
    assert_eq!(other.lock(8, (20, 1)).await, YES);
    assert_eq!(one.lock_or_wait(7, (20, 1)).await, DEADLOCK);
    assert_eq!(one.unlock(7, (0, 0)).await, YES);
    let (program, procedure, mut args) = host.called().await;
    assert_eq!((program, procedure), (NLM, GRANTED));
    args.opaque();
    assert_eq!(args.u32(), 1, "exclusive");
    assert_eq!(args.0, described("other", &other.file, 8, 5, 10).0);
    assert_eq!(one.test(7, (5, 1)).await, Some((8, 5, 10)));
    assert_eq!(other.unlock(8, (0, 0)).await, YES);
    assert_eq!(one.lock(7, (0, 0)).await, YES, "what was cancelled is not waited for");
    assert!(host.calls.try_recv().is_err(), "nobody is told twice");
}

#[tokio::test]
async fn a_lock_that_nobody_wants_any_more_is_given_back() {
    let mut host = Host::new(DENIED).await;
    let (served, _) = with_file(host.limits()).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!((one.lock(7, (0, 10)).await, other.lock_or_wait(8, (0, 10)).await), (YES, BLOCKED));
    assert_eq!(one.unlock(7, (0, 10)).await, YES);
    host.called().await;
    within("it is given back", one.until_free((0, 10))).await;
}

/// Behind a wall that lets no call through to it.
#[tokio::test]
async fn a_client_that_cannot_be_called_finds_its_lock_when_it_asks_again() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = NfsLimits { client_port_mapper: silent.local_addr().unwrap().port(), ..patient() };
    let (served, node) = with_file(limits).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!((one.lock(7, (0, 10)).await, other.lock_or_wait(8, (0, 10)).await), (YES, BLOCKED));
    assert_eq!(one.unlock(7, (0, 10)).await, YES);
    let (stream, _) = within("the server tries", silent.accept()).await.unwrap();
    drop((stream, silent));
    assert_eq!(other.lock_or_wait(8, (0, 10)).await, YES);
    assert_eq!(served.files.locks().held(&node).len(), 1);
}

#[tokio::test]
async fn a_client_that_starts_anew_has_lost_its_locks() {
    let (served, node) = with_file(patient()).await;
    let (mut one, mut other) = (Locker::new(&served, "one.example").await, Locker::new(&served, "other").await);
    assert_eq!((one.lock(7, (0, 10)).await, other.lock(8, (10, 10)).await), (YES, YES));
    assert_eq!(one.lock_or_wait(7, (10, 1)).await, BLOCKED);
    // Its notice comes as sm-notify sends it: where the port mapper says, over UDP.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let datagram = async |program: u32, procedure: u32, args: &Args| {
        let call = one.client.message(9, program, procedure, args).split_off(4);
        socket.send_to(&call, served.port_mapper).await.unwrap();
        let mut reply = vec![0; 256];
        let length = within("an answer", socket.recv(&mut reply)).await.unwrap();
        reply.truncate(length);
        Results(reply.split_off(24))
    };
    let port = datagram(MAPPER, 3, &Args::new().u32(NSM).u32(1).u32(17).u32(0)).await.u32();
    assert_eq!(port, u32::from(served.port_mapper.port()));
    let notice = Args::new().opaque(b"one").u32(3);
    datagram(NSM, NOTIFY, &notice).await;
    let held = |locks: Vec<HeldLock>| locks.into_iter().map(|lock| (lock.process, lock.range)).collect::<Vec<_>>();
    assert_eq!(held(served.files.locks().held(&node)), [(8, 10..20)], "the other's is still there");
    assert_eq!(other.unlock(8, (0, 0)).await, YES);
    assert_eq!(held(served.files.locks().held(&node)), [], "it waits for nothing either");
    // What it has locked since is not lost when the notice comes again.
    let mut again = Locker { client: served.client().await, name: "one.example", file: other.file.clone(), state: 3 };
    assert_eq!(again.lock(7, (0, 10)).await, YES);
    datagram(NSM, NOTIFY, &notice).await;
    assert_eq!(served.files.locks().held(&node).len(), 1);
    // A notice that never came.
    again.state = 5;
    assert_eq!(again.lock(9, (5, 1)).await, YES);
    assert_eq!(held(served.files.locks().held(&node)), [(9, 5..6)]);
    let free_all = Args::new().opaque(b"one.example").u32(0);
    assert_eq!(again.client.ask(NLM, 23, &free_all).await.0, b"");
    assert_eq!(held(served.files.locks().held(&node)), []);
}

#[tokio::test]
async fn locks_are_reclaimed_after_a_restart_before_others_get_any() {
    let mut host = Host::new(YES).await;
    let (mut served, node) = with_file(host.limits()).await;
    let mut one = Locker::new(&served, "one").await;
    assert_eq!((one.reclaim(7, (0, 10)).await, one.lock(7, (0, 10)).await), (GRACE, YES));
    served.restart(host.limits()).await;
    let (program, procedure, mut args) = host.called().await;
    assert_eq!((program, procedure), (NSM, NOTIFY));
    assert_eq!((args.opaque(), args.u32()), (b"127.0.0.1".to_vec(), 3));
    assert!(served.files.locks().held(&node).is_empty());
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!((other.lock(8, (0, 10)).await, one.reclaim(7, (0, 10)).await), (GRACE, YES));
    let test = other.test_args(8, (0, 10));
    assert_eq!(other.ask(TEST, test).await.0, GRACE);
    // The time is over.
    served.restart(NfsLimits { grace_period: Duration::ZERO, ..host.limits() }).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    assert_eq!((one.reclaim(7, (0, 10)).await, other.lock(8, (0, 10)).await), (GRACE, YES));
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_locks() {
    let (served, node) = with_file(NfsLimits { locks_per_client: 3, ..patient() }).await;
    let (mut one, mut other) = (Locker::new(&served, "one").await, Locker::new(&served, "other").await);
    for number in 0..3 {
        assert_eq!(one.lock(7, (number * 10, 3)).await, YES);
    }
    assert_eq!((one.lock(8, (100, 1)).await, other.lock(7, (100, 1)).await), (NO_LOCKS, YES));
    assert_eq!((one.unlock(7, (1, 1)).await, one.unlock(7, (0, 2)).await), (NO_LOCKS, YES), "one would become two");
    assert_eq!((one.unlock(7, (0, 20)).await, one.lock(8, (200, 1)).await), (YES, YES));
    assert_eq!(served.files.locks().held(&node).len(), 3);
}

#[tokio::test]
async fn answers_come_in_calls_to_clients_that_want_that_and_files_are_shared() {
    let mut host = Host::new(YES).await;
    let (served, _) = with_file(host.limits()).await;
    let mut one = Locker::new(&served, "one").await;
    assert_eq!(one.lock(7, (0, 10)).await, YES);
    let test = one.test_args(8, (0, 1));
    assert_eq!(one.client.ask(NLM, TEST + 5, &test).await.0, b"");
    let (program, procedure, mut args) = host.called().await;
    assert_eq!((program, procedure, args.opaque(), args.u32()), (NLM, TEST + 10, b"cookie".to_vec(), DENIED));
    let file = one.file.clone();
    let share = |owner: &[u8], denies: u32, does: u32| {
        Args::new().opaque(b"cookie").opaque(b"one").opaque(&file).opaque(owner).u32(denies).u32(does).u32(0)
    };
    assert_eq!(one.ask(20, share(b"a", 2, 1)).await.0, YES);
    assert_eq!((one.ask(20, share(b"b", 0, 2)).await.0, one.ask(20, share(b"b", 0, 1)).await.0), (DENIED, YES));
    assert_eq!((one.ask(21, share(b"a", 0, 0)).await.0, one.ask(20, share(b"b", 0, 2)).await.0), (YES, YES));
}

#[tokio::test]
async fn the_port_mapper_knows_where_everything_is() {
    let served = Served::new(&[], patient()).await;
    let mut client = Client::connect(served.port_mapper).await;
    let port = |address: SocketAddr| u32::from(address.port());
    for program in [100_003, 100_005, NLM, NSM] {
        let asked = Args::new().u32(program).u32(version(program)).u32(6).u32(0);
        assert_eq!(client.ask(MAPPER, 3, &asked).await.u32(), port(served.address), "{program}");
    }
    for (program, of, protocol) in [(NLM, 4, 17), (NLM, 3, 6), (100_227, 3, 6)] {
        let asked = Args::new().u32(program).u32(of).u32(protocol).u32(0);
        assert_eq!(client.ask(MAPPER, 3, &asked).await.u32(), 0, "it is not here");
    }
    // Nothing else is answered over UDP, and nothing long.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (program, procedure) in [(MAPPER, 4), (100_003, 0)] {
        let call = client.message(9, program, procedure, &Args::new()).split_off(4);
        socket.send_to(&call, served.port_mapper).await.unwrap();
    }
    let mut reply = vec![0; 4096];
    let length = within("an answer", socket.recv(&mut reply)).await.unwrap();
    assert_eq!(reply[..length], Args::new().u32(9).u32(1).u32(0).u32(0).u32(0).u32(1).0, "no such program");
}
