//! READDIR and READDIRPLUS.
//!
//! A cookie is made of the entry's name, so it means the same entry however the directory changes and whichever server answers. Where the entry is in the
//! directory is remembered; if that was forgotten the directory is searched for it.

use crate::attributes::post;
use crate::procedures::{At, Done};
use crate::registry::Opened;
use crate::status::{Outcome, Refusal};
use crate::wire::Encoder;
use bytes::Bytes;
use nfsserve::nfs::nfsstat3;
use quick_cache::sync::Cache;
use tombolo_core::NodeId;
use tombolo_core::engine::fs::{Access, FileEntry, FileSystem, file_id};

/// `.` and `..`; the first entry comes behind the latter.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries read at once.
const PAGE_ENTRIES: usize = 256;
/// Positions remembered.
const COOKIES_MAX: usize = 64 << 10;
/// What stands around the entries, at most, in bytes: status, attributes, verifier, the end of the list and of the directory.
const AROUND_BYTES: usize = 4 + 88 + 8 + 8;
/// What stands around a name in an entry: that one follows, number, length, padding and cookie.
const ENTRY_BYTES: usize = 4 + 8 + 4 + 3 + 8;
/// The same for attributes and handle.
const PLUS_BYTES: usize = 88 + 4 + 4 + 60;

/// Positions by directory and cookie.
pub(crate) struct Cookies(Cache<(NodeId, u64), Bytes>);

impl Default for Cookies {
    fn default() -> Cookies {
        Cookies(Cache::new(COOKIES_MAX))
    }
}

/// 62 bits of the name's hash; never one of the first numbers. Linux clients hand cookies to programs as signed numbers.
fn cookie(position: &[u8]) -> u64 {
    let head = blake3::hash(position).as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    (head >> 2).max(DOT_DOT + 1)
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) cookie: u64,
    /// The most bytes of names, numbers and cookies.
    pub(crate) names_max: usize,
    /// The most bytes of the whole reply.
    pub(crate) bytes_max: usize,
    pub(crate) plus: bool,
}

impl Cookies {
    /// Where to go on behind `cookie`; `Err`: there is no such entry any more.
    async fn position(&self, files: &FileSystem, directory: &NodeId, wanted: u64) -> Outcome<Option<Bytes>> {
        if wanted <= DOT_DOT {
            return Ok(None);
        }
        if let Some(position) = self.0.get(&(*directory, wanted)) {
            return Ok(Some(position));
        }
        let mut after: Option<Bytes> = None;
        loop {
            let page = files.read_directory(None, directory, after.as_deref(), PAGE_ENTRIES, false).await?;
            if let Some(entry) = page.entries.iter().find(|entry| cookie(&entry.position) == wanted) {
                return Ok(Some(entry.position.clone()));
            }
            match page.entries.last() {
                Some(last) if !page.is_end => after = Some(last.position.clone()),
                _ => return Err(Refusal(nfsstat3::NFS3ERR_BAD_COOKIE)),
            }
        }
    }
}

/// The entries of a reply, as they are put together.
struct Listing {
    encoder: Encoder,
    names: usize,
    count: usize,
}

impl Listing {
    /// False: there is no room for it.
    fn add(
        &mut self,
        at: &At,
        wanted: &Wanted,
        name: &[u8],
        cookie: u64,
        node: NodeId,
        entry: Option<&FileEntry>,
    ) -> bool {
        let names = ENTRY_BYTES + name.len();
        let plus = if wanted.plus { PLUS_BYTES } else { 0 };
        if self.encoder.0.len() + names + plus + AROUND_BYTES > wanted.bytes_max
            || self.names + names > wanted.names_max
        {
            return false;
        }
        self.names += names;
        self.count += 1;
        let encoder = &mut self.encoder;
        encoder.bool(true);
        encoder.u64(file_id(&node));
        encoder.opaque(name);
        encoder.u64(cookie);
        if wanted.plus {
            match entry.and_then(|entry| entry.attributes.as_ref()) {
                Some(attributes) => {
                    encoder.put(&post(at.opened.file_system(), attributes));
                    encoder.bool(true);
                    encoder.opaque(&at.sign(node));
                }
                None => {
                    encoder.bool(false);
                    encoder.bool(false);
                }
            }
        }
        true
    }
}

pub(crate) async fn list(cookies: &Cookies, at: &At, wanted: Wanted) -> Outcome<Done> {
    let (files, directory) = (&at.opened.files, at.node);
    let attributes = files.attributes(&directory).await?;
    if at.caller.granted(&attributes, Access::READ) != Access::READ {
        return Err(Refusal(nfsstat3::NFS3ERR_ACCES));
    }
    let mut listing = Listing { encoder: Encoder::default(), names: 0, count: 0 };
    let mut after = cookies.position(files, &directory, wanted.cookie).await?;
    let parent = parent(&at.opened, directory).await?;
    let dots = [(DOT, &b"."[..], directory), (DOT_DOT, b"..", parent)];
    let mut is_full = false;
    for (number, name, node) in dots.into_iter().filter(|(number, ..)| *number > wanted.cookie) {
        is_full = is_full || !listing.add(at, &wanted, name, number, node, None);
    }
    let mut is_end = false;
    while !is_full && !is_end {
        let page = files.read_directory(None, &directory, after.as_deref(), PAGE_ENTRIES, wanted.plus).await?;
        for entry in &page.entries {
            let number = cookie(&entry.position);
            if !listing.add(at, &wanted, &entry.name, number, entry.node, Some(entry)) {
                is_full = true;
                break;
            }
            after = Some(entry.position.clone());
            // The last one of the reply is the one that is asked for; which that is shows only later.
            cookies.0.insert((directory, number), entry.position.clone());
        }
        is_end = page.is_end && !is_full;
        if page.entries.is_empty() {
            break;
        }
    }
    if listing.count == 0 && is_full {
        return Err(Refusal(nfsstat3::NFS3ERR_TOOSMALL));
    }
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder.put(&post(at.opened.file_system(), &attributes));
    // Cookies never go stale, so there is nothing to verify.
    encoder.u64(0);
    encoder.0.extend_from_slice(&listing.encoder.0);
    encoder.bool(false);
    encoder.bool(is_end);
    Ok(encoder.into())
}

/// The directory above, inside the export.
pub(crate) async fn parent(opened: &Opened, directory: NodeId) -> Outcome<NodeId> {
    if directory == opened.root {
        return Ok(directory);
    }
    Ok(opened.files.parent(&directory).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_numbers_that_every_client_takes() {
        for name in ["", "a", "a/", "b", "\u{e9}"] {
            let cookie = cookie(name.as_bytes());
            assert!(cookie > DOT_DOT && cookie < 1 << 62);
        }
        assert_ne!(cookie(b"a"), cookie(b"b"));
    }
}
