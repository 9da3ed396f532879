//! The S3 door through its socket, by a client that signs for itself. One module for each noun.

mod auth;
mod buckets;
mod chunked;
mod client;
mod conditional;
mod copying;
mod forms;
mod limits;
mod listing;
mod multipart;
mod object_store;
mod objects;
mod versions;
