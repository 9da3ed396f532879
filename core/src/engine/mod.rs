//! What doors and programs call: a [`Segment`] with its [`Catalog`], [`Bucket`]s, objects and uploads.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tombolo_core::Result<()> {
//! use tombolo_core::{BucketPath, BucketPolicy, CreateOptions, GetOptions, OpenOptions, PutOptions, Segment};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path().join("segment");
//! let create = CreateOptions { name: "newyork".into(), cluster: "NewYork".into() };
//! let segment = Segment::create(&dir, create, OpenOptions::default()).await?;
//! let path: BucketPath = "NewYork/lab/results".parse()?;
//! segment.catalog().create_tenant(&path.tenant).await?;
//! let bucket = segment.catalog().create_bucket(&path, BucketPolicy::default()).await?;
//!
//! bucket.put("run-1/log", "it worked", PutOptions::default()).await?;
//! let object = bucket.get("run-1/log", GetOptions::default()).await?;
//! assert_eq!(object.bytes(0..object.info().size).await?, "it worked");
//! segment.close().await
//! # }
//! ```

mod away;
mod bucket;
mod budget;
mod buried;
mod cache;
mod catalog;
mod catalog_sync;
mod contents;
mod damage;
mod data;
mod delta;
mod fetch;
mod file_by_path;
mod files;
#[cfg(test)]
mod fixture;
mod forgetting;
pub mod fs;
mod gather;
mod gc;
mod housekeeping;
mod keeping;
mod lock;
mod marker;
mod multipart;
mod nodes;
mod pace;
mod packs;
mod part;
mod pins;
mod pool;
mod reader;
mod row;
mod scrub;
mod segment;
mod session;
mod snapshot;
mod token;
mod touched;
mod whole;
mod write_budget;
mod writer;

pub use bucket::Bucket;
pub use catalog::Catalog;
pub use catalog_sync::{CatalogChanges, CatalogName, check_catalog};
pub use data::{ChunkImport, ChunkSource, Missing};
pub use delta::{Changed, SegmentWatch};
pub use file_by_path::FileOptions;
pub use housekeeping::Housekeeping;
pub use packs::Residence;
pub use reader::{Object, ObjectReader};
pub use row::rewrite_row;
pub use segment::{Change, CreateOptions, OpenOptions, Segment};
pub use token::Token;
pub use whole::{Lacking, Whole};
pub use writer::{ObjectWriter, SealedObject};

/// Runs a transaction until it meets no conflict: `transact!(segment, txn, { body using txn, ends with a value })` gives
/// the value and what the commit got.
macro_rules! transact {
    ($segment:expr, $txn:ident, $body:block) => {{
        let ledger = $segment.ledger();
        let mut attempt = 0u32;
        loop {
            attempt += 1;
            #[allow(unused_mut, reason = "some bodies only read")]
            let mut $txn = ledger.begin();
            let value: $crate::error::Result<_> = async { Ok($body) }.await;
            let value = match value {
                Ok(value) => value,
                // What it read may have been changed half way.
                Err(error) if attempt < 8 && error.kind() == $crate::error::ErrorKind::Damaged => {
                    ledger.settled().await?;
                    let _ = error;
                    continue;
                }
                Err(error) => break Err(error),
            };
            match ledger.commit($txn).await {
                Ok(sequenced) => break Ok((value, sequenced)),
                Err(error)
                    if error.kind() == $crate::error::ErrorKind::Busy && attempt < $crate::engine::ATTEMPTS_MAX =>
                {
                    ledger.settled().await?;
                }
                Err(error) => break Err(error),
            }
        }
    }};
}
pub(crate) use transact;

/// How often a transaction is tried again when others change the same things. Each try waits for a group commit, so this is
/// many rounds of somebody else's success.
pub(crate) const ATTEMPTS_MAX: u32 = 1000;
