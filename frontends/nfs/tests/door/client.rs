//! A connection to the door that calls as it is told.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const NFS: u32 = 100_003;
pub const MOUNT: u32 = 100_005;
pub const NLM: u32 = 100_021;
pub const NSM: u32 = 100_024;
pub const MAPPER: u32 = 100_000;
pub const OK: u32 = 0;

/// The version of a program that is called.
pub fn version(program: u32) -> u32 {
    match program {
        NLM => 4,
        NSM => 1,
        MAPPER => 2,
        _ => 3,
    }
}

/// Far beyond what anything takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for `what`, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting after {DEADLINE:?}: {what}"),
    }
}

/// Arguments under construction.
#[derive(Debug, Clone, Default)]
pub struct Args(pub Vec<u8>);

impl Args {
    pub fn new() -> Args {
        Args::default()
    }

    pub fn u32(mut self, word: u32) -> Args {
        self.0.extend(word.to_be_bytes());
        self
    }

    pub fn u64(mut self, word: u64) -> Args {
        self.0.extend(word.to_be_bytes());
        self
    }

    pub fn opaque(mut self, data: &[u8]) -> Args {
        self = self.u32(data.len() as u32);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// `sattr3` with a size, if given.
    pub fn set(self, size: Option<u64>) -> Args {
        let args = self.u32(0).u32(0).u32(0);
        let args = match size {
            Some(size) => args.u32(1).u64(size),
            None => args.u32(0),
        };
        args.u32(0).u32(0)
    }
}

/// A place in a directory.
pub fn named(directory: &[u8], name: &str) -> Args {
    Args::new().opaque(directory).opaque(name.as_bytes())
}

/// Results being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results(pub Vec<u8>);

impl Results {
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.0.split_off(length);
        std::mem::replace(&mut self.0, rest)
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().unwrap())
    }

    pub fn opaque(&mut self) -> Vec<u8> {
        let length = self.u32() as usize;
        let mut data = self.take(length.next_multiple_of(4));
        data.truncate(length);
        data
    }

    /// `post_op_attr`.
    pub fn post(&mut self) {
        if self.u32() == 1 {
            self.take(84);
        }
    }

    /// `wcc_data`.
    pub fn wcc(&mut self) {
        if self.u32() == 1 {
            self.take(24);
        }
        self.post();
    }
}

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: String,
    pub cookie: u64,
    pub handle: Option<Vec<u8>>,
}

/// A page of a listing.
#[derive(Debug, Clone)]
pub struct Listing {
    pub bytes: usize,
    pub entries: Vec<Listed>,
    pub is_end: bool,
}

pub struct Client {
    pub stream: TcpStream,
    xid: u32,
    /// Who calls: user and group.
    pub caller: (u32, u32),
}

impl Client {
    /// Connects; calls are root's.
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, xid: 0, caller: (0, 0) }
    }

    /// A call as it goes over the wire.
    pub fn message(&self, xid: u32, program: u32, procedure: u32, args: &Args) -> Vec<u8> {
        let (uid, gid) = self.caller;
        let body = Args::new().u32(0).opaque(b"tester").u32(uid).u32(gid).u32(0);
        let head = Args::new().u32(xid).u32(0).u32(2).u32(program).u32(version(program)).u32(procedure);
        let mut call = head.u32(1).opaque(&body.0).u32(0).u32(0).0;
        call.extend(&args.0);
        [&(0x8000_0000 | call.len() as u32).to_be_bytes()[..], &call].concat()
    }

    /// Sends a call and does not wait for its reply.
    pub async fn send(&mut self, program: u32, procedure: u32, args: &Args) {
        self.xid += 1;
        let message = self.message(self.xid, program, procedure, args);
        within("a call is taken", self.stream.write_all(&message)).await.unwrap();
    }

    /// The next reply, from its number on; `None` when the server has closed the connection.
    pub async fn receive(&mut self) -> Option<Results> {
        within("a reply", async {
            let marker = self.stream.read_u32().await.ok()?;
            let mut record = vec![0; (marker & 0x7fff_ffff) as usize];
            self.stream.read_exact(&mut record).await.ok()?;
            Some(Results(record))
        })
        .await
    }

    /// A call under a number of one's own; its results behind the header.
    pub async fn call_as(&mut self, xid: u32, program: u32, procedure: u32, args: &Args) -> Results {
        let message = self.message(xid, program, procedure, args);
        within("a call is taken", self.stream.write_all(&message)).await.unwrap();
        let mut reply = self.receive().await.unwrap();
        assert_eq!(reply.u32(), xid);
        for word in [1, 0, 0, 0, 0] {
            assert_eq!(reply.u32(), word, "it is accepted and done");
        }
        reply
    }

    /// A call of any program; its results.
    pub async fn ask(&mut self, program: u32, procedure: u32, args: &Args) -> Results {
        self.xid += 1;
        self.call_as(self.xid, program, procedure, args).await
    }

    /// A call of NFS: status and the rest.
    pub async fn call(&mut self, procedure: u32, args: &Args) -> (u32, Results) {
        let mut results = self.ask(NFS, procedure, args).await;
        (results.u32(), results)
    }

    /// The same without the rest.
    pub async fn status(&mut self, procedure: u32, args: &Args) -> u32 {
        self.call(procedure, args).await.0
    }

    /// Whether the server answers here.
    pub async fn null(&mut self) {
        self.ask(NFS, 0, &Args::new()).await;
    }

    pub async fn mount(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let mut results = self.ask(MOUNT, 1, &Args::new().opaque(path.as_bytes())).await;
        match results.u32() {
            OK => Ok(results.opaque()),
            status => Err(status),
        }
    }

    pub async fn lookup(&mut self, directory: &[u8], name: &str) -> Result<Vec<u8>, u32> {
        match self.call(3, &named(directory, name)).await {
            (OK, mut results) => Ok(results.opaque()),
            (status, _) => Err(status),
        }
    }

    /// CREATE, guarded.
    pub async fn create(&mut self, directory: &[u8], name: &str) -> Result<Vec<u8>, u32> {
        match self.call(8, &named(directory, name).u32(1).set(None)).await {
            (OK, mut results) => {
                assert_eq!(results.u32(), 1, "a handle follows");
                Ok(results.opaque())
            }
            (status, _) => Err(status),
        }
    }

    /// READ: how many bytes there were.
    pub async fn read(&mut self, file: &[u8], offset: u64, count: u32) -> Result<usize, u32> {
        match self.call(6, &Args::new().opaque(file).u64(offset).u32(count)).await {
            (OK, mut results) => {
                results.post();
                Ok(results.u32() as usize)
            }
            (status, _) => Err(status),
        }
    }

    /// WRITE, unstable; gives the verifier.
    pub async fn write(&mut self, file: &[u8], offset: u64, data: &[u8]) -> Result<Vec<u8>, u32> {
        let args = Args::new().opaque(file).u64(offset).u32(data.len() as u32).u32(0).opaque(data);
        match self.call(7, &args).await {
            (OK, mut results) => {
                results.wcc();
                results.u64();
                Ok(results.take(8))
            }
            (status, _) => Err(status),
        }
    }

    /// COMMIT; gives the verifier.
    pub async fn commit(&mut self, file: &[u8]) -> Result<Vec<u8>, u32> {
        match self.call(21, &Args::new().opaque(file).u64(0).u32(0)).await {
            (OK, mut results) => {
                results.wcc();
                Ok(results.take(8))
            }
            (status, _) => Err(status),
        }
    }

    /// READDIRPLUS.
    pub async fn list(
        &mut self,
        directory: &[u8],
        (cookie, verifier): (u64, u64),
        (names_max, bytes_max): (u32, u32),
    ) -> Result<Listing, u32> {
        let args = Args::new().opaque(directory).u64(cookie).u64(verifier).u32(names_max).u32(bytes_max);
        let (status, mut results) = self.call(17, &args).await;
        if status != OK {
            return Err(status);
        }
        let bytes = results.0.len();
        results.post();
        results.u64();
        let mut entries = Vec::new();
        while results.u32() == 1 {
            results.u64();
            let name = String::from_utf8(results.opaque()).unwrap();
            let cookie = results.u64();
            results.post();
            let handle = (results.u32() == 1).then(|| results.opaque());
            entries.push(Listed { name, cookie, handle });
        }
        let is_end = results.u32() == 1;
        Ok(Listing { bytes, entries, is_end })
    }

    /// Waits until the server has closed the connection, taking nothing that came before.
    pub async fn closed(&mut self) {
        let mut byte = [0];
        let read = within("the server closes the connection", self.stream.read(&mut byte)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "there was a reply");
    }
}
