//! What can be mounted, and what an inode stands for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tombolo_core::{BucketPath, Error, NodeId, Result, TenantPath, check_name};

/// What of a segment is mounted: `/` (everything), `CLUSTER`, `CLUSTER/TENANT`, `CLUSTER/TENANT/BUCKET` or a directory in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountPath {
    /// The levels above buckets; they are shown as directories.
    Level(Level),
    /// A bucket, or the directory at a path in it (empty: the bucket's root).
    Bucket(BucketPath, Vec<u8>),
}

/// A level of the namespace above buckets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Level {
    /// All clusters.
    Top,
    /// All tenants of a cluster.
    Cluster(String),
    /// All buckets of a tenant.
    Tenant(TenantPath),
}

impl FromStr for MountPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<MountPath> {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        Ok(match parts.as_slice() {
            [] => MountPath::Level(Level::Top),
            [cluster] => {
                check_name(cluster)?;
                MountPath::Level(Level::Cluster((*cluster).to_owned()))
            }
            [cluster, tenant] => MountPath::Level(Level::Tenant(TenantPath::new(cluster, tenant)?)),
            [cluster, tenant, bucket, rest @ ..] => {
                MountPath::Bucket(BucketPath::new(cluster, tenant, bucket)?, rest.join("/").into_bytes())
            }
        })
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountPath::Level(Level::Top) => f.write_str("/"),
            MountPath::Level(Level::Cluster(cluster)) => f.write_str(cluster),
            MountPath::Level(Level::Tenant(tenant)) => write!(f, "{tenant}"),
            MountPath::Bucket(bucket, path) if path.is_empty() => write!(f, "{bucket}"),
            MountPath::Bucket(bucket, path) => write!(f, "{bucket}/{}", String::from_utf8_lossy(path)),
        }
    }
}

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A directory above buckets.
    Level(Arc<Level>),
    /// A node of the bucket with this number (in the door's table).
    Node(u32, NodeId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        for (text, shown) in [
            ("", "/"),
            ("/", "/"),
            ("NewYork", "NewYork"),
            ("/NewYork/lab/", "NewYork/lab"),
            ("NewYork/lab/results", "NewYork/lab/results"),
            ("NewYork/lab/results/a/b", "NewYork/lab/results/a/b"),
        ] {
            assert_eq!(text.parse::<MountPath>().unwrap().to_string(), shown);
        }
        assert!("NewYork/la b".parse::<MountPath>().is_err());
    }
}
