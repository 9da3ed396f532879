//! A small NFS version 3 client that can also say the odd things that kernels don't.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Program numbers.
pub const NFS: u32 = 100_003;
/// See [`NFS`].
pub const MOUNT: u32 = 100_005;
/// See [`NFS`].
pub const PORTMAP: u32 = 100_000;

/// Status of a call that went well.
pub const OK: u32 = 0;
/// What stands for the status of a call that the server has hung up on.
pub const GONE: u32 = u32::MAX;

/// Arguments under construction.
#[derive(Debug, Clone, Default)]
pub struct Args(pub Vec<u8>);

impl Args {
    /// None.
    pub fn new() -> Args {
        Args::default()
    }

    /// A word.
    pub fn u32(mut self, word: u32) -> Args {
        self.0.extend(word.to_be_bytes());
        self
    }

    /// Two words.
    pub fn u64(mut self, word: u64) -> Args {
        self.0.extend(word.to_be_bytes());
        self
    }

    /// Opaque data of some length.
    pub fn opaque(mut self, data: &[u8]) -> Args {
        self = self.u32(data.len() as u32);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// `sattr3` with a mode and a size, if given.
    pub fn set(self, mode: Option<u32>, size: Option<u64>) -> Args {
        let args = match mode {
            Some(mode) => self.u32(1).u32(mode),
            None => self.u32(0),
        };
        let args = args.u32(0).u32(0);
        let args = match size {
            Some(size) => args.u32(1).u64(size),
            None => args.u32(0),
        };
        args.u32(0).u32(0)
    }
}

/// Results being read.
#[derive(Debug, Clone)]
pub struct Results(pub Vec<u8>);

impl Results {
    /// The next bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.0.split_off(length);
        std::mem::replace(&mut self.0, rest)
    }

    /// A word.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// Two words.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    /// Opaque data.
    pub fn opaque(&mut self) -> Vec<u8> {
        let length = self.u32() as usize;
        let mut data = self.take(length.next_multiple_of(4));
        data.truncate(length);
        data
    }

    /// `fattr3`.
    pub fn attributes(&mut self) -> Attributes {
        let (kind, mode, links, uid, gid) = (self.u32(), self.u32(), self.u32(), self.u32(), self.u32());
        let (size, used) = (self.u64(), self.u64());
        let (_rdev, _fsid, number) = (self.u64(), self.u64(), self.u64());
        let (_atime, mtime, ctime) = (self.u64(), self.u64(), self.u64());
        Attributes { kind, mode, links, uid, gid, size, used, number, mtime, ctime }
    }

    /// `post_op_attr`.
    pub fn post(&mut self) -> Option<Attributes> {
        (self.u32() == 1).then(|| self.attributes())
    }

    /// `wcc_data`: change time before, and attributes after.
    pub fn wcc(&mut self) -> (Option<u64>, Option<Attributes>) {
        let before = (self.u32() == 1).then(|| {
            let (_size, _mtime) = (self.u64(), self.u64());
            self.u64()
        });
        (before, self.post())
    }

    /// Nothing may be left.
    pub fn end(self) {
        assert!(self.0.is_empty(), "{} bytes are left over", self.0.len());
    }
}

/// `fattr3`; times as they are on the wire, seconds above nanoseconds.
#[expect(missing_docs, reason = "the names are the protocol's")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub kind: u32,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub used: u64,
    pub number: u64,
    pub mtime: u64,
    pub ctime: u64,
}

/// One connection.
pub struct Nfs {
    stream: TcpStream,
    xid: u32,
    /// Who calls: user, group, further groups.
    pub caller: (u32, u32, Vec<u32>),
}

impl Nfs {
    /// Connects; calls are root's.
    pub fn connect(address: SocketAddr) -> Nfs {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
        Nfs { stream, xid: rand::random(), caller: (0, 0, vec![]) }
    }

    /// A call as bytes, without its record marker.
    pub fn message(&self, xid: u32, program: u32, version: u32, procedure: u32, args: &Args) -> Vec<u8> {
        let (uid, gid, groups) = &self.caller;
        let mut body = Args::new().u32(0).opaque(b"tester").u32(*uid).u32(*gid).u32(groups.len() as u32);
        for group in groups {
            body = body.u32(*group);
        }
        let head = Args::new().u32(xid).u32(0).u32(2).u32(program).u32(version).u32(procedure);
        let mut call = head.u32(1).opaque(&body.0).u32(0).u32(0);
        call.0.extend(&args.0);
        call.0
    }

    /// Sends a record in one fragment.
    pub fn send(&mut self, record: &[u8]) {
        self.try_send(record).expect("the call is sent");
    }

    fn try_send(&mut self, record: &[u8]) -> std::io::Result<()> {
        let mut bytes = (0x8000_0000 | record.len() as u32).to_be_bytes().to_vec();
        bytes.extend(record);
        self.send_raw(&bytes)
    }

    /// Sends anything.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next reply; `None` when the server has closed the connection.
    pub fn receive(&mut self) -> Option<Results> {
        let mut marker = [0; 4];
        self.stream.read_exact(&mut marker).ok()?;
        let length = u32::from_be_bytes(marker);
        assert!(length & 0x8000_0000 != 0, "replies come in one fragment");
        let mut record = vec![0; (length & 0x7fff_ffff) as usize];
        self.stream.read_exact(&mut record).ok()?;
        Some(Results(record))
    }

    /// Sends a call again or anew under `xid`; gives the reply behind its RPC header, and `accept_stat`.
    pub fn call_as(&mut self, xid: u32, program: u32, version: u32, procedure: u32, args: &Args) -> (u32, Results) {
        self.try_call_as(xid, program, version, procedure, args).expect("a reply")
    }

    /// `None` when the server has hung up.
    fn try_call_as(
        &mut self,
        xid: u32,
        program: u32,
        version: u32,
        procedure: u32,
        args: &Args,
    ) -> Option<(u32, Results)> {
        let message = self.message(xid, program, version, procedure, args);
        self.try_send(&message).ok()?;
        let mut reply = self.receive()?;
        assert_eq!((reply.u32(), reply.u32()), (xid, 1), "the reply to this call");
        assert_eq!(reply.u32(), 0, "the call is accepted");
        assert_eq!((reply.u32(), reply.u32()), (0, 0), "no verifier");
        Some((reply.u32(), reply))
    }

    /// A call of NFS version 3: its status, [`GONE`] when the server has hung up, and what follows.
    pub fn call(&mut self, procedure: u32, args: &Args) -> (u32, Results) {
        self.xid = self.xid.wrapping_add(1);
        let Some((accepted, mut results)) = self.try_call_as(self.xid, NFS, 3, procedure, args) else {
            return (GONE, Results(Vec::new()));
        };
        assert_eq!(accepted, 0, "procedure {procedure} is done");
        (results.u32(), results)
    }

    /// The handle of an export, or the status that refuses it.
    pub fn mount(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        self.xid = self.xid.wrapping_add(1);
        let (accepted, mut results) = self.call_as(self.xid, MOUNT, 3, 1, &Args::new().opaque(path.as_bytes()));
        assert_eq!(accepted, 0);
        match results.u32() {
            OK => Ok(results.opaque()),
            status => Err(status),
        }
    }

    /// GETATTR.
    pub fn attributes(&mut self, object: &[u8]) -> Result<Attributes, u32> {
        match self.call(1, &Args::new().opaque(object)) {
            (OK, mut results) => Ok(results.attributes()),
            (status, _) => Err(status),
        }
    }

    /// LOOKUP.
    pub fn lookup(&mut self, directory: &[u8], name: &str) -> Result<Vec<u8>, u32> {
        match self.call(3, &Args::new().opaque(directory).opaque(name.as_bytes())) {
            (OK, mut results) => Ok(results.opaque()),
            (status, _) => Err(status),
        }
    }

    /// CREATE, guarded.
    pub fn create(&mut self, directory: &[u8], name: &str, mode: u32) -> Result<Vec<u8>, u32> {
        let args = Args::new().opaque(directory).opaque(name.as_bytes()).u32(1).set(Some(mode), None);
        self.made(8, &args)
    }

    /// MKDIR.
    pub fn mkdir(&mut self, directory: &[u8], name: &str, mode: u32) -> Result<Vec<u8>, u32> {
        self.made(9, &Args::new().opaque(directory).opaque(name.as_bytes()).set(Some(mode), None))
    }

    /// What makes something and answers with its handle.
    pub fn made(&mut self, procedure: u32, args: &Args) -> Result<Vec<u8>, u32> {
        match self.call(procedure, args) {
            (OK, mut results) => {
                assert_eq!(results.u32(), 1, "a handle follows");
                Ok(results.opaque())
            }
            (status, _) => Err(status),
        }
    }

    /// WRITE; gives the verifier.
    pub fn write(&mut self, file: &[u8], offset: u64, data: &[u8], stable: u32) -> Result<Vec<u8>, u32> {
        let args = Args::new().opaque(file).u64(offset).u32(data.len() as u32).u32(stable).opaque(data);
        match self.call(7, &args) {
            (OK, mut results) => {
                results.wcc();
                assert_eq!(results.u32(), data.len() as u32);
                assert!(results.u32() >= stable, "as stable as asked for");
                Ok(results.take(8))
            }
            (status, _) => Err(status),
        }
    }

    /// READ; gives the data and whether it ends there.
    pub fn read(&mut self, file: &[u8], offset: u64, count: u32) -> Result<(Vec<u8>, bool), u32> {
        match self.call(6, &Args::new().opaque(file).u64(offset).u32(count)) {
            (OK, mut results) => {
                results.post();
                results.u32();
                let is_end = results.u32() == 1;
                Ok((results.opaque(), is_end))
            }
            (status, _) => Err(status),
        }
    }

    /// COMMIT; gives the verifier.
    pub fn commit(&mut self, file: &[u8]) -> Result<Vec<u8>, u32> {
        match self.call(21, &Args::new().opaque(file).u64(0).u32(0)) {
            (OK, mut results) => {
                results.wcc();
                Ok(results.take(8))
            }
            (status, _) => Err(status),
        }
    }

    /// One READDIR: names with their cookies, and whether the directory ends there.
    pub fn read_directory(
        &mut self,
        directory: &[u8],
        cookie: u64,
        count: u32,
    ) -> Result<(Vec<(String, u64)>, bool), u32> {
        let (status, mut results) = self.call(16, &Args::new().opaque(directory).u64(cookie).u64(0).u32(count));
        if status != OK {
            return Err(status);
        }
        assert!(results.0.len() + 24 <= count as usize + 24, "not more than asked for");
        results.post();
        results.u64();
        let mut entries = Vec::new();
        while results.u32() == 1 {
            results.u64();
            let name = String::from_utf8(results.opaque()).expect("a name in UTF-8");
            entries.push((name, results.u64()));
        }
        let is_end = results.u32() == 1;
        results.end();
        Ok((entries, is_end))
    }

    /// All names of a directory, `.` and `..` among them.
    pub fn names(&mut self, directory: &[u8], count: u32) -> Vec<String> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let (entries, is_end) = self.read_directory(directory, cookie, count).expect("a listing");
            cookie = entries.last().map_or(cookie, |(_, cookie)| *cookie);
            names.extend(entries.into_iter().map(|(name, _)| name));
            if is_end {
                return names;
            }
        }
    }
}
