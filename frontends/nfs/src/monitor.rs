//! Who must hear that this server has started anew, and until when only they get locks: the server's half of NSM (Network Status Monitor, X/Open XNFS,
//! chapter 11).
//!
//! Locks are in memory. So that a client that held some can ask for them again after a restart, its address is on disk before it gets its first: in
//! the file `nfs.clients` of the data directory, text:
//!
//! | line | what |
//! |---|---|
//! | `tombolo nfs clients 1` | 1: the version of this table; another is refused |
//! | `state N` | how often the server has started, as NSM counts: odd, two more each time |
//! | `CLIENT SERVER`, for each | the client's address, and the one of this host that it talked to |
//!
//! After a start these are told (SM_NOTIFY), and during a grace period locks are given only to who reclaims one. Who has not come back by its end is
//! forgotten.

use crate::callback::{self, Ends};
use crate::kept;
use crate::wire::Encoder;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind as IoKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tombolo_core::{Error, ErrorKind, Result};

/// NSM's number.
pub(crate) const PROGRAM: u32 = 100_024;
/// Its only version.
pub(crate) const VERSION: u32 = 1;
/// SM_NOTIFY: a host has started anew.
pub(crate) const NOTIFY: u32 = 6;

const FILE: &str = "nfs.clients";
const HEAD: &str = "tombolo nfs clients 1";
/// The most clients that are kept.
const CLIENTS_MAX: usize = 4096;
/// Who asked for a lock this long ago has it by now, or does not get it.
const ASKING: Duration = Duration::from_secs(60);
/// How long after a client could not be told it is told again.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct Monitor {
    dir: PathBuf,
    state: u32,
    /// Who had locks before the start.
    before: BTreeSet<Ends>,
    /// Who has had some since, and when it last asked for one.
    since: tokio::sync::Mutex<BTreeMap<Ends, Instant>>,
    grace_ends: Instant,
    clients_max: usize,
}

impl Monitor {
    /// With what is kept in `dir`; `grace` is how long clients have to come back.
    pub(crate) fn open(dir: &Path, grace: Duration) -> Result<Monitor> {
        let path = dir.join(FILE);
        let name = path.display();
        let (state, before) = match std::fs::read_to_string(&path) {
            Ok(text) => read(&text).ok_or_else(|| {
                let text = format!(
                    "{name}, the clients of NFS that hold locks, can't be understood; without it they lose them"
                );
                Error::new(ErrorKind::Damaged, text)
            })?,
            Err(error) if error.kind() == IoKind::NotFound => (0, BTreeSet::new()),
            Err(error) => return Err(Error::io(format!("{name} can't be read"), error)),
        };
        let state = state.wrapping_add(1) | 1;
        let grace_ends = Instant::now() + if before.is_empty() { Duration::ZERO } else { grace };
        kept::replace(dir, FILE, text(state, &before).as_bytes())
            .map_err(|error| Error::io(format!("{name} can't be written"), error))?;
        Ok(Monitor { dir: dir.into(), state, before, since: Default::default(), grace_ends, clients_max: CLIENTS_MAX })
    }

    /// Whether only those get locks who had them before the start.
    pub(crate) fn in_grace(&self) -> bool {
        Instant::now() < self.grace_ends
    }

    /// Sees to it that a client will be told of the next start. When there are too many, those go that hold nothing, as `holds` says of an address.
    pub(crate) async fn watch(&self, client: Ends, holds: impl Fn(&IpAddr) -> bool + Send) -> Result<()> {
        let now = Instant::now();
        let mut since = self.since.lock().await;
        if let Some(asked) = since.get_mut(&client) {
            *asked = now;
            return Ok(());
        }
        let mut next = since.clone();
        if next.len() >= self.clients_max {
            // Who has just asked may be about to get it.
            next.retain(|ends, asked| now.duration_since(*asked) < ASKING || holds(&ends.client));
        }
        if next.len() >= self.clients_max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("at most {} clients hold locks over NFS", self.clients_max),
            ));
        }
        next.insert(client, now);
        let mut kept: BTreeSet<Ends> = next.keys().copied().collect();
        if self.in_grace() {
            kept.extend(&self.before);
        }
        self.write(kept).await?;
        *since = next;
        Ok(())
    }

    async fn write(&self, clients: BTreeSet<Ends>) -> Result<()> {
        let (dir, text) = (self.dir.clone(), text(self.state, &clients));
        let written = tokio::task::spawn_blocking(move || kept::replace(&dir, FILE, text.as_bytes())).await;
        let failed = |error| Error::io("the clients of NFS that hold locks can't be written down", error);
        written.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
    }

    /// Tells those who had locks before the start, until the grace period ends, and then forgets who has not come back.
    pub(crate) async fn tell(self: Arc<Self>, mapper_port: u16) {
        let mut telling = tokio::task::JoinSet::new();
        for client in self.before.clone() {
            telling.spawn(tell(client, self.state, mapper_port));
        }
        let told = async { while telling.join_next().await.is_some() {} };
        let _ = timeout_at(self.grace_ends, told).await;
        tokio::time::sleep_until(self.grace_ends).await;
        let since = self.since.lock().await;
        if let Err(error) = self.write(since.keys().copied().collect()).await {
            // They will be told once more than they need.
            tracing::warn!(%error, "clients that hold no locks are not forgotten");
        }
    }
}

async fn tell(client: Ends, state: u32, mapper_port: u16) {
    let mut arguments = Encoder::default();
    arguments.opaque(client.server.to_string().as_bytes());
    arguments.u32(state);
    while let Err(error) = callback::call(client, mapper_port, (PROGRAM, VERSION, NOTIFY), &arguments.0).await {
        tracing::debug!(client = %client.client, %error, "a client that may have held locks could not be told of the start");
        sleep(AGAIN).await;
    }
}

fn text(state: u32, clients: &BTreeSet<Ends>) -> String {
    let lines: String = clients.iter().map(|ends| format!("{} {}\n", ends.client, ends.server)).collect();
    format!("{HEAD}\nstate {state}\n{lines}")
}

fn read(text: &str) -> Option<(u32, BTreeSet<Ends>)> {
    let mut lines = text.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let state = lines.next()?.strip_prefix("state ")?.parse().ok()?;
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let clients = lines.map(|line| {
        let (client, server) = line.split_once(' ')?;
        Some(Ends { client: address(client)?, server: address(server)? })
    });
    Some((state, clients.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ends(client: &str) -> Ends {
        Ends { client: client.parse().unwrap(), server: "10.0.0.1".parse().unwrap() }
    }

    #[tokio::test]
    async fn who_held_locks_is_known_after_a_start_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let first = Monitor::open(dir.path(), HOUR).unwrap();
        assert!(first.state == 1 && !first.in_grace(), "nobody has to come back");
        first.watch(ends("10.0.0.7"), |_| true).await.unwrap();
        first.watch(ends("fd00::7"), |_| true).await.unwrap();
        let second = Monitor::open(dir.path(), HOUR).unwrap();
        assert!(second.state == 3 && second.in_grace());
        assert_eq!(second.before, [ends("10.0.0.7"), ends("fd00::7")].into());
        // Those who have not come back before the next crash must hear of that, too.
        second.watch(ends("10.0.0.8"), |_| true).await.unwrap();
        let third = Monitor::open(dir.path(), Duration::ZERO).unwrap();
        assert_eq!(third.before.len(), 3);
        third.watch(ends("10.0.0.7"), |_| true).await.unwrap();
        let fourth = Monitor::open(dir.path(), HOUR).unwrap();
        assert_eq!((fourth.state, fourth.before), (7, [ends("10.0.0.7")].into()), "the others' time was over");
    }

    /// Whoever had ever locked something counted until the server's end, and in the end nobody new got a lock.
    #[tokio::test(start_paused = true)]
    async fn who_holds_nothing_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = Monitor { clients_max: 2, ..Monitor::open(dir.path(), HOUR).unwrap() };
        let holds = |client: &IpAddr| client.to_string() == "10.0.0.7";
        monitor.watch(ends("10.0.0.7"), holds).await.unwrap();
        monitor.watch(ends("10.0.0.8"), holds).await.unwrap();
        let refused = monitor.watch(ends("10.0.0.9"), holds).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "the other may be about to get a lock");
        tokio::time::advance(ASKING).await;
        monitor.watch(ends("10.0.0.9"), holds).await.unwrap();
        let next = Monitor::open(dir.path(), HOUR).unwrap();
        assert_eq!(next.before, [ends("10.0.0.7"), ends("10.0.0.9")].into());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let good = text(3, &[ends("10.0.0.7")].into());
        assert!(read(&good).is_some());
        let (version, line) = (good.replace("clients 1", "clients 2"), format!("{good}10.0.0.8\n"));
        for bad in [version, line, good.replace("state 3", "state"), good.replace("0.7", "0.700"), String::new()] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), &bad).unwrap();
            let refused = Monitor::open(dir.path(), HOUR).map(drop).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Damaged, "{bad}");
        }
    }
}
