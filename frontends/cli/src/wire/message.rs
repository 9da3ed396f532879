//! All kinds of messages, for who reads what anybody may have sent: a fuzzer.

use super::link::LinkOperation;
use super::{
    BucketRecord, BucketSyncRecord, CodeRecord, ConflictRecord, DeletedRecord, FrameReader, GcRecord, InviteRecord,
    LinkRecord, ObjectRecord, Operation, Page, Raw, Refusal, RotationRecord, ScrubRecord, SnapshotRecord, StatusRecord,
    UserRecord, VerifiedRecord, VersionsPage, decode, encode, write_frame,
};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_core::Result;

/// A kind of message that travels as JSON.
pub struct Message {
    /// What it is called.
    pub name: &'static str,
    /// Whether it has fractions, of which a reader of JSON may get the last place wrong.
    pub has_fractions: bool,
    /// Reads one and writes it again.
    pub rewrite: fn(&[u8]) -> Result<Bytes>,
}

/// What a command asks, and all that it may be answered with.
pub const MESSAGES: &[Message] = &[
    of::<Operation>("operation"),
    of::<LinkOperation>("operation on links"),
    of::<Refusal>("refusal"),
    of::<Vec<Option<Refusal>>>("refusals"),
    of::<Raw>("bytes"),
    of::<ObjectRecord>("object"),
    of::<Page>("page of a listing"),
    of::<VersionsPage>("page of versions"),
    of::<DeletedRecord>("what a delete did"),
    of::<BucketRecord>("bucket"),
    of::<UserRecord>("user"),
    of::<SnapshotRecord>("snapshot"),
    of::<StatusRecord>("status"),
    of::<ScrubRecord>("what a scrub found"),
    of::<GcRecord>("what a collection did"),
    of::<ConflictRecord>("conflict"),
    of::<CodeRecord>("pairing code"),
    of::<InviteRecord>("invite"),
    of::<RotationRecord>("change of a key"),
    of::<VerifiedRecord>("comparison"),
    Message { has_fractions: true, ..of::<LinkRecord>("link") },
    Message { has_fractions: true, ..of::<BucketSyncRecord>("how far a bucket has come") },
];

const fn of<T: Serialize + DeserializeOwned>(name: &'static str) -> Message {
    Message { name, has_fractions: false, rewrite: |json| encode(&decode::<T>(json)?) }
}

/// Reads frames up to the first that is none and writes them again; and whether there was none but frames.
pub async fn reframe(bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut reader, mut again) = (FrameReader::new(bytes), Vec::new());
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return (again, true),
            Err(_) => return (again, false),
        };
        if write_frame(&mut again, frame).await.is_err() {
            return (again, false);
        }
    }
}
