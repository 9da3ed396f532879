//! Trees of files: from a directory into a bucket and back, keeping what POSIX knows of them.
//!
//! Both directions are one producer that goes through the tree in order, and a number of workers with a file each; what is
//! in flight is bounded, whatever the size of the tree, of a directory or of a file. A job comes after its directory's, so a
//! worker that waits for a directory (or for the first name of a hard-linked file) waits for an earlier job only. A
//! directory is finished (times, and when exporting its mode) by whoever lets go of it last.

mod attributes;
mod draft;
mod export;
mod import;
mod link;
mod report;
mod sink;
mod source;
mod walk;

pub(crate) use draft::Draft;
pub(crate) use export::{ExportPlan, export, nothing_there};
pub(crate) use import::{ImportPlan, import};
pub(crate) use report::Report;
pub(crate) use sink::Sink;
pub(crate) use source::Source;

/// Bytes in the files below `root`, for a progress bar.
pub(crate) fn bytes_below(root: &std::path::Path) -> u64 {
    walk::Walk::bytes(root)
}
