//! What the catalog keeps: clusters, tenants, buckets and users, each a register, so that they can be replicated like all else.

use crate::error::{Error, Result};
use crate::id::{BucketId, SegmentId};
use crate::path::{BucketPath, TenantPath};
use crate::policy::{BucketPolicy, SetTimes};
use crate::register::Register;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The format of catalog rows written by this code.
const ROW_FORMAT: u8 = 1;

/// One thing of the catalog. Stored as JSON: rare, small, and easy to extend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum CatalogValue {
    /// A cluster.
    Cluster {
        /// When it was made.
        created_ns: i64,
    },
    /// A tenant.
    Tenant {
        /// When it was made.
        created_ns: i64,
    },
    /// A bucket.
    Bucket {
        /// Its id, in hexadecimal.
        id: String,
        /// When it was made.
        created_ns: i64,
        /// Its policy.
        policy: BucketPolicy,
        /// The segment where it was made, in hexadecimal; `None`: made by a build that did not note it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        /// When values of the policy were set last, as far as that was since it was made.
        #[serde(default, skip_serializing_if = "SetTimes::is_empty")]
        set: SetTimes,
    },
    /// A user of a tenant.
    User {
        /// The public half of the key pair.
        access_key: String,
        /// The secret half; SigV4 needs it in clear.
        secret_key: String,
        /// When it was made.
        created_ns: i64,
    },
    /// What a bucket's deletion knew of it: all up to here is dead.
    Seen {
        /// A version vector, as text.
        vector: String,
    },
    /// A snapshot of a bucket. The commit that wrote the row is the state it names.
    Snapshot {
        /// When it was taken.
        created_ns: i64,
    },
}

impl CatalogValue {
    /// What one bucket is of which two segments said different things at the same time; anything else is what `self` says.
    pub fn join(&self, other: &CatalogValue) -> Result<CatalogValue> {
        match (self, other) {
            (
                CatalogValue::Bucket { id, created_ns, policy, origin, set },
                CatalogValue::Bucket {
                    id: other_id,
                    created_ns: other_created_ns,
                    policy: other_policy,
                    origin: other_origin,
                    set: other_set,
                },
            ) if id == other_id => {
                let (made_ns, origin) = (*created_ns, origin).min((*other_created_ns, other_origin));
                let theirs = (other_policy, other_set, *other_created_ns);
                let (policy, set) = BucketPolicy::join((policy, set, *created_ns), theirs)?;
                Ok(CatalogValue::Bucket { id: id.clone(), created_ns: made_ns, policy, origin: origin.clone(), set })
            }
            _ => Ok(self.clone()),
        }
    }
}

/// A row of the catalog.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CatalogRow {
    /// The commit that wrote the row.
    pub commit: u64,
    /// What it says.
    pub register: Register<CatalogValue>,
}

impl CatalogRow {
    /// The row's bytes.
    pub fn encode(&self, own: &SegmentId) -> Vec<u8> {
        let mut out = vec![ROW_FORMAT];
        out.extend_from_slice(&self.commit.to_be_bytes());
        // Serializing plain strings and numbers does not fail.
        self.register.encode(&mut out, own, |v, o| o.extend(serde_json::to_vec(v).unwrap_or_default()));
        out
    }

    /// Reads the row.
    pub fn decode(bytes: Bytes, own: &SegmentId) -> Result<CatalogRow> {
        let (format, rest) = bytes.split_first().ok_or_else(|| Error::damaged("a catalog row is empty"))?;
        if *format != ROW_FORMAT {
            return Err(Error::damaged(format!("a catalog row has format {format}; this build reads {ROW_FORMAT}")));
        }
        let (commit, mut rest) =
            rest.split_first_chunk::<8>().ok_or_else(|| Error::damaged("a catalog row ends too early"))?;
        let value =
            |b: &[u8]| serde_json::from_slice(b).map_err(|e| Error::damaged("a catalog row cannot be read").because(e));
        let register = Register::decode(&mut rest, own, value)?;
        Ok(CatalogRow { commit: u64::from_be_bytes(*commit), register })
    }
}

/// `1 cluster`.
pub fn cluster_key(cluster: &str) -> Bytes {
    key(1, &[cluster])
}

/// `2 cluster 0 tenant`.
pub fn tenant_key(tenant: &TenantPath) -> Bytes {
    key(2, &[&tenant.cluster, &tenant.tenant])
}

/// `3 cluster 0 tenant 0 bucket`.
pub fn bucket_key(path: &BucketPath) -> Bytes {
    key(3, &[&path.tenant.cluster, &path.tenant.tenant, &path.bucket])
}

/// `4 cluster 0 tenant 0 name`.
pub fn user_key(tenant: &TenantPath, name: &str) -> Bytes {
    key(4, &[&tenant.cluster, &tenant.tenant, name])
}

/// `5 bucket id 0 name`.
pub fn snapshot_key(bucket: &BucketId, name: &str) -> Bytes {
    key(5, &[&bucket.to_string(), name])
}

/// `6 cluster 0 tenant 0 bucket 0 bucket id`: with the deletion of a bucket, what it knew.
pub fn seen_key(path: &BucketPath, bucket: &BucketId) -> Bytes {
    key(6, &[&path.tenant.cluster, &path.tenant.tenant, &path.bucket, &bucket.to_string()])
}

/// The prefix of what is below: `level` 1 all clusters, 2 a cluster's tenants, 3 a tenant's buckets, 4 its users, 5 a bucket's snapshots.
pub fn level_prefix(level: u8, above: &[&str]) -> Bytes {
    let mut out = vec![level];
    for name in above {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
    }
    out.into()
}

/// The names in a catalog key.
pub fn names(key: &[u8]) -> Vec<String> {
    let rest = key.get(1..).unwrap_or_default();
    rest.split(|b| *b == 0).map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn key(level: u8, names: &[&str]) -> Bytes {
    let mut out = vec![level];
    out.extend_from_slice(names.join("\0").as_bytes());
    out.into()
}
