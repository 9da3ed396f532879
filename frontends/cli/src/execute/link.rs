//! Links. What concerns the list alone also works without a daemon.

use crate::hosted::{Hosted, no_daemon};
use crate::quantity::{parse_duration, parse_size};
use crate::wire::{
    BucketSyncRecord, CodeRecord, Frame, InviteRecord, LinkOperation, LinkRecord, RotationRecord, SecretText,
    VerifiedRecord, encode,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tombolo_core::{Error, ErrorKind, Result, Segment, SegmentId, Subject};
use tombolo_link::{
    AcceptOptions, Code, Direction, Invite, InviteOptions, Invites, Link, LinkDoor, Links, Mode, Passes, Scope,
    SyncStatus, Visible,
};

pub(super) async fn execute(
    segment: &Segment,
    hosted: Option<Hosted>,
    operation: LinkOperation,
    output: &mpsc::Sender<Frame>,
) -> Result<Bytes> {
    let door = hosted.as_ref().map(|hosted| &hosted.links);
    match operation {
        LinkOperation::Invite { addresses, scope, mode, visible, direction, valid_for_s } => {
            let door = door.ok_or_else(|| no_daemon("answers to codes"))?;
            let addresses = reachable(door, addresses)?;
            let valid_for = Duration::from_secs(valid_for_s);
            let options = InviteOptions { addresses, scope, mode, visible, direction, valid_for };
            let code = door.invite(options).await?;
            encode(&CodeRecord {
                code: SecretText(code.to_string()),
                addresses: code.addresses,
                expires_unix_s: code.expires_unix_s,
            })
        }
        LinkOperation::Invites => {
            let invites = match door {
                Some(door) => door.invites().await,
                None => stored_invites(segment).await?,
            };
            encode(&invites.into_iter().map(InviteRecord::from).collect::<Vec<_>>())
        }
        LinkOperation::Cancel { id } => {
            match door {
                Some(door) => door.cancel_invite(&id).await?,
                None => stored(segment, move |dir| Invites::open(dir)?.cancel(&id)).await?,
            }
            encode(&())
        }
        LinkOperation::Accept { code, mode, visible, direction, scope } => {
            let door = door.ok_or_else(|| no_daemon("dials other segments"))?;
            let code: Code = code.0.parse()?;
            let link = door.accept(code, AcceptOptions { mode, visible, direction, scope }).await?;
            encode(&LinkRecord::new(link, None))
        }
        LinkOperation::List => {
            let status = state(door).await?;
            let links = links(segment, door).await?.list();
            encode(&links.into_iter().map(|link| LinkRecord::new(link, status.as_ref())).collect::<Vec<_>>())
        }
        LinkOperation::Show { name } => {
            let link = links(segment, door).await?.get(&name).ok_or_else(|| no_link(&name))?;
            encode(&LinkRecord::new(link, state(door).await?.as_ref()))
        }
        LinkOperation::Set { name, set } => {
            let changes = set.iter().map(|(key, value)| Change::parse(key, value)).collect::<Result<Vec<_>>>()?;
            let change = |link: &mut Link| changes.into_iter().for_each(|change| change.apply(link));
            encode(&LinkRecord::new(changed(segment, door, &name, change).await?, None))
        }
        LinkOperation::Pause { name, paused } => {
            let link = changed(segment, door, &name, move |link: &mut Link| link.paused = paused).await?;
            encode(&LinkRecord::new(link, None))
        }
        LinkOperation::Delete { name } => {
            match door {
                Some(door) => door.delete(&name).await?,
                None => {
                    let link = links(segment, None).await?.get(&name).ok_or_else(|| no_link(&name))?;
                    stored(segment, move |dir| Links::open(dir)?.remove(&link.peer)).await?;
                }
            }
            encode(&())
        }
        LinkOperation::RotateKey { now, timeout_ms } => {
            let mut hosted = hosted.ok_or_else(|| no_daemon("tells linked segments of a key"))?;
            let rotation = tokio::select! {
                rotation = hosted.links.rotate_key(now, Duration::from_millis(timeout_ms)) => rotation?,
                _ = hosted.stopped.wait_for(|stopped| *stopped) => {
                    return Err(Error::new(ErrorKind::Offline, "the daemon stops; the change of keys goes on when it is started again"));
                }
            };
            encode(&RotationRecord::from(rotation))
        }
        LinkOperation::Status { scope } => {
            let door = door.ok_or_else(|| no_daemon("knows how far linked segments are"))?;
            door.check(&scope).await?;
            let status = door.status().await?;
            for bucket in status.buckets.iter().filter(|bucket| scope.covers(&bucket.path)) {
                let record = Frame::Record(encode(&BucketSyncRecord::from(bucket))?);
                if output.send(record).await.is_err() {
                    break;
                }
            }
            let links = door.links().list();
            encode(&links.into_iter().map(|link| LinkRecord::new(link, Some(&status))).collect::<Vec<_>>())
        }
        LinkOperation::Verify { scope, timeout_ms } => {
            let mut hosted = hosted.ok_or_else(|| no_daemon("compares with linked segments"))?;
            let verified = tokio::select! {
                verified = hosted.links.verify(&scope, Duration::from_millis(timeout_ms)) => verified?,
                _ = hosted.stopped.wait_for(|stopped| *stopped) => {
                    return Err(Error::new(ErrorKind::Offline, "the daemon stops; not all was compared"));
                }
            };
            encode(&verified.into_iter().map(VerifiedRecord::from).collect::<Vec<_>>())
        }
        LinkOperation::Forget { segment: name } => {
            let linked = links(segment, door).await?.get(&name).map(|link| link.peer);
            let unknown = |_| {
                Error::not_found(
                    Subject::Other,
                    format!(
                        "'{name}' is no link's name and no segment's id; sync status --json lists who carries what"
                    ),
                )
            };
            let id = linked.map_or_else(|| SegmentId::from_hex(&name).map_err(unknown), Ok)?;
            let buckets = match door {
                Some(door) => door.forget(&id).await?,
                None => segment.forget_segment(&id).await?,
            };
            encode(&buckets)
        }
        LinkOperation::Wait { scope, timeout_ms } => {
            let mut hosted = hosted.ok_or_else(|| no_daemon("receives what linked segments have"))?;
            tokio::select! {
                waited = hosted.links.wait(&scope, timeout_ms.map(Duration::from_millis)) => waited?,
                _ = hosted.stopped.wait_for(|stopped| *stopped) => {
                    return Err(Error::new(ErrorKind::Offline, "the daemon stops; not all has come yet"));
                }
            }
            encode(&())
        }
    }
}

/// Where the other segment is to dial: what the user says, or where the daemon listens if that means something elsewhere.
fn reachable(door: &LinkDoor, addresses: Vec<String>) -> Result<Vec<String>> {
    if door.addresses().is_empty() {
        return Err(Error::invalid(
            "the daemon does not listen for links, so nobody could come with the code; start it with --link ADDR",
        ));
    }
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    if let Some(any) = door.addresses().iter().find(|address| address.ip().is_unspecified()) {
        return Err(Error::invalid(format!(
            "the daemon listens on all addresses ({any}); say under which the other segment finds it: --address HOST:{}",
            any.port()
        )));
    }
    Ok(door.addresses().iter().map(ToString::to_string).collect())
}

async fn state(door: Option<&LinkDoor>) -> Result<Option<SyncStatus>> {
    match door {
        Some(door) => door.status().await.map(Some),
        None => Ok(None),
    }
}

async fn links(segment: &Segment, door: Option<&LinkDoor>) -> Result<Arc<Links>> {
    match door {
        Some(door) => Ok(door.links().clone()),
        None => stored(segment, Links::open).await,
    }
}

async fn stored_invites(segment: &Segment) -> Result<Vec<Invite>> {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    stored(segment, move |dir| Ok(Invites::open(dir)?.list(now))).await
}

async fn changed(
    segment: &Segment,
    door: Option<&LinkDoor>,
    name: &str,
    change: impl FnOnce(&mut Link) + Send + 'static,
) -> Result<Link> {
    match door {
        Some(door) => door.set(name, change).await,
        None => {
            let mut link = links(segment, None).await?.get(name).ok_or_else(|| no_link(name))?;
            change(&mut link);
            stored(segment, move |dir| {
                Links::open(dir)?.put(link.clone())?;
                Ok(link)
            })
            .await
        }
    }
}

/// Works on the files of the link door beside the network threads. The segment's lock is this process', so nobody else does.
async fn stored<T: Send + 'static>(
    segment: &Segment,
    work: impl FnOnce(&std::path::Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let dir = segment.dir().to_path_buf();
    let done = tokio::task::spawn_blocking(move || work(&dir)).await;
    done.map_err(|e| Error::new(ErrorKind::Failed, "work on the links broke off").because(e))?
}

fn no_link(name: &str) -> Error {
    Error::not_found(Subject::Other, format!("there is no link '{name}'; see what there is: tombolo link list"))
}

/// One `KEY=VALUE` of `link set`.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Mode(Mode),
    Direction(Direction),
    Scope(Scope),
    Passes(Passes),
    Visible(Visible),
    WholePatience(Duration),
    Addresses(Vec<String>),
    Rate(Option<u64>),
    GatherDelay(Duration),
    GatherReceipts(u32),
    GatherNames(bool),
}

impl Change {
    fn parse(key: &str, value: &str) -> Result<Change> {
        Ok(match key {
            "mode" => Change::Mode(value.parse()?),
            "direction" => Change::Direction(value.parse()?),
            "passes" => Change::Passes(value.parse()?),
            "visible" => Change::Visible(value.parse()?),
            "whole-patience" => Change::WholePatience(parse_duration(value).map_err(Error::invalid)?),
            "scope" => match value.parse::<Scope>()? {
                scope if scope.is_empty() => {
                    return Err(Error::invalid("a link has a scope; everything is /, and nothing is a paused link"));
                }
                scope => Change::Scope(scope),
            },
            "addresses" => {
                Change::Addresses(value.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect())
            }
            "rate" if value == "none" => Change::Rate(None),
            "rate" => Change::Rate(Some(parse_size(value).map_err(Error::invalid)?)),
            "gather-delay" => Change::GatherDelay(parse_duration(value).map_err(Error::invalid)?),
            "gather-receipts" => match value.parse() {
                Ok(receipts) if receipts > 0 => Change::GatherReceipts(receipts),
                _ => return Err(Error::invalid(format!("'{value}' is not a number of receipts; there must be one"))),
            },
            "gather-names" => match value {
                "on" => Change::GatherNames(true),
                "off" => Change::GatherNames(false),
                _ => return Err(Error::invalid(format!("'{value}' is neither on nor off"))),
            },
            _ => {
                let message = format!(
                    "'{key}' is nothing a link has; there are mode, direction, passes, visible, whole-patience, scope, addresses, rate, gather-delay, gather-receipts, gather-names"
                );
                return Err(Error::invalid(message));
            }
        })
    }

    fn apply(self, link: &mut Link) {
        match self {
            Change::Mode(mode) => link.mode = mode,
            Change::Direction(direction) => link.direction = direction,
            Change::Scope(scope) => link.scope = scope,
            Change::Passes(passes) => (link.passes, link.is_passed) = (passes, false),
            Change::Visible(visible) => link.visible = visible,
            Change::WholePatience(patience) => link.whole_patience_s = patience.as_secs(),
            Change::Addresses(addresses) => link.addresses = addresses,
            Change::Rate(rate) => link.rate_bytes_per_second = rate,
            Change::GatherDelay(delay) => link.gather_delay_s = delay.as_secs(),
            Change::GatherReceipts(receipts) => link.gather_receipts = receipts,
            Change::GatherNames(names) => link.gather_names = names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        let parsed = |key, value| Change::parse(key, value).unwrap();
        assert_eq!(parsed("mode", "metadata"), Change::Mode(Mode::Metadata));
        assert_eq!(parsed("direction", "send"), Change::Direction(Direction::Send));
        assert_eq!(parsed("visible", "whole"), Change::Visible(Visible::Whole));
        assert_eq!(parsed("whole-patience", "10m"), Change::WholePatience(Duration::from_secs(600)));
        assert_eq!(parsed("scope", "/"), Change::Scope(Scope::everything()));
        assert_eq!(parsed("addresses", "a:1,[::1]:2"), Change::Addresses(vec!["a:1".into(), "[::1]:2".into()]));
        assert_eq!(parsed("addresses", ""), Change::Addresses(Vec::new()));
        assert_eq!(parsed("rate", "10M"), Change::Rate(Some(10 << 20)));
        assert_eq!(parsed("rate", "none"), Change::Rate(None));
        assert_eq!(parsed("gather-delay", "2h"), Change::GatherDelay(Duration::from_secs(7200)));
        assert_eq!(parsed("gather-receipts", "2"), Change::GatherReceipts(2));
        assert_eq!(parsed("gather-names", "on"), Change::GatherNames(true));
        assert_eq!(parsed("gather-names", "off"), Change::GatherNames(false));
        for (key, value) in [
            ("gather-receipts", "0"),
            ("gather-names", "yes"),
            ("gather-delay", "soon"),
            ("mode", "some"),
            ("visible", "late"),
            ("whole-patience", "ever"),
            ("direction", ""),
            ("scope", ""),
            ("scope", "a,"),
            ("rate", "fast"),
            ("paused", "true"),
        ] {
            assert_eq!(Change::parse(key, value).unwrap_err().kind(), ErrorKind::Invalid, "{key}={value}");
        }
    }
}
