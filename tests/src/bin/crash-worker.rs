//! `crash-worker DIR SEED`: opens (or creates) a segment and works on it from many threads until somebody kills it.
//!
//! Before each operation it prints `begin TASK OPERATION`, after the acknowledgement `done TASK ANSWER`. Each task has its own
//! keys (`TASK/…`), so whoever reads the lines knows what every key may hold. One more task collects garbage all the time.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write;
use std::thread;
use tombolo_core::{BucketPath, CreateOptions, OpenOptions, Segment};
use tombolo_tests::door::{Door, EngineDoor, Failure};
use tombolo_tests::model::{list_all, perform};
use tombolo_tests::workload::{self, CLUSTER, bucket_of};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("which directory?")?;
    let seed: u64 = arguments.next().ok_or("which seed?")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    say("opening")?;
    let segment = if Segment::exists(&dir) {
        runtime.block_on(Segment::open(&dir, OpenOptions::default()))?
    } else {
        let options = CreateOptions { name: "crash".into(), cluster: CLUSTER.into() };
        runtime.block_on(Segment::create(&dir, options, OpenOptions::default()))?
    };
    say("open")?;
    let collector = segment.clone();
    let handle = runtime.handle().clone();
    let mut threads = vec![thread::spawn(move || -> Result<(), Failure> {
        loop {
            handle.block_on(collector.gc()).map_err(|error| Failure::Refused(error.to_string()))?;
        }
    })];
    for task in 0..workload::TASKS {
        let path: BucketPath = bucket_of(task)?;
        let mut door = EngineDoor::open(runtime.handle(), &segment, &path)?;
        if task % 2 == 1 {
            door.set_versioning(true)?;
        }
        threads.push(thread::spawn(move || work(&mut door, task, seed)));
    }
    // None of the threads ends by itself, except with an error.
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Err("the work came to an end".into())
}

fn work(door: &mut EngineDoor, task: usize, seed: u64) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(seed ^ ((task as u64) << 56));
    let prefix = format!("{task}/");
    let mut live: BTreeSet<Vec<u8>> =
        list_all(door, prefix.as_bytes(), None, None, 1000)?.iter().map(|item| item.name().to_vec()).collect();
    loop {
        let op = workload::next(&mut random, task, &live, workload::Limits::ENGINE);
        let text = serde_json::to_string(&op).map_err(|error| Failure::Unknown(error.to_string()))?;
        say(&format!("begin {task} {text}"))?;
        let answer = perform(door, &op)?;
        say(&format!("done {task} {answer}"))?;
        workload::note(&mut live, &op, answer);
        // Read something on the way, so that readers are there when the collector runs.
        let keys: Vec<_> = live.iter().collect();
        if !keys.is_empty() && random.random_ratio(1, 4) {
            let key = keys[random.random_range(0..keys.len())];
            if door.read(key, None)?.is_none() {
                return Err(Failure::lie(key, "gone"));
            }
        }
    }
}

/// One line, written whole: a kill falls between lines.
fn say(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::Unknown(error.to_string()))
}
