//! Files with several names: the first name that comes brings the content, the others wait for it and link.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use tokio::sync::watch;

/// Files with further names to come, by identity; forgotten when the last name has come.
pub(super) struct Links<K, T> {
    open: Mutex<HashMap<K, Entry<T>>>,
}

struct Entry<T> {
    first: watch::Receiver<Option<T>>,
    /// Names that have not come yet.
    names_left: u64,
}

/// What to do with a name.
pub(super) enum Role<T> {
    /// Bring the content, then tell the others. Dropping the sender untold tells them of a failure.
    First(watch::Sender<Option<T>>),
    /// Wait for the first.
    Further(watch::Receiver<Option<T>>),
}

impl<K: Hash + Eq, T: Clone> Links<K, T> {
    pub(super) fn new() -> Self {
        Links { open: Mutex::new(HashMap::new()) }
    }

    /// Registers a name of the file `identity`, which has `names` in all.
    pub(super) fn join(&self, identity: K, names: u64) -> Role<T> {
        let mut open = self.open.lock();
        if let Some(entry) = open.get_mut(&identity) {
            let first = entry.first.clone();
            entry.names_left = entry.names_left.saturating_sub(1);
            if entry.names_left == 0 {
                open.remove(&identity);
            }
            return Role::Further(first);
        }
        let (tell, first) = watch::channel(None);
        if names > 1 {
            open.insert(identity, Entry { first, names_left: names - 1 });
        }
        Role::First(tell)
    }
}

/// Waits until the first name is there; `None` when it failed.
pub(super) async fn first<T: Clone>(mut receiver: watch::Receiver<Option<T>>) -> Option<T> {
    receiver.wait_for(Option::is_some).await.ok().and_then(|told| told.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_brings_and_the_others_wait() {
        let links: Links<u64, &str> = Links::new();
        let Role::First(tell) = links.join(7, 3) else { panic!("the first name is the first") };
        let Role::Further(second) = links.join(7, 3) else { panic!("a second name") };
        tell.send_replace(Some("a"));
        let Role::Further(third) = links.join(7, 3) else { panic!("a third name") };
        drop(tell);
        assert_eq!(first(second).await, Some("a"));
        assert_eq!(first(third).await, Some("a"));
        assert!(links.open.lock().is_empty());
    }

    #[tokio::test]
    async fn a_failure_of_the_first_reaches_the_others() {
        let links: Links<u64, &str> = Links::new();
        let Role::First(tell) = links.join(7, 2) else { panic!("the first name is the first") };
        let Role::Further(second) = links.join(7, 2) else { panic!("a second name") };
        drop(tell);
        assert_eq!(first(second).await, None);
    }
}
