//! From a call to its reply: which program, which procedure, and whether it was answered before.

use crate::door::Shared;
use crate::replay::Key;
use crate::rpc::{self, Answer, Call, Reply};
use crate::wire::Garbage;
use crate::{monitor, mount, nlm, portmap, procedures};
use nfsserve::nfs;
use std::net::SocketAddr;
use std::sync::Arc;

/// Answers a call from `peer` that came to `local`.
pub(crate) async fn answer(shared: Arc<Shared>, peer: SocketAddr, local: SocketAddr, call: Call) -> Reply {
    let xid = call.xid;
    match call.program {
        nfs::PROGRAM if call.version != nfs::VERSION => rpc::reply(xid, Answer::NoVersion(nfs::VERSION, nfs::VERSION)),
        nfs::PROGRAM if procedures::changes(call.procedure) => {
            let key = Key::new(peer.ip(), &call);
            let run = async { rpc::reply(xid, procedures::answer(&shared, peer, call).await) };
            shared.replies.reply(key, run).await
        }
        nfs::PROGRAM => rpc::reply(xid, procedures::answer(&shared, peer, call).await),
        mount::PROGRAM => {
            let answer =
                shared.mounts.answer(&shared.registry, peer, call.version, call.procedure, call.arguments).await;
            rpc::reply(xid, answer)
        }
        portmap::PROGRAM => {
            let answer = portmap::answer(&shared, local, call.version, call.procedure, call.arguments);
            rpc::reply(xid, answer.unwrap_or_else(|Garbage| Answer::Garbage))
        }
        nlm::PROGRAM => rpc::reply(xid, nlm::answer(&shared, peer, local, call).await),
        monitor::PROGRAM => {
            let answer = nlm::started_anew(&shared, peer, call.version, call.procedure, call.arguments);
            rpc::reply(xid, answer.unwrap_or_else(|Garbage| Answer::Garbage))
        }
        _ => rpc::reply(xid, Answer::NoProgram),
    }
}
