//! The procedures of NFS version 3 (RFC 1813, section 3.3).

use crate::attributes::{device, fattr, from_time, post, settings, wcc};
use crate::connection::DATA_BYTES_MAX;
use crate::data;
use crate::directory::{self, Wanted};
use crate::door::Shared;
use crate::handle::Handle;
use crate::registry::Opened;
use crate::rpc::{Answer, Call, Credentials};
use crate::status::{Outcome, Refusal};
use crate::wire::{Decoder, Encoder, Garbage};
use bytes::Bytes;
use nfsserve::nfs::{
    FSF_CANSETTIME, FSF_HOMOGENEOUS, FSF_LINK, FSF_SYMLINK, NFS3_FHSIZE, fsinfo3, ftype3, nfs_fh3, nfsstat3, nfstime3,
    post_op_fh3, sattr3, specdata3,
};
use std::net::SocketAddr;
use std::sync::Arc;
use tombolo_core::engine::fs::{
    Access, Caller, CreateMode, FILE_BYTES_MAX, FileAttributes, LINKS_MAX, Made, POSIX_NAME_BYTES_MAX, RenameMode,
    SetAttributes,
};
use tombolo_core::{FileType, NodeId};

pub(crate) const READ: u32 = 6;
pub(crate) const READDIR: u32 = 16;
pub(crate) const READDIRPLUS: u32 = 17;

/// Names and paths are cut where they are used, so that the error is that of a long name.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// What a listing is asked for at best, in bytes.
const LISTING_BYTES: u32 = 64 << 10;

/// How many absent values (of attributes before and after) stand behind the status of a procedure that failed.
const ABSENT: [usize; 22] = [0, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 4, 3, 1, 1, 1, 1, 1, 2];

/// Whether it matters that a procedure is not done twice.
pub(crate) fn changes(procedure: u32) -> bool {
    matches!(procedure, 2 | 8..=15)
}

/// Results, and data behind them.
pub(crate) struct Done {
    pub(crate) encoder: Encoder,
    pub(crate) data: Vec<Bytes>,
}

impl From<Encoder> for Done {
    fn from(encoder: Encoder) -> Done {
        Done { encoder, data: Vec::new() }
    }
}

/// Which node a call is about, under which export, and who calls.
pub(crate) struct At {
    pub(crate) opened: Arc<Opened>,
    pub(crate) node: NodeId,
    pub(crate) caller: Caller,
    signer: crate::handle::Signer,
}

impl At {
    pub(crate) fn sign(&self, node: NodeId) -> Vec<u8> {
        self.signer.sign(&self.opened.handle(node))
    }

    /// The cookie of an entry of the directory.
    pub(crate) fn cookie(&self, position: &[u8]) -> u64 {
        self.signer.cookie(&self.node, position)
    }

    fn file_system(&self) -> u64 {
        self.opened.file_system()
    }

    pub(crate) fn must_change(&self) -> Outcome<()> {
        if self.opened.export.read_only { Err(Refusal(nfsstat3::NFS3ERR_ROFS)) } else { Ok(()) }
    }
}

/// Who calls, from where.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) peer: SocketAddr,
    pub(crate) credentials: &'a Credentials,
}

impl Context<'_> {
    pub(crate) async fn at(&self, handle: &Bytes) -> Outcome<At> {
        let signer = &self.shared.registry.signer;
        let handle: Handle = signer.read(handle).ok_or(Refusal(nfsstat3::NFS3ERR_BADHANDLE))?;
        let opened = self.shared.registry.of_handle(&handle).await?;
        if !opened.export.admits(self.peer) {
            return Err(Refusal(nfsstat3::NFS3ERR_ACCES));
        }
        // As of a server that checks subtrees: the handle is of a file system in which this node is no more.
        if !opened.has(&handle.node).await? {
            return Err(Refusal(nfsstat3::NFS3ERR_STALE));
        }
        let caller = opened.export.caller(self.credentials);
        Ok(At { opened, node: handle.node, caller, signer: signer.clone() })
    }

    async fn at_to_change(&self, handle: &Bytes) -> Outcome<At> {
        let at = self.at(handle).await?;
        at.must_change()?;
        Ok(at)
    }
}

/// Answers a call of the program.
pub(crate) async fn answer(shared: &Shared, peer: SocketAddr, call: Call) -> Answer {
    let Some(absent) = ABSENT.get(call.procedure as usize) else {
        return Answer::NoProcedure;
    };
    let context = Context { shared, peer, credentials: &call.credentials };
    match context.perform(call.procedure, call.arguments).await {
        Ok(Ok(done)) => Answer::Done(done.encoder.0, done.data),
        Ok(Err(Refusal(status))) => {
            let mut encoder = Encoder::default();
            encoder.put(&status);
            (0..*absent).for_each(|_| encoder.bool(false));
            encoder.into()
        }
        Err(Garbage) => Answer::Garbage,
    }
}

fn handle(arguments: &mut Decoder) -> Result<Bytes, Garbage> {
    arguments.opaque(NFS3_FHSIZE as usize)
}

fn place(arguments: &mut Decoder) -> Result<(Bytes, Bytes), Garbage> {
    Ok((handle(arguments)?, arguments.opaque(TEXT_BYTES_MAX)?))
}

fn ok() -> Encoder {
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder
}

/// How a file is to be created.
enum How {
    Set(CreateMode, sattr3),
    Exclusive([u8; 8]),
}

/// What MKNOD makes.
struct Special {
    kind: ftype3,
    set: sattr3,
    device: specdata3,
}

impl Context<'_> {
    async fn perform(&self, procedure: u32, mut arguments: Decoder) -> Result<Outcome<Done>, Garbage> {
        let arguments = &mut arguments;
        // Everything is read before anything is done.
        Ok(match procedure {
            0 => {
                arguments.end()?;
                Ok(Encoder::default().into())
            }
            1 => {
                let object = handle(arguments)?;
                arguments.end()?;
                self.get_attributes(object).await
            }
            2 => {
                let object = handle(arguments)?;
                let set = arguments.fixed::<sattr3>()?;
                let guard = if arguments.bool()? { Some(arguments.fixed::<nfstime3>()?) } else { None };
                arguments.end()?;
                self.set_attributes(object, set, guard).await
            }
            3 => {
                let (directory, name) = place(arguments)?;
                arguments.end()?;
                self.lookup(directory, name).await
            }
            4 => {
                let (object, wanted) = (handle(arguments)?, arguments.u32()?);
                arguments.end()?;
                self.access(object, wanted).await
            }
            5 => {
                let link = handle(arguments)?;
                arguments.end()?;
                self.read_link(link).await
            }
            READ => {
                let (file, offset, count) = (handle(arguments)?, arguments.u64()?, arguments.u32()?);
                arguments.end()?;
                match self.at(&file).await {
                    Ok(at) => data::read(self.shared, &at, offset, count).await,
                    Err(refusal) => Err(refusal),
                }
            }
            7 => {
                let (file, offset, count) = (handle(arguments)?, arguments.u64()?, arguments.u32()?);
                let stable = arguments.u32()?;
                let mut bytes = arguments.opaque(DATA_BYTES_MAX)?;
                arguments.end()?;
                if stable > 2 {
                    return Err(Garbage);
                }
                bytes.truncate(count as usize);
                match self.at(&file).await {
                    Ok(at) => data::write(self.shared, &at, offset, stable, bytes).await,
                    Err(refusal) => Err(refusal),
                }
            }
            8 => {
                let (directory, name) = place(arguments)?;
                let how = match arguments.u32()? {
                    0 => How::Set(CreateMode::Unchecked, arguments.fixed()?),
                    1 => How::Set(CreateMode::Guarded, arguments.fixed()?),
                    2 => How::Exclusive(arguments.eight()?),
                    _ => return Err(Garbage),
                };
                arguments.end()?;
                self.create(directory, name, how).await
            }
            9 => {
                let (directory, name) = place(arguments)?;
                let set = arguments.fixed::<sattr3>()?;
                arguments.end()?;
                self.make_directory(directory, name, set).await
            }
            10 => {
                let (directory, name) = place(arguments)?;
                let set = arguments.fixed::<sattr3>()?;
                let target = arguments.opaque(TEXT_BYTES_MAX)?;
                arguments.end()?;
                self.make_symlink(directory, name, set, target).await
            }
            11 => {
                let (directory, name) = place(arguments)?;
                let kind = arguments.u32()?;
                let mut special =
                    Special { kind: ftype3::NF3REG, set: sattr3::default(), device: specdata3::default() };
                let kinds = [ftype3::NF3BLK, ftype3::NF3CHR, ftype3::NF3SOCK, ftype3::NF3FIFO];
                if let Some(kind) = kinds.into_iter().find(|known| *known as u32 == kind) {
                    special.kind = kind;
                    special.set = arguments.fixed()?;
                    if matches!(kind, ftype3::NF3BLK | ftype3::NF3CHR) {
                        special.device = arguments.fixed()?;
                    }
                }
                arguments.end()?;
                self.make_special(directory, name, special).await
            }
            12 | 13 => {
                let (directory, name) = place(arguments)?;
                arguments.end()?;
                self.remove(directory, name, procedure == 13).await
            }
            14 => {
                let (from, to) = (place(arguments)?, place(arguments)?);
                arguments.end()?;
                self.rename(from, to).await
            }
            15 => {
                let file = handle(arguments)?;
                let (directory, name) = place(arguments)?;
                arguments.end()?;
                self.link(file, directory, name).await
            }
            READDIR | READDIRPLUS => {
                let directory = handle(arguments)?;
                let cookie = arguments.u64()?;
                let verifier = arguments.u64()?;
                let plus = procedure == READDIRPLUS;
                let first = arguments.u32()? as usize;
                let bytes_max = if plus { arguments.u32()? as usize } else { first };
                arguments.end()?;
                let bytes_max = bytes_max.min(DATA_BYTES_MAX);
                let names_max = if plus { first.min(DATA_BYTES_MAX) } else { bytes_max };
                let wanted = Wanted { cookie, verifier, names_max, bytes_max, plus };
                match self.at(&directory).await {
                    Ok(at) => directory::list(&self.shared.cookies, &at, wanted).await,
                    Err(refusal) => Err(refusal),
                }
            }
            18..=20 => {
                let object = handle(arguments)?;
                arguments.end()?;
                match procedure {
                    18 => self.status(object).await,
                    19 => self.limits(object).await,
                    _ => self.path_limits(object).await,
                }
            }
            21 => {
                let file = handle(arguments)?;
                arguments.u64()?;
                arguments.u32()?;
                arguments.end()?;
                match self.at(&file).await {
                    Ok(at) => data::commit(self.shared, &at).await,
                    Err(refusal) => Err(refusal),
                }
            }
            _ => return Err(Garbage),
        })
    }

    async fn get_attributes(&self, object: Bytes) -> Outcome<Done> {
        let at = self.at(&object).await?;
        let mut encoder = ok();
        encoder.put(&fattr(at.file_system(), &at.opened.files.attributes(&at.node).await?));
        Ok(encoder.into())
    }

    async fn set_attributes(&self, object: Bytes, set: sattr3, guard: Option<nfstime3>) -> Outcome<Done> {
        let at = self.at_to_change(&object).await?;
        let (files, node) = (&at.opened.files, &at.node);
        let mut set = settings(&set)?;
        let mut guard = guard.map(from_time);
        let mut change = None;
        // Who owns a file may cut it whatever its mode: a program of theirs has it open for writing.
        if set.size.is_some() && at.caller.uid != 0 && at.caller.owns(&files.attributes(node).await?) {
            let size = SetAttributes { size: set.size.take(), ..SetAttributes::default() };
            change = Some(files.set_attributes(&Caller::root(), node, size, guard.take()).await?);
        }
        let change = match change {
            Some(change) if set == SetAttributes::default() => change,
            _ => files.set_attributes(&at.caller, node, set, guard).await?,
        };
        let mut encoder = ok();
        encoder.put(&wcc(at.file_system(), &change));
        Ok(encoder.into())
    }

    async fn lookup(&self, directory: Bytes, name: Bytes) -> Outcome<Done> {
        let at = self.at(&directory).await?;
        let files = &at.opened.files;
        let found = match &name[..] {
            // As Linux' server has it: what is above an export's root is the root.
            b".." if at.node == at.opened.root => files.lookup(&at.caller, &at.node, b".").await?,
            name => files.lookup(&at.caller, &at.node, name).await?,
        };
        let mut encoder = ok();
        encoder.opaque(&at.sign(found.node));
        encoder.put(&post(at.file_system(), &found));
        encoder.put(&post(at.file_system(), &files.attributes(&at.node).await?));
        Ok(encoder.into())
    }

    async fn access(&self, object: Bytes, wanted: u32) -> Outcome<Done> {
        let at = self.at(&object).await?;
        let attributes = at.opened.files.attributes(&at.node).await?;
        let mut encoder = ok();
        encoder.put(&post(at.file_system(), &attributes));
        encoder.u32(wanted & access_bits(&at, &attributes));
        Ok(encoder.into())
    }

    async fn read_link(&self, link: Bytes) -> Outcome<Done> {
        let at = self.at(&link).await?;
        let attributes = at.opened.files.attributes(&at.node).await?;
        if attributes.file_type != FileType::Symlink {
            return Err(Refusal(nfsstat3::NFS3ERR_INVAL));
        }
        let target = at.opened.files.read_link(&at.node).await?;
        let mut encoder = ok();
        encoder.put(&post(at.file_system(), &attributes));
        encoder.opaque(&target);
        Ok(encoder.into())
    }

    async fn create(&self, directory: Bytes, name: Bytes, how: How) -> Outcome<Done> {
        let at = self.at_to_change(&directory).await?;
        let (mode, set) = match how {
            How::Set(mode, set) => (mode, settings(&set)?),
            How::Exclusive(verifier) => (CreateMode::Exclusive(verifier), SetAttributes::default()),
        };
        made(&at, &at.opened.files.create(&at.caller, &at.node, &name, mode, set).await?)
    }

    async fn make_directory(&self, directory: Bytes, name: Bytes, set: sattr3) -> Outcome<Done> {
        let at = self.at_to_change(&directory).await?;
        made(&at, &at.opened.files.make_directory(&at.caller, &at.node, &name, settings(&set)?).await?)
    }

    async fn make_symlink(&self, directory: Bytes, name: Bytes, set: sattr3, target: Bytes) -> Outcome<Done> {
        let at = self.at_to_change(&directory).await?;
        // Links have no mode of their own, whatever the client sends.
        let set = SetAttributes { mode: None, ..settings(&set)? };
        made(&at, &at.opened.files.make_symlink(&at.caller, &at.node, &name, &target, set).await?)
    }

    async fn make_special(&self, directory: Bytes, name: Bytes, special: Special) -> Outcome<Done> {
        let at = self.at_to_change(&directory).await?;
        let kind = match special.kind {
            ftype3::NF3BLK => FileType::BlockDevice,
            ftype3::NF3CHR => FileType::CharDevice,
            ftype3::NF3SOCK => FileType::Socket,
            ftype3::NF3FIFO => FileType::Fifo,
            _ => return Err(Refusal(nfsstat3::NFS3ERR_BADTYPE)),
        };
        let device = device(special.device.specdata1, special.device.specdata2);
        let set = settings(&special.set)?;
        made(&at, &at.opened.files.make_special(&at.caller, &at.node, &name, kind, device, set).await?)
    }

    async fn remove(&self, directory: Bytes, name: Bytes, is_directory: bool) -> Outcome<Done> {
        let at = self.at_to_change(&directory).await?;
        let files = &at.opened.files;
        let (node, change) = if is_directory {
            files.remove_directory(&at.caller, &at.node, &name).await?
        } else {
            files.unlink(&at.caller, &at.node, &name).await?
        };
        self.shared.open.forget(at.opened.id, node);
        let mut encoder = ok();
        encoder.put(&wcc(at.file_system(), &change));
        Ok(encoder.into())
    }

    async fn rename(&self, from: (Bytes, Bytes), to: (Bytes, Bytes)) -> Outcome<Done> {
        let (source, target) = (self.at_to_change(&from.0).await?, self.at_to_change(&to.0).await?);
        if source.opened.number != target.opened.number {
            return Err(Refusal(nfsstat3::NFS3ERR_XDEV));
        }
        let (from, to) = ((&source.node, &from.1[..]), (&target.node, &to.1[..]));
        let change = source.opened.files.rename(&source.caller, from, to, RenameMode::Replace).await?;
        let mut encoder = ok();
        encoder.put(&wcc(source.file_system(), &change.0));
        encoder.put(&wcc(source.file_system(), &change.1));
        Ok(encoder.into())
    }

    async fn link(&self, file: Bytes, directory: Bytes, name: Bytes) -> Outcome<Done> {
        let (file, at) = (self.at_to_change(&file).await?, self.at_to_change(&directory).await?);
        if file.opened.number != at.opened.number {
            return Err(Refusal(nfsstat3::NFS3ERR_XDEV));
        }
        let made = at.opened.files.link(&at.caller, &file.node, &at.node, &name).await?;
        let mut encoder = ok();
        encoder.put(&post(at.file_system(), &made.attributes));
        encoder.put(&wcc(at.file_system(), &made.directory));
        Ok(encoder.into())
    }

    async fn status(&self, object: Bytes) -> Outcome<Done> {
        let at = self.at(&object).await?;
        let attributes = at.opened.files.attributes(&at.node).await?;
        let status = at.opened.files.status().await?;
        let mut encoder = ok();
        encoder.put(&post(at.file_system(), &attributes));
        for number in [status.total_bytes, status.free_bytes, status.free_bytes] {
            encoder.u64(number);
        }
        for number in [status.total_nodes, status.free_nodes, status.free_nodes] {
            encoder.u64(number);
        }
        // It changes at any time.
        encoder.u32(0);
        Ok(encoder.into())
    }

    async fn limits(&self, object: Bytes) -> Outcome<Done> {
        let at = self.at(&object).await?;
        let attributes = at.opened.files.attributes(&at.node).await?;
        let most = DATA_BYTES_MAX as u32;
        let mut encoder = ok();
        encoder.put(&fsinfo3 {
            obj_attributes: post(at.file_system(), &attributes),
            rtmax: most,
            rtpref: most,
            rtmult: 4096,
            wtmax: most,
            wtpref: most,
            wtmult: 4096,
            dtpref: LISTING_BYTES,
            maxfilesize: FILE_BYTES_MAX,
            time_delta: nfstime3 { seconds: 0, nseconds: 1 },
            properties: FSF_LINK | FSF_SYMLINK | FSF_HOMOGENEOUS | FSF_CANSETTIME,
        });
        Ok(encoder.into())
    }

    async fn path_limits(&self, object: Bytes) -> Outcome<Done> {
        let at = self.at(&object).await?;
        let attributes = at.opened.files.attributes(&at.node).await?;
        let mut encoder = ok();
        encoder.put(&post(at.file_system(), &attributes));
        encoder.u32(LINKS_MAX as u32);
        encoder.u32(POSIX_NAME_BYTES_MAX as u32);
        // Long names are refused, only root gives files away, and case counts and is kept.
        for answer in [true, true, false, true] {
            encoder.bool(answer);
        }
        Ok(encoder.into())
    }
}

fn made(at: &At, made: &Made) -> Outcome<Done> {
    let mut encoder = ok();
    encoder.put(&post_op_fh3::handle(nfs_fh3 { data: at.sign(made.attributes.node) }));
    encoder.put(&post(at.file_system(), &made.attributes));
    encoder.put(&wcc(at.file_system(), &made.directory));
    Ok(encoder.into())
}

/// What the caller may do, as ACCESS says it.
fn access_bits(at: &At, attributes: &FileAttributes) -> u32 {
    const READ: u32 = 0x01;
    const LOOKUP: u32 = 0x02;
    const MODIFY: u32 = 0x04;
    const EXTEND: u32 = 0x08;
    const DELETE: u32 = 0x10;
    const EXECUTE: u32 = 0x20;
    let granted = at.caller.granted(attributes, Access { read: true, write: true, execute: true });
    let is_directory = attributes.file_type == FileType::Directory;
    let may_write = granted.write && !at.opened.export.read_only;
    let bit = |may: bool, bits: u32| if may { bits } else { 0 };
    let change = if is_directory { MODIFY | EXTEND | DELETE } else { MODIFY | EXTEND };
    bit(granted.read, READ)
        | bit(granted.execute, if is_directory { LOOKUP } else { EXECUTE })
        | bit(may_write && (!is_directory || granted.execute), change)
}
