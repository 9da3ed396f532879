//! What a daemon has beside its segment, for the operations that only a daemon can carry out.

use crate::mounts::Mounts;
use tokio::sync::watch;
use tombolo_core::{Error, ErrorKind};
use tombolo_link::LinkDoor;

/// Mounts, links, and whether the daemon is about to end. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hosted {
    pub(crate) mounts: Mounts,
    pub(crate) links: LinkDoor,
    /// Turns true when the daemon stops, so that nobody who only waits holds it up.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Something was asked of a command that has no daemon to ask. `what`: the sentence's beginning, as in "only a daemon".
pub(crate) fn no_daemon(what: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("only a daemon {what}; start one: tombolo serve"))
}
