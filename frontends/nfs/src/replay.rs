//! Calls that were sent twice: what must not be done twice is answered from here the second time.

use crate::rpc::Reply;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

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
    arguments: [u8; 16],
}

impl Key {
    pub(crate) fn new(client: IpAddr, xid: u32, procedure: u32, arguments: &Bytes) -> Key {
        let hash = blake3::hash(arguments);
        let arguments = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        Key { client, xid, procedure, arguments }
    }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_call_sent_twice_is_done_once() {
        let replies = Replies::default();
        let done = AtomicUsize::new(0);
        let call = async |xid: u32, arguments: &'static [u8]| {
            let client = "10.0.0.1".parse().unwrap();
            let key = Key::new(client, xid, 12, &Bytes::from_static(arguments));
            let run = async {
                tokio::task::yield_now().await;
                let number = done.fetch_add(1, Ordering::Relaxed) as u8;
                Reply { head: vec![number].into(), data: Bytes::new() }
            };
            replies.reply(key, run).await.head[0]
        };
        let (first, second) = tokio::join!(call(1, b"a"), call(1, b"a"));
        assert_eq!((first, second, call(1, b"a").await), (0, 0, 0));
        assert_eq!((call(2, b"a").await, call(1, b"b").await), (1, 2));
        for xid in 10..10 + REPLIES_MAX as u32 {
            call(xid, b"").await;
        }
        assert!(replies.0.lock().slots.len() <= REPLIES_MAX);
        assert!(call(1, b"a").await > 2, "forgotten by now");
    }
}
