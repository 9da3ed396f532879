//! Extended attributes.

use crate::caller::{Who, as_caller};
use crate::door::{Door, ENODATA, EOPNOTSUPP, ERANGE, Outcome, Refusal};
use bytes::Bytes;

const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
/// The access control list that goes with the mode.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// What `getxattr` and `listxattr` answer: how much room it takes, or it.
pub(crate) enum Sized {
    Length(u32),
    Data(Bytes),
}

/// `room` 0: the caller asks for the length.
fn sized(data: Bytes, room: u32) -> Outcome<Sized> {
    let length = u32::try_from(data.len()).map_err(|_| Refusal(ERANGE))?;
    match room {
        0 => Ok(Sized::Length(length)),
        room if room < length => Err(Refusal(ERANGE)),
        _ => Ok(Sized::Data(data)),
    }
}

/// Names are text here; others can't have been set.
fn text(name: &[u8]) -> Outcome<&str> {
    std::str::from_utf8(name).map_err(|_| Refusal(EOPNOTSUPP))
}

impl Door {
    pub(crate) async fn xattr(&self, who: Who, number: u64, name: &[u8], room: u32) -> Outcome<Sized> {
        let (_, files, node) = self.node(number, ENODATA)?;
        let name = text(name)?;
        sized(as_caller!(who, caller, files.xattr(&caller, &node, name).await)?, room)
    }

    pub(crate) async fn list_xattrs(&self, who: Who, number: u64, room: u32) -> Outcome<Sized> {
        let (_, files, node) = match self.node(number, 0) {
            Err(Refusal(0)) => return sized(Bytes::new(), room),
            other => other?,
        };
        let mut list = Vec::new();
        for name in files.list_xattrs(&who.plain(), &node).await? {
            list.extend_from_slice(name.as_bytes());
            list.push(0);
        }
        sized(list.into(), room)
    }

    pub(crate) async fn set_xattr(&self, who: Who, number: u64, name: &[u8], value: Bytes, flags: i32) -> Outcome<()> {
        let (_, files, node) = self.node_to_change(number)?;
        let must_exist = match flags {
            XATTR_CREATE => Some(false),
            XATTR_REPLACE => Some(true),
            _ => None,
        };
        let name = text(name)?;
        if name == ACCESS_LIST {
            // Whether a caller is in the file's group decides what becomes of set-group-id.
            return Ok(files.set_xattr(&who.with_groups(), &node, name, value, must_exist).await?);
        }
        Ok(as_caller!(who, caller, files.set_xattr(&caller, &node, name, value.clone(), must_exist).await)?)
    }

    pub(crate) async fn remove_xattr(&self, who: Who, number: u64, name: &[u8]) -> Outcome<()> {
        let (_, files, node) = self.node_to_change(number)?;
        let name = text(name)?;
        Ok(as_caller!(who, caller, files.remove_xattr(&caller, &node, name).await)?)
    }
}
