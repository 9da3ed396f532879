//! Names: which are well formed, and the derived ones that conflicts show under.

use crate::id::SegmentId;
use crate::register::Dot;
use bytes::Bytes;

/// The longest name that POSIX doors can show, in bytes.
const COMPONENT_BYTES_MAX: usize = 255;

/// Whether `name` may name a file in a directory: not empty, no `/`.
pub fn is_file_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/')
}

/// Whether `name` may name a directory: one `/`, at its end. (A lone `/` is the directory between two slashes of an S3 key.)
pub fn is_directory_name(name: &[u8]) -> bool {
    name.split_last().is_some_and(|(last, stem)| *last == b'/' && !stem.contains(&b'/'))
}

/// What to call a segment whose name is not known: the first 8 digits of its id.
pub fn short_segment_name(segment: &SegmentId) -> String {
    format!("{segment:?}")
}

/// The name under which the write `dot` to `name` shows when it can't have the name itself: `STEM (conflict SEGMENT SEQ).EXT`, a directory's without extension and
/// with its `/`. `attempt` counts from 1; higher ones add a number, for when the derived name is taken too.
///
/// The stem is cut so that the name fits 255 bytes (or is no longer than the name it comes from).
pub fn conflict_name(name: &[u8], dot: Dot, segment_name: &str, attempt: u32) -> Bytes {
    let (body, slash) = match name.split_last() {
        Some((b'/', body)) => (body, "/"),
        _ => (name, ""),
    };
    let dot_at = if slash.is_empty() { body.iter().rposition(|&b| b == b'.') } else { None };
    // A leading dot hides a file and a trailing one ends nothing; neither starts an extension.
    let (stem, extension) = match dot_at {
        Some(at) if at > 0 && at + 1 < body.len() => body.split_at(at),
        _ => (body, &[][..]),
    };
    let again = if attempt > 1 { format!(" {attempt}") } else { String::new() };
    let mark = format!(" (conflict {segment_name} {}{again})", dot.sequence);
    let mut limit = COMPONENT_BYTES_MAX.max(body.len()).saturating_sub(mark.len());
    // An extension as long as this is none.
    let extension = if extension.len() * 2 < limit { extension } else { &[] };
    limit -= extension.len().min(limit);
    let mut stem = stem.get(..limit).unwrap_or(stem);
    if let Err(error) = std::str::from_utf8(stem)
        && error.error_len().is_none()
    {
        // Cut in the middle of a character.
        stem = stem.get(..error.valid_up_to()).unwrap_or(stem);
    }
    [stem, mark.as_bytes(), extension, slash.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn derived(name: impl AsRef<[u8]>) -> Bytes {
        conflict_name(name.as_ref(), Dot::new(SegmentId([1; 16]), 17), "newyork", 1)
    }

    #[test]
    fn conflict_names_keep_the_extension() {
        for (name, expected) in [
            ("report.txt", "report (conflict newyork 17).txt"),
            ("report", "report (conflict newyork 17)"),
            ("data.tar.gz", "data.tar (conflict newyork 17).gz"),
            (".bashrc", ".bashrc (conflict newyork 17)"),
            ("end.", "end. (conflict newyork 17)"),
            ("notes.d/", "notes.d (conflict newyork 17)/"),
            ("/", " (conflict newyork 17)/"),
        ] {
            assert_eq!(derived(name), expected, "{name}");
        }
        let again = conflict_name(b"a.b", Dot::new(SegmentId([1; 16]), 17), "newyork", 3);
        assert_eq!(again, "a (conflict newyork 17 3).b");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = derived(format!("{}.txt", "é".repeat(125)));
        assert!(name.len() <= 255 && name.ends_with(b" (conflict newyork 17).txt"));
        assert!(std::str::from_utf8(&name).is_ok());
        assert_eq!(derived("x".repeat(1024)).len(), 1024);
    }

    proptest! {
        #[test]
        fn a_derived_name_is_a_name_of_the_same_kind(name in prop::collection::vec(any::<u8>(), 1..1100), attempt in 1u32..9) {
            let dot = Dot::new(SegmentId([1; 16]), 1 << 40);
            let derived = conflict_name(&name, dot, "newyork", attempt);
            prop_assert!(derived.len() <= 256.max(name.len()));
            prop_assert!(!is_file_name(&name) || is_file_name(&derived));
            prop_assert!(!is_directory_name(&name) || is_directory_name(&derived));
            prop_assert_ne!(&derived[..], &name[..]);
        }
    }
}
