//! A build-artifact cache in one directory: what a build tool would link Tombolo in for.
//!
//! ```text
//! cargo run -p tombolo-examples --example embed -- ./artifacts
//! ```
//!
//! Each artifact is stored under the inputs it was built from. The first run builds three of them, the second finds them.
//! Two builders may share the cache: the first to store an artifact wins, and the other takes what is there.

use bytes::Bytes;
use std::path::Path;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, Compression, Condition, CreateOptions, Error, ErrorKind, EtagMatch, GetOptions,
    ListItem, ListOptions, Metadata, OpenOptions, PutOptions, Result, Segment,
};

/// Where the artifacts live: `cluster/tenant/bucket`.
const BUCKET: &str = "Local/builds/artifacts";

/// What a build step makes: the artifact and the log that tells how.
struct Built {
    artifact: Bytes,
    log: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| Error::invalid("usage: embed DIRECTORY"))?;
    let segment = open(Path::new(&dir)).await?;
    let cache = bucket(&segment).await?;

    for (package, version) in [("parser", "1.4"), ("renderer", "0.9"), ("parser", "1.5")] {
        let key = format!("{package}/{version}/x86_64");
        let (artifact, found) = match find(&cache, &key).await? {
            Some(artifact) => (artifact, "cached"),
            None => (store(&cache, &key, build(package, version)).await?, "built"),
        };
        println!("{key}: {found}, {} bytes; the log ends: {}", artifact.len(), log_end(&cache, &key).await?.trim());
    }

    // Everything of one package, as a directory listing would show it.
    for version in versions(&cache, "parser").await? {
        println!("parser has {version}");
    }

    // A release keeps what it was built from, whatever is deleted or overwritten later. It costs no space.
    match cache.create_snapshot("release-1").await {
        Ok(_) => cache.delete("parser/1.4/x86_64", Default::default()).await.map(drop)?,
        Err(error) if error.kind() == ErrorKind::Exists => {}
        Err(error) => return Err(error),
    }
    let then = GetOptions { snapshot: Some("release-1".into()), ..GetOptions::default() };
    println!("in release-1: parser 1.4 of {} bytes", cache.head("parser/1.4/x86_64", then).await?.size);

    let swept = segment.gc().await?;
    let status = segment.status().await?;
    println!(
        "{}: {} chunks, {} bytes stored for {} bytes; {} bytes freed",
        status.name, status.chunks, status.stored_bytes, status.unique_bytes, swept.bytes_freed
    );
    segment.close().await
}

/// Opens the segment, or makes it the first time.
async fn open(dir: &Path) -> Result<Segment> {
    // The budgets are ours to choose: a build tool should not take a server's memory.
    let options = OpenOptions { chunk_cache_bytes: 32 << 20, metadata_cache_bytes: 32 << 20, ..OpenOptions::default() };
    if Segment::exists(dir) {
        return Segment::open(dir, options).await;
    }
    let create = CreateOptions { name: "builds".into(), cluster: "Local".into() };
    Segment::create(dir, create, options).await
}

/// The cache's bucket, made the first time.
async fn bucket(segment: &Segment) -> Result<Bucket> {
    let path: BucketPath = BUCKET.parse()?;
    match segment.bucket(&path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found,
    }
    let catalog = segment.catalog();
    match catalog.create_tenant(&path.tenant).await {
        Err(error) if error.kind() != ErrorKind::Exists => return Err(error),
        _ => {}
    }
    // Artifacts are written once and read often: worth the denser compression.
    let policy = BucketPolicy { compression: Compression::Zstd, ..BucketPolicy::default() };
    catalog.create_bucket(&path, policy).await
}

async fn find(cache: &Bucket, key: &str) -> Result<Option<Bytes>> {
    match cache.get(key, GetOptions::default()).await {
        // Any size would do with `Object::read`, which streams; these fit in memory.
        Ok(object) => object.bytes(0..object.info().size).await.map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores what was built, unless another builder was faster; gives what is stored.
async fn store(cache: &Bucket, key: &str, built: Built) -> Result<Bytes> {
    cache.put(format!("{key}.log"), built.log, PutOptions::default()).await?;
    let options = PutOptions {
        metadata: Metadata {
            headers: [("content-type".into(), "application/octet-stream".into())].into(),
            user: [("builder".into(), "embed".into())].into(),
        },
        condition: Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() },
        ..PutOptions::default()
    };
    match cache.put(key, built.artifact.clone(), options).await {
        Ok(_) => Ok(built.artifact),
        Err(error) if error.kind() == ErrorKind::Precondition => {
            find(cache, key).await?.ok_or_else(|| Error::new(ErrorKind::Busy, format!("{key} comes and goes")))
        }
        Err(error) => Err(error),
    }
}

/// The last bytes of a log, without reading the rest.
async fn log_end(cache: &Bucket, key: &str) -> Result<String> {
    let log = cache.get(format!("{key}.log"), GetOptions::default()).await?;
    let size = log.info().size;
    let end = log.bytes(size.saturating_sub(28)..size).await?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The versions of a package: one level of the listing.
async fn versions(cache: &Bucket, package: &str) -> Result<Vec<String>> {
    let prefix = Bytes::from(format!("{package}/"));
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let delimiter = Some(Bytes::from_static(b"/"));
        let options = ListOptions { prefix: prefix.clone(), delimiter, after, limit: 100, ..ListOptions::default() };
        let page = cache.list(options).await?;
        for item in page.items {
            if let ListItem::Prefix(name) = item {
                let name = name.strip_prefix(&prefix[..]).unwrap_or(&name);
                names.push(String::from_utf8_lossy(name).trim_end_matches('/').to_string());
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(names);
        }
    }
}

/// Stands for the compiler.
fn build(package: &str, version: &str) -> Built {
    let steps: Vec<_> = (0..2000).map(|step| format!("{package} {version}: step {step} done\n")).collect();
    let log = steps.concat();
    Built { artifact: Bytes::from(log.repeat(3)), log }
}
