//! Links and how far they have come, on their way between command and daemon.

use super::text::{Raw, SecretText};
use serde::{Deserialize, Serialize};
use tombolo_core::VersionVector;
use tombolo_link::{
    BucketStatus, Direction, Invite, Link, LinkStatus, MissingObject, Mode, PeerBucketStatus, Rotation, Scope,
    SyncStatus, Visible,
};

/// One thing to do with links.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "link", rename_all = "kebab-case")]
pub(crate) enum LinkOperation {
    /// → `CodeRecord`; of daemons only. Without addresses: where the daemon listens
    Invite {
        addresses: Vec<String>,
        scope: Scope,
        mode: Mode,
        visible: Visible,
        direction: Direction,
        valid_for_s: u64,
    },
    /// → `Vec<InviteRecord>`
    Invites,
    Cancel {
        id: String,
    },
    /// → `LinkRecord`; of daemons only
    Accept {
        code: SecretText,
        mode: Option<Mode>,
        visible: Option<Visible>,
        direction: Option<Direction>,
        scope: Option<Scope>,
    },
    /// → `Vec<LinkRecord>`
    List,
    /// → `LinkRecord`
    Show {
        name: String,
    },
    /// → `LinkRecord`
    Set {
        name: String,
        set: Vec<(String, String)>,
    },
    /// → `LinkRecord`
    Pause {
        name: String,
        paused: bool,
    },
    Delete {
        name: String,
    },
    /// → `RotationRecord`; of daemons only
    RotateKey {
        now: bool,
        timeout_ms: u64,
    },
    /// `Record(BucketSyncRecord)` for each bucket in the scope, then → `Vec<LinkRecord>`; of daemons only
    Status {
        scope: Scope,
    },
    /// → `Vec<VerifiedRecord>`; of daemons only
    Verify {
        scope: Scope,
        timeout_ms: u64,
    },
    /// A peer's name or a segment's id → `u64`, how many buckets it carries
    Forget {
        segment: String,
    },
    /// → `()` when all is here; of daemons only
    Wait {
        scope: Scope,
        timeout_ms: Option<u64>,
    },
}

/// How far a change of this segment's key is. Also its JSON on the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RotationRecord {
    pub(crate) fingerprint: String,
    /// The key that is to follow; `None`: it has.
    pub(crate) next: Option<String>,
    pub(crate) told: Vec<String>,
    pub(crate) waiting: Vec<String>,
}

impl From<Rotation> for RotationRecord {
    fn from(rotation: Rotation) -> Self {
        RotationRecord {
            fingerprint: rotation.fingerprint.to_string(),
            next: rotation.next.map(|next| next.to_string()),
            told: rotation.told,
            waiting: rotation.waiting,
        }
    }
}

/// A code that was just made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CodeRecord {
    pub(crate) code: SecretText,
    pub(crate) addresses: Vec<String>,
    pub(crate) expires_unix_s: u64,
}

/// A code that waits to be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct InviteRecord {
    pub(crate) id: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) scope: Scope,
    pub(crate) mode: Mode,
    pub(crate) visible: Visible,
    pub(crate) direction: Direction,
    pub(crate) expires_unix_s: u64,
}

impl From<Invite> for InviteRecord {
    fn from(invite: Invite) -> Self {
        let options = invite.options;
        InviteRecord {
            id: invite.id,
            addresses: options.addresses,
            scope: options.scope,
            mode: options.mode,
            visible: options.visible,
            direction: options.direction,
            expires_unix_s: invite.expires_unix_s,
        }
    }
}

/// A link; how it is doing only when a daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkRecord {
    pub(crate) link: Link,
    pub(crate) state: Option<LinkState>,
}

/// How a link is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkState {
    pub(crate) connected: bool,
    pub(crate) catalog_complete: bool,
    pub(crate) connected_to: Option<String>,
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) problem: Option<String>,
}

impl LinkRecord {
    /// `link`, with its state if `status` has it.
    pub(crate) fn new(link: Link, status: Option<&SyncStatus>) -> LinkRecord {
        let state = status.and_then(|status| status.links.iter().find(|state| state.peer == link.peer));
        LinkRecord { state: state.map(LinkState::from), link }
    }
}

impl From<&LinkStatus> for LinkState {
    fn from(status: &LinkStatus) -> Self {
        LinkState {
            connected: status.is_connected,
            catalog_complete: status.is_catalog_here,
            connected_to: status.connected_to.map(|address| address.to_string()),
            rtt_ms: status.rtt_ms,
            sent_bytes: status.sent_bytes,
            received_bytes: status.received_bytes,
            problem: status.problem.clone(),
        }
    }
}

/// How far a bucket has come here. Also its JSON on the terminal. Vectors are in their text form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BucketSyncRecord {
    pub(crate) bucket: String,
    pub(crate) vector: String,
    pub(crate) data_vector: String,
    /// Whether every peer's known changes are here.
    pub(crate) names_complete: bool,
    /// Whether all bytes that are to be here are; `None`: they come when they are read.
    pub(crate) data_complete: Option<bool>,
    /// Whether data comes when it is read, but for what is pinned.
    pub(crate) on_demand: bool,
    pub(crate) pins: Vec<Raw>,
    pub(crate) missing_objects: u64,
    pub(crate) missing_bytes: u64,
    /// Whether counting stopped early, so that more is missing.
    pub(crate) missing_is_more: bool,
    pub(crate) missing: Vec<MissingRecord>,
    /// Whether versions show only when their data is here.
    pub(crate) whole: bool,
    /// Versions that have come and do not show yet for that.
    pub(crate) waiting_objects: u64,
    pub(crate) waiting_bytes: u64,
    pub(crate) waiting: Vec<MissingRecord>,
    /// Files that are out of sight here, because others hold them.
    #[serde(default)]
    pub(crate) away_objects: u64,
    /// Seconds since all data was here that was to be: 0 if it is.
    #[serde(default)]
    pub(crate) data_lag_s: f64,
    /// Time until all data is here at the rate of the last seconds; `None`: it is, or it can't be told.
    pub(crate) data_eta_s: Option<f64>,
    /// Whether this segment was away too long, and compares all that it holds.
    pub(crate) comparing: bool,
    pub(crate) carriers: Vec<CarrierRecord>,
    pub(crate) peers: Vec<PeerSyncRecord>,
}

/// A segment that carries a bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CarrierRecord {
    pub(crate) segment: String,
    pub(crate) forgotten: bool,
}

/// A version whose bytes are not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MissingRecord {
    /// `None`: no name shows it.
    pub(crate) key: Option<Raw>,
    pub(crate) size: u64,
    pub(crate) reason: String,
}

/// How far one bucket has come with one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerSyncRecord {
    pub(crate) peer: String,
    pub(crate) name: String,
    pub(crate) open: bool,
    pub(crate) vector: String,
    /// Whether all that the peer is known to have is here, by name.
    pub(crate) here: bool,
    /// Whether all that is here is known to be at the peer, by name.
    pub(crate) there: bool,
    /// Whether the peer was away too long, compares all that it holds, and tells of it when that is over.
    #[serde(default)]
    pub(crate) comparing: bool,
    pub(crate) in_flight: u64,
    /// `None`: nothing came lately.
    pub(crate) names_per_second: Option<f64>,
    pub(crate) bytes_per_second: Option<f64>,
    /// Seconds since all names were here that the peer had told of: 0 if they are; `None`: it has told of nothing since the daemon began.
    #[serde(default)]
    pub(crate) names_lag_s: Option<f64>,
    /// Time until all names are here at that rate; `None`: they are, or it can't be told.
    pub(crate) names_eta_s: Option<f64>,
    pub(crate) problem: Option<String>,
}

/// Whether all bytes that are to be here are; `None`: they come when they are read, so nobody waits for them.
pub(crate) fn data_complete(status: &BucketStatus) -> Option<bool> {
    let is_here = status.is_data_complete();
    if status.wants_data {
        return Some(is_here && is_up_to(&status.data_vector, &status.vector));
    }
    (!is_here || !status.pins.is_empty()).then_some(is_here)
}

fn is_up_to(vector: &VersionVector, other: &VersionVector) -> bool {
    vector.dominates(other)
}

impl From<&BucketStatus> for BucketSyncRecord {
    fn from(status: &BucketStatus) -> Self {
        BucketSyncRecord {
            bucket: status.path.to_string(),
            vector: status.vector.to_string(),
            data_vector: status.data_vector.to_string(),
            names_complete: status.peers.iter().all(|peer| peer.is_here),
            data_complete: data_complete(status),
            on_demand: !status.wants_data,
            pins: status.pins.iter().cloned().map(Raw).collect(),
            missing_objects: status.missing_objects,
            missing_bytes: status.missing_bytes,
            missing_is_more: status.missing_is_more,
            missing: status.missing.iter().map(MissingRecord::from).collect(),
            whole: status.shows_whole,
            waiting_objects: status.waiting_objects,
            waiting_bytes: status.waiting_bytes,
            waiting: status.waiting.iter().map(MissingRecord::from).collect(),
            away_objects: status.away_objects,
            data_lag_s: status.data_lag.as_secs_f64(),
            data_eta_s: status.data_left.map(|left| left.as_secs_f64()),
            comparing: status.is_comparing,
            carriers: status
                .carriers
                .iter()
                .map(|(segment, forgotten)| CarrierRecord { segment: segment.to_string(), forgotten: *forgotten })
                .collect(),
            peers: status.peers.iter().map(PeerSyncRecord::from).collect(),
        }
    }
}

impl From<&MissingObject> for MissingRecord {
    fn from(missing: &MissingObject) -> Self {
        MissingRecord { key: missing.path.clone().map(Raw), size: missing.size, reason: missing.reason.clone() }
    }
}

impl From<&PeerBucketStatus> for PeerSyncRecord {
    fn from(status: &PeerBucketStatus) -> Self {
        PeerSyncRecord {
            peer: status.peer.to_string(),
            name: status.name.clone(),
            open: status.is_open,
            vector: status.peer_vector.to_string(),
            here: status.is_here,
            there: status.is_there,
            comparing: status.is_comparing,
            in_flight: status.in_flight as u64,
            names_per_second: status.rate.map(|rate| rate.names_per_second),
            bytes_per_second: status.rate.map(|rate| rate.bytes_per_second),
            names_lag_s: status.names_lag.map(|lag| lag.as_secs_f64()),
            names_eta_s: status.names_left.map(|left| left.as_secs_f64()),
            problem: status.problem.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Operation, decode, encode};
    use bytes::Bytes;
    use tombolo_core::SegmentId;

    fn vector(text: &str) -> VersionVector {
        text.parse().unwrap()
    }

    fn status() -> BucketStatus {
        let here = format!("{}-7", SegmentId([1; 16]));
        BucketStatus {
            path: "C/t/b".parse().unwrap(),
            vector: vector(&here),
            data_vector: vector(&here),
            wants_data: true,
            pins: Vec::new(),
            missing_objects: 0,
            missing_bytes: 0,
            missing_is_more: false,
            missing: Vec::new(),
            shows_whole: false,
            waiting_objects: 0,
            waiting_bytes: 0,
            waiting: Vec::new(),
            away_objects: 0,
            data_lag: Default::default(),
            data_left: None,
            is_comparing: false,
            carriers: vec![(SegmentId([3; 16]), true)],
            peers: vec![PeerBucketStatus {
                peer: SegmentId([2; 16]),
                name: "newyork".into(),
                is_open: true,
                peer_vector: vector(&here),
                is_here: true,
                is_there: true,
                is_comparing: false,
                in_flight: 0,
                rate: None,
                names_lag: None,
                names_left: None,
                problem: None,
            }],
        }
    }

    /// P8: nothing counts as complete while a byte is known to be missing, whichever of the signs says so.
    #[test]
    fn complete_is_said_only_when_nothing_is_missing() {
        assert_eq!(data_complete(&status()), Some(true));
        assert_eq!(data_complete(&BucketStatus { missing_objects: 1, ..status() }), Some(false));
        assert_eq!(data_complete(&BucketStatus { missing_is_more: true, ..status() }), Some(false));
        assert_eq!(data_complete(&BucketStatus { data_vector: VersionVector::new(), ..status() }), Some(false));
        let on_demand = BucketStatus { wants_data: false, data_vector: VersionVector::new(), ..status() };
        assert_eq!(data_complete(&on_demand), None);
        assert_eq!(data_complete(&BucketStatus { missing_objects: 1, ..on_demand.clone() }), Some(false));
        let pinned = BucketStatus { pins: vec![Bytes::from_static(b"a/")], ..on_demand };
        assert_eq!(data_complete(&pinned), Some(true));
        assert_eq!(data_complete(&BucketStatus { missing_is_more: true, ..pinned }), Some(false));
        let mut behind = status();
        assert!(BucketSyncRecord::from(&behind).names_complete);
        behind.peers.iter_mut().for_each(|peer| peer.is_here = false);
        assert!(!BucketSyncRecord::from(&behind).names_complete);
    }

    #[test]
    fn records_survive_the_socket() {
        let mut status = status();
        status.missing.push(MissingObject {
            path: Some(Bytes::from_static(b"a\xff")),
            size: 3,
            reason: "no linked segment has it".into(),
        });
        let record = BucketSyncRecord::from(&status);
        let back: BucketSyncRecord = decode(&encode(&record).unwrap()).unwrap();
        assert_eq!(back, record);
        assert_eq!(vector(&back.vector), status.vector);
    }

    #[test]
    fn operations_on_links_survive_the_socket_and_hide_codes() {
        let accept = LinkOperation::Accept {
            code: SecretText("tombolo1-hush".into()),
            mode: Some(Mode::Metadata),
            visible: Some(Visible::Whole),
            direction: None,
            scope: Some(Scope::everything()),
        };
        let operation = Operation::Links(accept);
        assert!(!format!("{operation:?}").contains("hush"));
        let back: Operation = decode(&encode(&operation).unwrap()).unwrap();
        let Operation::Links(LinkOperation::Accept { code, mode, visible, direction, scope }) = back else {
            panic!("{back:?}");
        };
        assert_eq!((code.0.as_str(), mode, direction), ("tombolo1-hush", Some(Mode::Metadata), None));
        assert_eq!((scope, visible), (Some(Scope::everything()), Some(Visible::Whole)));
        let bad = r#"{"do":"links","link":"wait","scope":["a/b/c/d"],"timeout_ms":1}"#;
        assert!(decode::<Operation>(bad.as_bytes()).is_err());
    }
}
