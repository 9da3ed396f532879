//! Names in the global namespace: `cluster/tenant/bucket/key`.

use crate::error::{Error, Result};
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;

/// The longest key, in bytes (the S3 limit).
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest cluster, tenant or bucket name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// `cluster/tenant`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantPath {
    /// First level: a region's sub-namespace.
    pub cluster: String,
    /// Second level: an organisation.
    pub tenant: String,
}

/// `cluster/tenant/bucket`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketPath {
    /// First and second level.
    pub tenant: TenantPath,
    /// Third level.
    pub bucket: String,
}

/// `cluster/tenant/bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath {
    /// The bucket.
    pub bucket: BucketPath,
    /// The key inside it; never empty.
    pub key: Bytes,
}

/// Checks the name of a cluster, tenant or bucket: 1 to 63 bytes of letters, digits, `.`, `-`, `_`, starting with a letter or digit.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.len() > NAME_BYTES_MAX
        || !name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        || !name.bytes().all(fine)
    {
        return Err(Error::invalid(format!(
            "'{name}' is not a name: 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' or '_', starting with a letter or digit"
        )));
    }
    Ok(())
}

/// Checks an object key: 1 to 1,024 bytes. Any bytes are fine, `.`, `..` and empty components included.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("a key must not be empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!("a key of {} bytes is longer than {KEY_BYTES_MAX}", key.len())));
    }
    Ok(())
}

impl TenantPath {
    /// Checks both names.
    pub fn new(cluster: &str, tenant: &str) -> Result<TenantPath> {
        check_name(cluster)?;
        check_name(tenant)?;
        Ok(TenantPath { cluster: cluster.into(), tenant: tenant.into() })
    }

    /// A bucket of this tenant.
    pub fn bucket(&self, bucket: &str) -> Result<BucketPath> {
        check_name(bucket)?;
        Ok(BucketPath { tenant: self.clone(), bucket: bucket.into() })
    }
}

impl BucketPath {
    /// Checks all three names.
    pub fn new(cluster: &str, tenant: &str, bucket: &str) -> Result<BucketPath> {
        TenantPath::new(cluster, tenant)?.bucket(bucket)
    }

    /// An object of this bucket.
    pub fn key(&self, key: impl Into<Bytes>) -> Result<ObjectPath> {
        let key = key.into();
        check_key(&key)?;
        Ok(ObjectPath { bucket: self.clone(), key })
    }
}

impl FromStr for TenantPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.trim_end_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            [cluster, tenant] => TenantPath::new(cluster, tenant),
            _ => Err(Error::invalid(format!("'{text}' is not CLUSTER/TENANT"))),
        }
    }
}

impl FromStr for BucketPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text.trim_end_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            [cluster, tenant, bucket] => BucketPath::new(cluster, tenant, bucket),
            _ => Err(Error::invalid(format!("'{text}' is not CLUSTER/TENANT/BUCKET"))),
        }
    }
}

impl FromStr for ObjectPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(4, '/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(cluster), Some(tenant), Some(bucket), Some(key)) => {
                BucketPath::new(cluster, tenant, bucket)?.key(key.as_bytes().to_vec())
            }
            _ => Err(Error::invalid(format!("'{text}' is not CLUSTER/TENANT/BUCKET/KEY"))),
        }
    }
}

impl fmt::Display for TenantPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.tenant)
    }
}

impl fmt::Display for BucketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.bucket)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, String::from_utf8_lossy(&self.key))
    }
}
