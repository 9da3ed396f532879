//! What the clients of the lock manager hold and wait for, so that it can be given back when one of them has started anew.
//!
//! The locks themselves are in the engine. Here is, for each client that has any, where they are and how many: a bounded number. What a client waits for is a
//! task each, ended when the client cancels it, starts anew, or the server stops. Whatever holds or changes the engine's locks for a client does so under
//! this table's guard, and the engine's is taken inside it, never the other way.

use crate::callback::{self, Ends};
use crate::connection::begin;
use crate::door::Shared;
use crate::handle::{Handle, Signer};
use crate::monitor::Monitor;
use crate::nlm::{self, Status};
use crate::registry::Opened;
use crate::wire::Decoder;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tombolo_core::engine::fs::{HeldLock, LockMode, LockOwner};
use tombolo_core::{BucketId, ErrorKind, NodeId};

/// The most clients that hold or wait for anything.
const CLIENTS_MAX: usize = 1024;
/// The most locks of all clients.
const LOCKS_MAX: usize = 128 << 10;
/// The most locks that clients wait for, all of them together.
const WAITING_MAX: usize = 4096;
/// The most files that are shared.
const SHARES_MAX: usize = 16 << 10;
/// The most calls to clients at a time.
const CALLBACKS_MAX: usize = 64;

/// A client: a host and the name it gives itself. Behind one address there may be several.
type ClientKey = (IpAddr, Bytes);
/// A file.
type File = (BucketId, NodeId);

/// A file, opened.
pub(crate) struct At {
    pub(crate) opened: Arc<Opened>,
    pub(crate) node: NodeId,
}

/// Who wants which lock.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    client: ClientKey,
    pub(crate) lock: HeldLock,
}

/// What one who has a file open does with it and denies others: 1 reading, 2 writing, 3 both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) does: u32,
    pub(crate) denies: u32,
}

/// Where a client holds locks, and how many.
struct Held {
    opened: Arc<Opened>,
    count: usize,
}

/// Kept until the client has answered that it has the lock, or asked again and heard so.
struct Waiting {
    file: File,
    lock: HeldLock,
    task: AbortHandle,
    /// It is there, and the client is being called.
    is_taken: bool,
    /// The client has it by another answer: what becomes of this wait takes nothing away.
    is_settled: Arc<AtomicBool>,
}

impl Waiting {
    fn is_of(&self, file: File, lock: &HeldLock) -> bool {
        self.file == file && self.lock == *lock
    }

    /// A lock that the client is called about, and that has to do with `range`.
    fn is_told(&self, file: File, owner: LockOwner, range: &Range<u64>) -> bool {
        let is_apart = self.lock.range.end <= range.start || range.end <= self.lock.range.start;
        self.is_taken && self.file == file && self.lock.owner == owner && !is_apart
    }
}

/// A wait: whose, for what, and its number.
struct Place {
    key: ClientKey,
    at: At,
    lock: HeldLock,
    number: u64,
}

#[derive(Default)]
struct Client {
    /// How often it has started, as it says; 0: it does not.
    state: u32,
    held: HashMap<(File, LockOwner), Held>,
    waiting: HashMap<u64, Waiting>,
    shares: HashMap<(File, LockOwner), Share>,
}

impl Client {
    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty() && self.shares.is_empty()
    }

    fn locks(&self) -> usize {
        self.held.values().map(|held| held.count).sum()
    }

    /// Gives everything up.
    fn clear(self) {
        self.waiting.values().for_each(|waiting| waiting.task.abort());
        for (((_, node), owner), held) in &self.held {
            held.opened.files.locks().release(node, *owner);
        }
    }
}

#[derive(Default)]
struct State {
    clients: HashMap<ClientKey, Client>,
    locks: usize,
    last_waiting: u64,
    is_stopped: bool,
}

/// The locks of all clients.
pub(crate) struct LockTable {
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) callbacks: Arc<Semaphore>,
    signer: Signer,
    locks_per_client: usize,
    state: Mutex<State>,
}

impl State {
    /// The client, if there may be one more.
    fn client(&mut self, key: &ClientKey) -> Option<&mut Client> {
        if !self.clients.contains_key(key) && self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        Some(self.clients.entry(key.clone()).or_default())
    }

    /// Counts again what an owner holds of a file.
    fn count(&mut self, key: &ClientKey, at: &At, owner: LockOwner) {
        let locks = at.opened.files.locks().held(&at.node);
        let count = locks.iter().filter(|lock| lock.owner == owner).count();
        let Some(client) = self.clients.get_mut(key) else { return };
        let place = ((at.opened.id, at.node), owner);
        let before = match count {
            0 => client.held.remove(&place),
            _ => client.held.insert(place, Held { opened: at.opened.clone(), count }),
        };
        self.locks = (self.locks + count).saturating_sub(before.map_or(0, |before| before.count));
    }

    /// Ends the waits that the client needs no more, without taking anything away.
    fn settle(&mut self, key: &ClientKey, is_settled: impl Fn(&Waiting) -> bool) {
        let Some(client) = self.clients.get_mut(key) else { return };
        for (_, waiting) in client.waiting.extract_if(|_, waiting| is_settled(waiting)) {
            waiting.is_settled.store(true, Ordering::Relaxed);
            waiting.task.abort();
        }
    }

    fn forget(&mut self, key: &ClientKey) {
        if let Some(client) = self.clients.remove(key) {
            self.locks = self.locks.saturating_sub(client.locks());
            client.clear();
        }
    }

    fn forget_idle(&mut self, key: &ClientKey) {
        if self.clients.get(key).is_some_and(Client::is_idle) {
            self.clients.remove(key);
        }
    }

    /// Whether a client has as many locks as it may.
    fn is_full(&self, key: &ClientKey, locks_per_client: usize) -> bool {
        self.locks >= LOCKS_MAX || self.clients.get(key).is_some_and(|client| client.locks() >= locks_per_client)
    }
}

impl LockTable {
    pub(crate) fn new(monitor: Monitor, signer: Signer, locks_per_client: usize) -> LockTable {
        let callbacks = Arc::new(Semaphore::new(CALLBACKS_MAX));
        LockTable { monitor: Arc::new(monitor), callbacks, signer, locks_per_client, state: Mutex::default() }
    }

    /// What `owner`, a process of a client, asks for.
    pub(crate) fn request(
        &self,
        address: IpAddr,
        name: &Bytes,
        owner: &[u8],
        process: u32,
        mode: LockMode,
        range: Range<u64>,
    ) -> Request {
        // What has a length goes behind it: no two are the same in a row.
        let length = |text: &[u8]| text.len().to_be_bytes();
        let client = [address.to_string().as_bytes(), &[0], &length(name), name].concat();
        let owner = self.signer.lock_owner(&[&client[..], &length(owner), owner, &process.to_be_bytes()].concat());
        // A name must not keep the record that it came in.
        let client = (address, Bytes::copy_from_slice(name));
        Request { client, lock: HeldLock { owner, process, mode, range } }
    }

    /// Takes a lock. `granted`: it may wait, and this is how its client is told that it has it. `state`: how often the client has started.
    pub(crate) fn lock(
        &self,
        shared: &Arc<Shared>,
        at: At,
        request: Request,
        state: u32,
        granted: Option<(Ends, Vec<u8>)>,
    ) -> Status {
        let Request { client: key, lock } = request;
        let (locks, file) = (at.opened.files.locks(), (at.opened.id, at.node));
        let mut taking = Box::pin({
            let (locks, lock, waits) = (locks.clone(), lock.clone(), granted.is_some());
            async move { locks.lock(&at.node, lock, waits).await }
        });
        let mut table = self.state.lock();
        if table.is_stopped {
            return Status::Failed;
        }
        let known = table.clients.get(&key).map_or(0, |client| client.state);
        if known != 0 && state != 0 && known != state {
            // It has started anew, and nobody has said so.
            table.forget(&key);
        }
        if table.is_full(&key, self.locks_per_client) {
            return Status::NoLocks;
        }
        let waiting_max = table.clients.values().map(|client| client.waiting.len()).sum::<usize>() >= WAITING_MAX;
        let Some(client) = table.client(&key) else { return Status::NoLocks };
        client.state = if state == 0 { client.state } else { state };
        let waits = |waiting: &Waiting| waiting.is_of(file, &lock) && !waiting.is_taken;
        let status = match begin(taking.as_mut()) {
            Poll::Ready(Ok(())) => {
                // What the client says of an earlier call, that may be under way, is not about this answer.
                table.settle(&key, |waiting| waiting.is_of(file, &lock));
                table.count(&key, &at, lock.owner);
                Status::Granted
            }
            Poll::Ready(Err(error)) => match error.kind() {
                ErrorKind::Deadlock => Status::Deadlock,
                ErrorKind::Busy if locks.test(&at.node, &lock).is_some() => Status::Denied,
                ErrorKind::Busy => Status::NoLocks,
                _ => Status::Failed,
            },
            // The client asks again.
            Poll::Pending if client.waiting.values().any(waits) => Status::Blocked,
            Poll::Pending if waiting_max => Status::NoLocks,
            Poll::Pending => {
                table.last_waiting += 1;
                let number = table.last_waiting;
                let is_settled = Arc::new(AtomicBool::new(false));
                let waited = {
                    let (shared, key, lock, is_settled) =
                        (shared.clone(), key.clone(), lock.clone(), is_settled.clone());
                    async move {
                        let is_taken = taking.await.is_ok();
                        let place = Place { key, at, lock, number };
                        if let Some(granted) = granted
                            && shared.locks.waited(&place, is_taken, &is_settled)
                        {
                            shared.locks.tell(&shared, &place, granted).await;
                        }
                    }
                };
                let task = tokio::spawn(waited).abort_handle();
                if let Some(client) = table.clients.get_mut(&key) {
                    client.waiting.insert(number, Waiting { file, lock, task, is_taken: false, is_settled });
                }
                Status::Blocked
            }
        };
        table.forget_idle(&key);
        status
    }

    /// What was waited for is there, or can't be; whether the client has it now, and is to be told.
    fn waited(&self, place: &Place, is_taken: bool, is_settled: &AtomicBool) -> bool {
        let Place { key, at, lock, number } = place;
        let mut table = self.state.lock();
        let waits = table.clients.get_mut(key).map(|client| &mut client.waiting);
        let is_awaited = match waits {
            Some(waits) if !is_taken => waits.remove(number).is_some(),
            Some(waits) => waits.get_mut(number).map(|waiting| waiting.is_taken = true).is_some(),
            None => false,
        };
        if is_taken {
            if !is_awaited && !is_settled.load(Ordering::Relaxed) {
                // It was cancelled just now. Giving up what was taken whole splits nothing.
                let _ = at.opened.files.locks().unlock(&at.node, lock.owner, lock.range.clone());
            }
            table.count(key, at, lock.owner);
        }
        table.forget_idle(key);
        is_awaited && is_taken
    }

    /// Tells a client that it has what it waited for. If it does not want it any more it is given back, unless it has asked for it once more meanwhile.
    async fn tell(&self, shared: &Shared, place: &Place, (ends, arguments): (Ends, Vec<u8>)) {
        let Place { key, at, lock, number } = place;
        let told = match self.callbacks.clone().acquire_owned().await {
            Ok(_permit) => {
                let procedure = (nlm::PROGRAM, nlm::VERSION, nlm::GRANTED);
                callback::call(ends, shared.limits.client_port_mapper, procedure, &arguments).await
            }
            Err(closed) => Err(std::io::Error::other(closed)),
        };
        let answer = told.map(|results| {
            let mut results = Decoder::new(results);
            results.opaque(1024).and_then(|_| results.u32()).ok()
        });
        let mut table = self.state.lock();
        let waiting = table.clients.get_mut(key).and_then(|client| client.waiting.remove(number));
        match answer {
            Ok(Some(status)) if status == Status::Denied as u32 && waiting.is_some() => {
                if let Err(error) = at.opened.files.locks().unlock(&at.node, lock.owner, lock.range.clone()) {
                    tracing::warn!(client = %ends.client, %error, "a lock that nobody wants stays");
                }
                table.count(key, at, lock.owner);
            }
            Ok(_) => {}
            // It will ask again.
            Err(error) => tracing::debug!(client = %ends.client, %error, "a client can't be told that it has a lock"),
        }
        table.forget_idle(key);
    }

    /// Gives up waiting for a lock. `Denied`: nobody waits for it, or it is there already; then it is unlocked like any.
    pub(crate) fn cancel(&self, handle: &Handle, request: &Request) -> Status {
        let mut table = self.state.lock();
        let Some(client) = table.clients.get_mut(&request.client) else { return Status::Denied };
        let file = (handle.bucket, handle.node);
        let is_it = |waiting: &Waiting| waiting.is_of(file, &request.lock) && !waiting.is_taken;
        let number = client.waiting.iter().find(|(_, waiting)| is_it(waiting)).map(|(number, _)| *number);
        let Some(waiting) = number.and_then(|number| client.waiting.remove(&number)) else { return Status::Denied };
        waiting.task.abort();
        table.forget_idle(&request.client);
        Status::Granted
    }

    /// Unlocks a range.
    pub(crate) fn unlock(&self, handle: &Handle, request: &Request) -> Status {
        let mut table = self.state.lock();
        let place = ((handle.bucket, handle.node), request.lock.owner);
        let held = table.clients.get(&request.client).and_then(|client| client.held.get(&place));
        let Some(opened) = held.map(|held| held.opened.clone()) else { return Status::Granted };
        let (at, range) = (At { opened, node: handle.node }, &request.lock.range);
        let locks = at.opened.files.locks();
        // It leaves one more lock than there was.
        let is_split = |lock: &HeldLock| lock.range.start < range.start && range.end < lock.range.end;
        let held = locks.held(&at.node);
        if table.is_full(&request.client, self.locks_per_client)
            && held.iter().any(|l| l.owner == request.lock.owner && is_split(l))
        {
            return Status::NoLocks;
        }
        let unlocked = locks.unlock(&at.node, request.lock.owner, range.clone());
        // What is said of a call about it comes too late: by then the client may have locked it anew.
        table.settle(&request.client, |waiting| waiting.is_told(place.0, place.1, range));
        table.count(&request.client, &at, request.lock.owner);
        table.forget_idle(&request.client);
        if unlocked.is_ok() { Status::Granted } else { Status::NoLocks }
    }

    /// Shares a file; in place of what the same owner has said before.
    pub(crate) fn share(&self, at: &At, request: &Request, share: Share) -> Status {
        let mut table = self.state.lock();
        let (file, owner) = ((at.opened.id, at.node), request.lock.owner);
        let shares = || table.clients.values().flat_map(|client| client.shares.iter());
        if shares().count() >= SHARES_MAX {
            return Status::NoLocks;
        }
        let others = shares().filter(|((of, by), _)| *of == file && *by != owner);
        let is_rival = |(_, other): (_, &Share)| other.denies & share.does != 0 || other.does & share.denies != 0;
        if others.into_iter().any(is_rival) {
            return Status::Denied;
        }
        let Some(client) = table.client(&request.client) else { return Status::NoLocks };
        client.shares.insert((file, owner), share);
        Status::Granted
    }

    /// Shares it no more.
    pub(crate) fn unshare(&self, handle: &Handle, request: &Request) -> Status {
        let mut table = self.state.lock();
        if let Some(client) = table.clients.get_mut(&request.client) {
            client.shares.remove(&((handle.bucket, handle.node), request.lock.owner));
        }
        table.forget_idle(&request.client);
        Status::Granted
    }

    /// A client has lost what it had, or gives all of it up. `state`: how often it has started now; what it has taken since then is not lost. Hosts
    /// don't always call themselves the same: if none behind the address has that name, all of them are meant.
    pub(crate) fn forget(&self, address: IpAddr, name: &[u8], state: Option<u32>) {
        let host = |name: &[u8]| name.split(|byte| *byte == b'.').next().unwrap_or_default().to_ascii_lowercase();
        let mut table = self.state.lock();
        let there: Vec<ClientKey> = table.clients.keys().filter(|(of, _)| *of == address).cloned().collect();
        let is_named = there.iter().any(|(_, other)| host(other) == host(name));
        for key in there.iter().filter(|(_, other)| !is_named || host(other) == host(name)) {
            let known = table.clients.get(key).map_or(0, |client| client.state);
            if state.is_none_or(|state| known == 0 || known != state) {
                tracing::info!(client = %address, "a client's locks are given up");
                table.forget(key);
            }
        }
    }

    /// Whether somebody behind an address holds anything, or waits for it.
    pub(crate) fn holds(&self, address: &IpAddr) -> bool {
        self.state.lock().clients.keys().any(|(of, _)| of == address)
    }

    /// Gives everything up: the server ends.
    pub(crate) fn stop(&self) {
        let mut table = self.state.lock();
        table.is_stopped = true;
        for (_, client) in std::mem::take(&mut table.clients) {
            client.clear();
        }
        table.locks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::{Export, Exports};
    use crate::{NfsDoor, NfsLimits, NfsOptions};
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tombolo_core::engine::fs::{Caller, CreateMode, SetAttributes};
    use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, OpenOptions, Segment};

    /// Answers as a client's port mapper, for programs at `port`, and as its lock manager: it does not want the lock.
    async fn deny(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
        loop {
            let mut call = vec![0; (stream.read_u32().await? & 0x7fff_ffff) as usize];
            stream.read_exact(&mut call).await?;
            let said = match call[12..16] == nlm::PROGRAM.to_be_bytes() {
                true => vec![0, Status::Denied as u32],
                false => vec![port.into()],
            };
            let head = [u32::from_be_bytes(call[..4].try_into().unwrap()), 1, 0, 0, 0, 0];
            let reply: Vec<u8> = head.iter().chain(&said).flat_map(|word| word.to_be_bytes()).collect();
            stream.write_u32(0x8000_0000 | reply.len() as u32).await?;
            stream.write_all(&reply).await?;
        }
    }

    /// A client that waits for a lock was called, and asked again before it answered; what it had then been granted was taken away by its answer to the
    /// call, that it knew of no such wait.
    #[tokio::test]
    async fn a_late_answer_to_a_call_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: "s".into(), cluster: "C".into() };
        let segment = Segment::create(dir.path().join("segment"), create, OpenOptions::default()).await.unwrap();
        let path: BucketPath = "C/t/b".parse().unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        segment.catalog().create_bucket(&path, BucketPolicy::default()).await.unwrap();
        let host = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = host.local_addr().unwrap().port();
        let limits = NfsLimits { client_port_mapper: port, ..NfsLimits::default() };
        let options = NfsOptions { exports: Exports::List(Vec::new()), port_mapper: None, limits };
        let shared = NfsDoor::bind(segment, &[], options).await.unwrap().shared.clone();
        let opened = shared.registry.open(Export::to_loopback(path)).await.unwrap();
        let set = SetAttributes::default();
        let made =
            opened.files.create(&Caller::root(), &NodeId::ROOT, b"file", CreateMode::Guarded, set).await.unwrap();
        let node = made.attributes.node;

        let (client, table) = (IpAddr::from(Ipv4Addr::LOCALHOST), &shared.locks);
        let request =
            |owner: &str| table.request(client, &"client".into(), owner.as_bytes(), 1, LockMode::Exclusive, 0..10);
        let lock = |owner, granted| {
            let at = At { opened: opened.clone(), node };
            table.lock(&shared, at, request(owner), 0, granted)
        };
        let waits = || Some((Ends { client, server: Ipv4Addr::UNSPECIFIED.into() }, Vec::new()));
        assert_eq!(lock("one", None), Status::Granted);
        assert_eq!(lock("other", waits()), Status::Blocked);
        assert_eq!(table.unlock(&opened.handle(node), &request("one")), Status::Granted);
        let mut call = Some(host.accept().await.unwrap().0);
        assert_eq!(lock("other", waits()), Status::Granted, "it asks again");
        tokio::spawn(async move {
            loop {
                let stream = match call.take() {
                    Some(stream) => stream,
                    None => host.accept().await.unwrap().0,
                };
                // It ends when the server hangs up.
                let _ = deny(stream, port).await;
            }
        });
        let is_over = async {
            while table.callbacks.available_permits() < CALLBACKS_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), is_over).await.unwrap();
        assert_eq!(opened.files.locks().held(&node), [request("other").lock]);
        assert!(table.state.lock().clients.values().all(|client| client.waiting.is_empty()));
    }
}
