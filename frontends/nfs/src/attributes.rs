//! Attributes, both ways.

use crate::status::Refusal;
use nfsserve::nfs::{
    fattr3, ftype3, nfsstat3, nfstime3, post_op_attr, pre_op_attr, sattr3, set_atime, set_gid3, set_mode3, set_mtime,
    set_size3, set_uid3, specdata3, wcc_attr, wcc_data,
};
use tombolo_core::FileType;
use tombolo_core::engine::fs::{AttributeChange, ChangeStamp, FileAttributes, SetAttributes, SetTime};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Times before 1970 and after 2106 are what the protocol can't say: the nearest that it can.
fn to_time(ns: i64) -> nfstime3 {
    match u32::try_from(ns.div_euclid(NS_PER_SECOND)) {
        Ok(seconds) => nfstime3 { seconds, nseconds: ns.rem_euclid(NS_PER_SECOND) as u32 },
        Err(_) if ns < 0 => nfstime3 { seconds: 0, nseconds: 0 },
        Err(_) => nfstime3 { seconds: u32::MAX, nseconds: 999_999_999 },
    }
}

pub(crate) fn from_time(time: nfstime3) -> i64 {
    i64::from(time.seconds) * NS_PER_SECOND + i64::from(time.nseconds)
}

fn kind(kind: FileType) -> ftype3 {
    match kind {
        FileType::Regular => ftype3::NF3REG,
        FileType::Directory => ftype3::NF3DIR,
        FileType::Symlink => ftype3::NF3LNK,
        FileType::Fifo => ftype3::NF3FIFO,
        FileType::Socket => ftype3::NF3SOCK,
        FileType::CharDevice => ftype3::NF3CHR,
        FileType::BlockDevice => ftype3::NF3BLK,
    }
}

/// As Linux packs device numbers into 64 bits.
pub(crate) fn device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn device_parts(device: u64) -> specdata3 {
    specdata3 {
        specdata1: ((device >> 8 & 0xfff) | (device >> 32 & !0xfff)) as u32,
        specdata2: ((device & 0xff) | (device >> 12 & !0xff)) as u32,
    }
}

pub(crate) fn fattr(file_system: u64, attributes: &FileAttributes) -> fattr3 {
    fattr3 {
        ftype: kind(attributes.file_type),
        mode: attributes.mode,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size,
        used: attributes.allocated_bytes,
        rdev: device_parts(attributes.rdev),
        fsid: file_system,
        fileid: attributes.file_id,
        atime: to_time(attributes.accessed_ns),
        mtime: to_time(attributes.modified_ns),
        ctime: to_time(attributes.changed_ns),
    }
}

pub(crate) fn post(file_system: u64, attributes: &FileAttributes) -> post_op_attr {
    post_op_attr::attributes(fattr(file_system, attributes))
}

fn pre(stamp: &ChangeStamp) -> pre_op_attr {
    let (mtime, ctime) = (to_time(stamp.modified_ns), to_time(stamp.changed_ns));
    pre_op_attr::attributes(wcc_attr { size: stamp.size, mtime, ctime })
}

/// What a change was made of: both sides from one transaction, or no `before`.
pub(crate) fn wcc(file_system: u64, change: &AttributeChange) -> wcc_data {
    let before = change.before.as_ref().map_or(pre_op_attr::Void, pre);
    wcc_data { before, after: post(file_system, &change.after) }
}

/// What shall be set. Nanoseconds must be less than a second.
pub(crate) fn settings(set: &sattr3) -> Result<SetAttributes, Refusal> {
    let checked = |time: nfstime3| match time.nseconds {
        0..1_000_000_000 => Ok(SetTime::To(from_time(time))),
        _ => Err(Refusal(nfsstat3::NFS3ERR_INVAL)),
    };
    Ok(SetAttributes {
        mode: if let set_mode3::mode(mode) = set.mode { Some(mode & 0o7777) } else { None },
        // Clients have taken it off.
        umask: 0,
        uid: if let set_uid3::uid(uid) = set.uid { Some(uid) } else { None },
        gid: if let set_gid3::gid(gid) = set.gid { Some(gid) } else { None },
        size: if let set_size3::size(size) = set.size { Some(size) } else { None },
        accessed: match set.atime {
            set_atime::DONT_CHANGE => SetTime::Keep,
            set_atime::SET_TO_SERVER_TIME => SetTime::Now,
            set_atime::SET_TO_CLIENT_TIME(time) => checked(time)?,
        },
        modified: match set.mtime {
            set_mtime::DONT_CHANGE => SetTime::Keep,
            set_mtime::SET_TO_SERVER_TIME => SetTime::Now,
            set_mtime::SET_TO_CLIENT_TIME(time) => checked(time)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_times_survive() {
        for (major, minor) in [(0, 0), (8, 1), (4095, 255), (5000, 70_000), (u32::MAX, u32::MAX)] {
            let parts = device_parts(device(major, minor));
            assert_eq!((parts.specdata1, parts.specdata2), (major, minor));
        }
        for ns in [0, 1, 999_999_999, 1_700_000_000_123_456_789] {
            assert_eq!(from_time(to_time(ns)), ns);
        }
        assert_eq!(from_time(to_time(-5)), 0);
    }
}
