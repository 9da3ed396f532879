//! The NFS door through its socket, by a client that says what kernels don't. One module for each noun.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test says what is wrong by failing"
)]

mod client;
mod conflicts;
mod connections;
mod exports;
mod listing;
mod locking;
mod loss;
mod served;
