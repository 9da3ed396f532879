//! The S3 door through its socket, by a client that signs for itself. One module for each noun.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test says what is wrong by failing"
)]

mod auth;
mod buckets;
mod chunked;
mod client;
mod conditional;
mod copying;
mod documents;
mod forms;
mod limits;
mod listing;
mod multipart;
mod object_store;
mod objects;
mod versions;
