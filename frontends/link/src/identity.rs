//! The key that a segment is known by.
//!
//! The key (ECDSA on P-256) is made on first use. Only the key is kept; the certificate around it, which TLS wants and nobody believes,
//! is made again at each start. A peer remembers the [`Fingerprint`], the hash of the public key, so it does not notice.

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tombolo_core::{Error, ErrorKind, Result};

const KEY_FILE: &str = "key.pem";
const NEXT_KEY_FILE: &str = "key.next.pem";
/// The longest file of this crate that is read back.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The name in certificates and in TLS' greeting: the same for all segments, as the key alone says who it is.
pub(crate) const CERTIFICATE_NAME: &str = "segment.tombolo";

/// Which key a segment has: the SHA-256 of its public key (the certificate's SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7). Text form: 64 hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of the key in `certificate`; `None` if that is no certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        Some(Fingerprint(sha256(parsed.subject_public_key_info().as_ref())))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Fingerprint> {
        from_hex(text)
            .map(Fingerprint)
            .ok_or_else(|| Error::invalid("a fingerprint is 64 hexadecimal digits, as `link show` prints them"))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Error;

    fn try_from(text: String) -> Result<Fingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

/// A segment's key and the certificate that carries its public half.
pub struct Identity {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// The key of the segment whose data directory is `dir`; made, and on disk when this returns, if there is none. Blocks for the disk.
    ///
    /// [`ErrorKind::Denied`]: others may read the key file. [`ErrorKind::Damaged`]: it holds no key.
    pub fn load_or_create(dir: &Path) -> Result<Identity> {
        let dir = link_directory(dir)?;
        match load(&dir.join(KEY_FILE))? {
            Some(identity) => Ok(identity),
            None => create(&dir, KEY_FILE),
        }
    }

    /// The key that is to follow the present one of the segment whose data directory is `dir`; made, and on disk when this returns, if there is none. Blocks for
    /// the disk.
    pub fn prepare(dir: &Path) -> Result<Identity> {
        match Identity::load_next(dir)? {
            Some(next) => Ok(next),
            None => create(&link_directory(dir)?, NEXT_KEY_FILE),
        }
    }

    /// The key that [`Identity::prepare`] made; `None`: there is none, or it is in use already.
    pub fn load_next(dir: &Path) -> Result<Option<Identity>> {
        let dir = link_directory(dir)?;
        let (key, next) = (load(&dir.join(KEY_FILE))?, load(&dir.join(NEXT_KEY_FILE))?);
        Ok(next.filter(|next| key.is_none_or(|key| key.fingerprint != next.fingerprint)))
    }

    /// Puts the key that [`Identity::prepare`] made in the place of the present one, which is gone. Peers refuse it unless they were told of it. A crash leaves
    /// one or the other. Blocks for the disk.
    pub fn adopt(dir: &Path) -> Result<Identity> {
        let next = Identity::prepare(dir)?;
        let dir = link_directory(dir)?;
        let path = dir.join(NEXT_KEY_FILE);
        if let Some(text) = read_private(&path)? {
            replace_private(&dir, KEY_FILE, &text)?;
            // Were it still there after a crash, it would be the present key, which is no next one.
            std::fs::remove_file(&path).map_err(|e| Error::io(format!("{} can't be removed", path.display()), e))?;
        }
        Ok(next)
    }

    /// What peers know this segment by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate that is sent to peers.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    fn of_key(key: &KeyPair) -> Result<Identity> {
        let failed = |error| Error::new(ErrorKind::Failed, "a certificate can't be made of the key").because(error);
        let mut params = CertificateParams::new([CERTIFICATE_NAME.to_string()]).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(key).map_err(failed)?.der().clone();
        let fingerprint = Fingerprint::of_certificate(&certificate)
            .ok_or_else(|| Error::new(ErrorKind::Failed, "the certificate made of the key can't be read"))?;
        Ok(Identity { key: PrivatePkcs8KeyDer::from(key.serialize_der()), certificate, fingerprint })
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn load(path: &Path) -> Result<Option<Identity>> {
    let Some(text) = read_private(path)? else {
        return Ok(None);
    };
    let damaged = || {
        Error::damaged(format!(
            "{} holds no private key; restore it, or remove it and pair with every peer again",
            path.display()
        ))
    };
    let text = std::str::from_utf8(&text).map_err(|e| damaged().because(e))?;
    let key = KeyPair::from_pem(text).map_err(|e| damaged().because(e))?;
    Identity::of_key(&key).map(Some)
}

fn create(dir: &Path, file: &str) -> Result<Identity> {
    let key = KeyPair::generate()
        .map_err(|e| Error::new(ErrorKind::Failed, "a key for this segment can't be made").because(e))?;
    let identity = Identity::of_key(&key)?;
    replace_private(dir, file, key.serialize_pem().as_bytes())?;
    Ok(identity)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(slot, byte)| *slot = *byte);
    out
}

/// 32 bytes from 64 hexadecimal digits.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = [0; 32];
    for (slot, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// The directory of this crate's files in the data directory `dir`; made if it is absent, closed to others.
pub(crate) fn link_directory(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("link");
    let failed = |error| Error::io(format!("{} can't be made", path.display()), error);
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?,
        Err(error) if error.kind() == IoKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(path)
}

/// The bytes of a file that [`replace_private`] wrote; `None` if there is none. One that others may read or write is refused.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |error| Error::io(format!("{} can't be read", path.display()), error);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("{} is open to others than its owner; close it with chmod 600", path.display()),
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(Error::damaged(format!("{} has {} bytes: it is not ours", path.display(), metadata.len())));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Puts `bytes` in the place of the file `name` in `dir`, readable by the owner alone. When this returns it is on disk; after a crash the file
/// is the old one or the new one.
pub(crate) fn replace_private(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let draft = dir.join(format!("{name}.new"));
    let failed = |error| Error::io(format!("{} can't be written", path.display()), error);
    // A draft left by a crash goes first, as `mode` counts only for a file that is made.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != IoKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, &path).map_err(failed)?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_outlives_the_process_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::load_or_create(dir.path()).unwrap();
        let key = dir.path().join("link/key.pem");
        assert_eq!((mode(&key), mode(&dir.path().join("link"))), (0o600, 0o700));
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().fingerprint(), made.fingerprint());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::load_or_create(other.path()).unwrap().fingerprint(), made.fingerprint());
        assert!(!format!("{made:?}").contains("key"), "{made:?}");

        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Identity::load_or_create(dir.path()).unwrap_err().kind(), ErrorKind::Denied);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        for damage in [&b""[..], b"-----BEGIN PRIVATE KEY-----\n", b"\xff\xfe"] {
            std::fs::write(&key, damage).unwrap();
            assert_eq!(Identity::load_or_create(dir.path()).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    /// Wherever a crash cuts the change of keys off, there is one key and no second next one.
    #[test]
    fn the_next_key_takes_the_place_of_the_present_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap().fingerprint();
        assert!(Identity::load_next(dir.path()).unwrap().is_none());
        let next = Identity::prepare(dir.path()).unwrap().fingerprint();
        assert_ne!(first, next);
        assert_eq!(Identity::prepare(dir.path()).unwrap().fingerprint(), next, "it is made once");
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().fingerprint(), first);
        let file = dir.path().join("link/key.next.pem");
        assert_eq!(mode(&file), 0o600);
        let kept = std::fs::read(&file).unwrap();
        assert_eq!(Identity::adopt(dir.path()).unwrap().fingerprint(), next);
        assert!(!file.exists());
        // As if it had crashed before the file was removed.
        replace_private(&dir.path().join("link"), "key.next.pem", &kept).unwrap();
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().fingerprint(), next);
        assert!(Identity::load_next(dir.path()).unwrap().is_none());
        assert_ne!(Identity::prepare(dir.path()).unwrap().fingerprint(), next);
    }

    /// A draft that a crash left with other permissions must not lend them to the file.
    #[test]
    fn a_left_draft_is_not_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let draft = dir.path().join("file.new");
        std::fs::write(&draft, "half").unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o666)).unwrap();
        replace_private(dir.path(), "file", b"whole").unwrap();
        assert_eq!(read_private(&dir.path().join("file")).unwrap().as_deref(), Some(&b"whole"[..]));
        assert_eq!(mode(&dir.path().join("file")), 0o600);
        assert!(!draft.exists());
    }

    proptest! {
        #[test]
        fn fingerprints_survive_their_text(bytes: [u8; 32], junk in "\\PC{0,70}") {
            let fingerprint = Fingerprint(bytes);
            prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
            prop_assert_eq!(fingerprint.to_string().to_uppercase().parse::<Fingerprint>().unwrap(), fingerprint);
            let json = serde_json::to_string(&fingerprint).unwrap();
            prop_assert_eq!(&json, &format!("\"{fingerprint}\""));
            prop_assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
            if let Ok(read) = junk.parse::<Fingerprint>() {
                prop_assert_eq!(read.to_string(), junk.to_lowercase());
            }
        }

        #[test]
        fn what_is_no_certificate_has_no_fingerprint(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..200,
        ) {
            prop_assert_eq!(Fingerprint::of_certificate(&CertificateDer::from(bytes)), None);
            let identity = Identity::of_key(&KeyPair::generate().unwrap()).unwrap();
            let cut: Vec<u8> = identity.certificate().iter().copied().take(at).collect();
            prop_assert_eq!(Fingerprint::of_certificate(&CertificateDer::from(cut)), None);
        }
    }
}
