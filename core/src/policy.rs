//! What a bucket's owner decides about it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// How contents are cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "bytes")]
pub enum Chunking {
    /// Content-defined (FastCDC v2020) around this average, 65,536 to 1,048,576 bytes, a power of two.
    Content(u32),
    /// Every chunk this long, 4,096 to 1,048,576 bytes, a power of two: for volumes and databases.
    Fixed(u32),
}

/// How chunks are compressed before they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Stored as they are.
    None,
    /// lz4, skipped for data that does not shrink.
    Lz4,
    /// zstd level 1, skipped for data that does not shrink.
    Zstd,
}

/// Whether overwritten and deleted versions are kept (the S3 states).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Versioning {
    /// Never was on: every write replaces the one before.
    Off,
    /// Every write is a version with an id of its own.
    On,
    /// Was on: kept versions stay, new writes replace the version `null`.
    Suspended,
}

/// What happens to the loser of two concurrent edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictPolicy {
    /// It stays beside the winner under a conflict name.
    KeepBoth,
    /// It stays as an older version.
    LastWriterWins,
    /// The segment where the bucket was made wins; the other stays as an older version.
    OriginWins,
}

/// What an object's ETag is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtagKind {
    /// MD5 of the content, as S3 clients expect it. Costs one pass of MD5.
    Md5,
    /// Derived from the chunks' hashes, with a dash so that no client takes it for an MD5.
    Opaque,
}

/// The policy of one bucket. New buckets get [`BucketPolicy::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketPolicy {
    /// How contents are cut.
    pub chunking: Chunking,
    /// How chunks are compressed.
    pub compression: Compression,
    /// Whether old versions are kept.
    pub versioning: Versioning,
    /// With versioning on, how many versions beside the current one are kept; the oldest go first. `None`: all.
    pub versions_max: Option<u32>,
    /// The most logical bytes of current versions. `None`: no limit.
    pub quota_bytes: Option<u64>,
    /// The most objects, files and symbolic links. `None`: no limit.
    pub quota_objects: Option<u64>,
    /// What happens to the loser of two concurrent edits.
    pub conflicts: ConflictPolicy,
    /// What ETags are made of.
    pub etag: EtagKind,
    /// Owner of files and directories that no POSIX door made.
    pub uid: u32,
    /// Group of files and directories that no POSIX door made.
    pub gid: u32,
    /// Permission bits of files that no POSIX door made.
    pub file_mode: u32,
    /// Permission bits of directories that no POSIX door made.
    pub directory_mode: u32,
}

impl Default for BucketPolicy {
    fn default() -> Self {
        BucketPolicy {
            chunking: Chunking::Content(256 << 10),
            compression: Compression::Lz4,
            versioning: Versioning::Off,
            versions_max: None,
            quota_bytes: None,
            quota_objects: None,
            conflicts: ConflictPolicy::KeepBoth,
            etag: EtagKind::Md5,
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            directory_mode: 0o755,
        }
    }
}

/// When values of a policy were set, by the names they are stored under, in nanoseconds since the Unix epoch. What is not listed was set when the bucket was made.
pub(crate) type SetTimes = BTreeMap<String, i64>;

/// The keys that [`BucketPolicy::set`] knows, with the values each takes.
pub const POLICY_KEYS: &[(&str, &str)] = &[
    ("chunking", "content:BYTES (65536 to 1048576) or fixed:BYTES (4096 to 1048576), powers of two"),
    ("compression", "none, lz4 or zstd"),
    ("versioning", "off, on or suspended"),
    ("versions-max", "a count, or none"),
    ("quota-bytes", "a count of bytes, or none"),
    ("quota-objects", "a count, or none"),
    ("conflicts", "keep-both, last-writer-wins or origin-wins"),
    ("etag", "md5 or opaque"),
    ("uid", "the number of the user who owns what was not made as a file"),
    ("gid", "the number of its group"),
    ("file-mode", "permission bits in octal, for files that were not made as such"),
    ("directory-mode", "permission bits in octal, for directories that were not made as such"),
];

impl BucketPolicy {
    /// Sets one value from text, as `--set KEY=VALUE` does.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "chunking" => self.chunking = chunking(value)?,
            "compression" => self.compression = word(key, value)?,
            "versioning" => self.versioning = word(key, value)?,
            "versions-max" => self.versions_max = count(key, value)?,
            "quota-bytes" => self.quota_bytes = count(key, value)?,
            "quota-objects" => self.quota_objects = count(key, value)?,
            "conflicts" => self.conflicts = word(key, value)?,
            "etag" => self.etag = word(key, value)?,
            "uid" => self.uid = value.parse().map_err(|_| refused(key, value))?,
            "gid" => self.gid = value.parse().map_err(|_| refused(key, value))?,
            "file-mode" => self.file_mode = mode(key, value)?,
            "directory-mode" => self.directory_mode = mode(key, value)?,
            _ => {
                let keys: Vec<_> = POLICY_KEYS.iter().map(|(k, _)| *k).collect();
                return Err(Error::invalid(format!("no bucket policy '{key}'; there are {}", keys.join(", "))));
            }
        }
        Ok(())
    }

    fn values(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(values)) => Ok(values),
            Ok(_) => Err(Error::damaged("a policy has no values")),
            Err(error) => Err(Error::damaged("a policy can't be written").because(error)),
        }
    }

    /// The names of the values in which `other` differs, as they are stored.
    pub(crate) fn differing(&self, other: &BucketPolicy) -> Result<Vec<String>> {
        let others = other.values()?;
        let differs = |(name, value): &(String, serde_json::Value)| others.get(name) != Some(value);
        Ok(self.values()?.into_iter().filter(differs).map(|(name, _)| name).collect())
    }

    /// One policy of two that were set apart from each other: each value as it was set last, ours if that was at the same time. With each policy comes when its values
    /// were set, and when the bucket was made. Joining a policy with one that it was joined from changes nothing.
    pub(crate) fn join(
        (ours, our_times, our_made_ns): (&BucketPolicy, &SetTimes, i64),
        (theirs, their_times, their_made_ns): (&BucketPolicy, &SetTimes, i64),
    ) -> Result<(BucketPolicy, SetTimes)> {
        let made_ns = our_made_ns.min(their_made_ns);
        let their_values = theirs.values()?;
        let (mut joined, mut times) = (serde_json::Map::new(), SetTimes::new());
        for (name, value) in ours.values()? {
            let our_ns = our_times.get(&name).copied().unwrap_or(our_made_ns);
            let their_ns = their_times.get(&name).copied().unwrap_or(their_made_ns);
            let other = their_values.get(&name).unwrap_or(&value);
            let (value, set_ns) = if their_ns > our_ns { (other.clone(), their_ns) } else { (value, our_ns) };
            if set_ns != made_ns {
                times.insert(name.clone(), set_ns);
            }
            joined.insert(name, value);
        }
        let joined = serde_json::from_value(serde_json::Value::Object(joined));
        Ok((joined.map_err(|error| Error::damaged("a policy can't be read").because(error))?, times))
    }

    /// Refuses values outside their documented ranges.
    pub fn check(&self) -> Result<()> {
        let (size, min) = match self.chunking {
            Chunking::Content(size) => (size, 64 << 10),
            Chunking::Fixed(size) => (size, 4 << 10),
        };
        if !size.is_power_of_two() || size < min || size > 1 << 20 {
            return Err(refused("chunking", &size.to_string()));
        }
        Ok(())
    }
}

fn refused(key: &str, value: &str) -> Error {
    let takes = POLICY_KEYS.iter().find(|(k, _)| *k == key).map_or("", |(_, takes)| takes);
    Error::invalid(format!("'{value}' is not a value of bucket policy '{key}', which takes {takes}"))
}

fn word<T: for<'de> Deserialize<'de>>(key: &str, value: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(value.into())).map_err(|_| refused(key, value))
}

fn count<T: FromStr>(key: &str, value: &str) -> Result<Option<T>> {
    if value == "none" { Ok(None) } else { value.parse().map(Some).map_err(|_| refused(key, value)) }
}

fn mode(key: &str, value: &str) -> Result<u32> {
    u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| refused(key, value))
}

fn chunking(value: &str) -> Result<Chunking> {
    let bad = || refused("chunking", value);
    let (kind, bytes) = value.split_once(':').ok_or_else(bad)?;
    let bytes = bytes.parse().map_err(|_| bad())?;
    let chunking = match kind {
        "content" => Chunking::Content(bytes),
        "fixed" => Chunking::Fixed(bytes),
        _ => return Err(bad()),
    };
    BucketPolicy { chunking, ..BucketPolicy::default() }.check()?;
    Ok(chunking)
}
