//! Conflicts, and what becomes of them, on their way between command and daemon.

use super::text::Raw;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tombolo_core::{BucketPath, Conflict, ConflictKind, Resolution};

/// Something that concurrent changes left to decide. Also its JSON on the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConflictRecord {
    pub(crate) bucket: String,
    /// `file`, `directory`, `cycle` or `rescued`.
    pub(crate) kind: String,
    /// The key in contention.
    pub(crate) key: Raw,
    /// The key under which the loser shows; `None`: it is an older version of `key`.
    pub(crate) copy: Option<Raw>,
    /// The segment that made the write which lost, and that write's number there.
    pub(crate) segment: String,
    pub(crate) sequence: u64,
    /// The loser's version; `None`: a directory.
    pub(crate) version: Option<String>,
}

impl ConflictRecord {
    pub(crate) fn new(bucket: &BucketPath, conflict: Conflict) -> ConflictRecord {
        let kind = match conflict.kind {
            ConflictKind::File => "file",
            ConflictKind::DirectoryName => "directory",
            ConflictKind::Cycle => "cycle",
            ConflictKind::Rescued => "rescued",
        };
        ConflictRecord {
            bucket: bucket.to_string(),
            kind: kind.into(),
            key: Raw(conflict.of),
            copy: conflict.key.map(Raw),
            segment: conflict.segment.to_string(),
            sequence: conflict.sequence,
            version: conflict.version.map(|version| version.to_string()),
        }
    }

    /// What `sync conflicts resolve` takes: the copy, or, where losers don't show, the key.
    pub(crate) fn place(&self) -> &Raw {
        self.copy.as_ref().unwrap_or(&self.key)
    }
}

/// Who stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Take {
    /// What has the name keeps it, and the copy goes.
    Mine,
    /// The copy takes the name, and what had it goes.
    Theirs,
    /// The copy becomes an ordinary file, or directory, beside it.
    Both,
}

impl From<Take> for Resolution {
    fn from(take: Take) -> Resolution {
        match take {
            Take::Mine => Resolution::KeepMine,
            Take::Theirs => Resolution::TakeTheirs,
            Take::Both => Resolution::KeepBoth,
        }
    }
}
