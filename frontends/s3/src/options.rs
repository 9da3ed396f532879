//! What an operator decides about the door.

use std::time::Duration;
use tombolo_core::TenantPath;

/// How to open the door.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Serve the buckets of this tenant only. `None`: every tenant's, each to its own keys.
    pub tenant: Option<TenantPath>,
    /// Requests to a host below one of these domains are for the bucket that the host names (`BUCKET.DOMAIN`, virtual-hosted style); all others have it
    /// in their path. Without ports.
    pub domains: Vec<String>,
    /// Bounds on what clients can make the process hold.
    pub limits: S3Limits,
}

/// Bounds on connections, waiting and memory. Memory of the door: about `connections_max` × `read_buffer_bytes`
/// for bodies on their way in, plus a chunk of the bucket's for each long answer, plus `signed_chunk_budget_bytes`, plus `xml_bytes_max` for each request with
/// an XML body.
#[derive(Debug, Clone)]
pub struct S3Limits {
    /// The most connections at a time; more wait in the listen queue.
    pub connections_max: usize,
    /// How long a client may take for the head of a request; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a body may stand still.
    pub body_timeout: Duration,
    /// The most bytes of an XML body.
    pub xml_bytes_max: usize,
    /// The read buffer of a connection, in bytes; also the longest head of a request.
    pub read_buffer_bytes: usize,
    /// The longest signed chunk of an aws-chunked body, in bytes.
    pub signed_chunk_bytes_max: u64,
    /// What signed chunks of all connections may hold together, in bytes.
    pub signed_chunk_budget_bytes: u64,
    /// The most bytes of a single PUT, form upload or part.
    pub put_bytes_max: u64,
    /// How long requests in flight may go on after the shutdown signal.
    pub drain_timeout: Duration,
}

impl Default for S3Limits {
    fn default() -> Self {
        S3Limits {
            connections_max: 1024,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            xml_bytes_max: 8 << 20,
            read_buffer_bytes: 128 << 10,
            signed_chunk_bytes_max: 16 << 20,
            signed_chunk_budget_bytes: 64 << 20,
            put_bytes_max: 5 << 30,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
