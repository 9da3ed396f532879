//! Pairing: one segment makes a code, a person carries it to the other, which dials, checks the key named in it and shows the secret.
//!
//! A code is one word: `tombolo1-` and base32 (RFC 4648, lower case, no padding) of
//!
//! | bytes | field |
//! |---|---|
//! | 32 | fingerprint of the segment that invites |
//! | 16 | secret |
//! | 8 | when it expires: seconds since 1970, big-endian |
//! | 1 | count of addresses, 1 to 8 |
//! | | for each its length (1 byte) and its text, `HOST:PORT` |
//! | 4 | the first bytes of the SHA-256 of all before: finds typing errors, proves nothing |
//!
//! The digit in front is the version: a later form has another one. A code has one form; capitals are read, too.
//!
//! The secret counts once and for a limited time. The segment keeps only its hash. A crash after a code was used and before the link was kept
//! leaves no link and a used code: the user makes another.

use crate::identity::{Fingerprint, Identity, link_directory, read_private, sha256};
use crate::links::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, Direction, Mode, Visible, check_addresses, read_versioned, replace_json,
};
use crate::scope::Scope;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tombolo_core::{Error, ErrorKind, Result, Subject};

const FILE: &str = "invites.json";
const FORMAT: u32 = 1;
const FAMILY: &str = "tombolo";
const PREFIX: &str = "tombolo1-";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECKSUM_BYTES: usize = 4;
const CODE_BYTES_MAX: usize = 32 + 16 + 8 + 1 + ADDRESSES_MAX * (1 + ADDRESS_BYTES_MAX) + CHECKSUM_BYTES;
/// The longest code, in characters.
pub const CODE_CHARS_MAX: usize = PREFIX.len() + (CODE_BYTES_MAX * 8).div_ceil(5);
/// The most codes that wait to be used.
pub const INVITES_MAX: usize = 1024;
/// The longest that a code may wait.
pub const VALID_FOR_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What an invite grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteOptions {
    /// Where the other side finds this segment, `HOST:PORT`: 1 to 8.
    pub addresses: Vec<String>,
    /// What the other side may see and change.
    pub scope: Scope,
    /// How much of what is here goes to the other side's copy, unless it chooses another mode when it accepts.
    pub mode: Mode,
    /// When versions show at the other side, unless it chooses otherwise.
    pub visible: Visible,
    /// Which way changes go, seen from this segment, the one that invites.
    pub direction: Direction,
    /// How long the code may wait: whole seconds, at least one, at most [`VALID_FOR_MAX`].
    pub valid_for: Duration,
}

/// An invite that waits to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Names it in [`Invites::cancel`]: 16 hexadecimal digits from the secret's hash. Not secret.
    pub id: String,
    /// What it grants.
    pub options: InviteOptions,
    /// From when it counts no more: seconds since 1970.
    pub expires_unix_s: u64,
}

/// What a person carries from the segment that invites to the one that accepts. Whoever has its text can pair, so it goes by a private way.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    /// Where to dial, `HOST:PORT`: 1 to 8.
    pub addresses: Vec<String>,
    /// The key of the segment that invites.
    pub fingerprint: Fingerprint,
    /// Proves to it that we are invited.
    pub secret: [u8; 16],
    /// When it expires by the clock of the segment that invites, which has the last word: seconds since 1970.
    pub expires_unix_s: u64,
}

impl fmt::Debug for Code {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code")
            .field("addresses", &self.addresses)
            .field("fingerprint", &self.fingerprint)
            .field("expires_unix_s", &self.expires_unix_s)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.to_bytes().map_err(|_| fmt::Error)?;
        let checksum = sha256(&bytes);
        bytes.extend(checksum.iter().take(CHECKSUM_BYTES));
        f.write_str(PREFIX)?;
        f.write_str(&to_base32(&bytes))
    }
}

impl Code {
    /// What the text carries, without the checksum: the table at the head of this module. [`ErrorKind::Invalid`]: addresses that no code has.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        check_code_addresses(&self.addresses)?;
        let short =
            |length: usize| u8::try_from(length).map_err(|e| Error::invalid("an address is too long").because(e));
        let mut bytes = Vec::with_capacity(CODE_BYTES_MAX);
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires_unix_s.to_be_bytes());
        bytes.push(short(self.addresses.len())?);
        for address in &self.addresses {
            bytes.push(short(address.len())?);
            bytes.extend_from_slice(address.as_bytes());
        }
        Ok(bytes)
    }

    /// From what [`to_bytes`](Code::to_bytes) gave. [`ErrorKind::Invalid`]: it gave no such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Code> {
        let code = read_body(bytes).ok_or_else(|| Error::invalid("that is no pairing code that this program made"))?;
        check_code_addresses(&code.addresses)?;
        Ok(code)
    }
}

fn check_code_addresses(addresses: &[String]) -> Result<()> {
    if addresses.is_empty() {
        return Err(Error::invalid("an invite needs an address, HOST:PORT, where the other segment finds this one"));
    }
    check_addresses(addresses)
}

impl FromStr for Code {
    type Err = Error;

    /// Reads a code; white space around it is ignored. [`ErrorKind::Invalid`] says whether it is none, one of another version, or mistyped.
    fn from_str(text: &str) -> Result<Code> {
        let text = text.trim();
        let digits = match text.split_at_checked(PREFIX.len()) {
            Some((prefix, digits)) if prefix.eq_ignore_ascii_case(PREFIX) => digits,
            _ if is_of_another_version(text) => {
                return Err(Error::invalid(format!(
                    "the code is of another version; this build reads those that begin with {PREFIX}"
                )));
            }
            _ => return Err(Error::invalid(format!("that is no pairing code: one begins with {PREFIX}"))),
        };
        let mistyped =
            || Error::invalid("the code has a typing error, or a part of it is missing: copy it again, as a whole");
        if text.len() > CODE_CHARS_MAX {
            return Err(mistyped());
        }
        let bytes = from_base32(digits).ok_or_else(mistyped)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(mistyped)?;
        let (body, checksum) = bytes.split_at_checked(at).ok_or_else(mistyped)?;
        if !sha256(body).starts_with(checksum) {
            return Err(mistyped());
        }
        Code::from_bytes(body)
    }
}

/// What is under the checksum; `None`: not in the form of the table above. Addresses are not looked at.
fn read_body(body: &[u8]) -> Option<Code> {
    let (fingerprint, rest) = body.split_first_chunk::<32>()?;
    let (secret, rest) = rest.split_first_chunk::<16>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (count, mut rest) = rest.split_first()?;
    let count = usize::from(*count);
    if count > ADDRESSES_MAX {
        return None;
    }
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_first()?;
        let (address, after) = after.split_at_checked(usize::from(*length))?;
        addresses.push(std::str::from_utf8(address).ok()?.to_string());
        rest = after;
    }
    rest.is_empty().then_some(Code {
        addresses,
        fingerprint: Fingerprint(*fingerprint),
        secret: *secret,
        expires_unix_s: u64::from_be_bytes(*expires),
    })
}

fn is_of_another_version(text: &str) -> bool {
    let after = text.split_at_checked(FAMILY.len()).filter(|(family, _)| family.eq_ignore_ascii_case(FAMILY));
    let version = after.and_then(|(_, rest)| rest.split_once('-')).map(|(version, _)| version);
    version.is_some_and(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()))
}

fn to_base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut count) = (0_u32, 0);
    let mut put = |digit: u32| out.extend(ALPHABET.get((digit & 31) as usize).map(|b| char::from(*b)));
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            put(bits >> count);
            bits &= (1 << count) - 1;
        }
    }
    if count > 0 {
        put(bits << (5 - count));
    }
    out
}

/// `None`: a character that is no digit, or bits left over that are not zero or a whole digit too many (another text has these bytes).
fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes() {
        let c = c.to_ascii_lowercase();
        let digit = match c {
            b'a'..=b'z' => c - b'a',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(digit);
        count += 5;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0 && count < 5).then_some(out)
}

/// The codes of a segment that wait to be used. Changes are on disk when the call returns, which blocks for that.
pub struct Invites {
    dir: PathBuf,
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Waiting {
    secret_sha256: Fingerprint,
    addresses: Vec<String>,
    scope: Scope,
    mode: Mode,
    #[serde(default)]
    visible: Visible,
    direction: Direction,
    valid_for_s: u64,
    expires_unix_s: u64,
}

#[derive(Deserialize)]
struct Stored {
    invites: Vec<Waiting>,
}

impl Waiting {
    fn id(&self) -> String {
        self.secret_sha256.to_string().chars().take(16).collect()
    }

    fn options(&self) -> InviteOptions {
        InviteOptions {
            addresses: self.addresses.clone(),
            scope: self.scope.clone(),
            mode: self.mode,
            visible: self.visible,
            direction: self.direction,
            valid_for: Duration::from_secs(self.valid_for_s),
        }
    }
}

impl Invites {
    /// The codes of the segment whose data directory is `dir`. [`ErrorKind::Damaged`]: the file is no list of invites, or one of another format.
    pub fn open(dir: &Path) -> Result<Invites> {
        let dir = link_directory(dir)?;
        let path = dir.join(FILE);
        let waiting = match read_private(&path)? {
            Some(text) => read_versioned::<Stored>(&path, &text, FORMAT)?.invites,
            None => Vec::new(),
        };
        Ok(Invites { dir, waiting: Mutex::new(waiting) })
    }

    /// Makes a code. `now_unix_s`: seconds since 1970. [`ErrorKind::Invalid`]: no address, one that can't be dialled, an empty scope, or a duration out of
    /// bounds. [`ErrorKind::Quota`]: [`INVITES_MAX`] codes wait.
    pub fn create(&self, identity: &Identity, options: InviteOptions, now_unix_s: u64) -> Result<Code> {
        check_code_addresses(&options.addresses)?;
        if options.scope.is_empty() {
            return Err(Error::invalid("an invite needs a scope: clusters, tenants or buckets, or / for everything"));
        }
        let valid_for_s = options.valid_for.as_secs();
        if valid_for_s == 0 || options.valid_for > VALID_FOR_MAX {
            let days = VALID_FOR_MAX.as_secs() / (24 * 3600);
            return Err(Error::invalid(format!("an invite is valid for a second at least and {days} days at most")));
        }
        let mut secret = [0; 16];
        rand::fill(&mut secret);
        let code = Code {
            addresses: options.addresses.clone(),
            fingerprint: identity.fingerprint(),
            secret,
            expires_unix_s: now_unix_s.saturating_add(valid_for_s),
        };
        let mut waiting = self.waiting.lock();
        let mut next = valid(&waiting, now_unix_s);
        if next.len() >= INVITES_MAX {
            let message = format!("{INVITES_MAX} invites wait to be used; cancel some first");
            return Err(Error::new(ErrorKind::Quota, message));
        }
        next.push(Waiting {
            secret_sha256: hash(&secret),
            addresses: options.addresses,
            scope: options.scope,
            mode: options.mode,
            visible: options.visible,
            direction: options.direction,
            valid_for_s,
            expires_unix_s: code.expires_unix_s,
        });
        self.replace(&mut waiting, next)?;
        Ok(code)
    }

    /// What the invite with this secret grants; `None`: there is no such invite, or it was used, cancelled, or is expired. It counts once: when this
    /// returns `Some`, the invite is gone from the disk. How long it takes does not depend on how much of a wrong secret is right.
    pub fn redeem(&self, secret: &[u8; 16], now_unix_s: u64) -> Result<Option<InviteOptions>> {
        let shown = hash(secret);
        let mut waiting = self.waiting.lock();
        let mut found = None;
        let mut next = Vec::with_capacity(waiting.len());
        for invite in valid(&waiting, now_unix_s) {
            if verify_slices_are_equal(&invite.secret_sha256.0, &shown.0).is_ok() {
                found = Some(invite.options());
            } else {
                next.push(invite);
            }
        }
        // A wrong secret alone costs no write.
        if next.len() != waiting.len() {
            self.replace(&mut waiting, next)?;
        }
        Ok(found)
    }

    /// The invites that still count at `now_unix_s`, the first to expire first.
    pub fn list(&self, now_unix_s: u64) -> Vec<Invite> {
        let describe = |invite: &Waiting| Invite {
            id: invite.id(),
            options: invite.options(),
            expires_unix_s: invite.expires_unix_s,
        };
        let mut invites: Vec<_> = valid(&self.waiting.lock(), now_unix_s).iter().map(describe).collect();
        invites.sort_by(|a, b| (a.expires_unix_s, &a.id).cmp(&(b.expires_unix_s, &b.id)));
        invites
    }

    /// Withdraws the invite that [`Invite::id`] names. [`ErrorKind::NotFound`]: there is none.
    pub fn cancel(&self, id: &str) -> Result<()> {
        let mut waiting = self.waiting.lock();
        let next: Vec<_> = waiting.iter().filter(|invite| invite.id() != id).cloned().collect();
        if next.len() == waiting.len() {
            return Err(Error::not_found(Subject::Other, format!("no invite {id} waits to be used")));
        }
        self.replace(&mut waiting, next)
    }

    fn replace(&self, waiting: &mut Vec<Waiting>, next: Vec<Waiting>) -> Result<()> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            format: u32,
            invites: &'a [Waiting],
        }
        replace_json(&self.dir, FILE, &Versioned { format: FORMAT, invites: &next })?;
        *waiting = next;
        Ok(())
    }
}

fn valid(waiting: &[Waiting], now_unix_s: u64) -> Vec<Waiting> {
    waiting.iter().filter(|invite| now_unix_s < invite.expires_unix_s).cloned().collect()
}

/// The form of a [`Fingerprint`] is that of any SHA-256.
fn hash(secret: &[u8; 16]) -> Fingerprint {
    Fingerprint(sha256(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;

    fn options() -> InviteOptions {
        InviteOptions {
            addresses: vec!["newyork.example:7400".into(), "[2001:db8::1]:7400".into()],
            scope: Scope::parse(["NewYork/lab", "Rome"]).unwrap(),
            mode: Mode::Metadata,
            visible: Visible::Whole,
            direction: Direction::Send,
            valid_for: Duration::from_secs(HOUR),
        }
    }

    fn code() -> Code {
        Code {
            addresses: options().addresses,
            fingerprint: Fingerprint([0xa5; 32]),
            secret: [7; 16],
            expires_unix_s: NOW,
        }
    }

    fn message(text: &str) -> String {
        text.parse::<Code>().expect_err(text).to_string()
    }

    #[test]
    fn a_code_is_one_word_and_says_what_is_wrong_with_it() {
        let text = code().to_string();
        assert!(text.starts_with(PREFIX) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{text}");
        for same in [text.clone(), text.to_uppercase(), format!("  {text}\r\n")] {
            assert_eq!(same.parse::<Code>().unwrap(), code());
        }
        assert!(message("hello").contains("no pairing code"));
        assert!(message("").contains("no pairing code"));
        assert!(message(&text.replace("tombolo1-", "tombolo2-")).contains("another version"));
        assert!(message(&text.replace("tombolo1-", "tombolo12-")).contains("another version"));
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.clone();
            let other = if wrong.as_bytes()[at] == b'a' { "b" } else { "a" };
            wrong.replace_range(at..=at, other);
            assert!(message(&wrong).contains("typing error"), "{wrong}");
            assert!(message(&text[..at]).contains("typing error"), "{wrong}");
            wrong.replace_range(at..=at, "8");
            assert!(message(&wrong).contains("typing error"), "{wrong}");
        }
        assert!(message(&format!("{text}a")).contains("typing error"));
        assert!(message(&"tombolo1-".repeat(100_000)).contains("typing error"));
        assert!(!format!("{:?}", code()).contains("7, 7"), "{:?}", code());
    }

    /// The longest code there can be is within the limit.
    #[test]
    fn a_full_code_fits() {
        let address = format!("{}:65535", "h".repeat(ADDRESS_BYTES_MAX - 6));
        let full = Code { addresses: vec![address; ADDRESSES_MAX], expires_unix_s: u64::MAX, ..code() };
        assert_eq!(full.to_string().len(), CODE_CHARS_MAX);
        assert_eq!(full.to_string().parse::<Code>().unwrap(), full);
    }

    fn sealed(body: &[u8]) -> String {
        let mut bytes = body.to_vec();
        bytes.extend(&sha256(body)[..CHECKSUM_BYTES]);
        format!("{PREFIX}{}", to_base32(&bytes))
    }

    /// A checksum is no authority: what is under it is checked like the rest.
    #[test]
    fn a_right_checksum_makes_no_code() {
        let head = [1; 56];
        for (count, rest) in [
            (0, &b""[..]),
            (1, b""),
            (1, b"\x05h:1"),
            (1, b"\x03h:1x"),
            (1, b"\x03h:0"),
            (1, b"\x03\xff:1"),
            (2, b"\x03h:1"),
            (9, b"\x03h:1\x03h:1\x03h:1\x03h:1\x03h:1\x03h:1\x03h:1\x03h:1\x03h:1"),
            (255, b""),
        ] {
            let text = sealed(&[&head[..], &[count], rest].concat());
            assert_eq!(text.parse::<Code>().unwrap_err().kind(), ErrorKind::Invalid, "{count} {rest:?}");
        }
        assert!(sealed(&[&head[..], &[1], b"\x03h:1"].concat()).parse::<Code>().is_ok());
        assert!(sealed(b"").parse::<Code>().is_err());
    }

    proptest! {
        #[test]
        fn codes_survive_their_text(
            fingerprint: [u8; 32],
            secret: [u8; 16],
            expires_unix_s: u64,
            addresses in prop::collection::vec("[a-z0-9.-]{1,60}:[1-9][0-9]{0,3}", 1..=ADDRESSES_MAX),
        ) {
            let code = Code { addresses, fingerprint: Fingerprint(fingerprint), secret, expires_unix_s };
            prop_assert_eq!(&code.to_string().parse::<Code>().unwrap(), &code);
            prop_assert_eq!(Code::from_bytes(&code.to_bytes().unwrap()).unwrap(), code);
        }

        #[test]
        fn hostile_codes_are_refused_or_have_one_form(
            body in prop::collection::vec(any::<u8>(), 0..200),
            digits in "[a-z2-7A-Z]{0,200}",
            junk in "\\PC{0,60}",
        ) {
            for text in [sealed(&body), format!("{PREFIX}{digits}"), format!("{PREFIX}{junk}"), junk] {
                if let Ok(code) = text.parse::<Code>() {
                    prop_assert_eq!(code.to_string(), text.trim().to_ascii_lowercase());
                }
            }
        }

        #[test]
        fn base32_has_one_text(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "[a-z2-7]{0,40}") {
            prop_assert_eq!(from_base32(&to_base32(&bytes)), Some(bytes));
            if let Some(bytes) = from_base32(&text) {
                prop_assert_eq!(to_base32(&bytes), text);
            }
        }
    }

    fn identity(dir: &Path) -> Identity {
        Identity::load_or_create(dir).unwrap()
    }

    #[test]
    fn an_invite_counts_once_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        let made = Invites::open(dir.path()).unwrap().create(&identity, options(), NOW).unwrap();
        assert_eq!(made.fingerprint, identity.fingerprint());
        assert_eq!(made.expires_unix_s, NOW + HOUR);
        assert_eq!(made.addresses, options().addresses);

        let file = dir.path().join("link/invites.json");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let secret: String = made.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!text.contains(&secret) && !text.contains(&to_base32(&made.secret)), "{text}");

        let invites = Invites::open(dir.path()).unwrap();
        let mut wrong = made.secret;
        wrong[15] ^= 1;
        assert_eq!(invites.redeem(&wrong, NOW).unwrap(), None);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "a wrong secret changes nothing");
        assert_eq!(invites.redeem(&made.secret, NOW + HOUR - 1).unwrap(), Some(options()));
        assert_eq!(invites.redeem(&made.secret, NOW).unwrap(), None);
        assert_eq!(Invites::open(dir.path()).unwrap().redeem(&made.secret, NOW).unwrap(), None);
    }

    #[test]
    fn an_invite_is_gone_from_the_disk_or_not_granted() {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::open(dir.path()).unwrap();
        let made = invites.create(&identity(dir.path()), options(), NOW).unwrap();
        // A directory where the draft would be: it can't be written.
        let draft = dir.path().join("link/invites.json.new");
        std::fs::create_dir(&draft).unwrap();
        assert!(invites.redeem(&made.secret, NOW).is_err());
        std::fs::remove_dir(&draft).unwrap();
        assert_eq!(invites.redeem(&made.secret, NOW).unwrap(), Some(options()));
    }

    #[test]
    fn many_who_show_one_code_are_let_in_once() {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::open(dir.path()).unwrap();
        let made = invites.create(&identity(dir.path()), options(), NOW).unwrap();
        let granted = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| invites.redeem(&made.secret, NOW).unwrap())).collect();
            tries.into_iter().filter_map(|thread| thread.join().unwrap()).count()
        });
        assert_eq!(granted, 1);
    }

    #[test]
    fn expired_and_cancelled_invites_count_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        let invites = Invites::open(dir.path()).unwrap();
        let short = InviteOptions { valid_for: Duration::from_secs(1), ..options() };
        let first = invites.create(&identity, short, NOW).unwrap();
        let second = invites.create(&identity, options(), NOW).unwrap();
        let third = invites.create(&identity, options(), NOW + 1).unwrap();
        assert_ne!(second.secret, third.secret);
        let expiries = |now| invites.list(now).iter().map(|invite| invite.expires_unix_s).collect::<Vec<_>>();
        assert_eq!(expiries(NOW + 1), [NOW + HOUR, NOW + 1 + HOUR]);
        assert_eq!(invites.redeem(&first.secret, NOW + 1).unwrap(), None);
        assert_eq!(Invites::open(dir.path()).unwrap().list(0).len(), 2, "the expired one is dropped");

        let id = invites.list(NOW)[0].id.clone();
        invites.cancel(&id).unwrap();
        assert_eq!(invites.cancel(&id).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(invites.redeem(&second.secret, NOW).unwrap(), None);
        assert_eq!(Invites::open(dir.path()).unwrap().redeem(&third.secret, NOW).unwrap(), Some(options()));
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        let invites = Invites::open(dir.path()).unwrap();
        for bad in [
            InviteOptions { addresses: Vec::new(), ..options() },
            InviteOptions { addresses: vec!["nowhere".into()], ..options() },
            InviteOptions { scope: "".parse().unwrap(), ..options() },
            InviteOptions { valid_for: Duration::ZERO, ..options() },
            InviteOptions { valid_for: VALID_FOR_MAX + Duration::from_secs(1), ..options() },
        ] {
            assert_eq!(invites.create(&identity, bad, NOW).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert!(invites.list(0).is_empty());
        std::fs::write(dir.path().join("link/invites.json"), r#"{"format": 2}"#).unwrap();
        assert!(Invites::open(dir.path()).is_err());
    }
}
