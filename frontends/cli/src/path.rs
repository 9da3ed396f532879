//! Paths as people type them: `CLUSTER/TENANT/BUCKET[/KEY]`, cut off at any level.
//!
//! The first three levels are names (letters, digits, `.`, `-`, `_`); the key is whatever follows the third slash,
//! any bytes, `//`, `.` and a trailing slash included. Parsing is pure and total: any bytes give a place or an error.

use bytes::Bytes;
use std::ffi::OsStr;
use tombolo_core::{BucketPath, Error, ObjectPath, Result, TenantPath};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing was named: the level above all clusters.
    Root,
    /// `CLUSTER`
    Cluster(String),
    /// `CLUSTER/TENANT`
    Tenant(TenantPath),
    /// `CLUSTER/TENANT/BUCKET`, with or without a trailing slash.
    Bucket(BucketPath),
    /// `CLUSTER/TENANT/BUCKET/KEY`
    Object(ObjectPath),
}

impl Place {
    /// Reads a path. Errors are of kind `Invalid` and name what is wrong.
    pub fn parse(text: &[u8]) -> Result<Place> {
        if text.is_empty() || text == b"/" {
            return Ok(Place::Root);
        }
        let mut parts = text.splitn(4, |byte| *byte == b'/');
        let mut name = || match parts.next() {
            None | Some(b"") => Ok(None),
            Some(part) => match std::str::from_utf8(part) {
                Ok(part) => Ok(Some(part)),
                Err(_) => Err(Error::invalid(format!("'{}' is not a name", show(part)))),
            },
        };
        let (cluster, tenant, bucket) = (name()?, name()?, name()?);
        let key = parts.next().unwrap_or_default();
        let missing = |what: &str| {
            Error::invalid(format!("'{}' has no {what} name; a path is CLUSTER/TENANT/BUCKET/KEY", show(text)))
        };
        match (cluster, tenant, bucket) {
            (None, ..) => Err(missing("cluster")),
            (Some(cluster), None, None) if key.is_empty() && slashes(text) <= 1 => {
                // The tenant's name goes through the same check as the cluster's.
                Ok(Place::Cluster(TenantPath::new(cluster, cluster)?.cluster))
            }
            (Some(_), None, _) => Err(missing("tenant")),
            (Some(cluster), Some(tenant), None) if key.is_empty() && slashes(text) <= 2 => {
                Ok(Place::Tenant(TenantPath::new(cluster, tenant)?))
            }
            (Some(_), Some(_), None) => Err(missing("bucket")),
            (Some(cluster), Some(tenant), Some(bucket)) => {
                let bucket = BucketPath::new(cluster, tenant, bucket)?;
                if key.is_empty() { Ok(Place::Bucket(bucket)) } else { Ok(Place::Object(bucket.key(key.to_vec())?)) }
            }
        }
    }

    /// Reads a command-line argument, which need not be UTF-8.
    pub fn from_argument(argument: &OsStr) -> Result<Place> {
        Place::parse(argument.as_encoded_bytes())
    }

    /// The object, or an error that says what is missing.
    pub fn object(self) -> Result<ObjectPath> {
        match self {
            Place::Object(object) => Ok(object),
            other => Err(Error::invalid(format!("'{other}' names no object; give CLUSTER/TENANT/BUCKET/KEY"))),
        }
    }

    /// The bucket, refusing anything above or below it.
    pub fn bucket(self) -> Result<BucketPath> {
        match self {
            Place::Bucket(bucket) => Ok(bucket),
            other => Err(Error::invalid(format!("'{other}' is not a bucket; give CLUSTER/TENANT/BUCKET"))),
        }
    }

    /// The tenant, refusing anything above or below it.
    pub fn tenant(self) -> Result<TenantPath> {
        match self {
            Place::Tenant(tenant) => Ok(tenant),
            other => Err(Error::invalid(format!("'{other}' is not a tenant; give CLUSTER/TENANT"))),
        }
    }

    /// The cluster, refusing anything below it.
    pub fn cluster(self) -> Result<String> {
        match self {
            Place::Cluster(cluster) => Ok(cluster),
            other => Err(Error::invalid(format!("'{other}' is not a cluster; give CLUSTER"))),
        }
    }

    /// A bucket and the key in it, empty when the bucket itself is named.
    pub fn bucket_and_key(self) -> Result<(BucketPath, Bytes)> {
        match self {
            Place::Bucket(bucket) => Ok((bucket, Bytes::new())),
            Place::Object(object) => Ok((object.bucket, object.key)),
            other => Err(Error::invalid(format!("'{other}' names no bucket; give CLUSTER/TENANT/BUCKET[/KEY]"))),
        }
    }

    /// A bucket and a prefix that is empty or ends with `/`: the directory that the path names.
    pub fn bucket_and_directory(self) -> Result<(BucketPath, Bytes)> {
        let (bucket, key) = self.bucket_and_key()?;
        Ok((bucket, directory_prefix(&key)))
    }

    /// The object to write when something called `name` is stored at this path: a bucket or a path that ends with `/`
    /// takes the name, any other path is the object itself.
    pub fn target(self, name: Option<&[u8]>) -> Result<ObjectPath> {
        let (bucket, key) = self.bucket_and_key()?;
        if !key.is_empty() && !key.ends_with(b"/") {
            return bucket.key(key);
        }
        match name {
            Some(name) if !name.is_empty() => bucket.key([key.as_ref(), name].concat()),
            _ => Err(Error::invalid(format!(
                "'{bucket}/{}' needs a key: there is no file name to take over",
                show(&key)
            ))),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Root => f.write_str("/"),
            Place::Cluster(cluster) => f.write_str(cluster),
            Place::Tenant(tenant) => tenant.fmt(f),
            Place::Bucket(bucket) => bucket.fmt(f),
            Place::Object(object) => write!(f, "{}/{}", object.bucket, show(&object.key)),
        }
    }
}

/// `key` as the prefix of what lies below it: empty, or ending with `/`.
pub fn directory_prefix(key: &[u8]) -> Bytes {
    if key.is_empty() || key.ends_with(b"/") { Bytes::copy_from_slice(key) } else { Bytes::from([key, b"/"].concat()) }
}

/// The last component of a key, without slashes: what a file of it is called.
pub fn base_name(key: &[u8]) -> &[u8] {
    let key = key.strip_suffix(b"/").unwrap_or(key);
    key.rsplit(|byte| *byte == b'/').next().unwrap_or(key)
}

/// A key for people: invalid UTF-8 replaced, control characters escaped, so that no name can drive a terminal.
pub fn show(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len());
    for character in String::from_utf8_lossy(key).chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

fn slashes(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_told_apart() {
        let bucket = BucketPath::new("C", "t", "b").unwrap();
        assert_eq!(Place::parse(b"").unwrap(), Place::Root);
        assert_eq!(Place::parse(b"/").unwrap(), Place::Root);
        for text in ["C", "C/"] {
            assert_eq!(Place::parse(text.as_bytes()).unwrap(), Place::Cluster("C".into()), "{text}");
        }
        for text in ["C/t", "C/t/"] {
            let tenant = TenantPath::new("C", "t").unwrap();
            assert_eq!(Place::parse(text.as_bytes()).unwrap(), Place::Tenant(tenant), "{text}");
        }
        for text in ["C/t/b", "C/t/b/"] {
            assert_eq!(Place::parse(text.as_bytes()).unwrap(), Place::Bucket(bucket.clone()), "{text}");
        }
        for key in ["k", "a/b", "a/", "/a", "a//b", ".", "..", "\u{e9}"] {
            let place = Place::parse(format!("C/t/b/{key}").as_bytes()).unwrap();
            assert_eq!(place, Place::Object(bucket.key(key.as_bytes().to_vec()).unwrap()), "{key}");
        }
        assert_eq!(Place::parse(b"C/t/b/\xff\x00").unwrap(), Place::Object(bucket.key(&b"\xff\x00"[..]).unwrap()));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("C/t/b/{}", "k".repeat(1025));
        for text in ["//", "/C", "C//", "C//b", "C/t//k", "C/t//", "-C", "C/t t", "C/../b", &long] {
            assert!(Place::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Place::parse(b"C/\xff").is_err());
    }

    #[test]
    fn what_shows_parses_to_the_same_place() {
        for text in ["C", "C/t", "C/t/b", "C/t/b/k", "C/t/b//", "C/t/b/a/b/"] {
            let place = Place::parse(text.as_bytes()).unwrap();
            assert_eq!(Place::parse(place.to_string().as_bytes()).unwrap(), place);
        }
    }

    #[test]
    fn targets_take_the_name_of_what_is_stored() {
        let target = |path: &str, name: Option<&[u8]>| {
            Place::parse(path.as_bytes()).unwrap().target(name).map(|object| object.to_string())
        };
        assert_eq!(target("C/t/b/k", Some(b"x")).unwrap(), "C/t/b/k");
        assert_eq!(target("C/t/b/k/", Some(b"x")).unwrap(), "C/t/b/k/x");
        assert_eq!(target("C/t/b", Some(b"x")).unwrap(), "C/t/b/x");
        assert!(target("C/t/b", None).is_err());
        assert!(target("C/t", Some(b"x")).is_err());
    }

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(show(b"a\x1b[2Jb\n\xff"), "a\\u{1b}[2Jb\\n\u{fffd}");
        assert_eq!(base_name(b"a/b/c"), b"c");
        assert_eq!(base_name(b"a/b/"), b"b");
        assert_eq!(base_name(b"a"), b"a");
    }
}
