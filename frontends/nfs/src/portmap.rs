//! The port mapper's program (RFC 1833, versions 2 to 4), for clients that ask where the others are: here. And the same question, asked of clients.
//!
//! [`NfsOptions::port_mapper`](crate::NfsOptions) makes the door answer where clients ask, at port 111. It does so over UDP, too, where it also takes the
//! notices of clients that have started anew: they are sent in no other way.

use crate::door::Shared;
use crate::rpc::Answer;
use crate::wire::{Decoder, Encoder, Garbage};
use crate::{monitor, mount, nlm};
use nfsserve::nfs;
use std::net::{IpAddr, SocketAddr};

pub(crate) const PROGRAM: u32 = 100_000;
const LOWEST: u32 = 2;
const HIGHEST: u32 = 4;
const TCP: u32 = 6;
const UDP: u32 = 17;
const NULL: u32 = 0;
/// GETPORT of version 2, GETADDR of the others.
const GET: u32 = 3;
const DUMP: u32 = 4;
/// The longest of the texts in a question.
const TEXT_BYTES_MAX: usize = 256;

const PROGRAMS: &[(u32, u32)] = &[
    (PROGRAM, 2),
    (PROGRAM, 3),
    (PROGRAM, 4),
    (nfs::PROGRAM, nfs::VERSION),
    (mount::PROGRAM, mount::VERSION),
    (nlm::PROGRAM, nlm::VERSION),
    (monitor::PROGRAM, monitor::VERSION),
];

/// Whether a program is served over UDP.
pub(crate) fn is_in_datagrams(program: u32) -> bool {
    matches!(program, PROGRAM | monitor::PROGRAM)
}

/// The port of a program, if it is here.
fn port(shared: &Shared, local: SocketAddr, (program, version, protocol): (u32, u32, u32)) -> Option<u16> {
    let is_here = PROGRAMS.contains(&(program, version));
    let of_datagrams = shared.port_mapper.filter(|_| is_in_datagrams(program)).map(|address| address.port());
    match protocol {
        TCP if is_here => Some(match (program, shared.port_mapper) {
            // Who asks the port mapper is told where the rest is.
            (PROGRAM, _) | (_, None) => local.port(),
            (_, Some(mapper)) if mapper.port() == local.port() => shared.port,
            _ => local.port(),
        }),
        UDP if is_here => of_datagrams,
        _ => None,
    }
}

pub(crate) fn answer(
    shared: &Shared,
    local: SocketAddr,
    version: u32,
    procedure: u32,
    mut arguments: Decoder,
) -> std::result::Result<Answer, Garbage> {
    if !(LOWEST..=HIGHEST).contains(&version) {
        return Ok(Answer::NoVersion(LOWEST, HIGHEST));
    }
    let mut encoder = Encoder::default();
    match (version, procedure) {
        (_, NULL) => arguments.end()?,
        (LOWEST, GET) => {
            let wanted = (arguments.u32()?, arguments.u32()?, arguments.u32()?);
            arguments.u32()?;
            arguments.end()?;
            encoder.u32(port(shared, local, wanted).unwrap_or_default().into());
        }
        (_, GET) => {
            let (program, version) = (arguments.u32()?, arguments.u32()?);
            let network = arguments.opaque(TEXT_BYTES_MAX)?;
            arguments.opaque(TEXT_BYTES_MAX)?;
            arguments.opaque(TEXT_BYTES_MAX)?;
            arguments.end()?;
            let protocol = match &network[..] {
                b"tcp" | b"tcp6" => TCP,
                b"udp" | b"udp6" => UDP,
                _ => 0,
            };
            let found = port(shared, local, (program, version, protocol));
            encoder.opaque(found.map(|port| universal(local.ip(), port)).unwrap_or_default().as_bytes());
        }
        (LOWEST, DUMP) => {
            arguments.end()?;
            for (program, version) in PROGRAMS {
                for protocol in [TCP, UDP] {
                    if let Some(port) = port(shared, local, (*program, *version, protocol)) {
                        for word in [1, *program, *version, protocol, port.into()] {
                            encoder.u32(word);
                        }
                    }
                }
            }
            encoder.u32(0);
        }
        _ => return Ok(Answer::NoProcedure),
    }
    Ok(encoder.into())
}

/// An address with a port as RFC 5665 writes them.
fn universal(address: IpAddr, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("{}.{high}.{low}", address.to_canonical())
}

/// Which procedure of a client's port mapper says where a program is, and its arguments.
pub(crate) fn question(client: IpAddr, program: u32, version: u32) -> ((u32, u32, u32), Encoder) {
    let mut encoder = Encoder::default();
    encoder.u32(program);
    encoder.u32(version);
    if client.is_ipv4() {
        encoder.u32(TCP);
        encoder.u32(0);
        return ((PROGRAM, LOWEST, GET), encoder);
    }
    for text in ["tcp6", "", ""] {
        encoder.opaque(text.as_bytes());
    }
    ((PROGRAM, HIGHEST, GET), encoder)
}

/// The port that the answer names; `None`: the program is not there.
pub(crate) fn answered(client: IpAddr, answer: bytes::Bytes) -> std::result::Result<Option<u16>, Garbage> {
    let mut answer = Decoder::new(answer);
    let port = if client.is_ipv4() {
        u16::try_from(answer.u32()?).map_err(|_| Garbage)?
    } else {
        let text = answer.opaque(TEXT_BYTES_MAX)?;
        if text.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(&text).map_err(|_| Garbage)?;
        let mut parts = text.rsplit('.').map(|part| part.parse::<u8>().map_err(|_| Garbage));
        let (low, high) = (parts.next().ok_or(Garbage)??, parts.next().ok_or(Garbage)??);
        u16::from_be_bytes([high, low])
    };
    Ok((port != 0).then_some(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_they_are_read() {
        let here: IpAddr = "fd00::1".parse().unwrap();
        let mut encoder = Encoder::default();
        encoder.opaque(universal(here, 2049).as_bytes());
        assert_eq!(encoder.0[4..], *b"fd00::1.8.1\0");
        assert_eq!(answered(here, encoder.0.into()), Ok(Some(2049)));
        for (bad, found) in [(&b""[..], Ok(None)), (b"1", Err(Garbage)), (b"::1.256.1", Err(Garbage))] {
            let mut encoder = Encoder::default();
            encoder.opaque(bad);
            assert_eq!(answered(here, encoder.0.into()), found);
        }
    }
}
