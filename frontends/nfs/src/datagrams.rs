//! Calls over UDP, at the port mapper's address: of the port mapper, and notices of clients that have started anew. Short ones, with short replies.

use crate::door::Shared;
use crate::{portmap, program, rpc};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// The longest call, in bytes.
const CALL_BYTES_MAX: usize = 1024;
/// The longest reply: nobody shall be flooded in another's name.
const REPLY_BYTES_MAX: usize = 128;
/// How long it pauses when a datagram can't be received.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers until the server shall end.
pub(crate) async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut stop = shared.stop.clone();
    let Ok(local) = socket.local_addr() else { return };
    let mut buffer = vec![0; CALL_BYTES_MAX];
    loop {
        let received = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let record = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        let reply = match rpc::read(record) {
            Ok(call) if portmap::is_in_datagrams(call.program) => {
                program::answer(shared.clone(), peer, local, call).await
            }
            Ok(call) => rpc::reply(call.xid, rpc::Answer::NoProgram),
            Err(Some(refusal)) => refusal,
            Err(None) => continue,
        };
        if reply.head.len() <= REPLY_BYTES_MAX
            && let Err(error) = socket.send_to(&reply.head, peer).await
        {
            tracing::debug!(%peer, %error, "a datagram could not be sent");
        }
    }
}
