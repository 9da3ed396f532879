//! Tombolo's S3 door: an S3 endpoint over one segment, built on s3s.
//!
//! Every key pair of the segment's users sees the buckets of its own tenant and no others; nobody gets in without one.
//! A request passes the gate (what s3s 0.14.1 would take and AWS would not is refused; aws-chunked bodies are cut
//! small, so that an upload of any size and framing needs little memory), then s3s (signature, XML, headers), then one
//! of the operations, which are thin: what is atomic or durable is so in the engine.
//!
//! ```no_run
//! # async fn run(segment: tombolo_core::Segment) -> tombolo_core::Result<()> {
//! use tombolo_s3::{S3Door, S3Options};
//!
//! let door = S3Door::bind(segment, &["127.0.0.1:9000".parse().unwrap()], S3Options::default()).await?;
//! println!("listening on {:?}", door.addresses()?);
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! door.serve(async { drop(stopped.await) }).await;
//! # drop(stop); Ok(()) }
//! ```
//!
//! Not here: TLS (put a proxy in front, or bind to loopback), policies, ACLs beyond the owner's, lifecycle, object lock,
//! encryption. Requests for them say so; none is silently ignored.

mod after;
mod auth;
mod body;
mod buckets;
mod checksum;
mod conditions;
mod delete;
mod errors;
mod form;
mod gate;
mod get;
mod host;
mod lenient;
mod listing;
mod metadata;
mod multipart;
mod ops;
mod options;
mod put;
mod rechunk;
mod requests;
mod server;
mod service;
mod time;

#[doc(hidden)]
pub use form::{SeenForm, read_form};
#[doc(hidden)]
pub use gate::screen_head;
pub use options::{S3Limits, S3Options};
pub use rechunk::{ChunkError, ChunkMode, Rechunker};
pub use requests::S3Counts;
pub use server::{S3Door, serve};
