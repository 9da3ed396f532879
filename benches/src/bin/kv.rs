//! Figures for the metadata stores: commits, reads, disk, memory, opening after a kill, and what a full disk does.
//!
//! ```text
//! cargo run --release -p tombolo-benches --bin kv -- figures DIR [CREATES] [INLINE_BYTES]
//! cargo run --release -p tombolo-benches --bin kv -- churn fjall|redb DIR [INLINE_BYTES]
//! cargo run --release -p tombolo-benches --bin kv -- full fjall|redb DIR_ON_A_SMALL_FILE_SYSTEM
//! ```
//!
//! A *create* is what a new small object costs: a directory entry, a node and a change index row.

use bytes::Bytes;
use std::error::Error;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tombolo_core::kv::fjall::FjallStore;
use tombolo_core::kv::redb::RedbStore;
use tombolo_core::kv::{Batch, Durability, KeyRange, Space, Store};

const CACHE_BYTES: usize = 64 << 20;
const CREATES: u64 = 1_000_000;
const INLINE_BYTES: usize = 160;
const MEASURE: Duration = Duration::from_secs(3);
/// Taken from the disk that is to be full, and given back.
const BALLAST_BYTES: usize = 24 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["figures", dir, rest @ ..] => figures(Path::new(dir), rest),
        ["load", engine, dir, creates, inline] => {
            load(engine, Path::new(dir), creates.parse()?, inline.parse()?).await
        }
        ["read", engine, dir, creates] => read(engine, Path::new(dir), creates.parse()?).await,
        ["churn", engine, dir] => churn(engine, Path::new(dir), INLINE_BYTES).await,
        ["churn", engine, dir, inline] => churn(engine, Path::new(dir), inline.parse()?).await,
        ["full", engine, dir] => full(engine, Path::new(dir)).await,
        _ => Err("usage: kv figures DIR [CREATES] [INLINE_BYTES] | kv churn fjall|redb DIR [INLINE_BYTES] | kv full fjall|redb DIR".into()),
    }
}

/// Both engines, each step in a process of its own so that memory can be told apart.
fn figures(dir: &Path, rest: &[&str]) -> Outcome<()> {
    let creates = rest.first().map_or(Ok(CREATES), |text| text.parse())?;
    let inline = rest.get(1).map_or(Ok(INLINE_BYTES), |text| text.parse())?;
    println!("cache {} MiB, {creates} creates with {inline} bytes in the node", CACHE_BYTES >> 20);
    for engine in ["fjall", "redb"] {
        let store = dir.join(engine);
        std::fs::create_dir_all(&store)?;
        println!("{engine}: reference: {:.0} fdatasync/s of one preallocated file", syncs_per_second(&store)?);
        let path = store.to_string_lossy();
        for arguments in [
            vec!["load", engine, &path, &creates.to_string(), &inline.to_string()],
            vec!["read", engine, &path, &creates.to_string()],
        ] {
            let status = Command::new(std::env::current_exe()?).args(&arguments).status()?;
            if !status.success() {
                return Err(format!("{arguments:?}: {status}").into());
            }
        }
        std::fs::remove_dir_all(&store)?;
    }
    Ok(())
}

fn open(engine: &str, dir: &Path) -> Outcome<Arc<dyn Store>> {
    Ok(match engine {
        "fjall" => Arc::new(FjallStore::open(&dir.join("store"), CACHE_BYTES)?),
        "redb" => Arc::new(RedbStore::open(&dir.join("store"), CACHE_BYTES)?),
        other => return Err(format!("no engine {other:?}; fjall or redb").into()),
    })
}

/// Durable commits of 1, 16 and 256 creates, then creates up to `creates`; leaves the store as a kill would.
async fn load(engine: &str, dir: &Path, creates: u64, inline: usize) -> Outcome<()> {
    let store = open(engine, dir)?;
    let mut next = 0;
    for batch_creates in [1, 16, 256] {
        let (start, first) = (Instant::now(), next);
        let (mut slowest, mut commits) = (Duration::ZERO, 0_u32);
        while start.elapsed() < MEASURE {
            let begin = Instant::now();
            store.commit(create(next..next + batch_creates, inline), Durability::Sync).await?;
            slowest = slowest.max(begin.elapsed());
            next += batch_creates;
            commits += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{engine}: {:.0} synced commits/s of {batch_creates} creates: {:.0} creates/s, slowest {:.1} ms",
            f64::from(commits) / seconds,
            (next - first) as f64 / seconds,
            slowest.as_secs_f64() * 1e3
        );
    }
    let (start, first, mut slowest) = (Instant::now(), next, Duration::ZERO);
    while next < creates {
        let end = creates.min(next + 256);
        let begin = Instant::now();
        store.commit(create(next..end, inline), Durability::Sync).await?;
        slowest = slowest.max(begin.elapsed());
        next = end;
    }
    if next > first {
        let rate = (next - first) as f64 / start.elapsed().as_secs_f64();
        println!("{engine}: load to {next}: {rate:.0} creates/s, slowest {:.1} ms", slowest.as_secs_f64() * 1e3);
    }
    println!(
        "{engine}: {:.0} bytes on disk per create, {:.0} written per create; memory {}",
        disk_bytes(&dir.join("store"))? as f64 / next as f64,
        written_bytes()? as f64 / next as f64,
        memory()?
    );
    std::io::stdout().flush()?;
    // No destructor: what is on disk is what a kill leaves.
    std::process::exit(0);
}

async fn read(engine: &str, dir: &Path, creates: u64) -> Outcome<()> {
    let start = Instant::now();
    let store = open(engine, dir)?;
    println!("{engine}: opened after a kill in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut pick = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % creates
    };
    let hot: Vec<u64> = (0..1_000).map(|_| pick()).collect();
    let mut turn = 0;
    for (case, what) in
        ["random entries", "1,000 hot entries", "absent entries", "random nodes"].into_iter().enumerate()
    {
        let (start, mut gets, mut found) = (Instant::now(), 0_u32, 0_u32);
        while start.elapsed() < MEASURE {
            for _ in 0..64 {
                turn = (turn + 1) % hot.len();
                let value = match case {
                    0 => store.get(Space::Entries, &entry_key(pick())).await?,
                    1 => store.get(Space::Entries, &entry_key(hot.get(turn).copied().unwrap_or(0))).await?,
                    2 => store.get(Space::Entries, &entry_key((1 << 40) + pick())).await?,
                    _ => store.get(Space::Nodes, &node_key(pick())).await?,
                };
                gets += 1;
                found += u32::from(value.is_some());
            }
        }
        let rate = f64::from(gets) / start.elapsed().as_secs_f64();
        println!("{engine}: {rate:.0} gets/s of {what}, {:.0} % found", 100.0 * f64::from(found) / f64::from(gets));
    }
    let (start, mut rows, mut range) = (Instant::now(), 0_usize, KeyRange::prefix(b"e"));
    while start.elapsed() < MEASURE {
        let page = store.snapshot().await?.scan(Space::Entries, range.clone(), 1_000, false).await?;
        rows += page.rows.len();
        range = match page.rows.last() {
            Some((key, _)) if page.more => KeyRange { start: Bound::Excluded(key.clone()), ..range },
            _ => KeyRange::prefix(b"e"),
        };
    }
    println!(
        "{engine}: {:.0} rows/s scanned by 1,000; memory {}",
        rows as f64 / start.elapsed().as_secs_f64(),
        memory()?
    );
    let (start, mut snapshots) = (Instant::now(), 0_u32);
    while start.elapsed() < MEASURE / 3 {
        drop(store.snapshot().await?);
        snapshots += 1;
    }
    println!("{engine}: {:.0} snapshots/s", f64::from(snapshots) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Writes the same objects again and again: how much more than what is live stays on disk.
async fn churn(engine: &str, dir: &Path, inline: usize) -> Outcome<()> {
    const LIVE: u64 = 20_000;
    let store = open(engine, dir)?;
    for pass in 1..=10 {
        let start = Instant::now();
        for first in (0..LIVE).step_by(250) {
            store.commit(create(first..first + 250, inline), Durability::Sync).await?;
        }
        let disk = disk_bytes(&dir.join("store"))?;
        println!(
            "{engine}: pass {pass} over {LIVE} objects: {:.0} creates/s, {} bytes on disk per live object",
            LIVE as f64 / start.elapsed().as_secs_f64(),
            disk / LIVE
        );
    }
    println!("{engine}: {} bytes written per create; memory {}", written_bytes()? / (10 * LIVE), memory()?);
    Ok(())
}

/// Fills the file system that `dir` is on, looks at what still works, frees space and opens again.
async fn full(engine: &str, dir: &Path) -> Outcome<()> {
    let ballast = dir.join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    file.write_all(&vec![1; BALLAST_BYTES])?;
    file.sync_all()?;
    let store = open(engine, dir)?;
    let mut next = 0;
    let error = loop {
        match store.commit(create(next..next + 64, 4 << 10), Durability::Sync).await {
            Ok(()) => next += 64,
            Err(error) => break error,
        }
    };
    println!("{engine}: {next} creates, then {error:?}");
    readable(engine, "reads while full", &*store, next).await?;
    println!("{engine}: delete while full: {:?}", delete(&*store).await);
    drop(store);
    match open(engine, dir) {
        Ok(store) => {
            readable(engine, "opened while full", &*store, next).await?;
            println!("{engine}: delete after opening while full: {:?}", delete(&*store).await);
            std::fs::remove_file(&ballast)?;
            println!("{engine}: delete after freeing {} MiB: {:?}", BALLAST_BYTES >> 20, delete(&*store).await);
        }
        Err(error) => {
            println!("{engine}: opening while full: {error:?}");
            std::fs::remove_file(&ballast)?;
        }
    }
    let store = open(engine, dir)?;
    readable(engine, "opened after freeing space", &*store, next).await?;
    let more = create(next..next + 64, 4 << 10);
    println!("{engine}: commit after that: {:?}", store.commit(more, Durability::Sync).await);
    Ok(())
}

async fn readable(engine: &str, when: &str, store: &dyn Store, creates: u64) -> Outcome<()> {
    let mut missing = 0;
    for number in 0..creates {
        let entry = store.get(Space::Entries, &entry_key(number)).await?;
        let node = store.get(Space::Nodes, &node_key(number)).await?;
        missing += u64::from(entry.is_none() || node != Some(contents(number, 4 << 10)));
    }
    println!("{engine}: {when}: {missing} of {creates} creates missing");
    Ok(())
}

/// Deletes a few rows that are not there, which costs what deleting costs.
async fn delete(store: &dyn Store) -> tombolo_core::Result<()> {
    let writes = (0..8).map(|number| (Space::Nodes, node_key(1 << 40 | number), None)).collect();
    store.commit(Batch { guards: Vec::new(), writes }, Durability::Sync).await
}

fn create(numbers: std::ops::Range<u64>, inline: usize) -> Batch {
    let mut batch = Batch::default();
    for number in numbers {
        batch.writes.push((Space::Entries, entry_key(number), Some(contents(number, 60))));
        batch.writes.push((Space::Nodes, node_key(number), Some(contents(number, inline))));
        let mut index = vec![7; 16];
        index.extend(number.to_be_bytes());
        batch.writes.push((Space::Index, index.into(), Some(node_key(number))));
    }
    batch
}

/// A parent's id and a name.
fn entry_key(number: u64) -> Bytes {
    let mut key = vec![b'e'; 16];
    // Names come in no order: a bijection of 32 bits.
    let name = number as u32;
    key.extend(format!("object-{:08x}-{:x}", name.wrapping_mul(0x9E37_79B1), number >> 32).bytes());
    key.into()
}

/// A random-looking id.
fn node_key(number: u64) -> Bytes {
    contents(number.wrapping_mul(0x2545_F491_4F6C_DD1D), 16)
}

/// Bytes that don't compress.
fn contents(number: u64, bytes: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9).wrapping_add(0x94D0_49BB_1331_11EB);
        out.extend((state ^ (state >> 31)).to_le_bytes());
    }
    out.truncate(bytes);
    out.into()
}

fn syncs_per_second(dir: &Path) -> Outcome<f64> {
    let path = dir.join("reference");
    let mut file = std::fs::File::create(&path)?;
    file.write_all(&vec![0; 64 << 20])?;
    file.sync_all()?;
    let mut file = std::fs::OpenOptions::new().write(true).open(&path)?;
    let (start, mut syncs) = (Instant::now(), 0_u32);
    while start.elapsed() < MEASURE && syncs < 16_000 {
        file.write_all(&[1; 4 << 10])?;
        file.sync_data()?;
        syncs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(f64::from(syncs) / seconds)
}

/// Blocks taken by the files in `dir`, which may have holes.
fn disk_bytes(dir: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut left: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(file) if file.is_dir() => left.push(entry.path()),
                Ok(file) => bytes += file.blocks() * 512,
                // Background work removes files.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}

/// Bytes this process sent to the disk.
fn written_bytes() -> Outcome<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes in /proc/self/io")?.parse()?)
}

/// Resident now and at most.
fn memory() -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(format!("{} MiB, at most {} MiB", kib("VmRSS:") >> 10, kib("VmHWM:") >> 10))
}
