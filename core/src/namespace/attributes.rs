//! Attributes that two segments change at the same time: a mode here, a time or an extended attribute there. Each part is what was set last, and nobody's part
//! is lost by another's.
//!
//! A value notes when its parts were set. Where several are live, what shows is made of all of them whenever it is asked for. Nothing is stored for it, so the same live
//! values show the same everywhere, however they came.

use super::rows::AttributesValue;
use crate::object::TimeNs;
use crate::register::Register;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A part of attributes that is set as one. What it was set to last counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Permission bits, the access control list that they are a part of, owner, group and device number: a mode is for the owner it was set for.
    Access,
    /// A modification time set by hand.
    Modified,
    /// An access time set by hand.
    Accessed,
    /// An extended attribute.
    Xattr(String),
}

/// The extended attribute with a node's access control list; it belongs to [`Part::Access`].
pub const ACCESS_LIST: &str = "system.posix_acl_access";
/// The most parts of one node whose times are noted; the oldest go first. Those of extended attributes that were removed would be kept for ever.
pub(super) const PARTS_MAX: usize = 64;
/// The most live values that what shows is made of, those that rank highest. Each is what somebody set who had not seen the others.
const VALUES_MAX: usize = 64;

/// What a part says, for comparing.
#[derive(PartialEq, Eq)]
enum Said<'a> {
    Access([Option<u32>; 3], Option<u64>, Option<&'a Bytes>),
    Modified(Option<(TimeNs, TimeNs)>),
    Accessed(Option<TimeNs>),
    Xattr(Option<&'a Bytes>),
}

impl AttributesValue {
    fn said(&self, part: &Part) -> Said<'_> {
        let a = &self.attributes;
        match part {
            Part::Access => Said::Access([a.mode, a.uid, a.gid], a.rdev, a.xattrs.get(ACCESS_LIST)),
            Part::Modified => Said::Modified(self.modified_ns),
            Part::Accessed => Said::Accessed(self.accessed_ns),
            Part::Xattr(name) => Said::Xattr(a.xattrs.get(name)),
        }
    }

    fn take(&mut self, part: &Part, from: &AttributesValue) {
        let (a, other) = (&mut self.attributes, &from.attributes);
        let xattr = match part {
            Part::Access => {
                (a.mode, a.uid, a.gid, a.rdev) = (other.mode, other.uid, other.gid, other.rdev);
                Some(ACCESS_LIST)
            }
            Part::Modified => {
                self.modified_ns = from.modified_ns;
                None
            }
            Part::Accessed => {
                self.accessed_ns = from.accessed_ns;
                None
            }
            Part::Xattr(name) => Some(name.as_str()),
        };
        let Some(name) = xattr else { return };
        match other.xattrs.get(name) {
            Some(value) => a.xattrs.insert(name.to_owned(), value.clone()),
            None => a.xattrs.remove(name),
        };
    }

    /// When a part was set last; 0: when the node was made.
    fn set_ns(&self, part: &Part) -> TimeNs {
        self.set.iter().find(|(noted, _)| noted == part).map_or(0, |(_, time)| *time)
    }

    /// A part was set at this time.
    pub(super) fn note(&mut self, part: Part, time: TimeNs) {
        match self.set.binary_search_by(|(noted, _)| noted.cmp(&part)) {
            Ok(at) => {
                if let Some((_, noted)) = self.set.get_mut(at) {
                    *noted = time;
                }
            }
            Err(at) => self.set.insert(at, (part, time)),
        }
        while self.set.len() > PARTS_MAX {
            let oldest = self.set.iter().enumerate().min_by_key(|(_, (_, time))| *time).map_or(0, |(at, _)| at);
            self.set.remove(oldest);
        }
    }

    /// Parts that any of both has, or has had.
    fn parts(&self, other: &AttributesValue) -> BTreeSet<Part> {
        let mut parts = BTreeSet::from([Part::Access, Part::Modified, Part::Accessed]);
        for value in [self, other] {
            let xattrs = value.attributes.xattrs.keys().filter(|name| *name != ACCESS_LIST);
            parts.extend(xattrs.cloned().map(Part::Xattr));
            parts.extend(value.set.iter().map(|(part, _)| part.clone()));
        }
        parts
    }

    /// Notes that this was made of `before` now, at [`AttributesValue::changed_ns`].
    pub(super) fn note_changes(&mut self, before: &AttributesValue) {
        let differs = |part: &Part| self.said(part) != before.said(part);
        let changed: Vec<Part> = self.parts(before).into_iter().filter(differs).collect();
        for part in changed {
            self.note(part, self.changed_ns);
        }
    }

    /// Takes over what `other` has newer.
    fn join(&mut self, other: &AttributesValue) {
        for part in self.parts(other) {
            let theirs = other.set_ns(&part);
            if theirs > self.set_ns(&part) {
                self.take(&part, other);
                self.note(part, theirs);
            }
        }
        self.changed_ns = self.changed_ns.max(other.changed_ns);
    }
}

/// The attributes that show: each part of the live value in which it was set last, of several that say the same time of the one that ranks highest.
pub(super) fn shown(register: &Register<AttributesValue>) -> Option<Cow<'_, AttributesValue>> {
    let mut live = register.live_values().map(|(_, value)| value);
    let first = live.next()?;
    let mut shown = Cow::Borrowed(first);
    for other in live.take(VALUES_MAX - 1) {
        shown.to_mut().join(other);
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SegmentId;
    use crate::register::{Dot, Write};
    use proptest::prelude::*;

    fn edits() -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::vec((0u8..7, 0u8..4), 0..6)
    }

    /// What comes of edits of `base`, at times that nobody else has.
    fn edited(base: &AttributesValue, edits: &[(u8, u8)], by: i64) -> AttributesValue {
        let mut value = base.clone();
        for (what, to) in edits {
            let before = value.clone();
            let number = u32::from(*to);
            match what {
                0 => value.attributes.mode = Some(number),
                1 => value.attributes.uid = Some(number),
                2 => value.modified_ns = Some((i64::from(number), 1)),
                3 => value.accessed_ns = Some(i64::from(number)),
                4 => drop(value.attributes.xattrs.insert("user.a".into(), vec![*to].into())),
                5 => drop(value.attributes.xattrs.insert(ACCESS_LIST.into(), vec![*to].into())),
                _ => drop(value.attributes.xattrs.remove("user.a")),
            }
            value.changed_ns += 10 + by;
            value.note_changes(&before);
        }
        value
    }

    fn joined(values: &[&AttributesValue]) -> AttributesValue {
        let mut register = Register::empty();
        for (at, value) in (1u8..).zip(values) {
            let dot = Dot::new(SegmentId([at; 16]), 1);
            let mut other = Register::empty();
            other.local_write(Write { dot, stamp_time: 1, value: Some((*value).clone()) }, &[]);
            register.merge(&other);
        }
        shown(&register).unwrap().into_owned()
    }

    proptest! {
        /// As long as nobody sets two things at one instant, it does not matter which value ranks highest.
        #[test]
        fn values_that_are_joined_in_any_order_say_the_same(a in edits(), b in edits(), c in edits()) {
            let base = edited(&AttributesValue { changed_ns: 5, ..AttributesValue::default() }, &[(0, 3), (4, 1)], 0);
            let (a, b, c) = (edited(&base, &a, 1), edited(&base, &b, 2), edited(&base, &c, 3));
            let all = joined(&[&a, &b, &c]);
            prop_assert_eq!(&joined(&[&c, &b, &a]), &all);
            prop_assert_eq!(&joined(&[&b, &c, &a, &b]), &all);
            // What was made of one that was joined is as new.
            prop_assert_eq!(&joined(&[&joined(&[&a, &b]), &c, &a]), &all);
            let later = edited(&a, &[(3, 3)], 1);
            prop_assert_eq!(joined(&[&later, &a, &b]), joined(&[&later, &b]));
        }
    }

    #[test]
    fn nobodys_part_is_lost() {
        let base = edited(&AttributesValue::default(), &[(0, 1), (4, 1)], 0);
        let mode = edited(&base, &[(0, 2)], 1);
        let rest = edited(&base, &[(2, 3), (6, 0)], 2);
        let both = joined(&[&mode, &rest]);
        assert_eq!((both.attributes.mode, both.modified_ns), (Some(2), Some((3, 1))));
        assert!(both.attributes.xattrs.is_empty());
    }

    #[test]
    fn the_times_of_what_was_removed_are_not_kept_for_ever() {
        let mut value = AttributesValue::default();
        for at in 0..500 {
            let before = value.clone();
            value.attributes.xattrs = [(format!("user.{at}"), Bytes::new())].into();
            value.changed_ns += 1;
            value.note_changes(&before);
        }
        assert_eq!(value.set.len(), PARTS_MAX);
        assert!(value.set.is_sorted());
    }
}
