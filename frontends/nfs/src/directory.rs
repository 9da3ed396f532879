//! READDIR and READDIRPLUS.
//!
//! A cookie is made of the directory and the entry's name ([`Signer::cookie`](crate::handle::Signer::cookie)), so it means the same entry however the
//! directory changes and whenever the server has started. Where the entry is in the directory is remembered; if that was forgotten the directory is
//! searched for it, and a cookie that is none of its entries' (any more) leads to the beginning. So nothing a client sends leads anywhere but into the directory whose handle it has.

use crate::attributes::post;
use crate::handle::FIRST_COOKIE;
use crate::procedures::{At, Done};
use crate::registry::Opened;
use crate::status::{Outcome, Refusal};
use crate::wire::Encoder;
use bytes::Bytes;
use nfsserve::nfs::nfsstat3;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tombolo_core::NodeId;
use tombolo_core::engine::fs::{Access, FileEntry, file_id};

/// `.` and `..`; the first entry comes behind the latter.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Never more than these entries are read at once, and never fewer than those.
const PAGE_ENTRIES: std::ops::RangeInclusive<usize> = 8..=1024;
/// How long a name is thought to be before any was seen, in bytes.
const NAME_BYTES: usize = 16;
/// Cookies nobody remembers are searched for so many at once, as each takes a pass over its directory, and so many entries at a time.
const SEARCHES_MAX: usize = 2;
const SEARCHED_ENTRIES: usize = 4096;
/// Cookies never go stale, so there is nothing to verify; a client that sends another one was never here.
const VERIFIER: u64 = 0;
/// Positions remembered.
const COOKIES_MAX: usize = 64 << 10;
/// What stands around the entries, at most, in bytes: status, attributes, verifier, the end of the list and of the directory.
const AROUND_BYTES: usize = 4 + 88 + 8 + 8;
/// What stands around a name in an entry: that one follows, number, length, padding and cookie.
const ENTRY_BYTES: usize = 4 + 8 + 4 + 3 + 8;
/// The same for attributes and handle.
const PLUS_BYTES: usize = 88 + 4 + 4 + 60;

/// Positions by directory and cookie.
pub(crate) struct Cookies {
    positions: Cache<(NodeId, u64), Bytes>,
    searches: Semaphore,
}

impl Default for Cookies {
    fn default() -> Cookies {
        Cookies { positions: Cache::new(COOKIES_MAX), searches: Semaphore::new(SEARCHES_MAX) }
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) cookie: u64,
    /// What came with the cookie.
    pub(crate) verifier: u64,
    /// The most bytes of names, numbers and cookies.
    pub(crate) names_max: usize,
    /// The most bytes of the whole reply.
    pub(crate) bytes_max: usize,
    pub(crate) plus: bool,
}

impl Cookies {
    /// Where to go on behind the cookie. If its entry has gone, and where it was is forgotten, at the beginning: a client that hears of a bad cookie takes it for the
    /// end of the directory, and who removes entries as it reads them, or copies them, would leave some out without a word.
    async fn position(&self, at: &At, wanted: &Wanted) -> Outcome<Option<Bytes>> {
        let (directory, cookie) = (at.node, wanted.cookie);
        if cookie != 0 && wanted.verifier != VERIFIER {
            return Err(Refusal(nfsstat3::NFS3ERR_BAD_COOKIE));
        }
        if cookie < FIRST_COOKIE {
            return Ok(None);
        }
        if let Some(position) = self.positions.get(&(directory, cookie)) {
            return Ok(Some(position));
        }
        let _turn = self.searches.acquire().await.map_err(|_| Refusal(nfsstat3::NFS3ERR_JUKEBOX))?;
        let files = &at.opened.files;
        let mut after: Option<Bytes> = None;
        loop {
            let page = files.read_directory(None, &directory, after.as_deref(), SEARCHED_ENTRIES, false).await?;
            if let Some(entry) = page.entries.iter().find(|entry| at.cookie(&entry.position) == cookie) {
                return Ok(Some(entry.position.clone()));
            }
            match page.entries.last() {
                Some(last) if !page.is_end => after = Some(last.position.clone()),
                _ => return Ok(None),
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
        let is_small = self.names + names <= wanted.names_max || self.count == 0;
        if self.encoder.0.len() + names + plus + AROUND_BYTES > wanted.bytes_max || !is_small {
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

impl Listing {
    /// How many more entries there may be room for, if their names are as long as those before: what is worth reading.
    fn room(&self, wanted: &Wanted) -> usize {
        let entry = match self.count {
            // `.` and `..` say nothing of the others.
            0..=2 => ENTRY_BYTES + NAME_BYTES,
            count => self.names / count,
        };
        let plus = if wanted.plus { PLUS_BYTES } else { 0 };
        let bytes = wanted.bytes_max.saturating_sub(AROUND_BYTES + self.encoder.0.len());
        let fit = (bytes / (entry + plus)).min(wanted.names_max.saturating_sub(self.names) / entry);
        fit.clamp(*PAGE_ENTRIES.start(), *PAGE_ENTRIES.end())
    }
}

pub(crate) async fn list(cookies: &Cookies, at: &At, wanted: Wanted) -> Outcome<Done> {
    let (files, directory) = (&at.opened.files, at.node);
    let attributes = files.attributes(&directory).await?;
    if !at.caller.may(&attributes, Access::READ) {
        return Err(Refusal(nfsstat3::NFS3ERR_ACCES));
    }
    let mut listing = Listing { encoder: Encoder::default(), names: 0, count: 0 };
    let mut after = cookies.position(at, &wanted).await?;
    let parent = parent(&at.opened, directory).await?;
    let dots = [(DOT, &b"."[..], directory), (DOT_DOT, b"..", parent)];
    let mut is_full = false;
    for (number, name, node) in dots.into_iter().filter(|(number, ..)| *number > wanted.cookie) {
        is_full = is_full || !listing.add(at, &wanted, name, number, node, None);
    }
    let mut is_end = false;
    while !is_full && !is_end {
        let room = listing.room(&wanted);
        let mut page = files.read_directory(None, &directory, after.as_deref(), room, wanted.plus).await?;
        if page.entries.is_empty() && !page.is_end {
            // All of them are gone since they were read. They have positions, to go on behind.
            page = files.read_directory(None, &directory, after.as_deref(), room, false).await?;
        }
        for entry in &page.entries {
            let number = at.cookie(&entry.position);
            if !listing.add(at, &wanted, &entry.name, number, entry.node, Some(entry)) {
                is_full = true;
                break;
            }
            after = Some(entry.position.clone());
            // The last one of the reply is the one that is asked for; which that is shows only later.
            cookies.positions.insert((directory, number), entry.position.clone());
        }
        is_end = page.is_end && !is_full;
    }
    if listing.count == 0 && is_full {
        return Err(Refusal(nfsstat3::NFS3ERR_TOOSMALL));
    }
    let mut encoder = Encoder::default();
    encoder.put(&nfsstat3::NFS3_OK);
    encoder.put(&post(at.opened.file_system(), &attributes));
    encoder.u64(VERIFIER);
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
