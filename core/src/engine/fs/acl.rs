//! POSIX access control lists (POSIX.1e draft 17, as Linux has them: acl(5)), kept as the extended attributes that Linux keeps them in.
//!
//! The mode decides for the owner, for others, and what the mask is; a list adds users and groups, and what the mask leaves of the owning group. So the
//! mode is right wherever only that is looked at, and `chmod` changes a list without touching it: what is kept is read together with the mode.

use super::{Access, Caller};
use bytes::{Buf, BufMut, Bytes};

/// Who may do what with a node.
pub(super) const ACCESS: &str = crate::namespace::ACCESS_LIST;
/// What is made in a directory begins with this.
pub(super) const DEFAULT: &str = "system.posix_acl_default";

/// Of Linux' extended attributes (`linux/posix_acl_xattr.h`): little-endian, this, and for each entry tag, permission and id.
const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Of an entry that names nobody.
const NO_ID: u32 = u32::MAX;

/// An access control list. Rights are bits: 4 reading, 2 writing, 1 executing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessList {
    /// The owner's.
    pub(super) owner: u32,
    /// Further users, and their rights under the mask.
    pub users: Vec<(u32, u32)>,
    /// The owning group's, under the mask.
    pub group: u32,
    /// Further groups, and theirs.
    pub groups: Vec<(u32, u32)>,
    /// What the rights of users and groups are cut to.
    pub(super) mask: Option<u32>,
    /// Everybody else's.
    pub(super) other: u32,
}

impl AccessList {
    /// From an extended attribute; `None`: it is none that Linux would take (`posix_acl_valid`).
    pub(super) fn read(mut value: &[u8]) -> Option<AccessList> {
        if value.try_get_u32_le().ok()? != VERSION || !value.len().is_multiple_of(ENTRY_BYTES) {
            return None;
        }
        let mut list = AccessList::default();
        let mut last = 0;
        while let Ok(tag) = value.try_get_u16_le() {
            let rights = u32::from(value.try_get_u16_le().ok()?);
            let id = value.try_get_u32_le().ok()?;
            let is_next = tag > last || tag == last && matches!(tag, USER | GROUP);
            if rights > 7 || !is_next || last == 0 && tag != USER_OBJ {
                return None;
            }
            match tag {
                USER_OBJ => list.owner = rights,
                GROUP_OBJ => list.group = rights,
                MASK => list.mask = Some(rights),
                OTHER => list.other = rights,
                USER if id != NO_ID => list.users.push((id, rights)),
                GROUP if id != NO_ID && last >= GROUP_OBJ => list.groups.push((id, rights)),
                _ => return None,
            }
            // The owning group comes before whatever is behind it.
            if tag > GROUP_OBJ && last < GROUP_OBJ {
                return None;
            }
            last = tag;
        }
        let is_named = !list.users.is_empty() || !list.groups.is_empty();
        (last == OTHER && (list.mask.is_some() || !is_named)).then_some(list)
    }

    /// As an extended attribute.
    pub(super) fn write(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u32_le(VERSION);
        let mut entry = |tag: u16, rights: u32, id: u32| {
            out.put_u16_le(tag);
            out.put_u16_le((rights & 7) as u16);
            out.put_u32_le(id);
        };
        entry(USER_OBJ, self.owner, NO_ID);
        self.users.iter().for_each(|(id, rights)| entry(USER, *rights, *id));
        entry(GROUP_OBJ, self.group, NO_ID);
        self.groups.iter().for_each(|(id, rights)| entry(GROUP, *rights, *id));
        if let Some(mask) = self.mask {
            entry(MASK, mask, NO_ID);
        }
        entry(OTHER, self.other, NO_ID);
        out.into()
    }

    /// The bits of a mode that say the same, as far as a mode can.
    pub(super) fn mode(&self) -> u32 {
        self.owner << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    /// Whether a mode says all of it.
    pub(super) fn is_mode(&self) -> bool {
        self.mask.is_none()
    }

    /// The list of a node that has this mode.
    pub(super) fn with_mode(&self, mode: u32) -> AccessList {
        let mut list = AccessList { owner: mode >> 6 & 7, other: mode & 7, ..self.clone() };
        *list.mask.as_mut().unwrap_or(&mut list.group) = mode >> 3 & 7;
        list
    }

    /// Of a directory's default list: that of something new, for which `mode` was asked.
    pub(super) fn of_new(&self, mode: u32) -> AccessList {
        self.with_mode(self.mode() & mode)
    }

    /// Whether one who is not the owner, and may belong to the owning group `gid`, may do `wanted`; `None`: the list does not name them. `mask` as the mode has
    /// it.
    pub(super) fn lets(&self, caller: &Caller, gid: u32, mask: u32, wanted: Access) -> Option<bool> {
        let may = |rights: u32| Access::of_bits(rights & mask).and(wanted) == wanted;
        if let Some((_, rights)) = self.users.iter().find(|(id, _)| *id == caller.uid) {
            return Some(may(*rights));
        }
        let groups = std::iter::once((gid, self.group)).chain(self.groups.iter().copied());
        let mut groups = groups.filter(|(id, _)| caller.is_in(*id)).peekable();
        groups.peek()?;
        // One of them must let all of it; two that let half each don't.
        Some(groups.any(|(_, rights)| may(rights)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fs::FileAttributes;
    use crate::id::NodeId;
    use crate::object::FileType;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            out.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            out.extend(id.to_le_bytes());
        }
        out
    }

    const FULL: &[(u16, u16, u32)] = &[
        (USER_OBJ, 7, NO_ID),
        (USER, 6, 10),
        (USER, 0, 11),
        (GROUP_OBJ, 4, NO_ID),
        (GROUP, 4, 20),
        (GROUP, 2, 21),
        (MASK, 6, NO_ID),
        (OTHER, 1, NO_ID),
    ];

    #[test]
    fn lists_are_read_as_they_were_written_and_others_refused() {
        let list = AccessList::read(&value(FULL)).unwrap();
        assert_eq!(list.write(), value(FULL));
        assert_eq!((list.mode(), list.is_mode()), (0o761, false));
        assert_eq!(list.with_mode(0o640).mode(), 0o640);
        assert_eq!(list.with_mode(0o640).group, 4, "the mask is the mode's, the group's own stays");
        assert_eq!(list.of_new(0o750).mode(), 0o740);
        let plain = AccessList::read(&value(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)])).unwrap();
        assert_eq!((plain.mode(), plain.is_mode(), plain.with_mode(0o777).mode()), (0o640, true, 0o777));
        let without =
            |at: usize| FULL.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, e)| *e).collect::<Vec<_>>();
        for (at, what) in [(0, "owner"), (3, "group"), (6, "mask"), (7, "other")] {
            assert_eq!(AccessList::read(&value(&without(at))), None, "without {what}");
        }
        let mut swapped = FULL.to_vec();
        swapped.swap(1, 3);
        let mut double = FULL.to_vec();
        double.insert(0, FULL[0]);
        let mut rights = FULL.to_vec();
        rights[2].1 = 8;
        for bad in [swapped, double, rights, vec![], vec![(64, 0, 0)]] {
            assert_eq!(AccessList::read(&value(&bad)), None, "{bad:?}");
        }
        assert_eq!(AccessList::read(&value(FULL)[..20]), None);
        assert_eq!(AccessList::read(&[1, 0, 0, 0]), None);
    }

    #[test]
    fn the_first_entry_that_fits_decides_and_groups_together() {
        let attributes = FileAttributes {
            node: NodeId::ROOT,
            file_id: 1,
            file_type: FileType::Regular,
            mode: 0o761,
            links: 1,
            uid: 1,
            gid: 2,
            size: 0,
            allocated_bytes: 0,
            rdev: 0,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
            access_list: Some(Arc::new(AccessList::read(&value(FULL)).unwrap())),
        };
        let rw = Access { read: true, write: true, execute: false };
        let w = Access { read: false, write: true, execute: false };
        for (uid, gid, groups, wanted, expected) in [
            (1, 9, vec![], rw, true),
            (10, 9, vec![], rw, true),
            (10, 9, vec![], Access::EXECUTE, false),
            (11, 2, vec![20], Access::READ, false),
            (12, 2, vec![], Access::READ, true),
            (12, 2, vec![], w, false),
            (12, 9, vec![20, 21], w, true),
            (12, 9, vec![20, 21], rw, false),
            (12, 21, vec![], Access::EXECUTE, false),
            (12, 9, vec![], Access::EXECUTE, true),
            (12, 9, vec![], Access::READ, false),
        ] {
            let caller = Caller { uid, gid, groups };
            assert_eq!(caller.may(&attributes, wanted), expected, "{caller:?} {wanted:?}");
        }
        let caller = Caller { uid: 12, gid: 9, groups: vec![20, 21] };
        assert_eq!(caller.granted(&attributes, rw), rw, "each for itself");
        let masked = FileAttributes { mode: 0o701, ..attributes };
        assert!(!Caller { uid: 10, gid: 9, groups: vec![] }.may(&masked, Access::READ), "chmod has changed the mask");
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_is_read_again(
            tags in prop::collection::vec((prop::sample::select(vec![1u16, 2, 4, 8, 16, 32, 3]), 0u16..9, any::<u32>()), 0..9),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            is_sorted in any::<bool>(),
        ) {
            let mut tags = tags;
            if is_sorted {
                tags.sort_by_key(|(tag, ..)| *tag);
            }
            for value in [value(&tags), bytes] {
                if let Some(list) = AccessList::read(&value) {
                    prop_assert_eq!(AccessList::read(&list.write()), Some(list));
                }
            }
        }
    }
}
