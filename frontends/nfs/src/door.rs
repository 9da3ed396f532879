//! Listening, connections and shutdown.

use crate::budget::Budget;
use crate::connection;
use crate::directory::Cookies;
use crate::exports::Exports;
use crate::lock_table::LockTable;
use crate::monitor::Monitor;
use crate::mount::Mounts;
use crate::open::OpenFiles;
use crate::presence::{Crowd, Presence};
use crate::registry::Registry;
use crate::replay::Replies;
use crate::{datagrams, program, rpc};
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tombolo_core::engine::fs::FileSystem;
use tombolo_core::{Error, Result, Segment};

/// How long accepting pauses when the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often quiet files are looked for.
const SWEEP: Duration = Duration::from_secs(1);

const NO_ADDRESS: &str = "the NFS door does not know its address";

fn cant_listen(address: &SocketAddr, error: std::io::Error) -> Error {
    Error::io(format!("the NFS door can't listen on {address}"), error)
}

/// How an NFS server behaves.
#[derive(Debug, Clone)]
pub struct NfsOptions {
    /// What is exported.
    pub exports: Exports,
    /// Answers here, too, and over UDP, as clients expect of a port mapper: port 111. Without it clients must be told the door's port, and can't find
    /// its lock manager.
    pub port_mapper: Option<SocketAddr>,
    /// What bounds it.
    pub limits: NfsLimits,
}

/// Bounds of an NFS server.
#[derive(Debug, Clone)]
pub struct NfsLimits {
    /// Connections at a time. One more takes the place of a connection without a call under way that was silent for a second, those that have never sent a
    /// call first, then the one that was silent longest (its client connects anew when it has something to say); it waits while there is none.
    pub connections_max: usize,
    /// Calls under way of one connection; more wait in its socket.
    pub calls_per_connection: usize,
    /// What calls and their replies under way hold, all connections together, in bytes; at least 4 MiB.
    pub memory_bytes: usize,
    /// How much of that one connection holds at most, in bytes; at least 2 MiB. A client that takes no replies holds that much, until
    /// `transfer_timeout` ends its connection.
    pub memory_per_connection_bytes: usize,
    /// How long a new connection may take to send its first call.
    pub greeting_timeout: Duration,
    /// How long the rest of a record may take once it has begun, and how long the client may take to accept a piece of a reply (at most about 1 MiB).
    pub transfer_timeout: Duration,
    /// How long a connection without a call under way may be silent. Clients connect anew when they need to.
    pub idle_timeout: Duration,
    /// How long connections have to end when the server stops.
    pub drain_timeout: Duration,
    /// Locks of one client of the lock manager.
    pub locks_per_client: usize,
    /// How long after a start clients may reclaim the locks that they had, and nobody gets others; only if somebody had any.
    pub grace_period: Duration,
    /// Where clients' port mappers are: 111.
    pub client_port_mapper: u16,
}

impl Default for NfsLimits {
    fn default() -> NfsLimits {
        NfsLimits {
            connections_max: 512,
            calls_per_connection: 128,
            memory_bytes: 128 << 20,
            memory_per_connection_bytes: 16 << 20,
            greeting_timeout: Duration::from_secs(20),
            transfer_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            locks_per_client: 16 << 10,
            grace_period: Duration::from_secs(45),
            client_port_mapper: 111,
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) mounts: Mounts,
    pub(crate) open: OpenFiles,
    pub(crate) replies: Replies,
    pub(crate) cookies: Cookies,
    pub(crate) locks: LockTable,
    /// Where the port mapper answers.
    pub(crate) port_mapper: Option<SocketAddr>,
    /// The port that it names.
    pub(crate) port: u16,
    pub(crate) limits: NfsLimits,
    pub(crate) memory: Budget,
    pub(crate) crowd: Crowd,
    /// Turns true when the server shall end.
    pub(crate) stop: watch::Receiver<bool>,
    /// Another one whenever the server starts.
    boot: u64,
}

impl Shared {
    /// Changes when what was written and not committed before may be gone: the server has started anew, or a file could not be saved.
    pub(crate) fn write_verifier(&self, files: &FileSystem) -> [u8; 8] {
        self.boot.wrapping_add(files.losses()).to_be_bytes()
    }
}

/// An NFS server over one segment: bound, not yet serving.
pub struct NfsDoor {
    listeners: Vec<TcpListener>,
    datagrams: Option<UdpSocket>,
    pub(crate) shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

impl NfsDoor {
    /// Listens on `addresses` (port 0: any free one), and as a port mapper.
    ///
    /// # Errors
    /// `Invalid`: an address is open to other hosts and an export does not say to which. `Failed` or `Denied`, naming the address.
    pub async fn bind(segment: Segment, addresses: &[SocketAddr], options: NfsOptions) -> Result<NfsDoor> {
        let mut listeners = Vec::with_capacity(addresses.len() + 1);
        for address in addresses.iter().chain(&options.port_mapper) {
            options.exports.check(address)?;
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|e| cant_listen(address, e))?);
        }
        let port_of = |listener: Option<&TcpListener>| {
            listener.map(|listener| listener.local_addr()).transpose().map_err(|e| Error::io(NO_ADDRESS, e))
        };
        let port = port_of(listeners.first())?.map_or(0, |address| address.port());
        let port_mapper = port_of(options.port_mapper.and(listeners.last()))?;
        let datagrams = match &port_mapper {
            Some(address) => Some(UdpSocket::bind(address).await.map_err(|e| cant_listen(address, e))?),
            None => None,
        };
        let (stop, stopped) = watch::channel(false);
        let monitor = Monitor::open(segment.dir(), options.limits.grace_period)?;
        let registry = Registry::new(segment, options.exports)?;
        let shared = Shared {
            stop: stopped,
            locks: LockTable::new(monitor, registry.signer.clone(), options.limits.locks_per_client),
            registry,
            port_mapper,
            port,
            mounts: Mounts::default(),
            open: OpenFiles::default(),
            replies: Replies::default(),
            cookies: Cookies::default(),
            memory: Budget::new(options.limits.memory_bytes, options.limits.memory_per_connection_bytes),
            crowd: Crowd::new(&options.limits),
            limits: options.limits,
            boot: rand::random(),
        };
        Ok(NfsDoor { listeners, datagrams, shared: Arc::new(shared), stop })
    }

    /// Where it listens, in the order of the addresses it was bound to; as a port mapper, last.
    ///
    /// # Errors
    /// `Failed` when the system does not say.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let address = |l: &TcpListener| l.local_addr().map_err(|e| Error::io(NO_ADDRESS, e));
        self.listeners.iter().map(address).collect()
    }

    /// Answers one call that came in another way than over this door's sockets, as if from `peer`; a record without its marker, both ways. `None`: it
    /// is no call.
    pub async fn answer(&self, peer: SocketAddr, record: Bytes) -> Option<Bytes> {
        let reply = match rpc::read(record) {
            Ok(call) => {
                let local = SocketAddr::from(([0; 4], 0));
                program::answer(self.shared.clone(), peer, local, call).await
            }
            Err(refusal) => refusal?,
        };
        let mut whole = reply.head.to_vec();
        reply.data.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.resize(whole.len().next_multiple_of(4), 0);
        Some(whole.into())
    }

    /// Answers until `shutdown` is done, then ends: calls under way get [`NfsLimits::drain_timeout`], clients are cut off (they carry on with the
    /// next server, of which they reclaim their locks), and what was written to open files becomes a version.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, self.shared.clone()));
        }
        if let Some(socket) = self.datagrams {
            accepting.spawn(datagrams::serve(socket, self.shared.clone()));
        }
        let mut telling = JoinSet::new();
        telling.spawn(self.shared.locks.monitor.clone().tell(self.shared.limits.client_port_mapper));
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.shared.open.sweep();
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = sweeping => {}
        }
        self.stop.send_replace(true);
        telling.shutdown().await;
        let ended = async { while accepting.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.limits.drain_timeout, ended).await.is_err() {
            tracing::warn!("some NFS calls have not ended in time and are cut off");
        }
        self.shared.locks.stop();
        self.shared.open.clear();
    }
}

/// Accepts and serves until the server shall end and its connections have.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut stop = shared.stop.clone();
    loop {
        while connections.try_join_next().is_some() {}
        let accepting = async {
            let accepted = listener.accept().await?;
            Ok((shared.crowd.admit().await?, accepted))
        };
        let accepted: std::io::Result<(Arc<Presence>, (TcpStream, SocketAddr))> = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accepting => accepted,
        };
        let (presence, (stream, peer)) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = shared.clone();
        connections.spawn(async move {
            if let Err(error) = connection::serve(shared, stream, peer, presence).await {
                tracing::debug!(%peer, %error, "a connection ended");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
