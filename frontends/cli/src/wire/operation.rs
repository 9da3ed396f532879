//! What can be asked of a segment, here or in a daemon, and how a refusal travels.

use super::conflict::Take;
use super::link::LinkOperation;
use super::record::{AttributesRecord, Named};
use super::text::{Raw, SecretText};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tombolo_core::{Error, ErrorKind, Result, Subject};
use tombolo_link::Scope;

/// One thing to do. Paths are text (`CLUSTER/TENANT/BUCKET`) and checked where they are used.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// → `StatusRecord`
    Status,
    /// Progress, then → `ScrubRecord`
    Scrub {
        bytes_per_second: u64,
    },
    /// → `GcRecord`
    Gc {
        /// 0: unlimited.
        bytes_per_second: u64,
    },
    /// → `()`; of daemons only
    Mount {
        path: String,
        point: Raw,
        options: String,
    },

    CreateCluster {
        cluster: String,
    },
    DeleteCluster {
        cluster: String,
    },
    /// → `Vec<String>`
    Clusters,
    CreateTenant {
        tenant: String,
    },
    DeleteTenant {
        tenant: String,
    },
    /// → `Vec<String>`, names only
    Tenants {
        cluster: String,
    },
    /// → `BucketRecord`
    CreateBucket {
        bucket: String,
        set: Vec<(String, String)>,
    },
    DeleteBucket {
        bucket: String,
    },
    /// → `Vec<BucketRecord>`
    Buckets {
        tenant: String,
    },
    /// → `BucketRecord` with usage
    Bucket {
        bucket: String,
    },
    /// → `BucketRecord`
    SetBucket {
        bucket: String,
        set: Vec<(String, String)>,
    },
    /// → `UserRecord` with the secret
    CreateUser {
        tenant: String,
        name: String,
        keys: Option<(String, SecretText)>,
    },
    DeleteUser {
        tenant: String,
        name: String,
    },
    /// → `Vec<UserRecord>`
    Users {
        tenant: String,
    },

    /// Takes `Data` and `Hole` frames up to `End` → `ObjectRecord`
    Put(Box<PutRequest>),
    /// `Record(ObjectRecord)`, then the content as `Data` and `Hole` → `()`.
    /// With `unless_linked` a file of several names gives its record only.
    Get {
        at: Named,
        unless_linked: bool,
    },
    /// → `ObjectRecord`; what S3 sees under the key
    Head {
        at: Named,
        /// Also how much of its data is here.
        local: bool,
    },
    /// → `ObjectRecord`; file or directory
    Stat {
        bucket: String,
        path: Raw,
    },
    /// → BLAKE3 of the content in hexadecimal
    Digest {
        at: Named,
    },
    /// → `Page`
    List {
        bucket: String,
        prefix: Raw,
        delimiter: bool,
        after: Option<Raw>,
        snapshot: Option<String>,
        /// Also how much of each object's data is here.
        local: bool,
        /// Also names that are away.
        #[serde(default)]
        away: bool,
    },
    /// → `VersionsPage`; one page of the versions under a prefix, or of one key
    Versions {
        bucket: String,
        prefix: Raw,
        after: Option<(Raw, Option<String>)>,
    },
    /// → `DeletedRecord`; what is not there is left alone
    Delete {
        bucket: String,
        key: Raw,
        version: Option<String>,
        if_match: Option<String>,
    },
    /// → `Vec<Option<Refusal>>`, one for each key
    DeleteMany {
        bucket: String,
        keys: Vec<Raw>,
    },
    /// → `ObjectRecord`; the copy has what POSIX knows of the source, if that is anything
    Copy {
        from: Named,
        bucket: String,
        key: Raw,
        /// As a rename would: what is there loses this name, and keeps others that it has.
        replaces: bool,
    },
    Rename {
        bucket: String,
        from: Raw,
        to: Raw,
    },
    /// → whether it was made (`false`: it was there)
    MakeDirectory {
        bucket: String,
        path: Raw,
        attributes: AttributesRecord,
    },
    RemoveDirectory {
        bucket: String,
        path: Raw,
    },
    Link {
        bucket: String,
        existing: Raw,
        to: Raw,
        /// In place of another file that has the name.
        replaces: bool,
    },
    SetAttributes {
        bucket: String,
        path: Raw,
        attributes: AttributesRecord,
        modified_ns: Option<i64>,
    },

    /// → `SnapshotRecord`
    CreateSnapshot {
        bucket: String,
        name: String,
    },
    DeleteSnapshot {
        bucket: String,
        name: String,
    },
    /// → `Vec<SnapshotRecord>`
    Snapshots {
        bucket: String,
    },
    /// → number of objects
    Clone {
        bucket: String,
        prefix: Raw,
        target: String,
        snapshot: Option<String>,
    },

    /// `Record(ConflictRecord)` for each conflict in the scope about a key that begins with `below`, then → `()`
    Conflicts {
        scope: Scope,
        below: Raw,
    },
    Resolve {
        bucket: String,
        key: Raw,
        take: Take,
    },
    /// → `String`: what the bucket holds now, for a reader elsewhere
    Token {
        bucket: String,
    },
    /// → `()` when all is here that the token stands for
    Await {
        bucket: String,
        token: String,
        timeout_ms: u64,
    },
    /// → how many versions are to be brought, of `Keep::Persist`; how many files came back, of `Keep::Recall`
    Keep {
        bucket: String,
        path: Raw,
        keep: Keep,
    },

    /// Something to do with links.
    Links(LinkOperation),
}

/// What is to become of data below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Keep {
    Pin,
    Unpin,
    Persist,
    /// Have names that are away seen again.
    Recall,
}

impl Operation {
    /// Whether frames of content follow.
    pub(crate) fn takes_input(&self) -> bool {
        matches!(self, Operation::Put(_))
    }
}

/// How to store a content.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PutRequest {
    pub(crate) bucket: String,
    pub(crate) key: Raw,
    pub(crate) file_type: super::record::Kind,
    pub(crate) attributes: Option<AttributesRecord>,
    pub(crate) modified_ns: Option<i64>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) user: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    /// Refuse if the key exists.
    pub(crate) if_absent: bool,
    /// Store a file of its own where the key is one of several names.
    pub(crate) unlinks: bool,
}

/// An error of the engine on its way to the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) kind: String,
    pub(crate) about: String,
    pub(crate) message: String,
}

const KINDS: &[(ErrorKind, &str)] = &[
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::Exists, "exists"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::Precondition, "precondition"),
    (ErrorKind::NotEmpty, "not-empty"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::NoSpace, "no-space"),
    (ErrorKind::Quota, "quota"),
    (ErrorKind::Deadlock, "deadlock"),
    (ErrorKind::Offline, "offline"),
    (ErrorKind::Damaged, "damaged"),
    (ErrorKind::Failed, "failed"),
];

const SUBJECTS: &[(Subject, &str)] = &[
    (Subject::Other, "other"),
    (Subject::Segment, "segment"),
    (Subject::Cluster, "cluster"),
    (Subject::Tenant, "tenant"),
    (Subject::Bucket, "bucket"),
    (Subject::Key, "key"),
    (Subject::Version, "version"),
    (Subject::Upload, "upload"),
    (Subject::Part, "part"),
    (Subject::Snapshot, "snapshot"),
    (Subject::User, "user"),
    (Subject::Chunk, "chunk"),
    (Subject::Pack, "pack"),
];

/// The word for a kind of error in JSON.
pub(crate) fn kind_word(kind: ErrorKind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == kind).map_or("failed", |(_, word)| word)
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        let about = SUBJECTS.iter().find(|(s, _)| *s == error.subject()).map_or("other", |(_, word)| word);
        Refusal { kind: kind_word(error.kind()).into(), about: about.into(), message: error.to_string() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let kind = KINDS.iter().find(|(_, w)| *w == refusal.kind).map_or(ErrorKind::Failed, |(k, _)| *k);
        let about = SUBJECTS.iter().find(|(_, w)| *w == refusal.about).map_or(Subject::Other, |(s, _)| *s);
        Error::new(kind, refusal.message).about(about)
    }
}

/// `value` as JSON for a frame.
pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| Error::new(ErrorKind::Failed, "a message cannot be written as JSON").because(e))
}

/// A frame's JSON.
pub(crate) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|e| Error::invalid("a message over the control connection makes no sense").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_socket() {
        for (kind, word) in KINDS {
            for (subject, _) in SUBJECTS {
                let error = Error::new(*kind, "what happened").about(*subject);
                let refusal = Refusal::from(&error);
                assert_eq!(refusal.kind, *word);
                let back = Error::from(decode::<Refusal>(&encode(&refusal).unwrap()).unwrap());
                assert_eq!((back.kind(), back.subject()), (*kind, *subject));
                assert_eq!(back.message(), "what happened");
            }
        }
    }

    #[test]
    fn operations_survive_the_socket_and_hide_secrets() {
        let keys = Some(("AK".to_string(), SecretText("hush".into())));
        let operation = Operation::CreateUser { tenant: "C/t".into(), name: "u".into(), keys };
        assert!(!format!("{operation:?}").contains("hush"));
        let back: Operation = decode(&encode(&operation).unwrap()).unwrap();
        assert!(matches!(back, Operation::CreateUser { keys: Some((_, secret)), .. } if secret.0 == "hush"));
        let list = Operation::List {
            bucket: "C/t/b".into(),
            prefix: Raw(Bytes::from_static(b"\xff/")),
            delimiter: true,
            after: None,
            snapshot: None,
            local: false,
            away: false,
        };
        let back: Operation = decode(&encode(&list).unwrap()).unwrap();
        assert!(matches!(back, Operation::List { prefix, .. } if prefix.0.as_ref() == b"\xff/"));
        assert!(decode::<Operation>(br#"{"do":"fly"}"#).is_err());
    }
}
