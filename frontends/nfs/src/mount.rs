//! The MOUNT program, version 3 (RFC 1813, appendix I): from a path to the handle of what is exported there.

use crate::exports::is_step;
use crate::registry::{Opened, Registry, below};
use crate::rpc::Answer;
use crate::wire::{Decoder, Encoder, Garbage};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tombolo_core::{ErrorKind, NodeId, Result};

pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;

const NULL: u32 = 0;
const MNT: u32 = 1;
pub(crate) const DUMP: u32 = 2;
const UMNT: u32 = 3;
const UMNTALL: u32 = 4;
pub(crate) const EXPORT: u32 = 5;

const PATH_BYTES_MAX: usize = 1024;
/// How many mounts are remembered, for DUMP, which is for people.
const MOUNTS_MAX: usize = 1024;

const OK: u32 = 0;
const ERR_NOENT: u32 = 2;
const ERR_IO: u32 = 5;
const ERR_ACCES: u32 = 13;
const ERR_NOTDIR: u32 = 20;
const AUTH_UNIX: u32 = 1;

/// Who has said that they mounted what.
#[derive(Default)]
pub(crate) struct Mounts(Mutex<BTreeSet<(IpAddr, String)>>);

impl Mounts {
    pub(crate) async fn answer(
        &self,
        registry: &Registry,
        peer: SocketAddr,
        version: u32,
        procedure: u32,
        arguments: Decoder,
    ) -> Answer {
        if version != VERSION {
            return Answer::NoVersion(VERSION, VERSION);
        }
        match self.perform(registry, peer, procedure, arguments).await {
            Ok(answer) => answer,
            Err(Garbage) => Answer::Garbage,
        }
    }

    async fn perform(
        &self,
        registry: &Registry,
        peer: SocketAddr,
        procedure: u32,
        mut arguments: Decoder,
    ) -> std::result::Result<Answer, Garbage> {
        let mut encoder = Encoder::default();
        match procedure {
            NULL | UMNTALL => {
                arguments.end()?;
                if procedure == UMNTALL {
                    self.0.lock().retain(|(address, _)| *address != peer.ip());
                }
            }
            MNT => {
                let path = path(&mut arguments)?;
                match find(registry, peer, &path).await {
                    Ok((opened, node)) => {
                        encoder.u32(OK);
                        encoder.opaque(&registry.signer.sign(&opened.handle(node)));
                        encoder.u32(1);
                        encoder.u32(AUTH_UNIX);
                        let mut mounts = self.0.lock();
                        if mounts.len() < MOUNTS_MAX {
                            mounts.insert((peer.ip(), path));
                        }
                    }
                    Err(status) => {
                        tracing::info!(%peer, path, status, "a mount is refused");
                        encoder.u32(status);
                    }
                }
            }
            DUMP => {
                arguments.end()?;
                for (address, path) in self.0.lock().iter() {
                    encoder.u32(1);
                    encoder.opaque(address.to_string().as_bytes());
                    encoder.opaque(path.as_bytes());
                }
                encoder.u32(0);
            }
            UMNT => {
                let path = path(&mut arguments)?;
                self.0.lock().remove(&(peer.ip(), path));
            }
            EXPORT => {
                arguments.end()?;
                // What can't be read is not there to be mounted either.
                let exports = registry.all().await.unwrap_or_default();
                for export in exports.iter().filter(|export| export.admits(peer)) {
                    encoder.u32(1);
                    encoder.opaque(export.path().as_bytes());
                    for group in export.groups() {
                        encoder.u32(1);
                        encoder.opaque(group.as_bytes());
                    }
                    encoder.u32(0);
                }
                encoder.u32(0);
            }
            _ => return Ok(Answer::NoProcedure),
        }
        Ok(encoder.into())
    }
}

/// `/` before it, none after it, none twice.
fn path(arguments: &mut Decoder) -> std::result::Result<String, Garbage> {
    let path = arguments.opaque(PATH_BYTES_MAX)?;
    arguments.end()?;
    let path = std::str::from_utf8(&path).map_err(|_| Garbage)?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Ok(format!("/{}", parts.join("/")))
}

/// The export that `path` names or is below of, whole components compared, and the directory there. The longest that fits counts. A path with `.` or
/// `..` in it is refused, so that no mount leaves the export that its beginning names.
async fn find(registry: &Registry, peer: SocketAddr, path: &str) -> std::result::Result<(Arc<Opened>, NodeId), u32> {
    if path.split('/').any(is_step) {
        return Err(ERR_ACCES);
    }
    let mut exports = registry.all().await.map_err(|_| ERR_IO)?;
    exports.sort_by_key(|export| std::cmp::Reverse(export.path().len()));
    let below_of = |export: &str| match path.strip_prefix(export) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest.to_owned()),
        _ => None,
    };
    let found = exports.into_iter().find_map(|export| below_of(&export.path()).map(|rest| (export, rest)));
    let (export, rest) = found.ok_or(ERR_NOENT)?;
    if !export.admits(peer) {
        return Err(ERR_ACCES);
    }
    let opened = registry.open(export).await.map_err(|error| status(error.kind()))?;
    let node = directory(&opened, &rest).await.map_err(|error| status(error.kind()))?;
    Ok((opened, node))
}

async fn directory(opened: &Opened, rest: &str) -> Result<NodeId> {
    let node = below(&opened.files, opened.root, rest).await?;
    opened.files.read_directory(None, &node, None, 1, false).await?;
    Ok(node)
}

fn status(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::NotFound => ERR_NOENT,
        ErrorKind::Invalid => ERR_NOTDIR,
        ErrorKind::Denied => ERR_ACCES,
        _ => ERR_IO,
    }
}
