//! What a comparison with a linked segment found, on its way between command and daemon.

use super::text::Raw;
use serde::{Deserialize, Serialize};
use tombolo_core::{Difference, Dot, Held};
use tombolo_link::{Outcome, Verified};

/// One bucket here and at one linked segment. Also its JSON on the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerifiedRecord {
    pub(crate) bucket: String,
    pub(crate) peer: String,
    pub(crate) name: String,
    pub(crate) outcome: OutcomeWord,
    /// Rows of metadata here that were compared.
    pub(crate) rows: u64,
    pub(crate) differences: Vec<DifferenceRecord>,
    /// Whether there may be more differences.
    pub(crate) is_more: bool,
    /// Changes that are there and not here, `SEGMENT-SEQUENCE`.
    pub(crate) lacking_here: Vec<String>,
    /// Changes that are here and not there.
    pub(crate) lacking_there: Vec<String>,
    /// Why nothing is known.
    pub(crate) problem: Option<String>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) questions: u64,
}

/// What came of it, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OutcomeWord {
    Equal,
    Different,
    UnderWay,
    Unknown,
}

/// Something that is not the same at both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DifferenceRecord {
    /// `None`: nothing here shows it.
    pub(crate) key: Option<Raw>,
    /// Which part of it.
    pub(crate) what: String,
    /// `both` (and not the same), `here` or `there`.
    pub(crate) held: String,
}

impl From<Difference> for DifferenceRecord {
    fn from(difference: Difference) -> Self {
        let held = match difference.held {
            Held::Differently => "both",
            Held::Here => "here",
            Held::There => "there",
        };
        DifferenceRecord { key: difference.name.path.map(Raw), what: difference.name.what, held: held.into() }
    }
}

impl From<Verified> for VerifiedRecord {
    fn from(verified: Verified) -> Self {
        let mut record = VerifiedRecord {
            bucket: verified.bucket.to_string(),
            peer: verified.peer.to_string(),
            name: verified.name,
            outcome: OutcomeWord::Unknown,
            rows: 0,
            differences: Vec::new(),
            is_more: false,
            lacking_here: Vec::new(),
            lacking_there: Vec::new(),
            problem: None,
            sent_bytes: verified.sent_bytes,
            received_bytes: verified.received_bytes,
            questions: verified.questions,
        };
        let dots = |dots: Vec<Dot>| dots.into_iter().map(|dot| format!("{}-{}", dot.segment, dot.sequence)).collect();
        match verified.outcome {
            Outcome::Compared(compared) => {
                let is_equal = compared.differences.is_empty() && !compared.is_more;
                record.outcome = if is_equal { OutcomeWord::Equal } else { OutcomeWord::Different };
                (record.rows, record.is_more) = (compared.rows, compared.is_more);
                record.differences = compared.differences.into_iter().map(DifferenceRecord::from).collect();
            }
            Outcome::UnderWay { here, there } => {
                record.outcome = OutcomeWord::UnderWay;
                (record.lacking_here, record.lacking_there) = (dots(here), dots(there));
            }
            Outcome::Unknown(problem) => record.problem = Some(problem),
        }
        record
    }
}
