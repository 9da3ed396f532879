//! The namespace: registers, the tree they show, versions, and the transactions that change them.
//!
//! Works on [`Version`]s whose bytes are already stored; never touches a chunk. Every mutation writes its registers, what is
//! derived from them (what an entry shows, a node's names, usage) and its rows of the change index in one commit.
//!
//! Rules that hold after every commit:
//! * An entry's `shown` is what listings and look-ups use; it follows from registers alone (the merge rules, see `tree`).
//! * A file's node row lists exactly the entries that are live with it, and each of them shows its size, time and tag.
//! * A directory that shows is either explicit or has something that shows below it.

mod alias;
mod attributes;
pub mod away;
mod bucket_watch;
mod codec;
mod compare;
mod content;
mod contention;
mod cut;
mod cycles;
mod delta;
mod delta_codec;
mod differing;
mod directory;
mod drop;
mod floor;
mod history;
mod hold;
mod keep;
pub mod keys;
mod ledger;
mod list;
mod local_row;
mod loser;
mod pin;
mod place;
mod remove;
mod replace;
mod replaced;
mod resolve;
mod retired;
mod rows;
mod show;
mod standing;
mod summary;
mod txn;
mod usage_delta;
mod verify;
mod version;
mod view;
mod wanted;
mod write;

pub use alias::{is_copy, make_own, make_own_at, node_row, node_row_in};
pub use attributes::{ACCESS_LIST, Part};
pub use bucket_watch::BucketWatch;
pub use compare::{Comparison, Counterpart, Difference, Held, RANGES_MAX, compare};
pub use cut::{DeltaLimit, changes_since, has_changes_since};
pub use delta::{Delta, DeltaRegister, apply, effective_vector, vector};
pub use differing::{drop_differing, forget_differing, live_in, note_differing};
pub use directory::{
    LINKS_MAX, find_directory, keep_directory, link, link_node, make_directories, mkdir, rename_directory, rename_file,
    rmdir,
};
pub use drop::{Mark, carriers, carriers_row, drop_page, dropped, end_mark, put_carriers};
pub use history::{find_kept, newest_kept};
pub use hold::{
    Gather, Hold, Holds, add_receipt, end_promise, forget_receipts, gather, give, promise, promises, release,
    set_gather,
};
pub use keep::{Keeping, keep, keep_later, keeping, keeping_row, list_page, listed};
pub use ledger::{ChangedRows, ContentBarrier, Ledger, NoContents, Sequenced};
pub use list::{list, list_versions};
pub use local_row::rewrite_row;
pub use loser::{Conflict, conflicts};
pub use pin::{Pin, list_keys, note_pass, pin, pins, unpin, want_pinned};
pub use place::directory_place;
pub use remove::{Leave, delete, leave_marker_of_removal, remove_file};
pub use replace::{NewContent, recut, replace, rescues};
pub use replaced::{Lender, Whereabouts, Which, drop_replaced, lender, replaced_content, replaced_prefix};
pub use resolve::{Resolution, resolve};
pub use retired::{bucket_rows, retire, take_up};
pub use rows::{
    AttributesValue, EntryRow, ExplicitDirectory, HistoryRow, MD5_OF_NOTHING, NodeRow, Shown, ShownFile, TagsValue,
    row_commit,
};
pub use show::{derive_conflicts, rules_row, rules_value, show};
pub use standing::{
    Admission, Comparing, Patience, Standing, holds_below, holds_beyond, standing, tight, told, told_in,
};
pub use summary::{RangeSummary, RowName, RowRange, RowSummary, Summary};
pub use txn::{Field, Row, Txn};
pub use usage_delta::UsageDelta;
pub use verify::verify;
pub use version::{Content, INLINE_BYTES_MAX, LENDERS_MAX, Version, decode_upload};
pub use view::{EntryCursor, Found, View};
pub use wanted::{
    Stay, Wanted, data_arrived, data_vector, forget_unwanted, leave_out, newly_wanted, want_copy, wanted, wanted_prefix,
};
pub use write::{
    NewVersion, Stored, create, directory_info, directory_modified_ns, edit_attributes, file_info, info, put,
    set_attributes, set_modified, set_tags, show_modified, tags_of,
};

use crate::id::{BucketId, NodeId, SegmentId};
use crate::path::BucketPath;
use crate::policy::{BucketPolicy, Versioning};
use crate::tree::Rules;
use bytes::Bytes;
use keys::BucketNumber;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The name by which a file goes for the time between the two halves of an exchange. Nobody sees it.
pub(crate) const HALF_WAY: &[u8] = b"\0exchange";
/// The extended attribute in which Linux keeps what privileges a program has.
const CAPABILITIES: &str = "security.capability";

/// The origin of a commit that changes nothing that anybody sees: watchers of rows are not told.
pub const UNSEEN: u32 = u32::MAX;

/// A bucket as transactions need it.
#[derive(Debug)]
pub struct BucketState {
    /// Its number in this segment.
    pub number: BucketNumber,
    /// Its identity.
    pub id: BucketId,
    /// Its path.
    pub path: BucketPath,
    /// When it was made.
    pub created_ns: i64,
    policy: RwLock<Arc<BucketPolicy>>,
    origin: RwLock<SegmentId>,
    is_shared: AtomicBool,
    /// Whether the store says so, too.
    is_share_stored: AtomicBool,
    is_deleted: AtomicBool,
    may_have_away: AtomicBool,
    /// For directories that things are being deleted in: the name of an entry that showed.
    witnesses: Mutex<HashMap<NodeId, Bytes>>,
    deltas: tokio::sync::Mutex<()>,
    passes: tokio::sync::Mutex<()>,
    keepings_ended: AtomicU64,
    patience: Mutex<Patience>,
}

/// How many directories have a remembered witness.
const WITNESSES_MAX: usize = 1024;

impl BucketState {
    /// A bucket with `policy`; `origin`: the segment where it was made, if that is known.
    pub fn new(
        number: BucketNumber,
        id: BucketId,
        path: BucketPath,
        created_ns: i64,
        policy: BucketPolicy,
        origin: Option<SegmentId>,
        is_shared: bool,
    ) -> BucketState {
        BucketState {
            number,
            id,
            path,
            created_ns,
            policy: RwLock::new(Arc::new(policy)),
            origin: RwLock::new(origin.unwrap_or_default()),
            is_shared: AtomicBool::new(is_shared),
            is_share_stored: AtomicBool::new(is_shared),
            is_deleted: AtomicBool::new(false),
            may_have_away: AtomicBool::new(false),
            witnesses: Mutex::new(HashMap::new()),
            deltas: tokio::sync::Mutex::new(()),
            passes: tokio::sync::Mutex::new(()),
            keepings_ended: AtomicU64::new(0),
            patience: Mutex::default(),
        }
    }

    /// The name of an entry of `directory` that showed not long ago; a hint.
    fn witness(&self, directory: &NodeId) -> Option<Bytes> {
        self.witnesses.lock().get(directory).cloned()
    }

    fn remember_witness(&self, directory: &NodeId, name: &Bytes) {
        let mut witnesses = self.witnesses.lock();
        if witnesses.len() >= WITNESSES_MAX {
            witnesses.clear();
        }
        // Copied, so that it does not hold on to the page it was read from.
        witnesses.insert(*directory, Bytes::copy_from_slice(name));
    }

    /// Whoever takes in a delta waits for the one before.
    pub(crate) async fn deltas(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.deltas.lock().await
    }

    /// Whoever passes over what is pinned waits for the one before.
    pub(crate) async fn pass(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.passes.lock().await
    }

    /// With those that this segment compares with; as long as the bucket is open.
    pub(crate) fn patience<T>(&self, with: impl FnOnce(&mut Patience) -> T) -> T {
        with(&mut self.patience.lock())
    }

    /// How often keeping all data has ended since the bucket was opened: a pass that was begun before does not say what is here now.
    pub(crate) fn keepings_ended(&self) -> u64 {
        self.keepings_ended.load(Ordering::Acquire)
    }

    /// Keeping all data has ended.
    pub(crate) fn end_keeping(&self) {
        self.keepings_ended.fetch_add(1, Ordering::AcqRel);
    }

    /// Its policy now.
    pub fn policy(&self) -> Arc<BucketPolicy> {
        self.policy.read().clone()
    }

    /// Replaces the policy, and the segment where the bucket was made.
    pub fn set_policy(&self, policy: BucketPolicy, origin: Option<SegmentId>) {
        *self.policy.write() = Arc::new(policy);
        *self.origin.write() = origin.unwrap_or_default();
    }

    /// The rules that its registers are read by.
    pub fn rules(&self) -> Rules<'static> {
        Rules::new(self.policy.read().conflicts, *self.origin.read())
    }

    /// Whether other segments may have seen the bucket, so that what is deleted must leave tombstones.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }

    /// From now on deletes leave tombstones.
    pub fn share(&self) {
        self.is_shared.store(true, Ordering::Release);
    }

    /// Whether the store knows that it is shared.
    pub fn is_share_stored(&self) -> bool {
        self.is_share_stored.load(Ordering::Acquire)
    }

    /// It does from now on.
    pub fn share_stored(&self) {
        self.is_share_stored.store(true, Ordering::Release);
    }

    /// Whether any of its names may be away (`away.rs`); if not, nobody need look.
    pub fn may_have_away(&self) -> bool {
        self.may_have_away.load(Ordering::Acquire)
    }

    /// From now on names may be away.
    pub fn expect_away(&self) {
        self.may_have_away.store(true, Ordering::Release);
    }

    /// Whether the bucket is gone.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted.load(Ordering::Acquire)
    }

    /// The bucket is gone: handles that are still around find nothing.
    pub fn set_deleted(&self) {
        self.is_deleted.store(true, Ordering::Release);
    }

    /// The versioning state.
    pub fn versioning(&self) -> Versioning {
        self.policy.read().versioning
    }
}

/// A key as the tree sees it: the directories on the way, each name with its `/`, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Names of directories, from the root down.
    pub directories: Vec<Bytes>,
    /// What follows the last `/`; empty if the key ends with one.
    pub leaf: Bytes,
}

/// Splits a key. `a//b` is `a/`, `/`, `b`: nothing is normalised, so every key has its own place.
pub fn split(key: &Bytes) -> Split {
    let mut directories = Vec::new();
    let mut start = 0;
    for (i, byte) in key.iter().enumerate() {
        if *byte == b'/' {
            directories.push(key.slice(start..=i));
            start = i + 1;
        }
    }
    Split { directories, leaf: key.slice(start..) }
}

impl Split {
    /// Where the key's own entry is: the directories above it, and its name (with `/` for a key that ends with one).
    pub fn place(mut self) -> (Vec<Bytes>, Bytes) {
        if self.leaf.is_empty()
            && let Some(last) = self.directories.pop()
        {
            return (self.directories, last);
        }
        (self.directories, self.leaf)
    }
}

/// Whether an entry name is a directory's.
pub fn is_directory_name(name: &[u8]) -> bool {
    name.last() == Some(&b'/')
}

/// A place in the tree: a directory and a name in it.
pub type Place = (NodeId, Bytes);
