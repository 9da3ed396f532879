//! NLM (Network Lock Manager), version 4 (RFC 1813, appendix II; X/Open XNFS, chapter 10): locks of NFS clients, on the same port.
//!
//! The locks are the segment's, so users of all doors see each other's. A lock that has to wait is answered with "blocked"; when it is there, the client
//! is called (GRANTED). If it can't be reached the lock stays with it: clients ask again from time to time, and find it.
//!
//! Clients that want their answers in calls of their own (the procedures that end in `_MSG`) get them so. `GRANTED` and the answers are calls to
//! clients, and not taken here.

use crate::callback::{self, Ends};
use crate::door::Shared;
use crate::lock_table::{At, Request, Share};
use crate::procedures::Context;
use crate::rpc::{Answer, Call, Credentials};
use crate::status::Refusal;
use crate::wire::{Decoder, Encoder, Garbage};
use bytes::Bytes;
use nfsserve::nfs::{NFS3_FHSIZE, nfsstat3};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use tombolo_core::FileType;
use tombolo_core::engine::fs::{Access, LockMode};

pub(crate) const PROGRAM: u32 = 100_021;
pub(crate) const VERSION: u32 = 4;

const NULL: u32 = 0;
const TEST: u32 = 1;
const LOCK: u32 = 2;
const CANCEL: u32 = 3;
const UNLOCK: u32 = 4;
pub(crate) const GRANTED: u32 = 5;
const TEST_MSG: u32 = 6;
const UNLOCK_MSG: u32 = 9;
const SHARE: u32 = 20;
const UNSHARE: u32 = 21;
const NM_LOCK: u32 = 22;
const FREE_ALL: u32 = 23;
/// From a procedure to the one that asks the same and is answered in a call.
const TO_MESSAGE: u32 = TEST_MSG - TEST;

/// The longest of names, owners and cookies, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// How a request came out (`nlm4_stats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Granted = 0,
    Denied = 1,
    NoLocks = 2,
    Blocked = 3,
    Grace = 4,
    Deadlock = 5,
    ReadOnly = 6,
    Stale = 7,
    TooBig = 8,
    Failed = 9,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal.0 {
            nfsstat3::NFS3ERR_STALE | nfsstat3::NFS3ERR_BADHANDLE => Status::Stale,
            nfsstat3::NFS3ERR_ROFS => Status::ReadOnly,
            _ => Status::Failed,
        }
    }
}

/// Who locks which bytes of what (`nlm4_lock`).
#[derive(Debug, Clone)]
struct Described {
    name: Bytes,
    handle: Bytes,
    owner: Bytes,
    process: u32,
    offset: u64,
    length: u64,
}

impl Described {
    fn read(arguments: &mut Decoder) -> Result<Described, Garbage> {
        Ok(Described {
            name: arguments.opaque(TEXT_BYTES_MAX)?,
            handle: arguments.opaque(NFS3_FHSIZE as usize)?,
            owner: arguments.opaque(TEXT_BYTES_MAX)?,
            process: arguments.u32()?,
            offset: arguments.u64()?,
            length: arguments.u64()?,
        })
    }

    /// Which bytes; none for ever: to the end, wherever that will be.
    fn range(&self) -> Result<Range<u64>, Status> {
        let end = if self.length == 0 { Some(u64::MAX) } else { self.offset.checked_add(self.length) };
        end.filter(|end| *end > self.offset).map(|end| self.offset..end).ok_or(Status::TooBig)
    }

    fn write(&self, encoder: &mut Encoder) {
        encoder.opaque(&self.name);
        encoder.opaque(&self.handle);
        encoder.opaque(&self.owner);
        encoder.u32(self.process);
        encoder.u64(self.offset);
        encoder.u64(self.length);
    }
}

/// A call being answered.
struct Calling<'a> {
    shared: &'a Arc<Shared>,
    ends: Ends,
    peer: SocketAddr,
    credentials: &'a Credentials,
}

/// Answers a call of the program.
pub(crate) async fn answer(shared: &Arc<Shared>, peer: SocketAddr, local: SocketAddr, call: Call) -> Answer {
    if call.version != VERSION {
        return Answer::NoVersion(VERSION, VERSION);
    }
    let calling = Calling { shared, ends: Ends::new(peer, local), peer, credentials: &call.credentials };
    match calling.perform(call.procedure, call.arguments).await {
        Ok(answer) => answer,
        Err(Garbage) => Answer::Garbage,
    }
}

/// Answers a call of NSM: a client has started anew, and has forgotten its locks.
pub(crate) fn started_anew(
    shared: &Shared,
    peer: SocketAddr,
    version: u32,
    procedure: u32,
    mut arguments: Decoder,
) -> Result<Answer, Garbage> {
    use crate::monitor;
    if version != monitor::VERSION {
        return Ok(Answer::NoVersion(monitor::VERSION, monitor::VERSION));
    }
    match procedure {
        NULL => arguments.end()?,
        monitor::NOTIFY => {
            let (name, state) = (arguments.opaque(TEXT_BYTES_MAX)?, arguments.u32()?);
            arguments.end()?;
            shared.locks.forget(peer.ip().to_canonical(), &name, Some(state));
        }
        // Hosts are not watched for others.
        _ => return Ok(Answer::NoProcedure),
    }
    Ok(Encoder::default().into())
}

impl Calling<'_> {
    async fn perform(&self, procedure: u32, mut arguments: Decoder) -> Result<Answer, Garbage> {
        let arguments = &mut arguments;
        let done = match procedure {
            NULL => {
                arguments.end()?;
                Encoder::default()
            }
            TEST..=UNLOCK => self.ask(procedure, arguments).await?,
            TEST_MSG..=UNLOCK_MSG => {
                let asked = procedure - TO_MESSAGE;
                let done = self.ask(asked, arguments).await?;
                let answer = (PROGRAM, VERSION, procedure + TO_MESSAGE);
                if let Ok(permit) = self.shared.locks.callbacks.clone().try_acquire_owned() {
                    let (ends, mapper_port) = (self.ends, self.shared.limits.client_port_mapper);
                    tokio::spawn(async move {
                        // A client that gets no answer asks again.
                        if let Err(error) = callback::call(ends, mapper_port, answer, &done.0).await {
                            tracing::debug!(client = %ends.client, %error, "an answer about a lock does not arrive");
                        }
                        drop(permit);
                    });
                }
                Encoder::default()
            }
            SHARE | UNSHARE => self.share(procedure == SHARE, arguments).await?,
            NM_LOCK => self.ask(NM_LOCK, arguments).await?,
            FREE_ALL => {
                let name = arguments.opaque(TEXT_BYTES_MAX)?;
                arguments.u32()?;
                arguments.end()?;
                self.shared.locks.forget(self.ends.client, &name, None);
                Encoder::default()
            }
            _ => return Ok(Answer::NoProcedure),
        };
        Ok(done.into())
    }

    /// What is asked about a lock, and how that comes out.
    async fn ask(&self, procedure: u32, arguments: &mut Decoder) -> Result<Encoder, Garbage> {
        let cookie = arguments.opaque(TEXT_BYTES_MAX)?;
        // Everything is read before anything is done.
        let blocks = matches!(procedure, LOCK | CANCEL | NM_LOCK) && arguments.bool()?;
        let is_exclusive = procedure != UNLOCK && arguments.bool()?;
        let lock = Described::read(arguments)?;
        let (reclaims, state) = match procedure {
            LOCK | NM_LOCK => (arguments.bool()?, arguments.u32()?),
            _ => (false, 0),
        };
        arguments.end()?;
        let mut encoder = Encoder::default();
        encoder.opaque(&cookie);
        let mode = if is_exclusive { LockMode::Exclusive } else { LockMode::Shared };
        if procedure == TEST {
            self.test(&lock, mode, &mut encoder).await;
            return Ok(encoder);
        }
        let outcome = match procedure {
            LOCK => self.lock(&lock, mode, blocks, Some(reclaims), state).await,
            // Of a client that keeps no state: nobody will say that it has started anew.
            NM_LOCK => self.lock(&lock, mode, false, None, state).await,
            CANCEL => self.cancel(&lock, mode),
            _ => self.unlock(&lock),
        };
        encoder.u32(outcome.unwrap_or_else(|status| status) as u32);
        Ok(encoder)
    }

    fn request(&self, lock: &Described, mode: LockMode) -> Result<Request, Status> {
        let range = lock.range()?;
        Ok(self.shared.locks.request(self.ends.client, &lock.name, &lock.owner, lock.process, mode, range))
    }

    /// The file that a lock is about, which the caller must be able to open.
    async fn file(&self, handle: &Bytes, mode: LockMode) -> Result<At, Status> {
        let context = Context { shared: self.shared, peer: self.peer, credentials: self.credentials };
        let at = context.at(handle).await?;
        if mode == LockMode::Exclusive {
            at.must_change()?;
        }
        let attributes = at.opened.files.attributes(&at.node).await.map_err(Refusal::from)?;
        let write = Access { read: false, write: true, execute: false };
        let may = |access: Access| at.caller.may(&attributes, access);
        let opens = at.caller.owns(&attributes) || may(Access::READ) || may(write);
        if attributes.file_type != FileType::Regular || !opens {
            return Err(Status::Failed);
        }
        Ok(At { opened: at.opened, node: at.node })
    }

    async fn test(&self, lock: &Described, mode: LockMode, encoder: &mut Encoder) {
        let tested = async {
            if self.shared.locks.monitor.in_grace() {
                return Err(Status::Grace);
            }
            let request = self.request(lock, mode)?;
            let at = self.file(&lock.handle, mode).await?;
            Ok(at.opened.files.locks().test(&at.node, &request.lock))
        };
        match tested.await {
            Ok(None) => encoder.u32(Status::Granted as u32),
            Ok(Some(held)) => {
                encoder.u32(Status::Denied as u32);
                encoder.bool(held.mode == LockMode::Exclusive);
                encoder.u32(held.process);
                encoder.opaque(&held.owner.to_be_bytes());
                encoder.u64(held.range.start);
                let is_endless = held.range.end == u64::MAX;
                encoder.u64(if is_endless { 0 } else { held.range.end - held.range.start });
            }
            Err(status) => encoder.u32(status as u32),
        }
    }

    /// `reclaims`: whether the client had the lock before this server's start; `None`: it can't know.
    async fn lock(
        &self,
        lock: &Described,
        mode: LockMode,
        blocks: bool,
        reclaims: Option<bool>,
        state: u32,
    ) -> Result<Status, Status> {
        let request = self.request(lock, mode)?;
        let at = self.file(&lock.handle, mode).await?;
        self.may_lock(reclaims).await?;
        let mut granted = Encoder::default();
        granted.opaque(&[]);
        granted.bool(mode == LockMode::Exclusive);
        lock.write(&mut granted);
        let granted = (self.ends, granted.0);
        Ok(self.shared.locks.lock(self.shared, at, request, state, blocks.then_some(granted)))
    }

    /// Refuses what must wait for those who had locks before the start, and sees to it that the client hears of the next.
    async fn may_lock(&self, reclaims: Option<bool>) -> Result<(), Status> {
        let monitor = &self.shared.locks.monitor;
        if monitor.in_grace() != (reclaims == Some(true)) {
            return Err(Status::Grace);
        }
        if reclaims.is_some() {
            monitor.watch(self.ends, |client| self.shared.locks.holds(client)).await.map_err(|error| {
                tracing::warn!(client = %self.ends.client, %error, "a lock is refused");
                Status::NoLocks
            })?;
        }
        Ok(())
    }

    fn cancel(&self, lock: &Described, mode: LockMode) -> Result<Status, Status> {
        let handle = self.shared.registry.signer.read(&lock.handle).ok_or(Status::Stale)?;
        Ok(self.shared.locks.cancel(&handle, &self.request(lock, mode)?))
    }

    /// Also of what is out of the client's reach by now.
    fn unlock(&self, lock: &Described) -> Result<Status, Status> {
        let handle = self.shared.registry.signer.read(&lock.handle).ok_or(Status::Stale)?;
        Ok(self.shared.locks.unlock(&handle, &self.request(lock, LockMode::Shared)?))
    }

    /// SHARE and UNSHARE: what one who has a file open does with it, and what others shall not.
    async fn share(&self, begins: bool, arguments: &mut Decoder) -> Result<Encoder, Garbage> {
        let cookie = arguments.opaque(TEXT_BYTES_MAX)?;
        let name = arguments.opaque(TEXT_BYTES_MAX)?;
        let handle = arguments.opaque(NFS3_FHSIZE as usize)?;
        let owner = arguments.opaque(TEXT_BYTES_MAX)?;
        let (denies, does) = (arguments.u32()?, arguments.u32()?);
        let reclaims = arguments.bool()?;
        arguments.end()?;
        if denies > 3 || does > 3 {
            return Err(Garbage);
        }
        let request = self.shared.locks.request(self.ends.client, &name, &owner, 0, LockMode::Shared, 0..u64::MAX);
        let shared = async {
            if !begins {
                let handle = self.shared.registry.signer.read(&handle).ok_or(Status::Stale)?;
                return Ok(self.shared.locks.unshare(&handle, &request));
            }
            let at = self.file(&handle, LockMode::Shared).await?;
            self.may_lock(Some(reclaims)).await?;
            Ok(self.shared.locks.share(&at, &request, Share { denies, does }))
        };
        let mut encoder = Encoder::default();
        encoder.opaque(&cookie);
        encoder.u32(shared.await.unwrap_or_else(|status: Status| status) as u32);
        encoder.u32(0);
        Ok(encoder)
    }
}
