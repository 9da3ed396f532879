//! What is exported, to whom, and as whom they act.

use crate::rpc::Credentials;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use tombolo_core::engine::fs::Caller;
use tombolo_core::{BucketPath, Error, Result};

/// The user and group of nobody.
const NOBODY: u32 = 65_534;
/// This host's own networks.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// Ports below are root's.
const PRIVILEGED_PORTS: u16 = 1024;

/// What a server exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exports {
    /// Every bucket as `/CLUSTER/TENANT/BUCKET`, to this host alone, nobody squashed, from any port.
    AllToLoopback,
    /// These.
    List(Vec<Export>),
}

/// A bucket, or a directory of one, and its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The bucket.
    pub bucket: BucketPath,
    /// The directory in it, without slashes at its ends; empty: all of it.
    pub below: String,
    /// Who may mount it; nobody named: this host alone.
    pub clients: Vec<Client>,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Who is not who they say.
    pub squash: Squash,
    /// The user that squashed callers, and those without credentials, become.
    pub anonymous_uid: u32,
    /// Their group.
    pub anonymous_gid: u32,
    /// Calls from ports of 1024 and above are answered, too.
    pub insecure: bool,
}

/// Whose ids are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// Everybody is who they say.
    None,
    /// Root becomes anonymous.
    Root,
    /// Everybody does.
    All,
}

/// A network of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    address: IpAddr,
    prefix: u8,
}

impl Client {
    fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 4),
            IpAddr::V6(address) => (address.to_bits(), 6),
        };
        let ((own, family), (other, of)) = (bits(self.address), bits(address.to_canonical()));
        let differing = (own ^ other).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0);
        family == of && differing == 0
    }
}

impl FromStr for Client {
    type Err = Error;

    fn from_str(text: &str) -> Result<Client> {
        let bad = || Error::invalid(format!("'{text}' is no address or network (10.1.2.3, 10.0.0.0/8, fd00::/8)"));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| bad())?;
        if prefix > longest { Err(bad()) } else { Ok(Client { address, prefix }) }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Export {
    /// A bucket as [`Exports::AllToLoopback`] exports it.
    pub(crate) fn to_loopback(bucket: BucketPath) -> Export {
        Export {
            bucket,
            below: String::new(),
            clients: Vec::new(),
            read_only: false,
            squash: Squash::None,
            anonymous_uid: NOBODY,
            anonymous_gid: NOBODY,
            insecure: true,
        }
    }

    /// `/CLUSTER/TENANT/BUCKET[/DIRECTORY]`.
    pub fn path(&self) -> String {
        match self.below.as_str() {
            "" => format!("/{}", self.bucket),
            below => format!("/{}/{below}", self.bucket),
        }
    }

    /// Whether a client at `peer` is let in.
    pub(crate) fn admits(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        let is_known = match self.clients.as_slice() {
            [] => address.is_loopback(),
            clients => clients.iter().any(|client| client.contains(address)),
        };
        is_known && (self.insecure || peer.port() < PRIVILEGED_PORTS)
    }

    /// Who may mount it, in words: networks.
    pub(crate) fn groups(&self) -> Vec<String> {
        match self.clients.as_slice() {
            [] => LOOPBACK.map(str::to_owned).to_vec(),
            clients => clients.iter().map(Client::to_string).collect(),
        }
    }

    /// Who a caller is here.
    pub(crate) fn caller(&self, credentials: &Credentials) -> Caller {
        let anonymous = Caller { uid: self.anonymous_uid, gid: self.anonymous_gid, groups: Vec::new() };
        match (credentials, self.squash) {
            (Credentials::None, _) | (_, Squash::All) => anonymous,
            (Credentials::Unix(caller), Squash::None) => caller.clone(),
            (Credentials::Unix(caller), Squash::Root) => {
                let squashed = |id: u32, to: u32| if id == 0 { to } else { id };
                Caller {
                    uid: squashed(caller.uid, anonymous.uid),
                    gid: squashed(caller.gid, anonymous.gid),
                    groups: caller.groups.iter().map(|gid| squashed(*gid, anonymous.gid)).collect(),
                }
            }
        }
    }
}

/// Whether a part of a path leads somewhere else than into a directory. Paths of exports and mounts have none of these: what is exported must not be left.
pub(crate) fn is_step(part: &str) -> bool {
    matches!(part, "." | "..")
}

/// `/CLUSTER/TENANT/BUCKET[/DIRECTORY][:OPTION,…]`, the options those of exports(5): `ro`, `rw`, `root_squash` (default), `no_root_squash`, `all_squash`,
/// `anonuid=`, `anongid=`, `secure` (default), `insecure`, and `client=` with an address or network, which may be repeated.
impl FromStr for Export {
    type Err = Error;

    fn from_str(text: &str) -> Result<Export> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let [cluster, tenant, bucket, below @ ..] = parts.as_slice() else {
            return Err(Error::invalid(format!("'{path}' is no export: it takes /CLUSTER/TENANT/BUCKET")));
        };
        let bucket = BucketPath::new(cluster, tenant, bucket)?;
        if below.iter().any(|part| is_step(part)) {
            return Err(Error::invalid(format!("'{path}' is no export: '.' and '..' are no directories of a bucket")));
        }
        let mut export =
            Export { below: below.join("/"), squash: Squash::Root, insecure: false, ..Export::to_loopback(bucket) };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let bad = |_| Error::invalid(format!("'{option}' takes a number"));
            match option.split_once('=').unwrap_or((option, "")) {
                ("ro", "") => export.read_only = true,
                ("rw", "") => export.read_only = false,
                ("root_squash", "") => export.squash = Squash::Root,
                ("no_root_squash", "") => export.squash = Squash::None,
                ("all_squash", "") => export.squash = Squash::All,
                ("anonuid", id) => export.anonymous_uid = id.parse().map_err(bad)?,
                ("anongid", id) => export.anonymous_gid = id.parse().map_err(bad)?,
                ("secure", "") => export.insecure = false,
                ("insecure", "") => export.insecure = true,
                ("client", client) => export.clients.push(client.parse()?),
                _ => return Err(Error::invalid(format!("the export option '{option}' is not known"))),
            }
        }
        Ok(export)
    }
}

impl Exports {
    /// Refuses to listen on `address` unless every export says who its clients are.
    pub(crate) fn check(&self, address: &SocketAddr) -> Result<()> {
        let is_said = match self {
            Exports::AllToLoopback => false,
            Exports::List(list) => list.iter().all(|export| !export.clients.is_empty()),
        };
        if address.ip().is_loopback() || is_said {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "NFS on {address} is open to other hosts: say which, with client= in every export (NFS believes what clients say of their users)"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(text: &str) -> Export {
        text.parse().unwrap()
    }

    #[test]
    fn clients_are_told_by_address_and_port() {
        let lab = export("/C/t/b:client=10.1.0.0/16,client=fd00::/8,client=192.168.7.7");
        for (peer, is_in) in [
            ("10.1.255.1:700", true),
            ("10.2.0.1:700", false),
            ("10.1.0.1:2000", false),
            ("[fd12::1]:700", true),
            ("[::ffff:10.1.0.1]:700", true),
            ("192.168.7.7:1", true),
            ("192.168.7.8:1", false),
            ("127.0.0.1:1", false),
        ] {
            assert_eq!(lab.admits(peer.parse().unwrap()), is_in, "{peer}");
        }
        let all = export("/C/t/b:client=0.0.0.0/0,insecure");
        assert!(all.admits("203.0.113.9:40000".parse().unwrap()) && !all.admits("[::1]:40000".parse().unwrap()));
        assert!(export("/C/t/b:insecure").admits("127.0.0.1:40000".parse().unwrap()));
        assert!(!export("/C/t/b").admits("127.0.0.1:40000".parse().unwrap()));
    }

    #[test]
    fn ids_are_squashed_as_said() {
        let root = Credentials::Unix(Caller { uid: 0, gid: 0, groups: vec![0, 7] });
        let user = Credentials::Unix(Caller { uid: 5, gid: 6, groups: vec![] });
        let squash = |text: &str, who: &Credentials| {
            let caller = export(text).caller(who);
            (caller.uid, caller.gid, caller.groups)
        };
        assert_eq!(squash("/C/t/b:no_root_squash", &root), (0, 0, vec![0, 7]));
        assert_eq!(squash("/C/t/b", &root), (NOBODY, NOBODY, vec![NOBODY, 7]));
        assert_eq!(squash("/C/t/b", &user), (5, 6, vec![]));
        assert_eq!(squash("/C/t/b:all_squash,anonuid=1,anongid=2", &user), (1, 2, vec![]));
        assert_eq!(squash("/C/t/b:no_root_squash", &Credentials::None), (NOBODY, NOBODY, vec![]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "/C/t",
            "C",
            "/C/t/b/..",
            "/C/t/b/a/../../c",
            "/C/t/b/./a",
            "/C/t/b:colour",
            "/C/t/b:anonuid=x",
            "/C/t/b:client=10.0.0.0/33",
            "/C/t/b:client=host",
        ] {
            assert!(bad.parse::<Export>().is_err(), "{bad}");
        }
        assert_eq!(export("C/t/b/a//b/:ro").path(), "/C/t/b/a/b");
        let open: SocketAddr = "0.0.0.0:2049".parse().unwrap();
        assert!(Exports::AllToLoopback.check(&open).is_err());
        assert!(Exports::List(vec![export("/C/t/b")]).check(&open).is_err());
        assert!(Exports::List(vec![export("/C/t/b:client=10.0.0.0/8")]).check(&open).is_ok());
        assert!(Exports::AllToLoopback.check(&"127.0.0.1:2049".parse().unwrap()).is_ok());
    }
}
