//! The one key pair that both sites take. Users stay at the segment that made them, so each site gets the user with the same keys; and no segment gives
//! a secret away a second time, so the demo keeps it in a file of its own.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tombolo_core::{Error, ErrorKind, Result, Secret, Segment, TenantPath};

const FILE: &str = "keys.json";
const USER: &str = "demo";

/// Keys for S3.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keys {
    pub(super) access_key: String,
    pub(super) secret_key: String,
}

/// The keys in `root`, known to both sites; made if they are not there.
pub(super) async fn ensure(root: &Path, tenant: &TenantPath, first: &Segment, second: &Segment) -> Result<Keys> {
    let keys = match read(root)? {
        Some(keys) => keys,
        None => {
            // A start that was cut off here may have left a user whose secret nobody knows.
            remove_user(first, tenant).await?;
            let (user, secret) = first.catalog().create_user(tenant, USER, None).await?;
            let keys = Keys { access_key: user.access_key, secret_key: secret.0 };
            write(root, &keys)?;
            keys
        }
    };
    for segment in [first, second] {
        let users = segment.catalog().users(tenant).await?;
        if !users.iter().any(|user| user.access_key == keys.access_key) {
            remove_user(segment, tenant).await?;
            let pair = (keys.access_key.clone(), Secret(keys.secret_key.clone()));
            segment.catalog().create_user(tenant, USER, Some(pair)).await?;
        }
    }
    Ok(keys)
}

async fn remove_user(segment: &Segment, tenant: &TenantPath) -> Result<()> {
    match segment.catalog().delete_user(tenant, USER).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn read(root: &Path) -> Result<Option<Keys>> {
    let path = root.join(FILE);
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| {
            Error::damaged(format!("{} holds no keys; without it new ones are made", path.display())).because(e)
        }),
        Err(e) if e.kind() == IoKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("{} cannot be read", path.display()), e)),
    }
}

/// For the owner alone, and whole or not at all.
fn write(root: &Path, keys: &Keys) -> Result<()> {
    let path = root.join(FILE);
    let draft = root.join("keys.new");
    let failed = |e| Error::io(format!("{} cannot be written", path.display()), e);
    let json = serde_json::to_vec(keys).map_err(|e| failed(e.into()))?;
    match std::fs::remove_file(&draft) {
        Err(e) if e.kind() != IoKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(&json).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, &path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_kept_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        for secret in ["one", "two"] {
            write(dir.path(), &Keys { access_key: "a".into(), secret_key: secret.into() }).unwrap();
            assert_eq!(read(dir.path()).unwrap().unwrap().secret_key, secret);
        }
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(read(dir.path()).err().unwrap().kind(), ErrorKind::Damaged);
    }
}
