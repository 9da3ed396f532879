//! Calls that the server makes: to the lock managers and status monitors of its clients, which their port mappers find.

use crate::wire::{Decoder, Encoder, Garbage};
use crate::{portmap, rpc};
use bytes::Bytes;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// How long a call may take, finding where to included.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest reply, in bytes; those to our calls are far shorter.
const REPLY_BYTES_MAX: usize = 4096;

/// A client, and the address of this host that it talks to: it takes no calls from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    pub(crate) client: IpAddr,
    pub(crate) server: IpAddr,
}

impl Ends {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Ends {
        Ends { client: peer.ip().to_canonical(), server: local.ip().to_canonical() }
    }
}

/// Calls a program on the client, whose port mapper is at `mapper_port`; the results.
pub(crate) async fn call(
    ends: Ends,
    mapper_port: u16,
    (program, version, procedure): (u32, u32, u32),
    arguments: &[u8],
) -> Result<Bytes> {
    let calling = async {
        let (mapper, question) = portmap::question(ends.client, program, version);
        let answer = exchange(ends, mapper_port, mapper, &question.0).await?;
        let port = portmap::answered(ends.client, answer).map_err(invalid)?;
        let port = port.ok_or_else(|| Error::new(ErrorKind::NotFound, "the client does not offer the program"))?;
        exchange(ends, port, (program, version, procedure), arguments).await
    };
    timeout(PATIENCE, calling).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

fn invalid(_: Garbage) -> Error {
    Error::new(ErrorKind::InvalidData, "a reply can't be read")
}

async fn exchange(ends: Ends, port: u16, what: (u32, u32, u32), arguments: &[u8]) -> Result<Bytes> {
    let socket = if ends.client.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !ends.server.is_unspecified() {
        socket.bind(SocketAddr::new(ends.server, 0))?;
    }
    let mut stream = socket.connect(SocketAddr::new(ends.client, port)).await?;
    let xid: u32 = rand::random();
    let mut record = Encoder::default();
    record.u32(0);
    rpc::call(&mut record, xid, what);
    record.0.extend_from_slice(arguments);
    let length = u32::try_from(record.0.len() - 4).unwrap_or_default();
    for (byte, marker) in record.0.iter_mut().zip((0x8000_0000 | length).to_be_bytes()) {
        *byte = marker;
    }
    stream.write_all(&record.0).await?;
    let marker = stream.read_u32().await?;
    let length = (marker & 0x7fff_ffff) as usize;
    if marker & 0x8000_0000 == 0 || length > REPLY_BYTES_MAX {
        return Err(invalid(Garbage));
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    results(Decoder::new(reply.into()), xid)
        .map_err(invalid)?
        .ok_or_else(|| Error::other("the client refuses the call"))
}

/// What stands in a reply; `None`: the call was not done.
fn results(mut reply: Decoder, xid: u32) -> std::result::Result<Option<Bytes>, Garbage> {
    if (reply.u32()?, reply.u32()?) != (xid, rpc::REPLY) {
        return Err(Garbage);
    }
    if reply.u32()? != 0 {
        return Ok(None);
    }
    reply.u32()?;
    reply.opaque(rpc::AUTH_BYTES_MAX)?;
    Ok((reply.u32()? == 0).then(|| reply.rest().clone()))
}
