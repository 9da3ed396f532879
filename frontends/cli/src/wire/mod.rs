//! What the command and the daemon say to each other over the control socket, and what the command says to itself when no
//! daemon runs: an [`Operation`], its data as [`Frame`]s, one reply.
//!
//! On the socket every message is a frame: one byte of kind, the payload's length as four bytes little-endian, the payload.
//! Lengths are checked against a limit per kind before anything is allocated. A connection starts with a greeting from the
//! client that carries [`PROTOCOL`]; a daemon of another version refuses it with a sentence. Operations follow one another;
//! one that takes input ends its connection when it fails, since input may still be under way.

mod conflict;
mod frame;
mod link;
mod message;
mod operation;
mod record;
mod text;
mod verify;

pub(crate) use conflict::{ConflictRecord, Take};
pub(crate) use frame::{Frame, FrameReader, write_frame};
pub(crate) use link::*;
pub use message::{MESSAGES, Message, reframe};
pub(crate) use operation::{Keep, Operation, PutRequest, Refusal, decode, encode, kind_word};
pub(crate) use record::*;
pub(crate) use text::{Raw, SecretText};
pub(crate) use verify::{DifferenceRecord, OutcomeWord, VerifiedRecord};

/// Version of the protocol. Command and daemon come from the same binary, so there is no negotiation.
pub(crate) const PROTOCOL: u32 = 3;
