//! How commands end: exit codes, and errors with a next step.

use crate::path::show;
use crate::wire::{Refusal, kind_word};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;
use tombolo_core::{Error, ErrorKind, Subject};

/// Exit codes of every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    WrongUsage = 2,
    NotFound = 3,
    Incomplete = 4,
    Damaged = 5,
}

impl Exit {
    /// The code of a job that goes on after errors: damage and missing bytes are told apart from what was merely in the way.
    pub(crate) fn or_worse(self, other: Exit) -> Exit {
        match (self, other) {
            (Exit::Damaged, _) | (_, Exit::Damaged) => Exit::Damaged,
            (Exit::Incomplete, _) | (_, Exit::Incomplete) => Exit::Incomplete,
            (Exit::Done, Exit::Done) => Exit::Done,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine, or the way to it, refused.
    Engine(Error),
    /// Everything worth saying has been said.
    Reported(Exit),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Engine(error)
    }
}

/// What verbs give back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::Engine(error) => exit_of(error.kind()),
            Failure::Reported(exit) => *exit,
        }
    }

    /// Prints the failure on standard error, as a sentence or as JSON.
    pub(crate) fn report(&self, as_json: bool) {
        let Failure::Engine(error) = self else { return };
        say(&describe(error, as_json));
    }
}

/// Prints a line on standard error. Where nobody reads it there is nobody to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What went wrong in a job of many steps that goes on after errors.
pub(crate) struct Errors {
    as_json: bool,
    pub(crate) count: u64,
    worst: Exit,
}

impl Errors {
    pub(crate) fn new(as_json: bool) -> Errors {
        Errors { as_json, count: 0, worst: Exit::Done }
    }

    /// Says what went wrong with `what`; fails if nothing else of the job can succeed either.
    pub(crate) fn note(&mut self, what: &str, error: &Error) -> Outcome {
        let named = Error::new(error.kind(), format!("{what}: {error}")).about(error.subject());
        if is_fatal(error.kind()) {
            return Err(Failure::Engine(named));
        }
        say(&describe(&named, self.as_json));
        self.count += 1;
        self.worst = self.worst.or_worse(exit_of(error.kind()));
        Ok(())
    }

    /// How the job ends.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.worst == Exit::Done { Ok(()) } else { Err(Failure::Reported(self.worst)) }
    }
}

/// The exit code for a kind of error.
pub(crate) fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Invalid => Exit::WrongUsage,
        ErrorKind::Offline => Exit::Incomplete,
        ErrorKind::Damaged => Exit::Damaged,
        ErrorKind::Exists
        | ErrorKind::Denied
        | ErrorKind::Precondition
        | ErrorKind::NotEmpty
        | ErrorKind::Busy
        | ErrorKind::NoSpace
        | ErrorKind::Quota
        | ErrorKind::Failed => Exit::Failed,
        // The enum may grow; what is new has no exit code of its own.
        _ => Exit::Failed,
    }
}

/// `error` with its next step, for standard error.
pub(crate) fn describe(error: &Error, as_json: bool) -> String {
    let next = next_step(error.kind(), error.subject());
    if as_json {
        let Refusal { kind, about, message } = Refusal::from(error);
        return json!({ "error": { "kind": kind, "about": about, "message": message, "next": next } }).to_string();
    }
    // It may name keys that others have made.
    let error = show(error.to_string().as_bytes());
    match next {
        Some(next) => format!("tombolo: {error}\n  {next}"),
        None => format!("tombolo: {error}"),
    }
}

/// Whether nothing else of a long job can succeed after this error either.
pub(crate) fn is_fatal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NoSpace | ErrorKind::Failed)
}

fn next_step(kind: ErrorKind, subject: Subject) -> Option<&'static str> {
    Some(match (kind, subject) {
        (ErrorKind::NotFound, Subject::Segment) => "make one: tombolo init --dir DIR --segment NAME",
        (ErrorKind::NotFound, Subject::Cluster) => {
            "see what there is: tombolo cluster list; make one: tombolo cluster create CLUSTER"
        }
        (ErrorKind::NotFound, Subject::Tenant) => {
            "see what there is: tombolo tenant list CLUSTER; make one: tombolo tenant create CLUSTER/TENANT"
        }
        (ErrorKind::NotFound, Subject::Bucket) => {
            "see what there is: tombolo bucket list CLUSTER/TENANT; make one: tombolo bucket create CLUSTER/TENANT/BUCKET"
        }
        (ErrorKind::NotFound, Subject::Key) => "see what there is: tombolo ls CLUSTER/TENANT/BUCKET/",
        (ErrorKind::NotFound, Subject::Version) => "see what there is: tombolo versions CLUSTER/TENANT/BUCKET/KEY",
        (ErrorKind::NotFound, Subject::Snapshot) => "see what there is: tombolo snapshot list CLUSTER/TENANT/BUCKET",
        (ErrorKind::NotFound, Subject::User) => "see who there is: tombolo user list CLUSTER/TENANT",
        (ErrorKind::NotEmpty, Subject::Bucket) => {
            "empty it first: tombolo rm -r BUCKET; old versions (tombolo versions), snapshots and uploads count too"
        }
        (ErrorKind::NotEmpty, Subject::Key) => "delete what is below it too: tombolo rm -r PATH",
        (ErrorKind::NotEmpty, _) => "delete what is below it first",
        (ErrorKind::Busy, Subject::Segment) => "stop that process, or wait until it is done",
        (ErrorKind::NoSpace, _) => "reads and deletes go on; delete something, then: tombolo gc",
        (ErrorKind::Quota, _) => "delete something, or raise the quota: tombolo bucket set BUCKET quota-bytes=BYTES",
        (ErrorKind::Offline, _) => "try again when a segment that has the bytes is linked and up",
        (ErrorKind::Damaged, _) => "other objects are unaffected; find all damage: tombolo scrub",
        _ => return None,
    })
}

/// The word for `error`'s kind, for records about single files.
pub(crate) fn word_of(error: &Error) -> &'static str {
    kind_word(error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_exit_codes_of_the_contract() {
        for (kind, code) in [
            (ErrorKind::NotFound, 3),
            (ErrorKind::Exists, 1),
            (ErrorKind::Denied, 1),
            (ErrorKind::Invalid, 2),
            (ErrorKind::Precondition, 1),
            (ErrorKind::NotEmpty, 1),
            (ErrorKind::Busy, 1),
            (ErrorKind::NoSpace, 1),
            (ErrorKind::Quota, 1),
            (ErrorKind::Offline, 4),
            (ErrorKind::Damaged, 5),
            (ErrorKind::Failed, 1),
        ] {
            assert_eq!(exit_of(kind) as u8, code, "{kind:?}");
        }
    }

    /// `rm -r` ended with the code of the last error where it is to be that of the worst.
    #[test]
    fn the_worst_code_does_not_depend_on_the_order() {
        let worst = |exits: &[Exit]| exits.iter().fold(Exit::Done, |worst, exit| worst.or_worse(*exit));
        assert_eq!(worst(&[]), Exit::Done);
        assert_eq!(worst(&[Exit::NotFound]), Exit::Failed);
        for (exits, code) in [
            ([Exit::Incomplete, Exit::Failed], Exit::Incomplete),
            ([Exit::Incomplete, Exit::Damaged], Exit::Damaged),
            ([Exit::Damaged, Exit::WrongUsage], Exit::Damaged),
        ] {
            let [first, second] = exits;
            assert_eq!((worst(&exits), worst(&[second, first])), (code, code), "{exits:?}");
        }
    }

    #[test]
    fn errors_say_what_to_do_next() {
        let error = Error::not_found(Subject::Bucket, "there is no bucket 'C/t/b'");
        let text = describe(&error, false);
        assert!(text.contains("C/t/b") && text.contains("tombolo bucket create"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&describe(&error, true)).unwrap();
        assert_eq!(json["error"]["kind"], "not-found");
        assert_eq!(json["error"]["about"], "bucket");
    }
}
