//! Tombolo's link door: what joins one segment to another.
//!
//! A segment has a key of its own ([`Identity`]) and is known by the hash of its public half, the [`Fingerprint`]. Links are TLS 1.3 on TCP
//! where each side proves its key and the other compares the fingerprint with the one it was told ([`tls`]); there is no certificate
//! authority and no password. Two segments get to know each other by a one-time [`Code`] that one makes and a person carries to the
//! other ([`Invites`]). What came of it is kept in [`Links`]: the peer, its fingerprint, and the part of the namespace that it may see ([`Scope`]).
//!
//! All of it lies in the directory `link` of the segment's data directory, readable by its owner alone:
//!
//! | file | what |
//! |---|---|
//! | `key.pem` | the private key, PKCS #8 |
//! | `key.next.pem` | the one that will follow it, once all linked segments know it |
//! | `links.json` | the links |
//! | `invites.json` | codes that were not used yet: a hash of each secret, and what it grants |
//!
//! Each is replaced as a whole, by renaming a synced draft over it, so a crash leaves the old one or the new one. Only the process that
//! holds the segment's lock may change them.

#![forbid(unsafe_code)]

mod bring;
mod carriers;
mod checked;
mod compare;
mod dial;
mod door;
mod driver;
mod fetch;
mod gather;
mod hub;
pub mod identity;
pub mod invite;
mod lag;
pub mod links;
mod outbox;
mod pace;
mod passes;
mod questions;
mod rate;
mod retries;
mod rotate;
pub mod scope;
mod session;
pub mod status;
pub mod tls;
mod whole;
pub mod wire;

pub use compare::{Outcome, Verified};
pub use dial::AcceptOptions;
pub use door::{LinkDoor, LinkOptions};
pub use hub::LinkLimits;
pub use identity::{Fingerprint, Identity};
pub use invite::{Code, Invite, InviteOptions, Invites};
pub use links::{Direction, Link, Links, Mode, Passes, Visible};
pub use rate::Rate;
pub use rotate::Rotation;
pub use scope::Scope;
pub use status::{BucketStatus, LinkStatus, MissingObject, PeerBucketStatus, SyncStatus};
