//! What an import or export has done, and what went wrong on the way.

use crate::failure::{Exit, Failure, Outcome, describe, exit_of, is_fatal, word_of};
use crate::output::Output;
use crate::path::show;
use crate::progress::Progress;
use crate::quantity::size;
use crate::wire::kind_word;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tombolo_core::{Error, ErrorKind};

/// Errors that are kept for the JSON summary; all are printed.
const ERRORS_KEPT: usize = 1000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    Files,
    Directories,
    Symlinks,
    /// Further names of a file.
    Links,
    /// Pipes, sockets and devices.
    Special,
    /// Were there already.
    Skipped,
}

const NAMES: [(Tally, &str); 6] = [
    (Tally::Files, "files"),
    (Tally::Directories, "directories"),
    (Tally::Symlinks, "symlinks"),
    (Tally::Links, "links"),
    (Tally::Special, "special"),
    (Tally::Skipped, "skipped"),
];

/// Shared by all workers of a job.
pub(crate) struct Report {
    progress: Progress,
    as_json: bool,
    counts: [AtomicU64; 6],
    bytes: AtomicU64,
    errors: Mutex<Errors>,
    is_stopped: AtomicBool,
}

struct Errors {
    count: u64,
    kept: Vec<Value>,
    worst: Exit,
}

impl Report {
    pub(crate) fn new(progress: Progress, as_json: bool) -> Report {
        Report {
            progress,
            as_json,
            counts: Default::default(),
            bytes: AtomicU64::new(0),
            errors: Mutex::new(Errors { count: 0, kept: Vec::new(), worst: Exit::Done }),
            is_stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn count(&self, what: Tally) {
        for ((tally, _), count) in NAMES.iter().zip(&self.counts) {
            if *tally == what {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Content that has been stored or written.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.add(bytes);
    }

    /// Content that needed no work.
    pub(crate) fn skip_bytes(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    /// The engine refused something about `path`. An error that everything else would meet too stops the job.
    pub(crate) fn failed(&self, path: &str, error: &Error) {
        if is_fatal(error.kind()) && self.is_stopped.swap(true, Ordering::Relaxed) {
            // The first of its kind has said it.
            return;
        }
        let named = Error::new(error.kind(), format!("{path}: {error}")).about(error.subject());
        self.progress.note(&describe(&named, self.as_json));
        self.keep(path, word_of(error), error.to_string(), exit_of(error.kind()));
    }

    /// A local file could not be read or written.
    pub(crate) fn failed_locally(&self, path: &str, error: &io::Error) {
        if error.kind() == io::ErrorKind::StorageFull && self.is_stopped.swap(true, Ordering::Relaxed) {
            return;
        }
        // The kind only chooses words here: one local file says nothing about the engine.
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Failed,
        };
        let text = format!("{path}: {error}");
        let line = match self.as_json {
            true => describe(&Error::new(kind, text), true),
            false => format!("tombolo: {}", show(text.as_bytes())),
        };
        self.progress.note(&line);
        self.keep(path, kind_word(kind), error.to_string(), Exit::Failed);
    }

    fn keep(&self, path: &str, kind: &str, message: String, exit: Exit) {
        let mut errors = self.errors.lock();
        errors.count += 1;
        if errors.kept.len() < ERRORS_KEPT {
            errors.kept.push(json!({ "path": path, "kind": kind, "message": message }));
        }
        errors.worst = errors.worst.or_worse(exit);
    }

    /// Whether to give up.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Prints the summary; an error if there were any.
    pub(crate) fn finish(&self, output: &mut Output, done: &str) -> Outcome {
        self.progress.finish();
        let errors = self.errors.lock();
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mut summary = json!({ "bytes": bytes, "errors": errors.count, "failed": errors.kept });
        let mut parts = Vec::new();
        for ((_, name), count) in NAMES.iter().zip(&self.counts) {
            let count = count.load(Ordering::Relaxed);
            if let Some(map) = summary.as_object_mut() {
                map.insert((*name).into(), count.into());
            }
            if count > 0 {
                parts.push(format!("{count} {name}"));
            }
        }
        let parts = if parts.is_empty() { "nothing".into() } else { parts.join(", ") };
        let mut text = format!("{done}: {parts}, {}", size(bytes));
        if self.is_stopped() {
            text.push_str("; stopped early, the same command goes on from here");
        } else if errors.count > 0 {
            text.push_str(&format!("; {} left out", errors.count));
        }
        output.answer(summary, &text)?;
        if errors.worst == Exit::Done { Ok(()) } else { Err(Failure::Reported(errors.worst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(kinds: &[ErrorKind]) -> Exit {
        let report = Report::new(Progress::start(true, None), true);
        for kind in kinds {
            report.failed("p", &Error::new(*kind, "m"));
        }
        let errors = report.errors.lock();
        errors.worst
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_error() {
        assert_eq!(worst(&[]), Exit::Done);
        assert_eq!(worst(&[ErrorKind::Denied, ErrorKind::NotFound]), Exit::Failed);
        assert_eq!(worst(&[ErrorKind::Denied, ErrorKind::Damaged, ErrorKind::Offline]), Exit::Damaged);
        assert_eq!(worst(&[ErrorKind::Offline, ErrorKind::Denied]), Exit::Incomplete);
    }

    #[test]
    fn a_full_disk_stops_the_job_and_is_said_once() {
        let report = Report::new(Progress::start(true, None), true);
        report.failed("p", &Error::invalid("bad name"));
        assert!(!report.is_stopped());
        report.failed("q", &Error::new(ErrorKind::NoSpace, "full"));
        report.failed("r", &Error::new(ErrorKind::NoSpace, "full"));
        assert!(report.is_stopped());
        assert_eq!(report.errors.lock().count, 2);
    }
}
