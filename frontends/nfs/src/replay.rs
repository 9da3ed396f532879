//! Calls that were sent twice: what must not be done twice is answered from here the second time.

use crate::rpc::{Call, Credentials, Reply};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tombolo_core::engine::fs::Caller;

/// Replies kept.
const REPLIES_MAX: usize = 4096;
/// Longer ago than any client repeats a call; its number may be in use again.
const AGE_MAX: Duration = Duration::from_secs(300);

/// What tells one call from another. The client's port is not part of it: it may have connected anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    client: IpAddr,
    xid: u32,
    procedure: u32,
    /// Of the credentials: what one user may do, and was answered, is not another's.
    caller: [u8; 16],
    arguments: [u8; 16],
}

impl Key {
    pub(crate) fn new(client: IpAddr, call: &Call) -> Key {
        let mut caller = blake3::Hasher::new();
        if let Credentials::Unix(Caller { uid, gid, groups }) = &call.credentials {
            for id in [uid, gid].into_iter().chain(groups) {
                caller.update(&id.to_be_bytes());
            }
        }
        Key {
            client,
            xid: call.xid,
            procedure: call.procedure,
            caller: head(&caller.finalize()),
            arguments: head(&blake3::hash(call.arguments.rest())),
        }
    }
}

fn head(hash: &blake3::Hash) -> [u8; 16] {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[derive(Clone)]
struct Slot {
    since: Instant,
    reply: Arc<OnceCell<Reply>>,
}

#[derive(Default)]
pub(crate) struct Replies(Mutex<State>);

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    order: VecDeque<Key>,
}

impl Replies {
    /// The reply to a call: made by `run` if it comes for the first time, else the one that was or is being made.
    pub(crate) async fn reply(&self, key: Key, run: impl Future<Output = Reply>) -> Reply {
        let cell = {
            let mut state = self.0.lock();
            let fresh = state.slots.get(&key).filter(|slot| slot.since.elapsed() < AGE_MAX).cloned();
            match fresh {
                Some(slot) => slot.reply,
                None => {
                    let slot = Slot { since: Instant::now(), reply: Arc::default() };
                    if state.slots.insert(key, slot.clone()).is_none() {
                        state.order.push_back(key);
                    }
                    if state.order.len() > REPLIES_MAX
                        && let Some(oldest) = state.order.pop_front()
                    {
                        state.slots.remove(&oldest);
                    }
                    slot.reply
                }
            }
        };
        cell.get_or_init(|| run).await.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Decoder;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_call_sent_twice_is_done_once() {
        let replies = Replies::default();
        let done = AtomicUsize::new(0);
        let call_of = async |credentials: Credentials, xid: u32, arguments: &'static [u8]| {
            let client = "10.0.0.1".parse().unwrap();
            let arguments = Decoder::new(Bytes::from_static(arguments));
            let call = Call { xid, program: 100_003, version: 3, procedure: 12, credentials, arguments };
            let key = Key::new(client, &call);
            let run = async {
                tokio::task::yield_now().await;
                let number = done.fetch_add(1, Ordering::Relaxed) as u8;
                Reply { head: vec![number].into(), data: Vec::new() }
            };
            replies.reply(key, run).await.head[0]
        };
        let user = |uid, gid, groups| Credentials::Unix(Caller { uid, gid, groups });
        let call = async |xid, arguments| call_of(user(1, 2, vec![]), xid, arguments).await;
        let (first, second) = tokio::join!(call(1, b"a"), call(1, b"a"));
        assert_eq!((first, second, call(1, b"a").await), (0, 0, 0));
        assert_eq!((call(2, b"a").await, call(1, b"b").await), (1, 2));
        // Somebody else's call is another one, from the same host and with the same number.
        let others = [Credentials::None, user(2, 2, vec![]), user(1, 3, vec![]), user(1, 2, vec![7])];
        for (number, other) in others.into_iter().enumerate() {
            assert_eq!(call_of(other, 1, b"a").await, 3 + number as u8);
        }
        for xid in 10..10 + REPLIES_MAX as u32 {
            call(xid, b"").await;
        }
        assert!(replies.0.lock().slots.len() <= REPLIES_MAX);
        assert_ne!(call(1, b"a").await, 0, "forgotten by now");
    }
}
