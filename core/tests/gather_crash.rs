//! P1, P11: a process that is killed while it gives local data up loses nothing that it has acknowledged: every object is readable afterwards, from here or from the
//! segment that has promised to hold it.
//!
//! The test runs itself again as a child that writes objects at the edge and collects at the same time, and kills it (SIGKILL) at random moments. In between the
//! parent opens the edge beside the centre, reads everything, has the centre take it in and promise it, and collects there as well.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of kills; 500 is the full run. `TOMBOLO_SEED` repeats a run's choices.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tombolo_core::*;

const CHILD_DIR: &str = "TOMBOLO_GATHER_CHILD_DIR";
const CHILD_SEED: &str = "TOMBOLO_GATHER_CHILD_SEED";
const CYCLES_DEFAULT: usize = 6;
/// Lines of a child before it is killed, at most, and then as many turns of the parent.
const LINES_MAX: u64 = 60;
const YIELDS_MAX: u64 = 20_000;
/// Each child changes one half of them, so that the other half is given up.
const KEYS: u64 = 16;
const DEADLINE: Duration = Duration::from_secs(120);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % end
    }
}

/// What is put under a key: by its seed, of one to three chunks or so.
fn content(seed: u64) -> Vec<u8> {
    let mut out = vec![0; 20_000 + usize::try_from(seed % 7).unwrap() * 60_000];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

fn path() -> BucketPath {
    "All/lab/edge".parse().unwrap()
}

fn options() -> OpenOptions {
    OpenOptions { metadata_cache_bytes: 16 << 20, workers: 2, ..OpenOptions::default() }
}

struct Source {
    from: Segment,
    to: Segment,
}

impl Source {
    async fn bring(&self, chunks: Vec<ChunkId>, residence: Residence) -> Result<()> {
        for id in chunks {
            let chunk = self.from.export_chunk(&id).await?;
            let chunk = chunk.ok_or_else(|| Error::new(ErrorKind::Offline, format!("{id} is not there either")))?;
            self.to.chunk_import_as(residence).import(vec![chunk]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ChunkSource for Source {
    async fn fetch(&self, chunks: Vec<ChunkId>) -> Result<()> {
        self.bring(chunks, Residence::Cached).await
    }
}

async fn pull(to: &Bucket, from: &Bucket) {
    from.introduce(&to.segment().id()).await.unwrap();
    to.apply(&from.changes_since(&to.position().await.unwrap()).await.unwrap()).await.unwrap();
    to.learn_carriers(&from.carriers().await.unwrap()).await.unwrap();
}

/// The centre takes in all that the edge has, and promises to hold it.
async fn gather(edge: &Bucket, centre: &Bucket) {
    for _ in 0..2 {
        pull(centre, edge).await;
        pull(edge, centre).await;
    }
    let source = Source { from: edge.segment().clone(), to: centre.segment().clone() };
    for wanted in centre.wanted(None, 1000).await.unwrap() {
        loop {
            let missing = centre.segment().missing_chunks(&wanted.manifest, 64).await.unwrap();
            if missing.is_empty() {
                break;
            }
            source.bring(missing, Residence::Kept).await.unwrap();
        }
        centre.data_arrived(&[wanted.key]).await.unwrap();
    }
    let promised = centre.promise(&edge.segment().id()).await.unwrap().unwrap();
    edge.add_receipt(&centre.segment().id(), &promised).await.unwrap();
}

/// Acknowledged contents by key (`None`: deleted), and the one change under way.
#[derive(Default)]
struct Model {
    shows: BTreeMap<u64, Option<u64>>,
    begun: Option<(u64, Option<u64>)>,
}

impl Model {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (what, key) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        // A kill may cut the last line.
        let (Some(what), Some(key), Some(seed), Some("")) = (what, key, words.next(), words.next()) else { return };
        let change = (key, seed.parse().ok());
        match what {
            "begins" => self.begun = Some(change),
            "done" => {
                self.shows.insert(change.0, change.1);
                self.begun = None;
            }
            _ => {}
        }
    }

    /// Holds what shows against what was acknowledged; returns how many objects have no byte here.
    async fn check(&mut self, edge: &Bucket, when: &str) -> u64 {
        let mut given_up = 0;
        for key in 0..KEYS {
            let object = match edge.get(key.to_string(), GetOptions::default()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                found => Some(found.unwrap()),
            };
            let found = match &object {
                Some(object) => {
                    given_up += u64::from(object.local_bytes().await.unwrap().0 == 0);
                    let read = object.bytes(0..u64::MAX).await;
                    Some(read.unwrap_or_else(|error| panic!("{when}: {key} can't be read: {error:?}")).to_vec())
                }
                None => None,
            };
            let acknowledged = self.shows.get(&key).copied().flatten();
            let under_way = self.begun.filter(|(begun, _)| *begun == key).map(|(_, seed)| seed);
            let is = |seed: Option<u64>| seed.map(content) == found;
            assert!(
                is(acknowledged) || under_way.is_some_and(is),
                "{when}: {key} is neither {acknowledged:?} nor {under_way:?}"
            );
            self.shows.insert(key, if is(acknowledged) { acknowledged } else { under_way.flatten() });
        }
        self.begun = None;
        given_up
    }
}

async fn open(dir: &Path) -> Segment {
    let opened = async {
        loop {
            match Segment::open(dir, options()).await {
                // What is left of the last tasks has it for another moment.
                Err(error) if error.kind() == ErrorKind::Busy => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        }
    };
    tokio::time::timeout(DEADLINE, opened).await.unwrap()
}

#[test]
fn nothing_is_lost_by_kills_while_data_is_given_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        runtime.block_on(write_for_ever(Path::new(&dir), variable(CHILD_SEED).unwrap()));
    }
    let cycles = variable("TOMBOLO_CRASH_CYCLES").map_or(CYCLES_DEFAULT, |cycles| usize::try_from(cycles).unwrap());
    let seed = variable("TOMBOLO_SEED").unwrap_or(0x5DEE_CE66_D1CE_4E5B);
    let mut random = Random(seed | 1);
    let dir = tempfile::tempdir().unwrap();
    let edge_dir = dir.path().join("edge");
    let centre = runtime.block_on(create(dir.path(), &edge_dir));
    let (mut model, mut given_up) = (Model::default(), 0);
    for cycle in 0..cycles {
        let lines = 1 + random.below(LINES_MAX);
        let yields = random.below(YIELDS_MAX);
        run_and_kill(&edge_dir, cycle as u64 + 1, lines, yields, &mut model);
        given_up += runtime.block_on(async {
            let segment = open(&edge_dir).await;
            let edge = segment.bucket(&path()).await.unwrap();
            let source = Source { from: centre.segment().clone(), to: segment.clone() };
            segment.set_chunk_source(Some(Arc::new(source)));
            let when = format!("cycle {cycle}, {lines} lines and {yields} turns");
            let given_up = model.check(&edge, &when).await;
            gather(&edge, &centre).await;
            centre.segment().gc().await.unwrap();
            model.check(&edge, &format!("{when}, after collecting at the centre")).await;
            segment.set_chunk_source(None);
            segment.close().await.unwrap();
            given_up
        });
    }
    println!("{cycles} kills; {given_up} objects were found given up");
    assert!(given_up > 0, "nothing was given up: this tests less than it says");
    runtime.block_on(async { centre.segment().close().await }).unwrap();
}

async fn create(dir: &Path, edge_dir: &Path) -> Bucket {
    let mut buckets = Vec::new();
    let mut exported = Vec::new();
    for (name, dir) in [("edge", edge_dir.to_owned()), ("centre", dir.join("centre"))] {
        let create = CreateOptions { name: name.into(), cluster: "All".into() };
        let segment = Segment::create(dir, create, options()).await.unwrap();
        if exported.is_empty() {
            segment.catalog().create_tenant(&path().tenant).await.unwrap();
            segment.catalog().create_bucket(&path(), BucketPolicy::default()).await.unwrap();
            exported = segment.catalog().export(&|_| true).await.unwrap().to_vec();
        } else {
            segment.catalog().import(&exported, &|_| true).await.unwrap();
        }
        buckets.push(segment.bucket(&path()).await.unwrap());
    }
    let (centre, edge) = (buckets.pop().unwrap(), buckets.pop().unwrap());
    centre.keep_data(true).await.unwrap();
    edge.set_gather(Some(Gather { receipts: 1, delay_ms: 0, names: false })).await.unwrap();
    gather(&edge, &centre).await;
    edge.segment().close().await.unwrap();
    centre
}

/// Starts a child and kills it when it has said so many lines and the parent has yielded so often.
fn run_and_kill(dir: &Path, seed: u64, lines: u64, yields: u64, model: &mut Model) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["nothing_is_lost_by_kills_while_data_is_given_up", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = 0;
    let mut other = Vec::new();
    // What is in the pipe after the kill was said as well, so it is read to its end.
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(std::io::Result::ok) {
        if ["begins ", "done ", "collecting "].iter().any(|known| line.starts_with(known)) {
            model.hear(&line);
            said += 1;
        } else {
            other.push(line);
        }
        if said == lines {
            (0..yields).for_each(|_| std::thread::yield_now());
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none() && said >= lines, "the child ended by itself: {status}\n{}", other.join("\n"));
}

/// Writes and deletes objects and collects at the same time, until it is killed.
async fn write_for_ever(dir: &Path, seed: u64) {
    let segment = open(dir).await;
    let bucket = segment.bucket(&path()).await.unwrap();
    let collector: tokio::task::JoinHandle<()> = tokio::spawn(async move {
        loop {
            eprintln!("collecting ");
            segment.gc().await.unwrap();
        }
    });
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    loop {
        let key = (seed % 2) * (KEYS / 2) + random.below(KEYS / 2);
        let change = (random.below(6) > 0).then(|| random.below(1 << 40));
        let text = change.map_or("-".to_owned(), |seed| seed.to_string());
        eprintln!("begins {key} {text} ");
        match change {
            Some(seed) => drop(bucket.put(key.to_string(), content(seed), PutOptions::default()).await.unwrap()),
            None => drop(bucket.delete(key.to_string(), DeleteOptions::default()).await.unwrap()),
        }
        eprintln!("done {key} {text} ");
        if collector.is_finished() {
            panic!("the collection ended");
        }
    }
}
