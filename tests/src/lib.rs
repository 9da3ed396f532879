//! What the tests stand on: the `tombolo` binary as a child process, real client programs, and a small S3 client that
//! can say the odd things (any key, any header, a request cut off half-way) that well-behaved clients don't.
//!
//! The tests themselves are in `tests/tests`, one file for each promise or door. Nothing here sleeps to wait: see [`wait`].

pub mod blocks;
pub mod command;
pub mod content;
pub mod door;
pub mod linked;
pub mod model;
pub mod mount;
pub mod network;
pub mod nfs;
pub mod path_encoding;
pub mod s3;
pub mod server;
pub mod signature;
pub mod tree;
pub mod wait;
pub mod workload;
pub mod xml;
