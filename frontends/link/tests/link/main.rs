//! Segments linked over real sockets, in one process.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what failed by failing")]

mod cases;
mod promises;
mod returning;
mod site;
mod slow;
mod whole;
