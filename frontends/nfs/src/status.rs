//! The protocol's word for an error.

use nfsserve::nfs::nfsstat3;
use tombolo_core::{Error, ErrorKind, Subject};

/// Why a procedure did not do what it was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal(pub(crate) nfsstat3);

pub(crate) type Outcome<T> = Result<T, Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        use nfsstat3::*;
        Refusal(match (error.kind(), error.subject()) {
            (ErrorKind::NotFound, Subject::Bucket) => NFS3ERR_STALE,
            (ErrorKind::Precondition, _) => NFS3ERR_NOT_SYNC,
            // Try again later: others are in the way, or it is on its way here.
            (ErrorKind::Busy | ErrorKind::Offline, _) => NFS3ERR_JUKEBOX,
            _ => match error.errno() {
                1 => NFS3ERR_PERM,
                2 => NFS3ERR_NOENT,
                6 => NFS3ERR_NXIO,
                13 => NFS3ERR_ACCES,
                17 => NFS3ERR_EXIST,
                18 => NFS3ERR_XDEV,
                20 => NFS3ERR_NOTDIR,
                21 => NFS3ERR_ISDIR,
                22 => NFS3ERR_INVAL,
                27 => NFS3ERR_FBIG,
                28 => NFS3ERR_NOSPC,
                30 => NFS3ERR_ROFS,
                31 => NFS3ERR_MLINK,
                36 => NFS3ERR_NAMETOOLONG,
                39 => NFS3ERR_NOTEMPTY,
                95 => NFS3ERR_NOTSUPP,
                116 => NFS3ERR_STALE,
                122 => NFS3ERR_DQUOT,
                _ => {
                    tracing::error!(%error, "a call failed");
                    NFS3ERR_IO
                }
            },
        })
    }
}
