//! Tombolo's NFS door: an NFSv3 server (RFC 1813) over one segment, with its MOUNT program, its lock manager and a port mapper's answers on the same port.
//!
//! [`NfsDoor::bind`] listens, [`NfsDoor::serve`] answers. What is exported to whom is said by [`Exports`].
//!
//! The structures of the protocol and their encoding are those of the crate `nfsserve`; the server around them is this crate's, because
//! that crate's can't carry it (no caller's identity, no LINK, MKNOD or COMMIT, handles that die with the process, lengths believed unread).
//!
//! Layers: `connection` frames records, `budget` and `presence` bound what is under way and who is connected; `rpc` reads calls and writes replies; `program` finds the
//! procedure and replays replies of calls sent twice; `mount`, `portmap` and `procedures` answer from the engine's
//! [`FileSystem`](tombolo_core::engine::fs::FileSystem). `handle` makes file handles that outlive restarts and can't be forged; `open` keeps files open
//! between the calls of clients, who never say that they close one. `nlm` gives them the segment's locks and `lock_table` knows who has which; `monitor` tells
//! them after a restart, by `callback`.
//!
//! Nothing that a client sends is believed: every length is checked against what is there, and memory is bounded however many clients there are.

#![forbid(unsafe_code)]

mod attributes;
mod budget;
mod callback;
mod connection;
mod data;
mod datagrams;
mod directory;
mod door;
mod exports;
mod handle;
mod kept;
mod lock_table;
mod monitor;
mod mount;
mod nlm;
mod open;
mod portmap;
mod presence;
mod procedures;
mod program;
mod registry;
mod replay;
mod rpc;
mod status;
pub mod wire;

pub use door::{NfsDoor, NfsLimits, NfsOptions};
pub use exports::{Client, Export, Exports, Squash};
