//! P1 and P2 under SIGKILL: what was acknowledged is there, whole, and what was not either happened or did not.
//!
//! Each cycle kills a process under load after a random number of acknowledgements (sometimes while it opens), opens the
//! directory again and holds every key of every task against the model. The one operation that a task had under way may have
//! happened or not, but not by half. `TOMBOLO_CRASH_CYCLES` sets the number of cycles; `TOMBOLO_SEED` repeats a run's choices.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use tombolo_core::{OpenOptions, Segment};
use tombolo_tests::door::{Door, EngineDoor, Failure, S3Door};
use tombolo_tests::model::{Model, Op, observe, perform};
use tombolo_tests::server::Site;
use tombolo_tests::workload::{self, Limits, TASKS, bucket_of};

/// Acknowledgements, all tasks together, before the kill.
const ACKNOWLEDGED_MAX: usize = 120;

fn cycles() -> usize {
    std::env::var("TOMBOLO_CRASH_CYCLES").map_or(10, |text| text.parse().expect("TOMBOLO_CRASH_CYCLES is a number"))
}

fn seed() -> u64 {
    let seed = std::env::var("TOMBOLO_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    eprintln!("TOMBOLO_SEED={seed}");
    seed
}

/// What one task's keys may hold.
struct Task {
    model: Model,
    /// Begun and not acknowledged.
    pending: Option<Op>,
}

impl Task {
    fn all() -> Vec<Task> {
        (0..TASKS)
            .map(|task| {
                let mut model = Model::new();
                if task % 2 == 1 {
                    model.apply(&Op::Versioning { on: true });
                }
                Task { model, pending: None }
            })
            .collect()
    }

    fn acknowledged(&mut self, answer: bool) {
        let op = self.pending.take().expect("an operation was begun");
        let expected = self.model.apply(&op);
        assert_eq!(answer, expected, "the answer to {op:?}");
    }

    /// Holds what is there against the model and settles the pending operation.
    fn settle(&mut self, number: usize, door: &mut dyn Door) {
        let found = observe(door, format!("{number}/").as_bytes()).expect("everything is readable");
        let before = self.model.state();
        let Some(op) = self.pending.take() else {
            assert_eq!(found, before, "task {number}, with nothing under way");
            return;
        };
        // Deleting many is many deletes that share an answer: each has happened or not.
        let pending = match op.clone() {
            Op::Delete { keys } => keys.into_iter().map(|key| Op::Delete { keys: vec![key] }).collect(),
            op => vec![op],
        };
        for op in pending {
            let mut after = self.model.clone();
            after.apply(&op);
            let has_changed = touched(&op).iter().any(|key| {
                let (found, before) = (found.get(*key), before.get(*key));
                found != before && found == after.state().get(*key)
            });
            if has_changed {
                self.model = after;
            }
        }
        assert_eq!(found, self.model.state(), "task {number}, while {op:?} was under way");
    }
}

/// The keys that `op` may change.
fn touched(op: &Op) -> Vec<&Vec<u8>> {
    match op {
        Op::Delete { keys } => keys.iter().collect(),
        Op::Copy { to: key, .. }
        | Op::Put { key, .. }
        | Op::PutIfAbsent { key, .. }
        | Op::Multipart { key, .. }
        | Op::DeleteVersion { key, .. } => vec![key],
        Op::Versioning { .. } => Vec::new(),
    }
}

#[test]
fn acknowledged_work_through_the_library_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut random = StdRng::seed_from_u64(seed());
    let mut tasks = Task::all();
    let mut acknowledged_total = 0;
    for _ in 0..cycles() {
        acknowledged_total += run_and_kill(&data, &mut random, &mut tasks);
        if !Segment::exists(&data) {
            continue;
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let segment = runtime.block_on(Segment::open(&data, OpenOptions::default())).expect("it opens without repair");
        for (number, task) in tasks.iter_mut().enumerate() {
            let mut door = EngineDoor::open(runtime.handle(), &segment, &bucket_of(number).unwrap()).unwrap();
            task.settle(number, &mut door);
        }
        let report = runtime.block_on(segment.scrub(0, |_, _| {})).unwrap();
        assert_eq!(report.damage, Vec::<String>::new(), "a crash damages nothing");
        runtime.block_on(segment.close()).unwrap();
    }
    assert!(acknowledged_total > 0, "nothing was ever acknowledged: this proves nothing");
}

/// Starts a worker, kills it after some acknowledgements, reads what it said to the end; gives their number.
fn run_and_kill(data: &Path, random: &mut StdRng, tasks: &mut [Task]) -> usize {
    let limit = random.random_range(0..ACKNOWLEDGED_MAX);
    let mut worker = Worker(
        Command::new(env!("CARGO_BIN_EXE_crash-worker"))
            .arg(data)
            .arg(random.random::<u64>().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts"),
    );
    let mut acknowledged = 0;
    let mut killed = false;
    let lines = BufReader::new(worker.0.stdout.take().expect("its output"));
    for line in lines.lines() {
        let line = line.expect("its output is text");
        let mut words = line.splitn(3, ' ');
        let (word, task, rest) = (words.next(), words.next(), words.next());
        let task = task.map(|task| task.parse::<usize>().expect("a task's number"));
        match (word, task, rest) {
            (Some("opening" | "open"), None, None) => {}
            (Some("begin"), Some(task), Some(op)) => {
                tasks[task].pending = Some(serde_json::from_str(op).expect("an operation"));
            }
            (Some("done"), Some(task), Some(answer)) => {
                tasks[task].acknowledged(answer == "true");
                acknowledged += 1;
            }
            _ => panic!("the worker said: {line}"),
        }
        if acknowledged >= limit && !killed {
            worker.0.kill().expect("SIGKILL is sent");
            killed = true;
        }
    }
    assert!(killed, "the worker ended by itself with {:?}", worker.0.wait());
    acknowledged
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn acknowledged_work_through_s3_survives_sigkill() {
    let site = Site::new();
    let mut random = StdRng::seed_from_u64(seed());
    let mut tasks: Vec<Mutex<Task>> = Task::all().into_iter().map(Mutex::new).collect();
    let mut acknowledged_total = 0;
    for _ in 0..cycles() {
        let server = site.serve();
        // All doors are open before the first work: who is slow to begin must not find the server dead.
        let mut doors = Vec::new();
        for (number, task) in tasks.iter_mut().enumerate() {
            let mut door = s3_door(server.client(), number);
            task.get_mut().unwrap().settle(number, &mut door);
            doors.push(door);
        }
        let (limit, seed) = (random.random_range(1..ACKNOWLEDGED_MAX), random.random::<u64>());
        let acknowledged = AtomicUsize::new(0);
        let (enough, told) = mpsc::channel();
        std::thread::scope(|scope| {
            for ((number, task), mut door) in tasks.iter().enumerate().zip(doors) {
                let (acknowledged, enough) = (&acknowledged, enough.clone());
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ ((number as u64) << 56));
                    let mut task = task.lock().unwrap();
                    let state = task.model.state();
                    let mut live: BTreeSet<_> =
                        state.iter().filter(|(_, kept)| kept.is_live).map(|(key, _)| key.clone()).collect();
                    loop {
                        let op = workload::next(&mut random, number, &live, Limits::S3);
                        task.pending = Some(op.clone());
                        match perform(&mut door, &op) {
                            Ok(answer) => {
                                workload::note(&mut live, &op, answer);
                                task.acknowledged(answer);
                            }
                            // The kill cut the answer off.
                            Err(Failure::Unknown(_)) => break,
                            Err(failure) => panic!("{op:?}: {failure:?}"),
                        }
                        if acknowledged.fetch_add(1, Ordering::Relaxed) + 1 == limit {
                            enough.send(()).unwrap();
                        }
                    }
                });
            }
            drop(enough);
            // An error here means that all tasks have failed: the scope tells why.
            let _ = told.recv();
            server.kill();
        });
        acknowledged_total += acknowledged.into_inner();
    }
    let server = site.serve();
    for (number, task) in tasks.iter_mut().enumerate() {
        task.get_mut().unwrap().settle(number, &mut s3_door(server.client(), number));
    }
    server.stop();
    assert!(acknowledged_total >= cycles(), "next to nothing was acknowledged: this proves nothing");
}

fn s3_door(client: tombolo_tests::s3::Client, task: usize) -> S3Door {
    let mut door = S3Door::open(client, &bucket_of(task).unwrap().bucket).expect("the bucket");
    if task % 2 == 1 {
        door.set_versioning(true).expect("versioning");
    }
    door
}
