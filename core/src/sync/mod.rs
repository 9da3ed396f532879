//! The sync machine: what to say to which linked segment, and when. A pure state machine: no I/O, no clock, no randomness. It takes [`Event`]s and
//! gives [`Action`]s; a link door carries them out, a simulator in tests does the same with messages that come late, twice or never.
//!
//! For each linked segment and each bucket that both carry there is a [`Lane`]. It knows the vector that the other side has acknowledged and the one
//! that deltas under way will take it to; when something changes here it asks for a delta after the latter and sends it. A few may be
//! under way. What another segment sent is applied one delta at a time for each bucket, acknowledged when it is durable, and makes the lanes to all
//! others look whether they have something to forward: dots tell what the other side has, so no loop of links does harm.
//!
//! Rules that the machine keeps, whatever is lost:
//! * A delta is cut after a vector that the receiver has, or will have when it has taken what is under way. When an acknowledgement says that it has
//!   not, the lane starts again from what it acknowledged.
//! * What a lane says about the other side ([`LaneStatus`]) the other side has said itself.
//! * Deltas of one peer are taken in, in the order in which they came. Where they are staged first ([`Terms::stages`]) those of others go on meanwhile.
//! * Memory: for each lane at most [`WINDOW`] deltas that have arrived and wait. A peer that sends more breaks the protocol. And at most [`DEFERRED_MAX`] questions that have
//!   their answers later. What a peer has said of itself lists at most [`VersionVector::SEGMENTS_MAX`] segments for each bucket, and [`UNKNOWN_MAX`] in all buckets that are
//!   not known here.
//! * A segment that compares all that it holds does not say where it stands, because it holds more than that. Whoever asks is told so at once ([`Message::Compares`]), and has
//!   the answer when that is over.

mod lane;
mod machine;

pub use lane::{Lane, LaneStatus, Terms};
pub use machine::Machine;

use crate::id::{BucketId, SegmentId};
use crate::register::{Carriers, Stance, VersionVector};

/// Deltas of one bucket that may be under way to one segment.
pub const WINDOW: usize = 4;
/// After a refusal or failure a lane waits this long, in milliseconds, doubled each time up to [`RETRY_MS_MAX`].
pub const RETRY_MS: u64 = 250;
/// The longest wait.
pub const RETRY_MS_MAX: u64 = 30_000;
/// Questions of one peer about one bucket that wait for an answer while this segment compares. The oldest is let go for a further one: who asked it may have gone.
pub const DEFERRED_MAX: usize = 64;
/// What one peer may announce of buckets that this segment does not carry: the segments that their vectors list, and for each bucket [`UNKNOWN_BUCKET_COUNTS`].
/// From half of this on it may be let go.
pub const UNKNOWN_MAX: usize = 1 << 20;
/// An unknown bucket takes as much memory as so many segments of a vector.
pub const UNKNOWN_BUCKET_COUNTS: usize = 8;

/// What one segment tells another about names. `P` is a delta's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<P> {
    /// "I carry this bucket and stand at `vector`." `receives`: send me what I lack.
    Carry {
        /// The bucket.
        bucket: BucketId,
        /// Where the sender stands.
        vector: VersionVector,
        /// Whether it takes changes over this link.
        receives: bool,
        /// It compares all that it holds, and has more than `vector` says. It says so again when that is over.
        is_comparing: bool,
    },
    /// Changes.
    Delta {
        /// The bucket.
        bucket: BucketId,
        /// Where the receiver must stand for `to` to hold afterwards.
        from: VersionVector,
        /// Where it stands afterwards.
        to: VersionVector,
        /// The registers.
        payload: P,
    },
    /// A delta has been taken in, durably; the sender stands at `vector`.
    Ack {
        /// The bucket.
        bucket: BucketId,
        /// Where the sender stands.
        vector: VersionVector,
    },
    /// A delta was not taken in.
    Refused {
        /// The bucket.
        bucket: BucketId,
        /// Why, for people.
        reason: String,
    },
    /// What the sender has heard of who carries the bucket.
    Carriers {
        /// The bucket.
        bucket: BucketId,
        /// Who, and up to where.
        carriers: Carriers,
    },
    /// "Where do you stand? And take me there."
    Probe {
        /// The bucket.
        bucket: BucketId,
        /// Returned with the answer.
        nonce: u64,
    },
    /// The answer to a probe: where the sender stood when it got it.
    Stand {
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
        /// Where the sender stood.
        vector: VersionVector,
    },
    /// A probe has its answer when the sender has compared all that it holds.
    Compares {
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
    },
}

impl<P> Message<P> {
    /// The same with another payload.
    pub fn map<Q>(self, convert: impl FnOnce(P) -> Q) -> Message<Q> {
        match self {
            Message::Carry { bucket, vector, receives, is_comparing } => {
                Message::Carry { bucket, vector, receives, is_comparing }
            }
            Message::Delta { bucket, from, to, payload } => {
                Message::Delta { bucket, from, to, payload: convert(payload) }
            }
            Message::Ack { bucket, vector } => Message::Ack { bucket, vector },
            Message::Refused { bucket, reason } => Message::Refused { bucket, reason },
            Message::Carriers { bucket, carriers } => Message::Carriers { bucket, carriers },
            Message::Probe { bucket, nonce } => Message::Probe { bucket, nonce },
            Message::Stand { bucket, nonce, vector } => Message::Stand { bucket, nonce, vector },
            Message::Compares { bucket, nonce } => Message::Compares { bucket, nonce },
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<P> {
    /// Time has passed. The clock is the driver's, in milliseconds, and only goes up.
    Tick {
        /// Now.
        now_ms: u64,
    },
    /// Messages to `peer` go through from now on. Shares follow.
    Connected {
        /// Who.
        peer: SegmentId,
    },
    /// They don't any more; what was under way is lost.
    Disconnected {
        /// Who.
        peer: SegmentId,
    },
    /// A bucket goes over the link to `peer`, from now on or on other terms than before.
    Share {
        /// Who.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// What may pass.
        terms: Terms,
        /// Where this segment stands.
        stance: Stance,
    },
    /// A bucket does not go over the link any more.
    Unshare {
        /// Who.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
    },
    /// A message came.
    Received {
        /// From whom.
        peer: SegmentId,
        /// What it says.
        message: Message<P>,
    },
    /// Something of the bucket has changed here.
    Committed {
        /// The bucket.
        bucket: BucketId,
    },
    /// What this segment has heard of who carries the bucket, to be told to all that it is linked with: now and then while there are changes, when
    /// connections come up, and when [`Action::Learn`] was news.
    Carriers {
        /// The bucket.
        bucket: BucketId,
        /// Who, and up to where.
        carriers: Carriers,
    },
    /// The outcome of [`Action::Cut`].
    Cut {
        /// For whom.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// What was cut.
        outcome: Result<Piece<P>, String>,
    },
    /// What [`Action::Stage`] asked for is done, or can't be.
    Staged {
        /// From whom the delta was.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Of the action.
        number: u64,
        /// The registers.
        payload: P,
    },
    /// The outcome of [`Action::Apply`]: where this segment stands now.
    Applied {
        /// From whom the delta was.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// The new place, or why not.
        outcome: Result<Stance, String>,
    },
    /// The outcome of [`Action::Read`].
    Read {
        /// Who asked.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
        /// Where this segment stands.
        stance: Stance,
    },
    /// Somebody here wants to know where `peer` stands, and to get there.
    Probe {
        /// Who is asked.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Returned with the answer.
        nonce: u64,
        /// Whether the peer is to get to where this segment stands, too, even if there is nothing to send but that.
        leads: bool,
    },
}

/// A delta that was cut for a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<P> {
    /// After which vector.
    pub from: VersionVector,
    /// Up to which. `from`, while this segment compares: the peer takes it for a word about where this segment stands.
    pub to: VersionVector,
    /// Whether there is no register in it.
    pub is_empty: bool,
    /// Whether nothing is left after it.
    pub is_whole: bool,
    /// The registers.
    pub payload: P,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<P> {
    /// Send a message. Messages to one peer arrive in order or not at all.
    Send {
        /// To whom.
        peer: SegmentId,
        /// What.
        message: Message<P>,
    },
    /// Cut a delta (a step of it, if it is long) and report with [`Event::Cut`].
    Cut {
        /// For whom.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// After which vector.
        from: VersionVector,
    },
    /// Bring what a delta needs before it can be taken in, as long as that takes, and report with [`Event::Staged`]. What was taken in by other ways is news meanwhile.
    Stage {
        /// From whom it is.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Given back with the outcome.
        number: u64,
        /// The registers.
        payload: P,
    },
    /// Take a delta in, durably, and report with [`Event::Applied`].
    Apply {
        /// From whom it is.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// The registers.
        payload: P,
    },
    /// Take in what a peer has heard of who carries the bucket.
    Learn {
        /// From whom it is.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Who, and up to where.
        carriers: Carriers,
    },
    /// Read where this segment stands and report with [`Event::Read`].
    Read {
        /// Who asks.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
    },
    /// A probe was answered.
    Stands {
        /// By whom.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
        /// Where it stood.
        vector: VersionVector,
    },
    /// A probe is answered later: the peer compares all that it holds.
    Compares {
        /// Who.
        peer: SegmentId,
        /// The bucket.
        bucket: BucketId,
        /// Of the probe.
        nonce: u64,
    },
    /// End the connection: the peer breaks the protocol.
    Close {
        /// Whose.
        peer: SegmentId,
        /// Why, for people.
        reason: String,
    },
}
