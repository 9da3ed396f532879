//! Names as POSIX sees them, and as they are stored.
//!
//! Keys of objects are any bytes; names in a directory are not. What POSIX can't name is shown under another name, and found under it:
//!
//! | stored | shown |
//! |---|---|
//! | a file `a` beside a directory `a/` | `a%~` |
//! | an empty name (`x//y`), `.`, `..`, a name with a NUL, one that begins or ends with `%~` | `%~` and the name, with `%`, `~` and NUL as `%25`, `%7E`, `%00` |
//! | one whose shown form is longer than 255 bytes | `%~`, its beginning escaped so, `~` and 32 hexadecimal digits of its BLAKE3 hash |
//!
//! Shown names are unique in a directory. New names are plain: one that begins or ends with `%~` is only good for finding what is there.

use super::POSIX_NAME_BYTES_MAX;
use crate::error::{Error, Result, Subject};
use bytes::Bytes;

const MARK: &[u8] = b"%~";
const HASH_DIGITS: usize = 32;

/// What a shown name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The directory with this name, else the file.
    Plain(Bytes),
    /// The file of this name beside the directory of the same name.
    Shadowed(Bytes),
    /// The name that begins with these bytes and has this hash.
    Hashed { beginning: Bytes, hash: Bytes },
}

fn is_marked(name: &[u8]) -> bool {
    name.starts_with(MARK) || name.ends_with(MARK)
}

fn needs_escape(name: &[u8]) -> bool {
    name.is_empty() || name == b"." || name == b".." || name.contains(&0) || is_marked(name)
}

fn escape(name: &[u8], out: &mut Vec<u8>) {
    for &byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'~' => out.extend_from_slice(b"%7E"),
            0 => out.extend_from_slice(b"%00"),
            _ => out.push(byte),
        }
    }
}

fn hash(name: &[u8]) -> Vec<u8> {
    let mut text = blake3::hash(name).to_hex().as_str().as_bytes().to_vec();
    text.truncate(HASH_DIGITS);
    text
}

/// How `name` (without a directory's `/`) is shown; `is_shadowed`: it is a file's, and a directory has the same.
pub(super) fn show(name: &[u8], is_shadowed: bool) -> Bytes {
    if !is_shadowed && !needs_escape(name) && name.len() <= POSIX_NAME_BYTES_MAX {
        return Bytes::copy_from_slice(name);
    }
    let mut out = Vec::new();
    if needs_escape(name) || name.len() + MARK.len() > POSIX_NAME_BYTES_MAX {
        out.extend_from_slice(MARK);
        escape(name, &mut out);
    } else {
        out.extend_from_slice(name);
    }
    let suffix = if is_shadowed { MARK } else { b"" };
    if out.len() + suffix.len() > POSIX_NAME_BYTES_MAX {
        out.clear();
        out.extend_from_slice(MARK);
        let room = POSIX_NAME_BYTES_MAX - suffix.len() - HASH_DIGITS - 1;
        for &byte in name {
            let before = out.len();
            escape(&[byte], &mut out);
            if out.len() > room {
                out.truncate(before);
                break;
            }
        }
        out.push(b'~');
        out.extend_from_slice(&hash(name));
    }
    out.extend_from_slice(suffix);
    out.into()
}

/// What the shown `name` asks for; `None`: nothing can have it.
pub(super) fn read(name: &[u8]) -> Option<Wanted> {
    if !is_marked(name) {
        return Some(Wanted::Plain(Bytes::copy_from_slice(name)));
    }
    let (body, is_shadowed) = match name.strip_suffix(MARK) {
        // `%~` alone is the empty name, which only a directory can have.
        Some(body) if name.len() > MARK.len() => (body, true),
        _ => (name, false),
    };
    let Some(escaped) = body.strip_prefix(MARK) else {
        return is_shadowed.then(|| Wanted::Shadowed(Bytes::copy_from_slice(body)));
    };
    let mut parts = escaped.splitn(2, |byte| *byte == b'~');
    let beginning = unescape(parts.next().unwrap_or_default())?;
    match parts.next() {
        Some(hash) => {
            (hash.len() == HASH_DIGITS).then(|| Wanted::Hashed { beginning, hash: Bytes::copy_from_slice(hash) })
        }
        None if is_shadowed => Some(Wanted::Shadowed(beginning)),
        None => Some(Wanted::Plain(beginning)),
    }
}

/// Whether a stored name, without a directory's `/`, is the one that `hash` was made of.
pub(super) fn has_hash(name: &[u8], wanted: &[u8]) -> bool {
    hash(name) == wanted
}

fn unescape(text: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (code, after) = after.split_at_checked(2)?;
        out.push(match code {
            b"25" => b'%',
            b"7E" => b'~',
            b"00" => 0,
            _ => return None,
        });
        rest = after;
    }
    Some(out.into())
}

/// A name for something new, as it is stored.
pub(super) fn new(name: &[u8]) -> Result<Bytes> {
    if name.len() > POSIX_NAME_BYTES_MAX {
        return Err(Error::invalid(format!("a name has at most {POSIX_NAME_BYTES_MAX} bytes")).about(Subject::Length));
    }
    if name == b"." || name == b".." {
        return Err(Error::exists(Subject::Key, "the names '.' and '..' are taken"));
    }
    if needs_escape(name) || name.contains(&b'/') {
        let name = String::from_utf8_lossy(name);
        return Err(Error::invalid(format!("'{name}' can't be the name of something new")));
    }
    Ok(Bytes::copy_from_slice(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let odd = prop::sample::select(vec![b'%', b'~', b'.', b'a', 0, 0xff, b'2', b'5', b'7', b'E']);
        prop_oneof![
            prop::collection::vec(odd.clone(), 0..8),
            prop::collection::vec(odd, 240..300),
            prop::collection::vec(any::<u8>().prop_filter("no slash", |b| *b != b'/'), 0..300),
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_is_found(stored in name(), is_shadowed: bool) {
            prop_assume!(!(stored.is_empty() && is_shadowed));
            let shown = show(&stored, is_shadowed);
            prop_assert!(shown.len() <= POSIX_NAME_BYTES_MAX && !shown.is_empty());
            prop_assert!(&shown[..] != b"." && &shown[..] != b".." && !shown.contains(&0) && !shown.contains(&b'/'));
            match read(&shown) {
                Some(Wanted::Plain(found)) => prop_assert!(!is_shadowed && found == stored),
                Some(Wanted::Shadowed(found)) => prop_assert!(is_shadowed && found == stored),
                Some(Wanted::Hashed { beginning, hash }) => {
                    prop_assert!(stored.starts_with(&beginning) && has_hash(&stored, &hash));
                }
                None => prop_assert!(false, "{shown:?} is not read"),
            }
        }

        #[test]
        fn two_names_never_look_the_same(a in name(), b in name(), shadowed: (bool, bool)) {
            prop_assume!((&a, shadowed.0) != (&b, shadowed.1));
            prop_assume!(!(a.is_empty() && shadowed.0 || b.is_empty() && shadowed.1));
            prop_assert_ne!(show(&a, shadowed.0), show(&b, shadowed.1));
        }

        #[test]
        fn any_bytes_are_read_without_harm(shown in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&shown);
        }
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(show(b"data.csv", false), "data.csv");
        assert_eq!(show(b"a", true), "a%~");
        assert_eq!(show(b"", false), "%~");
        assert_eq!(show(b"..", false), "%~..");
        assert!(new(b"x%~").is_err() && new(b"..").is_err() && new(&[b'x'; 256]).is_err());
    }
}
