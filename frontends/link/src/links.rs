//! The links of this segment, as they are kept in `links.json`.

use crate::identity::{Fingerprint, link_directory, read_private, replace_private};
use crate::scope::Scope;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::watch;
use tombolo_core::{Error, ErrorKind, Result, SegmentId, Subject, check_name};

const FILE: &str = "links.json";
const FORMAT: u32 = 1;
/// The most links that a segment has.
pub const LINKS_MAX: usize = 1024;
/// The most addresses of one peer.
pub const ADDRESSES_MAX: usize = 8;
/// The longest address, in bytes: its length fits a byte of a pairing code.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// How much of what a peer has comes here over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Names and data.
    Full,
    /// Names; data when it is read.
    Metadata,
    /// Local data goes to the peer and leaves this segment once enough others have it.
    Gather,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Full, Mode::Metadata, Mode::Gather];

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Metadata => "metadata",
            Mode::Gather => "gather",
        }
    }
}

/// Which way changes go over a link, seen from this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    Both,
    /// From here to the peer.
    Send,
    /// From the peer to here.
    Receive,
}

impl Direction {
    /// All of them.
    pub const ALL: [Direction; 3] = [Direction::Both, Direction::Send, Direction::Receive];

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Both => "both",
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }

    /// The same as the peer sees it.
    pub fn reversed(self) -> Direction {
        match self {
            Direction::Both => Direction::Both,
            Direction::Send => Direction::Receive,
            Direction::Receive => Direction::Send,
        }
    }

    /// Whether changes go from here to the peer.
    pub fn sends(self) -> bool {
        self != Direction::Receive
    }

    /// Whether changes come from the peer.
    pub fn receives(self) -> bool {
        self != Direction::Send
    }
}

/// What a link brings in time, of what a peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Passes {
    /// What the peer has when the link begins, and nothing after that.
    Initial,
    /// Names, and the data of what changes from then on.
    Continuous,
    /// Both.
    #[default]
    Both,
}

impl Passes {
    /// All of them.
    pub const ALL: [Passes; 3] = [Passes::Initial, Passes::Continuous, Passes::Both];

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Passes::Initial => "initial",
            Passes::Continuous => "continuous",
            Passes::Both => "both",
        }
    }
}

/// When versions that a peer has show here, where their data comes, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visible {
    /// As soon as their names have come; data follows.
    #[default]
    Early,
    /// When their data is here.
    Whole,
}

impl Visible {
    /// All of them.
    pub const ALL: [Visible; 2] = [Visible::Early, Visible::Whole];

    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Visible::Early => "early",
            Visible::Whole => "whole",
        }
    }
}

impl fmt::Display for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Visible {
    type Err = Error;

    fn from_str(text: &str) -> Result<Visible> {
        let found = Visible::ALL.into_iter().find(|visible| visible.as_str() == text);
        found.ok_or_else(|| Error::invalid(format!("'{text}' is not when versions show: early or whole")))
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Passes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Passes> {
        let found = Passes::ALL.into_iter().find(|passes| passes.as_str() == text);
        found.ok_or_else(|| Error::invalid(format!("'{text}' is not what a link brings: initial, continuous or both")))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mode> {
        let found = Mode::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| Error::invalid(format!("'{text}' is not a mode: full, metadata or gather")))
    }
}

impl FromStr for Direction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Direction> {
        let found = Direction::ALL.into_iter().find(|direction| direction.as_str() == text);
        found.ok_or_else(|| Error::invalid(format!("'{text}' is not a direction: both, send or receive")))
    }
}

/// What this segment knows about one peer, and agreed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The peer.
    #[serde(serialize_with = "write_segment", deserialize_with = "read_segment")]
    pub peer: SegmentId,
    /// The peer's segment name; no two links have the same.
    pub name: String,
    /// The peer's key; no two links have the same.
    pub fingerprint: Fingerprint,
    /// Where to dial it, `HOST:PORT`, at most [`ADDRESSES_MAX`]; empty: the peer dials.
    pub addresses: Vec<String>,
    /// What the peer may see and change.
    pub scope: Scope,
    /// How much of what the peer has comes here.
    pub mode: Mode,
    /// Which way changes go, seen from this segment.
    pub direction: Direction,
    /// What of it comes here in time.
    #[serde(default)]
    pub passes: Passes,
    /// Whether the pass that [`Passes::Initial`] or [`Passes::Continuous`] begins with is over.
    #[serde(default)]
    pub is_passed: bool,
    /// In mode [`Mode::Full`]: when versions show here. A bucket that one such link shows whole is shown so whatever other links say.
    #[serde(default)]
    pub visible: Visible,
    /// With [`Visible::Whole`]: how long, in seconds, a version whose data nobody delivers holds up itself and what comes behind it; then it shows without. Counted
    /// is the time that it was tried in vain.
    #[serde(default = "whole_patience_s")]
    pub whole_patience_s: u64,
    /// The key that the peer has said it will have; until it has shown it, both count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_fingerprint: Option<Fingerprint>,
    /// The next key of this segment that the peer has on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_key: Option<Fingerprint>,
    /// Whether nothing is to go over it for now.
    pub paused: bool,
    /// The most bytes a second that this segment sends over it; not 0. `None`: as many as go.
    pub rate_bytes_per_second: Option<u64>,
    /// In mode [`Mode::Gather`]: how long after it was written data leaves this segment at the earliest, in seconds.
    #[serde(default = "gather_delay_s")]
    pub gather_delay_s: u64,
    /// In mode [`Mode::Gather`]: how many other segments must have promised to hold it by then; not 0.
    #[serde(default = "gather_receipts")]
    pub gather_receipts: u32,
    /// In mode [`Mode::Gather`]: whether the names of what leaves go out of sight here, too.
    #[serde(default)]
    pub gather_names: bool,
    /// When it was made: milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// What a new link has, and one from a time when links had none.
pub(crate) fn whole_patience_s() -> u64 {
    300
}

pub(crate) fn gather_delay_s() -> u64 {
    3600
}

pub(crate) fn gather_receipts() -> u32 {
    1
}

impl Link {
    /// Whether changes come from the peer, now.
    pub fn receives(&self) -> bool {
        self.direction.receives() && !(self.passes == Passes::Initial && self.is_passed)
    }

    /// Whether everything in it can be: names, addresses, rate. [`ErrorKind::Invalid`] says what can't.
    pub fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        check_addresses(&self.addresses)?;
        if self.rate_bytes_per_second == Some(0) {
            return Err(Error::invalid("a rate of 0 bytes a second is no rate; pause the link instead"));
        }
        if self.gather_receipts == 0 {
            return Err(Error::invalid("data leaves a segment only when another one holds it: one receipt at least"));
        }
        Ok(())
    }
}

/// The links of a segment. Changes are on disk when the call returns, which blocks for that; a change that fails leaves the list as it was, and a
/// later one writes all of it again.
pub struct Links {
    dir: PathBuf,
    links: Mutex<Vec<Link>>,
    changes: watch::Sender<u64>,
}

#[derive(Deserialize)]
struct Stored {
    links: Vec<Link>,
}

impl Links {
    /// The links of the segment whose data directory is `dir`. [`ErrorKind::Damaged`]: the file is no list of links, or one of another format.
    pub fn open(dir: &Path) -> Result<Arc<Links>> {
        let dir = link_directory(dir)?;
        let path = dir.join(FILE);
        let links = match read_private(&path)? {
            Some(text) => read_versioned::<Stored>(&path, &text, FORMAT)?.links,
            None => Vec::new(),
        };
        for (number, link) in links.iter().enumerate() {
            let clash = links.iter().take(number).find_map(|other| clash(other, link).or(same_peer(other, link)));
            if let Some(error) = link.check().err().or(clash) {
                return Err(Error::damaged(format!("{} can't be right", path.display())).because(error));
            }
        }
        Ok(Arc::new(Links { dir, links: Mutex::new(links), changes: watch::Sender::new(0) }))
    }

    /// All links, by name.
    pub fn list(&self) -> Vec<Link> {
        let mut links = self.links.lock().clone();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        links
    }

    /// The link to the segment with this name, or with this id in hexadecimal.
    pub fn get(&self, name_or_id: &str) -> Option<Link> {
        let links = self.links.lock();
        // Names first: 32 hexadecimal digits are a name, too.
        let named = links.iter().find(|link| link.name == name_or_id);
        let id = SegmentId::from_hex(name_or_id).ok();
        named.or_else(|| links.iter().find(|link| Some(link.peer) == id)).cloned()
    }

    /// The link to the segment with this key, or that has said that it will have it.
    pub fn by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<Link> {
        self.links.lock().iter().find(|link| keys(link).any(|key| key == *fingerprint)).cloned()
    }

    /// The link to this segment.
    pub fn by_peer(&self, peer: &SegmentId) -> Option<Link> {
        self.links.lock().iter().find(|link| link.peer == *peer).cloned()
    }

    /// Whether who proves this key may be linked as `peer`: a link that is there says which key that one has, and an invite for little must not give away what goes over it.
    pub fn check_key(&self, peer: &SegmentId, fingerprint: &Fingerprint) -> Result<()> {
        match self.by_peer(peer) {
            Some(known) if !keys(&known).any(|key| key == *fingerprint) => {
                let message =
                    format!("there is a link to this segment, '{}', with another key; delete it first", known.name);
                Err(Error::new(ErrorKind::Exists, message))
            }
            _ => Ok(()),
        }
    }

    /// Changes the link to `peer`, whatever else changes it at the same time; gives what it is then. Errors as of [`Links::put`], and [`ErrorKind::NotFound`].
    pub fn change(&self, peer: &SegmentId, change: impl FnOnce(&mut Link)) -> Result<Link> {
        let mut links = self.links.lock();
        let old = links.iter().find(|link| link.peer == *peer).cloned().ok_or_else(|| no_link(peer))?;
        let mut link = old.clone();
        change(&mut link);
        link.peer = *peer;
        if link != old {
            self.put_into(&mut links, link.clone())?;
        }
        Ok(link)
    }

    /// Adds a link, or replaces the one to the same peer. [`ErrorKind::Invalid`]: see [`Link::check`]; [`ErrorKind::Exists`]: another peer's link
    /// has this name or this key; [`ErrorKind::Quota`]: there are [`LINKS_MAX`].
    pub fn put(&self, link: Link) -> Result<()> {
        self.put_into(&mut self.links.lock(), link)
    }

    fn put_into(&self, links: &mut Vec<Link>, link: Link) -> Result<()> {
        link.check()?;
        let mut next = links.clone();
        next.retain(|known| known.peer != link.peer);
        if next.len() >= LINKS_MAX {
            let message = format!("a segment has at most {LINKS_MAX} links; delete one first");
            return Err(Error::new(ErrorKind::Quota, message));
        }
        if let Some(error) = next.iter().find_map(|other| clash(other, &link)) {
            return Err(error);
        }
        next.push(link);
        self.replace(links, next)
    }

    /// Forgets a peer. [`ErrorKind::NotFound`]: there is no link to it.
    pub fn remove(&self, peer: &SegmentId) -> Result<()> {
        let mut links = self.links.lock();
        let next: Vec<_> = links.iter().filter(|link| link.peer != *peer).cloned().collect();
        if next.len() == links.len() {
            return Err(no_link(peer));
        }
        self.replace(&mut links, next)
    }

    /// A counter that moves with every change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn replace(&self, links: &mut Vec<Link>, next: Vec<Link>) -> Result<()> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            format: u32,
            links: &'a [Link],
        }
        replace_json(&self.dir, FILE, &Versioned { format: FORMAT, links: &next })?;
        *links = next;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}

fn no_link(peer: &SegmentId) -> Error {
    Error::not_found(Subject::Segment, format!("there is no link to segment {peer}"))
}

/// The keys by which a peer is known.
fn keys(link: &Link) -> impl Iterator<Item = Fingerprint> + '_ {
    [link.fingerprint].into_iter().chain(link.next_fingerprint)
}

/// Why two links can't be side by side.
fn clash(known: &Link, link: &Link) -> Option<Error> {
    if known.peer == link.peer {
        return None;
    }
    let what = if known.name == link.name {
        format!("there is a link to another segment named {}", link.name)
    } else if keys(known).any(|key| keys(link).any(|other| other == key)) {
        format!("the link to {} has the same key", known.name)
    } else {
        return None;
    };
    Some(Error::exists(Subject::Segment, format!("{what} (segment {}); delete it first", known.peer)))
}

fn same_peer(known: &Link, link: &Link) -> Option<Error> {
    (known.peer == link.peer).then(|| Error::damaged(format!("there are two links to segment {}", link.peer)))
}

/// Checks addresses to dial: at most [`ADDRESSES_MAX`], each `HOST:PORT` where the host is a name, an IPv4 address, or an IPv6 address in brackets.
pub fn check_addresses(addresses: &[String]) -> Result<()> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(Error::invalid(format!("{} addresses are more than {ADDRESSES_MAX}", addresses.len())));
    }
    addresses.iter().try_for_each(|address| check_address(address))
}

fn check_address(address: &str) -> Result<()> {
    let is_fine = || {
        let (host, port) = address.rsplit_once(':')?;
        let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }
        };
        (address.len() <= ADDRESS_BYTES_MAX && is_host && is_port).then_some(())
    };
    is_fine().ok_or_else(|| {
        let shown: String = address.chars().take(80).collect();
        Error::invalid(format!("'{}' is not HOST:PORT (an IPv6 address goes in brackets)", shown.escape_debug()))
    })
}

fn write_segment<S: Serializer>(segment: &SegmentId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(segment)
}

fn read_segment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentId, D::Error> {
    SegmentId::from_hex(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Reads a JSON file whose field `format` must be `format`: another one is refused before the rest is looked at.
pub(crate) fn read_versioned<T: DeserializeOwned>(path: &Path, text: &[u8], format: u32) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let damaged = |error| Error::damaged(format!("{} can't be understood", path.display())).because(error);
    let version: Version = serde_json::from_slice(text).map_err(damaged)?;
    if version.format != format {
        return Err(Error::damaged(format!(
            "{} has format {}; this build reads format {format}",
            path.display(),
            version.format
        )));
    }
    serde_json::from_slice(text).map_err(damaged)
}

pub(crate) fn replace_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("{name} can't be put into words")).because(e))?;
    replace_private(dir, name, &text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    pub(crate) fn link(number: u8, name: &str) -> Link {
        Link {
            peer: SegmentId([number; 16]),
            name: name.into(),
            fingerprint: Fingerprint([number; 32]),
            addresses: vec!["peer.example:7400".into()],
            scope: Scope::parse(["NewYork/lab"]).unwrap(),
            mode: Mode::Metadata,
            direction: Direction::Receive,
            passes: Passes::Both,
            is_passed: false,
            visible: Visible::Whole,
            whole_patience_s: 7,
            next_fingerprint: None,
            told_key: None,
            paused: false,
            rate_bytes_per_second: Some(1 << 20),
            gather_delay_s: 60,
            gather_receipts: 2,
            gather_names: true,
            created_unix_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn links_of_a_time_without_visibility_are_read() {
        let mut stored = serde_json::to_value(link(1, "newyork")).unwrap();
        for key in ["visible", "whole_patience_s", "gather_names"] {
            stored.as_object_mut().unwrap().remove(key).unwrap();
        }
        let read: Link = serde_json::from_value(stored).unwrap();
        assert_eq!((read.visible, read.whole_patience_s), (Visible::Early, 300));
    }

    #[test]
    fn links_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        let mut seen = links.watch();
        assert!(links.list().is_empty() && !seen.has_changed().unwrap());
        links.put(link(1, "newyork")).unwrap();
        links.put(link(2, "boston")).unwrap();
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), 2);
        let file = dir.path().join("link/links.json");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let links = Links::open(dir.path()).unwrap();
        assert_eq!(links.list(), [link(2, "boston"), link(1, "newyork")]);
        assert_eq!(links.get("newyork"), Some(link(1, "newyork")));
        assert_eq!(links.get(&SegmentId([2; 16]).to_string()), Some(link(2, "boston")));
        assert_eq!(links.get("oslo"), None);
        assert_eq!(links.by_fingerprint(&Fingerprint([2; 32])), Some(link(2, "boston")));
        assert_eq!(links.by_fingerprint(&Fingerprint([3; 32])), None);

        let mut seen = links.watch();
        let changed = Link { paused: true, addresses: Vec::new(), name: "manhattan".into(), ..link(1, "newyork") };
        links.put(changed.clone()).unwrap();
        links.remove(&SegmentId([2; 16])).unwrap();
        assert_eq!(*seen.borrow_and_update(), 2);
        assert_eq!(links.remove(&SegmentId([2; 16])).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(Links::open(dir.path()).unwrap().list(), [changed]);
        assert!(!seen.has_changed().unwrap(), "what failed is no change");
    }

    #[test]
    fn peers_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        links.put(link(1, "newyork")).unwrap();
        assert_eq!(links.put(link(2, "newyork")).unwrap_err().kind(), ErrorKind::Exists);
        let same_key = Link { fingerprint: Fingerprint([1; 32]), ..link(2, "boston") };
        assert_eq!(links.put(same_key).unwrap_err().kind(), ErrorKind::Exists);
        let next = Some(Fingerprint([9; 32]));
        links.change(&SegmentId([1; 16]), |link| link.next_fingerprint = next).unwrap();
        for key in [1, 9] {
            assert_eq!(links.by_fingerprint(&Fingerprint([key; 32])).unwrap().name, "newyork");
        }
        let same_key = Link { fingerprint: Fingerprint([9; 32]), ..link(2, "boston") };
        assert_eq!(links.put(same_key).unwrap_err().kind(), ErrorKind::Exists);
        // Who has an invite says itself which segment it is.
        let (peer, other) = (link(1, "newyork").peer, link(7, "other").fingerprint);
        assert_eq!(links.check_key(&peer, &other).unwrap_err().kind(), ErrorKind::Exists);
        links.check_key(&peer, &link(1, "newyork").fingerprint).unwrap();
        links.check_key(&link(7, "other").peer, &other).unwrap();
        links.put(link(2, "boston")).unwrap();
        let stolen = links.change(&SegmentId([2; 16]), |link| link.next_fingerprint = next);
        assert_eq!(stolen.unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(links.get("boston"), Some(link(2, "boston")));
        assert_eq!(links.change(&SegmentId([3; 16]), |_| {}).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        let with = |address: &str| Link { addresses: vec![address.into()], ..link(1, "newyork") };
        for fine in ["h:1", "10.0.0.1:65535", "[::1]:7400", "a-b.example:7400"] {
            links.put(with(fine)).unwrap();
        }
        let long = format!("{}:1", "h".repeat(ADDRESS_BYTES_MAX));
        for bad in
            ["", "h", "h:", ":1", "h:0", "h:65536", "h:+1", "::1:7400", "[h]:1", "[::1]", "h/:1", "h h:1", "ü:1", &long]
        {
            assert_eq!(links.put(with(bad)).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        let many = Link { addresses: vec!["h:1".into(); ADDRESSES_MAX + 1], ..link(1, "newyork") };
        let nameless = link(1, "");
        assert!(Link { gather_receipts: 0, ..link(1, "newyork") }.check().is_err());
        let stuck = Link { rate_bytes_per_second: Some(0), ..link(1, "newyork") };
        for bad in [many, nameless, stuck] {
            assert_eq!(links.put(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        links.put(link(1, "newyork")).unwrap();
        links.put(link(2, "boston")).unwrap();
        let file = dir.path().join("link/links.json");
        let good = std::fs::read_to_string(&file).unwrap();
        for bad in [
            good.replace("\"format\": 1", "\"format\": 2"),
            good.replace("\"format\": 1", "\"shape\": 1"),
            good.replace("\"metadata\"", "\"some\""),
            good.replace("boston", "newyork"),
            good.replace(&SegmentId([2; 16]).to_string(), &SegmentId([1; 16]).to_string()),
            good.replace("NewYork/lab", "../lab"),
            good.chars().take(good.len() / 2).collect(),
            String::new(),
        ] {
            std::fs::write(&file, &bad).unwrap();
            assert_eq!(Links::open(dir.path()).err().expect("refused").kind(), ErrorKind::Damaged, "{bad}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
        }
        // Another format is refused for that, whatever else it holds.
        std::fs::write(&file, r#"{"format": 2, "peers": {}}"#).unwrap();
        assert!(Links::open(dir.path()).err().expect("refused").to_string().contains("has format 2"));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{mode}\""));
        }
        for direction in Direction::ALL {
            assert_eq!(direction.to_string().parse::<Direction>().unwrap(), direction);
            assert_eq!(serde_json::to_string(&direction).unwrap(), format!("\"{direction}\""));
            assert_eq!(direction.sends(), direction.reversed().receives());
            assert_eq!(direction.reversed().reversed(), direction);
        }
        for visible in Visible::ALL {
            assert_eq!(visible.to_string().parse::<Visible>().unwrap(), visible);
            assert_eq!(serde_json::to_string(&visible).unwrap(), format!("\"{visible}\""));
        }
        for passes in Passes::ALL {
            assert_eq!(passes.to_string().parse::<Passes>().unwrap(), passes);
            assert_eq!(serde_json::to_string(&passes).unwrap(), format!("\"{passes}\""));
            for is_passed in [false, true] {
                let link = Link { passes, is_passed, ..link(1, "newyork") };
                assert_eq!(link.receives(), !(passes == Passes::Initial && is_passed));
            }
        }
        assert!("Full".parse::<Mode>().is_err() && "".parse::<Direction>().is_err());
    }
}
