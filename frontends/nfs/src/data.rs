//! READ, WRITE and COMMIT.
//!
//! Clients check permission when a program opens a file, and send calls as the user who did; so as other servers do, this one lets a file's owner
//! read and write it whatever its mode has become meanwhile, and whoever may run a file read it.

use crate::attributes::post;
use crate::connection::DATA_BYTES_MAX;
use crate::door::Shared;
use crate::procedures::{At, Done};
use crate::status::{Outcome, Refusal};
use crate::wire::Encoder;
use bytes::Bytes;
use nfsserve::nfs::{nfsstat3, post_op_attr, pre_op_attr, wcc_data};
use std::sync::Arc;
use tombolo_core::engine::fs::{Access, Caller, FileAttributes, SetAttributes};
use tombolo_core::{FileType, OpenFile};

const WRITE: Access = Access { read: false, write: true, execute: false };
/// How stable a WRITE shall be, and was made (`stable_how`).
const UNSTABLE: u32 = 0;
const FILE_SYNC: u32 = 2;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

async fn open(shared: &Shared, at: &At, writes: bool) -> Outcome<(Arc<OpenFile>, FileAttributes)> {
    let attributes = at.opened.files.attributes(&at.node).await?;
    match attributes.file_type {
        FileType::Regular => {}
        FileType::Directory => return Err(Refusal(nfsstat3::NFS3ERR_ISDIR)),
        _ => return Err(Refusal(nfsstat3::NFS3ERR_INVAL)),
    }
    Ok((shared.open.get(&at.opened.files, at.opened.id, at.node, writes).await?, attributes))
}

fn must(at: &At, attributes: &FileAttributes, wanted: &[Access]) -> Outcome<()> {
    let may = |wanted: &Access| at.caller.may(attributes, *wanted);
    if at.caller.owns(attributes) || wanted.iter().any(may) {
        return Ok(());
    }
    Err(Refusal(nfsstat3::NFS3ERR_ACCES))
}

pub(crate) async fn read(shared: &Shared, at: &At, offset: u64, count: u32) -> Outcome<Done> {
    let (file, attributes) = open(shared, at, false).await?;
    must(at, &attributes, &[Access::READ, Access::EXECUTE])?;
    let data = file.read_pieces_at(offset, (count as usize).min(DATA_BYTES_MAX)).await?;
    let length = u32::try_from(data.iter().map(Bytes::len).sum::<usize>()).unwrap_or_default();
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder.put(&post(at.opened.file_system(), &attributes));
    encoder.u32(length);
    encoder.bool(offset.saturating_add(u64::from(length)) >= attributes.size);
    encoder.u32(length);
    Ok(Done { encoder, data })
}

pub(crate) async fn write(shared: &Shared, at: &At, offset: u64, stable: u32, data: Bytes) -> Outcome<Done> {
    at.must_change()?;
    let (file, attributes) = open(shared, at, true).await?;
    must(at, &attributes, &[WRITE])?;
    let is_privileged =
        attributes.mode & SET_UID != 0 || attributes.mode & (SET_GID | GROUP_EXECUTE) == SET_GID | GROUP_EXECUTE;
    if is_privileged && at.caller.uid != 0 {
        let mode = attributes.mode & !SET_UID & if attributes.mode & GROUP_EXECUTE != 0 { !SET_GID } else { !0 };
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        at.opened.files.set_attributes(&Caller::root(), &at.node, set, None).await?;
    }
    let length = u32::try_from(data.len()).unwrap_or_default();
    // Before the bytes are taken: if they are lost on the way, the client has the verifier of before.
    let verifier = shared.write_verifier(&at.opened.files);
    file.write_at(offset, data).await?;
    let committed = if stable == UNSTABLE {
        UNSTABLE
    } else {
        file.fsync().await?;
        FILE_SYNC
    };
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder.put(&after(at, &file).await?);
    encoder.u32(length);
    encoder.u32(committed);
    encoder.0.extend_from_slice(&verifier);
    Ok(encoder.into())
}

pub(crate) async fn commit(shared: &Shared, at: &At) -> Outcome<Done> {
    let (file, _) = open(shared, at, true).await?;
    file.fsync().await?;
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder.put(&after(at, &file).await?);
    // After the save: what was lost until then is not on disk.
    encoder.0.extend_from_slice(&shared.write_verifier(&at.opened.files));
    Ok(encoder.into())
}

/// What the file is now. What it was is left out: writers side by side are not told apart.
async fn after(at: &At, file: &OpenFile) -> Outcome<wcc_data> {
    let after: post_op_attr = post(at.opened.file_system(), &file.attributes().await?);
    Ok(wcc_data { before: pre_op_attr::Void, after })
}
