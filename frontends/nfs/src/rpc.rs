//! ONC RPC version 2 (RFC 5531): calls and replies.

use crate::wire::{Decoder, Encoder, Garbage};
use bytes::Bytes;
use tombolo_core::engine::fs::Caller;

const CALL: u32 = 0;
pub(crate) const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
const AUTH_UNIX: u32 = 1;
/// The longest credentials and verifiers, in bytes.
pub(crate) const AUTH_BYTES_MAX: usize = 400;
const MACHINE_BYTES_MAX: usize = 255;
const GROUPS_MAX: u32 = 16;

/// Why credentials are refused (`auth_stat`).
const AUTH_BADCRED: u32 = 1;
const AUTH_TOOWEAK: u32 = 5;

/// Who the client says that it calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nobody.
    None,
    /// These ids.
    Unix(Caller),
}

/// A call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) credentials: Credentials,
    pub(crate) arguments: Decoder,
}

/// A reply: bytes, and perhaps data behind them, in pieces that are not copied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) head: Bytes,
    pub(crate) data: Vec<Bytes>,
}

/// What a procedure makes of a call.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Its results, and data behind them (which the last result's length has announced).
    Done(Vec<u8>, Vec<Bytes>),
    /// No such program here.
    NoProgram,
    /// The program has other versions: these.
    NoVersion(u32, u32),
    /// The version has no such procedure.
    NoProcedure,
    /// The arguments can't be read.
    Garbage,
}

impl From<Encoder> for Answer {
    fn from(encoder: Encoder) -> Answer {
        Answer::Done(encoder.0, Vec::new())
    }
}

/// Reads a record. `Err(Some)`: a call that is refused, with its reply. `Err(None)`: not a call at all.
pub(crate) fn read(record: Bytes) -> Result<Call, Option<Reply>> {
    let mut decoder = Decoder::new(record);
    let not_a_call = |_: Garbage| None;
    let xid = decoder.u32().map_err(not_a_call)?;
    if decoder.u32().map_err(not_a_call)? != CALL {
        return Err(None);
    }
    if decoder.u32().map_err(not_a_call)? != RPC_VERSION {
        return Err(Some(denied(xid, &[0, RPC_VERSION, RPC_VERSION])));
    }
    let program = decoder.u32().map_err(not_a_call)?;
    let version = decoder.u32().map_err(not_a_call)?;
    let procedure = decoder.u32().map_err(not_a_call)?;
    let flavour = decoder.u32().map_err(not_a_call)?;
    let body = decoder.opaque(AUTH_BYTES_MAX).map_err(not_a_call)?;
    decoder.u32().map_err(not_a_call)?;
    decoder.opaque(AUTH_BYTES_MAX).map_err(not_a_call)?;
    let credentials = match flavour {
        AUTH_NONE => Credentials::None,
        AUTH_UNIX => match unix(Decoder::new(body)) {
            Ok(caller) => Credentials::Unix(caller),
            Err(Garbage) => return Err(Some(denied(xid, &[1, AUTH_BADCRED]))),
        },
        _ => return Err(Some(denied(xid, &[1, AUTH_TOOWEAK]))),
    };
    Ok(Call { xid, program, version, procedure, credentials, arguments: decoder })
}

fn unix(mut body: Decoder) -> Result<Caller, Garbage> {
    body.u32()?;
    body.opaque(MACHINE_BYTES_MAX)?;
    let (uid, gid) = (body.u32()?, body.u32()?);
    let count = body.u32()?;
    if count > GROUPS_MAX {
        return Err(Garbage);
    }
    let groups = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    body.end()?;
    Ok(Caller { uid, gid, groups })
}

/// The head of a call that the server makes, in nobody's name.
pub(crate) fn call(encoder: &mut Encoder, xid: u32, (program, version, procedure): (u32, u32, u32)) {
    for word in [xid, CALL, RPC_VERSION, program, version, procedure, AUTH_NONE, 0, AUTH_NONE, 0] {
        encoder.u32(word);
    }
}

fn denied(xid: u32, why: &[u32]) -> Reply {
    let mut encoder = Encoder::default();
    for word in [xid, REPLY, 1].iter().chain(why) {
        encoder.u32(*word);
    }
    Reply { head: encoder.0.into(), data: Vec::new() }
}

/// The reply to an accepted call.
pub(crate) fn reply(xid: u32, answer: Answer) -> Reply {
    let mut encoder = Encoder(Vec::with_capacity(256));
    for word in [xid, REPLY, 0, AUTH_NONE, 0] {
        encoder.u32(word);
    }
    match answer {
        Answer::Done(results, data) => {
            encoder.u32(0);
            encoder.0.extend_from_slice(&results);
            return Reply { head: encoder.0.into(), data };
        }
        Answer::NoProgram => encoder.u32(1),
        Answer::NoVersion(low, high) => {
            encoder.u32(2);
            encoder.u32(low);
            encoder.u32(high);
        }
        Answer::NoProcedure => encoder.u32(3),
        Answer::Garbage => encoder.u32(4),
    }
    Reply { head: encoder.0.into(), data: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(words: &[u32]) -> Bytes {
        words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>().into()
    }

    #[test]
    fn credentials_are_read_or_refused() {
        let unix = [7, 0, 2, 100_003, 3, 1, 1, 28, 0, 0, 1000, 100, 2, 5, 6, 0, 0, 42];
        let call = read(record(&unix)).unwrap();
        assert_eq!(call.credentials, Credentials::Unix(Caller { uid: 1000, gid: 100, groups: vec![5, 6] }));
        assert_eq!((call.program, call.procedure, call.arguments.rest().len()), (100_003, 1, 4));
        // RPCSEC_GSS is too weak for us to know; too many groups are no credentials.
        let gss = read(record(&[7, 0, 2, 100_003, 3, 1, 6, 0, 0, 0])).unwrap_err().unwrap();
        assert_eq!(gss.head, record(&[7, 1, 1, 1, AUTH_TOOWEAK]));
        let many = read(record(&[7, 0, 2, 100_003, 3, 1, 1, 20, 0, 0, 0, 0, 17, 0, 0])).unwrap_err().unwrap();
        assert_eq!(many.head, record(&[7, 1, 1, 1, AUTH_BADCRED]));
        assert_eq!(read(record(&[7, 0, 3])).unwrap_err().unwrap().head, record(&[7, 1, 1, 0, 2, 2]));
        for broken in [&[][..], &[7], &[7, 1, 2], &[7, 0, 2, 1, 1, 1, 0, 4_000_000_000]] {
            assert!(read(record(broken)).unwrap_err().is_none());
        }
    }
}
