//! P5 to P8 between segments: the sync machine over lines that delay, break and lose.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "a test program")]

mod machine;
